from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest

from condkit.annotators import registry
from condkit.annotators.annotator import plan_annotation
from condkit.annotators.base import (
    ConditionDefinition,
    DetectorDefinition,
    DetectorSpec,
    PerImage,
    Renderer,
)
from condkit.annotators.registry import Registry, available_conditions, get_condition
from condkit.errors import ConfigError, UnknownNameError
from condkit.predictions import SourcePixels
from condkit.types import ConditionMap, ConditionSpec


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
    assert told["softedge"]["render_params"] == {"safe": False, "safe_share": 0, "seed": 0}
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


@pytest.mark.parametrize(
    ("condition", "choice"),
    [(name, choice) for name in available_conditions() for choice in get_condition(name).detectors],
)
def test_a_plan_is_made_again_from_what_it_says(condition, choice):
    plan = plan_annotation([condition], {f"{condition}.detector": choice}, detect_size=320, seed=7)
    told = json.loads(json.dumps(plan.as_dict()))[condition]
    assert told["detector"] == choice
    assert told["predicts"] == plan.conditions[0].detector.spec.name
    settings = {**told["detector_params"], **told["render_params"], "detector": told["detector"]}
    again = plan_annotation([condition], {f"{condition}.{k}": v for k, v in settings.items()})
    assert again == plan


def test_settings_that_are_not_the_defaults_are_told_too():
    plan = plan_annotation(
        ["canny", "lines", "softedge", "scribble"],
        {
            "canny.l2": True,
            "scribble.detector": "xdog",
            "lines.detector": "hough",
            "hed.weights": "bsds500",
            "hough.low": 9,
        },
    )
    settings = {}
    for condition, told in json.loads(json.dumps(plan.as_dict())).items():
        settings[f"{condition}.detector"] = told["detector"]
        for name, value in {**told["detector_params"], **told["render_params"]}.items():
            settings[f"{condition}.{name}"] = value
    assert plan_annotation(list(plan.as_dict()), settings) == plan


@dataclass(frozen=True)
class _Random:
    seed: int = 0
    parts: str = "all"
    detect_size: int = 512


@pytest.fixture
def random_registry(monkeypatch):
    """A detector with a seed, a condition of its name, and two that are called otherwise."""
    detector = DetectorDefinition(
        spec=DetectorSpec(name="people", summary="s", source="s", yields=SourcePixels),
        params=_Random,
        load=lambda params, runtime: PerImage(SourcePixels),
    )
    spec = ConditionSpec(
        name="people",
        channels=3,
        dtype="uint8",
        meaning="pixels",
        background=0,
        resample="area",
    )

    def condition(name, **presets):
        renderer = Renderer(
            detector="people",
            render=lambda prediction, params: ConditionMap(prediction.pixels, spec),
            presets=presets,
        )
        return ConditionDefinition(spec=replace(spec, name=name), renderers=(renderer,))

    small = condition("small", parts="hands", detect_size=128)
    known = Registry(
        conditions={"people": condition("people"), "small": small}, detectors={"people": detector}
    )
    monkeypatch.setattr(registry, "_registry", lambda: known)


def test_the_runs_seed_is_that_of_all_that_is_random_and_not_set(random_registry):
    def seeds(settings, seed):
        plan = plan_annotation(["people", "small"], settings, seed=seed)
        return [planned.detector_params.seed for planned in plan.conditions]

    assert seeds({}, None) == [0, 0]
    assert seeds({}, 5) == [5, 5]
    assert seeds({"small.seed": "9"}, 5) == [5, 9]
    assert seeds({"people.seed": "9"}, 5) == [9, 9]
    assert seeds({"people.seed": "9", "small.seed": "8"}, 5) == [9, 8]


def test_a_runs_working_size_beats_a_conditions_preset_and_yields_to_settings(random_registry):
    def made(settings, detect_size=None):
        plan = plan_annotation(["people", "small"], settings, detect_size=detect_size)
        return [(p.detector_params.parts, p.detector_params.detect_size) for p in plan.conditions]

    assert made({}) == [("all", 512), ("hands", 128)]
    assert made({}, 320) == [("all", 320), ("hands", 320)]
    assert made({"small.detect_size": 64}, 320) == [("all", 320), ("hands", 64)]
    assert made({"people.detect_size": 64}, 320) == [("all", 64), ("hands", 64)]
    assert made({"people.parts": "face"}) == [("face", 512), ("hands", 128)]


def test_the_seed_of_a_random_drawing_follows_the_run():
    for name in available_conditions():
        for renderer in get_condition(name).renderers:
            if renderer.seeded:
                plan = plan_annotation([name], {f"{name}.detector": renderer.choice}, seed=11)
                assert plan.conditions[0].render_params.seed == 11
