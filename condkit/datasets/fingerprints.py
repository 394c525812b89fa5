"""What an input of a build is made of, as hashes: its picture, and all that lies beside it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from condkit.datasets.sources.base import Source, SourceEntry, SourceSample
from condkit.types import SourceFile

_WHOLE = 4 << 20

ReadsBeside: TypeAlias = Callable[[SourceFile], tuple[Path, ...]]
"""Tells which other files decide an input's row: those that exist, in a fixed order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What an input was when it was looked at.

    Attributes:
        entry: The input.
        stamp: Its source's stamp, and the sizes and times of the files beside it: while it is the
            same, nothing is read again.
        sha256: Of its picture; None where that cannot be read.
        beside: Hash of what else decides its row; "" for nothing.
        problem: Why it cannot be used, where it cannot.
    """

    entry: SourceEntry
    stamp: str
    sha256: str | None = None
    beside: str = ""
    problem: str = ""

    @property
    def content(self) -> tuple[str | None, str, str]:
        """What has to stay the same while a dataset is made of it."""
        return self.sha256, self.beside, self.problem


@dataclass(frozen=True, slots=True)
class Fingerprinter:
    """Looks at the inputs of a source.

    Attributes:
        source: Where they come from.
        reads: What lies beside them and counts; see `ReadsBeside`.
    """

    source: Source
    reads: ReadsBeside

    def look(self, entry: SourceEntry, before: Fingerprint | None) -> Fingerprint:
        """The fingerprint of an input; what was found before, where its stamp is as it was."""
        paths = self.reads(self.source.file(entry))
        stamp = " ".join((entry.stamp, *map(_stamp, paths)))
        if before is not None and before.stamp == stamp and before.entry.where == entry.where:
            return before
        return self._read(entry, stamp, paths)

    def _read(self, entry: SourceEntry, stamp: str, paths: Sequence[Path]) -> Fingerprint:
        try:
            sample = self.source.read(entry)
            sha256 = hash_picture(sample.image)
        except OSError as error:
            problem = f"cannot be read: {error.strerror or error}"
            return Fingerprint(entry=entry, stamp=stamp, problem=problem)
        beside = " ".join(_hashes_beside(sample, paths))
        return Fingerprint(entry=entry, stamp=stamp, sha256=sha256, beside=beside)


def hash_beside(sample: SourceSample, paths: Sequence[Path]) -> str:
    """What lies beside a picture, as `Fingerprint.beside` tells it."""
    return " ".join(_hashes_beside(sample, paths))


def hash_picture(image: bytes | Path) -> str:
    """sha256 of a picture's bytes, in hexadecimal.

    Raises:
        OSError: if its file cannot be read.
    """
    return hashlib.sha256(image).hexdigest() if isinstance(image, bytes) else hash_file(image)


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: if it cannot be read.
    """
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - speed
        if os.fstat(file.fileno()).st_size > _WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        # `file_digest` has a buffer of its own, which costs more than a small file.
        return hashlib.sha256(file.readall()).hexdigest()


def _hashes_beside(sample: SourceSample, paths: Sequence[Path]) -> Iterator[str]:
    for path in paths:
        try:
            yield f"{path.name}:{hash_file(path)}"
        except OSError:
            # Whoever needs the file says so, and rejects the input for it.
            yield f"{path.name}:unreadable"
    if sample.file.fields:
        yield f"fields:{_hash_fields(sample.file.fields)}"
    for name, data in sample.maps.items():
        yield f"{name}:{hashlib.sha256(data).hexdigest()}"


def _hash_fields(fields: Mapping[str, Any]) -> str:
    text = json.dumps(dict(fields), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _stamp(path: Path) -> str:
    try:
        status = os.stat(path)  # noqa: PTH116 - speed
    except OSError:
        return "gone"
    return f"{status.st_size}:{status.st_mtime_ns}"
