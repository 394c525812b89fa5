"""From images to maps: predict once, render many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from condkit.annotators.base import Detector, Runtime
from condkit.annotators.planning import (
    AnnotationPlan,
    DetectorKey,
    PlannedCondition,
    plan_annotation,
)
from condkit.errors import ConfigError, MapError
from condkit.types import ConditionMap, Prediction, RgbImage

__all__ = [
    "AnnotationPlan",
    "Annotator",
    "PlannedCondition",
    "Predictions",
    "plan_annotation",
]


@dataclass(frozen=True, slots=True)
class Predictions:
    """All that was predicted for one image; only `Annotator.render` looks inside.

    Attributes:
        by_detector: One prediction per distinct detector and settings.
        size_hw: The image's height and width.
    """

    by_detector: Mapping[DetectorKey, Prediction]
    size_hw: tuple[int, int]


class Annotator:
    """Makes the maps of a plan.

    `predict` is to be called from one thread; `render` from as many as wanted. Networks are loaded,
    and their weights fetched, by `load` or at the first `predict`.
    """

    def __init__(self, plan: AnnotationPlan, runtime: Runtime | None = None) -> None:
        self.plan = plan
        self.runtime = runtime or Runtime()
        self._detectors: dict[DetectorKey, Detector] = {}

    def load(self) -> Self:
        """Load every detector of the plan that is not loaded yet.

        Raises:
            WeightsError: if weights cannot be had.
            ConfigError: if the device asked for is not there.
        """
        for planned in self.plan.conditions:
            if planned.key not in self._detectors:
                detector = planned.detector.load(planned.detector_params, self.runtime)
                self._detectors[planned.key] = detector
        return self

    def predict(self, images: Sequence[RgbImage]) -> list[Predictions]:
        """Run each distinct detector once over the images, which may differ in size.

        Args:
            images: (H, W, 3) uint8 RGB each; not changed.

        Raises:
            ConfigError: if an image is something else.
            MapError: if a detector breaks its promise.
        """
        for image in images:
            _check_image(image)
        self.load()
        found: list[dict[DetectorKey, Prediction]] = [{} for _ in images]
        for key, detector in self._detectors.items():
            predictions = detector(images)
            if len(predictions) != len(images):
                raise MapError(f"{key[0]}: {len(predictions)} predictions for {len(images)} images")
            for place, prediction, image in zip(found, predictions, images, strict=True):
                if prediction.size_hw != image.shape[:2]:
                    raise MapError(
                        f"{key[0]}: the prediction is {prediction.size_hw}, the image "
                        f"{image.shape[:2]} (height, width)"
                    )
                place[key] = prediction
        return [
            Predictions(by_detector, image.shape[:2])
            for by_detector, image in zip(found, images, strict=True)
        ]

    def render(self, predictions: Predictions) -> dict[str, ConditionMap]:
        """Draw all maps of one image, in the plan's order.

        Raises:
            MapError: if a renderer breaks its promise.
        """
        maps: dict[str, ConditionMap] = {}
        for planned in self.plan.conditions:
            name = planned.condition.spec.name
            prediction = predictions.by_detector[planned.key]
            drawn = planned.renderer.render(prediction, planned.render_params)
            if drawn.pixels.shape[:2] != predictions.size_hw:
                raise MapError(
                    f"{name}: the map is {drawn.pixels.shape[:2]}, the image "
                    f"{predictions.size_hw} (height, width)"
                )
            maps[name] = drawn
        return maps

    def __call__(self, images: Sequence[RgbImage]) -> list[dict[str, ConditionMap]]:
        """Predict and render."""
        return [self.render(predictions) for predictions in self.predict(images)]

    def close(self) -> None:
        """Let go of the networks; a later call loads them again."""
        self._detectors.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _check_image(image: RgbImage) -> None:
    fits = (
        isinstance(image, np.ndarray)
        and image.ndim == 3
        and image.shape[2] == 3
        and image.dtype == np.uint8
        and image.size > 0
    )
    if not fits:
        shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
        raise ConfigError(
            f"expected an image of shape (H, W, 3), uint8 RGB, got {type(image).__name__} of shape "
            f"{shape} and dtype {dtype}; condkit.decode makes one of any file"
        )
