"""Whole-body poses in two steps: persons by YOLOX, then 133 points of each by DWPose or RTMW.

Source: Z. Yang et al., "Effective Whole-body Pose Estimation with Two-stages Distillation", ICCV
2023 workshops; T. Jiang et al., "RTMW", arXiv 2407.08634.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.nets.onnx_session import OnnxNetwork, load_onnx
from condkit.annotators.nets.simcc import SPLIT, decode
from condkit.annotators.nets.yolox import Yolox
from condkit.annotators.pose.parts import PartsParams, only_wanted
from condkit.annotators.pose.person_crops import cut_out, in_image, region_around
from condkit.annotators.pose.wholebody import WHOLE_BODY_POINTS, person_from_whole_body
from condkit.budget import Budget
from condkit.errors import MapError, WeightsError
from condkit.predictions import People, Prediction
from condkit.runtime import Runtime
from condkit.types import RgbImage

_MEAN = np.array([123.675, 116.28, 103.53], np.float32).reshape(3, 1, 1)
_STD = np.array([58.395, 57.12, 57.375], np.float32).reshape(3, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeBody:
    """Both networks as a detector.

    Attributes:
        persons: Finds them.
        network: (N, 3, h, w) normalised RGB to (N, 133, 2 w) and (N, 133, 2 h).
        parts: What is wanted.
        budget: How many persons go through the network at once.
    """

    persons: Yolox
    network: OnnxNetwork
    parts: PartsParams
    budget: Budget

    def __call__(self, images: Sequence[RgbImage]) -> list[Prediction]:
        """The people of each image, in order; the persons of all images are one batch.

        Raises:
            WeightsError: if a file's output is not of the right kind.
            MapError: if a network's output is not finite.
            DeviceMemoryError: if one image alone is too much for the device.
        """
        size_hw = self.size_hw
        owners, regions, crops = [], [], []
        for index, (image, boxes) in enumerate(zip(images, self.persons(images), strict=True)):
            for box in boxes.xyxy:
                region = region_around(box, size_hw)
                owners.append(index)
                regions.append(region)
                crops.append(cut_out(image, region, size_hw))
        points = self.budget.run(crops, size_hw[0] * size_hw[1], self._forward)
        found: list[list[NDArray[np.float32]]] = [[] for _ in images]
        for owner, region, (places, scores) in zip(owners, regions, points, strict=True):
            places = in_image(places, region, size_hw)
            # What was not found is nowhere, not in the crop's corner.
            places[scores == 0] = 0
            found[owner].append(np.concatenate([places, scores[:, None]], axis=1))
        return [self._people(*pair) for pair in zip(found, images, strict=True)]

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        height, width = self.network.shape[2:]
        if height is None or width is None:
            raise WeightsError(
                f"{self.network.path}: expected an input of one size, got {self.network.shape}"
            )
        return height, width

    def _people(self, points: Sequence[NDArray[np.float32]], image: RgbImage) -> People:
        persons = [only_wanted(person_from_whole_body(each), self.parts) for each in points]
        size_hw = image.shape[0], image.shape[1]
        return People(tuple(person for person in persons if person is not None), size_hw)

    def _forward(
        self, crops: Sequence[RgbImage]
    ) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        pixels = (np.stack(crops).transpose(0, 3, 1, 2) - _MEAN) / _STD
        outputs = self.network(pixels)
        height, width = self.size_hw
        expected = [(WHOLE_BODY_POINTS, SPLIT * width), (WHOLE_BODY_POINTS, SPLIT * height)]
        if [output.shape[1:] for output in outputs[:2]] != expected:
            raise WeightsError(
                f"{self.network.path}: expected outputs of {expected} values per person, got "
                f"{[output.shape[1:] for output in outputs]}"
            )
        if not all(np.isfinite(output).all() for output in outputs[:2]):
            raise MapError(f"{self.network.path}: the pose network's output is not finite")
        return list(zip(*decode(*outputs[:2]), strict=True))


def load_whole_body(
    person_file: Path,
    pose_file: Path,
    runtime: Runtime,
    *,
    name: str,
    parts: PartsParams,
    threshold: float,
    most: int,
) -> WholeBody:
    """Both networks of their published files.

    Args:
        person_file: A YOLOX.
        pose_file: A network of 133 points in SimCC form.
        runtime: Where they run.
        name: The detector, for messages.
        parts: What is wanted.
        threshold: The least score of a person.
        most: The most persons of one image.

    Raises:
        DependencyError: if ONNX Runtime is missing, or cannot use the device.
        WeightsError: if a file is damaged.
    """
    device, _ = runtime.resolve()
    persons = Yolox(
        network=load_onnx(person_file, runtime, name),
        threshold=threshold,
        most=most,
        budget=Budget.on(device, name),
    )
    network = load_onnx(pose_file, runtime, name)
    return WholeBody(persons=persons, network=network, parts=parts, budget=Budget.on(device, name))
