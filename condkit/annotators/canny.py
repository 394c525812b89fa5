"""Canny: thin binary edges, the condition of control_v11p_sd15_canny and its relatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from condkit.annotators.base import (
    ConditionDefinition,
    Detector,
    DetectorDefinition,
    DetectorSpec,
    NoParams,
    PerImage,
    Renderer,
    Runtime,
    require,
)
from condkit.predictions import EdgeStrength
from condkit.types import ConditionMap, ConditionSpec, RgbImage


@dataclass(frozen=True, slots=True, kw_only=True)
class CannyParams:
    """Settings of `cv2.Canny`; the defaults are those of the public maps.

    Attributes:
        low: Gradient above which an edge goes on, 0 to 255 x 8.
        high: Gradient above which an edge begins; at least `low`.
        aperture: Width of the Sobel kernel in pixels.
        l2: Measure the gradient by its Euclidean norm, not by the sum of absolute values.
    """

    low: float = 100
    high: float = 200
    aperture: Literal[3, 5, 7] = 3
    l2: bool = False

    def __post_init__(self) -> None:
        require(
            0 <= self.low <= self.high,
            f"canny.low and canny.high: expected 0 <= low <= high, got {self.low} and {self.high}",
        )


def detect(image: RgbImage, params: CannyParams) -> EdgeStrength:
    """Canny edges of an image.

    All three channels are used (the strongest gradient of a pixel counts), as in the public maps;
    a grey copy gives other edges.

    Args:
        image: (H, W, 3) uint8 RGB.
        params: The settings.

    Returns:
        Strength 1 on edges, 0 elsewhere.

    Source: J. Canny, PAMI 8(6), 1986; OpenCV; lllyasviel/ControlNet annotator/canny.
    """
    import cv2

    edges = cv2.Canny(
        image, params.low, params.high, apertureSize=params.aperture, L2gradient=params.l2
    )
    return EdgeStrength((edges > 0).astype(np.float32))


def _load(params: CannyParams, runtime: Runtime) -> Detector:
    return PerImage(lambda image: detect(image, params))


def _render(prediction: EdgeStrength, params: NoParams) -> ConditionMap:
    edges = prediction.strength > 0
    pixels = edges.astype(np.uint8) * np.uint8(255)
    return ConditionMap(pixels, CONDITION.spec, {"edge_fraction": float(edges.mean())})


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="canny",
        summary="OpenCV's Canny on the RGB image",
        source="J. Canny, PAMI 8(6), 1986, through OpenCV",
        yields=EdgeStrength,
    ),
    params=CannyParams,
    load=_load,
)

CONDITION = ConditionDefinition(
    spec=ConditionSpec(
        name="canny",
        channels=1,
        dtype="uint8",
        meaning="Canny edges, 255 on edges of one pixel width, 0 elsewhere",
        background=0,
        resample="nearest",
    ),
    renderers=(Renderer(detector="canny", render=_render),),
)
