"""The table of a split, read by number."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from condkit.datasets.formats.failures import cannot_read

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

_SCANNED_AT_ONCE = 64 << 20


class Table(Protocol):
    """The rows of a table by number; it may be used by many threads and sent to processes."""

    def __len__(self) -> int:
        """How many rows."""
        ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The values of a row."""
        ...

    def column(self, name: str) -> Iterator[Any]:
        """The values of one key, row by row."""
        ...


def open_table(folder: Path) -> Table:
    """The table in the folder of a split.

    Raises:
        DatasetError: if there is none, or it cannot be read.
    """
    jsonl, parquet = folder / "metadata.jsonl", folder / "metadata.parquet"
    if parquet.is_file():
        return _ParquetTable(parquet)
    return _LineTable(jsonl)


class _LineTable:
    """JSON lines; only where they begin is kept in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ends = np.zeros(0, np.int64)
        self._open()
        self._ends = self._line_ends()

    def _open(self) -> None:
        try:
            with self._path.open("rb") as file:
                self._text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise cannot_read(self._path, error) from error

    def _line_ends(self) -> NDArray[np.int64]:
        """Just behind the line break of each line."""
        parts = [
            np.flatnonzero(
                np.frombuffer(self._text[start : start + _SCANNED_AT_ONCE], np.uint8) == 10
            )
            + (start + 1)
            for start in range(0, len(self._text), _SCANNED_AT_ONCE)
        ]
        return np.concatenate(parts).astype(np.int64)

    def __getstate__(self) -> tuple[Path, NDArray[np.int64]]:
        return self._path, self._ends

    def __setstate__(self, state: tuple[Path, NDArray[np.int64]]) -> None:
        self._path, self._ends = state
        self._open()

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = int(self._ends[index - 1]) if index else 0
        try:
            values = json.loads(self._text[start : int(self._ends[index])])
        except ValueError as error:
            raise cannot_read(self._path, f"line {index + 1}: {error}") from error
        if not isinstance(values, dict):
            raise cannot_read(self._path, f"line {index + 1} is no row")
        return values

    def column(self, name: str) -> Iterator[Any]:
        for index in range(len(self)):
            values = self[index]
            if name not in values:
                raise cannot_read(self._path, f"line {index + 1} lacks {name!r}")
            yield values[name]


class _ParquetTable:
    """A Parquet file without pictures; it is kept in memory."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        try:
            self._table: pa.Table = pq.read_table(path, partitioning=None)
        except (OSError, ValueError) as error:
            raise cannot_read(path, error) from error

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        values: dict[str, Any] = self._table.slice(index, 1).to_pylist()[0]
        return values

    def column(self, name: str) -> Iterator[Any]:
        for batch in self._table.select([name]).to_batches():
            yield from batch.column(0).to_pylist()
