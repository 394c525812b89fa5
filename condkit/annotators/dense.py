"""Networks that give values for every pixel: what all of them share.

An image is brought to the network's working size and padded by repeating its edge (never
stretched); images of one padded size go through the network together; what comes out is cut and
brought back to the image's own size on the device, and copied to the host once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.batching import Prepared, prepare, restore
from condkit.annotators.detect_sizes import SizeDraw
from condkit.annotators.finite import require_finite
from condkit.annotators.on_device import restore_on_device
from condkit.budget import Budget
from condkit.errors import MapError
from condkit.predictions import InverseDepth, MetricDepth, Prediction
from condkit.types import RgbImage

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseDetector:
    """A network with an output per pixel, as a detector.

    Attributes:
        name: For messages.
        forward: (N, 3, h, w) float32 RGB in [0, 255] on the device, h and w multiples of
            `multiple`, to (N, h, w) or (N, C, h, w) of any floating type; runs without gradients.
        to_prediction: (H, W) or (H, W, C) float32 at the image's size, to the prediction.
        device: Where the network runs.
        budget: How much goes through it at once.
        detect_size: Short side in pixels at which it works.
        multiple: What its sides must be multiples of.
        how: Resampling of the output to the image's size; "nearest" for classes.
        draw: Draws the short side for each image, in place of `detect_size`; the predictions, which
            must have a field `facts`, say which it was.
    """

    name: str
    forward: Callable[[torch.Tensor], torch.Tensor]
    to_prediction: Callable[[NDArray[Any]], Prediction]
    device: torch.device
    budget: Budget
    detect_size: int
    multiple: int
    how: str = "bilinear"
    draw: SizeDraw | None = None

    def __call__(self, images: Sequence[RgbImage]) -> list[Prediction]:
        """One prediction per image, in order.

        Raises:
            MapError: if the network's output is not finite.
            DeviceMemoryError: if one image alone is too much for the device.
        """

        def run(chunk: Sequence[Prepared]) -> list[NDArray[np.float32]]:
            return self._run(chunk, [images[item.index].shape[:2] for item in chunk])

        sizes = [self.draw(image) if self.draw else self.detect_size for image in images]
        prepared = prepare(images, sizes, self.multiple)
        found = [self.to_prediction(values) for values in self.budget.run_by_shape(prepared, run)]
        if self.draw is None:
            return found
        return [_with_size(one, size) for one, size in zip(found, sizes, strict=True)]

    def _run(
        self, chunk: Sequence[Prepared], sizes_hw: Sequence[tuple[int, int]]
    ) -> list[NDArray[np.float32]]:
        """One copy to the device, one back."""
        import torch

        stacked = torch.from_numpy(np.stack([item.pixels for item in chunk]))
        with torch.inference_mode():
            pixels = stacked.to(self.device).permute(0, 3, 1, 2).float()
            values = self.forward(pixels).float()
            require_finite(values, f"{self.name}: the network's output")
            inner = [item.inner_hw for item in chunk]
            if self.device.type == "cpu":
                return [
                    restore(_last(one), hw, size, self.how)
                    for one, hw, size in zip(values, inner, sizes_hw, strict=True)
                ]
            return restore_on_device(values, inner, sizes_hw, self.how)


def _with_size(prediction: Prediction, size: int) -> Prediction:
    if not isinstance(prediction, InverseDepth | MetricDepth):
        raise MapError(f"{type(prediction).__name__} has no facts to note a working size in")
    return replace(prediction, facts={**prediction.facts, "detect_size": size})


def _last(values: torch.Tensor) -> NDArray[np.float32]:
    """(h, w) as it is, (C, h, w) as (h, w, C)."""
    array: NDArray[np.float32] = (values.permute(1, 2, 0) if values.ndim == 3 else values).numpy()
    return array
