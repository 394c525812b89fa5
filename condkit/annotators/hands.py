"""Hands: 21 points of each hand as coloured fingers on black."""

from __future__ import annotations

from condkit.annotators.base import ConditionDefinition, Renderer
from condkit.annotators.pose.parts import ONLY_HANDS
from condkit.annotators.pose.rendering import SUFFIXES, PartDrawing, SurePartDrawing, hands_map
from condkit.predictions import People
from condkit.types import ConditionMap, ConditionSpec


def _render(prediction: People, params: PartDrawing) -> ConditionMap:
    return hands_map(prediction, params, CONDITION.spec)


def _by(detector: str, params: type[PartDrawing] = PartDrawing) -> Renderer:
    return Renderer(
        detector=detector, render=_render, params=params, presets=ONLY_HANDS, data=SUFFIXES
    )


CONDITION = ConditionDefinition(
    spec=ConditionSpec(
        name="hands",
        channels=3,
        dtype="uint8",
        meaning="OpenPose hands: 20 bones in colours of the hue circle, 21 blue points, on black",
        background=0,
        resample="nearest",
    ),
    renderers=(
        _by("mediapipe", SurePartDrawing),
        _by("openpose"),
        _by("dwpose", SurePartDrawing),
        _by("rtmw", SurePartDrawing),
    ),
)
