"""The chain of stages: order, bounds, rejections, errors, interruption."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass

import cv2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condkit.errors import ImageError, MapError
from condkit.pipeline import streaming
from condkit.types import Rejection


@dataclass(frozen=True)
class Item:
    number: int

    @property
    def relative(self) -> str:
        return f"{self.number}.jpg"


def stages(committed: list, **changed):
    parts = {
        "load": lambda item: item.number,
        "predict": lambda items, values: [value * 10 for value in values],
        "finish": lambda item, value, prediction: (value, prediction),
        "commit": lambda item, result: committed.append(result),
    }
    return streaming.Stages(**{**parts, **changed})


def stream(committed: list, count: int = 20, workers: int = 3, batch_size: int = 4, **changed):
    items = [Item(number) for number in range(count)]
    streaming.run(items, stages(committed, **changed), workers=workers, batch_size=batch_size)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 30), st.integers(1, 5), st.integers(1, 7), st.sets(st.integers(0, 29)))
def test_everything_is_committed_in_order_whatever_workers_and_batches(
    count, workers, batch_size, bad
):
    def load(item):
        return Rejection(item.relative, "decode", "bad") if item.number in bad else item.number

    committed: list = []
    stream(committed, count, workers, batch_size, load=load)
    got = [c.source if isinstance(c, Rejection) else c for c in committed]
    assert got == [f"{n}.jpg" if n in bad else (n, n * 10) for n in range(count)]


def test_batches_are_full_and_predicted_on_the_calling_thread():
    sizes, threads = [], set()

    def predict(items, values):
        sizes.append(len(values))
        threads.add(threading.current_thread())
        return values

    stream([], 10, 2, 4, predict=predict)
    assert sizes == [4, 4, 2]
    assert threads == {threading.current_thread()}


def test_memory_is_bounded_when_the_writer_is_slow():
    loaded, most = 0, 0
    done: list = []
    lock = threading.Lock()

    def load(item):
        nonlocal loaded, most
        with lock:
            loaded += 1
            most = max(most, loaded - len(done))
        return item.number

    def commit(item, result):
        threading.Event().wait(0.002)
        done.append(result)

    stream(done, 200, 2, 2, load=load, commit=commit)
    assert len(done) == 200
    assert most < 30


@pytest.mark.parametrize("error", [ImageError, MapError])
@pytest.mark.parametrize("stage", ["load", "finish"])
def test_a_known_error_rejects_its_own_item_only(stage, error):
    def fail(item, *rest):
        if item.number == 5:
            raise error("broken")
        return item.number

    committed: list = []
    stream(committed, 10, **{stage: fail})
    assert [r for r in committed if isinstance(r, Rejection)] == [
        Rejection("5.jpg", "decode" if stage == "load" else "predict", "broken")
    ]
    assert len(committed) == 10


def test_one_bad_item_does_not_take_its_batch_with_it():
    def predict(items, values):
        if 5 in values:
            raise MapError("broken")
        return values

    committed: list = []
    stream(committed, 10, predict=predict)
    assert [r.source for r in committed if isinstance(r, Rejection)] == ["5.jpg"]
    assert len(committed) == 10


@pytest.mark.parametrize("stage", ["load", "predict", "finish", "commit"])
def test_an_unexpected_error_ends_the_run_and_names_the_item(stage):
    class SurpriseError(Exception):
        pass

    def fail(items, *rest):
        numbers = [i.number for i in items] if isinstance(items, list) else [items.number]
        if 5 in numbers:
            raise SurpriseError("what")
        return rest[0] if stage == "predict" else numbers[0]

    with pytest.raises(SurpriseError) as caught:
        stream([], 1000, **{stage: fail})
    assert any("5.jpg" in note for note in caught.value.__notes__)
    assert not [t for t in threading.enumerate() if t.name.startswith("condkit")]


def test_an_interruption_keeps_what_was_committed_and_stops_all_threads():
    committed: list = []

    def predict(items, values):
        if values[0] >= 100:
            raise KeyboardInterrupt
        return values

    with pytest.raises(KeyboardInterrupt):
        stream(committed, 100_000, predict=predict)
    assert [value for value, _ in committed] == list(range(len(committed)))
    assert not [t for t in threading.enumerate() if t.name.startswith("condkit")]


def test_an_interrupt_while_the_last_one_is_written_waits_for_the_writer():
    events = []

    def commit(item, result):
        if item.number == 5:
            # The caller's thread has sent everything, and waits.
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
            events.append("written")

    with pytest.raises(KeyboardInterrupt):
        stream([], count=6, commit=commit)
    assert events == ["written"]


def test_opencv_gets_its_threads_back():
    before = cv2.getNumThreads()
    inside = []
    stream([], 2, load=lambda item: inside.append(cv2.getNumThreads()) or 1)
    assert set(inside) == {1}
    assert cv2.getNumThreads() == before
