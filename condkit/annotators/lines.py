"""Lines: straight segments, the condition of control_v11p_sd15_mlsd."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.base import ConditionDefinition, Renderer, require
from condkit.predictions import LineSegments
from condkit.types import ConditionMap, ConditionSpec, MapData

SEGMENTS_SUFFIX = ".json"
"""Of the file with the segments."""


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

    End points are cut to whole pixels, as in the public maps.

    Args:
        xyxy: (N, 4) float32, end points in pixels; parts outside the image are cut off.
        size_hw: Height and width in pixels.

    Returns:
        (H, W) uint8 of 0 and 255.

    Source: lllyasviel/ControlNet annotator/mlsd.
    """
    import cv2

    canvas = np.zeros(size_hw, np.uint8)
    for x0, y0, x1, y1 in xyxy.astype(int).tolist():
        cv2.line(canvas, (x0, y0), (x1, y1), 255, thickness=1, lineType=cv2.LINE_8)
    return canvas


def _render(prediction: LineSegments, params: LinesParams) -> ConditionMap:
    kept = prediction.xyxy[prediction.score >= params.min_score]
    return ConditionMap(
        draw(kept, prediction.size_hw),
        CONDITION.spec,
        {"lines": len(kept)},
        (MapData(SEGMENTS_SUFFIX, partial(segments_json, prediction)),),
    )


def segments_json(prediction: LineSegments) -> bytes:
    """All segments with their scores, in the image's own pixels, as UTF-8 JSON.

    `{"width", "height", "segments": [{"xyxy": [x0, y0, x1, y1], "score"}]}`; those below the least
    score that is drawn are in it too.
    """
    height, width = prediction.size_hw
    pairs = zip(prediction.xyxy.tolist(), prediction.score.tolist(), strict=True)
    segments = [
        {"xyxy": [round(value, 3) for value in xyxy], "score": round(score, 5)}
        for xyxy, score in pairs
    ]
    table = {"width": width, "height": height, "segments": segments}
    return json.dumps(table, separators=(",", ":")).encode()


CONDITION = ConditionDefinition(
    spec=ConditionSpec(
        name="lines",
        channels=1,
        dtype="uint8",
        meaning="straight line segments, 255 on lines of one pixel width, 0 elsewhere",
        background=0,
        resample="nearest",
    ),
    renderers=tuple(
        Renderer(detector=name, render=_render, params=LinesParams, data=(SEGMENTS_SUFFIX,))
        for name in ("mlsd", "hough")
    ),
)
