"""What all layouts of picture files share: one tree per split, with a table of all rows.

```
train/metadata.jsonl           file_name, text, canny_file_name, ..., source, sha256, ..., facts
train/images/000000.png
train/canny/000000.png
train/seg_labels/000000.png    what a map was drawn from; where that is JSON, it is in the table
validation/...
```

A format adds what its trainer wants: caption files beside the pictures, files that list the pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from condkit.datasets.formats import tables
from condkit.datasets.formats.base import (
    FACT_COLUMNS,
    Columns,
    EncodedPictures,
    EncodedRow,
    RowReader,
    ShardWriter,
)
from condkit.datasets.formats.failures import cannot_read, cannot_write
from condkit.datasets.formats.table_reader import open_table
from condkit.datasets.planning import Split
from condkit.errors import DatasetError
from condkit.types import ConditionSpec

IMAGES = "images"
"""The folder of the pictures."""


class FolderFormat:
    """Picture files, and a table per split that `datasets` reads as an "imagefolder"."""

    name: ClassVar[str]

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def caption_file(self, row: EncodedRow) -> bytes | None:
        """What stands in the text file beside a picture; None for no such file."""
        return None

    def lists(self, dataset: Path, split: Split) -> list[str]:
        """Write the files of a split that tell a trainer what is where, beside the table.

        Returns:
            The files written, relative to the dataset.

        Raises:
            OutputError: if they cannot be written.
        """
        return []

    def shard_writer(self, staging: Path, shard: int, shards: int) -> ShardWriter:
        """See `DatasetFormat`."""
        return _FolderShard(staging, shard, self)

    def finish(self, dataset: Path, splits: tuple[Split, ...]) -> list[str]:
        """Join the lines of all shards to one table per split; write the trainer's own lists."""
        written = tables.join(dataset, splits, self.columns)
        for split in splits:
            written += self.lists(dataset, split)
        return written

    def card_settings(self, splits: tuple[Split, ...]) -> dict[str, Any]:
        """The files of each split that `datasets` needs: the table and the pictures, not the rest.

        It takes a folder with as many texts as pictures for a folder of texts.
        """
        pictures = [f"{IMAGES}/*{self.columns.image_suffix}"]
        pictures += [f"{name}/*.png" for name in self.columns.pictures[1:]]
        paths = ["metadata.*", *pictures]
        files = [{"split": s, "path": [f"{s}/{path}" for path in paths]} for s in splits]
        return {"configs": [{"config_name": "default", "data_files": files}]}

    def reader(
        self, dataset: Path, split: Split, conditions: dict[str, ConditionSpec]
    ) -> RowReader:
        """See `DatasetFormat`."""
        return FolderRows(dataset / split, split, self.columns, tuple(conditions))


class _FolderShard:
    """Writes the pictures of a shard as they come, and its lines at the end."""

    def __init__(self, folder: Path, shard: int, layout: FolderFormat) -> None:
        self._folder = folder
        self._shard = shard
        self._layout = layout
        self._lines: dict[Split, list[str]] = {}

    def write(self, row: EncodedRow) -> None:
        """See `ShardWriter`."""
        columns = self._layout.columns
        columns.check(row)
        root = self._folder / row.split
        write_file(root / IMAGES / row.image_name, row.image)
        caption = self._layout.caption_file(row)
        if caption is not None:
            write_file((root / IMAGES / row.image_name).with_suffix(".txt"), caption)
        for name in columns.pictures[1:]:
            parts = row.maps if name in row.maps else row.data
            write_file(root / name / row.file_name, parts[name])
        self._lines.setdefault(row.split, []).append(tables.line(row, columns, IMAGES))

    def close(self) -> None:
        """See `ShardWriter`."""
        for split, lines in self._lines.items():
            path = tables.lines_path(self._folder, split, self._shard)
            write_file(path, "".join(lines).encode("ascii"))


def write_file(path: Path, data: bytes) -> None:
    """Write a file of an unfinished shard; its folders are made.

    Raises:
        OutputError: if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise cannot_write(path, error) from error


class FolderRows:
    """Rows of one split by number."""

    def __init__(
        self, folder: Path, split: Split, columns: Columns, conditions: tuple[str, ...]
    ) -> None:
        self._folder = folder
        self._split = split
        self._columns = columns
        self._conditions = conditions
        self._table = open_table(folder)

    def __len__(self) -> int:
        """How many rows."""
        return len(self._table)

    def read(self, index: int) -> EncodedPictures:
        """See `RowReader`."""
        values = self._table[index]
        try:
            names = {name: values[f"{name}_file_name"] for name in self._conditions}
            key, text, image = values["sha256"], values["text"], values["file_name"]
        except KeyError as error:
            raise self._lacks(index, error) from error
        maps = {name: self._picture(path) for name, path in names.items()}
        return EncodedPictures(key, text, self._picture(image), maps)

    def row(self, index: int) -> EncodedRow:
        """See `RowReader`."""
        values, columns = self._table[index], self._columns
        try:
            text, image = values["text"], values["file_name"]
            return EncodedRow(
                index=_number(image),
                split=self._split,
                text=text,
                captions=tuple(values["captions"]) if columns.many_captions else (text,),
                image=self._picture(image),
                image_suffix=columns.image_suffix,
                maps={n: self._picture(values[f"{n}_file_name"]) for n in columns.conditions},
                facts={name: values[name] for name in FACT_COLUMNS},
                data={column.name: self._data(column.name, values) for column in columns.data},
            )
        except KeyError as error:
            raise self._lacks(index, error) from error

    def keys(self) -> Iterator[str]:
        """See `RowReader`."""
        return self._table.column("sha256")

    def fact(self, name: str) -> Iterator[Any]:
        """See `RowReader`."""
        return self._table.column(name)

    def indices(self) -> Iterator[int]:
        """See `RowReader`."""
        return map(_number, self._table.column("file_name"))

    def _data(self, name: str, values: dict[str, Any]) -> bytes:
        if name in self._columns.texts:
            text: str = values[name]
            return text.encode("utf-8")
        return self._picture(values[f"{name}_file_name"])

    def _picture(self, relative: str) -> bytes:
        try:
            return (self._folder / relative).read_bytes()
        except OSError as error:
            raise cannot_read(self._folder / relative, error) from error

    def _lacks(self, index: int, error: KeyError) -> DatasetError:
        return DatasetError(
            f"row {index + 1} of the table in {self._folder} lacks {error}; make the dataset again"
        )


def _number(file_name: str) -> int:
    """The row's index, which names its files."""
    return int(file_name.rpartition("/")[2].split(".")[0])
