"""Doing a network's first layers in strips of rows, which a CPU's caches hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_ROWS = 64


def in_strips(
    layers: Callable[[torch.Tensor], torch.Tensor],
    finish: Callable[[torch.Tensor], tuple[torch.Tensor, ...]],
    pixels: torch.Tensor,
    *,
    reach: int,
) -> tuple[torch.Tensor, ...]:
    """What `finish(layers(pixels))` gives, without ever holding `layers(pixels)` as a whole.

    At full size, the many channels of a first block are the largest thing that a network makes:
    32 MB in bf16 for HED and an image of 512 x 512, which goes to memory and back at each layer.

    Args:
        layers: Convolutions that keep the size.
        finish: Takes what the layers make and gives smaller tensors, row by row or pooled.
        pixels: (N, C, H, W); H is a multiple of what `finish` pools.
        reach: How many rows beyond a row the layers together see.

    Returns:
        What `finish` gives, the rows put together.
    """
    import torch

    parts = []
    for top in range(0, pixels.shape[2], _ROWS):
        above = min(top, reach)
        made = layers(pixels[:, :, top - above : top + _ROWS + reach])
        parts.append(finish(made[:, :, above : above + _ROWS]))
    return tuple(torch.cat(rows, dim=2) for rows in zip(*parts, strict=True))
