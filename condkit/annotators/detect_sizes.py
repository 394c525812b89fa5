"""Working sizes drawn at random for each image, so that a ControlNet sees maps of all of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from condkit.annotators.base import require
from condkit.draws import generator, image_key
from condkit.types import RgbImage


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedSizesParams:
    """Settings to be inherited by those of a detector that has a `detect_size`.

    Attributes:
        detect_sizes: Short sides in pixels of which one is drawn for each image, in place of
            `detect_size`, such as 256,384,512; all are as likely. It depends on the seed and the
            image's pixels alone, and is recorded with the map. Empty draws none.
        seed: Of the sizes drawn, at least 0.
    """

    detect_sizes: tuple[int, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class SizeDraw:
    """Draws a working size for each image.

    Attributes:
        sizes: Short sides in pixels, at least one.
        seed: The user's.
        detector: Its name; other detectors get other draws.
    """

    sizes: tuple[int, ...]
    seed: int
    detector: str

    def __call__(self, image: RgbImage) -> int:
        """One of the sizes, by the image's pixels."""
        draw = generator(self.seed, f"{self.detector}/detect_sizes", image_key(image))
        return self.sizes[int(draw.integers(len(self.sizes)))]


def size_draw(params: MixedSizesParams, detector: str) -> SizeDraw | None:
    """What draws the sizes of a detector; None where `detect_size` holds for all images."""
    return SizeDraw(params.detect_sizes, params.seed, detector) if params.detect_sizes else None


def require_possible_sizes(
    params: MixedSizesParams, detector: str, *, least: int, most: int
) -> None:
    """Refuse impossible sizes; for `__post_init__` of settings with a `detect_size`.

    Args:
        params: The settings.
        detector: The detector's name.
        least: The smallest size in pixels that its network takes.
        most: The largest one.

    Raises:
        ConfigError: naming the setting.
    """
    default = {field.name: field.default for field in dataclasses.fields(params)}["detect_size"]
    size = getattr(params, "detect_size")  # noqa: B009 - of the class that inherits
    sizes = params.detect_sizes
    require(
        least <= size <= most,
        f"{detector}.detect_size: expected {least} to {most} pixels, got {size}",
    )
    require(
        all(least <= one <= most for one in sizes) and len(set(sizes)) == len(sizes),
        f"{detector}.detect_sizes: expected different sizes of {least} to {most} pixels, got "
        f"{', '.join(map(str, sizes))}",
    )
    require(
        not sizes or size == default,
        f"{detector}.detect_size: expected to be left out with {detector}.detect_sizes, which take "
        f"its place, got {size}",
    )
    require(params.seed >= 0, f"{detector}.seed: expected at least 0, got {params.seed}")
