from __future__ import annotations

import json

import pytest

from condkit.annotators.annotator import plan_annotation
from condkit.errors import ConfigError, UnknownNameError


def _params(plan, condition):
    (planned,) = [item for item in plan.conditions if item.condition.spec.name == condition]
    return planned


def test_the_plan_keeps_the_order_asked_for():
    plan = plan_annotation(["softedge", "canny", "lines"])
    assert [spec.name for spec in plan.specs] == ["softedge", "canny", "lines"]


def test_text_settings_reach_detector_and_drawing():
    plan = plan_annotation(
        ["canny", "softedge"],
        {"canny.low": "50", "softedge.weights": "bsds500", "softedge.safe": "true"},
    )
    assert _params(plan, "canny").detector_params.low == 50
    assert _params(plan, "softedge").detector_params.weights == "bsds500"
    assert _params(plan, "softedge").render_params.safe is True


def test_a_detectors_own_name_sets_it_for_every_condition_using_it():
    plan = plan_annotation(["softedge", "scribble"], {"hed.weights": "bsds500"})
    assert len({planned.key for planned in plan.conditions}) == 1
    assert len(plan.weights) == 1
    assert plan.weights[0].name == "hed_bsds500.weights.h5"


def test_a_conditions_own_setting_beats_its_detectors():
    plan = plan_annotation(
        ["softedge", "scribble"], {"softedge.weights": "controlnet", "hed.weights": "bsds500"}
    )
    assert _params(plan, "softedge").detector_params.weights == "controlnet"
    assert _params(plan, "scribble").detector_params.weights == "bsds500"
    assert len(plan.weights) == 2


def test_the_detector_is_chosen_by_name():
    plan = plan_annotation(
        ["scribble"], {"scribble.detector": "xdog", "scribble.sigma_coarse": "4"}
    )
    assert _params(plan, "scribble").key[0] == "xdog"
    assert _params(plan, "scribble").detector_params.sigma_coarse == 4.0
    assert plan.weights == ()


def test_detect_size_is_for_networks_without_a_size_of_their_own():
    plan = plan_annotation(
        ["canny", "softedge", "scribble"], {"scribble.detect_size": "256"}, detect_size=768
    )
    assert _params(plan, "softedge").detector_params.detect_size == 768
    assert _params(plan, "scribble").detector_params.detect_size == 256


def test_a_plan_says_as_json_all_that_decides_the_maps():
    plan = plan_annotation(["canny", "softedge"], {"canny.high": "150"})
    told = json.loads(json.dumps(plan.as_dict()))
    assert told["canny"]["detector_params"]["high"] == 150
    assert told["softedge"]["detector"] == "hed"
    assert told["softedge"]["render_params"] == {"safe": False}
    (file,) = told["softedge"]["weights"]
    assert file["file"] == "ControlNetHED.pth"
    assert len(file["sha256"]) == 64


@pytest.mark.parametrize(
    ("conditions", "settings", "error", "message"),
    [
        (["cany"], {}, UnknownNameError, "did you mean 'canny'"),
        (["canny", "canny"], {}, ConfigError, "'canny' is asked for twice"),
        (["canny"], {"canny.lo": "1"}, UnknownNameError, r"canny.lo'; did you mean 'low'"),
        (["canny"], {"canny.low": "much"}, ConfigError, r"canny.low: expected a number"),
        (["canny"], {"canny.low": "300"}, ConfigError, "expected 0 <= low <= high, got 300"),
        (["canny"], {"low": "1"}, ConfigError, "expected CONDITION.NAME"),
        (["canny"], {"cany.low": "1"}, UnknownNameError, "did you mean 'canny'"),
        (["canny"], {"softedge.safe": "true"}, ConfigError, "no condition of this run uses"),
        (["softedge"], {"xdog.sigma_fine": "1"}, ConfigError, "no condition of this run uses"),
        (["softedge"], {"hed.safe": "true"}, UnknownNameError, "unknown setting 'hed.safe'"),
        (["softedge"], {"softedge.weights": "x"}, ConfigError, "controlnet, bsds500"),
        (["scribble"], {"scribble.detector": "hedd"}, UnknownNameError, "did you mean 'hed'"),
        (["scribble"], {"scribble.threshold": "9"}, UnknownNameError, "scribble.threshold"),
        (["softedge"], {"hed.detect_size": "4"}, ConfigError, "expected 16 to 8192 pixels, got 4"),
    ],
)
def test_a_mistake_is_refused_by_name(conditions, settings, error, message):
    with pytest.raises(error, match=message):
        plan_annotation(conditions, settings)


def test_a_plan_is_made_again_from_what_it_says():
    plan = plan_annotation(
        ["canny", "lines", "softedge", "scribble"],
        {"canny.l2": True, "scribble.detector": "xdog", "hed.weights": "bsds500", "hough.low": 9},
    )
    settings = {}
    for condition, told in json.loads(json.dumps(plan.as_dict())).items():
        settings[f"{condition}.detector"] = told["detector"]
        for name, value in {**told["detector_params"], **told["render_params"]}.items():
            settings[f"{condition}.{name}"] = value
    assert plan_annotation(list(plan.as_dict()), settings) == plan
