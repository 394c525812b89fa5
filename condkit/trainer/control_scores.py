"""How well a condition that was detected again follows the one that was asked for.

Each kind of condition has one score, the larger the better and 1 for equal maps. All work on hints
(`condkit.trainer.data.hint_from_map`), the form in which a ControlNet is told of a map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condkit.trainer.data import HIDDEN
from condkit.trainer.metrics import Mask, edge_f1
from condkit.types import ConditionSpec

Hint = NDArray[np.float32]
"""(3, H, W) float32 in [0, 1]; `HIDDEN` where a mask hides the picture."""

Score = Callable[[Hint, Hint], float]
"""Found, wanted: the score."""

_POSE_REACH = 0.02
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class ControlScore:
    """A score and what it is called.

    Attributes:
        name: For logs and plots.
        measure: From the found and the wanted hint to the score.
        detects: Whether the condition is detected again; otherwise the picture itself is compared.
    """

    name: str
    measure: Score
    detects: bool = True


def score_of(spec: ConditionSpec) -> ControlScore:
    """The score of a condition.

    Line maps (grey): edge F1 within one pixel, as `condkit evaluate` has it. `depth`: closeness
    after the best scale and shift. `normal`: mean cosine. `seg`, `segments`: mean intersection over
    union of the colours. `openpose`, `hands`, `face`: F1 of the drawn strokes within 2 % of the
    longer side. `inpaint`: closeness of the picture to the pixels that were shown. The others, and
    conditions that condkit does not know: closeness (1 - mean absolute difference), or edge F1 for
    grey maps of 0 and 255.
    """
    if spec.name in _BY_NAME:
        return _BY_NAME[spec.name]
    if spec.channels == 4:
        return _BY_NAME["inpaint"]
    if spec.flip == "mirror-normal-x":
        return _BY_NAME["normal"]
    if spec.channels == 1 and spec.resample == "nearest":
        return _EDGES
    return ControlScore("closeness", closeness)


def _mask(hint: Hint) -> Mask:
    """As `condkit.trainer.metrics.binarise`: more than half of the range."""
    return np.asarray(hint.max(axis=0) > 0.5)


def line_f1(found: Hint, wanted: Hint) -> float:
    """Edge F1 within one pixel, of what is brighter than half."""
    return edge_f1(_mask(found), _mask(wanted))


def stroke_f1(found: Hint, wanted: Hint) -> float:
    """F1 of everything that is not black, within 2 % of the longer side."""
    reach = max(1, round(_POSE_REACH * max(wanted.shape[1:])))
    strokes = [np.asarray(hint.max(axis=0) > 0.1) for hint in (found, wanted)]
    return edge_f1(strokes[0], strokes[1], tolerance=reach)


def closeness(found: Hint, wanted: Hint) -> float:
    """1 - mean absolute difference, where `wanted` shows anything; 1 where it shows nothing."""
    shown = np.asarray(wanted > HIDDEN / 2)
    if not shown.any():
        return 1.0
    return 1.0 - float(np.abs(found.clip(0, 1)[shown] - wanted[shown]).mean(dtype=np.float64))


def aligned_closeness(found: Hint, wanted: Hint) -> float:
    """1 - mean absolute difference after the least-squares scale (at least 0) and shift of `found`.

    Relative depth is known up to these two (arXiv 1907.01341, section 5).
    """
    x, y = found[0].astype(np.float64), wanted[0].astype(np.float64)
    dx, dy = x - x.mean(), y - y.mean()
    spread = float((dx * dx).mean())
    scale = max(0.0, float((dx * dy).mean()) / spread) if spread > _EPSILON else 0.0
    return 1.0 - float(np.abs(scale * dx - dy).mean())


def mean_cosine(found: Hint, wanted: Hint) -> float:
    """Mean cosine between the normals, from -1 to 1; where `wanted` has none (grey) is left out."""
    one, other = (hint.astype(np.float64) * 2 - 1 for hint in (found, wanted))
    lengths = np.linalg.norm(one, axis=0), np.linalg.norm(other, axis=0)
    there = lengths[1] > 0.1
    if not there.any():
        return 1.0
    cosine = (one * other).sum(axis=0) / np.maximum(lengths[0] * lengths[1], _EPSILON)
    return float(cosine[there].mean())


def colour_iou(found: Hint, wanted: Hint) -> float:
    """Intersection over union of each colour in `wanted`, in the mean; black counts as no class."""
    one, other = (_colours(hint) for hint in (found, wanted))
    classes = np.unique(other[other > 0])
    if classes.size == 0:
        return 1.0 if not one.any() else 0.0
    shares = [
        float(((one == c) & (other == c)).sum() / ((one == c) | (other == c)).sum())
        for c in classes
    ]
    return float(np.mean(shares))


def _colours(hint: Hint) -> NDArray[np.int64]:
    """(H, W): each colour as one number, black is 0."""
    levels = (hint.clip(0, 1) * 255).round().astype(np.int64)
    return np.asarray((levels[0] << 16) | (levels[1] << 8) | levels[2])


_EDGES = ControlScore("edge F1", line_f1)
_STROKES = ControlScore("stroke F1", stroke_f1)
_CLASSES = ControlScore("mean IoU of colours", colour_iou)
_BY_NAME = {
    **dict.fromkeys(("canny", "softedge", "scribble", "lineart", "lines"), _EDGES),
    **dict.fromkeys(("openpose", "hands", "face"), _STROKES),
    **dict.fromkeys(("seg", "segments"), _CLASSES),
    "depth": ControlScore("closeness of aligned depth", aligned_closeness),
    "normal": ControlScore("mean cosine", mean_cosine),
    "inpaint": ControlScore("closeness where shown", closeness, detects=False),
}
