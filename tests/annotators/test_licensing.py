"""Defect 41: licences stand in the listing, and commercial use can be demanded."""

from __future__ import annotations

import dataclasses

import pytest

from condkit import load
from condkit.annotators.licensing import not_allowed, require_commercial_use, substitutes
from condkit.annotators.planning import plan_annotation
from condkit.annotators.registry import available_conditions, available_detectors, get_detector
from condkit.errors import ConfigError
from condkit.settings import parse_assignments


def _plan(*conditions, **settings):
    return plan_annotation(conditions, {k.replace("__", "."): v for k, v in settings.items()})


def test_every_weight_file_states_its_licence_origin_and_source():
    for name in available_detectors():
        for weights in get_detector(name).spec.weights.values():
            assert weights.licence, (name, weights.name)
            assert weights.origin, (name, weights.name)
            assert all(file.sources for file in weights.files), (name, weights.name)


def test_what_is_allowed_passes():
    require_commercial_use(_plan("canny", "softedge", "scribble"))


def test_weights_that_forbid_it_are_refused_with_their_licence_and_a_substitute():
    plan = _plan("canny", "depth", depth__detector="depth-anything-v2", depth__weights="large")
    with pytest.raises(ConfigError) as caught:
        require_commercial_use(plan)
    message = str(caught.value)
    assert "depth-anything/Depth-Anything-V2-Large-hf forbids it (CC-BY-NC-4.0)" in message
    assert "allowed: --set depth.weights=small" in message
    assert "canny" not in message


def test_weights_whose_licence_is_unclear_are_refused_as_well():
    with pytest.raises(ConfigError, match=r"scannet\.pt is unclear"):
        require_commercial_use(_plan("normal", normal__detector="bae"))


def test_all_refused_conditions_are_told_at_once():
    plan = _plan("depth", "normal", depth__detector="depth-pro", normal__detector="bae")
    with pytest.raises(ConfigError, match=r"(?s)depth with depth-pro.*normal with bae"):
        require_commercial_use(plan)


def test_each_substitute_that_is_named_is_really_allowed():
    for name in available_conditions():
        for planned in _every_way(name):
            for words in substitutes(planned):
                settings = parse_assignments(words.removeprefix("--set ").split(" --set "))
                kept = {f"{name}.detector": planned.renderer.choice} | settings
                require_commercial_use(plan_annotation([name], kept))


def _every_way(name):
    condition = plan_annotation([name]).conditions[0].condition
    for choice in condition.detectors:
        (planned,) = plan_annotation([name], {f"{name}.detector": choice}).conditions
        if not_allowed(planned):
            yield planned


def test_where_nothing_may_stand_in_the_refusal_says_so(monkeypatch):
    plan = _plan("softedge")
    (planned,) = plan.conditions
    forbidden = {
        name: dataclasses.replace(weights, commercial_use=False)
        for name, weights in planned.detector.spec.weights.items()
    }
    for name, weights in forbidden.items():
        monkeypatch.setitem(planned.detector.spec.weights, name, weights)
    only = dataclasses.replace(planned.condition, renderers=planned.condition.renderers[:1])
    alone = dataclasses.replace(planned, condition=only)
    with pytest.raises(ConfigError, match="nothing may stand in"):
        require_commercial_use(dataclasses.replace(plan, conditions=(alone,)))


def test_load_refuses_before_anything_is_loaded():
    with pytest.raises(ConfigError, match="forbids it"):
        load("depth", detector="depth-pro", commercial_only=True)
    assert load("canny", commercial_only=True).spec.name == "canny"
