"""Hough: straight segments by voting edge pixels, without weights.

Plain probabilistic Hough on Canny edges finds lines in every texture. Two rules stop that: an edge
pixel votes only for lines along its own direction, and a segment counts only if enough pixels below
it are such edges that no longer segment has used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.base import (
    Detector,
    DetectorDefinition,
    DetectorSpec,
    PerImage,
    require,
)
from condkit.predictions import LineSegments
from condkit.runtime import Runtime
from condkit.types import RgbImage

_SECTORS = 8
_SECTOR = np.pi / _SECTORS
_FREE_WIDTH = 3
# In small images the fractions would come to less, but fewer pixels have no direction, and a
# slightly sloped edge steps aside from the straight line.
_FEWEST_PIXELS = 8
_SMALLEST_GAP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class HoughParams:
    """Settings of the line search; lengths are fractions of the image's short side.

    In small images lengths and votes are at least 8 pixels and gaps at least 3.

    Attributes:
        low: Gradient above which an edge goes on, after the blur.
        high: Gradient above which an edge begins; at least `low`.
        blur: Standard deviation in pixels of the blur before edges are looked for.
        min_length: Shortest segment.
        max_gap: Longest gap that a segment bridges.
        min_votes: Edge pixels that a line needs before it is followed.
        min_support: Part of a segment that has to lie on edges of its direction, 0 to 1.
    """

    low: float = 40
    high: float = 100
    blur: float = 1.0
    min_length: float = 0.05
    max_gap: float = 0.01
    min_votes: float = 0.05
    min_support: float = 0.6

    def __post_init__(self) -> None:
        require(
            0 <= self.low <= self.high,
            f"hough.low and hough.high: expected 0 <= low <= high, got {self.low} and {self.high}",
        )
        require(self.blur > 0, f"hough.blur: expected more than 0 pixels, got {self.blur}")
        for name in ("min_length", "max_gap", "min_votes", "min_support"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"hough.{name}: expected 0 to 1, got {value}")


def detect(image: RgbImage, params: HoughParams) -> LineSegments:
    """Straight segments of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        params: The settings.

    Returns:
        Segments, longest first; the score is the supported part of each, in (0, 1].

    Source: J. Matas et al., CVIU 78(1), 2000 (probabilistic Hough, through OpenCV), with votes
        limited by edge direction as in F. O'Gorman and M. Clowes, IEEE ToC C-25(4), 1976.
    """
    edges, direction = _edges(image, params)
    short = min(image.shape[:2])
    found = [np.zeros((0, 4), np.float32)]
    for sector in range(_SECTORS):
        found.append(_vote(edges, direction, sector * _SECTOR, short, params))
    xyxy, score = _supported(np.concatenate(found), edges, direction, params.min_support)
    return LineSegments(xyxy, score, (image.shape[0], image.shape[1]))


def _edges(image: RgbImage, params: HoughParams) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """(H, W) Canny edges, and the direction along each pixel's edge in [0, pi)."""
    import cv2

    smooth = cv2.GaussianBlur(image, (0, 0), params.blur)
    dx, dy = cv2.Sobel(smooth, cv2.CV_16S, 1, 0), cv2.Sobel(smooth, cv2.CV_16S, 0, 1)
    strongest = (np.abs(dx) + np.abs(dy)).argmax(axis=2)[:, :, None]
    dx, dy = (
        np.ascontiguousarray(np.take_along_axis(d, strongest, axis=2)[:, :, 0]) for d in (dx, dy)
    )
    edges = cv2.Canny(dx, dy, params.low, params.high) > 0
    along = np.arctan2(dy.astype(np.float32), dx.astype(np.float32)) + np.float32(np.pi / 2)
    return edges, along % np.float32(np.pi)


def _vote(
    edges: NDArray[np.bool_],
    direction: NDArray[np.float32],
    centre: float,
    short: int,
    params: HoughParams,
) -> NDArray[np.float32]:
    """(N, 4) float32 segments around one direction; neighbouring sectors overlap by half."""
    import cv2

    voters = (edges & (_angle_between(direction, centre) <= _SECTOR)).astype(np.uint8)
    lines = cv2.HoughLinesP(
        voters,
        1,
        np.pi / 360,
        max(_FEWEST_PIXELS, round(params.min_votes * short)),
        minLineLength=max(_FEWEST_PIXELS, params.min_length * short),
        maxLineGap=max(_SMALLEST_GAP, params.max_gap * short),
    )
    if lines is None:
        return np.zeros((0, 4), np.float32)
    xyxy = lines.reshape(-1, 4).astype(np.float32)
    return xyxy[_angle_between(_directions(xyxy), centre) <= 0.75 * _SECTOR]


def _supported(
    xyxy: NDArray[np.float32],
    edges: NDArray[np.bool_],
    direction: NDArray[np.float32],
    min_support: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The segments that stand on edges of their direction, longest first, each edge used once."""
    import cv2

    lengths = np.hypot(xyxy[:, 2] - xyxy[:, 0], xyxy[:, 3] - xyxy[:, 1])
    order = np.argsort(-lengths, kind="stable")
    # Hough's end points are whole pixels, so the line between them may run one pixel beside.
    free = cv2.dilate(edges.astype(np.uint8), np.ones((3, 3), np.uint8))
    kept, scores = [], []
    for index in order:
        x0, y0, x1, y1 = xyxy[index]
        count = int(lengths[index]) + 1
        xs = np.rint(np.linspace(x0, x1, count)).astype(int)
        ys = np.rint(np.linspace(y0, y1, count)).astype(int)
        turned = _angle_between(direction[ys, xs], float(_directions(xyxy[index : index + 1])[0]))
        support = float(np.mean((free[ys, xs] > 0) & (turned <= _SECTOR)))
        if support <= 0 or support < min_support:
            continue
        kept.append(index)
        scores.append(support)
        cv2.line(free, (xs[0].item(), ys[0].item()), (xs[-1].item(), ys[-1].item()), 0, _FREE_WIDTH)
    return xyxy[kept].reshape(-1, 4), np.asarray(scores, np.float32)


def _directions(xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) direction of each segment in [0, pi)."""
    angles = np.arctan2(xyxy[:, 3] - xyxy[:, 1], xyxy[:, 2] - xyxy[:, 0])
    return np.asarray(angles % np.float32(np.pi), np.float32)


def _angle_between(directions: NDArray[np.float32], other: float) -> NDArray[np.float32]:
    """The angle between undirected lines, in [0, pi / 2]."""
    quarter = np.float32(np.pi / 2)
    turned = (directions - np.float32(other) + quarter) % np.float32(np.pi) - quarter
    return np.asarray(np.abs(turned), np.float32)


def _load(params: HoughParams, runtime: Runtime) -> Detector:
    return PerImage(lambda image: detect(image, params))


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="hough",
        summary="probabilistic Hough transform, votes limited by edge direction, no weights",
        source="J. Matas et al., CVIU 78(1), 2000; F. O'Gorman and M. Clowes, IEEE ToC, 1976",
        yields=LineSegments,
    ),
    params=HoughParams,
    load=_load,
)
