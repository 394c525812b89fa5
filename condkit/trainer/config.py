"""The settings of a training run; `recipes.py` reads them from files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from condkit.trainer.data_config import CacheConfig, DataConfig, require

Tracker = Literal["tensorboard", "trackio", "wandb"]
OptimizerName = Literal["adamw", "adamw8bit", "adafactor"]


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
        require(self.steps >= 1, f"run.steps: expected at least 1 step, got {self.steps}")
        require(self.seed >= 0, f"run.seed: expected 0 or more, got {self.seed}")
        require(
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
        lora_rank: Train a Control-LoRA: the copied encoder stays as the base has it, and each of
            its linear layers and convolutions gets a difference of at most this rank (128 and 256
            are usual); hint encoder and zero convolutions are trained whole. 0 trains all of it.
            It may start from a Control-LoRA of the same rank alone.
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
    lora_rank: int = 0
    only_mid: bool = False
    unlock_decoder: int | None = None
    decoder_lr: float = 2e-6

    def __post_init__(self) -> None:
        channels = self.embedding_channels
        require(
            channels is None or (len(channels) >= 1 and min(channels) >= 1),
            f"control.embedding_channels: expected positive numbers, got {channels}",
        )
        require(
            channels is None or self.start_from is None,
            "control.embedding_channels: a ControlNet that is started from has its own; "
            "leave one of control.embedding_channels and control.start_from out",
        )
        require(self.lora_rank >= 0, f"control.lora_rank: expected 0 or more, got {self.lora_rank}")
        after = self.unlock_decoder
        require(
            after is None or after >= 0,
            f"control.unlock_decoder: expected 0 or more steps, got {after}",
        )
        require(
            self.decoder_lr > 0.0,
            f"control.decoder_lr: expected more than 0, got {self.decoder_lr}",
        )


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
        require(
            gamma is None or gamma > 0, f"loss.min_snr_gamma: expected more than 0, got {gamma}"
        )
        require(
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
        require(self.lr > 0.0, f"optim.lr: expected more than 0, got {self.lr}")
        require(
            self.accumulation >= 1,
            f"optim.accumulation: expected at least 1 pass, got {self.accumulation}",
        )
        require(
            self.warmup_steps >= 0,
            f"optim.warmup_steps: expected 0 or more, got {self.warmup_steps}",
        )
        require(
            all(0.0 <= beta < 1.0 for beta in self.betas),
            f"optim.betas: expected two numbers from 0 to below 1, got {self.betas}",
        )
        require(self.eps > 0.0, f"optim.eps: expected more than 0, got {self.eps}")
        for name in ("weight_decay", "clip_norm"):
            value = getattr(self, name)
            require(value >= 0.0, f"optim.{name}: expected 0 or more, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmaConfig:
    """The running average of the weights, which is smoother than the last step's.

    Attributes:
        decay: Share of the old average that stays at each step, such as 0.999; it rises to this
            from small values in the first steps. 0 keeps no average.
    """

    decay: float = 0.0

    def __post_init__(self) -> None:
        require(0.0 <= self.decay < 1.0, f"ema.decay: expected 0 to below 1, got {self.decay}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeConfig:
    """What trades memory for time; the result is the same but for rounding.

    Attributes:
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping
            them; less memory, about a third more arithmetic.
        channels_last: Keep weights and activations in the order that tensor cores read.
        compile: Compile both networks with `torch.compile`, once for each picture size.
        shard: Share out the ControlNet's weights, gradients and optimizer state over the devices
            (FSDP) instead of keeping them on each; for bases as large as SDXL. A single device
            keeps all.
        peak_tflops: What one device can do at best in the run's precision, in 10^12 operations per
            second; model FLOPs utilisation is a share of it. None looks the device up.
    """

    gradient_checkpointing: bool = False
    channels_last: bool = True
    compile: bool = False
    shard: bool = False
    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        peak = self.peak_tflops
        require(peak is None or peak > 0, f"compute.peak_tflops: expected more than 0, got {peak}")


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
        require(self.every >= 1, f"checkpoint.every: expected at least 1 step, got {self.every}")
        require(self.keep >= 1, f"checkpoint.keep: expected at least 1, got {self.keep}")


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
        require(self.every >= 0, f"preview.every: expected 0 or more, got {self.every}")
        for name in ("pairs", "steps"):
            value = getattr(self, name)
            require(value >= 1, f"preview.{name}: expected at least 1, got {value}")
        require(self.guidance >= 0, f"preview.guidance: expected 0 or more, got {self.guidance}")
        require(self.seed >= 0, f"preview.seed: expected 0 or more, got {self.seed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchConfig:
    """How control is measured during training, always on the same pairs and seeds.

    Attributes:
        every: Optimizer steps between two measurements, each with a checkpoint; the last step is
            measured too. 0 measures nothing.
        pairs: Pairs that are generated, from the validation split (the training split where there
            is none); at least 2.
        steps: DDIM steps per picture.
        guidance: Classifier-free guidance scale.
        seed: Seed of the first picture's noise; the next one takes the next number.
    """

    every: int = 0
    pairs: int = 16
    steps: int = 20
    guidance: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.every >= 0, f"watch.every: expected 0 or more steps, got {self.every}")
        require(self.pairs >= 2, f"watch.pairs: expected at least 2, got {self.pairs}")
        require(self.steps >= 1, f"watch.steps: expected at least 1, got {self.steps}")
        require(self.guidance >= 0, f"watch.guidance: expected 0 or more, got {self.guidance}")
        require(self.seed >= 0, f"watch.seed: expected 0 or more, got {self.seed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StopConfig:
    """When a run ends before `run.steps`; needs `watch.every`.

    Attributes:
        control_score: End as soon as the control score is this high; None never does.
        plateau: End after so many measurements in a row without a better score, once control has
            set in; None never does.
    """

    control_score: float | None = None
    plateau: int | None = None

    def __post_init__(self) -> None:
        score, plateau = self.control_score, self.plateau
        require(
            score is None or 0.0 < score <= 1.0,
            f"stop.control_score: expected a score over 0 and up to 1, got {score}",
        )
        require(
            plateau is None or plateau >= 1,
            f"stop.plateau: expected at least 1 measurement, got {plateau}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """All settings of a training run.

    Attributes:
        condition: The dataset column that holds the condition map.
        summary: One line on what the recipe trains.
        base: The frozen model: a diffusers folder, a `.safetensors` file with a whole model, a hub
            id, or "condkit/tiny".
        prediction: What the base predicts; "auto" believes its scheduler, and of a single file of
            Stable Diffusion 2 finds it out.
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
        watch: Measuring control during training.
        stop: Ending early.
    """

    condition: str
    summary: str = ""
    base: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    prediction: Literal["auto", "epsilon", "v_prediction"] = "auto"
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
    watch: WatchConfig = field(default_factory=WatchConfig)
    stop: StopConfig = field(default_factory=StopConfig)

    def __post_init__(self) -> None:
        require(bool(self.condition), "condition: expected a dataset column such as canny")
        require(
            not self.compute.shard
            or (self.control.unlock_decoder is None and not self.compute.compile),
            "compute.shard: expected false with control.unlock_decoder or compute.compile, got "
            "true",
        )
        require(
            not self.compute.shard or self.control.lora_rank == 0,
            "compute.shard: expected false with control.lora_rank, whose trained part is small, "
            "got true",
        )
        require(bool(self.base), "base: expected a model folder, a hub id or condkit/tiny")
        require(
            self.watch.every > 0 or self.stop == StopConfig(),
            "watch.every: expected more than 0 with stop.control_score or stop.plateau, got 0",
        )
