"""Hugging Face datasets as sources: saved, pushed, streamed, and from the hub."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from condkit.datasets.sources.forward_cursor import KEPT_ROWS, ROWS_BEFORE, ForwardCursor
from condkit.datasets.sources.opening import open_source
from condkit.errors import ConfigError, DatasetError
from condkit.types import Rejection

WRITERS = runpy.run_path(str(Path(__file__).with_name("source_writers.py")))
samples = WRITERS["samples"]
hf_dataset = WRITERS["hf_dataset"]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    """What a test prepares must not fill the user's own cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub as a folder per dataset; what was asked for is kept."""
    asked = []
    original = datasets.load_dataset_builder

    def load(path, **options):
        asked.append((path, options, datasets.config.HF_HUB_OFFLINE))
        place = tmp_path / "hub" / path
        if not place.is_dir():
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{path}' doesn't exist")
        return original(str(place), name=options["name"])

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    (tmp_path / "hub" / "owner" / "name").mkdir(parents=True)
    return tmp_path / "hub" / "owner" / "name", asked


def pictures(source) -> dict[str, bytes]:
    read = {entry.relative: source.read(entry).image for entry in source.scan()}
    return {
        name: image if isinstance(image, bytes) else image.read_bytes()
        for name, image in read.items()
    }


def as_imagefolder(root: Path) -> dict[str, bytes]:
    """Pictures that lie outside of any table, so that `datasets` only refers to them."""
    (root / "train").mkdir()
    lines = []
    for index, sample in enumerate(samples()):
        (root / "train" / f"{index}.{sample.ending}").write_bytes(sample.image)
        lines.append(json.dumps({"file_name": f"{index}.{sample.ending}", "text": sample.caption}))
    (root / "train" / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return {f"train/{i:09d}": sample.image for i, sample in enumerate(samples())}


def test_names_are_the_split_and_the_row(tmp_path):
    parts = {"train": hf_dataset(samples()[:4]), "test": hf_dataset(samples()[4:])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    names = [entry.relative for entry in open_source(tmp_path / "d").scan()]
    assert names[:2] == ["train/000000000", "train/000000001"]
    assert names[-1] == "test/000000001"


def test_rows_of_several_shards_are_numbered_through(tmp_path):
    place = WRITERS["pushed"](tmp_path, samples())
    names = [entry.relative for entry in open_source(place).scan()]
    assert names[:4] == [f"train/{i:09d}" for i in range(4)]
    assert names[4:] == ["validation/000000000", "validation/000000001"]


def test_parquet_shards_are_read_where_they_lie(tmp_path):
    place = WRITERS["pushed"](tmp_path, samples())
    source = open_source(place)
    assert len(pictures(source)) == len(samples())
    cached = [path for path in (tmp_path / "hf-cache").rglob("*") if path.suffix == ".arrow"]
    assert cached == []


def test_a_split_is_taken_alone_and_an_unknown_one_refused(tmp_path):
    place = WRITERS["pushed"](tmp_path, samples())
    names = [entry.relative for entry in open_source(place, split="validation").scan()]
    assert names == ["validation/000000000", "validation/000000001"]
    with pytest.raises(ConfigError, match="its splits are: train, validation"):
        open_source(place, split="test")


def test_shards_with_other_columns_are_an_error_that_names_them(tmp_path):
    place = WRITERS["pushed"](tmp_path, samples())
    hf_dataset(samples()[2:4]).remove_columns("text").to_parquet(
        place / "data" / "train-00001-of-00002.parquet"
    )
    with pytest.raises(DatasetError, match=r"train-00001.*only in one: text"):
        list(open_source(place).scan())


def test_a_dataset_without_pictures_lists_its_columns(tmp_path):
    datasets.Dataset.from_dict({"a": [1], "b": ["x"]}).save_to_disk(tmp_path / "d")
    with pytest.raises(ConfigError, match="no column of pictures; its columns are a, b"):
        open_source(tmp_path / "d")


def test_two_columns_of_pictures_without_usual_names_have_to_be_chosen_from(tmp_path):
    dataset = hf_dataset(samples()).rename_columns({"image": "left", "canny": "right"})
    dataset.save_to_disk(tmp_path / "d")
    with pytest.raises(ConfigError, match=r"image_column.*left, right"):
        open_source(tmp_path / "d")
    found = pictures(open_source(tmp_path / "d", image_column="left"))
    assert list(found.values()) == [sample.image for sample in samples()]


def test_the_only_column_of_pictures_besides_the_maps_is_taken(tmp_path):
    dataset = hf_dataset(samples()).rename_columns({"image": "left", "canny": "right"})
    dataset.save_to_disk(tmp_path / "d")
    source = open_source(tmp_path / "d", maps={"canny": "right"})
    assert list(pictures(source).values()) == [sample.image for sample in samples()]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_row_without_a_picture_is_rejected_with_its_number(streaming, tmp_path):
    rows = {"image": [{"bytes": samples()[0].image, "path": None}, None], "text": ["x", "y"]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "d")
    entry, rejection = open_source(tmp_path / "d", streaming=streaming).scan()
    assert entry.relative == "train/000000000"
    assert isinstance(rejection, Rejection)
    assert "row 2" in rejection.source


@pytest.mark.parametrize("streaming", [False, True])
def test_pictures_on_the_hub_come_as_they_were_put_there(streaming, hub):
    place, asked = hub
    expected = as_imagefolder(place)
    source = open_source("hf://owner/name@v1.0", streaming=streaming)
    assert pictures(source) == expected
    assert asked == [("owner/name", {"name": None, "revision": "v1.0"}, True)]
    assert source.as_dict()["name"] == "owner/name"
    assert source.as_dict()["revision"] == "v1.0"


def test_captions_from_the_hub_are_fields(hub):
    as_imagefolder(hub[0])
    source = open_source("hf://owner/name", streaming=True)
    # The library itself takes "2023-01-01" and the like for what they look like only if all do.
    found = [source.file(entry).fields["text"] for entry in source.scan()]
    assert found == [sample.caption for sample in samples()]


@pytest.mark.parametrize("place", ["hf://datasets/owner/name", "hf://owner/name"])
def test_both_ways_to_write_a_hub_name_mean_the_same(place, hub):
    as_imagefolder(hub[0])
    open_source(place)
    assert hub[1][0][0] == "owner/name"


@pytest.mark.parametrize("place", ["hf://", "hf://a/b/c", "hf://a b", "hf://owner/name@"])
def test_a_hub_name_that_is_none_is_refused(place):
    with pytest.raises(ConfigError, match="expected hf://owner/name"):
        open_source(place)


def test_a_dataset_that_does_not_exist_is_an_error(hub):
    with pytest.raises(ConfigError, match="no dataset owner/other"):
        open_source("hf://owner/other")


def test_offline_forbids_the_network_while_it_opens_and_no_longer(hub, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    as_imagefolder(hub[0])
    open_source("hf://owner/name", offline=True)
    open_source("hf://owner/name")
    assert [offline for _, _, offline in hub[1]] == [True, False]
    assert datasets.config.HF_HUB_OFFLINE is False


def test_a_dataset_that_was_never_fetched_is_an_error_offline():
    with pytest.raises(DatasetError, match="offline it must have been fetched before"):
        open_source("hf://nobody/nothing", offline=True)


def test_streaming_offline_is_refused():
    with pytest.raises(ConfigError, match="cannot be streamed offline"):
        open_source("hf://owner/name", streaming=True, offline=True)


def test_an_unknown_configuration_is_refused_with_those_there_are(tmp_path):
    place = WRITERS["pushed"](tmp_path, samples())
    with pytest.raises(ConfigError, match=r"Available: \['default'\]"):
        open_source(place, config="other")


def test_a_broken_shard_is_an_error_that_names_it(tmp_path):
    place = WRITERS["pushed"](tmp_path, samples())
    shard = place / "data" / "train-00000-of-00002.parquet"
    shard.write_bytes(shard.read_bytes()[:-30])
    with pytest.raises(DatasetError, match="train-00000-of-00002"):
        open_source(place)


def test_a_picture_column_of_plain_bytes_has_to_be_the_picture(tmp_path):
    (tmp_path / "data").mkdir()
    rows = [{"image": sample.image, "text": sample.caption} for sample in samples()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / "train-0.parquet")
    assert list(pictures(open_source(tmp_path)).values()) == [s.image for s in samples()]


class Stream:
    """Rows 0 to 999, and how often it was begun."""

    def __init__(self, count: int = 1000) -> None:
        self.count = count
        self.starts: list[int] = []

    def __call__(self, number: int):
        self.starts.append(number)
        return ({"n": i, "data": b"x"} for i in range(number, self.count))


def test_a_stream_read_in_order_is_begun_once():
    stream = Stream()
    cursor = ForwardCursor(stream)
    assert [cursor.read(i)["n"] for i in range(1000)] == list(range(1000))
    assert stream.starts == [0]


def test_a_stream_read_a_little_out_of_order_is_not_begun_again():
    stream = Stream()
    cursor = ForwardCursor(stream)
    order = [i ^ 3 for i in range(1000)]
    assert [cursor.read(i)["n"] for i in order] == order
    assert stream.starts == [0]


def test_a_stream_read_backwards_begins_again_and_stays_right():
    stream = Stream()
    cursor = ForwardCursor(stream)
    order = [900, 900 - KEPT_ROWS - 1, 5, 999]
    assert [cursor.read(i)["n"] for i in order] == order
    assert stream.starts == [900 - ROWS_BEFORE, 900 - KEPT_ROWS - 1 - ROWS_BEFORE, 0]


def test_a_stream_that_became_shorter_is_an_error():
    with pytest.raises(DatasetError, match="ended before row 1000"):
        ForwardCursor(Stream()).read(1000)
