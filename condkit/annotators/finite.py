"""Whether a network gave numbers at all: one check, so that none of them draws from NaN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from condkit.errors import MapError

if TYPE_CHECKING:
    import torch


def require_finite(values: torch.Tensor | NDArray[Any], whose: str) -> None:
    """Refuse an output that holds NaN or infinity.

    Args:
        values: Of any shape; on a device it is looked at there.
        whose: Whose output it is, such as "hed: the network's output".

    Raises:
        MapError: saying what to try.
    """
    if isinstance(values, np.ndarray):
        finite = bool(np.isfinite(values).all())
    else:
        finite = bool(values.isfinite().all())
    if not finite:
        raise MapError(
            f"{whose} is not finite; try --dtype fp32, and if that does not help, the weight file "
            "is damaged"
        )
