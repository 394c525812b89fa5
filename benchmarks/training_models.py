"""Base models of the published shapes with random weights, for `training.py`: no file is needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from condkit.trainer.base_loading import load_base
from condkit.trainer.base_model import BaseModel
from condkit.trainer.compute import Compute

_CLIP_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
_CLIP_G = {
    "vocab_size": 49408,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}
_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}


@dataclass(frozen=True)
class Kind:
    """A model to train on.

    Attributes:
        name: As on the command line.
        side: Pixels of the square pictures.
        batch: Samples per step where nothing else is asked for, on a card of 80 GB.
        unet: Arguments of the UNet; empty for the built-in base.
        is_xl: Whether there are two text encoders.
    """

    name: str
    side: int
    batch: int
    unet: dict[str, Any] = field(default_factory=dict)
    is_xl: bool = False


KINDS = {
    kind.name: kind
    for kind in (
        Kind("tiny", 64, 8),
        Kind("sd15", 512, 32, {"cross_attention_dim": 768, "attention_head_dim": 8}),
        Kind(
            "sdxl",
            1024,
            4,
            {
                "cross_attention_dim": 2048,
                "attention_head_dim": (5, 10, 20),
                "use_linear_projection": True,
                "block_out_channels": (320, 640, 1280),
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                "transformer_layers_per_block": (1, 2, 10),
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2816,
            },
            is_xl=True,
        ),
    )
}


def make_base(kind: Kind, compute: Compute) -> BaseModel:
    """The base of a kind, frozen, fp32, made on its device."""
    if not kind.unet:
        return load_base("condkit/tiny", compute)
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    with torch.device(compute.device):
        unet, vae = UNet2DConditionModel(**kind.unet), AutoencoderKL(**_VAE)
        text = CLIPTextModel(CLIPTextConfig(**_CLIP_L))
        second: dict[str, Any] = {}
        if kind.is_xl:
            second["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**_CLIP_G))
            second["tokenizer_2"] = _tokenizer()
    base = BaseModel(
        name=f"random {kind.name}",
        unet=unet,
        vae=vae,
        text_encoder=text,
        tokenizer=_tokenizer(),
        **second,
        scheduler=DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
        ),
        prediction_type="epsilon",
        compute=compute,
    )
    for module in base.modules.values():
        module.to(compute.device).eval().requires_grad_(False)
    # Hashing 4 GB of random numbers would only cost the card's time.
    base._fingerprints.update(dict.fromkeys(base.modules, "sha256:random"))
    return base


def _tokenizer() -> Any:  # noqa: ANN401 - transformers.CLIPTokenizer
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
