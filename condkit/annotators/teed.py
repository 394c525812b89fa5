"""TEED: a tiny network for soft edges with much fine detail."""

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
from condkit.weights import HubFile, WeightSpec

# The public maps were made at sides that are multiples of 64, so those are never padded here.
_MULTIPLE = 64

WEIGHTS = {
    "5": WeightSpec(
        name="5_model.pth",
        sha256=None,
        size=None,
        licence="MIT",
        commercial_use=True,
        origin="TEED as trained by its authors on BIPED, epoch 5",
        sources=(HubFile(repo="fal-ai/teed", filename="5_model.pth", revision="main"),),
    ),
    "7": WeightSpec(
        name="7_model.pth",
        sha256="b9037964149c55156c6adbffdfbd7e8ca7d2ef2a4d90573520efa7f3a1aacf06",
        size=247_232,
        licence="not stated; TEED's code is MIT",
        commercial_use=None,
        origin="TEED, epoch 7, as comfyui_controlnet_aux and sd-webui-controlnet use it",
        sources=(
            HubFile(
                repo="bdsqlsz/qinglong_controlnet-lllite",
                filename="Annotators/7_model.pth",
                revision="main",
            ),
        ),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TeedParams:
    """Settings of TEED.

    Attributes:
        weights: "5" (controlnet_aux's) or "7" (those of comfyui_controlnet_aux and
            sd-webui-controlnet): the epoch of the training.
        detect_size: Short side in pixels at which the network works. The public maps were made at
            512; images of that size are not resampled at all.
    """

    weights: Literal["5", "7"] = "5"
    detect_size: int = 512

    def __post_init__(self) -> None:
        require(
            16 <= self.detect_size <= 8192,
            f"teed.detect_size: expected 16 to 8192 pixels, got {self.detect_size}",
        )


def _load(params: TeedParams, runtime: Runtime) -> DenseDetector:
    from condkit.annotators.nets.teed import teed_edges

    network = teed_edges(runtime.store.path(WEIGHTS[params.weights]), runtime)
    device, _ = runtime.resolve()
    return DenseDetector(
        name="teed",
        forward=runner(network, runtime, key=f"teed-{params.weights}", any_size=True),
        to_prediction=EdgeStrength,
        device=device,
        budget=Budget.on(device, "teed"),
        detect_size=params.detect_size,
        multiple=_MULTIPLE,
    )


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="teed",
        summary="tiny edge detector: soft edges with fine detail",
        source="X. Soria et al., ICCV Workshops 2023; controlnet_aux teed",
        yields=EdgeStrength,
        weights=WEIGHTS,
    ),
    params=TeedParams,
    load=_load,
)
