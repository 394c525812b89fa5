"""The table behind `condkit conditions`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from condkit.annotators.registry import available_conditions, get_condition, get_detector
from condkit.weights import Presence, WeightSpec, WeightStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One way to make a condition: a detector with one of its weight files.

    Attributes:
        condition: The condition's name.
        detector: The detector's name.
        default: Whether this is what is used when nothing is set.
        weights: The value of the detector's setting `weights`; None without weights.
        file: The weight file's name.
        present: Whether it is on this disk (by name and size; the hash is checked at use).
        size: Bytes.
        licence: Licence of the weights.
        commercial_use: Whether that allows commercial use; None where it is not clear. True for
            algorithms without weights.
        meaning: What the map's pixels mean.
    """

    condition: str
    detector: str
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
        commercial = {True: "yes", False: "no", None: "unclear"}[self.commercial_use]
        return (
            self.condition,
            f"{self.detector} (default)" if self.default else self.detector,
            self.weights or "none needed",
            self.file or "",
            self.present or "",
            "" if self.size is None else f"{self.size / 1e6:.1f} MB",
            self.licence or "",
            commercial,
        )


def describe(store: WeightStore | None = None) -> list[Listed]:
    """Every condition with every detector and weight file that can make it.

    Cheap: no network is loaded or asked, no file is read.

    Args:
        store: Where weights are looked for.
    """
    return list(_rows(store or WeightStore()))


def _rows(store: WeightStore) -> Iterator[Listed]:
    for name in available_conditions():
        condition = get_condition(name)
        for detector_name in condition.detectors:
            definition = get_detector(detector_name)
            first = detector_name == condition.detectors[0]
            chosen = getattr(definition.params(), "weights", None)
            variants: list[tuple[str | None, WeightSpec | None]] = [
                *definition.spec.weights.items()
            ]
            for variant, spec in variants or [(None, None)]:
                yield Listed(
                    condition=name,
                    detector=detector_name,
                    default=first and variant == chosen,
                    weights=variant,
                    file=spec.name if spec else None,
                    present=store.status(spec) if spec else None,
                    size=spec.size if spec else None,
                    licence=spec.licence if spec else None,
                    commercial_use=spec.commercial_use if spec else True,
                    meaning=condition.spec.meaning,
                )
