"""Rows of JSON files: an object per line, or one list of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from condkit.datasets.sources.rows import ScannedRow, Values
from condkit.datasets.sources.text_files import (
    Span,
    cannot_read,
    fault_of_encoding,
    read_span,
    start_of_text,
)
from condkit.errors import DatasetError

PROBED_ROWS = 1000
"""Rows that are looked at for the names of the columns."""
CHUNK_BYTES = 1 << 14
LARGEST_ROW_BYTES = 64 << 20

_BETWEEN = re.compile(rb"[\s,]*")
_LONE_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


class JsonRows:
    """A table of JSON objects; what is broken in one row does not stop the others."""

    pictures: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        """Look at the first rows.

        Raises:
            DatasetError: if the file cannot be read, is empty, or is neither objects on lines nor
                a list of objects.
        """
        self.path = path
        self._start = start_of_text(path)
        self._is_list = self._first_byte() == b"["
        rows = [row.values for row in islice(self.scan(), PROBED_ROWS)]
        good = [values for values in rows if values is not None]
        if not good:
            found = f"none of its first {len(rows)} rows is one" if rows else "it is empty"
            raise DatasetError(
                f"{path}: expected a JSON object on each line, or one list of objects, but {found}"
            )
        self.columns = tuple(dict.fromkeys(name for values in good for name in values))

    def scan(self) -> Iterator[ScannedRow]:
        """See `Rows`."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._start)
                yield from self._list(file) if self._is_list else self._lines(file)
        except OSError as error:
            raise cannot_read(self.path, error) from error

    def read(self, where: str) -> Values:
        """See `Rows`."""
        values: dict[str, Any] = json.loads(read_span(self.path, Span.parse(where)))
        return values

    def _first_byte(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(self._start)
                return file.read(CHUNK_BYTES).lstrip()[:1]
        except OSError as error:
            raise cannot_read(self.path, error) from error

    def _lines(self, file: BinaryIO) -> Iterator[ScannedRow]:
        offset = self._start
        count = 0
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _row(line, offset, count, f"line {number}")
                count += 1
            offset += len(line)

    def _list(self, file: BinaryIO) -> Iterator[ScannedRow]:
        """The objects of one list, read piece by piece."""
        pieces = _Pieces(file, self.path)
        offset = self._start + pieces.skip_to(b"[") + 1
        pieces.drop(1)
        number = 0
        while True:
            offset += pieces.drop_matching(_BETWEEN)
            if pieces.head() in (b"]", b""):
                break
            number += 1
            data = pieces.take_value(number)
            yield _row(data, offset, number - 1, f"row {number}")
            offset += len(data)
        if pieces.head() == b"":
            raise DatasetError(
                f"{self.path} ends in the middle of its list, after row {number}; fetch it again"
            )


class _Pieces:
    """The front of a file that is read as it is needed."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._held = b""

    def head(self) -> bytes:
        if not self._held:
            self._more()
        return self._held[:1]

    def drop(self, count: int) -> None:
        self._held = self._held[count:]

    def skip_to(self, mark: bytes) -> int:
        self._more()
        at = self._held.find(mark)
        self.drop(at)
        return at

    def drop_matching(self, pattern: re.Pattern[bytes]) -> int:
        dropped = 0
        while True:
            found = pattern.match(self._held)
            count = 0 if found is None else found.end()
            dropped += count
            self.drop(count)
            if self._held or not self._more():
                return dropped

    def take_value(self, number: int) -> bytes:
        """The bytes of the JSON value at the front."""
        decoder = json.JSONDecoder()
        while True:
            text = self._held.decode("utf-8", "surrogateescape")
            try:
                _, end = decoder.raw_decode(text)
            except ValueError as error:
                broken: ValueError | None = error
            else:
                # At the very end of what is held, a number might still go on.
                broken = None
                if end < len(text):
                    data = text[:end].encode("utf-8", "surrogateescape")
                    self.drop(len(data))
                    return data
            if len(self._held) > LARGEST_ROW_BYTES or not self._more():
                raise DatasetError(
                    f"{self._path}, row {number}: is not JSON, or the file ends within it"
                    + (f" ({broken})" if broken is not None else "")
                    + "; correct or fetch the file again"
                )

    def _more(self) -> bool:
        # Twice as much each time, so that a long row is not parsed from its start too often.
        data = self._file.read(max(CHUNK_BYTES, len(self._held)))
        self._held += data
        return bool(data)


def _row(data: bytes, offset: int, number: int, label: str) -> ScannedRow:
    span = Span.of(data, offset)
    values, fault = _parse(data)
    return ScannedRow(
        where=str(span),
        number=number,
        label=label,
        stamp=span.digest,
        values=values,
        fault=fault,
    )


def _parse(data: bytes) -> tuple[dict[str, Any] | None, str]:
    """A row's values, or None and what is wrong with it."""
    broken = fault_of_encoding(data)
    if broken is not None:
        return None, broken
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        return None, f"is not JSON ({error}); it may have been cut off"
    if not isinstance(values, dict):
        return None, f"is {type(values).__name__}, expected an object with columns"
    if _LONE_HALF.search(data) and not _is_text(values):
        return None, "holds half a character (a lone \\u escape); correct it"
    return values, ""


def _is_text(values: dict[str, Any]) -> bool:
    try:
        json.dumps(values, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
