"""What a detector and a condition are; a new one is one file that defines `DETECTOR`, `CONDITION`.

A detector turns images into predictions, a condition renders a prediction into a map. Nothing here
imports torch or OpenCV, and neither may a detector's or condition's module at its top: listing them
has to stay instant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from condkit.errors import ConfigError
from condkit.predictions import Prediction
from condkit.runtime import Runtime
from condkit.types import ConditionMap, ConditionSpec, RgbImage
from condkit.weights import AnyWeights

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorSpec:
    """What a detector is.

    Attributes:
        name: The file name and command line name.
        summary: One line for listings.
        source: The paper, or the implementation whose conventions are kept.
        yields: The class of its predictions.
        weights: The weights it can run on, by name; empty for algorithms without any.
    """

    name: str
    summary: str
    source: str
    yields: type[Prediction]
    weights: Mapping[str, AnyWeights] = field(default_factory=dict)


class Detector(Protocol):
    """A loaded detector."""

    def __call__(self, images: Sequence[RgbImage]) -> list[Prediction]:
        """One prediction per image, in order, at the image's own size.

        A batch equals its images one by one (networks: within one grey level), the images may
        differ in size, and they are never changed.
        """
        ...


@dataclass(frozen=True, slots=True)
class PerImage:
    """A detector that looks at one image after the other.

    Attributes:
        predict: One image in, its prediction out.
    """

    predict: Callable[[RgbImage], Prediction]

    def __call__(self, images: Sequence[RgbImage]) -> list[Prediction]:
        """One prediction per image."""
        return [self.predict(image) for image in images]


@dataclass(frozen=True, slots=True)
class Sharing:
    """How one prediction serves several settings of a detector.

    Attributes:
        joined: Settings in use, to the settings to run in place of each, in the same order; those
            that can share a prediction get the same.
        part: (prediction with the joined settings, settings) to the prediction that these settings
            alone would have given.
    """

    joined: Callable[[Sequence[Any]], list[Any]]
    part: Callable[[Any, Any], Prediction]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorDefinition:
    """How a detector is set up and loaded.

    Attributes:
        spec: What it is.
        params: A frozen, hashable dataclass with defaults that checks itself (`ConfigError`).
            A field `weights` chooses among `spec.weights`; a field `detect_size` is a network's
            working size.
        load: Builds the detector; networks are fetched and put on the device here.
        needs: The names in `spec.weights` that these settings need; None where the setting
            `weights` is that name.
        sharing: How one prediction serves several settings; None where each needs its own.
    """

    spec: DetectorSpec
    params: type[Any]
    load: Callable[[Any, Runtime], Detector]
    needs: Callable[[Any], tuple[str, ...]] | None = None
    sharing: Sharing | None = None

    def weights(self, params: object) -> tuple[AnyWeights, ...]:
        """The weights that the detector needs with these settings, in the order of `needs`."""
        if not self.spec.weights:
            return ()
        if self.needs is not None:
            return tuple(self.spec.weights[name] for name in self.needs(params))
        return (self.spec.weights[getattr(params, "weights")],)  # noqa: B009 - params is any class


@dataclass(frozen=True, slots=True)
class NoParams:
    """For detectors and renderers that have nothing to set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renderer:
    """How a condition draws the predictions of one detector.

    Attributes:
        detector: The detector's name.
        render: (prediction, params) to the map; pure, called from many threads at once. With
            `seeded`, (prediction, params, generator).
        params: A frozen, hashable dataclass with defaults that checks itself (`ConfigError`).
        name: What the condition calls this way of making it, where that is not the detector's name.
        presets: Settings of the detector whose default is another one for this condition.
        seeded: Whether the drawing is random: then its settings have a field `seed`, and `render`
            gets a `numpy.random.Generator` that depends on the seed, the condition and the image's
            pixels alone, so not on batches, threads, order or restarts.
        random: With `seeded`, whether the drawing is random with the given settings, where that is
            not always so.
        spec: What the pixels mean with the given settings, where that is not always the same:
            (the condition's spec, params) to the spec.
        detector_spec: What the pixels mean with the given settings of the detector, where they
            matter: (the condition's spec, the detector's params) to the spec; `spec` comes after.
        data: The suffixes of the `MapData` that every map of it comes with, in order; each ends
            with ".json" (UTF-8 text) or ".png".
    """

    detector: str
    render: Callable[..., ConditionMap]
    params: type[Any] = NoParams
    name: str = ""
    presets: Mapping[str, Any] = field(default_factory=dict)
    seeded: bool = False
    random: Callable[[Any], bool] | None = None
    spec: Callable[[ConditionSpec, Any], ConditionSpec] | None = None
    detector_spec: Callable[[ConditionSpec, Any], ConditionSpec] | None = None
    data: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for suffix in self.data:
            require(
                suffix.startswith(".") and suffix.endswith((".json", ".png")),
                f"data of {self.choice}: expected suffixes such as .json or .labels.png, got "
                f"{suffix!r}",
            )

    @property
    def choice(self) -> str:
        """The value of the condition's setting `detector` that chooses this."""
        return self.name or self.detector

    def is_random(self, params: object) -> bool:
        """Whether the drawing depends on the seed and the image with these settings."""
        return self.seeded and (self.random is None or self.random(params))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionDefinition:
    """A condition with everything that can make it.

    Attributes:
        spec: What its pixels mean.
        renderers: One per way to make it; the first is the default.
    """

    spec: ConditionSpec
    renderers: tuple[Renderer, ...]

    @property
    def detectors(self) -> tuple[str, ...]:
        """The values of the setting `detector`, default first."""
        return tuple(renderer.choice for renderer in self.renderers)

    def renderer(self, choice: str) -> Renderer:
        """The renderer chosen by a value of the setting `detector`.

        Raises:
            KeyError: if there is none.
        """
        return {renderer.choice: renderer for renderer in self.renderers}[choice]


def field_names(params: type[Any]) -> tuple[str, ...]:
    """The settings of a parameter dataclass, in order."""
    return tuple(f.name for f in dataclasses.fields(params))


def require(condition: bool, message: str) -> None:
    """Refuse a setting.

    Args:
        condition: Whether the value is possible.
        message: The setting's name, what was expected and what came.

    Raises:
        ConfigError: if it is not.
    """
    if not condition:
        raise ConfigError(message)
