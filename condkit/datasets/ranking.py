"""Which pictures are the largest: sub-sets of a data set by resolution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def by_size(pixels: NDArray[np.int64], names: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of pictures, those with most pixels first, of equal ones the first by name.

    Args:
        pixels: (N,) height times width.
        names: (N,) where the names stand in sorted order.

    Returns:
        (N,) places.
    """
    return np.lexsort((names, -pixels))
