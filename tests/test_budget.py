from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from condkit.budget import Budget
from condkit.errors import DeviceMemoryError


@given(st.lists(st.integers(), max_size=30), st.integers(1, 50), st.integers(1, 400))
def test_every_item_goes_through_once_in_order_within_the_budget(items, pixels, allowed):
    chunks = []

    def forward(chunk):
        chunks.append(list(chunk))
        return [item * 2 for item in chunk]

    assert Budget("x", allowed).run(items, pixels, forward) == [item * 2 for item in items]
    assert [item for chunk in chunks for item in chunk] == items
    assert all(len(chunk) == 1 or len(chunk) * pixels <= allowed for chunk in chunks)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("MPS backend out of memory")],
)
def test_running_out_of_memory_halves_the_batch_goes_on_and_says_so(error, caplog):
    sizes = []

    def forward(chunk):
        sizes.append(len(chunk))
        if len(chunk) > 3:
            raise error
        return list(chunk)

    budget = Budget("hed", 100 * 16)
    with caplog.at_level(logging.WARNING):
        assert budget.run(list(range(40)), 100, forward) == list(range(40))
    assert sizes[:3] == [16, 8, 4]
    assert set(sizes[3:]) == {2}
    assert "going on with 2" in caplog.text
    sizes.clear()
    budget.run([0] * 4, 100, forward)
    assert sizes == [2, 2], "the smaller batch is kept"


def test_one_image_too_many_is_an_error_that_says_what_to_do():
    def forward(chunk):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    with pytest.raises(DeviceMemoryError, match=r"hed: .*4\.0 million pixels.*--detect-size"):
        Budget("hed", 1).run([0], 4_000_000, forward)


def test_other_errors_are_not_taken_for_memory():
    def forward(chunk):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="do not fit"):
        Budget("hed", 100).run([0, 1], 1, forward)


@dataclass
class Item:
    number: int
    pixels: np.ndarray


@given(
    st.lists(st.sampled_from([(4, 6, 3), (6, 4, 3), (8, 8, 3)]), max_size=20), st.integers(1, 200)
)
def test_items_of_any_shapes_come_back_in_order_and_only_like_ones_go_together(shapes, allowed):
    items = [Item(number, np.zeros(shape)) for number, shape in enumerate(shapes)]
    chunks = []

    def forward(chunk):
        chunks.append(chunk)
        return [item.number for item in chunk]

    assert Budget("x", allowed).run_by_shape(items, forward) == list(range(len(shapes)))
    for chunk in chunks:
        assert len({item.pixels.shape for item in chunk}) == 1
        assert len(chunk) == 1 or sum(item.pixels.size // 3 for item in chunk) <= allowed
