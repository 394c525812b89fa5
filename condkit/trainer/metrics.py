"""How well one edge map follows another."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from condkit.errors import MapError

Mask = NDArray[np.bool_]


def binarise(pixels: NDArray[Any]) -> Mask:
    """The pixels of a map that are more than half of its range: an edge or none.

    Args:
        pixels: (H, W) or (H, W, 3), uint8 or uint16; of three channels the largest counts.

    Returns:
        (H, W) bool.

    Raises:
        MapError: if the array is no such map.
    """
    if pixels.ndim not in (2, 3) or pixels.dtype not in (np.uint8, np.uint16):
        raise MapError(
            f"expected a map of shape (H, W) or (H, W, 3) in uint8 or uint16, got {pixels.shape} "
            f"{pixels.dtype}"
        )
    grey = pixels if pixels.ndim == 2 else pixels.max(axis=2)
    return np.asarray(grey > np.iinfo(pixels.dtype).max // 2)


def edge_f1(predicted: Mask, condition: Mask, *, tolerance: int = 1) -> float:
    """F1 of edge pixels that may lie a little beside each other.

    Precision is the share of predicted edge pixels with a condition pixel within `tolerance`
    pixels in both directions; recall is the same with the roles exchanged.

    Args:
        predicted: (H, W) bool.
        condition: (H, W) bool.
        tolerance: Pixels; 1 is a 3x3 neighbourhood.

    Returns:
        From 0 to 1; 1 where both are empty, 0 where only one is.

    Raises:
        MapError: if the two differ in size.
    """
    if predicted.shape != condition.shape:
        raise MapError(
            f"expected two edge maps of one size, got {predicted.shape} and {condition.shape}"
        )
    if not predicted.any() and not condition.any():
        return 1.0
    if not predicted.any() or not condition.any():
        return 0.0
    precision = float(_grow(condition, tolerance)[predicted].mean())
    recall = float(_grow(predicted, tolerance)[condition].mean())
    return 0.0 if precision + recall == 0.0 else 2 * precision * recall / (precision + recall)


def _grow(mask: Mask, radius: int) -> Mask:
    """Every pixel within `radius` of a set one, rows and columns counted apart."""
    height, width = mask.shape
    padded = np.pad(mask, radius)
    grown = np.zeros_like(mask)
    for dy in range(2 * radius + 1):
        for dx in range(2 * radius + 1):
            grown |= padded[dy : dy + height, dx : dx + width]
    return grown
