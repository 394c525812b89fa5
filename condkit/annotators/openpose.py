"""OpenPose: the condition of all pose ControlNets, and CMU's networks for body, hands and face."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from condkit.annotators.base import (
    ConditionDefinition,
    DetectorDefinition,
    DetectorSpec,
    Renderer,
    require,
)
from condkit.annotators.pose.parts import SHARED_PARTS, PartsParams, require_a_part
from condkit.annotators.pose.rendering import SUFFIXES, PoseDrawing, SurePoseDrawing, pose_map
from condkit.budget import Budget
from condkit.predictions import People
from condkit.runtime import Runtime
from condkit.types import ConditionMap, ConditionSpec
from condkit.weights import HubFile, WeightSpec

if TYPE_CHECKING:
    from condkit.annotators.pose.estimation import OpenPose


def _weights(name: str, sha256: str, size: int, part: str) -> WeightSpec:
    return WeightSpec(
        name=name,
        sha256=sha256,
        size=size,
        licence="OpenPose licence of CMU: academic or non-profit, non-commercial research only",
        commercial_use=False,
        origin=f"the {part} network of CMU's OpenPose, converted by Hzzone/pytorch-openpose",
        sources=(
            HubFile(
                repo="lllyasviel/Annotators",
                filename=name,
                revision="982e7edaec38759d914a963c48c4726685de7d96",
            ),
        ),
    )


WEIGHTS = {
    "body": _weights(
        "body_pose_model.pth",
        "25a948c16078b0f08e236bda51a385d855ef4c153598947c28c0d47ed94bb746",
        209_267_595,
        "body",
    ),
    "hands": _weights(
        "hand_pose_model.pth",
        "b76b00d1750901abd07b9f9d8c98cc3385b8fe834a26d4b4f0aad439e75fc600",
        147_341_049,
        "hand",
    ),
    "face": _weights(
        "facenet.pth",
        "8beb52e548624ffcc4aed12af7aee7dcbfaeea420c75609fee999fe7add79d43",
        153_718_792,
        "face",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPoseParams(PartsParams):
    """Settings of CMU's OpenPose.

    Attributes:
        detect_size: Short side in pixels at which the body network works. The public maps were made
            at 184; larger finds smaller people and takes longer.
    """

    detect_size: int = 184

    def __post_init__(self) -> None:
        require_a_part(self, "openpose")
        require(
            16 <= self.detect_size <= 4096,
            f"openpose.detect_size: expected 16 to 4096 pixels, got {self.detect_size}",
        )


def _needs(params: OpenPoseParams) -> tuple[str, ...]:
    """Hands and faces are looked for where the body says, so it is always needed."""
    return ("body", *(("hands",) if params.hands else ()), *(("face",) if params.face else ()))


def _load(params: OpenPoseParams, runtime: Runtime) -> OpenPose:
    from condkit.annotators.nets.openpose import load_network
    from condkit.annotators.pose.estimation import OpenPose

    device, _ = runtime.resolve()
    paths = {name: runtime.store.path(WEIGHTS[name]) for name in _needs(params)}
    return OpenPose(
        networks={name: load_network(name, path, runtime) for name, path in paths.items()},
        parts=params,
        detect_size=params.detect_size,
        device=device,
        budget=Budget.on(device, "openpose"),
    )


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="openpose",
        summary="OpenPose body, hand and face networks of CMU (non-commercial)",
        source="Z. Cao et al., CVPR 2017; T. Simon et al., CVPR 2017; controlnet_aux open_pose",
        yields=People,
        weights=WEIGHTS,
    ),
    params=OpenPoseParams,
    load=_load,
    needs=_needs,
    sharing=SHARED_PARTS,
)


def _render(prediction: People, params: PoseDrawing) -> ConditionMap:
    return pose_map(prediction, params, CONDITION.spec)


def _by(detector: str, params: type[PoseDrawing] = PoseDrawing) -> Renderer:
    return Renderer(detector=detector, render=_render, params=params, data=SUFFIXES)


CONDITION = ConditionDefinition(
    spec=ConditionSpec(
        name="openpose",
        channels=3,
        dtype="uint8",
        meaning="OpenPose people on black: limbs, joints, hands and faces in the public colours",
        background=0,
        resample="nearest",
        flip="mirror-swap-left-right",
    ),
    renderers=(
        _by("openpose"),
        _by("dwpose", SurePoseDrawing),
        _by("rtmw", SurePoseDrawing),
        _by("vitpose", SurePoseDrawing),
        _by("mediapipe", SurePoseDrawing),
    ),
)
