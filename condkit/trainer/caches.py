"""Filling the caches of a run before its first step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from condkit.errors import ConfigError
from condkit.trainer.base_model import BaseModel
from condkit.trainer.config import TrainConfig
from condkit.trainer.examples import Remembered
from condkit.trainer.latent_cache import DiskLatents
from condkit.trainer.piecework import Report, unreported
from condkit.trainer.text_cache import DiskText
from condkit.trainer.training_data import TrainingData, new_makers
from condkit.weights import WeightStore


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run goes on with.

    Attributes:
        base: The base model, with its text memory.
        latents: Where the moments of cuts are known from, or None.
        encoded: How many pictures and captions were encoded now; 0 where all were there.
    """

    base: BaseModel
    latents: Remembered | None
    encoded: int


def cache_folder(config: TrainConfig) -> Path:
    """Where the caches lie: `cache.folder`, else `latents` in condkit's cache folder."""
    if config.cache.folder is not None:
        return Path(config.cache.folder).expanduser()
    return WeightStore().cache_folder / "training"


def prepare_caches(
    config: TrainConfig,
    data: TrainingData,
    base: BaseModel,
    report: Report = unreported,
) -> Prepared:
    """Encode what `[cache]` asks for and the disk lacks.

    Raises:
        ConfigError: if a streamed dataset should be cached.
        TrainingError: if the crops are other ones at each use, or a cache is damaged.
        OutputError: if the folder cannot be written.
    """
    cache, folder, encoded = config.cache, cache_folder(config), 0
    if (cache.latents or cache.text) and any(source.rows is None for source in data.sources):
        raise ConfigError(
            "cache.latents, cache.text: expected false with data.streaming, which reads each row "
            "as it comes"
        )
    latents: DiskLatents | None = None
    if cache.latents:
        latents = DiskLatents(base, folder)
        makers = new_makers(data, config, base.unit)
        encoded += latents.fill(list(zip(data.sources, makers, strict=True)), config, report)
    if cache.text:
        text = DiskText(base, folder)
        encoded += text.fill(data.sources, cache.shard_rows, report)
        base = replace(base, text_memory=text)
    return Prepared(base, latents, encoded)
