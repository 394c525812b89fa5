"""Key points as OpenPose 1.3 JSON, and back.

Each person has flat lists x, y, score, x, y, score ... of fixed lengths: 18 joints in COCO order,
21 points per hand, 70 of the face, in pixels of the image itself. A point that was not found is
0, 0, 0 and keeps its place; a part that was not looked for, or not found at all, is an empty list,
as OpenPose writes it. `canvas_width` and `canvas_height`, which editors of poses read, are the
image's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condkit.errors import MapError
from condkit.predictions import BODY_JOINTS, FACE_POINTS, HAND_POINTS, People, Person

VERSION = 1.3

_PARTS = {
    "body": ("pose_keypoints_2d", BODY_JOINTS),
    "face": ("face_keypoints_2d", FACE_POINTS),
    "left_hand": ("hand_left_keypoints_2d", HAND_POINTS),
    "right_hand": ("hand_right_keypoints_2d", HAND_POINTS),
}
# Whole-body networks know no pupils, and some programs write their faces without.
_FACE_WITHOUT_PUPILS = 68


def people_to_json(people: People) -> str:
    """One JSON object without line breaks; floats are as short as float32 allows."""
    return json.dumps(
        {
            "version": VERSION,
            "people": [_person_to_dict(person) for person in people.persons],
            "canvas_width": people.size_hw[1],
            "canvas_height": people.size_hw[0],
        }
    )


def people_from_json(text: str, size_hw: tuple[int, int] | None = None) -> People:
    """What `people_to_json` has written, or OpenPose, or a program that writes as it does.

    Args:
        text: One JSON object. Parts may be empty, null or missing; faces may lack the pupils.
        size_hw: The image's height and width, where the file does not say them.

    Raises:
        MapError: if it is no such JSON; the message names the place.
    """
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise MapError(f"OpenPose key points: not JSON: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("people"), list):
        raise MapError('OpenPose key points: expected an object with a list "people"')
    persons = [_person_from_dict(item, place) for place, item in enumerate(found["people"])]
    return People(tuple(persons), size_hw or _canvas(found))


def _canvas(found: Mapping[str, Any]) -> tuple[int, int]:
    sides = found.get("canvas_height"), found.get("canvas_width")
    height, width = sides
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise MapError(
            "OpenPose key points: expected canvas_height and canvas_width in pixels, got "
            f"{height!r} and {width!r}; give the image's size if the file does not have it"
        )
    return height, width


def _person_to_dict(person: Person) -> dict[str, Any]:
    lists = {key: _flat(getattr(person, name)) for name, (key, _) in _PARTS.items()}
    return {"person_id": [-1], **lists}


def _flat(points: NDArray[np.float32] | None) -> list[float]:
    if points is None:
        return []
    kept = np.where(points[:, 2:] > 0, points, np.float32(0))
    return [float(str(value)) for value in kept.ravel()]


def _person_from_dict(values: object, place: int) -> Person:
    if not isinstance(values, dict):
        raise MapError(f"OpenPose key points: people[{place}]: expected an object, got {values!r}")
    parts = {
        name: _points(values.get(key), count, f"people[{place}].{key}")
        for name, (key, count) in _PARTS.items()
    }
    return Person(**parts)


def _points(values: object, count: int, where: str) -> NDArray[np.float32] | None:
    if values is None or values == []:
        return None
    numbers = isinstance(values, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    if not isinstance(values, list) or not numbers:
        raise MapError(f"OpenPose key points: {where}: expected a list of numbers")
    if count == FACE_POINTS and len(values) == 3 * _FACE_WITHOUT_PUPILS:
        values = values + [0.0] * 3 * (FACE_POINTS - _FACE_WITHOUT_PUPILS)
    points = np.asarray(values, np.float32)
    if len(values) != 3 * count or not np.isfinite(points).all():
        raise MapError(
            f"OpenPose key points: {where}: expected {3 * count} finite numbers (x, y and score of "
            f"{count} points), got {len(values)}"
        )
    return points.reshape(count, 3)
