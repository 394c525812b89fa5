"""Feeding images of any size to a network: working size, padding, groups of equal shape, and back.

All of it is pure and knows nothing of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condkit.types import RgbImage

_LONGEST_UPSCALED = 4
"""An image is enlarged until its long side is at most this many working sizes."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image at a network's working size, padded.

    Attributes:
        index: Its place in the batch that was asked for.
        pixels: (h, w, 3) uint8 RGB; h and w are multiples of the network's.
        inner_hw: The part that is image; the rest, right and below, is padding.
    """

    index: int
    pixels: RgbImage
    inner_hw: tuple[int, int]


def working_size(size_hw: tuple[int, int], detect_size: int) -> tuple[int, int]:
    """Height and width at which a network looks at an image.

    The short side becomes `detect_size` and the proportions stay. Enlarging stops where the long
    side would exceed four times `detect_size`, so that a strip of one pixel's width does not become
    a gigantic image.

    Args:
        size_hw: The image's height and width in pixels.
        detect_size: The short side wanted, in pixels.
    """
    scale = detect_size / min(size_hw)
    if scale > 1:
        scale = max(1.0, min(scale, _LONGEST_UPSCALED * detect_size / max(size_hw)))
    height, width = (max(1, round(side * scale)) for side in size_hw)
    return height, width


def prepare(
    images: Sequence[RgbImage],
    detect_size: int | Sequence[int],
    multiple: int,
    fill: int | None = None,
) -> list[Prepared]:
    """Bring images to the working size and pad them to multiples of `multiple`.

    Args:
        images: (H, W, 3) uint8 RGB each.
        detect_size: See `working_size`; one for all images, or one for each.
        multiple: What the padded sides are multiples of.
        fill: Grey level of the padding, for networks that were trained so; None repeats the edge.
    """
    sizes = [detect_size] * len(images) if isinstance(detect_size, int) else detect_size
    return [
        _prepare(index, image, working_size(image.shape[:2], size), multiple, fill)
        for index, (image, size) in enumerate(zip(images, sizes, strict=True))
    ]


def _prepare(
    index: int, image: RgbImage, size_hw: tuple[int, int], multiple: int, fill: int | None
) -> Prepared:
    import cv2

    height, width = size_hw
    pixels = image
    if image.shape[:2] != size_hw:
        # The filters of the public maps: Lanczos to enlarge, area to shrink.
        way = cv2.INTER_LANCZOS4 if height > image.shape[0] else cv2.INTER_AREA
        pixels = cv2.resize(image, (width, height), interpolation=way)  # type: ignore[assignment]
    below, right = -height % multiple, -width % multiple
    if below or right:
        margins = ((0, below), (0, right), (0, 0))
        pixels = (
            np.pad(pixels, margins, mode="edge")
            if fill is None
            else np.pad(pixels, margins, constant_values=fill)
        )
    return Prepared(index, pixels, size_hw)


def restore(
    values: NDArray[np.float32],
    inner_hw: tuple[int, int],
    size_hw: tuple[int, int],
    how: str = "bilinear",
) -> NDArray[np.float32]:
    """Cut the padding off a network's output and bring it to the image's size.

    Args:
        values: (h, w) or (h, w, C) float32 at the padded working size.
        inner_hw: The part that is image.
        size_hw: The image's height and width.
        how: "bilinear" (by area where it shrinks) or "nearest".

    Returns:
        (H, W) or (H, W, C) float32, C-contiguous, its own memory.
    """
    import cv2

    inner = values[: inner_hw[0], : inner_hw[1]]
    if inner_hw == size_hw:
        return np.array(inner, order="C")
    way = cv2.INTER_AREA if size_hw[0] < inner_hw[0] else cv2.INTER_LINEAR
    if how == "nearest":
        way = cv2.INTER_NEAREST_EXACT
    resized = cv2.resize(np.ascontiguousarray(inner), (size_hw[1], size_hw[0]), interpolation=way)
    return np.asarray(resized, dtype=np.float32).reshape(*size_hw, *values.shape[2:])
