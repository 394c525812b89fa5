"""A chain of stages over a bounded queue: load, predict, finish, commit.

Loading and finishing run on a pool of threads (decoding and encoding release the GIL), predicting
on the caller's thread in batches, committing on one writer's thread in the order of the items. At
most a few batches are in memory at any time, however many items there are. Nothing here knows what
an item is.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from condkit.errors import ImageError, MapError
from condkit.types import Rejection


class Item(Protocol):
    """Anything with a name."""

    @property
    def relative(self) -> str:
        """How the user would call it."""
        ...


I = TypeVar("I", bound=Item)  # noqa: E741 - item
L = TypeVar("L")
P = TypeVar("P")
R = TypeVar("R")
A = TypeVar("A")

_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages(Generic[I, L, P, R]):
    """What happens to each item.

    An `ImageError` or `MapError` in the first three becomes the item's rejection; any other
    exception ends the run, with the item's name in its notes.

    Attributes:
        load: One item to what is predicted on; on many threads.
        predict: A batch to one prediction each, in order; on the caller's thread.
        finish: Item, what was loaded, its prediction: to the result; on many threads.
        commit: Takes result or rejection of every item, one after the other in their order; on one
            thread.
    """

    load: Callable[[I], L | Rejection]
    predict: Callable[[Sequence[I], Sequence[L]], Sequence[P | Rejection]]
    finish: Callable[[I, L, P], R | Rejection]
    commit: Callable[[I, R | Rejection], None]


def run(items: Iterable[I], stages: Stages[I, L, P, R], *, workers: int, batch_size: int) -> None:
    """Send every item through the stages.

    Args:
        items: Taken one by one as there is room.
        stages: What to do.
        workers: Threads that load and finish.
        batch_size: Most items per call of `predict`.

    Raises:
        BaseException: the first one that a stage raised, or KeyboardInterrupt; what was not
            committed by then is dropped.
    """
    _Stream(stages, workers, batch_size).run(items)


class _Stream(Generic[I, L, P, R]):
    def __init__(self, stages: Stages[I, L, P, R], workers: int, batch_size: int) -> None:
        self._stages = stages
        self._batch_size = batch_size
        self._ahead = batch_size + workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="condkit")
        # None tells the writer that nothing comes any more.
        self._done: queue.Queue[tuple[I, Future[R | Rejection]] | None] = queue.Queue(
            batch_size + workers
        )
        self._stop = threading.Event()
        # What is waited for instead of the writer's thread: a join that is interrupted takes the
        # thread for ended in Python 3.11, and the writer would be left at work.
        self._written = threading.Event()
        self._failure: BaseException | None = None
        self._writer = threading.Thread(target=self._write, name="condkit-writer")

    def run(self, items: Iterable[I]) -> None:
        with _single_threaded_opencv():
            self._writer.start()
            try:
                for batch in self._batches(self._loaded(items)):
                    self._send(batch)
                self._put(None)
                self._written.wait()
            except BaseException:
                self._stop.set()
                raise
            finally:
                self._pool.shutdown(wait=True, cancel_futures=self._stop.is_set())
                self._written.wait()
                self._writer.join()
            if self._failure is not None:
                raise self._failure

    def _loaded(self, items: Iterable[I]) -> Iterator[tuple[I, L | Rejection]]:
        """The items in order, each as soon as it is loaded; a few are loaded ahead."""
        ahead: deque[tuple[I, Future[L | Rejection]]] = deque()
        for item in items:
            ahead.append((item, self._pool.submit(self._load, item)))
            if len(ahead) >= self._ahead:
                first, future = ahead.popleft()
                yield first, future.result()
        while ahead:
            first, future = ahead.popleft()
            yield first, future.result()

    def _batches(
        self, loaded: Iterator[tuple[I, L | Rejection]]
    ) -> Iterator[list[tuple[I, L | Rejection]]]:
        """Runs of items with at most `batch_size` that were loaded; rejections ride along."""
        batch: list[tuple[I, L | Rejection]] = []
        good = 0
        for pair in loaded:
            if self._stop.is_set():
                return
            batch.append(pair)
            good += not isinstance(pair[1], Rejection)
            if good == self._batch_size or len(batch) == 2 * self._batch_size:
                yield batch
                batch, good = [], 0
        if batch:
            yield batch

    def _send(self, batch: list[tuple[I, L | Rejection]]) -> None:
        good = [(item, value) for item, value in batch if not isinstance(value, Rejection)]
        predictions = iter(self._predict(good) if good else ())
        for item, value in batch:
            if isinstance(value, Rejection):
                self._put((item, _finished(value)))
                continue
            prediction = next(predictions)
            if isinstance(prediction, Rejection):
                self._put((item, _finished(prediction)))
            else:
                self._put((item, self._pool.submit(self._finish, item, value, prediction)))

    def _predict(self, batch: list[tuple[I, L]]) -> Sequence[P | Rejection]:
        """Predict a batch; where one image of it is at fault, each alone, to find out which."""
        items = [item for item, _ in batch]
        try:
            return self._stages.predict(items, [value for _, value in batch])
        except (ImageError, MapError) as error:
            if len(batch) == 1:
                return [Rejection(items[0].relative, "predict", str(error))]
            return [self._predict([pair])[0] for pair in batch]
        except Exception as error:
            error.add_note(f"while predicting {', '.join(item.relative for item in items)}")
            raise

    def _load(self, item: I) -> L | Rejection:
        return _guarded(lambda: self._stages.load(item), item, "decode")

    def _finish(self, item: I, value: L, prediction: P) -> R | Rejection:
        return _guarded(lambda: self._stages.finish(item, value, prediction), item, "predict")

    def _put(self, entry: tuple[I, Future[R | Rejection]] | None) -> None:
        while not self._stop.is_set():
            with suppress(queue.Full):
                self._done.put(entry, timeout=_POLL_SECONDS)
                return

    def _write(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    entry = self._done.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    continue
                if entry is None:
                    return
                item, future = entry
                result = future.result()
                _guarded(lambda: self._stages.commit(item, result), item, "write", known=())  # noqa: B023
        except CancelledError:
            # The caller's thread is leaving and has cancelled what was still waiting.
            return
        except BaseException as error:
            self._failure = error
            self._stop.set()
        finally:
            self._written.set()


def _guarded(
    call: Callable[[], A],
    item: Item,
    stage: str,
    *,
    known: tuple[type[Exception], ...] = (ImageError, MapError),
) -> A | Rejection:
    try:
        return call()
    except known as error:
        return Rejection(item.relative, stage, str(error))
    except Exception as error:
        error.add_note(f"while processing {item.relative} ({stage})")
        raise


def _finished(value: Rejection) -> Future[R | Rejection]:
    future: Future[R | Rejection] = Future()
    future.set_result(value)
    return future


@contextmanager
def _single_threaded_opencv() -> Iterator[None]:
    """OpenCV's own threads and ours would fight for the same cores."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
