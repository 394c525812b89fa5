"""Instance normalisation in any number format with statistics in fp32."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

_EPSILON = 1e-5
_VALUES = 1 << 18
"""Values of a block: 1 MiB of fp32, which stays in a core's cache."""


class InstanceNorm(nn.Module):
    """`nn.InstanceNorm2d` without weights, and a ReLU after it where wanted.

    The statistics are summed in fp32. On CPUs the pixels, channels last, go over memory twice only,
    where torch's own would bring them into another order and back.
    """

    def __init__(self, *, relu: bool = False) -> None:
        """Choose.

        Args:
            relu: Whether negative values become zero.
        """
        super().__init__()
        self.relu = relu

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Give each channel of each image mean 0 and variance 1.

        Args:
            hidden: (N, C, H, W); used up: on CPUs its memory holds the result.
        """
        if hidden.device.type != "cpu" or _is_exported():
            done = F.instance_norm(hidden.float(), eps=_EPSILON).to(hidden.dtype)
        else:
            centre, scale, shift = _statistics(hidden)
            done = torch.addcmul(shift, hidden.sub_(centre), scale, out=hidden)
        return F.relu_(done) if self.relu else done


def _is_exported() -> bool:
    """Whether an exporter or a compiler is looking, which knows the operation by its name."""
    return torch._C._get_tracing_state() is not None or torch.compiler.is_compiling()


def _statistics(hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What to take off, to multiply with and to add, each (N, C, 1, 1) in the pixels' format.

    What is taken off is the mean, but for its last bits, which are in what is added: so nothing is
    lost where a mean is large beside the deviation.
    """
    centres, scales, shifts = [], [], []
    for pixels in hidden.permute(0, 2, 3, 1).flatten(1, 2):
        count, channels = pixels.shape
        total, squares = torch.zeros(channels), torch.zeros(channels)
        # Near the mean already, so that a small variance does not drown in large squares.
        near = pixels[:: max(1, count // 64)].float().mean(dim=0)
        for part in torch.split(pixels, max(1, _VALUES // channels)):
            block = part - near
            total += block.sum(dim=0)
            squares += block.square_().sum(dim=0)
        off = total / count
        mean = near + off
        scale = torch.rsqrt((squares / count - off.square()).clamp_(min=0) + _EPSILON)
        centre = mean.to(hidden.dtype)
        centres.append(centre)
        scales.append(scale.to(hidden.dtype))
        shifts.append(((centre.float() - mean) * scale).to(hidden.dtype))
    shape = (len(scales), -1, 1, 1)
    centre, scale, shift = (torch.stack(each).view(shape) for each in (centres, scales, shifts))
    return centre, scale, shift
