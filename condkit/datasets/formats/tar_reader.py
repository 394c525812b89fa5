"""Rows of WebDataset shards by number."""

from __future__ import annotations

import json
import mmap
import tarfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from condkit.datasets.formats.base import FACT_COLUMNS, Columns, EncodedPictures, EncodedRow
from condkit.datasets.formats.failures import cannot_read
from condkit.datasets.planning import Split


def member_suffixes(columns: Columns) -> list[str]:
    """What follows a row's key in the names of its members, in order."""
    maps = (f".{name}.png" for name in columns.conditions)
    # JSON as text: `datasets` would take the types of its fields from the first rows alone.
    data = (f".{c.name}.png" if c.is_picture else f".{c.name}.txt" for c in columns.data)
    return [columns.image_suffix, ".txt", ".json", *maps, *data]


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
        self._ends = array("q")
        self._indices = array("q")
        for number, path in enumerate(paths):
            self._scan(number, path)

    def _scan(self, number: int, path: Path) -> None:
        """Note where the rows of a file begin and end; contents are passed over."""
        first = self._suffixes[0]
        with _mapped(path) as view:
            for name, begin, size in _members_in(view, path):
                if name.endswith(first) and name.count(".") == 1:
                    self._files.append(number)
                    self._starts.append(begin - tarfile.BLOCKSIZE)
                    self._ends.append(begin + _padded(size))
                    self._indices.append(_number(path, name))
                elif self._files and self._files[-1] == number:
                    self._ends[-1] = begin + _padded(size)
                else:
                    raise cannot_read(path, f"it begins with {name}, not with a picture {first}")

    def __len__(self) -> int:
        """How many rows."""
        return len(self._starts)

    def read(self, index: int) -> EncodedPictures:
        """See `RowReader`."""
        names = {name: f".{name}.png" for name in self._conditions}
        first = self._suffixes[0]
        parts = self._members(index, {first, ".txt", ".json", *names.values()})
        facts = self._facts_of(index, parts)
        maps = {name: parts[suffix] for name, suffix in names.items()}
        return EncodedPictures(facts["sha256"], _text(parts[".txt"]), parts[first], maps)

    def row(self, index: int) -> EncodedRow:
        """See `RowReader`."""
        columns = self._columns
        parts = self._members(index, set(self._suffixes))
        facts = self._facts_of(index, parts)
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
        return map(str, self.fact("sha256"))

    def fact(self, name: str) -> Iterator[Any]:
        """See `RowReader`."""
        for path in self._paths:
            with _mapped(path) as view:
                for member, begin, size in _members_in(view, path):
                    if member.endswith(".json"):
                        yield self._facts(path, member, view[begin : begin + size])[name]

    def indices(self) -> Iterator[int]:
        """See `RowReader`."""
        return iter(self._indices)

    def _members(self, index: int, wanted: set[str]) -> dict[str, bytes]:
        """Some members of a row, by what follows its key."""
        path, start = self._paths[self._files[index]], self._starts[index]
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(start)
                content = file.read(self._ends[index] - start)
        except OSError as error:
            raise cannot_read(path, error) from error
        parts = {}
        for name, begin, size in _members_in(content, path):
            suffix = name[name.find(".") :]
            if suffix in wanted:
                parts[suffix] = content[begin : begin + size]
        missing = sorted(wanted - parts.keys())
        if missing:
            raise cannot_read(path, f"row {self._indices[index]} lacks {', '.join(missing)}")
        return parts

    def _facts_of(self, index: int, parts: dict[str, bytes]) -> dict[str, Any]:
        path = self._paths[self._files[index]]
        return self._facts(path, str(self._indices[index]), parts[".json"])

    def _facts(self, path: Path, row: str, content: bytes) -> dict[str, Any]:
        try:
            facts: dict[str, Any] = json.loads(content)
        except ValueError as error:
            raise cannot_read(path, f"row {row}: {error}") from error
        wanted = [*FACT_COLUMNS, *(("captions",) if self._columns.many_captions else ())]
        missing = [name for name in wanted if name not in facts]
        if missing:
            raise cannot_read(path, f"row {row} lacks {', '.join(missing)}")
        return facts


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    """A file's bytes, read from the disk where they are looked at."""
    try:
        with path.open("rb") as file:
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise cannot_read(path, error) from error
    with view:
        yield view


def _members_in(content: bytes | mmap.mmap, path: Path) -> Iterator[tuple[str, int, int]]:
    """Name of each member, where its content begins, and its size.

    Only what this module writes is known: plain headers. So it is much faster than `tarfile`,
    which makes an object of each member; to open a dataset takes all of them.

    Args:
        content: Members one after the other, or a whole archive, which ends with zeros.
        path: Its file, for messages.

    Raises:
        DatasetError: if a header is none, or a content is cut.
    """
    at, end = 0, len(content)
    while at < end:
        header = content[at : at + tarfile.BLOCKSIZE]
        if not header[0]:
            return
        try:
            if header[257:262] != b"ustar":
                raise ValueError("no header of a tar file")
            name = header[: header.index(0, 0, 100)].decode("ascii")
            size = int(header[124:135], 8)
        except ValueError as error:
            raise cannot_read(path, f"at byte {at}: {error}") from error
        begin = at + tarfile.BLOCKSIZE
        at = begin + _padded(size)
        if at > end:
            raise cannot_read(path, f"{name} is cut off")
        yield name, begin, size


def _padded(size: int) -> int:
    """Bytes that a content takes."""
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _number(path: Path, name: str) -> int:
    """The row's index, which is its key."""
    try:
        return int(name.partition(".")[0])
    except ValueError as error:
        raise cannot_read(path, f"{name}: the key is no number") from error


def _text(content: bytes) -> str:
    return content.decode("utf-8")
