"""Pictures side by side in one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from condkit.types import MapPixels, RgbImage

_GAP = 2
_PAPER = 255


def picture_grid(rows: Sequence[Sequence[RgbImage]]) -> RgbImage:
    """Put pictures into rows and columns.

    Args:
        rows: (H, W, 3) uint8 pictures; every row has as many as the first. Smaller ones are
            placed at the top left of their cell.

    Returns:
        (H', W', 3) uint8, white between the pictures.
    """
    height = max(picture.shape[0] for row in rows for picture in row)
    width = max(picture.shape[1] for row in rows for picture in row)
    step_y, step_x = height + _GAP, width + _GAP
    shape = (len(rows) * step_y + _GAP, len(rows[0]) * step_x + _GAP, 3)
    grid = np.full(shape, _PAPER, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = _GAP + i * step_y, _GAP + j * step_x
            grid[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return grid


def map_picture(pixels: MapPixels) -> RgbImage:
    """A condition map to look at: (H, W, 3) uint8; what its mask hides is black."""
    scaled: NDArray[np.uint8] = (
        (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels.astype(np.uint8)
    )
    if scaled.shape[2:] == (4,):
        return np.where(scaled[:, :, 3:] == 0, np.uint8(0), scaled[:, :, :3])
    rgb = scaled if scaled.ndim == 3 else np.repeat(scaled[:, :, None], 3, axis=2)
    return np.ascontiguousarray(rgb)


def picture_from_pixels(pixels: NDArray[np.float32]) -> RgbImage:
    """(3, H, W) float32 in [-1, 1] or a hint's (3, H, W) in [0, 1] given as `2 * hint - 1`."""
    scaled = ((pixels + 1.0) * 127.5).round().clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(scaled.transpose(1, 2, 0))
