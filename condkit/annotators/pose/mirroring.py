"""People as they look in a mirror: what a horizontal flip of an image does to key points.

The pixels of a pose map cannot simply be mirrored, as left and right limbs differ in colour; the
mirrored people can be drawn anew.
"""

from __future__ import annotations

from condkit.annotators.pose.drawing import Points
from condkit.predictions import People, Person

_BODY = (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)
_HAND = tuple(range(21))
# iBUG 300-W: jaw, brows, nose, eyes, mouth; then the pupils.
_FACE = (
    *range(16, -1, -1),
    *range(26, 16, -1),
    *range(27, 31),
    *range(35, 30, -1),
    *(45, 44, 43, 42, 47, 46),
    *(39, 38, 37, 36, 41, 40),
    *range(54, 47, -1),
    *range(59, 54, -1),
    *range(64, 59, -1),
    *(67, 66, 65),
    *(69, 68),
)


def mirrored(people: People) -> People:
    """The people of the horizontally flipped image; mirroring twice changes nothing.

    Points keep their scores, and those that were not found stay as they are.
    """
    width = people.size_hw[1]
    persons = tuple(_mirrored(person, width) for person in people.persons)
    return People(persons, people.size_hw)


def _mirrored(person: Person, width: int) -> Person:
    return Person(
        body=_points(person.body, _BODY, width),
        left_hand=_points(person.right_hand, _HAND, width),
        right_hand=_points(person.left_hand, _HAND, width),
        face=_points(person.face, _FACE, width),
    )


def _points(points: Points | None, order: tuple[int, ...], width: int) -> Points | None:
    if points is None:
        return None
    flipped = points[list(order)]
    found = flipped[:, 2] > 0
    flipped[found, 0] = width - 1 - flipped[found, 0]
    return flipped
