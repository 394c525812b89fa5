"""Bilinear resampling of a part of an array, whose edge need not fall between two rows."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def neighbours(
    count: int, step: float, limit: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What bilinear interpolation mixes along one axis, pixel centres at halves.

    Args:
        count: Outputs.
        step: Inputs per output.
        limit: Inputs that there are.
        device: Of the result.

    Returns:
        For each output the index of the input before it, of the one after it, and the latter's
        weight in [0, 1].
    """
    at = (torch.arange(count, device=device, dtype=torch.float32) + 0.5) * step - 0.5
    at = at.clamp(0, limit - 1)
    before = at.floor().long()
    return before, (before + 1).clamp(max=limit - 1), at - before


def bilinear(
    values: torch.Tensor, inner_hw: tuple[float, float], size_hw: tuple[int, int]
) -> torch.Tensor:
    """The top left part of arrays, brought to a size.

    Args:
        values: (K, h, w) floating.
        inner_hw: The height and width of the part in rows and columns.
        size_hw: (H, W), the size wanted.

    Returns:
        (K, H, W); where the part is the whole, what `interpolate` gives.
    """
    if inner_hw == tuple(values.shape[1:]):
        return F.interpolate(values[None], size_hw, mode="bilinear", align_corners=False)[0]
    (above, below, down), (left, right, across) = (
        neighbours(count, inner / count, limit, values.device)
        for count, inner, limit in zip(size_hw, inner_hw, values.shape[1:], strict=True)
    )
    rows = torch.lerp(values[:, above], values[:, below], down[None, :, None].to(values.dtype))
    return torch.lerp(rows[:, :, left], rows[:, :, right], across.to(values.dtype))
