"""Tables that list pictures: CSV, TSV, JSON lines, JSON and Parquet files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condkit.datasets.sources.base import SourceEntry, SourceSample
from condkit.datasets.sources.columns import find_image_column, find_map_columns
from condkit.datasets.sources.csv_rows import CsvRows
from condkit.datasets.sources.directories import is_visible_picture
from condkit.datasets.sources.fields import json_fields
from condkit.datasets.sources.json_rows import JsonRows
from condkit.datasets.sources.naming import UniqueNames
from condkit.datasets.sources.parquet_rows import ParquetRows
from condkit.datasets.sources.references import (
    FileReference,
    UnusableValueError,
    embedded_bytes,
    embedded_name,
    file_reference,
    is_embedded,
    is_missing,
)
from condkit.datasets.sources.rows import Rows, ScannedRow, Values
from condkit.errors import ConfigError, DatasetError
from condkit.types import Rejection, SourceFile

TABLE_SUFFIXES: dict[str, Callable[[Path], Rows]] = {
    ".csv": CsvRows,
    ".tsv": CsvRows,
    ".jsonl": JsonRows,
    ".ndjson": JsonRows,
    ".json": JsonRows,
    ".parquet": ParquetRows,
}
"""By lower-case ending, what reads such a table."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a source.

    Attributes:
        rows: Its rows.
        name: What it is called in the source.
        prefix: What the names of its pictures begin with: "", or "train/".
        folder: What its paths are relative to.
        numbered: Call pictures by their row's number, from zero, instead of by their path.
    """

    rows: Rows
    name: str
    prefix: str
    folder: Path
    numbered: bool = False


class TableSource:
    """The pictures that the rows of one or more tables name or hold.

    A picture's name is its path below the table's folder. A path that leads out of the folder is
    the user's own and is followed; its name has no `..`. The second row with one path gets "#2".
    Rows that name no file that is there are rejected, each with its line.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        *,
        kind: str = "table",
        image_column: str | None = None,
        maps: Mapping[str, str] | None = None,
        without: Sequence[str] = (),
        about: Mapping[str, Any] | None = None,
        count_unlisted: bool = False,
    ) -> None:
        """Take opened tables.

        Args:
            tables: At least one.
            kind: The kind of source.
            image_column: Where the pictures stand; None looks for a usual name.
            maps: By condition, the column of its maps.
            without: Columns that are no fields of a picture.
            count_unlisted: The tables speak for their folders: count the pictures that lie beside
                listed ones and have no row ("picture without a row" in `left_out`).
            about: What `as_dict` says of the place, in place of the tables' names.

        Raises:
            ConfigError: if a column is missing or cannot be told; the message lists those there
                are.
        """
        self._kind = kind
        self._tables = tuple(tables)
        self._asked = dict(maps or {})
        self._without = frozenset(without)
        self._about = about
        self._count_unlisted = count_unlisted
        self._maps = [find_map_columns(table.rows, self._asked) for table in tables]
        self._images = [
            find_image_column(table.rows, image_column, taken=used.values())
            for table, used in zip(tables, self._maps, strict=True)
        ]
        self._left_out: Counter[str] = Counter()

    @property
    def kind(self) -> str:
        """See `Source`."""
        return self._kind

    @property
    def given(self) -> tuple[str, ...]:
        """See `Source`."""
        return tuple(self._asked)

    @property
    def left_out(self) -> dict[str, int]:
        """See `Source`."""
        return dict(sorted(self._left_out.items()))

    def as_dict(self) -> dict[str, Any]:
        """See `Source`."""
        tables = {"tables": [table.name for table in self._tables]}
        return {
            "kind": self.kind,
            **(tables if self._about is None else self._about),
            "image_column": sorted(set(self._images)),
            "maps": self._asked,
        }

    def scan(self) -> Iterator[SourceEntry | Rejection]:
        """See `Source`; rows come in the tables' order."""
        self._left_out = Counter()
        found = False
        listed: Counter[str] = Counter()
        with closing(UniqueNames()) as names:
            for index, table in enumerate(self._tables):
                for row in table.rows.scan():
                    found = True
                    yield self._entry(index, row, names, listed)
        if self._count_unlisted:
            self._left_out = _unlisted(listed)
        if not found:
            places = ", ".join(str(table.rows.path) for table in self._tables)
            raise ConfigError(f"{places}: there is no row in it; a source needs one picture")

    def file(self, entry: SourceEntry) -> SourceFile:
        """See `Source`."""
        index, row = self._row(entry)
        return self._file(entry, index, row)

    def read(self, entry: SourceEntry) -> SourceSample:
        """See `Source`."""
        index, row = self._row(entry)
        value = row[self._images[index]]
        image = embedded_bytes(value)
        found = {name: self._map(index, row[col]) for name, col in self._present(index, row)}
        return SourceSample(
            image=Path(self._path(index, value)) if image is None else image,
            file=self._file(entry, index, row),
            maps={name: data for name, data in found.items() if data is not None},
        )

    def _entry(
        self, index: int, row: ScannedRow, names: UniqueNames, listed: Counter[str]
    ) -> SourceEntry | Rejection:
        """A row as it is planned; `listed` counts the picture files met, by folder."""
        table = self._tables[index]
        place = f"{table.name}, {row.label}"
        relative = ""
        try:
            if row.values is None:
                raise UnusableValueError(f"its row {row.fault}")
            name, file = self._picture(index, row, row.values)
            relative = names.unique(table.prefix + name)
            if self._count_unlisted and file is not None and relative == table.prefix + name:
                listed[os.path.dirname(file.path)] += 1  # noqa: PTH120 - speed
            stamps = [row.stamp] if file is None else [row.stamp, file.stamp()]
            stamps += self._map_stamps(index, row.values)
        except UnusableValueError as error:
            return Rejection(relative or place, "decode", f"{error} ({place})")
        return SourceEntry(relative=relative, stamp=" ".join(stamps), where=f"{index} {row.where}")

    def _picture(
        self, index: int, row: ScannedRow, values: Values
    ) -> tuple[str, FileReference | None]:
        """What a row's picture is called, and its file where it is one of its own."""
        table = self._tables[index]
        value = values.get(self._images[index])
        if is_missing(value):
            raise UnusableValueError(f"its row names no picture in {self._images[index]!r}")
        number = f"{row.number:09d}"
        if is_embedded(value):
            return number if table.numbered else embedded_name(value, number), None
        file = file_reference(value, str(table.folder))
        return number if table.numbered else file.name, file

    def _map_stamps(self, index: int, values: Values) -> list[str]:
        stamps = []
        for condition, column in self._present(index, values):
            if not is_embedded(values[column]):
                file = file_reference(values[column], str(self._tables[index].folder))
                stamps.append(f"{condition}={file.stamp()}")
        return stamps

    def _present(self, index: int, values: Values) -> list[tuple[str, str]]:
        """The conditions that this row has a map of, each with its column."""
        columns = self._maps[index].items()
        return [(name, column) for name, column in columns if not is_missing(values.get(column))]

    def _row(self, entry: SourceEntry) -> tuple[int, Values]:
        number, _, where = entry.where.partition(" ")
        index = int(number)
        return index, self._tables[index].rows.read(where)

    def _file(self, entry: SourceEntry, index: int, row: Values) -> SourceFile:
        table = self._tables[index]
        image = self._images[index]
        used = {image, *self._maps[index].values(), *table.rows.pictures, *self._without}
        fields = json_fields(row, without=used)
        if embedded_bytes(row[image]) is not None:
            return SourceFile(table.rows.path, entry.relative, beside=(), fields=fields)
        return SourceFile(Path(self._path(index, row[image])), entry.relative, fields=fields)

    def _path(self, index: int, value: object) -> str:
        """The file that a value names, when its row was good as it was scanned."""
        table = self._tables[index]
        try:
            return file_reference(value, str(table.folder)).path
        except UnusableValueError as error:
            raise DatasetError(f"{table.rows.path}: {error}; correct the row") from error

    def _map(self, index: int, value: object) -> bytes | None:
        data = embedded_bytes(value)
        return Path(self._path(index, value)).read_bytes() if data is None else data


def _unlisted(listed: Mapping[str, int]) -> Counter[str]:
    """How many pictures lie beside listed ones without a row."""
    left_out: Counter[str] = Counter()
    for folder, count in listed.items():
        try:
            with os.scandir(folder) as entries:
                there = sum(is_visible_picture(entry.name) for entry in entries)
        except OSError:
            # Every row of it was rejected for the same reason.
            continue
        if there > count:
            left_out["picture without a row"] += there - count
    return left_out


def open_table(path: Path, *, name: str | None = None, prefix: str = "") -> Table:
    """Open one table file.

    Args:
        path: The file; its ending says what it is.
        name: What to call it; None takes the file's name.
        prefix: What the names of its pictures begin with.

    Raises:
        ConfigError: if the ending is none of a table.
        DatasetError: if it cannot be read.
    """
    reader = TABLE_SUFFIXES.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"{path}: expected a table ending in {', '.join(TABLE_SUFFIXES)}")
    return Table(reader(path), name or path.name, prefix, path.parent.absolute())
