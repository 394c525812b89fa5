"""SimCC: key points as one classification over columns and one over rows.

Source: Y. Li et al., "SimCC: A Simple Coordinate Classification Perspective for Human Pose
Estimation", ECCV 2022; mmpose's and DWPose's decoding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SPLIT = 2
"""Classes per pixel."""


def decode(
    columns: NDArray[np.float32], rows: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where the points are, and how sure that is.

    Args:
        columns: (N, K, 2 w) float32, a value for each half pixel from the left.
        rows: (N, K, 2 h) float32, likewise from the top.

    Returns:
        (N, K, 2) float32 x and y in pixels of the network's input, and (N, K) float32: the lower of
        the two highest values, 0 where that is not above 0.
    """
    places = np.stack([columns.argmax(-1), rows.argmax(-1)], axis=-1)
    scores = np.minimum(columns.max(-1), rows.max(-1))
    return (places / SPLIT).astype(np.float32), np.maximum(scores, 0).astype(np.float32)
