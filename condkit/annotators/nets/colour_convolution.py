"""The first convolution of a network, which sees the colours: exact in bf16 too.

A colour is a whole number from 0 to 255, which bf16 holds exactly, and so it does after a whole
number is taken off. Only the weights do not fit: split into an upper and a lower half they do, and
both halves meet the same colours in one convolution of six channels. Left as it is, this layer
alone would cost up to four grey levels; done in fp32 on a CPU with AMX it would cost as much time
as a third of HED.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class ColourConvolution(nn.Module):
    """A convolution of (colours - mean) x scale.

    Takes (N, 3, H, W) float32 RGB of whole numbers from 0 to 255; gives what `convolution` gives of
    it, in the number format of the weights. In low precision its padding stands for the mean's
    nearest whole number, half a grey level off at most.
    """

    def __init__(
        self,
        convolution: nn.Conv2d,
        *,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        scale: float = 1.0,
        bgr: bool = False,
        activation: nn.Module | None = None,
        split: bool,
    ) -> None:
        """Prepare a convolution.

        Args:
            convolution: Of three channels, in fp32; padding of zeros or none.
            mean: RGB, 0 to 255.
            scale: What the centred colours are multiplied with.
            bgr: Whether the weights are for blue, green, red.
            activation: What follows it.
            split: Split the weights, for computing in bf16 or fp16.
        """
        super().__init__()
        self.centre: torch.Tensor
        self.split = split
        weight = convolution.weight.detach().float() * scale
        if bgr:
            weight = weight.flip(1)
        centre = torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1)
        self.register_buffer("centre", centre.round() if split else centre)
        bias = torch.zeros(len(weight)) if convolution.bias is None else convolution.bias.detach()
        if split:
            bias = bias - (weight * (centre - centre.round())).sum((1, 2, 3))
            high = weight.bfloat16().float()
            weight = torch.cat([high, weight - high], dim=1)
        made = nn.Conv2d(
            weight.shape[1],
            weight.shape[0],
            convolution.kernel_size,  # type: ignore[arg-type]  # torch types it as any tuple
            convolution.stride,  # type: ignore[arg-type]
            convolution.padding,  # type: ignore[arg-type]
        )
        made.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        made.bias = nn.Parameter(bias.float(), requires_grad=False)
        self.layers = nn.Sequential(made, *([] if activation is None else [activation]))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Convolve and activate."""
        colours = pixels - self.centre.float()
        if self.split:
            colours = colours.to(next(self.layers.parameters()).dtype)
            colours = torch.cat([colours, colours], dim=1)
        done: torch.Tensor = self.layers(colours.contiguous(memory_format=torch.channels_last))
        return done
