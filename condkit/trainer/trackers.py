"""TensorBoard, trackio and Weights & Biases, each asked in its own way.

Not through accelerate's trackers: they need its process state, which joins process groups and
changes devices by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from condkit.errors import DependencyError
from condkit.trainer.config import Tracker
from condkit.types import RgbImage


class RunTracker(Protocol):
    """Shows the numbers and pictures of a run somewhere."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Show the values of a step."""

    def picture(self, step: int, picture: RgbImage) -> None:
        """Show a preview grid."""

    def close(self) -> None:
        """Send what is still held back."""


def open_tracker(name: Tracker, run: Path, logs: Path, start: int) -> RunTracker:
    """Begin to track a run, or go on.

    Args:
        name: Which tracker.
        run: Folder of the run; its name is the run's name.
        logs: Where TensorBoard's files go.
        start: The step the run goes on from; what TensorBoard has of later ones is taken back.

    Raises:
        DependencyError: if its package is not installed.
    """
    if find_spec(name) is None:
        raise DependencyError(
            f"run.trackers: expected an installed package, and {name} is none; "
            f"pip install {name}, or leave it out of run.trackers"
        )
    if name == "tensorboard":
        return _TensorBoard(logs, start)
    return _Service(import_module(name), run)


class _TensorBoard:
    """Event files beside the run."""

    def __init__(self, logs: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(logs), purge_step=start + 1 if start else None)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(_tag(name), value, step)

    def picture(self, step: int, picture: RgbImage) -> None:
        self._writer.add_image("preview", picture, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class _Service:
    """Weights & Biases, and trackio, which has the same interface."""

    def __init__(self, module: Any, run: Path) -> None:  # noqa: ANN401 - wandb or trackio
        self._module = module
        self._run = module.init(project="condkit", name=run.resolve().name, resume="allow")

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({_tag(name): value for name, value in values.items()}, step=step)

    def picture(self, step: int, picture: RgbImage) -> None:
        self._run.log({"preview": self._module.Image(picture)}, step=step)

    def close(self) -> None:
        self._run.finish()


def _tag(name: str) -> str:
    """`train/loss` of `loss`; names that have a group already keep it."""
    return name if "/" in name else f"train/{name}"
