"""The two names of every tensor of a ControlNet: diffusers' and those of the original release.

A1111 and ComfyUI read both; the original ones (LDM, "latent diffusion models") are what older tools
and the published SD 1.x checkpoints have.

Source: lllyasviel/ControlNet cldm/cldm.py and CompVis/latent-diffusion openaimodel.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from condkit.errors import TrainingError

T = TypeVar("T")

PREFIX = "control_model."
"""What whole-model checkpoints of the original release put before a ControlNet's names."""

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_FIXED = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
    "controlnet_mid_block": "middle_block_out.0",
    "mid_block.attentions.0": "middle_block.1",
}
_MIDDLE = {"0": "middle_block.0", "1": "middle_block.2"}


def ldm_names(names: Iterable[str], *, layers_per_block: int) -> dict[str, str]:
    """The original name of every tensor.

    Args:
        names: All names of `diffusers.ControlNetModel.state_dict()`.
        layers_per_block: From its configuration (2 in every released model).

    Returns:
        diffusers' name to the original one; no two share one.

    Raises:
        TrainingError: for a name that a ControlNet does not have.
    """
    every = list(names)
    hint_blocks = {
        match[1]
        for name in every
        if (match := re.match(r"controlnet_cond_embedding\.blocks\.(\d+)", name))
    }
    fixed = {
        **_FIXED,
        "controlnet_cond_embedding.conv_out": f"input_hint_block.{2 * (len(hint_blocks) + 1)}",
    }
    return {name: _ldm_name(name, fixed, layers_per_block + 1) for name in every}


def to_ldm(state: Mapping[str, T], *, layers_per_block: int) -> dict[str, T]:
    """The tensors under their original names.

    Args:
        state: Under diffusers' names.
        layers_per_block: From the model's configuration.

    Raises:
        TrainingError: for a name that a ControlNet does not have.
    """
    names = ldm_names(state, layers_per_block=layers_per_block)
    return {names[name]: tensor for name, tensor in state.items()}


def from_ldm(
    state: Mapping[str, T], expected: Iterable[str], *, layers_per_block: int
) -> dict[str, T]:
    """The tensors under diffusers' names.

    Args:
        state: Under original names, with or without `PREFIX`; under diffusers' names it is given
            back as it is. What does not belong to the ControlNet is an error, unless the file is a
            whole model, where only what has the prefix counts.
        expected: All names of the diffusers model that it is to fill.
        layers_per_block: From its configuration.

    Raises:
        TrainingError: naming what is missing or left over.
    """
    if any(name.startswith(PREFIX) for name in state):
        state = {n.removeprefix(PREFIX): t for n, t in state.items() if n.startswith(PREFIX)}
    names = ldm_names(expected, layers_per_block=layers_per_block)
    if "conv_in.weight" in state:
        names = {name: name for name in names}
    missing = [theirs for theirs in names.values() if theirs not in state]
    left_over = sorted(set(state) - set(names.values()))
    if missing or left_over:
        raise TrainingError(
            f"these tensors are not the ControlNet's: {len(missing)} missing "
            f"({', '.join(missing[:3]) or 'none'}), {len(left_over)} left over "
            f"({', '.join(left_over[:3]) or 'none'})"
        )
    return {ours: state[theirs] for ours, theirs in names.items()}


def _ldm_name(name: str, fixed: Mapping[str, str], blocks_per_level: int) -> str:
    for ours, theirs in fixed.items():
        if name.startswith(f"{ours}."):
            return theirs + name[len(ours) :]
    if match := re.fullmatch(r"controlnet_down_blocks\.(\d+)\.(.+)", name):
        return f"zero_convs.{match[1]}.0.{match[2]}"
    if match := re.fullmatch(r"controlnet_cond_embedding\.blocks\.(\d+)\.(.+)", name):
        return f"input_hint_block.{2 * (int(match[1]) + 1)}.{match[2]}"
    if match := re.fullmatch(r"mid_block\.resnets\.([01])\.(\w+)\.(.+)", name):
        return f"{_MIDDLE[match[1]]}.{_RESNET[match[2]]}.{match[3]}"
    if match := re.fullmatch(r"down_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name):
        level, kind, number, rest = int(match[1]), match[2], int(match[3]), match[4]
        first = blocks_per_level * level
        if kind == "resnets":
            part, _, last = rest.partition(".")
            return f"input_blocks.{first + number + 1}.0.{_RESNET[part]}.{last}"
        if kind == "attentions":
            return f"input_blocks.{first + number + 1}.1.{rest}"
        if kind == "downsamplers":
            return f"input_blocks.{first + blocks_per_level}.0.op.{rest.removeprefix('conv.')}"
    raise TrainingError(f"a ControlNet of Stable Diffusion has no tensor {name!r}")
