"""Poses as the public ControlNets know them: coloured limbs and joints, hands, faces on black.

Source: lllyasviel/ControlNet annotator/openpose ("v1.0"), lllyasviel/ControlNet-v1-1-nightly and
controlnet_aux ("v1.1"); xinsir/controlnet-openpose-sdxl-1.0 for the width "sdxl".
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.pose.skeleton import LIMBS
from condkit.predictions import People, Person
from condkit.types import RgbImage

Style: TypeAlias = Literal["v1.1", "v1.0"]
StickWidth: TypeAlias = Literal["standard", "sdxl"] | int
Points: TypeAlias = NDArray[np.float32]

JOINT_COLOURS = (
    (255, 0, 0),
    (255, 85, 0),
    (255, 170, 0),
    (255, 255, 0),
    (170, 255, 0),
    (85, 255, 0),
    (0, 255, 0),
    (0, 255, 85),
    (0, 255, 170),
    (0, 255, 255),
    (0, 170, 255),
    (0, 85, 255),
    (0, 0, 255),
    (85, 0, 255),
    (170, 0, 255),
    (255, 0, 255),
    (255, 0, 170),
    (255, 0, 85),
)
"""RGB of the 18 joints; a limb has the colour of its own number."""

HAND_EDGES = tuple(
    (0 if step == 0 else finger + step, finger + step + 1)
    for finger in range(0, 20, 4)
    for step in range(4)
)
"""Pairs of hand points: the wrist to each finger's base, then outwards."""

_HALF_WIDTH = 4
_HAND_LINE = 2
_FACE_RADIUS = 3
_WIDEST = 512


def stick_scale(stick_width: StickWidth, size_hw: tuple[int, int]) -> tuple[float, float]:
    """How much thicker than in the public maps bodies are, and hands and faces.

    Args:
        stick_width: "standard"; "sdxl", which is what SDXL checkpoints of xinsir were trained on
            (bodies alone, by the longer side of the map); or half a limb's width in pixels, with
            which everything else grows in proportion.
        size_hw: Height and width of the map.
    """
    if stick_width == "standard":
        return 1.0, 1.0
    if stick_width == "sdxl":
        longest = max(size_hw)
        return (1.0 if longest < 500 else float(min(2 + longest // 1000, 7))), 1.0
    return stick_width / _HALF_WIDTH, stick_width / _HALF_WIDTH


def is_width(stick_width: StickWidth) -> bool:
    """Whether a width is one of the words or a possible number of pixels."""
    return isinstance(stick_width, str) or 1 <= stick_width <= _WIDEST


def draw_people(
    people: People,
    *,
    style: Style = "v1.1",
    bodies: bool = True,
    hands: bool = True,
    faces: bool = True,
    stick_width: StickWidth = "standard",
    min_score: float = 0.0,
) -> RgbImage:
    """All persons of an image on black: bodies, then hands, then faces.

    Limbs of all persons come before the joints of any, as in ControlNet 1.1 (1.0: the other way
    round); controlnet_aux, which draws person by person, differs where persons overlap.

    Args:
        people: What was found, in pixels of the map.
        style: "v1.1": limbs at 60 % of their colour, then joints. "v1.0": joints, then limbs mixed
            into what is below them, 60 to 40.
        bodies: Whether to draw bodies.
        hands: Whether to draw hands.
        faces: Whether to draw faces.
        stick_width: See `stick_scale`.
        min_score: Points with a lower score, and those that were not found, are left out.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    canvas = np.zeros((*people.size_hw, 3), np.uint8)
    body_scale, scale = stick_scale(stick_width, people.size_hw)
    if bodies:
        found = [p.body for p in people.persons if p.body is not None]
        _draw_bodies(canvas, found, style, _scaled(_HALF_WIDTH, body_scale), min_score)
    if hands:
        for points in hands_of(people.persons):
            _draw_hand(canvas, points, scale, min_score)
    if faces:
        for person in people.persons:
            if person.face is not None:
                _draw_face(canvas, person.face, _scaled(_FACE_RADIUS, scale), min_score)
    return canvas


def hands_of(persons: Sequence[Person]) -> list[Points]:
    """The hands that were found, each person's left one first."""
    both = [hand for person in persons for hand in (person.left_hand, person.right_hand)]
    return [hand for hand in both if hand is not None]


def visible(points: Points, min_score: float) -> NDArray[np.bool_]:
    """(N,) bool: which points were found, surely enough."""
    return np.asarray((points[:, 2] > 0) & (points[:, 2] >= min_score))


def _scaled(length: int, scale: float) -> int:
    return max(1, round(length * scale))


def _draw_bodies(
    canvas: RgbImage,
    bodies: Sequence[Points],
    style: Style,
    half_width: int,
    min_score: float,
) -> None:
    """Limbs are as wide as joints."""
    seen = [visible(body, min_score) for body in bodies]
    if style == "v1.0":
        _draw_joints(canvas, bodies, seen, half_width)
    for (start, end), colour in zip(LIMBS, JOINT_COLOURS, strict=False):
        for body, here in zip(bodies, seen, strict=True):
            if here[start] and here[end]:
                _draw_limb(canvas, body[start], body[end], colour, style, half_width)
    if style == "v1.1":
        _draw_joints(canvas, bodies, seen, half_width)


def _draw_joints(
    canvas: RgbImage, bodies: Sequence[Points], seen: Sequence[NDArray[np.bool_]], radius: int
) -> None:
    for joint, colour in enumerate(JOINT_COLOURS):
        for body, here in zip(bodies, seen, strict=True):
            if here[joint]:
                _disc(canvas, body[joint], radius, colour)


def _draw_limb(
    canvas: RgbImage,
    start: Points,
    end: Points,
    colour: tuple[int, int, int],
    style: Style,
    half_width: int,
) -> None:
    """One filled ellipse from joint to joint."""
    import cv2

    (x0, y0), (x1, y1) = start[:2].astype(float).tolist(), end[:2].astype(float).tolist()
    length, angle = math.hypot(x0 - x1, y0 - y1), math.degrees(math.atan2(y0 - y1, x0 - x1))
    centre = int((x0 + x1) / 2), int((y0 + y1) / 2)
    axes = int(length / 2), half_width
    outline = np.asarray(cv2.ellipse2Poly(centre, axes, int(angle), 0, 360, 1), np.int32)
    if style == "v1.1":
        cv2.fillConvexPoly(canvas, outline, [int(level * 0.6) for level in colour])
    else:
        _blend_polygon(canvas, outline, colour)


def _blend_polygon(
    canvas: RgbImage, outline: NDArray[np.int32], colour: tuple[int, int, int]
) -> None:
    """Mix a filled outline into the canvas, 60 to 40; only its surroundings are touched."""
    import cv2

    height, width = canvas.shape[:2]
    left, top = np.maximum(outline.min(axis=0) - 1, 0).tolist()
    right, bottom = np.minimum(outline.max(axis=0) + 2, (width, height)).tolist()
    if left >= right or top >= bottom:
        return
    below = canvas[top:bottom, left:right]
    filled = below.copy()
    cv2.fillConvexPoly(filled, outline - np.array([left, top], np.int32), colour)
    below[:] = cv2.addWeighted(below, 0.4, filled, 0.6, 0)


def _draw_hand(canvas: RgbImage, points: Points, scale: float, min_score: float) -> None:
    import cv2

    seen = visible(points, min_score) & _drawable(points)
    pixels = points[:, :2].astype(int).tolist()
    for number, (start, end) in enumerate(HAND_EDGES):
        if seen[start] and seen[end]:
            colour = [255 * v for v in colorsys.hsv_to_rgb(number / len(HAND_EDGES), 1.0, 1.0)]
            cv2.line(canvas, pixels[start], pixels[end], colour, _scaled(_HAND_LINE, scale))
    for point in points[seen]:
        _disc(canvas, point, _scaled(_HALF_WIDTH, scale), (0, 0, 255))


def _draw_face(canvas: RgbImage, points: Points, radius: int, min_score: float) -> None:
    for point in points[visible(points, min_score) & _drawable(points)]:
        _disc(canvas, point, radius, (255, 255, 255))


def _drawable(points: Points) -> NDArray[np.bool_]:
    """The public maps leave out points of hands and faces in the first row and column."""
    return np.asarray((points[:, :2].astype(int) > 0).all(axis=1))


def _disc(canvas: RgbImage, point: Points, radius: int, colour: tuple[int, int, int]) -> None:
    import cv2

    cv2.circle(canvas, (int(point[0]), int(point[1])), radius, colour, thickness=-1)
