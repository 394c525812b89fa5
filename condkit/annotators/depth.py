"""Depth: near is white, as in control_v11f1p_sd15_depth and every other depth ControlNet."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.base import ConditionDefinition, Renderer, require
from condkit.predictions import InverseDepth, MetricDepth
from condkit.types import ConditionMap, ConditionSpec, MapPixels

_log = logging.getLogger(__name__)

# A range below this part of the values themselves is the network's rounding, not depth.
_FLAT = 1e-4
# Nearer than this is no scene; it keeps 1/metres finite.
_NEAREST_M = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthParams:
    """Settings of the drawing.

    Attributes:
        bits: 8 gives grey levels 0 to 255, 16 gives 0 to 65535.
        near: What the nearest pixel is: "white", as every public depth ControlNet wants it, or
            "black".
        clip_near: Per cent of the pixels, the nearest ones, that are all drawn as the nearest.
        clip_far: Per cent of the pixels, the farthest ones, that are all drawn as the farthest.
            With 0 and 0 the map is normalised by its extremes (min-max).
    """

    bits: Literal[8, 16] = 8
    near: Literal["white", "black"] = "white"
    clip_near: float = 0.0
    clip_far: float = 0.0

    def __post_init__(self) -> None:
        require(self.bits in (8, 16), f"depth.bits: expected 8 or 16, got {self.bits}")
        for name in ("clip_near", "clip_far"):
            value = getattr(self, name)
            require(0 <= value < 50, f"depth.{name}: expected 0 to below 50 per cent, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricDepthParams(DepthParams):
    """Settings of the drawing of depth in metres.

    Attributes:
        scale: "inverse" draws 1/metres, so that the map looks like one of MiDaS: most levels for
            what is near. "linear" draws metres.
    """

    scale: Literal["inverse", "linear"] = "inverse"


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoedepthMapParams(MetricDepthParams):
    """As for metric depth; the defaults are those of ControlNet 1.1's ZoeDepth maps.

    Attributes:
        scale: As for metric depth.
        clip_near: As for all depth; 2 % is the public maps' lower percentile.
        clip_far: As for all depth; 15 % is the public maps' 85th percentile.
    """

    scale: Literal["inverse", "linear"] = "linear"
    clip_near: float = 2.0
    clip_far: float = 15.0


@dataclass(frozen=True, slots=True)
class Nearness:
    """Depth as a share: 1 where nothing is nearer, 0 where nothing is farther.

    Attributes:
        values: (H, W) float32 in [0, 1]; all 0 where the depth is the same everywhere.
        flat: Whether it is.
    """

    values: NDArray[np.float32]
    flat: bool


def nearness(
    closeness: NDArray[np.float32], *, clip_near: float = 0.0, clip_far: float = 0.0
) -> Nearness:
    """Normalise depth per image.

    Args:
        closeness: (H, W) float32, larger is nearer, any unit.
        clip_near: Per cent of the pixels that all become 1.
        clip_far: Per cent of the pixels that all become 0.

    Returns:
        The normalised depth. Where the clipping leaves no range (most of the picture at one depth),
        the whole range is used.

    Source: lllyasviel/ControlNet annotator/midas (min-max) and ControlNet-v1-1-nightly
    annotator/zoe (percentiles 2 and 85).
    """
    low, high = closeness.min(), closeness.max()
    if not high - low > _FLAT * max(abs(low), abs(high)):
        return Nearness(np.zeros_like(closeness), flat=True)
    if clip_near or clip_far:
        ends = np.percentile(closeness, [clip_far, 100 - clip_near]).astype(np.float32)
        if ends[1] - ends[0] > _FLAT * (high - low):
            low, high = ends
    values = np.clip((closeness - low) / (high - low), 0, 1, dtype=np.float32)
    return Nearness(values, flat=False)


def closeness_from_metres(
    metres: NDArray[np.float32], scale: Literal["inverse", "linear"]
) -> NDArray[np.float32]:
    """Metric depth turned round, so that larger is nearer.

    Args:
        metres: (H, W) float32, at least 0.
        scale: "inverse" for 1/metres, "linear" for -metres.
    """
    if scale == "linear":
        return -metres
    inverse = np.float32(1) / np.maximum(metres, np.float32(_NEAREST_M))
    return np.asarray(inverse, dtype=np.float32)


def spec_of(spec: ConditionSpec, params: DepthParams) -> ConditionSpec:
    """What the pixels mean with these settings."""
    white = 2**params.bits - 1
    nearest, farthest = (white, 0) if params.near == "white" else (0, white)
    inverse = not isinstance(params, MetricDepthParams) or params.scale == "inverse"
    clipped = bool(params.clip_near or params.clip_far)
    return replace(
        spec,
        dtype="uint16" if params.bits == 16 else "uint8",
        background=farthest,
        meaning=(
            f"{'inverse depth' if inverse else 'depth'}, per image from {farthest} (farthest) to "
            f"{nearest} (nearest){', both ends clipped' if clipped else ''}"
        ),
    )


def _draw(
    closeness: NDArray[np.float32], params: DepthParams, facts: dict[str, float | int]
) -> ConditionMap:
    found = nearness(closeness, clip_near=params.clip_near, clip_far=params.clip_far)
    if found.flat:
        _log.warning("depth: it is the same everywhere in an image; its map is empty")
    white = np.float32(2**params.bits - 1)
    # Truncated, as the public maps are.
    levels = (found.values * white).astype(np.uint16)
    if params.near == "black":
        levels = np.uint16(white) - levels
    pixels: MapPixels = levels if params.bits == 16 else levels.astype(np.uint8)
    return ConditionMap(pixels, spec_of(CONDITION.spec, params), {**facts, "flat": int(found.flat)})


def _render_inverse(prediction: InverseDepth, params: DepthParams) -> ConditionMap:
    values = prediction.inverse_depth
    facts = {
        "min_inverse_depth": float(values.min()),
        "max_inverse_depth": float(values.max()),
        **prediction.facts,
    }
    return _draw(values, params, facts)


def _render_metric(prediction: MetricDepth, params: MetricDepthParams) -> ConditionMap:
    metres = prediction.metres
    facts = {
        "nearest_m": float(metres.min()),
        "farthest_m": float(metres.max()),
        **prediction.facts,
    }
    return _draw(closeness_from_metres(metres, params.scale), params, facts)


CONDITION = ConditionDefinition(
    spec=spec_of(
        ConditionSpec(
            name="depth",
            channels=1,
            dtype="uint8",
            meaning="",
            background=0,
            resample="bilinear",
        ),
        DepthParams(),
    ),
    renderers=(
        Renderer(detector="midas", render=_render_inverse, params=DepthParams, spec=spec_of),
        Renderer(detector="dpt-large", render=_render_inverse, params=DepthParams, spec=spec_of),
        Renderer(
            detector="depth-anything-v2", render=_render_inverse, params=DepthParams, spec=spec_of
        ),
        Renderer(
            detector="zoedepth", render=_render_metric, params=ZoedepthMapParams, spec=spec_of
        ),
        Renderer(
            detector="depth-pro", render=_render_metric, params=MetricDepthParams, spec=spec_of
        ),
    ),
)
