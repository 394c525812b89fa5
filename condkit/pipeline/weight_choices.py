"""Which weights are meant by the names of conditions, detectors, captioners and weights."""

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
from condkit.captions.registry import (
    available_captioners,
    captioner_weights,
    network_captioners,
)
from condkit.errors import ConfigError, UnknownNameError
from condkit.settings import suggest
from condkit.weights import AnyWeights


@dataclass(frozen=True, slots=True)
class Choice:
    """Weights of one detector or captioner.

    Attributes:
        owner: The detector's or captioner's name.
        weights: Their name among the owner's.
        spec: What they are.
    """

    owner: str
    weights: str
    spec: AnyWeights

    @property
    def name(self) -> str:
        """OWNER:WEIGHTS, as commands take it."""
        return f"{self.owner}:{self.weights}"


def choose_weights(
    names: Sequence[str] = (), *, every: bool = False, commercial_only: bool = False
) -> list[Choice]:
    """The weights that names stand for, each once.

    Args:
        names: DETECTOR:WEIGHTS or CAPTIONER:WEIGHTS; or a condition, detector or captioner, which
            stands for the weights that it needs when nothing is set. None for all weights there
            are.
        every: Take all weights of what is named.
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
    """All weights of all detectors and captioners."""
    detectors = [choice for name in available_detectors() for choice in _of_detector(name)]
    return [
        *detectors,
        *(choice for name in network_captioners() for choice in _of_captioner(name)),
    ]


def _named(name: str, every: bool) -> list[Choice]:
    if ":" in name:
        known = [choice for choice in all_weights() if choice.name == name]
        if not known:
            raise _unknown(name)
        return known
    if name in available_conditions():
        return _of_condition(name, every)
    if name in network_captioners():
        known = _of_captioner(name)
        return known if every else known[:1]
    if name in available_captioners():
        return _some([], name)
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
    owners = [*available_conditions(), *available_detectors(), *network_captioners()]
    known = [*owners, *(choice.name for choice in all_weights())]
    return UnknownNameError(
        f"unknown weights {name!r}{suggest(name, known)} (a condition, a detector, a captioner, or "
        "OWNER:WEIGHTS as `condkit weights list` shows them)"
    )


def _of_detector(name: str) -> list[Choice]:
    weights = get_detector(name).spec.weights
    return [Choice(name, variant, spec) for variant, spec in weights.items()]


def _of_captioner(name: str) -> list[Choice]:
    return [Choice(name, variant, spec) for variant, spec in captioner_weights()[name].items()]
