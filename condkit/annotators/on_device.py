"""Bringing a network's output to its images' sizes on the device it was made on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def restore_on_device(
    values: torch.Tensor,
    inner_hw: Sequence[tuple[int, int]],
    sizes_hw: Sequence[tuple[int, int]],
    how: str,
) -> list[NDArray[np.float32]]:
    """What `batching.restore` does, for a whole chunk, in one copy to the host.

    Args:
        values: (N, h, w) or (N, C, h, w) float32 at the padded working size.
        inner_hw: The part of each that is image.
        sizes_hw: Each image's height and width.
        how: "bilinear" (by area where it shrinks) or "nearest".

    Returns:
        (H, W) or (H, W, C) float32 each, C-contiguous, its own memory.
    """
    import torch

    restored = []
    for one, (h, w), size in zip(values, inner_hw, sizes_hw, strict=True):
        part = (one if one.ndim == 3 else one[None])[:, :h, :w]
        restored.append(_resized(part, size, how).permute(1, 2, 0))
    flat = torch.cat([part.reshape(-1) for part in restored]).cpu().numpy()
    arrays, start = [], 0
    for part in restored:
        array = flat[start : start + part.numel()].reshape(part.shape)
        arrays.append(np.array(array if values.ndim == 4 else array[:, :, 0]))
        start += part.numel()
    return arrays


def _resized(part: torch.Tensor, size_hw: tuple[int, int], how: str) -> torch.Tensor:
    """(C, h, w) to (C, H, W) by the filters of OpenCV."""
    from torch.nn import functional as F

    height, width = part.shape[1:]
    if size_hw == (height, width):
        return part
    if how == "nearest":
        rows = _nearest(height, size_hw[0], part.device)
        columns = _nearest(width, size_hw[1], part.device)
        return part[:, rows][:, :, columns]
    if size_hw[0] < height and size_hw[1] <= width:
        rows = _shares(height, size_hw[0], part)
        columns = _shares(width, size_hw[1], part)
        return rows @ part @ columns.T
    return F.interpolate(part[None], size_hw, mode="bilinear", align_corners=False)[0]


def _nearest(before: int, after: int, device: torch.device) -> torch.Tensor:
    """(after,) in which old pixel the middle of each new one lies."""
    import torch

    middles = 2 * torch.arange(after, device=device) + 1
    return middles * before // (2 * after)


def _shares(before: int, after: int, like: torch.Tensor) -> torch.Tensor:
    """(after, before): which share of each new pixel's extent each old pixel covers."""
    import torch

    scale = before / after
    # On the host, whose float64 not every device has.
    starts = torch.arange(after, dtype=torch.float64)[:, None] * scale
    old = torch.arange(before, dtype=torch.float64)[None]
    overlap = torch.minimum(starts + scale, old + 1) - torch.maximum(starts, old)
    return (overlap.clamp_(min=0) / scale).to(dtype=like.dtype).to(like.device)
