"""PiDiNet: pixel difference networks, soft edges that are thinner than HED's."""

from __future__ import annotations

from dataclasses import dataclass

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
    "table5": WeightSpec(
        name="table5_pidinet.pth",
        sha256="80860ac267258b5f27486e0ef152a211d0b08120f62aeb185a050acc30da486c",
        size=2_871_148,
        licence="MIT text with a clause for research only",
        commercial_use=False,
        origin="PiDiNet as trained by its authors on BSDS500, PASCAL and VOC",
        sources=(
            HubFile(
                repo="lllyasviel/Annotators",
                filename="table5_pidinet.pth",
                revision="982e7edaec38759d914a963c48c4726685de7d96",
            ),
        ),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PidinetParams:
    """Settings of PiDiNet.

    Attributes:
        weights: "table5", those of the public maps.
        detect_size: Short side in pixels at which the network works. The public maps were made at
            512; images of that size are not resampled at all.
    """

    weights: str = "table5"
    detect_size: int = 512

    def __post_init__(self) -> None:
        require(
            self.weights in WEIGHTS,
            f"pidinet.weights: expected one of {', '.join(WEIGHTS)}, got {self.weights!r}",
        )
        require(
            16 <= self.detect_size <= 8192,
            f"pidinet.detect_size: expected 16 to 8192 pixels, got {self.detect_size}",
        )


def _load(params: PidinetParams, runtime: Runtime) -> DenseDetector:
    from condkit.annotators.nets.pidinet import pidinet_edges

    network = pidinet_edges(runtime.store.path(WEIGHTS[params.weights]), runtime)
    device, _ = runtime.resolve()
    return DenseDetector(
        name="pidinet",
        forward=runner(network, runtime, key=f"pidinet-{params.weights}", any_size=True),
        to_prediction=EdgeStrength,
        device=device,
        budget=Budget.on(device, "pidinet"),
        detect_size=params.detect_size,
        multiple=_MULTIPLE,
    )


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="pidinet",
        summary="pixel difference network: thinner soft edges",
        source="Z. Su et al., ICCV 2021; lllyasviel/ControlNet-v1-1-nightly annotator/pidinet",
        yields=EdgeStrength,
        weights=WEIGHTS,
    ),
    params=PidinetParams,
    load=_load,
)
