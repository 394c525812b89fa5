"""What a horizontal flip of the picture does to its condition map.

Most maps are mirrored with it. In a normal map the direction that points sideways changes its sign
as well; in a pose map left and right limbs change their colours.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condkit.errors import TrainingError
from condkit.types import ConditionSpec, MapPixels

logger = logging.getLogger(__name__)

Redraw = Callable[[bytes, MapPixels], MapPixels | None]
"""From a row's key points and its map to the mirrored map; None where the key points do not draw
the map itself."""

JOINT_COLOURS: tuple[tuple[int, int, int], ...] = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0)),
    *((0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255)),
    *((0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
"""RGB of OpenPose's 18 joints in the public pose maps; a limb has the colour of its own number."""

MIRRORED_JOINTS = (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)
MIRRORED_LIMBS = (1, 0, 4, 5, 2, 3, 9, 10, 11, 6, 7, 8, 12, 15, 16, 13, 14)
"""For each limb of the public drawing order, the one of the other side."""

_LIMB_SHARE = 0.6
_SIDEWAYS = re.compile(r"\b(red|green|blue) is left\b")


@dataclass(frozen=True, slots=True)
class Flipper:
    """Mirrors maps of one condition.

    Attributes:
        spec: The condition.
        redraw: Draws a pose anew from its key points, where the dataset's manifest says how.
        data_column: The column with these key points.
    """

    spec: ConditionSpec
    redraw: Redraw | None = None
    data_column: str = ""
    _refused: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Whether maps of this condition can be mirrored at all.

        Raises:
            TrainingError: if the spec leaves open which colour of a normal map points sideways.
        """
        if self.spec.flip == "mirror-normal-x":
            _sideways_channel(self.spec)

    def __call__(
        self, pixels: MapPixels, key: str, facts: Mapping[str, Any], data: Mapping[str, bytes]
    ) -> MapPixels | None:
        """The map of the mirrored picture, or None where it cannot be told.

        Args:
            pixels: The whole map.
            key: The row's key, for the warning.
            facts: What the dataset knows of the row.
            data: What its maps were drawn from, by column.
        """
        if self.spec.flip == "mirror":
            return pixels[:, ::-1]
        if self.spec.flip == "mirror-normal-x":
            return mirrored_normals(pixels, _sideways_channel(self.spec))
        mirrored = self._pose(pixels, facts, data)
        if mirrored is None and not self._refused:
            self._refused.append(key)
            logger.warning(
                "row %s is not flipped, nor are others like it: its %s map holds other colours "
                "than those of bodies and faces, and there are no key points that draw it; build "
                "the dataset with --data",
                key,
                self.spec.name,
            )
        return mirrored

    def _pose(
        self, pixels: MapPixels, facts: Mapping[str, Any], data: Mapping[str, bytes]
    ) -> MapPixels | None:
        if self.redraw is not None and self.data_column in data:
            mirrored = self.redraw(data[self.data_column], pixels)
            if mirrored is not None:
                return mirrored
        # A hand's points are as blue as a knee: colours alone do not tell them apart.
        if _hands_in(facts, self.spec.name):
            return None
        return exchanged_sides(pixels)


def _hands_in(facts: Mapping[str, Any], condition: str) -> bool:
    try:
        counted = json.loads(str(facts.get("facts") or "{}"))
        return bool(counted.get(condition, {}).get("hands", 0))
    except (ValueError, AttributeError):
        return False


def _sideways_channel(spec: ConditionSpec) -> int:
    found = _SIDEWAYS.search(spec.meaning)
    if found is None:
        raise TrainingError(
            f"data.flip: which colour of the {spec.name!r} maps points to the left is not known "
            f"(their meaning is {spec.meaning!r}); set data.spec.meaning to 'red is left' (BAE, "
            "ControlNet 1.1) or 'blue is left' (ControlNet 1.0), or data.flip=0"
        )
    return ("red", "green", "blue").index(found.group(1))


def mirrored_normals(pixels: MapPixels, channel: int) -> MapPixels:
    """A normal map of the mirrored picture.

    Levels are those of the public maps, floor(127.5 + 127.5 x): 0 is -1, 127 is 0, 255 is 1. So
    what lies between the ends goes from v to 254 - v, and 127 stays.

    Args:
        pixels: (H, W, 3) uint8.
        channel: The colour that points sideways.
    """
    table = np.clip(254 - np.arange(256), 0, 254).astype(np.uint8)
    flipped = pixels[:, ::-1].copy()
    flipped[:, :, channel] = table[flipped[:, :, channel]]
    return flipped


def exchanged_sides(pixels: MapPixels) -> MapPixels | None:
    """A pose map of the mirrored picture, by exchanging the colours of left and right.

    Exact where every pixel has one of the published colours: joints, limbs at 60 % of theirs, the
    white points of faces. None where there is another one: hands, or limbs that were mixed into
    what lies below them as the first ControlNet drew them.

    Args:
        pixels: (H, W, 3) uint8.
    """
    known, other = _exchange_table()
    flipped = pixels[:, ::-1].astype(np.uint8)
    drawn = flipped.any(axis=2)
    codes = _codes(flipped[drawn])
    place = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    if not np.array_equal(known[place], codes):
        return None
    flipped[drawn] = other[place]
    return flipped


def _codes(colours: NDArray[np.uint8]) -> NDArray[np.int64]:
    wide = colours.astype(np.int64)
    return np.asarray((wide[:, 0] << 16) | (wide[:, 1] << 8) | wide[:, 2])


@lru_cache(maxsize=1)
def _exchange_table() -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Sorted codes of the published colours, and the colour that each becomes."""
    joints = np.asarray(JOINT_COLOURS, np.uint8)
    limbs = (joints[: len(MIRRORED_LIMBS)] * _LIMB_SHARE).astype(np.uint8)
    white = np.full((1, 3), 255, np.uint8)
    before = np.concatenate([joints, limbs, white])
    after = np.concatenate([joints[list(MIRRORED_JOINTS)], limbs[list(MIRRORED_LIMBS)], white])
    codes = _codes(before)
    order = np.argsort(codes)
    return codes[order], after[order]
