"""Samples for training, and how pictures and maps become their numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from condkit.errors import TrainingError
from condkit.geometry import Size
from condkit.trainer.provenance import Origin, TimeIds, whole_picture
from condkit.types import MapPixels, RgbImage

if TYPE_CHECKING:
    import torch

Box = tuple[int, int, int, int]
"""Top, left, height, width in pixels."""

HIDDEN = -1.0
"""The hint value of pixels that a map's mask hides; outside of [0, 1], so no colour is like it."""


@dataclass(frozen=True, slots=True)
class Cut:
    """All that decides which pixels of a row's picture a sample shows.

    Attributes:
        content: Dataset and row.
        scaled_hw: The picture's height and width after resizing.
        box: The crop in it, unflipped.
        flipped: Whether it was mirrored.
    """

    content: str
    scaled_hw: Size
    box: Box
    flipped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One sample, ready for the model.

    Attributes:
        key: The row's key.
        use: How often the row was used before in this run.
        caption: The caption, or the empty string where it was dropped.
        pixels: (3, h, w) float32 in [-1, 1]; None where the latents are known.
        hint: (3, h, w) float32 in [0, 1], RGB; `HIDDEN` where the map's mask hides the picture.
        picture_hw: Height and width of the row's picture (after resizing), before the crop.
        box: Where the crop lay in the unflipped picture.
        flipped: Whether picture and map were mirrored.
        crop_repeats: Whether later uses of the row have this crop again.
        origin: Where the picture lies in its original; None where it is its own.
        moments: (2C, h', w') mean and deviation of the VAE, from the cache on disk, or None.
        content: Dataset and row; the key alone where there is one dataset.
    """

    key: str
    use: int
    caption: str
    pixels: NDArray[np.float32] | None
    hint: NDArray[np.float32]
    picture_hw: tuple[int, int]
    box: Box
    flipped: bool
    crop_repeats: bool
    origin: Origin | None = None
    moments: torch.Tensor | None = None
    content: str = ""

    @property
    def size_hw(self) -> Size:
        """Height and width of the sample in pixels."""
        return int(self.hint.shape[1]), int(self.hint.shape[2])

    @property
    def picture(self) -> NDArray[np.float32]:
        """The pixels, of a sample that has them.

        Raises:
            TrainingError: if it has latents alone.
        """
        if self.pixels is None:
            raise TrainingError(f"row {self.key}: its pixels were left out for its latents")
        return self.pixels

    @property
    def time_ids(self) -> TimeIds:
        """SDXL's size conditions: the original's height and width, the crop's place and size.

        Source: arXiv 2307.01952, section 2.2. A flipped sample counts as a crop of the flipped
        original.
        """
        origin = self.origin or whole_picture(self.picture_hw)
        return origin.time_ids(self.box, flipped=self.flipped)

    @property
    def cut(self) -> Cut:
        """What the encoding of its picture depends on."""
        return Cut(self.content or self.key, self.picture_hw, self.box, self.flipped)


def pixels_from_image(image: RgbImage) -> NDArray[np.float32]:
    """A picture as the VAE takes it: (3, H, W) float32 in [-1, 1]."""
    return np.ascontiguousarray(image.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1.0)


def hint_from_map(pixels: MapPixels) -> NDArray[np.float32]:
    """A condition map as a ControlNet takes it: (3, H, W) float32 RGB in [0, 1].

    Grey maps are repeated. What a map's mask hides (0 in its fourth channel) is `HIDDEN` in all
    three channels. Source: tutorial_dataset.py of lllyasviel/ControlNet, gradio_inpaint.py of its
    1.1, and diffusers' StableDiffusionControlNetPipeline (`do_normalize=False`).
    """
    rgb = pixels[:, :, :3] if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)
    unit = rgb.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    if pixels.shape[2:] == (4,):
        unit[pixels[:, :, 3] == 0] = HIDDEN
    return np.ascontiguousarray(unit.transpose(2, 0, 1))
