"""The plan of a build: which inputs, in which shards, in which split. All of it deterministic."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from condkit.types import Rejection, SourceFile

Split: TypeAlias = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")

SPLIT_RULE = (
    "validation if the first 8 bytes of sha256(f'{seed}:{sha256 of the file}'), as a big-endian "
    "fraction of 2**64, lie below the validation share; else train"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedInput:
    """One input file that becomes one row, unless it is rejected.

    Attributes:
        index: Its place among the inputs of the build, from 0.
        relative: Its name below the source folder, forward slashes.
        size: Bytes.
        mtime_ns: When it was last changed, by its file system.
        sha256: Of its bytes.
        beside: Hash of the other files that decide its row (a caption file); "" for none.
    """

    index: int
    relative: str
    size: int
    mtime_ns: int
    sha256: str
    beside: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """What a build will do; two builds with equal plans write equal bytes.

    Attributes:
        parameters: Everything that decides the rows, as JSON values.
        shard_size: Inputs per shard.
        inputs: In order; input i belongs to shard i // shard_size.
        rejections: Inputs that are left out beforehand: unreadable, or a duplicate.
        left_out: What the search for images left out, by reason.
        environment: Versions of the libraries, and the arithmetic, that decide the bytes.
    """

    parameters: dict[str, Any]
    shard_size: int
    inputs: tuple[PlannedInput, ...]
    rejections: tuple[Rejection, ...] = ()
    left_out: dict[str, int]
    environment: dict[str, str]

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-len(self.inputs) // self.shard_size)

    def shard(self, index: int) -> tuple[PlannedInput, ...]:
        """The inputs of one shard."""
        return self.inputs[index * self.shard_size : (index + 1) * self.shard_size]

    def shard_of(self, item: PlannedInput) -> int:
        """The shard of an input."""
        return item.index // self.shard_size

    def ends_shard(self, item: PlannedInput) -> bool:
        """Whether an input is the last one of its shard."""
        end = min((self.shard_of(item) + 1) * self.shard_size, len(self.inputs))
        return item.index + 1 == end

    @property
    def source_sha256(self) -> str:
        """One hash over names and contents of all inputs and their caption files."""
        digest = hashlib.sha256()
        for item in self.inputs:
            digest.update(f"{item.sha256} {item.beside} {item.relative}\n".encode())
        for rejection in self.rejections:
            digest.update(f"{rejection.reason} {rejection.source}\n".encode())
        return digest.hexdigest()


def split_of(sha256: str, *, validation: float, seed: int) -> Split:
    """The split of a row, by its content alone: stable when other rows come and go.

    Args:
        sha256: Of the input file's bytes, in hexadecimal.
        validation: Share of the rows in the validation split, in [0, 1].
        seed: Another seed draws other rows.
    """
    digest = hashlib.sha256(f"{seed}:{sha256}".encode()).digest()
    fraction = int.from_bytes(digest[:8], "big") / 2**64
    return "validation" if fraction < validation else "train"


ReadsBeside: TypeAlias = Callable[[SourceFile], tuple[Path, ...]]
"""Tells which other files decide an input's row: those that exist, in a fixed order."""


def plan_inputs(
    sources: Iterable[SourceFile],
    *,
    beside: ReadsBeside,
    known: Mapping[str, PlannedInput],
    workers: int,
) -> tuple[tuple[PlannedInput, ...], tuple[Rejection, ...]]:
    """Hash every input and leave out unreadable files and exact duplicates.

    The first of several files with the same bytes is kept, in the order given.

    Args:
        sources: The inputs, sorted.
        beside: See `ReadsBeside`.
        known: Inputs hashed before, by relative name; a file whose size and time of change are as
            they were is not read again.
        workers: Threads that read.

    Returns:
        Inputs with their indices, and rejections.
    """
    inputs: list[PlannedInput] = []
    rejections: list[Rejection] = []
    first_with: dict[str, str] = {}
    with ThreadPoolExecutor(workers, thread_name_prefix="condkit-hash") as pool:
        for result in _in_order(pool, sources, lambda s: _fingerprint(s, beside, known)):
            if isinstance(result, Rejection):
                rejections.append(result)
                continue
            original = first_with.setdefault(result.sha256, result.relative)
            if original != result.relative:
                reason = f"same bytes as {original}"
                rejections.append(Rejection(result.relative, "filter", reason))
                continue
            inputs.append(
                PlannedInput(
                    index=len(inputs),
                    relative=result.relative,
                    size=result.size,
                    mtime_ns=result.mtime_ns,
                    sha256=result.sha256,
                    beside=result.beside,
                )
            )
    return tuple(inputs), tuple(rejections)


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _in_order(
    pool: ThreadPoolExecutor,
    sources: Iterable[SourceFile],
    call: Callable[[SourceFile], PlannedInput | Rejection],
) -> Iterator[PlannedInput | Rejection]:
    """`pool.map` that takes items bit by bit: a million futures at once are a gigabyte."""
    iterator = iter(sources)
    while chunk := tuple(itertools.islice(iterator, 512)):
        yield from pool.map(call, chunk)


def _fingerprint(
    source: SourceFile, beside: ReadsBeside, known: Mapping[str, PlannedInput]
) -> PlannedInput | Rejection:
    try:
        status = source.path.stat()
        before = known.get(source.relative)
        if before and (before.size, before.mtime_ns) == (status.st_size, status.st_mtime_ns):
            sha256 = before.sha256
        else:
            sha256 = hash_file(source.path)
        return PlannedInput(
            index=-1,
            relative=source.relative,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            sha256=sha256,
            beside=" ".join(_hash_beside(path) for path in beside(source)),
        )
    except OSError as error:
        reason = f"cannot be read: {error.strerror or os.fspath(source.path)}"
        return Rejection(source.relative, "decode", reason)


def _hash_beside(path: Path) -> str:
    try:
        return f"{path.name}:{hash_file(path)}"
    except OSError:
        # Whoever needs the file says so, and rejects the input for it.
        return f"{path.name}:unreadable"
