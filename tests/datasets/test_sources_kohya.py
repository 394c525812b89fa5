"""kohya's dataset configurations as sources."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from condkit.datasets.sources.opening import open_source
from condkit.errors import ConfigError, DatasetError


def fill(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def config(root: Path, *subsets: str, above: str = "") -> Path:
    text = f"{above}\n[[datasets]]\n" + "".join(f"[[datasets.subsets]]\n{s}\n" for s in subsets)
    path = root / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def names(source) -> list[str]:
    return [entry.relative for entry in source.scan()]


def beside(source) -> dict[str, tuple[str, ...] | None]:
    return {entry.relative: source.file(entry).beside for entry in source.scan()}


def test_names_begin_with_the_subset_s_folder(tmp_path):
    fill(tmp_path, "10_cat/a.jpg", "5_dog/a.jpg")
    path = config(tmp_path, 'image_dir = "10_cat"', 'image_dir = "5_dog"')
    assert names(open_source(path)) == ["10_cat/a.jpg", "5_dog/a.jpg"]


def test_folders_of_one_name_are_told_apart_by_what_is_above_them(tmp_path):
    fill(tmp_path, "x/img/a.jpg", "y/img/a.jpg")
    path = config(tmp_path, 'image_dir = "x/img"', f'image_dir = "{tmp_path}/y/img"')
    assert names(open_source(path)) == ["x/img/a.jpg", "y/img/a.jpg"]


def test_a_folder_named_again_to_repeat_it_is_taken_once(tmp_path):
    fill(tmp_path, "x/a.jpg")
    path = config(tmp_path, 'image_dir = "x"\nnum_repeats = 2', 'image_dir = "./x"')
    assert names(open_source(path)) == ["x/a.jpg"]


def test_subfolders_are_left_out_as_sd_scripts_do_and_counted(tmp_path):
    fill(tmp_path, "x/a.jpg", "x/more/b.jpg")
    source = open_source(config(tmp_path, 'image_dir = "x"'))
    assert names(source) == ["x/a.jpg"]
    assert source.left_out == {"subfolder": 1}


@pytest.mark.parametrize(
    ("above", "own", "expected"),
    [
        ("", "", "a.caption"),
        ('[general]\ncaption_extension = ".txt"', "", "a.txt"),
        ('[general]\ncaption_extension = ".txt"', '\ncaption_extension = "cap"', "a.cap"),
    ],
)
def test_only_the_caption_with_the_subset_s_ending_is_beside(above, own, expected, tmp_path):
    fill(tmp_path, "x/a.jpg", "x/a.txt", "x/a.caption", "x/a.cap", "x/a.jpg.txt")
    source = open_source(config(tmp_path, 'image_dir = "x"' + own, above=above))
    assert beside(source) == {"x/a.jpg": (expected,)}


def test_maps_are_the_subset_s_conditioning_folder(tmp_path):
    fill(tmp_path, "x/a.jpg", "x/b.jpg", "c/a.png")
    path = config(tmp_path, 'image_dir = "x"\nconditioning_data_dir = "c"')
    source = open_source(path, maps={"canny": "conditioning_data_dir"})
    found = {entry.relative: source.read(entry).maps for entry in source.scan()}
    assert found == {"x/a.jpg": {"canny": b"c/a.png"}, "x/b.jpg": {}}


def test_other_maps_are_refused_with_what_there_is(tmp_path):
    fill(tmp_path, "x/a.jpg")
    path = config(tmp_path, 'image_dir = "x"')
    with pytest.raises(ConfigError, match="canny=conditioning_data_dir"):
        open_source(path, maps={"canny": "c"})
    with pytest.raises(ConfigError, match="a subset has no conditioning_data_dir"):
        open_source(path, maps={"canny": "conditioning_data_dir"})


@pytest.mark.parametrize("key", ["{root}/x/a.jpg", "{root}/x/a", "a.jpg", "a"])
def test_metadata_gives_fields_by_any_of_kohya_s_keys(key, tmp_path):
    fill(tmp_path, "x/a.jpg", "x/b.jpg")
    said = {key.format(root=tmp_path): {"caption": "a cat", "tags": "cat, 1girl"}}
    (tmp_path / "meta.json").write_text(json.dumps(said), encoding="utf-8")
    path = config(tmp_path, 'image_dir = "x"\nmetadata_file = "meta.json"')
    source = open_source(path)
    fields = {entry.relative: source.file(entry).fields for entry in source.scan()}
    assert fields == {"x/a.jpg": {"caption": "a cat", "tags": "cat, 1girl"}, "x/b.jpg": {}}


def test_a_changed_caption_in_the_metadata_changes_the_stamp_of_its_picture_alone(tmp_path):
    fill(tmp_path, "x/a.jpg", "x/b.jpg")
    path = config(tmp_path, 'image_dir = "x"\nmetadata_file = "meta.json"')
    stamps = []
    for caption in ("one", "two"):
        said = {"a": {"caption": caption}, "b": {"caption": "b"}}
        (tmp_path / "meta.json").write_text(json.dumps(said), encoding="utf-8")
        stamps.append({entry.relative: entry.stamp for entry in open_source(path).scan()})
    assert stamps[0]["x/a.jpg"] != stamps[1]["x/a.jpg"]
    assert stamps[0]["x/b.jpg"] == stamps[1]["x/b.jpg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1", "expected .*datasets.subsets"),
        ("datasets = 3", "expected .*datasets"),
        ("[[datasets]]\n[[datasets.subsets]]\nclass_tokens = 'x'", "has no image_dir"),
        ("[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'gone'", "'gone' is no folder"),
    ],
)
def test_a_configuration_without_folders_is_an_error(text, message, tmp_path):
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        open_source(tmp_path / "c.toml")


def test_what_is_no_toml_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "c.toml").write_text("a = [", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"c\.toml is not TOML"):
        open_source(tmp_path / "c.toml")


def test_metadata_that_is_no_object_of_objects_is_an_error(tmp_path):
    fill(tmp_path, "x/a.jpg")
    (tmp_path / "meta.json").write_text('["a"]', encoding="utf-8")
    path = config(tmp_path, 'image_dir = "x"\nmetadata_file = "meta.json"')
    with pytest.raises(DatasetError, match="an object per picture"):
        open_source(path)
