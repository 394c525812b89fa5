"""Rows of Parquet shards by number."""

from __future__ import annotations

import bisect
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condkit.datasets.encoded import DataColumn
from condkit.datasets.formats.base import FACT_COLUMNS, Columns, EncodedPictures, EncodedRow
from condkit.datasets.formats.failures import cannot_read
from condkit.datasets.planning import Split

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

CACHE_BYTES = 128 * 2**20
"""What a reader keeps of the row groups it has read; a small dataset stays in memory whole."""
OPEN_FILES = 32
"""What it keeps open; a process may often have no more than 1024 files open in all."""
COPY_BYTES = 32 * 2**20
"""What it keeps of those read with all their columns, which is done once and in order."""


class ParquetRows:
    """Rows of one split by number; a row group is read at a time, the latest ones are kept."""

    def __init__(
        self, paths: list[Path], split: Split, columns: Columns, conditions: tuple[str, ...]
    ) -> None:
        import pyarrow.parquet as pq

        self._paths = paths
        self._split = split
        self._columns = columns
        self._conditions = conditions
        self._groups: list[tuple[Path, int]] = []
        self._ends: list[int] = []
        total = 0
        for path in paths:
            try:
                footer = pq.read_metadata(path)
            except (OSError, ValueError) as error:
                raise cannot_read(path, error) from error
            for group in range(footer.num_row_groups):
                total += footer.row_group(group).num_rows
                self._groups.append((path, group))
                self._ends.append(total)
        self._open()

    def _open(self) -> None:
        self._files: OrderedDict[Path, pq.ParquetFile] = OrderedDict()
        self._kept: OrderedDict[tuple[int, bool], pa.Table] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Without open files and the lock, so that data loader processes can take it along."""
        own = ("_paths", "_split", "_columns", "_conditions", "_groups", "_ends")
        return {name: getattr(self, name) for name in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open again in the new process."""
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        """How many rows."""
        return self._ends[-1] if self._ends else 0

    def read(self, index: int) -> EncodedPictures:
        """See `RowReader`."""
        row = self._values(index, every=False)
        maps = {name: row[name]["bytes"] for name in self._conditions}
        return EncodedPictures(row["sha256"], row["text"], row["image"]["bytes"], maps)

    def row(self, index: int) -> EncodedRow:
        """See `RowReader`."""
        values = self._values(index, every=True)
        columns = self._columns
        return EncodedRow(
            index=_number(values["image"]["path"]),
            split=self._split,
            text=values["text"],
            captions=tuple(values["captions"] if columns.many_captions else (values["text"],)),
            image=values["image"]["bytes"],
            image_suffix=columns.image_suffix,
            maps={name: values[name]["bytes"] for name in columns.conditions},
            facts={name: values[name] for name in FACT_COLUMNS},
            data={column.name: _data(column, values[column.name]) for column in columns.data},
        )

    def keys(self) -> Iterator[str]:
        """See `RowReader`."""
        return map(str, self.fact("sha256"))

    def fact(self, name: str) -> Iterator[Any]:
        """See `RowReader`."""
        return (value for table in self._column(name) for value in table[name].to_pylist())

    def indices(self) -> Iterator[int]:
        """See `RowReader`."""
        for table in self._column("image.path"):
            images: list[Any] = table["image"].to_pylist()
            yield from (_number(image["path"]) for image in images)

    def _column(self, name: str) -> Iterator[pa.Table]:
        import pyarrow.parquet as pq

        for path in self._paths:
            try:
                with pq.ParquetFile(path) as file:
                    yield file.read(columns=[name])
            except (OSError, ValueError) as error:
                raise cannot_read(path, error) from error

    def _values(self, index: int, *, every: bool) -> dict[str, Any]:
        """The values of a row: all columns, or those that training needs."""
        group = bisect.bisect_right(self._ends, index)
        start = self._ends[group - 1] if group else 0
        with self._lock:
            table = self._group(group, every)
        values: dict[str, Any] = table.slice(index - start, 1).to_pylist()[0]
        return values

    def _group(self, group: int, every: bool) -> pa.Table:
        """A row group, read or kept; the one not used for longest makes room."""
        kept = self._kept.get((group, every))
        if kept is not None:
            self._kept.move_to_end((group, every))
            return kept
        table = self._read_group(group, every)
        self._kept[group, every] = table
        self._kept_bytes += table.nbytes
        limit = COPY_BYTES if every else CACHE_BYTES
        while self._kept_bytes > limit and len(self._kept) > 1:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return table

    def _read_group(self, group: int, every: bool) -> pa.Table:
        import pyarrow.parquet as pq

        path, number = self._groups[group]
        columns = ["image", "text", *self._conditions, "sha256"]
        wanted = list(self._columns.names) if every else columns
        try:
            file = self._files.pop(path, None) or pq.ParquetFile(path, memory_map=True)
            self._files[path] = file
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)
            table = file.read_row_group(number, columns=wanted, use_threads=False)
        except (OSError, ValueError, KeyError) as error:
            raise cannot_read(path, error) from error
        missing = [name for name in wanted if name not in table.column_names]
        if missing:
            raise cannot_read(path, f"it lacks the columns {', '.join(missing)}")
        return table


def _data(column: DataColumn, value: Any) -> bytes:  # noqa: ANN401 - a struct or text
    if column.is_picture:
        picture: bytes = value["bytes"]
        return picture
    return str(value).encode("utf-8")


def _number(path: str) -> int:
    """The row's index, which names its files."""
    return int(path.split(".")[0])
