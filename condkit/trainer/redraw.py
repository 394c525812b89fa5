"""Pose maps drawn anew, mirrored, from the key points that a dataset keeps beside them.

With `evaluate.py` the only module of the trainer that uses the annotators: it draws with the very
code and settings that the dataset was made with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from condkit.annotators.annotator import plan_annotation
from condkit.annotators.pose.mirroring import mirrored
from condkit.annotators.pose.openpose_json import people_from_json
from condkit.errors import CondkitError
from condkit.predictions import People
from condkit.trainer.flips import Redraw
from condkit.types import ConditionSpec, MapPixels


def pose_redraw(manifest: Mapping[str, Any], spec: ConditionSpec) -> Redraw | None:
    """What draws a dataset's pose maps; None where its manifest does not say how they were made.

    Args:
        manifest: The dataset's.
        spec: The condition.
    """
    made = manifest.get("annotation", {}).get(spec.name)
    if spec.flip != "mirror-swap-left-right" or made is None:
        return None
    settings = {**made["detector_params"], **made["render_params"], "detector": made["detector"]}
    try:
        plan = plan_annotation([spec.name], {f"{spec.name}.{k}": v for k, v in settings.items()})
    except CondkitError:
        # Made by another version, with settings that are no more: the colours are left.
        return None
    (planned,) = plan.conditions

    def draw(people: People) -> MapPixels:
        pixels: MapPixels = planned.renderer.render(people, planned.render_params).pixels
        return pixels

    def redraw(key_points: bytes, pixels: MapPixels) -> MapPixels | None:
        height, width = pixels.shape[:2]
        people = people_from_json(key_points.decode("utf-8"), (height, width))
        if not np.array_equal(draw(people), pixels):
            return None
        return draw(mirrored(people))

    return redraw
