"""Parquet shards with Hugging Face `Image` columns, the picture files inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from condkit.datasets.formats.base import (
    FACT_COLUMNS,
    Columns,
    EncodedRow,
    RowReader,
    ShardWriter,
    shard_files,
)
from condkit.datasets.formats.failures import cannot_write
from condkit.datasets.formats.parquet_reader import ParquetRows
from condkit.datasets.planning import Split
from condkit.types import ConditionSpec

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP_ROWS = 100
ROW_GROUP_BYTES = 16 * 2**20
"""A reader that wants one row has to read its whole row group, so those are kept small."""


class ParquetFormat:
    """`data/SPLIT-00000-of-00012.parquet`, loaded by `datasets.load_dataset` without a script."""

    name: ClassVar[str] = "parquet"

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def shard_writer(self, staging: Path, shard: int, shards: int) -> ShardWriter:
        """See `DatasetFormat`."""
        return _ParquetShard(staging / "data", f"{shard:05d}-of-{shards:05d}", self.columns)

    def finish(self, dataset: Path, splits: tuple[Split, ...]) -> list[str]:
        """Nothing is left to do."""
        return []

    def card_settings(self, splits: tuple[Split, ...]) -> dict[str, Any]:
        """The split of each file, by its name."""
        files = [{"split": split, "path": f"data/{split}-*"} for split in splits]
        return {"configs": [{"config_name": "default", "data_files": files}]}

    def reader(
        self, dataset: Path, split: Split, conditions: dict[str, ConditionSpec]
    ) -> RowReader:
        """See `DatasetFormat`."""
        paths = shard_files(dataset / "data", f"{split}-*.parquet")
        return ParquetRows(paths, split, self.columns, tuple(conditions))


class _ParquetShard:
    """One file per split, made when its first row comes."""

    def __init__(self, folder: Path, suffix: str, columns: Columns) -> None:
        self._folder = folder
        self._suffix = suffix
        self._columns = columns
        self._files: dict[Split, _ParquetFile] = {}

    def write(self, row: EncodedRow) -> None:
        """See `ShardWriter`."""
        self._columns.check(row)
        if row.split not in self._files:
            path = self._folder / f"{row.split}-{self._suffix}.parquet"
            self._files[row.split] = _ParquetFile(path, self._columns)
        self._files[row.split].write(row)

    def close(self) -> None:
        """See `ShardWriter`."""
        for file in self._files.values():
            file.close()


class _ParquetFile:
    """Writes row groups of bounded size; its bytes depend on its rows alone."""

    def __init__(self, path: Path, columns: Columns) -> None:
        import pyarrow.parquet as pq

        self._path = path
        self._columns = columns
        self._schema = _schema(columns)
        self._rows: list[EncodedRow] = []
        self._bytes = 0
        plain = ["text", *FACT_COLUMNS]
        lists = ["captions.list.element"] if columns.many_captions else []
        packed = [f"{name}.{part}" for name in columns.pictures for part in ("bytes", "path")]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(
                path,
                self._schema,
                compression=_codecs(packed, [*columns.texts, *plain, *lists]),
                use_dictionary=plain,  # type: ignore[arg-type] # a list of columns is allowed
                write_statistics=plain,
                use_content_defined_chunking=True,
            )
        except OSError as error:
            raise cannot_write(path, error) from error

    def write(self, row: EncodedRow) -> None:
        self._rows.append(row)
        parts = (row.image, *row.maps.values(), *row.data.values())
        self._bytes += sum(map(len, parts))
        if len(self._rows) >= ROW_GROUP_ROWS or self._bytes >= ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        try:
            self._writer.close()
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._rows:
            return
        table = pa.Table.from_pylist([self._plain(row) for row in self._rows], schema=self._schema)
        try:
            self._writer.write_table(table, row_group_size=len(self._rows))
        except OSError as error:
            raise cannot_write(self._path, error) from error
        self._rows, self._bytes = [], 0

    def _plain(self, row: EncodedRow) -> dict[str, Any]:
        columns = self._columns
        parts = {"image": row.image, **row.maps, **row.data}
        values: dict[str, Any] = {
            name: {"bytes": parts[name], "path": columns.file_name(name, row)}
            for name in columns.pictures
        }
        values |= {name: parts[name].decode("utf-8") for name in columns.texts}
        values |= {"text": row.text, **row.facts}
        if columns.many_captions:
            values["captions"] = list(row.captions or (row.text,))
        return values


def _schema(columns: Columns) -> pa.Schema:
    """Columns with their types, and the features that make `datasets` decode the pictures."""
    import pyarrow as pa

    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kinds: dict[str, pa.DataType] = {"string": pa.string(), "int64": pa.int64()}
    fields: list[tuple[str, pa.DataType]] = [("image", picture), ("text", pa.string())]
    fields += [(name, picture) for name in columns.conditions]
    if columns.many_captions:
        fields.append(("captions", pa.list_(pa.string())))
    fields += [(c.name, picture if c.is_picture else pa.string()) for c in columns.data]
    fields += [(name, kinds[kind]) for name, kind in FACT_COLUMNS.items()]
    features = {name: _feature(kind) for name, kind in fields}
    packed = json.dumps({"info": {"features": features}})
    return pa.schema(fields, metadata={"huggingface": packed})


def _codecs(packed: list[str], plain: list[str]) -> Any:  # noqa: ANN401 - a type of pyarrow's own
    """The compression of each column: PNG files do not get smaller."""
    return {**dict.fromkeys(packed, "none"), **dict.fromkeys(plain, "zstd")}


def _feature(kind: pa.DataType) -> dict[str, Any]:
    import pyarrow.types

    if pyarrow.types.is_struct(kind):
        return {"_type": "Image"}
    if pyarrow.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    return {"dtype": str(kind), "_type": "Value"}
