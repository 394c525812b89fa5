"""`inspect`: look at the rows of a dataset, once, and count."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from condkit.datasets.checks.pictures import Unreadable
from condkit.datasets.encoded import DataColumn
from condkit.datasets.formats import format_of
from condkit.datasets.formats.base import EncodedRow, RowReader
from condkit.datasets.in_order import map_in_order
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
from condkit.datasets.planning import SPLITS, Split
from condkit.datasets.reader import open_dataset
from condkit.errors import ConfigError, DatasetError

NEAR_BITS = 6
"""Of 64 bits of the perceptual hash: pictures that differ in no more look alike."""

SHEET_ROWS = 8
"""Rows per split that are kept to be looked at."""

NAMED_UNREADABLE = 20
NAMED_COPIES = 10

OnProgress: TypeAlias = Callable[[int, int], None]
Place: TypeAlias = tuple[Split, int]


def inspect_dataset(
    path: Path,
    *,
    rows: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> Inspection:
    """Look at the rows of a dataset and sum up what is in them.

    Every picture and map is decoded once. Counters and a sample of each figure are kept, and about
    fifty bytes a row to find copies: memory does not depend on what the rows hold.

    Args:
        path: The dataset's folder; nothing in it is changed.
        rows: Look at a sample of so many rows; None looks at all.
        seed: Draws the sample.
        workers: Threads that decode; None takes all cores.
        on_progress: Called with the rows done and to do.

    Raises:
        DatasetError: if the folder is no finished dataset, or a split of it cannot be read at all.
        ConfigError: if `rows` or `workers` is below 1.
    """
    for name, value in (("rows", rows), ("workers", workers)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}: expected at least 1, got {value}")
    opened = open_dataset(path)
    layout = format_of(opened.manifest)
    splits = [split for split in SPLITS if split in opened.splits]
    readers = {split: layout.reader(path, split, opened.conditions) for split in splits}
    chosen = _choose(readers, rows, seed)
    columns = opened.manifest.get("data", {})
    looker = Looker(opened.conditions, {name: DataColumn(**c) for name, c in columns.items()})
    tally = _Tally(readers, chosen, looker)
    total = sum(chosen.rows.values())
    looked = map_in_order(tally.look, tally.places(), workers=workers)
    for done, (place, look) in enumerate(looked, start=1):
        tally.add(done - 1, place, look)
        if on_progress is not None:
            on_progress(done, total)
    return tally.summary(path, opened.manifest)


def _choose(readers: dict[Split, RowReader], rows: int | None, seed: int) -> Chosen:
    total: dict[str, int] = {split: len(reader) for split, reader in readers.items()}
    count = sum(total.values())
    if rows is None or rows >= count:
        return Chosen(rows=total, total=total, seed=seed)
    drawn = sorted(random.Random(seed).sample(range(count), rows))
    numbers: dict[str, tuple[int, ...]] = {}
    start = 0
    for split, length in total.items():
        numbers[split] = tuple(n - start for n in drawn if start <= n < start + length)
        start += length
    return Chosen(
        rows={split: len(n) for split, n in numbers.items()},
        total=total,
        seed=seed,
        numbers=numbers,
    )


@dataclass(slots=True)
class _Tally:
    """Adds up what is seen in the rows."""

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

    def summary(self, path: Path, manifest: dict[str, object]) -> Inspection:
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
        rows = sum(len(group) - 1 for group in groups)
        return Copies(rows, tuple(self._sources(group) for group in groups[:NAMED_COPIES]))

    def _near(self) -> Copies:
        """Rows near one that comes before; rows with equal pixels are told of apart."""
        places = self.hashes.places
        instead, _ = keep_first(self.hashes.hashes, NEAR_BITS)
        later = np.flatnonzero(instead >= 0)
        pairs = np.stack([places[instead[later]], places[later]], axis=1)
        pixels = self.pictures.hashes[np.searchsorted(self.pictures.places, pairs)]
        pairs = pairs[pixels[:, 0] != pixels[:, 1]]
        examples = (self._sources(pair.tolist()) for pair in pairs[:NAMED_COPIES])
        return Copies(len(pairs), tuple(examples))

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
