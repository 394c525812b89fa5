"""Segmentation: every pixel in the colour of its class, the condition of control_v11p_sd15_seg.

The public OneFormer maps were drawn with white outlines and softened edges, which belong to no
class; the checkpoints read flat colours (the UniFormer's maps, drawings by hand) as well. Here are
flat colours only, and beside each map its labels as numbers.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.base import ConditionDefinition, NoParams, Renderer
from condkit.annotators.palettes import Palette, palette, palette_of_weights
from condkit.predictions import ClassLabels
from condkit.types import ConditionMap, ConditionSpec, MapData

LABELS_SUFFIX = ".labels.png"
CLASSES_SUFFIX = ".classes.json"


def label_image(ids: NDArray[np.int32]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Class ids as the grey levels of an image, losslessly.

    Args:
        ids: (H, W) int32, -1 where there is no class.

    Returns:
        (H, W) uint8 where all ids are at most 254, then 255 means no class; else uint16, where
        65535 does.
    """
    if ids.max(initial=0) < np.iinfo(np.uint8).max:
        return np.where(ids < 0, np.iinfo(np.uint8).max, ids).astype(np.uint8)
    return np.where(ids < 0, np.iinfo(np.uint16).max, ids).astype(np.uint16)


def class_statistics(ids: NDArray[np.int32], colours: Palette) -> list[dict[str, Any]]:
    """How much of an image each class covers, the largest first.

    Args:
        ids: (H, W) int32, -1 where there is no class.
        colours: The classes.

    Returns:
        Per class that is there: id, name, colour (RGB), pixels, share (of the image, 0 to 1).
    """
    counts = np.bincount(ids[ids >= 0], minlength=len(colours.classes))
    present = sorted(np.flatnonzero(counts).tolist(), key=lambda index: (-counts[index], index))
    return [
        {
            "id": index,
            "name": colours.classes[index],
            "colour": colours.colours[index].tolist(),
            "pixels": int(counts[index]),
            "share": round(float(counts[index] / ids.size), 6),
        }
        for index in present
    ]


def _render(prediction: ClassLabels, params: NoParams) -> ConditionMap:
    colours = palette(prediction.palette)
    ids = prediction.ids
    statistics = class_statistics(ids, colours)
    facts: dict[str, float | int] = {
        "classes": len(statistics),
        "largest_share": max((entry["share"] for entry in statistics), default=0.0),
        "unlabelled_share": round(float(np.mean(ids < 0)), 6),
    }
    data = (
        MapData(LABELS_SUFFIX, lambda: _labels_png(ids)),
        MapData(CLASSES_SUFFIX, lambda: _classes_json(colours, label_image(ids), statistics)),
    )
    return ConditionMap(colours.paint(ids), _spec(CONDITION.spec, colours), facts, data)


def _labels_png(ids: NDArray[np.int32]) -> bytes:
    from condkit.imageio import encode_png

    return encode_png(label_image(ids))


def _classes_json(
    colours: Palette,
    labels: NDArray[np.uint8] | NDArray[np.uint16],
    statistics: list[dict[str, Any]],
) -> bytes:
    facts = {
        "palette": colours.name,
        "no_class": int(np.iinfo(labels.dtype).max),
        "classes": statistics,
    }
    return (json.dumps(facts) + "\n").encode()


def _meaning(colours: Palette) -> str:
    return (
        f"the class of each pixel as its colour in the palette of {colours.title} "
        f"({len(colours.classes)} classes), flat and without outlines; black has no class"
    )


def _spec(spec: ConditionSpec, colours: Palette) -> ConditionSpec:
    return dataclasses.replace(spec, meaning=_meaning(colours))


def _detector_spec(spec: ConditionSpec, detector_params: Any) -> ConditionSpec:  # noqa: ANN401
    """The palette follows from the weights."""
    return _spec(spec, palette_of_weights(detector_params.weights))


def _renderer(detector: str, name: str = "", presets: Mapping[str, Any] | None = None) -> Renderer:
    return Renderer(
        detector=detector,
        render=_render,
        name=name,
        presets=presets or {},
        detector_spec=_detector_spec,
        data=(LABELS_SUFFIX, CLASSES_SUFFIX),
    )


CONDITION = ConditionDefinition(
    spec=ConditionSpec(
        name="seg",
        channels=3,
        dtype="uint8",
        meaning=_meaning(palette("ade20k")),
        background=0,
        resample="nearest",
    ),
    renderers=(
        _renderer("oneformer"),
        _renderer("eomt"),
        _renderer("mask2former"),
        _renderer("segformer"),
        _renderer("upernet"),
    ),
)
