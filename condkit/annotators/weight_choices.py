"""Which weights are meant by the names of conditions, detectors and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from condkit.annotators.planning import plan_annotation
from condkit.annotators.registry import (
    available_conditions,
    available_detectors,
    get_condition,
    get_detector,
)
from condkit.errors import ConfigError, UnknownNameError
from condkit.settings import suggest
from condkit.weights import AnyWeights


@dataclass(frozen=True, slots=True)
class Choice:
    """Weights of one detector.

    Attributes:
        detector: The detector's name.
        weights: Their name among the detector's.
        spec: What they are.
    """

    detector: str
    weights: str
    spec: AnyWeights

    @property
    def name(self) -> str:
        """DETECTOR:WEIGHTS, as commands take it."""
        return f"{self.detector}:{self.weights}"


def choose_weights(
    names: Sequence[str] = (), *, every: bool = False, commercial_only: bool = False
) -> list[Choice]:
    """The weights that names stand for, each once.

    Args:
        names: DETECTOR:WEIGHTS; or a condition or detector, which stands for the weights that it
            needs when nothing is set. None for all weights there are.
        every: Take all weights of the named conditions and detectors.
        commercial_only: Refuse weights that do not clearly allow commercial use; without names,
            or with `every`, leave them out.

    Raises:
        UnknownNameError: for a name that does not exist.
        ConfigError: for a name that needs no weights, or that `commercial_only` refuses.
    """
    chosen = [choice for name in names for choice in _named(name, every)]
    chosen = chosen if names else all_weights()
    if not commercial_only:
        return list(dict.fromkeys(chosen))
    refused = [c for c in chosen if c.spec.commercial_use is not True]
    if names and refused and not every:
        listed = ", ".join(f"{choice.name} ({choice.spec.licence})" for choice in refused)
        raise ConfigError(f"not clearly free for commercial use: {listed}")
    return list(dict.fromkeys(c for c in chosen if c.spec.commercial_use is True))


def all_weights() -> list[Choice]:
    """All weights of all detectors."""
    return [choice for name in available_detectors() for choice in _of_detector(name)]


def _named(name: str, every: bool) -> list[Choice]:
    if ":" in name:
        known = [choice for choice in all_weights() if choice.name == name]
        if not known:
            raise _unknown(name)
        return known
    if name in available_conditions():
        return _of_condition(name, every)
    if name not in available_detectors():
        raise _unknown(name)
    definition = get_detector(name)
    chosen = definition.weights(definition.params())
    return _some([c for c in _of_detector(name) if every or c.spec in chosen], name)


def _of_condition(name: str, every: bool) -> list[Choice]:
    """The weights of a condition's default, or of all its detectors."""
    detectors = get_condition(name).detectors
    chosen = []
    for choice in detectors if every else detectors[:1]:
        (planned,) = plan_annotation([name], {f"{name}.detector": choice}).conditions
        needed = planned.detector.weights(planned.detector_params)
        of_detector = _of_detector(planned.detector.spec.name)
        chosen += [c for c in of_detector if every or c.spec in needed]
    return _some(chosen, name)


def _some(choices: list[Choice], name: str) -> list[Choice]:
    if not choices:
        raise ConfigError(f"{name} needs no weights")
    return choices


def _unknown(name: str) -> UnknownNameError:
    known = [*available_conditions(), *available_detectors(), *(c.name for c in all_weights())]
    return UnknownNameError(
        f"unknown weights {name!r}{suggest(name, known)} (a condition, a detector, or "
        "DETECTOR:WEIGHTS as `condkit weights list` shows them)"
    )


def _of_detector(name: str) -> list[Choice]:
    weights = get_detector(name).spec.weights
    return [Choice(name, variant, spec) for variant, spec in weights.items()]
