"""The image as it is, for conditions that detect nothing: shuffle, tile, inpaint."""

from __future__ import annotations

from condkit.annotators.base import (
    Detector,
    DetectorDefinition,
    DetectorSpec,
    NoParams,
    PerImage,
)
from condkit.predictions import SourcePixels
from condkit.runtime import Runtime


def _load(params: NoParams, runtime: Runtime) -> Detector:
    return PerImage(SourcePixels)


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="identity",
        summary="the image itself; nothing is detected",
        source="the conditions of ControlNet 1.1 that are made of the picture alone",
        yields=SourcePixels,
    ),
    params=NoParams,
    load=_load,
)
