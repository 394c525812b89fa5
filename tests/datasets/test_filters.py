"""Filters: what each limit leaves out, and what it says."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condkit import geometry, imageio
from condkit.annotators.registry import available_conditions, get_condition
from condkit.datasets.filters import EDGE_LIKE, Filters, FilterSettings, read_filters
from condkit.datasets.measures import chroma, edge_density, is_one_value, sharpness
from condkit.errors import ConfigError, MapError, UnknownNameError
from condkit.types import ConditionMap


def _filters(*words):
    return Filters(read_filters(words))


def _map(condition, pixels, **facts):
    return ConditionMap(pixels, get_condition(condition).spec, facts)


def _edges(share):
    pixels = np.zeros((100, 100), np.uint8)
    pixels.reshape(-1)[: round(share * 10_000)] = 255
    return pixels


PHOTO = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
EVERYTHING_OFF = Filters()


# Reading and checking.


def test_nothing_is_on_by_default():
    assert FilterSettings().as_dict() == {}
    blank = np.zeros((1, 9, 3), np.uint8)
    assert EVERYTHING_OFF.of_source((1, 9)).reason is None
    assert EVERYTHING_OFF.of_picture(blank).reason is None
    assert EVERYTHING_OFF.of_caption([""]).reason is None
    maps = {"lines": _map("lines", blank[:, :, 0], lines=0)}
    verdict = EVERYTHING_OFF.of_maps(maps)
    assert verdict.reason is None
    assert verdict.scores == {}
    EVERYTHING_OFF.check(["canny"])


def test_words_become_limits_and_the_last_one_wins():
    read = read_filters(["min_side=256", "min_side=512", "max_aspect=2", "drop_empty=yes"])
    assert read == FilterSettings(min_side=512, max_aspect=2.0, drop_empty=True)
    assert json.loads(json.dumps(read.as_dict())) == {
        "min_side": 512,
        "max_aspect": 2.0,
        "drop_empty": True,
    }


def test_a_word_can_switch_a_recipes_limit_off():
    base = {"min_side": 512, "drop_empty": True, "min_words": 3}
    read = read_filters(["min_side=none", "drop_empty=none"], base)
    assert read == FilterSettings(min_words=3)
    assert base == {"min_side": 512, "drop_empty": True, "min_words": 3}


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["min_side"], ConfigError, "expected NAME=VALUE"),
        (["=3"], ConfigError, "expected NAME=VALUE"),
        (["min_sides=3"], UnknownNameError, "did you mean 'min_side'"),
        (["min_side=many"], ConfigError, "filters.min_side: expected a whole number"),
        (["min_side=0"], ConfigError, "filters.min_side: expected at least 1 pixel"),
        (["min_keypoints=30"], ConfigError, "filters.min_keypoints: expected 0 to 1, got 30"),
        (["near_duplicates=11"], ConfigError, "expected 0 to 10 bits, got 11"),
        (["min_words=5", "max_words=4"], ConfigError, "min_words <= max_words, got 5 and 4"),
        (["max_aspect=0.5"], ConfigError, "at least 1, got 0.5"),
        (["max_aspect=nan"], ConfigError, "at least 1, got nan"),
        (["grey_tolerance=256"], ConfigError, "0 to 255 levels"),
    ],
)
def test_a_mistake_is_refused_by_name(words, error, message):
    with pytest.raises(error, match=message):
        read_filters(words)


@pytest.mark.parametrize("field", dataclasses.fields(FilterSettings), ids=lambda field: field.name)
def test_every_limit_is_explained(field):
    assert f"\n        {field.name}: " in FilterSettings.__doc__


def test_the_page_describes_every_filter_and_no_other():
    page = (Path(__file__).parents[2] / "docs" / "filters.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| .* \|$", page.partition("# Build")[0], re.M)
    named = [name.strip(" `") for row in rows for name in row.split(",")]
    assert named == list(dict.fromkeys(named))
    assert set(named) == {field.name for field in dataclasses.fields(FilterSettings)}


@pytest.mark.parametrize(
    ("word", "made", "given", "message"),
    [
        ("min_lines=17", ["canny"], [], "needs the condition 'lines'"),
        ("min_lines=17", [], [], "makes none"),
        ("min_keypoints=0.3", ["depth"], [], "needs the condition 'openpose'"),
        ("max_persons=3", ["hands"], [], "needs the condition 'openpose'"),
        ("max_edge_density=0.2", ["depth"], [], "needs an edge condition"),
        ("min_lines=17", ["lines"], ["lines"], "come without counts"),
    ],
)
def test_a_limit_that_nothing_feeds_is_refused(word, made, given, message):
    with pytest.raises(ConfigError, match=message):
        _filters(word).check(made, given)


def test_a_limit_that_something_feeds_is_accepted():
    _filters("min_lines=17").check(["canny", "lines"], ["canny"])
    _filters("min_edge_density=0.01").check(["scribble"], ["scribble"])
    _filters("min_persons=1", "min_whole_body=0.3").check(["openpose"])


def test_a_share_of_the_whole_body_that_cannot_be_reached_is_refused():
    alone = {"openpose": {"detector_params": {"body": True, "hands": False, "face": False}}}
    whole = {"openpose": {"detector_params": {"body": True, "hands": True, "face": True}}}
    filters = _filters("min_whole_body=0.3")
    filters.check(whole)
    with pytest.raises(ConfigError, match="only 18 are looked for"):
        filters.check(alone)


@pytest.mark.parametrize("name", EDGE_LIKE)
def test_edge_conditions_are_black_with_one_channel(name):
    spec = get_condition(name).spec
    assert name in available_conditions()
    assert (spec.channels, spec.background) == (1, 0)


# The original's size.


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(1, 9000), st.floats(1, 9))
def test_sides_and_aspect_are_those_of_the_original(height, width, side, aspect):
    short, long = sorted((height, width))
    hw = (height, width)
    assert (_filters(f"min_side={side}").of_source(hw).reason is None) == (short >= side)
    assert (_filters(f"max_side={side}").of_source(hw).reason is None) == (long <= side)
    lean = Filters(FilterSettings(max_aspect=aspect)).of_source(hw)
    assert (lean.reason is None) == (long / short <= aspect)


@pytest.mark.parametrize(
    ("word", "hw", "reason"),
    [
        ("min_side=512", (511, 700), "has 700x511 pixels (width x height); its short side is below "
         "min_side=512"),
        ("max_side=512", (513, 400), "above max_side=512"),
        ("max_aspect=2", (100, 201), "2.01 times its short one, above max_aspect=2"),
        ("max_aspect=2", (10_000, 20_001), "2.0001 times"),
        ("min_megapixels=1", (999, 1001), "has 0.999999 megapixels, below min_megapixels=1"),
        ("max_megapixels=1.5", (2000, 1000), "has 2 megapixels, above max_megapixels=1.5"),
    ],
)  # fmt: skip
def test_a_reason_names_the_value_and_the_limit(word, hw, reason):
    assert reason in _filters(word).of_source(hw).reason


# The picture.


def test_blur_lowers_sharpness_and_leaves_a_picture_out():
    photo = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (300, 300, 3), np.uint8),
                             (0, 0), 1)  # fmt: skip
    blurred = cv2.GaussianBlur(photo, (0, 0), 4)
    assert sharpness(photo) > 100 * sharpness(blurred)
    filters = _filters("min_sharpness=20")
    assert filters.of_picture(photo).reason is None
    verdict = filters.of_picture(blurred)
    assert verdict.scores == {"sharpness": sharpness(blurred)}
    assert "below min_sharpness=20" in verdict.reason


def test_sharpness_is_the_variance_of_the_laplacian():
    grey = np.zeros((5, 5), np.uint8)
    grey[2, 2] = 100
    image = np.repeat(grey[:, :, None], 3, axis=2)
    expected = np.zeros((5, 5))
    expected[2, 2] = -400
    expected[[1, 3, 2, 2], [2, 2, 1, 3]] = 100
    assert sharpness(image) == pytest.approx(expected.var())


def test_sharpness_is_measured_at_one_size_in_large_pictures():
    photo = np.random.default_rng(3).integers(0, 256, (1024, 2048, 3), np.uint8)
    half = geometry.resize(photo, (512, 1024), "area")
    assert sharpness(photo) == sharpness(half)


def test_real_photographs_are_sharp_and_their_blurred_copies_are_not(assets):
    names = ("coral_cat_1080p.jpg", "cn11_girls.jpg", "t2i_people.jpg", "sv_2.jpg", "cn_toy.png")
    for name in names:
        photo = geometry.fit_square(imageio.decode(assets / "photos" / name).image, 512)[0]
        assert sharpness(photo) > 50, name
        assert sharpness(cv2.GaussianBlur(photo, (0, 0), 2)) < 20, name


def test_grey_pictures_are_left_out_and_faintly_coloured_ones_are_not():
    grey = np.repeat(PHOTO[:, :, :1], 3, axis=2)
    tint = np.array([0, 3, 5])
    noisy = np.clip(grey.astype(int) + tint, 0, 255).astype(np.uint8)
    stamped = grey.copy()
    stamped[:8, :8] = (255, 0, 0)  # 1.25 % of the pixels
    filters = _filters("grey_tolerance=8")
    assert "is grey" in filters.of_picture(grey).reason
    assert "at most 5 levels" in filters.of_picture(noisy).reason
    assert filters.of_picture(stamped).reason is None
    assert filters.of_picture(PHOTO).reason is None


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40))
def test_chroma_is_the_level_that_99_per_cent_stay_within(seed, height, width):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    spread = np.ptp(image.astype(int), axis=2)
    value = chroma(image)
    assert (spread <= value).mean() >= 0.99
    assert value == 0 or (spread <= value - 1).mean() < 0.99


def test_real_grey_pictures_are_found(assets):
    filters = _filters("grey_tolerance=8")
    for name, grey in (("cn11_wolf.jpg", True), ("cn11_anime1.png", True), ("cn_man.png", False)):
        image = imageio.decode(assets / "photos" / name).image
        assert (filters.of_picture(image).reason is not None) == grey, name


# Captions.


@pytest.mark.parametrize(
    ("word", "texts", "reason"),
    [
        ("min_words=3", ["a dog"], "its caption has 2 words, below min_words=3"),
        ("min_words=3", ["a red dog", "dog"], "caption 2 has 1 words, below min_words=3"),
        ("max_words=2", ["a red dog"], "its caption has 3 words, above max_words=2"),
        ("min_chars=6", ["  dogs  "], "its caption has 4 characters, below min_chars=6"),
        ("max_chars=3", ["dogs"], "above max_chars=3"),
        ("min_chars=1", [" \t"], "has 0 characters"),
    ],
)
def test_a_caption_outside_the_limits_is_named(word, texts, reason):
    assert reason in _filters(word).of_caption(texts).reason


def test_a_caption_within_the_limits_is_scored():
    verdict = _filters("min_words=2", "max_chars=20").of_caption([" ein Häuschen ", "drei kleine"])
    assert verdict.reason is None
    assert verdict.scores == {"caption_words": 2.0, "caption_chars": 12.0}


# Maps.


def test_an_empty_map_is_left_out_whatever_its_condition():
    filters = _filters("drop_empty=true")
    for name in available_conditions():
        spec = get_condition(name).spec
        shape = (9, 11) if spec.channels == 1 else (9, 11, spec.channels)
        pixels = np.full(shape, spec.background, spec.dtype)
        assert f"its {name} map is empty" in filters.of_maps({name: _map(name, pixels)}).reason
        pixels = pixels.copy()
        pixels.reshape(9, 11, -1)[4, 5] = 200
        assert filters.of_maps({name: _map(name, pixels)}).reason is None


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([0, 1, 3]), st.integers(0, 2**32))
def test_one_value_means_that_all_pixels_are_alike(height, width, channels, seed):
    shape = (height, width) if channels == 0 else (height, width, channels)
    pixels = np.random.default_rng(seed).integers(0, 2, shape, np.uint8)
    colours = {tuple(np.atleast_1d(pixel)) for row in pixels for pixel in row}
    assert is_one_value(pixels) == (len(colours) == 1)


@pytest.mark.parametrize("name", EDGE_LIKE)
def test_edge_density_is_the_share_of_stroke_pixels(name):
    assert edge_density(_edges(0.07)) == pytest.approx(0.07)
    filters = _filters("min_edge_density=0.05", "max_edge_density=0.1")
    verdicts = [filters.of_maps({name: _map(name, _edges(share))}) for share in (0.01, 0.07, 0.2)]
    assert "below min_edge_density=0.05" in verdicts[0].reason
    assert f"an edge density of 0.01 in its {name} map" in verdicts[0].reason
    assert verdicts[1].reason is None
    assert "above max_edge_density=0.1" in verdicts[2].reason
    assert verdicts[1].scores == {f"edge_density.{name}": pytest.approx(0.07)}


def test_depth_has_no_edge_density():
    depth = np.full((10, 10), 255, np.uint8)
    assert _filters("max_edge_density=0.1").of_maps({"depth": _map("depth", depth)}).scores == {}


@pytest.mark.parametrize(
    ("word", "condition", "facts", "left_out"),
    [
        ("min_lines=17", "lines", {"lines": 16}, "has 16 straight lines, below min_lines=17"),
        ("min_lines=17", "lines", {"lines": 17}, None),
        ("min_persons=1", "openpose", {"persons": 0}, "has 0 persons, below min_persons=1"),
        ("max_persons=2", "openpose", {"persons": 3}, "has 3 persons, above max_persons=2"),
        ("min_keypoints=0.3", "openpose", {"body_share": 5 / 18}, "0.278 of a body's 18 joints"),
        ("min_keypoints=0.3", "openpose", {"body_share": 6 / 18}, None),
        ("min_whole_body=0.3", "openpose", {"whole_body_share": 38 / 130}, "130 points"),
        ("min_whole_body=0.3", "openpose", {"whole_body_share": 39 / 130}, None),
    ],
)
def test_counts_are_held_against_the_limits(word, condition, facts, left_out):
    shape = (8, 8) if condition == "lines" else (8, 8, 3)
    maps = {condition: _map(condition, np.zeros(shape, np.uint8), **facts)}
    verdict = _filters(word).of_maps(maps)
    assert (verdict.reason is None) == (left_out is None)
    assert left_out is None or left_out in verdict.reason
    assert list(verdict.scores.values()) == [float(value) for value in facts.values()]


def test_a_map_without_its_count_is_an_error_and_no_verdict():
    with pytest.raises(MapError, match="needs 'lines' with its fact 'lines'"):
        _filters("min_lines=1").of_maps({"lines": _map("lines", np.zeros((8, 8), np.uint8))})


def test_scores_are_floats_that_json_keeps_so():
    filters = _filters("min_sharpness=0", "grey_tolerance=0", "min_words=0", "min_lines=0")
    scores = {
        **filters.of_picture(PHOTO).scores,
        **filters.of_caption(["a dog"]).scores,
        **filters.of_maps({"lines": _map("lines", np.zeros((8, 8), np.uint8), lines=3)}).scores,
    }
    assert set(scores) == {"sharpness", "chroma", "caption_words", "lines"}
    again = json.loads(json.dumps(scores, allow_nan=False))
    assert all(type(value) is float for value in again.values())
