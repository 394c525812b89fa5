from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from condkit.annotators.batching import prepare, restore, working_size

SIDES = st.integers(1, 5000)


@given(SIDES, SIDES, st.integers(16, 1024))
def test_the_working_size_keeps_proportions_and_stays_affordable(height, width, detect_size):
    h, w = working_size((height, width), detect_size)
    assert h >= 1
    assert w >= 1
    assert abs(h - height * (w / width)) <= 0.5 + 0.5 * height / width
    assert min(h, w) <= detect_size
    assert max(h, w) <= max(4 * detect_size, height, width)


@given(SIDES, st.integers(16, 1024))
def test_an_image_whose_short_side_is_the_working_size_is_not_resampled(extra, detect_size):
    size = (detect_size, detect_size + extra)
    assert working_size(size, detect_size) == size


def test_strips_are_not_blown_up():
    assert working_size((1, 2000), 512) == (1, 2048)
    assert working_size((1, 9000), 512) == (1, 9000)
    assert working_size((9000, 600), 512) == (7680, 512)


@given(st.integers(1, 40), st.integers(1, 40))
def test_prepare_pads_by_repeating_the_edge_and_restore_undoes_it(height, width):
    image = np.random.default_rng(height * 41 + width).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )
    (item,) = prepare([image], min(height, width), 16)
    assert item.inner_hw == (height, width)
    assert all(side % 16 == 0 for side in item.pixels.shape[:2])
    assert np.array_equal(item.pixels[:height, :width], image)
    assert (item.pixels[height:, :width] == image[-1:]).all()
    assert (item.pixels[:height, width:] == image[:, -1:]).all()
    values = item.pixels[:, :, 0].astype(np.float32)
    back = restore(values, item.inner_hw, (height, width))
    assert np.array_equal(back, image[:, :, 0])
    assert not np.shares_memory(back, values)


def test_restoring_to_another_size_keeps_the_range():
    values = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    for size in ((20, 31), (64, 64), (150, 90), (1, 1)):
        back = restore(values, (50, 64), size)
        assert back.shape == size
        assert back.dtype == np.float32
        assert 0 <= back.min() <= back.max() <= 1
