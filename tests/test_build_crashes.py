"""A build that is killed, at any moment and again and again, ends with the bytes of one that was not.

The command line runs in forked children of a warm process (`crash_zygote.py`), with Canny and HED
(random weights in the published layout). Kill points are drawn with a seed: moments, and exactly
before or after what a child does to the disk.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from condkit.datasets.formats import available_formats

HERE = Path(__file__).parent
SHARD = 3
ROWS = 8


class Zygote:
    """Builds in forked children of one warm process."""

    def __init__(self, weights: Path) -> None:
        self._weights = weights
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(HERE / "crash_zygote.py"), str(weights)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._read() == "ready\n"

    def build(self, source: Path, output: Path, *options: str, **kill: float) -> dict[str, Any]:
        argv = ["build", str(source), "-o", str(output), "-c", "canny", "-c", "softedge"]
        argv += ["--set", "softedge.detector=hed", "--weights-dir", str(self._weights)]
        argv += ["--device", "cpu", "--workers", "2", "--batch-size", "2", "--size", "48"]
        argv += ["--detect-size", "32", "--shard-size", str(SHARD), "--val", "0.3"]
        argv += ["--captions", "sidecar", "--json", *options]
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"argv": argv, "output": str(output), **kill}) + "\n")
        self._process.stdin.flush()
        outcome: dict[str, Any] = json.loads(self._read())
        return outcome

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that builds has died"
        return line

    def close(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    weights = tmp_path_factory.mktemp("weights")
    path = HERE / "annotators" / "random_weights" / "hed.py"
    spec = importlib.util.spec_from_file_location("random_hed", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write(weights)
    running = Zygote(weights)
    yield running
    running.close()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight good pictures, and one each that is broken, without caption, a duplicate."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(ROWS):
        blocks = np.random.default_rng(number).integers(0, 256, (5, 7, 3), dtype=np.uint8)
        pixels = cv2.resize(blocks, (70, 50), interpolation=cv2.INTER_NEAREST)
        path = root / ("ü" if number % 3 else "sub dir") / f"a {number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        path.with_suffix(".txt").write_text(f"caption {number}", encoding="utf-8")
    (root / "broken.jpg").write_bytes(b"\xff\xd8 nothing more")
    (root / "uncaptioned.png").write_bytes(cv2.imencode(".png", pixels[:40])[1].tobytes())
    (root / "ü" / "z copy.png").write_bytes((root / "ü" / "a 1.png").read_bytes())
    return root


def tree(folder: Path) -> dict[str, str]:
    """Relative name to hash of all files, hidden ones too, but for the lock."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def finished_files(output: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of the files of all shards that have a record."""
    found = {}
    for record in sorted((output / ".condkit/shards").glob("[0-9]*.json")):
        for file in json.loads(record.read_text("utf-8"))["files"]:
            status = (output / file["path"]).stat()
            found[file["path"]] = (status.st_ino, status.st_mtime_ns)
    return found


def built_whole(zygote: Zygote, photos: Path, output: Path, layout: str) -> dict[str, Any]:
    """An uninterrupted build: its points and its time."""
    whole = zygote.build(photos, output, "--format", layout)
    assert whole["code"] == 3, whole["output"]
    return whole


def draw_kill(draw: random.Random, whole: dict[str, Any]) -> dict[str, float]:
    """A moment, or a point of a kind; each kind as often as the others."""
    kinds = sorted(set(whole["points"]))
    kind = draw.choice([*kinds, "moment"])
    if kind == "moment":
        return {"kill_after": draw.uniform(0.01, whole["seconds"])}
    places = [place for place, name in enumerate(whole["points"], 1) if name == kind]
    return {"kill_at": draw.choice(places)}


def kill_until_done(
    zygote: Zygote,
    photos: Path,
    output: Path,
    layout: str,
    whole: dict[str, Any],
    draw: random.Random,
    kills: int,
) -> Counter[str]:
    """Kill builds into one folder one after the other, then let one end; count what hit."""
    hit: Counter[str] = Counter()
    for _ in range(kills):
        before = finished_files(output)
        kill = draw_kill(draw, whole)
        outcome = zygote.build(photos, output, "--format", layout, **kill)
        after = finished_files(output)
        assert before.items() <= after.items(), f"{layout}: {kill} undid what was finished"
        if outcome["code"] == -signal.SIGKILL:
            hit["moment" if "kill_after" in kill else outcome["points"][-1]] += 1
        else:
            assert outcome["code"] == 3, f"{layout}, {kill}: {outcome['output']}"
    before = finished_files(output)
    outcome = zygote.build(photos, output, "--format", layout)
    assert outcome["code"] == 3, f"{layout}: {outcome['output']}"
    assert before.items() <= finished_files(output).items()
    return hit


@pytest.mark.parametrize("layout", ["parquet", "imagefolder"])
def test_a_build_that_was_killed_ends_with_the_same_bytes(zygote, photos, tmp_path, layout):
    whole = built_whole(zygote, photos, tmp_path / "whole", layout)
    wanted = tree(tmp_path / "whole")
    draw = random.Random(layout)
    hit = kill_until_done(zygote, photos, tmp_path / "killed", layout, whole, draw, kills=4)
    assert hit
    assert tree(tmp_path / "killed") == wanted


@pytest.mark.slow
def test_forty_kills_at_drawn_points_end_with_the_same_bytes(zygote, photos, tmp_path):
    draw = random.Random(20_261_125)
    hit: Counter[str] = Counter()
    stories = itertools.count()
    for layout in available_formats():
        whole = built_whole(zygote, photos, tmp_path / f"whole-{layout}", layout)
        wanted = tree(tmp_path / f"whole-{layout}")
        before = hit.total()
        while hit.total() < before + 8:
            output = tmp_path / f"killed-{next(stories)}"
            kills = draw.randint(1, 3)
            hit += kill_until_done(zygote, photos, output, layout, whole, draw, kills)
            assert tree(output) == wanted, f"{layout}, {output.name}"
    print(dict(hit))
    assert hit.total() >= 40
    assert len(hit) >= 6, f"only points of these kinds were hit: {dict(hit)}"


def test_every_kind_of_point_is_there_to_be_killed_at(zygote, photos, tmp_path):
    whole = built_whole(zygote, photos, tmp_path / "whole", "parquet")
    assert set(whole["points"]) >= {
        "before rename",
        "after rename",
        "before fsync",
        "after fsync",
        "commit",
        "open",
    }
