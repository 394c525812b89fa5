"""The joints of other conventions as OpenPose's: COCO, COCO-WholeBody and MediaPipe's 33 points.

Source: the COCO key point task; S. Jin et al., "Whole-Body Human Pose Estimation in the Wild", ECCV
2020; MediaPipe's pose landmarker; the mapping of IDEA-Research/DWPose.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.pose.drawing import Points
from condkit.predictions import BODY_JOINTS, FACE_POINTS, HAND_POINTS, Person

COCO_JOINTS = 17
"""0 nose; left, then right: eyes, ears, shoulders, elbows, wrists, hips, knees, ankles."""
WHOLE_BODY_POINTS = 133
"""COCO's 17 joints, 6 of the feet, 68 of the face, 21 of the left and 21 of the right hand."""
MEDIAPIPE_JOINTS = 33

_NECK = 1
_OTHERS = (0, *range(2, BODY_JOINTS))
# For each of OpenPose's joints but the neck, in its order.
_OF_COCO = (0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
_OF_MEDIAPIPE = (0, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
_RIGHT_SHOULDER, _LEFT_SHOULDER = 2, 5
_EYES = [14, 15]

_FACE = slice(23, 91)
_LEFT_HAND = slice(91, 91 + HAND_POINTS)
_RIGHT_HAND = slice(91 + HAND_POINTS, WHOLE_BODY_POINTS)


def body_from_coco(points: Points) -> Points:
    """OpenPose's 18 joints of COCO's 17.

    Args:
        points: (17 or more, 3) float32 x, y, score; scores of at least 0.

    Returns:
        (18, 3) float32. The neck, which COCO does not have, is the middle of the shoulders and as
        sure as the less sure of them; 0, 0, 0 where one was not found.
    """
    return _body(points, _OF_COCO)


def body_from_mediapipe(points: Points) -> Points:
    """OpenPose's 18 joints of MediaPipe's 33, see `body_from_coco`."""
    return _body(points, _OF_MEDIAPIPE)


def person_from_whole_body(points: Points) -> Person:
    """All parts of a person of COCO-WholeBody's 133 points.

    Args:
        points: (133, 3) float32 x, y, score; scores of at least 0.

    Returns:
        Body, hands and face; the pupils of the face, which the 133 do not have, are the body's
        eyes. The feet are left out: the public maps have none.
    """
    body = body_from_coco(points)
    face = np.concatenate([points[_FACE], body[_EYES]])
    if face.shape != (FACE_POINTS, 3):
        raise ValueError(f"expected ({WHOLE_BODY_POINTS}, 3) points, got {points.shape}")
    return Person(
        body=body,
        left_hand=points[_LEFT_HAND].copy(),
        right_hand=points[_RIGHT_HAND].copy(),
        face=face,
    )


def _body(points: Points, order: tuple[int, ...]) -> Points:
    body = np.zeros((BODY_JOINTS, 3), np.float32)
    body[list(_OTHERS)] = points[list(order)]
    body[_NECK] = _between(body[_RIGHT_SHOULDER], body[_LEFT_SHOULDER])
    return body


def _between(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    score = min(one[2], other[2])
    if score <= 0:
        return np.zeros(3, np.float32)
    return np.array([*(one[:2] + other[:2]) / 2, score], np.float32)
