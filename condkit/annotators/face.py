"""Face: the points of each face as white discs on black."""

from __future__ import annotations

from condkit.annotators.base import ConditionDefinition, Renderer
from condkit.annotators.pose.parts import ONLY_FACE
from condkit.annotators.pose.rendering import SUFFIXES, PartDrawing, SurePartDrawing, face_map
from condkit.predictions import People
from condkit.types import ConditionMap, ConditionSpec


def _render(prediction: People, params: PartDrawing) -> ConditionMap:
    return face_map(prediction, params, CONDITION.spec)


def _by(detector: str, params: type[PartDrawing] = PartDrawing) -> Renderer:
    return Renderer(
        detector=detector, render=_render, params=params, presets=ONLY_FACE, data=SUFFIXES
    )


CONDITION = ConditionDefinition(
    spec=ConditionSpec(
        name="face",
        channels=3,
        dtype="uint8",
        meaning="OpenPose faces: 68 points of the face and two pupils as white discs on black",
        background=0,
        resample="nearest",
    ),
    renderers=(
        _by("dwpose", SurePartDrawing),
        _by("openpose"),
        _by("rtmw", SurePartDrawing),
    ),
)
