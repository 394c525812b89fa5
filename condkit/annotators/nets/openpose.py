"""CMU's OpenPose networks: reading their published weight files, and running them on a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from condkit.annotators.backends import runner
from condkit.annotators.nets.aux_networks import network_class
from condkit.annotators.nets.colour_convolution import ColourConvolution
from condkit.annotators.nets.placement import place, splits
from condkit.annotators.nets.state import load_strictly, read_state_dict
from condkit.runtime import Runtime

Forward: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""(N, 3, h, w) float32 RGB in [0, 255], sides multiples of 8, to (N, C, h / 8, w / 8) float32."""

_CLASSES = {
    "body": ("open_pose.model", "bodypose_model"),
    "hands": ("open_pose.model", "handpose_model"),
    "face": ("open_pose.face", "FaceNet"),
}
# The layers of the face network after the first, "" where it pools.
_FACE_TRUNK = (
    *("1_2", "", "2_1", "2_2", "", "3_1", "3_2", "3_3", "3_4", ""),
    *("4_1", "4_2", "4_3", "4_4", "5_1", "5_2", "5_3_CPM"),
)


def load_network(part: str, path: Path, runtime: Runtime) -> Forward:
    """A network with the weights of a published file, ready to run.

    Args:
        part: "body" (19 heat maps, then 38 part affinity fields), "hands" (22 heat maps) or "face"
            (71); the last heat map of each is the background.
        path: A state dict as lllyasviel/Annotators has it.
        runtime: Where it runs, and in which arithmetic.

    Raises:
        WeightsError: if the file is unreadable or its tensors are not the network's.
    """
    network: Any = network_class(*_CLASSES[part])()
    state = read_state_dict(path)
    if part != "face":
        state = _with_blocks(state, network.state_dict())
    load_strictly(network, state, path, f"OpenPose's {part}")
    layers = {"body": _body, "hands": _hands, "face": FaceStages}[part](network, splits(runtime))
    return runner(place(OneTensor(layers), runtime), runtime, key=f"openpose-{part}", any_size=True)


class OneTensor(nn.Module):
    """A network of OpenPose whose maps come out as one float32 tensor, heat maps first."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Maps of a batch, see `Forward`."""
        found = self.network(pixels)
        if isinstance(found, tuple):
            fields, heat = found
            found = torch.cat([heat, fields], dim=1)
        maps: torch.Tensor = found
        return maps.float()


class FaceStages(nn.Module):
    """`FaceNet` with its activations beside its convolutions, giving its last stage alone."""

    def __init__(self, network: Any, split: bool) -> None:  # noqa: ANN401 - an untyped package
        """Take the layers of a network over.

        Args:
            network: controlnet_aux's `FaceNet`.
            split: Whether it will compute in bf16 or fp16, see `ColourConvolution`.
        """
        super().__init__()
        trunk: list[nn.Module] = [_seeing_colours(network.conv1_1, split)]
        for name in _FACE_TRUNK:
            layers = [getattr(network, f"conv{name}"), nn.ReLU()] if name else [nn.MaxPool2d(2)]
            trunk += layers
        self.trunk = nn.Sequential(*trunk)
        self.first = nn.Sequential(network.conv6_1_CPM, nn.ReLU(), network.conv6_2_CPM)
        self.stages = nn.ModuleList(_face_stage(network, number) for number in range(2, 7))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 71, h / 8, w / 8) heat maps of the sixth stage."""
        features = self.trunk(pixels)
        heat: torch.Tensor = self.first(features)
        for stage in self.stages:
            heat = stage(torch.cat([heat, features], dim=1))
        return heat


def _face_stage(network: Any, number: int) -> nn.Sequential:  # noqa: ANN401
    layers: list[nn.Module] = []
    for layer in range(1, 7):
        layers += [getattr(network, f"Mconv{layer}_stage{number}"), nn.ReLU()]
    return nn.Sequential(*layers, getattr(network, f"Mconv7_stage{number}"))


def _body(network: Any, split: bool) -> nn.Module:  # noqa: ANN401
    _take_colours(network.model0, split)
    return network  # type: ignore[no-any-return]


def _hands(network: Any, split: bool) -> nn.Module:  # noqa: ANN401
    _take_colours(network.model1_0, split)
    return network  # type: ignore[no-any-return]


def _take_colours(block: nn.Sequential, split: bool) -> None:
    """Let the first layer of a block see colours instead of what they are normalised to."""
    first: Any = block[0]
    block[0], block[1] = _seeing_colours(first, split), nn.Identity()


def _seeing_colours(first: nn.Conv2d, split: bool) -> ColourConvolution:
    """A first layer that was trained on blue, green, red, each as colour / 256 - 0.5."""
    return ColourConvolution(
        first, mean=(128, 128, 128), scale=1 / 256, bgr=True, activation=nn.ReLU(), split=split
    )


def _with_blocks(
    state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Names with the block that a layer is in, which the published files leave out."""
    full = {name.partition(".")[2]: name for name in expected}
    return {full.get(name, name): value for name, value in state.items()}
