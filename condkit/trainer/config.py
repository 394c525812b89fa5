"""The settings of a training run, and the recipes that fill them.

A recipe is a TOML file with the tables of `TrainConfig`; `--set optim.lr=2e-5` changes any field.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from condkit.errors import ConfigError
from condkit.settings import choose, from_mapping, merge

Tracker = Literal["tensorboard", "trackio", "wandb"]
OptimizerName = Literal["adamw", "adamw8bit", "adafactor"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """How long the run is and what makes it repeatable.

    Attributes:
        steps: Optimizer steps in all (not micro-batches, not epochs).
        seed: Every random choice of the run follows from this number.
        log_every: Optimizer steps between two log lines; losses stay on the device until then.
        trackers: Who is told the numbers and previews beside `metrics.jsonl`: "tensorboard",
            "trackio", "wandb"; none for the file alone.
    """

    steps: int = 10_000
    seed: int = 0
    log_every: int = 20
    trackers: tuple[Tracker, ...] | None = ("tensorboard",)

    def __post_init__(self) -> None:
        _require(self.steps >= 1, f"run.steps: expected at least 1 step, got {self.steps}")
        _require(self.seed >= 0, f"run.seed: expected 0 or more, got {self.seed}")
        _require(
            self.log_every >= 1, f"run.log_every: expected at least 1 step, got {self.log_every}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlConfig:
    """The ControlNet's shape.

    Attributes:
        embedding_channels: Channels of the hint encoder, first to last; each but the first halves
            the resolution, so their number must fit the VAE. None takes ControlNet's own widths
            (16, 32, 96, 256) as far as the VAE's stride goes.
        start_from: An existing ControlNet of the same base to go on from, instead of the base's
            encoder: a folder in diffusers layout, a training run's folder, or a `.safetensors`,
            `.pth` or `.ckpt` file under diffusers' or the original release's names. The paper's
            lines and scribbles began as canny.
        only_mid: Train and use the middle block's output alone, as the paper does for small
            data and cards; trained further with `only_mid = false` (through `start_from`), the
            encoder's outputs come back at zero.
        unlock_decoder: Optimizer steps after which the base's decoder is trained too, as the paper
            does for large data; None never does. The result then works with its own changed base
            alone: it is saved with every checkpoint and marked as not portable.
        decoder_lr: Peak learning rate of the decoder. Source: lllyasviel/ControlNet docs/train.md
            (2e-6).
    """

    embedding_channels: tuple[int, ...] | None = None
    start_from: str | None = None
    only_mid: bool = False
    unlock_decoder: int | None = None
    decoder_lr: float = 2e-6

    def __post_init__(self) -> None:
        channels = self.embedding_channels
        _require(
            channels is None or (len(channels) >= 1 and min(channels) >= 1),
            f"control.embedding_channels: expected positive numbers, got {channels}",
        )
        _require(
            channels is None or self.start_from is None,
            "control.embedding_channels: a ControlNet that is started from has its own; "
            "leave one of control.embedding_channels and control.start_from out",
        )
        after = self.unlock_decoder
        _require(
            after is None or after >= 0,
            f"control.unlock_decoder: expected 0 or more steps, got {after}",
        )
        _require(
            self.decoder_lr > 0.0,
            f"control.decoder_lr: expected more than 0, got {self.decoder_lr}",
        )


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
    mix: tuple[SourceConfig, ...] = ()
    spec: SpecConfig | None = None

    def __post_init__(self) -> None:
        _check_source(self)
        for name in ("batch_size", "bucket_multiple", "workers"):
            value = getattr(self, name)
            _require(value >= 1, f"data.{name}: expected at least 1, got {value}")
        _require(
            self.resolution is None or self.resolution >= 8,
            f"data.resolution: expected at least 8 pixels, got {self.resolution}",
        )
        for name in ("flip", "caption_dropout"):
            value = getattr(self, name)
            _require(
                0.0 <= value <= 1.0,
                f"data.{name}: expected a probability from 0 to 1, got {value}",
            )
        _require(self.cache_mib >= 0, f"data.cache_mib: expected 0 or more, got {self.cache_mib}")
        _require(self.prefetch >= 0, f"data.prefetch: expected 0 or more, got {self.prefetch}")
        self._check_shapes()
        for place, source in enumerate(self.mix):
            _require(bool(source.path), f"data.mix[{place}].path: expected a folder or a hub id")

    def _check_shapes(self) -> None:
        _require(
            self.buckets == "none" or self.resolution is None,
            f"data.buckets: expected none with data.resolution={self.resolution}, got "
            f"{self.buckets}; set data.resolution=none, or data.buckets=none",
        )
        _require(
            self.resize == "never" or self.resolution is not None or self.buckets in _TABLES,
            "data.resize: expected never where neither data.resolution nor a table of data.buckets "
            f"({', '.join(_TABLES)}) says to which size, got {self.resize}",
        )
        streams = self.streaming or any(source.streaming for source in self.mix)
        _require(
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
    _require(source.weight > 0, f"data.weight: expected more than 0, got {source.weight}")
    _require(bool(source.split), "data.split: expected a split such as train")
    _require(
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
        folder: Where the files lie; None takes `.cache` in the run's folder. Runs may share one.
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
            _require(value is None or value >= 1, f"cache.{name}: expected at least 1, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """How timesteps and noise are weighed; the defaults are the paper's plain objective.

    Attributes:
        min_snr_gamma: Largest signal-to-noise ratio that counts (arXiv 2303.09556 uses 5); None
            weighs all timesteps alike.
        noise_offset: Share of noise that is the same for a whole channel, 0 to 1; about 0.05 lets
            a base learn darker and brighter pictures.
    """

    min_snr_gamma: float | None = None
    noise_offset: float = 0.0

    def __post_init__(self) -> None:
        gamma = self.min_snr_gamma
        _require(
            gamma is None or gamma > 0, f"loss.min_snr_gamma: expected more than 0, got {gamma}"
        )
        _require(
            0.0 <= self.noise_offset <= 1.0,
            f"loss.noise_offset: expected 0 to 1, got {self.noise_offset}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """The optimizer and its learning rate.

    Attributes:
        name: "adamw" (fused where torch can), "adamw8bit" (its averages in 8 bits, by bitsandbytes
            or torchao, whichever is installed) or "adafactor" (averages of rows and columns alone,
            and `betas` unused).
        lr: Peak learning rate. Source: lllyasviel/ControlNet tutorial_train.py (1e-5).
        accumulation: Forward passes per optimizer step and device; the logical batch is
            `data.batch_size * optim.accumulation` times the devices.
        schedule: "constant", or "cosine" from the peak to zero at `run.steps`.
        warmup_steps: Optimizer steps in which the rate rises linearly from zero; every schedule.
        betas: Decay of AdamW's two averages.
        eps: AdamW's denominator offset.
        weight_decay: Decoupled decay of the weights.
        clip_norm: Largest norm of the gradient; 0 leaves it as it is.
    """

    name: OptimizerName = "adamw"
    lr: float = 1e-5
    accumulation: int = 1
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        _require(self.lr > 0.0, f"optim.lr: expected more than 0, got {self.lr}")
        _require(
            self.accumulation >= 1,
            f"optim.accumulation: expected at least 1 pass, got {self.accumulation}",
        )
        _require(
            self.warmup_steps >= 0,
            f"optim.warmup_steps: expected 0 or more, got {self.warmup_steps}",
        )
        _require(
            all(0.0 <= beta < 1.0 for beta in self.betas),
            f"optim.betas: expected two numbers from 0 to below 1, got {self.betas}",
        )
        _require(self.eps > 0.0, f"optim.eps: expected more than 0, got {self.eps}")
        for name in ("weight_decay", "clip_norm"):
            value = getattr(self, name)
            _require(value >= 0.0, f"optim.{name}: expected 0 or more, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmaConfig:
    """The running average of the weights, which is smoother than the last step's.

    Attributes:
        decay: Share of the old average that stays at each step, such as 0.999; it rises to this
            from small values in the first steps. 0 keeps no average.
    """

    decay: float = 0.0

    def __post_init__(self) -> None:
        _require(0.0 <= self.decay < 1.0, f"ema.decay: expected 0 to below 1, got {self.decay}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeConfig:
    """What trades memory for time; the result is the same but for rounding.

    Attributes:
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping
            them; less memory, about a third more arithmetic.
        channels_last: Keep weights and activations in the order that tensor cores read.
        compile: Compile both networks with `torch.compile`, once for each picture size.
        peak_tflops: What one device can do at best in the run's precision, in 10^12 operations per
            second; model FLOPs utilisation is a share of it. None looks the device up.
    """

    gradient_checkpointing: bool = False
    channels_last: bool = True
    compile: bool = False
    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        peak = self.peak_tflops
        _require(peak is None or peak > 0, f"compute.peak_tflops: expected more than 0, got {peak}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """When the run is saved.

    Attributes:
        every: Optimizer steps between two checkpoints; the last step is always saved.
        keep: How many of the newest checkpoints stay on the disk.
        keep_best: Keep the one with the best validation score too, where there are scores.
    """

    every: int = 500
    keep: int = 2
    keep_best: bool = True

    def __post_init__(self) -> None:
        _require(self.every >= 1, f"checkpoint.every: expected at least 1 step, got {self.every}")
        _require(self.keep >= 1, f"checkpoint.keep: expected at least 1, got {self.keep}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewConfig:
    """The pictures that are made during training, always from the same pairs and seeds.

    Attributes:
        every: Optimizer steps between two preview grids; 0 makes none.
        pairs: Pairs in a grid, from the validation split (the training split where there is none).
        steps: DDIM steps per picture.
        guidance: Classifier-free guidance scale.
        seed: Seed of the first picture's noise; the next one takes the next number.
    """

    every: int = 500
    pairs: int = 4
    steps: int = 20
    guidance: float = 7.5
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.every >= 0, f"preview.every: expected 0 or more, got {self.every}")
        for name in ("pairs", "steps"):
            value = getattr(self, name)
            _require(value >= 1, f"preview.{name}: expected at least 1, got {value}")
        _require(self.guidance >= 0, f"preview.guidance: expected 0 or more, got {self.guidance}")
        _require(self.seed >= 0, f"preview.seed: expected 0 or more, got {self.seed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """All settings of a training run.

    Attributes:
        condition: The dataset column that holds the condition map.
        summary: One line on what the recipe trains.
        base: The frozen model: a diffusers folder, a hub id, or "condkit/tiny".
        run: Length, seed and logging.
        control: The ControlNet.
        data: Batches.
        cache: What is kept on the disk.
        loss: The objective.
        optim: Optimizer and learning rate.
        ema: Running average of the weights.
        compute: Memory against time.
        checkpoint: Saving.
        preview: Pictures during training.
    """

    condition: str
    summary: str = ""
    base: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    run: RunConfig = field(default_factory=RunConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    data: DataConfig = field(default_factory=DataConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)

    def __post_init__(self) -> None:
        _require(bool(self.condition), "condition: expected a dataset column such as canny")
        _require(bool(self.base), "base: expected a model folder, a hub id or condkit/tiny")


def available_recipes() -> tuple[str, ...]:
    """The names of the recipes that come with condkit, sorted."""
    folder = resources.files("condkit") / "recipes"
    return tuple(
        sorted(
            item.name.removesuffix(".toml")
            for item in folder.iterdir()
            if item.name.endswith(".toml")
        )
    )


def load_recipe(name_or_path: str, assignments: Mapping[str, str] | None = None) -> TrainConfig:
    """Read a recipe and change single settings of it.

    Args:
        name_or_path: One of `available_recipes()`, or a file that ends in `.toml`.
        assignments: Dotted field names to text, as `--set` gives them.

    Raises:
        UnknownNameError: if there is no such recipe or setting; the nearest one is suggested.
        ConfigError: if the file is no TOML or a value is impossible.
    """
    return from_mapping(TrainConfig, merge(_read_recipe(name_or_path), assignments or {}))


def _read_recipe(name_or_path: str) -> dict[str, Any]:
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the recipe {path}: {error}") from error
    else:
        name = choose(name_or_path, available_recipes(), what="recipe")
        file = resources.files("condkit") / "recipes" / f"{name}.toml"
        text = file.read_text(encoding="utf-8")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the recipe {name_or_path} is not valid TOML: {error}") from error
