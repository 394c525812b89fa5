"""Datasets that `condkit build` made, for training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condkit import imageio
from condkit.datasets.formats.base import EncodedRow
from condkit.datasets.lock import RECORDS
from condkit.datasets.reader import PairedDataset, PairedSplit, open_dataset
from condkit.errors import DatasetError, ImageError
from condkit.settings import choose
from condkit.trainer.data_config import SourceConfig
from condkit.trainer.flips import Flipper
from condkit.trainer.redraw import pose_redraw
from condkit.trainer.rows import PairedRow, PairedRows
from condkit.trainer.sources import DataSource, LazyRow, RowsFeed
from condkit.types import ConditionSpec, MapPixels, RgbImage

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of one row."""

    row: EncodedRow
    spec: ConditionSpec

    def content(self) -> str:
        return hashlib.sha256(self.row.image).hexdigest()

    def image(self) -> RgbImage:
        with _named(self.row):
            return imageio.decode(self.row.image).image

    def map(self) -> MapPixels:
        with _named(self.row):
            pixels = imageio.read_map(self.row.maps[self.spec.name])
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        if channels != self.spec.channels or pixels.dtype != np.dtype(self.spec.dtype):
            raise DatasetError(
                f"row {self.row.facts['sha256']}: expected a {self.spec.name!r} map of "
                f"{self.spec.channels} channel(s) of {self.spec.dtype}, got {channels} of "
                f"{pixels.dtype}; build the dataset again"
            )
        return pixels


class _named:  # noqa: N801 - reads as a word of the with statement
    """Names the row in an error of its pictures."""

    def __init__(self, row: EncodedRow) -> None:
        self._key = row.facts["sha256"]

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ImageError):
            raise DatasetError(f"row {self._key}: {error}; build the dataset again") from error


class CondkitRows(Sequence[PairedRow]):
    """The rows of a split with all their columns, decoded when somebody looks.

    Args:
        split: The split.
        spec: The condition that is trained.
    """

    def __init__(self, split: PairedSplit, spec: ConditionSpec) -> None:
        self._split = split
        self._spec = spec

    def __len__(self) -> int:
        """How many rows."""
        return len(self._split)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - a row; a list of them for a slice
        """The row at `index`."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self._split.row(index % len(self) if -len(self) <= index < 0 else index)
        return LazyRow(
            str(row.facts["sha256"]),
            self._spec.name,
            _Files(row, self._spec),
            row.captions or (row.text,),
            row.facts,
            row.data,
        )

    def sizes(self) -> NDArray[np.int64]:
        """(rows, 2) heights and widths of all pictures; none is read."""
        sides = (self._split.fact(name) for name in ("height", "width"))
        return np.stack([np.fromiter(side, np.int64, len(self)) for side in sides], axis=1)


def is_condkit_dataset(path: Path) -> bool:
    """Whether a folder was made by `condkit build`, finished or not."""
    return (path / MANIFEST).is_file() or (path / RECORDS).is_dir()


def open_condkit(
    path: Path, source: SourceConfig, condition: str, seed: int, name: str = ""
) -> DataSource:
    """Open a dataset for training.

    Args:
        path: Its folder.
        source: Split and weight.
        condition: The condition that is trained.
        seed: The run's seed.
        name: Tells the datasets of a mix apart; empty for the first.

    Raises:
        DatasetError: if it cannot be used.
        UnknownNameError: if it lacks the condition or the split.
    """
    dataset = open_dataset(path)
    spec = dataset.conditions[choose(condition, dataset.conditions, what=f"condition in {path}")]
    rows = _rows(dataset, source.split, spec)
    has_validation = "validation" in dataset.splits
    preview = _rows(dataset, "validation", spec) if has_validation else rows
    return DataSource(
        name=str(path),
        spec=spec,
        feed=RowsFeed(rows, seed, name),
        rows=rows,
        preview_rows=preview,
        fingerprint=hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest(),
        weight=source.weight,
        flipper=Flipper(spec, pose_redraw(dataset.manifest, spec), f"{spec.name}_json"),
    )


def _rows(dataset: PairedDataset, split: str, spec: ConditionSpec) -> PairedRows:
    found = dataset.split(choose(split, dataset.splits, what=f"split in {dataset.path}"))
    if len(found) == 0:
        raise DatasetError(
            f"{dataset.path}: its {split} split is empty; build it from more pictures"
        )
    # Datasets of older versions have no columns beside pictures and text.
    return CondkitRows(found, spec) if "columns" in dataset.manifest else found


def sizes_of(rows: PairedRows) -> NDArray[np.int64]:
    """(rows, 2) heights and widths of all pictures of a split."""
    if isinstance(rows, CondkitRows):
        return rows.sizes()
    found = np.empty((len(rows), 2), np.int64)
    for index in range(len(rows)):
        row = rows[index]
        facts = getattr(row, "facts", None) or {}
        if facts.get("height") and facts.get("width"):
            found[index] = facts["height"], facts["width"]
        else:
            found[index] = row.image.shape[:2]
    return found
