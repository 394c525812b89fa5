"""Inpaint: the picture with a random part hidden, for a ControlNet that fills in.

ControlNet 1.1 takes hidden pixels as -1, which no 8-bit map can hold. The map is RGB and a mask;
the trainer turns what the mask hides into -1 (`condkit.trainer.data.hint_from_map`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.base import ConditionDefinition, Renderer, require
from condkit.predictions import SourcePixels
from condkit.settings import choose
from condkit.types import ConditionMap, ConditionSpec, MapPixels, RgbImage

Mask: TypeAlias = NDArray[np.uint8]
"""(H, W), 1 where the picture is hidden, 0 elsewhere."""

_KINDS = ("both", "rectangles", "strokes")
# Lengths are shares of the square root of the picture's area.
_RECTANGLE_SIDES = (0.1, 0.6)
_STROKE_WIDTHS = (0.04, 0.16)
_STEP_LENGTHS = (0.05, 0.3)
_MOST_STEPS = 12
_TURN = math.pi / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class InpaintParams:
    """Settings of the random masks.

    About half of the masks that ControlNet 1.1 was trained on were random (the rest were where
    optical flow finds no match between frames); how those were drawn was never published. What is
    drawn depends on the seed and the image's pixels alone, and is recorded with the map.

    Attributes:
        kind: What hides the picture: "rectangles", "strokes" as of a thick brush, or "both", which
            draws for each image which of the two, as likely as not.
        area_range: Smallest and largest share of the picture that is hidden, 0 to 1; all shares in
            between are as likely.
        seed: Of the masks, at least 0.
    """

    kind: Literal["both", "rectangles", "strokes"] = "both"
    area_range: tuple[float, float] = (0.1, 0.5)
    seed: int = 0

    def __post_init__(self) -> None:
        choose(self.kind, _KINDS, what="inpaint.kind")
        first, last = self.area_range
        require(
            0 <= first <= last <= 1,
            f"inpaint.area_range: expected two shares, 0 <= first <= last <= 1, got {first} and "
            f"{last}",
        )
        require(self.seed >= 0, f"inpaint.seed: expected at least 0, got {self.seed}")


def random_mask(
    size_hw: tuple[int, int], kind: str, area: float, generator: np.random.Generator
) -> Mask:
    """Hide a share of a picture, to the pixel.

    Args:
        size_hw: Height and width in pixels.
        kind: "rectangles" or "strokes".
        area: The share, 0 to 1. Shapes are added until it is reached; the last is cut.
        generator: What decides.

    Returns:
        The mask, with `round(area * H * W)` pixels hidden.
    """
    draw = {"rectangles": _rectangle, "strokes": _stroke}[kind]
    mask: Mask = np.zeros(size_hw, np.uint8)
    wanted = round(area * mask.size)
    hidden = 0
    while hidden < wanted:
        # Each shape begins where the picture is still seen, so each hides something.
        seen = np.flatnonzero(mask == 0)
        start = divmod(int(seen[generator.integers(len(seen))]), size_hw[1])
        for add in draw(size_hw, start, generator):
            before = mask.copy()
            add(mask)
            hidden = int(np.count_nonzero(mask))
            if hidden >= wanted:
                new = np.flatnonzero(mask != before)
                mask.reshape(-1)[new[len(new) - (hidden - wanted) :]] = 0
                return mask
    return mask


Parts: TypeAlias = Iterator[Callable[[Mask], object]]


def _rectangle(
    size_hw: tuple[int, int], start: tuple[int, int], generator: np.random.Generator
) -> Parts:
    """A rectangle around a place (row, column)."""
    unit = math.sqrt(size_hw[0] * size_hw[1])
    height, width = (max(1, round(s * unit)) for s in generator.uniform(*_RECTANGLE_SIDES, 2))
    top, left = max(0, start[0] - height // 2), max(0, start[1] - width // 2)
    bottom, right = start[0] - height // 2 + height, start[1] - width // 2 + width

    def add(mask: Mask) -> None:
        mask[top:bottom, left:right] = 1

    yield add


def _stroke(
    size_hw: tuple[int, int], start: tuple[int, int], generator: np.random.Generator
) -> Parts:
    """A bent stroke of even width from a place (row, column) on, piece by piece."""
    import cv2

    height, width = size_hw
    unit = math.sqrt(height * width)
    thickness = max(1, round(unit * generator.uniform(*_STROKE_WIDTHS)))
    direction = generator.uniform(0, 2 * math.pi)
    y, x = start
    for _ in range(int(generator.integers(1, _MOST_STEPS, endpoint=True))):
        direction += generator.uniform(-_TURN, _TURN)
        length = unit * generator.uniform(*_STEP_LENGTHS)
        to_x = min(max(round(x + length * math.cos(direction)), 0), width - 1)
        to_y = min(max(round(y + length * math.sin(direction)), 0), height - 1)
        ends = (x, y), (to_x, to_y)

        def add(mask: Mask, ends: tuple[tuple[int, int], tuple[int, int]] = ends) -> None:
            cv2.line(mask, *ends, [1], thickness)

        yield add
        x, y = to_x, to_y


def hide(image: RgbImage, mask: Mask) -> MapPixels:
    """A picture and a mask as one map.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W), not 0 where the picture is hidden.

    Returns:
        (H, W, 4) uint8: the picture and 255; all four 0 where it is hidden.
    """
    shown = (mask == 0).astype(np.uint8)[:, :, None]
    return np.concatenate([image * shown, shown * np.uint8(255)], axis=2)


def _render(
    prediction: SourcePixels, params: InpaintParams, generator: np.random.Generator
) -> ConditionMap:
    rectangles = generator.uniform() < 0.5 if params.kind == "both" else params.kind == "rectangles"
    area = float(generator.uniform(*params.area_range))
    kind = "rectangles" if rectangles else "strokes"
    mask = random_mask(prediction.size_hw, kind, area, generator)
    facts: dict[str, float | int] = {
        "hidden": round(float(np.mean(mask)), 6),
        "rectangles": int(rectangles),
    }
    return ConditionMap(hide(prediction.pixels, mask), CONDITION.spec, facts)


CONDITION = ConditionDefinition(
    spec=ConditionSpec(
        name="inpaint",
        channels=4,
        dtype="uint8",
        meaning="the picture, RGB, and its mask: 255 where it is seen, 0 where it is hidden, "
        "with its colour 0 there",
        background=0,
        resample="nearest",
    ),
    renderers=(Renderer(detector="identity", render=_render, params=InpaintParams, seeded=True),),
)
