"""Random strokes: off by default, decided by seed and image alone, recorded with the map."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from condkit.annotators import load
from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.annotators.registry import get_condition
from condkit.annotators.scribble import RidgeParams, ThresholdParams
from condkit.annotators.strokes import (
    AugmentParams,
    StrokeStyle,
    draw_style,
    grown,
    masked,
    random_strokes,
    ridges,
    widened,
    without_specks,
)
from condkit.errors import ConfigError
from condkit.predictions import EdgeStrength
from condkit.runtime import Runtime
from condkit.weights import WeightStore

DETECTORS = get_condition("scribble").detectors
CANVAS = 512
DRAWN = {"threshold", "nms", "morphology", "width", "masked"}


def _draws(seed=0):
    return np.random.default_rng(seed)


def _scene(height=96, width=128, seed=0):
    image = np.full((height, width, 3), (200, 180, 90), np.uint8)
    for _ in range(4):
        seed += 1
        x, y = _draws(seed).integers(8, (width - 8, height - 8)).tolist()
        cv2.circle(image, (x, y), 8, (20, 10 * seed % 250, 60), -1)
    cv2.line(image, (2, height - 9), (width - 3, height // 2), (0, 0, 0), 3)
    return image


def _arcs():
    """Edge strength of far apart lines in all directions, as soft as HED's."""
    return cv2.GaussianBlur(_outline(3), (0, 0), 2.0) * np.float32(255)


def _outline(thickness):
    outline = np.zeros((CANVAS, CANVAS), np.float32)
    cv2.circle(outline, (256, 256), 180, 1.0, thickness)
    cv2.line(outline, (170, 200), (340, 310), 1.0, thickness)
    return outline


def _style(**changes):
    plain = {"threshold": 30.0, "nms": True, "morphology": 0.0, "width": 8.0, "masked": 0.0}
    return StrokeStyle(**(plain | changes))


def _widths(pixels):
    """Twice the distance to the background, less a pixel, along the middle of `_arcs`."""
    inside = cv2.distanceTransform(pixels, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    near = cv2.dilate(inside, np.ones((3, 3), np.uint8))
    size = (pixels.shape[1], pixels.shape[0])
    middle = cv2.resize(_outline(1), size, interpolation=cv2.INTER_NEAREST) > 0
    return 2 * near[middle & (near > 0)] - 1


@pytest.fixture
def annotator(random_store):
    """Augmented scribbles of a detector."""

    def make(detector, seed=None, **changes):
        own = {"detector": detector, "augment": True, **changes}
        if detector == "xdog":
            own.setdefault("threshold_range", (4, 8))
        else:
            # Whatever random weights see has ridges above nothing.
            own.setdefault("strength_range", (0, 0))
        plan = plan_annotation(
            ["scribble"], {f"scribble.{k}": v for k, v in own.items()}, detect_size=64, seed=seed
        )
        store = random_store(detector)
        return Annotator(plan, Runtime(device="cpu", dtype="fp32", store=store))

    return make


@pytest.fixture
def random_store(random_store):
    """The suite's, with a store of nothing for detectors without weights."""
    return lambda name: WeightStore(offline=True) if name == "xdog" else random_store(name)


# Through the annotator, with each detector.


@pytest.mark.parametrize("detector", DETECTORS)
def test_strokes_depend_on_seed_and_image_and_not_on_batch_or_order(detector, annotator):
    images = [_scene(), _scene(80, 97, seed=7), _scene(seed=3)]
    with annotator(detector, seed=4) as made:
        together = [maps["scribble"] for maps in made(images)]
        backwards = [maps["scribble"] for maps in made(images[::-1])][::-1]
        alone = [made([image])[0]["scribble"] for image in images]
    for one, other, third in zip(together, backwards, alone, strict=True):
        assert one.pixels.any()
        assert one.facts == other.facts == third.facts
        assert np.array_equal(one.pixels, other.pixels)
        assert np.array_equal(one.pixels, third.pixels)
    assert len({drawn.facts["width"] for drawn in together}) == len(images)


@pytest.mark.parametrize("detector", DETECTORS)
def test_another_seed_gives_other_strokes(detector, annotator):
    image = _scene()
    drawn = []
    for seed in (0, 1):
        with annotator(detector, seed=seed) as made:
            drawn.append(made([image])[0]["scribble"])
    assert drawn[0].facts["width"] != drawn[1].facts["width"]
    assert not np.array_equal(drawn[0].pixels, drawn[1].pixels)


@pytest.mark.parametrize("detector", DETECTORS)
def test_what_was_drawn_is_recorded_and_lies_in_the_ranges(detector, annotator):
    with annotator(detector) as made:
        params = made.plan.conditions[0].render_params
        maps = [maps["scribble"] for maps in made([_scene(seed=s) for s in range(12)])]
    thresholds = params.threshold_range if detector == "xdog" else params.strength_range
    for facts in (drawn.facts for drawn in maps):
        assert set(facts) == DRAWN | {"stroke_fraction"}
        assert thresholds[0] <= facts["threshold"] <= thresholds[1]
        assert params.width_range[0] <= facts["width"] <= params.width_range[1]
        assert params.masking_range[0] <= facts["masked"] <= params.masking_range[1]
        assert params.morphology_range[0] <= facts["morphology"] <= params.morphology_range[1]
    assert {drawn.facts["nms"] for drawn in maps} == {0, 1}


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (1, 70), (70, 1), (40, 56)])
def test_an_augmented_map_is_binary_at_any_size(detector, shape):
    renderer = get_condition("scribble").renderer(detector)
    for seed in range(4):
        found = EdgeStrength(_draws(seed).random(shape, dtype=np.float32))
        drawn = renderer.render(found, renderer.params(augment=True), _draws(seed))
        assert drawn.pixels.shape == shape
        assert drawn.pixels.dtype == np.uint8
        assert set(np.unique(drawn.pixels)) <= {0, 255}


@pytest.mark.parametrize("detector", DETECTORS)
def test_nothing_found_gives_an_empty_map_with_its_facts(detector):
    renderer = get_condition("scribble").renderer(detector)
    found = EdgeStrength(np.zeros((40, 56), np.float32))
    drawn = renderer.render(found, renderer.params(augment=True), _draws())
    assert not drawn.pixels.any()
    assert set(drawn.facts) == DRAWN | {"stroke_fraction"}


@pytest.mark.parametrize("detector", DETECTORS)
def test_without_augment_no_seed_changes_a_map_and_nothing_else_is_recorded(detector):
    renderer = get_condition("scribble").renderer(detector)
    found = EdgeStrength(cv2.GaussianBlur(_draws(5).random((60, 80), np.float32), (0, 0), 3))
    params = renderer.params(seed=1)
    maps = [renderer.render(found, params, _draws(seed)) for seed in (0, 1)]
    assert np.array_equal(maps[0].pixels, maps[1].pixels)
    assert set(maps[0].facts) == {"stroke_fraction"}


def test_predictions_are_drawn_without_their_images_unless_the_strokes_are_random():
    image = _scene()
    plain = load("scribble", detector="xdog")
    (found,) = plain.predict([image])
    assert np.array_equal(plain.render([found])[0].pixels, plain(image))
    random = load("scribble", detector="xdog", augment=True)
    with pytest.raises(ConfigError, match="drawn at random"):
        random.render([found])
    assert np.array_equal(random.render([found], [image])[0].pixels, random(image))


# Each step.


@pytest.mark.parametrize("nms", [True, False])
@pytest.mark.parametrize("width", [1, 2, 3, 7.5, 12, 18, 24])
def test_strokes_are_as_wide_as_drawn_on_a_canvas_of_512(width, nms):
    pixels = random_strokes(_arcs(), 1.0, _style(width=float(width), nms=nms), _draws())
    measured = _widths(pixels)
    assert measured.size > 1000
    # A stroke is a whole number of pixels wide.
    assert np.percentile(measured, 99) <= width + 1
    if nms:
        assert np.percentile(measured, 1) >= width - 1.2


def test_random_widths_reach_from_1_to_24_pixels_on_a_canvas_of_512():
    levels, medians = _arcs(), []
    for seed in range(40):
        style = draw_style(AugmentParams(nms_share=1), (20, 40), _draws(seed))
        pixels = random_strokes(levels, 1.0, style, _draws(seed))
        medians.append(float(np.median(_widths(pixels))))
        assert abs(medians[-1] - style.width) <= 1.2
    assert 1 <= min(medians) < 4
    assert 20 < max(medians) <= 24


def test_widths_grow_with_the_short_side():
    levels = _arcs()
    large = cv2.resize(levels, (1024, 1024), interpolation=cv2.INTER_CUBIC)
    small, wide = (
        float(np.median(_widths(random_strokes(x, 1.0, _style(width=12.0), _draws()))))
        for x in (levels, large)
    )
    assert wide == pytest.approx(2 * small, abs=2)


@given(
    st_numpy.arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20))),
    st.floats(0, 1),
    st.integers(0, 9),
)
def test_masking_only_removes_and_removes_the_share_asked_for(lines, share, seed):
    left = masked(lines, share, _draws(seed))
    assert not (left & ~lines).any()
    assert abs((lines.sum() - left.sum()) - share * lines.sum()) <= 0.5 + 1e-6


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1), st.integers(0, 50), st.booleans(), st.floats(1, 24))
def test_masked_strokes_lie_within_the_unmasked_ones(share, seed, nms, width):
    levels = cv2.resize(_arcs(), (128, 128), interpolation=cv2.INTER_AREA)
    whole, part = (
        random_strokes(levels, 1.0, _style(masked=m, nms=nms, width=width), _draws(seed))
        for m in (0.0, share)
    )
    assert whole.any()
    assert (part <= whole).all()


def test_masking_takes_patches_away_and_not_single_pixels():
    lines = ridges(_arcs()) & (_arcs() > 30)
    left = masked(lines, 0.5, _draws(2))
    pieces = cv2.connectedComponents(left.astype(np.uint8))[0] - 1
    assert left.sum() / pieces > 15


@given(st_numpy.arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20))), st.floats(0, 9))
def test_a_pen_covers_what_lies_within_half_its_width(lines, width):
    drawn = widened(lines, width)
    assert (drawn >= lines).all()
    rows, columns = np.indices(lines.shape)
    on = np.argwhere(lines)
    nearest = np.full(lines.shape, np.inf)
    for row, column in on:
        nearest = np.minimum(nearest, np.hypot(rows - row, columns - column))
    reach = max(0.5, width / 2)
    near_the_rim = np.abs(nearest - reach) < 1e-3
    assert np.array_equal((nearest < reach) | near_the_rim, drawn | near_the_rim)


@given(
    st_numpy.arrays(
        np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(0, 1)
    ),
    st.floats(-3, 3),
)
def test_edges_grow_above_zero_and_shrink_below(levels, radius):
    changed = grown(levels, radius)
    if abs(radius) <= 0.5:
        assert np.array_equal(changed, levels)
    elif radius > 0:
        assert (changed >= levels).all()
    else:
        assert (changed <= levels).all()


@pytest.mark.parametrize("angle", range(0, 180, 15))
def test_non_maximum_suppression_leaves_one_pixel_across_a_ridge(angle):
    rows, columns = np.indices((61, 61)) - 30
    turned = np.deg2rad(angle + 0.7)
    away = rows * np.cos(turned) - columns * np.sin(turned)
    lines = ridges(np.exp(-(away**2) / 18).astype(np.float32))[3:-3, 3:-3]
    across = lines.sum(axis=0 if abs(np.cos(turned)) >= abs(np.sin(turned)) else 1)
    assert across.max() <= 2
    assert np.mean(across == 1) > 0.9
    assert (np.abs(away[3:-3, 3:-3][lines]) <= 1).all()


def test_a_flat_surface_has_no_ridge():
    for shape in ((1, 1), (1, 9), (9, 1), (20, 30)):
        assert not ridges(np.full(shape, 200, np.float32)).any()


def test_without_suppression_edges_keep_their_own_width_up_to_the_pens():
    bar = np.zeros((CANVAS, CANVAS), np.float32)
    bar[100:130, 50:450] = 255
    bar = cv2.GaussianBlur(bar, (0, 0), 3)
    free = random_strokes(bar, 1.0, _style(threshold=127.0, nms=False, width=24.0), _draws())
    assert 22 <= (free[:, 250] > 0).sum() <= 24
    narrow = _arcs()
    kept = random_strokes(narrow, 1.0, _style(threshold=127.0, nms=False, width=24.0), _draws())
    assert np.percentile(_widths(kept), 99) < 12


def test_grain_is_no_stroke():
    lines = np.zeros((40, 40), bool)
    lines[5, 5:8] = lines[20, 2:30] = True
    assert without_specks(lines, 12).sum() == 28
    assert np.array_equal(without_specks(lines, 1), lines)


@given(st.integers(0, 2**32), st.floats(0, 1))
def test_a_style_is_drawn_number_by_number(seed, share):
    """One range changes nothing in what the others give."""
    whole = draw_style(AugmentParams(), (48, 160), _draws(seed))
    other = draw_style(
        AugmentParams(masking_range=(share, share), nms_share=1), (48, 160), _draws(seed)
    )
    assert (other.threshold, other.width) == (whole.threshold, whole.width)
    assert other.morphology == whole.morphology
    assert other.nms
    assert other.masked == pytest.approx(share)


def test_suppression_is_as_frequent_as_asked():
    params = AugmentParams(nms_share=0.25)
    found = [draw_style(params, (0, 1), _draws(seed)).nms for seed in range(400)]
    assert 0.18 < np.mean(found) < 0.32


# Settings.


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"seed": -1}, "scribble.seed: expected at least 0"),
        ({"augment": "true", "width_range": "24,1"}, "scribble.width_range: expected two numbers"),
        ({"augment": "true", "width_range": "0,24"}, "from 1 to 512, got 0.0 and 24.0"),
        ({"augment": "true", "masking_range": "0,1.5"}, "scribble.masking_range"),
        ({"augment": "true", "morphology_range": "-99,0"}, "scribble.morphology_range"),
        ({"augment": "true", "nms_share": 2}, "scribble.nms_share: expected 0 to 1"),
        ({"augment": "true", "strength_range": "-1,9"}, "scribble.strength_range"),
        ({"augment": "true", "strength": 90}, "scribble.strength: expected to be left out"),
        ({"augment": "true", "thickness": 2}, "scribble.thickness: expected to be left out"),
        ({"width_range": "1,12"}, "scribble.width_range: expected to be left out"),
        ({"nms_share": 1}, "scribble.nms_share: expected to be left out"),
        ({"strength_range": "9,10"}, "with scribble.augment=false"),
        ({"detector": "xdog", "augment": "true", "threshold": 9}, "scribble.threshold: expected"),
        ({"detector": "xdog", "threshold_range": "9,10"}, "scribble.threshold_range: expected"),
        (
            {"detector": "xdog", "augment": "true", "threshold_range": "9,255"},
            "from 0 to 254, got 9.0 and 255.0",
        ),
    ],
)
def test_impossible_or_idle_settings_are_refused(given_settings, message):
    with pytest.raises(ConfigError, match=message):
        plan_annotation(["scribble"], {f"scribble.{k}": v for k, v in given_settings.items()})


def test_ranges_are_given_as_text_or_numbers():
    for pair in ("2,5", [2, 5], (2.0, 5.0)):
        plan = plan_annotation(
            ["scribble"], {"scribble.augment": True, "scribble.width_range": pair}
        )
        assert plan.conditions[0].render_params.width_range == (2.0, 5.0)


def test_the_ranges_hold_the_public_values_and_the_published_width():
    assert AugmentParams().width_range == (1, 24)
    for params, name in ((RidgeParams(), "strength"), (ThresholdParams(), "threshold")):
        first, last = getattr(params, f"{name}_range")
        assert first < getattr(params, name) < last
    assert AugmentParams().augment is False
