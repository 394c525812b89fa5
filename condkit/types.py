"""The words that all parts of condkit share: images, predictions, condition maps.

Arrays are numpy, height first. Nothing here imports a network library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from condkit.errors import MapError

RgbImage: TypeAlias = NDArray[np.uint8]
"""(H, W, 3) uint8, RGB order, upright, sRGB, C-contiguous."""

MapPixels: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]
"""(H, W) for one channel, (H, W, 3) RGB for three."""

Resample: TypeAlias = Literal["nearest", "bilinear", "area"]
Flip: TypeAlias = Literal["mirror", "mirror-normal-x", "mirror-swap-left-right"]
"""How a horizontal flip of the image acts on the map: the pixels are mirrored, and for normals the
x axis changes its sign, for poses the colours of left and right are exchanged."""


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise MapError(message)


@dataclass(frozen=True, slots=True)
class EdgeStrength:
    """How strongly each pixel is an edge.

    Attributes:
        strength: (H, W) float32 in [0, 1].
    """

    strength: NDArray[np.float32]

    def __post_init__(self) -> None:
        _check(
            self.strength.ndim == 2 and self.strength.dtype == np.float32,
            f"EdgeStrength.strength: expected (H, W) float32, got {self.strength.shape} "
            f"{self.strength.dtype}",
        )

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.strength.shape[0]), int(self.strength.shape[1])


@dataclass(frozen=True, slots=True)
class LineSegments:
    """Straight line segments.

    Attributes:
        xyxy: (N, 4) float32, the end points (x0, y0, x1, y1) in image pixels; N may be 0.
        score: (N,) float32, larger is surer; 1 where the detector gives none.
        size_hw: Height and width in pixels of the image the segments lie in.
    """

    xyxy: NDArray[np.float32]
    score: NDArray[np.float32]
    size_hw: tuple[int, int]

    def __post_init__(self) -> None:
        _check(
            self.xyxy.ndim == 2 and self.xyxy.shape[1] == 4 and self.xyxy.dtype == np.float32,
            f"LineSegments.xyxy: expected (N, 4) float32, got {self.xyxy.shape} {self.xyxy.dtype}",
        )
        _check(
            self.score.shape == (len(self.xyxy),) and self.score.dtype == np.float32,
            f"LineSegments.score: expected ({len(self.xyxy)},) float32, got {self.score.shape} "
            f"{self.score.dtype}",
        )


Prediction: TypeAlias = EdgeStrength | LineSegments
"""The raw result of a detector, at the image's own height and width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionSpec:
    """What the pixels of a condition map mean; it travels with the dataset into the checkpoint.

    Attributes:
        name: The file name, command line name and dataset column, all the same.
        channels: 1 (grey) or 3 (RGB).
        dtype: "uint8" or "uint16".
        meaning: One sentence about the values.
        background: The value of "nothing here", used for padding.
        resample: How such a map may be resized when it has to be.
        flip: What a horizontal flip does.
    """

    name: str
    channels: Literal[1, 3]
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
class ConditionMap:
    """A rendered map with its meaning.

    Attributes:
        pixels: (H, W) or (H, W, 3) as `spec.channels` says, of `spec.dtype`.
        spec: What the pixels mean.
        facts: What the renderer counted, for filters and reports, such as `{"lines": 12}`;
            floats and ints only.
    """

    pixels: MapPixels
    spec: ConditionSpec
    facts: dict[str, float | int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        fits = len(shape) == 2 if self.spec.channels == 1 else len(shape) == 3 and shape[2] == 3
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
        path: Where the file is.
        relative: Its name below the root that was asked for, forward slashes; unique in a run.
    """

    path: Path
    relative: str
