"""The words that all parts of condkit share: images, condition maps, rejections.

Arrays are numpy, height first. Nothing here imports a network library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from condkit.errors import MapError

RgbImage: TypeAlias = NDArray[np.uint8]
"""(H, W, 3) uint8, RGB order, upright, sRGB, C-contiguous."""

MapPixels: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]
"""(H, W) for one channel, (H, W, 3) RGB for three, (H, W, 4) RGB and mask for four."""

Resample: TypeAlias = Literal["nearest", "bilinear", "area"]
Flip: TypeAlias = Literal["mirror", "mirror-normal-x", "mirror-swap-left-right"]
"""How a horizontal flip of the image acts on the map: the pixels are mirrored, and for normals the
x axis changes its sign, for poses the colours of left and right are exchanged."""


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise MapError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionSpec:
    """What the pixels of a condition map mean; it travels with the dataset into the checkpoint.

    Attributes:
        name: The file name, command line name and dataset column, all the same.
        channels: 1 (grey), 3 (RGB) or 4 (RGB and a mask: 0 where the picture is hidden).
        dtype: "uint8" or "uint16".
        meaning: One sentence about the values.
        background: The value of "nothing here", used for padding.
        resample: How such a map may be resized when it has to be.
        flip: What a horizontal flip does.
    """

    name: str
    channels: Literal[1, 3, 4]
    dtype: Literal["uint8", "uint16"]
    meaning: str
    background: int
    resample: Resample
    flip: Flip = "mirror"

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "name": self.name,
            "channels": self.channels,
            "dtype": self.dtype,
            "meaning": self.meaning,
            "background": self.background,
            "resample": self.resample,
            "flip": self.flip,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ConditionSpec:
        """The inverse of `as_dict`.

        Raises:
            MapError: if a field is missing or unknown.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise MapError(f"condition spec {values!r} does not fit: {error}") from error


@dataclass(frozen=True, slots=True)
class MapData:
    """A file that goes beside a map.

    Attributes:
        suffix: Its name is the map's with this in place of `.png`, such as ".json".
        encode: Makes its bytes; called only where the file is wanted, from any thread.
    """

    suffix: str
    encode: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class ConditionMap:
    """A rendered map with its meaning.

    Attributes:
        pixels: (H, W), (H, W, 3) or (H, W, 4) as `spec.channels` says, of `spec.dtype`.
        spec: What the pixels mean.
        facts: What the renderer counted, for filters and reports, such as `{"lines": 12}`;
            floats and ints only.
        data: What the map was drawn from, as files that go beside it: key points, labels.
    """

    pixels: MapPixels
    spec: ConditionSpec
    facts: dict[str, float | int] = field(default_factory=dict)
    data: tuple[MapData, ...] = ()

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        wanted = shape[:2] if self.spec.channels == 1 else (*shape[:2], self.spec.channels)
        fits = len(shape) >= 2 and shape == wanted
        _check(
            fits and self.pixels.dtype == np.dtype(self.spec.dtype),
            f"map {self.spec.name!r}: expected {self.spec.channels} channel(s) of "
            f"{self.spec.dtype}, got shape {shape} of {self.pixels.dtype}",
        )


@dataclass(frozen=True, slots=True)
class Rejection:
    """One input that was left out, and why.

    Attributes:
        source: The file, as the user would find it (relative to its root where there is one).
        stage: "decode", "predict", "caption", "filter" or "write".
        reason: One sentence for a person.
    """

    source: str
    stage: str
    reason: str

    def as_dict(self) -> dict[str, str]:
        """The fields as JSON values."""
        return {"source": self.source, "stage": self.stage, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One input file of a run.

    Attributes:
        path: Where the file is; for a picture inside an archive or a table, that one's place.
        relative: Its name below the root that was asked for, forward slashes; unique in a run.
        beside: The names of the other files in its folder that share its stem (`cat.txt`,
            `cat.jpg.json`), sorted; None where nobody has looked.
        fields: What the source says of it apart from its pixels: the columns of its row, the
            texts of its sample by suffix without the dot (`txt`, `caption`, `json`).
    """

    path: Path
    relative: str
    beside: tuple[str, ...] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
