"""What every source of pictures promises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from condkit.types import Rejection, SourceFile


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceEntry:
    """One picture that a source offers, as it is planned.

    Attributes:
        relative: Its name, forward slashes; unique in the source, the same on every machine.
        stamp: Text that changes when the picture, or what the source has beside it, may have
            changed: sizes and times of change of the files that hold them.
        where: How the source finds it again; text of the source's own, "" where the name says all.
    """

    relative: str
    stamp: str
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSample:
    """A picture with everything that its source has beside it.

    Attributes:
        image: The picture's file: its bytes, or its path where it is a file of its own.
        file: Its name, the files beside it, and its fields.
        maps: Condition maps that exist already, as picture files in memory, by condition; a map
            that the source lacks for this picture is left out.
    """

    image: bytes | Path
    file: SourceFile
    maps: Mapping[str, bytes] = field(default_factory=dict)


class Source(Protocol):
    """Pictures with captions, fields and maps beside them; nothing in it is ever changed.

    `read` and `file` may be called from many threads at once.
    """

    @property
    def kind(self) -> str:
        """The kind of source, for messages and the manifest."""
        ...

    @property
    def given(self) -> tuple[str, ...]:
        """The conditions of which it may have maps, in the order asked for."""
        ...

    @property
    def left_out(self) -> dict[str, int]:
        """How many entries the last `scan` did not take, by reason."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """All that decides its entries, as JSON values, without the place where it lies."""
        ...

    def scan(self) -> Iterator[SourceEntry | Rejection]:
        """All entries, in any order; memory does not grow with their number.

        Raises:
            ConfigError: if there is nothing of this kind, or two entries would have one name.
            DatasetError: if it cannot be read.
        """
        ...

    def file(self, entry: SourceEntry) -> SourceFile:
        """What lies beside a picture, as far as it is known without reading the picture."""
        ...

    def read(self, entry: SourceEntry) -> SourceSample:
        """The picture and all beside it.

        Raises:
            OSError: if it cannot be read.
            DatasetError: if what holds it is broken.
        """
        ...
