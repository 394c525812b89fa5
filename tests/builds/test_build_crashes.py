"""A build that is killed, anywhere and again and again, ends with the bytes of one that was not.

With Canny and HED (random weights in the published layout), on the real command line. Kill points
are drawn with a seed: moments, and exactly before or after what a build does to the disk.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from condkit import cli
from condkit.datasets.formats import available_formats

SOME_REJECTED, INTERRUPTED = 3, 130


@dataclass
class Killer:
    """Builds one dataset whole, and others with kills.

    `whole` is the outcome of the uninterrupted build, `wanted` its tree, `hit` counts the kills by
    kind of point.
    """

    zygote: Any
    photos: Path
    tree: Any
    finished_files: Any
    folder: Path
    layout: str
    draw: random.Random
    hit: Counter = field(default_factory=Counter)
    stories: int = 0

    def __post_init__(self) -> None:
        output = self.folder / f"{self.layout}-whole"
        self.whole = self.build(output)
        assert self.whole["code"] == SOME_REJECTED, self.whole["printed"]
        self.wanted = self.tree(output)

    def build(self, output: Path, *options: object, **when: Any) -> dict[str, Any]:
        # Neither threads nor batches may decide a byte, so each run has others.
        drawn = ("--workers", self.draw.randint(1, 3), "--batch-size", self.draw.randint(1, 4))
        layout = ("--format", self.layout)
        return self.zygote.build(self.photos, output, *layout, *drawn, *options, **when)

    def moment_or_point(self) -> dict[str, float]:
        """A moment, or a point of a kind; each kind as often as the others."""
        kinds = sorted(set(self.whole["points"]))
        kind = self.draw.choice([*kinds, "moment"])
        if kind == "moment":
            return {"after": self.draw.uniform(0.01, self.whole["seconds"])}
        named = enumerate(self.whole["points"], 1)
        return {"at": self.draw.choice([place for place, name in named if name == kind])}

    def story(self, kills: int, *options: object) -> None:
        """Kill builds into one folder one after the other, then let one end, and compare."""
        output = self.folder / f"{self.layout}-{self.stories}"
        self.stories += 1
        for _ in range(kills):
            before = {} if options else self.finished_files(output)
            when = self.moment_or_point()
            told = f"{output.name}, {when}"
            outcome = self.build(output, *options, **when)
            assert before.items() <= self.finished_files(output).items(), told
            if outcome["code"] == -signal.SIGKILL:
                self.hit["moment" if "after" in when else outcome["points"][-1]] += 1
            else:
                assert outcome["code"] == SOME_REJECTED, f"{told}: {outcome['printed']}"
        before = {} if options else self.finished_files(output)
        outcome = self.build(output, *options)
        assert outcome["code"] == SOME_REJECTED, f"{output.name}: {outcome['printed']}"
        assert before.items() <= self.finished_files(output).items(), output.name
        assert self.tree(output) == self.wanted, output.name


@pytest.fixture
def killer(zygote, photos, tree, finished_files, tmp_path):
    def make(layout: str, draw: random.Random) -> Killer:
        return Killer(zygote, photos, tree, finished_files, tmp_path, layout, draw)

    return make


@pytest.mark.parametrize("layout", ["parquet", "imagefolder"])
def test_a_build_that_was_killed_ends_with_the_same_bytes(killer, layout):
    killing = killer(layout, random.Random(layout))
    assert set(killing.whole["points"]) >= {
        "before rename",
        "after rename",
        "before fsync",
        "after fsync",
        "commit",
        "open",
    }
    killing.story(kills=4)
    assert killing.hit


@pytest.mark.slow
def test_forty_kills_at_drawn_points_end_with_the_same_bytes(killer):
    draw = random.Random(20_261_125)
    hit: Counter[str] = Counter()
    for layout in available_formats():
        killing = killer(layout, draw)
        while killing.hit.total() < 7:
            killing.story(kills=draw.randint(1, 3))
        hit += killing.hit
    assert hit.total() >= 40, hit
    assert len(hit) >= 6, f"only points of these kinds were hit: {hit}"


@pytest.mark.slow
def test_a_dataset_that_is_begun_anew_and_killed_ends_with_the_same_bytes(killer, tree):
    killing = killer("parquet", random.Random(7))
    output = killing.folder / "parquet-0"
    older = killing.build(output, "--val", "0.5", "--size", "32")
    assert older["code"] == SOME_REJECTED, older["printed"]
    killing.story(3, "--overwrite")
    assert killing.hit


def test_a_dataset_killed_while_it_is_begun_anew_is_still_known_as_ours(killer, tree):
    killing = killer("imagefolder", random.Random(3))
    output = killing.folder / "imagefolder-0"
    killing.build(output)
    removals = [n for n, kind in enumerate(killing.whole["points"], 1) if kind == "other"][:5]
    for at in removals:
        outcome = killing.build(output, "--overwrite", at=at)
        assert outcome["code"] == -signal.SIGKILL
    # Without --overwrite it goes on with what is left of the old one, which had these settings.
    outcome = killing.build(output)
    assert outcome["code"] == SOME_REJECTED, outcome["printed"]
    assert tree(output) == killing.wanted


@pytest.mark.parametrize("layout", ["parquet", "imagefolder"])
def test_an_interrupt_ends_with_130_and_keeps_what_is_finished(
    killer, finished_files, tree, layout
):
    killing = killer(layout, random.Random(layout))
    output = killing.folder / "interrupted"
    renames = [n for n, kind in enumerate(killing.whole["points"], 1) if kind == "after rename"]
    codes = []
    for at in (renames[0], renames[len(renames) // 2], renames[-1]):
        before = finished_files(output)
        outcome = killing.build(output, signal="SIGINT", at=at)
        assert "Traceback" not in outcome["printed"]
        codes.append(outcome["code"])
        assert before.items() <= finished_files(output).items()
        assert not list(output.rglob(".condkit-tmp-*"))
    # The last rename may come when there is nothing left to interrupt.
    assert codes[:2] == [INTERRUPTED, INTERRUPTED]
    assert codes[2] in (INTERRUPTED, SOME_REJECTED)
    outcome = killing.build(output)
    assert outcome["code"] == SOME_REJECTED, outcome["printed"]
    assert tree(output) == killing.wanted


def test_an_interrupt_of_the_real_process_ends_with_130_too(photos, tmp_path):
    # More inputs than are done before the signal comes.
    first = (photos / "ü" / "a 1.png").read_bytes()
    for number in range(400):
        # Bytes behind the end of a PNG file are none of its pixels, but another hash.
        (photos / f"{number:03d}.png").write_bytes(first + f"{number}".encode())
    output = tmp_path / "out"
    command = [sys.executable, "-m", "condkit", "build", photos, "-o", output, "-c", "canny"]
    command += ["--captions", "none", "--shard-size", "2", "--size", "256"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while running.poll() is None and len(list((output / ".condkit/shards").glob("*.json"))) < 3:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, printed = running.communicate(timeout=60)
    assert running.returncode == INTERRUPTED, printed
    assert "Traceback" not in printed
    assert len(list((output / ".condkit/shards").glob("*.json"))) >= 3
    assert not (output / "manifest.json").exists()


def test_an_interrupt_before_a_command_runs_is_130_as_well(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == INTERRUPTED
