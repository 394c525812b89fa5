"""The table of a split: one JSON line per row, joined from the shards' lines, read by number.

Where `datasets`, which guesses the types of a JSON table, would not see text as text, the table is
a Parquet file instead, whose types nobody has to guess.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from condkit import atomic
from condkit.datasets.formats.base import FACT_COLUMNS, Columns, EncodedRow
from condkit.datasets.lock import RECORDS
from condkit.datasets.planning import Split
from condkit.errors import DatasetError, OutputError

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

LINES = f"{RECORDS}/metadata"
"""Where the lines of each finished shard wait for the last one."""

_GUESSED_AT_ONCE = 10 << 20
_SCANNED_AT_ONCE = 64 << 20
_ROWS_AT_ONCE = 10_000

_log = logging.getLogger(__name__)


def line(row: EncodedRow, columns: Columns, images: str) -> str:
    """A row of the table, keys in the order that trainers expect.

    Only ASCII, for readers that open it in the locale's encoding.

    Args:
        row: The row.
        columns: What rows hold.
        images: The folder of the pictures, beside the table.
    """
    values: dict[str, Any] = {"file_name": f"{images}/{row.image_name}", "text": row.text}
    values |= {f"{name}_file_name": f"{name}/{row.file_name}" for name in columns.conditions}
    if columns.many_captions:
        values["captions"] = list(row.captions or (row.text,))
    for column in columns.data:
        if column.is_picture:
            values[f"{column.name}_file_name"] = f"{column.name}/{row.file_name}"
        else:
            values[column.name] = row.data[column.name].decode("utf-8")
    values |= {name: row.facts[name] for name in FACT_COLUMNS}
    return json.dumps(values, ensure_ascii=True, allow_nan=False) + "\n"


def keys(columns: Columns) -> list[str]:
    """The keys of every line, in order."""
    captions = ["captions"] if columns.many_captions else []
    data = [f"{c.name}_file_name" if c.is_picture else c.name for c in columns.data]
    pictures = [f"{name}_file_name" for name in columns.conditions]
    return ["file_name", "text", *pictures, *captions, *data, *FACT_COLUMNS]


def lines_path(folder: Path, split: Split, shard: int) -> Path:
    """Where the lines of a shard wait."""
    return folder / LINES / f"{split}-{shard:05d}.jsonl"


def shard_lines(dataset: Path, split: Split) -> Iterator[bytes]:
    """All lines of a split, shard after shard.

    Raises:
        OutputError: if they cannot be read.
    """
    try:
        for path in sorted(dataset.glob(f"{LINES}/{split}-*.jsonl")):
            with path.open("rb") as file:
                yield from file
    except OSError as error:
        raise OutputError(f"cannot read {dataset / LINES}: {error.strerror}") from error


def join(dataset: Path, splits: tuple[Split, ...], columns: Columns) -> list[str]:
    """Join the lines of all shards to one table per split.

    All splits get tables of the same kind, as `datasets` demands.

    Returns:
        The tables, relative to the dataset.

    Raises:
        OutputError: if they cannot be written.
    """
    guessed = next((s for s in splits if not _reads_as_text(dataset, s, columns)), None)
    if guessed is not None:
        _log.warning(
            "some texts of %s would be read as dates; metadata.parquet keeps them text", guessed
        )
    ending = "jsonl" if guessed is None else "parquet"
    for split in splits:
        with atomic.new_file(dataset / split / f"metadata.{ending}") as temporary:
            if guessed is None:
                with temporary.open("wb") as file:
                    file.writelines(shard_lines(dataset, split))
            else:
                _write_parquet(temporary, shard_lines(dataset, split), columns)
    return [f"{split}/metadata.{ending}" for split in splits]


def _schema(columns: Columns) -> pa.Schema:
    import pyarrow as pa

    kinds: dict[str, pa.DataType] = {"string": pa.string(), "int64": pa.int64()}
    known = {name: kinds[kind] for name, kind in FACT_COLUMNS.items()}
    known["captions"] = pa.list_(pa.string())
    return pa.schema([(name, known.get(name, pa.string())) for name in keys(columns)])


def _write_parquet(path: Path, lines: Iterator[bytes], columns: Columns) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(columns)
    with pq.ParquetWriter(path, schema) as writer:
        while rows := [json.loads(text) for text in itertools.islice(lines, _ROWS_AT_ONCE)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _reads_as_text(dataset: Path, split: Split, columns: Columns) -> bool:
    """Whether `datasets`, which guesses types from each 10 MB of a JSON table, sees them right."""
    import pyarrow.json

    wanted = _schema(columns)
    for chunk in _chunks(shard_lines(dataset, split)):
        whole = pyarrow.json.ReadOptions(block_size=len(chunk) + 1)
        table = pyarrow.json.read_json(io.BytesIO(chunk), read_options=whole)
        if any(table.schema.field(name).type != wanted.field(name).type for name in wanted.names):
            return False
    return True


def _chunks(lines: Iterator[bytes]) -> Iterator[bytes]:
    """The lines in the portions in which `datasets` reads them."""
    parts: list[bytes] = []
    size = 0
    for text in lines:
        parts.append(text)
        size += len(text)
        if size > _GUESSED_AT_ONCE:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


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
            raise _cannot_read(self._path, error) from error

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
            raise _cannot_read(self._path, f"line {index + 1}: {error}") from error
        if not isinstance(values, dict):
            raise _cannot_read(self._path, f"line {index + 1} is no row")
        return values

    def column(self, name: str) -> Iterator[Any]:
        for index in range(len(self)):
            values = self[index]
            if name not in values:
                raise _cannot_read(self._path, f"line {index + 1} lacks {name!r}")
            yield values[name]


class _ParquetTable:
    """A Parquet file without pictures; it is kept in memory."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        try:
            self._table: pa.Table = pq.read_table(path, partitioning=None)
        except (OSError, ValueError) as error:
            raise _cannot_read(path, error) from error

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        values: dict[str, Any] = self._table.slice(index, 1).to_pylist()[0]
        return values

    def column(self, name: str) -> Iterator[Any]:
        for batch in self._table.select([name]).to_batches():
            yield from batch.column(0).to_pylist()


def _cannot_read(path: Path, error: Exception | str) -> DatasetError:
    return DatasetError(f"cannot read {path}: {error}; make the dataset again")
