"""A weight as a locked one plus a product of two small factors."""

from __future__ import annotations

import torch


class LowRankDifference(torch.nn.Module):
    """For `torch.nn.utils.parametrize`: gives W + up @ down in the shape of W.

    Args:
        up: (out, rank) float32.
        down: (rank, fan-in) float32.
    """

    def __init__(self, up: torch.Tensor, down: torch.Tensor) -> None:
        super().__init__()
        self.up = torch.nn.Parameter(up)
        self.down = torch.nn.Parameter(down)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight that the layer computes with.

        Args:
            weight: (out, ...) with fan-in numbers for each output.
        """
        return weight + (self.up @ self.down).reshape(weight.shape).to(weight.dtype)
