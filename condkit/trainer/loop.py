"""The training loop: step, log, preview, save."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from condkit.trainer.checkpoint import RunIdentity, mark_best, save_checkpoint
from condkit.trainer.config import TrainConfig
from condkit.trainer.data import BatchLoader, Example
from condkit.trainer.distributed import Ranks
from condkit.trainer.learner import Learner
from condkit.trainer.preview import Previewer, write_preview
from condkit.trainer.run_folder import RunFolder
from condkit.trainer.run_log import RunLog
from condkit.trainer.schedule import learning_rate
from condkit.trainer.step import LossWatch, OptimizerStep


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
    """

    step: int
    total: int
    loss: float
    lr: float
    images_per_second: float


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
        score: Judges the present weights after each checkpoint; the larger the better. None judges
            nothing.
        on_saved: Called with the step and the loss after each checkpoint.
        on_progress: Called after each optimizer step.
        loss: Mean loss of the last interval.
        images_per_second: Speed of the last interval.
        checkpoint: The last checkpoint written.
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
    score: Callable[[int], float] | None
    on_saved: Callable[[int, float], None]
    on_progress: Callable[[TrainProgress], None]
    loss: float = float("nan")
    images_per_second: float = 0.0
    checkpoint: Path | None = None

    def run(self, start: int) -> None:
        """Train from step `start` to the last one.

        Raises:
            TrainingError: if a loss is not finite, or a picture does not fit.
            DatasetError: if a row cannot be used.
            OutputError: if a checkpoint cannot be written.
        """
        accumulation, steps = self.config.optim.accumulation, self.config.run.steps
        with closing(self.loader.batches(start * accumulation, steps * accumulation)) as batches:
            self._train(start, batches)

    def _train(self, start: int, batches: Iterator[list[Example]]) -> None:
        watch = LossWatch()
        optim, steps = self.config.optim, self.config.run.steps
        since, began = start, time.monotonic()
        for done in range(start + 1, steps + 1):
            if self.learner.is_due(done - 1):
                self.learner.unlock()
            rate = learning_rate(optim, done - 1, steps)
            watch.add(self.step(done, itertools.islice(batches, optim.accumulation), rate))
            self.learner.update_averages()
            if self._is_due(done):
                # Reading the losses first: a bad one stops the run before it is saved.
                means = watch.mean(self.ranks)
                self._log(done, means, rate, done - since, time.monotonic() - began)
                if self.ranks.is_main:
                    self._write(done)
                since, began = done, time.monotonic()
            self.on_progress(TrainProgress(done, steps, self.loss, rate, self.images_per_second))

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
        return done % self.config.checkpoint.every == 0 or done == self.config.run.steps

    def _previews(self, done: int) -> bool:
        every = self.config.preview.every
        return every > 0 and (done % every == 0 or done == self.config.run.steps)

    def _log(
        self, done: int, means: tuple[float, float], rate: float, steps: int, seconds: float
    ) -> None:
        batch = self.config.data.batch_size * self.identity.micro_batches
        self.loss, norm = means
        self.images_per_second = steps * batch / max(seconds, 1e-9)
        values = {"loss": self.loss, "lr": rate, "gradient_norm": norm}
        if self.log is not None:
            self.log.numbers(done, {**values, "images_per_second": self.images_per_second})

    def _preview(self, done: int) -> None:
        if self.previewer is None:
            return
        with self.learner.averaged():
            picture = self.previewer.draw()
        write_preview(self.folder.previews, done, picture)
        if self.log is not None:
            self.log.picture(done, picture)

    def _save(self, done: int) -> None:
        keep, folder = self.config.checkpoint.keep, self.folder.checkpoints
        self.checkpoint = save_checkpoint(folder, done, self.learner, self.identity, keep=keep)
        self.on_saved(done, self.loss)
        if self.score is None:
            return
        with self.learner.averaged():
            score = self.score(done)
        if self.log is not None:
            self.log.numbers(done, {"score": score})
        if self.config.checkpoint.keep_best:
            mark_best(folder, done, score)
