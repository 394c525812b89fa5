"""From a body network's maps to persons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.pose.affinity import connect
from condkit.annotators.pose.grouping import assemble
from condkit.annotators.pose.operators import axis
from condkit.annotators.pose.peaks import find_peaks
from condkit.predictions import BODY_JOINTS

if TYPE_CHECKING:
    import torch

HEAT_MAPS = 19
"""18 joints and the background."""
FIELDS = 38
"""x and y of 19 limbs."""


def parse(
    maps: torch.Tensor, inner_hw: tuple[int, int], size_hw: tuple[int, int]
) -> list[list[NDArray[np.float32]]]:
    """The bodies in a batch of images of one size.

    Args:
        maps: (N, 57, h, w) float32 on any device: 19 heat maps, then 38 part affinity fields, one
            cell for 8 x 8 input pixels.
        inner_hw: Height and width of that part of the network's input that is image.
        size_hw: Height and width of the images.

    Returns:
        For each image, (18, 3) float32 x, y, score of each person in pixels of the image, the
        surest person first.
    """
    rows = axis(int(maps.shape[2]), inner_hw[0], size_hw[0])
    columns = axis(int(maps.shape[3]), inner_hw[1], size_hw[1])
    peaks = find_peaks(maps[:, :BODY_JOINTS], rows, columns)
    connections = connect(maps[:, HEAT_MAPS:], peaks, rows, columns)
    return assemble(peaks, connections, len(maps))
