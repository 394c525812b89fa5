"""Standard line art: what is darker than its surroundings, without weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from condkit.annotators.base import (
    Detector,
    DetectorDefinition,
    DetectorSpec,
    PerImage,
    require,
)
from condkit.predictions import EdgeStrength
from condkit.runtime import Runtime
from condkit.types import RgbImage

# The typical line is drawn at half of the full strength, and one that is fainter than this, in grey
# levels, is not lifted to it.
_TYPICAL = 127.0
_FAINTEST = 16.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StandardParams:
    """Settings of standard line art; the defaults are the public ones.

    Attributes:
        sigma: Standard deviation of the blur that makes the surroundings, in pixels of the image.
        threshold: How much darker than its surroundings a pixel has to be to count as a line when
            the typical strength of lines is taken, in grey levels, 0 to 254. It changes how
            strongly lines are drawn, not which.
    """

    sigma: float = 6.0
    threshold: float = 8.0

    def __post_init__(self) -> None:
        require(self.sigma > 0, f"standard.sigma: expected more than 0 pixels, got {self.sigma}")
        require(
            0 <= self.threshold < 255,
            f"standard.threshold: expected 0 to 254, got {self.threshold}",
        )


def detect(image: RgbImage, params: StandardParams) -> EdgeStrength:
    """How much darker each pixel is than its surroundings, the median line at 127 of 255.

    Args:
        image: (H, W, 3) uint8 RGB.
        params: The settings.

    Returns:
        Strength 127 / 255 where a pixel is as dark as the median line; 0 on a flat image.

    Source: lineart_standard of sd-webui-controlnet, as in controlnet_aux.
    """
    import cv2

    pixels = image.astype(np.float32)
    around = cv2.GaussianBlur(pixels, (0, 0), params.sigma)
    darker = np.clip(np.min(around - pixels, axis=2), 0, 255)
    lines = darker[darker > params.threshold]
    typical = max(_FAINTEST, float(np.median(lines)) if lines.size else 0.0)
    return EdgeStrength(np.clip(darker * np.float32(_TYPICAL / typical / 255), 0, 1))


def _load(params: StandardParams, runtime: Runtime) -> Detector:
    return PerImage(lambda image: detect(image, params))


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="standard",
        summary="dark lines on a lighter ground, no weights",
        source="lineart_standard of sd-webui-controlnet, as in controlnet_aux",
        yields=EdgeStrength,
    ),
    params=StandardParams,
    load=_load,
)
