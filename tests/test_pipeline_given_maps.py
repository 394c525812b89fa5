"""A source's own maps are kept and go the way of their pictures; only missing ones are made."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from condkit import imageio, pipeline
from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.captions import make_captioner
from condkit.datasets.reader import open_dataset
from condkit.datasets.sources.opening import open_source
from condkit.errors import ConfigError
from condkit.runtime import Runtime
from condkit.sizing import SizePolicy

HW = (40, 56)


def encode(pixels: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def picture(seed: int) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return cv2.resize(blocks, HW[::-1], interpolation=cv2.INTER_NEAREST)


def column_map(seed: int) -> np.ndarray:
    """Grey, each column another value, so that a shift by one pixel shows."""
    return np.tile(np.arange(HW[1], dtype=np.uint8) * 4 + seed, (HW[0], 1))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four pictures; three of them have a canny map and a sketch."""
    for n in range(4):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / f"photos/{n}.png").write_bytes(encode(picture(n)))
        if n < 3:
            for kind in ("edges", "sketches"):
                (tmp_path / kind).mkdir(exist_ok=True)
                (tmp_path / f"{kind}/{n}.png").write_bytes(encode(column_map(n)))
    return tmp_path


def build(source: Path, conditions, maps: dict[str, str], **options):
    opened = open_source(
        source / "photos", maps={name: str(source / place) for name, place in maps.items()}
    )
    return pipeline.build(
        opened,
        source / "out",
        plan_annotation(conditions),
        Runtime(),
        captioner=make_captioner("template"),
        **{"size": None, "val": 0.0, **options},
    )


def rows(source: Path) -> dict[str, object]:
    return {row.text: row for row in open_dataset(source / "out").split("train")}


def test_what_is_there_is_kept_and_what_is_missing_is_made(source):
    build(source, ["canny"], {"canny": "edges"})
    found = rows(source)
    for n in range(3):
        np.testing.assert_array_equal(found[str(n)].maps["canny"], column_map(n))
    with Annotator(plan_annotation(["canny"])) as annotator:
        (made,) = annotator([found["3"].image])
    np.testing.assert_array_equal(found["3"].maps["canny"], made["canny"].pixels)
    assert open_dataset(source / "out").manifest["given"].keys() == {"canny"}


@pytest.mark.parametrize("crop", ["center", "random", "left"])
def test_a_kept_map_goes_the_way_of_its_picture(source, crop):
    build(source, ["canny"], {"canny": "edges"}, size=SizePolicy(size=40, crop=crop))
    for n, row in ((n, rows(source)[str(n)]) for n in range(3)):
        np.testing.assert_array_equal(row.image.shape[:2], (40, 40))
        left = (int(row.maps["canny"][0, 0]) - n) // 4
        np.testing.assert_array_equal(row.maps["canny"], column_map(n)[:, left : left + 40])
        shown = cv2.cvtColor(picture(n), cv2.COLOR_BGR2RGB)[:, left : left + 40]
        np.testing.assert_array_equal(row.image, shown)


def test_a_condition_that_only_the_user_knows_is_kept_as_it_is(source):
    (source / "photos/3.png").unlink()
    build(source, ["canny"], {"my_sketch": "sketches"})
    opened = open_dataset(source / "out")
    assert list(opened.conditions) == ["canny", "my_sketch"]
    for n in range(3):
        expected = np.repeat(column_map(n)[..., None], 3, axis=2)
        np.testing.assert_array_equal(rows(source)[str(n)].maps["my_sketch"], expected)


def test_a_picture_whose_map_only_the_user_could_give_is_rejected_without_it(source):
    summary = build(source, ["canny"], {"my_sketch": "sketches"})
    (rejection,) = summary.rejections
    assert rejection.source == "3.png"
    assert "my_sketch" in rejection.reason


def test_a_condition_of_ours_has_to_be_asked_for(source):
    with pytest.raises(ConfigError, match="-c depth"):
        build(source, ["canny"], {"depth": "sketches"})


def test_no_detector_is_loaded_where_every_map_is_there(source, monkeypatch):
    (source / "photos/3.png").unlink()

    def load(self, conditions=None):
        raise AssertionError("nothing is to be detected")

    monkeypatch.setattr(Annotator, "load", load)
    assert build(source, ["canny"], {"canny": "edges"}).written == 3


def test_a_map_of_half_the_size_is_brought_to_its_pictures(source):
    half = cv2.resize(column_map(0), (28, 20), interpolation=cv2.INTER_NEAREST)
    (source / "edges/0.png").write_bytes(encode(half))
    build(source, ["canny"], {"canny": "edges"})
    row = rows(source)["0"]
    assert row.maps["canny"].shape == HW
    table = open_dataset(source / "out")
    assert "canny-map-of-28x20" in notes(source, row.key), table.path


def notes(source: Path, key: str) -> str:
    import pyarrow.parquet as pq

    (path,) = (source / "out/data").glob("*.parquet")
    table = pq.read_table(path, columns=["sha256", "notes"]).to_pylist()
    return next(row["notes"] for row in table if row["sha256"] == key)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode(np.zeros((40, 40), np.uint8)), "56x40"),
        (encode(np.zeros((56, 40), np.uint8)), "lies on its side"),
        (encode(np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)), "1 channel"),
        (encode(np.zeros(HW, np.uint16)), "uint8"),
        (b"no picture", "map"),
    ],
    ids=["another shape", "turned", "colours", "deep", "broken"],
)
def test_a_map_that_does_not_fit_its_picture_is_a_rejection_that_says_why(source, data, reason):
    (source / "edges/1.png").write_bytes(data)
    (rejection,) = build(source, ["canny"], {"canny": "edges"}).rejections
    assert (rejection.source, rejection.stage) == ("1.png", "decode")
    assert reason in rejection.reason
    assert "canny" in rejection.reason


def test_a_map_that_may_have_lost_something_is_noted(source):
    (source / "edges/2.png").unlink()
    flat = np.full(HW, 77, np.uint8)
    (source / "edges/2.jpg").write_bytes(encode(flat, ".jpg"))
    build(source, ["canny"], {"canny": "edges"})
    row = rows(source)["2"]
    assert set(np.unique(row.maps["canny"])) == {77}
    assert "canny-was-no-png" in notes(source, row.key)


def test_a_changed_map_is_a_changed_source(source):
    build(source, ["canny"], {"canny": "edges"})
    (source / "edges/1.png").write_bytes(encode(column_map(9)))
    with pytest.raises(OSError, match=r"beside 1\.png"):
        build(source, ["canny"], {"canny": "edges"})


def test_nothing_in_the_source_changes(source):
    def hashes() -> dict[str, str]:
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for folder in ("photos", "edges", "sketches")
            for path in sorted((source / folder).iterdir())
        }

    before = hashes()
    build(source, ["canny"], {"canny": "edges", "my_sketch": "sketches"})
    assert hashes() == before


def test_facts_are_those_of_maps_that_were_made(source):
    build(source, ["canny"], {"canny": "edges"})
    import pyarrow.parquet as pq

    (path,) = (source / "out/data").glob("*.parquet")
    table = pq.read_table(path, columns=["text", "facts"]).to_pylist()
    told = {row["text"]: json.loads(row["facts"])["canny"] for row in table}
    assert told["0"] == told["1"] == {}
    assert told["3"].keys() == {"edge_fraction"}
    assert imageio.decode(source / "photos/3.png").image.shape[:2] == HW
