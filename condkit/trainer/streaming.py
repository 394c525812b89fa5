"""Rows that come one after the other, shuffled in a window, in an order that repeats.

An epoch takes the shards in an order of its own and cuts the stream into windows; the rows of a
window come in an order of its own. So where a row comes follows from the seed and the epoch alone:
a resumed run reads on to its window and goes on as if it had never stopped.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from condkit.errors import DatasetError
from condkit.trainer import noise
from condkit.trainer.rows import PairedRow

_KEPT = 2
"""Windows in memory: the one in use, and the one that threads behind are still at."""


class Stream(Protocol):
    """Rows in shards, each read from its beginning."""

    def row(self, raw: Any, number: int) -> PairedRow:  # noqa: ANN401 - the stream's own
        """What the trainer makes of a raw row; its number in the epoch is for messages."""

    @property
    def shards(self) -> int:
        """How many shards there are."""

    def read(self, shard: int) -> Iterator[Any]:
        """The raw rows of a shard, always in one order."""


@dataclass(slots=True)
class StreamFeed:
    """The samples of a streamed dataset; many threads may ask for positions near each other.

    Attributes:
        stream: The rows.
        seed: The run's seed.
        window: Rows that are mixed with each other, and in memory.
        name: Tells the datasets of a mix apart.
    """

    stream: Stream
    seed: int
    window: int
    name: str = ""
    _count: int | None = field(default=None, init=False)
    _reader: Iterator[Any] | None = field(default=None, init=False)
    _next: tuple[int, int] = field(default=(0, 0), init=False)
    _windows: OrderedDict[tuple[int, int], Sequence[PairedRow]] = field(
        default_factory=OrderedDict, init=False
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def at(self, position: int) -> tuple[PairedRow, int]:
        """See `Feed`.

        Raises:
            DatasetError: if the stream is empty, or had more rows in an earlier epoch.
        """
        with self._lock:
            known = self._count is not None
            epoch, place = self._place(position)
            rows = self._window(epoch, place // self.window)
            if not known and self._count is not None:
                # The first epoch has ended meanwhile, maybe before this position.
                epoch, place = self._place(position)
                rows = self._window(epoch, place // self.window)
        if rows is None or place % self.window >= len(rows):
            raise DatasetError(
                "the streamed dataset has fewer rows than in its first epoch; read it from a copy "
                "that does not change"
            )
        return rows[place % self.window], epoch

    def _place(self, position: int) -> tuple[int, int]:
        """Epoch and place in it; while an epoch's length is unknown, all is the first one."""
        return (0, position) if self._count is None else divmod(position, self._count)

    def _window(self, epoch: int, number: int) -> Sequence[PairedRow] | None:
        """A window in its own order, or None where the epoch turned out to be shorter."""
        if (epoch, number) in self._windows:
            return self._windows[epoch, number]
        if self._reader is None or self._next[0] != epoch or self._next[1] > number:
            self._reader, self._next = self._rows(epoch), (epoch, 0)
        while self._next[1] <= number:
            place = self._next[1]
            raw = self._read_window(self._reader)
            if not raw:
                self._reader = None
                return None
            # The one before as well: another thread may be about to ask for it.
            if place >= number - 1:
                self._keep(epoch, place, raw)
        return self._windows[epoch, number]

    def _read_window(self, reader: Iterator[Any]) -> list[Any]:
        """The raw rows of the next window; nothing is made of those that are passed over."""
        epoch, number = self._next
        raw = list(itertools.islice(reader, self.window))
        if len(raw) < self.window and self._count is None:
            self._count = number * self.window + len(raw)
            if self._count == 0:
                raise DatasetError("the streamed dataset has no rows")
        self._next = epoch, number + 1
        return raw

    def _keep(self, epoch: int, number: int, raw: Sequence[Any]) -> None:
        order = noise.permutation_of_window(self.seed, self.name, epoch, number, len(raw))
        first = number * self.window
        rows = [self.stream.row(raw[i], first + i) for i in order.tolist()]
        self._windows[epoch, number] = rows
        while len(self._windows) > _KEPT:
            self._windows.popitem(last=False)

    def _rows(self, epoch: int) -> Iterator[Any]:
        shards = noise.permutation(self.seed, epoch, self.stream.shards, f"shards {self.name}")
        for shard in shards.tolist():
            yield from self.stream.read(shard)
