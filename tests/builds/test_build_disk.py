"""A full or read-only disk, a source that changes under a build: one clear line, nothing lost.

The full disk is real: a small file system in memory that the test mounts, which needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from condkit.datasets.formats import available_formats

ERROR, SOME_REJECTED = 1, 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; `resize` makes it larger."""
    place = tmp_path / "small"
    place.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs Linux and root")
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def resize(place: Path, kib: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kib}k", str(place)], check=True)


def one_line(printed: str, output: Path) -> str:
    """The only line that is no result; it names the folder and is no traceback."""
    lines = [line for line in printed.splitlines() if line]
    assert len(lines) == 1, printed
    assert lines[0].startswith("condkit: "), printed
    assert str(output) in lines[0], printed
    return lines[0]


def fill_and_go_on(zygote, photos, tree, finished_files, small_disk, layout, growth):
    """Build into a disk that is too small, which grows until the build ends; the messages."""
    whole = zygote.build(photos, small_disk.parent / "whole", "--format", layout)
    assert whole["code"] == SOME_REJECTED, whole["printed"]
    output = small_disk / "out"
    told = []
    kib = 16.0
    while True:
        resize(small_disk, int(kib))
        before = finished_files(output)
        outcome = zygote.build(photos, output, "--format", layout)
        assert before.items() <= finished_files(output).items()
        if outcome["code"] == SOME_REJECTED:
            break
        assert outcome["code"] == ERROR, outcome["printed"]
        told.append(one_line(outcome["printed"], output))
        kib = max(kib + 4, kib * growth)
        assert kib < 10_000, f"the build never ends: {told[-1]}"
    for line in told:
        assert "space" in line or "full" in line, line
    assert tree(output) == tree(small_disk.parent / "whole")
    return told


@pytest.mark.parametrize("layout", ["parquet", "imagefolder"])
def test_a_full_disk_is_told_and_with_more_room_the_build_goes_on(
    layout, zygote, photos, tree, finished_files, small_disk
):
    told = fill_and_go_on(zygote, photos, tree, finished_files, small_disk, layout, growth=1.6)
    assert len(set(told)) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("layout", available_formats())
def test_a_disk_may_get_full_at_any_stage_of_any_format(
    layout, zygote, photos, tree, finished_files, small_disk
):
    told = fill_and_go_on(zygote, photos, tree, finished_files, small_disk, layout, growth=1.4)
    assert len(set(told)) >= 3


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder that nobody can write to, root neither."""
    done = subprocess.run(
        ["mount", "--bind", "-o", "ro", str(folder), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"a folder cannot be made read-only here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_folder_for_the_output_is_told(zygote, photos, tmp_path):
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("making a folder read-only for root needs Linux and root")
    folder = tmp_path / "locked"
    folder.mkdir()
    with read_only(folder):
        outcome = zygote.build(photos, folder / "out")
    assert outcome["code"] == ERROR, outcome["printed"]
    assert "writable" in one_line(outcome["printed"], folder / "out")
    assert list(folder.iterdir()) == []


def test_a_dataset_that_became_read_only_is_told_and_left_alone(zygote, finished, tree):
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("making a folder read-only for root needs Linux and root")
    photos, output = finished
    whole = tree(output)
    sorted((output / ".condkit/shards").glob("*.json"))[-1].unlink()
    (output / "manifest.json").unlink()
    before = tree(output)
    with read_only(output):
        outcome = zygote.build(photos, output)
    assert outcome["code"] == ERROR, outcome["printed"]
    assert "writable" in one_line(outcome["printed"], output)
    assert tree(output) == before
    assert zygote.build(photos, output)["code"] == SOME_REJECTED
    assert tree(output) == whole


def test_a_source_file_that_vanishes_is_told_and_restored_it_goes_on(zygote, finished, tree):
    photos, output = finished
    whole = tree(output)
    sorted((output / ".condkit/shards").glob("*.json"))[-1].unlink()
    (output / "manifest.json").unlink()
    victim, aside = photos / "ü" / "a 5.png", photos.parent / "aside.png"
    victim.rename(aside)
    outcome = zygote.build(photos, output)
    assert outcome["code"] == ERROR, outcome["printed"]
    assert "ü/a 5.png is gone" in one_line(outcome["printed"], output)
    aside.rename(victim)
    assert zygote.build(photos, output)["code"] == SOME_REJECTED
    assert tree(output) == whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / "new.png").write_bytes(b"x"), "new.png is new"),
        (lambda root: (root / "ü/a 5.png").write_bytes(b"x"), "ü/a 5.png has other content"),
        (lambda root: (root / "ü/a 5.txt").write_text("x"), "what lies beside ü/a 5.png"),
        (lambda root: (root / "ü/a 5.txt").unlink(), "what lies beside ü/a 5.png"),
    ],
    ids=["new", "content", "caption", "no caption"],
)
def test_a_source_that_changed_is_told_and_nothing_is_touched(
    change, words, zygote, finished, tree
):
    photos, output = finished
    before = tree(output)
    change(photos)
    outcome = zygote.build(photos, output)
    assert outcome["code"] == ERROR, outcome["printed"]
    line = one_line(outcome["printed"], output)
    assert words in line
    assert "--overwrite" in line
    assert tree(output) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "32"], "size was 48, now 32"),
        (["--val", "0.5"], "val was 0.3, now 0.5"),
        (["--format", "imagefolder"], "format was 'parquet', now 'imagefolder'"),
        (["--set", "canny.low=7"], "canny.detector_params.low was 100, now 7"),
        (["--detect-size", "64"], "was 32, now 64"),
        (["--shard-size", "4"], "shard_size was 3, now 4"),
        (["--seed", "9"], "seed was 2, now 9"),
        (["--captions", "none"], "captions.captioner was 'sidecar', now 'none'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_changed_settings_are_told_by_name_and_nothing_is_touched(
    options, words, zygote, finished, tree
):
    photos, output = finished
    before = tree(output)
    outcome = zygote.build(photos, output, *options)
    assert outcome["code"] == ERROR, outcome["printed"]
    assert words in one_line(outcome["printed"], output)
    assert tree(output) == before


def test_two_runs_in_one_folder_are_told(zygote, photos, tree, tmp_path):
    from condkit.datasets.lock import locked

    output = tmp_path / "out"
    with locked(output):
        outcome = zygote.build(photos, output)
    assert outcome["code"] == ERROR, outcome["printed"]
    assert "another condkit run" in one_line(outcome["printed"], output)
    assert tree(output) == {}
    assert zygote.build(photos, output)["code"] == SOME_REJECTED
