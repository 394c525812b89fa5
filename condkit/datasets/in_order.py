"""A bounded `map` over threads: results in order, memory for a few items only."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def map_in_order(
    call: Callable[[A], B], items: Iterable[A], *, workers: int | None = None
) -> Iterator[B]:
    """The results of `call` in the order of the items, a few of them worked on ahead.

    Args:
        call: Called on many threads.
        items: Taken one by one as there is room.
        workers: Threads; None takes all cores.

    Raises:
        BaseException: whatever `call` raised; what was not begun by then is dropped.
    """
    threads = workers or os.cpu_count() or 1
    pool = ThreadPoolExecutor(threads, thread_name_prefix="condkit-check")
    ahead: deque[Future[B]] = deque()
    try:
        for item in items:
            ahead.append(pool.submit(call, item))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
