"""Lines: straight segments, the condition of control_v11p_sd15_mlsd."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.base import ConditionDefinition, Renderer, require
from condkit.predictions import LineSegments
from condkit.types import ConditionMap, ConditionSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesParams:
    """Settings of the drawing.

    Attributes:
        min_score: Segments with a lower score are left out, 0 to 1.
    """

    min_score: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.min_score <= 1, f"lines.min_score: expected 0 to 1, got {self.min_score}")


def draw(xyxy: NDArray[np.float32], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """White lines of one pixel width on black, without anti-aliasing.

    Args:
        xyxy: (N, 4) float32, end points in pixels; parts outside the image are cut off.
        size_hw: Height and width in pixels.

    Returns:
        (H, W) uint8 of 0 and 255.

    Source: lllyasviel/ControlNet annotator/mlsd.
    """
    import cv2

    canvas = np.zeros(size_hw, np.uint8)
    for x0, y0, x1, y1 in np.rint(xyxy).astype(int).tolist():
        cv2.line(canvas, (x0, y0), (x1, y1), 255, thickness=1, lineType=cv2.LINE_8)
    return canvas


def _render(prediction: LineSegments, params: LinesParams) -> ConditionMap:
    kept = prediction.xyxy[prediction.score >= params.min_score]
    return ConditionMap(draw(kept, prediction.size_hw), CONDITION.spec, {"lines": len(kept)})


CONDITION = ConditionDefinition(
    spec=ConditionSpec(
        name="lines",
        channels=1,
        dtype="uint8",
        meaning="straight line segments, 255 on lines of one pixel width, 0 elsewhere",
        background=0,
        resample="nearest",
    ),
    renderers=(Renderer(detector="hough", render=_render, params=LinesParams),),
)
