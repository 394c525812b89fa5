"""The training loop: step, log, preview, save."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from condkit.device import free_memory, is_out_of_memory
from condkit.trainer.arithmetic import Meter
from condkit.trainer.batch import HostBatch, ahead
from condkit.trainer.batches import BatchLoader
from condkit.trainer.checkpoint import mark_best, save_checkpoint
from condkit.trainer.config import TrainConfig
from condkit.trainer.distributed import Ranks
from condkit.trainer.identity import RunIdentity
from condkit.trainer.learner import Learner
from condkit.trainer.loss_watch import LossWatch
from condkit.trainer.memory import peak_memory
from condkit.trainer.preview import Previewer, write_preview
from condkit.trainer.run_folder import RunFolder
from condkit.trainer.run_log import RunLog
from condkit.trainer.schedule import learning_rate
from condkit.trainer.step import OptimizerStep

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """Where a run is.

    Attributes:
        step: Optimizer steps done.
        total: Optimizer steps in all.
        loss: Mean loss of the last log interval; NaN before the first.
        lr: The learning rate of the last step.
        images_per_second: Training speed of the last log interval, on all devices together,
            without saving and previews.
        mfu: Model FLOPs utilisation of that interval, the share of the devices' peak arithmetic
            that went into the step's own, from 0 to 1; None where the peak is not known.
        memory: The most bytes of this process's device memory so far (of main memory on CPUs);
            None where it is not known.
        seconds_left: Expected time to the last step; None before the first log line.
    """

    step: int
    total: int
    loss: float
    lr: float
    images_per_second: float
    mfu: float | None = None
    memory: int | None = None
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a validation found at a checkpoint.

    Attributes:
        score: The larger the better; the best checkpoint is kept.
        figures: More numbers for the log.
        stop: Why the run should end here, or None.
    """

    score: float
    figures: Mapping[str, float] = field(default_factory=dict)
    stop: str | None = None


Judge = Callable[[Learner, int], Judgement | None]
"""Validates the weights of a step (the running averages, where they are kept), or gives None."""


@dataclass(slots=True, kw_only=True)
class TrainingLoop:
    """A run in progress.

    Attributes:
        config: The settings.
        folder: Where it writes.
        learner: What is trained.
        ranks: This process among those that train together; the first one writes.
        identity: What stands in every checkpoint.
        loader: The micro-batches.
        step: What is done with them.
        previewer: Draws the preview grid, or None.
        log: The numbers; None where another process writes them.
        meter: Measures the speed.
        judge: Asked after each checkpoint; None validates nothing.
        on_saved: Called with the step and the loss after each checkpoint.
        on_progress: Called after each optimizer step.
        loss: Mean loss of the last interval.
        images_per_second: Speed of the last interval.
        mfu: Model FLOPs utilisation of the last interval.
        seconds_per_step: Of the last interval; 0 before the first.
        done: Optimizer steps done.
        stopped: Why the run ended before its last step, or None.
        checkpoint: The last checkpoint written.
        begin: Asked once before the first step, with the step the run goes on from; None for
            nothing.
    """

    config: TrainConfig
    folder: RunFolder
    learner: Learner
    ranks: Ranks
    identity: RunIdentity
    loader: BatchLoader
    step: OptimizerStep
    previewer: Previewer | None
    log: RunLog | None
    meter: Meter
    judge: Judge | None
    on_saved: Callable[[int, float], None]
    on_progress: Callable[[TrainProgress], None]
    loss: float = float("nan")
    images_per_second: float = 0.0
    mfu: float | None = None
    seconds_per_step: float = 0.0
    done: int = 0
    stopped: str | None = None
    checkpoint: Path | None = None
    begin: Judge | None = None

    def run(self, start: int) -> None:
        """Train from step `start` to the last one.

        Raises:
            TrainingError: if a loss is not finite, or a picture does not fit.
            DatasetError: if a row cannot be used.
            OutputError: if a checkpoint cannot be written.
        """
        self.done = start
        self._begin(start)
        if self.stopped is not None:
            logger.info("step %d: the run ends here: %s", start, self.stopped)
            return
        accumulation, steps = self.config.optim.accumulation, self.config.run.steps
        with (
            closing(self.loader.batches(start * accumulation, steps * accumulation)) as examples,
            closing(ahead(examples, self.step.prepare, self.config.data.prefetch)) as batches,
        ):
            self._train(start, batches)

    def _begin(self, start: int) -> None:
        if self.begin is None:
            return
        self.learner.collect()
        if self.ranks.is_main:
            with self.learner.averaged():
                judgement = self.begin(self.learner, start)
            if judgement is not None:
                self._take(start, judgement)
        # Only the first rank has judged.
        self.stopped = self.ranks.gather(self.stopped)[0]

    def _train(self, start: int, batches: Iterator[HostBatch]) -> None:
        watch = LossWatch()
        optim, steps = self.config.optim, self.config.run.steps
        since, began = start, time.monotonic()
        for done in range(start + 1, steps + 1):
            if self.learner.is_due(done - 1):
                self.learner.unlock()
            rate = learning_rate(optim, done - 1, steps)
            result = self.step(done, itertools.islice(batches, optim.accumulation), rate)
            watch.add(result)
            self.meter.add(result.latents_hw, unlocked=self.learner.is_unlocked)
            self.learner.update_averages()
            if self._is_due(done):
                # Reading the losses first: a bad one stops the run before it is saved.
                means = watch.mean(self.ranks)
                self._measure(time.monotonic() - began, done - since)
                self._log(done, means, rate)
                if self._saves(done) or self._previews(done):
                    self.learner.collect()
                if self.ranks.is_main:
                    self._write(done)
                if self.judge is not None and self._saves(done):
                    # Only the first rank has judged.
                    self.stopped = self.ranks.gather(self.stopped)[0]
                since, began = done, time.monotonic()
            self.done = done
            self.on_progress(self._progress(done, rate))
            if self.stopped is not None:
                logger.info("step %d: the run ends here: %s", done, self.stopped)
                return

    def _progress(self, done: int, rate: float) -> TrainProgress:
        left = self.config.run.steps - done
        return TrainProgress(
            step=done,
            total=self.config.run.steps,
            loss=self.loss,
            lr=rate,
            images_per_second=self.images_per_second,
            mfu=self.mfu,
            memory=peak_memory(self.learner.base.compute.device),
            seconds_left=left * self.seconds_per_step if self.seconds_per_step else None,
        )

    def _measure(self, seconds: float, steps: int) -> None:
        """The speed since the last log line; reading the losses has made the device finish."""
        speed, self.mfu = self.meter.read(seconds)
        self.images_per_second = speed * self.ranks.size
        self.seconds_per_step = seconds / steps

    def _write(self, done: int) -> None:
        """Save, judge, show, as far as it is time; the other ranks wait at their next step."""
        # Saving before the preview: it may need more memory than training does.
        if self._saves(done):
            self._save(done)
        if self._previews(done):
            self._preview(done)

    def _is_due(self, done: int) -> bool:
        return done % self.config.run.log_every == 0 or self._saves(done) or self._previews(done)

    def _saves(self, done: int) -> bool:
        watched = self.config.watch.every > 0 and done % self.config.watch.every == 0
        return watched or done % self.config.checkpoint.every == 0 or done == self.config.run.steps

    def _previews(self, done: int) -> bool:
        every = self.config.preview.every
        return every > 0 and (done % every == 0 or done == self.config.run.steps)

    def _log(self, done: int, means: tuple[float, float], rate: float) -> None:
        self.loss, norm = means
        values = {
            "loss": self.loss,
            "lr": rate,
            "gradient_norm": norm,
            "images_per_second": self.images_per_second,
        }
        memory = peak_memory(self.learner.base.compute.device)
        if self.mfu is not None:
            values["mfu"] = self.mfu
        if memory is not None:
            values["memory_gb"] = memory / 1e9
        if self.log is not None:
            self.log.numbers(done, values)

    def _preview(self, done: int) -> None:
        if self.previewer is None:
            return
        try:
            with self.learner.averaged():
                picture = self.previewer.draw()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            logger.warning("step %d: no memory for the preview; training goes on", done)
            free_memory()
            return
        write_preview(self.folder.previews, done, picture)
        if self.log is not None:
            self.log.picture(done, picture)

    def _save(self, done: int) -> None:
        keep, folder = self.config.checkpoint.keep, self.folder.checkpoints
        self.checkpoint = save_checkpoint(folder, done, self.learner, self.identity, keep=keep)
        self.on_saved(done, self.loss)
        if self.judge is None:
            return
        with self.learner.averaged():
            judgement = self.judge(self.learner, done)
        if judgement is not None:
            self._take(done, judgement)

    def _take(self, done: int, judgement: Judgement) -> None:
        if self.log is not None:
            self.log.numbers(done, {"score": judgement.score, **judgement.figures})
        if self.config.checkpoint.keep_best:
            mark_best(self.folder.checkpoints, done, judgement.score)
        self.stopped = judgement.stop
