"""Canny: thin binary edges, the condition of control_v11p_sd15_canny and its relatives."""

from __future__ import annotations

import dataclasses
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
    require,
)
from condkit.draws import generator, image_key
from condkit.predictions import EdgeStrength
from condkit.runtime import Runtime
from condkit.types import ConditionMap, ConditionSpec, RgbImage


@dataclass(frozen=True, slots=True, kw_only=True)
class CannyParams:
    """Settings of `cv2.Canny`; the defaults are those of the public maps.

    ControlNet's canny model was trained on maps with random thresholds, so that it takes sparse and
    dense edges alike. Their range is not published; the ranges here lie around the public 100 and
    200 and leave photographs between their outlines and most of their texture.

    Attributes:
        low: Gradient above which an edge goes on, 0 to 255 x 8.
        high: Gradient above which an edge begins; at least `low`.
        aperture: Width of the Sobel kernel in pixels.
        l2: Measure the gradient by its Euclidean norm, not by the sum of absolute values.
        random: Draw both thresholds anew for each image, in place of `low` and `high`. They depend
            on the seed and the image's pixels alone, and are recorded with the map.
        low_range: Smallest and largest `low` that is drawn; all whole numbers are as likely.
        high_range: The same for `high`, which is never drawn below `low`.
        seed: Of the thresholds drawn, at least 0.
    """

    low: float = 100
    high: float = 200
    aperture: Literal[3, 5, 7] = 3
    l2: bool = False
    random: bool = False
    low_range: tuple[int, int] = (50, 150)
    high_range: tuple[int, int] = (100, 300)
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            0 <= self.low <= self.high,
            f"canny.low and canny.high: expected 0 <= low <= high, got {self.low} and {self.high}",
        )
        for name in ("low_range", "high_range"):
            first, last = getattr(self, name)
            require(
                0 <= first <= last,
                f"canny.{name}: expected two numbers, 0 <= first <= last, got {first} and {last}",
            )
        require(
            self.low_range[1] <= self.high_range[1],
            f"canny.high_range: expected to end at {self.low_range[1]}, where canny.low_range "
            f"does, or above, got {self.high_range[1]}",
        )
        require(self.seed >= 0, f"canny.seed: expected at least 0, got {self.seed}")
        self._refuse_idle()

    def _refuse_idle(self) -> None:
        """A setting that nothing reads is a mistake, not a wish."""
        idle = ("low", "high") if self.random else ("low_range", "high_range")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(
                field.name not in idle or value == field.default,
                f"canny.{field.name}: expected to be left out with canny.random="
                f"{str(self.random).lower()}, where nothing reads it, got {value}",
            )


def detect(image: RgbImage, params: CannyParams) -> EdgeStrength:
    """Canny edges of an image.

    All three channels are used (the strongest gradient of a pixel counts), as in the public maps;
    a grey copy gives other edges.

    Args:
        image: (H, W, 3) uint8 RGB.
        params: The settings.

    Returns:
        Strength 1 on edges, 0 elsewhere; with random thresholds the facts `low` and `high`.

    Source: J. Canny, PAMI 8(6), 1986; OpenCV; lllyasviel/ControlNet annotator/canny.
    """
    import cv2

    low, high = _thresholds(image, params)
    edges = cv2.Canny(image, low, high, apertureSize=params.aperture, L2gradient=params.l2)
    facts = {"low": low, "high": high} if params.random else {}
    return EdgeStrength((edges > 0).astype(np.float32), facts)


def _thresholds(image: RgbImage, params: CannyParams) -> tuple[float, float]:
    """Those of the settings, or those drawn for this image; low first."""
    if not params.random:
        return params.low, params.high
    draw = generator(params.seed, "canny", image_key(image))
    low = int(draw.integers(*params.low_range, endpoint=True))
    first, last = params.high_range
    return low, int(draw.integers(max(low, first), last, endpoint=True))


def _load(params: CannyParams, runtime: Runtime) -> Detector:
    return PerImage(lambda image: detect(image, params))


def _render(prediction: EdgeStrength, params: NoParams) -> ConditionMap:
    edges = prediction.strength > 0
    pixels = edges.astype(np.uint8) * np.uint8(255)
    facts = {"edge_fraction": float(edges.mean()), **prediction.facts}
    return ConditionMap(pixels, CONDITION.spec, facts)


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
