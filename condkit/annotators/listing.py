"""The table behind `condkit conditions`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from condkit.annotators.planning import PlannedCondition, plan_annotation
from condkit.annotators.registry import available_conditions, get_condition
from condkit.weights import AnyWeights, Presence, WeightStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One way to make a condition: a detector with one of its weights.

    Attributes:
        condition: The condition's name.
        detector: The value of the condition's setting `detector`.
        predicts: The detector behind it, which may be called otherwise.
        default: Whether this is what is used when nothing is set; a detector may need several
            weights at once.
        weights: The name of the weights among the detector's; None without weights.
        file: The weight file's name; of a model of several files, its name on the hub.
        present: Whether it is on this disk (by name and size; the hash is checked at use).
        size: Bytes; None where it is not known.
        licence: Licence of the weights.
        commercial_use: Whether that allows commercial use; None where it is not clear. True for
            algorithms without weights.
        meaning: What the map's pixels mean.
    """

    condition: str
    detector: str
    predicts: str
    default: bool
    weights: str | None
    file: str | None
    present: Presence | None
    size: int | None
    licence: str | None
    commercial_use: bool | None
    meaning: str

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)

    def cells(self) -> tuple[str, ...]:
        """Condition, detector, weights, file, present, size, licence, commercial use, in words."""
        return (
            self.condition,
            f"{self.detector} (default)" if self.default else self.detector,
            self.weights or "none needed",
            self.file or "",
            self.present or "",
            "" if self.weights is None else size_cell(self.size),
            shorten(self.licence or ""),
            commercial_cell(self.commercial_use),
        )


def shorten(text: str, length: int = 32) -> str:
    """A text for a table's cell; JSON has it whole."""
    return text if len(text) <= length else text[: length - 1].rstrip(" ,;:(") + "…"


def size_cell(size: int | None) -> str:
    """A size in bytes for a table."""
    return "?" if size is None else f"{size / 1e6:.1f} MB"


def commercial_cell(allowed: bool | None) -> str:
    """Whether commercial use is allowed, for a table."""
    return {True: "yes", False: "no", None: "unclear"}[allowed]


def describe(store: WeightStore | None = None, *, commercial_only: bool = False) -> list[Listed]:
    """Every condition with every detector and weights that can make it.

    Cheap: no network is loaded or asked, no weight file is read.

    Args:
        store: Where weights are looked for.
        commercial_only: Leave out weights that do not clearly allow commercial use.
    """
    ways = [
        (planned, default, name, weights)
        for planned, default in _ways()
        for name, weights in _variants(planned)
        if not commercial_only or weights is None or weights.commercial_use is True
    ]
    needed = list(dict.fromkeys(weights for *_, weights in ways if weights is not None))
    found = dict(zip(needed, (store or WeightStore()).statuses(needed), strict=True))
    return [
        _row(planned, default, name, weights, found[weights] if weights else None)
        for planned, default, name, weights in ways
    ]


def _ways() -> Iterator[tuple[PlannedCondition, bool]]:
    """Every condition with each of its detectors, and whether that is the default."""
    for name in available_conditions():
        for choice in get_condition(name).detectors:
            planned = plan_annotation([name], {f"{name}.detector": choice}).conditions[0]
            yield planned, choice == get_condition(name).detectors[0]


def _variants(planned: PlannedCondition) -> list[tuple[str | None, AnyWeights | None]]:
    return [*planned.detector.spec.weights.items()] or [(None, None)]


def _row(
    planned: PlannedCondition,
    default: bool,
    name: str | None,
    weights: AnyWeights | None,
    present: Presence | None,
) -> Listed:
    chosen = planned.detector.weights(planned.detector_params)
    return Listed(
        condition=planned.condition.spec.name,
        detector=planned.renderer.choice,
        predicts=planned.detector.spec.name,
        default=default and (weights is None or weights in chosen),
        weights=name,
        file=weights.name if weights else None,
        present=present,
        size=weights.size if weights else None,
        licence=weights.licence if weights else None,
        commercial_use=weights.commercial_use if weights else True,
        meaning=planned.spec.meaning,
    )
