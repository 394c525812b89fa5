"""Rows of tables: what a kind of table file has to offer to be read as a source of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

Values: TypeAlias = Mapping[str, Any]
"""A row's values by column. A picture inside a table is `bytes`, or a mapping with `bytes` and
`path` as Hugging Face stores it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannedRow:
    """A row as a scan meets it.

    Attributes:
        where: How the table finds it again; text of the table's own.
        number: Its place in the table, from zero.
        label: What a person calls it, such as "line 12".
        stamp: Text that changes when the row may have changed.
        values: Its values; pictures inside the table may lack their `bytes`. None for a row that
            cannot be used.
        fault: Why it cannot be used, where it cannot.
    """

    where: str
    number: int
    label: str
    stamp: str
    values: Values | None
    fault: str = ""


class Rows(Protocol):
    """A table file, row by row and at random."""

    @property
    def path(self) -> Path:
        """The table's file or folder."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Its columns; for a table without a list of them those of its first rows."""
        ...

    @property
    def pictures(self) -> tuple[str, ...]:
        """Those columns that hold pictures themselves and not the names of files."""
        ...

    def scan(self) -> Iterator[ScannedRow]:
        """All rows, in order; memory does not grow with their number.

        Raises:
            DatasetError: if the table cannot be read.
        """
        ...

    def read(self, where: str) -> Values:
        """One row whole, pictures too; from any thread.

        Raises:
            DatasetError: if the table cannot be read, or the row is not the one that was scanned.
        """
        ...
