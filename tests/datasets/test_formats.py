"""What every format promises, and what each one writes; the peers read them in `test_peers_*`."""

from __future__ import annotations

import dataclasses
import json
import pickle
import runpy
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from condkit import imageio
from condkit.datasets.encoded import DataColumn
from condkit.datasets.formats import (
    available_formats,
    format_of,
    get_format,
    parquet,
    parquet_reader,
    tables,
)
from condkit.datasets.formats.base import FACT_COLUMNS
from condkit.datasets.reader import open_dataset
from condkit.errors import ConfigError, DatasetError, UnknownNameError

MADE = runpy.run_path(str(Path(__file__).with_name("made_datasets.py")))
make_row, make_rows, write_dataset = MADE["make_row"], MADE["make_rows"], MADE["write_dataset"]
files_of, CONDITIONS, DATA = MADE["tree"], MADE["CONDITIONS"], MADE["DATA"]

FORMATS = available_formats()
FOLDERS = [name for name in FORMATS if name not in ("parquet", "webdataset")]
SUFFIXES = [".png", ".jpg", ".webp"]
each_format = pytest.mark.parametrize("layout", FORMATS)


def with_more_captions(rows):
    return [
        dataclasses.replace(row, captions=(row.text, f"second of {n}", "2023-01-02"))
        for n, row in enumerate(rows)
    ]


def of_split(rows, split):
    return [row for row in rows if row.split == split]


@pytest.fixture(scope="module")
def rows():
    return make_rows(data=DATA)


@pytest.fixture(scope="module", params=FORMATS)
def dataset(request, rows, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp(f"data set {request.param}") / "ü"
    return write_dataset(output, request.param, rows, data=DATA)


def test_every_row_comes_back_whole(dataset, rows):
    ours = open_dataset(dataset)
    assert ours.splits == ("train", "validation")
    for name in ours.splits:
        split, wanted = ours.split(name), of_split(rows, name)
        assert [split.row(n) for n in range(len(split))] == wanted
        assert split.indices() == tuple(row.index for row in wanted)
        assert split.keys() == tuple(row.facts["sha256"] for row in wanted)


def test_what_training_reads_is_what_was_written(dataset, rows):
    ours = open_dataset(dataset)
    for name in ours.splits:
        for row, written in zip(ours.split(name), of_split(rows, name), strict=True):
            assert (row.key, row.text) == (written.facts["sha256"], written.text)
            np.testing.assert_array_equal(row.image, imageio.read_map(written.image))
            assert list(row.maps) == list(CONDITIONS)
            for condition, pixels in row.maps.items():
                np.testing.assert_array_equal(pixels, imageio.read_map(written.maps[condition]))


@each_format
def test_several_captions_come_back_in_order(layout, tmp_path):
    rows = with_more_captions(make_rows(6))
    ours = open_dataset(write_dataset(tmp_path / "d", layout, rows, many_captions=True))
    for name in ours.splits:
        split = ours.split(name)
        assert [split.row(n) for n in range(len(split))] == of_split(rows, name)


@pytest.mark.parametrize("suffix", SUFFIXES)
@each_format
def test_picture_files_keep_their_ending_and_their_bytes(layout, suffix, tmp_path):
    if layout == "simpletuner" and suffix != ".png":
        with pytest.raises(ConfigError, match=r"must be \.png"):
            get_format(layout, CONDITIONS, image_suffix=suffix)
        return
    rows = make_rows(3, validation=0, image_suffix=suffix)
    dataset = write_dataset(tmp_path / "d", layout, rows, image_suffix=suffix)
    split = open_dataset(dataset).split("train")
    assert [split.row(n) for n in range(3)] == rows
    wanted = imageio.decode(rows[2].image).image
    np.testing.assert_array_equal(split[2].image, wanted)


@each_format
def test_writing_the_same_rows_twice_gives_the_same_bytes(layout, rows, tmp_path):
    first = write_dataset(tmp_path / "a", layout, rows, data=DATA)
    second = write_dataset(tmp_path / "b", layout, rows, data=DATA)
    assert files_of(first) == files_of(second)


@each_format
def test_one_row_is_a_dataset(layout, tmp_path):
    rows = [make_row(0, "")]
    ours = open_dataset(write_dataset(tmp_path / "d", layout, rows))
    assert ours.splits == ("train",)
    assert ours.split("train").row(0) == rows[0]
    with pytest.raises(UnknownNameError, match="validation"):
        ours.split("validation")


@each_format
def test_indices_over_9999_and_over_a_million_name_files_and_keep_their_order(layout, tmp_path):
    indices = (0, 9_999, 10_000, 10_001, 999_999, 1_000_000)
    rows = [make_row(index, f"caption {index}") for index in indices]
    dataset = write_dataset(tmp_path / "d", layout, rows, shard_size=500_000)
    split = open_dataset(dataset).split("train")
    assert split.indices() == indices
    assert [split.row(n) for n in range(len(split))] == rows


@each_format
def test_rows_can_be_asked_for_in_any_way(layout, rows, tmp_path):
    split = open_dataset(write_dataset(tmp_path / "d", layout, rows, data=DATA)).split("train")
    everything = list(split)
    assert split[-1].key == everything[-1].key
    assert [row.key for row in split[1:3]] == [row.key for row in everything[1:3]]
    for index in (len(split), -len(split) - 1):
        with pytest.raises(IndexError):
            split[index]
    for index in (len(split), -1):
        with pytest.raises(IndexError):
            split.row(index)


def test_a_split_can_be_read_by_threads_and_sent_to_processes(dataset):
    split = open_dataset(dataset).split("train")
    keys = split.keys()
    copy = pickle.loads(pickle.dumps(split))
    assert copy[1].key == keys[1]
    assert copy.row(1) == split.row(1)
    order = [n % len(split) for n in range(40)]
    with ThreadPoolExecutor(4) as pool:
        assert [row.key for row in pool.map(split.__getitem__, order)] == [keys[n] for n in order]
        whole = pool.map(split.row, order)
        assert [row.facts["sha256"] for row in whole] == [keys[n] for n in order]


def test_keys_are_unique_over_all_splits(dataset, rows):
    ours = open_dataset(dataset)
    keys = [key for split in ours.splits for key in ours.split(split).keys()]  # noqa: SIM118
    assert len(keys) == len(set(keys)) == len(rows)


@each_format
def test_the_columns_say_what_the_rows_hold(layout):
    columns = get_format(layout, CONDITIONS, DATA, many_captions=True).columns
    names = list(columns.names)
    assert names[:4] == ["image", "text", *CONDITIONS]
    assert names[4:7] == ["captions", "canny_json", "canny_labels"]
    assert names[7:] == list(FACT_COLUMNS)


def test_the_format_follows_from_the_manifest(dataset):
    manifest = json.loads((dataset / "manifest.json").read_text("utf-8"))
    layout = format_of(manifest)
    assert layout.name == manifest["format"]
    assert list(layout.columns.names) == manifest["columns"]
    older = {k: v for k, v in manifest.items() if k not in ("many_captions", "image_suffix")}
    assert format_of(older).columns == layout.columns
    del manifest["data"]
    with pytest.raises(DatasetError, match="manifest is broken"):
        format_of(manifest)


@each_format
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"maps": {}}, "columns"),
        ({"captions": ("a", "b"), "text": "a"}, "captions"),
        ({"captions": ("b",), "text": "a"}, "captions"),
        ({"image_suffix": ".jpg"}, ".jpg picture"),
        ({"facts": {"source": "a"}}, "facts"),
        ({"text": "\ud800", "captions": ()}, "not Unicode"),
    ],
)
def test_a_row_that_would_lose_something_is_refused(layout, change, named, tmp_path):
    row = dataclasses.replace(make_row(3, "a"), **change)
    writer = get_format(layout, CONDITIONS).shard_writer(tmp_path, 0, 1)
    with pytest.raises(DatasetError, match=f"row 3 does not fit.*{named}"):
        writer.write(row)


def test_an_unknown_format_is_named_with_a_suggestion():
    with pytest.raises(UnknownNameError, match="did you mean 'parquet'"):
        get_format("parqet", ())


@pytest.mark.parametrize("name", ["image", "images", "text", "captions", *FACT_COLUMNS])
def test_a_condition_cannot_have_the_name_of_another_column(name):
    with pytest.raises(ConfigError, match=f"'{name}'"):
        get_format("parquet", ("canny", name))


def test_an_ending_that_no_picture_has_is_refused():
    with pytest.raises(ConfigError, match=r"image_suffix: expected one of .png"):
        get_format("parquet", ("canny",), image_suffix=".bmp")


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


@pytest.mark.parametrize("layout", ["parquet", "webdataset"])
def test_a_missing_shard_is_an_error(layout, rows, tmp_path):
    dataset = write_dataset(tmp_path / "d", layout, rows, data=DATA)
    next((dataset / "data").glob("train-*")).unlink()
    with pytest.raises(DatasetError, match="its manifest says"):
        open_dataset(dataset).split("train")


@pytest.mark.parametrize("layout", ["parquet", "webdataset"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_cut_shard_is_an_error_that_names_it(layout, kept, rows, tmp_path):
    dataset = write_dataset(tmp_path / "d", layout, rows, data=DATA)
    shard = sorted((dataset / "data").glob("train-*"))[-1]
    content = shard.read_bytes()
    shard.write_bytes(content[: int(kept * len(content.rstrip(b"\0")))])
    with pytest.raises(DatasetError, match=shard.name):
        list(open_dataset(dataset).split("train"))


@pytest.mark.parametrize("layout", FOLDERS)
def test_a_broken_or_missing_picture_is_an_error_that_names_it(layout, rows, tmp_path):
    dataset = write_dataset(tmp_path / "d", layout, rows, data=DATA)
    picture = dataset / "train/canny/000002.png"
    picture.write_bytes(picture.read_bytes()[:60])
    split = open_dataset(dataset).split("train")
    with pytest.raises(DatasetError, match=r"row \w+ of split 'train'"):
        list(split)
    picture.unlink()
    with pytest.raises(DatasetError, match=r"000002\.png"):
        list(split)
    with pytest.raises(DatasetError, match=r"000002\.png"):
        [split.row(n) for n in range(len(split))]


@pytest.mark.parametrize("layout", FOLDERS)
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "metadata"),
        (b'{"text": 1}\n' * 9, "lacks"),
        (b"{\n" * 9, "line 1"),
        (b"3\n" * 9, "line"),
    ],
)
def test_a_broken_table_is_an_error_that_names_it(layout, content, named, rows, tmp_path):
    dataset = write_dataset(tmp_path / "d", layout, rows, data=DATA)
    (dataset / "train/metadata.jsonl").write_bytes(content)
    with pytest.raises(DatasetError, match=named):
        list(open_dataset(dataset).split("train"))


def test_parquet_row_groups_are_small_and_pictures_are_not_compressed(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 2)
    rows = with_more_captions(make_rows(8, validation=0, data=DATA))
    dataset = write_dataset(
        tmp_path / "d", "parquet", rows, data=DATA, many_captions=True, shard_size=5
    )
    files = sorted((dataset / "data").iterdir())
    assert [f.name for f in files] == [f"train-0000{n}-of-00002.parquet" for n in range(2)]
    footer = pq.read_metadata(files[0])
    assert [footer.row_group(i).num_rows for i in range(footer.num_row_groups)] == [2, 2, 1]
    group = footer.row_group(0)
    codecs = {}
    for i in range(group.num_columns):
        codecs[group.column(i).path_in_schema] = group.column(i).compression
    for name in ("image", "canny", "softedge", "canny_labels"):
        assert codecs[f"{name}.bytes"] == "UNCOMPRESSED"
    assert codecs["text"] == codecs["canny_json"] == codecs["captions.list.element"] == "ZSTD"
    monkeypatch.setattr(parquet_reader, "CACHE_BYTES", 1)
    monkeypatch.setattr(parquet_reader, "COPY_BYTES", 1)
    split = open_dataset(dataset).split("train")
    assert [split.row(n) for n in reversed(range(8))] == rows[::-1]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux to count open files")
@each_format
def test_reading_many_shards_keeps_few_files_open(layout, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_reader, "OPEN_FILES", 3)
    rows = make_rows(40, validation=0)
    split = open_dataset(write_dataset(tmp_path / "d", layout, rows, shard_size=1)).split("train")
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert len([row.key for row in split]) == 40
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 3
    assert [split.row(n).index for n in (0, 39, 0, 20)] == [0, 39, 0, 20]


@pytest.mark.parametrize("layout", ["parquet", "webdataset", "imagefolder"])
def test_shards_from_the_hundred_thousandth_on_keep_their_order(layout, tmp_path):
    rows = [make_row(index, f"caption {index}") for index in (99_999, 100_000, 100_001)]
    writer_of = get_format(layout, CONDITIONS).shard_writer
    for row in rows:
        writer = writer_of(tmp_path, row.index, 100_002)
        writer.write(row)
        writer.close()
    layout = get_format(layout, CONDITIONS)
    layout.finish(tmp_path, ("train",))
    assert list(layout.reader(tmp_path, "train", {}).indices()) == [row.index for row in rows]


def test_parquet_row_groups_end_before_100_megabytes(tmp_path):
    import pyarrow.parquet as pq

    row = make_row(0, "big")
    noise = np.random.default_rng(0).bytes(6 << 20)
    rows = [dataclasses.replace(row, index=n, image=noise) for n in range(8)]
    file = tmp_path / "data/train-00000-of-00001.parquet"
    writer = get_format("parquet", CONDITIONS).shard_writer(tmp_path, 0, 1)
    for each in rows:
        writer.write(each)
    writer.close()
    footer = pq.read_metadata(file)
    sizes = [footer.row_group(i).total_byte_size for i in range(footer.num_row_groups)]
    assert len(sizes) == 3
    assert max(sizes) < 100e6


@pytest.mark.parametrize("layout", FOLDERS)
def test_lines_of_the_table_have_the_keys_in_the_order_that_trainers_expect(layout, rows, tmp_path):
    dataset = write_dataset(tmp_path / "d", layout, rows, data=DATA)
    text = (dataset / "train/metadata.jsonl").read_bytes().decode("ascii")
    for line in text.splitlines():
        values = json.loads(line)
        keys = ["file_name", "text", "canny_file_name", "softedge_file_name"]
        assert list(values)[:4] == keys
        assert all((dataset / "train" / values[key]).is_file() for key in keys if key != "text")
    listed = len(text.splitlines())
    for folder in ("images", "canny", "softedge", "canny_labels"):
        assert len(list((dataset / "train" / folder).glob("*.png"))) == listed


@pytest.mark.parametrize("layout", FOLDERS)
@pytest.mark.parametrize("many", [False, True])
def test_texts_that_are_all_dates_have_a_table_with_types(layout, many, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        make_row(n, "2023-01-02" if many else "a cat", source="2023-01-03", captions=("x",) * many)
        for n in range(3)
    ]
    if many:
        rows = [dataclasses.replace(row, captions=("2023-01-02", "2024-01-01")) for row in rows]
    dataset = write_dataset(tmp_path / "d", layout, rows, many_captions=many)
    assert not (dataset / "train/metadata.jsonl").exists()
    schema = pq.read_schema(dataset / "train/metadata.parquet")
    assert schema.field("source").type == schema.field("text").type == pa.string()
    split = open_dataset(dataset).split("train")
    assert [split.row(n) for n in range(3)] == rows
    assert split.keys() == tuple(row.facts["sha256"] for row in rows)
    assert pickle.loads(pickle.dumps(split)).row(2) == rows[2]


def test_dates_in_a_later_portion_are_seen_too(tmp_path, monkeypatch):
    """`datasets` guesses types anew for each 10 MB; the first portion here is plain text."""
    monkeypatch.setattr(tables, "_GUESSED_AT_ONCE", 1000)
    texts = ["a cat"] * 4 + ["2023-01-01"] * 4
    rows = [make_row(n, text) for n, text in enumerate(texts)]
    dataset = write_dataset(tmp_path / "d", "imagefolder", rows)
    assert (dataset / "train/metadata.parquet").is_file()
    assert [row.text for row in open_dataset(dataset).split("train")] == texts


def test_all_splits_have_tables_of_one_kind(tmp_path):
    """`datasets` refuses metadata files with different endings."""
    rows = [make_row(0, "a"), make_row(1, "2023-01-01", split="validation")]
    dataset = write_dataset(tmp_path / "d", "tree", rows)
    assert sorted(path.name for path in dataset.glob("*/metadata.*")) == ["metadata.parquet"] * 2
    assert [row.text for row in open_dataset(dataset).split("validation")] == ["2023-01-01"]


def test_tar_members_hold_no_time_and_no_owner_and_stand_row_by_row(rows, tmp_path):
    dataset = write_dataset(tmp_path / "d", "webdataset", rows, data=DATA)
    names = sorted(path.name for path in (dataset / "data").iterdir())
    assert names[:3] == [f"train-0000{n}.tar" for n in range(3)]
    suffixes = ["png", "txt", "json", "canny.png", "softedge.png"]
    suffixes += ["canny_json.txt", "canny_labels.png"]
    for path in (dataset / "data").iterdir():
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        for member in members:
            assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
            assert (member.uname, member.gname) == ("", "")
        parts = [member.name.partition(".") for member in members]
        keys = list(dict.fromkeys(key for key, _, _ in parts))
        assert [(k, s) for k, _, s in parts] == [(k, s) for k in keys for s in suffixes]


def test_a_condition_that_needs_a_long_member_name_is_refused_for_tars():
    for name in ("c" * 90, "kanten_ü"):
        with pytest.raises(ConfigError, match="member name"):
            get_format("webdataset", (name,))


def test_kohya_captions_are_one_line_and_never_an_empty_file(tmp_path):
    texts = {0: "", 1: "  a cat \n\n in a hat\r\n", 2: "\u2028one\u2028two", 3: "猫, \tmät"}
    rows = [make_row(index, text) for index, text in texts.items()]
    for layout in ("kohya", "tree"):
        dataset = write_dataset(tmp_path / layout, layout, rows)
        found = [(dataset / f"train/images/00000{n}.txt").read_text("utf-8") for n in range(4)]
        assert found == ["\n", "a cat in a hat\n", "one two\n", "猫, \tmät\n"]
        assert [row.text for row in open_dataset(dataset).split("train")] == list(texts.values())


def test_simpletuner_captions_are_one_per_line(tmp_path):
    rows = [make_row(0, "a\nb", captions=("a\nb", "", "c")), make_row(1, "")]
    dataset = write_dataset(tmp_path / "d", "simpletuner", rows, many_captions=True)
    assert (dataset / "train/images/000000.txt").read_text("utf-8") == "a b\nc"
    assert (dataset / "train/images/000001.txt").read_bytes() == b""


@pytest.mark.parametrize("data", [(), (DataColumn("canny", ".labels.png"),)])
@each_format
def test_files_of_a_dataset_lie_only_where_a_build_may_put_them(layout, data, tmp_path):
    from condkit.datasets.workspace import PRODUCTS

    dataset = write_dataset(tmp_path / "d", layout, make_rows(4, data=data), data=data)
    assert {path.name for path in dataset.iterdir()} <= {*PRODUCTS, ".condkit"}
