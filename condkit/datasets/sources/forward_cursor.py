"""Reading by number what can only be read from front to back."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator

from condkit.datasets.sources.rows import Values
from condkit.errors import DatasetError

KEPT_ROWS = 256
KEPT_BYTES = 128 << 20
ROWS_BEFORE = 32
"""A stream begins a little before the row asked for: other threads may ask for those next."""


class ForwardCursor:
    """Rows of a stream by number, for readers that ask for them nearly in order.

    The last rows are kept, so that threads may ask a little out of order. A row further back makes
    the stream start again shortly before it, which is slow and right.
    """

    def __init__(self, start: Callable[[int], Iterator[Values]]) -> None:
        """Take a stream.

        Args:
            start: Gives the rows from one number on.
        """
        self._start = start
        self._rows: Iterator[Values] | None = None
        self._next = 0
        self._kept: OrderedDict[int, tuple[Values, int]] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def read(self, number: int) -> Values:
        """One row; from any thread.

        Raises:
            DatasetError: if the stream ends before it.
        """
        with self._lock:
            if number in self._kept:
                return self._kept[number][0]
            if self._rows is None or number < self._next:
                self._next = max(0, number - ROWS_BEFORE)
                self._rows = self._start(self._next)
            while self._next <= number:
                row = next(self._rows, None)
                if row is None:
                    raise DatasetError(
                        f"the dataset ended before row {number}, which was there when it was "
                        "searched for pictures; it has changed, begin anew"
                    )
                self._keep(self._next, row)
                self._next += 1
            return self._kept[number][0]

    def _keep(self, number: int, row: Values) -> None:
        size = sum(_size(value) for value in row.values())
        old = self._kept.pop(number, None)
        self._kept[number] = (row, size)
        self._kept_bytes += size - (0 if old is None else old[1])
        while len(self._kept) > 1 and (
            len(self._kept) > KEPT_ROWS or self._kept_bytes > KEPT_BYTES
        ):
            self._kept_bytes -= self._kept.popitem(last=False)[1][1]


def _size(value: object) -> int:
    if isinstance(value, dict):
        return sum(_size(inner) for inner in value.values())
    return len(value) if isinstance(value, bytes | str) else 0
