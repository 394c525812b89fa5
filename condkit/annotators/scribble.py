"""Scribbles: thick binary strokes, the condition of control_v11p_sd15_scribble."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.base import ConditionDefinition, Renderer, require
from condkit.annotators.softedge import to_levels
from condkit.predictions import EdgeStrength
from condkit.types import ConditionMap, ConditionSpec

# The four directions in which a pixel of a ridge is the highest of three.
_ACROSS_RIDGE = (
    np.array([[0, 0, 0], [1, 1, 1], [0, 0, 0]], np.uint8),
    np.array([[0, 1, 0], [0, 1, 0], [0, 1, 0]], np.uint8),
    np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.uint8),
    np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], np.uint8),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RidgeParams:
    """Settings of strokes along the ridges of edge strength; the defaults are the public ones.

    Attributes:
        strength: Edge strength that a ridge needs, 0 to 255.
        smoothing: Standard deviation in pixels of the blur before ridges are looked for.
        thickness: Standard deviation in pixels of the blur that thickens the ridges.
    """

    strength: float = 127
    smoothing: float = 3.0
    thickness: float = 3.0

    def __post_init__(self) -> None:
        require(
            0 <= self.strength < 255,
            f"scribble.strength: expected 0 to 254, got {self.strength}",
        )
        for name in ("smoothing", "thickness"):
            value = getattr(self, name)
            require(value > 0, f"scribble.{name}: expected more than 0 pixels, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdParams:
    """Settings of strokes by a threshold.

    Attributes:
        threshold: A pixel is a stroke where it is darker than its surroundings by more than half
            of this, in grey levels, 0 to 254; the default is that of sd-webui-controlnet.
    """

    threshold: float = 32

    def __post_init__(self) -> None:
        require(
            0 <= self.threshold < 255,
            f"scribble.threshold: expected 0 to 254, got {self.threshold}",
        )


def ridge_strokes(levels: NDArray[np.uint8], params: RidgeParams) -> NDArray[np.uint8]:
    """Thick strokes along the ridges of an edge map.

    Args:
        levels: (H, W) uint8 edge strength, 255 strongest.
        params: The settings.

    Returns:
        (H, W) uint8, 255 on strokes, 0 elsewhere.

    Source: the fake scribbles of lllyasviel/ControlNet gradio_hed2image, as in v1.1.
    """
    import cv2

    smooth = cv2.GaussianBlur(levels.astype(np.float32), (0, 0), params.smoothing)
    ridge = np.zeros(smooth.shape, bool)
    for kernel in _ACROSS_RIDGE:
        ridge |= cv2.dilate(smooth, kernel) == smooth
    thin = (ridge & (smooth > params.strength)).astype(np.uint8) * np.uint8(255)
    # Above 4 of 255 the blurred line still counts, which makes it about 5 sigma wide.
    return (cv2.GaussianBlur(thin, (0, 0), params.thickness) > 4).astype(np.uint8) * np.uint8(255)


def _render_ridges(prediction: EdgeStrength, params: RidgeParams) -> ConditionMap:
    return _map(ridge_strokes(to_levels(prediction.strength), params))


def _render_threshold(prediction: EdgeStrength, params: ThresholdParams) -> ConditionMap:
    darker = prediction.strength * np.float32(2 * 255) > params.threshold
    return _map(darker.astype(np.uint8) * np.uint8(255))


def _map(pixels: NDArray[np.uint8]) -> ConditionMap:
    return ConditionMap(pixels, CONDITION.spec, {"stroke_fraction": float(pixels.mean() / 255)})


CONDITION = ConditionDefinition(
    spec=ConditionSpec(
        name="scribble",
        channels=1,
        dtype="uint8",
        meaning="strokes, 255 on them, 0 elsewhere",
        background=0,
        resample="nearest",
    ),
    renderers=(
        Renderer(detector="hed", render=_render_ridges, params=RidgeParams),
        Renderer(detector="xdog", render=_render_threshold, params=ThresholdParams),
    ),
)
