"""Depth networks as detectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from condkit.annotators.backends import runner
from condkit.annotators.dense import DenseDetector
from condkit.annotators.detect_sizes import SizeDraw
from condkit.annotators.nets.transformers_depth import DepthNetwork, DepthPro
from condkit.budget import Budget
from condkit.predictions import InverseDepth, MetricDepth, Prediction
from condkit.runtime import Runtime
from condkit.weights import ModelSpec

# Attention and the fusion at half size need about twice the memory per pixel that HED does.
_SCALE = 0.5
# What transformers' Depth Pro clips to: 0.1 mm and 10 km.
_NEAREST_M, _FARTHEST_M = 1e-4, 1e4


def inverse_depth_detector(
    name: str,
    model: ModelSpec,
    load: Callable[[Path, torch.device, torch.dtype], DepthNetwork],
    runtime: Runtime,
    *,
    detect_size: int,
    multiple: int,
    draw: SizeDraw | None = None,
) -> DenseDetector:
    """A detector of relative inverse depth.

    Args:
        name: The detector's.
        model: Its weights.
        load: Makes the network from the weights' folder.
        runtime: Where it runs.
        detect_size: Short side in pixels at which it works.
        multiple: What its sides must be multiples of.
        draw: Draws the short side for each image, in place of `detect_size`.

    Raises:
        WeightsError: if the weights cannot be had or do not fit.
    """
    network = load(runtime.store.folder(model), *runtime.resolve())
    return _dense(
        name,
        network,
        runtime,
        model,
        detect_size=detect_size,
        multiple=multiple,
        draw=draw,
        to_prediction=InverseDepth,
    )


def metric_depth_detector(
    name: str,
    network: DepthNetwork,
    runtime: Runtime,
    model: ModelSpec,
    *,
    detect_size: int,
    multiple: int,
    draw: SizeDraw | None = None,
    variant: str = "",
) -> DenseDetector:
    """A detector of depth in metres; `variant` tells apart networks of the same weights."""
    return _dense(
        name,
        network,
        runtime,
        model,
        detect_size=detect_size,
        multiple=multiple,
        draw=draw,
        variant=variant,
        to_prediction=_metric,
    )


def depth_pro_detector(network: DepthPro, runtime: Runtime, model: ModelSpec) -> DenseDetector:
    """Depth Pro for square images."""
    return _dense(
        "depth-pro",
        network,
        runtime,
        model,
        detect_size=network.side,
        multiple=network.side,
        to_prediction=_from_inverse,
    )


def _dense(
    name: str,
    network: DepthNetwork,
    runtime: Runtime,
    model: ModelSpec,
    *,
    detect_size: int,
    multiple: int,
    to_prediction: Callable[[NDArray[Any]], Prediction],
    draw: SizeDraw | None = None,
    variant: str = "",
) -> DenseDetector:
    device, dtype = runtime.resolve()
    digest = model.files[0].sha256 or "unpinned"
    return DenseDetector(
        name=name,
        forward=runner(network, runtime, key=f"{model.name}-{digest}-{variant}-{dtype}"),
        to_prediction=to_prediction,
        device=device,
        budget=Budget.on(device, name, scale=_SCALE),
        detect_size=detect_size,
        multiple=multiple,
        draw=draw,
    )


def _metric(values: NDArray[np.float32]) -> MetricDepth:
    return MetricDepth(np.maximum(values, np.float32(0)))


def _from_inverse(values: NDArray[np.float32]) -> MetricDepth:
    inverse = np.clip(values, np.float32(1 / _FARTHEST_M), np.float32(1 / _NEAREST_M))
    return MetricDepth(np.float32(1) / inverse)
