"""Base models from folders, files and the hub: loaded, checked, frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, cast

from condkit.errors import TrainingError
from condkit.trainer.base_model import BaseModel, PredictionType
from condkit.trainer.compute import Compute
from condkit.trainer.single_file import is_single_file, load_parts, predicts_velocity

BUILT_IN = "condkit/tiny"
"""Name of the small model that comes with condkit."""


def load_base(
    name: str,
    compute: Compute,
    *,
    offline: bool = False,
    prediction: PredictionType | None = None,
) -> BaseModel:
    """Load a base model and freeze it.

    Args:
        name: "condkit/tiny", a folder in diffusers layout, a `.safetensors` file with a whole
            model, or a Hugging Face hub id.
        compute: Where it goes; the weights stay fp32.
        offline: Take hub files from the local cache alone.
        prediction: What the UNet predicts, where its scheduler (or, of a file, a look at what it
            makes of noise) is not to be believed.

    Raises:
        TrainingError: if it cannot be loaded, or is no Stable Diffusion 1.x, 2.x or XL
            text-to-image model.
    """
    parts = load_parts(name, offline=offline) if is_single_file(name) else _parts(name, offline)
    scheduler = parts["scheduler"]
    if prediction is not None:
        scheduler.register_to_config(prediction_type=prediction)
    _check_unet(parts["unet"].config, name)
    kind = _prediction_type(scheduler.config, name)
    base = BaseModel(name=name, **parts, prediction_type=kind, compute=compute)
    _check_parts(base)
    _freeze(base)
    if is_single_file(name) and prediction is None and _may_predict_velocity(base):
        scheduler.register_to_config(prediction_type="v_prediction")
        return replace(base, prediction_type="v_prediction")
    return base


def _may_predict_velocity(base: BaseModel) -> bool:
    """Of a file, whether it is a Stable Diffusion 2 that predicts velocity."""
    if base.is_xl or not base.unet.config.use_linear_projection:
        return False
    steps = int(base.scheduler.config.num_train_timesteps)
    return predicts_velocity(base.unet, base.read_text([""]).hidden, steps)


def _parts(name: str, offline: bool) -> dict[str, Any]:
    """The networks, tokenizers and scheduler of a folder or hub id, by `BaseModel`'s names."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    source = resolve_base(name)

    def part(cls: Any, folder: str) -> Any:  # noqa: ANN401
        return _load_part(
            partial(cls.from_pretrained, local_files_only=offline), source, name, folder
        )

    unet = part(UNet2DConditionModel, "unet")
    _check_unet(unet.config, name)
    parts: dict[str, Any] = {"unet": unet, "vae": part(AutoencoderKL, "vae")}
    with _no_transformers_bar():
        parts["text_encoder"] = part(CLIPTextModel, "text_encoder")
        if unet.config.addition_embed_type == "text_time":
            parts["text_encoder_2"] = part(CLIPTextModelWithProjection, "text_encoder_2")
            parts["tokenizer_2"] = part(CLIPTokenizer, "tokenizer_2")
    parts["scheduler"] = part(DDPMScheduler, "scheduler")
    parts["tokenizer"] = part(CLIPTokenizer, "tokenizer")
    return parts


def _freeze(base: BaseModel) -> None:
    import torch

    for module in base.modules.values():
        # Asked first: diffusers warns of every cast, also of one that changes nothing.
        if module.dtype != torch.float32:
            module.float()
        module.to(base.compute.device).eval().requires_grad_(False)


def resolve_base(name: str) -> str:
    """The folder of a base model, or the hub id as it is.

    Raises:
        TrainingError: if the name is no folder in diffusers layout and cannot be a hub id.
    """
    if name == BUILT_IN:
        folder = Path(str(resources.files("condkit") / "assets" / "tiny"))
        if not (folder / "model_index.json").is_file():
            raise TrainingError(
                f"the built-in base {BUILT_IN} is not in this installation ({folder}); install "
                "condkit again"
            )
        return str(folder)
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise TrainingError(
                f"base {name!r}: expected a diffusers folder with model_index.json, unet, vae, "
                "text_encoder, tokenizer and scheduler; there is no model_index.json in it"
            )
        return str(folder)
    if name.count("/") != 1 or name.startswith((".", "~", "/")):
        raise TrainingError(
            f"base {name!r}: there is no such folder, and a hub id has the form OWNER/NAME; "
            f"give --base a diffusers folder, a .safetensors file, a hub id or {BUILT_IN}"
        )
    return name


def _load_part(load: Callable[..., Any], source: str, name: str, part: str) -> Any:  # noqa: ANN401
    try:
        return load(source, subfolder=part)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise TrainingError(
            f"base {name!r}: cannot load its {part} ({reason}); give --base a complete diffusers "
            f"folder, a hub id that this machine can reach, or {BUILT_IN}"
        ) from error


@contextmanager
def _no_transformers_bar() -> Iterator[None]:
    """Without the bar that transformers draws for every model it reads, however small."""
    from transformers.utils import logging as transformers_logging

    bars: Any = transformers_logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def _check_unet(config: Any, name: str) -> None:  # noqa: ANN401 - diffusers' FrozenDict
    if config.addition_embed_type not in (None, "text_time"):
        raise TrainingError(
            f"base {name!r}: expected a Stable Diffusion 1.x, 2.x or XL UNet, got one with "
            f"addition_embed_type={config.addition_embed_type!r}; choose one of those models"
        )
    if config.class_embed_type is not None or config.num_class_embeds is not None:
        raise TrainingError(
            f"base {name!r}: expected a text-to-image UNet, got one with class embeddings "
            "(upscalers have them); choose a Stable Diffusion 1.x, 2.x or XL model"
        )


def _check_parts(base: BaseModel) -> None:
    name, unet, vae = base.name, base.unet, base.vae
    latent_channels = vae.config.latent_channels
    if unet.config.in_channels != latent_channels:
        raise TrainingError(
            f"base {name!r}: the UNet takes {unet.config.in_channels} channels and the VAE gives "
            f"{latent_channels} (inpainting and editing models differ so); choose a plain "
            "text-to-image model"
        )
    encoders = [part for key, part in base.modules.items() if key.startswith("text_encoder")]
    width = sum(encoder.config.hidden_size for encoder in encoders)
    if unet.config.cross_attention_dim != width:
        raise TrainingError(
            f"base {name!r}: the UNet attends to {unet.config.cross_attention_dim} text channels "
            f"and the text encoder gives {width}; the folder mixes two models"
        )


def _prediction_type(config: Any, name: str) -> PredictionType:  # noqa: ANN401
    kind = config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise TrainingError(
            f"base {name!r}: expected a scheduler that predicts epsilon or v_prediction, got "
            f"{kind!r}; correct prediction_type in its scheduler/scheduler_config.json"
        )
    return cast("PredictionType", kind)
