"""Soft edges and scribbles, drawn as the public maps were."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from condkit.annotators import load
from condkit.annotators.annotator import plan_annotation
from condkit.annotators.nets.aux_networks import network_class
from condkit.annotators.scribble import RidgeParams, ridge_strokes
from condkit.annotators.softedge import to_levels
from condkit.errors import ConfigError

STRENGTHS = st_numpy.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(0, 1, width=32)
)


def _blobs(seed):
    noise = np.random.default_rng(seed).random((80, 112), dtype=np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    low, high = smooth.min(), smooth.max()
    return (smooth - low) / (high - low)


@given(STRENGTHS)
def test_levels_are_truncated_and_keep_the_order(strength):
    levels = to_levels(strength)
    assert levels.dtype == np.uint8
    assert (levels <= strength * 255).all()
    assert (levels + 1.001 > strength * 255).all()


@given(STRENGTHS)
def test_safe_levels_are_three_and_are_controlnet_auxs(strength):
    levels = to_levels(strength, safe=True)
    assert set(np.unique(levels)) <= {0, 127, 255}
    stepped = network_class("util", "safe_step")(strength)
    assert np.array_equal(levels, (stepped * 255.0).clip(0, 255).astype(np.uint8))


def test_safe_levels_change_at_a_third_and_two_thirds():
    strength = np.array([[0, 0.33, 0.34, 0.66, 0.67, 1]], np.float32)
    assert to_levels(strength, safe=True).tolist() == [[0, 0, 127, 127, 255, 255]]


@pytest.mark.parametrize("seed", range(4))
def test_ridge_strokes_are_controlnet_auxs_scribbles(seed):
    levels = to_levels(_blobs(seed))
    theirs = cv2.GaussianBlur(network_class("util", "nms")(levels, 127, 3.0), (0, 0), 3.0)
    theirs = np.where(theirs > 4, 255, 0)
    assert theirs.any()
    assert np.array_equal(ridge_strokes(levels, RidgeParams()), theirs)


@settings(max_examples=25)
@given(STRENGTHS)
def test_ridge_strokes_are_binary_at_any_size(strength):
    strokes = ridge_strokes(to_levels(strength), RidgeParams(strength=0))
    assert strokes.shape == strength.shape
    assert set(np.unique(strokes)) <= {0, 255}


def test_xdog_draws_what_is_darker_than_around_it():
    image = np.full((64, 96, 3), 230, np.uint8)
    image[30:33, 10:80] = 20
    image[45:48, 10:80] = 255
    scribble = load("scribble", detector="xdog")(image)
    assert (scribble[31, 20:70] == 255).all()
    assert not scribble[46, 20:70].any()
    assert not scribble[:15].any()


def test_xdog_is_the_public_formula_where_that_does_not_wrap(shapes):
    soft = (shapes // 4 + 96).astype(np.uint8)
    fine = cv2.GaussianBlur(soft.astype(np.float32), (0, 0), 0.5)
    coarse = cv2.GaussianBlur(soft.astype(np.float32), (0, 0), 5.0)
    darker = np.clip(np.min(coarse - fine, axis=2), 0, 255)
    assert 16 < darker.max() < 127
    for threshold in (8, 16, 32):
        scribble = load("scribble", detector="xdog", threshold=threshold)(soft)
        assert np.array_equal(scribble > 0, 2 * darker > threshold)


def test_xdogs_boldest_strokes_have_no_holes():
    image = np.full((41, 41, 3), 255, np.uint8)
    image[20, :] = 0
    assert (load("scribble", detector="xdog")(image)[20] == 255).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scribble.strength": 255}, "scribble.strength: expected 0 to 254, got 255"),
        ({"scribble.thickness": 0}, "scribble.thickness: expected more than 0 pixels"),
        ({"scribble.detector": "xdog", "scribble.threshold": -1}, "expected 0 to 254, got -1"),
        ({"scribble.detector": "xdog", "xdog.sigma_fine": 6}, "expected 0 < fine < coarse"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        plan_annotation(["scribble"], settings)
