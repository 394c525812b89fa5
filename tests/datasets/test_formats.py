"""Each format as its real reader sees it: `datasets.load_dataset`, and our own."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from condkit import pipeline
from condkit.annotators.annotator import plan_annotation
from condkit.captions import make_captioner
from condkit.datasets.formats import available_formats, get_format, parquet
from condkit.datasets.formats.base import FACT_COLUMNS
from condkit.datasets.reader import open_dataset
from condkit.errors import ConfigError, DatasetError, UnknownNameError
from condkit.runtime import Runtime

CAPTIONS = {
    "a.png": "None",
    "a.jpg": "007",
    "sub/a.png": "2023-01-01",
    "ü 1.2.final.png": 'a cat, "quoted", and\na dog',
    "猫.png": "猫 on a mät",
    "empty.png": "",
    "NA.png": "NA",
    "long.png": "very " * 300 + "long",
}
PLAN = plan_annotation(["canny", "scribble"], {"scribble.detector": "xdog"})


def save_pair(path: Path, seed: int, caption: str) -> None:
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    pixels = cv2.resize(blocks, (56, 40), interpolation=cv2.INTER_NEAREST)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    path.with_name(f"{path.name}.txt").write_text(caption, encoding="utf-8")


def build(source: Path, output: Path, layout: str, **options) -> Path:
    options = {"val": 0.4, "shard_size": 3, **options}
    captioner = make_captioner("sidecar")
    pipeline.build(
        source, output, PLAN, Runtime(), captioner=captioner, size=32, format=layout, **options
    )
    return output


def load(dataset: Path, cache: Path):
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(str(dataset), cache_dir=str(cache))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for seed, (name, caption) in enumerate(CAPTIONS.items()):
        save_pair(root / name, seed, caption)
    return root


@pytest.fixture(scope="module", params=available_formats())
def dataset(request, photos, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp(f"data set {request.param}") / "ü"
    return build(photos, output, request.param)


def test_load_dataset_sees_the_same_rows_as_our_reader(dataset, tmp_path):
    loaded, ours = load(dataset, tmp_path), open_dataset(dataset)
    assert tuple(loaded) == ours.splits == ("train", "validation")
    for split in ours.splits:
        rows = ours.split(split)
        assert len(loaded[split]) == len(rows)
        for theirs, row in zip(loaded[split], rows, strict=True):
            assert (theirs["sha256"], theirs["text"]) == (row.key, row.text)
            np.testing.assert_array_equal(np.array(theirs["image"]), row.image)
            for name in ours.conditions:
                assert theirs[name].mode == "L"
                np.testing.assert_array_equal(np.array(theirs[name]), row.maps[name])


def test_load_dataset_sees_image_text_and_one_image_column_per_condition(dataset, tmp_path):
    import datasets

    features = load(dataset, tmp_path)["train"].features
    assert list(features)[:2] == ["image", "text"]
    assert set(features) == {"image", "text", "canny", "scribble", *FACT_COLUMNS}
    for name in ("image", "canny", "scribble"):
        assert isinstance(features[name], datasets.Image)
    assert features["text"] == datasets.Value("string")
    for name, kind in FACT_COLUMNS.items():
        assert features[name] == datasets.Value(kind)


def test_captions_and_names_arrive_as_they_are(dataset, tmp_path):
    loaded = load(dataset, tmp_path)
    found = {row["source"]: row["text"] for split in loaded.values() for row in split}
    assert found == {name: " ".join(text.split()) for name, text in CAPTIONS.items()}


def test_facts_tell_sizes(dataset, tmp_path):
    row = load(dataset, tmp_path)["train"][0]
    assert (row["width"], row["height"]) == (32, 32)
    assert (row["original_width"], row["original_height"]) == (56, 40)


@pytest.mark.parametrize("layout", available_formats())
def test_captions_that_all_look_like_dates_stay_text(layout, tmp_path):
    for n in range(6):
        save_pair(tmp_path / "in" / f"{n}.png", n, f"2023-01-0{n + 1}")
    dataset = build(tmp_path / "in", tmp_path / "out", layout)
    loaded = load(dataset, tmp_path / "cache")
    expected = {f"2023-01-0{n + 1}" for n in range(6)}
    assert {row["text"] for split in loaded.values() for row in split} == expected
    ours = open_dataset(dataset)
    assert {row.text for split in ours.splits for row in ours.split(split)} == expected


@pytest.mark.parametrize("layout", available_formats())
def test_a_dataset_without_validation_rows_has_one_split(layout, photos, tmp_path):
    dataset = build(photos, tmp_path / "out", layout, val=0.0)
    assert tuple(load(dataset, tmp_path / "cache")) == ("train",)
    ours = open_dataset(dataset)
    assert ours.splits == ("train",)
    assert len(ours.split("train")) == len(CAPTIONS)
    with pytest.raises(UnknownNameError, match="validation"):
        ours.split("validation")


def test_imagefolder_lines_have_the_keys_in_the_order_that_trainers_expect(photos, tmp_path):
    dataset = build(photos, tmp_path / "out", "imagefolder")
    text = (dataset / "train/metadata.jsonl").read_bytes().decode("ascii")
    for line in text.splitlines():
        values = json.loads(line)
        keys = ["file_name", "text", "canny_file_name", "scribble_file_name"]
        assert list(values)[:4] == keys
        assert all((dataset / "train" / values[key]).is_file() for key in keys if key != "text")
    listed = len(text.splitlines())
    for folder in ("images", "canny", "scribble"):
        assert len(list((dataset / "train" / folder).iterdir())) == listed


def test_parquet_row_groups_are_small_and_pictures_are_not_compressed(
    photos, tmp_path, monkeypatch
):
    import pyarrow.parquet as pq

    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 2)
    dataset = build(photos, tmp_path / "out", "parquet", val=0.0, shard_size=5)
    files = sorted((dataset / "data").iterdir())
    assert [f.name for f in files] == [f"train-0000{n}-of-00002.parquet" for n in range(2)]
    footer = pq.read_metadata(files[0])
    assert [footer.row_group(i).num_rows for i in range(footer.num_row_groups)] == [2, 2, 1]
    group = footer.row_group(0)
    codecs = {group.column(i).path_in_schema: group.column(i).compression for i in range(8)}
    assert codecs["image.bytes"] == codecs["canny.bytes"] == "UNCOMPRESSED"
    rows = open_dataset(dataset).split("train")
    monkeypatch.setattr(parquet, "CACHE_BYTES", 1)
    backwards = {n: rows[n].key for n in reversed(range(len(rows)))}
    assert [backwards[n] for n in range(len(rows))] == [row.key for row in rows]


def test_rows_can_be_asked_for_in_any_way(dataset):
    rows = open_dataset(dataset).split("train")
    everything = list(rows)
    assert len(everything) == len(rows)
    assert rows.keys() == tuple(row.key for row in everything)
    assert rows[-1].key == everything[-1].key
    assert [row.key for row in rows[1:3]] == [row.key for row in everything[1:3]]
    for index in (len(rows), -len(rows) - 1):
        with pytest.raises(IndexError):
            rows[index]


def test_keys_are_unique_over_all_splits(dataset):
    ours = open_dataset(dataset)
    keys = [key for split in ours.splits for key in ours.split(split).keys()]  # noqa: SIM118
    assert len(keys) == len(set(keys)) == len(CAPTIONS)


def test_a_split_can_be_read_by_threads_and_sent_to_processes(dataset):
    rows = open_dataset(dataset).split("train")
    keys = rows.keys()
    copy = pickle.loads(pickle.dumps(rows))
    assert copy[1].key == keys[1]
    order = [n % len(rows) for n in range(40)]
    with ThreadPoolExecutor(4) as pool:
        assert [row.key for row in pool.map(rows.__getitem__, order)] == [keys[n] for n in order]


def test_a_folder_that_is_no_dataset_says_so(tmp_path):
    with pytest.raises(DatasetError, match="no dataset of condkit"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        open_dataset(tmp_path / "gone")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(DatasetError, match="no manifest of condkit"):
        open_dataset(tmp_path)
    (tmp_path / "manifest.json").write_text('{"condkit_dataset": 99}')
    with pytest.raises(DatasetError, match="version 99"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("layout", available_formats())
def test_missing_and_broken_files_are_errors_that_name_what_is_wrong(layout, photos, tmp_path):
    dataset = build(photos, tmp_path / "out", layout)
    if layout == "parquet":
        next((dataset / "data").glob("train-*")).unlink()
        with pytest.raises(DatasetError, match="its manifest says"):
            open_dataset(dataset).split("train")
        return
    picture = next((dataset / "train/canny").iterdir())
    picture.write_bytes(picture.read_bytes()[:60])
    rows = open_dataset(dataset).split("train")
    with pytest.raises(DatasetError, match=r"row \w+ of split 'train'"):
        list(rows)


def test_an_unknown_format_is_named_with_a_suggestion():
    with pytest.raises(UnknownNameError, match="did you mean 'parquet'"):
        get_format("parqet", ())


@pytest.mark.parametrize("name", ["image", "images", "text", "sha256"])
def test_a_condition_cannot_have_the_name_of_another_column(name):
    with pytest.raises(ConfigError, match=f"'{name}'"):
        get_format("parquet", ("canny", name))
