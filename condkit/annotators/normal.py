"""Surface normals: from depth as in ControlNet 1.0, or estimated (BAE) as in 1.1."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.base import ConditionDefinition, Renderer, require
from condkit.annotators.depth import nearness
from condkit.predictions import InverseDepth, SurfaceNormals
from condkit.types import ConditionMap, ConditionSpec

Protocol: TypeAlias = Literal["bae", "v1.0"]
"""Which channel holds which axis. The axes are x to the left, y up, z towards the camera in both:
"bae" (ControlNet 1.1, ScanNet's colours) has x in red, y in green, z in blue; "v1.0" (the first
ControlNet) has z in red, y in green, x in blue."""

_MEANING = {
    "bae": "surface normals, RGB: red is left, green is up, blue is front",
    "v1.0": "surface normals, RGB: red is front, green is up, blue is left",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FromDepthParams:
    """Settings of normals that follow from MiDaS's depth.

    Attributes:
        protocol: "v1.0" for ControlNets of the first release, "bae" for all later ones.
        roundness: The z component before normalising; the smaller, the more relief. 2 pi in the
            first ControlNet, whose web page had a slider from 0.1 to 20 at 6.2.
        background: Where the normalised depth (0 farthest, 1 nearest) is below this, the surface
            counts as facing the camera. 0.4 on ControlNet's web page; 0.1 in its code and in
            controlnet_aux.
        gradient_size: Short side in pixels at which the depth's slope is taken, so that a large
            image has the same normals as a small one. The public maps were made at 384; there, the
            slope is what lies between neighbouring pixels.
    """

    protocol: Protocol = "v1.0"
    roundness: float = 2 * math.pi
    background: float = 0.4
    gradient_size: int = 384

    def __post_init__(self) -> None:
        require(
            0 < self.roundness < math.inf,
            f"normal.roundness: expected a number above 0, got {self.roundness}",
        )
        require(
            0 <= self.background <= 1,
            f"normal.background: expected 0 to 1, got {self.background}",
        )
        require(
            16 <= self.gradient_size <= 8192,
            f"normal.gradient_size: expected 16 to 8192 pixels, got {self.gradient_size}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BaeMapParams:
    """Settings of the drawing of estimated normals.

    Attributes:
        protocol: "bae" for ControlNet 1.1 and later, "v1.0" for ControlNets of the first release.
    """

    protocol: Protocol = "bae"


def normals_from_depth(
    inverse_depth: NDArray[np.float32],
    *,
    roundness: float = 2 * math.pi,
    background: float = 0.4,
    scale: float = 1.0,
) -> NDArray[np.float32]:
    """Normals of a relief whose height is the inverse depth.

    Args:
        inverse_depth: (H, W) float32 as MiDaS gives it, not normalised: its scale matters.
        roundness: The z component before normalising.
        background: Pixels whose normalised depth is below this face the camera.
        scale: Multiplies the slope.

    Returns:
        (H, W, 3) float32 unit vectors: x to the left, y up, z towards the camera.

    Source: lllyasviel/ControlNet annotator/midas.
    """
    import cv2

    slope_x = np.asarray(cv2.Sobel(inverse_depth, cv2.CV_32F, 1, 0, ksize=3), dtype=np.float32)
    slope_y = np.asarray(cv2.Sobel(inverse_depth, cv2.CV_32F, 0, 1, ksize=3), dtype=np.float32)
    if scale != 1:
        slope_x, slope_y = slope_x * np.float32(scale), slope_y * np.float32(scale)
    # A surface that comes nearer to the right faces left, one that comes nearer downwards faces up.
    xyz = np.stack([slope_x, slope_y, np.full_like(slope_x, roundness)], axis=2)
    share = nearness(inverse_depth)
    xyz[(share.values < background) | share.flat, :2] = 0
    unit: NDArray[np.float32] = xyz / np.sqrt((xyz**2).sum(axis=2, keepdims=True))
    return unit


def encode_normals(xyz: NDArray[np.float32], protocol: Protocol) -> NDArray[np.uint8]:
    """Normals as colours, truncated as in the public maps.

    Args:
        xyz: (H, W, 3) float32 unit vectors: x to the left, y up, z towards the camera; zeros where
            nothing is known.
        protocol: Which channel holds which axis.

    Returns:
        (H, W, 3) uint8 RGB: 0 for -1, 127 for 0, 255 for 1.
    """
    levels = np.clip(xyz * np.float32(127.5) + np.float32(127.5), 0, 255).astype(np.uint8)
    return convert_normals(levels, "bae", protocol)


def convert_normals(
    pixels: NDArray[np.uint8], source: Protocol, target: Protocol
) -> NDArray[np.uint8]:
    """Bring a normal map from one protocol to the other, without loss.

    Args:
        pixels: (H, W, 3) uint8 RGB as `source` has it.
        source: What it is.
        target: What it shall be.

    Returns:
        (H, W, 3) uint8 RGB as `target` has it, C-contiguous.
    """
    return np.ascontiguousarray(pixels if source == target else pixels[:, :, ::-1])


def spec_of(spec: ConditionSpec, params: FromDepthParams | BaeMapParams) -> ConditionSpec:
    """What the pixels mean with these settings."""
    return replace(spec, meaning=_MEANING[params.protocol])


def _render_depth(prediction: InverseDepth, params: FromDepthParams) -> ConditionMap:
    xyz = normals_from_depth(
        prediction.inverse_depth,
        roundness=params.roundness,
        background=params.background,
        scale=min(prediction.size_hw) / params.gradient_size,
    )
    facing = float(np.mean((xyz[:, :, 0] == 0) & (xyz[:, :, 1] == 0)))
    pixels = encode_normals(xyz, params.protocol)
    facts = {"facing_share": facing, **prediction.facts}
    return ConditionMap(pixels, spec_of(CONDITION.spec, params), facts)


def _render_bae(prediction: SurfaceNormals, params: BaeMapParams) -> ConditionMap:
    pixels = encode_normals(prediction.xyz, params.protocol)
    unknown = float(np.mean(~prediction.xyz.any(axis=2)))
    return ConditionMap(pixels, spec_of(CONDITION.spec, params), {"unknown_share": unknown})


CONDITION = ConditionDefinition(
    spec=ConditionSpec(
        name="normal",
        channels=3,
        dtype="uint8",
        meaning=_MEANING["v1.0"],
        background=127,
        resample="bilinear",
        flip="mirror-normal-x",
    ),
    renderers=(
        Renderer(
            detector="midas",
            name="from-depth",
            render=_render_depth,
            params=FromDepthParams,
            spec=spec_of,
        ),
        Renderer(detector="bae", render=_render_bae, params=BaeMapParams, spec=spec_of),
    ),
)
