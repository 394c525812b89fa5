"""The training loop: step, log, preview, save."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condkit.trainer.checkpoint import RunIdentity, save_checkpoint
from condkit.trainer.config import TrainConfig
from condkit.trainer.data import BatchLoader, Example
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
        images_per_second: Training speed of the last log interval, without saving and previews.
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
        control_net: diffusers.ControlNetModel in training.
        optimizer: Its optimizer.
        identity: What stands in every checkpoint.
        loader: The micro-batches.
        step: What is done with them.
        previewer: Draws the preview grid, or None.
        log: The numbers.
        on_saved: Called with the step and the loss after each checkpoint.
        on_progress: Called after each optimizer step.
        loss: Mean loss of the last interval.
        images_per_second: Speed of the last interval.
        checkpoint: The last checkpoint written.
    """

    config: TrainConfig
    folder: RunFolder
    control_net: Any
    optimizer: Any
    identity: RunIdentity
    loader: BatchLoader
    step: OptimizerStep
    previewer: Previewer | None
    log: RunLog
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
            rate = learning_rate(optim, done - 1, steps)
            watch.add(self.step(done, itertools.islice(batches, optim.accumulation), rate))
            if self._is_due(done):
                # Reading the losses first: a bad one stops the run before it is saved.
                self._log(done, watch.mean(), rate, done - since, time.monotonic() - began)
                # Saving before the preview: it may need more memory than training does.
                self._save(done)
                self._preview(done)
                since, began = done, time.monotonic()
            self.on_progress(TrainProgress(done, steps, self.loss, rate, self.images_per_second))

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
        batch = self.config.data.batch_size * self.config.optim.accumulation
        self.loss, norm = means
        self.images_per_second = steps * batch / max(seconds, 1e-9)
        values = {"loss": self.loss, "lr": rate, "gradient_norm": norm}
        self.log.numbers(done, {**values, "images_per_second": self.images_per_second})

    def _preview(self, done: int) -> None:
        if self.previewer is not None and self._previews(done):
            picture = self.previewer.draw()
            write_preview(self.folder.previews, done, picture)
            self.log.picture(done, picture)

    def _save(self, done: int) -> None:
        if not self._saves(done):
            return
        self.checkpoint = save_checkpoint(
            self.folder.checkpoints,
            done,
            self.control_net,
            self.optimizer,
            self.identity,
            keep=self.config.checkpoint.keep,
        )
        self.on_saved(done, self.loss)
