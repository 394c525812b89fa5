"""The order of samples over one or several datasets.

A sample has a place in the run, from 0. Its dataset is drawn by the weights from a counter-based
generator, and it is the next one of that dataset; so the n-th sample of a run is always the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from condkit.trainer import noise

_BLOCK = 4096
"""Draws made at once; part of the order, so it stays as it is."""


class Place(NamedTuple):
    """One sample of a run: the `position`-th of dataset number `dataset`, epochs included."""

    dataset: int
    position: int


@dataclass(slots=True)
class Order:
    """The samples of a run, one after the other.

    Attributes:
        weights: How often each dataset is drawn, relative to the others.
        seed: The run's seed.
    """

    weights: tuple[float, ...]
    seed: int
    _before: list[NDArray[np.int64]] = field(default_factory=list, init=False)

    def places(self, start: int, stop: int) -> list[Place]:
        """The samples number `start` to `stop` - 1."""
        if len(self.weights) == 1:
            return [Place(0, position) for position in range(start, stop)]
        found: list[Place] = []
        for block in range(start // _BLOCK, -(-stop // _BLOCK)):
            first = block * _BLOCK
            found += self._block(block)[max(0, start - first) : stop - first]
        return found

    def from_start(self) -> Iterator[Place]:
        """All samples, without end."""
        for block in itertools.count():
            yield from self.places(block * _BLOCK, (block + 1) * _BLOCK)

    def _block(self, block: int) -> list[Place]:
        draws = self._draws(block)
        count = self._counts_before(block).copy()
        places = []
        for dataset in draws.tolist():
            places.append(Place(dataset, int(count[dataset])))
            count[dataset] += 1
        return places

    def _draws(self, block: int) -> NDArray[np.int64]:
        shares = np.cumsum(np.asarray(self.weights) / sum(self.weights))
        values = noise.generator(self.seed, "mix", "", block).random(_BLOCK)
        chosen = np.searchsorted(shares, values, side="right")
        return np.minimum(chosen, len(self.weights) - 1).astype(np.int64)

    def _counts_before(self, block: int) -> NDArray[np.int64]:
        """How many samples of each dataset lie before a block."""
        sizes = len(self.weights)
        if not self._before:
            self._before.append(np.zeros(sizes, np.int64))
        while len(self._before) <= block:
            drawn = np.bincount(self._draws(len(self._before) - 1), minlength=sizes)
            self._before.append(self._before[-1] + drawn)
        return self._before[block]


@dataclass(frozen=True, slots=True)
class Sampler:
    """Which samples the n-th micro-batch of a run holds, where all have one shape.

    Attributes:
        order: The samples one after the other.
        batch_size: Samples per micro-batch.
    """

    order: Order
    batch_size: int

    def __call__(self, cursor: int) -> list[Place]:
        """The samples of micro-batch number `cursor`."""
        return self.order.places(cursor * self.batch_size, (cursor + 1) * self.batch_size)
