"""ZoeDepth: metric depth, indoors and outdoors."""

from __future__ import annotations

import math
from dataclasses import dataclass

from condkit.annotators.base import (
    Detector,
    DetectorDefinition,
    DetectorSpec,
    require,
)
from condkit.annotators.detect_sizes import (
    MixedSizesParams,
    require_possible_sizes,
    size_draw,
)
from condkit.annotators.framed import FramedDepth, Margins
from condkit.predictions import MetricDepth
from condkit.runtime import Runtime
from condkit.weights import hub_model

WEIGHTS = {
    "nyu-kitti": hub_model(
        "Intel/zoedepth-nyu-kitti",
        licence="unknown (its code is under MIT)",
        commercial_use=None,
        origin="ZoeDepth-NK by Intel ISL (ZoeD_M12_NK.pt), converted for transformers",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoedepthParams(MixedSizesParams):
    """Settings of ZoeDepth.

    Attributes:
        detect_size: Short side in pixels, border included, at which the network works; it was
            trained at 384 x 512.
        flip: Predict the mirrored image as well and take the mean, as the authors' code and the
            public maps do; it doubles the time. Without it the prediction is what transformers'
            depth-estimation pipeline gives.
    """

    detect_size: int = 384
    flip: bool = False

    def __post_init__(self) -> None:
        require_possible_sizes(self, "zoedepth", least=32, most=4096)


def border(size_hw: tuple[int, int]) -> Margins:
    """The mirrored border that keeps the network's errors at the rim outside of the image.

    Args:
        size_hw: The image's height and width in pixels.

    Source: isl-org/ZoeDepth, `infer` with its padding augmentation.
    """
    high, wide = (int(3 * math.sqrt(side / 2)) for side in size_hw)
    return high, high, wide, wide


def _load(params: ZoedepthParams, runtime: Runtime) -> Detector:
    from condkit.annotators.nets.depth_detectors import metric_depth_detector
    from condkit.annotators.nets.transformers_depth import load_zoedepth

    require(
        runtime.backend != "openvino",
        "zoedepth: backend 'openvino' runs the same layers for every image, but ZoeDepth chooses "
        "between an indoor and an outdoor head for each; use --backend torch or compile",
    )
    model = WEIGHTS["nyu-kitti"]
    folder = runtime.store.folder(model)
    network = load_zoedepth(folder, *runtime.resolve(), flip=params.flip)
    dense = metric_depth_detector(
        "zoedepth",
        network,
        runtime,
        model,
        detect_size=params.detect_size,
        multiple=32,
        draw=size_draw(params, "zoedepth"),
        variant="flip" if params.flip else "",
    )
    return FramedDepth(detector=dense, margins=border, border="reflect")


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="zoedepth",
        summary="metric depth by ZoeDepth",
        source="S. F. Bhat et al., arXiv 2302.12288; lllyasviel/ControlNet-v1-1-nightly",
        yields=MetricDepth,
        weights=WEIGHTS,
    ),
    params=ZoedepthParams,
    load=_load,
    needs=lambda params: ("nyu-kitti",),
)
