"""One condition as a function, for scripts and notebooks: `load("canny")(image)`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.annotators.base import Runtime
from condkit.errors import ConfigError
from condkit.types import ConditionSpec, MapPixels, RgbImage
from condkit.weights import WeightStore

if TYPE_CHECKING:
    from PIL.Image import Image

ImageLike: TypeAlias = "NDArray[np.uint8] | Image | str | os.PathLike[str]"
"""(H, W, 3) RGB or (H, W) grey uint8, a Pillow image, or the path of an image file."""

_BATCH = 16


@dataclass(frozen=True, slots=True)
class LoadedCondition:
    """A condition that is ready to run.

    Attributes:
        annotator: What runs.
    """

    annotator: Annotator

    @property
    def spec(self) -> ConditionSpec:
        """What the maps' pixels mean."""
        return self.annotator.plan.specs[0]

    # A str is a sequence of str to a type checker; here it is one path.
    @overload
    def __call__(self, images: ImageLike) -> MapPixels: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, images: Sequence[ImageLike]) -> list[MapPixels]: ...
    def __call__(self, images: Any) -> Any:
        """Maps for one image or for a sequence of them, at each image's own size.

        Returns:
            One array, (H, W) or (H, W, 3) as `spec.channels` says; or a list of them for a list.

        Raises:
            ImageError: if a file cannot be decoded.
            ConfigError: if something is no image.
        """
        if isinstance(images, str | os.PathLike | np.ndarray) or _is_pillow(images):
            return self._maps([images])[0]
        if not isinstance(images, Iterable):
            raise ConfigError(f"expected an image or a sequence of them, got {images!r}")
        return self._maps(list(images))

    def _maps(self, images: Sequence[ImageLike]) -> list[MapPixels]:
        maps: list[MapPixels] = []
        for start in range(0, len(images), _BATCH):
            batch = [_as_rgb(image) for image in images[start : start + _BATCH]]
            maps += [drawn[self.spec.name].pixels for drawn in self.annotator(batch)]
        return maps


def load(
    condition: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    weights_dir: str | os.PathLike[str] | None = None,
    offline: bool = False,
    **settings: Any,
) -> LoadedCondition:
    """Load a condition.

    Example:
        >>> canny = load("canny", low=50)
        >>> canny(np.zeros((4, 6, 3), np.uint8)).shape
        (4, 6)

    Args:
        condition: Its name, as `condkit conditions` lists them.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        dtype: "auto", "fp32", "bf16" or "fp16".
        weights_dir: A folder searched for weights before anything is fetched.
        offline: Never touch the network.
        settings: `detector`, and any setting of the detector or of the drawing.

    Raises:
        UnknownNameError: for a condition, detector or setting that does not exist.
        ConfigError: for an impossible value.
        WeightsError: if weights cannot be had.
    """
    plan = plan_annotation(
        [condition], {f"{condition}.{name}": value for name, value in settings.items()}
    )
    overrides = () if weights_dir is None else (Path(weights_dir),)
    store = WeightStore(overrides=overrides, offline=offline)
    return LoadedCondition(Annotator(plan, Runtime(device=device, dtype=dtype, store=store)).load())


def _as_rgb(image: ImageLike) -> RgbImage:
    """An (H, W, 3) uint8 RGB array of whatever was given."""
    if isinstance(image, str | os.PathLike):
        return _decode(Path(image))
    if isinstance(image, np.ndarray):
        if image.ndim == 2 and image.dtype == np.uint8:
            return np.repeat(image[:, :, None], 3, axis=2)
        return np.ascontiguousarray(image)
    if not _is_pillow(image):
        raise ConfigError(
            f"expected an array, a Pillow image or a path, got {type(image).__name__}"
        )
    return _from_pillow(image)


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
