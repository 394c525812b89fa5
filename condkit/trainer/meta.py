"""The two networks without their weights, to be counted instead of run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Hw = tuple[int, int]
"""Height and width."""

TOKENS = 77
"""Length of a caption. Source: CLIP's context."""


@dataclass(frozen=True, slots=True)
class MetaNetworks:
    """A UNet and a ControlNet whose tensors have shapes and no numbers.

    Attributes:
        unet: diffusers.UNet2DConditionModel.
        control_net: diffusers.ControlNetModel.
    """

    unet: Any
    control_net: Any

    def inputs(self, batch: int, latent_hw: Hw) -> dict[str, Any]:
        """Arguments of both networks for a batch.

        Args:
            batch: Samples.
            latent_hw: Height and width of the latents.
        """
        import torch

        unet, control = self.unet.config, self.control_net.config
        stride = 2 ** (len(control.conditioning_embedding_out_channels) - 1)
        height, width = latent_hw

        def empty(*shape: int) -> torch.Tensor:
            return torch.empty(shape, device="meta")

        conditions: dict[str, Any] = {
            "encoder_hidden_states": empty(batch, TOKENS, _text_width(unet)),
            "return_dict": False,
        }
        if unet.addition_embed_type == "text_time":
            pooled = unet.projection_class_embeddings_input_dim - 6 * unet.addition_time_embed_dim
            conditions["added_cond_kwargs"] = {
                "text_embeds": empty(batch, pooled),
                "time_ids": empty(batch, 6),
            }
        return {
            "sample": empty(batch, unet.in_channels, height, width),
            "timestep": torch.empty(batch, dtype=torch.int64, device="meta"),
            "hint": empty(batch, 3, stride * height, stride * width),
            "conditions": conditions,
        }


def meta_networks(unet: Any, control_net: Any, *, unlocked: bool = False) -> MetaNetworks:  # noqa: ANN401
    """Copies of two networks on the meta device, trainable where the originals are.

    Args:
        unet: diffusers.UNet2DConditionModel.
        control_net: diffusers.ControlNetModel.
        unlocked: Whether the UNet's decoder is to be trained too.
    """
    import torch

    from condkit.trainer.control_lora import add_control_lora, rank_of
    from condkit.trainer.decoder import decoder_parameters

    with torch.device("meta"):
        copy = type(unet).from_config(unet.config).eval().requires_grad_(False)
        control = type(control_net).from_config(control_net.config).train()
        if rank := rank_of(control_net):
            add_control_lora(control, rank, 0)
    for name, parameter in control_net.named_parameters():
        control.get_parameter(name).requires_grad_(parameter.requires_grad)
    if unlocked:
        for parameter in decoder_parameters(copy).values():
            parameter.requires_grad_(True)
    return MetaNetworks(copy, control)


def _text_width(config: Any) -> int:  # noqa: ANN401 - diffusers' FrozenDict
    width = config.cross_attention_dim
    return int(width if isinstance(width, int) else width[0])
