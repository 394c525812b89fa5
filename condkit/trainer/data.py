"""Batches for training: which samples, which crop, which caption.

Every decision follows from (seed, sample key, use), so the n-th batch of a run is the same whether
the run was resumed or not, and however many threads prepare it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from condkit.errors import DatasetError, TrainingError
from condkit.trainer import noise
from condkit.trainer.config import DataConfig
from condkit.types import ConditionSpec, MapPixels, RgbImage

Box = tuple[int, int, int, int]
"""Top, left, height, width in pixels."""

HIDDEN = -1.0
"""The hint value of pixels that a map's mask hides; outside of [0, 1], so no colour is like it."""

_WORKERS = 2


class PairedRow(Protocol):
    """One pair of a dataset; `condkit.datasets.reader.Row` is one."""

    @property
    def key(self) -> str:
        """Hash of the content, unique in the dataset."""

    @property
    def image(self) -> RgbImage:
        """The picture."""

    @property
    def text(self) -> str:
        """The caption."""

    @property
    def maps(self) -> Mapping[str, MapPixels]:
        """Condition maps by name, of the picture's size."""


class PairedRows(Protocol):
    """A split of a dataset."""

    def __len__(self) -> int:
        """How many rows there are."""

    def __getitem__(self, index: int) -> PairedRow:
        """The row at `index`, decoded; several threads may ask at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One sample, ready for the model.

    Attributes:
        key: The row's key.
        use: How often the row was used before in this run.
        caption: The caption, or the empty string where it was dropped.
        pixels: (3, h, w) float32 in [-1, 1].
        hint: (3, h, w) float32 in [0, 1], RGB; `HIDDEN` where the map's mask hides the picture.
        picture_hw: Height and width of the row's picture, before the crop.
        box: Where the crop lay in the unflipped picture.
        flipped: Whether picture and map were mirrored after the crop.
        crop_repeats: Whether every use of the row has this crop.
    """

    key: str
    use: int
    caption: str
    pixels: NDArray[np.float32]
    hint: NDArray[np.float32]
    picture_hw: tuple[int, int]
    box: Box
    flipped: bool
    crop_repeats: bool

    @property
    def time_ids(self) -> tuple[int, int, int, int, int, int]:
        """SDXL's size conditions: height and width before the crop, its top and left, its size.

        Source: arXiv 2307.01952, section 2.2. A flipped sample counts as a crop of the flipped
        picture.
        """
        top, left, height, width = self.box
        if self.flipped:
            left = self.picture_hw[1] - left - width
        return (*self.picture_hw, top, left, height, width)


@dataclass(frozen=True, slots=True)
class ExampleMaker:
    """Cuts, flips and converts rows.

    Attributes:
        spec: The condition that is trained.
        data: Crop, flip and caption settings.
        seed: The run's seed.
        unit: Crop sides are multiples of this many pixels.
    """

    spec: ConditionSpec
    data: DataConfig
    seed: int
    unit: int

    def __post_init__(self) -> None:
        resolution = self.data.resolution
        if resolution is not None and resolution % self.unit:
            down = max(self.unit, resolution // self.unit * self.unit)
            up = resolution // self.unit * self.unit + self.unit
            raise TrainingError(
                f"data.resolution={resolution}: this base model needs sides that are multiples of "
                f"{self.unit} pixels; use {down} or {up}"
            )
        if self.data.flip > 0 and self.spec.flip != "mirror":
            raise TrainingError(
                f"data.flip={self.data.flip}: maps of {self.spec.name!r} cannot simply be mirrored "
                f"({self.spec.flip}); set data.flip=0"
            )

    def __call__(self, row: PairedRow, use: int) -> Example:
        """Make the example of one use of a row.

        Raises:
            DatasetError: if the row lacks the map, or map and picture differ in size.
            TrainingError: if the picture is smaller than the crop.
        """
        image, pixels = row.image, self._map_of(row)
        box, repeats = self._crop(image.shape[:2], row.key, use)
        flipped = noise.happens(self.seed, "flip", row.key, use, self.data.flip)
        drop = noise.happens(self.seed, "caption", row.key, use, self.data.caption_dropout)
        return Example(
            key=row.key,
            use=use,
            caption="" if drop else row.text,
            pixels=pixels_from_image(_cut(image, box, flipped)),
            hint=hint_from_map(_cut(pixels, box, flipped)),
            picture_hw=(image.shape[0], image.shape[1]),
            box=box,
            flipped=flipped,
            crop_repeats=repeats,
        )

    def _map_of(self, row: PairedRow) -> MapPixels:
        pixels = row.maps.get(self.spec.name)
        if pixels is None:
            raise DatasetError(f"row {row.key}: there is no map {self.spec.name!r} in it")
        if pixels.shape[:2] != row.image.shape[:2]:
            raise DatasetError(
                f"row {row.key}: its picture has height and width {row.image.shape[:2]} and its "
                f"{self.spec.name!r} map {pixels.shape[:2]}; they must be equal, build it again"
            )
        return pixels

    def _crop(self, size_hw: tuple[int, int], key: str, use: int) -> tuple[Box, bool]:
        height, width = self._crop_hw(size_hw, key)
        room_y, room_x = size_hw[0] - height, size_hw[1] - width
        if self.data.crop == "center" or (room_y == 0 and room_x == 0):
            return (room_y // 2, room_x // 2, height, width), True
        draw = noise.generator(self.seed, "crop", key, use)
        top, left = int(draw.integers(room_y + 1)), int(draw.integers(room_x + 1))
        return (top, left, height, width), False

    def _crop_hw(self, size_hw: tuple[int, int], key: str) -> tuple[int, int]:
        wanted = self.data.resolution or self.unit
        if min(size_hw) < wanted:
            raise TrainingError(
                f"row {key} has height and width {size_hw}, smaller than the crop of {wanted} "
                f"pixels; lower data.resolution or build the dataset with --size {wanted} or more"
            )
        if self.data.resolution is not None:
            return self.data.resolution, self.data.resolution
        return size_hw[0] // self.unit * self.unit, size_hw[1] // self.unit * self.unit


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


def _cut(pixels: NDArray[Any], box: Box, flipped: bool) -> NDArray[Any]:
    top, left, height, width = box
    cut = pixels[top : top + height, left : left + width]
    return cut[:, ::-1] if flipped else cut


@dataclass(frozen=True, slots=True)
class Sampler:
    """Which rows the n-th micro-batch of a run holds.

    Epochs follow each other without a gap, each in its own order, so every row is used once per
    epoch and no batch is short.

    Attributes:
        count: Rows in the split.
        batch_size: Rows per micro-batch.
        seed: The run's seed.
    """

    count: int
    batch_size: int
    seed: int

    def __call__(self, cursor: int) -> list[tuple[int, int]]:
        """(row index, use) for each place of micro-batch number `cursor`."""
        places = range(cursor * self.batch_size, (cursor + 1) * self.batch_size)
        orders = {
            epoch: noise.permutation(self.seed, epoch, self.count)
            for epoch in range(places[0] // self.count, places[-1] // self.count + 1)
        }
        return [
            (int(orders[place // self.count][place % self.count]), place // self.count)
            for place in places
        ]


@dataclass(frozen=True, slots=True)
class BatchLoader:
    """Micro-batches in order, some of them prepared ahead.

    Attributes:
        rows: The training split.
        sampler: Which rows come when.
        make: Row to example.
        prefetch: Batches prepared ahead in threads; 0 prepares each one when it is asked for.
    """

    rows: PairedRows
    sampler: Sampler
    make: ExampleMaker
    prefetch: int

    def batch(self, cursor: int) -> list[Example]:
        """Micro-batch number `cursor`.

        Raises:
            TrainingError: if its crops differ in size.
        """
        examples = [self.make(self.rows[index], use) for index, use in self.sampler(cursor)]
        sizes = {example.pixels.shape[1:]: example.key for example in examples}
        if len(sizes) > 1:
            (one, key), (other, other_key), *_ = sizes.items()
            raise TrainingError(
                f"the pictures differ in size: {one} in row {key}, {other} in row {other_key}; "
                "set data.resolution so that all crops are equal"
            )
        return examples

    def batches(self, start: int, stop: int) -> Generator[list[Example], None, None]:
        """Micro-batches `start` to `stop` - 1; an error in one is raised at its turn."""
        if self.prefetch == 0:
            yield from map(self.batch, range(start, stop))
            return
        pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="condkit-batch")
        try:
            ahead: deque[Future[list[Example]]] = deque()
            for cursor in range(start, stop):
                ahead.append(pool.submit(self.batch, cursor))
                if len(ahead) > self.prefetch:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
