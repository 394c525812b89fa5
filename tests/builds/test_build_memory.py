"""Memory that does not grow with the rows: ten times as many fit under nearly the same cap."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

MIB = 2**20
FEW, MANY = 200, 2000
SIDE = 128
ALLOCATED, RESIDENT = 32 * MIB, 64 * MIB
"""So much more the larger build may ask for (it ends otherwise) and hold (pages of the files that
it reads count there); its rows are three times as much as the first."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is measured through Linux's /proc"),
]


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of few and of many pictures of noise, which no encoder makes small."""
    folders = {count: tmp_path_factory.mktemp(f"noise-{count}") for count in (FEW, MANY)}
    draw = np.random.default_rng(0)
    for count, folder in folders.items():
        for number in range(count):
            pixels = draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            (folder / f"{number:04d}.bmp").write_bytes(cv2.imencode(".bmp", pixels)[1].tobytes())
    return folders


@pytest.mark.parametrize("layout", ["parquet", "imagefolder", "webdataset"])
def test_ten_times_the_rows_fit_under_the_same_memory_cap(zygote, noise, tmp_path, layout):
    def build(count: int, **limits: int) -> dict:
        output = tmp_path / str(count)
        argv = ["build", noise[count], "-o", output, "-c", "canny", "--captions", "template"]
        argv += ["--size", SIDE, "--shard-size", 100, "--format", layout, "--workers", 2]
        outcome = zygote.run(list(map(str, [*argv, "--val", 0.1, "--quiet"])), output, **limits)
        assert outcome["code"] == 0, outcome["printed"]
        return outcome

    few = build(FEW)
    many = build(MANY, data_limit=few["allocated"] + ALLOCATED)
    assert many["resident"] < few["resident"] + RESIDENT
    written = sum(path.stat().st_size for path in (tmp_path / str(MANY)).rglob("*"))
    assert written > 3 * ALLOCATED
