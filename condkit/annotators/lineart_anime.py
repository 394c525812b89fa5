"""Line drawings of anime, the detector of control_v11p_sd15s2_lineart_anime."""

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

# Eight halvings. The public maps were stretched to such sides; here they are padded.
_MULTIPLE = 256

WEIGHTS = {
    "netG": WeightSpec(
        name="netG.pth",
        sha256="ccabdcc3f5cf3c07cf65d58776acb21df7dfda825cdc70c9766a93fd62bfc488",
        size=217_631_959,
        licence="not stated",
        commercial_use=None,
        origin="L. Zhang's anime line art network for ControlNet 1.1",
        sources=(
            HubFile(
                repo="lllyasviel/Annotators",
                filename="netG.pth",
                revision="982e7edaec38759d914a963c48c4726685de7d96",
            ),
        ),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LineartAnimeParams:
    """Settings of the anime line art network.

    Attributes:
        weights: "netG", those of the public maps.
        detect_size: Short side in pixels at which the network works. The public maps were made at
            512; images of that size are not resampled at all.
    """

    weights: str = "netG"
    detect_size: int = 512

    def __post_init__(self) -> None:
        require(
            self.weights in WEIGHTS,
            f"lineart_anime.weights: expected one of {', '.join(WEIGHTS)}, got {self.weights!r}",
        )
        require(
            16 <= self.detect_size <= 8192,
            f"lineart_anime.detect_size: expected 16 to 8192 pixels, got {self.detect_size}",
        )


def _load(params: LineartAnimeParams, runtime: Runtime) -> DenseDetector:
    from condkit.annotators.nets.lineart import lineart_anime_edges

    network = lineart_anime_edges(runtime.store.path(WEIGHTS[params.weights]), runtime)
    device, _ = runtime.resolve()
    return DenseDetector(
        name="lineart_anime",
        forward=runner(network, runtime, key=f"lineart_anime-{params.weights}", any_size=True),
        to_prediction=EdgeStrength,
        device=device,
        budget=Budget.on(device, "lineart_anime"),
        detect_size=params.detect_size,
        multiple=_MULTIPLE,
    )


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="lineart_anime",
        summary="line drawings of anime pictures",
        source="lllyasviel/ControlNet-v1-1-nightly annotator/lineart_anime",
        yields=EdgeStrength,
        weights=WEIGHTS,
    ),
    params=LineartAnimeParams,
    load=_load,
)
