"""Depth Pro: sharp metric depth with an estimated field of view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from condkit.annotators.base import (
    Detector,
    DetectorDefinition,
    DetectorSpec,
)
from condkit.annotators.framed import FramedDepth, StretchedDepth, square_margins
from condkit.predictions import MetricDepth
from condkit.runtime import Runtime
from condkit.weights import hub_model

WEIGHTS = {
    "depth-pro": hub_model(
        "apple/DepthPro-hf",
        licence="apple-amlr",
        commercial_use=False,
        origin="Depth Pro by Apple, in transformers' format; for research only",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthProParams:
    """Settings of Depth Pro. Its network takes squares of 1536 pixels and nothing else.

    Attributes:
        fit: "pad" repeats the image's edges until it is square, so that nothing is distorted.
            "stretch" makes it square by force, as its authors' code and transformers do.
    """

    fit: Literal["pad", "stretch"] = "pad"


def _load(params: DepthProParams, runtime: Runtime) -> Detector:
    from condkit.annotators.nets.depth_detectors import depth_pro_detector
    from condkit.annotators.nets.transformers_depth import load_depth_pro

    model = WEIGHTS["depth-pro"]
    network = load_depth_pro(runtime.store.folder(model), *runtime.resolve())
    dense = depth_pro_detector(network, runtime, model)
    if params.fit == "stretch":
        return StretchedDepth(detector=dense, side=network.side)
    return FramedDepth(detector=dense, margins=square_margins, border="edge")


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="depth-pro",
        summary="metric depth by Depth Pro",
        source="A. Bochkovskii et al., arXiv 2410.02073",
        yields=MetricDepth,
        weights=WEIGHTS,
    ),
    params=DepthProParams,
    load=_load,
    needs=lambda params: ("depth-pro",),
)
