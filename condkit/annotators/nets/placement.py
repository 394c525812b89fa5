"""Bringing a convolution network to its device and number format."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection

    import torch

    from condkit.runtime import Runtime

Network = TypeVar("Network", bound="torch.nn.Module")


def place(
    network: Network,
    runtime: Runtime,
    *,
    exact: Collection[str] = (),
    full: tuple[str, ...] = (),
) -> Network:
    """A network where and in what it will run, frozen, channels last.

    In bf16 on a CPU its layers are replaced by faster ones, see `cpu_convolution.pack`.

    Args:
        network: In fp32 on the CPU with its weights; changed in place.
        runtime: Says where, in what and by which backend.
        exact: Names of convolutions that keep their precision where that costs nothing.
        full: What the names of layers begin with that stay in fp32 in packed networks.
    """
    import torch

    from condkit.annotators.nets.cpu_convolution import pack, suits

    device, dtype = runtime.resolve()
    network.eval().requires_grad_(False)
    if runtime.backend == "torch" and suits(device, dtype):
        pack(network, exact=exact, full=full)
    else:
        network.to(device=device, dtype=dtype)
    network.to(memory_format=torch.channels_last)
    return network


def splits(runtime: Runtime) -> bool:
    """Whether first convolutions are to be split, see `ColourConvolution`."""
    import torch

    return runtime.computes_in() != torch.float32


def strips(runtime: Runtime) -> bool:
    """Whether first blocks are to be done in strips, see `strips.in_strips`."""
    return runtime.backend == "torch" and runtime.resolve()[0].type == "cpu"
