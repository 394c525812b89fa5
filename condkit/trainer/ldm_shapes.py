"""The configurations of a Stable Diffusion in one file, read off the shapes of its tensors.

A `.safetensors` of the original release ("LDM": what model sites offer) says nothing of itself.
What its shapes leave open follows from the family: heads of 64 channels where projections are
linear (2.x and XL), 8 heads where they are convolutions (1.x); the VAE's scale of 1.x and 2.x or
that of XL.

Source: CompVis/latent-diffusion openaimodel.py and Stability-AI/generative-models for the names;
the published configurations of the three families for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from condkit.errors import TrainingError

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.1.model.")

_HEAD = 64
_HEADS_OF_V1 = 8
_SCALE = {"1": 0.18215, "2": 0.18215, "xl": 0.13025}

Shape = tuple[int, ...]
Family = Literal["1", "2", "xl"]


@dataclass(frozen=True, slots=True)
class Shapes:
    """The shapes of a file's tensors.

    Attributes:
        by_name: Name to shape.
        file: The file, for messages.
    """

    by_name: Mapping[str, Shape]
    file: str

    def __getitem__(self, name: str) -> Shape:
        """The shape of a tensor.

        Raises:
            TrainingError: if there is none of that name.
        """
        if name not in self.by_name:
            raise TrainingError(
                f"{self.file}: there is no tensor {name!r} in it; expected a whole Stable "
                "Diffusion 1.x, 2.x or XL in one file, with UNet, VAE and text encoders"
            )
        return self.by_name[name]

    def numbers(self, pattern: str) -> list[int]:
        """The numbers that stand in the group of a pattern, over all names, sorted."""
        found = (re.match(pattern, name) for name in self.by_name)
        return sorted({int(match[1]) for match in found if match})

    def has(self, prefix: str) -> bool:
        """Whether a name begins so."""
        return any(name.startswith(prefix) for name in self.by_name)


def family_of(shapes: Shapes) -> Family:
    """Which Stable Diffusion it is, by its text encoders.

    Raises:
        TrainingError: if it is none.
    """
    if shapes.has("conditioner.embedders.1.") and shapes.has(CLIP[1]):
        return "xl"
    if shapes.has(OPEN_CLIP[0]):
        return "2"
    if shapes.has(CLIP[0]):
        return "1"
    raise TrainingError(
        f"{shapes.file}: expected a whole Stable Diffusion 1.x, 2.x or XL in one file, and found "
        "no text encoder of theirs; a file of UNet weights alone, a LoRA or a refiner is no base"
    )


def unet_config(shapes: Shapes, family: Family, pooled: int) -> dict[str, Any]:
    """The configuration of `diffusers.UNet2DConditionModel`.

    Args:
        shapes: The file's.
        family: Which Stable Diffusion.
        pooled: Channels of SDXL's pooled text.

    Raises:
        TrainingError: if the UNet is none of a text-to-image model.
    """
    if f"{UNET}label_emb.weight" in shapes.by_name:
        raise TrainingError(
            f"{shapes.file}: expected a text-to-image UNet, got one with class embeddings "
            "(upscalers have them)"
        )
    levels = _levels(shapes)
    channels = [level.channels for level in levels]
    kinds = ["CrossAttn" if level.depth else "" for level in levels]
    attention = next(level.attention for level in levels if level.depth)
    linear = len(shapes[f"{attention}.proj_in.weight"]) == 2
    config: dict[str, Any] = {
        "in_channels": shapes[f"{UNET}input_blocks.0.0.weight"][1],
        "out_channels": shapes[f"{UNET}out.2.weight"][0],
        "sample_size": {"1": 64, "2": 96, "xl": 128}[family],
        "block_out_channels": channels,
        "layers_per_block": levels[0].layers,
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "cross_attention_dim": shapes[f"{attention}.transformer_blocks.0.attn2.to_k.weight"][1],
        "use_linear_projection": linear,
        "attention_head_dim": [max(1, c // _HEAD) for c in channels] if linear else _HEADS_OF_V1,
        "transformer_layers_per_block": [max(1, level.depth) for level in levels],
    }
    if family == "xl":
        width = shapes[f"{UNET}label_emb.0.0.weight"][1]
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (width - pooled) // 6,
            "projection_class_embeddings_input_dim": width,
        }
    return config


@dataclass(frozen=True, slots=True)
class _Level:
    """Blocks of one resolution."""

    channels: int
    layers: int
    depth: int
    attention: str


def _levels(shapes: Shapes) -> list[_Level]:
    levels: list[_Level] = []
    blocks: list[int] = []
    last = max(shapes.numbers(rf"{re.escape(UNET)}input_blocks\.(\d+)\."), default=0)
    for number in range(1, last + 1):
        if f"{UNET}input_blocks.{number}.0.op.weight" in shapes.by_name:
            levels.append(_level(shapes, blocks))
            blocks = []
        else:
            blocks.append(number)
    return [*levels, _level(shapes, blocks)]


def _level(shapes: Shapes, blocks: list[int]) -> _Level:
    first = f"{UNET}input_blocks.{blocks[0] if blocks else 1}"
    depth = len(shapes.numbers(rf"{re.escape(first)}\.1\.transformer_blocks\.(\d+)\."))
    channels = shapes[f"{first}.0.out_layers.3.weight"][0]
    return _Level(channels, len(blocks), depth, f"{first}.1")


def vae_config(shapes: Shapes, family: Family) -> dict[str, Any]:
    """The configuration of `diffusers.AutoencoderKL`."""
    levels = shapes.numbers(rf"{re.escape(VAE)}encoder\.down\.(\d+)\.") or [0]
    layers = shapes.numbers(rf"{re.escape(VAE)}encoder\.down\.0\.block\.(\d+)\.")
    return {
        "in_channels": shapes[f"{VAE}encoder.conv_in.weight"][1],
        "out_channels": shapes[f"{VAE}decoder.conv_out.weight"][0],
        "block_out_channels": [
            shapes[f"{VAE}encoder.down.{level}.block.0.conv1.weight"][0] for level in levels
        ],
        "down_block_types": ["DownEncoderBlock2D"] * len(levels),
        "up_block_types": ["UpDecoderBlock2D"] * len(levels),
        "layers_per_block": len(layers),
        "latent_channels": shapes[f"{VAE}quant_conv.weight"][0] // 2,
        "sample_size": 1024 if family == "xl" else 512,
        "scaling_factor": _SCALE[family],
        "force_upcast": family == "xl",
    }


def clip_config(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """The configuration of OpenAI's CLIP text encoder, under transformers' names."""
    vocabulary, width = shapes[f"{prefix}embeddings.token_embedding.weight"]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes[f"{prefix}encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": len(shapes.numbers(rf"{re.escape(prefix)}encoder\.layers\.(\d+)\.")),
        "num_attention_heads": max(1, width // _HEAD),
        "max_position_embeddings": shapes[f"{prefix}embeddings.position_embedding.weight"][0],
        "hidden_act": "quick_gelu",
        "projection_dim": width,
    }


def open_clip_config(shapes: Shapes, prefix: str, *, layers_left_out: int) -> dict[str, Any]:
    """The configuration of OpenCLIP's text encoder as transformers has it.

    Args:
        shapes: The file's.
        prefix: Of its names.
        layers_left_out: Stable Diffusion 2 reads the last layer but one, so the last is not there.
    """
    vocabulary, width = shapes[f"{prefix}token_embedding.weight"]
    blocks = shapes.numbers(rf"{re.escape(prefix)}transformer\.resblocks\.(\d+)\.")
    projection = shapes.by_name.get(f"{prefix}text_projection", (width, width))
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes[f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"][0],
        "num_hidden_layers": len(blocks) - layers_left_out,
        "num_attention_heads": max(1, width // _HEAD),
        "max_position_embeddings": shapes[f"{prefix}positional_embedding"][0],
        "hidden_act": "gelu",
        "projection_dim": projection[1],
    }
