"""SAM 2: everything in a picture that has an outline, without classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from condkit.annotators.base import (
    Detector,
    DetectorDefinition,
    DetectorSpec,
    require,
)
from condkit.budget import Budget
from condkit.predictions import Segments
from condkit.runtime import Runtime
from condkit.weights import hub_model

_ORIGIN = "SAM 2.1 by Meta (Ravi et al.)"

WEIGHTS = {
    "large": hub_model(
        "facebook/sam2.1-hiera-large",
        revision="665f8e2ad61cf5f53d65644ff27c8ee525124610",
        licence="Apache-2.0",
        commercial_use=True,
        origin=_ORIGIN,
        sha256="dc407dce21301fd94abb395c5099b4f2c455fdc8a8f261ac3d0ea6d4cd197230",
        size=897_897_416,
    ),
    "base-plus": hub_model(
        "facebook/sam2.1-hiera-base-plus",
        revision="b7320756a13354e7530a63935656d35b2f91a290",
        licence="Apache-2.0",
        commercial_use=True,
        origin=_ORIGIN,
        sha256="2012733a0de5d03efd1bba550a2847c4551be9ef2e0d497c83074df66189f780",
        size=323_476_296,
    ),
    "small": hub_model(
        "facebook/sam2.1-hiera-small",
        revision="ee5bba1d82bb8749febdf90f45e84b687142ba03",
        licence="Apache-2.0",
        commercial_use=True,
        origin=_ORIGIN,
        sha256="0a4067b11ce1e23d5229203f11c718a823060d15a4b23fa2372a7d4b77cbbc60",
    ),
    "tiny": hub_model(
        "facebook/sam2.1-hiera-tiny",
        revision="de431c4043854a71d8101e17995dfe596bf101a5",
        licence="Apache-2.0",
        commercial_use=True,
        origin=_ORIGIN,
        sha256="48c14467e5cf9e51870511feb72c89688e82dd74523142c0538b663e193ac2a7",
        size=155_908_064,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sam2Params:
    """Settings of SAM 2's automatic masks; their defaults are those of its authors' generator.

    Attributes:
        weights: "large", "base-plus", "small" or "tiny".
        points_per_side: The network is asked at a grid of this many points along each side.
        iou_threshold: Least quality that the network itself foresees for a mask, 0 to 1.
        stability_threshold: Least overlap of a mask cut a little higher and a little lower, 0 to 1.
        nms_threshold: Of masks whose boxes overlap by more than this, the best one stays, 0 to 1.
    """

    weights: Literal["large", "base-plus", "small", "tiny"] = "large"
    points_per_side: int = 32
    iou_threshold: float = 0.88
    stability_threshold: float = 0.95
    nms_threshold: float = 0.7

    def __post_init__(self) -> None:
        require(
            1 <= self.points_per_side <= 128,
            f"sam2.points_per_side: expected 1 to 128, got {self.points_per_side}",
        )
        for name in ("iou_threshold", "stability_threshold", "nms_threshold"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"sam2.{name}: expected 0 to 1, got {value}")


def _load(params: Sam2Params, runtime: Runtime) -> Detector:
    from condkit.annotators.nets.sam2_masks import MaskChoice, Sam2Detector, load_sam2

    device, dtype = runtime.resolve()
    folder = runtime.store.folder(WEIGHTS[params.weights])
    return Sam2Detector(
        network=load_sam2(folder, device, dtype),
        choice=MaskChoice(
            points_per_side=params.points_per_side,
            iou_threshold=params.iou_threshold,
            stability_threshold=params.stability_threshold,
            nms_threshold=params.nms_threshold,
        ),
        device=device,
        budget=Budget.on(device, "sam2"),
    )


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="sam2",
        summary="segments without classes by SAM 2.1, asked at a grid of points",
        source="N. Ravi et al., 2024 (arXiv 2408.00714); transformers' mask-generation pipeline",
        yields=Segments,
        weights=WEIGHTS,
    ),
    params=Sam2Params,
    load=_load,
)
