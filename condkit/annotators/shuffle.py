"""Shuffle: the picture's colours swirled about, so that style stays and composition goes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.base import ConditionDefinition, Renderer, require
from condkit.predictions import SourcePixels
from condkit.types import ConditionMap, ConditionSpec, RgbImage


@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffleParams:
    """Settings of the swirl.

    Attributes:
        cell: Distance in pixels between the random numbers that the swirl runs smoothly through, 1
            to 4096; smaller ones swirl finer. The public maps were made with 256.
        seed: Of the swirl, at least 0. It depends on the image's pixels too.
    """

    cell: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        require(1 <= self.cell <= 4096, f"shuffle.cell: expected 1 to 4096 pixels, got {self.cell}")
        require(self.seed >= 0, f"shuffle.seed: expected at least 0, got {self.seed}")


def noise_disk(
    size_hw: tuple[int, int], cell: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Smooth noise that takes every value from 0 to 1.

    Args:
        size_hw: Height and width in pixels.
        cell: Distance in pixels between the random numbers.
        generator: Where they come from.

    Returns:
        (H, W) float64 in [0, 1]; 0.5 where the noise is flat, as on a single pixel.
    """
    import cv2

    height, width = size_hw
    coarse = generator.uniform(size=(height // cell + 2, width // cell + 2))
    whole = cv2.resize(coarse, (width + 2 * cell, height + 2 * cell), interpolation=cv2.INTER_CUBIC)
    noise = np.array(whole[cell : cell + height, cell : cell + width], np.float64)
    noise -= noise.min()
    largest = noise.max()
    return noise / largest if largest > 0 else np.full_like(noise, 0.5)


def content_shuffle(image: RgbImage, cell: int, generator: np.random.Generator) -> RgbImage:
    """Take each pixel from a place that smooth noise names.

    Args:
        image: (H, W, 3) uint8 RGB.
        cell: As for `noise_disk`.
        generator: Draws the columns first, then the rows.

    Returns:
        (H, W, 3) uint8 RGB. With the same random numbers it is what controlnet_aux's
        ContentShuffleDetector makes.

    Source: lllyasviel/ControlNet-v1-1-nightly annotator/shuffle.
    """
    import cv2

    size_hw = (image.shape[0], image.shape[1])
    x = noise_disk(size_hw, cell, generator) * float(size_hw[1] - 1)
    x = x.astype(np.float32)
    y = noise_disk(size_hw, cell, generator) * float(size_hw[0] - 1)
    shuffled = cv2.remap(image, x, y.astype(np.float32), cv2.INTER_LINEAR)
    return np.ascontiguousarray(shuffled, dtype=np.uint8)


def _render(
    prediction: SourcePixels, params: ShuffleParams, generator: np.random.Generator
) -> ConditionMap:
    pixels = content_shuffle(prediction.pixels, params.cell, generator)
    return ConditionMap(pixels, CONDITION.spec)


CONDITION = ConditionDefinition(
    spec=ConditionSpec(
        name="shuffle",
        channels=3,
        dtype="uint8",
        meaning="the picture's own colours, RGB, swirled about by smooth noise",
        background=0,
        resample="area",
    ),
    renderers=(Renderer(detector="identity", render=_render, params=ShuffleParams, seeded=True),),
)
