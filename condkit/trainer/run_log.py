"""The numbers of a run: TensorBoard scalars, and a file that needs no program to be read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from condkit import atomic
from condkit.trainer.run_folder import RunFolder
from condkit.types import RgbImage


class RunLog:
    """Writes `metrics.jsonl` and TensorBoard events.

    Args:
        folder: The run.
        start: The step the run goes on from; what was logged after it is taken back.
    """

    def __init__(self, folder: RunFolder, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path = folder.metrics
        kept = [entry for entry in read_metrics(folder) if entry["step"] <= start]
        atomic.write_text(self._path, "".join(json.dumps(entry) + "\n" for entry in kept))
        self._writer: Any = SummaryWriter(str(folder.logs), purge_step=start + 1 if start else None)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of a step."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def picture(self, step: int, picture: RgbImage) -> None:
        """Log a preview grid."""
        self._writer.add_image("preview", picture, step, dataformats="HWC")

    def close(self) -> None:
        """Write out what TensorBoard still holds back."""
        self._writer.close()


def read_metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """The entries of `metrics.jsonl`, oldest first; a torn last line is left out."""
    if not folder.metrics.is_file():
        return []
    entries = []
    for line in folder.metrics.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries
