"""Finding out what a run would be; nothing is trained and nothing written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from condkit.errors import ConfigError
from condkit.trainer.arithmetic import Arithmetic, peak_of, step_arithmetic
from condkit.trainer.base_loading import load_base
from condkit.trainer.base_model import BaseModel
from condkit.trainer.caches import cache_folder
from condkit.trainer.compute import training_compute
from condkit.trainer.config import TrainConfig
from condkit.trainer.control_net import initial_control_net
from condkit.trainer.decoder import decoder_parameters
from condkit.trainer.memory import predict_memory
from condkit.trainer.meta import TOKENS, Hw, meta_networks
from condkit.trainer.optimizers import STATE_BYTES
from condkit.trainer.precision import hold_base
from condkit.trainer.train_plan import TrainPlan
from condkit.trainer.training_data import TrainingData, open_training_data, row_shapes

_BF16 = 2
"""Bytes of a number in a cache."""


def plan_training(
    config: TrainConfig,
    data: Path | str,
    *,
    base: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = False,
    devices: int = 1,
) -> TrainPlan:
    """Look at a run as `condkit.trainer.train.train` would make it, without making it.

    Args:
        config: The settings.
        data: The main dataset.
        base: The frozen model; None takes `config.base`.
        device: "auto", "cpu", "cuda", ...
        dtype: "auto", "bf16" or "fp32".
        offline: Take hub files from the local cache alone.
        devices: How many devices would train together.

    Raises:
        DatasetError: if the dataset cannot be used.
        UnknownNameError: if it lacks the condition.
        TrainingError: if base, settings and data do not fit together.
        ConfigError: if the device is not there.
    """
    if base is not None:
        config = replace(config, base=base)
    pairs = open_training_data(config, data)
    model = load_base(
        config.base,
        training_compute(device, dtype),
        offline=offline,
        prediction=None if config.prediction == "auto" else config.prediction,
    )
    control_net = initial_control_net(model, config.control, config.run.seed)
    hold_base(model, config)
    sizes, peak = _crops(pairs, config, model.unit), config.compute.peak_tflops
    counts = _counted(model, control_net, config)
    compute = model.compute
    return TrainPlan(
        base=model.name,
        condition=pairs.spec.name,
        device=str(compute.device),
        dtype=compute.dtype_name,
        devices=devices,
        rows=None if any(source.rows is None for source in pairs.sources) else pairs.rows,
        sizes=sizes,
        batch=config.data.batch_size * config.optim.accumulation * devices,
        steps=config.run.steps,
        **counts,
        arithmetic=_mean_arithmetic(model, control_net, config, sizes),
        peak_flops=peak * 1e12 if peak else peak_of(compute.device, compute.dtype),
        memory=predict_memory(
            model, control_net, config, _largest(sizes, model.vae_stride), devices=devices
        ),
        checkpoint=_checkpoint_bytes(control_net, config, counts),
        latent_cache=_latent_bytes(model, config, sizes, pairs.rows) if config.cache.latents else 0,
        text_cache=_text_bytes(model, pairs.rows) if config.cache.text else 0,
        cache=str(cache_folder(config)),
    )


def _crops(data: TrainingData, config: TrainConfig, unit: int) -> tuple[tuple[Hw, float], ...]:
    side = config.data.resolution
    if side is not None:
        return (((side, side), 1.0),)
    if any(source.rows is None for source in data.sources):
        raise ConfigError(
            "--dry-run: expected a data.resolution with streamed data, whose pictures' sizes are "
            "not known before they come; set data.resolution"
        )
    shapes = row_shapes(data, config, unit)
    counts = np.bincount(np.concatenate(shapes.numbers), minlength=len(shapes.sizes))
    shares = counts / counts.sum()
    return tuple((hw, float(share)) for hw, share in zip(shapes.sizes, shares, strict=True))


def _largest(sizes: tuple[tuple[Hw, float], ...], stride: int) -> Hw:
    """Height and width of the latents of the largest crop."""
    height, width = max((hw for hw, _ in sizes), key=lambda hw: hw[0] * hw[1])
    return height // stride, width // stride


def _counted(base: BaseModel, control_net: Any, config: TrainConfig) -> dict[str, int]:  # noqa: ANN401
    unlocks = config.control.unlock_decoder is not None
    later = _count(decoder_parameters(base.unet).values()) if unlocks else 0
    trained = _count(p for p in control_net.parameters() if p.requires_grad)
    everything = sum(
        _count(module.parameters()) for module in (control_net, *base.modules.values())
    )
    return {
        "trained": trained,
        "trained_later": later,
        "frozen": everything - trained - later,
    }


def _mean_arithmetic(
    base: BaseModel,
    control_net: Any,  # noqa: ANN401 - diffusers.ControlNetModel
    config: TrainConfig,
    sizes: tuple[tuple[Hw, float], ...],
) -> Arithmetic:
    unlocked = config.control.unlock_decoder is not None
    networks = meta_networks(base.unet, control_net, unlocked=unlocked)
    stride = base.vae_stride
    parts = dict.fromkeys(Arithmetic.__slots__, 0.0)
    for (height, width), share in sizes:
        counted = step_arithmetic(networks, (height // stride, width // stride))
        for name in parts:
            parts[name] += share * getattr(counted, name)
    return Arithmetic(**{name: round(value) for name, value in parts.items()})


def _checkpoint_bytes(
    control_net: Any,  # noqa: ANN401 - diffusers.ControlNetModel
    config: TrainConfig,
    counts: Mapping[str, int],
) -> int:
    copies, later = 2 if config.ema.decay > 0 else 1, counts["trained_later"]
    remembered = (counts["trained"] + later) * STATE_BYTES[config.optim.name]
    return 4 * copies * (_count(control_net.parameters()) + later) + round(remembered)


def _latent_bytes(
    base: BaseModel, config: TrainConfig, sizes: tuple[tuple[Hw, float], ...], rows: int
) -> int:
    pixels = sum(share * height * width for (height, width), share in sizes)
    numbers = 2 * int(base.vae.config.latent_channels) * pixels / base.vae_stride**2
    return round(rows * (config.cache.variants or 1) * numbers * _BF16)


def _text_bytes(base: BaseModel, rows: int) -> int:
    """One caption for each row, and the empty one."""
    return (rows + 1) * TOKENS * int(base.unet.config.cross_attention_dim) * _BF16


def _count(parameters: Any) -> int:  # noqa: ANN401 - an iterable of tensors
    return sum(int(parameter.numel()) for parameter in parameters)
