"""The objective: how wrong the controlled prediction is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from condkit.trainer.base_model import BaseModel, TextStates

if TYPE_CHECKING:
    import torch


def prediction(
    base: BaseModel,
    control_net: Any,  # noqa: ANN401 - diffusers.ControlNetModel
    noisy: torch.Tensor,
    timesteps: torch.Tensor,
    text: TextStates,
    hint: torch.Tensor,
    time_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """What the base predicts when the ControlNet steers it.

    Args:
        base: The frozen model.
        control_net: The trained copy.
        noisy: (B, C, h, w) noisy latents, float32.
        timesteps: (B,) int64.
        text: The captions.
        hint: (B, 3, H, W) float32 in [0, 1].
        time_ids: (B, 6) original height and width, top and left of the crop, its height and width,
            in pixels; for SDXL alone.

    Returns:
        (B, C, h, w) float32: noise or velocity, as the base was trained.
    """
    conditions: dict[str, Any] = {"encoder_hidden_states": text.hidden, "return_dict": False}
    if base.is_xl:
        conditions["added_cond_kwargs"] = {"text_embeds": text.pooled, "time_ids": time_ids}
    with base.compute.autocast():
        down, middle = control_net(noisy, timesteps, controlnet_cond=hint, **conditions)
        predicted = base.unet(
            noisy,
            timesteps,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            **conditions,
        )[0]
    return cast("torch.Tensor", predicted.float())


def target(
    base: BaseModel, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """What the prediction should be: the noise, or the velocity (arXiv 2202.00512)."""
    if base.prediction_type == "epsilon":
        return noise
    return cast("torch.Tensor", base.scheduler.get_velocity(latents, noise, timesteps))


def sample_losses(predicted: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean squared error of each sample, (B,) float32. Source: arXiv 2302.05543, equation 5."""
    return (predicted - wanted).square().flatten(1).mean(dim=1)


def min_snr_weights(base: BaseModel, timesteps: torch.Tensor, gamma: float) -> torch.Tensor:
    """Weights that keep easy timesteps from outweighing the others.

    Args:
        base: Its noise schedule and what it predicts.
        timesteps: (B,) int64.
        gamma: The largest signal-to-noise ratio that counts.

    Returns:
        (B,) float32: min(SNR, gamma) / SNR for noise, min(SNR, gamma) / (SNR + 1) for velocity.

    Source: T. Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy",
    arXiv 2303.09556, section 3.4.
    """
    from diffusers import training_utils

    compute_snr: Any = training_utils.compute_snr
    snr = cast("torch.Tensor", compute_snr(base.scheduler, timesteps))
    clipped = snr.clamp(max=gamma)
    return clipped / snr if base.prediction_type == "epsilon" else clipped / (snr + 1)
