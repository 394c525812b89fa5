"""What every format promises, and the row that it writes and reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from condkit.datasets.encoded import DataColumn
from condkit.datasets.planning import Split
from condkit.errors import DatasetError
from condkit.types import ConditionSpec, MapPixels, RgbImage

FACT_COLUMNS = {
    "source": "string",
    "sha256": "string",
    "width": "int64",
    "height": "int64",
    "original_width": "int64",
    "original_height": "int64",
    "transform": "string",
    "notes": "string",
    "captioner": "string",
    "scores": "string",
    "facts": "string",
}
"""Columns after image, text, conditions and their data: where the row comes from and what was done
to it. `transform` (crop and resize), `scores` (what the filters measured) and `facts` (by
condition, what was counted in its maps) are JSON text."""

IMAGE_SUFFIXES = (".png", ".jpg", ".webp")
"""How a picture's file may end; maps are PNG always."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedRow:
    """A row whose pictures are files in memory.

    Attributes:
        index: Place of its input in the build; names its files.
        split: Where it belongs.
        text: The caption; the first of several.
        captions: All captions, `text` first; at least one.
        image: The picture.
        image_suffix: The ending of the picture's file, with its dot: ".png", ".jpg" or ".webp".
        maps: One picture per condition.
        facts: Values of `FACT_COLUMNS`.
        data: By column name, what the maps were drawn from: PNG files, or JSON text in UTF-8.
    """

    index: int
    split: Split
    text: str
    image: bytes
    maps: dict[str, bytes]
    facts: dict[str, str | int]
    data: dict[str, bytes] = field(default_factory=dict)
    captions: tuple[str, ...] = ()
    image_suffix: str = ".png"

    @property
    def file_name(self) -> str:
        """The name of its maps' files, unique in a dataset."""
        return f"{self.index:06d}.png"

    @property
    def image_name(self) -> str:
        """The name of its picture's file."""
        return f"{self.index:06d}{self.image_suffix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What the rows of a dataset hold; the same in every format.

    Attributes:
        conditions: Names of the conditions.
        data: What the maps were drawn from.
        many_captions: Whether rows may have several captions, which then have a column.
        image_suffix: The ending of the pictures' files.
    """

    conditions: tuple[str, ...]
    data: tuple[DataColumn, ...] = ()
    many_captions: bool = False
    image_suffix: str = ".png"

    @property
    def pictures(self) -> tuple[str, ...]:
        """The columns that hold picture files: `image`, the conditions, label pictures."""
        return ("image", *self.conditions, *(item.name for item in self.data if item.is_picture))

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns that hold JSON text that maps were drawn from."""
        return tuple(item.name for item in self.data if not item.is_picture)

    @property
    def names(self) -> tuple[str, ...]:
        """All columns in order.

        diffusers takes columns by place where it is not told their names: the first three must be
        picture, caption, condition. So the list of all captions stands behind the conditions.
        """
        captions = ("captions",) if self.many_captions else ()
        data = (item.name for item in self.data)
        return ("image", "text", *self.conditions, *captions, *data, *FACT_COLUMNS)

    def file_name(self, column: str, row: EncodedRow) -> str:
        """The name of the file in a picture column."""
        return row.image_name if column == "image" else row.file_name

    def check(self, row: EncodedRow) -> None:
        """Refuse a row that does not fit, before anything of it is lost in writing.

        Raises:
            DatasetError: naming what does not fit.
        """
        parts = {"image", *row.maps, *row.data}
        wanted = {*self.pictures, *self.texts}
        captions = row.captions or (row.text,)
        if parts != wanted:
            what = f"columns {sorted(parts)}, the dataset has {sorted(wanted)}"
        elif row.image_suffix != self.image_suffix:
            what = f"a {row.image_suffix} picture, the dataset has {self.image_suffix}"
        elif captions[0] != row.text or (len(captions) > 1 and not self.many_captions):
            what = (
                f"{len(captions)} captions that begin with {captions[0]!r}, not only {row.text!r}"
            )
        elif row.facts.keys() != FACT_COLUMNS.keys():
            what = f"facts {sorted(row.facts)}, expected {sorted(FACT_COLUMNS)}"
        elif not _is_unicode([*captions, *(v for v in row.facts.values() if isinstance(v, str))]):
            what = f"text that is not Unicode, in {captions!a} or {row.facts!a}"
        else:
            return
        raise DatasetError(f"row {row.index} does not fit into the dataset: it has {what}")


def _is_unicode(texts: list[str]) -> bool:
    """Whether UTF-8 can hold them; names of files that it cannot come with lone surrogates."""
    try:
        "".join(texts).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a paired dataset, decoded.

    Attributes:
        key: sha256 of the input file's bytes; unique in a dataset.
        image: The picture, (H, W, 3) uint8 RGB.
        text: The caption; may be empty.
        maps: Condition name to pixels, (H, W) or (H, W, 3), with the picture's height and width.
    """

    key: str
    image: RgbImage
    text: str
    maps: dict[str, MapPixels]


class ShardWriter(Protocol):
    """Takes the rows of one shard, in order."""

    def write(self, row: EncodedRow) -> None:
        """Add a row.

        Raises:
            OutputError: if it cannot be written.
        """
        ...

    def close(self) -> None:
        """Finish the files.

        Raises:
            OutputError: if they cannot be written.
        """
        ...


class RowReader(Protocol):
    """The rows of one split, by number."""

    def __len__(self) -> int:
        """How many rows."""
        ...

    def read(self, index: int) -> EncodedPictures:
        """A row, not yet decoded; may be called from many threads at once.

        Raises:
            DatasetError: if a file of it is missing or broken.
        """
        ...

    def row(self, index: int) -> EncodedRow:
        """Everything that is known of a row; may be called from many threads at once.

        Raises:
            DatasetError: if a file of it is missing or broken.
        """
        ...

    def keys(self) -> Iterator[str]:
        """The content hashes of all rows, in order."""
        ...

    def indices(self) -> Iterator[int]:
        """`EncodedRow.index` of all rows, in order, without reading pictures."""
        ...

    def fact(self, name: str) -> Iterator[Any]:
        """One of `FACT_COLUMNS` of all rows, in order, without reading pictures."""
        ...


def shard_files(folder: Path, pattern: str) -> list[Path]:
    """The files of all shards in their order; their numbers have five digits, or more from 100000.

    Args:
        folder: Where they lie.
        pattern: Of their names.
    """
    return sorted(folder.glob(pattern), key=lambda path: (len(path.name), path.name))


@dataclass(frozen=True, slots=True)
class EncodedPictures:
    """What a row's reader finds: key, caption, and picture files in memory."""

    key: str
    text: str
    image: bytes
    maps: dict[str, bytes]


class DatasetFormat(Protocol):
    """A layout of files."""

    @property
    def name(self) -> str:
        """The name on the command line and in the manifest."""
        ...

    @property
    def columns(self) -> Columns:
        """What its rows hold."""
        ...

    def shard_writer(self, staging: Path, shard: int, shards: int) -> ShardWriter:
        """A writer that puts one shard's files into `staging`, where they lie as they will lie in
        the dataset.

        Raises:
            OutputError: if they cannot be made.
        """  # noqa: D205
        ...

    def finish(self, dataset: Path, splits: tuple[Split, ...]) -> list[str]:
        """Write what can only be written when all shards are in their places.

        Args:
            dataset: Its folder.
            splits: Those that have rows.

        Returns:
            The files written, relative to the dataset.

        Raises:
            OutputError: if they cannot be written.
        """
        ...

    def card_settings(self, splits: tuple[Split, ...]) -> dict[str, Any]:
        """What the dataset card must say so that `datasets.load_dataset` finds the splits."""
        ...

    def reader(
        self, dataset: Path, split: Split, conditions: dict[str, ConditionSpec]
    ) -> RowReader:
        """The rows of a finished split.

        Raises:
            DatasetError: if its files are missing.
        """
        ...
