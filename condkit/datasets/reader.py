"""Reading a finished dataset back, row by row, for training and evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from condkit import imageio
from condkit.datasets.formats import format_of
from condkit.datasets.formats.base import EncodedPictures, EncodedRow, Row, RowReader
from condkit.datasets.manifest import read_manifest
from condkit.datasets.planning import SPLITS
from condkit.errors import DatasetError, ImageError, MapError
from condkit.settings import choose
from condkit.types import ConditionSpec, MapPixels, RgbImage

__all__ = ["PairedDataset", "PairedSplit", "Row", "open_dataset"]

_PNG = b"\x89PNG\r\n\x1a\n"


class PairedSplit(Sequence[Row]):
    """The rows of one split; each is read and decoded when it is asked for.

    It may be used from many threads at once and be sent to other processes.
    """

    def __init__(self, name: str, rows: RowReader, conditions: dict[str, ConditionSpec]) -> None:
        self.name = name
        self._rows = rows
        self._conditions = conditions

    def __len__(self) -> int:
        """How many rows."""
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        """Read and decode a row.

        Raises:
            IndexError: if there is no such row.
            DatasetError: if the row's files are missing, broken, or not what the manifest says.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of split {self.name!r}, which has {len(self)}")
        return self._decode(self._rows.read(index % len(self)))

    def keys(self) -> tuple[str, ...]:
        """The keys of all rows in order, without decoding any."""
        return tuple(self._rows.keys())

    def row(self, index: int) -> EncodedRow:
        """Everything that is known of a row, its pictures as they are in their files.

        Raises:
            IndexError: if there is no such row.
            DatasetError: if a file of it is missing or broken.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of split {self.name!r}, which has {len(self)}")
        return self._rows.row(index)

    def fact(self, name: str) -> Iterator[Any]:
        """One of the columns that say where rows come from, such as `width`, of all rows in order.

        No picture is read.

        Raises:
            DatasetError: if the dataset lacks it.
        """
        return self._rows.fact(name)

    def indices(self) -> tuple[int, ...]:
        """`EncodedRow.index` of all rows in order, without reading any picture."""
        return tuple(self._rows.indices())

    def _decode(self, row: EncodedPictures) -> Row:
        try:
            image = _picture(row.image)
            maps = {n: _checked(row.maps[n], s, image) for n, s in self._conditions.items()}
        except (ImageError, MapError) as error:
            raise DatasetError(
                f"row {row.key} of split {self.name!r}: {error}; build the dataset again"
            ) from error
        return Row(row.key, image, row.text, maps)


@dataclass(frozen=True, slots=True)
class PairedDataset:
    """A finished dataset.

    Attributes:
        path: Its folder.
        manifest: Its manifest, as JSON values.
        conditions: What each map means, by name, in the order of the columns.
        splits: The names of the splits that have rows.
    """

    path: Path
    manifest: dict[str, Any]
    conditions: dict[str, ConditionSpec]
    splits: tuple[str, ...]

    def split(self, name: str) -> PairedSplit:
        """The rows of a split.

        Raises:
            UnknownNameError: if there is no such split, or it has no rows.
            DatasetError: if its files are missing, or hold more or fewer rows than the manifest.
        """
        choose(name, self.splits, what=f"split of {self.path}")
        layout = format_of(self.manifest)
        known = next(split for split in SPLITS if split == name)
        rows = layout.reader(self.path, known, self.conditions)
        if len(rows) != self.manifest["rows"][name]:
            raise DatasetError(
                f"{self.path}: split {name!r} has {len(rows)} rows, its manifest says "
                f"{self.manifest['rows'][name]}; build the dataset again"
            )
        return PairedSplit(name, rows, self.conditions)


def open_dataset(path: Path, manifest: dict[str, Any] | None = None) -> PairedDataset:
    """Open a dataset that `condkit build` has finished; no picture is read yet.

    Args:
        path: The dataset's folder.
        manifest: Its manifest, where that is not written yet.

    Raises:
        DatasetError: if the folder is none, is unfinished, or of a version not known here.
    """
    manifest = manifest or read_manifest(path)
    try:
        specs = {n: ConditionSpec.from_dict(v) for n, v in manifest["conditions"].items()}
        splits = tuple(manifest["rows"])
    except (KeyError, MapError) as error:
        raise DatasetError(f"{path}: its manifest is broken: {error}") from error
    return PairedDataset(path, manifest, specs, splits)


def _picture(data: bytes) -> RgbImage:
    """A picture: a PNG is read as it was written, what else there is as any image is."""
    if not data.startswith(_PNG):
        return imageio.decode(data).image
    pixels = imageio.read_map(data)
    if pixels.shape[2:] != (3,) or pixels.dtype != np.uint8:
        raise ImageError(f"expected an RGB picture of 8 bits, got {pixels.shape} {pixels.dtype}")
    return pixels.astype(np.uint8, copy=False)


def _checked(data: bytes, spec: ConditionSpec, image: RgbImage) -> MapPixels:
    """A map, if it is what its spec says and fits its picture."""
    pixels = imageio.read_map(data)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels != spec.channels or pixels.dtype != np.dtype(spec.dtype):
        raise MapError(
            f"map {spec.name!r}: expected {spec.channels} channel(s) of {spec.dtype}, got "
            f"{channels} of {pixels.dtype}"
        )
    if pixels.shape[:2] != image.shape[:2]:
        raise MapError(f"map {spec.name!r} is {pixels.shape[:2]}, its picture {image.shape[:2]}")
    return pixels
