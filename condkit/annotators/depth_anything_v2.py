"""Depth Anything V2: relative inverse depth, finer than MiDaS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from condkit.annotators.base import (
    DetectorDefinition,
    DetectorSpec,
)
from condkit.annotators.dense import DenseDetector
from condkit.annotators.detect_sizes import (
    MixedSizesParams,
    require_possible_sizes,
    size_draw,
)
from condkit.predictions import InverseDepth
from condkit.runtime import Runtime
from condkit.weights import hub_model

_ORIGIN = "Depth Anything V2 by its authors (Yang et al.), in transformers' format"

WEIGHTS = {
    "small": hub_model(
        "depth-anything/Depth-Anything-V2-Small-hf",
        revision="5426e4f0f36572d16453bbda7a8389317b1bef99",
        licence="Apache-2.0",
        commercial_use=True,
        origin=_ORIGIN,
        sha256="3152477ce0d8d6978d76b995120de97cb5b928701fd0f817769f59e249a16b70",
        size=99_173_660,
    ),
    "base": hub_model(
        "depth-anything/Depth-Anything-V2-Base-hf",
        licence="CC-BY-NC-4.0",
        commercial_use=False,
        origin=_ORIGIN,
    ),
    "large": hub_model(
        "depth-anything/Depth-Anything-V2-Large-hf",
        revision="7581137eff8d4e94f6e796d3baea0e9fa79b22d2",
        licence="CC-BY-NC-4.0",
        commercial_use=False,
        origin=_ORIGIN,
        sha256="4e01e34ed5549b529b70b92d53226bc370f03041977b390d3dde45d47f516cf9",
        size=1_341_322_868,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthAnythingV2Params(MixedSizesParams):
    """Settings of Depth Anything V2.

    Attributes:
        weights: "small" (25 million parameters, free for commercial use), "base" (98 million) or
            "large" (335 million).
        detect_size: Short side in pixels at which the network works; 518 is its authors' choice.
    """

    weights: Literal["small", "base", "large"] = "small"
    detect_size: int = 518

    def __post_init__(self) -> None:
        require_possible_sizes(self, "depth-anything-v2", least=14, most=4096)


def _load(params: DepthAnythingV2Params, runtime: Runtime) -> DenseDetector:
    from condkit.annotators.nets.depth_detectors import inverse_depth_detector
    from condkit.annotators.nets.transformers_depth import load_depth_anything

    return inverse_depth_detector(
        "depth-anything-v2",
        WEIGHTS[params.weights],
        load_depth_anything,
        runtime,
        detect_size=params.detect_size,
        multiple=14,
        draw=size_draw(params, "depth-anything-v2"),
    )


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="depth-anything-v2",
        summary="relative depth by Depth Anything V2",
        source="L. Yang et al., NeurIPS 2024 (arXiv 2406.09414)",
        yields=InverseDepth,
        weights=WEIGHTS,
    ),
    params=DepthAnythingV2Params,
    load=_load,
)
