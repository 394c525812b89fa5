"""The dataset card is what the hub and `datasets` read; the contact sheet shows the rows."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from condkit import imageio
from condkit.datasets.card import bytes_per_split, features, write_card
from condkit.datasets.contact_sheet import (
    CONTACT_SHEET,
    TILE,
    draw_contact_sheet,
    shown_as_rgb,
    thumbnail,
    write_contact_sheet,
)
from condkit.datasets.formats import available_formats
from condkit.datasets.formats.base import Row
from condkit.datasets.reader import open_dataset

MADE = runpy.run_path(str(Path(__file__).with_name("made_dataset.py")))
make, rows = MADE["make"], MADE["rows"]


@pytest.fixture(scope="module", params=available_formats())
def dataset(request, tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("card") / request.param, request.param)


def head_of(card: str) -> dict[str, object]:
    _, head, _ = card.split("---\n", 2)
    return yaml.safe_load(head)


def manifest_of(dataset: Path) -> dict[str, object]:
    return json.loads((dataset / "manifest.json").read_text())


def test_the_hub_reads_the_card(dataset):
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(dataset / "README.md")
    values = card.data.to_dict()
    assert values == head_of((dataset / "README.md").read_text())
    assert values["license"] == "unknown"
    assert values["size_categories"] == ["n<1K"]
    assert "text-to-image" in values["task_categories"]
    assert {"controlnet", "bright", "seg"} <= set(values["tags"])
    assert values["configs"][0]["config_name"] == "default"
    assert [file["split"] for file in values["configs"][0]["data_files"]] == ["train", "validation"]


def test_load_dataset_gives_the_features_that_the_card_declares(dataset, tmp_path):
    import datasets

    datasets.disable_progress_bars()
    loaded = datasets.load_dataset(str(dataset), cache_dir=str(tmp_path))
    head = head_of((dataset / "README.md").read_text())
    if dataset.name == "webdataset":
        assert "dataset_info" not in head
        return
    declared = datasets.Features._from_yaml_list(head["dataset_info"]["features"])
    assert loaded["train"].features == declared
    assert list(declared)[:3] == ["image", "text", "bright"]
    assert {split: len(found) for split, found in loaded.items()} == {
        split["name"]: split["num_examples"] for split in head["dataset_info"]["splits"]
    }


def test_load_dataset_refuses_a_dataset_that_lost_rows(tmp_path):
    import datasets

    make(tmp_path / "x", "imagefolder")
    table = tmp_path / "x/train/metadata.jsonl"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(Exception, match=r"num_examples=8.*num_examples=7"):
        datasets.load_dataset(str(tmp_path / "x"), cache_dir=str(tmp_path / "cache"))


def test_captions_are_a_list_of_texts(dataset):
    values = {**manifest_of(dataset), "columns": ["image", "text", "captions"]}
    assert features(values) == [
        {"name": "image", "dtype": "image"},
        {"name": "text", "dtype": "string"},
        {"name": "captions", "list": "string"},
    ]


def test_the_body_tells_how_to_load_what_it_is_and_what_was_left_out(dataset):
    words = {
        "parquet": ("load_dataset", "--image_column image"),
        "imagefolder": ("load_dataset", "--conditioning_image_column bright"),
        "webdataset": ("WebDataset", "bright.png"),
        "kohya": ("train/dataset.toml",),
        "simpletuner": ("train/multidatabackend.json",),
        "fill50k": ("train/prompt.json",),
        "tree": ("load_dataset", "train/prompt.json", "train/dataset.toml"),
    }
    card = write_card(manifest_of(dataset), {}, license="cc-by-4.0", contact_sheet="sheet.png")
    assert head_of(card)["license"] == "cc-by-4.0"
    assert "](sheet.png)" in card
    for word in (
        *words[dataset.name],
        "255 where the picture is bright",
        "8 train, 4 validation",
        "3 inputs were rejected",
        "| filter | 2 |",
        "captioner made",
        "SHA256SUMS",
        "condkit validate",
    ):
        assert word in card
    for column in manifest_of(dataset)["columns"]:
        assert f"| `{column}` |" in card


@pytest.mark.parametrize("text", ["yes", "2023-01-01", "a: b", "# no", "ü 猫", "- x", '"', "null"])
def test_any_text_stays_text_in_the_yaml(text, dataset):
    values = manifest_of(dataset)
    head = head_of(write_card(values, {"configs": [{"config_name": text}]}, license=text))
    assert head["license"] == text
    assert head["configs"] == [{"config_name": text}]


def test_a_cell_of_the_card_cannot_break_its_table(dataset):
    values = {**manifest_of(dataset), "captions": {"captioner": "a | b\nc"}}
    card = write_card(values, {})
    (line,) = [line for line in card.splitlines() if line.startswith("| captions | ")]
    assert line == r"| captions | captioner a \| b c |"


def test_files_are_counted_to_their_splits():
    files = [
        ("data/train-00000.tar", 5),
        ("validation/images/0.png", 7),
        ("train/canny/0.png", 2),
        ("other.txt", 9),
    ]
    assert bytes_per_split(files, ("train", "validation")) == {"train": 7, "validation": 7}


@pytest.mark.parametrize(
    ("count", "name"), [(5, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**8, "100M<n<1B")]
)
def test_size_categories_are_the_hubs(count, name, dataset):
    values = {**manifest_of(dataset), "rows": {"train": count}}
    assert head_of(write_card(values, {}))["size_categories"] == [name]


def test_the_same_dataset_gives_the_same_sheet_in_every_format(tmp_path):
    sheets = set()
    for layout in available_formats():
        folder = make(tmp_path / layout, layout)
        for _ in range(2):
            assert write_contact_sheet(folder, open_dataset(folder)) == CONTACT_SHEET
            sheets.add((folder / CONTACT_SHEET).read_bytes())
    assert len(sheets) == 1


def test_each_picture_stands_beside_its_own_maps(tmp_path):
    opened = open_dataset(make(tmp_path))
    row = opened.split("train")[0]
    sheet = draw_contact_sheet([row], tuple(opened.conditions))
    height, width = 2 * row.image.shape[0], 2 * row.image.shape[1]
    for pixels in (row.image, *map(shown_as_rgb, row.maps.values())):
        large = pixels.repeat(2, axis=0).repeat(2, axis=1)
        places = [
            (top, left)
            for top in range(sheet.shape[0] - height + 1)
            for left in range(0, sheet.shape[1] - width + 1, 4)
            if np.array_equal(sheet[top, left : left + width], large[0])
            and np.array_equal(sheet[top : top + height, left : left + width], large)
        ]
        assert len(places) == 1


def test_any_caption_and_any_size_fit_on_the_sheet():
    captions = ["", "猫" * 500, "word " * 300, "nospace" * 200, "a\nb\tc", "é\u0301 \U0001f600"]
    sizes = [(1, 900), (900, 1), (3, 3), (192, 192), (50, 400), (500, 700)]
    shown = [
        Row("k", np.full((*hw, 3), 90, np.uint8), text, {"m": np.full(hw, 255, np.uint8)})
        for hw, text in zip(sizes, captions, strict=True)
    ]
    sheet = draw_contact_sheet(shown, ("m",))
    assert sheet.dtype == np.uint8
    margin = sheet[:, -4:]
    assert (margin == margin[0, 0]).all()
    alone = draw_contact_sheet(shown[:1], ("m",))
    assert alone.shape[1] >= 2 * TILE


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.full((2, 2), 65535, np.uint16), 255),
        (np.full((2, 2), 7, np.uint8), 7),
        (np.array([[[9, 9, 9, 0]]], np.uint8), 0),
        (np.array([[[9, 9, 9, 255]]], np.uint8), 9),
    ],
)
def test_every_kind_of_map_can_be_shown(pixels, expected):
    shown = thumbnail(pixels, 10)
    assert shown.shape == (*pixels.shape[:2], 3)
    assert shown.dtype == np.uint8
    assert (shown == expected).all()


def test_a_sheet_takes_rows_of_every_split_and_no_more_than_asked_for(tmp_path):
    made = rows(40)
    folder = make(tmp_path, "parquet", [replace(row, text="x", captions=("x",)) for row in made])
    write_contact_sheet(folder, open_dataset(folder), rows=4)
    few = imageio.read_map(folder / CONTACT_SHEET).shape
    write_contact_sheet(folder, open_dataset(folder), rows=8)
    assert imageio.read_map(folder / CONTACT_SHEET).shape[0] == pytest.approx(2 * few[0], abs=40)
