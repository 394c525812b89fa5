"""How the conditions `openpose`, `hands` and `face` draw the people that any detector has found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from condkit.annotators.base import require
from condkit.annotators.pose.drawing import (
    Points,
    StickWidth,
    Style,
    draw_people,
    hands_of,
    is_width,
    visible,
)
from condkit.annotators.pose.openpose_json import people_to_json
from condkit.predictions import BODY_JOINTS, FACE_POINTS, HAND_POINTS, People
from condkit.types import ConditionMap, ConditionSpec, MapData

SUFFIXES = (".json",)
"""Of the files beside a map."""

WHOLE_BODY_POINTS = BODY_JOINTS + 2 * HAND_POINTS + FACE_POINTS
"""Of body, both hands and face: 130."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseDrawing:
    """How bodies, hands and faces are drawn.

    Attributes:
        style: "v1.1" (ControlNet 1.1 and all later checkpoints) or "v1.0" (the first ControlNet).
        draw_body: Whether bodies are drawn where the detector has looked for them.
        draw_hands: Whether hands are.
        draw_face: Whether faces are.
        stick_width: "standard" (limbs 8 pixels wide at every size, as the public maps have them),
            "sdxl" (wider for large maps, as xinsir's SDXL checkpoints want them), or half a limb's
            width in pixels, 1 to 512.
        min_score: Points that were found with a lower score are not drawn, 0 to 1; they stay in the
            JSON file, as do their scores.
    """

    style: Style = "v1.1"
    draw_body: bool = True
    draw_hands: bool = True
    draw_face: bool = True
    stick_width: StickWidth = "standard"
    min_score: float = 0.0

    def __post_init__(self) -> None:
        _check(self.stick_width, self.min_score)


@dataclass(frozen=True, slots=True, kw_only=True)
class SurePoseDrawing(PoseDrawing):
    """As `PoseDrawing`, for detectors that give every point some score, found or not."""

    min_score: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class PartDrawing:
    """How hands alone or faces alone are drawn.

    Attributes:
        stick_width: "standard" (discs of radius 4 on hands, 3 on faces) or half a limb's width in
            pixels, 1 to 512, with which everything grows; "sdxl" changes bodies only.
        min_score: Points that were found with a lower score are not drawn, 0 to 1.
    """

    stick_width: StickWidth = "standard"
    min_score: float = 0.0

    def __post_init__(self) -> None:
        _check(self.stick_width, self.min_score)


@dataclass(frozen=True, slots=True, kw_only=True)
class SurePartDrawing(PartDrawing):
    """As `PartDrawing`, for detectors that give every point some score, found or not."""

    min_score: float = 0.3


def _check(stick_width: StickWidth, min_score: float) -> None:
    require(
        is_width(stick_width),
        f"stick_width: expected standard, sdxl or 1 to 512 pixels, got {stick_width}",
    )
    require(0 <= min_score <= 1, f"min_score: expected 0 to 1, got {min_score}")


def pose_map(people: People, params: PoseDrawing, spec: ConditionSpec) -> ConditionMap:
    """Bodies, hands and faces, with the key points as OpenPose JSON beside the map."""
    pixels = draw_people(
        people,
        style=params.style,
        bodies=params.draw_body,
        hands=params.draw_hands,
        faces=params.draw_face,
        stick_width=params.stick_width,
        min_score=params.min_score,
    )
    counted = facts(people, params.min_score) | shares(people, params.min_score)
    return ConditionMap(pixels, spec, counted, data(people))


def hands_map(people: People, params: PartDrawing, spec: ConditionSpec) -> ConditionMap:
    """Hands alone."""
    pixels = draw_people(
        people,
        bodies=False,
        faces=False,
        stick_width=params.stick_width,
        min_score=params.min_score,
    )
    return ConditionMap(pixels, spec, facts(people, params.min_score), data(people))


def face_map(people: People, params: PartDrawing, spec: ConditionSpec) -> ConditionMap:
    """Faces alone."""
    pixels = draw_people(
        people,
        bodies=False,
        hands=False,
        stick_width=params.stick_width,
        min_score=params.min_score,
    )
    return ConditionMap(pixels, spec, facts(people, params.min_score), data(people))


def facts(people: People, min_score: float = 0.0) -> dict[str, float | int]:
    """The number of persons, hands and faces with at least one point of that score."""

    def count(parts: Iterable[Points | None]) -> int:
        return sum(part is not None and bool(visible(part, min_score).any()) for part in parts)

    return {
        "persons": len(people.persons),
        "hands": count(hands_of(people.persons)),
        "faces": count(person.face for person in people.persons),
    }


def shares(people: People, min_score: float = 0.0) -> dict[str, float]:
    """How much of the person who shows most of it can be seen; 0 where there is nobody.

    Returns:
        `body_share`: of the 18 joints, and `whole_body_share`: of the 130 points of body, both
        hands and face, the largest part that one person has: found with that score, and inside of
        the picture. What was not looked for counts as not found.
    """
    bodies = [_seen(person.body, people.size_hw, min_score) for person in people.persons]
    others = [
        sum(
            _seen(part, people.size_hw, min_score)
            for part in (person.left_hand, person.right_hand, person.face)
        )
        for person in people.persons
    ]
    wholes = [body + other for body, other in zip(bodies, others, strict=True)]
    return {
        "body_share": max(bodies, default=0) / BODY_JOINTS,
        "whole_body_share": max(wholes, default=0) / WHOLE_BODY_POINTS,
    }


def _seen(points: Points | None, size_hw: tuple[int, int], min_score: float) -> int:
    if points is None:
        return 0
    x, y = points[:, 0], points[:, 1]
    inside = (x >= -0.5) & (x < size_hw[1] - 0.5) & (y >= -0.5) & (y < size_hw[0] - 0.5)
    return int((visible(points, min_score) & inside).sum())


def data(people: People) -> tuple[MapData, ...]:
    """The key points as a file beside the map, made when it is wanted."""
    return (MapData(SUFFIXES[0], lambda: people_to_json(people).encode()),)
