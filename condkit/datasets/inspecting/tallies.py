"""Counting over any number of rows in bounded memory."""

from __future__ import annotations

import math
import random
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEPT_VALUES = 4096
"""Values that a `Spread` keeps: up to so many, its quantiles are exact."""

KEPT_KEYS = 100_000
"""Different keys that a `Frequencies` keeps at most, such as words."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(slots=True)
class Spread:
    """How a number is spread: count, mean, least and largest exactly, the rest from a sample.

    Attributes:
        count: Values so far.
        total: Their sum.
        least: The smallest one; infinity without any.
        largest: The largest one; minus infinity without any.
    """

    count: int = 0
    total: float = 0.0
    least: float = math.inf
    largest: float = -math.inf
    _kept: array[float] = field(default_factory=lambda: array("d"))
    _draws: random.Random = field(default_factory=lambda: random.Random(0))

    def add(self, value: float) -> None:
        """One more value; every value has the same chance to be kept."""
        self.count += 1
        self.total += value
        self.least, self.largest = min(self.least, value), max(self.largest, value)
        if len(self._kept) < KEPT_VALUES:
            self._kept.append(value)
            return
        place = self._draws.randrange(self.count)
        if place < KEPT_VALUES:
            self._kept[place] = value

    @property
    def is_exact(self) -> bool:
        """Whether all values were kept."""
        return self.count == len(self._kept)

    @property
    def mean(self) -> float:
        """The mean; 0 without values."""
        return self.total / self.count if self.count else 0.0

    def quantiles(self) -> dict[str, float]:
        """The value below which each share of `QUANTILES` lies: "p50" is the median."""
        if not self._kept:
            return {}
        values = np.quantile(np.frombuffer(self._kept, np.float64), QUANTILES)
        return {f"p{share * 100:g}": float(v) for share, v in zip(QUANTILES, values, strict=True)}

    def histogram(self, bins: int) -> tuple[list[int], list[float]]:
        """Counts of the kept values, and the edges of the bins (one more)."""
        if not self._kept:
            return [], []
        values = np.frombuffer(self._kept, np.float64)
        whole = bool((values == np.round(values)).all())
        span = self.largest - self.least
        if not span:
            return [len(values)], [self.least, self.largest]
        if whole and span < bins:
            edges = np.arange(self.least - 0.5, self.largest + 1)
        else:
            edges = np.linspace(self.least, self.largest, bins + 1)
        counts, edges = np.histogram(values, edges)
        return counts.tolist(), edges.tolist()

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        if not self.count:
            return {"count": 0}
        return {
            "count": self.count,
            "mean": self.mean,
            "min": self.least,
            **self.quantiles(),
            "max": self.largest,
            "quantiles_exact": self.is_exact,
        }


@dataclass(slots=True)
class Frequencies:
    """How often keys come; beyond `KEPT_KEYS` different ones, the rare ones are forgotten.

    Attributes:
        counts: By key.
        forgotten: Whether rare keys were dropped, so that small counts are too small.
    """

    counts: Counter[str] = field(default_factory=Counter)
    forgotten: bool = False

    def add(self, keys: Iterable[str]) -> None:
        """Count some keys."""
        self.counts.update(keys)
        if len(self.counts) > 2 * KEPT_KEYS:
            self.counts = Counter(dict(self.counts.most_common(KEPT_KEYS)))
            self.forgotten = True

    def most_common(self, count: int) -> list[tuple[str, int]]:
        """The most frequent keys; of equally frequent ones in the order of the alphabet."""
        ordered = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        return ordered[:count]


def words_of(text: str) -> list[str]:
    """The words of a caption in lower case: letters and digits, with apostrophes and hyphens."""
    return _WORD.findall(text.lower())


@dataclass(slots=True)
class Repeats:
    """Finds equal things by 64-bit hashes; sixteen bytes a thing."""

    _hashes: array[int] = field(default_factory=lambda: array("Q"))
    _places: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, place: int, value: int) -> None:
        """A thing at a place (a row's number), with its hash from 0 to 2**64 - 1."""
        self._hashes.append(value)
        self._places.append(place)

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """(N,) uint64, in the order added."""
        return np.array(self._hashes, np.uint64)

    @property
    def places(self) -> NDArray[np.int64]:
        """(N,) int64, in the order added."""
        return np.array(self._places, np.int64)

    def groups(self) -> list[Sequence[int]]:
        """The places of things that are equal, the largest group first; groups of two and more."""
        hashes, places = self.hashes, self.places
        if not len(hashes):
            return []
        order = np.argsort(hashes, kind="stable")
        borders = np.flatnonzero(np.diff(hashes[order])) + 1
        parts = (part for part in np.split(places[order], borders) if len(part) > 1)
        return sorted((part.tolist() for part in parts), key=lambda group: (-len(group), group[0]))
