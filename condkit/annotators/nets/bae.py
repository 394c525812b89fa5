"""The BAE network: building it quietly, reading its weights, running it in half precision."""

from __future__ import annotations

import contextlib
import io
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from condkit.annotators.backends import runner
from condkit.annotators.dense import DenseDetector
from condkit.annotators.nets.aux_networks import network_class
from condkit.annotators.nets.state import load_strictly, read_state_dict
from condkit.budget import Budget
from condkit.predictions import SurfaceNormals
from condkit.runtime import Runtime
from condkit.weights import WeightSpec

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The public maps were made at sides that are multiples of 64; the network itself needs 32.
_MULTIPLE = 32
_SCALE = 0.5


def bae_network() -> Any:  # noqa: ANN401 - a module of an untyped package
    """A BAE without weights, on torch's default device, in float32.

    Raises:
        DependencyError: if controlnet_aux cannot be imported.
    """
    network = network_class("normalbae.nets.NNET", "NNET")
    # The settings of the published training; at inference only the architecture matters.
    settings = types.SimpleNamespace(
        mode="client",
        architecture="BN",
        pretrained="scannet",
        sampling_ratio=0.4,
        importance_ratio=0.7,
    )
    # It tells standard output about every step, and its imports warn.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return network(settings)


class Bae(nn.Module):
    """BAE as a function of pixels.

    The decoder is computed in another order than in controlnet_aux, with the same result: each
    refinement's first layer runs before the enlarging instead of after it. A layer without
    non-linearity and bilinear enlarging can change places, and at a quarter of the pixels it costs
    a quarter.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: Any) -> None:  # noqa: ANN401
        """Take controlnet_aux's network in float32 on the CPU, with its weights, in eval mode."""
        super().__init__()
        decoder = network.decoder
        self.encoder = network.encoder
        self.bridge = decoder.conv2
        self.stages = nn.ModuleList(
            _folded(stage._net) for stage in (decoder.up1, decoder.up2, decoder.up3, decoder.up4)
        )
        self.coarse = decoder.out_conv_res8
        self.refinements = nn.ModuleList(
            Refinement(layers)
            for layers in (decoder.out_conv_res4, decoder.out_conv_res2, decoder.out_conv_res1)
        )
        for name, values in (("mean", _MEAN), ("std", _STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Surface normals.

        Args:
            pixels: (N, 3, h, w) float32 RGB in [0, 255]; h and w are multiples of 32.

        Returns:
            (N, 3, h, w) float32 unit vectors: x to the left, y up, z towards the camera.
        """
        inputs = (pixels / 255 - self.mean) / self.std
        encoded = self.encoder(inputs.contiguous(memory_format=torch.channels_last))
        # Half, quarter, eighth and sixteenth of the size; then the deepest, a thirty-second.
        skips, hidden = [encoded[i] for i in (8, 6, 5, 4)], self.bridge(encoded[11])
        levels = []
        for stage, skip in zip(self.stages, skips, strict=True):
            hidden = stage(torch.cat([_enlarged(hidden, skip.shape[2:]), skip], dim=1))
            levels.append(hidden)
        found = _normalised(self.coarse(levels[1]))
        for refine, features in zip(self.refinements, levels[1:], strict=True):
            found = refine(features, found)
        return found[:, :3]

    def prepared(self, device: torch.device, dtype: torch.dtype) -> Bae:
        """Itself, on the device, with `dtype` arithmetic in channels-last layout.

        The layer that sees the colours and the normals between the layers stay in float32.
        """
        self.to(device)
        if dtype != torch.float32:
            for part in self.children():
                part.to(dtype)
            stem = self.encoder.original_model.conv_stem.float()
            stem.register_forward_hook(lambda _, __, found: found.to(dtype))
        self.to(memory_format=torch.channels_last)
        return self.eval().requires_grad_(False)


class Refinement(nn.Module):
    """Normals at twice the resolution, pixel by pixel from features and coarser normals."""

    def __init__(self, layers: Any) -> None:  # noqa: ANN401
        """Take the four pointwise layers of controlnet_aux, with their weights."""
        super().__init__()
        first, *rest = (layer for layer in layers if isinstance(layer, nn.Conv1d))
        weight = first.weight.detach()
        self.from_features = _pointwise(weight[:, :-4], first.bias)
        self.from_normals = _pointwise(weight[:, -4:], None)
        self.rest = nn.ModuleList(_pointwise(layer.weight.detach(), layer.bias) for layer in rest)

    def forward(self, features: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        """Refine.

        Args:
            features: (N, C, h, w).
            normals: (N, 4, h, w) float32: unit vector and certainty.

        Returns:
            (N, 4, 2h, 2w) float32.
        """
        hidden = self.from_features(features) + self.from_normals(normals.to(features.dtype))
        hidden = _enlarged(hidden, (2 * features.shape[2], 2 * features.shape[3]))
        for layer in self.rest:
            hidden = layer(F.relu_(hidden))
        return _normalised(hidden)


def load_bae(path: Path, device: torch.device, dtype: torch.dtype) -> Bae:
    """BAE with the weights of a file, ready to run.

    Args:
        path: scannet.pt, or any file with the same tensors.
        device: Where it runs.
        dtype: Format of its arithmetic.

    Raises:
        WeightsError: if the file is unreadable or its tensors are not the network's.
    """
    state = read_state_dict(path)
    with torch.device("meta"):
        network = bae_network()
    network.to_empty(device="cpu")
    load_strictly(network, state, path, "BAE")
    return Bae(network.eval()).prepared(device, dtype)


def bae_detector(weights: WeightSpec, runtime: Runtime, *, detect_size: int) -> DenseDetector:
    """BAE as a detector that works at a short side of `detect_size` pixels.

    Raises:
        WeightsError: if the weights cannot be had or do not fit.
    """
    device, dtype = runtime.resolve()
    network = load_bae(runtime.store.path(weights), device, dtype)
    return DenseDetector(
        name="bae",
        forward=runner(network, runtime, key=f"bae-{weights.sha256}-{dtype}"),
        to_prediction=unit_normals,
        device=device,
        budget=Budget.on(device, "bae", scale=_SCALE),
        detect_size=detect_size,
        multiple=_MULTIPLE,
    )


def unit_normals(values: NDArray[np.float32]) -> SurfaceNormals:
    """Vectors made of length 1 again after resampling; those that cancel out become zeros.

    Args:
        values: (H, W, 3) float32.
    """
    length = np.sqrt((values**2).sum(axis=2, keepdims=True))
    known = length > 1e-3
    return SurfaceNormals(np.where(known, values / np.where(known, length, 1), np.float32(0)))


def _normalised(values: torch.Tensor) -> torch.Tensor:
    """(N, 4, h, w) of a layer as unit vectors and certainties, in float32."""
    xyz, certainty = values[:, :3].float(), values[:, 3:].float()
    length = xyz.square().sum(dim=1, keepdim=True).sqrt() + 1e-10
    return torch.cat([xyz / length, F.elu(certainty) + 1.01], dim=1)


def _enlarged(values: torch.Tensor, size_hw: tuple[int, int] | torch.Size) -> torch.Tensor:
    return F.interpolate(values, tuple(size_hw), mode="bilinear", align_corners=True)


def _pointwise(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Conv2d:
    """A 1 x 1 convolution with the weights (out, in, 1) of one in one dimension."""
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight[..., None])
        if layer.bias is not None and bias is not None:
            layer.bias.copy_(bias)
    return layer


def _folded(layers: Any) -> nn.Sequential:  # noqa: ANN401
    """A decoder stage with its batch norms multiplied into the convolutions before them."""
    return nn.Sequential(
        fuse_conv_bn_eval(layers[0], layers[1]),
        layers[2],
        fuse_conv_bn_eval(layers[3], layers[4]),
        layers[5],
    )
