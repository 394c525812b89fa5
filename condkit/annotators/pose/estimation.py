"""OpenPose as a detector: bodies first, then hands and faces where the bodies say.

Crops of all persons of all images of a batch go through the hand and the face network together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.batching import prepare
from condkit.annotators.finite import require_finite
from condkit.annotators.pose.boxes import face_square, hand_squares
from condkit.annotators.pose.crops import cut, placed, resized
from condkit.annotators.pose.drawing import Points
from condkit.annotators.pose.operators import STRIDE, blurred, upsampling
from condkit.annotators.pose.parser import parse
from condkit.annotators.pose.part_peaks import face_peaks, hand_peaks
from condkit.annotators.pose.parts import PartsParams, only_wanted
from condkit.budget import Budget
from condkit.predictions import FACE_POINTS, HAND_POINTS, People, Person, Prediction
from condkit.types import RgbImage

if TYPE_CHECKING:
    import torch

    from condkit.annotators.nets.openpose import Forward

_GREY = 128
_HAND_SIDES = (184, 368, 552, 736)
_HAND_CELLS = 128
_HAND_BLUR = 0.8
_FACE_SIDE = 384


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPose:
    """The three networks as one detector.

    Attributes:
        networks: "body", and "hands" and "face" where they are wanted.
        parts: What is wanted.
        detect_size: Short side in pixels at which the body network works.
        device: Where the networks run.
        budget: How much goes through them at once.
    """

    networks: dict[str, Forward]
    parts: PartsParams
    detect_size: int
    device: torch.device
    budget: Budget

    def __call__(self, images: Sequence[RgbImage]) -> list[Prediction]:
        """The people of each image, in order.

        Raises:
            MapError: if a network's output is not finite.
            DeviceMemoryError: if one image alone is too much for the device.
        """
        bodies = self._bodies(images)
        found = [[Found(body) for body in of_image] for of_image in bodies]
        if self.parts.hands:
            self._add_hands(images, found)
        if self.parts.face:
            self._add_faces(images, found)
        return [
            _people(people, image, self.parts) for people, image in zip(found, images, strict=True)
        ]

    def _bodies(self, images: Sequence[RgbImage]) -> list[list[Points]]:
        """Images of one shape go through the network together; of one size, through the parser."""
        geometry: dict[tuple[tuple[int, int], tuple[int, ...]], list[int]] = defaultdict(list)
        prepared = prepare(images, self.detect_size, STRIDE, fill=_GREY)
        for item in prepared:
            geometry[item.inner_hw, images[item.index].shape[:2]].append(item.index)
        maps = self.budget.run_by_shape(
            prepared, lambda chunk: self._forward("body", [item.pixels for item in chunk])
        )
        bodies: dict[int, list[Points]] = {}
        for (inner, size), indices in geometry.items():
            bodies |= self._parsed(maps, indices, inner, (size[0], size[1]))
        return [bodies[index] for index in range(len(images))]

    def _parsed(
        self,
        maps: Sequence[torch.Tensor],
        indices: list[int],
        inner: tuple[int, int],
        size: tuple[int, int],
    ) -> dict[int, list[Points]]:
        import torch

        with torch.inference_mode():
            persons = parse(torch.stack([maps[index] for index in indices]), inner, size)
        return dict(zip(indices, persons, strict=True))

    def _add_hands(self, images: Sequence[RgbImage], found: list[list[Found]]) -> None:
        crops = []
        for image, people in zip(images, found, strict=True):
            for person in people:
                squares = hand_squares(person.body, _hw(image))
                for name, square in zip(("left_hand", "right_hand"), squares, strict=True):
                    if square is not None:
                        crops.append((person, name, square, _smoothed(cut(image, square))))
        peaks = self._hand_peaks([crop for *_, crop in crops])
        for (person, name, square, _), points in zip(crops, peaks, strict=True):
            person.parts[name] = placed(points, square)

    def _hand_peaks(self, crops: Sequence[RgbImage]) -> list[NDArray[np.float32]]:
        """Mean of the heat maps at four sizes, each at 128 x 128."""
        import torch

        if not crops:
            return []
        total = torch.zeros((len(crops), HAND_POINTS, _HAND_CELLS, _HAND_CELLS), device=self.device)
        for side in _HAND_SIDES:
            up = torch.from_numpy(_hand_operator(side)).to(self.device)
            results = self._run("hands", [resized(crop, side) for crop in crops])
            for mean, heat in zip(total, results, strict=True):
                mean += up @ heat[:HAND_POINTS] @ up.T / len(_HAND_SIDES)
        blur = torch.from_numpy(blurred(np.eye(_HAND_CELLS)).astype(np.float32)).to(self.device)
        smooth = (blur @ total @ blur.T).cpu().numpy()
        return [hand_peaks(*maps) for maps in zip(total.cpu().numpy(), smooth, strict=True)]

    def _add_faces(self, images: Sequence[RgbImage], found: list[list[Found]]) -> None:
        import torch

        crops = []
        for image, people in zip(images, found, strict=True):
            for person in people:
                square = face_square(person.body, _hw(image))
                if square is not None:
                    crops.append((person, square, resized(cut(image, square), _FACE_SIDE)))
        if not crops:
            return
        results = self._run("face", [crop for *_, crop in crops])
        peaks = face_peaks(torch.stack(results)[:, :FACE_POINTS]).cpu().numpy()
        for (person, square, _), points in zip(crops, peaks, strict=True):
            person.parts["face"] = placed(points, square)

    def _run(self, part: str, crops: Sequence[RgbImage]) -> list[torch.Tensor]:
        """Heat maps of crops of one shape, on the device."""
        height, width = _hw(crops[0])
        return self.budget.run(crops, height * width, lambda chunk: self._forward(part, chunk))

    def _forward(self, part: str, chunk: Sequence[RgbImage]) -> list[torch.Tensor]:
        """One network on pictures of one shape."""
        import torch

        stacked = torch.from_numpy(np.stack(chunk)).to(self.device)
        with torch.inference_mode():
            maps = self.networks[part](stacked.permute(0, 3, 1, 2).float())
            require_finite(maps, f"openpose: the {part} network's output")
        return list(maps)


@dataclass(slots=True)
class Found:
    """A person while parts are added."""

    body: Points
    parts: dict[str, Points | None] = field(default_factory=dict)


def _people(found: Sequence[Found], image: RgbImage, wanted: PartsParams) -> People:
    persons = [only_wanted(Person(body=one.body, **one.parts), wanted) for one in found]
    return People(tuple(person for person in persons if person is not None), _hw(image))


def _hand_operator(side: int) -> NDArray[np.float32]:
    return upsampling(side // STRIDE, side, _HAND_CELLS).astype(np.float32)


def _smoothed(crop: RgbImage) -> RgbImage:
    import cv2

    return np.asarray(cv2.GaussianBlur(crop, (0, 0), _HAND_BLUR), np.uint8)


def _hw(image: RgbImage) -> tuple[int, int]:
    return image.shape[0], image.shape[1]
