"""RTMW: body, hands and face of every person by one network, after a person detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from condkit.annotators.base import (
    Detector,
    DetectorDefinition,
    DetectorSpec,
)
from condkit.annotators.pose.parts import SHARED_PARTS, PartsParams, require_a_part
from condkit.annotators.pose.persons import require_possible_persons
from condkit.predictions import People
from condkit.runtime import Runtime
from condkit.weights import WeightSpec, ZipMember

_PROJECTS = "https://download.openmmlab.com/mmpose/v1/projects"
_MEMBER = "*end2end.onnx"


def _pose(size: str, sha256: str, bytes_: int) -> WeightSpec:
    name = f"rtmw-dw-x-l_simcc-cocktail14_270e-{size}_20231122"
    return WeightSpec(
        name=f"{name}.onnx",
        sha256=sha256,
        size=bytes_,
        licence="Apache-2.0",
        commercial_use=True,
        origin=f"RTMW-L at {size} pixels by OpenMMLab, trained on 14 datasets, taught by RTMW-X",
        sources=(ZipMember(f"{_PROJECTS}/rtmw/onnx_sdk/{name}.zip", _MEMBER),),
    )


_PERSON = "yolox_m_8xb8-300e_humanart-c2c7a14a"

WEIGHTS = {
    "person": WeightSpec(
        name=f"{_PERSON}.onnx",
        sha256="3dea6513388889f0fff4b77bf7a26013600321b9eb9ceb0e9a400a82572f5f23",
        size=101_400_344,
        licence="Apache-2.0 (code); Human-Art's annotations, which it learned from: non-commercial",
        commercial_use=None,
        origin="YOLOX-M by OpenMMLab, trained on COCO and Human-Art",
        sources=(ZipMember(f"{_PROJECTS}/rtmposev1/onnx_sdk/{_PERSON}.zip", _MEMBER),),
    ),
    "384x288": _pose(
        "384x288",
        "bd033156e5104c4f5d2edfe0453e02661e30a2f3da453ec93c8764d561b83054",
        229_320_930,
    ),
    "256x192": _pose(
        "256x192",
        "9a9bc17c13ff0a1e37507f45a037a21bc410cd08374b0e664c57d0080843aa58",
        228_708_578,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RtmwParams(PartsParams):
    """Settings of RTMW.

    Attributes:
        weights: "384x288" or, faster and less exact, "256x192": height and width in pixels at which
            each person is looked at.
        person_threshold: The least score of the person detector, between 0 and 1.
        max_persons: The most persons of one image, the surest ones, 1 to 256.
    """

    weights: Literal["384x288", "256x192"] = "384x288"
    person_threshold: float = 0.3
    max_persons: int = 64

    def __post_init__(self) -> None:
        require_a_part(self, "rtmw")
        require_possible_persons(self, "rtmw")


def _load(params: RtmwParams, runtime: Runtime) -> Detector:
    from condkit.annotators.nets.onnx_whole_body import load_whole_body

    return load_whole_body(
        runtime.store.path(WEIGHTS["person"]),
        runtime.store.path(WEIGHTS[params.weights]),
        runtime,
        name="rtmw",
        parts=params,
        threshold=params.person_threshold,
        most=params.max_persons,
    )


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="rtmw",
        summary="whole-body poses by RTMW after YOLOX, on ONNX Runtime",
        source="T. Jiang et al., 2024 (arXiv 2407.08634); Tau-J/rtmlib",
        yields=People,
        weights=WEIGHTS,
    ),
    params=RtmwParams,
    load=_load,
    needs=lambda params: ("person", params.weights),
    sharing=SHARED_PARTS,
)
