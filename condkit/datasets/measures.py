"""What filters measure on pixels; every function is pure and gives a plain float."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from condkit import geometry
from condkit.types import MapPixels, RgbImage

SHARPNESS_SIDE = 512
"""Short side in pixels at which sharpness is measured; smaller pictures stay as they are."""
_CHROMA_QUANTILE = 0.99


def sharpness(image: RgbImage) -> float:
    """Variance of the Laplacian: how much fine detail there is.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        At least 0, in grey levels squared; the kernel is 4 neighbours minus 4 times the middle, on
        8-bit grey whose short side is at most `SHARPNESS_SIDE`.

    Source: J. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000.
    """
    import cv2

    if min(image.shape[:2]) > SHARPNESS_SIDE:
        hw = (image.shape[0], image.shape[1])
        image = geometry.resize(image, geometry.size_for_short_side(hw, SHARPNESS_SIDE), "area")
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def chroma(image: RgbImage) -> float:
    """How colourful the colourful parts are.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        The smallest number of levels, 0 to 255, that 99 % of the pixels do not exceed in the
        difference between their strongest and their weakest channel.
    """
    spread = image.max(axis=2) - image.min(axis=2)
    counts = np.bincount(spread.ravel(), minlength=256).cumsum()
    return float(np.searchsorted(counts, _CHROMA_QUANTILE * spread.size))


def is_one_value(pixels: MapPixels) -> bool:
    """Whether all pixels of a map are alike, (H, W) or (H, W, C)."""
    return bool((pixels == pixels[0, 0]).all())


def edge_density(pixels: MapPixels) -> float:
    """Mean strength of a map of one channel, 0 to 1: of strokes on black their share of the pixels.

    Args:
        pixels: (H, W) uint8 or uint16, 0 where there is no edge.
    """
    return float(pixels.mean(dtype=np.float64)) / _largest(pixels)


def _largest(pixels: NDArray[Any]) -> int:
    return int(np.iinfo(pixels.dtype).max)
