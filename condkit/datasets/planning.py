"""The plan of a build: which inputs, in which shards, in which split. All of it deterministic."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from condkit.types import Rejection

Split: TypeAlias = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")

SPLIT_RULE = (
    "validation if the first 8 bytes of sha256(f'{seed}:{sha256 of the file}'), as a big-endian "
    "fraction of 2**64, lie below the validation share; else train"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedInput:
    """One input that becomes one row, unless it is rejected.

    Attributes:
        index: Its place among the inputs of the build, from 0.
        relative: Its name in the source, forward slashes.
        where: How its source finds it again; see `SourceEntry`.
        sha256: Of its picture's bytes, in hexadecimal.
        beside: Hash of what else decides its row (caption, fields, maps it has); "" for nothing.
    """

    index: int
    relative: str
    where: str
    sha256: str
    beside: str = ""


class PlannedInputs(Protocol):
    """The inputs of a plan, wherever they are kept."""

    def span(self, start: int, stop: int) -> tuple[PlannedInput, ...]:
        """Inputs `start` to `stop`, the last one not with them, in order."""
        ...

    def rejections(self) -> Iterator[Rejection]:
        """Inputs that are left out beforehand, in the order of their names."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLayout:
    """How inputs are cut into shards: input i belongs to shard i // shard_size.

    Attributes:
        inputs: How many there are.
        shard_size: Inputs per shard.
    """

    inputs: int
    shard_size: int

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-self.inputs // self.shard_size)

    def span(self, shard: int) -> tuple[int, int]:
        """The first input of a shard, and the one behind its last."""
        start = shard * self.shard_size
        return start, min(start + self.shard_size, self.inputs)

    def shard_of(self, index: int) -> int:
        """The shard of an input."""
        return index // self.shard_size

    def ends_shard(self, index: int) -> bool:
        """Whether an input is the last one of its shard."""
        return index + 1 == self.span(self.shard_of(index))[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """What a build will do; two builds with equal plans write equal bytes.

    Attributes:
        parameters: Everything that decides the rows, as JSON values.
        layout: Inputs and shards.
        inputs: The inputs themselves; on the disk, so that a million of them need no memory.
        rejected: How many inputs are left out beforehand: unreadable, a duplicate, not chosen.
        source_sha256: One hash over names and contents of all inputs and what lies beside them.
        left_out: What the search for images left out, by reason.
        environment: Versions of the libraries, and the arithmetic, that decide the bytes.
    """

    parameters: dict[str, Any]
    layout: ShardLayout
    inputs: PlannedInputs
    rejected: int
    source_sha256: str
    left_out: dict[str, int]
    environment: dict[str, str]

    @property
    def planned(self) -> int:
        """All inputs that were found, rejected ones too."""
        return self.layout.inputs + self.rejected

    def shard(self, index: int) -> tuple[PlannedInput, ...]:
        """The inputs of one shard."""
        return self.inputs.span(*self.layout.span(index))


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
