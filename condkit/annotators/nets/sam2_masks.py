"""SAM 2 asked at a grid of points for everything there is: segments without classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from condkit.annotators.finite import require_finite
from condkit.annotators.nets.resampling import bilinear
from condkit.annotators.nets.semantic import Framed, Framing, frame, half_precision
from condkit.budget import Budget
from condkit.predictions import Prediction, Segments
from condkit.pretrained import load_pretrained, read_normalisation
from condkit.types import RgbImage

# The published files are those of the video model, whose memory a single picture does not need.
_MAY_HAVE = (
    r"^memory_",
    r"^mask_downsample",
    r"^object_pointer_proj",
    r"^temporal_positional_encoding",
    r"^no_memory_positional_encoding$",
    r"^no_object_pointer$",
    r"^occlusion_spatial_embedding_parameter$",
)
_OFFSET = 1.0
_MASK_PIXELS_AT_ONCE = 1 << 25
_PROMPTS_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskChoice:
    """Which masks count.

    Attributes:
        points_per_side: Points of the grid along each side of the image.
        iou_threshold: Least quality that the network itself foresees for a mask, 0 to 1.
        stability_threshold: Least overlap of the mask cut a little higher and a little lower, 0
            to 1.
        nms_threshold: Of masks whose boxes overlap by more than this, the best one stays.
    """

    points_per_side: int = 32
    iou_threshold: float = 0.88
    stability_threshold: float = 0.95
    nms_threshold: float = 0.7


@dataclass(frozen=True, slots=True)
class Masks:
    """Masks of one image at the network's own resolution.

    Attributes:
        logits: (K, h, w) float32; above 0 is inside.
        inner_hw: The rows and columns of them that lie in the image.
        scores: (K,) float32, the foreseen quality.
        boxes: (K, 4) float32, left, top, right, bottom; pixels at the size they were judged at.
        areas: (K,) pixels at that size.
    """

    logits: torch.Tensor
    inner_hw: tuple[float, float]
    scores: torch.Tensor
    boxes: torch.Tensor
    areas: torch.Tensor

    def __getitem__(self, index: torch.Tensor) -> Masks:
        """Some of them."""
        parts = (self.logits[index], self.scores[index], self.boxes[index], self.areas[index])
        return Masks(parts[0], self.inner_hw, *parts[1:])


def load_sam2(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """`Sam2Model` of transformers, with `mean` and `std` as buffers, on the device and frozen.

    Args:
        folder: Its files.
        device: Where it runs.
        dtype: Of the image encoder and the mask decoder, but not of the foreseen quality, which is
            compared with a threshold.

    Raises:
        WeightsError: if the files are not the network's.
    """
    network = load_pretrained("Sam2Model", folder, may_have=_MAY_HAVE)
    for name, values in zip(("mean", "std"), read_normalisation(folder), strict=True):
        network.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
    network.to(device)
    decoder = network.mask_decoder
    for part in (network.vision_encoder, decoder, decoder.conv_s0, decoder.conv_s1):
        half_precision(part, dtype)
    decoder.iou_prediction_head.float().register_forward_pre_hook(
        lambda _, args: tuple(value.float() for value in args)
    )
    return network


@dataclass(frozen=True, slots=True, kw_only=True)
class Sam2Detector:
    """SAM 2's automatic masks as a detector.

    The image keeps its proportions: its long side becomes the network's, and the square is filled
    up by repeating the edge. (transformers' pipeline stretches it to a square, but places the
    points as if it had not; on square images both are the same.)

    Attributes:
        network: From `load_sam2`.
        choice: Which masks count.
        device: Where the network runs.
        budget: How many images are encoded at once.
    """

    network: Any
    choice: MaskChoice
    device: torch.device
    budget: Budget

    @property
    def side(self) -> int:
        """Side in pixels of the square that the network sees."""
        return int(self.network.prompt_encoder.input_image_size)

    def __call__(self, images: Sequence[RgbImage]) -> list[Prediction]:
        """One prediction per image, in order.

        Raises:
            DeviceMemoryError: if one image alone is too much for the device.
        """
        framing = Framing(short=None, longest=self.side, least=self.side)
        found: list[Prediction] = []
        # Only as many embeddings are kept as one chunk has.
        for chunk in self._chunks([frame(image, i, framing) for i, image in enumerate(images)]):
            encoded = self.budget.run(chunk, self.side**2, self._encode)
            for item, embeddings in zip(chunk, encoded, strict=True):
                size_hw = images[item.index].shape[:2]
                with torch.inference_mode():
                    masks = self.masks(embeddings, item.inner_hw, size_hw)
                    found.append(Segments(segment_ids(masks, size_hw)))
        return found

    def _chunks(self, items: Sequence[Framed]) -> Iterator[Sequence[Framed]]:
        count = max(1, self.budget.pixels // self.side**2)
        return (items[start : start + count] for start in range(0, len(items), count))

    def _encode(self, chunk: Sequence[Framed]) -> list[list[torch.Tensor]]:
        """Per image the embeddings of each level, each (1, C, h, w)."""
        stacked = torch.stack([item.pixels for item in chunk])
        with torch.inference_mode():
            pixels = stacked.to(self.device).float() / 255
            pixels = (pixels - self.network.mean) / self.network.std
            levels = self.network.get_image_embeddings(pixels)
        return [[level[index : index + 1] for level in levels] for index in range(len(chunk))]

    def masks(
        self,
        embeddings: list[torch.Tensor],
        inner_hw: tuple[int, int],
        size_hw: tuple[int, int],
    ) -> Masks:
        """The masks of one image that count, the best first.

        Args:
            embeddings: Of the encoder.
            inner_hw: The part of its input that is image.
            size_hw: The image's height and width; masks are judged at that size, or at the
                network's where the image is larger, since quality does not depend on it.
        """
        judged_hw = min(size_hw, inner_hw, key=max)
        prompts = Budget("sam2", _PROMPTS_AT_ONCE)
        points = point_grid(self.choice.points_per_side, inner_hw).to(self.device)

        def ask(chunk: Sequence[torch.Tensor]) -> list[Masks | None]:
            # A budget wants one result per item: the first stands for all of its chunk.
            found = self._ask(embeddings, torch.stack(list(chunk)), inner_hw, judged_hw)
            return [found, *[None] * (len(chunk) - 1)]

        found = [part for part in prompts.run(list(points), 1, ask) if part is not None]
        return _suppress(_joined(found), self.choice.nms_threshold)

    def _ask(
        self,
        embeddings: list[torch.Tensor],
        points: torch.Tensor,
        inner_hw: tuple[int, int],
        judged_hw: tuple[int, int],
    ) -> Masks:
        """The masks at some points that are good and stable."""
        found = self.network(image_embeddings=embeddings, input_points=points[None, :, None])
        scores = found.iou_scores.flatten()
        # A NaN is above no threshold: the picture would come out without a segment.
        require_finite(scores, "sam2: the network's output")
        good = scores > self.choice.iou_threshold
        logits = found.pred_masks.flatten(0, 2)[good].float()
        covered = tuple(
            inner * have / self.side for inner, have in zip(inner_hw, logits.shape[1:], strict=True)
        )
        return self._stable(logits, scores[good].float(), (covered[0], covered[1]), judged_hw)

    def _stable(
        self,
        logits: torch.Tensor,
        scores: torch.Tensor,
        covered: tuple[float, float],
        judged_hw: tuple[int, int],
    ) -> Masks:
        kept, boxes, areas = [], [], []
        count = max(1, _MASK_PIXELS_AT_ONCE // (judged_hw[0] * judged_hw[1]))
        for start in range(0, len(logits), count):
            large = bilinear(logits[start : start + count], covered, judged_hw)
            inner = (large > _OFFSET).sum((1, 2))
            outer = (large > -_OFFSET).sum((1, 2))
            kept.append(inner / outer > self.choice.stability_threshold)
            inside = large > 0
            boxes.append(_boxes(inside))
            areas.append(inside.sum((1, 2)))
        if not kept:
            nothing = logits.new_zeros(0)
            return Masks(logits, covered, scores, logits.new_zeros(0, 4), nothing)
        everything = Masks(logits, covered, scores, torch.cat(boxes), torch.cat(areas).float())
        return everything[torch.cat(kept)]


def point_grid(per_side: int, inner_hw: tuple[int, int]) -> torch.Tensor:
    """Points spread evenly over an image, row by row.

    Args:
        per_side: Their number along each side.
        inner_hw: The image's height and width in the network's input.

    Returns:
        (per_side squared, 2) float32, x and y in pixels of the network's input.
    """
    along = (torch.arange(per_side, dtype=torch.float32) + 0.5) / per_side
    y, x = torch.meshgrid(along * inner_hw[0], along * inner_hw[1], indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def segment_ids(masks: Masks, size_hw: tuple[int, int]) -> NDArray[np.int32]:
    """Masks laid over each other, the largest first, so that what lies inside stays visible.

    Args:
        masks: They may overlap.
        size_hw: The image's height and width.

    Returns:
        (H, W) int32: 0 where there is none, then 1 for the largest that is visible, and so on.
    """
    ids = torch.zeros(size_hw, dtype=torch.int32, device=masks.logits.device)
    order = torch.sort(masks.areas, descending=True, stable=True).indices.tolist()
    for number, index in enumerate(order, start=1):
        inside = bilinear(masks.logits[index : index + 1], masks.inner_hw, size_hw)[0] > 0
        ids.masked_fill_(inside, number)
    laid = ids.cpu().numpy()
    visible = np.union1d(laid, [0])
    return np.searchsorted(visible, laid).astype(np.int32)


def _joined(parts: Sequence[Masks]) -> Masks:
    first = parts[0]
    logits, scores, boxes, areas = (
        torch.cat([getattr(part, name) for part in parts])
        for name in ("logits", "scores", "boxes", "areas")
    )
    return Masks(logits, first.inner_hw, scores, boxes, areas)


def _suppress(masks: Masks, threshold: float) -> Masks:
    """Of masks with much the same box the best one alone, the best first."""
    from torchvision.ops import nms  # type: ignore[import-untyped]

    return masks[nms(masks.boxes, masks.scores, threshold)]


def _boxes(inside: torch.Tensor) -> torch.Tensor:
    """(K, H, W) bool to (K, 4) float32: the outermost pixels; zeros for an empty mask."""
    columns, rows = inside.any(1), inside.any(2)
    boxes = []
    for lines in (columns, rows):
        count = lines.shape[1]
        first = lines.float().argmax(1)
        last = count - 1 - lines.flip(1).float().argmax(1)
        boxes.append((first, last))
    (left, right), (top, bottom) = boxes
    corners = torch.stack([left, top, right, bottom], dim=1).float()
    return corners * inside.flatten(1).any(1, keepdim=True)
