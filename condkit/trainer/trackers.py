"""TensorBoard, trackio and Weights & Biases, through accelerate's one interface."""

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
    tracking: Any = import_module("accelerate.tracking")
    if name == "tensorboard":
        purge = {"purge_step": start + 1} if start else {}
        return _Accelerated(tracking.TensorBoardTracker("", str(logs), **purge))
    known_as: dict[str, Any] = {"name": run.resolve().name, "resume": "allow"}
    if name == "trackio":
        return _Accelerated(tracking.TrackioTracker("condkit", **known_as))
    return _Accelerated(tracking.WandBTracker("condkit", dir=str(run), **known_as))


class _Accelerated:
    """One of accelerate's trackers."""

    def __init__(self, tracker: Any) -> None:  # noqa: ANN401 - accelerate's GeneralTracker
        # Only the first rank gets here: accelerate need not ask which one this is.
        tracker.main_process_only = False
        tracker.start()
        self._tracker = tracker

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        named = {f"train/{name}": value for name, value in values.items()}
        self._tracker.log(named, step=step)

    def picture(self, step: int, picture: RgbImage) -> None:
        if self._tracker.name == "tensorboard":
            self._tracker.log_images({"preview": picture[None]}, step=step, dataformats="NHWC")
        elif self._tracker.name == "wandb":
            self._tracker.log_images({"preview": [picture]}, step=step)

    def close(self) -> None:
        self._tracker.finish()
