"""Where a body's hands and face are: squares around them, also over the image's border.

Source: OpenPose's handDetector.cpp and controlnet_aux open_pose/util.py, with two differences. A
square at the border stays whole (its outside is padded) instead of shrinking, so that the hand
keeps its place in it; and a hand whose shoulder is not seen is looked for all the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.pose.drawing import Points, visible

_SMALLEST = 20
_RIGHT_ARM = (2, 3, 4)
_LEFT_ARM = (5, 6, 7)
_NOSE = 0
_EYES = (14, 15)
_EARS = (16, 17)
_BEYOND_WRIST = 0.33


@dataclass(frozen=True, slots=True)
class Square:
    """A square in an image; it may reach over the border.

    Attributes:
        left: x of the first column in pixels.
        top: y of the first row in pixels.
        side: Length in pixels, at least 1.
    """

    left: int
    top: int
    side: int


def hand_squares(body: Points, size_hw: tuple[int, int]) -> tuple[Square | None, Square | None]:
    """Where the left and the right hand are.

    Args:
        body: (18, 3) float32 key points.
        size_hw: The image's height and width.

    Returns:
        A square each, or None where elbow or wrist was not found, the square is smaller than 20
        pixels, or none of it is in the image.
    """
    return _hand(body, _LEFT_ARM, size_hw), _hand(body, _RIGHT_ARM, size_hw)


def face_square(body: Points, size_hw: tuple[int, int]) -> Square | None:
    """Where the face is.

    Args:
        body: (18, 3) float32 key points.
        size_hw: The image's height and width.

    Returns:
        A square around the nose, or None where the nose, or each eye and ear, was not found, or it
        is smaller than 20 pixels.
    """
    found = visible(body, 0)
    nose = body[_NOSE, :2].astype(float)
    reach = 0.0
    for joints, factor in ((_EYES, 3.0), (_EARS, 1.5)):
        for joint in joints:
            if found[_NOSE] and found[joint]:
                reach = max(reach, factor * float(np.abs(body[joint, :2] - nose).max()))
    return _square(nose - reach, 2 * reach, size_hw)


def _hand(body: Points, arm: tuple[int, int, int], size_hw: tuple[int, int]) -> Square | None:
    found = visible(body, 0)
    shoulder, elbow, wrist = (body[joint, :2].astype(float) for joint in arm)
    if not (found[arm[1]] and found[arm[2]]):
        return None
    length = float(np.hypot(*(wrist - elbow)))
    if found[arm[0]]:
        length = max(length, 0.9 * float(np.hypot(*(elbow - shoulder))))
    side = 1.5 * length
    return _square(wrist + _BEYOND_WRIST * (wrist - elbow) - side / 2, side, size_hw)


def _square(corner: NDArray[np.float64], side: float, size_hw: tuple[int, int]) -> Square | None:
    """Whole pixels, cut as controlnet_aux does; None where it is useless."""
    if side < _SMALLEST:
        return None
    left, top = (int(np.floor(value)) for value in corner)
    square = Square(left, top, int(side))
    touches = left < size_hw[1] and top < size_hw[0] and min(left, top) + square.side > 0
    return square if touches else None
