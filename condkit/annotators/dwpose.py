"""DWPose: body, hands and face of every person by one network, after a person detector."""

from __future__ import annotations

from dataclasses import dataclass

from condkit.annotators.base import (
    Detector,
    DetectorDefinition,
    DetectorSpec,
)
from condkit.annotators.pose.parts import SHARED_PARTS, PartsParams, require_a_part
from condkit.annotators.pose.persons import require_possible_persons
from condkit.predictions import People
from condkit.runtime import Runtime
from condkit.weights import HubFile, WeightSpec

_REVISION = "1a7144101628d69ee7a3768d1ee3a094070dc388"


def _weights(name: str, sha256: str, size: int, origin: str) -> WeightSpec:
    return WeightSpec(
        name=name,
        sha256=sha256,
        size=size,
        licence="Apache-2.0",
        commercial_use=True,
        origin=origin,
        sources=(HubFile(repo="yzd-v/DWPose", filename=name, revision=_REVISION),),
    )


WEIGHTS = {
    "person": _weights(
        "yolox_l.onnx",
        "7860ae79de6c89a3c1eb72ae9a2756c0ccfbe04b7791bb5880afabd97855a411",
        216_746_733,
        "YOLOX-L of Megvii, trained on COCO",
    ),
    "pose": _weights(
        "dw-ll_ucoco_384.onnx",
        "724f4ff2439ed61afb86fb8a1951ec39c6220682803b4a8bd4f598cd913b1843",
        134_399_116,
        "DWPose-L of IDEA-Research, trained on COCO-WholeBody and UBody",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DwposeParams(PartsParams):
    """Settings of DWPose.

    Attributes:
        person_threshold: The least score of the person detector, between 0 and 1; the public maps
            were made at 0.3.
        max_persons: The most persons of one image, the surest ones, 1 to 256.
    """

    person_threshold: float = 0.3
    max_persons: int = 64

    def __post_init__(self) -> None:
        require_a_part(self, "dwpose")
        require_possible_persons(self, "dwpose")


def _load(params: DwposeParams, runtime: Runtime) -> Detector:
    from condkit.annotators.nets.onnx_whole_body import load_whole_body

    return load_whole_body(
        runtime.store.path(WEIGHTS["person"]),
        runtime.store.path(WEIGHTS["pose"]),
        runtime,
        name="dwpose",
        parts=params,
        threshold=params.person_threshold,
        most=params.max_persons,
    )


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="dwpose",
        summary="whole-body poses by DWPose after YOLOX, on ONNX Runtime",
        source="Z. Yang et al., ICCV 2023 workshops (arXiv 2307.15880); IDEA-Research/DWPose",
        yields=People,
        weights=WEIGHTS,
    ),
    params=DwposeParams,
    load=_load,
    needs=lambda _: ("person", "pose"),
    sharing=SHARED_PARTS,
)
