"""Squares cut out of images; what lies outside of the image is grey."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.pose.boxes import Square
from condkit.annotators.pose.drawing import Points
from condkit.types import RgbImage

_GREY = 128


def cut(image: RgbImage, square: Square) -> RgbImage:
    """The pixels of a square.

    Args:
        image: (H, W, 3) uint8 RGB.
        square: May reach over the border.

    Returns:
        (side, side, 3) uint8 RGB; grey 128 outside of the image.
    """
    crop = np.full((square.side, square.side, 3), _GREY, np.uint8)
    bottom, right = max(square.top + square.side, 0), max(square.left + square.side, 0)
    part = image[max(square.top, 0) : bottom, max(square.left, 0) : right]
    down, over = max(-square.top, 0), max(-square.left, 0)
    crop[down : down + part.shape[0], over : over + part.shape[1]] = part
    return crop


def resized(crop: RgbImage, side: int) -> RgbImage:
    """A square crop at another size: Lanczos to enlarge, area to shrink."""
    import cv2

    if len(crop) == side:
        return crop
    way = cv2.INTER_AREA if side < len(crop) else cv2.INTER_LANCZOS4
    return np.asarray(cv2.resize(crop, (side, side), interpolation=way), np.uint8)


def placed(peaks: NDArray[np.float32], square: Square) -> Points | None:
    """Points of a crop as points of the image.

    Args:
        peaks: (N, 3) float32 x and y in [0, 1] from border to border of the crop, and score.
        square: Where the crop is.

    Returns:
        (N, 3) float32 x and y in pixels of the image; 0, 0, 0 where the score is 0. None where all
        are.
    """
    found = peaks[:, 2] > 0
    if not found.any():
        return None
    points = np.zeros_like(peaks)
    # A pixel's centre is half a pixel from its border.
    corner = np.array([square.left, square.top], np.float32) - np.float32(0.5)
    points[found, :2] = corner + peaks[found, :2] * square.side
    points[found, 2] = peaks[found, 2]
    return points
