"""Finding persons with YOLOX in ONNX form.

Two kinds of files are published. Megvii's, which DWPose uses, gives the network's raw output, to be
put on its grid and thinned out here. OpenMMLab's gives boxes that are thinned out already.

Source: Z. Ge et al., "YOLOX: Exceeding YOLO Series in 2021"; IDEA-Research/DWPose; Tau-J/rtmlib.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.nets.onnx_session import OnnxNetwork
from condkit.budget import Budget
from condkit.errors import MapError, WeightsError
from condkit.types import RgbImage

_SIDE = 640
_GREY = 114
_STRIDES = (8, 16, 32)
_PERSON = 0
_BOX_AND_SCORE = 5
NMS_OVERLAP = 0.45


@dataclass(frozen=True, slots=True)
class Boxes:
    """Persons of one image, the surest first.

    Attributes:
        xyxy: (N, 4) float32 left, top, right, bottom in pixels of the image.
        scores: (N,) float32.
    """

    xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Yolox:
    """The network as a finder of persons.

    Attributes:
        network: From a published file.
        threshold: The least score of a person.
        most: The most persons of one image.
        budget: How much goes through the network at once.
    """

    network: OnnxNetwork
    threshold: float
    most: int
    budget: Budget

    def __call__(self, images: Sequence[RgbImage]) -> list[Boxes]:
        """The persons of each image.

        Raises:
            WeightsError: if the file's output is of neither kind.
            MapError: if it is not finite.
            DeviceMemoryError: if one image alone is too much for the device.
        """
        height, width = (side or _SIDE for side in self.network.shape[2:])
        framed = [letterbox(image, (height, width)) for image in images]
        raw = self.budget.run([pixels for pixels, _ in framed], height * width, self._forward)
        found = []
        for outputs, (_, scale), image in zip(raw, framed, images, strict=True):
            xyxy, scores = self._persons(outputs, (height, width))
            xyxy = xyxy / np.float32(scale)
            xyxy[:, 0::2] = xyxy[:, 0::2].clip(0, image.shape[1])
            xyxy[:, 1::2] = xyxy[:, 1::2].clip(0, image.shape[0])
            found.append(Boxes(xyxy, scores))
        return found

    def _forward(self, chunk: Sequence[RgbImage]) -> list[tuple[NDArray[np.float32], ...]]:
        """BGR from 0 to 255, as the networks were trained."""
        pixels = np.stack(chunk)[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)
        outputs = self.network(pixels)
        if not all(np.isfinite(output).all() for output in outputs):
            raise MapError(f"{self.network.path}: the person detector's output is not finite")
        return list(zip(*outputs, strict=True))

    def _persons(
        self, outputs: tuple[NDArray[np.float32], ...], size_hw: tuple[int, int]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Boxes and scores at the network's size, thinned out, sorted."""
        first = outputs[0]
        cells = sum((size_hw[0] // stride) * (size_hw[1] // stride) for stride in _STRIDES)
        if first.ndim == 2 and first.shape[1] == _BOX_AND_SCORE:
            xyxy, scores = first[:, :4], first[:, 4]
            sure = scores > self.threshold
            if len(outputs) > 1:
                sure &= outputs[1] == _PERSON
            kept = np.flatnonzero(sure)
            kept = kept[np.argsort(-scores[kept], kind="stable")]
        elif first.ndim == 2 and first.shape[0] == cells and first.shape[1] > _BOX_AND_SCORE:
            xyxy, scores = on_grid(first, size_hw)
            kept = thinned_out(xyxy, scores, self.threshold)
        else:
            raise WeightsError(
                f"{self.network.path}: expected ({cells}, 6 or more) or (N, 5) values per image "
                f"from a YOLOX of {size_hw} pixels, got {first.shape}"
            )
        kept = kept[: self.most]
        return xyxy[kept], scores[kept]


def letterbox(image: RgbImage, size_hw: tuple[int, int]) -> tuple[RgbImage, float]:
    """An image in the upper left of a grey frame, in its own proportions, and its scale."""
    import cv2

    scale = min(size_hw[0] / image.shape[0], size_hw[1] / image.shape[1])
    height, width = (max(1, int(side * scale)) for side in image.shape[:2])
    framed = np.full((*size_hw, 3), _GREY, np.uint8)
    framed[:height, :width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return framed, scale


def on_grid(
    raw: NDArray[np.float32], size_hw: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes of persons of the network's raw output.

    Args:
        raw: (cells, 5 + classes) float32: centre from the cell's corner and logarithm of the size,
            in strides; the score that there is something; the score of each class, persons first.
        size_hw: Height and width of what the network saw.

    Returns:
        (cells, 4) float32 left, top, right, bottom in pixels and (cells,) float32 scores. Where
        another class is surer, the score is 0.
    """
    corner, stride = _cells(size_hw)
    centre = (raw[:, :2] + corner) * stride
    half = np.exp(np.minimum(raw[:, 2:4], 20)) * stride / 2
    classes = raw[:, 5:]
    scores = np.where(classes.argmax(1) == _PERSON, raw[:, 4] * classes[:, _PERSON], 0)
    xyxy = np.concatenate([centre - half, centre + half], axis=1)
    return xyxy.astype(np.float32), scores.astype(np.float32)


def thinned_out(
    xyxy: NDArray[np.float32], scores: NDArray[np.float32], threshold: float
) -> NDArray[np.intp]:
    """Which boxes are left: above the threshold, and no surer one overlaps by more than 45 %.

    Returns:
        Their numbers, the surest first.
    """
    order = np.flatnonzero(scores > threshold)
    order = order[np.argsort(-scores[order], kind="stable")]
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[_overlap(xyxy[best], xyxy[order]) <= NMS_OVERLAP]
    return np.array(kept, np.intp)


def _overlap(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    inside = sides.clip(0).prod(1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - inside
    return np.asarray(inside / np.maximum(union, 1e-9), np.float32)


@functools.lru_cache(maxsize=8)
def _cells(size_hw: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(cells, 2) columns and rows, and (cells, 1) strides."""
    corners, strides = [], []
    for stride in _STRIDES:
        rows, columns = np.mgrid[: size_hw[0] // stride, : size_hw[1] // stride]
        corners.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        strides.append(np.full((rows.size, 1), stride))
    return (
        np.concatenate(corners).astype(np.float32),
        np.concatenate(strides).astype(np.float32),
    )
