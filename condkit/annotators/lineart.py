"""Line drawings: the detector made for them, and the condition of control_v11p_sd15_lineart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.backends import runner
from condkit.annotators.base import (
    ConditionDefinition,
    DetectorDefinition,
    DetectorSpec,
    NoParams,
    Renderer,
    require,
)
from condkit.annotators.dense import DenseDetector
from condkit.annotators.softedge import to_levels
from condkit.budget import Budget
from condkit.predictions import EdgeStrength
from condkit.runtime import Runtime
from condkit.types import ConditionMap, ConditionSpec
from condkit.weights import HubFile, WeightSpec

# The network needs multiples of 4 and at least 8. It normalises each channel over the whole image,
# so padding is kept as small as it can be.
_MULTIPLE = 8


def _weights(name: str, sha256: str, origin: str) -> WeightSpec:
    return WeightSpec(
        name=name,
        sha256=sha256,
        size=17_173_511,
        licence="MIT",
        commercial_use=True,
        origin=origin,
        sources=(
            HubFile(
                repo="lllyasviel/Annotators",
                filename=name,
                revision="982e7edaec38759d914a963c48c4726685de7d96",
            ),
        ),
    )


WEIGHTS = {
    "fine": _weights(
        "sk_model.pth",
        "c686ced2a666b4850b4bb6ccf0748031c3eda9f822de73a34b8979970d90f0c6",
        "Informative Drawings by C. Chan et al., contour style",
    ),
    "coarse": _weights(
        "sk_model2.pth",
        "30a534781061f34e83bb9406b4335da4ff2616c95d22a585c1245aa8363e74e0",
        "Informative Drawings by C. Chan et al., anime style",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LineartParams:
    """Settings of the line art network.

    Attributes:
        weights: "fine" or "coarse" lines.
        detect_size: Short side in pixels at which the network works. The public maps were made at
            512; images of that size are not resampled at all.
    """

    weights: Literal["fine", "coarse"] = "fine"
    detect_size: int = 512

    def __post_init__(self) -> None:
        require(
            16 <= self.detect_size <= 8192,
            f"lineart.detect_size: expected 16 to 8192 pixels, got {self.detect_size}",
        )


def _load(params: LineartParams, runtime: Runtime) -> DenseDetector:
    from condkit.annotators.nets.lineart import lineart_edges

    network = lineart_edges(runtime.store.path(WEIGHTS[params.weights]), runtime)
    device, _ = runtime.resolve()
    return DenseDetector(
        name="lineart",
        forward=runner(network, runtime, key=f"lineart-{params.weights}", any_size=True),
        to_prediction=EdgeStrength,
        device=device,
        budget=Budget.on(device, "lineart"),
        detect_size=params.detect_size,
        multiple=_MULTIPLE,
    )


def inverted_levels(strength: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Line strength as grey levels, truncated as black lines on white and inverted then.

    Args:
        strength: (H, W) float32 in [0, 1].

    Returns:
        (H, W) uint8, 255 on lines.

    Source: what lllyasviel/ControlNet-v1-1-nightly gradio_lineart feeds its network.
    """
    return np.asarray(255 - to_levels(1 - strength), dtype=np.uint8)


def _render_network(prediction: EdgeStrength, params: NoParams) -> ConditionMap:
    return _map(inverted_levels(prediction.strength))


def _render_standard(prediction: EdgeStrength, params: NoParams) -> ConditionMap:
    return _map(to_levels(prediction.strength))


def _map(pixels: NDArray[np.uint8]) -> ConditionMap:
    return ConditionMap(pixels, CONDITION.spec, {"mean_strength": float(pixels.mean() / 255)})


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="lineart",
        summary="informative line drawings, fine or coarse",
        source="C. Chan et al., CVPR 2022; lllyasviel/ControlNet-v1-1-nightly annotator/lineart",
        yields=EdgeStrength,
        weights=WEIGHTS,
    ),
    params=LineartParams,
    load=_load,
)

CONDITION = ConditionDefinition(
    spec=ConditionSpec(
        name="lineart",
        channels=1,
        dtype="uint8",
        meaning="line strength, white lines on black: 0 nowhere to 255 strongest",
        background=0,
        resample="area",
    ),
    renderers=(
        Renderer(detector="lineart", render=_render_network),
        Renderer(detector="lineart_anime", render=_render_network),
        Renderer(detector="standard", render=_render_standard),
    ),
)
