"""Which kind of source is found at a place, and what is refused with which words."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from condkit.datasets.formats import available_formats
from condkit.datasets.sources.opening import SOURCE_KINDS, open_source
from condkit.errors import ConfigError, UnknownNameError

HERE = Path(__file__)
MADE = runpy.run_path(str(HERE.with_name("made_datasets.py")))
WRITERS = runpy.run_path(str(HERE.with_name("source_writers.py")))


def fill(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def test_what_is_not_there_is_refused_with_all_that_would_do(tmp_path):
    with pytest.raises(ConfigError, match=r"there is nothing.*folder.*\.csv.*\.toml.*hf://"):
        open_source(tmp_path / "gone")


def test_a_name_of_the_hub_without_its_mark_gets_a_hint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="hf://owner/name"):
        open_source("owner/name")


def test_an_address_is_refused():
    with pytest.raises(ConfigError, match="download it first"):
        open_source("https://example.com/pictures.zip")


def test_one_picture_is_refused_with_its_folder_named(tmp_path):
    fill(tmp_path, "a.JPG")
    with pytest.raises(ConfigError, match=f"name its folder .{tmp_path}"):
        open_source(tmp_path / "a.JPG")


def test_a_file_of_an_unknown_kind_is_refused(tmp_path):
    fill(tmp_path, "a.zip")
    with pytest.raises(ConfigError, match="unknown kind"):
        open_source(tmp_path / "a.zip")


def test_an_unknown_kind_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(UnknownNameError, match="auto, folder, table"):
        open_source(tmp_path, kind="foldr")


@pytest.mark.parametrize(
    "option", [{"split": "train"}, {"config": "c"}, {"streaming": True}, {"image_column": "x"}]
)
def test_an_option_that_means_nothing_to_a_kind_is_refused(option, tmp_path):
    fill(tmp_path, "a.jpg")
    with pytest.raises(ConfigError, match=f"{next(iter(option))}: .* is a source of kind folder"):
        open_source(tmp_path, **option)


@pytest.mark.parametrize("kind", SOURCE_KINDS)
def test_every_kind_refuses_a_place_of_another_with_a_message(kind, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty"):
        list(open_source(tmp_path / "empty", kind=kind).scan())


def test_a_folder_of_pictures_with_other_tables_stays_a_folder(tmp_path):
    fill(tmp_path, "a.jpg", "scores.csv", "export.parquet", "old.tar", "config.toml")
    assert open_source(tmp_path).kind == "folder"


def test_plain_kohya_folders_are_a_folder(tmp_path):
    fill(tmp_path, "10_cat/a.jpg", "10_cat/a.txt")
    source = open_source(tmp_path)
    assert source.kind == "folder"
    assert [entry.relative for entry in source.scan()] == ["10_cat/a.jpg"]


def test_what_img2dataset_leaves_is_webdataset(tmp_path):
    WRITERS["many_tars"](tmp_path, WRITERS["samples"]())
    fill(tmp_path / "shards", "00000.parquet", "00000_stats.json")
    assert open_source(tmp_path / "shards").kind == "webdataset"


def test_a_json_table_with_other_columns_is_no_fill50k(tmp_path):
    fill(tmp_path, "a.jpg")
    (tmp_path / "l.json").write_text(json.dumps([{"image": "a.jpg", "prompt": "x"}]))
    assert open_source(tmp_path / "l.json").kind == "table"


def test_a_kind_that_is_named_goes_before_what_would_be_found(tmp_path):
    WRITERS["SOURCES"]["imagefolder-csv"].write(tmp_path, WRITERS["samples"]())
    source = open_source(tmp_path, kind="folder")
    assert source.kind == "folder"
    assert len([*source.scan()]) == 11


@pytest.mark.parametrize("layout", available_formats())
def test_every_format_that_is_written_opens_with_its_maps_and_captions(layout, tmp_path):
    rows = MADE["make_rows"](8)
    MADE["write_dataset"](tmp_path / "d", layout, rows)
    source = open_source(tmp_path / "d", maps={"canny": "canny"})
    found = [source.read(entry) for entry in source.scan()]
    images = {
        s.image if isinstance(s.image, bytes) else s.image.read_bytes(): (s, s.file.fields)
        for s in found
    }
    assert len(images) == len(found) == len(rows)
    for row in rows:
        sample, fields = images[row.image]
        assert sample.maps == {"canny": row.maps["canny"]}
        assert fields.get("text", fields.get("txt")) == row.text


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("layout", available_formats())
def test_a_split_of_every_format_that_is_written_is_taken_alone(layout, split, tmp_path):
    rows = MADE["make_rows"](8)
    MADE["write_dataset"](tmp_path / "d", layout, rows)
    found = list(open_source(tmp_path / "d", split=split).scan())
    assert len(found) == sum(row.split == split for row in rows)


def test_opening_a_folder_loads_no_heavy_library(tmp_path):
    fill(tmp_path, "a.jpg")
    code = (
        "import sys\n"
        "from condkit.datasets.sources.opening import open_source\n"
        f"list(open_source({str(tmp_path)!r}).scan())\n"
        "heavy = {'torch', 'datasets', 'pyarrow', 'PIL', 'cv2'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
