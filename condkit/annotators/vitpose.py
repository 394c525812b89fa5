"""ViTPose: bodies by networks that are free for commercial use, batched on any device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from condkit.annotators.base import (
    Detector,
    DetectorDefinition,
    DetectorSpec,
)
from condkit.annotators.pose.persons import require_possible_persons
from condkit.budget import Budget
from condkit.predictions import People
from condkit.runtime import Runtime
from condkit.weights import ModelSpec, hub_model


def _plus(size: str) -> ModelSpec:
    return hub_model(
        f"usyd-community/vitpose-plus-{size}",
        licence="not verified (ViTPose's code: Apache-2.0)",
        commercial_use=None,
        origin="ViTPose+ (Xu et al.), an expert per data set, of which COCO's is used",
    )


WEIGHTS = {
    "person": hub_model(
        "PekingU/rtdetr_r50vd_coco_o365",
        licence="Apache-2.0",
        commercial_use=True,
        origin="RT-DETR with a ResNet-50 (Zhao et al.), trained on Objects365 and COCO",
    ),
    "base-simple": hub_model(
        "usyd-community/vitpose-base-simple",
        licence="Apache-2.0",
        commercial_use=True,
        origin="ViTPose-B with the simple decoder (Xu et al.), trained on COCO",
        sha256="85375373893ddd3641f3912821073e53f5435f9e966e1dca59d004454bfe4fdf",
    ),
    "plus-small": _plus("small"),
    "plus-base": _plus("base"),
    "plus-large": _plus("large"),
    "plus-huge": _plus("huge"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VitposeParams:
    """Settings of ViTPose, which finds bodies alone.

    Attributes:
        weights: "base-simple", or ViTPose+ as "plus-small", "plus-base", "plus-large", "plus-huge".
        person_threshold: The least score of the person detector, between 0 and 1.
        max_persons: The most persons of one image, the surest ones, 1 to 256.
    """

    weights: Literal["base-simple", "plus-small", "plus-base", "plus-large", "plus-huge"] = (
        "base-simple"
    )
    person_threshold: float = 0.3
    max_persons: int = 64

    def __post_init__(self) -> None:
        require_possible_persons(self, "vitpose")


def _load(params: VitposeParams, runtime: Runtime) -> Detector:
    from condkit.annotators.nets.rtdetr import RtDetr, load_rtdetr
    from condkit.annotators.nets.vitpose import VitPose, load_vitpose

    device, dtype = runtime.resolve()
    persons = RtDetr(
        network=load_rtdetr(runtime.store.folder(WEIGHTS["person"]), device, dtype),
        threshold=params.person_threshold,
        most=params.max_persons,
        device=device,
        budget=Budget.on(device, "vitpose", scale=0.5),
    )
    return VitPose(
        persons=persons,
        network=load_vitpose(runtime.store.folder(WEIGHTS[params.weights]), device, dtype),
        device=device,
        budget=Budget.on(device, "vitpose"),
    )


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="vitpose",
        summary="bodies by ViTPose after RT-DETR",
        source="Y. Xu et al., NeurIPS 2022 (arXiv 2204.12484); Y. Zhao et al., CVPR 2024",
        yields=People,
        weights=WEIGHTS,
    ),
    params=VitposeParams,
    load=_load,
    needs=lambda params: ("person", params.weights),
)
