from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

# MediaPipe's bundles cannot be made up: the task looks into their metadata and graph. The real ones
# are small, so they stand in for the published files, under their names.
NAMES = {
    "pose/pose_landmarker_from_legacy.task": (
        "pose_landmarker_full.task",
        "pose_landmarker_lite.task",
        "pose_landmarker_heavy.task",
        "pose_landmarker_from_legacy.task",
    ),
    "hand/hand_landmarker_from_legacy.task": (
        "hand_landmarker.task",
        "hand_landmarker_from_legacy.task",
    ),
}


def write(folder: Path) -> None:
    """The bundles of the test assets under all published names."""
    assets = os.environ.get("CONDKIT_TEST_ASSETS")
    if not assets:
        pytest.skip("CONDKIT_TEST_ASSETS does not say where MediaPipe's bundles are")
    for file, names in NAMES.items():
        for name in names:
            shutil.copy(Path(assets, "weights", file), folder / name)
