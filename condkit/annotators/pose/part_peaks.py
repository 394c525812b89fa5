"""Points of hands and faces in the heat maps of a square crop: one maximum for each map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

THRESHOLD = 0.05
"""Of the (for hands: smoothed) heat map; from CMU's parser."""


def hand_peaks(plain: NDArray[np.float32], smooth: NDArray[np.float32]) -> NDArray[np.float32]:
    """The points of one hand: each in the region that holds most of its map.

    Args:
        plain: (21, h, w) float32 heat maps.
        smooth: The same, blurred.

    Returns:
        (21, 3) float32 x and y in [0, 1] from border to border, and the heat map's value; 0, 0, 0
        where the blurred map is nowhere above 0.05.

    Source: T. Simon et al., CVPR 2017; controlnet_aux open_pose/hand.py.
    """
    labels, region = _regions(smooth > THRESHOLD)
    count, height, width = plain.shape
    mass = np.bincount(labels.ravel(), weights=plain.ravel(), minlength=len(region))
    mass[0] = -np.inf
    largest = np.zeros(count, int)
    ascending = np.argsort(mass[1:]) + 1
    largest[region[ascending]] = ascending
    within = (labels == largest[:, None, None]) & (largest > 0)[:, None, None]
    values = np.where(within, plain, -np.inf).reshape(count, -1)
    return _points(values.argmax(axis=1), values.max(axis=1), (height, width))


def _regions(masks: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """(N, h, w) labels of 8-connected regions, 0 for none, and the map of each label."""
    import cv2

    count, height, width = masks.shape
    # All maps in one picture, a dark row below each, need one call.
    sheet = np.zeros((count, height + 1, width), np.uint8)
    sheet[:, :height] = masks
    number, labels = cv2.connectedComponents(sheet.reshape(-1, width), connectivity=8)
    labels = np.asarray(labels, np.int32).reshape(sheet.shape)[:, :height]
    region = np.zeros(number, np.int64)
    region[labels] = np.arange(count)[:, None, None]
    return labels, region


def _points(
    places: NDArray[np.int64], values: NDArray[np.float32], size_hw: tuple[int, int]
) -> NDArray[np.float32]:
    height, width = size_hw
    y, x = places // width, places % width
    points = np.stack([(x + 0.5) / width, (y + 0.5) / height, values], axis=1)
    points[~(values > 0)] = 0
    return points.astype(np.float32)


def face_peaks(heat: torch.Tensor) -> torch.Tensor:
    """The points of faces: each map's highest cell, moved towards its higher neighbours.

    Args:
        heat: (N, C, h, w) float32 heat maps on any device, at least 2 x 2.

    Returns:
        (N, C, 3) float32 x and y in [0, 1] from border to border, and the heat map's value; 0, 0, 0
        where it is nowhere above 0.05.
    """
    import torch

    height, width = heat.shape[2:]
    value, place = heat.flatten(2).max(dim=2)
    y, x = place // width, place % width
    # Reflected, so that a maximum at the border stays where it is.
    padded = torch.nn.functional.pad(heat, (1, 1, 1, 1), mode="reflect").flatten(2)
    centre = (y + 1) * (width + 2) + x + 1

    def at(offset: int) -> torch.Tensor:
        return padded.gather(2, (centre + offset)[:, :, None])[:, :, 0]

    down = _vertex(at(-width - 2), value, at(width + 2))
    right = _vertex(at(-1), value, at(1))
    points = torch.stack([(x + right + 0.5) / width, (y + down + 0.5) / height, value], dim=2)
    return points * (value > THRESHOLD)[:, :, None]


def _vertex(before: torch.Tensor, peak: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Where, within half a cell, the parabola through three values has its maximum."""
    bend = 2 * peak - before - after
    return ((after - before) / (2 * bend.clamp_min(1e-6))).clamp(-0.5, 0.5)
