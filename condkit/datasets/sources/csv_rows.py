"""Rows of CSV and TSV files; every value stays the text that it is."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from condkit.datasets.sources.rows import ScannedRow, Values
from condkit.datasets.sources.text_files import (
    Span,
    cannot_read,
    fault_of_encoding,
    read_span,
    start_of_text,
)
from condkit.errors import DatasetError

PROBED_BYTES = 1 << 16
"""How much of the file is looked at to find what separates its columns."""


class CsvRows:
    """A CSV or TSV file: its first row names the columns, quoted values may hold line ends.

    No value is guessed at: "None", "007" and "2023-01-01" are text, and so is an empty value. The
    separator is a tab in a .tsv file, else a comma, or the semicolon or tab that the first line
    has instead.
    """

    pictures: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        """Read the names of the columns.

        Raises:
            DatasetError: if the file cannot be read, is empty, or two columns have one name.
        """
        self.path = path
        self._start = start_of_text(path)
        self._delimiter = self._separator()
        header = next(self._records(), None)
        if header is None or header[1] is None:
            fault = "is empty" if header is None else header[2]
            raise DatasetError(f"{path}: its first row must name the columns, but it {fault}")
        self.columns = tuple(header[1])
        doubled = {name for name in self.columns if self.columns.count(name) > 1}
        if doubled:
            raise DatasetError(f"{path}: two columns are called {min(doubled)!r}; rename one")

    def scan(self) -> Iterator[ScannedRow]:
        """See `Rows`."""
        records = self._records()
        next(records)
        number = -1
        for span, cells, fault, line in records:
            if cells == []:
                continue
            number += 1
            if cells is not None and len(cells) != len(self.columns):
                fault = (
                    f"has {len(cells)} values, but the table has {len(self.columns)} columns; "
                    "put values that hold the separator or a line end into double quotes"
                )
                cells = None
            values = None if cells is None else dict(zip(self.columns, cells, strict=True))
            yield ScannedRow(
                where=str(span),
                number=number,
                label=f"line {line}",
                stamp=span.digest,
                values=values,
                fault=fault,
            )

    def read(self, where: str) -> Values:
        """See `Rows`."""
        text = read_span(self.path, Span.parse(where)).decode("utf-8")
        cells = next(self._reader(io.StringIO(text, newline="")))
        return dict(zip(self.columns, cells, strict=True))

    def _reader(self, lines: Iterable[str]) -> Iterator[list[str]]:
        return csv.reader(lines, delimiter=self._delimiter, strict=True)

    def _separator(self) -> str:
        if self.path.suffix.lower() == ".tsv":
            return "\t"
        try:
            with self.path.open("rb") as file:
                first = file.readline(PROBED_BYTES)
        except OSError as error:
            raise cannot_read(self.path, error) from error
        return next((s for s in (",", ";", "\t") if s.encode() in first), ",")

    def _records(self) -> Iterator[tuple[Span, list[str] | None, str, int]]:
        """Each record's place, cells (None where it is broken), fault, and first line."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._start)
                yield from self._parse(file)
        except OSError as error:
            raise cannot_read(self.path, error) from error

    def _parse(self, file: BinaryIO) -> Iterator[tuple[Span, list[str] | None, str, int]]:
        lines = _Lines(file)
        reader = self._reader(lines)
        offset = self._start
        while True:
            line = lines.count + 1
            cells: list[str] | None
            try:
                cells, fault = next(reader), ""
            except StopIteration:
                return
            except csv.Error as error:
                self._refuse_open_quote(error, line)
                cells, fault = None, f"is not CSV: {error}"
            data = lines.take()
            broken = fault_of_encoding(data)
            if broken is not None:
                cells, fault = None, broken
            yield Span.of(data, offset), cells, fault, line
            offset += len(data)

    def _refuse_open_quote(self, error: csv.Error, line: int) -> None:
        """A quote that nobody closes swallows the rows behind it; none of them can be trusted."""
        if "unexpected end of data" in str(error) or "field larger than" in str(error):
            raise DatasetError(
                f"{self.path}, line {line}: a double quote opens a value there and is not closed; "
                'close it, or double it ("") where it is part of the text'
            ) from error


class _Lines:
    """Lines of a file as text, and the bytes of those that were taken since last asked."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._taken: list[bytes] = []
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self._taken.append(line)
            self.count += 1
            # What is no UTF-8 is found in the bytes; here it only must not stop the reader.
            yield line.decode("utf-8", "surrogateescape")

    def take(self) -> bytes:
        data = b"".join(self._taken)
        self._taken.clear()
        return data
