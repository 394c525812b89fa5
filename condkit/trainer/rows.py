"""What the trainer asks of rows, whatever stores them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from condkit.types import MapPixels, RgbImage


class PairedRow(Protocol):
    """One pair of a dataset; `condkit.datasets.reader.Row` is one.

    A row may also have `captions` (all of them), `facts` and `data` (the dataset's other columns).
    """

    @property
    def key(self) -> str:
        """Hash of the content, unique in the dataset."""

    @property
    def image(self) -> RgbImage:
        """The picture."""

    @property
    def text(self) -> str:
        """The caption; the first of several."""

    @property
    def maps(self) -> Mapping[str, MapPixels]:
        """Condition maps by name, of the picture's size."""


class PairedRows(Protocol):
    """A split of a dataset."""

    def __len__(self) -> int:
        """How many rows there are."""

    def __getitem__(self, index: int) -> PairedRow:
        """The row at `index`; several threads may ask at once."""


class Feed(Protocol):
    """The samples of one dataset one after the other, epoch after epoch."""

    def at(self, position: int) -> tuple[PairedRow, int]:
        """The row at a position, and how often it was used before; many threads may ask at once."""


def captions_of(row: PairedRow) -> tuple[str, ...]:
    """All captions of a row; at least one."""
    return tuple(getattr(row, "captions", ()) or ()) or (row.text,)


def facts_of(row: PairedRow) -> Mapping[str, Any]:
    """What the dataset knows of a row; empty where it says nothing."""
    return getattr(row, "facts", None) or {}
