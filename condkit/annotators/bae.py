"""BAE: surface normals with their uncertainty, the network of control_v11p_sd15_normalbae."""

from __future__ import annotations

from dataclasses import dataclass

from condkit.annotators.base import (
    DetectorDefinition,
    DetectorSpec,
    require,
)
from condkit.annotators.dense import DenseDetector
from condkit.predictions import SurfaceNormals
from condkit.runtime import Runtime
from condkit.weights import HubFile, WeightSpec

WEIGHTS = {
    "scannet": WeightSpec(
        name="scannet.pt",
        sha256="03dbf1600c51ee3d45c29f77b77bf1a3b7a24c3452dba62a4ae658f37330c209",
        size=None,
        licence="other (no licence file)",
        commercial_use=None,
        origin="G. Bae et al.'s training on ScanNet, in ControlNet's collection of annotators",
        sources=(
            HubFile(
                repo="lllyasviel/Annotators",
                filename="scannet.pt",
                revision="982e7edaec38759d914a963c48c4726685de7d96",
            ),
        ),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BaeParams:
    """Settings of BAE.

    Attributes:
        detect_size: Short side in pixels at which the network works. The public maps were made at
            512.
    """

    detect_size: int = 512

    def __post_init__(self) -> None:
        require(
            32 <= self.detect_size <= 4096,
            f"bae.detect_size: expected 32 to 4096 pixels, got {self.detect_size}",
        )


def _load(params: BaeParams, runtime: Runtime) -> DenseDetector:
    from condkit.annotators.nets.bae import bae_detector

    return bae_detector(WEIGHTS["scannet"], runtime, detect_size=params.detect_size)


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="bae",
        summary="surface normals by BAE",
        source="G. Bae et al., ICCV 2021; lllyasviel/ControlNet-v1-1-nightly annotator/normalbae",
        yields=SurfaceNormals,
        weights=WEIGHTS,
    ),
    params=BaeParams,
    load=_load,
    needs=lambda params: ("scannet",),
)
