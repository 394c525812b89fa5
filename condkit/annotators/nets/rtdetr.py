"""Finding persons with RT-DETR of transformers.

Source: Y. Zhao et al., "DETRs Beat YOLOs on Real-time Object Detection", CVPR 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from condkit.annotators.finite import require_finite
from condkit.annotators.nets.semantic import half_precision
from condkit.annotators.nets.yolox import Boxes
from condkit.budget import Budget
from condkit.pretrained import load_pretrained
from condkit.types import RgbImage

_SIDE = 640
_PERSON = 0
# Counts of batch norms that are frozen, anchors that follow from the size, and the decoder's heads
# once more under the names that older releases gave them.
_MAY_HAVE = (r"num_batches_tracked$", r"(anchors|valid_mask)$", r"^(class|bbox)_embed\.")


def load_rtdetr(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """`RTDetrForObjectDetection` on the device, frozen.

    Args:
        folder: Its files.
        device: Where it runs.
        dtype: Of the backbone and the encoder; the decoder, whose scores are compared with a
            threshold, stays in float32.

    Raises:
        WeightsError: if the files are not the network's.
    """
    network = load_pretrained("RTDetrForObjectDetection", folder, may_have=_MAY_HAVE)
    network.to(device, memory_format=torch.channels_last)
    half_precision(network.model.backbone, dtype)
    half_precision(network.model.encoder, dtype)
    return network


@dataclass(frozen=True, slots=True, kw_only=True)
class RtDetr:
    """The network as a finder of persons.

    The image keeps its proportions: its long side becomes the network's, the rest is black.
    (transformers stretches it to a square; on square images both are the same.)

    Attributes:
        network: From `load_rtdetr`.
        threshold: The least score of a person.
        most: The most persons of one image.
        device: Where the network runs.
        budget: How much goes through it at once.
        side: Of the square that it sees, in pixels.
    """

    network: Any
    threshold: float
    most: int
    device: torch.device
    budget: Budget
    side: int = _SIDE

    def __call__(self, images: Sequence[RgbImage]) -> list[Boxes]:
        """The persons of each image.

        Raises:
            MapError: if the network's output is not finite.
            DeviceMemoryError: if one image alone is too much for the device.
        """
        framed = [_framed(image, self.side) for image in images]
        raw = self.budget.run([pixels for pixels, _ in framed], self.side**2, self._forward)
        found = []
        for (centred, scores), (_, scale), image in zip(raw, framed, images, strict=True):
            kept = torch.nonzero(scores > self.threshold).flatten()
            kept = kept[torch.argsort(scores[kept], descending=True, stable=True)][: self.most]
            centre, half = centred[kept, :2], centred[kept, 2:] / 2
            xyxy = torch.cat([centre - half, centre + half], dim=1).numpy() * self.side / scale
            xyxy[:, 0::2] = xyxy[:, 0::2].clip(0, image.shape[1])
            xyxy[:, 1::2] = xyxy[:, 1::2].clip(0, image.shape[0])
            found.append(Boxes(xyxy.astype(np.float32), scores[kept].numpy()))
        return found

    def _forward(self, chunk: Sequence[RgbImage]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Boxes as centre and size from 0 to 1, and the scores of persons, on the host."""
        pixels = torch.from_numpy(np.stack(chunk)).to(self.device).permute(0, 3, 1, 2)
        with torch.inference_mode():
            values = (pixels.float() / 255).contiguous(memory_format=torch.channels_last)
            outputs = self.network(values)
            scores = outputs.logits.float().sigmoid()[..., _PERSON]
            both = torch.cat([outputs.pred_boxes.float(), scores[..., None]], dim=-1).cpu()
        require_finite(both, "RT-DETR's output")
        return [(each[:, :4], each[:, 4]) for each in both]


def _framed(image: RgbImage, side: int) -> tuple[RgbImage, float]:
    """An image in the upper left of a black square, and its scale."""
    import cv2

    scale = side / max(image.shape[:2])
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    square = np.zeros((side, side, 3), np.uint8)
    if (height, width) == image.shape[:2]:
        square[:height, :width] = image
    else:
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        square[:height, :width] = cv2.resize(image, (width, height), interpolation=way)
    return square, scale
