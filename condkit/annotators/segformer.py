"""SegFormer: classes of every pixel by a light network, ADE20K."""

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

_LICENCE = "NVIDIA Source Code License for SegFormer (research and evaluation)"
_ORIGIN = "SegFormer by NVIDIA (Xie et al.), trained on ADE20K"

WEIGHTS = {
    "ade20k-b5": hub_model(
        "nvidia/segformer-b5-finetuned-ade-640-640",
        licence=_LICENCE,
        commercial_use=False,
        origin=_ORIGIN,
        weights="pytorch_model.bin",
    ),
    "ade20k-b0": hub_model(
        "nvidia/segformer-b0-finetuned-ade-512-512",
        revision="489d5cd81a0b59fab9b7ea758d3548ebe99677da",
        licence=_LICENCE,
        commercial_use=False,
        origin=_ORIGIN,
        sha256="6ae39addd01de6b1b8bde2cf677d43a5cd733424b8d186de3f95d1c51fee23f9",
        size=15_036_944,
    ),
}
_TRAINED_AT = {"ade20k-b5": 640, "ade20k-b0": 512}


@dataclass(frozen=True, slots=True, kw_only=True)
class SegformerParams:
    """Settings of SegFormer.

    Attributes:
        weights: "ade20k-b5" (85 million parameters) or "ade20k-b0" (4 million).
        detect_size: Short side in pixels at which the network works, the long side at most four
            times that; None is what the weights were trained at, 640 or 512.
    """

    weights: Literal["ade20k-b5", "ade20k-b0"] = "ade20k-b5"
    detect_size: int | None = None

    def __post_init__(self) -> None:
        require(
            self.detect_size is None or 32 <= self.detect_size <= 4096,
            f"segformer.detect_size: expected 32 to 4096 pixels or none, got {self.detect_size}",
        )


def _load(params: SegformerParams, runtime: Runtime) -> Detector:
    from condkit.annotators.nets.semantic import Framing
    from condkit.annotators.nets.transformers_segmentation import (
        SegformerScores,
        load_scores,
        semantic_detector,
    )

    model = WEIGHTS[params.weights]
    side = params.detect_size or _TRAINED_AT[params.weights]
    folder = runtime.store.folder(model)
    return semantic_detector(
        "segformer",
        load_scores("SegformerForSemanticSegmentation", SegformerScores, folder, params.weights),
        model,
        params.weights,
        runtime,
        framing=Framing(short=side, longest=4 * side, multiple=32, least=32),
        scale=0.5,
    )


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="segformer",
        summary="classes of every pixel by SegFormer, ADE20K",
        source="E. Xie et al., NeurIPS 2021 (arXiv 2105.15203)",
        yields=ClassLabels,
        weights=WEIGHTS,
    ),
    params=SegformerParams,
    load=_load,
)
