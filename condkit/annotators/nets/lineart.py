"""The line drawing networks: reading their weight files and running them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from condkit.annotators.nets.aux_networks import network_class
from condkit.annotators.nets.colour_convolution import ColourConvolution
from condkit.annotators.nets.instance_norm import InstanceNorm
from condkit.annotators.nets.placement import place, splits
from condkit.annotators.nets.state import load_strictly, read_state_dict
from condkit.errors import WeightsError

if TYPE_CHECKING:
    from condkit.runtime import Runtime

_RESIDUAL_BLOCKS = 3
_HALVINGS = 8


def load_lineart(path: Path) -> Any:  # noqa: ANN401 - a module of an untyped package
    """controlnet_aux's `Generator` with weights from `path`, in fp32 on the CPU.

    Args:
        path: sk_model.pth or sk_model2.pth.

    Raises:
        WeightsError: if the file is unreadable or its tensors are not the network's.
    """
    network: Any = network_class("lineart", "Generator")(3, 1, _RESIDUAL_BLOCKS)
    load_strictly(network, read_state_dict(path), path, "the line art network")
    return network


def load_lineart_anime(path: Path) -> Any:  # noqa: ANN401
    """controlnet_aux's `UnetGenerator` with weights from `path`, in fp32 on the CPU.

    Args:
        path: netG.pth; its first layer says how wide the network is (64 channels as published).

    Raises:
        WeightsError: if the file is unreadable or its tensors are not the network's.
    """
    state, first = read_state_dict(path), "model.model.0.weight"
    if first not in state:
        raise WeightsError(f"{path}: these are not the anime network's weights: no {first}")
    norm = functools.partial(nn.InstanceNorm2d, affine=False, track_running_stats=False)
    network: Any = network_class("lineart_anime", "UnetGenerator")(
        3, 1, _HALVINGS, len(state[first]), norm_layer=norm
    )
    load_strictly(network, state, path, "the anime network")
    return network


class LineartEdges(nn.Module):
    """Line drawing from colours to line strength.

    Source: C. Chan et al., "Learning to generate line drawings that convey geometry and
    semantics", CVPR 2022; lllyasviel/ControlNet-v1-1-nightly annotator/lineart.
    """

    def __init__(self, network: Any, *, split: bool) -> None:  # noqa: ANN401
        """Take the layers of a network over.

        Args:
            network: From `load_lineart`.
            split: Whether it will compute in bf16 or fp16, see `ColourConvolution`.
        """
        super().__init__()
        pad, first, _, _ = network.model0
        colours = ColourConvolution(first, scale=1 / 255, split=split)
        self.first = nn.Sequential(pad, colours, InstanceNorm(relu=True))
        self.down = nn.Sequential(*_normalised(network.model1))
        self.blocks = nn.ModuleList(
            nn.Sequential(*_normalised(block.conv_block)) for block in network.model2
        )
        self.up = nn.Sequential(*_normalised(network.model3))
        self.last = nn.Sequential(*list(network.model4)[:-1])

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Line strength of a batch.

        Args:
            pixels: (N, 3, H, W) float32 RGB in [0, 255]; H and W are multiples of 4, at least 8.

        Returns:
            (N, H, W) float32 in [0, 1], 1 on lines: the network itself draws black on white.
        """
        hidden = self.down(self.first(pixels))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        drawn = self.last(self.up(hidden)).float()
        return torch.sigmoid(-drawn[:, 0])


class LineartAnimeEdges(nn.Module):
    """Line drawing of anime from colours to line strength.

    Source: lllyasviel/ControlNet-v1-1-nightly annotator/lineart_anime.
    """

    def __init__(self, network: Any, *, split: bool) -> None:  # noqa: ANN401
        """Take the layers of a network over.

        Args:
            network: From `load_lineart_anime`; changed.
            split: Whether it will compute in bf16 or fp16, see `ColourConvolution`.
        """
        super().__init__()
        layers = list(network.model.model)
        layers[0] = ColourConvolution(layers[0], mean=(127.5,) * 3, scale=1 / 127.5, split=split)
        self.layers = nn.Sequential(*layers[:-1])  # but the tanh, which is done in fp32
        for part in self.layers.modules():
            for name, child in part.named_children():
                if isinstance(child, nn.InstanceNorm2d):
                    setattr(part, name, InstanceNorm())

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Line strength of a batch.

        Args:
            pixels: (N, 3, H, W) float32 RGB in [0, 255]; H and W are multiples of 256.

        Returns:
            (N, H, W) float32 in [0, 1], 1 on lines: the network itself draws black on white.
        """
        drawn = torch.tanh(self.layers(pixels).float()[:, 0])
        return (1 - drawn) / 2


def lineart_edges(path: Path, runtime: Runtime) -> LineartEdges:
    """The line art network with weights from `path` where and in what the runtime says.

    Raises:
        WeightsError: if the file is unreadable or its tensors are not the network's.
    """
    return place(LineartEdges(load_lineart(path), split=splits(runtime)), runtime)


def lineart_anime_edges(path: Path, runtime: Runtime) -> LineartAnimeEdges:
    """The anime network with weights from `path` where and in what the runtime says.

    Raises:
        WeightsError: if the file is unreadable or its tensors are not the network's.
    """
    return place(LineartAnimeEdges(load_lineart_anime(path), split=splits(runtime)), runtime)


def _normalised(layers: nn.Sequential) -> list[nn.Module]:
    """The layers with instance normalisations of our own, which do a ReLU after them as well."""
    made: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.InstanceNorm2d):
            made.append(InstanceNorm())
        elif isinstance(layer, nn.ReLU) and made and isinstance(made[-1], InstanceNorm):
            made[-1].relu = True
        else:
            made.append(layer)
    return made
