"""MediaPipe's pose and hand landmarkers as one detector of people, on the CPU.

Source: V. Bazarevsky et al., "BlazePose", 2020 (arXiv 2006.10204); F. Zhang et al., "MediaPipe
Hands", 2020 (arXiv 2006.10214); MediaPipe's Tasks API.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from condkit.annotators.nets.aux_networks import import_unhidden
from condkit.annotators.pose.drawing import Points
from condkit.annotators.pose.hand_owners import Hand, with_hands
from condkit.annotators.pose.parts import PartsParams, only_wanted
from condkit.annotators.pose.wholebody import body_from_mediapipe
from condkit.errors import WeightsError
from condkit.predictions import People, Person, Prediction
from condkit.types import RgbImage

_log = logging.getLogger(__name__)

Task: TypeAlias = Literal["PoseLandmarker", "HandLandmarker"]

# MediaPipe's libraries write to the process's standard error whatever they are told. The lock may
# be taken twice: Python may collect, and so close, a detector while another one is loaded.
_redirecting = threading.RLock()


@dataclass(frozen=True, slots=True, weakref_slot=True, kw_only=True)
class MediaPipe:
    """The landmarkers that are wanted, as a detector.

    Attributes:
        pose: MediaPipe's `PoseLandmarker`, where bodies are wanted.
        hands: MediaPipe's `HandLandmarker`, where hands are wanted.
        parts: What is wanted.
        lock: Held while a landmarker works: it takes one image at a time.
    """

    pose: Any
    hands: Any
    parts: PartsParams
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        # Closed by the interpreter itself, at its end, MediaPipe fails and says so.
        weakref.finalize(self, _close, self.pose, self.hands)

    def __call__(self, images: Sequence[RgbImage]) -> list[Prediction]:
        """The people of each image, in order."""
        return [self._people(image) for image in images]

    def _people(self, image: RgbImage) -> People:
        size_hw = image.shape[0], image.shape[1]
        library = _library()
        with self.lock:
            shown = library.Image(image_format=library.ImageFormat.SRGB, data=_own(image))
            bodies = _bodies(self.pose.detect(shown), size_hw) if self.pose else []
            hands = _hands(self.hands.detect(shown), size_hw) if self.hands else []
        persons = [
            only_wanted(person, self.parts)
            for person in with_hands([Person(body=body) for body in bodies], hands)
        ]
        return People(tuple(person for person in persons if person is not None), size_hw)


def load_landmarker(task: Task, path: Path, most: int, confidence: float) -> Any:  # noqa: ANN401
    """A landmarker for single images.

    Args:
        task: Which.
        path: Its model.
        most: Persons or hands of one image.
        confidence: The least score, 0 to 1, of the step that finds them and of the points.

    Raises:
        DependencyError: if MediaPipe is missing or broken.
        WeightsError: if the model cannot be used.
    """
    library = _library()
    vision = library.tasks.vision
    what = {"PoseLandmarker": "pose", "HandLandmarker": "hand"}[task]
    options = getattr(vision, f"{task}Options")(
        # The bytes, not the path: MediaPipe cannot open every path, and keeps the file open.
        base_options=library.tasks.BaseOptions(model_asset_buffer=path.read_bytes()),
        running_mode=vision.RunningMode.IMAGE,
        **{
            f"num_{what}s": most,
            f"min_{what}_detection_confidence": confidence,
            f"min_{what}_presence_confidence": confidence,
        },
    )
    try:
        with _quiet():
            made = getattr(vision, task).create_from_options(options)
            made.detect(
                library.Image(
                    image_format=library.ImageFormat.SRGB, data=np.zeros((64, 64, 3), np.uint8)
                )
            )
    except (RuntimeError, ValueError) as error:
        raise WeightsError(
            f"{path}: MediaPipe's {task} cannot use it ({str(error).splitlines()[0]}); fetch the "
            "file anew"
        ) from error
    return made


def _close(*landmarkers: Any) -> None:
    with _quiet():
        for landmarker in landmarkers:
            if landmarker is not None:
                landmarker.close()


def _own(image: RgbImage) -> RgbImage:
    """MediaPipe wants memory in one piece."""
    return np.ascontiguousarray(image)


def _bodies(found: Any, size_hw: tuple[int, int]) -> list[Points]:  # noqa: ANN401
    """Scores are what MediaPipe calls visibility, or presence where that is lower."""
    return [
        body_from_mediapipe(
            _points(points, [min(p.visibility or 0, p.presence or 0) for p in points], size_hw)
        )
        for points in found.pose_landmarks
    ]


def _hands(found: Any, size_hw: tuple[int, int]) -> list[Hand]:  # noqa: ANN401
    """MediaPipe scores no hand point; each has the score of its hand being a left or right one.

    Its documents say that sides are those of a mirrored picture; for the models in use "Left" and
    "Right" are the person's own in a picture as it was taken (the ground truth is in the tests).
    """
    hands = []
    for points, sides in zip(found.hand_landmarks, found.handedness, strict=True):
        placed = _points(points, [sides[0].score] * len(points), size_hw)
        hands.append(Hand(placed, is_left=sides[0].category_name == "Left"))
    return hands


def _points(points: Sequence[Any], scores: Sequence[float], size_hw: tuple[int, int]) -> Points:
    """From 0 to 1 over the image, border to border, to pixels."""
    height, width = size_hw
    rows = [
        (point.x * width - 0.5, point.y * height - 0.5, score)
        for point, score in zip(points, scores, strict=True)
    ]
    return np.array(rows, np.float32)


def _library() -> Any:  # noqa: ANN401 - mediapipe has no types
    return import_unhidden("mediapipe")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what native code writes to standard error out of the terminal; log it for debugging."""
    with _redirecting, tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        before = os.dup(2)
        try:
            os.dup2(kept.fileno(), 2)
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
            kept.seek(0)
            for line in kept.read().decode(errors="replace").splitlines():
                _log.debug("MediaPipe: %s", line)
