"""Base models of the published shapes with random weights, and pairs to train on.

For `training.py`; no file is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from condkit.annotators.annotator import plan_annotation
from condkit.captions import make_captioner
from condkit.pipeline import build
from condkit.runtime import Runtime
from condkit.scenes import draw_scene
from condkit.trainer import base_loading
from condkit.trainer.base_model import BaseModel
from condkit.trainer.compute import Compute
from condkit.weights import WeightStore

_BUILT_IN = base_loading.load_base
"""Kept, as `training.py` puts `make_base` in its place."""

_CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
_CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}
_CLIP_SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 32,
}
_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
_VAE_SMALL = _VAE | {"block_out_channels": (32,) * 4, "layers_per_block": 1}


@dataclass(frozen=True)
class Kind:
    """A model to train on.

    Attributes:
        name: As on the command line.
        side: Pixels of the square pictures.
        batch: Samples per step where nothing else is asked for, on a card of 80 GB.
        unet: Arguments of the UNet; empty for the built-in base.
        small_unet: What is different of them in the small twin.
        text: Arguments of the text encoders: one, or SDXL's two.
        vae: Arguments of the VAE.
        small_text: As `text`, in the small twin.
    """

    name: str
    side: int
    batch: int
    unet: dict[str, Any] = field(default_factory=dict)
    small_unet: dict[str, Any] = field(default_factory=dict)
    text: tuple[dict[str, Any], ...] = ()
    small_text: tuple[dict[str, Any], ...] = ()
    vae: dict[str, Any] = field(default_factory=lambda: dict(_VAE))

    @property
    def base(self) -> str:
        """The base's name in a run."""
        return f"random {self.name}" if self.unet else base_loading.BUILT_IN

    @property
    def is_xl(self) -> bool:
        """Whether there are two text encoders."""
        return len(self.text) == 2

    def small(self) -> Kind:
        """The same structure with few channels on small pictures: to try the script out."""
        return replace(
            self,
            side=64,
            batch=2,
            unet=self.unet | self.small_unet,
            text=self.small_text,
            vae=_VAE_SMALL,
        )


KINDS = {
    kind.name: kind
    for kind in (
        Kind("tiny", 64, 8),
        Kind(
            "sd15",
            512,
            24,
            unet={"cross_attention_dim": 768, "attention_head_dim": 8},
            small_unet={
                "cross_attention_dim": 32,
                "block_out_channels": (32, 32, 64, 64),
                "layers_per_block": 1,
            },
            text=(_CLIP_L,),
            small_text=(_CLIP_SMALL,),
        ),
        Kind(
            "sdxl",
            1024,
            2,
            unet={
                "cross_attention_dim": 2048,
                "attention_head_dim": (5, 10, 20),
                "use_linear_projection": True,
                "block_out_channels": (320, 640, 1280),
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                "transformer_layers_per_block": (1, 2, 10),
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 1280 + 6 * 256,
            },
            small_unet={
                "cross_attention_dim": 64,
                "attention_head_dim": (1, 2, 2),
                "block_out_channels": (32, 64, 64),
                "transformer_layers_per_block": (1, 1, 2),
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 32 + 6 * 8,
            },
            text=(_CLIP_L, _CLIP_G),
            small_text=(_CLIP_SMALL, _CLIP_SMALL),
        ),
    )
}


def make_base(kind: Kind, compute: Compute) -> BaseModel:
    """The base of a kind, frozen, fp32, made on its device."""
    if not kind.unet:
        return _BUILT_IN(kind.base, compute)
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    with torch.device(compute.device):
        unet, vae = UNet2DConditionModel(**kind.unet), AutoencoderKL(**kind.vae)
        encoders = _text_encoders(kind)
    base = BaseModel(
        name=kind.base,
        unet=unet,
        vae=vae,
        **encoders,
        scheduler=DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
        ),
        prediction_type="epsilon",
        compute=compute,
    )
    for module in base.modules.values():
        module.to(compute.device).eval().requires_grad_(False)
    # Hashing gigabytes of random numbers would only cost the card's time.
    base._fingerprints.update(dict.fromkeys(base.modules, "sha256:random"))
    return base


def _text_encoders(kind: Kind) -> dict[str, Any]:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    first, *others = (CLIPTextConfig(vocab_size=49408, **given) for given in kind.text)
    made = {"text_encoder": CLIPTextModel(first), "tokenizer": _tokenizer()}
    if others:
        second = CLIPTextModelWithProjection(others[0])
        made |= {"text_encoder_2": second, "tokenizer_2": _tokenizer()}
    return made


def _tokenizer() -> Any:  # noqa: ANN401 - transformers.CLIPTokenizer
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def make_pairs(folder: Path, side: int, count: int) -> Path:
    """Captioned scenes with their canny maps, made by `condkit build`; the dataset's folder."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    for number in range(count):
        scene = draw_scene(np.random.default_rng([0, number]))
        picture = Image.fromarray(scene.image).resize((side, side), Image.Resampling.NEAREST)
        picture.save(pictures / f"{number:05d}.png", compress_level=1)
        (pictures / f"{number:05d}.txt").write_text(scene.caption, encoding="utf-8")
    build(
        pictures,
        folder / "pairs",
        plan_annotation(["canny"]),
        Runtime(store=WeightStore(offline=True)),
        captioner=make_captioner("sidecar"),
        size=side,
        val=0.0,
    )
    return folder / "pairs"
