"""Whose hands are whose: hands found by themselves, given to the bodies they belong to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from condkit.annotators.pose.drawing import Points
from condkit.predictions import Person

_LEFT_WRIST, _RIGHT_WRIST = 7, 4
_HAND_WRIST, _MIDDLE_BASE = 0, 9
_REACH = 1.5
"""A wrist is the hand's own if it is at most this many lengths of the palm from the hand's."""
_SURE = 0.3


@dataclass(frozen=True, slots=True)
class Hand:
    """A hand without an owner.

    Attributes:
        points: (21, 3) float32 x, y, score.
        is_left: Whether it looks like the person's own left one.
    """

    points: Points
    is_left: bool


def with_hands(persons: Sequence[Person], hands: Sequence[Hand]) -> list[Person]:
    """Persons with their hands.

    A hand goes to the nearest wrist within reach, and is the hand that this wrist is of, whatever
    it looks like; each wrist takes one hand, the nearest pair first. A hand that no wrist is near
    becomes a person of its own, on the side that it looks like.

    Args:
        persons: With bodies and without hands.
        hands: In any order.

    Returns:
        The persons in their order, then those that are hands alone, in the order of `hands`.
    """
    pairs = []
    for number, hand in enumerate(hands):
        palm = _distance(hand.points[_HAND_WRIST], hand.points[_MIDDLE_BASE])
        for owner, person in enumerate(persons):
            for side, wrist in (("left_hand", _LEFT_WRIST), ("right_hand", _RIGHT_WRIST)):
                if person.body is None or person.body[wrist, 2] < _SURE:
                    continue
                apart = _distance(hand.points[_HAND_WRIST], person.body[wrist])
                if apart <= _REACH * palm:
                    other_side = hand.is_left != (side == "left_hand")
                    pairs.append((apart / palm, other_side, number, owner, side))
    owned: dict[int, tuple[int, str]] = {}
    for _, _, number, owner, side in sorted(pairs):
        if number not in owned and (owner, side) not in owned.values():
            owned[number] = (owner, side)
    found = list(persons)
    for number, (owner, side) in owned.items():
        found[owner] = dataclasses.replace(found[owner], **{side: hands[number].points})
    alone = [hand for number, hand in enumerate(hands) if number not in owned]
    return found + [_alone(hand) for hand in alone]


def _alone(hand: Hand) -> Person:
    return Person(left_hand=hand.points) if hand.is_left else Person(right_hand=hand.points)


def _distance(one: Points, other: Points) -> float:
    return max(float(np.hypot(*(one[:2] - other[:2]))), 1e-6)
