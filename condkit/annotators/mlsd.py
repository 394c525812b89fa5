"""M-LSD: a light network for straight line segments."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.backends import runner
from condkit.annotators.base import (
    DetectorDefinition,
    DetectorSpec,
    require,
)
from condkit.annotators.batching import Prepared, prepare
from condkit.annotators.finite import require_finite
from condkit.budget import Budget
from condkit.predictions import LineSegments, Prediction
from condkit.runtime import Runtime
from condkit.types import RgbImage
from condkit.weights import HubFile, UrlFile, WeightSpec

if TYPE_CHECKING:
    import torch

# The public maps were made at sides that are multiples of 64, so those are never padded here.
_MULTIPLE = 64

Ends = NDArray[np.float32]
Found = tuple[Ends, NDArray[np.float32]]

WEIGHTS = {
    "large": WeightSpec(
        name="mlsd_large_512_fp32.pth",
        sha256="5696f168eb2c30d4374bbfd45436f7415bb4d88da29bea97eea0101520fba082",
        size=6_341_481,
        licence="Apache-2.0",
        commercial_use=True,
        origin="M-LSD's large network as trained by its authors, converted to PyTorch",
        sources=(
            HubFile(
                repo="lllyasviel/Annotators",
                filename="mlsd_large_512_fp32.pth",
                revision="982e7edaec38759d914a963c48c4726685de7d96",
            ),
        ),
    ),
    "tiny": WeightSpec(
        name="mlsd_tiny_512_fp32.pth",
        sha256="3f2323cfb9faec5a0ef2454c4f68998da21a9f1b7918ce89b85886628b750b94",
        size=2_613_835,
        licence="Apache-2.0",
        commercial_use=True,
        origin="M-LSD's tiny network as trained by its authors, converted to PyTorch",
        sources=(
            UrlFile(
                "https://raw.githubusercontent.com/lhwcv/mlsd_pytorch/"
                "2312205254e66911703decf775f626995d260f17/models/mlsd_tiny_512_fp32.pth"
            ),
        ),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MlsdParams:
    """Settings of M-LSD; the defaults are those of the public maps.

    Attributes:
        weights: "large" (that of the public maps) or "tiny" (three times as fast).
        detect_size: Short side in pixels at which the network works. The public maps were made at
            512; images of that size are not resampled at all.
        score: Score that a segment must exceed, 0 to 1.
        length: Length that it must exceed, in cells of two pixels of the working size.
    """

    weights: Literal["large", "tiny"] = "large"
    detect_size: int = 512
    score: float = 0.1
    length: float = 0.1

    def __post_init__(self) -> None:
        require(
            16 <= self.detect_size <= 8192,
            f"mlsd.detect_size: expected 16 to 8192 pixels, got {self.detect_size}",
        )
        require(0 <= self.score <= 1, f"mlsd.score: expected 0 to 1, got {self.score}")
        require(self.length >= 0, f"mlsd.length: expected 0 or more cells, got {self.length}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MlsdDetector:
    """A loaded M-LSD.

    Attributes:
        forward: (N, 3, h, w) float32 RGB in [0, 255] on the device, to its maps.
        params: The settings.
        device: Where it runs.
        budget: How much goes through it at once.
    """

    forward: Callable[[torch.Tensor], torch.Tensor]
    params: MlsdParams
    device: torch.device
    budget: Budget

    def __call__(self, images: Sequence[RgbImage]) -> list[Prediction]:
        """The segments of each image.

        Raises:
            MapError: if the network's output is not finite.
            DeviceMemoryError: if one image alone is too much for the device.
        """
        prepared = prepare(images, self.params.detect_size, _MULTIPLE)
        found = self.budget.run_by_shape(prepared, self._run)
        return [
            _in_image(ends, scores, item.inner_hw, image.shape[:2])
            for (ends, scores), item, image in zip(found, prepared, images, strict=True)
        ]

    def _run(self, chunk: Sequence[Prepared]) -> list[Found]:
        """Segments at the working size; one copy to the device, one back."""
        import torch

        from condkit.annotators.nets.mlsd import segments

        stacked = torch.from_numpy(np.stack([item.pixels for item in chunk]))
        with torch.inference_mode():
            maps = self.forward(stacked.to(self.device).permute(0, 3, 1, 2).float())
            require_finite(maps, "mlsd: the network's output")
            found = segments(maps, min_score=self.params.score, min_length=self.params.length)
            counts = [len(scores) for _, scores in found]
            table = torch.cat([torch.cat([e, s[:, None]], 1) for e, s in found]).cpu().numpy()
        parts = np.split(table, np.cumsum(counts)[:-1])
        return [(part[:, :4], part[:, 4]) for part in parts]


def _in_image(
    ends: Ends, scores: NDArray[np.float32], inner_hw: tuple[int, int], size_hw: tuple[int, int]
) -> LineSegments:
    """Segments in the image's own pixels, those of the padding dropped, the others cut there."""
    scale = np.array([size_hw[1] / inner_hw[1], size_hw[0] / inner_hw[0]] * 2, np.float32)
    cut, inside = clip(ends * scale, size_hw)
    return LineSegments(cut[inside], np.ascontiguousarray(scores[inside]), (size_hw[0], size_hw[1]))


def clip(ends: Ends, size_hw: tuple[int, int]) -> tuple[Ends, NDArray[np.bool_]]:
    """Cut segments where they leave the image.

    Args:
        ends: (N, 4) float32 (x0, y0, x1, y1).
        size_hw: The image spans 0 to width - 1 and 0 to height - 1.

    Returns:
        (N, 4) float32, and (N,) whether any of a segment is inside.

    Source: Y.-D. Liang and B. A. Barsky, ACM Transactions on Graphics 3(1), 1984.
    """
    start, way = ends[:, :2].astype(np.float64), (ends[:, 2:] - ends[:, :2]).astype(np.float64)
    limit = np.array([size_hw[1] - 1, size_hw[0] - 1], np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = (0 - start) / way, (limit - start) / way
    enter, leave = np.minimum(low, high), np.maximum(low, high)
    parallel = way == 0
    outside = parallel & ((start < 0) | (start > limit))
    enter, leave = np.where(parallel, -np.inf, enter), np.where(parallel, np.inf, leave)
    first = np.maximum(enter.max(1, initial=-np.inf), 0.0)
    last = np.minimum(leave.min(1, initial=np.inf), 1.0)
    inside = (first <= last) & ~outside.any(1)
    points = [start + np.where(inside, t, 0.0)[:, None] * way for t in (first, last)]
    cut = np.concatenate([np.clip(point, 0, limit) for point in points], axis=1)
    return cut.astype(np.float32), inside


def _load(params: MlsdParams, runtime: Runtime) -> MlsdDetector:
    from condkit.annotators.nets.mlsd import mlsd_maps

    network = mlsd_maps(runtime.store.path(WEIGHTS[params.weights]), params.weights, runtime)
    device, _ = runtime.resolve()
    return MlsdDetector(
        forward=runner(network, _exporting(runtime), key=f"mlsd-{params.weights}"),
        params=params,
        device=device,
        budget=Budget.on(device, "mlsd"),
    )


def _exporting(runtime: Runtime) -> Runtime:
    """OpenVINO rounds all layers alike, and these do not bear it: there `auto` is fp32."""
    if runtime.backend == "openvino" and runtime.dtype == "auto":
        return dataclasses.replace(runtime, dtype="fp32")
    return runtime


DETECTOR = DetectorDefinition(
    spec=DetectorSpec(
        name="mlsd",
        summary="mobile line segment detector: straight lines of rooms and buildings",
        source="G. Gu et al., AAAI 2022; lllyasviel/ControlNet annotator/mlsd",
        yields=LineSegments,
        weights=WEIGHTS,
    ),
    params=MlsdParams,
    load=_load,
)
