"""The settings of `[data]` and `[cache]`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from condkit.errors import ConfigError


def require(condition: bool, message: str) -> None:
    """Refuse a setting.

    Raises:
        ConfigError: with this message, unless the condition holds.
    """
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecConfig:
    """What the pixels of a condition map mean, for data that does not say it itself.

    Fields as of `condkit.types.ConditionSpec`. A Hugging Face dataset has no manifest; the
    conditions of condkit are known by their name, others are described here.
    """

    channels: Literal[1, 3, 4] = 3
    dtype: Literal["uint8", "uint16"] = "uint8"
    meaning: str = ""
    background: int = 0
    resample: Literal["nearest", "bilinear", "area"] = "nearest"
    flip: Literal["mirror", "mirror-normal-x", "mirror-swap-left-right"] = "mirror"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """Where pairs come from and what their columns are called.

    Attributes:
        path: A folder (made by `condkit build`, or anything that `datasets.load_dataset` or
            `load_from_disk` reads), or the id of a dataset on the Hugging Face hub.
        weight: How often this dataset is drawn, relative to the others.
        split: The split that is trained on.
        config: The configuration of a hub dataset that has several ("subset").
        image_column: The pictures; None takes "image".
        condition_column: The maps; None takes the condition's own name, or one of
            "conditioning_image", "condition_image", "condition".
        caption_column: The captions, one text or a list of texts per row; None takes "captions",
            "text", "caption" or "prompt".
        streaming: Read the rows one after the other as they come, from the hub for example,
            without having them all; only for Hugging Face datasets.
        shuffle_buffer: Rows that are mixed with each other when streaming.
    """

    path: str = ""
    weight: float = 1.0
    split: str = "train"
    config: str | None = None
    image_column: str | None = None
    condition_column: str | None = None
    caption_column: str | None = None
    streaming: bool = False
    shuffle_buffer: int = 1000

    def __post_init__(self) -> None:
        _check_source(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What one batch holds.

    Attributes:
        batch_size: Samples per forward pass.
        resolution: Width and height in pixels of the square crop; None takes the largest crop of
            each picture whose sides the model accepts, or with `buckets` the bucket's.
        resize: "never" cuts without resampling, so that thin lines stay as they were drawn, and
            refuses pictures smaller than the crop. "cover" first scales each picture until the crop
            or bucket just fits, the map by its own rule.
        buckets: Crops of several shapes, each batch of one: "sd15" (kohya-ss/sd-scripts' at 512),
            "sdxl" (arXiv 2307.01952, appendix I), or "native": the largest multiples of
            `bucket_multiple` in each picture. "none" needs pictures of one size or a `resolution`.
        bucket_multiple: Sides of "native" buckets are multiples of this many pixels, and of what
            the base model needs.
        crop: Where the crop lies; image and map share it.
        flip: Probability of a horizontal flip, shared by image and map, drawn anew at each use.
            Directions of normals and left and right limbs are exchanged with it.
        caption_dropout: Probability that a caption becomes the empty string, drawn anew at each
            use. Source: arXiv 2302.05543, section 3.3 (0.5).
        cache_latents: Keep the VAE's encodings of pictures whose crop is always the same.
        cache_mib: Memory for them, in MiB; the least recently used go first.
        prefetch: Batches prepared ahead of the one in use; 0 prepares them in the loop.
        workers: Threads that prepare them; they change nothing but the speed.
        weight: How often the main dataset is drawn, relative to those of `mix`.
        split: The main dataset's split that is trained on.
        config: As of `SourceConfig`, for the main dataset; so are the next five.
        image_column: See there.
        condition_column: See there.
        caption_column: See there.
        streaming: See there.
        shuffle_buffer: See there.
        mix: More datasets, `[[data.mix]]` tables of `SourceConfig`. Each example is drawn from one
            of all, by their weights.
        spec: What the map's pixels mean, where the data does not say it.
    """

    batch_size: int = 4
    resolution: int | None = None
    resize: Literal["never", "cover"] = "never"
    buckets: Literal["none", "sd15", "sdxl", "native"] = "none"
    bucket_multiple: int = 64
    crop: Literal["random", "center"] = "random"
    flip: float = 0.5
    caption_dropout: float = 0.5
    cache_latents: bool = True
    cache_mib: int = 2048
    prefetch: int = 4
    workers: int = 2
    weight: float = 1.0
    split: str = "train"
    config: str | None = None
    image_column: str | None = None
    condition_column: str | None = None
    caption_column: str | None = None
    streaming: bool = False
    shuffle_buffer: int = 1000
    mix: tuple[SourceConfig, ...] | None = None
    spec: SpecConfig | None = None

    def __post_init__(self) -> None:
        _check_source(self)
        for name in ("batch_size", "bucket_multiple", "workers"):
            value = getattr(self, name)
            require(value >= 1, f"data.{name}: expected at least 1, got {value}")
        require(
            self.resolution is None or self.resolution >= 8,
            f"data.resolution: expected at least 8 pixels, got {self.resolution}",
        )
        for name in ("flip", "caption_dropout"):
            value = getattr(self, name)
            require(
                0.0 <= value <= 1.0,
                f"data.{name}: expected a probability from 0 to 1, got {value}",
            )
        require(self.cache_mib >= 0, f"data.cache_mib: expected 0 or more, got {self.cache_mib}")
        require(self.prefetch >= 0, f"data.prefetch: expected 0 or more, got {self.prefetch}")
        self._check_shapes()
        for place, source in enumerate(self.mix or ()):
            require(bool(source.path), f"data.mix[{place}].path: expected a folder or a hub id")

    def _check_shapes(self) -> None:
        require(
            self.buckets == "none" or self.resolution is None,
            f"data.buckets: expected none with data.resolution={self.resolution}, got "
            f"{self.buckets}; set data.resolution=none, or data.buckets=none",
        )
        require(
            self.resize == "never" or self.resolution is not None or self.buckets in _TABLES,
            "data.resize: expected never where neither data.resolution nor a table of data.buckets "
            f"({', '.join(_TABLES)}) says to which size, got {self.resize}",
        )
        streams = self.streaming or any(source.streaming for source in self.mix or ())
        require(
            not streams or self.buckets == "none",
            f"data.buckets: expected none with streaming, got {self.buckets}: which pictures share "
            "a shape is only known of a dataset that is there; set data.resolution, or streaming "
            "to false",
        )

    @property
    def main(self) -> SourceConfig:
        """The main dataset's columns; its path is what the run is given."""
        return SourceConfig(
            **{f.name: getattr(self, f.name) for f in fields(SourceConfig) if f.name != "path"}
        )


def _check_source(source: SourceConfig | DataConfig) -> None:
    require(source.weight > 0, f"data.weight: expected more than 0, got {source.weight}")
    require(bool(source.split), "data.split: expected a split such as train")
    require(
        source.shuffle_buffer >= 1,
        f"data.shuffle_buffer: expected at least 1 row, got {source.shuffle_buffer}",
    )


_TABLES = ("sd15", "sdxl")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """What is kept on the disk, for this run and later ones.

    Attributes:
        latents: Encode all pictures before the first step, and never again: bf16 files under a
            key of the pictures' pixels, their crop and flip, and the VAE. They take 64 KiB for each
            variant of a 512 x 512 picture of Stable Diffusion.
        text: Encode all captions and the empty one before the first step. Dropout stays alive, as
            it chooses at each use. Takes 118 KiB per caption of Stable Diffusion 1.5, and saves
            0.6 % of a step's arithmetic there; it pays with two text encoders.
        variants: How many crops and flips of each picture are made, in turn; None makes a new one
            at each use, which no cache can hold.
        folder: Where the files lie; None takes condkit's cache folder. Runs and ranks share them.
        shard_rows: Pictures per file.
    """

    latents: bool = False
    text: bool = False
    variants: int | None = None
    folder: str | None = None
    shard_rows: int = 1024

    def __post_init__(self) -> None:
        for name in ("variants", "shard_rows"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"cache.{name}: expected at least 1, got {value}")
