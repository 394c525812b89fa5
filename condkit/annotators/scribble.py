"""Scribbles: thick binary strokes, the condition of control_v11p_sd15_scribble."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.base import ConditionDefinition, Renderer, require
from condkit.annotators.softedge import to_levels
from condkit.annotators.strokes import (
    AugmentParams,
    StrokeStyle,
    check_range,
    draw_style,
    random_strokes,
)
from condkit.predictions import EdgeStrength
from condkit.types import ConditionMap, ConditionSpec

# Enough to make one line of the grain that a difference of Gaussians has along a contour.
_SMOOTHING_OF_DARKER = 1.5
# The four directions in which a pixel of a ridge is the highest of three.
_ACROSS_RIDGE = (
    np.array([[0, 0, 0], [1, 1, 1], [0, 0, 0]], np.uint8),
    np.array([[0, 1, 0], [0, 1, 0], [0, 1, 0]], np.uint8),
    np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.uint8),
    np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], np.uint8),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RidgeParams(AugmentParams):
    """Settings of strokes along the ridges of edge strength; the defaults are the public ones.

    Attributes:
        strength: Edge strength that a ridge needs, 0 to 255.
        smoothing: Standard deviation in pixels of the blur before ridges are looked for.
        thickness: Standard deviation in pixels of the blur that thickens the ridges.
        strength_range: With `augment`, what takes the place of `strength`: smallest and largest.
    """

    strength: float = 127
    smoothing: float = 3.0
    thickness: float = 3.0
    strength_range: tuple[float, float] = (48, 160)

    def __post_init__(self) -> None:
        AugmentParams.__post_init__(self)
        require(
            0 <= self.strength < 255,
            f"scribble.strength: expected 0 to 254, got {self.strength}",
        )
        for name in ("smoothing", "thickness"):
            value = getattr(self, name)
            require(value > 0, f"scribble.{name}: expected more than 0 pixels, got {value}")
        check_range("strength_range", self.strength_range, 0, 254)
        self.refuse_idle(fixed=("strength", "thickness"), drawn=("strength_range",))


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdParams(AugmentParams):
    """Settings of strokes by a threshold.

    Attributes:
        threshold: A pixel is a stroke where it is darker than its surroundings by more than half
            of this, in grey levels, 0 to 254; the default is that of sd-webui-controlnet.
        threshold_range: With `augment`, what takes the place of `threshold`: smallest and largest.
    """

    threshold: float = 32
    threshold_range: tuple[float, float] = (16, 40)

    def __post_init__(self) -> None:
        AugmentParams.__post_init__(self)
        require(
            0 <= self.threshold < 255,
            f"scribble.threshold: expected 0 to 254, got {self.threshold}",
        )
        check_range("threshold_range", self.threshold_range, 0, 254)
        self.refuse_idle(fixed=("threshold",), drawn=("threshold_range",))


def ridge_strokes(levels: NDArray[np.uint8], params: RidgeParams) -> NDArray[np.uint8]:
    """Thick strokes along the ridges of an edge map.

    Args:
        levels: (H, W) uint8 edge strength, 255 strongest.
        params: The settings.

    Returns:
        (H, W) uint8, 255 on strokes, 0 elsewhere.

    Source: lllyasviel/ControlNet gradio_fake_scribble2image; lllyasviel/ControlNet-v1-1-nightly
        gradio_scribble does the same.
    """
    import cv2

    smooth = cv2.GaussianBlur(levels.astype(np.float32), (0, 0), params.smoothing)
    ridge = np.zeros(smooth.shape, bool)
    for kernel in _ACROSS_RIDGE:
        ridge |= cv2.dilate(smooth, kernel) == smooth
    thin = (ridge & (smooth > params.strength)).astype(np.uint8) * np.uint8(255)
    # Above 4 of 255 the blurred line still counts, which makes it about 5 sigma wide.
    return (cv2.GaussianBlur(thin, (0, 0), params.thickness) > 4).astype(np.uint8) * np.uint8(255)


def _render_ridges(
    prediction: EdgeStrength, params: RidgeParams, generator: np.random.Generator
) -> ConditionMap:
    if not params.augment:
        return _map(ridge_strokes(to_levels(prediction.strength), params))
    style = draw_style(params, params.strength_range, generator)
    levels = prediction.strength * np.float32(255)
    return _map(random_strokes(levels, params.smoothing, style, generator), style)


def _render_threshold(
    prediction: EdgeStrength, params: ThresholdParams, generator: np.random.Generator
) -> ConditionMap:
    levels = prediction.strength * np.float32(2 * 255)
    if not params.augment:
        return _map((levels > params.threshold).astype(np.uint8) * np.uint8(255))
    style = draw_style(params, params.threshold_range, generator)
    return _map(random_strokes(levels, _SMOOTHING_OF_DARKER, style, generator), style)


def _map(pixels: NDArray[np.uint8], style: StrokeStyle | None = None) -> ConditionMap:
    facts = {"stroke_fraction": float(pixels.mean() / 255)}
    return ConditionMap(pixels, CONDITION.spec, facts | (style.facts() if style else {}))


def _is_augmented(params: AugmentParams) -> bool:
    return params.augment


CONDITION = ConditionDefinition(
    spec=ConditionSpec(
        name="scribble",
        channels=1,
        dtype="uint8",
        meaning="strokes, 255 on them, 0 elsewhere",
        background=0,
        resample="nearest",
    ),
    renderers=tuple(
        Renderer(detector=detector, render=render, params=params, seeded=True, random=_is_augmented)
        for detector, render, params in (
            ("hed", _render_ridges, RidgeParams),
            ("pidinet", _render_ridges, RidgeParams),
            ("xdog", _render_threshold, ThresholdParams),
        )
    ),
)
