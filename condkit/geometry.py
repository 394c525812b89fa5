"""Pure geometry: sizes, resampling, crops and padding of images and maps.

Sizes are (height, width) in pixels, boxes (x0, y0, x1, y1) with x1 and y1 outside. Nothing here
stretches: a picture keeps its aspect, what does not fit is cropped or padded. No input is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from condkit.errors import ConfigError
from condkit.types import Resample, RgbImage

Size: TypeAlias = tuple[int, int]
Box: TypeAlias = tuple[int, int, int, int]
How: TypeAlias = Resample | Literal["image"]
"""How to resample: "image" is area where it shrinks and cubic where it enlarges, for pictures;
"area" is area where it shrinks and bilinear where it enlarges; "nearest" takes the pixel whose
centre is closest and makes no new values."""

_Dtype = TypeVar("_Dtype", bound=np.generic)


def size_for_short_side(hw: Size, short: int) -> Size:
    """The size with the same aspect whose short side is `short`.

    The long side is rounded to the nearest pixel, halves up.

    Raises:
        ConfigError: if a size is below 1.
    """
    height, width = _checked_size(hw, "size")
    _at_least_one(short, "short side")
    current = min(height, width)
    return _scaled(height, short, current), _scaled(width, short, current)


def _scaled(length: int, numerator: int, denominator: int) -> int:
    return (2 * length * numerator + denominator) // (2 * denominator)


def resize(pixels: NDArray[_Dtype], hw: Size, how: How) -> NDArray[_Dtype]:
    """Resample to another size.

    Args:
        pixels: (H, W) or (H, W, C) of uint8, uint16 or float32; with "nearest" also int32.
        hw: The size wanted.
        how: See `How`; pictures take "image", maps what their spec says.

    Returns:
        A new C-contiguous array of size `hw`, same dtype and channels.

    Raises:
        ConfigError: if the size is below 1, `how` unknown, or the array no picture.
    """
    source = _hw(pixels)
    height, width = _checked_size(hw, "size")
    if how not in ("image", "area", "bilinear", "nearest"):
        raise ConfigError(f"how: expected image, area, bilinear or nearest, got {how!r}")
    if source == (height, width):
        return np.array(pixels, order="C")
    if how == "nearest":
        return _nearest(pixels, (height, width))
    import cv2

    shrinks = height <= source[0] and width <= source[1]
    method = {
        "image": cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC,
        "area": cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
        "bilinear": cv2.INTER_LINEAR,
    }[how]
    resized: NDArray[Any] = cv2.resize(
        np.ascontiguousarray(pixels), (width, height), interpolation=method
    )
    return resized.reshape(height, width, *pixels.shape[2:])


def _nearest(pixels: NDArray[_Dtype], hw: Size) -> NDArray[_Dtype]:
    """By pixel centres, unlike cv2.INTER_NEAREST, to lie on the same grid as the others."""
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for new, old in zip(hw, _hw(pixels), strict=True)
    )
    return np.ascontiguousarray(pixels[rows][:, columns])


def center_crop_box(hw: Size, crop_hw: Size) -> Box:
    """The box of size `crop_hw` in the middle of `hw`; an odd rest goes to the right and bottom.

    Raises:
        ConfigError: if the crop is larger than the picture or a size is below 1.
    """
    height, width = _checked_size(hw, "size")
    crop_height, crop_width = _checked_size(crop_hw, "crop")
    if crop_height > height or crop_width > width:
        raise ConfigError(
            f"a crop of {crop_height}x{crop_width} does not fit into {height}x{width} pixels "
            "(height x width)"
        )
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return left, top, left + crop_width, top + crop_height


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """A crop, then a resize: what was done to an image, to be done to its maps.

    Attributes:
        source_hw: Size of the arrays it applies to.
        crop_xyxy: The part that is kept, in source pixels.
        size_hw: Size of the result.
    """

    source_hw: Size
    crop_xyxy: Box
    size_hw: Size

    def __post_init__(self) -> None:
        height, width = _checked_size(self.source_hw, "source_hw")
        _checked_size(self.size_hw, "size_hw")
        x0, y0, x1, y1 = self.crop_xyxy
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise ConfigError(
                f"crop_xyxy: expected a box inside of {width}x{height} pixels (width x height), "
                f"got {self.crop_xyxy}"
            )

    @property
    def scale_hw(self) -> tuple[float, float]:
        """Result pixels per source pixel, down and across."""
        x0, y0, x1, y1 = self.crop_xyxy
        return self.size_hw[0] / (y1 - y0), self.size_hw[1] / (x1 - x0)

    def apply(self, pixels: NDArray[_Dtype], how: How) -> NDArray[_Dtype]:
        """Crop and resize an array of `source_hw`.

        Args:
            pixels: (H, W) or (H, W, C).
            how: As for `resize`: "image" for pictures, the spec's own for maps.

        Raises:
            ConfigError: if the array has another size.
        """
        if _hw(pixels) != tuple(self.source_hw):
            raise ConfigError(
                f"expected an array of {self.source_hw} (height, width), got {_hw(pixels)}"
            )
        x0, y0, x1, y1 = self.crop_xyxy
        return resize(pixels[y0:y1, x0:x1], self.size_hw, how)

    def as_dict(self) -> dict[str, list[int]]:
        """The fields as JSON values."""
        return {
            "source_hw": list(self.source_hw),
            "crop_xyxy": list(self.crop_xyxy),
            "size_hw": list(self.size_hw),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, list[int]]) -> Transform:
        """The inverse of `as_dict`.

        Raises:
            ConfigError: if a field is missing, unknown or impossible.
        """
        try:
            source_hw, crop, size_hw = (
                tuple(values[name]) for name in ("source_hw", "crop_xyxy", "size_hw")
            )
            return cls(source_hw=source_hw, crop_xyxy=crop, size_hw=size_hw)  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"transform {dict(values)!r} does not fit: {error}") from error


def unchanged(hw: Size) -> Transform:
    """The transform that keeps every pixel of a picture of size `hw`."""
    height, width = hw
    return Transform(source_hw=hw, crop_xyxy=(0, 0, width, height), size_hw=hw)


def fit_square(image: RgbImage, size: int) -> tuple[RgbImage, Transform]:
    """The middle square of an image at `size` x `size` pixels, never stretched.

    The square has the image's short side, so it lies on whole source pixels and is cut out before
    it is resampled: the same as resizing the short side to `size` and cropping the middle, at a
    cost that does not depend on how long the image is.

    Args:
        image: (H, W, 3) uint8.
        size: Side of the result in pixels.

    Returns:
        (size, size, 3) uint8 and the transform that does the same to a map.

    Raises:
        ConfigError: if `size` is below 1 or the array no picture.
    """
    _at_least_one(size, "size")
    hw = _hw(image)
    short = min(hw)
    box = center_crop_box(hw, (short, short))
    transform = Transform(source_hw=hw, crop_xyxy=box, size_hw=(size, size))
    return transform.apply(image, "image"), transform


def padded_size(hw: Size, multiple: int) -> Size:
    """The smallest size not below `hw` whose sides are multiples of `multiple`.

    Raises:
        ConfigError: if a size or `multiple` is below 1.
    """
    _at_least_one(multiple, "multiple")
    height, width = _checked_size(hw, "size")
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def pad_to_multiple(image: NDArray[_Dtype], multiple: int) -> tuple[NDArray[_Dtype], Size]:
    """Repeat the right and bottom edge until both sides are multiples, as networks need it.

    Args:
        image: (H, W) or (H, W, C) of any type.
        multiple: 8, 14, 32, 64, ...

    Returns:
        The padded array, which is `image` itself where nothing was missing, and the size before,
        for `crop_to`.

    Raises:
        ConfigError: if `multiple` is below 1 or the array no picture.
    """
    hw = _hw(image)
    height, width = padded_size(hw, multiple)
    if (height, width) == hw:
        return image, hw
    margins = [(0, height - hw[0]), (0, width - hw[1])] + [(0, 0)] * (image.ndim - 2)
    return np.pad(image, margins, mode="edge"), hw


def crop_to(pixels: NDArray[_Dtype], hw: Size) -> NDArray[_Dtype]:
    """The top left part of size `hw`: takes off what `pad_to_multiple` put on.

    Raises:
        ConfigError: if the array is smaller than `hw`.
    """
    height, width = _checked_size(hw, "size")
    have = _hw(pixels)
    if height > have[0] or width > have[1]:
        raise ConfigError(f"cannot crop {have} to the larger {(height, width)} (height, width)")
    return np.ascontiguousarray(pixels[:height, :width])


def hflip(pixels: NDArray[_Dtype]) -> NDArray[_Dtype]:
    """Left and right exchanged, as a new C-contiguous array.

    What a flip means beyond the pixels (normals, limb colours) is the condition's business.

    Raises:
        ConfigError: if the array is no picture.
    """
    _hw(pixels)
    return np.array(pixels[:, ::-1], order="C")


def _hw(pixels: NDArray[Any]) -> Size:
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ConfigError(
            f"expected an array (H, W) or (H, W, C) with at least one pixel, got {pixels.shape}"
        )
    return int(pixels.shape[0]), int(pixels.shape[1])


def _checked_size(hw: Size, name: str) -> Size:
    if len(hw) != 2 or min(hw) < 1:
        raise ConfigError(f"{name}: expected (height, width) of at least 1 pixel each, got {hw!r}")
    return hw


def _at_least_one(value: int, name: str) -> None:
    if value < 1:
        raise ConfigError(f"{name}: expected at least 1, got {value}")
