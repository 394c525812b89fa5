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
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from condkit.datasets.formats.base import Columns, EncodedRow, RowReader, ShardWriter, shard_files
from condkit.datasets.formats.failures import cannot_write
from condkit.datasets.formats.tar_reader import TarRows, member_suffixes
from condkit.datasets.planning import Split
from condkit.errors import ConfigError
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
        paths = shard_files(dataset / "data", f"{split}-*.tar")
        return TarRows(paths, split, self.columns, tuple(conditions))


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
            raise cannot_write(path, error) from error

    def close(self) -> None:
        """See `ShardWriter`."""
        for file in self._files.values():
            try:
                file.close()
            except OSError as error:
                raise cannot_write(Path(str(file.name)), error) from error


def _header(name: str, content: bytes) -> tarfile.TarInfo:
    """A member without time and owner: `TarInfo` begins with time 0 and owner 0, without names."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    header.mode = FILE_MODE
    return header
