"""The score of a re-detected condition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from condkit.errors import MapError
from condkit.trainer.metrics import binarise, edge_f1

masks = arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))
pairs = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: st.tuples(arrays(np.bool_, shape), arrays(np.bool_, shape))
)


@given(masks)
def test_a_map_equals_itself(mask):
    assert edge_f1(mask, mask) == 1.0


@given(arrays(np.bool_, (10, 12)), st.sampled_from([-1, 0, 1]), st.sampled_from([-1, 0, 1]))
def test_one_pixel_beside_is_still_right(mask, dy, dx):
    inner = np.zeros_like(mask)
    inner[1:-1, 1:-1] = mask[1:-1, 1:-1]
    assert edge_f1(np.roll(inner, (dy, dx), (0, 1)), inner) == 1.0


@given(pairs)
def test_the_roles_may_be_exchanged(pair):
    one, other = pair
    score = edge_f1(one, other)
    assert score == pytest.approx(edge_f1(other, one))
    assert 0.0 <= score <= 1.0


@given(pairs)
def test_mirroring_both_changes_nothing(pair):
    one, other = pair
    assert edge_f1(one[:, ::-1], other[:, ::-1]) == pytest.approx(edge_f1(one, other))


@given(pairs)
def test_more_tolerance_never_lowers_the_score(pair):
    assert edge_f1(*pair, tolerance=2) >= edge_f1(*pair, tolerance=1) - 1e-12


def test_two_pixels_beside_is_wrong_and_borders_do_not_wrap():
    one, other = np.zeros((5, 9), bool), np.zeros((5, 9), bool)
    one[2, 2], other[2, 4] = True, True
    assert edge_f1(one, other) == 0.0
    left, right = np.zeros((5, 9), bool), np.zeros((5, 9), bool)
    left[2, 0], right[2, 8] = True, True
    assert edge_f1(left, right) == 0.0


def test_empty_maps():
    empty, line = np.zeros((4, 4), bool), np.eye(4, dtype=bool)
    assert edge_f1(empty, empty) == 1.0
    assert edge_f1(empty, line) == edge_f1(line, empty) == 0.0


def test_a_known_score():
    condition, predicted = np.zeros((3, 10), bool), np.zeros((3, 10), bool)
    condition[1, :8] = True
    predicted[1, :4] = True
    # Precision 1; five of eight condition pixels lie within one pixel of a predicted one.
    assert edge_f1(predicted, condition) == pytest.approx(2 * 0.625 / 1.625)


def test_more_than_half_of_the_range_is_an_edge():
    assert binarise(np.array([[0, 127, 128, 255]], np.uint8)).tolist() == [
        [False, False, True, True]
    ]
    assert binarise(np.array([[32767, 32768]], np.uint16)).tolist() == [[False, True]]
    colour = np.zeros((1, 2, 3), np.uint8)
    colour[0, 1] = (0, 0, 200)
    assert binarise(colour).tolist() == [[False, True]]


def test_what_is_no_pair_of_maps_is_refused():
    with pytest.raises(MapError, match="one size"):
        edge_f1(np.zeros((2, 3), bool), np.zeros((3, 2), bool))
    with pytest.raises(MapError, match="uint8 or uint16"):
        binarise(np.zeros((2, 2), np.float32))
