"""Adds up what is seen in the rows of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from condkit.datasets.checks.pictures import Unreadable
from condkit.datasets.formats.base import EncodedRow, RowReader
from condkit.datasets.inspecting.findings import (
    SHOWN_CAPTIONS,
    CaptionFigures,
    Chosen,
    Copies,
    Inspection,
    MapFigures,
    Sizes,
)
from condkit.datasets.inspecting.looking import Looker, RowLook, Shown, hash_text
from condkit.datasets.inspecting.rejections import read_rejections
from condkit.datasets.inspecting.tallies import Frequencies, Repeats, Spread, words_of
from condkit.datasets.near_duplicates import keep_first
from condkit.datasets.planning import Split
from condkit.errors import DatasetError

NEAR_BITS = 6
"""Of 64 bits of the perceptual hash: pictures that differ in no more look alike."""

SHEET_ROWS = 8
"""Rows per split that are kept to be looked at."""

NAMED_UNREADABLE = 20
NAMED_COPIES = 10

Place: TypeAlias = tuple[Split, int]
"""A split, and the number of a row in it."""


@dataclass(slots=True)
class Tally:
    """Counts rows one after the other; `look` alone may run on many threads.

    Attributes:
        readers: The rows, by split.
        chosen: Which of them are looked at.
        looker: Measures one row.
    """

    readers: dict[Split, RowReader]
    chosen: Chosen
    looker: Looker
    sizes: Sizes = field(default_factory=Sizes)
    captions: CaptionFigures = field(default_factory=CaptionFigures)
    maps: dict[str, MapFigures] = field(default_factory=dict)
    scores: dict[str, Spread] = field(default_factory=dict)
    notes: Frequencies = field(default_factory=Frequencies)
    pictures: Repeats = field(default_factory=Repeats)
    hashes: Repeats = field(default_factory=Repeats)
    texts: Repeats = field(default_factory=Repeats)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    unreadable_rows: int = 0
    shown: dict[str, list[Shown]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.maps = {name: MapFigures() for name in self.looker.conditions}

    def places(self) -> Iterator[tuple[Place, bool]]:
        """Split and number of the rows to look at, and whether each is to be shown."""
        for split in self.readers:
            count = self.chosen.rows[split]
            wanted = min(SHEET_ROWS, count)
            shown = {place * count // wanted for place in range(wanted)}
            for position in range(count):
                yield (split, self._number(split, position)), position in shown

    def look(self, asked: tuple[Place, bool]) -> tuple[Place, RowLook | Unreadable]:
        """Read, decode and measure a row, on any thread."""
        place, shown = asked
        try:
            row = self._row(place)
            return place, self.looker.look(row, shown=shown)
        except (DatasetError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return place, Unreadable(f"{type(error).__name__}: {error}")

    def add(self, position: int, place: Place, look: RowLook | Unreadable) -> None:
        """Count a row, the `position`-th one looked at."""
        if isinstance(look, Unreadable):
            self.unreadable_rows += 1
            if len(self.unreadable) < NAMED_UNREADABLE:
                self.unreadable.append((f"row {place[1]} of {place[0]}", look.reason))
            return
        self._add_sizes(look)
        self._add_caption(position, look)
        for name, found in look.maps.items():
            figures = self.maps[name]
            figures.coverage.add(found.coverage)
            figures.empty += found.coverage == 0
            figures.flat += found.flat
            _add_all(figures.facts, look.facts.get(name, {}))
            _add_all(figures.class_shares, look.classes.get(name, {}))
            figures.classes.add(tuple(look.classes.get(name, ())))
            for joints in filter(None, look.joints.get(name, ())):
                figures.bodies += 1
                figures.joints.add(joints)
                figures.joints_each.add(len(joints))
        _add_all(self.scores, look.scores)
        self.notes.add(look.notes)
        self.pictures.add(position, look.picture)
        if look.phash is not None:
            self.hashes.add(position, look.phash)
        if look.shown is not None:
            self.shown.setdefault(place[0], []).append(look.shown)

    def _add_sizes(self, look: RowLook) -> None:
        width, height = look.size
        self.sizes.counts.add([f"{width}x{height}"])
        self.sizes.short.add(min(width, height))
        self.sizes.aspect.add(width / height)
        if look.original is not None:
            self.sizes.original_short.add(min(look.original))
            self.sizes.original_megapixels.add(look.original[0] * look.original[1] / 1e6)

    def _add_caption(self, position: int, look: RowLook) -> None:
        words = words_of(look.text)
        figures = self.captions
        figures.characters.add(len(look.text))
        figures.words.add(len(words))
        figures.per_row.add(look.captions)
        figures.frequent.add(set(words))
        if look.captioner:
            figures.captioners.add([look.captioner])
        if look.text.strip():
            self.texts.add(position, hash_text(look.text))
        else:
            figures.empty += 1

    def summary(self, path: Path, manifest: dict[str, Any]) -> Inspection:
        """Everything together, once all rows were counted."""
        repeated = self.texts.groups()
        self.captions.repeated_rows = sum(map(len, repeated))
        self.captions.repeated = [
            (self._row(self._place(group[0])).text, len(group))
            for group in repeated[:SHOWN_CAPTIONS]
        ]
        return Inspection(
            path=str(path),
            manifest=manifest,
            chosen=self.chosen,
            sizes=self.sizes,
            captions=self.captions,
            maps=self.maps,
            scores=self.scores,
            notes=self.notes,
            equal=self._equal(),
            near=self._near(),
            near_bits=NEAR_BITS,
            rejections=read_rejections(path),
            unreadable=self.unreadable,
            unreadable_rows=self.unreadable_rows,
            shown=self.shown,
        )

    def _equal(self) -> Copies:
        groups = self.pictures.groups()
        pairs = [(group[0], other) for group in groups for other in group[1:]]
        examples = tuple(self._sources(group) for group in groups[:NAMED_COPIES])
        return Copies(len(pairs), self._across(np.array(pairs, np.int64).reshape(-1, 2)), examples)

    def _near(self) -> Copies:
        """Rows near one that comes before; rows with equal pixels are told of apart."""
        places = self.hashes.places
        instead, _ = keep_first(self.hashes.hashes, NEAR_BITS)
        later = np.flatnonzero(instead >= 0)
        pairs = np.stack([places[instead[later]], places[later]], axis=1)
        pixels = self.pictures.hashes[np.searchsorted(self.pictures.places, pairs)]
        pairs = pairs[pixels[:, 0] != pixels[:, 1]]
        examples = (self._sources(pair.tolist()) for pair in pairs[:NAMED_COPIES])
        return Copies(len(pairs), self._across(pairs), tuple(examples))

    def _across(self, pairs: NDArray[np.int64]) -> int:
        """How many of (N, 2) pairs of positions lie in two splits."""
        ends = np.cumsum([self.chosen.rows[split] for split in self.readers])
        splits = np.searchsorted(ends, pairs, side="right")
        return int((splits[:, 0] != splits[:, 1]).sum())

    def _sources(self, positions: Sequence[int]) -> tuple[str, ...]:
        rows = (self._row(self._place(position)) for position in positions[:5])
        return tuple(str(row.facts.get("source") or row.index) for row in rows)

    def _place(self, position: int) -> Place:
        """Split and number of the `position`-th row that was looked at."""
        for split in self.readers:
            if position < self.chosen.rows[split]:
                return split, self._number(split, position)
            position -= self.chosen.rows[split]
        raise IndexError(position)

    def _number(self, split: Split, position: int) -> int:
        numbers = self.chosen.numbers
        return numbers[split][position] if numbers else position

    def _row(self, place: Place) -> EncodedRow:
        return self.readers[place[0]].row(place[1])


def _add_all(spreads: dict[str, Spread], values: dict[str, float]) -> None:
    for name, value in values.items():
        spreads.setdefault(name, Spread()).add(value)
