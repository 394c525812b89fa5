"""Where a picture lies in the original that it was cut from, as SDXL wants to know it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from condkit.errors import ConfigError, DatasetError
from condkit.geometry import Size, Transform

TimeIds = tuple[int, int, int, int, int, int]
"""Original height and width, top and left of the crop, height and width of the crop."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A picture as a part of its original.

    Attributes:
        original_hw: Height and width of the file's upright picture.
        whole_hw: Height and width that the whole original has at the picture's scale.
        top_left: Where the picture begins in it, in pixels at that scale.
    """

    original_hw: Size
    whole_hw: tuple[float, float]
    top_left: tuple[float, float]

    def scaled(self, scale_hw: tuple[float, float]) -> Origin:
        """The same after the picture was resized once more."""
        (down, across), (top, left) = scale_hw, self.top_left
        whole = self.whole_hw[0] * down, self.whole_hw[1] * across
        return Origin(self.original_hw, whole, (top * down, left * across))

    def time_ids(self, box: tuple[int, int, int, int], *, flipped: bool) -> TimeIds:
        """SDXL's size conditions of a crop.

        Args:
            box: Top, left, height and width of the crop in the unflipped picture.
            flipped: Whether picture and crop were mirrored; it then is a crop of the mirrored
                original.

        Source: arXiv 2307.01952, section 2.2.
        """
        height, width = box[2:]
        top, left = round(self.top_left[0] + box[0]), round(self.top_left[1] + box[1])
        if flipped:
            left = round(self.whole_hw[1]) - left - width
        return (*self.original_hw, top, max(left, 0), height, width)


def whole_picture(hw: Size) -> Origin:
    """A picture that is its own original."""
    return Origin(hw, (float(hw[0]), float(hw[1])), (0.0, 0.0))


def origin_from_facts(facts: Mapping[str, Any], hw: Size, key: str) -> Origin:
    """What the dataset's columns say of a picture's original.

    Args:
        facts: With `original_width`, `original_height` and `transform`, if the dataset has them.
        hw: The picture's height and width.
        key: The row's key, for messages.

    Raises:
        DatasetError: if the transform is broken, or does not end at the picture's size.
    """
    if not facts.get("transform") or not facts.get("original_height"):
        return whole_picture(hw)
    try:
        transform = Transform.from_dict(json.loads(facts["transform"]))
    except (ValueError, ConfigError) as error:
        raise DatasetError(f"row {key}: its column transform is broken: {error}") from error
    if tuple(transform.size_hw) != hw:
        raise DatasetError(
            f"row {key}: its column transform ends at height and width {transform.size_hw}, its "
            f"picture has {hw}; build the dataset again"
        )
    (down, across), (left, top) = transform.scale_hw, transform.crop_xyxy[:2]
    source = transform.source_hw
    return Origin(
        (int(facts["original_height"]), int(facts["original_width"])),
        (source[0] * down, source[1] * across),
        (top * down, left * across),
    )
