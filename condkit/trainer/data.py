"""Samples for training: which crop, mirrored or not, which caption; and batches of them.

Every decision follows from (seed, sample key, use), so the n-th batch of a run is the same whether
the run was resumed or not, and however many threads prepare it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from condkit import geometry
from condkit.errors import DatasetError, TrainingError
from condkit.geometry import How, Size
from condkit.trainer import noise
from condkit.trainer.buckets import Shape, ShapeRule
from condkit.trainer.config import DataConfig
from condkit.trainer.flips import Flipper
from condkit.trainer.mixing import Place
from condkit.trainer.provenance import Origin, TimeIds, origin_from_facts, whole_picture
from condkit.types import ConditionSpec, MapPixels, RgbImage

if TYPE_CHECKING:
    import torch

Box = tuple[int, int, int, int]
"""Top, left, height, width in pixels."""

HIDDEN = -1.0
"""The hint value of pixels that a map's mask hides; outside of [0, 1], so no colour is like it."""


class PairedRow(Protocol):
    """One pair of a dataset; `condkit.datasets.reader.Row` is one.

    A row may also have `captions` (all of them), `facts` and `data` (the dataset's other columns).
    """

    @property
    def key(self) -> str:
        """Hash of the content, unique in the dataset."""

    @property
    def image(self) -> RgbImage:
        """The picture."""

    @property
    def text(self) -> str:
        """The caption; the first of several."""

    @property
    def maps(self) -> Mapping[str, MapPixels]:
        """Condition maps by name, of the picture's size."""


class PairedRows(Protocol):
    """A split of a dataset."""

    def __len__(self) -> int:
        """How many rows there are."""

    def __getitem__(self, index: int) -> PairedRow:
        """The row at `index`; several threads may ask at once."""


class Feed(Protocol):
    """The samples of one dataset one after the other, epoch after epoch."""

    def at(self, position: int) -> tuple[PairedRow, int]:
        """The row at a position, and how often it was used before; many threads may ask at once."""


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
            pixels=None if moments is not None else self.picture(row, cut, own),
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

    def picture(self, row: PairedRow, cut: Cut, hw: Size) -> NDArray[np.float32]:
        """A cut's picture as the VAE takes it.

        Args:
            row: The row.
            cut: The cut.
            hw: Height and width of the row's map.

        Raises:
            DatasetError: if the picture has another size.
        """
        image = row.image
        if image.shape[:2] != hw:
            raise DatasetError(
                f"row {row.key}: its picture has height and width {image.shape[:2]} and its "
                f"{self.spec.name!r} map {hw}; they must be equal, build it again"
            )
        return pixels_from_image(_piece(image[:, ::-1] if cut.flipped else image, cut, "image"))

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


def captions_of(row: PairedRow) -> tuple[str, ...]:
    """All captions of a row; at least one."""
    return tuple(getattr(row, "captions", ()) or ()) or (row.text,)


def facts_of(row: PairedRow) -> Mapping[str, Any]:
    """What the dataset knows of a row; empty where it says nothing."""
    return getattr(row, "facts", None) or {}


def _origin(row: PairedRow, hw: Size, scaled_hw: Size) -> Origin:
    origin = origin_from_facts(facts_of(row), hw, row.key)
    return origin.scaled((scaled_hw[0] / hw[0], scaled_hw[1] / hw[1]))


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


def _piece(pixels: NDArray[Any], cut: Cut, how: How) -> NDArray[Any]:
    """Resize and crop pixels that are mirrored already where the cut is."""
    top, left, height, width = cut.box
    if pixels.shape[:2] != cut.scaled_hw:
        pixels = geometry.resize(pixels, cut.scaled_hw, how)
    if cut.flipped:
        left = cut.scaled_hw[1] - left - width
    return pixels[top : top + height, left : left + width]


@dataclass(frozen=True, slots=True)
class BatchLoader:
    """Micro-batches in order, some of them prepared ahead.

    Attributes:
        feeds: The datasets.
        sampler: Which samples come when.
        makers: Row to example, one for each dataset.
        prefetch: Batches prepared ahead in threads; 0 prepares each one when it is asked for.
        workers: How many threads.
    """

    feeds: Sequence[Feed]
    sampler: Callable[[int], list[Place]]
    makers: Sequence[ExampleMaker]
    prefetch: int
    workers: int = 2

    def batch(self, cursor: int) -> list[Example]:
        """Micro-batch number `cursor`.

        Raises:
            TrainingError: if its crops differ in size.
        """
        return self._made(self.sampler(cursor))

    def batches(self, start: int, stop: int) -> Generator[list[Example], None, None]:
        """Micro-batches `start` to `stop` - 1; an error in one is raised at its turn."""
        cursors = range(start, stop)
        if self.prefetch == 0:
            yield from map(self.batch, cursors)
            return
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="condkit-batch")
        try:
            ahead: deque[Future[list[Example]]] = deque()
            for cursor in cursors:
                # The sampler is asked here, in order, and not by the threads.
                ahead.append(pool.submit(self._made, self.sampler(cursor)))
                if len(ahead) > self.prefetch:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _made(self, places: Sequence[Place]) -> list[Example]:
        examples = [self._example(place) for place in places]
        sizes = {example.size_hw: example.key for example in examples}
        if len(sizes) > 1:
            (one, key), (other, other_key), *_ = sizes.items()
            raise TrainingError(
                f"the pictures differ in size: {one} in row {key}, {other} in row {other_key}; "
                "set data.resolution so that all crops are equal, or data.buckets=native so that "
                "those of a batch are"
            )
        return examples

    def _example(self, place: Place) -> Example:
        row, use = self.feeds[place.dataset].at(place.position)
        return self.makers[place.dataset](row, use)
