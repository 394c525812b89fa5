"""Which detector, settings and drawing each condition gets; everything checked, nothing loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from condkit.annotators.base import (
    ConditionDefinition,
    DetectorDefinition,
    Renderer,
    field_names,
)
from condkit.annotators.registry import (
    available_conditions,
    available_detectors,
    get_condition,
    get_detector,
)
from condkit.errors import ConfigError, UnknownNameError
from condkit.settings import as_mapping, choose, from_mapping, suggest
from condkit.types import ConditionSpec
from condkit.weights import AnyWeights

DetectorKey: TypeAlias = tuple[str, Any]
"""A detector's name and its settings: equal keys share one network and one prediction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCondition:
    """One condition with everything decided.

    Attributes:
        condition: What is drawn.
        detector: What predicts.
        detector_params: Settings of the detector.
        renderer: How the prediction is drawn.
        render_params: Settings of the drawing.
    """

    condition: ConditionDefinition
    detector: DetectorDefinition
    detector_params: Any
    renderer: Renderer
    render_params: Any

    @property
    def spec(self) -> ConditionSpec:
        """What the pixels mean with these settings."""
        spec = self.condition.spec
        if self.renderer.detector_spec is not None:
            spec = self.renderer.detector_spec(spec, self.detector_params)
        if self.renderer.spec is not None:
            spec = self.renderer.spec(spec, self.render_params)
        return spec

    @property
    def key(self) -> DetectorKey:
        """What the prediction depends on."""
        return self.detector.spec.name, self.detector_params

    def as_dict(self) -> dict[str, Any]:
        """Detector, settings and weight hashes as JSON values.

        `detector` is the value of the condition's setting of that name; `predicts` is the detector
        behind it, which may be called otherwise.
        """
        return {
            "detector": self.renderer.choice,
            "predicts": self.detector.spec.name,
            "detector_params": as_mapping(self.detector_params),
            "render_params": as_mapping(self.render_params),
            "weights": [
                {"file": file.name, "sha256": file.sha256}
                for weights in self.detector.weights(self.detector_params)
                for file in weights.files
            ],
        }


@dataclass(frozen=True, slots=True)
class AnnotationPlan:
    """What to make of each image; made by `plan_annotation`.

    Attributes:
        conditions: In the order asked for.
    """

    conditions: tuple[PlannedCondition, ...]

    @property
    def specs(self) -> tuple[ConditionSpec, ...]:
        """What the maps mean, in order."""
        return tuple(planned.spec for planned in self.conditions)

    @property
    def weights(self) -> tuple[AnyWeights, ...]:
        """The weights needed, each once."""
        needed = [
            weights
            for planned in self.conditions
            for weights in planned.detector.weights(planned.detector_params)
        ]
        return tuple(dict.fromkeys(needed))

    def as_dict(self) -> dict[str, Any]:
        """All that decides the maps, as JSON values keyed by condition."""
        return {planned.condition.spec.name: planned.as_dict() for planned in self.conditions}


def plan_annotation(
    conditions: Sequence[str],
    settings: Mapping[str, Any] | None = None,
    *,
    detect_size: int | None = None,
    seed: int | None = None,
) -> AnnotationPlan:
    """Decide everything about a run's maps, and refuse what cannot be; cheap, no network loaded.

    Args:
        conditions: Names, each once.
        settings: Dotted name to value, text or typed. `CONDITION.detector` chooses the detector;
            `CONDITION.X` sets X of its detector or its drawing; `DETECTOR.X` sets X of the detector
            for all conditions that use it, and yields to a condition's own setting.
        detect_size: Working size of every network whose size is not set by `settings`.
        seed: Of everything random (each setting `seed`) that is not set by `settings`.

    Raises:
        UnknownNameError: for a condition, detector or setting that does not exist.
        ConfigError: for a repeated condition, an impossible value, or a setting without effect.
    """
    for name in conditions:
        choose(name, available_conditions(), what="condition")
        if list(conditions).count(name) > 1:
            raise ConfigError(f"condition {name!r} is asked for twice")
    tables = _tables(settings or {})
    wishes = {"detect_size": detect_size, "seed": seed}
    general = {name: value for name, value in wishes.items() if value is not None}
    planned = tuple(_plan(name, tables, general) for name in conditions)
    _refuse_idle(tables, planned)
    return AnnotationPlan(planned)


def _tables(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings by condition or detector."""
    tables: dict[str, dict[str, Any]] = {}
    for dotted, value in settings.items():
        table, dot, name = dotted.partition(".")
        if not dot or not name or "." in name:
            raise ConfigError(
                f"setting {dotted!r}: expected CONDITION.NAME or DETECTOR.NAME, such as canny.low"
            )
        tables.setdefault(table, {})[name] = value
    return tables


def _plan(
    name: str, tables: Mapping[str, Mapping[str, Any]], general: Mapping[str, Any]
) -> PlannedCondition:
    """One condition; `general` holds settings that yield to all others."""
    condition = get_condition(name)
    own = dict(tables.get(name, {}))
    chosen = str(own.pop("detector", condition.detectors[0]))
    choose(chosen, condition.detectors, what=f"detector of {name}")
    renderer = condition.renderer(chosen)
    detector = get_detector(renderer.detector)
    of_detector, of_render = field_names(detector.params), field_names(renderer.params)
    _refuse_unknown(name, own, ("detector", *of_detector, *of_render))
    detecting = {
        **_from_elsewhere(condition, renderer, _among(of_detector, general), tables),
        **_among(of_detector, own),
    }
    drawing = {**_among(of_render, general), **_among(of_render, own)}
    return PlannedCondition(
        condition=condition,
        detector=detector,
        detector_params=from_mapping(detector.params, detecting, where=name),
        renderer=renderer,
        render_params=from_mapping(renderer.params, drawing, where=name),
    )


def _among(names: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}


def _from_elsewhere(
    condition: ConditionDefinition,
    renderer: Renderer,
    general: dict[str, Any],
    tables: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Settings of the detector that do not stand under the condition's own name."""
    presets, shared = {**renderer.presets, **general}, dict(tables.get(renderer.detector, {}))
    if renderer.detector == condition.spec.name:
        return presets
    of_detector = field_names(get_detector(renderer.detector).params)
    if renderer.detector in available_conditions():
        # The table is another condition's as well: its drawing settings are none of ours, and its
        # choice of parts must not undo what this condition is about.
        about = {k: v for k, v in renderer.presets.items() if k not in general}
        return general | _among(of_detector, shared) | about
    _refuse_unknown(renderer.detector, shared, of_detector)
    return presets | shared


def _refuse_unknown(table: str, values: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in values:
        if name not in known:
            raise UnknownNameError(
                f"unknown setting '{table}.{name}'{suggest(name, known)} "
                f"(known: {', '.join(f'{table}.{item}' for item in known) or 'none'})"
            )


def _refuse_idle(
    tables: Mapping[str, Mapping[str, Any]], planned: Sequence[PlannedCondition]
) -> None:
    """A setting that nothing reads is a mistake, not a wish."""
    used = {item.condition.spec.name for item in planned} | {item.key[0] for item in planned}
    for table in tables:
        choose(
            table, [*available_conditions(), *available_detectors()], what="condition or detector"
        )
        if table not in used:
            names = ", ".join(f"{table}.{name}" for name in tables[table])
            raise ConfigError(
                f"{names}: no condition of this run uses {table!r} (in use: "
                f"{', '.join(sorted(used)) or 'none'})"
            )
