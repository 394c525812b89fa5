"""Real builds in every format: they load, and an export of one is the build of another."""

from __future__ import annotations

import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

from condkit import pipeline
from condkit.captions import make_captioner
from condkit.datasets.export import export_dataset
from condkit.datasets.formats import available_formats
from condkit.datasets.reader import open_dataset
from condkit.runtime import Runtime

HERE = Path(__file__).parent
PLAN = runpy.run_path(str(HERE / "plan_with_data.py"))["PLAN"]
MADE = runpy.run_path(str(HERE / "datasets/made_datasets.py"))
FORMATS = available_formats()
CAPTIONS = {
    "a.png": "None",
    "a.jpg": "007",
    "sub/a.png": "2023-01-01",
    "ü 1.2.final.png": 'a cat, "quoted", and\na dog',
    "猫.png": "猫 on a mät",
    "empty.png": "",
    "long.png": "very " * 300 + "long",
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for seed, (name, caption) in enumerate(CAPTIONS.items()):
        blocks = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
        pixels = cv2.resize(blocks, (56, 40), interpolation=cv2.INTER_NEAREST)
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
        path.with_name(f"{path.name}.txt").write_text(caption, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def built(photos, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("built")
    captioner = make_captioner("sidecar")
    for name in FORMATS:
        pipeline.build(
            photos,
            root / name,
            PLAN,
            Runtime(),
            captioner=captioner,
            size=32,
            format=name,
            val=0.4,
            shard_size=3,
        )
    return {name: root / name for name in FORMATS}


@pytest.mark.parametrize("name", FORMATS)
def test_a_build_loads_with_its_captions_and_sources(name, built, tmp_path):
    found = MADE["load"](built[name], tmp_path)
    ours = open_dataset(built[name])
    assert tuple(found) == ours.splits == ("train", "validation")
    rows = [row for split in found.values() for row in split]
    text = "txt" if name == "webdataset" else "text"
    texts = {row.get("json", row)["source"]: row[text] for row in rows}
    assert texts == {source: " ".join(caption.split()) for source, caption in CAPTIONS.items()}
    facts = rows[0].get("json", rows[0])
    assert (facts["width"], facts["height"]) == (32, 32)
    assert (facts["original_width"], facts["original_height"]) == (56, 40)


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_of_a_build_is_the_build_in_that_format(name, built, tmp_path):
    source = "tree" if name == "parquet" else "parquet"
    export_dataset(built[source], tmp_path / "out", format=name)
    wanted, found = MADE["tree"](built[name]), MADE["tree"](tmp_path / "out")
    for files in (wanted, found):
        assert {"manifest.json", "README.md"} <= files.keys()
        del files["manifest.json"], files["README.md"]
    assert found == wanted
