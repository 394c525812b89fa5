"""DPT-Large: relative inverse depth by MiDaS's larger network."""

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
    "dpt-large": hub_model(
        "Intel/dpt-large",
        licence="unknown",
        commercial_use=None,
        origin="MiDaS 3 by Intel ISL (dpt_large-midas-2f21e586.pt), converted for transformers",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DptLargeParams(MixedSizesParams):
    """Settings of DPT-Large.

    Attributes:
        detect_size: Short side in pixels at which the network works; it was trained at 384.
    """

    detect_size: int = 384

    def __post_init__(self) -> None:
        require_possible_sizes(self, "dpt-large", least=32, most=4096)


def _load(params: DptLargeParams, runtime: Runtime) -> DenseDetector:
    from condkit.annotators.nets.depth_detectors import inverse_depth_detector
    from condkit.annotators.nets.transformers_depth import load_dpt

    return inverse_depth_detector(
        "dpt-large",
        WEIGHTS["dpt-large"],
        load_dpt,
        runtime,
        detect_size=params.detect_size,
        multiple=32,
        draw=size_draw(params, "dpt-large"),
    )


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="dpt-large",
        summary="relative depth by DPT-Large",
        source="R. Ranftl et al., ICCV 2021 (arXiv 2103.13413)",
        yields=InverseDepth,
        weights=WEIGHTS,
    ),
    params=DptLargeParams,
    load=_load,
    needs=lambda params: ("dpt-large",),
)
