"""MiDaS (DPT-hybrid): relative inverse depth, the network behind the public depth maps."""

from __future__ import annotations

from dataclasses import dataclass

from condkit.annotators.base import (
    DetectorDefinition,
    DetectorSpec,
)
from condkit.annotators.dense import DenseDetector
from condkit.annotators.detect_sizes import (
    MixedSizesParams,
    require_possible_sizes,
    size_draw,
)
from condkit.predictions import InverseDepth
from condkit.runtime import Runtime
from condkit.weights import hub_model

WEIGHTS = {
    "dpt-hybrid": hub_model(
        "Intel/dpt-hybrid-midas",
        revision="11eaf7a1cf4bd70740697dbc216f98980c0aeb03",
        licence="Apache-2.0",
        commercial_use=True,
        origin="MiDaS 3 by Intel ISL (dpt_hybrid-midas-501f0c75.pt), converted for transformers",
        weights="pytorch_model.bin",
        sha256="b6c4d44f9d96ca3fa76dd3bbb153989a60b4ad5526559f3c598562a368d687ec",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MidasParams(MixedSizesParams):
    """Settings of MiDaS.

    Attributes:
        detect_size: Short side in pixels at which the network works. It was trained at 384, and the
            public maps were made there.
    """

    detect_size: int = 384

    def __post_init__(self) -> None:
        require_possible_sizes(self, "midas", least=32, most=4096)


def _load(params: MidasParams, runtime: Runtime) -> DenseDetector:
    from condkit.annotators.nets.depth_detectors import inverse_depth_detector
    from condkit.annotators.nets.transformers_depth import load_dpt

    return inverse_depth_detector(
        "midas",
        WEIGHTS["dpt-hybrid"],
        load_dpt,
        runtime,
        detect_size=params.detect_size,
        multiple=32,
        draw=size_draw(params, "midas"),
    )


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="midas",
        summary="relative depth by DPT-hybrid",
        source="R. Ranftl et al., PAMI 2022 and ICCV 2021; lllyasviel/ControlNet annotator/midas",
        yields=InverseDepth,
        weights=WEIGHTS,
    ),
    params=MidasParams,
    load=_load,
    needs=lambda params: ("dpt-hybrid",),
)
