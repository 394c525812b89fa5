"""Which joints belong together: part affinity fields along the line between two candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.pose.operators import Axis
from condkit.annotators.pose.peaks import Peaks
from condkit.annotators.pose.skeleton import LIMBS

if TYPE_CHECKING:
    import torch

GROUPED_LIMBS = (*LIMBS, (2, 16), (5, 17))
"""Pairs of joints in the order in which persons are put together; ears help to find shoulders."""

# The first of the two channels (x, y) of each limb's field.
_CHANNELS = (12, 20, 14, 16, 22, 24, 0, 2, 4, 6, 8, 10, 28, 30, 34, 32, 36, 18, 26)
_SAMPLES = 10
_THRESHOLD = 0.05
_LEAST_SHARE = 0.8
_CHUNK = 20_000


@dataclass(frozen=True, slots=True)
class Connections:
    """Pairs of candidates that a field connects, by limb, the surest first.

    Attributes:
        limb: (C,) int64, place in `GROUPED_LIMBS`.
        ends: (C, 2) int64, places in the peaks.
        score: (C,) float64, above 0.
    """

    limb: NDArray[np.int64]
    ends: NDArray[np.int64]
    score: NDArray[np.float64]


def connect(fields: torch.Tensor, peaks: Peaks, rows: Axis, columns: Axis) -> Connections:
    """The pairs that may be limbs: the field runs along at least nine of ten samples.

    Args:
        fields: (N, 38, h, w) float32 part affinity fields as the network gave them.
        peaks: Candidates of these N images.
        rows: Of the images.
        columns: Likewise.

    Source: Z. Cao et al., CVPR 2017; the thresholds, and the discount for limbs that are longer
        than half the image's height, are those of CMU's parser.
    """
    limb, ends = _pairs(peaks)
    if not len(limb):
        return Connections(limb, ends, np.zeros(0))
    start, end = peaks.place[ends[:, 0], 2:], peaks.place[ends[:, 1], 2:]
    direction = (end - start).astype(np.float64)
    length = np.maximum(np.hypot(direction[:, 0], direction[:, 1]), 0.001)
    samples = _along(fields, peaks, limb, ends, rows, columns)
    along = np.einsum("psa,pa->ps", samples, direction / length[:, None])
    discount = np.minimum(0.5 * len(rows.plain) / length - 1, 0)
    score = along.mean(axis=1) + discount
    kept = ((along > _THRESHOLD).mean(axis=1) > _LEAST_SHARE) & (score > 0)
    order = np.flatnonzero(kept)
    order = order[np.lexsort((-score[order], limb[order]))]
    return Connections(limb[order], ends[order], score[order])


def _pairs(peaks: Peaks) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of candidates for each limb within each image: (M,) limbs and (M, 2) peaks."""
    keys = peaks.place[:, 0] * 18 + peaks.place[:, 1]
    images = int(peaks.place[-1, 0]) + 1 if len(keys) else 0
    first = np.searchsorted(keys, np.arange(18 * images + 1))
    limbs, pairs = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.int64)]
    for image in range(images):
        for number, (a, b) in enumerate(GROUPED_LIMBS):
            (a0, a1), (b0, b1) = (first[18 * image + j : 18 * image + j + 2] for j in (a, b))
            count = (a1 - a0) * (b1 - b0)
            if count:
                starts, ends = np.repeat(np.arange(a0, a1), b1 - b0), np.arange(b0, b1)
                pairs.append(np.stack([starts, np.tile(ends, a1 - a0)], axis=1))
                limbs.append(np.full(count, number))
    return np.concatenate(limbs), np.concatenate(pairs)


def _along(
    fields: torch.Tensor,
    peaks: Peaks,
    limb: NDArray[np.int64],
    ends: NDArray[np.int64],
    rows: Axis,
    columns: Axis,
) -> NDArray[np.float64]:
    """(M, 10, 2): y and x of each pair's field at ten pixels from joint to joint."""
    import torch

    start, end = (peaks.place[ends[:, side], 2:] for side in (0, 1))
    pixels = np.rint(np.linspace(start, end, _SAMPLES, axis=1)).astype(np.int64)
    image = peaks.place[ends[:, 0], 0]
    channel = np.asarray(_CHANNELS)[limb]
    # One axis of the fields is brought to full size; the other is, at the samples alone.
    tall = _stretched(fields, torch.from_numpy(rows.plain).to(fields.device))
    across = torch.from_numpy(columns.plain).to(fields.device)
    values = []
    for place in range(0, len(limb), _CHUNK):
        part = slice(place, place + _CHUNK)
        n, c, y, x = (
            torch.from_numpy(v[part]).to(fields.device)
            for v in (image[:, None], channel[:, None], pixels[:, :, 0], pixels[:, :, 1])
        )
        weights = across[x]
        values.append(
            torch.stack([(tall[n, y, c + 1 - k] * weights).sum(-1) for k in (0, 1)], dim=2)
        )
    return torch.cat(values).cpu().numpy().astype(np.float64)


def _stretched(maps: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(N, H, C, w): (N, C, h, w) maps with `rows`, (H, h), applied; one product for all maps."""
    count, channels, height, width = maps.shape
    flat = maps.transpose(1, 2).reshape(count, height, channels * width)
    return (rows @ flat).view(count, len(rows), channels, width)
