"""The size that pictures of a dataset get: a square, a fixed short side, a bucket, or their own.

A picture is cut once and resized once, never stretched, and its maps go the same way
(`geometry.Transform`). Sizes are (height, width) in pixels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from condkit import geometry
from condkit.buckets import BUCKET_TABLES, budget_buckets, nearest_bucket
from condkit.errors import ConfigError, ImageError, MapError
from condkit.geometry import Size, Transform
from condkit.settings import as_mapping
from condkit.types import Resample

Mode: TypeAlias = Literal["square", "short_side", "bucket", "original"]
Crop: TypeAlias = Literal["center", "random", "top", "bottom", "left", "right"]
Buckets: TypeAlias = Literal["sd15", "sdxl", "budget"]

_Dtype = TypeVar("_Dtype", bound=np.generic)

_ALL_MODES: tuple[Mode, ...] = ("square", "short_side", "bucket", "original")
# Where a setting acts; a wish that nothing reads is a mistake.
_ACTS_IN: dict[str, tuple[Mode, ...]] = {
    "size": ("square", "short_side", "bucket"),
    "multiple": ("short_side", "original"),
    "crop": _ALL_MODES,
    "seed": _ALL_MODES,
    "enlarge": ("square", "short_side", "bucket"),
    "buckets": ("bucket",),
    "step": ("bucket",),
    "min_side": ("bucket",),
    "max_side": ("bucket",),
    "max_aspect": ("bucket",),
}
_OF_A_BUDGET = ("size", "step", "min_side", "max_side", "max_aspect")


@dataclass(frozen=True, slots=True, kw_only=True)
class SizePolicy:
    """How pictures and their maps get their size.

    Attributes:
        mode: "square": `size` x `size`. "short_side": the short side becomes `size`, the long one
            follows. "bucket": the size of `buckets` whose aspect is nearest. "original": as it is.
        size: Pixels of the side that `mode` fixes; with `buckets=budget` the side of the square
            that has the budget's pixels.
        multiple: For "short_side" and "original": what both sides are cut down to a multiple of;
            1 cuts nothing. The short side must be such a multiple itself.
        crop: Which part is kept where something has to go: the middle, a place drawn at random, or
            the part at one end. "top" and "bottom" act on what is too high, "left" and "right" on
            what is too wide; the other direction keeps the middle.
        seed: Of the random places; they depend on it and on the picture's content, on nothing else.
        enlarge: Whether a picture that is too small is enlarged; if not, it is rejected.
        buckets: "sd15" (those of kohya-ss/sd-scripts at 512), "sdxl" (those of the SDXL paper), or
            "budget": made from the five settings below and `size`.
        step: With a budget: what both sides are multiples of; itself a multiple of 8.
        min_side: With a budget: the shortest side in pixels; None is half of `size`.
        max_side: With a budget: the longest side in pixels; None is twice `size`.
        max_aspect: With a budget: long side by short side, at most; None leaves it to the sides.
    """

    mode: Mode = "square"
    size: int = 512
    multiple: int = 1
    crop: Crop = "center"
    seed: int = 0
    enlarge: bool = True
    buckets: Buckets = "sd15"
    step: int = 64
    min_side: int | None = None
    max_side: int | None = None
    max_aspect: float | None = None

    def __post_init__(self) -> None:
        self._refuse_idle()
        for name in ("size", "multiple"):
            value = getattr(self, name)
            _require(value >= 1, f"sizes.{name}: expected at least 1 pixel, got {value}")
        _require(self.seed >= 0, f"sizes.seed: expected at least 0, got {self.seed}")
        _require(
            self.mode != "short_side" or self.size % self.multiple == 0,
            f"sizes.size: expected a multiple of sizes.multiple={self.multiple}, got {self.size}",
        )
        self._check_budget()

    def _refuse_idle(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default or field.name == "mode":
                continue
            modes = _ACTS_IN[field.name]
            _require(
                self.mode in modes,
                f"sizes.{field.name}: expected to be left out with sizes.mode={self.mode}, where "
                f"nothing reads it, got {value}",
            )
            _require(
                self.mode != "bucket" or self.buckets == "budget" or field.name not in _OF_A_BUDGET,
                f"sizes.{field.name}: expected to be left out with sizes.buckets={self.buckets}, "
                f"which fixes its sizes (sizes.buckets=budget reads it), got {value}",
            )

    def _check_budget(self) -> None:
        low, high = self._sides
        _require(
            self.step >= 8 and self.step % 8 == 0,
            f"sizes.step: expected a multiple of 8 pixels, got {self.step}",
        )
        _require(
            1 <= low <= high,
            f"sizes.min_side and sizes.max_side: expected 1 <= min_side <= max_side, got {low} and "
            f"{high}",
        )
        _require(
            self.max_aspect is None or self.max_aspect >= 1,
            f"sizes.max_aspect: expected at least 1, got {self.max_aspect}",
        )
        if self.mode == "bucket":
            _require(
                bool(self.sizes),
                f"sizes: no size with sides of {low} to {high} in steps of {self.step} has at most "
                f"{self.size}x{self.size} pixels; lower sizes.min_side or sizes.step",
            )

    @property
    def _sides(self) -> tuple[int, int]:
        """Of a budget, the shortest and the longest side."""
        low = max(1, self.size // 2) if self.min_side is None else self.min_side
        return low, 2 * self.size if self.max_side is None else self.max_side

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The sizes that pictures can get, where `mode` fixes them; empty where it does not."""
        if self.mode == "square":
            return ((self.size, self.size),)
        if self.mode != "bucket":
            return ()
        if self.buckets != "budget":
            return BUCKET_TABLES[self.buckets]
        low, high = self._sides
        return budget_buckets(
            self.size**2, step=self.step, min_side=low, max_side=high, max_aspect=self.max_aspect
        )

    def too_small(self, hw: Size) -> str | None:
        """Why a picture cannot have its size; None where it can.

        Args:
            hw: Height and width of the upright original.
        """
        if self.mode == "original":
            if min(hw) >= self.multiple:
                return None
            return (
                f"has {_wh(hw)} pixels, and no side of {min(hw)} is a multiple of "
                f"{self.multiple} (sizes.multiple)"
            )
        target = self._target(hw)
        kept = _largest(hw, target)
        if self.enlarge or (kept[0] >= target[0] and kept[1] >= target[1]):
            return None
        return (
            f"has {_wh(hw)} pixels (width x height) and would have to be enlarged to "
            f"{_wh(target)}, which sizes.enlarge=false forbids"
        )

    def transform_for(self, hw: Size, *, key: str) -> Transform:
        """What is done to a picture and to its maps.

        The part that is kept has the aspect of the result up to whole pixels of the source, and is
        the largest such part.

        Args:
            hw: Height and width of the upright original.
            key: Text that the content decides, its sha256: random places depend on it.

        Raises:
            ImageError: if the picture is too small; the message is that of `too_small`.
        """
        reason = self.too_small(hw)
        if reason is not None:
            raise ImageError(reason)
        target = self._target(hw)
        kept = target if self.mode == "original" else _largest(hw, target)
        height, width = kept
        top, left = self._place(hw, kept, key)
        return Transform(
            source_hw=hw, crop_xyxy=(left, top, left + width, top + height), size_hw=target
        )

    def _target(self, hw: Size) -> Size:
        if self.mode == "square":
            return self.size, self.size
        if self.mode == "bucket":
            return nearest_bucket(hw, self.sizes)
        whole = hw if self.mode == "original" else geometry.size_for_short_side(hw, self.size)
        height, width = (side // self.multiple * self.multiple for side in whole)
        return height, width

    def _place(self, hw: Size, kept: Size, key: str) -> tuple[int, int]:
        """Top and left of the part that is kept."""
        spare = hw[0] - kept[0], hw[1] - kept[1]
        if self.crop == "random":
            digest = hashlib.sha256(f"{self.seed}/crop/{key}".encode()).digest()
            draws = int.from_bytes(digest[:8]), int.from_bytes(digest[8:16])
            return draws[0] % (spare[0] + 1), draws[1] % (spare[1] + 1)
        top = {"top": 0, "bottom": spare[0]}.get(self.crop, spare[0] // 2)
        return top, {"left": 0, "right": spare[1]}.get(self.crop, spare[1] // 2)

    def as_dict(self) -> dict[str, Any]:
        """The settings that decide something in this mode, as JSON values."""
        values = {
            name: value
            for name, value in as_mapping(self).items()
            if self.mode in _ACTS_IN.get(name, _ALL_MODES)
        }
        if self.crop != "random":
            del values["seed"]
        if self.mode == "bucket" and self.buckets != "budget":
            for name in _OF_A_BUDGET:
                del values[name]
        elif self.mode == "bucket":
            values["min_side"], values["max_side"] = self._sides
        return values


def fit_map(
    pixels: NDArray[_Dtype], image_hw: Size, transform: Transform, resample: Resample
) -> tuple[NDArray[_Dtype], str]:
    """Bring a map that exists already to the size of its picture.

    Args:
        pixels: (H, W) or (H, W, C), of the picture's own size, or of the same shape at another one.
        image_hw: Height and width of the upright original picture.
        transform: What is done to the picture.
        resample: The map's own rule.

    Returns:
        The map at `transform.size_hw`, and a note where it had another size than its picture:
        "map-of-WIDTHxHEIGHT". Empty where it had the same.

    Raises:
        MapError: if its shape is not the picture's; the message names both.
    """
    map_hw = int(pixels.shape[0]), int(pixels.shape[1])
    if map_hw == image_hw:
        return transform.apply(pixels, resample), ""
    (map_height, map_width), (height, width) = map_hw, image_hw
    # A side follows from the other one within a pixel, as rounding leaves it.
    if abs(map_width * height - map_height * width) > max(image_hw):
        turned = map_hw == image_hw[::-1]
        hint = "it lies on its side" if turned else "it may be another picture's, or cropped"
        raise MapError(
            f"expected a map of {_wh(image_hw)} pixels (width x height), or of the same shape at "
            f"another size, got {_wh(map_hw)}; {hint}"
        )
    x0, y0, x1, y1 = transform.crop_xyxy
    left, right = _scaled(x0, x1, width, map_width)
    top, bottom = _scaled(y0, y1, height, map_height)
    scaled = Transform(
        source_hw=map_hw, crop_xyxy=(left, top, right, bottom), size_hw=transform.size_hw
    )
    return scaled.apply(pixels, resample), f"map-of-{_wh(map_hw)}"


def _scaled(first: int, last: int, length: int, new: int) -> tuple[int, int]:
    """A stretch of `length` pixels on a side of `new` pixels, at least one long."""
    begin = min(new - 1, (2 * first * new + length) // (2 * length))
    return begin, max(begin + 1, min(new, (2 * last * new + length) // (2 * length)))


def _largest(hw: Size, target: Size) -> Size:
    """The largest part of `hw` with the aspect of `target`, up to whole pixels."""
    (height, width), (high, wide) = hw, target
    if width * high >= height * wide:
        return height, min(width, max(1, (2 * height * wide + high) // (2 * high)))
    return min(height, max(1, (2 * width * high + wide) // (2 * wide))), width


def _wh(hw: Size) -> str:
    return f"{hw[1]}x{hw[0]}"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
