"""Rows of Parquet files, with or without pictures inside."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condkit.datasets.sources.folder import stamp_of
from condkit.datasets.sources.forward_cursor import ForwardCursor
from condkit.datasets.sources.rows import ScannedRow, Values
from condkit.errors import DatasetError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS = 1024
CACHE_BYTES = 128 << 20
LARGE_GROUP_BYTES = 64 << 20
"""Row groups above this size are read from front to back and never held whole. Some writers put a
whole file into one group."""
STREAMED_ROWS = 16


class ParquetRows:
    """A Parquet file by row group; a scan does not read the pictures inside."""

    def __init__(self, path: Path, *, cache_bytes: int = CACHE_BYTES) -> None:
        """Read the footer.

        Args:
            path: The file.
            cache_bytes: How much is kept of the row groups that were read.

        Raises:
            DatasetError: if the file cannot be read or is no Parquet file.
        """
        self.path = path
        self._cache_bytes = cache_bytes
        self._file = self._open()
        self._stamp = self._stamped()
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, pa.Table] = OrderedDict()
        self._kept_bytes = 0
        self._large: tuple[int, ForwardCursor] | None = None
        schema = self._file.schema_arrow
        self.columns = tuple(schema.names)
        self._structs = tuple(f.name for f in schema if _is_picture_struct(f.type))
        self._binaries = tuple(f.name for f in schema if _is_binary(f.type))
        self.pictures = tuple(
            name for name in self.columns if name in {*self._structs, *self._binaries}
        )

    def scan(self) -> Iterator[ScannedRow]:
        """See `Rows`."""
        before = 0
        for group in range(self._file.num_row_groups):
            for number, values in enumerate(self._light_rows(group)):
                yield ScannedRow(
                    where=f"{group}.{number}",
                    number=before + number,
                    label=f"row {before + number + 1}",
                    stamp=f"{self._stamp}.{before + number}",
                    values=values,
                )
            before += self._file.metadata.row_group(group).num_rows

    def read(self, where: str) -> Values:
        """See `Rows`."""
        group, _, number = where.partition(".")
        if self._file.metadata.row_group(int(group)).total_byte_size > LARGE_GROUP_BYTES:
            return self._cursor(int(group)).read(int(number))
        with self._lock:
            table = self._group(int(group))
        row: dict[str, Any] = table.slice(int(number), 1).to_pylist()[0]
        return row

    def _cursor(self, group: int) -> ForwardCursor:
        """What reads a large group; readers go on to the next one together, so one is enough."""
        with self._lock:
            if self._large is None or self._large[0] != group:
                self._refuse_changed()
                self._large = (group, ForwardCursor(partial(self._rows_from, group)))
            return self._large[1]

    def _rows_from(self, group: int, start: int) -> Iterator[Values]:
        file = self._open(mapped=True)
        before = 0
        try:
            for batch in file.iter_batches(STREAMED_ROWS, row_groups=[group], use_threads=False):
                skipped = min(max(0, start - before), len(batch))
                before += len(batch)
                yield from batch.slice(skipped).to_pylist()
        except (OSError, ValueError) as error:
            raise self._broken(error) from error

    def _light_rows(self, group: int) -> Iterator[dict[str, Any]]:
        """The rows of a group, without the bytes of pictures where there are any."""
        referring = [name for name in self._structs if self._only_refers(group, name)]
        plain = [name for name in self.columns if name not in self.pictures]
        leaves = [*plain, *(f"{name}.path" for name in self._structs)]
        inside = dict.fromkeys(self._binaries, b"")
        if not leaves:
            count = self._file.metadata.row_group(group).num_rows
            yield from ({**inside} for _ in range(count))
            return
        # One reader per scan: a shared one would move the place of others.
        batches = self._open().iter_batches(
            BATCH_ROWS, row_groups=[group], columns=leaves, use_threads=False
        )
        while True:
            try:
                batch = next(batches, None)
            except (OSError, ValueError) as error:
                raise self._broken(error) from error
            if batch is None:
                return
            for row in batch.to_pylist():
                for name in self._structs:
                    if row[name] is not None:
                        row[name]["bytes"] = None if name in referring else b""
                yield {**row, **inside}

    def _only_refers(self, group: int, name: str) -> bool:
        """Whether a column's pictures lie outside in this group: it holds paths, no bytes."""
        footer = self._file.metadata.row_group(group)
        for index in range(footer.num_columns):
            column = footer.column(index)
            if column.path_in_schema == f"{name}.bytes":
                known = column.statistics if column.is_stats_set else None
                if known is not None and known.has_null_count:  # type: ignore[attr-defined]
                    return bool(known.null_count == footer.num_rows)
                break
        return not self._has_bytes(group, name)

    def _has_bytes(self, group: int, name: str) -> bool:
        """Whether any of a group's pictures is inside; read until the first that is."""
        batches = self._open().iter_batches(
            16, row_groups=[group], columns=[f"{name}.bytes"], use_threads=False
        )
        try:
            for batch in batches:
                column: Any = batch.column(0)
                inside = column.field("bytes")
                if len(inside) > inside.null_count:
                    return True
        except (OSError, ValueError) as error:
            raise self._broken(error) from error
        return False

    def _group(self, group: int) -> pa.Table:
        """A row group, read or kept; the one not used for longest makes room."""
        if group in self._kept:
            self._kept.move_to_end(group)
            return self._kept[group]
        self._refuse_changed()
        try:
            table = self._file.read_row_group(group, use_threads=False)
        except (OSError, ValueError) as error:
            raise self._broken(error) from error
        self._kept[group] = table
        self._kept_bytes += table.nbytes
        while self._kept_bytes > self._cache_bytes and len(self._kept) > 1:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return table

    def _refuse_changed(self) -> None:
        if self._stamped() != self._stamp:
            raise DatasetError(
                f"{self.path} has changed since it was searched for pictures; restore it, or "
                "begin anew"
            )

    def _open(self, *, mapped: bool = False) -> pq.ParquetFile:
        import pyarrow.parquet as pq

        try:
            # A large group may be one page, which a reader that is not mapped holds whole.
            return pq.ParquetFile(self.path, memory_map=mapped, pre_buffer=not mapped)
        except (OSError, ValueError) as error:
            raise self._broken(error) from error

    def _stamped(self) -> str:
        try:
            return stamp_of(str(self.path))
        except OSError as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> DatasetError:
        why = " ".join(str(error).split())
        return DatasetError(f"cannot read the table {self.path}: {why}; fetch or write it again")


def _is_picture_struct(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if not pa.types.is_struct(kind):
        return False
    inner = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
    return set(inner) == {"bytes", "path"} and _is_binary(inner["bytes"])


def _is_binary(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
