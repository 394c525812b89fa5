"""Soft edges: graded edge strength, the condition of control_v11p_sd15_softedge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.base import ConditionDefinition, Renderer, require
from condkit.predictions import EdgeStrength
from condkit.types import ConditionMap, ConditionSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftedgeParams:
    """Settings of the drawing.

    Attributes:
        safe: Keep three levels only, 0, 127 and 255, so that no faint trace of the image's content
            survives in the grey values.
        safe_share: How often an image gets such a safe map, 0 (never) to 1 (always); which ones
            depends on the seed and the image's pixels alone, and is recorded with the map.
            ControlNet 1.1 was trained with 0.75.
        seed: Of that choice, at least 0.
    """

    safe: bool = False
    safe_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            0 <= self.safe_share <= 1,
            f"softedge.safe_share: expected 0 to 1, got {self.safe_share}",
        )
        require(
            not (self.safe and self.safe_share),
            "softedge.safe_share: expected to be left out with softedge.safe=true, which makes all "
            f"maps safe, got {self.safe_share}",
        )
        require(self.seed >= 0, f"softedge.seed: expected at least 0, got {self.seed}")


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


def _render(
    prediction: EdgeStrength, params: SoftedgeParams, generator: np.random.Generator
) -> ConditionMap:
    safe, facts = params.safe, {}
    if _is_drawn(params):
        safe = bool(generator.random() < params.safe_share)
        facts = {"safe": int(safe)}
    pixels = to_levels(prediction.strength, safe=safe)
    strength = {"mean_strength": float(pixels.mean() / 255)}
    return ConditionMap(pixels, CONDITION.spec, strength | facts)


def _is_drawn(params: SoftedgeParams) -> bool:
    return params.safe_share > 0


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
        Renderer(
            detector=name, render=_render, params=SoftedgeParams, seeded=True, random=_is_drawn
        )
        for name in ("hed", "pidinet", "teed")
    ),
)
