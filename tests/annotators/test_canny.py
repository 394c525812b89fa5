from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condkit.annotators import load
from condkit.annotators.annotator import plan_annotation
from condkit.annotators.canny import CannyParams, detect
from condkit.errors import ConfigError


@pytest.mark.parametrize(
    ("thresholds", "arguments"),
    [
        ({}, (100, 200, None, 3, False)),
        ({"low": 20, "high": 60}, (20, 60, None, 3, False)),
        ({"aperture": 5, "low": 900, "high": 2000}, (900, 2000, None, 5, False)),
        ({"l2": True}, (100, 200, None, 3, True)),
    ],
)
def test_the_map_is_opencvs_canny_on_the_colour_image(thresholds, arguments, shapes):
    low, high, _, aperture, l2 = arguments
    expected = cv2.Canny(shapes, low, high, apertureSize=aperture, L2gradient=l2)
    assert expected.any()
    assert np.array_equal(load("canny", **thresholds)(shapes), expected)


def test_colours_of_equal_brightness_have_an_edge():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, :16] = (200, 0, 0)
    image[:, 16:] = (0, 102, 0)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    assert not cv2.Canny(grey, 100, 200).any()
    assert load("canny")(image).any()


def test_photographs_are_as_opencv_sees_them(photograph):
    for name in ("coral_parrot.jpg", "cn11_bedroom.jpg", "cn_house.png"):
        image = photograph(name, (320, 448))
        assert np.array_equal(load("canny")(image), cv2.Canny(image, 100, 200))


def _pictures(photograph):
    return [photograph(name, (120, 160)) for name in ("coral_parrot.jpg", "cn_house.png")]


def test_random_thresholds_are_recorded_and_are_those_of_the_map(shapes):
    for seed in range(8):
        (drawn,) = load("canny", random=True, seed=seed).annotate([shapes])
        low, high = drawn.facts["low"], drawn.facts["high"]
        assert np.array_equal(drawn.pixels, cv2.Canny(shapes, low, high))
        assert np.array_equal(drawn.pixels, load("canny", low=low, high=high)(shapes))


def test_random_thresholds_depend_on_seed_and_image_and_not_on_batch_or_order(shapes):
    images = [shapes, shapes[::-1].copy(), shapes[:50]]
    random = load("canny", random=True, seed=3)
    together, backwards = random.annotate(images), random.annotate(images[::-1])[::-1]
    alone = [random.annotate([image])[0] for image in images]
    for one, other, third in zip(together, backwards, alone, strict=True):
        assert one.facts == other.facts == third.facts
        assert np.array_equal(one.pixels, other.pixels)
        assert np.array_equal(one.pixels, third.pixels)
    assert len({drawn.facts["low"] for drawn in together}) == len(images)
    others = load("canny", random=True, seed=4).annotate(images)
    assert all(one.facts != other.facts for one, other in zip(together, others, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(0, 300), st.integers(0, 300)).map(sorted),
    st.tuples(st.integers(0, 600), st.integers(0, 600)).map(sorted),
    st.integers(0, 2**32),
)
def test_random_thresholds_lie_in_their_ranges_and_low_is_never_above_high(low, high, seed):
    high = [high[0], max(high[1], low[1])]
    params = CannyParams(random=True, low_range=tuple(low), high_range=tuple(high), seed=seed)
    image = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    facts = detect(image, params).facts
    assert low[0] <= facts["low"] <= low[1]
    assert max(high[0], facts["low"]) <= facts["high"] <= high[1]


def test_random_thresholds_use_their_whole_range_and_hold_the_public_ones():
    params = CannyParams(random=True)
    images = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 3), dtype=np.uint8)
    found = [detect(image, params).facts for image in images]
    for name in ("low", "high"):
        first, last = getattr(params, f"{name}_range")
        drawn = [facts[name] for facts in found]
        assert first <= min(drawn) < first + 30
        assert last - 15 < max(drawn) <= last
        assert first <= getattr(CannyParams(), name) <= last


def test_fixed_thresholds_record_nothing_and_follow_no_seed(shapes):
    one, other = (load("canny", seed=seed).annotate([shapes])[0] for seed in (0, 1))
    assert np.array_equal(one.pixels, other.pixels)
    assert set(one.facts) == {"edge_fraction"}


def test_the_seed_of_random_thresholds_follows_the_run():
    plan = plan_annotation(["canny"], {"canny.random": "true", "canny.low_range": "20,90"}, seed=7)
    assert plan.conditions[0].detector_params == CannyParams(
        random=True, low_range=(20, 90), seed=7
    )


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"canny.random": True, "canny.low": 50}, "canny.low: expected to be left out"),
        ({"canny.random": True, "canny.high": 250}, "canny.high: expected to be left out"),
        ({"canny.low_range": "1,2"}, "canny.low_range: expected to be left out"),
        ({"canny.random": True, "canny.low_range": "9,2"}, "canny.low_range: expected two numbers"),
        ({"canny.random": True, "canny.high_range": "-1,200"}, "canny.high_range: expected two"),
        ({"canny.random": True, "canny.high_range": "10,90"}, "expected to end at 150"),
        ({"canny.random": True, "canny.low_range": "5"}, "expected 2 values, got 1"),
        ({"canny.seed": -1}, "canny.seed: expected at least 0"),
    ],
)
def test_impossible_or_idle_settings_are_refused(given_settings, message):
    with pytest.raises(ConfigError, match=message):
        plan_annotation(["canny"], given_settings)


def test_random_maps_of_photographs_differ_in_density(photograph):
    for image in _pictures(photograph):
        drawn = [load("canny", random=True, seed=s).annotate([image])[0] for s in range(6)]
        shares = [each.facts["edge_fraction"] for each in drawn]
        assert max(shares) > 1.15 * min(shares) > 0
        assert set(np.unique(drawn[0].pixels)) == {0, 255}
