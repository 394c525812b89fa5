"""`validate`: a sound dataset has no faults, and every damage is named, in every format."""

from __future__ import annotations

import dataclasses
import json
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from condkit import cli_validate, imageio
from condkit.datasets.checks.validation import validate
from condkit.datasets.formats import available_formats
from condkit.errors import ConfigError, DatasetError, UnknownNameError

MADE = runpy.run_path(str(Path(__file__).with_name("made_dataset.py")))
make, rows = MADE["make"], MADE["rows"]

COMMAND = typer.Typer()
COMMAND.command()(cli_validate.validate)


def png(pixels: np.ndarray) -> bytes:
    return imageio.encode_png(pixels)


def changed(row, *, maps=None, data=None, facts=None, **fields):
    """A row with some of its parts replaced."""
    return dataclasses.replace(
        row,
        maps={**row.maps, **(maps or {})},
        data={**row.data, **(data or {})},
        facts={**row.facts, **(facts or {})},
        **fields,
    )


def other_split(row):
    return changed(row, split="train" if row.split == "validation" else "validation")


def classes(row, **changes):
    told = {**json.loads(row.data["seg_classes_json"]), **changes}
    return changed(row, data={"seg_classes_json": json.dumps(told).encode()})


HALF = png(np.zeros((32, 48), np.uint8))
DAMAGES = {
    "broken picture": lambda row: changed(row, image=row.image[:200]),
    "size differs from record": lambda row: changed(row, image=png(MADE["picture"](0, (64, 64)))),
    "size differs from picture": lambda row: changed(row, maps={"bright": HALF}),
    "wrong kind of map": lambda row: changed(row, maps={"bright": row.maps["seg"]}),
    "unknown label": lambda row: changed(
        row, data={"seg_labels": png(np.full((64, 96), 200, np.uint8))}
    ),
    "labels differ from record": lambda row: changed(
        row, data={"seg_labels": png(np.full((64, 96), 3, np.uint8))}
    ),
    "bad caption": lambda row: changed(row, text="a \x07 bell", captions=("a \x07 bell",)),
    "broken JSON": lambda row: changed(row, facts={"transform": "{"}),
    "wrong split": other_split,
    "bad key": lambda row: changed(row, facts={"sha256": "no hash"}),
}


@pytest.mark.parametrize("layout", available_formats())
def test_a_sound_dataset_has_no_faults(layout, tmp_path):
    outcome = validate(make(tmp_path, layout))
    assert outcome.faults == ()
    assert outcome.rows == 12
    assert outcome.files > 0
    assert outcome.rules == ("condkit",)


@pytest.mark.parametrize("layout", available_formats())
@pytest.mark.parametrize("kind", DAMAGES)
def test_what_is_wrong_with_a_row_is_named(kind, layout, tmp_path):
    made = rows(12)
    made[5] = DAMAGES[kind](made[5])
    outcome = validate(make(tmp_path, layout, made))
    found = [fault for fault in outcome.faults if fault.kind == kind]
    assert found, outcome.counts
    assert all("(in/5.png)" in fault.where for fault in found)
    assert all(fault.expected and fault.got and fault.advice for fault in found)
    assert {fault.where.partition(" (")[0] for fault in outcome.faults} == {
        found[0].where.partition(" (")[0]
    }


def test_all_faults_are_named_and_not_only_the_first(tmp_path):
    made = [changed(row, maps={"bright": HALF}) for row in rows(40)]
    outcome = validate(make(tmp_path, "parquet", made))
    assert outcome.counts == {"size differs from picture": 40}


def test_a_label_of_no_segment_is_a_fault(tmp_path):
    made = rows(12)
    told = {"segments": [{"id": 1}]}
    made[2] = changed(classes(made[2]), data={"seg_classes_json": json.dumps(told).encode()})
    (fault,) = validate(make(tmp_path, "parquet", made)).faults
    assert fault.kind == "unknown label"
    assert "0 to 1" in fault.expected
    assert fault.got == "2"


def test_rows_with_one_key_are_told_of_with_both_places(tmp_path):
    made = rows(12)
    made[9] = dataclasses.replace(made[2], index=9, facts={**made[2].facts, "source": "again"})
    (fault,) = validate(make(tmp_path, "parquet", made)).faults
    assert fault.kind == "repeated key"
    assert made[2].split == fault.where.rpartition(" ")[2] == fault.got.rpartition(" ")[2]


def pick(folder: Path, pattern: str) -> Path:
    return sorted(folder.glob(pattern))[0]


def drop(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\n")


FILE_DAMAGES = [
    ("imagefolder", "train/images/*.png", drop, {"missing file", "unreadable row"}),
    ("imagefolder", "train/images/*.png", cut, {"changed file", "broken picture"}),
    ("imagefolder", "train/seg/*.png", append, {"changed file"}),
    ("parquet", "data/train-*", drop, {"missing file", "row count"}),
    ("parquet", "data/train-*", cut, {"changed file", "unreadable split"}),
    ("webdataset", "data/train-*", drop, {"missing file", "row count"}),
    ("parquet", "SHA256SUMS", drop, {"no checksums"}),
    ("parquet", "rejected.jsonl", drop, {"rejection count"}),
]


@pytest.mark.parametrize(("layout", "pattern", "damage", "kinds"), FILE_DAMAGES)
def test_a_damaged_file_is_named(layout, pattern, damage, kinds, tmp_path):
    make(tmp_path, layout)
    damage(pick(tmp_path, pattern))
    assert set(validate(tmp_path).counts) == kinds


def test_files_that_belong_to_no_row_are_faults_and_hidden_ones_are_not(tmp_path):
    make(tmp_path, "imagefolder")
    (tmp_path / "train/bright/preview.png").write_bytes(HALF)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "train/.DS_Store").write_text("")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/config").write_text("")
    outcome = validate(tmp_path)
    assert outcome.counts == {"extra file": 2}
    assert [fault.where for fault in outcome.faults] == ["notes.txt", "train/bright/preview.png"]


@pytest.mark.parametrize(
    ("line", "kinds"),
    [("no hash here\n", {"broken checksums"}), (f"{'0' * 64}  gone.png\n", {"missing file"})],
)
def test_lines_of_the_checksums_are_checked(line, kinds, tmp_path):
    make(tmp_path, "parquet")
    with (tmp_path / "SHA256SUMS").open("a") as file:
        file.write(line)
    assert set(validate(tmp_path).counts) == kinds


def test_counts_of_the_manifest_have_to_add_up(tmp_path):
    make(tmp_path, "parquet")
    path = tmp_path / "manifest.json"
    values = json.loads(path.read_text())
    values["shards"][0]["rows"]["train"] += 1
    path.write_text(json.dumps(values))
    assert validate(tmp_path).counts == {"row count": 1}
    values["shards"][0]["rows"]["train"] -= 1
    values["rows"]["train"] += 1
    path.write_text(json.dumps(values))
    assert validate(tmp_path).counts == {"row count": 2}


def test_nothing_is_changed_by_looking(tmp_path):
    make(tmp_path, "tree")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for trainer in (None, "diffusers", "kohya", "fill50k"):
        validate(tmp_path, trainer=trainer)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_empty_captions_are_a_note_and_no_fault(tmp_path):
    assert validate(make(tmp_path)).notes == ("2 of 12 captions are empty",)


def test_a_folder_that_cannot_be_checked_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="there is none"):
        validate(tmp_path / "gone")
    with pytest.raises(DatasetError, match=r"no dataset of condkit .* with --as diffusers, kohya"):
        validate(tmp_path)
    with pytest.raises(UnknownNameError, match="did you mean 'kohya'"):
        validate(tmp_path, trainer="kohia")
    with pytest.raises(ConfigError, match="workers"):
        validate(tmp_path, trainer="kohya", workers=0)


def test_the_command_ends_with_3_and_shows_the_first_faults_and_all_counts(tmp_path):
    make(tmp_path / "good")
    done = CliRunner().invoke(COMMAND, [str(tmp_path / "good")])
    assert (done.exit_code, "no faults" in done.stdout) == (0, True)
    make(tmp_path / "bad", "parquet", [changed(row, maps={"bright": HALF}) for row in rows(40)])
    done = CliRunner().invoke(COMMAND, [str(tmp_path / "bad")])
    assert done.exit_code == 3
    assert done.stdout.count("the picture's size, 96x64") == cli_validate.SHOWN_FAULTS
    assert "20 more" in done.stdout
    assert "40" in done.stdout
    done = CliRunner().invoke(COMMAND, [str(tmp_path / "bad"), "--json"])
    assert done.exit_code == 3
    values = json.loads(done.stdout)
    assert not values["good"]
    assert len(values["faults"]) == 40
    assert values["counts"] == {"size differs from picture": 40}


def test_a_truncated_jpeg_is_a_broken_picture(tmp_path):
    whole = cv2.imencode(".jpg", MADE["picture"](1, (200, 320)))[1].tobytes()
    made = rows(12)
    made[5] = changed(made[5], image=whole[:-900])
    assert "broken picture" in validate(make(tmp_path, "parquet", made)).counts
