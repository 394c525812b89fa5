"""Networks that score classes for every pixel: from images of any size to class labels.

An image is brought to the network's working size with its proportions kept and padded by repeating
its edge; images of one padded size go through the network together. Scores stay on the device: what
comes to the host is one number per pixel of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from condkit.annotators.finite import require_finite
from condkit.annotators.nets.class_maps import class_map
from condkit.budget import Budget
from condkit.predictions import ClassLabels, Prediction
from condkit.types import RgbImage


@dataclass(frozen=True, slots=True)
class Framing:
    """How an image is put in front of a network.

    Attributes:
        short: Short side in pixels at which the network works; None where the long side decides.
        longest: The long side is at most this; where `short` is None, it is exactly this.
        multiple: The sides are padded to multiples of it.
        least: And to this at least.
    """

    short: int | None
    longest: int
    multiple: int = 1
    least: int = 1

    def working_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width at which the network looks at an image, without padding."""
        height, width = size_hw
        scale = self.longest / max(size_hw)
        if self.short is not None:
            scale = min(scale, self.short / min(size_hw))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def padded_hw(self, working_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width with padding."""
        height, width = (
            max(self.least, -(-side // self.multiple) * self.multiple) for side in working_hw
        )
        return height, width


@dataclass(frozen=True, slots=True)
class Framed:
    """An image at a network's working size, padded.

    Attributes:
        index: Its place in the batch that was asked for.
        pixels: (3, h, w) uint8 RGB on the CPU.
        inner_hw: The part that is image; the rest, right and below, repeats the edge.
    """

    index: int
    pixels: torch.Tensor
    inner_hw: tuple[int, int]


def frame(image: RgbImage, index: int, framing: Framing) -> Framed:
    """Resize an image as the networks' own training did (bilinear, smoothed), and pad it.

    Args:
        image: (H, W, 3) uint8 RGB.
        index: Its place in the batch.
        framing: How.
    """
    inner_hw = framing.working_hw(image.shape[:2])
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    if inner_hw != image.shape[:2]:
        pixels = F.interpolate(
            pixels, inner_hw, mode="bilinear", align_corners=False, antialias=True
        )
    height, width = framing.padded_hw(inner_hw)
    below, right = height - inner_hw[0], width - inner_hw[1]
    if below or right:
        rows = torch.arange(height).clamp(max=inner_hw[0] - 1)
        columns = torch.arange(width).clamp(max=inner_hw[1] - 1)
        pixels = pixels[:, :, rows][:, :, :, columns]
    return Framed(index, pixels[0].contiguous(), inner_hw)


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticDetector:
    """A network with scores per class, as a detector.

    Attributes:
        name: For messages.
        network: (N, 3, h, w) float32 RGB in [0, 255] on the device to (N, C, h', w') scores that
            cover the same area; runs without gradients.
        palette: The name of its classes' palette.
        device: Where the network runs.
        budget: How much goes through it at once.
        framing: At which size it works.
        antialias: Whether scores are smoothed where the image is smaller than they are.
    """

    name: str
    network: Callable[[torch.Tensor], torch.Tensor]
    palette: str
    device: torch.device
    budget: Budget
    framing: Framing
    antialias: bool = False

    def __call__(self, images: Sequence[RgbImage]) -> list[Prediction]:
        """One prediction per image, in order.

        Raises:
            MapError: if the network's scores are not finite.
            DeviceMemoryError: if one image alone is too much for the device.
        """
        framed = [frame(image, index, self.framing) for index, image in enumerate(images)]
        sizes_hw = [image.shape[:2] for image in images]
        maps = self.budget.run_by_shape(framed, lambda chunk: self._run(chunk, sizes_hw))
        return [ClassLabels(ids, self.palette) for ids in maps]

    def _run(
        self, chunk: Sequence[Framed], sizes_hw: Sequence[tuple[int, int]]
    ) -> list[NDArray[np.int32]]:
        """One copy to the device, one back."""
        stacked = torch.stack([item.pixels for item in chunk])
        with torch.inference_mode():
            scores = self.network(stacked.to(self.device).float())
            require_finite(scores, f"{self.name}: the network's output")
            maps = [
                class_map(
                    one,
                    _covered(item.inner_hw, stacked.shape[2:], one.shape[1:]),
                    sizes_hw[item.index],
                    antialias=self.antialias,
                )
                for one, item in zip(scores, chunk, strict=True)
            ]
            flat = torch.cat([ids.reshape(-1) for ids in maps]).cpu().numpy().astype(np.int32)
        ends = np.cumsum([ids.numel() for ids in maps])[:-1]
        parts = np.split(flat, ends)
        return [np.array(part).reshape(m.shape) for part, m in zip(parts, maps, strict=True)]


def _covered(
    inner_hw: tuple[int, int], padded_hw: Sequence[int], scores_hw: Sequence[int]
) -> tuple[float, float]:
    """The rows and columns of the scores that lie in the image."""
    height, width = (
        inner * have / padded
        for inner, padded, have in zip(inner_hw, padded_hw, scores_hw, strict=True)
    )
    return height, width


def half_precision(module: Any, dtype: torch.dtype) -> None:  # noqa: ANN401 - untyped packages
    """Let a part of a network compute in `dtype`, and take and give float32.

    Args:
        module: The part; its floating inputs and outputs (also inside of tuples, lists and
            transformers' outputs) are cast.
        dtype: Nothing happens for float32.
    """
    if dtype == torch.float32:
        return
    module.to(dtype)
    module.register_forward_pre_hook(
        lambda _, args, kwargs: (_cast(args, dtype), _cast(kwargs, dtype)), with_kwargs=True
    )
    module.register_forward_hook(lambda _, __, output: _cast(output, torch.float32))


def _cast(value: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(_cast(item, dtype) for item in value)
    if isinstance(value, dict):
        for key in value:
            value[key] = _cast(value[key], dtype)
    return value
