"""Commercial use: which weights a run may use for it, and what may stand in for the others."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any, Literal

from condkit.annotators.planning import AnnotationPlan, PlannedCondition, plan_annotation
from condkit.errors import ConfigError
from condkit.weights import AnyWeights

_SHOWN = 3


def require_commercial_use(plan: AnnotationPlan) -> None:
    """Refuse a plan whose weights forbid commercial use or do not clearly allow it.

    Only the licences stated for the weights count; nothing is loaded.

    Raises:
        ConfigError: naming each such condition, its weights with their licence, and the settings
            that make the same condition with weights that are allowed.
    """
    refusals = [_refusal(planned) for planned in plan.conditions if not_allowed(planned)]
    if refusals:
        raise ConfigError("\n  - ".join(["refused for commercial use:", *refusals]))


def not_allowed(planned: PlannedCondition) -> tuple[AnyWeights, ...]:
    """The weights of one condition that forbid commercial use or do not clearly allow it."""
    weights = planned.detector.weights(planned.detector_params)
    return tuple(each for each in weights if each.commercial_use is not True)


def substitutes(planned: PlannedCondition) -> list[str]:
    """Settings with which the same condition is free for commercial use, the nearest first.

    Returns:
        Each as words of the command line, such as "--set depth.detector=midas".
    """
    found = []
    choices = [planned, *_other_detectors(planned)]
    for candidate in choices:
        for settings, params in _variants(candidate):
            if not not_allowed(dataclasses.replace(candidate, detector_params=params)):
                found.append(_words(planned, candidate, settings))
                break
    return found


def _refusal(planned: PlannedCondition) -> str:
    name = planned.condition.spec.name
    reasons = [
        f"{weights.name} {'forbids it' if weights.commercial_use is False else 'is unclear'} "
        f"({weights.licence})"
        for weights in not_allowed(planned)
    ]
    allowed = substitutes(planned)
    cure = f"allowed: {', or '.join(allowed[:_SHOWN])}" if allowed else "nothing may stand in"
    return f"{name} with {planned.renderer.choice}: {', '.join(reasons)}; {cure}"


def _other_detectors(planned: PlannedCondition) -> Iterator[PlannedCondition]:
    """The other ways to make the condition, in its own order, with their defaults."""
    name = planned.condition.spec.name
    for choice in planned.condition.detectors:
        if choice != planned.renderer.choice:
            yield plan_annotation([name], {f"{name}.detector": choice}).conditions[0]


def _variants(planned: PlannedCondition) -> Iterator[tuple[dict[str, Any], Any]]:
    """The detector's settings as they are, then with one choice among several made otherwise."""
    yield {}, planned.detector_params
    annotations = typing.get_type_hints(planned.detector.params)
    for name, annotation in annotations.items():
        if typing.get_origin(annotation) is not Literal:
            continue
        for value in typing.get_args(annotation):
            try:
                yield {name: value}, dataclasses.replace(planned.detector_params, **{name: value})
            except ConfigError:
                continue


def _words(planned: PlannedCondition, chosen: PlannedCondition, settings: dict[str, Any]) -> str:
    name = planned.condition.spec.name
    words = [f"--set {name}.{key}={value}" for key, value in settings.items()]
    if chosen.renderer.choice != planned.renderer.choice:
        words.insert(0, f"--set {name}.detector={chosen.renderer.choice}")
    return " ".join(words)
