"""From a network's scores per class to the class of each pixel of the image, on the device.

The scores of 150 classes at the size of a large image would fill any memory. They are resized only
where that decides anything: bilinear interpolation is a weighted mean of four neighbours, so where
the same class wins in all four, it wins between them too.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from condkit.annotators.nets.resampling import neighbours

_BAND_PIXELS = 1 << 16


def class_map(
    scores: torch.Tensor,
    inner_hw: tuple[float, float],
    size_hw: tuple[int, int],
    *,
    antialias: bool = False,
) -> torch.Tensor:
    """The class with the largest score at each pixel of an image.

    The result is that of `argmax` over the scores resized bilinearly (half-pixel centres) to the
    image's size, up to rounding in ties.

    Args:
        scores: (C, h, w) floating.
        inner_hw: How much of the height and width, counted from the top left, the image covers,
            in rows and columns of `scores`; the rest is padding.
        size_hw: The image's height and width in pixels.
        antialias: Whether the scores are smoothed where the image is smaller than they are.

    Returns:
        (H, W) int16 on the scores' device.
    """
    height, width = size_hw
    steps = inner_hw[0] / height, inner_hw[1] / width
    if antialias and max(steps) > 1:
        return _smoothed(scores, steps, size_hw).argmax(0).to(torch.int16)
    best = scores.argmax(0)
    if inner_hw == (float(height), float(width)):
        return best[:height, :width].to(torch.int16)
    rows = neighbours(height, steps[0], scores.shape[1], scores.device)
    columns = neighbours(width, steps[1], scores.shape[2], scores.device)
    flat = scores.permute(1, 2, 0).reshape(-1, scores.shape[0])
    band = max(1, _BAND_PIXELS // width)
    found = torch.empty(size_hw, dtype=torch.int16, device=scores.device)
    for top in range(0, height, band):
        part = tuple(values[top : top + band] for values in rows)
        found[top : top + band] = _band(flat, best, part, columns)
    return found


def _band(
    flat: torch.Tensor,
    best: torch.Tensor,
    rows: tuple[torch.Tensor, ...],
    columns: tuple[torch.Tensor, ...],
) -> torch.Tensor:
    """Some rows of the class map.

    Args:
        flat: (h * w, C) scores.
        best: (h, w), their argmax.
        rows: Of `neighbours`, for these rows.
        columns: Of `neighbours`.
    """
    (above, below, _), (left, right, _) = rows, columns
    upper, lower = best[above], best[below]
    found = upper[:, left].to(torch.int16)
    same = upper == lower
    undecided = ~(same[:, left] & same[:, right] & (upper[:, left] == upper[:, right]))
    y, x = undecided.nonzero(as_tuple=True)
    if len(y):
        found[y, x] = _single(flat, best.shape[1], [v[y] for v in rows], [v[x] for v in columns])
    return found


def _single(
    flat: torch.Tensor, stride: int, rows: list[torch.Tensor], columns: list[torch.Tensor]
) -> torch.Tensor:
    """The classes of single pixels, from the scores of their four neighbours."""
    (above, below, down), (left, right, across) = rows, columns
    above, below, down, across = above * stride, below * stride, down[:, None], across[:, None]
    top = torch.lerp(flat[above + left].float(), flat[above + right].float(), across)
    bottom = torch.lerp(flat[below + left].float(), flat[below + right].float(), across)
    return torch.lerp(top, bottom, down).argmax(1).to(torch.int16)


def _smoothed(
    scores: torch.Tensor, steps: tuple[float, float], size_hw: tuple[int, int]
) -> torch.Tensor:
    """(C, H, W): the scores resized with a triangle filter as wide as the step."""
    down, across = (
        _triangles(count, step, limit, scores.device)
        for count, step, limit in zip(size_hw, steps, scores.shape[1:], strict=True)
    )
    return down @ scores.float() @ across.T


def _triangles(count: int, step: float, limit: int, device: torch.device) -> torch.Tensor:
    """(count, limit) weights of a triangle filter, each row summing to 1."""
    centres = (torch.arange(count, device=device, dtype=torch.float32) + 0.5) * step - 0.5
    places = torch.arange(limit, device=device, dtype=torch.float32)
    weights = (1 - (places - centres[:, None]).abs() / max(step, 1.0)).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def semantic_scores(
    classes: torch.Tensor, masks: torch.Tensor, size_hw: tuple[int, int] | None = None
) -> torch.Tensor:
    """How strongly each class is at each pixel, from masks that each have a class.

    Args:
        classes: (N, Q, C + 1) logits; the last one stands for no object.
        masks: (N, Q, h, w) logits.
        size_hw: The size the masks are brought to, bilinearly, before they become probabilities.

    Returns:
        (N, C, h, w) float32: the sum over the queries of class probability times mask probability.

    Source: B. Cheng et al., MaskFormer, NeurIPS 2021, section 3.4 (semantic inference).
    """
    probabilities = classes.float().softmax(-1)[..., :-1]
    scores = []
    # One image at a time: the masks at full size are much larger than anything else here.
    for weights, mask in zip(probabilities, masks, strict=True):
        logits = mask.float()
        if size_hw is not None and logits.shape[1:] != size_hw:
            logits = F.interpolate(logits[None], size_hw, mode="bilinear", align_corners=False)[0]
        scores.append(torch.einsum("qc,qhw->chw", weights, logits.sigmoid()))
    return torch.stack(scores)
