"""Builds on the real command line, many of them: in forked children of one warm process."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

HERE = Path(__file__).parent
GOOD = 8


class Zygote:
    """The warm process; see `zygote.py`."""

    def __init__(self, weights: Path) -> None:
        self._weights = weights
        # -P: else the folder tests/ would be searched first, and tests/datasets hide `datasets`.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(HERE / "zygote.py"), str(weights)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._read() == "ready\n"

    def build(self, source: Path, output: Path, *options: object, **when: Any) -> dict[str, Any]:
        """`condkit build` with Canny and HED, small; later options win."""
        argv = ["build", str(source), "-o", str(output), "-c", "canny", "-c", "softedge"]
        argv += ["--set", "softedge.detector=hed", "--weights-dir", str(self._weights)]
        argv += ["--device", "cpu", "--workers", "2", "--batch-size", "2", "--size", "48"]
        argv += ["--detect-size", "32", "--shard-size", "3", "--val", "0.3"]
        argv += ["--seed", "2", "--json"]
        return self.run([*argv, *map(str, options)], output, **when)

    def run(self, argv: list[str], watched: Path, **when: Any) -> dict[str, Any]:
        """Any command; `when` and which signal it gets."""
        job = {"argv": argv, "watched": str(watched), **when}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
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


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    weights = tmp_path_factory.mktemp("weights")
    path = HERE.parent / "annotators" / "random_weights" / "hed.py"
    spec = importlib.util.spec_from_file_location("random_hed", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write(weights)
    running = Zygote(weights)
    yield running
    running.close()


def write_photos(root: Path) -> Path:
    """Eight good pictures, and one each that is broken, without caption, a duplicate."""
    for number in range(GOOD):
        blocks = np.random.default_rng(number).integers(0, 256, (5, 7, 3), dtype=np.uint8)
        pixels = cv2.resize(blocks, (70, 50), interpolation=cv2.INTER_NEAREST)
        path = root / ("ü" if number % 3 else "sub dir") / f"a {number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        path.with_suffix(".txt").write_text(f"caption {number}", encoding="utf-8")
    (root / "broken.jpg").write_bytes(b"\xff\xd8 nothing more")
    (root / "uncaptioned.png").write_bytes(cv2.imencode(".png", pixels[:40])[1].tobytes())
    (root / "ü" / "z copy.png").write_bytes((root / "ü" / "a 1.png").read_bytes())
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """See `write_photos`."""
    return write_photos(tmp_path / "photos")


@pytest.fixture(scope="session")
def _built(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("built")
    outcome = zygote.build(write_photos(root / "photos"), root / "out")
    assert outcome["code"] == 3, outcome["printed"]
    return root


@pytest.fixture
def finished(_built: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of the photos, and of a finished dataset of them."""
    shutil.copytree(_built, tmp_path / "built")
    return tmp_path / "built" / "photos", tmp_path / "built" / "out"


@pytest.fixture
def tree():
    """Makes a folder's names and hashes of all files, hidden ones too, but for the lock."""

    def of(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != "lock"
        }

    return of


@pytest.fixture
def finished_files():
    """Makes name to inode and time of the files of all shards of a dataset that have a record."""

    def of(output: Path) -> dict[str, tuple[int, int]]:
        found = {}
        for record in sorted((output / ".condkit/shards").glob("[0-9]*.json")):
            for file in json.loads(record.read_text("utf-8"))["files"]:
                status = (output / file["path"]).stat()
                found[file["path"]] = (status.st_ino, status.st_mtime_ns)
        return found

    return of
