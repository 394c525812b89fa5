"""From a row to a sample: which crop, mirrored or not, which caption.

Every decision follows from (seed, sample key, use), so a sample is the same whether the run was
resumed or not, and whoever else is in its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from condkit import geometry
from condkit.errors import DatasetError, TrainingError
from condkit.geometry import How, Size
from condkit.trainer import noise
from condkit.trainer.buckets import Shape, ShapeRule
from condkit.trainer.data import Box, Cut, Example, hint_from_map, pixels_from_image
from condkit.trainer.data_config import DataConfig
from condkit.trainer.flips import Flipper
from condkit.trainer.provenance import Origin, origin_from_facts
from condkit.trainer.rows import PairedRow, captions_of, facts_of
from condkit.types import ConditionSpec, MapPixels

if TYPE_CHECKING:
    import torch

Remembered = Callable[[PairedRow, Cut], "torch.Tensor | None"]
"""From a row's cut to the VAE's moments, where they are known."""


@dataclass(frozen=True, slots=True)
class ExampleMaker:
    """Cuts, flips and converts rows.

    Attributes:
        spec: The condition that is trained.
        data: Crop, flip and caption settings.
        seed: The run's seed.
        unit: Crop sides are multiples of this many pixels.
        variants: How many crops and flips a row has; None makes a new one at each use.
        dataset: The dataset's name in the content of cuts.
        flipper: Mirrors maps; None mirrors as the spec alone says.
        latents: Where the moments of cuts are known from.
    """

    spec: ConditionSpec
    data: DataConfig
    seed: int
    unit: int
    variants: int | None = None
    dataset: str = ""
    flipper: Flipper | None = None
    latents: Remembered | None = None

    def __post_init__(self) -> None:
        ShapeRule(self.data, self.unit)
        if self.data.flip > 0:
            Flipper(self.spec).check()

    def __call__(self, row: PairedRow, use: int) -> Example:
        """Make the example of one use of a row.

        Raises:
            DatasetError: if the row lacks the map, or map and picture differ in size.
            TrainingError: if the picture is smaller than the crop.
        """
        pixels = self._map_of(row)
        cut, pixels, repeats = self._decide(row, pixels, use)
        hint = _piece(pixels, cut, self.spec.resample)
        moments = self.latents(row, cut) if self.latents is not None else None
        own = (pixels.shape[0], pixels.shape[1])
        return Example(
            key=row.key,
            use=use,
            caption=self._caption(row, use),
            pixels=None if moments is not None else self.pictures(row, [cut], own)[0],
            hint=hint_from_map(hint),
            picture_hw=cut.scaled_hw,
            box=cut.box,
            flipped=cut.flipped,
            crop_repeats=repeats,
            origin=_origin(row, own, cut.scaled_hw),
            moments=moments,
            content=cut.content,
        )

    def cuts(self, row: PairedRow) -> list[Cut]:
        """All cuts that the uses of a row can have.

        Raises:
            TrainingError: if each use has another one.
        """
        hw = self.size_of(row)
        found: dict[Cut, None] = {}
        for turn in range(self.variants or 1):
            cut, repeats = self._cut(row, hw, turn)
            if not repeats:
                raise TrainingError(
                    f"row {row.key} has height and width {hw}, larger than its crop: data.crop="
                    "random cuts it anew at each use, which cache.latents cannot hold; set "
                    "cache.variants=4 or so, or data.crop=center"
                )
            flips = (cut.flipped,) if self.variants else self._possible_flips()
            found |= dict.fromkeys(replace(cut, flipped=f and self._can_flip(row)) for f in flips)
        return list(found)

    def _possible_flips(self) -> tuple[bool, ...]:
        return {0.0: (False,), 1.0: (True,)}.get(self.data.flip, (False, True))

    def _can_flip(self, row: PairedRow) -> bool:
        if self.spec.flip != "mirror-swap-left-right":
            return True
        return self._mirrored(row, self._map_of(row)) is not None

    def size_of(self, row: PairedRow) -> Size:
        """Height and width of a row's picture, without decoding more than need be."""
        facts = facts_of(row)
        if facts.get("height") and facts.get("width"):
            return int(facts["height"]), int(facts["width"])
        height, width = self._map_of(row).shape[:2]
        return int(height), int(width)

    def pictures(self, row: PairedRow, cuts: Sequence[Cut], hw: Size) -> list[NDArray[np.float32]]:
        """Cuts of a row as the VAE takes them; its picture is decoded once, or not at all.

        Args:
            row: The row.
            cuts: The cuts.
            hw: Height and width of the row's map.

        Raises:
            DatasetError: if the picture has another size.
        """
        if not cuts:
            return []
        image = row.image
        if image.shape[:2] != hw:
            raise DatasetError(
                f"row {row.key}: its picture has height and width {image.shape[:2]} and its "
                f"{self.spec.name!r} map {hw}; they must be equal, build it again"
            )
        return [
            pixels_from_image(_piece(image[:, ::-1] if cut.flipped else image, cut, "image"))
            for cut in cuts
        ]

    def _decide(self, row: PairedRow, pixels: MapPixels, use: int) -> tuple[Cut, MapPixels, bool]:
        """The cut of a use, the map (mirrored with it), and whether the cut comes again."""
        turn = use if self.variants is None else use % self.variants
        cut, repeats = self._cut(row, (int(pixels.shape[0]), int(pixels.shape[1])), turn)
        if cut.flipped:
            mirrored = self._mirrored(row, pixels)
            cut = replace(cut, flipped=mirrored is not None)
            pixels = pixels if mirrored is None else mirrored
        return cut, pixels, repeats

    def _cut(self, row: PairedRow, hw: Size, turn: int) -> tuple[Cut, bool]:
        """The cut of a turn, flipped if the draw says so, and whether later ones have its crop."""
        shape = ShapeRule(self.data, self.unit)(hw, row.key)
        box, repeats = self._crop(shape, row.key, turn)
        flipped = noise.happens(self.seed, "flip", row.key, turn, self.data.flip)
        content = f"{self.dataset}:{row.key}" if self.dataset else row.key
        cut = Cut(content, shape.scaled_hw, box, flipped)
        return cut, repeats or self.variants is not None

    def _mirrored(self, row: PairedRow, pixels: MapPixels) -> MapPixels | None:
        flipper = self.flipper or Flipper(self.spec)
        return flipper(pixels, row.key, facts_of(row), getattr(row, "data", None) or {})

    def _caption(self, row: PairedRow, use: int) -> str:
        if noise.happens(self.seed, "caption", row.key, use, self.data.caption_dropout):
            return ""
        captions = captions_of(row)
        if len(captions) == 1:
            return captions[0]
        choice = noise.generator(self.seed, "caption-choice", row.key, use).integers(len(captions))
        return captions[int(choice)]

    def _map_of(self, row: PairedRow) -> MapPixels:
        pixels = row.maps.get(self.spec.name)
        if pixels is None:
            raise DatasetError(f"row {row.key}: there is no map {self.spec.name!r} in it")
        return pixels

    def _crop(self, shape: Shape, key: str, turn: int) -> tuple[Box, bool]:
        height, width = shape.crop_hw
        room_y, room_x = shape.scaled_hw[0] - height, shape.scaled_hw[1] - width
        if self.data.crop == "center" or (room_y == 0 and room_x == 0):
            return (room_y // 2, room_x // 2, height, width), True
        draw = noise.generator(self.seed, "crop", key, turn)
        top, left = int(draw.integers(room_y + 1)), int(draw.integers(room_x + 1))
        return (top, left, height, width), False


def _origin(row: PairedRow, hw: Size, scaled_hw: Size) -> Origin:
    origin = origin_from_facts(facts_of(row), hw, row.key)
    return origin.scaled((scaled_hw[0] / hw[0], scaled_hw[1] / hw[1]))


def _piece(pixels: NDArray[Any], cut: Cut, how: How) -> NDArray[Any]:
    """Resize and crop pixels that are mirrored already where the cut is."""
    top, left, height, width = cut.box
    if pixels.shape[:2] != cut.scaled_hw:
        pixels = geometry.resize(pixels, cut.scaled_hw, how)
    if cut.flipped:
        left = cut.scaled_hw[1] - left - width
    return pixels[top : top + height, left : left + width]
