"""The numbers of a run: a file that needs no program to be read, and trackers on top of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from condkit import atomic
from condkit.trainer.config import Tracker
from condkit.trainer.run_folder import RunFolder
from condkit.trainer.trackers import open_tracker
from condkit.types import RgbImage


class RunLog:
    """Writes `metrics.jsonl`, and tells the trackers.

    Args:
        folder: The run.
        start: The step the run goes on from; what was logged after it is taken back.
        trackers: Who is told.

    Raises:
        DependencyError: if a tracker is not installed.
    """

    def __init__(
        self, folder: RunFolder, start: int, trackers: Sequence[Tracker] = ("tensorboard",)
    ) -> None:
        self._path = folder.metrics
        self._trackers = [open_tracker(name, folder.path, folder.logs, start) for name in trackers]
        kept = [entry for entry in read_metrics(folder) if entry["step"] <= start]
        atomic.write_text(self._path, "".join(json.dumps(entry) + "\n" for entry in kept))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Log values of a step; a step may have several such lines."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for tracker in self._trackers:
            tracker.numbers(step, values)

    def picture(self, step: int, picture: RgbImage) -> None:
        """Log a preview grid."""
        for tracker in self._trackers:
            tracker.picture(step, picture)

    def close(self) -> None:
        """Write out what trackers still hold back."""
        for tracker in self._trackers:
            tracker.close()


def read_metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """The entries of `metrics.jsonl`, one per step, oldest first; a torn last line is left out."""
    if not folder.metrics.is_file():
        return []
    entries: dict[int, dict[str, Any]] = {}
    for line in folder.metrics.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            break
        entries[entry["step"]] = entries.get(entry["step"], {}) | entry
    return list(entries.values())
