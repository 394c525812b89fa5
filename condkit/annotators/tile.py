"""Tile: the picture itself, or with its details taken away, for a ControlNet that adds them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from condkit.annotators.base import ConditionDefinition, Renderer, require
from condkit.predictions import SourcePixels
from condkit.types import ConditionMap, ConditionSpec, RgbImage


@dataclass(frozen=True, slots=True, kw_only=True)
class TileParams:
    """Settings of the loss of detail.

    Attributes:
        down_sample: Factor by which the picture is made smaller and then larger again, 1 to 64; 1
            leaves it as it is. sd-webui-controlnet's tile_resample goes from 1 to 8.
    """

    down_sample: float = 1.0

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.down_sample) and 1 <= self.down_sample <= 64,
            f"tile.down_sample: expected a factor from 1 to 64, got {self.down_sample}",
        )


def down_and_up(image: RgbImage, factor: float) -> RgbImage:
    """Lose what is smaller than `factor` pixels.

    Args:
        image: (H, W, 3) uint8 RGB.
        factor: At least 1; the small picture's sides are rounded down, and at least 1.

    Returns:
        (H, W, 3) uint8 RGB.

    Source: sd-webui-controlnet's tile_resample: pixel areas on the way down, cubic on the way up.
    """
    import cv2

    height, width = image.shape[:2]
    small_hw = (max(1, int(height / factor)), max(1, int(width / factor)))
    if small_hw == (height, width):
        return image.copy()
    small = cv2.resize(image, small_hw[::-1], interpolation=cv2.INTER_AREA)
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(large, dtype=np.uint8)


def _render(prediction: SourcePixels, params: TileParams) -> ConditionMap:
    return ConditionMap(down_and_up(prediction.pixels, params.down_sample), CONDITION.spec)


CONDITION = ConditionDefinition(
    spec=ConditionSpec(
        name="tile",
        channels=3,
        dtype="uint8",
        meaning="the picture itself, RGB, with less detail where that is asked for",
        background=0,
        resample="area",
    ),
    renderers=(Renderer(detector="identity", render=_render, params=TileParams),),
)
