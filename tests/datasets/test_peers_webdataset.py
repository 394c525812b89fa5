"""WebDataset shards, read by the `webdataset` library and by plain `tarfile`."""

from __future__ import annotations

import dataclasses
import json
import runpy
import tarfile
from pathlib import Path

import numpy as np
import pytest

from condkit import imageio

MADE = runpy.run_path(str(Path(__file__).with_name("made_datasets.py")))
make_rows, write_dataset, DATA = MADE["make_rows"], MADE["write_dataset"], MADE["DATA"]

KEYS = {"png", "txt", "json", "canny.png", "softedge.png", "canny_json.txt", "canny_labels.png"}


@pytest.fixture(scope="module")
def rows():
    rows = make_rows(14, data=DATA)
    return [dataclasses.replace(row, captions=(row.text, "second")) for row in rows]


@pytest.fixture(scope="module")
def dataset(rows, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tars") / "d"
    return write_dataset(folder, "webdataset", rows, data=DATA, many_captions=True)


def shards(dataset: Path, split: str) -> list[str]:
    return [str(path) for path in sorted((dataset / "data").glob(f"{split}-*.tar"))]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_webdataset_library_decodes_every_sample(split, dataset, rows):
    webdataset = pytest.importorskip("webdataset")
    wanted = [row for row in rows if row.split == split]
    found = webdataset.WebDataset(shards(dataset, split), shardshuffle=False).decode("rgb8")
    samples = list(found)
    assert [sample["__key__"] for sample in samples] == [f"{row.index:06d}" for row in wanted]
    for sample, row in zip(samples, wanted, strict=True):
        assert {key for key in sample if not key.startswith("__")} == KEYS
        assert sample["txt"] == row.text
        assert sample["json"] == {**row.facts, "captions": list(row.captions)}
        np.testing.assert_array_equal(sample["png"], imageio.read_map(row.image))
        grey = imageio.read_map(row.maps["canny"])
        np.testing.assert_array_equal(sample["canny.png"][:, :, 0], grey)


def test_the_webdataset_library_gives_tuples_for_training(dataset, rows):
    webdataset = pytest.importorskip("webdataset")
    found = webdataset.WebDataset(shards(dataset, "train"), shardshuffle=False)
    tuples = list(found.decode("pil").to_tuple("png", "txt", "softedge.png"))
    assert len(tuples) == sum(row.split == "train" for row in rows)
    for picture, text, condition in tuples:
        assert picture.size == condition.size == (12, 8)
        assert isinstance(text, str)


def test_tarfile_finds_the_same_members_for_every_row(dataset, rows):
    seen = {}
    for split in ("train", "validation"):
        for path in shards(dataset, split):
            with tarfile.open(path) as tar:
                for member in tar:
                    key, _, kind = member.name.partition(".")
                    seen.setdefault(key, {})[kind] = tar.extractfile(member).read()
    assert set(seen) == {f"{row.index:06d}" for row in rows}
    for row in rows:
        parts = seen[f"{row.index:06d}"]
        assert set(parts) == KEYS
        assert parts["png"] == row.image
        assert parts["txt"].decode("utf-8") == row.text
        assert json.loads(parts["json"])["sha256"] == row.facts["sha256"]
        assert parts["canny_json.txt"] == row.data["canny_json"]
