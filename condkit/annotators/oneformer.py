"""OneFormer: the segmentation network of the public ControlNet 1.1, on ADE20K or COCO classes."""

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

_ORIGIN = "OneFormer with Swin-L by SHI Labs (Jain et al.), in transformers' format, trained on "

# The files of its tokenizer and class list are not needed: the task is always the same, and the
# classes stand in our palettes.
WEIGHTS = {
    "ade20k": hub_model(
        "shi-labs/oneformer_ade20k_swin_large",
        revision="4a5bac8e64f82681a12db2e151a4c2f4ce6092b2",
        licence="MIT",
        commercial_use=True,
        origin=_ORIGIN + "ADE20K",
        sha256="c0b2fe11dfecee6f2f1f315f466946e96f4e94813f3f6d660ff3747b83c28cc9",
        size=879_517_517,
        weights="pytorch_model.bin",
    ),
    "coco": hub_model(
        "shi-labs/oneformer_coco_swin_large",
        licence="unknown",
        commercial_use=None,
        origin=_ORIGIN + "COCO panoptic",
        weights="pytorch_model.bin",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OneformerParams:
    """Settings of OneFormer.

    Attributes:
        weights: "ade20k" (150 classes) or "coco" (133 classes); the palette follows from it.
        detect_size: Short side in pixels at which the network works; the public maps were made at
            640, the long side at most four times that.
    """

    weights: Literal["ade20k", "coco"] = "ade20k"
    detect_size: int = 640

    def __post_init__(self) -> None:
        require(
            32 <= self.detect_size <= 4096,
            f"oneformer.detect_size: expected 32 to 4096 pixels, got {self.detect_size}",
        )


def _load(params: OneformerParams, runtime: Runtime) -> Detector:
    from condkit.annotators.nets.semantic import Framing
    from condkit.annotators.nets.transformers_segmentation import (
        OneFormerScores,
        load_scores,
        semantic_detector,
    )

    model, side = WEIGHTS[params.weights], params.detect_size
    folder = runtime.store.folder(model)
    return semantic_detector(
        "oneformer",
        load_scores("OneFormerForUniversalSegmentation", OneFormerScores, folder, params.weights),
        model,
        params.weights,
        runtime,
        framing=Framing(short=side, longest=4 * side, multiple=32, least=32),
        scale=0.2,
        antialias=True,
    )


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="oneformer",
        summary="classes of every pixel by OneFormer Swin-L, ADE20K or COCO",
        source="J. Jain et al., CVPR 2023; lllyasviel/ControlNet-v1-1-nightly annotator/oneformer",
        yields=ClassLabels,
        weights=WEIGHTS,
    ),
    params=OneformerParams,
    load=_load,
)
