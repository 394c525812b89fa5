"""WebDataset shards: tar files whose members of one row lie side by side.

```
data/train-00000.tar    000000.png, 000000.txt, 000000.json, 000000.canny.png, ...
```

A member's name is its row's key, which holds no dot, and what it is. Every row has the same
members, since `datasets` takes the columns from the first rows. The tar files hold neither times
nor owners, so the same rows give the same bytes.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, ClassVar

from condkit.datasets.formats.base import (
    FACT_COLUMNS,
    Columns,
    EncodedPictures,
    EncodedRow,
    RowReader,
    ShardWriter,
)
from condkit.datasets.planning import Split
from condkit.errors import ConfigError, DatasetError, OutputError
from condkit.types import ConditionSpec

FILE_MODE = 0o644
_SUFFIX_CHARACTERS = 80
"""A tar header holds 100, key included. Longer names would need headers of their own."""


class WebDatasetFormat:
    """`data/SPLIT-00000.tar`; a split without rows in a shard has no file for it."""

    name: ClassVar[str] = "webdataset"

    def __init__(self, columns: Columns) -> None:
        for suffix in member_suffixes(columns):
            if not suffix.isascii() or len(suffix) > _SUFFIX_CHARACTERS:
                raise ConfigError(
                    f"webdataset: {suffix!r} cannot be part of a plain member name (ASCII, at most "
                    f"{_SUFFIX_CHARACTERS} characters); choose another format"
                )
        self.columns = columns

    def shard_writer(self, staging: Path, shard: int, shards: int) -> ShardWriter:
        """See `DatasetFormat`."""
        return _TarShard(staging / "data", shard, self.columns)

    def finish(self, dataset: Path, splits: tuple[Split, ...]) -> list[str]:
        """Nothing is left to do."""
        return []

    def card_settings(self, splits: tuple[Split, ...]) -> dict[str, Any]:
        """The split of each file, by its name."""
        files = [{"split": split, "path": f"data/{split}-*.tar"} for split in splits]
        return {"configs": [{"config_name": "default", "data_files": files}]}

    def reader(
        self, dataset: Path, split: Split, conditions: dict[str, ConditionSpec]
    ) -> RowReader:
        """See `DatasetFormat`."""
        paths = sorted(dataset.glob(f"data/{split}-*.tar"))
        return TarRows(paths, split, self.columns, tuple(conditions))


def member_suffixes(columns: Columns) -> list[str]:
    """What follows a row's key in the names of its members, in order."""
    maps = (f".{name}.png" for name in columns.conditions)
    # JSON as text: `datasets` would take the types of its fields from the first rows alone.
    data = (f".{c.name}.png" if c.is_picture else f".{c.name}.txt" for c in columns.data)
    return [columns.image_suffix, ".txt", ".json", *maps, *data]


def members(row: EncodedRow, columns: Columns) -> Iterator[tuple[str, bytes]]:
    """The names and contents of a row's members, in order."""
    values: dict[str, Any] = dict(row.facts)
    if columns.many_captions:
        values["captions"] = list(row.captions or (row.text,))
    parts = [row.image, row.text.encode("utf-8"), json.dumps(values).encode("ascii")]
    parts += [row.maps[name] for name in columns.conditions]
    parts += [row.data[column.name] for column in columns.data]
    for suffix, content in zip(member_suffixes(columns), parts, strict=True):
        yield f"{row.index:06d}{suffix}", content


class _TarShard:
    """One file per split, made when its first row comes."""

    def __init__(self, folder: Path, shard: int, columns: Columns) -> None:
        self._folder = folder
        self._shard = shard
        self._columns = columns
        self._files: dict[Split, tarfile.TarFile] = {}

    def write(self, row: EncodedRow) -> None:
        """See `ShardWriter`."""
        self._columns.check(row)
        path = self._folder / f"{row.split}-{self._shard:05d}.tar"
        try:
            if row.split not in self._files:
                self._folder.mkdir(parents=True, exist_ok=True)
                tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
                self._files[row.split] = tar
            for name, content in members(row, self._columns):
                self._files[row.split].addfile(_header(name, content), io.BytesIO(content))
        except OSError as error:
            raise _cannot_write(path, error) from error

    def close(self) -> None:
        """See `ShardWriter`."""
        for file in self._files.values():
            try:
                file.close()
            except OSError as error:
                raise _cannot_write(Path(str(file.name)), error) from error


def _header(name: str, content: bytes) -> tarfile.TarInfo:
    """A member without time and owner: `TarInfo` begins with time 0 and owner 0, without names."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    header.mode = FILE_MODE
    return header


class TarRows:
    """Rows of one split by number; only where they begin is kept in memory."""

    def __init__(
        self, paths: list[Path], split: Split, columns: Columns, conditions: tuple[str, ...]
    ) -> None:
        self._paths = paths
        self._split = split
        self._columns = columns
        self._conditions = conditions
        self._suffixes = member_suffixes(columns)
        self._files = array("q")
        self._starts = array("q")
        self._indices = array("q")
        for number, path in enumerate(paths):
            self._scan(number, path)

    def _scan(self, number: int, path: Path) -> None:
        """Note where the rows of a file begin; contents are passed over."""
        try:
            with path.open("rb", buffering=0) as file:
                start = 0
                while (found := _next_header(file)) is not None:
                    key, _, suffix = found[0].partition(".")
                    if f".{suffix}" == self._suffixes[0]:
                        self._files.append(number)
                        self._starts.append(start)
                        self._indices.append(int(key))
                    _skip(file, found[1])
                    start = file.tell()
        except (OSError, ValueError, tarfile.TarError) as error:
            raise _cannot_read(path, error) from error

    def __len__(self) -> int:
        """How many rows."""
        return len(self._starts)

    def read(self, index: int) -> EncodedPictures:
        """See `RowReader`."""
        names = {name: f".{name}.png" for name in self._conditions}
        first = self._suffixes[0]
        parts = self._members(index, {first, ".txt", ".json", *names.values()})
        facts = self._facts(index, parts[".json"])
        maps = {name: parts[suffix] for name, suffix in names.items()}
        return EncodedPictures(facts["sha256"], _text(parts[".txt"]), parts[first], maps)

    def row(self, index: int) -> EncodedRow:
        """See `RowReader`."""
        columns = self._columns
        parts = self._members(index, set(self._suffixes))
        facts = self._facts(index, parts[".json"])
        text = _text(parts[".txt"])
        captions = tuple(facts["captions"]) if columns.many_captions else (text,)
        data = self._suffixes[len(self._suffixes) - len(columns.data) :]
        return EncodedRow(
            index=self._indices[index],
            split=self._split,
            text=text,
            captions=captions,
            image=parts[self._suffixes[0]],
            image_suffix=columns.image_suffix,
            maps={name: parts[f".{name}.png"] for name in columns.conditions},
            facts={name: facts[name] for name in FACT_COLUMNS},
            data={c.name: parts[suffix] for c, suffix in zip(columns.data, data, strict=True)},
        )

    def keys(self) -> Iterator[str]:
        """See `RowReader`."""
        for index in range(len(self)):
            parts = self._members(index, {".json"})
            yield str(self._facts(index, parts[".json"])["sha256"])

    def indices(self) -> Iterator[int]:
        """See `RowReader`."""
        return iter(self._indices)

    def _members(self, index: int, wanted: set[str]) -> dict[str, bytes]:
        """Some members of a row, by what follows its key."""
        path = self._paths[self._files[index]]
        prefix = f"{self._indices[index]:06d}"
        parts: dict[str, bytes] = {}
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(self._starts[index])
                while wanted - parts.keys():
                    found = _next_header(file)
                    if found is None or found[0].partition(".")[0] != prefix:
                        break
                    suffix, size = found[0].removeprefix(prefix), found[1]
                    if suffix in wanted:
                        parts[suffix] = _content(file, size)
                    else:
                        _skip(file, size)
        except (OSError, ValueError, tarfile.TarError) as error:
            raise _cannot_read(path, error) from error
        missing = sorted(wanted - parts.keys())
        if missing:
            raise _cannot_read(path, f"row {prefix} lacks {', '.join(missing)}")
        return parts

    def _facts(self, index: int, content: bytes) -> dict[str, Any]:
        path = self._paths[self._files[index]]
        try:
            facts = json.loads(content)
        except ValueError as error:
            raise _cannot_read(path, error) from error
        wanted = [*FACT_COLUMNS, *(("captions",) if self._columns.many_captions else ())]
        missing = [name for name in wanted if name not in facts]
        if missing:
            raise _cannot_read(path, f"row {self._indices[index]} lacks {', '.join(missing)}")
        values: dict[str, Any] = facts
        return values


def _next_header(file: IO[bytes]) -> tuple[str, int] | None:
    """Name and size of the member whose header begins here; None at the end of the archive.

    Its content begins where the file stands then. Much faster than `tarfile`, which keeps all
    headers and looks for what this module does not write.

    Raises:
        tarfile.TarError: if this is no header.
    """
    block = file.read(tarfile.BLOCKSIZE)
    if block.count(0) == tarfile.BLOCKSIZE:
        return None
    header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    return header.name, header.size


def _skip(file: IO[bytes], size: int) -> None:
    """Go from the beginning of a content to the next header."""
    file.seek(-(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, os.SEEK_CUR)


def _content(file: IO[bytes], size: int) -> bytes:
    """Read a content and go to the next header."""
    content = file.read(size)
    if len(content) != size:
        raise ValueError("it ends too early")
    file.seek(-size % tarfile.BLOCKSIZE, os.SEEK_CUR)
    return content


def _text(content: bytes) -> str:
    return content.decode("utf-8")


def _cannot_write(path: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"cannot write {path}: {reason}; check space and permissions")


def _cannot_read(path: Path, error: Exception | str) -> DatasetError:
    return DatasetError(f"cannot read {path}: {error}; make the dataset again")
