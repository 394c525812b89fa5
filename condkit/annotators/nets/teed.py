"""The TEED network: reading its weight files and running it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from condkit.annotators.nets.aux_networks import network_class
from condkit.annotators.nets.colour_convolution import ColourConvolution
from condkit.annotators.nets.cpu_convolution import convolve_onto
from condkit.annotators.nets.placement import place, splits, strips
from condkit.annotators.nets.state import load_strictly, read_state_dict
from condkit.annotators.nets.strips import in_strips

if TYPE_CHECKING:
    from condkit.runtime import Runtime

# How many rows beyond a row the two convolutions of the fusion see.
_REACH = 2


def load_teed(path: Path) -> Any:  # noqa: ANN401 - a module of an untyped package
    """controlnet_aux's `TED` with weights from `path`, in fp32 on the CPU.

    Args:
        path: 5_model.pth or 7_model.pth.

    Raises:
        WeightsError: if the file is unreadable or its tensors are not the network's.
    """
    network: Any = network_class("teed.ted", "TED")()
    load_strictly(network, read_state_dict(path), path, "TEED")
    return network


def smish(values: torch.Tensor) -> torch.Tensor:
    """The activation x tanh(log(1 + sigmoid(x))), by a fraction in place of tanh and logarithm.

    Source: X. Wang et al., "Smish", Electronics 11(4), 2022.
    """
    if values.dtype == torch.bfloat16 and values.device.type == "cpu":
        return _looked_up(values)
    gate = torch.sigmoid(values)
    gate = torch.addcmul(gate, gate, gate, value=0.5)
    below = gate + 1
    return gate.mul_(values).div_(below)


def _looked_up(values: torch.Tensor) -> torch.Tensor:
    """`smish` of bf16, of which there are only 65,536: faster than computing it, and exact."""
    pixels = values.permute(0, 2, 3, 1)
    places = pixels.reshape(-1).view(torch.int16).to(torch.int32).add_(1 << 15)
    return torch.index_select(_table(), 0, places).view(pixels.shape).permute(0, 3, 1, 2)


@functools.cache
def _table() -> torch.Tensor:
    """(65536,) bf16: `smish` of each number, in the order of its bits as a signed integer."""
    bits = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    return smish(bits.view(torch.bfloat16).float()).bfloat16()


class Smish(nn.Module):
    """`smish` as a layer."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The activation of each value."""
        return smish(values)


class TeedEdges(nn.Module):
    """TEED from colours to edge strength.

    Source: X. Soria et al., "Tiny and Efficient Model for the Edge Detection Generalization",
    ICCV Workshops 2023; controlnet_aux teed.
    """

    def __init__(self, network: Any, *, split: bool, in_strips: bool = False) -> None:  # noqa: ANN401
        """Take the layers of a network over.

        Args:
            network: From `load_teed`.
            split: Whether it will compute in bf16 or fp16, see `ColourConvolution`.
            in_strips: Whether to fuse the side outputs in strips, see `strips.in_strips`.
        """
        super().__init__()
        first, second = network.block_1, network.block_2
        colours = ColourConvolution(first.conv1, split=split)
        self.block_1 = nn.Sequential(colours, Smish(), first.conv2, Smish())
        self.block_2 = nn.Sequential(second.conv1, Smish(), second.conv2)
        self.pool = network.maxpool
        self.side = network.side_1.conv
        self.before_dense = network.pre_dense_3.conv
        dense = network.dblock_3.denselayer1
        self.dense = nn.Sequential(Smish(), dense.conv1, Smish(), dense.conv2)
        self.ups = nn.ModuleList(
            _with_smish(up.features)
            for up in (network.up_block_1, network.up_block_2, network.up_block_3)
        )
        self.spread, self.gather, self.direct = _fusion(network.block_cat)
        self.in_strips = in_strips

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Edge strength of a batch.

        Args:
            pixels: (N, 3, H, W) float32 RGB in [0, 255]; H and W are multiples of 8.

        Returns:
            (N, H, W) float32 in [0, 1]: the sigmoid of the mean of the four outputs.
        """
        fine = self.block_1(pixels)
        middle = self.block_2(fine)
        coarse = self.pool(middle)
        dense = self.dense(coarse + self.side(fine))
        deep = 0.5 * (dense + self.before_dense(coarse))
        levels = (fine, middle, deep)
        sides = torch.cat([up(level) for up, level in zip(self.ups, levels, strict=True)], dim=1)
        fused = smish(self._fused(sides).float())
        total = sides.float().sum(dim=1) + fused[:, 0]
        return torch.sigmoid(total / 4)

    def _fused(self, sides: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) side outputs to (N, 1, H, W), before the last activation."""

        def layers(part: torch.Tensor) -> torch.Tensor:
            # What the published network adds up over its 24 channels is a convolution to one.
            active = smish(part)
            return convolve_onto(self.direct(active), self.gather, smish(self.spread(active)))

        if not self.in_strips:
            return layers(sides)
        (fused,) = in_strips(layers, lambda part: (part,), sides, reach=_REACH)
        return fused


def teed_edges(path: Path, runtime: Runtime) -> TeedEdges:
    """TEED with weights from `path` where and in what the runtime says.

    Raises:
        WeightsError: if the file is unreadable or its tensors are not the network's.
    """
    network = TeedEdges(load_teed(path), split=splits(runtime), in_strips=strips(runtime))
    return place(network, runtime)


def _with_smish(layers: nn.Sequential) -> nn.Sequential:
    known = (nn.Conv2d, nn.ConvTranspose2d)
    return nn.Sequential(*(layer if isinstance(layer, known) else Smish() for layer in layers))


def _fusion(fusion: Any) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d]:  # noqa: ANN401
    """The fusion's grouped convolutions as ordinary ones: the first, both summed up."""
    grouped, summed = fusion.DWconv1, fusion.DWconv2
    each = grouped.out_channels // grouped.groups
    spread = nn.Conv2d(grouped.groups, grouped.out_channels, 3, padding=1)
    weight = torch.zeros_like(spread.weight)
    for group in range(grouped.groups):
        channels = slice(group * each, (group + 1) * each)
        weight[channels, group] = grouped.weight.detach()[channels, 0]
    spread.weight = nn.Parameter(weight)
    spread.bias = nn.Parameter(grouped.bias.detach())
    gather = nn.Conv2d(summed.in_channels, 1, 3, padding=1)
    gather.weight = nn.Parameter(summed.weight.detach().transpose(0, 1).contiguous())
    gather.bias = nn.Parameter(summed.bias.detach().sum().view(1))
    direct = nn.Conv2d(spread.in_channels, 1, 3, padding=1)
    direct.weight = nn.Parameter(weight.sum(dim=0, keepdim=True))
    direct.bias = nn.Parameter(grouped.bias.detach().sum().view(1))
    return spread, gather, direct
