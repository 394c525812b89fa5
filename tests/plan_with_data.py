"""`PLAN`: Canny, and a condition without a network that counts and comes with data.

Read by `runpy.run_path`, in tests and in the processes they start.
"""

from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np

from condkit.annotators.annotator import AnnotationPlan, plan_annotation
from condkit.annotators.base import (
    ConditionDefinition,
    DetectorDefinition,
    DetectorSpec,
    NoParams,
    PerImage,
    Renderer,
)
from condkit.annotators.planning import PlannedCondition
from condkit.predictions import ClassLabels
from condkit.types import ConditionMap, ConditionSpec, MapData
from condkit.weights import WeightSpec

SPEC = ConditionSpec(
    name="levels",
    channels=1,
    dtype="uint8",
    meaning="four levels of red",
    background=0,
    resample="nearest",
)


def _detect(image):
    return ClassLabels((image[:, :, 0] // 64).astype(np.int32), palette="levels")


def _draw(prediction, params):
    ids = prediction.ids.astype(np.uint8)
    dark = np.count_nonzero(ids == 0)
    facts = {"levels": int(np.unique(ids).size), "dark_fraction": np.float32(dark / ids.size)}
    told = json.dumps({"size": list(ids.shape), "dark": float(dark), "note": "dunkel: 猫"})
    data = (
        MapData(".json", lambda: told.encode()),
        MapData(".labels.png", lambda: cv2.imencode(".png", ids)[1].tobytes()),
    )
    return ConditionMap(ids * np.uint8(85), SPEC, facts, data)


RENDERER = Renderer(detector="levels", render=_draw, data=(".json", ".labels.png"))
DETECTOR = DetectorDefinition(
    spec=DetectorSpec(name="levels", summary="levels", source="none", yields=ClassLabels),
    params=NoParams,
    load=lambda params, runtime: PerImage(_detect),
)
LEVELS = PlannedCondition(
    condition=ConditionDefinition(spec=SPEC, renderers=(RENDERER,)),
    detector=DETECTOR,
    detector_params=NoParams(),
    renderer=RENDERER,
    render_params=NoParams(),
)
PLAN = AnnotationPlan((*plan_annotation(["canny"]).conditions, LEVELS))
DEEP = AnnotationPlan(
    (
        dataclasses.replace(
            LEVELS,
            renderer=dataclasses.replace(
                RENDERER,
                render=lambda prediction, params: ConditionMap(
                    prediction.ids.astype(np.uint16) * np.uint16(20000),
                    dataclasses.replace(SPEC, dtype="uint16", meaning="deep levels"),
                ),
                spec=lambda spec, params: dataclasses.replace(
                    spec, dtype="uint16", meaning="deep levels"
                ),
                data=(),
            ),
        ),
    )
)
"""The same with 16-bit maps, as a setting may make them."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seeded:
    """Settings of `RANDOM`."""

    seed: int = 0


def _draw_at_random(prediction, params, generator):
    return ConditionMap(generator.integers(0, 256, prediction.ids.shape, dtype=np.uint8), SPEC)


RANDOM = AnnotationPlan(
    (
        dataclasses.replace(
            LEVELS,
            renderer=dataclasses.replace(
                RENDERER, render=_draw_at_random, params=Seeded, seeded=True, data=()
            ),
            render_params=Seeded(),
        ),
    )
)
"""Random maps."""

UNPINNED = AnnotationPlan(
    (
        dataclasses.replace(
            LEVELS,
            detector=dataclasses.replace(
                DETECTOR,
                spec=dataclasses.replace(
                    DETECTOR.spec,
                    weights={
                        "levels": WeightSpec(
                            name="levels.bin",
                            sha256=None,
                            size=None,
                            licence="MIT",
                            commercial_use=True,
                            origin="here",
                            sources=(),
                        )
                    },
                ),
                needs=lambda params: ("levels",),
                load=lambda params, runtime: PerImage(_detect),
            ),
        ),
    )
)
"""With weights whose hash nobody has published."""
