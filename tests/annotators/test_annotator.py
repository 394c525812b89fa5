from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from condkit.annotators.annotator import AnnotationPlan, Annotator, plan_annotation
from condkit.annotators.base import (
    PerImage,
    Sharing,
)
from condkit.annotators.registry import get_detector
from condkit.errors import ConfigError, DependencyError, MapError, UnknownNameError
from condkit.predictions import EdgeStrength
from condkit.runtime import Runtime
from condkit.types import ConditionMap, MapData

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def counted(monkeypatch):
    """Replace HED by a stand-in that counts its loads and its images."""
    counts = {"loads": 0, "images": 0}

    def predict(image):
        counts["images"] += 1
        return EdgeStrength(np.full(image.shape[:2], 0.8, np.float32))

    def load(params, runtime):
        counts["loads"] += 1
        return PerImage(predict)

    _replace(monkeypatch, "hed", load)
    return counts


def _replace(monkeypatch, name, load):
    from condkit.annotators import registry

    definition = dataclasses.replace(get_detector(name), load=load)
    monkeypatch.setitem(registry._registry().detectors, name, definition)


def test_one_prediction_feeds_all_conditions_with_equal_settings(counted):
    annotator = Annotator(plan_annotation(["softedge", "scribble", "canny"]))
    maps = annotator([IMAGE, IMAGE, IMAGE])
    assert [list(drawn) for drawn in maps] == [["softedge", "scribble", "canny"]] * 3
    assert counted == {"loads": 1, "images": 3}


def test_different_settings_mean_different_predictions(counted):
    plan = plan_annotation(["softedge", "scribble"], {"scribble.detect_size": 256})
    Annotator(plan)([IMAGE])
    assert counted == {"loads": 2, "images": 2}


def test_rendering_again_needs_no_network(counted):
    annotator = Annotator(plan_annotation(["softedge"]))
    (found,) = annotator.predict([IMAGE])
    for _ in range(3):
        annotator.render(found)
    assert counted["images"] == 1


def test_a_closed_annotator_loads_again(counted):
    annotator = Annotator(plan_annotation(["softedge"]))
    with annotator:
        annotator([IMAGE])
    annotator([IMAGE])
    assert counted["loads"] == 2


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([], "hed: 0 predictions for 1 images"),
        ([EdgeStrength(np.zeros((5, 5), np.float32))], r"is \(5, 5\), the image \(20, 30\)"),
    ],
)
def test_a_detector_that_breaks_its_promise_is_named(monkeypatch, predictions, message):
    _replace(monkeypatch, "hed", lambda params, runtime: lambda images: predictions)
    with pytest.raises(MapError, match=message):
        Annotator(plan_annotation(["softedge"]))([IMAGE])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
        "photo.jpg",
    ],
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ConfigError, match=r"expected an image of shape \(H, W, 3\), uint8"):
        Annotator(plan_annotation(["canny"])).predict([image])


def test_an_unknown_dtype_is_refused_before_anything_is_loaded():
    with pytest.raises(UnknownNameError, match="did you mean 'bf16'"):
        Runtime(dtype="bf61")


@pytest.mark.parametrize(("data", "declared"), [((), (".json",)), ((".json",), ())])
def test_data_that_is_not_as_declared_is_an_error_that_names_it(data, declared):
    (canny,) = plan_annotation(["canny"]).conditions

    def render(prediction, params):
        drawn = canny.renderer.render(prediction, params)
        return dataclasses.replace(drawn, data=tuple(MapData(name, bytes) for name in data))

    renderer = dataclasses.replace(canny.renderer, render=render, data=declared)
    plan = AnnotationPlan((dataclasses.replace(canny, renderer=renderer),))
    with pytest.raises(MapError, match=r"canny: the map comes with data .*json|, expected .*json"):
        Annotator(plan)([IMAGE])


@pytest.mark.parametrize("suffix", ["json", ".npy", ""])
def test_data_has_a_suffix_of_a_known_kind(suffix):
    (canny,) = plan_annotation(["canny"]).conditions
    with pytest.raises(ConfigError, match="expected suffixes such as"):
        dataclasses.replace(canny.renderer, data=(suffix,))


def test_a_library_that_is_missing_is_named_with_the_detector(monkeypatch):
    def load(params, runtime):
        raise ModuleNotFoundError("No module named 'a_library'")

    _replace(monkeypatch, "hed", load)
    with pytest.raises(DependencyError, match=r"hed: a library .*a_library.*condkit doctor"):
        Annotator(plan_annotation(["softedge"])).load()


@dataclasses.dataclass(frozen=True)
class _Parts:
    left: bool = False
    right: bool = False
    high: int = 0


def test_settings_that_can_share_a_prediction_run_once(monkeypatch):
    ran = []

    def load(params, runtime):
        def predict(image):
            ran.append(params)
            strength = np.zeros(image.shape[:2], np.float32)
            half = image.shape[1] // 2
            strength[:, :half], strength[:, half:] = params.left, params.right
            return EdgeStrength(strength)

        return PerImage(predict)

    def joined(params):
        return [dataclasses.replace(p, left=True, right=True) for p in params]

    def part(whole, params):
        half = whole.strength.shape[1] // 2
        cut = whole.strength.copy()
        cut[:, :half] *= params.left
        cut[:, half:] *= params.right
        return EdgeStrength(cut)

    (canny,) = plan_annotation(["canny"]).conditions
    detector = dataclasses.replace(
        canny.detector, load=load, params=_Parts, sharing=Sharing(joined, part)
    )

    def planned(name, params):
        spec = dataclasses.replace(canny.condition.spec, name=name)
        renderer = dataclasses.replace(
            canny.renderer,
            render=lambda p, _: ConditionMap((p.strength > 0).astype(np.uint8), spec),
        )
        return dataclasses.replace(
            canny,
            condition=dataclasses.replace(canny.condition, spec=spec),
            detector=detector,
            detector_params=params,
            renderer=renderer,
        )

    plan = AnnotationPlan(
        (
            planned("left", _Parts(left=True)),
            planned("right", _Parts(right=True)),
            planned("other", _Parts(left=True, high=1)),
        )
    )
    (maps,) = Annotator(plan)([IMAGE])
    assert ran == [_Parts(left=True, right=True), _Parts(left=True, right=True, high=1)]
    assert maps["left"].pixels[:, :15].all()
    assert not maps["left"].pixels[:, 15:].any()
    assert not maps["right"].pixels[:, :15].any()
    assert maps["right"].pixels[:, 15:].all()
    assert np.array_equal(maps["other"].pixels, maps["left"].pixels)
