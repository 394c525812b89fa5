"""From images to maps: predict once, render many."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from condkit.annotators.base import (
    Detector,
    DetectorDefinition,
)
from condkit.annotators.planning import (
    AnnotationPlan,
    DetectorKey,
    PlannedCondition,
    plan_annotation,
)
from condkit.device import free_memory
from condkit.draws import generator, image_key
from condkit.errors import ConfigError, DependencyError, MapError
from condkit.predictions import Prediction
from condkit.runtime import Runtime
from condkit.types import ConditionMap, RgbImage

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
        conditions: What can be drawn from them, in the plan's order.
        image_key: What random drawings of this image depend on; 0 where the plan has none.
    """

    by_detector: Mapping[DetectorKey, Prediction]
    size_hw: tuple[int, int]
    conditions: tuple[str, ...]
    image_key: int = 0


class Annotator:
    """Makes the maps of a plan.

    `predict` is to be called from one thread; `render` from as many as wanted. Networks are loaded,
    and their weights fetched, by `load` or at the first `predict`.
    """

    def __init__(self, plan: AnnotationPlan, runtime: Runtime | None = None) -> None:
        self.plan = plan
        self.runtime = runtime or Runtime()
        self._joined = _joined(plan)
        self._detectors: dict[DetectorKey, Detector] = {}

    def load(self, conditions: Container[str] | None = None) -> Self:
        """Load every detector that is needed and not loaded yet.

        Args:
            conditions: What it is needed for; None is the whole plan.

        Raises:
            WeightsError: if weights cannot be had.
            ConfigError: if the device asked for is not there.
            DependencyError: if a library that a detector needs is missing or broken.
        """
        for planned in self._planned(conditions):
            key = self._joined[planned.key]
            if key not in self._detectors:
                self._detectors[key] = _load(planned.detector, key[1], self.runtime)
        return self

    def predict(
        self,
        images: Sequence[RgbImage],
        conditions: Sequence[Container[str] | None] | None = None,
    ) -> list[Predictions]:
        """Run each distinct detector once over the images that need it.

        Args:
            images: (H, W, 3) uint8 RGB each, of any sizes; not changed.
            conditions: For each image what is to be drawn of it; None is the whole plan.

        Raises:
            ConfigError: if an image is something else.
            MapError: if a detector breaks its promise.
        """
        for image in images:
            _check_image(image)
        wanted = [self._planned(names) for names in conditions or [None] * len(images)]
        found: list[dict[DetectorKey, Prediction]] = [{} for _ in images]
        for key in dict.fromkeys(self._joined[planned.key] for some in wanted for planned in some):
            self._load_key(key)
            places = [
                place
                for place, some in enumerate(wanted)
                if any(self._joined[planned.key] == key for planned in some)
            ]
            predictions = self._detect(key, [images[place] for place in places])
            for place, prediction in zip(places, predictions, strict=True):
                found[place][key] = prediction
        for some, of_image in zip(wanted, found, strict=True):
            for planned in some:
                if planned.detector.sharing is not None:
                    whole = of_image[self._joined[planned.key]]
                    of_image[planned.key] = planned.detector.sharing.part(whole, planned.key[1])
        return [
            Predictions(
                by_detector,
                image.shape[:2],
                tuple(planned.condition.spec.name for planned in some),
                image_key(image) if any(map(_is_random, some)) else 0,
            )
            for by_detector, some, image in zip(found, wanted, images, strict=True)
        ]

    def _planned(self, conditions: Container[str] | None) -> tuple[PlannedCondition, ...]:
        if conditions is None:
            return self.plan.conditions
        return tuple(p for p in self.plan.conditions if p.condition.spec.name in conditions)

    def _load_key(self, key: DetectorKey) -> None:
        if key not in self._detectors:
            self.load(
                [p.condition.spec.name for p in self.plan.conditions if self._joined[p.key] == key]
            )

    def _detect(self, key: DetectorKey, images: Sequence[RgbImage]) -> list[Prediction]:
        predictions = self._detectors[key](images)
        if len(predictions) != len(images):
            raise MapError(f"{key[0]}: {len(predictions)} predictions for {len(images)} images")
        for prediction, image in zip(predictions, images, strict=True):
            if prediction.size_hw != image.shape[:2]:
                raise MapError(
                    f"{key[0]}: the prediction is {prediction.size_hw}, the image "
                    f"{image.shape[:2]} (height, width)"
                )
        return predictions

    def render(self, predictions: Predictions) -> dict[str, ConditionMap]:
        """Draw all maps of one image that were predicted, in the plan's order.

        Raises:
            MapError: if a renderer breaks its promise.
        """
        maps: dict[str, ConditionMap] = {}
        for planned in self._planned(predictions.conditions):
            name = planned.condition.spec.name
            drawn = _draw(planned, predictions)
            if drawn.spec != planned.spec:
                raise MapError(f"{name}: the map's spec is {drawn.spec}, expected {planned.spec}")
            if drawn.pixels.shape[:2] != predictions.size_hw:
                raise MapError(
                    f"{name}: the map is {drawn.pixels.shape[:2]}, the image "
                    f"{predictions.size_hw} (height, width)"
                )
            suffixes = tuple(item.suffix for item in drawn.data)
            if suffixes != planned.renderer.data:
                raise MapError(
                    f"{name}: the map comes with data {suffixes}, expected {planned.renderer.data}"
                )
            maps[name] = drawn
        return maps

    def __call__(self, images: Sequence[RgbImage]) -> list[dict[str, ConditionMap]]:
        """Predict and render."""
        return [self.render(predictions) for predictions in self.predict(images)]

    def close(self) -> None:
        """Let go of the networks and of the device's memory; a later call loads them again."""
        self._detectors.clear()
        free_memory()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _joined(plan: AnnotationPlan) -> dict[DetectorKey, DetectorKey]:
    """For each prediction that is needed, the one that is made: itself, or one that holds it."""
    definitions = {planned.detector.spec.name: planned.detector for planned in plan.conditions}
    joined: dict[DetectorKey, DetectorKey] = {}
    for name, definition in definitions.items():
        keys = list(dict.fromkeys(p.key for p in plan.conditions if p.key[0] == name))
        params = [key[1] for key in keys]
        made = params if definition.sharing is None else definition.sharing.joined(params)
        joined |= {key: (name, one) for key, one in zip(keys, made, strict=True)}
    return joined


def _is_random(planned: PlannedCondition) -> bool:
    return planned.renderer.is_random(planned.render_params)


def _load(definition: DetectorDefinition, params: object, runtime: Runtime) -> Detector:
    try:
        return definition.load(params, runtime)
    except DependencyError as error:
        raise DependencyError(f"{definition.spec.name}: {error}") from error
    except ImportError as error:
        raise DependencyError(
            f"{definition.spec.name}: a library that it needs is missing or broken "
            f"({error}); install condkit's requirements anew, `condkit doctor` examines them"
        ) from error


def _draw(planned: PlannedCondition, predictions: Predictions) -> ConditionMap:
    prediction, params = predictions.by_detector[planned.key], planned.render_params
    if not planned.renderer.seeded:
        return planned.renderer.render(prediction, params)
    name = planned.condition.spec.name
    return planned.renderer.render(
        prediction, params, generator(params.seed, name, predictions.image_key)
    )


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
