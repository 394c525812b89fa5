"""Many Parquet files that are one table, as datasets are cut into shards."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

from condkit.datasets.sources.parquet_rows import ParquetRows
from condkit.datasets.sources.rows import ScannedRow, Values
from condkit.errors import DatasetError

OPEN_FILES = 4
BYTES_PER_FILE = 32 << 20
"""Readers of neighbouring rows need one file or two; the rest only fills memory."""


class ChainedRows:
    """The rows of several Parquet files with the same columns, numbered through."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Open the first file.

        Args:
            paths: At least one, in the order of the rows.

        Raises:
            DatasetError: if it cannot be read.
        """
        self._paths = tuple(paths)
        self._opened: OrderedDict[int, ParquetRows] = OrderedDict()
        self._lock = threading.Lock()
        first = self._file(0)
        self.path = self._paths[0].parent
        self.columns = first.columns
        self.pictures = first.pictures

    def scan(self) -> Iterator[ScannedRow]:
        """See `Rows`."""
        before = 0
        for index in range(len(self._paths)):
            rows = self._file(index)
            number = -1
            for row in rows.scan():
                number = row.number
                yield ScannedRow(
                    where=f"{index}.{row.where}",
                    number=before + number,
                    label=f"row {before + number + 1}",
                    stamp=row.stamp,
                    values=row.values,
                    fault=row.fault,
                )
            before += number + 1

    def read(self, where: str) -> Values:
        """See `Rows`."""
        index, _, inner = where.partition(".")
        return self._file(int(index)).read(inner)

    def _file(self, index: int) -> ParquetRows:
        with self._lock:
            if index in self._opened:
                self._opened.move_to_end(index)
                return self._opened[index]
            rows = ParquetRows(self._paths[index], cache_bytes=BYTES_PER_FILE)
            self._refuse_other_columns(rows)
            self._opened[index] = rows
            while len(self._opened) > OPEN_FILES:
                self._opened.popitem(last=False)
            return rows

    def _refuse_other_columns(self, rows: ParquetRows) -> None:
        known = getattr(self, "columns", rows.columns)
        if set(rows.columns) != set(known):
            other = sorted(set(rows.columns) ^ set(known))
            raise DatasetError(
                f"{rows.path} and {self._paths[0]} do not have the same columns (only in one: "
                f"{', '.join(other)}); they are no shards of one table"
            )
