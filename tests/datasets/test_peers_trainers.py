"""Trainers that read plain files: the rules of kohya's sd-scripts, SimpleTuner and fill50k.

The readers here are written from how those programs behave; they know nothing of condkit.
"""

from __future__ import annotations

import dataclasses
import json
import runpy
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest

from condkit import imageio

MADE = runpy.run_path(str(Path(__file__).with_name("made_datasets.py")))
make_row, make_rows, write_dataset = MADE["make_row"], MADE["make_rows"], MADE["write_dataset"]
DATA = MADE["DATA"]

IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
SPLITS = ("train", "validation")


def pictures_in(folder: Path) -> list[Path]:
    """The picture files right in a folder; endings in lower or upper case only."""
    endings = IMAGE_ENDINGS | {ending.upper() for ending in IMAGE_ENDINGS}
    return sorted(path for path in folder.iterdir() if path.suffix in endings)


def in_one_line(text: str) -> str:
    return " ".join(part.strip() for part in text.splitlines() if part.strip())


class KohyaError(AssertionError):
    pass


def kohya_subset(root: Path, subset: dict[str, str]) -> dict[str, tuple[str, Path, Path]]:
    """Caption, picture and condition by stem, as sd-scripts' ControlNet dataset pairs them."""
    images, conditions = root / subset["image_dir"], root / subset["conditioning_data_dir"]
    pairs = {}
    for path in pictures_in(images):
        if path.stem in pairs:
            raise KohyaError(f"{path.stem} is there twice; both would get one caption")
        text = path.with_suffix(subset.get("caption_extension", ".caption"))
        if not text.is_file():
            raise KohyaError(f"{path.name} has no caption file; its caption would be empty")
        with text.open(encoding="utf-8") as file:
            lines = file.readlines()
        if not lines:
            raise KohyaError(f"{text.name} is empty")
        if len(lines) > 1:
            raise KohyaError(f"{text.name} has lines that are not read")
        matches = [c for c in pictures_in(conditions) if c.stem == path.stem]
        if not matches:
            raise KohyaError(f"{path.stem} has no condition")
        if cv2.imread(str(path)).shape != cv2.imread(str(matches[0])).shape:
            raise KohyaError(f"{path.stem}: condition and picture differ in size")
        pairs[path.stem] = (lines[0].strip(), path, matches[0])
    extra = {path.stem for path in pictures_in(conditions)} - pairs.keys()
    if extra:
        raise KohyaError(f"conditions without pictures: {sorted(extra)}")
    return pairs


def kohya_dataset(root: Path, config: Path) -> dict[str, tuple[str, Path, Path]]:
    values = tomllib.loads(config.read_text("utf-8"))
    subsets = [subset for dataset in values["datasets"] for subset in dataset["subsets"]]
    folders = [subset["image_dir"] for subset in subsets]
    assert len(folders) == len(set(folders)), "a picture must lie in one subset"
    pairs = {}
    for subset in subsets:
        assert set(subset) <= {"image_dir", "conditioning_data_dir", "caption_extension"}
        assert not Path(subset["image_dir"]).is_absolute()
        pairs |= kohya_subset(root, subset)
    return pairs


@pytest.mark.parametrize("layout", ["kohya", "tree"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_kohya_pairs_every_picture_with_its_caption_and_condition(layout, suffix, tmp_path):
    rows = make_rows(data=DATA, image_suffix=suffix)
    dataset = write_dataset(tmp_path / "d", layout, rows, data=DATA, image_suffix=suffix)
    for split in SPLITS:
        for name, condition in (("dataset", "canny"), ("dataset_softedge", "softedge")):
            pairs = kohya_dataset(dataset, dataset / split / f"{name}.toml")
            wanted = {f"{row.index:06d}": row for row in rows if row.split == split}
            assert pairs.keys() == wanted.keys()
            for stem, (caption, image, map_) in pairs.items():
                row = wanted[stem]
                assert caption == in_one_line(row.text)
                assert image.read_bytes() == row.image
                assert map_.read_bytes() == row.maps[condition]


def test_the_kohya_checker_finds_what_kohya_would_stop_at(tmp_path):
    dataset = write_dataset(tmp_path / "d", "kohya", make_rows(4, validation=0))
    config = dataset / "train/dataset.toml"
    text, condition = dataset / "train/images/000001.txt", dataset / "train/canny/000001.png"
    caption, png = text.read_bytes(), condition.read_bytes()
    for path, content, named in (
        (text, b"", "is empty"),
        (condition, None, "no condition"),
        (condition, MADE["picture"](1, (4, 4)), "differ in size"),
        (condition.with_name("preview.png"), png, "without pictures"),
    ):
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        with pytest.raises(KohyaError, match=named):
            kohya_dataset(dataset, config)
        text.write_bytes(caption)
        condition.write_bytes(png)


def simpletuner_backends(config: Path) -> tuple[dict, dict]:
    """The picture and the condition backend, linked as SimpleTuner links them."""
    backends = json.loads(config.read_text("utf-8"))
    by_id = {backend["id"]: backend for backend in backends}
    assert len(by_id) == len(backends)
    embeds = [b for b in backends if b["dataset_type"] == "text_embeds"]
    assert [b["default"] for b in embeds] == [True]
    assert all(b["type"] == "local" for b in backends)
    (images,) = [b for b in backends if b["dataset_type"] == "image"]
    conditions = by_id[images["conditioning_data"]]
    assert (conditions["dataset_type"], conditions["conditioning_type"]) == (
        "conditioning",
        "controlnet",
    )
    return images, conditions


def simpletuner_captions(picture: Path) -> list[str]:
    """The text beside a picture: each line that is not empty is a caption; none must be left."""
    text = picture.with_suffix(".txt").read_bytes().decode("utf-8")
    if "\n" not in text:
        return [text]
    captions = [line for line in text.split("\n") if line]
    assert captions, f"{picture.name}: a caption is drawn of an empty list"
    return captions


@pytest.mark.parametrize("many", [False, True])
def test_simpletuner_pairs_files_by_their_whole_relative_path(many, tmp_path):
    rows = make_rows(data=DATA)
    if many:
        rows = [dataclasses.replace(row, captions=(row.text, "b", "c\nd")) for row in rows]
    dataset = write_dataset(tmp_path / "d", "simpletuner", rows, data=DATA, many_captions=many)
    for split in SPLITS:
        for name, condition in (("", "canny"), ("_softedge", "softedge")):
            images, maps = simpletuner_backends(dataset / split / f"multidatabackend{name}.json")
            folder = dataset / images["instance_data_dir"]
            paired = dataset / maps["instance_data_dir"]
            found = [path.relative_to(folder) for path in pictures_in(folder)]
            wanted = [row for row in rows if row.split == split]
            assert [path.name for path in found] == [row.file_name for row in wanted]
            for path, row in zip(found, wanted, strict=True):
                assert (folder / path).read_bytes() == row.image
                assert (paired / path).read_bytes() == row.maps[condition]
                captions = [in_one_line(text) for text in row.captions]
                expected = [text for text in captions if text] if many else captions
                assert simpletuner_captions(folder / path) == expected


def fill50k_pairs(folder: Path, name: str) -> list[dict]:
    """ControlNet's tutorial reader: JSON lines, pictures by cv2, both turned to RGB."""
    pairs = []
    with (folder / name).open(encoding="ascii") as file:
        for line in file:
            item = json.loads(line)
            source = cv2.imread(str(folder / item["source"]))
            target = cv2.imread(str(folder / item["target"]))
            assert source is not None
            assert target is not None
            source = cv2.cvtColor(source, cv2.COLOR_BGR2RGB).astype(np.float32) / 255.0
            target = cv2.cvtColor(target, cv2.COLOR_BGR2RGB).astype(np.float32) / 127.5 - 1.0
            pairs.append({"jpg": target, "txt": item["prompt"], "hint": source})
    return pairs


@pytest.mark.parametrize("layout", ["fill50k", "tree"])
def test_the_tutorial_of_controlnet_reads_pairs_and_prompts(layout, tmp_path):
    rows = make_rows(data=DATA)
    dataset = write_dataset(tmp_path / "d", layout, rows, data=DATA)
    for split in SPLITS:
        wanted = [row for row in rows if row.split == split]
        for name, condition in (("prompt", "canny"), ("prompt_softedge", "softedge")):
            pairs = fill50k_pairs(dataset / split, f"{name}.json")
            assert [pair["txt"] for pair in pairs] == [row.text for row in wanted]
            for pair, row in zip(pairs, wanted, strict=True):
                image = np.round((pair["jpg"] + 1) * 127.5).astype(np.uint8)
                hint = np.round(pair["hint"] * 255).astype(np.uint8)
                np.testing.assert_array_equal(image, imageio.read_map(row.image))
                grey = imageio.read_map(row.maps[condition])
                np.testing.assert_array_equal(hint, np.repeat(grey[:, :, None], 3, axis=2))


def test_paths_in_prompts_stay_in_their_folder(tmp_path):
    dataset = write_dataset(tmp_path / "d", "fill50k", make_rows(3, validation=0))
    for line in (dataset / "train/prompt.json").read_text("ascii").splitlines():
        item = json.loads(line)
        assert list(item) == ["source", "target", "prompt"]
        assert not any(
            item[key].startswith("/") or ".." in item[key] for key in ("source", "target")
        )
