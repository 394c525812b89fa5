from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from condkit.atomic import (
    TEMPORARY_PREFIX,
    new_file,
    new_folder,
    write_bytes,
    write_json,
    write_text,
)
from condkit.errors import OutputError


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(TEMPORARY_PREFIX)]


@pytest.mark.parametrize("fsync", [True, False])
def test_a_file_is_replaced_whole_and_its_folders_are_made(tmp_path: Path, fsync: bool) -> None:
    target = tmp_path / "a" / "b.bin"
    write_bytes(target, b"old", fsync=fsync)
    write_bytes(target, b"new", fsync=fsync)
    assert target.read_bytes() == b"new"
    assert leftovers(tmp_path) == []


def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"a\.txt: No space left on device"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_place_below_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        write_bytes(tmp_path / "file" / "a.txt", b"")
    with pytest.raises(OutputError, match="cannot write"), new_folder(tmp_path / "file" / "run"):
        pass


def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    write_text(tmp_path / "ours", "x")
    (tmp_path / "plain").write_text("x")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "plain")}
    assert len(modes) == 1


def test_json_keeps_the_order_and_refuses_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": "ü"})
    assert list(json.loads((tmp_path / "a.json").read_text("utf-8"))) == ["b", "a"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"b": float("nan")})


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    final = tmp_path / "step-1"
    with new_folder(final) as folder:
        (folder / "a").write_text("1")
        assert not final.exists()
    assert (final / "a").read_text() == "1"
    with new_folder(final) as folder:
        (folder / "b").write_text("2")
    assert [path.name for path in final.iterdir()] == ["b"]
    assert leftovers(tmp_path) == []


def test_a_block_that_raises_leaves_the_old_folder(tmp_path: Path) -> None:
    final = tmp_path / "step-1"
    with new_folder(final) as folder:
        (folder / "a").write_text("1")

    def fail() -> None:
        with new_folder(final) as folder:
            (folder / "b").write_text("2")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert [path.name for path in final.iterdir()] == ["a"]
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("make", [new_file, new_folder])
def test_a_disk_that_gets_full_in_the_block_is_told_with_the_place(make, tmp_path: Path) -> None:
    final = tmp_path / "made"

    def fill() -> None:
        with make(final):
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"made: No space left on device"):
        fill()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [new_file, new_folder])
def test_other_errors_of_the_block_stay_what_they_are(make, tmp_path: Path) -> None:
    def read_what_is_not_there() -> None:
        with make(tmp_path / "made"):
            (tmp_path / "nowhere").read_bytes()

    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_what_is_not_there()


def test_a_file_that_the_block_cannot_open_is_told_with_the_place(tmp_path: Path) -> None:
    def fill() -> None:
        with new_file(tmp_path / "made") as temporary:
            (temporary / "below a file that is not there").write_text("x")

    with pytest.raises(OutputError, match=r"cannot write .*made"):
        fill()
