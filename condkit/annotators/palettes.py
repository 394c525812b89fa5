"""The colours and names of classes: ADE20K and COCO panoptic as the public ControlNets know them.

The facts stand in `condkit/assets/palettes/NAME.json`; adding a palette is adding such a file.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condkit.errors import MapError
from condkit.settings import choose
from condkit.types import RgbImage


@dataclass(frozen=True, slots=True, eq=False)
class Palette:
    """Classes in order, each with a colour.

    Attributes:
        name: As in `ClassLabels.palette`.
        title: For people.
        classes: Their names.
        colours: (number of classes, 3) uint8 RGB. Two classes may share one: in ADE20K, road (6)
            and skyscraper (48) do, so that a drawing alone cannot tell them apart.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    colours: NDArray[np.uint8]

    def paint(self, ids: NDArray[np.int32]) -> RgbImage:
        """Each class as its colour: nothing but these colours, no outlines.

        Args:
            ids: (H, W) integers; -1 (no class) becomes black, which is no class's colour.

        Returns:
            (H, W, 3) uint8 RGB.

        Raises:
            MapError: if an id is no class of this palette.
        """
        if ids.size and not (ids.min() >= -1 and ids.max() < len(self.classes)):
            raise MapError(
                f"palette {self.name}: expected class ids from -1 to {len(self.classes) - 1}, got "
                f"{ids.min()} to {ids.max()}"
            )
        # Index -1 is the last row.
        with_black = np.concatenate([self.colours, np.zeros((1, 3), np.uint8)])
        return with_black[ids]

    def read(self, pixels: RgbImage) -> NDArray[np.int32]:
        """The classes of a drawing, the inverse of `paint` up to classes that share a colour.

        Args:
            pixels: (H, W, 3) uint8 RGB.

        Returns:
            (H, W) int32: the first class of each colour, -1 where it is no class's colour.
        """
        codes = _codes(self.colours)
        order = np.argsort(codes, kind="stable")
        wanted = _codes(pixels)
        place = np.minimum(np.searchsorted(codes[order], wanted), len(codes) - 1)
        found = order[place]
        return np.where(codes[found] == wanted, found, -1).astype(np.int32)


@functools.cache
def palette(name: str) -> Palette:
    """A palette by its name, such as "ade20k" or "coco".

    Raises:
        UnknownNameError: if there is none of that name.
    """
    folder = resources.files("condkit") / "assets" / "palettes"
    known = [file.name.removesuffix(".json") for file in folder.iterdir()]
    choose(name, sorted(known), what="palette")
    facts: dict[str, Any] = json.loads((folder / f"{name}.json").read_text("utf-8"))
    colours = np.array([colour for _, *colour in facts["classes"]], dtype=np.uint8)
    colours.setflags(write=False)
    names = tuple(class_name for class_name, *_ in facts["classes"])
    return Palette(facts["name"], facts["title"], names, colours)


def palette_of_weights(weights: str) -> Palette:
    """The palette of a detector's setting `weights`, which starts with its name: "coco-tiny".

    Raises:
        UnknownNameError: if it does not.
    """
    return palette(weights.partition("-")[0])


def _codes(colours: NDArray[np.uint8]) -> NDArray[np.int32]:
    """(..., 3) colours as (...) numbers."""
    red, green, blue = (colours[..., channel].astype(np.int32) for channel in range(3))
    return (red << 16) | (green << 8) | blue
