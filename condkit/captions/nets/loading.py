"""What the networks of transformers share: tokenizer, device, pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condkit.captions.nets.pictures import PictureInput
from condkit.errors import WeightsError
from condkit.types import RgbImage

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformer:
    """A model of transformers on its device.

    Attributes:
        model: The model, frozen.
        tokenizer: Its tokenizer.
        input: How pictures come in.
        device: Where it is.
        dtype: What it computes in.
    """

    model: Any
    tokenizer: Any
    input: PictureInput
    device: torch.device
    dtype: torch.dtype

    @property
    def pixels(self) -> int:
        """Of one picture."""
        return self.input.height * self.input.width

    def resize(self, image: RgbImage) -> NDArray[np.uint8]:
        """A picture at the network's size, (H, W, 3) uint8."""
        return self.input.resize(image)

    def on_device(self, values: NDArray[Any]) -> torch.Tensor:
        """An array, copied to the device."""
        import torch

        return torch.from_numpy(values).to(self.device)

    def normalised(self, pictures: NDArray[np.uint8]) -> torch.Tensor:
        """(B, H, W, 3) uint8 as (B, 3, H, W) on the device."""
        return self.input.to_device(pictures, self.device, self.dtype)

    def decode(self, tokens: torch.Tensor) -> list[str]:
        """Text of each row, without special tokens."""
        texts = self.tokenizer.batch_decode(tokens.cpu(), skip_special_tokens=True)
        return [str(text) for text in texts]


def load_tokenizer(folder: Path) -> Any:  # noqa: ANN401 - transformers' have no useful types
    """The tokenizer of a model's folder.

    Raises:
        WeightsError: if it cannot be read.
    """
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # transformers raises whatever the broken file made it stumble over.
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise WeightsError(
            f"{folder}: its tokenizer cannot be loaded ({type(error).__name__}: {reason}); "
            "fetch the model anew"
        ) from error
