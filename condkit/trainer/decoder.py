"""The base's decoder, where it is trained too, and what that makes of the result.

Source: lllyasviel/ControlNet cldm/cldm.py (`sd_locked = False` adds the output blocks and the
last layers to the optimizer).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from condkit import atomic
from condkit.errors import TrainingError
from condkit.trainer.base_model import BaseModel

if TYPE_CHECKING:
    import torch

DECODER_FILE = "unlocked_decoder.safetensors"
RECORD_FILE = "record.json"

DECODER_PARTS = ("up_blocks.", "conv_norm_out.", "conv_out.")
"""Beginnings of the names of a UNet's weights that belong to its decoder."""


def decoder_parameters(unet: Any) -> dict[str, torch.nn.Parameter]:  # noqa: ANN401
    """The weights of a UNet's output blocks, last normalisation and last convolution, by name."""
    return {name: p for name, p in unet.named_parameters() if name.startswith(DECODER_PARTS)}


def save_decoder(unet: Any, folder: Path, base_fingerprint: str) -> None:  # noqa: ANN401
    """Write the changed decoder beside its ControlNet, and a record that says so.

    Args:
        unet: The base's UNet.
        folder: The ControlNet's folder.
        base_fingerprint: Hash of the base as it was before.
    """
    from safetensors.torch import save_file

    tensors = {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in decoder_parameters(unet).items()
    }
    save_file(tensors, folder / DECODER_FILE, metadata={"format": "pt"})
    atomic.write_json(
        folder / RECORD_FILE,
        {
            "portable": False,
            "reason": "the base's decoder was trained with this ControlNet; it belongs to its own "
            f"base alone, with {DECODER_FILE} in place of the decoder",
            "decoder": DECODER_FILE,
            "base_fingerprint": base_fingerprint,
        },
    )


def has_decoder(folder: Path) -> bool:
    """Whether a ControlNet came with a decoder of its own."""
    return (folder / DECODER_FILE).is_file()


def read_decoder(folder: Path) -> dict[str, torch.Tensor]:
    """The decoder's tensors, by their names in the UNet.

    Raises:
        TrainingError: if the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / DECODER_FILE)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"cannot read {folder / DECODER_FILE}: {error}") from error


def put_decoder(unet: Any, tensors: dict[str, torch.Tensor], where: Path) -> None:  # noqa: ANN401
    """Replace a UNet's decoder.

    Raises:
        TrainingError: if the tensors are not this UNet's decoder.
    """
    import torch

    parameters = decoder_parameters(unet)
    if parameters.keys() != tensors.keys() or any(
        tensors[name].shape != parameter.shape for name, parameter in parameters.items()
    ):
        raise TrainingError(
            f"{where / DECODER_FILE} is the decoder of another kind of base; give the base that "
            "the ControlNet was trained on"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def use_decoder(base: BaseModel, folder: Path, base_fingerprint: str) -> None:
    """Give a base the decoder that a ControlNet was trained with, where there is one.

    Args:
        base: A freshly loaded base.
        folder: The ControlNet's folder.
        base_fingerprint: Hash of the base it was trained on.

    Raises:
        TrainingError: if this is another base: the decoder would not fit its encoder.
    """
    if not has_decoder(folder):
        return
    if base.fingerprint != base_fingerprint:
        raise TrainingError(
            f"the ControlNet in {folder} was trained with its base's decoder unlocked "
            f"(control.unlock_decoder), so it works with that base alone, and {base.name!r} has "
            "other weights; leave --base out"
        )
    put_decoder(base.unet, read_decoder(folder), folder)
