"""The frozen Stable Diffusion model that a ControlNet steers."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from condkit.trainer.compute import Compute

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

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
        return self.compute.send(ids)


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
