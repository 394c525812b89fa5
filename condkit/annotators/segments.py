"""Segments: every region in a colour of its own, with no meaning but "these pixels are one thing".

The colours depend on the seed and the image alone, so that a map can be made again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.base import ConditionDefinition, Renderer, require
from condkit.errors import MapError
from condkit.predictions import Segments
from condkit.types import ConditionMap, ConditionSpec, MapData, RgbImage

IDS_SUFFIX = ".segments.png"
SEGMENTS_SUFFIX = ".segments.json"

# Darker ones would be hard to tell from the black of "no segment".
_DARKEST = 32
_LEVELS = 256 - _DARKEST
_MOST = np.iinfo(np.uint16).max


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentsParams:
    """Settings of the drawing.

    Attributes:
        seed: Of the colours, at least 0.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"segments.seed: expected at least 0, got {self.seed}")


def segment_colours(count: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """As many different colours as there are segments.

    Args:
        count: The number of segments.
        generator: What chooses.

    Returns:
        (count, 3) uint8 RGB, each channel at least 32.
    """
    codes = generator.choice(_LEVELS**3, size=count, replace=False)
    channels = np.unravel_index(codes, (_LEVELS, _LEVELS, _LEVELS))
    return (np.stack(channels, axis=1) + _DARKEST).astype(np.uint8)


def segment_statistics(
    ids: NDArray[np.int32], colours: NDArray[np.uint8]
) -> list[dict[str, int | float | list[int]]]:
    """Size, place and colour of each segment.

    Args:
        ids: (H, W) int32, 0 where there is none, then 1 to the number of segments.
        colours: (number of segments, 3) uint8 RGB.

    Returns:
        Per segment, in order: id, colour, pixels, share (of the image, 0 to 1), box (left, top,
        right, bottom of its outermost pixels).
    """
    pixels = np.bincount(ids.ravel(), minlength=len(colours) + 1)
    boxes = _boxes(ids, len(colours) + 1)
    return [
        {
            "id": number,
            "colour": colours[number - 1].tolist(),
            "pixels": int(pixels[number]),
            "share": round(float(pixels[number] / ids.size), 6),
            "box": boxes[number].tolist(),
        }
        for number in range(1, len(colours) + 1)
    ]


def _boxes(ids: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """(count, 4): left, top, right and bottom of each id's outermost pixels."""
    y, x = np.arange(ids.shape[0])[:, None], np.arange(ids.shape[1])[None]
    boxes = np.repeat([[max(ids.shape), max(ids.shape), -1, -1]], count, axis=0)
    for column, places in enumerate((x, y)):
        np.minimum.at(boxes[:, column], ids, places)
        np.maximum.at(boxes[:, column + 2], ids, places)
    return boxes


def draw_segments(ids: NDArray[np.int32], colours: NDArray[np.uint8]) -> RgbImage:
    """Each segment in its colour, black where there is none.

    Args:
        ids: (H, W) int32, 0 where there is none, then 1 to the number of segments.
        colours: (number of segments, 3) uint8 RGB.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    return np.concatenate([np.zeros((1, 3), np.uint8), colours])[ids]


def _render(
    prediction: Segments, params: SegmentsParams, generator: np.random.Generator
) -> ConditionMap:
    ids = prediction.ids
    count = int(ids.max(initial=0))
    if count > _MOST:
        raise MapError(f"segments: expected at most {_MOST} segments, got {count}")
    colours = segment_colours(count, generator)
    largest = int(np.bincount(ids.ravel())[1:].max(initial=0))
    facts: dict[str, float | int] = {
        "segments": count,
        "covered": round(float(np.mean(ids > 0)), 6),
        "largest_share": round(largest / ids.size, 6),
    }
    data = (
        MapData(IDS_SUFFIX, lambda: _ids_png(ids)),
        MapData(SEGMENTS_SUFFIX, lambda: _segments_json(ids, colours)),
    )
    return ConditionMap(draw_segments(ids, colours), CONDITION.spec, facts, data)


def _ids_png(ids: NDArray[np.int32]) -> bytes:
    from condkit.imageio import encode_png

    return encode_png(ids.astype(np.uint16))


def _segments_json(ids: NDArray[np.int32], colours: NDArray[np.uint8]) -> bytes:
    return (json.dumps({"segments": segment_statistics(ids, colours)}) + "\n").encode()


CONDITION = ConditionDefinition(
    spec=ConditionSpec(
        name="segments",
        channels=3,
        dtype="uint8",
        meaning="one flat random colour per segment, without classes; black belongs to none",
        background=0,
        resample="nearest",
    ),
    renderers=(
        Renderer(
            detector="sam2",
            render=_render,
            params=SegmentsParams,
            seeded=True,
            data=(IDS_SUFFIX, SEGMENTS_SUFFIX),
        ),
    ),
)
