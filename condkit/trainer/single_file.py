"""Base models in one `.safetensors` file, as model sites offer them; nothing is fetched for them.

Only the vocabulary of the text encoders is in no such file: it comes from a folder `tokenizer`
beside it, or is CLIP's from the hub or its cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condkit.errors import TrainingError
from condkit.trainer import ldm_shapes
from condkit.trainer.ldm_shapes import CLIP, OPEN_CLIP, Family, Shapes

if TYPE_CHECKING:
    import torch

VOCABULARY = "openai/clip-vit-large-patch14"
"""Where CLIP's vocabulary is on the hub (MIT licence); all three families use it."""

_OPEN_CLIP_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def is_single_file(name: str) -> bool:
    """Whether a base's name is that of a file."""
    return name.endswith(".safetensors") or Path(name).is_file()


def load_parts(name: str, *, offline: bool = False) -> dict[str, Any]:
    """The networks, tokenizers and scheduler of a base, by `BaseModel`'s names.

    The scheduler predicts noise unless the file says otherwise; `predicts_velocity` tells where it
    does not.

    Args:
        name: The file.
        offline: Take the vocabulary from the local cache alone.

    Raises:
        TrainingError: if it is no whole Stable Diffusion 1.x, 2.x or XL.
    """
    state = _read(name)
    shapes = Shapes({key: tuple(tensor.shape) for key, tensor in state.items()}, name)
    family = ldm_shapes.family_of(shapes)
    parts = _text_parts(state, shapes, family)
    pooled = parts["text_encoder_2"].config.projection_dim if family == "xl" else 0
    parts |= {
        "unet": _unet(state, ldm_shapes.unet_config(shapes, family, pooled), name),
        "vae": _vae(state, ldm_shapes.vae_config(shapes, family), name),
        "scheduler": _scheduler(state),
        "tokenizer": _tokenizer(
            name, parts["text_encoder"].config, "!" if family == "2" else None, offline=offline
        ),
    }
    if family == "xl":
        second = parts["text_encoder_2"].config
        parts["tokenizer_2"] = _tokenizer(name, second, "!", offline=offline)
    return parts


def _read(name: str) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not name.endswith(".safetensors"):
        raise TrainingError(
            f"base {name!r}: expected a .safetensors file; convert other files first (pickled ones "
            "can run code when they are read)"
        )
    try:
        return load_file(name)
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"base {name!r}: cannot read the file: {error}") from error


def _unet(state: Mapping[str, torch.Tensor], config: dict[str, Any], name: str) -> Any:  # noqa: ANN401
    import diffusers
    from diffusers.loaders import single_file_utils

    make: Any = diffusers.UNet2DConditionModel
    convert: Any = single_file_utils.convert_ldm_unet_checkpoint
    unet = make(**config)
    return _filled(unet, convert(dict(state), unet.config), name, "UNet")


def _vae(state: Mapping[str, torch.Tensor], config: dict[str, Any], name: str) -> Any:  # noqa: ANN401
    import diffusers
    from diffusers.loaders import single_file_utils

    make: Any = diffusers.AutoencoderKL
    convert: Any = single_file_utils.convert_ldm_vae_checkpoint
    vae = make(**config)
    own = {key: tensor for key, tensor in state.items() if key.startswith(ldm_shapes.VAE)}
    return _filled(vae, convert(own, vae.config), name, "VAE")


def _filled(module: Any, state: Mapping[str, torch.Tensor], name: str, part: str) -> Any:  # noqa: ANN401
    """The module with exactly these weights, fp32.

    Raises:
        TrainingError: naming what is missing, left over or of another shape.
    """
    try:
        module.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise TrainingError(
            f"base {name!r}: the tensors of its {part} are not those of Stable Diffusion: "
            f"{reason:.300}"
        ) from error
    return module


def _text_parts(
    state: Mapping[str, torch.Tensor], shapes: Shapes, family: Family
) -> dict[str, Any]:
    import transformers

    if family == "2":
        config = ldm_shapes.open_clip_config(shapes, OPEN_CLIP[0], layers_left_out=1)
        encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig(**config))
        tensors = open_clip_names(state, OPEN_CLIP[0], int(config["num_hidden_layers"]))
        tensors.pop("text_projection.weight", None)
        return {"text_encoder": _filled_text(encoder, tensors, shapes.file)}
    prefix = CLIP[1] if family == "xl" else CLIP[0]
    prefix += "text_model." if shapes.has(f"{prefix}text_model.") else ""
    clip = transformers.CLIPTextConfig(**ldm_shapes.clip_config(shapes, prefix))
    own = {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}
    parts = {"text_encoder": _filled_text(transformers.CLIPTextModel(clip), own, shapes.file)}
    if family == "xl":
        config = ldm_shapes.open_clip_config(shapes, OPEN_CLIP[1], layers_left_out=0)
        second = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**config))
        tensors = open_clip_names(state, OPEN_CLIP[1], int(config["num_hidden_layers"]))
        parts["text_encoder_2"] = _filled_text(second, tensors, shapes.file)
    return parts


def _filled_text(encoder: Any, state: Mapping[str, torch.Tensor], name: str) -> Any:  # noqa: ANN401
    """As `_filled`, whether or not this release of transformers wraps its text model."""
    wanted = list(encoder.state_dict())
    wrapped = any(key.startswith("text_model.") for key in wanted)

    def named(key: str) -> str:
        return f"text_model.{key}" if wrapped and not key.startswith("text_projection") else key

    # Older files hold the positions 0, 1, 2 ... as a tensor, which is no weight.
    tensors = {named(key): t for key, t in state.items() if not key.endswith("position_ids")}
    return _filled(encoder, tensors, name, "text encoder")


def open_clip_names(
    state: Mapping[str, torch.Tensor], prefix: str, layers: int
) -> dict[str, torch.Tensor]:
    """OpenCLIP's text encoder under transformers' names.

    Args:
        state: The file's tensors.
        prefix: Of its names.
        layers: How many layers are taken, from the first.
    """
    own = {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}
    found = {
        "embeddings.token_embedding.weight": own["token_embedding.weight"],
        "embeddings.position_embedding.weight": own["positional_embedding"],
        "final_layer_norm.weight": own["ln_final.weight"],
        "final_layer_norm.bias": own["ln_final.bias"],
    }
    if "text_projection" in own:
        found["text_projection.weight"] = own["text_projection"].T.contiguous()
    for layer in range(layers):
        theirs, ours = f"transformer.resblocks.{layer}.", f"encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            joint = own[f"{theirs}attn.in_proj_{kind}"]
            for part, tensor in zip("qkv", joint.chunk(3), strict=True):
                found[f"{ours}self_attn.{part}_proj.{kind}"] = tensor.contiguous()
            for their, our in _OPEN_CLIP_NAMES.items():
                found[f"{ours}{our}.{kind}"] = own[f"{theirs}{their}.{kind}"]
    return found


def _scheduler(state: Mapping[str, torch.Tensor]) -> Any:  # noqa: ANN401
    """The noise schedule of all Stable Diffusions; XL files may mark velocity by empty tensors."""
    import diffusers

    make: Any = diffusers.DDPMScheduler
    return make(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type="v_prediction" if "v_pred" in state else "epsilon",
        rescale_betas_zero_snr="ztsnr" in state,
    )


def _tokenizer(name: str, encoder: Any, padding: str | None, *, offline: bool) -> Any:  # noqa: ANN401
    """The tokenizer of a text encoder, given by its configuration."""
    from transformers import CLIPTokenizer

    beside = Path(name).parent / "tokenizer"
    source = str(beside) if beside.is_dir() else VOCABULARY
    load = partial(CLIPTokenizer.from_pretrained, source, local_files_only=offline)
    try:
        tokenizer: Any = load() if padding is None else load(pad_token=padding)
        # Without files, transformers makes an empty one.
        reason = f"it has {len(tokenizer)} words, the text encoder {encoder.vocab_size}"
        fits = len(tokenizer) == encoder.vocab_size
    except (OSError, ValueError) as error:
        fits, reason = False, str(error).strip().splitlines()[0] if str(error).strip() else ""
    if not fits:
        raise TrainingError(
            f"base {name!r}: the file has no vocabulary, and CLIP's cannot be had from {source} "
            f"({reason}); put a folder 'tokenizer' of any Stable Diffusion in diffusers layout "
            "beside the file"
        )
    tokenizer.model_max_length = int(encoder.max_position_embeddings)
    return tokenizer


def predicts_velocity(unet: Any, text: torch.Tensor, steps: int) -> bool:  # noqa: ANN401
    """Whether a UNet predicts velocity rather than noise, by what it says of pure noise.

    At the last timestep the picture is all but noise: who predicts noise gives it back; who
    predicts velocity gives the negated picture it imagines, which has nothing to do with the noise.
    Stable Diffusion 2 came as both (512: noise, 768: velocity), and no tensor tells them apart.

    Args:
        unet: diffusers.UNet2DConditionModel of Stable Diffusion 2.
        text: (1, tokens, channels) states of the empty caption.
        steps: Timesteps of its schedule.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    shape = (1, int(unet.config.in_channels), 32, 32)
    noise = torch.randn(shape, generator=generator).to(text.device)
    with torch.no_grad():
        said = unet(noise, torch.tensor([steps - 1]), encoder_hidden_states=text).sample
    likeness = torch.nn.functional.cosine_similarity(said.flatten(), noise.flatten(), dim=0)
    return float(likeness) < 0.5
