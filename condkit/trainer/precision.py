"""Frozen weights in the type that they are computed in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from condkit.trainer.base_model import BaseModel
from condkit.trainer.config import TrainConfig
from condkit.trainer.decoder import DECODER_PARTS

if TYPE_CHECKING:
    import torch


def hold_in(module: Any, dtype: torch.dtype, *, but: Sequence[str] = ()) -> None:  # noqa: ANN401
    """Keep a frozen network's convolutions and linear layers in the autocast type.

    Autocast would cast them so at every use: the results are the same to the bit, the weights take
    half of the memory, and nothing is cast again and again. Normalisation, embeddings and lone
    parameters stay in fp32, as autocast computes with them as they are.

    Args:
        module: A torch.nn.Module.
        dtype: The type of the arithmetic; torch.float32 changes nothing.
        but: Beginnings of the names of layers that stay as they are, because they will be trained.
    """
    import torch

    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    for name, layer in module.named_modules():
        if isinstance(layer, kinds) and not f"{name}.".startswith(tuple(but)):
            layer.to(dtype)


def hold_base(base: BaseModel, config: TrainConfig) -> None:
    """`hold_in` for all parts of a base, but what is going to be trained.

    Args:
        base: The frozen model; its hash is taken before.
        config: Says whether the decoder will be unlocked.
    """
    # Hashes are of the weights as they were published.
    _ = base.fingerprint
    for name, module in base.modules.items():
        trained = name == "unet" and config.control.unlock_decoder is not None
        hold_in(module, base.compute.dtype, but=DECODER_PARTS if trained else ())
