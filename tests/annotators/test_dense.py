from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from condkit.annotators.batching import restore
from condkit.annotators.dense import DenseDetector
from condkit.annotators.on_device import restore_on_device
from condkit.budget import Budget
from condkit.predictions import EdgeStrength


def _smooth(height, width, seed, channels=None):
    import cv2

    shape = (height, width) if channels is None else (height, width, channels)
    noise = np.random.default_rng(seed).random(shape, np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 1.5).reshape(shape)


@given(
    inner=st.tuples(st.integers(4, 60), st.integers(4, 60)),
    scale=st.floats(0.2, 3.5),
    padding=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    channels=st.sampled_from([None, 1, 3]),
    seed=st.integers(0, 9),
)
def test_restoring_on_the_device_is_restoring_on_the_host(inner, scale, padding, channels, seed):
    size = tuple(max(1, round(side * scale)) for side in inner)
    values = _smooth(inner[0] + padding[0], inner[1] + padding[1], seed, channels)
    expected = restore(values, inner, size)
    tensor = torch.from_numpy(values)
    tensor = tensor[None] if channels is None else tensor.permute(2, 0, 1)[None]
    (found,) = restore_on_device(tensor, [inner], [size], "bilinear")
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    # OpenCV places the pixels of enlarged images in steps of 1/2048.
    assert np.abs(found - expected).max() <= 1 / 255


@given(inner=st.tuples(st.integers(3, 40), st.integers(3, 40)), scale=st.floats(0.3, 3.0))
def test_restoring_classes_makes_no_new_ones(inner, scale):
    size = tuple(max(1, round(side * scale)) for side in inner)
    values = np.random.default_rng(0).integers(0, 9, inner).astype(np.float32)
    (found,) = restore_on_device(torch.from_numpy(values)[None], [inner], [size], "nearest")
    assert set(np.unique(found)) <= set(np.unique(values))
    # Where a middle lies on the border between two pixels, either is the nearest.
    clear = [~_on_a_border(before, after) for before, after in zip(inner, size, strict=True)]
    expected = restore(values, inner, size, "nearest")
    assert np.array_equal(found[np.ix_(*clear)], expected[np.ix_(*clear)])


def _on_a_border(before, after):
    return (2 * np.arange(after) + 1) * before % (2 * after) == 0


def test_images_of_a_chunk_keep_their_own_sizes_and_values():
    values = torch.stack([torch.full((16, 16), float(number)) for number in range(3)])
    inner = [(16, 16), (12, 16), (8, 9)]
    sizes = [(16, 16), (24, 32), (5, 6)]
    for number, found in enumerate(restore_on_device(values, inner, sizes, "bilinear")):
        assert found.shape == sizes[number]
        assert np.allclose(found, number, atol=1e-5)


@pytest.fixture
def brightness():
    """A detector that gives the mean of the colours."""
    return DenseDetector(
        name="brightness",
        forward=lambda pixels: pixels.mean(dim=1) / 255,
        to_prediction=EdgeStrength,
        device=torch.device("cpu"),
        budget=Budget("brightness", 1 << 20),
        detect_size=64,
        multiple=32,
    )


def test_a_circle_stays_a_circle(brightness):
    """Row 2: nothing is stretched on the way to the network and back."""
    import cv2

    image = np.zeros((70, 150, 3), np.uint8)
    cv2.circle(image, (75, 35), 25, (255, 255, 255), -1)
    (found,) = brightness([image])
    rows, columns = (np.flatnonzero((found.strength > 0.5).any(axis=axis)) for axis in (1, 0))
    assert abs(len(rows) - 51) <= 2
    assert abs(len(columns) - 51) <= 2
