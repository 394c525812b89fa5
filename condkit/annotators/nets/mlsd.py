"""The M-LSD networks: reading their weight files, and line segments from their maps in batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from condkit.annotators.nets.aux_networks import network_class
from condkit.annotators.nets.placement import place
from condkit.annotators.nets.state import load_strictly, read_state_dict

if TYPE_CHECKING:
    from condkit.runtime import Runtime

_CLASSES = {
    "large": ("mlsd.models.mbv2_mlsd_large", "MobileV2_MLSD_Large"),
    "tiny": ("mlsd.models.mbv2_mlsd_tiny", "MobileV2_MLSD_Tiny"),
}
_MOST_SEGMENTS = 200
# In bf16 the backbone would move a quarter of the segments by more than a pixel and see lines on
# white paper; what comes after it moves one in twenty, and none far.
_IN_FULL = (*(f"backbone.features.{number}." for number in range(8)), "block12.")
STRIDE = 2
"""Image pixels per cell of the maps."""


class MlsdMaps(nn.Module):
    """M-LSD from colours to its maps.

    Source: G. Gu et al., "Towards Light-Weight and Real-Time Line Segment Detection", AAAI 2022;
    lllyasviel/ControlNet annotator/mlsd.
    """

    def __init__(self, network: nn.Module) -> None:
        """Take a network that is in its place already."""
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, h, w) float32 RGB in [0, 255] to (N, 5, h / 2, w / 2) float32.

        Channel 0 is the logit of a segment's centre; 1 and 2 are the way from there to one end in
        cells, right and down, 3 and 4 to the other.
        """
        ones = torch.ones_like(pixels[:, :1])
        inputs = torch.cat([pixels, ones], dim=1) / 127.5 - 1
        dtype = next(self.network.parameters()).dtype
        inputs = inputs.to(dtype).contiguous(memory_format=torch.channels_last)
        maps: torch.Tensor = self.network(inputs)
        return maps[:, :5].float()


def mlsd_maps(path: Path, variant: str, runtime: Runtime) -> MlsdMaps:
    """The network with weights from `path`, ready to run.

    Args:
        path: mlsd_large_512_fp32.pth or mlsd_tiny_512_fp32.pth.
        variant: "large" or "tiny".
        runtime: Where and in what it runs.

    Raises:
        WeightsError: if the file is unreadable or its tensors are not the network's.
    """
    network: Any = network_class(*_CLASSES[variant])()
    load_strictly(network, read_state_dict(path), path, f"M-LSD {variant}")
    _drop_unused_pools(network)
    _pad_inside_convolutions(network)
    return MlsdMaps(place(network, runtime, full=_IN_FULL))


def _drop_unused_pools(network: nn.Module) -> None:
    """Its blocks hold poolings that they step over by their class, which packing would change."""
    for block in network.modules():
        for name, child in list(block.named_children()):
            if isinstance(child, nn.MaxPool2d):
                delattr(block, name)


def _pad_inside_convolutions(network: Any) -> None:  # noqa: ANN401
    """Strided blocks pad one row and column at the end by copying everything; spare them that.

    A kernel with a row and a column of zeros before it, padded on both sides, sees the same.
    """
    blocks: list[Any] = [
        module for module in network.modules() if isinstance(module, nn.Sequential)
    ]
    for block in blocks:
        if getattr(block, "stride", 1) != 2:
            continue
        old: Any = block[0]
        new = nn.Conv2d(old.in_channels, old.out_channels, 4, 2, 1, groups=old.groups, bias=False)
        with torch.no_grad():
            new.weight.copy_(F.pad(old.weight, (1, 0, 1, 0)))
        block[0] = new
        block.stride = 1  # what the block's own padding depends on


def segments(
    maps: torch.Tensor, *, min_score: float, min_length: float
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The line segments of a batch.

    Args:
        maps: From `MlsdMaps`.
        min_score: Score that a segment's centre must exceed, 0 to 1.
        min_length: Length in cells that it must exceed.

    Returns:
        For each image (K, 4) float32 end points (x0, y0, x1, y1) in pixels of the network's input
        and (K,) float32 scores, the surest first; at most 200.
    """
    heat = torch.sigmoid(maps[:, 0])
    peaks = heat * (F.max_pool2d(heat[:, None], 3, stride=1, padding=1)[:, 0] == heat)
    width = heat.shape[2]
    count = min(_MOST_SEGMENTS, peaks[0].numel())
    scores, places = peaks.flatten(1).topk(count)
    ways = maps[:, 1:].flatten(2).gather(2, places[:, None].expand(-1, 4, -1)).permute(0, 2, 1)
    centres = torch.stack([places % width, places // width] * 2, dim=2)
    lengths = (ways[:, :, :2] - ways[:, :, 2:]).norm(dim=2)
    kept = (scores > min_score) & (lengths > min_length)
    ends = (centres + ways) * STRIDE
    return [(ends[i][kept[i]], scores[i][kept[i]]) for i in range(len(maps))]
