"""UPerNet: classes of every pixel by a convolutional network, ADE20K."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from condkit.annotators.base import (
    Detector,
    DetectorDefinition,
    DetectorSpec,
    require,
)
from condkit.predictions import ClassLabels
from condkit.runtime import Runtime
from condkit.weights import hub_model

_ORIGIN = "UPerNet with ConvNeXt by OpenMMLab, in transformers' format, trained on ADE20K"

WEIGHTS = {
    "ade20k-small": hub_model(
        "openmmlab/upernet-convnext-small",
        licence="unknown",
        commercial_use=None,
        origin=_ORIGIN,
        sha256="76c163aa531ab7edfb3a77bbcc039e340645aa0ffe2b0ffcfc68755f550c76ea",
        weights="pytorch_model.bin",
    ),
    "ade20k-large": hub_model(
        "openmmlab/upernet-convnext-large",
        licence="unknown",
        commercial_use=None,
        origin=_ORIGIN,
        weights="pytorch_model.bin",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UpernetParams:
    """Settings of UPerNet.

    Attributes:
        weights: "ade20k-small" (ConvNeXt-S) or "ade20k-large" (ConvNeXt-L).
        detect_size: Short side in pixels at which the network works, the long side at most four
            times that.
    """

    weights: Literal["ade20k-small", "ade20k-large"] = "ade20k-small"
    detect_size: int = 512

    def __post_init__(self) -> None:
        require(
            32 <= self.detect_size <= 4096,
            f"upernet.detect_size: expected 32 to 4096 pixels, got {self.detect_size}",
        )


def _load(params: UpernetParams, runtime: Runtime) -> Detector:
    from condkit.annotators.nets.semantic import Framing
    from condkit.annotators.nets.transformers_segmentation import (
        UperNetScores,
        load_scores,
        semantic_detector,
    )

    model, side = WEIGHTS[params.weights], params.detect_size
    folder = runtime.store.folder(model)
    return semantic_detector(
        "upernet",
        load_scores("UperNetForSemanticSegmentation", UperNetScores, folder, params.weights),
        model,
        params.weights,
        runtime,
        framing=Framing(short=side, longest=4 * side, multiple=32, least=32),
        scale=0.3,
    )


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="upernet",
        summary="classes of every pixel by UPerNet with ConvNeXt, ADE20K",
        source="T. Xiao et al., ECCV 2018 (arXiv 1807.10221)",
        yields=ClassLabels,
        weights=WEIGHTS,
    ),
    params=UpernetParams,
    load=_load,
)
