"""EoMT: classes of every pixel from a plain vision transformer, ADE20K or COCO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from condkit.annotators.base import (
    Detector,
    DetectorDefinition,
    DetectorSpec,
)
from condkit.predictions import ClassLabels
from condkit.runtime import Runtime
from condkit.weights import hub_model

_ORIGIN = "EoMT with DINOv2 ViT-L by TU Eindhoven (Kerssies et al.), trained on "

WEIGHTS = {
    "ade20k": hub_model(
        "tue-mps/ade20k_semantic_eomt_large_512",
        licence="MIT",
        commercial_use=True,
        origin=_ORIGIN + "ADE20K",
    ),
    "coco": hub_model(
        "tue-mps/coco_panoptic_eomt_large_640",
        licence="MIT",
        commercial_use=True,
        origin=_ORIGIN + "COCO panoptic",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EomtParams:
    """Settings of EoMT; the size at which it works is that of its weights (512 or 640).

    Attributes:
        weights: "ade20k" (150 classes; square windows along the long side) or "coco" (133 classes;
            the whole image in one square, padded); the palette follows from it.
    """

    weights: Literal["ade20k", "coco"] = "ade20k"


def _load(params: EomtParams, runtime: Runtime) -> Detector:
    from condkit.annotators.nets.semantic import Framing
    from condkit.annotators.nets.transformers_segmentation import (
        EomtScores,
        load_scores,
        semantic_detector,
        splits_windows,
    )

    model = WEIGHTS[params.weights]
    folder = runtime.store.folder(model)
    network = load_scores("EomtForUniversalSegmentation", EomtScores, folder, params.weights)
    side = int(network.model.config.image_size)
    windows = splits_windows(folder)
    return semantic_detector(
        "eomt",
        network,
        model,
        params.weights,
        runtime,
        framing=Framing(
            short=side if windows else None, longest=4 * side if windows else side, least=side
        ),
        scale=0.15,
    )


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="eomt",
        summary="classes of every pixel by EoMT ViT-L, ADE20K or COCO",
        source="T. Kerssies et al., CVPR 2025 (arXiv 2503.19108)",
        yields=ClassLabels,
        weights=WEIGHTS,
    ),
    params=EomtParams,
    load=_load,
)
