"""The settings of a training run, and the recipes that fill them.

A recipe is a TOML file with the tables of `TrainConfig`; `--set optim.lr=2e-5` changes any field.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from condkit.errors import ConfigError
from condkit.settings import choose, from_mapping, merge


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
    """

    steps: int = 10_000
    seed: int = 0
    log_every: int = 20

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
    """

    embedding_channels: tuple[int, ...] | None = None
    start_from: str | None = None
    only_mid: bool = False

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


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What one batch holds.

    Attributes:
        batch_size: Samples per forward pass.
        resolution: Width and height in pixels of the square crop; None takes the largest crop of
            each picture whose sides the model accepts. Nothing is ever resized here.
        crop: Where the crop lies; image and map share it.
        flip: Probability of a horizontal flip, shared by image and map, drawn anew at each use.
        caption_dropout: Probability that a caption becomes the empty string, drawn anew at each
            use. Source: arXiv 2302.05543, section 3.3 (0.5).
        cache_latents: Keep the VAE's encodings of pictures whose crop is always the same.
        cache_mib: Memory for them, in MiB; the least recently used go first.
        prefetch: Batches prepared ahead of the one in use; 0 prepares them in the loop.
    """

    batch_size: int = 4
    resolution: int | None = None
    crop: Literal["random", "center"] = "random"
    flip: float = 0.5
    caption_dropout: float = 0.5
    cache_latents: bool = True
    cache_mib: int = 2048
    prefetch: int = 4

    def __post_init__(self) -> None:
        _require(
            self.batch_size >= 1,
            f"data.batch_size: expected at least 1 sample, got {self.batch_size}",
        )
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
    """AdamW and its learning rate.

    Attributes:
        lr: Peak learning rate. Source: lllyasviel/ControlNet tutorial_train.py (1e-5).
        accumulation: Forward passes per optimizer step; the logical batch is
            `data.batch_size * optim.accumulation`.
        schedule: "constant", or "cosine" from the peak to zero at `run.steps`.
        warmup_steps: Optimizer steps in which the rate rises linearly from zero; every schedule.
        betas: Decay of AdamW's two averages.
        eps: AdamW's denominator offset.
        weight_decay: AdamW's decoupled decay.
        clip_norm: Largest norm of the gradient; 0 leaves it as it is.
    """

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
class CheckpointConfig:
    """When the run is saved.

    Attributes:
        every: Optimizer steps between two checkpoints; the last step is always saved.
        keep: How many of the newest checkpoints stay on the disk.
    """

    every: int = 500
    keep: int = 2

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
        loss: The objective.
        optim: Optimizer and learning rate.
        checkpoint: Saving.
        preview: Pictures during training.
    """

    condition: str
    summary: str = ""
    base: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    run: RunConfig = field(default_factory=RunConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
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
