"""What detectors find in an image, before anything is drawn: one frozen class for each kind.

Every prediction lies at the image's own height and width, and checks its own shape. Arrays are
numpy, height first; nothing here imports a network library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from condkit.errors import MapError
from condkit.types import RgbImage

BODY_JOINTS = 18
"""OpenPose's COCO joints: 0 nose, 1 neck, 2-4 right shoulder, elbow, wrist, 5-7 left, 8-10 right
hip, knee, ankle, 11-13 left, 14 right eye, 15 left eye, 16 right ear, 17 left ear."""
HAND_POINTS = 21
"""0 wrist, then four points from the palm outwards for each finger, thumb to little finger."""
FACE_POINTS = 70
"""The 68 points of iBUG 300-W, then the right and the left pupil."""


def _check(
    name: str,
    values: NDArray[Any],
    expected: str,
    shape: tuple[int | None, ...],
    dtype: type[np.generic],
) -> None:
    fits = len(values.shape) == len(shape) and all(
        want is None or have == want for have, want in zip(values.shape, shape, strict=True)
    )
    if not fits or values.dtype != dtype:
        raise MapError(f"{name}: expected {expected}, got {values.shape} {values.dtype}")


def _hw(values: NDArray[Any]) -> tuple[int, int]:
    return int(values.shape[0]), int(values.shape[1])


@dataclass(frozen=True, slots=True)
class EdgeStrength:
    """How strongly each pixel is an edge.

    Attributes:
        strength: (H, W) float32 in [0, 1].
        facts: What the detector chose for this image and the map's records shall say, such as
            thresholds drawn at random; empty where it chose nothing.
    """

    strength: NDArray[np.float32]
    facts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check("EdgeStrength.strength", self.strength, "(H, W) float32", (None, None), np.float32)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return _hw(self.strength)


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
        _check("LineSegments.xyxy", self.xyxy, "(N, 4) float32", (None, 4), np.float32)
        count = len(self.xyxy)
        _check("LineSegments.score", self.score, f"({count},) float32", (count,), np.float32)


@dataclass(frozen=True, slots=True)
class InverseDepth:
    """Relative inverse depth, known up to scale and shift, as MiDaS and its successors give it.

    Attributes:
        inverse_depth: (H, W) float32, larger is nearer, no unit.
        facts: As for `EdgeStrength`, such as a working size drawn at random.
    """

    inverse_depth: NDArray[np.float32]
    facts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(
            "InverseDepth.inverse_depth",
            self.inverse_depth,
            "(H, W) float32",
            (None, None),
            np.float32,
        )

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return _hw(self.inverse_depth)


@dataclass(frozen=True, slots=True)
class MetricDepth:
    """Depth in metres along the optical axis.

    Attributes:
        metres: (H, W) float32, larger is farther, at least 0.
        facts: As for `EdgeStrength`, such as a working size drawn at random.
    """

    metres: NDArray[np.float32]
    facts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check("MetricDepth.metres", self.metres, "(H, W) float32", (None, None), np.float32)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return _hw(self.metres)


@dataclass(frozen=True, slots=True)
class SurfaceNormals:
    """The direction of the surface at each pixel.

    Attributes:
        xyz: (H, W, 3) float32 unit vectors that point away from the surface. The axes are those of
            the public normal maps: x to the LEFT of the picture, y up, z towards the camera. A
            vector of zeros means that nothing is known there.
    """

    xyz: NDArray[np.float32]

    def __post_init__(self) -> None:
        _check("SurfaceNormals.xyz", self.xyz, "(H, W, 3) float32", (None, None, 3), np.float32)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return _hw(self.xyz)


@dataclass(frozen=True, slots=True)
class ClassLabels:
    """The class of each pixel.

    Attributes:
        ids: (H, W) int32, 0 for the palette's first class; -1 where no class was found.
        palette: The name of the palette whose classes these are, such as "ade20k" or "coco".
    """

    ids: NDArray[np.int32]
    palette: str

    def __post_init__(self) -> None:
        _check("ClassLabels.ids", self.ids, "(H, W) int32", (None, None), np.int32)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return _hw(self.ids)


@dataclass(frozen=True, slots=True)
class Segments:
    """Regions without a class.

    Attributes:
        ids: (H, W) int32, 0 where there is no segment, then 1 to the number of segments.
    """

    ids: NDArray[np.int32]

    def __post_init__(self) -> None:
        _check("Segments.ids", self.ids, "(H, W) int32", (None, None), np.int32)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return _hw(self.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Key points of one person; a part that was not looked for, or not found at all, is None.

    Each array holds (x, y, score) float32 per point: x and y in image pixels (0, 0 is the centre of
    the top left pixel), the score as the network gave it, 0 where the point was not found. Points
    may lie outside of the image. Left and right are the person's own.

    Attributes:
        body: (18, 3), see `BODY_JOINTS`.
        left_hand: (21, 3), see `HAND_POINTS`.
        right_hand: (21, 3).
        face: (70, 3), see `FACE_POINTS`.
    """

    body: NDArray[np.float32] | None = None
    left_hand: NDArray[np.float32] | None = None
    right_hand: NDArray[np.float32] | None = None
    face: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        for name, count in (
            ("body", BODY_JOINTS),
            ("left_hand", HAND_POINTS),
            ("right_hand", HAND_POINTS),
            ("face", FACE_POINTS),
        ):
            points = getattr(self, name)
            if points is not None:
                _check(f"Person.{name}", points, f"({count}, 3) float32", (count, 3), np.float32)


@dataclass(frozen=True, slots=True)
class People:
    """All persons of an image.

    Attributes:
        persons: The surest first; may be empty.
        size_hw: Height and width in pixels of the image they are in.
    """

    persons: tuple[Person, ...]
    size_hw: tuple[int, int]


@dataclass(frozen=True, slots=True)
class SourcePixels:
    """The image itself, for conditions that need no detector.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
    """

    pixels: RgbImage

    def __post_init__(self) -> None:
        _check("SourcePixels.pixels", self.pixels, "(H, W, 3) uint8", (None, None, 3), np.uint8)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return _hw(self.pixels)


Prediction: TypeAlias = (
    EdgeStrength
    | LineSegments
    | InverseDepth
    | MetricDepth
    | SurfaceNormals
    | ClassLabels
    | Segments
    | People
    | SourcePixels
)
"""The raw result of a detector, at the image's own height and width."""
