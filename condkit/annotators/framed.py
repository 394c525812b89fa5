"""Networks that want the picture inside a frame: a mirrored border, or a square."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from condkit.annotators.base import Detector
from condkit.errors import MapError
from condkit.predictions import MetricDepth, Prediction
from condkit.types import RgbImage

Margins: TypeAlias = tuple[int, int, int, int]
"""Pixels above, below, left and right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FramedDepth:
    """A depth network that sees each image with a border, which its prediction loses again.

    Attributes:
        detector: Predicts metric depth at the size of what it is given.
        margins: An image's height and width to the border's.
        border: "reflect" mirrors the image about its outermost pixels, "edge" repeats them.
    """

    detector: Detector
    margins: Callable[[tuple[int, int]], Margins]
    border: Literal["reflect", "edge"]

    def __call__(self, images: Sequence[RgbImage]) -> list[Prediction]:
        """One prediction per image, in order."""
        margins = [self.margins(image.shape[:2]) for image in images]
        framed = [self._framed(image, m) for image, m in zip(images, margins, strict=True)]
        found = self.detector(framed)
        return [
            self._inner(prediction, image.shape[:2], m)
            for prediction, image, m in zip(found, images, margins, strict=True)
        ]

    def _framed(self, image: RgbImage, margins: Margins) -> RgbImage:
        import cv2

        if not any(margins):
            return image
        way = cv2.BORDER_REFLECT_101 if self.border == "reflect" else cv2.BORDER_REPLICATE
        return np.asarray(cv2.copyMakeBorder(image, *margins, way), dtype=np.uint8)

    def _inner(
        self, prediction: Prediction, size_hw: tuple[int, int], margins: Margins
    ) -> MetricDepth:
        if not isinstance(prediction, MetricDepth):
            raise MapError(f"expected metric depth, got {type(prediction).__name__}")
        top, left = margins[0], margins[2]
        metres = prediction.metres[top : top + size_hw[0], left : left + size_hw[1]]
        return MetricDepth(np.ascontiguousarray(metres), prediction.facts)


def square_margins(size_hw: tuple[int, int]) -> Margins:
    """A border that makes an image square, the image in its middle."""
    height, width = size_hw
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return top, side - height - top, left, side - width - left


@dataclass(frozen=True, slots=True, kw_only=True)
class StretchedDepth:
    """A depth network that sees each image stretched to a square.

    Attributes:
        detector: Predicts metric depth at the size of what it is given.
        side: Height and width in pixels of the square.
    """

    detector: Detector
    side: int

    def __call__(self, images: Sequence[RgbImage]) -> list[Prediction]:
        """One prediction per image, in order."""
        found = self.detector([self._square(image) for image in images])
        return [
            self._restored(prediction, image.shape[:2])
            for prediction, image in zip(found, images, strict=True)
        ]

    def _square(self, image: RgbImage) -> RgbImage:
        import cv2

        if image.shape[:2] == (self.side, self.side):
            return image
        grows = max(image.shape[:2]) < self.side
        way = cv2.INTER_LANCZOS4 if grows else cv2.INTER_AREA
        return np.asarray(cv2.resize(image, (self.side, self.side), interpolation=way), np.uint8)

    def _restored(self, prediction: Prediction, size_hw: tuple[int, int]) -> MetricDepth:
        import cv2

        if not isinstance(prediction, MetricDepth):
            raise MapError(f"expected metric depth, got {type(prediction).__name__}")
        if prediction.size_hw == size_hw:
            return prediction
        # Depth jumps at borders; between them its inverse is what changes evenly in the picture.
        inverse = cv2.resize(1 / prediction.metres, size_hw[::-1], interpolation=cv2.INTER_LINEAR)
        return MetricDepth(np.asarray(1 / inverse, dtype=np.float32), prediction.facts)
