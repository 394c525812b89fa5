"""Mask2Former: classes of every pixel, ADE20K or COCO."""

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

_ORIGIN = "Mask2Former with Swin-L by Meta (Cheng et al.), in transformers' format, trained on "

WEIGHTS = {
    "ade20k": hub_model(
        "facebook/mask2former-swin-large-ade-semantic",
        licence="unknown",
        commercial_use=None,
        origin=_ORIGIN + "ADE20K",
    ),
    "coco": hub_model(
        "facebook/mask2former-swin-large-coco-panoptic",
        licence="unknown",
        commercial_use=None,
        origin=_ORIGIN + "COCO panoptic",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask2formerParams:
    """Settings of Mask2Former.

    Attributes:
        weights: "ade20k" (150 classes) or "coco" (133 classes); the palette follows from it.
        detect_size: Short side in pixels at which the network works, the long side at most four
            times that. Its authors test at 640 (ADE20K) and 800 (COCO).
    """

    weights: Literal["ade20k", "coco"] = "ade20k"
    detect_size: int = 640

    def __post_init__(self) -> None:
        require(
            32 <= self.detect_size <= 4096,
            f"mask2former.detect_size: expected 32 to 4096 pixels, got {self.detect_size}",
        )


def _load(params: Mask2formerParams, runtime: Runtime) -> Detector:
    from condkit.annotators.nets.semantic import Framing
    from condkit.annotators.nets.transformers_segmentation import (
        Mask2FormerScores,
        load_scores,
        semantic_detector,
    )

    model, side = WEIGHTS[params.weights], params.detect_size
    folder = runtime.store.folder(model)
    return semantic_detector(
        "mask2former",
        load_scores(
            "Mask2FormerForUniversalSegmentation", Mask2FormerScores, folder, params.weights
        ),
        model,
        params.weights,
        runtime,
        framing=Framing(short=side, longest=4 * side, multiple=32, least=32),
        scale=0.15,
    )


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="mask2former",
        summary="classes of every pixel by Mask2Former Swin-L, ADE20K or COCO",
        source="B. Cheng et al., CVPR 2022 (arXiv 2112.01527)",
        yields=ClassLabels,
        weights=WEIGHTS,
    ),
    params=Mask2formerParams,
    load=_load,
)
