"""What is promised about sizes, batches and number formats over all detectors that are registered.

Each test holds the right behaviour for a defect that users of existing annotators have reported.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from condkit.annotators import load
from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.annotators.registry import (
    available_conditions,
    available_detectors,
    get_condition,
    get_detector,
)
from condkit.errors import ConfigError
from condkit.predictions import EdgeStrength
from condkit.runtime import Runtime
from condkit.weights import WeightStore

NETWORK_SIZE = 64
# Sides that others round to multiples of 64, stretch, or fail at; scaled down, as they are odd in
# the same way at any working size.
SIZES = [(640, 480), (480, 640), (700, 600), (270, 270), (333, 517)]


def _scene(height, width):
    image = np.full((height, width, 3), (210, 190, 90), np.uint8)
    cv2.rectangle(image, (width // 8, height // 8), (width // 2, height // 2), (20, 40, 190), -1)
    cv2.circle(image, (3 * width // 4, height // 3), height // 5, (220, 30, 40), -1)
    return image


def _way(detector):
    """The first condition that a detector feeds, and what the condition calls it."""
    for name in available_conditions():
        for renderer in get_condition(name).renderers:
            if renderer.detector == detector:
                return name, renderer.choice
    raise AssertionError(f"{detector} feeds no condition")


def _store(detector, request):
    if not get_detector(detector).spec.weights:
        return WeightStore(offline=True)
    return request.getfixturevalue("random_store")(detector)


@pytest.fixture(scope="module", params=available_detectors())
def maps_of(request):
    """A detector as a function from images to the maps of one condition."""
    detector = request.param
    name, choice = _way(detector)
    plan = plan_annotation([name], {f"{name}.detector": choice}, detect_size=NETWORK_SIZE)
    runtime = Runtime("cpu", "fp32", store=_store(detector, request))
    with Annotator(plan, runtime) as annotator:
        yield lambda images: [maps[name] for maps in annotator(images)]


def test_a_map_has_its_images_size(maps_of):
    """Rows 1 and 3: theirs are rounded to multiples of 64, or fail where they are not."""
    images = [_scene(*size) for size in SIZES]
    for image, drawn in zip(images, maps_of(images), strict=True):
        assert drawn.pixels.shape[:2] == image.shape[:2]


def test_two_images_may_be_given_at_once_and_keep_their_order(maps_of):
    """Row 28: theirs take one image per call."""
    images = [_scene(60, 80), np.full((50, 40, 3), 128, np.uint8)]
    together = maps_of(images)
    alone = [maps_of([image])[0] for image in images]
    for one, other in zip(together, alone, strict=True):
        assert one.pixels.shape == other.pixels.shape
        differ = np.abs(one.pixels.astype(int) - other.pixels) > 2
        assert differ.mean() < 0.02


@pytest.mark.parametrize("detector", available_detectors())
def test_a_detect_size_that_is_too_small_is_refused_before_anything_is_loaded(detector):
    """Row 4: theirs rounds a resolution of 30 to zero and fails inside OpenCV."""
    name, choice = _way(detector)
    settings = {f"{name}.detector": choice}
    if not hasattr(get_detector(detector).params(), "detect_size"):
        pytest.skip("it works at the image's own size")
    with pytest.raises(ConfigError, match=r"detect_size: expected .* got 0"):
        plan_annotation([name], settings, detect_size=0)


def test_a_detect_size_of_30_gives_a_map_of_the_images_size(request):
    """Row 4."""
    for detector in ("hed", "pidinet", "teed", "lineart"):
        name, choice = _way(detector)
        plan = plan_annotation([name], {f"{name}.detector": choice}, detect_size=30)
        runtime = Runtime("cpu", "fp32", store=_store(detector, request))
        with Annotator(plan, runtime) as annotator:
            assert annotator([_scene(600, 400)])[0][name].pixels.shape == (600, 400)


EDGES = [name for name in available_detectors() if get_detector(name).spec.yields is EdgeStrength]


@pytest.mark.parametrize("name", ["canny", "xdog", "standard"])
def test_a_circle_stays_a_circle(name):
    """Row 2: theirs rounds each side by itself, which stretches by up to six per cent."""
    image = np.full((307, 419, 3), 255, np.uint8)
    cv2.circle(image, (209, 153), 100, (0, 0, 0), 2)
    condition, choice = _way(name)
    pixels = load(condition, detector=choice)(image)
    rows, columns = (np.flatnonzero((pixels > 64).any(axis=axis)) for axis in (1, 0))
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 2


@pytest.mark.parametrize("name", available_conditions())
def test_a_grey_array_with_two_axes_is_an_image(name, request):
    """Row 6: theirs unpack three numbers from its shape."""
    condition = get_condition(name)
    chosen = next(
        (r for r in condition.renderers if not get_detector(r.detector).spec.weights), None
    )
    if chosen is None:
        pytest.skip("only networks feed it; `load` prepares images before any detector")
    pixels = load(name, detector=chosen.choice)(np.zeros((64, 48), np.uint8))
    assert pixels.shape[:2] == (64, 48)


@pytest.mark.parametrize("name", EDGES)
def test_edges_are_bright_on_black_whoever_finds_them(name):
    """Row 30: the meaning states the polarity, and nothing is where no edge is."""
    for condition in available_conditions():
        for renderer in get_condition(condition).renderers:
            if renderer.detector == name:
                spec = get_condition(condition).spec
                assert spec.background == 0
                assert any(word in spec.meaning for word in ("255", "white")), condition


@pytest.mark.parametrize("name", EDGES)
def test_bf16_edges_are_close_to_fp32(name, request):
    """Row 23: theirs turn every input to fp32, which a network in another format refuses."""
    if not get_detector(name).spec.weights:
        pytest.skip("no network")
    condition, choice = _way(name)
    plan = plan_annotation([condition], {f"{condition}.detector": choice}, detect_size=64)
    image = _scene(64, 96)
    found = []
    for dtype in ("fp32", "bf16"):
        annotator = Annotator(plan, Runtime("cpu", dtype, store=_store(name, request)))
        (prediction,) = annotator.predict([image])[0].by_detector.values()
        found.append(prediction.strength)
    # With random weights, which mean nothing: real ones are held to two levels elsewhere.
    assert np.abs(found[0] - found[1]).mean() <= 3 / 255
