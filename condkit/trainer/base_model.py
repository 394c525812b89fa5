"""The frozen Stable Diffusion model that a ControlNet steers."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from condkit.errors import TrainingError
from condkit.trainer.compute import Compute

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

BUILT_IN = "condkit/tiny"
"""Name of the small model that comes with condkit."""

PredictionType = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True, slots=True)
class TextStates:
    """Captions as a UNet takes them.

    Attributes:
        hidden: (B, tokens, channels).
        pooled: (B, channels) of SDXL's second text encoder; None for Stable Diffusion 1.x and 2.x.
    """

    hidden: torch.Tensor
    pooled: torch.Tensor | None = None


TextMemory = Callable[[Sequence[str]], "TextStates | None"]
"""From captions to their states on the model's device, or None where one is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """The parts of a latent diffusion model, frozen, fp32, on one device.

    Attributes:
        name: What the user called it; written into the run.
        unet: diffusers.UNet2DConditionModel.
        vae: diffusers.AutoencoderKL.
        text_encoder: transformers.CLIPTextModel.
        tokenizer: transformers.CLIPTokenizer.
        text_encoder_2: SDXL's second text encoder, transformers.CLIPTextModelWithProjection, or
            None.
        tokenizer_2: Its tokenizer, or None.
        scheduler: diffusers.DDPMScheduler, the training noise schedule.
        prediction_type: What the UNet predicts, as the scheduler's configuration says.
        compute: Device and precision.
        text_memory: Where the states of captions are known from, or None.
    """

    name: str
    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    text_encoder_2: Any = None
    tokenizer_2: Any = None
    scheduler: Any
    prediction_type: PredictionType
    compute: Compute
    text_memory: TextMemory | None = None
    _fingerprints: dict[str, str] = field(default_factory=dict)

    @property
    def is_xl(self) -> bool:
        """Whether this is SDXL: two text encoders, and sizes as conditions."""
        return self.text_encoder_2 is not None

    @property
    def vae_stride(self) -> int:
        """Image pixels per latent pixel along one side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def unit(self) -> int:
        """Image sides must be multiples of this many pixels: VAE stride times UNet downsampling."""
        return int(self.vae_stride * 2 ** (len(self.unet.config.block_out_channels) - 1))

    @property
    def modules(self) -> dict[str, Any]:
        """The parts that hold weights, by name."""
        parts = {"unet": self.unet, "vae": self.vae, "text_encoder": self.text_encoder}
        return parts | ({"text_encoder_2": self.text_encoder_2} if self.is_xl else {})

    @property
    def fingerprint(self) -> str:
        """Hash of every weight and of the noise schedule, "sha256:..."."""
        parts = [self._fingerprint(name) for name in self.modules]
        schedule = sorted((key, str(value)) for key, value in self.scheduler.config.items())
        return _sha256([*(part.encode() for part in parts), str(schedule).encode()])

    @property
    def vae_fingerprint(self) -> str:
        """Hash of the VAE's weights, "sha256:..."; part of every cached latent's key."""
        return self._fingerprint("vae")

    @property
    def text_fingerprint(self) -> str:
        """Hash of the text encoders' weights, "sha256:..."; part of every cached caption's key."""
        encoders = [name for name in self.modules if name.startswith("text_encoder")]
        return _sha256(self._fingerprint(name).encode() for name in encoders)

    def _fingerprint(self, name: str) -> str:
        if name not in self._fingerprints:
            self._fingerprints[name] = _hash_weights(self.modules[name])
        return self._fingerprints[name]

    def encode_text(self, captions: Sequence[str]) -> TextStates:
        """Captions as the base was trained to read them, from `text_memory` where it has them.

        Args:
            captions: Cut where they are longer than the tokenizer allows (77 tokens for CLIP).
        """
        known = self.text_memory(captions) if self.text_memory is not None else None
        return self.read_text(captions) if known is None else known

    def read_text(self, captions: Sequence[str]) -> TextStates:
        """Captions as the text encoders read them.

        Stable Diffusion 1.x and 2.x read the text encoder's last hidden states; SDXL the last but
        one of both encoders side by side, and the second one's pooled output.

        Args:
            captions: Cut where they are longer than the tokenizer allows (77 tokens for CLIP).

        Source: arXiv 2307.01952, section 2.1; diffusers' pipelines.
        """
        import torch

        ids = self._token_ids(self.tokenizer, captions)
        if not self.is_xl:
            return TextStates(self.text_encoder(ids, attention_mask=None)[0])
        first = self.text_encoder(ids, output_hidden_states=True)
        ids = self._token_ids(self.tokenizer_2, captions)
        second = self.text_encoder_2(ids, output_hidden_states=True)
        hidden = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return TextStates(hidden, second.text_embeds)

    def _token_ids(self, tokenizer: Any, captions: Sequence[str]) -> torch.Tensor:  # noqa: ANN401
        ids = tokenizer(
            list(captions),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return cast("torch.Tensor", ids.to(self.compute.device))


def load_base(name: str, compute: Compute, *, offline: bool = False) -> BaseModel:
    """Load a base model and freeze it.

    Args:
        name: "condkit/tiny", a folder in diffusers layout, or a Hugging Face hub id.
        compute: Where it goes; the weights stay fp32.
        offline: Take hub files from the local cache alone.

    Raises:
        TrainingError: if it cannot be loaded, or is no Stable Diffusion 1.x, 2.x or XL
            text-to-image model.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    source = resolve_base(name)

    def part(cls: Any, folder: str) -> Any:  # noqa: ANN401
        return _load_part(
            partial(cls.from_pretrained, local_files_only=offline), source, name, folder
        )

    unet = part(UNet2DConditionModel, "unet")
    _check_unet(unet.config, name)
    vae = part(AutoencoderKL, "vae")
    second: dict[str, Any] = {}
    with _no_transformers_bar():
        text_encoder = part(CLIPTextModel, "text_encoder")
        if unet.config.addition_embed_type == "text_time":
            second["text_encoder_2"] = part(CLIPTextModelWithProjection, "text_encoder_2")
            second["tokenizer_2"] = part(CLIPTokenizer, "tokenizer_2")
    scheduler = part(DDPMScheduler, "scheduler")
    base = BaseModel(
        name=name,
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=part(CLIPTokenizer, "tokenizer"),
        **second,
        scheduler=scheduler,
        prediction_type=_prediction_type(scheduler.config, name),
        compute=compute,
    )
    _check_parts(base)
    _freeze(base)
    return base


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
            f"give --base a diffusers folder, a hub id or {BUILT_IN}"
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


def _hash_weights(module: Any) -> str:  # noqa: ANN401 - torch.nn.Module
    import torch

    def chunks() -> Iterable[bytes | memoryview]:
        for key, tensor in sorted(module.state_dict().items()):
            yield f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode()
            flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
            yield flat.cpu().numpy().data

    return _sha256(chunks())


def _sha256(chunks: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"
