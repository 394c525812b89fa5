"""Pictures from a base model, with or without a ControlNet.

diffusers' own pipelines do it, so that what is measured here is what users get elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condkit.errors import ConfigError
from condkit.trainer.base_model import BaseModel
from condkit.trainer.data import pixels_from_image
from condkit.trainer.grid import picture_from_pixels
from condkit.types import RgbImage


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How pictures are sampled.

    Attributes:
        steps: DDIM steps (arXiv 2010.02502, eta 0).
        guidance: Classifier-free guidance scale; 1 or less switches it off.
        negative_prompt: What to move away from.
        control_scale: Factor on the ControlNet's outputs.
    """

    steps: int = 20
    guidance: float = 7.5
    negative_prompt: str = ""
    control_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps: expected at least 1 sampling step, got {self.steps}")
        if self.guidance < 0:
            raise ConfigError(f"guidance: expected 0 or more, got {self.guidance}")


class Painter:
    """Generates pictures from prompts and hints.

    Args:
        base: The frozen model.
        control_net: A ControlNet for it, or None to let the prompts alone decide.
    """

    def __init__(self, base: BaseModel, control_net: Any | None) -> None:  # noqa: ANN401
        self._base = base
        self._controlled = control_net is not None
        self._pipeline = _pipeline(base, control_net)

    def __call__(
        self,
        prompts: Sequence[str],
        hints: Sequence[NDArray[np.float32]],
        seeds: Sequence[int],
        sampling: Sampling,
        *,
        padding: float = 0.0,
    ) -> list[RgbImage]:
        """Make one picture per prompt.

        Sides that the model cannot have are padded at the bottom and on the right, and the
        pictures are cropped to the hints' size again; nothing is resized.

        Args:
            prompts: The captions.
            hints: (3, H, W) float32 in [0, 1], one per prompt, all of one size; without a
                ControlNet only their size counts.
            seeds: One per prompt; the initial noise is drawn on the CPU, so it is the same on
                every device.
            sampling: Steps, guidance and so on.
            padding: Hint value of "nothing here".

        Returns:
            (H, W, 3) uint8 pictures.
        """
        import torch

        height, width = hints[0].shape[1:]
        unit = self._base.unit
        full_h, full_w = -(-height // unit) * unit, -(-width // unit) * unit
        edges = ((0, 0), (0, 0), (0, full_h - height), (0, full_w - width))
        hint = np.pad(np.stack(hints), edges, constant_values=padding)
        arguments: dict[str, Any] = {"height": full_h, "width": full_w}
        if self._controlled:
            arguments["image"] = torch.from_numpy(hint)
            arguments["controlnet_conditioning_scale"] = float(sampling.control_scale)
        with torch.no_grad(), self._base.compute.autocast():
            images = self._pipeline(
                prompt=list(prompts),
                negative_prompt=[sampling.negative_prompt] * len(prompts),
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                output_type="np",
                **arguments,
            ).images
        pictures = (np.asarray(images) * 255).round().astype(np.uint8)
        return [np.ascontiguousarray(picture[:height, :width]) for picture in pictures]


def _pipeline(base: BaseModel, control_net: Any | None) -> Any:  # noqa: ANN401
    import diffusers

    parts: dict[str, Any] = {
        "vae": base.vae,
        "text_encoder": base.text_encoder,
        "tokenizer": base.tokenizer,
        "unet": base.unet,
        "scheduler": sampling_scheduler(base.scheduler.config),
        "feature_extractor": None,
    }
    if base.is_xl:
        parts |= {"text_encoder_2": base.text_encoder_2, "tokenizer_2": base.tokenizer_2}
        parts["add_watermarker"] = False
    else:
        parts |= {"safety_checker": None, "requires_safety_checker": False}
    if control_net is not None:
        parts["controlnet"] = control_net
    kind = "XL" * base.is_xl
    kind = f"{kind}ControlNet" if control_net is not None else kind
    pipeline = getattr(diffusers, f"StableDiffusion{kind}Pipeline")(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sampling_scheduler(config: Any) -> Any:  # noqa: ANN401 - diffusers' FrozenDict
    """DDIM on a base's noise schedule."""
    from diffusers import DDIMScheduler

    make: Any = DDIMScheduler.from_config
    # DDIM's own default clips to [-1, 1], which is for pixels, not for latents.
    return make(config, clip_sample=False, thresholding=False)


def through_vae(base: BaseModel, pictures: Sequence[RgbImage]) -> list[RgbImage]:
    """Encode pictures and decode them again: the best that any latent of this base can look like.

    Args:
        base: The model whose VAE is asked.
        pictures: (H, W, 3) uint8, all of one size.

    Returns:
        Pictures of the same size.
    """
    import torch

    height, width = pictures[0].shape[:2]
    edges = ((0, 0), (0, 0), (0, -height % base.unit), (0, -width % base.unit))
    pixels = np.pad(np.stack([pixels_from_image(p) for p in pictures]), edges, mode="edge")
    with torch.no_grad(), base.compute.autocast():
        latents = base.vae.encode(torch.from_numpy(pixels).to(base.compute.device)).latent_dist.mean
        decoded = base.vae.decode(latents).sample.float().cpu().numpy()
    return [picture_from_pixels(image[:, :height, :width]) for image in decoded]
