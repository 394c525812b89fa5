"""The datasets of a run together: opened, checked against each other, made into batches."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from condkit.errors import ConfigError, TrainingError
from condkit.trainer.batches import BatchLoader
from condkit.trainer.buckets import BucketSampler, BucketShapes, ShapeRule, shapes_of
from condkit.trainer.condkit_data import is_condkit_dataset, open_condkit, sizes_of
from condkit.trainer.config import TrainConfig
from condkit.trainer.data_config import SourceConfig
from condkit.trainer.examples import ExampleMaker, Remembered
from condkit.trainer.hf_data import open_hub
from condkit.trainer.mixing import Order, Place, Sampler
from condkit.trainer.rows import PairedRows
from condkit.trainer.sources import DataSource, RowsFeed
from condkit.types import ConditionSpec

logger = logging.getLogger(__name__)

Batches = Callable[[int], list[Place]]
"""From a micro-batch's number to its samples."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """All datasets of a run.

    Attributes:
        sources: The main one first.
    """

    sources: tuple[DataSource, ...]

    @property
    def spec(self) -> ConditionSpec:
        """What the maps mean."""
        return self.sources[0].spec

    @property
    def preview_rows(self) -> PairedRows:
        """Rows for pictures during training."""
        return self.sources[0].preview_rows

    @property
    def rows(self) -> int:
        """Training rows of all datasets that are not streamed."""
        return sum(len(source.rows) for source in self.sources if source.rows is not None)

    @property
    def fingerprint(self) -> str:
        """Hash of what all datasets hold."""
        if len(self.sources) == 1:
            return self.sources[0].fingerprint
        parts = [f"{source.fingerprint} {source.weight}" for source in self.sources]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def open_training_data(
    config: TrainConfig, data: Path | str, *, offline: bool = False
) -> TrainingData:
    """Open the main dataset and those of `data.mix`.

    Args:
        config: The settings.
        data: The main dataset: a folder or a hub id.
        offline: Take hub files from the local cache alone.

    Raises:
        DatasetError: if one cannot be used.
        UnknownNameError: if one lacks the condition, the split or a column.
        TrainingError: if their maps mean different things.
    """
    opened = [_open(config, str(data), config.data.main, "", offline)]
    for place, source in enumerate(config.data.mix or (), start=1):
        opened.append(_open(config, source.path, source, f"mix-{place}", offline))
    for other in opened[1:]:
        _check_alike(opened[0], other)
    return TrainingData(tuple(opened))


def _open(
    config: TrainConfig, path: str, source: SourceConfig, name: str, offline: bool
) -> DataSource:
    if is_condkit_dataset(Path(path)):
        if source.streaming:
            raise ConfigError(
                f"data.streaming: expected false for {path}, which condkit build made: its rows "
                "are read by number, one at a time"
            )
        return open_condkit(Path(path), source, config.condition, config.run.seed, name)
    return open_hub(path, source, config, name=name, offline=offline)


def _check_alike(one: DataSource, other: DataSource) -> None:
    first, second = one.spec.as_dict(), other.spec.as_dict()
    different = [key for key, value in first.items() if value != second[key]]
    if different == ["meaning"] and one.spec.flip != "mirror-normal-x":
        # Several protocols in one model, as ControlNet 1.1 has learnt segmentation.
        logger.warning(
            "the %r maps of %s and %s mean different things: %s; %s",
            one.spec.name,
            one.name,
            other.name,
            first["meaning"],
            second["meaning"],
        )
    elif different:
        raise TrainingError(
            f"the {one.spec.name!r} maps of {one.name} and {other.name} are of different kinds: "
            + "; ".join(f"{key}: {first[key]!r} and {second[key]!r}" for key in different)
            + "; build one of them again, or leave it out of data.mix"
        )


def new_loader(
    data: TrainingData,
    config: TrainConfig,
    unit: int,
    *,
    latents: Remembered | None = None,
    shared: Callable[[Batches], Batches] = lambda batches: batches,
) -> BatchLoader:
    """The batches of a run.

    Args:
        data: The datasets.
        config: The settings.
        unit: The base model's sides are multiples of this many pixels.
        latents: Where the moments of cuts are known from.
        shared: Leaves this rank its part of all micro-batches.

    Raises:
        TrainingError: if the settings do not fit the data or the base.
    """
    return BatchLoader(
        [source.feed for source in data.sources],
        shared(new_sampler(data, config, unit)),
        new_makers(data, config, unit, latents=latents),
        config.data.prefetch,
        config.data.workers,
    )


def new_makers(
    data: TrainingData, config: TrainConfig, unit: int, *, latents: Remembered | None = None
) -> list[ExampleMaker]:
    """What makes samples of the rows of each dataset."""
    several = len(data.sources) > 1
    return [
        ExampleMaker(
            source.spec,
            config.data,
            config.run.seed,
            unit,
            variants=config.cache.variants,
            dataset=source.fingerprint[:16] if several else "",
            flipper=source.flipper,
            latents=latents,
        )
        for source in data.sources
    ]


def new_sampler(data: TrainingData, config: TrainConfig, unit: int) -> Batches:
    """Which samples each micro-batch of the whole run holds."""
    order = Order(tuple(source.weight for source in data.sources), config.run.seed)
    if config.data.buckets == "none":
        return Sampler(order, config.data.batch_size)
    shapes = row_shapes(data, config, unit)
    feeds = [source.feed for source in data.sources]

    def number_of(place: Place) -> int:
        feed = feeds[place.dataset]
        if not isinstance(feed, RowsFeed):
            raise TypeError(f"shapes of {data.sources[place.dataset].name} are not known")
        return int(shapes.numbers[place.dataset][feed.place(place.position)[0]])

    return BucketSampler(order, config.data.batch_size, number_of)


def row_shapes(data: TrainingData, config: TrainConfig, unit: int) -> BucketShapes:
    """The crop's shape of every row of datasets that are not streamed."""
    everything = [source.rows for source in data.sources if source.rows is not None]
    sizes = [sizes_of(rows) for rows in everything]
    rule = ShapeRule(config.data, unit)
    return shapes_of(rule, sizes, lambda dataset, row: everything[dataset][row].key)
