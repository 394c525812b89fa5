from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.annotators.base import PerImage, Runtime
from condkit.annotators.registry import get_detector
from condkit.errors import ConfigError, MapError, UnknownNameError
from condkit.predictions import EdgeStrength

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
