"""Hugging Face `datasets` and diffusers' ControlNet training script read what we write."""

from __future__ import annotations

import dataclasses
import random
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from condkit import imageio
from condkit.datasets.export import export_dataset
from condkit.datasets.formats import available_formats
from condkit.datasets.formats.base import FACT_COLUMNS

MADE = runpy.run_path(str(Path(__file__).with_name("made_datasets.py")))
make_row, make_rows, write_dataset = MADE["make_row"], MADE["make_rows"], MADE["write_dataset"]
load, CAPTIONS, NAMES, DATA = MADE["load"], MADE["CAPTIONS"], MADE["NAMES"], MADE["DATA"]

FORMATS = available_formats()
WITH_COLUMNS = [name for name in FORMATS if name != "webdataset"]
FOLDERS = [name for name in WITH_COLUMNS if name != "parquet"]
by_columns = pytest.mark.parametrize("layout", WITH_COLUMNS)


def of_split(rows, split):
    return [row for row in rows if row.split == split]


def facts_of(loaded):
    """The facts of a loaded row, wherever the format keeps them."""
    values = loaded.get("json", loaded)
    return {name: values[name] for name in FACT_COLUMNS}


@pytest.fixture(scope="module")
def rows():
    return make_rows(data=DATA)


@pytest.fixture(scope="module", params=FORMATS)
def loaded(request, rows, tmp_path_factory):
    root = tmp_path_factory.mktemp(f"ü {request.param}")
    dataset = write_dataset(root / "data set 1.2", request.param, rows, data=DATA)
    return request.param, load(dataset, root / "cache")


def test_load_dataset_sees_every_row_with_its_text_pictures_and_facts(loaded, rows):
    layout, found = loaded
    names = ("png", "txt", "canny.png", "softedge.png", "canny_json.txt", "canny_labels.png")
    if layout != "webdataset":
        names = ("image", "text", "canny", "softedge", "canny_json", "canny_labels")
    assert tuple(found) == ("train", "validation")
    for split, theirs in found.items():
        wanted = of_split(rows, split)
        assert len(theirs) == len(wanted)
        for row, written in zip(theirs, wanted, strict=True):
            image, text, canny, softedge, people, labels = (row[name] for name in names)
            assert text == written.text
            assert people == written.data["canny_json"].decode()
            assert facts_of(row) == written.facts
            pictures = {"": written.image, **written.maps, "labels": written.data["canny_labels"]}
            for picture, png in zip(
                (image, canny, softedge, labels), pictures.values(), strict=True
            ):
                np.testing.assert_array_equal(np.array(picture), imageio.read_map(png))


@by_columns
def test_load_dataset_sees_image_text_and_one_image_column_per_condition(layout, rows, tmp_path):
    import datasets

    features = load(write_dataset(tmp_path / "d", layout, rows, data=DATA), tmp_path / "c")
    features = features["train"].features
    assert list(features)[:4] == ["image", "text", "canny", "softedge"]
    wanted = {"image", "text", "canny", "softedge", "canny_json", "canny_labels", *FACT_COLUMNS}
    assert set(features) == wanted
    for name in ("image", "canny", "softedge", "canny_labels"):
        assert isinstance(features[name], datasets.Image)
    assert features["text"] == features["canny_json"] == datasets.Value("string")
    for name, kind in FACT_COLUMNS.items():
        assert features[name] == datasets.Value(kind)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("text", ["2023-01-01", "007", "None", "", "1.5", "true", "null"])
def test_captions_that_are_all_alike_stay_text(layout, text, tmp_path):
    rows = [make_row(n, text, source=text) for n in range(3)]
    found = load(write_dataset(tmp_path / "d", layout, rows), tmp_path / "c")["train"]
    assert list(found["txt" if layout == "webdataset" else "text"]) == [text] * 3
    assert [facts_of(row)["source"] for row in found] == [text] * 3


@pytest.mark.parametrize("layout", FORMATS)
def test_several_captions_are_a_list_of_text(layout, tmp_path):
    rows = [
        dataclasses.replace(make_row(n, "2023-01-01"), captions=("2023-01-01", "007")[: n + 1])
        for n in range(2)
    ]
    dataset = write_dataset(tmp_path / "d", layout, rows, many_captions=True)
    found = load(dataset, tmp_path / "c")["train"]
    captions = [row.get("json", row)["captions"] for row in found]
    assert captions == [["2023-01-01"], ["2023-01-01", "007"]]


@pytest.mark.parametrize("layout", FORMATS)
def test_one_row_without_validation_loads(layout, tmp_path):
    dataset = write_dataset(
        tmp_path / "d", layout, [make_row(0, "")], conditions=("canny", "softedge")
    )
    found = load(dataset, tmp_path / "c")
    assert {name: len(split) for name, split in found.items()} == {"train": 1}


@pytest.mark.parametrize("layout", [name for name in FORMATS if name != "simpletuner"])
@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_pictures_with_other_endings_load(layout, suffix, tmp_path):
    rows = make_rows(3, validation=0, image_suffix=suffix)
    dataset = write_dataset(tmp_path / "d", layout, rows, image_suffix=suffix)
    found = load(dataset, tmp_path / "c")["train"]
    pictures = found[suffix[1:] if layout == "webdataset" else "image"]
    for picture, row in zip(pictures, rows, strict=True):
        np.testing.assert_array_equal(np.array(picture), imageio.decode(row.image).image)


@pytest.mark.parametrize("layout", FOLDERS)
@pytest.mark.parametrize("conditions", [("canny",), ("scribble", "softedge")])
def test_a_split_s_folder_loads_by_itself(layout, conditions, tmp_path):
    rows = make_rows(4, validation=0, conditions=conditions)
    dataset = write_dataset(tmp_path / "d", layout, rows, conditions=conditions)
    found = load(dataset / "train", tmp_path / "c")["train"]
    assert list(found.features)[:3] == ["image", "text", conditions[0]]
    assert list(found["text"]) == [row.text for row in rows]


@pytest.mark.parametrize("layout", FORMATS)
def test_streaming_sees_the_same_texts(layout, rows, tmp_path):
    dataset = write_dataset(tmp_path / "d", layout, rows, data=DATA)
    found = load(dataset, tmp_path / "c", streaming=True)
    name = "txt" if layout == "webdataset" else "text"
    for split, theirs in found.items():
        assert [row[name] for row in theirs] == [row.text for row in of_split(rows, split)]


@pytest.mark.parametrize("layout", FORMATS)
def test_an_export_loads_like_a_build(layout, rows, tmp_path):
    source = "webdataset" if layout == "parquet" else "parquet"
    dataset = write_dataset(tmp_path / "d", source, rows, data=DATA)
    export_dataset(dataset, tmp_path / "out", format=layout, conditions=["softedge"])
    found = load(tmp_path / "out", tmp_path / "c")
    names = ("txt", "softedge.png") if layout == "webdataset" else ("text", "softedge")
    for split, theirs in found.items():
        wanted = of_split(rows, split)
        assert list(theirs[names[0]]) == [row.text for row in wanted]
        assert [facts_of(row) for row in theirs] == [row.facts for row in wanted]
        for map_, row in zip(theirs[names[1]], wanted, strict=True):
            np.testing.assert_array_equal(np.array(map_), imageio.read_map(row.maps["softedge"]))


def test_a_parquet_file_carries_its_pictures_when_it_is_moved(rows, tmp_path):
    dataset = write_dataset(tmp_path / "d", "parquet", rows, data=DATA)
    moved = tmp_path / "elsewhere"
    shutil.copytree(dataset / "data", moved)
    shutil.rmtree(dataset)
    found = load(moved, tmp_path / "c")["train"]
    assert found[0]["image"].size == (12, 8)
    assert list(found["text"]) == [row.text for row in of_split(rows, "train")]


def controlnet_examples(dataset, caption_column, condition_column, seed):
    """What diffusers' ControlNet script makes of a training split, by its documented behaviour.

    Columns that are not named are taken by their places: picture, caption, condition. A caption
    may be a text, or a list of which one is drawn. Pictures and conditions become RGB, are resized
    by their short side and cut in the middle, each on its own.
    """
    names = list(dataset.features)
    image_column, caption_column, condition_column = (
        names[0],
        caption_column or names[1],
        condition_column or names[2],
    )
    draw = random.Random(seed)
    for example in dataset:
        caption = example[caption_column]
        if not isinstance(caption, str | list | np.ndarray):
            raise TypeError(f"a caption is text or a list of texts, got {caption!r}")
        text = caption if isinstance(caption, str) else draw.choice(list(caption))
        yield text, middle_square(example[image_column]), middle_square(example[condition_column])


def middle_square(picture: Image.Image, side: int = 8) -> np.ndarray:
    picture = picture.convert("RGB")
    scale = side / min(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return np.array(picture.crop((left, top, left + side, top + side)))


@by_columns
def test_diffusers_finds_picture_caption_and_condition_by_their_places(layout, tmp_path):
    rows = [
        dataclasses.replace(row, captions=(row.text, "another"))
        for row in make_rows(4, validation=0, data=DATA)
    ]
    dataset = write_dataset(tmp_path / "d", layout, rows, data=DATA, many_captions=True)
    found = load(dataset, tmp_path / "c")["train"]
    examples = list(controlnet_examples(found, None, None, 0))
    assert [text for text, _, _ in examples] == [row.text for row in rows]
    for (_, image, condition), row in zip(examples, rows, strict=True):
        assert image.shape == condition.shape == (8, 8, 3)
        np.testing.assert_array_equal(image, imageio.read_map(row.image)[:, 2:10])
        grey = imageio.read_map(row.maps["canny"])[:, 2:10]
        np.testing.assert_array_equal(condition, np.repeat(grey[:, :, None], 3, axis=2))


@by_columns
def test_diffusers_takes_columns_by_name_and_draws_one_of_several_captions(layout, tmp_path):
    rows = [
        dataclasses.replace(row, captions=(row.text, "another", "third"))
        for row in make_rows(8, validation=0)
    ]
    dataset = write_dataset(tmp_path / "d", layout, rows, many_captions=True)
    found = load(dataset, tmp_path / "c")["train"]
    examples = list(controlnet_examples(found, "captions", "softedge", 1))
    for (text, _, condition), row in zip(examples, rows, strict=True):
        assert text in row.captions
        grey = imageio.read_map(row.maps["softedge"])[:, 2:10]
        np.testing.assert_array_equal(condition[:, :, 0], grey)
    assert any(text != row.text for (text, _, _), row in zip(examples, rows, strict=True))
