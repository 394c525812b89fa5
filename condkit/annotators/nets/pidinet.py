"""The PiDiNet network: reading its weight file, folding its convolutions, running it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from condkit.annotators.nets.aux_networks import network_class
from condkit.annotators.nets.colour_convolution import ColourConvolution
from condkit.annotators.nets.cpu_convolution import convolve_onto
from condkit.annotators.nets.placement import place, splits, strips
from condkit.annotators.nets.state import load_strictly, read_state_dict
from condkit.annotators.nets.strips import in_strips

if TYPE_CHECKING:
    from condkit.runtime import Runtime

# How each of the sixteen 3 x 3 convolutions differences pixels, in the order of the layers.
_KINDS = ("central", "angular", "radial", "plain") * 4
_BLOCKS = (3, 4, 4, 4)

# How many rows beyond a row the convolutions up to the first stage's end see.
_REACH = 5

# Places of a 3 x 3 kernel: each one's neighbour clockwise, with the middle its own.
_CLOCKWISE = (3, 0, 1, 6, 4, 2, 7, 8, 5)
# Places of a 5 x 5 kernel that the eight outer weights of a 3 x 3 go to, and, negated, go to.
_OUTER = (0, 2, 4, 10, 14, 20, 22, 24)
_INNER = (6, 7, 8, 11, 13, 16, 17, 18)


def load_pidinet(path: Path) -> Any:  # noqa: ANN401 - a module of an untyped package
    """controlnet_aux's `PiDiNet` with weights from `path`, in fp32 on the CPU.

    Args:
        path: table5_pidinet.pth.

    Raises:
        WeightsError: if the file is unreadable or its tensors are not the network's.
    """
    network: Any = network_class("pidi.model", "pidinet")()
    load_strictly(network, read_state_dict(path), path, "PiDiNet")
    return network


def folded(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """The kernel of an ordinary convolution that equals a pixel difference convolution.

    Args:
        weight: (out, in, 3, 3).
        kind: "central" (differences to the middle pixel), "angular" (to the neighbour clockwise),
            "radial" (of the outer ring to the inner one, on 5 x 5 pixels) or "plain".

    Returns:
        (out, in, 3, 3), for "radial" (out, in, 5, 5); the padding is half of it.

    Source: Z. Su et al., "Pixel Difference Networks for Efficient Edge Detection", ICCV 2021.
    """
    flat = weight.flatten(2)
    if kind == "central":
        made = flat.clone()
        made[:, :, 4] -= flat.sum(dim=2)
        return made.view_as(weight)
    if kind == "angular":
        return (flat - flat[:, :, list(_CLOCKWISE)]).view_as(weight)
    if kind == "radial":
        made = flat.new_zeros((*flat.shape[:2], 25))
        made[:, :, list(_OUTER)] = flat[:, :, 1:]
        made[:, :, list(_INNER)] = -flat[:, :, 1:]
        return made.view(*flat.shape[:2], 5, 5)
    return weight


class PidinetEdges(nn.Module):
    """PiDiNet from colours to edge strength, all its convolutions ordinary ones.

    Source: Z. Su et al., ICCV 2021; lllyasviel/ControlNet-v1-1-nightly annotator/pidinet.
    """

    def __init__(self, network: Any, *, split: bool, in_strips: bool = False) -> None:  # noqa: ANN401
        """Take the layers of a network over.

        Args:
            network: From `load_pidinet`.
            split: Whether it will compute in bf16 or fp16, see `ColourConvolution`.
            in_strips: Whether to do the first stage in strips, see `strips.in_strips`.
        """
        super().__init__()
        first = _ordinary(network.init_block, _KINDS[0])
        self.first = ColourConvolution(first, scale=1 / 255, bgr=True, split=split)
        kinds = iter(_KINDS[1:])
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    _Block(getattr(network, f"block{stage}_{number}"), next(kinds), split=split)
                    for number in range(1, count + 1)
                )
            )
            for stage, count in enumerate(_BLOCKS, start=1)
        )
        self.sides = nn.ModuleList(
            _Side(network.dilations[i], network.attentions[i], network.conv_reduces[i].conv)
            for i in range(len(_BLOCKS))
        )
        self.weigh: torch.Tensor
        self.register_buffer("weigh", network.classifier.weight.detach().flatten().float())
        self.pool = nn.MaxPool2d(2)
        self.in_strips = in_strips
        self.offset = float(network.classifier.bias.detach())

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Edge strength of a batch.

        Args:
            pixels: (N, 3, H, W) float32 RGB in [0, 255]; H and W are multiples of 8.

        Returns:
            (N, H, W) float32 in [0, 1]: the last of the network's five outputs.
        """
        entered, hidden = self._first(pixels)
        total = self.weigh[0].float() * self._logits(0, entered, pixels) + self.offset
        for number in range(1, len(self.stages)):
            found = self.stages[number](hidden)
            hidden = self.pool(found)
            logits = self._logits(number, self._enter(number, found), pixels)
            total = total + self.weigh[number].float() * logits
        return torch.sigmoid(total[:, 0])

    def _enter(self, number: int, hidden: torch.Tensor) -> torch.Tensor:
        """The first layer of a side; `hidden` is used up."""
        side: Any = self.sides[number]
        entered: torch.Tensor = side.enter(hidden)
        return entered

    def _logits(self, number: int, entered: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """A side output at full size."""
        return F.interpolate(self.sides[number](entered), pixels.shape[2:], mode="bilinear")

    def _first(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the first side and the second stage see."""

        def layers(part: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.stages[0](self.first(part))
            return made

        def finish(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            pooled: torch.Tensor = self.pool(hidden)
            return self._enter(0, hidden), pooled

        if not self.in_strips:
            return finish(layers(pixels))
        entered, pooled = in_strips(layers, finish, pixels, reach=_REACH)
        return entered, pooled


def pidinet_edges(path: Path, runtime: Runtime) -> PidinetEdges:
    """PiDiNet with weights from `path` where and in what the runtime says.

    Raises:
        WeightsError: if the file is unreadable or its tensors are not the network's.
    """
    network = load_pidinet(path)
    edges = PidinetEdges(network, split=splits(runtime), in_strips=strips(runtime))
    return place(edges, runtime)


class _Block(nn.Module):
    """A convolution per channel and one of single pixels, around which the input goes too."""

    def __init__(self, block: Any, kind: str, *, split: bool) -> None:  # noqa: ANN401
        super().__init__()
        self.shortcut = block.shortcut if block.stride > 1 else nn.Identity()
        self.differences = nn.Sequential(_ordinary(block.conv1, kind, split=split), nn.ReLU())
        self.mix = block.conv2

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return convolve_onto(self.shortcut(hidden), self.mix, self.differences(hidden))


class _Side(nn.Module):
    """A side output: dilated convolutions, a spatial attention, and the sum of the channels."""

    def __init__(self, dilations: Any, attention: Any, reduce: nn.Conv2d) -> None:  # noqa: ANN401
        super().__init__()
        self.enter = nn.Sequential(nn.ReLU(inplace=True), dilations.conv1)
        self.dilated = nn.ModuleList(getattr(dilations, f"conv2_{n}") for n in range(1, 5))
        self.attend = nn.Sequential(nn.ReLU(inplace=True), attention.conv1, attention.conv2)
        self.bias: torch.Tensor
        assert reduce.bias is not None
        self.register_buffer("bias", reduce.bias.detach().float().view(1, 1, 1, 1))
        reduce.bias = None
        self.reduce = reduce

    def forward(self, entered: torch.Tensor) -> torch.Tensor:
        """(N, 24, h, w) from `enter` to (N, 1, h, w) float32."""
        found = self.dilated[0](entered)
        for convolution in self.dilated[1:]:
            found = convolve_onto(found, convolution, entered)
        # The attention is the same for all channels, so it may come after their sum, but for the
        # bias.
        sums: torch.Tensor = self.reduce(found).float()
        attention = torch.sigmoid(self.attend(found).float())
        return sums.mul_(attention).add_(self.bias.float())


def _ordinary(convolution: Any, kind: str, *, split: bool = False) -> nn.Conv2d:  # noqa: ANN401
    """A pixel difference convolution as a `Conv2d`; with `split`, of weights that fit into bf16."""
    kernel = folded(convolution.weight.detach(), kind)
    size = int(kernel.shape[-1])
    made = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        size,
        padding=size // 2,
        groups=convolution.groups,
        bias=False,
    )
    kernel = rounded_together(kernel) if split else kernel
    made.weight = nn.Parameter(kernel, requires_grad=False)
    return made


def rounded_together(kernel: torch.Tensor) -> torch.Tensor:
    """Weights rounded to bf16 so that each channel's sum stays what it is.

    Differences of pixels sum to zero; each weight rounded by itself, they would not, and the
    brightness, which is far larger than the differences, would shine through. So the largest
    weights are rounded first and each passes what it lost on to the next, whose grid is finer.

    Args:
        kernel: (out, in, h, w) float32.
    """
    flat = kernel.flatten(2)
    order = flat.abs().argsort(dim=2, descending=True)
    largest_first = flat.gather(2, order)
    lost = torch.zeros_like(flat[:, :, 0])
    for number in range(flat.shape[2]):
        wanted = largest_first[:, :, number] + lost
        largest_first[:, :, number] = wanted.bfloat16().float()
        lost = wanted - largest_first[:, :, number]
    return torch.empty_like(flat).scatter_(2, order, largest_first).view_as(kernel)
