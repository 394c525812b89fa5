"""Picture files with a metadata table per split: Hugging Face's "imagefolder" layout.

```
train/metadata.jsonl     file_name, text, canny_file_name, ..., source, sha256, ..., facts
train/images/000000.png
train/canny/000000.png
train/seg_labels/000000.png    what a map was drawn from; where that is JSON, it is in the table
validation/...
```
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from condkit import atomic
from condkit.datasets.encoded import DataColumn
from condkit.datasets.formats.base import (
    FACT_COLUMNS,
    EncodedPictures,
    EncodedRow,
    RowReader,
    ShardWriter,
)
from condkit.datasets.lock import RECORDS
from condkit.datasets.planning import Split
from condkit.errors import DatasetError, OutputError
from condkit.types import ConditionSpec

LINES = f"{RECORDS}/metadata"
"""Where the lines of each finished shard wait for the last one."""

_GUESSED_AT_ONCE = 10 << 20

_log = logging.getLogger(__name__)


class ImageFolderFormat:
    """One PNG file per picture and map."""

    name: ClassVar[str] = "imagefolder"

    def __init__(self, conditions: tuple[str, ...], data: tuple[DataColumn, ...] = ()) -> None:
        self._conditions = conditions
        self._data = data

    def shard_writer(self, staging: Path, shard: int, shards: int) -> ShardWriter:
        """See `DatasetFormat`."""
        return _FolderShard(staging, shard, self._data)

    def finish(self, dataset: Path, splits: tuple[Split, ...]) -> list[str]:
        """Join the lines of all shards to one table per split."""
        lines = {
            split: b"".join(
                p.read_bytes() for p in sorted(dataset.glob(f"{LINES}/{split}-*.jsonl"))
            )
            for split in splits
        }
        typed = [split for split in splits if not _reads_as_text(lines[split])]
        if typed:
            _log.warning(
                "captions of %s look like dates only; metadata.parquet keeps them text", typed[0]
            )
        ending = "parquet" if typed else "jsonl"
        for split in splits:
            data = self._table(lines[split]) if typed else lines[split]
            atomic.write_bytes(dataset / split / f"metadata.{ending}", data)
        return [f"{split}/metadata.{ending}" for split in splits]

    def card_settings(self, splits: tuple[Split, ...]) -> dict[str, Any]:
        """The split of each file, by its folder."""
        files = [{"split": split, "path": f"{split}/**"} for split in splits]
        return {"configs": [{"config_name": "default", "data_files": files}]}

    def reader(
        self, dataset: Path, split: Split, conditions: dict[str, ConditionSpec]
    ) -> RowReader:
        """See `DatasetFormat`."""
        return FolderRows(dataset / split, tuple(conditions))

    def _table(self, lines: bytes) -> bytes:
        """The lines as a Parquet file, whose types nobody has to guess."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = ["file_name", "text", *(f"{name}_file_name" for name in self._conditions)]
        names += [_key(column) for column in self._data]
        kinds: dict[str, pa.DataType] = {"string": pa.string(), "int64": pa.int64()}
        fields = [(name, kinds["string"]) for name in names]
        fields += [(name, kinds[kind]) for name, kind in FACT_COLUMNS.items()]
        rows = [json.loads(line) for line in lines.splitlines()]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), sink)
        return bytes(sink.getvalue())


def _key(column: DataColumn) -> str:
    """The table's key for a column: pictures are files, JSON stands in the table itself."""
    return f"{column.name}_file_name" if column.is_picture else column.name


def _reads_as_text(lines: bytes) -> bool:
    """Whether `datasets`, which guesses types from each 10 MB of a JSON table, sees text."""
    import pyarrow as pa
    import pyarrow.json

    file = io.BytesIO(lines)
    while chunk := file.read(_GUESSED_AT_ONCE):
        chunk += file.readline()
        whole = pyarrow.json.ReadOptions(block_size=len(chunk) + 1)
        table = pyarrow.json.read_json(io.BytesIO(chunk), read_options=whole)
        if table.schema.field("text").type != pa.string():
            return False
    return True


class _FolderShard:
    """Writes the pictures of a shard as they come, and its lines at the end."""

    def __init__(self, folder: Path, shard: int, data: tuple[DataColumn, ...]) -> None:
        self._folder = folder
        self._shard = shard
        self._data = data
        self._lines: dict[Split, list[str]] = {}

    def write(self, row: EncodedRow) -> None:
        """See `ShardWriter`."""
        root = self._folder / row.split
        _write(root / "images" / row.file_name, row.image)
        for name, picture in row.maps.items():
            _write(root / name / row.file_name, picture)
        for column in self._data:
            if column.is_picture:
                _write(root / column.name / row.file_name, row.data[column.name])
        self._lines.setdefault(row.split, []).append(self._line(row))

    def close(self) -> None:
        """See `ShardWriter`."""
        for split, lines in self._lines.items():
            path = self._folder / LINES / f"{split}-{self._shard:05d}.jsonl"
            _write(path, "".join(lines).encode("ascii"))

    def _line(self, row: EncodedRow) -> str:
        """The table's line, keys in the order that trainers expect, only ASCII for readers that
        open it in the locale's encoding.
        """  # noqa: D205
        values = {
            "file_name": f"images/{row.file_name}",
            "text": row.text,
            **{f"{name}_file_name": f"{name}/{row.file_name}" for name in row.maps},
        }
        for column in self._data:
            picture = f"{column.name}/{row.file_name}"
            text = "" if column.is_picture else row.data[column.name].decode("utf-8")
            values[_key(column)] = picture if column.is_picture else text
        return json.dumps({**values, **row.facts}, ensure_ascii=True) + "\n"


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror}; check space and permissions"
        ) from error


class FolderRows:
    """Rows of one split by number."""

    def __init__(self, folder: Path, conditions: tuple[str, ...]) -> None:
        self._folder = folder
        self._conditions = conditions
        keys = ("sha256", "text", "file_name", *(f"{name}_file_name" for name in conditions))
        self._rows = _read_table(folder, keys)

    def __len__(self) -> int:
        """How many rows."""
        return len(self._rows)

    def read(self, index: int) -> EncodedPictures:
        """See `RowReader`."""
        row = self._rows[index]
        names = {name: row[f"{name}_file_name"] for name in self._conditions}
        maps = {name: self._picture(path) for name, path in names.items()}
        return EncodedPictures(row["sha256"], row["text"], self._picture(row["file_name"]), maps)

    def keys(self) -> Iterator[str]:
        """See `RowReader`."""
        return (row["sha256"] for row in self._rows)

    def _picture(self, relative: str) -> bytes:
        try:
            return (self._folder / relative).read_bytes()
        except OSError as error:
            raise DatasetError(
                f"cannot read {self._folder / relative}: {error.strerror}; build the dataset again"
            ) from error


def _read_table(folder: Path, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    jsonl, parquet = folder / "metadata.jsonl", folder / "metadata.parquet"
    try:
        if parquet.is_file():
            import pyarrow.parquet as pq

            rows: list[dict[str, Any]] = pq.read_table(parquet, columns=list(keys)).to_pylist()
            return rows
        lines = map(json.loads, jsonl.read_text(encoding="utf-8").splitlines())
        return [{key: line[key] for key in keys} for line in lines]
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"cannot read {jsonl}: {error}; build the dataset again") from error
