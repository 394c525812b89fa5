"""What every detector and every condition promises, whatever it is."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from condkit.annotators.annotator import Annotator, Predictions, plan_annotation
from condkit.annotators.base import field_names
from condkit.annotators.registry import (
    available_conditions,
    available_detectors,
    get_condition,
    get_detector,
)
from condkit.predictions import (
    ClassLabels,
    EdgeStrength,
    InverseDepth,
    LineSegments,
    MetricDepth,
    People,
    Segments,
    SourcePixels,
    SurfaceNormals,
)
from condkit.runtime import Runtime
from condkit.weights import WeightStore

NETWORK_SIZE = 64


def _noise(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _scene():
    image = np.full((60, 84, 3), (210, 190, 90), np.uint8)
    image[8:30, 10:44] = (20, 40, 190)
    image[40:43, :] = 0
    return image


IMAGES = {
    "scene": _scene(),
    "noise": _noise(1, 37, 53),
    "grey": np.repeat(_noise(2, 48, 40)[:, :, :1], 3, axis=2),
    "flat": np.full((40, 56, 3), 127, np.uint8),
    "black": np.zeros((33, 47, 3), np.uint8),
    "white": np.full((33, 47, 3), 255, np.uint8),
    "one pixel": np.full((1, 1, 3), 200, np.uint8),
    "3 x 5": _noise(3, 3, 5),
    "one pixel wide": _noise(4, 70, 1),
    "one pixel high": _noise(5, 1, 70),
    "very long": _noise(6, 1, 2000),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One detector, everything it feeds, and what it made of `IMAGES` in one batch."""

    detector: str
    annotator: Annotator
    conditions: list[str]
    before: list[np.ndarray]
    found: list[Predictions]

    def predictions(self, index):
        return list(self.found[index].by_detector.values())


@pytest.fixture(scope="module", params=available_detectors())
def run(request):
    """Each network runs only once over all images: that is slow."""
    detector = request.param
    ways = {
        name: renderer.choice
        for name in available_conditions()
        for renderer in reversed(get_condition(name).renderers)
        if renderer.detector == detector
    }
    fed, settings = list(ways), {f"{name}.detector": choice for name, choice in ways.items()}
    store = WeightStore(offline=True)
    if get_detector(detector).spec.weights:
        store = request.getfixturevalue("random_store")(detector)
    plan = plan_annotation(fed, settings, detect_size=NETWORK_SIZE)
    with Annotator(plan, Runtime(device="cpu", dtype="fp32", store=store)) as annotator:
        before = [image.copy() for image in IMAGES.values()]
        found = annotator.predict(list(IMAGES.values()))
        yield Run(detector, annotator, fed, before, found)


def test_every_detector_feeds_a_condition(run):
    assert run.conditions


def test_the_images_are_not_changed(run):
    for name, before in zip(IMAGES, run.before, strict=True):
        assert np.array_equal(IMAGES[name], before), name


def test_predictions_are_of_the_declared_class_finite_and_in_range(run):
    for index, (name, image) in enumerate(IMAGES.items()):
        for prediction in run.predictions(index):
            assert isinstance(prediction, get_detector(run.detector).spec.yields), name
            assert prediction.size_hw == image.shape[:2], name
            _assert_in_range(prediction, name)


def _assert_in_range(prediction, name):
    match prediction:
        case EdgeStrength(strength):
            assert np.isfinite(strength).all(), name
            assert strength.min() >= 0, name
            assert strength.max() <= 1, name
        case LineSegments(xyxy, score, (height, width)):
            assert (xyxy >= 0).all(), name
            assert (xyxy[:, [0, 2]] < width).all(), name
            assert (xyxy[:, [1, 3]] < height).all(), name
            assert ((score > 0) & (score <= 1)).all(), name
        case InverseDepth(values) | MetricDepth(values):
            assert np.isfinite(values).all(), name
        case SurfaceNormals(xyz):
            length = np.linalg.norm(xyz, axis=2)
            assert ((np.abs(length - 1) < 1e-3) | (length == 0)).all(), name
        case ClassLabels(ids, palette):
            assert ids.min() >= -1, name
            assert palette, name
        case Segments(ids):
            assert set(np.unique(ids)) | {0} == set(range(ids.max() + 1)), name
        case People(persons):
            for person in persons:
                for points in (person.body, person.left_hand, person.right_hand, person.face):
                    assert points is None or np.isfinite(points).all(), name
                    assert points is None or (points[:, 2] >= 0).all(), name


def test_every_map_is_as_declared(run):
    for name, image, found in zip(IMAGES, IMAGES.values(), run.found, strict=True):
        maps = run.annotator.render(found)
        assert list(maps) == run.conditions
        for condition, drawn in maps.items():
            spec = get_condition(condition).spec
            assert drawn.spec.name == condition
            assert drawn.spec in run.annotator.plan.specs
            assert drawn.pixels.shape[:2] == image.shape[:2], name
            assert drawn.pixels.shape[2:] == (() if spec.channels == 1 else (spec.channels,)), name
            assert drawn.pixels.dtype == np.dtype(drawn.spec.dtype), name
            for data in drawn.data:
                assert data.suffix.startswith("."), name
                assert data.encode() == data.encode(), name
            assert all(np.isfinite(value) for value in drawn.facts.values()), name


def test_a_batch_equals_its_images_and_repeats_itself(run):
    for index, (name, image) in enumerate(IMAGES.items()):
        if name in ("scene", "noise", "3 x 5", "flat"):
            (alone,) = run.annotator.predict([image])
            for one, other in zip(alone.by_detector.values(), run.predictions(index), strict=True):
                _assert_close(one, other)


def _assert_close(one, other):
    match one:
        case EdgeStrength():
            assert np.abs(one.strength - other.strength).max() <= 1 / 255
        case LineSegments():
            assert np.array_equal(one.xyxy, other.xyxy)
            assert np.array_equal(one.score, other.score)
        case InverseDepth() | MetricDepth():
            ours, theirs = (getattr(p, p.__slots__[0]) for p in (one, other))
            assert np.allclose(ours, theirs, rtol=0.01, atol=0.01 * np.ptp(ours))
        case SurfaceNormals():
            assert np.abs(one.xyz - other.xyz).max() <= 2 / 255
        case ClassLabels() | Segments():
            assert np.mean(one.ids != other.ids) <= 0.01
        case People():
            assert len(one.persons) == len(other.persons)
            for ours, theirs in zip(one.persons, other.persons, strict=True):
                for part in ("body", "left_hand", "right_hand", "face"):
                    points, others = getattr(ours, part), getattr(theirs, part)
                    assert (points is None) == (others is None)
                    assert points is None or np.abs(points - others).max() <= 1
        case SourcePixels():
            assert np.array_equal(one.pixels, other.pixels)
        case _:
            raise AssertionError(f"no rule for {type(one).__name__}")


def test_no_images_give_no_maps(run):
    assert run.annotator([]) == []


def test_an_image_without_content_gives_an_empty_map(run):
    if get_detector(run.detector).spec.weights:
        pytest.skip("what random weights see on a flat image means nothing")
    if get_detector(run.detector).spec.yields is SourcePixels:
        pytest.skip("the map is the image")
    for maps in run.annotator([IMAGES["flat"], IMAGES["black"], IMAGES["white"]]):
        for condition, drawn in maps.items():
            assert (drawn.pixels == get_condition(condition).spec.background).all()


def test_an_image_with_content_does_not(run):
    spec = get_detector(run.detector).spec
    if spec.weights and spec.yields in (People, LineSegments, Segments):
        pytest.skip("random weights may find nothing at all")
    for drawn in run.annotator.render(run.found[0]).values():
        assert len(np.unique(drawn.pixels)) > 1


def test_rendering_is_the_same_in_many_threads(run):
    expected = run.annotator.render(run.found[0])
    with ThreadPoolExecutor(8) as pool:
        for maps in pool.map(run.annotator.render, [run.found[0]] * 24):
            for condition, drawn in maps.items():
                assert np.array_equal(drawn.pixels, expected[condition].pixels)


@pytest.mark.parametrize("name", available_detectors())
def test_a_detector_is_set_up_by_a_hashable_dataclass_with_defaults(name):
    definition = get_detector(name)
    params = definition.params()
    assert hash(params) == hash(definition.params())
    assert definition.spec.name == name
    assert definition.spec.summary
    assert definition.spec.source
    if definition.spec.weights:
        assert definition.weights(params)
        assert set(definition.weights(params)) <= set(definition.spec.weights.values())


@pytest.mark.parametrize("name", available_detectors())
def test_weights_are_pinned_and_licensed(name):
    for weights in get_detector(name).spec.weights.values():
        assert weights.licence
        for spec in weights.files:
            if spec.sha256 is not None:
                assert len(spec.sha256) == 64
                assert set(spec.sha256) <= set("0123456789abcdef")
            assert spec.size is None or spec.size > 0
            assert spec.sources


@pytest.mark.parametrize("name", available_conditions())
def test_settings_of_detector_and_drawing_never_share_a_name(name):
    condition = get_condition(name)
    assert condition.spec.name == name
    for renderer in condition.renderers:
        detector = get_detector(renderer.detector)
        names = ["detector", *field_names(detector.params), *field_names(renderer.params)]
        assert len(names) == len(set(names))
        assert hash(renderer.params()) == hash(renderer.params())
