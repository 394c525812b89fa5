"""XDoG: strokes where the image is darker than its surroundings, without weights."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class XdogParams:
    """Settings of the difference of Gaussians; the defaults are those of sd-webui-controlnet.

    Attributes:
        sigma_fine: Standard deviation of the narrow blur, in pixels of the image.
        sigma_coarse: Standard deviation of the wide blur, in pixels of the image.
    """

    sigma_fine: float = 0.5
    sigma_coarse: float = 5.0

    def __post_init__(self) -> None:
        require(
            0 < self.sigma_fine < self.sigma_coarse,
            "xdog.sigma_fine and xdog.sigma_coarse: expected 0 < fine < coarse, got "
            f"{self.sigma_fine} and {self.sigma_coarse}",
        )


def detect(image: RgbImage, params: XdogParams) -> EdgeStrength:
    """How much darker each pixel is than its surroundings, in the channel where it is least so.

    The public implementation works in uint8 and wraps around where the difference is above 127, so
    its boldest strokes have holes; here they have none.

    Args:
        image: (H, W, 3) uint8 RGB.
        params: The settings.

    Returns:
        The difference of the two blurs over 255, at least 0.

    Source: H. Winnemöller, "XDoG", NPAR 2011, in the form of sd-webui-controlnet's scribble_xdog.
    """
    import cv2

    pixels = image.astype(np.float32)
    fine = cv2.GaussianBlur(pixels, (0, 0), params.sigma_fine)
    coarse = cv2.GaussianBlur(pixels, (0, 0), params.sigma_coarse)
    darker = np.min(coarse - fine, axis=2)
    return EdgeStrength(np.clip(darker / np.float32(255), 0, 1))


def _load(params: XdogParams, runtime: Runtime) -> Detector:
    return PerImage(lambda image: detect(image, params))


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="xdog",
        summary="difference of Gaussians: dark strokes, no weights",
        source="H. Winnemöller, NPAR 2011, as in sd-webui-controlnet",
        yields=EdgeStrength,
    ),
    params=XdogParams,
    load=_load,
)
