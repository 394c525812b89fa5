"""The table of a split: one JSON line per row, joined from the lines of the shards.

Where `datasets`, which guesses the types of a JSON table, would not see text as text, the table is
a Parquet file instead, whose types nobody has to guess.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condkit import atomic
from condkit.datasets.formats.base import FACT_COLUMNS, Columns, EncodedRow, shard_files
from condkit.datasets.lock import RECORDS
from condkit.datasets.planning import Split
from condkit.errors import OutputError

if TYPE_CHECKING:
    import pyarrow as pa

LINES = f"{RECORDS}/metadata"
"""Where the lines of each finished shard wait for the last one."""

_GUESSED_AT_ONCE = 10 << 20
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
        for path in shard_files(dataset / LINES, f"{split}-*.jsonl"):
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
