"""One condition as a function, for scripts and notebooks: `load("canny")(image)`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.annotator import Annotator, PlannedCondition, Predictions, plan_annotation
from condkit.annotators.licensing import require_commercial_use
from condkit.draws import image_key
from condkit.errors import ConfigError
from condkit.predictions import Prediction
from condkit.runtime import Runtime
from condkit.types import ConditionMap, ConditionSpec, MapPixels, RgbImage
from condkit.weights import WeightStore

if TYPE_CHECKING:
    from PIL.Image import Image

ImageLike: TypeAlias = "NDArray[np.uint8] | Image | str | os.PathLike[str]"
"""A Pillow image of any mode, the path of an image file, or a uint8 array: (H, W) grey, (H, W, 3)
RGB, (H, W, 4) RGB and alpha. Alpha is composited on white, as everywhere."""

_BATCH = 16


@dataclass(frozen=True, slots=True)
class LoadedCondition:
    """A condition that is ready to run: called with images, it gives their maps.

    Everything lies at each image's own height and width. `predict` and the calls that predict
    belong to one thread at a time; `render` may run in as many as wanted. It is a context manager:
    at the block's end the networks and the device's memory are let go.

    Example:
        >>> with load("canny") as canny:
        ...     (edges,) = canny.annotate([np.zeros((4, 6, 3), np.uint8)])
        >>> edges.facts
        {'edge_fraction': 0.0}

    Attributes:
        annotator: What runs.
    """

    annotator: Annotator

    @property
    def spec(self) -> ConditionSpec:
        """What the maps' pixels mean with these settings."""
        return self._planned.spec

    @property
    def source(self) -> str:
        """The paper, or the implementation whose conventions the detector keeps."""
        return self._planned.detector.spec.source

    @property
    def _planned(self) -> PlannedCondition:
        return self.annotator.plan.conditions[0]

    # A str is a sequence of str to a type checker; here it is one path.
    @overload
    def __call__(self, images: ImageLike) -> MapPixels: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, images: Sequence[ImageLike]) -> list[MapPixels]: ...
    def __call__(self, images: Any) -> Any:
        """Maps for one image or for a sequence of them, at each image's own size.

        Args:
            images: One image, a sequence of images of any sizes, or an array (N, H, W, 3).

        Returns:
            One array of `spec.dtype`, (H, W), (H, W, 3) or (H, W, 4) as `spec.channels` says; or a
            list of them for a list.

        Raises:
            ImageError: if a file cannot be decoded.
            ConfigError: if something is no image.
            MapError: if a network's output is not finite.
            DeviceMemoryError: if one image alone is too much for the device.
        """
        if _is_one_image(images):
            return self.annotate([images])[0].pixels
        return [drawn.pixels for drawn in self.annotate(images)]

    def annotate(self, images: Iterable[ImageLike]) -> list[ConditionMap]:
        """Maps with what was counted in them (`facts`) and what they were drawn from (`data`).

        Args:
            images: Of any sizes; a few are decoded at a time.

        Returns:
            One `ConditionMap` per image, in order.

        Raises:
            ImageError, ConfigError, MapError, DeviceMemoryError: As for a call.
        """
        name = self.spec.name
        return [drawn[name] for batch in _batches(images) for drawn in self.annotator(batch)]

    def predict(self, images: Iterable[ImageLike]) -> list[Prediction]:
        """What the detector finds, before anything is drawn or quantised.

        Args:
            images: Of any sizes; a few are decoded at a time.

        Returns:
            One prediction of `condkit.predictions` per image, in order, at the image's own height
            and width: metric depth in metres, key points in pixels with their scores, and so on as
            the class says.

        Raises:
            ImageError, ConfigError, MapError, DeviceMemoryError: As for a call.
        """
        key = self._planned.key
        return [
            found.by_detector[key]
            for batch in _batches(images)
            for found in self.annotator.predict(batch)
        ]

    def render(
        self, predictions: Iterable[Prediction], images: Iterable[ImageLike] | None = None
    ) -> list[ConditionMap]:
        """Draw predictions, which may have been changed or come from elsewhere.

        Args:
            predictions: Of the class that this condition's detector gives.
            images: The images they are of; only random drawings depend on them.

        Returns:
            One map per prediction, in order, of the prediction's height and width.

        Raises:
            ConfigError: if a prediction is of another class, or the drawing is random and there is
                not one image per prediction.
        """
        planned, items = self._planned, list(predictions)
        for item in items:
            wanted = planned.detector.spec.yields
            if not isinstance(item, wanted):
                raise ConfigError(
                    f"{self.spec.name}: expected predictions of {wanted.__name__}, got "
                    f"{type(item).__name__}"
                )
        keys = self._image_keys(items, images)
        name = self.spec.name
        return [
            self.annotator.render(Predictions({planned.key: item}, item.size_hw, (name,), key))[
                name
            ]
            for item, key in zip(items, keys, strict=True)
        ]

    def _image_keys(
        self, predictions: Sequence[Prediction], images: Iterable[ImageLike] | None
    ) -> list[int]:
        if not self._planned.renderer.is_random(self._planned.render_params):
            return [0] * len(predictions)
        keys = [image_key(_as_rgb(image)) for image in (() if images is None else images)]
        if len(keys) != len(predictions):
            raise ConfigError(
                f"{self.spec.name} is drawn at random, which depends on the images: expected "
                f"{len(predictions)} images beside the predictions, got {len(keys)}"
            )
        return keys

    def close(self) -> None:
        """Let go of the networks and of the device's memory; a later call loads them again."""
        self.annotator.close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """See `close`."""
        self.close()


def load(
    condition: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    backend: str = "torch",
    weights_dir: str | os.PathLike[str] | None = None,
    offline: bool = False,
    commercial_only: bool = False,
    **settings: Any,
) -> LoadedCondition:
    """Load a condition.

    Example:
        >>> canny = load("canny", low=50)
        >>> canny(np.zeros((4, 6, 3), np.uint8)).shape
        (4, 6)
        >>> [edges.shape for edges in canny([np.zeros((9, 9), np.uint8), np.eye(5).astype("u1")])]
        [(9, 9), (5, 5)]

    Args:
        condition: Its name, as `condkit conditions` lists them.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        dtype: "auto", "fp32", "bf16" or "fp16".
        backend: "torch", "compile" (`torch.compile`), or "openvino" (CPUs; the extra `openvino`).
        weights_dir: A folder searched for weights before anything is fetched.
        offline: Never touch the network.
        commercial_only: Refuse weights that do not clearly allow commercial use.
        settings: `detector`, and any setting of the detector or of the drawing.

    Raises:
        UnknownNameError: for a condition, detector or setting that does not exist.
        ConfigError: for an impossible value, or weights that `commercial_only` refuses; then the
            message names what may stand in.
        WeightsError: if weights cannot be had.
    """
    plan = plan_annotation(
        [condition], {f"{condition}.{name}": value for name, value in settings.items()}
    )
    if commercial_only:
        require_commercial_use(plan)
    overrides = () if weights_dir is None else (Path(weights_dir),)
    store = WeightStore(overrides=overrides, offline=offline)
    runtime = Runtime(device=device, dtype=dtype, backend=backend, store=store)
    return LoadedCondition(Annotator(plan, runtime).load())


def _batches(images: Iterable[ImageLike]) -> Iterator[list[RgbImage]]:
    """The images as arrays, a few at a time."""
    if _is_one_image(images):
        raise ConfigError("expected a sequence of images, got one; put it into a list")
    if not isinstance(images, Iterable):
        raise ConfigError(f"expected an image or a sequence of them, got {images!r}")
    batch: list[RgbImage] = []
    for image in images:
        batch.append(_as_rgb(image))
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _is_one_image(images: object) -> bool:
    """Whether something is an image, and not several; of arrays, those of four axes are several."""
    if isinstance(images, np.ndarray):
        return images.ndim != 4
    return isinstance(images, str | os.PathLike) or _is_pillow(images)


def _as_rgb(image: ImageLike) -> RgbImage:
    """An (H, W, 3) uint8 RGB array of whatever was given."""
    if isinstance(image, str | os.PathLike):
        return _decode(Path(image))
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if not _is_pillow(image):
        raise ConfigError(
            f"expected an array, a Pillow image or a path, got {type(image).__name__}"
        )
    return _from_pillow(image)


def _from_array(image: NDArray[np.uint8]) -> RgbImage:
    shape = image.shape
    channels = 1 if len(shape) == 2 else shape[2] if len(shape) == 3 else 0
    if image.dtype != np.uint8 or channels not in (1, 3, 4) or image.size == 0:
        raise ConfigError(
            "expected an array (H, W), (H, W, 3) RGB or (H, W, 4) RGB and alpha of uint8, 0 to "
            f"255, with at least one pixel; got shape {shape} of {image.dtype}"
        )
    if channels == 1:
        return np.repeat(image.reshape(*shape[:2], 1), 3, axis=2)
    if channels == 4:
        return _on_white(image)
    return np.ascontiguousarray(image)


def _on_white(image: NDArray[np.uint8]) -> RgbImage:
    """The colours over white, by the same arithmetic as for files."""
    from PIL import Image as PillowImage

    return _from_pillow(PillowImage.fromarray(np.ascontiguousarray(image), "RGBA"))


def _from_pillow(image: Image) -> RgbImage:
    """Through a lossless file, so that modes, profiles, orientation and alpha act as everywhere."""
    import io

    from condkit.imageio import decode

    buffer = io.BytesIO()
    suits_png = image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    try:
        image.save(buffer, "PNG" if suits_png else "TIFF", exif=image.getexif())
    except OSError as error:
        raise ConfigError(
            f"a Pillow image of mode {image.mode!r} cannot be read ({error}); convert it to RGB"
        ) from error
    return decode(buffer.getvalue(), name="Pillow image").image


def _decode(path: Path) -> RgbImage:
    from condkit.imageio import decode

    return decode(path).image


def _is_pillow(value: object) -> bool:
    # By module name: Pillow need not be imported to know that something is not of it.
    return any(kind.__module__.startswith("PIL.") for kind in type(value).__mro__)
