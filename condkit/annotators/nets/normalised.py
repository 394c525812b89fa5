"""A model of transformers that takes colours as they are: the normalisation goes with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from condkit.pretrained import read_normalisation


class Normalised(nn.Module):
    """A model with the normalisation that its folder names.

    Attributes:
        model: transformers' model.
        mean: (1, 3, 1, 1), of the RGB colours in [0, 1] that it was trained on.
        std: (1, 3, 1, 1), likewise.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: Any, folder: Path) -> None:  # noqa: ANN401 - untyped package
        """Take a model in float32 on the CPU and the normalisation of its folder."""
        super().__init__()
        self.model = model
        for name, values in zip(("mean", "std"), read_normalisation(folder), strict=True):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, h, w) RGB in [0, 255] as the model wants it, channels last."""
        values = (pixels / 255 - self.mean) / self.std
        return values.contiguous(memory_format=torch.channels_last)
