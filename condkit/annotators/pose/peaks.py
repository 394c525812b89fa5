"""Joints in body heat maps: where a smoothed map has a local maximum, for a whole batch at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.pose.operators import Axis

if TYPE_CHECKING:
    import torch

THRESHOLD = 0.1
"""Of the smoothed heat map; from CMU's parser."""

# A peak is at most an eighth of a cell away from a place that is looked at first.
_COARSE_THRESHOLD = 0.9 * THRESHOLD
_MOST_PER_JOINT = 100
_CHUNK = 256
_LEAST_SCORE = 1e-3


@dataclass(frozen=True, slots=True)
class Peaks:
    """Candidates for joints in a batch of images, sorted by image, joint, y, x.

    Attributes:
        place: (P, 4) int64: image, joint, y and x in pixels of the image.
        score: (P,) float32: the heat map there, not smoothed; above 0.
    """

    place: NDArray[np.int64]
    score: NDArray[np.float32]


def find_peaks(heat: torch.Tensor, rows: Axis, columns: Axis) -> Peaks:
    """The local maxima of smoothed heat maps at the images' size, without making maps that large.

    The map is looked at in a few places per cell; around each maximum among these, every pixel is.

    Args:
        heat: (N, 18, h, w) float32 heat maps as the network gave them.
        rows: Of the images, which all have the same size.
        columns: Likewise.

    Returns:
        At most 100 candidates per image and joint, the strongest. They are those of controlnet_aux
        on the same maps.
    """
    import torch

    smooth = [torch.from_numpy(a.smooth).to(heat.device) for a in (rows, columns)]
    plain = [torch.from_numpy(a.plain).to(heat.device) for a in (rows, columns)]
    steps = rows.coarse, columns.coarse
    seeds = _coarse_maxima(heat, smooth, steps)
    found = [_refine(heat, chunk, smooth, steps) for chunk in torch.split(seeds, _CHUNK)]
    place = torch.unique(torch.cat(found), dim=0)
    scores = [_values(heat, chunk, plain) for chunk in torch.split(place, _CHUNK)]
    score = torch.cat(scores).clamp_min(_LEAST_SCORE)
    return Peaks(place.cpu().numpy(), score.cpu().numpy())


def _offset(step: int, pixels: int) -> int:
    return min(step // 2, pixels - 1)


def _coarse_maxima(
    heat: torch.Tensor, smooth: list[torch.Tensor], steps: tuple[int, int]
) -> torch.Tensor:
    """(P, 4) int64: image, joint, y, x of maxima among the places that are looked at."""
    import torch

    starts = [_offset(step, len(op)) for step, op in zip(steps, smooth, strict=True)]
    rows, columns = (op[start::step] for op, start, step in zip(smooth, starts, steps, strict=True))
    grid = rows @ (heat @ columns.T)
    highest = (grid >= _highest_around(grid)) & (grid > _COARSE_THRESHOLD)
    place = _strongest(grid, highest).nonzero()
    factor = torch.tensor([1, 1, *steps], device=heat.device)
    start = torch.tensor([0, 0, *starts], device=heat.device)
    return place * factor + start


def _highest_around(grid: torch.Tensor) -> torch.Tensor:
    """The maximum of 3 x 3 places around each; torch's pooling takes ten times as long on CPUs."""
    import torch
    from torch.nn import functional as F

    padded = F.pad(grid, (1, 1, 1, 1), value=-torch.inf)
    across = torch.maximum(torch.maximum(padded[..., :-2], padded[..., 2:]), padded[..., 1:-1])
    return torch.maximum(torch.maximum(across[:, :, :-2], across[:, :, 2:]), across[:, :, 1:-1])


def _strongest(grid: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """At most 100 chosen places per map; a map that is flat has no end of them."""
    if int(chosen.sum(dim=(2, 3)).max()) <= _MOST_PER_JOINT:
        return chosen
    values = grid.masked_fill(~chosen, 0).flatten(2)
    most = min(_MOST_PER_JOINT, values.shape[2])
    places = values.topk(most, dim=2).indices
    kept = chosen.flatten(2).new_zeros(values.shape).scatter_(2, places, value=True)
    return chosen & kept.view(chosen.shape)


def _refine(
    heat: torch.Tensor, seeds: torch.Tensor, smooth: list[torch.Tensor], steps: tuple[int, int]
) -> torch.Tensor:
    """(P, 4) int64: the highest pixel around each seed, where that is a peak."""
    import torch

    (top, rows), (left, columns) = (
        _window(seeds[:, axis + 2], smooth[axis], steps[axis] + 1) for axis in (0, 1)
    )
    window = smooth[0][rows] @ heat[seeds[:, 0], seeds[:, 1]] @ smooth[1][columns].mT
    value, best = window.flatten(1).max(dim=1)
    down, right = best // window.shape[2], best % window.shape[2]
    each = torch.arange(len(seeds), device=heat.device)
    y, x = rows[each, down], columns[each, right]
    # At the window's edge the map goes on rising: that peak has another seed.
    inside = ~(_at_edge(down, top) | _at_edge(right, left)) & (value > THRESHOLD)
    return torch.stack([seeds[:, 0], seeds[:, 1], y, x], dim=1)[inside]


def _window(
    centres: torch.Tensor, operator: torch.Tensor, reach: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(P, W) bool and int64: pixels around each centre, and whether the image ends behind each."""
    import torch

    offsets = torch.arange(-reach, reach + 1, device=centres.device)
    pixels = (centres[:, None] + offsets).clamp(0, len(operator) - 1)
    return (pixels == 0) | (pixels == len(operator) - 1), pixels


def _at_edge(index: torch.Tensor, image_ends: torch.Tensor) -> torch.Tensor:
    last = image_ends.shape[1] - 1
    ends = image_ends.gather(1, index[:, None])[:, 0]
    return ((index == 0) | (index == last)) & ~ends


def _values(heat: torch.Tensor, place: torch.Tensor, plain: list[torch.Tensor]) -> torch.Tensor:
    """(P,): the maps' own values at full-size pixels."""
    image, joint, y, x = place.unbind(1)
    rows, columns = plain[0][y][:, None], plain[1][x][:, :, None]
    return (rows @ heat[image, joint] @ columns)[:, 0, 0]
