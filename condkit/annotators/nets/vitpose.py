"""ViTPose of transformers: 17 joints of each person as heat maps, found to a part of a cell.

Source: Y. Xu et al., "ViTPose", NeurIPS 2022; F. Zhang et al., "Distribution-Aware Coordinate
Representation for Human Pose Estimation", CVPR 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from condkit.annotators.finite import require_finite
from condkit.annotators.nets.rtdetr import RtDetr
from condkit.annotators.nets.semantic import half_precision
from condkit.annotators.pose.person_crops import cut_out, in_image, region_around
from condkit.annotators.pose.wholebody import COCO_JOINTS, body_from_coco
from condkit.budget import Budget
from condkit.errors import WeightsError
from condkit.predictions import People, Person, Prediction
from condkit.pretrained import load_pretrained, read_normalisation
from condkit.types import RgbImage

_SIGMA = 0.8
_RADIUS = 5
_LEAST, _GREATEST = 0.001, 50.0
_COCO_EXPERT = 0


def load_vitpose(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """`VitPoseForPoseEstimation`, with `mean` and `std` as buffers, on the device and frozen.

    Args:
        folder: Its files.
        device: Where it runs.
        dtype: Of the backbone; the head, whose peaks are compared, stays in float32.

    Raises:
        WeightsError: if the files are not the network's, or it does not know COCO's 17 joints.
    """
    network = load_pretrained("VitPoseForPoseEstimation", folder)
    if network.config.num_labels != COCO_JOINTS:
        raise WeightsError(
            f"{folder}: expected a ViTPose of COCO's {COCO_JOINTS} joints, got "
            f"{network.config.num_labels}"
        )
    for name, values in zip(("mean", "std"), read_normalisation(folder), strict=True):
        network.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
    network.to(device, memory_format=torch.channels_last)
    half_precision(network.backbone, dtype)
    return network


@dataclass(frozen=True, slots=True, kw_only=True)
class VitPose:
    """Both networks as a detector of bodies.

    Attributes:
        persons: Finds the persons.
        network: From `load_vitpose`.
        device: Where it runs.
        budget: How many persons go through it at once.
    """

    persons: RtDetr
    network: Any
    device: torch.device
    budget: Budget

    def __call__(self, images: Sequence[RgbImage]) -> list[Prediction]:
        """The people of each image, in order; the persons of all images are one batch.

        Raises:
            MapError: if a network's output is not finite.
            DeviceMemoryError: if one image alone is too much for the device.
        """
        boxes = [found.xyxy for found in self.persons(images)]
        bodies = self.bodies(images, boxes)
        return [
            People(tuple(Person(body=body) for body in of_image), (image.shape[0], image.shape[1]))
            for of_image, image in zip(bodies, images, strict=True)
        ]

    def bodies(
        self, images: Sequence[RgbImage], boxes: Sequence[NDArray[np.float32]]
    ) -> list[list[NDArray[np.float32]]]:
        """The (18, 3) joints of the person in each box of each image."""
        joints = self.joints(images, boxes)
        return [[body_from_coco(each) for each in of_image] for of_image in joints]

    def joints(
        self, images: Sequence[RgbImage], boxes: Sequence[NDArray[np.float32]]
    ) -> list[list[NDArray[np.float32]]]:
        """COCO's 17 joints of the person in each box of each image.

        Args:
            images: (H, W, 3) uint8 RGB.
            boxes: (N, 4) float32 left, top, right, bottom in pixels, for each image.

        Returns:
            (17, 3) float32 x, y in pixels of the image and score, at least 0.
        """
        size_hw = self.size_hw
        owners, regions, crops = [], [], []
        for index, (image, of_image) in enumerate(zip(images, boxes, strict=True)):
            for box in of_image:
                region = region_around(box, size_hw)
                owners.append(index)
                regions.append(region)
                crops.append(cut_out(image, region, size_hw, unbiased=True))
        found: list[list[NDArray[np.float32]]] = [[] for _ in images]
        results = self.budget.run(crops, size_hw[0] * size_hw[1], self._forward)
        for owner, region, (points, map_hw) in zip(owners, regions, results, strict=True):
            places = in_image(points[:, :2], region, map_hw, unbiased=True)
            places[points[:, 2] == 0] = 0
            found[owner].append(np.concatenate([places, points[:, 2:]], axis=1))
        return found

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        height, width = self.network.config.backbone_config.image_size
        return int(height), int(width)

    def _forward(
        self, crops: Sequence[RgbImage]
    ) -> list[tuple[NDArray[np.float32], tuple[int, int]]]:
        pixels = torch.from_numpy(np.stack(crops)).to(self.device).permute(0, 3, 1, 2).float()
        with torch.inference_mode():
            values = (pixels / 255 - self.network.mean) / self.network.std
            values = values.contiguous(memory_format=torch.channels_last)
            heat = self.network(values, **self._expert(len(crops))).heatmaps.float()
            points = peaks(heat).cpu().numpy()
        require_finite(points, "ViTPose's output")
        map_hw = int(heat.shape[2]), int(heat.shape[3])
        return [(each, map_hw) for each in points]

    def _expert(self, count: int) -> dict[str, torch.Tensor]:
        """ViTPose+ has an expert for each data set it learned from."""
        if self.network.config.backbone_config.num_experts == 1:
            return {}
        return {"dataset_index": torch.full((count,), _COCO_EXPERT, device=self.device)}


def peaks(heat: torch.Tensor) -> torch.Tensor:
    """The highest place of each heat map, by a step of Newton on the smoothed logarithm.

    Args:
        heat: (N, K, h, w) float32.

    Returns:
        (N, K, 3) float32 x and y in cells, and the highest value, 0 where that is not above 0.
    """
    width = heat.shape[3]
    scores, index = heat.flatten(2).max(-1)
    x, y = index % width, index // width
    smooth = _smoothed(heat).clamp(_LEAST, _GREATEST).log()
    padded = F.pad(smooth, (1, 1, 1, 1), mode="replicate").flatten(2)
    centre = (y + 1) * (width + 2) + x + 1

    def at(dx: int, dy: int) -> torch.Tensor:
        return padded.gather(2, (centre + dy * (width + 2) + dx)[..., None])[..., 0]

    here, right, left, below, above = at(0, 0), at(1, 0), at(-1, 0), at(0, 1), at(0, -1)
    slope_x, slope_y = (right - left) / 2, (below - above) / 2
    epsilon = torch.finfo(torch.float32).eps
    xx = right - 2 * here + left + epsilon
    yy = below - 2 * here + above + epsilon
    xy = (at(1, 1) - right - below + 2 * here - left - above + at(-1, -1)) / 2
    determinant = xx * yy - xy * xy
    # A ridge or a plain has no peak between the cells.
    flat = determinant.abs() < epsilon**2
    determinant = determinant.masked_fill(flat, 1)
    step_x = ((yy * slope_x - xy * slope_y) / determinant).masked_fill(flat, 0)
    step_y = ((xx * slope_y - xy * slope_x) / determinant).masked_fill(flat, 0)
    return torch.stack([x - step_x, y - step_y, scores.clamp_min(0)], dim=-1)


def _smoothed(heat: torch.Tensor) -> torch.Tensor:
    """Gaussian of 11 cells; beyond the border the map goes on mirrored, its last row twice."""
    reach = torch.arange(-_RADIUS, _RADIUS + 1, device=heat.device, dtype=torch.float32)
    kernel = torch.exp(-(reach**2) / (2 * _SIGMA**2))
    kernel = kernel / kernel.sum()
    for axis in (2, 3):
        length = heat.shape[axis]
        places = torch.arange(-_RADIUS, length + _RADIUS, device=heat.device)
        places = places % (2 * length)
        places = torch.where(places < length, places, 2 * length - 1 - places)
        heat = heat.index_select(axis, places).unfold(axis, len(reach), 1) @ kernel
    return heat
