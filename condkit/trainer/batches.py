"""Micro-batches of samples, some of them prepared ahead in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from condkit.errors import TrainingError
from condkit.trainer.data import Example
from condkit.trainer.examples import ExampleMaker
from condkit.trainer.mixing import Place
from condkit.trainer.rows import Feed


@dataclass(frozen=True, slots=True)
class BatchLoader:
    """Micro-batches in order, some of them prepared ahead.

    Attributes:
        feeds: The datasets.
        sampler: Which samples come when.
        makers: Row to example, one for each dataset.
        prefetch: Batches prepared ahead in threads; 0 prepares each one when it is asked for.
        workers: How many threads.
    """

    feeds: Sequence[Feed]
    sampler: Callable[[int], list[Place]]
    makers: Sequence[ExampleMaker]
    prefetch: int
    workers: int = 2

    def batch(self, cursor: int) -> list[Example]:
        """Micro-batch number `cursor`.

        Raises:
            TrainingError: if its crops differ in size.
        """
        return self._made(self.sampler(cursor))

    def batches(self, start: int, stop: int) -> Generator[list[Example], None, None]:
        """Micro-batches `start` to `stop` - 1; an error in one is raised at its turn."""
        cursors = range(start, stop)
        if self.prefetch == 0:
            yield from map(self.batch, cursors)
            return
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="condkit-batch")
        try:
            ahead: deque[Future[list[Example]]] = deque()
            for cursor in cursors:
                # The sampler is asked here, in order, and not by the threads.
                ahead.append(pool.submit(self._made, self.sampler(cursor)))
                if len(ahead) > self.prefetch:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _made(self, places: Sequence[Place]) -> list[Example]:
        examples = [self._example(place) for place in places]
        sizes = {example.size_hw: example.key for example in examples}
        if len(sizes) > 1:
            (one, key), (other, other_key), *_ = sizes.items()
            raise TrainingError(
                f"the pictures differ in size: {one} in row {key}, {other} in row {other_key}; "
                "set data.resolution so that all crops are equal, or data.buckets=native so that "
                "those of a batch are"
            )
        return examples

    def _example(self, place: Place) -> Example:
        row, use = self.feeds[place.dataset].at(place.position)
        return self.makers[place.dataset](row, use)
