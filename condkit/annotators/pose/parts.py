"""Which parts of a person a detector looks for: the settings that all pose detectors have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from condkit.annotators.base import Sharing, require
from condkit.predictions import People, Person

PARTS = ("body", "hands", "face")

ONLY_HANDS: Mapping[str, bool] = {"body": False, "hands": True, "face": False}
"""The settings with which a detector looks for nothing but hands."""
ONLY_FACE: Mapping[str, bool] = {"body": False, "hands": False, "face": True}
"""The settings with which a detector looks for nothing but faces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsParams:
    """What is looked for; to be inherited by the settings of a detector.

    Attributes:
        body: Whether the 18 joints are looked for.
        hands: Whether the 21 points of each hand are looked for.
        face: Whether the 70 points of the face are looked for.
    """

    body: bool = True
    hands: bool = False
    face: bool = False


def require_a_part(params: PartsParams, detector: str) -> None:
    """Refuse settings with which nothing would be looked for; for `__post_init__`.

    Raises:
        ConfigError: if no part is switched on.
    """
    require(
        params.body or params.hands or params.face,
        f"{detector}.body, {detector}.hands and {detector}.face: expected at least one of them to "
        "be true, got none",
    )


def only_wanted(person: Person, params: PartsParams) -> Person | None:
    """A person without the parts that nobody asked for; None where nothing of it is left."""
    kept = Person(
        body=person.body if params.body else None,
        left_hand=person.left_hand if params.hands else None,
        right_hand=person.right_hand if params.hands else None,
        face=person.face if params.face else None,
    )
    parts = (kept.body, kept.left_hand, kept.right_hand, kept.face)
    return kept if any(part is not None for part in parts) else None


def _joined(params: Sequence[Any]) -> list[Any]:
    """Settings that differ in nothing but parts become one with all of these."""
    made = []
    for one in params:
        alike = [other for other in params if _same_but_for_parts(other, one)]
        wanted = {part: any(getattr(other, part) for other in alike) for part in PARTS}
        made.append(replace(one, **wanted))
    return made


def _same_but_for_parts(one: PartsParams, other: PartsParams) -> bool:
    return replace(one, **{part: getattr(other, part) for part in PARTS}) == other


def _part(people: People, params: PartsParams) -> People:
    kept = [only_wanted(person, params) for person in people.persons]
    return People(tuple(person for person in kept if person is not None), people.size_hw)


SHARED_PARTS = Sharing(joined=_joined, part=_part)
"""For detectors that find each part in the same way whatever other parts are looked for: one
prediction for bodies, hands and faces serves the three conditions."""
