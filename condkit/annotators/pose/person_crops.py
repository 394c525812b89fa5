"""Persons cut out of images for networks that look at one person at a time.

Source: mmpose's top-down pipeline (box enlarged by 1.25, brought to the network's proportions,
bilinear, black outside of the image); for ViTPose with unbiased coordinates (J. Huang et al., "The
Devil Is in the Details", CVPR 2020), where the outermost pixels' centres are the box's borders.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condkit.types import RgbImage

_PADDING = 1.25


@dataclass(frozen=True, slots=True)
class Region:
    """The part of an image that a network sees.

    Attributes:
        centre: x and y in pixels of the image.
        extent: Width and height in pixels of the image.
    """

    centre: tuple[float, float]
    extent: tuple[float, float]


def region_around(box: NDArray[np.float32], size_hw: tuple[int, int]) -> Region:
    """A box with some ground around it, in the proportions of a network's input.

    Args:
        box: (4,) left, top, right, bottom in pixels.
        size_hw: The network's height and width.
    """
    left, top, right, bottom = (float(value) for value in box)
    width, height = max(right - left, 1.0), max(bottom - top, 1.0)
    aspect = size_hw[1] / size_hw[0]
    width, height = max(width, height * aspect), max(height, width / aspect)
    centre = ((left + right) / 2, (top + bottom) / 2)
    return Region(centre, (width * _PADDING, height * _PADDING))


def cut_out(
    image: RgbImage, region: Region, size_hw: tuple[int, int], *, unbiased: bool = False
) -> RgbImage:
    """What a network sees of a region.

    Args:
        image: (H, W, 3) uint8 RGB.
        region: May reach over the border.
        size_hw: Height and width of the result.
        unbiased: Whether the region's borders are the outermost pixels' centres.

    Returns:
        (h, w, 3) uint8 RGB; black outside of the image.
    """
    import cv2

    step, first = _grid(region, size_hw, unbiased)
    matrix = np.array([[step[0], 0, first[0]], [0, step[1], first[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    part = _within_reach(image, matrix, size_hw)
    return np.asarray(cv2.warpAffine(part, matrix, size_hw[::-1], flags=flags), np.uint8)


def in_image(
    places: NDArray[np.float32],
    region: Region,
    size_hw: tuple[int, int],
    *,
    unbiased: bool = False,
) -> NDArray[np.float32]:
    """Places in a crop as places in the image.

    Args:
        places: (..., 2) float32 x and y in pixels of a picture of `size_hw`.
        region: What the crop shows.
        size_hw: Height and width in which `places` are given; that of a heat map does as well.
        unbiased: As for `cut_out`.
    """
    step, first = _grid(region, size_hw, unbiased)
    return np.asarray(places * np.array(step) + np.array(first), np.float32)


def _grid(
    region: Region, size_hw: tuple[int, int], unbiased: bool
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Pixels of the image per pixel of the crop, and where the crop's first one is."""
    (width, height), (x, y) = region.extent, region.centre
    less = 1 if unbiased else 0
    step = width / max(size_hw[1] - less, 1), height / max(size_hw[0] - less, 1)
    return step, (x - width / 2, y - height / 2)


def _within_reach(
    image: RgbImage, matrix: NDArray[np.float64], size_hw: tuple[int, int]
) -> RgbImage:
    """The part of the image that is seen; `matrix` is made to fit. OpenCV takes 32767 pixels."""
    bounds = []
    for axis, length in ((0, image.shape[1]), (1, image.shape[0])):
        first = matrix[axis, 2]
        last = first + matrix[axis, axis] * size_hw[1 - axis]
        start = int(np.clip(np.floor(first) - 1, 0, length - 1))
        bounds.append((start, int(np.clip(np.ceil(last) + 2, start + 1, length))))
        matrix[axis, 2] -= start
    (left, right), (top, bottom) = bounds
    return image[top:bottom, left:right]
