"""Soft edges: graded edge strength, the condition of control_v11p_sd15_softedge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.base import ConditionDefinition, Renderer
from condkit.predictions import EdgeStrength
from condkit.types import ConditionMap, ConditionSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftedgeParams:
    """Settings of the drawing.

    Attributes:
        safe: Keep three levels only, 0, 127 and 255, so that no faint trace of the image's content
            survives in the grey values. ControlNet 1.1 was trained on 75 % such maps.
    """

    safe: bool = False


def to_levels(strength: NDArray[np.float32], *, safe: bool = False) -> NDArray[np.uint8]:
    """Edge strength as grey levels, truncated as in the public maps.

    Args:
        strength: (H, W) float32 in [0, 1].
        safe: Quantise to {0, 127, 255}.

    Returns:
        (H, W) uint8, 255 is the strongest edge.

    Source: lllyasviel/ControlNet-v1-1-nightly annotator/hed and its `safe_step(step=2)`.
    """
    if safe:
        strength = np.trunc(strength * np.float32(3)) / np.float32(2)
    levels = np.clip(strength * np.float32(255), 0, 255)
    return np.asarray(levels, dtype=np.uint8)


def _render(prediction: EdgeStrength, params: SoftedgeParams) -> ConditionMap:
    pixels = to_levels(prediction.strength, safe=params.safe)
    return ConditionMap(pixels, CONDITION.spec, {"mean_strength": float(pixels.mean() / 255)})


CONDITION = ConditionDefinition(
    spec=ConditionSpec(
        name="softedge",
        channels=1,
        dtype="uint8",
        meaning="edge strength, 0 nowhere to 255 strongest",
        background=0,
        resample="area",
    ),
    renderers=tuple(
        Renderer(detector=name, render=_render, params=SoftedgeParams)
        for name in ("hed", "pidinet", "teed")
    ),
)
