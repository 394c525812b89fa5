"""The trained part: a copy of the base's encoder behind zero convolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from condkit.errors import TrainingError
from condkit.trainer.base_model import BaseModel
from condkit.trainer.config import ControlConfig

EMBEDDING_CHANNELS = (16, 32, 96, 256)
"""Widths of the hint encoder. Source: lllyasviel/ControlNet cldm/cldm.py (released code)."""


def embedding_channels_for(stride: int) -> tuple[int, ...]:
    """Widths of a hint encoder that shrinks a picture as much as a VAE of this stride.

    Args:
        stride: Image pixels per latent pixel, a power of two.

    Raises:
        TrainingError: if no such encoder can be made.
    """
    halvings = stride.bit_length() - 1
    if stride < 1 or stride != 1 << halvings or halvings >= len(EMBEDDING_CHANNELS) + 1:
        raise TrainingError(
            f"the base's VAE has a stride of {stride}; a hint encoder can be made for 1, 2, 4, 8 "
            "and 16"
        )
    return (*EMBEDDING_CHANNELS, 512)[: halvings + 1]


def control_stride(control_net: Any) -> int:  # noqa: ANN401 - diffusers.ControlNetModel
    """Hint pixels per latent pixel of a ControlNet."""
    return int(2 ** (len(control_net.config.conditioning_embedding_out_channels) - 1))


def new_control_net(base: BaseModel, config: ControlConfig, seed: int) -> Any:  # noqa: ANN401
    """Copy the base's encoder into a ControlNet that changes nothing yet.

    Args:
        base: The frozen model.
        config: The hint encoder's widths, if they are to differ from the usual ones.
        seed: Decides the hint encoder's first weights; the rest is a copy or zero.

    Returns:
        diffusers.ControlNetModel on the base's device, fp32, trainable.

    Raises:
        TrainingError: if the widths do not fit the VAE's stride.
    """
    import torch
    from diffusers import ControlNetModel

    channels = config.embedding_channels or embedding_channels_for(base.vae_stride)
    _check_stride(2 ** (len(channels) - 1), base, f"control.embedding_channels={list(channels)}")
    # diffusers draws the hint encoder from torch's global generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        control_net = ControlNetModel.from_unet(
            base.unet, conditioning_embedding_out_channels=channels
        )
    return control_net.to(base.compute.device).train()


def load_control_net(folder: Path, base: BaseModel) -> Any:  # noqa: ANN401
    """Read a ControlNet in diffusers layout for this base.

    Returns:
        diffusers.ControlNetModel on the base's device, fp32, in evaluation mode.

    Raises:
        TrainingError: if the folder is no ControlNet, or one that does not fit the base.
    """
    import torch
    from diffusers import ControlNetModel

    load: Any = ControlNetModel.from_pretrained
    try:
        control_net = load(folder)
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"cannot load a ControlNet from {folder}: {error}; expected config.json and "
            "diffusion_pytorch_model.safetensors as condkit train writes them"
        ) from error
    _check_stride(control_stride(control_net), base, f"the ControlNet in {folder}")
    for name in ("block_out_channels", "cross_attention_dim", "in_channels"):
        ours, theirs = getattr(control_net.config, name), getattr(base.unet.config, name)
        if ours != theirs and list(_listed(ours)) != list(_listed(theirs)):
            raise TrainingError(
                f"the ControlNet in {folder} was made for a base with {name}={ours}, and "
                f"{base.name!r} has {theirs}; give the base it was trained on"
            )
    if control_net.dtype != torch.float32:
        control_net.float()
    return control_net.to(base.compute.device).eval()


def _listed(value: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _check_stride(stride: int, base: BaseModel, what: str) -> None:
    if stride != base.vae_stride:
        raise TrainingError(
            f"{what} shrinks the condition map {stride} times, and the VAE of base "
            f"{base.name!r} shrinks the picture {base.vae_stride} times; they must be equal: "
            f"use {len(embedding_channels_for(base.vae_stride))} channel counts, such as "
            f"{list(embedding_channels_for(base.vae_stride))}"
        )
