"""The trained part: a copy of the base's encoder behind zero convolutions."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condkit.errors import TrainingError
from condkit.trainer.base_model import BaseModel
from condkit.trainer.checkpoint import LORA_WEIGHTS, saved_control_net
from condkit.trainer.config import ControlConfig
from condkit.trainer.control_lora import (
    MARKER,
    add_control_lora,
    load_lora_state,
    merge_control_lora,
    rank_of,
    whole_layers,
)
from condkit.trainer.decoder import has_decoder
from condkit.trainer.ldm_keys import from_ldm
from condkit.trainer.run_folder import read_record

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

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


def initial_control_net(base: BaseModel, config: ControlConfig, seed: int) -> Any:  # noqa: ANN401
    """What a run begins with: a copy of the base's encoder, or an existing ControlNet.

    Args:
        base: The frozen model.
        config: Says which.
        seed: Decides the hint encoder's first weights where it is new.

    Returns:
        diffusers.ControlNetModel on the base's device, fp32, trainable.

    Raises:
        TrainingError: if `config.start_from` is no ControlNet, or none for this base.
    """
    if config.start_from is None:
        control_net = new_control_net(base, config, seed)
    elif config.lora_rank:
        control_net = _existing_lora(Path(config.start_from).expanduser(), base, config.lora_rank)
    else:
        control_net = _existing(Path(config.start_from).expanduser(), base)
    if config.lora_rank and config.start_from is None:
        add_control_lora(control_net, config.lora_rank, seed)
    if config.only_mid:
        _connect_middle_only(control_net)
    return control_net.train()


def _existing(path: Path, base: BaseModel) -> Any:  # noqa: ANN401
    if path.is_file():
        return read_single_file(path, base)
    path = _folder(path)
    if has_decoder(path):
        logger.warning(
            "%s was trained with its base's decoder unlocked; this run begins with the base's own "
            "decoder, so its first pictures are worse than that run's",
            path,
        )
    return load_control_net(path, base)


def _folder(path: Path) -> Path:
    if (path / "run.json").is_file():
        path = saved_control_net(path, read_record(path))
    if not path.is_dir():
        raise TrainingError(
            f"control.start_from={str(path)!r}: there is no such file or folder; give a diffusers "
            "folder, a training run's folder, or a .safetensors, .pth or .ckpt file"
        )
    return path


def _existing_lora(path: Path, base: BaseModel, rank: int) -> Any:  # noqa: ANN401
    """A Control-LoRA to train on; its differences stay apart from the base's weights."""
    config = ControlConfig()
    if not path.is_file():
        folder = _folder(path)
        path = folder / LORA_WEIGHTS
        if path.is_file():
            shape = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            channels = tuple(shape["conditioning_embedding_out_channels"])
            config = ControlConfig(embedding_channels=channels)
    state = _read_tensors(path) if path.is_file() else {}
    if not any(name.endswith(".down") for name in state):
        raise TrainingError(
            f"control.start_from: control.lora_rank={rank} goes on from a Control-LoRA alone, and "
            f"{path} is none; leave control.lora_rank out to train the whole ControlNet"
        )
    control_net = new_control_net(base, config, 0)
    whole = whole_layers(control_net, state)
    load_lora_state(control_net, state)
    if rank_of(control_net) != rank:
        raise TrainingError(
            f"control.lora_rank={rank}: the Control-LoRA in {path} has rank "
            f"{rank_of(control_net)}; give that"
        )
    add_control_lora(control_net, rank, 0, whole=whole)
    return control_net


def _connect_middle_only(control_net: Any) -> None:  # noqa: ANN401
    """Leave the encoder's outputs at zero: they add nothing, here and wherever it is used."""
    import torch

    for parameter in control_net.controlnet_down_blocks.parameters():
        torch.nn.init.zeros_(parameter)
        parameter.requires_grad_(False)


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


def read_single_file(path: Path, base: BaseModel) -> Any:  # noqa: ANN401
    """Read a ControlNet of one file, as A1111 and ComfyUI use them, for this base.

    Args:
        path: A `.safetensors` file, or a pickle (`.pth`, `.ckpt`), of which only plain tensors are
            read; names of diffusers or of the original release, with or without `control_model.`.
            The differences of a Control-LoRA are added to this base's weights.
        base: The model it is for.

    Returns:
        diffusers.ControlNetModel on the base's device, fp32, in evaluation mode.

    Raises:
        TrainingError: if it cannot be read, or its tensors are not this base's ControlNet's.
    """
    control_net = new_control_net(base, ControlConfig(), 0)
    expected = control_net.state_dict()
    tensors = _read_tensors(path)
    if MARKER in tensors:
        load_lora_state(control_net, tensors)
        merge_control_lora(control_net)
        return control_net.eval()
    state = from_ldm(tensors, expected, layers_per_block=int(control_net.config.layers_per_block))
    wrong = [name for name, tensor in expected.items() if state[name].shape != tensor.shape]
    if wrong:
        raise TrainingError(
            f"{path}: {wrong[0]} has shape {tuple(state[wrong[0]].shape)}, and a ControlNet for "
            f"{base.name!r} has {tuple(expected[wrong[0]].shape)}; it was made for another base"
        )
    control_net.load_state_dict(state)
    return control_net.eval()


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise TrainingError(f"{path}: not a file of plain tensors: {error}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(torch.is_tensor(value) for value in state.values()):
        raise TrainingError(f"{path}: expected tensors by name, got {type(state).__name__}")
    return state


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
