"""Every kind of source builds on the command line, and goes on after a kill to the same bytes."""

from __future__ import annotations

import json
import os
import runpy
import signal
from pathlib import Path

import pytest

from condkit.datasets.reader import open_dataset

WRITERS = runpy.run_path(str(Path(__file__).parents[1] / "datasets" / "source_writers.py"))
SOURCES = WRITERS["SOURCES"]
SAMPLES = WRITERS["samples"]()


class Source:
    """One kind, written to a folder, with the options that build it."""

    def __init__(self, name: str, root: Path) -> None:
        known = SOURCES[name]
        root.mkdir()
        self.root = root
        self.place = known.write(root, SAMPLES)
        self.options: list[object] = ["-c", "canny", "--size", 16, "--shard-size", 2]
        self.options += ["--val", 0.3, "--device", "cpu", "--quiet"]
        for condition, where in known.maps.items():
            self.options += ["--map", f"{condition}={where.format(root=root)}"]
        self.options += ["--captions", "sidecar" if known.field is None else "metadata"]
        if known.field is not None:
            self.options += ["--set", f"captions.column={known.field}"]
        if name == "kohya":
            self.options += ["--set", "captions.suffixes=.cap"]
        if known.options and "image_column" in known.options:
            self.options += ["--image-column", known.options["image_column"]]
        if known.options and known.options.get("streaming"):
            self.options += ["--streaming"]

    def build(self, zygote, output: Path, **when):
        argv = ["build", self.place, "-o", output, *self.options]
        return zygote.run(list(map(str, argv)), output, **when)

    def touch(self) -> None:
        """Other times for the same bytes, as after copying the source elsewhere."""
        for path in self.root.rglob("*"):
            os.utime(path, (1_000_000_000, 1_000_000_000))


QUICK = ("folder", "csv", "parquet-pictures", "tar", "saved")
"""One kind of each sort; the others take long together."""


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SOURCES],
)
def test_a_source_builds_and_goes_on_after_a_kill_with_the_same_bytes(name, zygote, tree, tmp_path):
    source = Source(name, tmp_path / "source")
    whole = source.build(zygote, tmp_path / "whole")
    assert whole["code"] == 0, whole["printed"]
    opened = open_dataset(tmp_path / "whole")
    rows = [row for split in opened.splits for row in opened.split(split)]
    assert sorted(row.text for row in rows) == sorted(sample.caption for sample in SAMPLES)

    output = tmp_path / "out"
    records = [n for n, kind in enumerate(whole["points"], 1) if kind == "after rename"]
    killed = source.build(zygote, output, at=records[len(records) // 2])
    assert killed["code"] == -signal.SIGKILL
    source.touch()
    again = source.build(zygote, output)
    assert again["code"] == 0, again["printed"]
    manifest = json.loads((output / "manifest.json").read_text("utf-8"))
    assert sum(manifest["rows"].values()) == len(SAMPLES)
    plan = ".condkit/plan.sqlite"
    wanted = tree(tmp_path / "whole")
    assert {k: v for k, v in tree(output).items() if k != plan} == {
        k: v for k, v in wanted.items() if k != plan
    }
