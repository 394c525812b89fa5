"""One dataset as the trainer reads it, whatever it is stored as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from condkit.trainer import noise
from condkit.trainer.flips import Flipper
from condkit.trainer.rows import Feed, PairedRow, PairedRows
from condkit.types import ConditionSpec, MapPixels, RgbImage


class Encoded(Protocol):
    """The files of a row, decoded when they are asked for."""

    def content(self) -> str:
        """A hash of the picture's file."""

    def image(self) -> RgbImage:
        """The picture."""

    def map(self) -> MapPixels:
        """The map of the condition that is trained."""


class LazyRow:
    """A row whose pictures are decoded each time that somebody looks.

    With cached latents nobody looks at the picture, only at the map. Nothing decoded is kept: a
    window of a stream holds files.

    Attributes:
        key: Hash of the content.
        captions: All captions; at least one.
        facts: The dataset's other columns.
        data: What the maps were drawn from, by column.
    """

    def __init__(
        self,
        key: str,
        condition: str,
        encoded: Encoded,
        captions: tuple[str, ...],
        facts: Mapping[str, Any] | None = None,
        data: Mapping[str, bytes] | None = None,
    ) -> None:
        self.key = key
        self.captions = captions or ("",)
        self.facts = facts or {}
        self.data = data or {}
        self._condition = condition
        self._encoded = encoded

    @property
    def text(self) -> str:
        """The first caption."""
        return self.captions[0]

    @cached_property
    def content(self) -> str:
        """A hash of the picture's file: what the cache of latents knows it by."""
        return self._encoded.content()

    @property
    def image(self) -> RgbImage:
        """The picture."""
        return self._encoded.image()

    @property
    def maps(self) -> dict[str, MapPixels]:
        """The map of the condition that is trained."""
        return {self._condition: self._encoded.map()}


@dataclass(frozen=True, slots=True)
class RowsFeed:
    """The rows of a split, each epoch in an order of its own.

    Attributes:
        rows: The split.
        seed: The run's seed.
        name: Tells the datasets of a mix apart; empty for the first.
    """

    rows: PairedRows
    seed: int
    name: str = ""

    def place(self, position: int) -> tuple[int, int]:
        """Row number and use of a position."""
        use, place = divmod(position, len(self.rows))
        return int(noise.permutation(self.seed, use, len(self.rows), self.name)[place]), use

    def at(self, position: int) -> tuple[PairedRow, int]:
        """See `Feed`."""
        row, use = self.place(position)
        return self.rows[row], use


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """One dataset of a run.

    Attributes:
        name: What the user calls it.
        spec: What its maps mean.
        feed: Its samples in order.
        rows: Its training rows by number; None where it is streamed.
        preview_rows: Rows for pictures during training.
        fingerprint: Hash of what it holds; a resumed run must meet it again.
        weight: How often it is drawn.
        flipper: Mirrors its maps.
    """

    name: str
    spec: ConditionSpec
    feed: Feed
    rows: PairedRows | None
    preview_rows: PairedRows
    fingerprint: str
    weight: float = 1.0
    flipper: Flipper | None = None
