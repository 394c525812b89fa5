"""Small base models and a small dataset on disk, read back through the same code as real ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.imageio import encode_png
from condkit.runtime import Runtime
from condkit.scenes import draw_scene
from condkit.trainer.base_loading import load_base
from condkit.trainer.base_model import BaseModel
from condkit.trainer.compute import resolve_compute
from condkit.trainer.config import TrainConfig
from condkit.trainer.recipes import load_recipe


def write_dataset(folder: Path, train: int, validation: int, seed: int = 0) -> Path:
    """Scenes with their canny maps, as `condkit build --format imagefolder` lays them out."""
    import numpy as np

    plan = plan_annotation(["canny"])
    with Annotator(plan, Runtime(device="cpu")) as annotator:
        for split, first, count in (("train", 0, train), ("validation", train, validation)):
            lines = []
            for i in range(first, first + count):
                scene = draw_scene(np.random.default_rng([seed, i]))
                image, name = encode_png(scene.image), f"{i:06d}.png"
                condition = encode_png(annotator([scene.image])[0]["canny"].pixels)
                for kind, data in (("images", image), ("canny", condition)):
                    path = folder / split / kind / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
                lines.append(
                    {
                        "file_name": f"images/{name}",
                        "text": scene.caption,
                        "canny_file_name": f"canny/{name}",
                        "sha256": hashlib.sha256(image).hexdigest(),
                    }
                )
            table = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / split / "metadata.jsonl").write_text(table, encoding="utf-8")
    manifest = {
        "condkit_dataset": 1,
        "format": "imagefolder",
        "conditions": {spec.name: spec.as_dict() for spec in plan.specs},
        "data": {},
        "annotation": plan.as_dict(),
        "rows": {"train": train, "validation": validation},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def write_base(folder: Path, *, prediction: str, vae_levels: int) -> Path:
    """A random Stable Diffusion in diffusers layout; its VAE shrinks by 2 ** (vae_levels - 1)."""
    import torch
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(7)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    vae = AutoencoderKL(
        block_out_channels=(16,) * vae_levels,
        down_block_types=("DownEncoderBlock2D",) * vae_levels,
        up_block_types=("UpDecoderBlock2D",) * vae_levels,
        norm_num_groups=8,
        layers_per_block=1,
    )
    tokenizer = _tokenizer(folder)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", prediction_type=prediction, clip_sample=False, steps_offset=1
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def write_xl_base(folder: Path) -> Path:
    """A random SDXL in diffusers layout: two text encoders, sizes as conditions, VAE stride 8."""
    import torch
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(8)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=2,
        norm_num_groups=8,
        cross_attention_dim=64,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
    )
    vae = AutoencoderKL(
        block_out_channels=(16,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
        layers_per_block=1,
        scaling_factor=0.13025,
    )
    tokenizer = _tokenizer(folder)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(config),
        text_encoder_2=CLIPTextModelWithProjection(config),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def _tokenizer(folder: Path):
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "scenes", 10, 3)


@pytest.fixture(scope="session")
def epsilon_base(tmp_path_factory) -> Path:
    """Predicts noise; VAE stride 4."""
    folder = tmp_path_factory.mktemp("base") / "epsilon"
    return write_base(folder, prediction="epsilon", vae_levels=3)


@pytest.fixture(scope="session")
def velocity_base(tmp_path_factory) -> Path:
    """Predicts velocity; VAE stride 8."""
    folder = tmp_path_factory.mktemp("base") / "velocity"
    return write_base(folder, prediction="v_prediction", vae_levels=4)


@pytest.fixture(scope="session")
def xl_base(tmp_path_factory) -> Path:
    """SDXL: predicts noise; VAE stride 8."""
    return write_xl_base(tmp_path_factory.mktemp("base") / "xl")


@pytest.fixture(scope="session", params=["epsilon_base", "velocity_base", "xl_base"])
def base_folder(request) -> Path:
    """Every kind of base model."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def base(base_folder) -> BaseModel:
    return load_base(str(base_folder), resolve_compute("cpu", "fp32"))


@pytest.fixture
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_run():
    """Makes settings of a run of a few seconds."""

    def make(**settings: str) -> TrainConfig:
        usual = {
            "run.steps": "4",
            "run.log_every": "2",
            "data.batch_size": "2",
            "data.resolution": "none",
            "optim.accumulation": "1",
            "optim.lr": "1e-3",
            "checkpoint.every": "2",
            "preview.every": "0",
        }
        changed = {name.replace("__", "."): value for name, value in settings.items()}
        return load_recipe("canny", {**usual, **changed})

    return make
