"""Parquet shards with Hugging Face `Image` columns, the pictures inside as PNG files."""

from __future__ import annotations

import bisect
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from condkit.datasets.encoded import DataColumn
from condkit.datasets.formats.base import (
    FACT_COLUMNS,
    Columns,
    EncodedPictures,
    EncodedRow,
    RowReader,
    ShardWriter,
)
from condkit.datasets.planning import Split
from condkit.errors import DatasetError, OutputError
from condkit.types import ConditionSpec

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROW_GROUP_ROWS = 100
ROW_GROUP_BYTES = 16 * 2**20
"""A reader that wants one row has to read its whole row group, so those are kept small."""
CACHE_BYTES = 128 * 2**20
"""What a reader keeps of the row groups it has read; a small dataset stays in memory whole."""


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
        paths = sorted(dataset.glob(f"data/{split}-*.parquet"))
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
            raise _cannot_write(path, error) from error

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
            raise _cannot_write(self._path, error) from error

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._rows:
            return
        table = pa.Table.from_pylist([self._plain(row) for row in self._rows], schema=self._schema)
        try:
            self._writer.write_table(table, row_group_size=len(self._rows))
        except OSError as error:
            raise _cannot_write(self._path, error) from error
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
                raise _cannot_read(path, error) from error
            for group in range(footer.num_row_groups):
                total += footer.row_group(group).num_rows
                self._groups.append((path, group))
                self._ends.append(total)
        self._open()

    def _open(self) -> None:
        self._files: dict[Path, pq.ParquetFile] = {}
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
        return (str(key) for table in self._column("sha256") for key in table["sha256"].to_pylist())

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
                raise _cannot_read(path, error) from error

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
        while self._kept_bytes > CACHE_BYTES and len(self._kept) > 1:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return table

    def _read_group(self, group: int, every: bool) -> pa.Table:
        import pyarrow.parquet as pq

        path, number = self._groups[group]
        columns = ["image", "text", *self._conditions, "sha256"]
        wanted = list(self._columns.names) if every else columns
        try:
            if path not in self._files:
                self._files[path] = pq.ParquetFile(path, memory_map=True)
            table = self._files[path].read_row_group(number, columns=wanted, use_threads=False)
        except (OSError, ValueError, KeyError) as error:
            raise _cannot_read(path, error) from error
        missing = [name for name in wanted if name not in table.column_names]
        if missing:
            raise _cannot_read(path, f"it lacks the columns {', '.join(missing)}")
        return table


def _data(column: DataColumn, value: Any) -> bytes:  # noqa: ANN401 - a struct or text
    if column.is_picture:
        picture: bytes = value["bytes"]
        return picture
    return str(value).encode("utf-8")


def _number(path: str) -> int:
    """The row's index, which names its files."""
    return int(path.split(".")[0])


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


def _cannot_write(path: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"cannot write {path}: {reason}; check space and permissions")


def _cannot_read(path: Path, error: Exception | str) -> DatasetError:
    return DatasetError(f"cannot read {path}: {error}; build the dataset again")
