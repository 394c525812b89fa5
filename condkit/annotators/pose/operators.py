"""Resampling of heat maps along one axis, as matrices.

What controlnet_aux does to a heat map (Lanczos to eight times its size, cut the padding, Lanczos or
area to the image's size, Gaussian blur) is linear and the same for each axis. So it is one small
matrix per axis, and values of the full-size map can be had where they are wanted without making it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STRIDE = 8
"""Pixels of a network's input per cell of its output."""

_SIGMA = 3.0
_REACH = 12
_SAMPLES_PER_CELL = 4


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One axis of a heat map, seen at the image's size; shared, so not to be changed.

    Attributes:
        plain: (pixels, cells) float32; values at each pixel are `plain @ cells`.
        smooth: The same after a Gaussian blur with a standard deviation of 3 pixels.
        coarse: Every how many pixels the map has to be looked at so that no peak is overlooked.
    """

    plain: NDArray[np.float32]
    smooth: NDArray[np.float32]
    coarse: int


@functools.lru_cache(maxsize=128)
def axis(cells: int, inner: int, pixels: int) -> Axis:
    """An axis whose `cells` lie over `inner` input pixels of an image with `pixels`.

    Args:
        cells: Of the network's output.
        inner: Input pixels that are image; the rest, up to 8 per cell, is padding.
        pixels: Of the image, at its own size.
    """
    plain = upsampling(cells, inner, pixels)
    coarse = max(1, int(pixels / inner * STRIDE / _SAMPLES_PER_CELL))
    return Axis(plain.astype(np.float32), blurred(plain).astype(np.float32), coarse)


def upsampling(cells: int, inner: int, pixels: int) -> NDArray[np.float64]:
    """(pixels, cells): eight times up by Lanczos, the padding cut, then to the image's size.

    The second step is Lanczos, or area where it shrinks; the coefficients are OpenCV's own.
    """
    fine = _resized(np.eye(cells), cells * STRIDE)[:inner]
    return fine if pixels == inner else _resized(fine, pixels)


def blurred(operator: NDArray[np.float64]) -> NDArray[np.float64]:
    """An operator followed by a Gaussian blur, standard deviation 3, borders reflected."""
    offsets = np.arange(-_REACH, _REACH + 1)
    weights = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    weights /= weights.sum()
    padded = np.pad(operator, ((_REACH, _REACH), (0, 0)), mode="symmetric")
    count = len(operator)
    shifted = (weight * padded[k : k + count] for k, weight in enumerate(weights))
    return np.asarray(np.sum(list(shifted), axis=0))


def _resized(rows: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    import cv2

    way = cv2.INTER_AREA if count < len(rows) else cv2.INTER_LANCZOS4
    size = (rows.shape[1], count)
    resized = cv2.resize(np.ascontiguousarray(rows), size, interpolation=way)
    return np.asarray(resized, np.float64).reshape(count, rows.shape[1])
