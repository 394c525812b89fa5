"""Which shape each picture is cut to, and batches of one shape.

The rows of a shape form an endless stream, epoch after epoch; a batch is the next `batch_size` of
one stream. So every row comes once per epoch, and what is left over at the end of an epoch begins
the next one's batches: nothing is lost and nothing repeated. The order follows from the seed
alone, never from the number of ranks or threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from condkit.buckets import BUCKET_TABLES, nearest_bucket
from condkit.errors import TrainingError
from condkit.geometry import Size
from condkit.trainer.data_config import DataConfig
from condkit.trainer.mixing import Order, Place


@dataclass(frozen=True, slots=True)
class Shape:
    """What becomes of a picture's size.

    Attributes:
        scaled_hw: Height and width after resizing; the picture's own where nothing is resized.
        crop_hw: Height and width of the crop.
    """

    scaled_hw: Size
    crop_hw: Size


@dataclass(frozen=True, slots=True)
class ShapeRule:
    """From a picture's size to its shape.

    Attributes:
        data: Resolution, resizing and buckets.
        unit: The base model's sides are multiples of this many pixels.
    """

    data: DataConfig
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
        if self.table and not self._fitting():
            raise TrainingError(
                f"data.buckets={self.data.buckets}: none of its sizes is a multiple of the "
                f"{self.unit} pixels that this base model needs; use data.buckets=native"
            )

    @property
    def table(self) -> tuple[Size, ...]:
        """The sizes of the bucket table; empty where there is none."""
        return BUCKET_TABLES.get(self.data.buckets, ())

    def _fitting(self) -> tuple[Size, ...]:
        return tuple(hw for hw in self.table if hw[0] % self.unit == 0 == hw[1] % self.unit)

    def __call__(self, hw: Size, key: str) -> Shape:
        """The shape of one picture.

        Args:
            hw: Its height and width.
            key: The row's key, for messages.

        Raises:
            TrainingError: if the picture is smaller than every crop that it could have.
        """
        if self.data.resize == "cover":
            crop = self._target(hw)
            return Shape(_covering(hw, crop), crop)
        if self.table:
            return Shape(hw, self._largest_inside(hw, key))
        return Shape(hw, self._cut(hw, key))

    def _target(self, hw: Size) -> Size:
        if self.data.resolution is not None:
            return self.data.resolution, self.data.resolution
        return nearest_bucket(hw, self._fitting())

    def _largest_inside(self, hw: Size, key: str) -> Size:
        """The bucket that keeps most of the picture without resampling it."""
        inside = [b for b in self._fitting() if b[0] <= hw[0] and b[1] <= hw[1]]
        if not inside:
            raise TrainingError(
                f"row {key} has height and width {hw}, smaller than every size of data.buckets="
                f"{self.data.buckets}; set data.resize=cover, or build the dataset with "
                "--fit bucket"
            )
        most = max(height * width for height, width in inside)
        return nearest_bucket(hw, tuple(b for b in inside if b[0] * b[1] == most))

    def _cut(self, hw: Size, key: str) -> Size:
        native = self.data.buckets == "native"
        multiple = math.lcm(self.unit, self.data.bucket_multiple) if native else self.unit
        wanted = self.data.resolution or multiple
        if min(hw) < wanted:
            advice = (
                "set data.resize=cover, lower data.resolution"
                if self.data.resolution
                else "lower data.bucket_multiple"
            )
            raise TrainingError(
                f"row {key} has height and width {hw}, smaller than the crop of {wanted} "
                f"pixels; {advice} or build the dataset with --size {wanted} or more"
            )
        if self.data.resolution is not None:
            return self.data.resolution, self.data.resolution
        return hw[0] // multiple * multiple, hw[1] // multiple * multiple


def _covering(hw: Size, crop: Size) -> Size:
    """The smallest size of the picture's aspect that holds the crop, rounded to whole pixels."""
    scale = max(crop[0] / hw[0], crop[1] / hw[1])
    return max(crop[0], round(hw[0] * scale)), max(crop[1], round(hw[1] * scale))


@dataclass(frozen=True, slots=True)
class BucketShapes:
    """The crop's shape of every row, as numbers.

    Attributes:
        sizes: The shapes that there are, sorted; a number is a place in it.
        numbers: Per dataset, (rows,) int32.
    """

    sizes: tuple[Size, ...]
    numbers: tuple[NDArray[np.int32], ...]


def shapes_of(
    rule: ShapeRule,
    sizes: Sequence[NDArray[np.int64]],
    key_of: Callable[[int, int], str] = lambda dataset, row: f"number {row} of dataset {dataset}",
) -> BucketShapes:
    """Give each row of some datasets its shape.

    Args:
        rule: From size to shape.
        sizes: Per dataset, (rows, 2) heights and widths.
        key_of: The name of a row, for messages.

    Raises:
        TrainingError: if a picture is too small; it names the first one.
    """
    crops: list[NDArray[np.int64]] = []
    for dataset, own in enumerate(sizes):
        kinds, first, kind_of = np.unique(own, axis=0, return_index=True, return_inverse=True)
        shapes = [
            rule((int(h), int(w)), key_of(dataset, int(row))).crop_hw
            for (h, w), row in zip(kinds, first, strict=True)
        ]
        crops.append(np.asarray(shapes, np.int64).reshape(-1, 2)[kind_of.reshape(-1)])
    known = sorted({(int(h), int(w)) for own in crops for h, w in np.unique(own, axis=0)})
    place = {shape: number for number, shape in enumerate(known)}
    numbers = tuple(
        np.fromiter((place[int(h), int(w)] for h, w in own), np.int32, len(own)) for own in crops
    )
    return BucketShapes(tuple(known), numbers)


@dataclass(slots=True)
class BucketSampler:
    """Which samples the n-th micro-batch of a run holds, all of one shape.

    The samples come in the order of `order`; each joins its shape's batch, and a batch is given
    out when it is full. Asking for later batches goes on from where the last question ended; an
    earlier one begins anew.

    Attributes:
        order: The samples one after the other.
        batch_size: Samples per micro-batch.
        number_of: The shape's number of a sample.
    """

    order: Order
    batch_size: int
    number_of: Callable[[Place], int]
    _batches: Iterator[list[Place]] | None = field(default=None, init=False)
    _next: int = field(default=0, init=False)
    _last: list[Place] = field(default_factory=list, init=False)

    def __call__(self, cursor: int) -> list[Place]:
        """The samples of micro-batch number `cursor`."""
        if self._batches is None or cursor < self._next - 1:
            self._batches, self._next = self._walk(), 0
        while self._next <= cursor:
            self._last = next(self._batches)
            self._next += 1
        return self._last

    def _walk(self) -> Iterator[list[Place]]:
        waiting: dict[int, list[Place]] = {}
        for place in self.order.from_start():
            number = self.number_of(place)
            batch = waiting.setdefault(number, [])
            batch.append(place)
            if len(batch) == self.batch_size:
                yield waiting.pop(number)
