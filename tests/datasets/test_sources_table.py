"""Tables as sources: values stay what they are, rows that name no picture are rejected."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from condkit.datasets.sources.csv_rows import CsvRows
from condkit.datasets.sources.fields import json_fields
from condkit.datasets.sources.json_rows import CHUNK_BYTES, JsonRows
from condkit.datasets.sources.naming import UniqueNames
from condkit.datasets.sources.opening import open_source
from condkit.errors import ConfigError, DatasetError
from condkit.types import Rejection


@pytest.fixture
def root(tmp_path) -> Path:
    for name in ("a.png", "b.png", "x/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def split(source) -> tuple[list, list[Rejection]]:
    everything = list(source.scan())
    rejections = [item for item in everything if isinstance(item, Rejection)]
    return [item for item in everything if item not in rejections], rejections


def fields(source, column: str = "text") -> list:
    return [source.file(entry).fields[column] for entry in split(source)[0]]


TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
    | st.sampled_from(["None", "007", "2023-01-01", "", "NA", 'a,"b"\n', "\r\n", " x ", "1e5"]),
    min_size=1,
    max_size=8,
)
TABLES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


@TABLES
@given(texts=TEXTS, delimiter=st.sampled_from([",", ";", "\t"]))
def test_csv_values_stay_the_text_they_are(texts, delimiter, tmp_path_factory):
    path = tmp_path_factory.mktemp("csv") / "list.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["image", "text"])
        writer.writerows(["a.png", text] for text in texts)
    rows = CsvRows(path)
    scanned = list(rows.scan())
    assert [row.values["text"] for row in scanned] == texts
    assert [rows.read(row.where)["text"] for row in reversed(scanned)] == texts[::-1]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=6,
)


@TABLES
@given(values=st.lists(VALUES, min_size=1, max_size=8), indent=st.sampled_from([None, 1]))
def test_json_values_stay_what_they_are(values, indent, tmp_path_factory):
    folder = tmp_path_factory.mktemp("json")
    records = [{"image": "a.png", "text": value} for value in values]
    lines = write(folder / "l.jsonl", "\n\n".join(map(json.dumps, records)))
    whole = write(folder / "l.json", json.dumps(records, indent=indent, ensure_ascii=False))
    for path in (lines, whole):
        rows = JsonRows(path)
        scanned = list(rows.scan())
        assert [row.values for row in scanned] == records
        assert [rows.read(row.where) for row in reversed(scanned)] == records[::-1]


def test_rows_longer_than_a_piece_of_the_file_come_whole(root):
    texts = ["ü" * (CHUNK_BYTES + 1), "short", "x" * (5 * CHUNK_BYTES)]
    records = [{"image": "a.png", "text": text} for text in texts]
    source = open_source(write(root / "l.json", json.dumps(records, ensure_ascii=False)))
    assert fields(source) == texts


def test_quoted_line_ends_do_not_end_a_row(root):
    source = open_source(write(root / "l.csv", 'path,text\r\na.png,"one\ntwo"\r\nb.png,"x\r\ny"'))
    assert fields(source) == ["one\ntwo", "x\r\ny"]


def test_a_byte_order_mark_is_no_part_of_a_column(root):
    source = open_source(write(root / "l.csv", "file,text\na.png,x\n", "utf-8-sig"))
    assert fields(source) == ["x"]


def test_a_table_in_utf16_is_refused_with_what_to_do(root):
    with pytest.raises(DatasetError, match="UTF-16; save it as UTF-8"):
        open_source(write(root / "l.csv", "file,text\na.png,x\n", "utf-16"))


def test_a_row_that_is_not_utf8_is_rejected_and_the_others_stay(root):
    path = root / "l.csv"
    path.write_bytes("file,text\na.png,café\nb.png,x\n".encode("latin-1"))
    entries, (rejection,) = split(open_source(path))
    assert [entry.relative for entry in entries] == ["b.png"]
    assert rejection.source == "l.csv, line 2"
    assert "not UTF-8" in rejection.reason


def test_a_row_with_too_many_values_is_rejected_with_its_line(root):
    path = write(root / "l.csv", "file,text\na.png,one, two\n\nb.png,x\n")
    entries, (rejection,) = split(open_source(path))
    assert [entry.relative for entry in entries] == ["b.png"]
    assert "line 2" in rejection.source
    assert "3 values" in rejection.reason


def test_a_quote_that_is_never_closed_is_an_error_with_its_line(root):
    path = write(root / "l.csv", 'file,text\na.png,x\nb.png,"open\na.png,y\n')
    with pytest.raises(DatasetError, match="line 3: a double quote opens"):
        split(open_source(path))


def test_a_line_that_was_cut_off_is_rejected_and_the_others_stay(root):
    path = write(root / "l.jsonl", '{"image": "a.png", "text": "x"}\n{"image": "b.png", "te')
    entries, (rejection,) = split(open_source(path))
    assert [entry.relative for entry in entries] == ["a.png"]
    assert (rejection.source, rejection.stage) == ("l.jsonl, line 2", "decode")


def test_a_list_that_was_cut_off_is_an_error(root):
    path = write(root / "l.json", '[{"image": "a.png"}, {"image": "b.png"')
    with pytest.raises(DatasetError, match="row 2"):
        split(open_source(path))
    path = write(root / "m.json", '[{"image": "a.png"},')
    with pytest.raises(DatasetError, match="middle of its list"):
        split(open_source(path))


def test_half_a_character_in_json_is_rejected(root):
    path = write(root / "l.jsonl", '{"image": "a.png", "text": "\\ud83d"}\n{"image": "b.png"}\n')
    entries, (rejection,) = split(open_source(path))
    assert [entry.relative for entry in entries] == ["b.png"]
    assert "half a character" in rejection.reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("gone.png", "cannot be read"),
        ("", "names no picture"),
        (None, "names no picture"),
        ("x", "is no file"),
        (3, "expected the path"),
        (["a.png"], "expected the path"),
        ("https://example.com/a.png", "img2dataset"),
        ("s3://bucket/a.png", "download the pictures first"),
        ("data:image/png;base64,AA==", "data: address"),
        ("file://elsewhere/a.png", "another machine"),
        ("a\0.png", "no valid text"),
    ],
)
def test_a_row_that_names_no_picture_here_is_rejected(value, reason, root):
    records = [{"image": value}, {"image": "a.png"}]
    path = write(root / "l.jsonl", "".join(json.dumps(r) + "\n" for r in records))
    entries, (rejection,) = split(open_source(path))
    assert [entry.relative for entry in entries] == ["a.png"]
    assert reason in rejection.reason
    assert "line 1" in rejection.source + rejection.reason
    assert str(root) not in rejection.reason


def test_paths_may_be_absolute_addresses_of_files_or_lead_out_of_the_folder(root):
    (root / "lists").mkdir()
    given = [
        f"{root}/a.png",
        f"file://{root}/b.png",
        "../x/c.png",
        "..\\x\\c.png",
        f"{root}/lists/../a.png",
    ]
    lines = "".join(json.dumps({"image": path}) + "\n" for path in given)
    entries, rejections = split(open_source(write(root / "lists" / "l.jsonl", lines)))
    inside = str(root).lstrip("/")
    assert rejections == []
    assert [entry.relative for entry in entries] == [
        f"{inside}/a.png",
        f"{inside}/b.png",
        "x/c.png",
        "x/c.png#2",
        f"{inside}/a.png#2",
    ]


def test_an_absolute_path_in_the_table_s_folder_is_named_below_it(root):
    entries, _ = split(open_source(write(root / "l.csv", f"file,text\n{root}/x/c.png,t\n")))
    assert [entry.relative for entry in entries] == ["x/c.png"]


def test_a_file_address_is_unescaped(root):
    (root / "b c.png").write_bytes(b"x")
    entries, _ = split(open_source(write(root / "l.csv", f"file\nfile://{root}/b%20c.png\n")))
    assert [entry.relative for entry in entries] == ["b c.png"]


def test_a_path_named_again_gets_a_number_even_beside_such_a_name(root):
    (root / "a.png#2").write_bytes(b"x")
    text = "file,text\na.png,1\na.png,2\na.png#2,3\na.png,4\n"
    entries, _ = split(open_source(write(root / "l.csv", text)))
    assert [e.relative for e in entries] == ["a.png", "a.png#2", "a.png#2#2", "a.png#3"]
    assert fields(open_source(root / "l.csv")) == ["1", "2", "3", "4"]


@given(st.lists(st.sampled_from(["a", "b", "a#2", "a#3", "b#2#2"]), max_size=30))
def test_numbered_names_are_always_unique(names):
    store = UniqueNames()
    given_names = [store.unique(name) for name in names]
    store.close()
    assert len(set(given_names)) == len(names)
    assert all(given.startswith(name) for given, name in zip(given_names, names, strict=True))


def test_a_picture_with_several_captions_has_them_as_a_list(root):
    path = write(root / "l.jsonl", '{"image": "a.png", "text": ["one", "two"]}\n')
    assert fields(open_source(path)) == [["one", "two"]]


@pytest.mark.parametrize("name", ["file_name", "Image", "image_path", "path", "filename", "jpg"])
def test_usual_names_of_the_picture_column_are_found(name, root):
    entries, _ = split(open_source(write(root / "l.csv", f"text,{name}\nx,a.png\n")))
    assert [entry.relative for entry in entries] == ["a.png"]


def test_an_unusual_column_has_to_be_named_and_the_error_lists_all(root):
    path = write(root / "l.csv", "bild,text\na.png,x\n")
    with pytest.raises(ConfigError, match="bild, text"):
        open_source(path)
    entries, _ = split(open_source(path, image_column="bild"))
    assert [entry.relative for entry in entries] == ["a.png"]
    with pytest.raises(ConfigError, match=r"no column 'photo'.*bild, text"):
        open_source(path, image_column="photo")


def test_a_missing_map_is_rejected_and_an_empty_one_left_to_be_made(root):
    text = "file,text,canny\na.png,x,b.png\nb.png,y,\nx/c.png,z,gone.png\n"
    source = open_source(write(root / "l.csv", text), maps={"canny": "canny"})
    entries, (rejection,) = split(source)
    assert [source.read(entry).maps for entry in entries] == [{"canny": b"b.png"}, {}]
    assert rejection.source == "x/c.png"
    assert "gone.png" in rejection.reason


def test_the_columns_of_pictures_and_maps_are_no_fields(root):
    text = "file,canny_file_name,text,id\na.png,b.png,x,007\n"
    source = open_source(write(root / "l.csv", text), maps={"canny": "canny"})
    (entry,) = source.scan()
    assert source.file(entry).fields == {"text": "x", "id": "007"}


def test_a_row_that_changed_since_the_scan_is_noticed(root):
    source = open_source(write(root / "l.csv", "file,text\na.png,one\n"))
    (entry,) = source.scan()
    write(root / "l.csv", "file,text\na.png,two\n")
    with pytest.raises(DatasetError, match="has changed"):
        source.file(entry)


def test_an_edited_caption_changes_the_stamp_of_its_row_alone(root):
    path = write(root / "l.csv", "file,text\na.png,one\nb.png,x\n")
    before = {e.relative: e.stamp for e in open_source(path).scan()}
    write(path, "file,text\na.png,another\nb.png,x\n")
    after = {e.relative: e.stamp for e in open_source(path).scan()}
    assert before["a.png"] != after["a.png"]
    assert before["b.png"] == after["b.png"]


@pytest.mark.parametrize("text", ["", "file,text\n"])
def test_a_table_without_rows_is_an_error(text, root):
    with pytest.raises((ConfigError, DatasetError), match=r"l\.csv"):
        list(open_source(write(root / "l.csv", text)).scan())


def test_json_that_is_no_table_is_an_error(root):
    with pytest.raises(DatasetError, match="expected a JSON object on each line"):
        open_source(write(root / "l.json", '"text"'), kind="table")


def test_two_columns_of_one_name_are_an_error(root):
    with pytest.raises(DatasetError, match="two columns"):
        open_source(write(root / "l.csv", "file,text,text\na.png,x,y\n"))


def test_two_tables_for_one_folder_are_an_error(root):
    write(root / "metadata.csv", "file_name\na.png\n")
    write(root / "metadata.jsonl", '{"file_name": "a.png"}')
    with pytest.raises(ConfigError, match=r"metadata\.csv and metadata\.jsonl"):
        open_source(root)


def test_a_split_of_a_folder_with_tables_is_taken_alone(tmp_path):
    root = tmp_path
    for name in ("train", "test"):
        (root / name).mkdir()
        (root / name / "a.png").write_bytes(b"x")
        write(root / name / "metadata.csv", f"file_name,text\na.png,{name}\n")
    assert fields(open_source(root)) == ["test", "train"]
    assert fields(open_source(root, split="train")) == ["train"]
    with pytest.raises(ConfigError, match="its splits are: test, train"):
        open_source(root, split="val")


def test_parquet_is_read_by_row_group_and_at_random(root):
    rows = [{"image": "a.png", "text": f"t{i}", "n": i} for i in range(5000)]
    pq.write_table(pa.Table.from_pylist(rows), root / "l.parquet", row_group_size=1700)
    source = open_source(root / "l.parquet")
    entries, _ = split(source)
    assert [source.file(entries[i]).fields["n"] for i in (4999, 0, 1700, 3)] == [4999, 0, 1700, 3]


def test_parquet_that_only_refers_to_pictures_reads_their_files(root):
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = {"image": [{"bytes": None, "path": "a.png"}, {"bytes": None, "path": "gone.png"}]}
    rows["text"] = ["x", "y"]
    table = datasets.Dataset.from_dict(rows, features=features).data.table
    pq.write_table(table, root / "l.parquet")
    source = open_source(root / "l.parquet")
    (entry,), (rejection,) = split(source)
    assert source.read(entry).image == root / "a.png"
    assert rejection.source == "gone.png"


def test_a_picture_inside_a_table_is_not_called_by_the_folders_of_another_machine(root):
    values = [
        {"image": {"bytes": b"1", "path": "/home/someone/photos/a.png"}},
        {"image": {"bytes": b"2", "path": "x/../../b.png"}},
        {"image": {"bytes": b"3", "path": "C:\\Users\\me\\c.png"}},
        {"image": {"bytes": b"4", "path": None}},
        {"image": {"bytes": b"5", "path": "x/d.png"}},
        {"image": None},
    ]
    pq.write_table(pa.Table.from_pylist(values), root / "l.parquet")
    entries, (rejection,) = split(open_source(root / "l.parquet"))
    names = [entry.relative for entry in entries]
    assert names == ["a.png", "b.png", "c.png", "000000003", "x/d.png"]
    assert rejection.source == "l.parquet, row 6"


def test_parquet_that_was_cut_off_is_an_error_that_names_it(root):
    pq.write_table(pa.table({"image": ["a.png"] * 100}), root / "l.parquet")
    data = (root / "l.parquet").read_bytes()
    (root / "l.parquet").write_bytes(data[:-20])
    with pytest.raises(DatasetError, match=r"l\.parquet"):
        open_source(root / "l.parquet")


def test_fields_are_what_json_holds():
    row = pa.table(
        {
            "day": pa.array([0], pa.date32()),
            "when": pa.array([0], pa.timestamp("s")),
            "price": pa.array([None], pa.decimal128(5, 2)),
            "raw": [b"x"],
            "vector": [list(range(2000))],
            "tags": [["a", "b"]],
            "nested": [{"a": 1, "b": b"x"}],
            "plain": [{"a": 1}],
        }
    ).to_pylist()[0]
    assert json_fields(row, without={"plain"}) == {
        "day": "1970-01-01",
        "when": "1970-01-01T00:00:00",
        "price": None,
        "tags": ["a", "b"],
    }
    assert json_fields(row)["plain"] == {"a": 1}


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "parquet"])
@pytest.mark.parametrize("rows", [5_000, pytest.param(50_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_rows(ending, rows, root):
    def peak(count: int) -> int:
        path = root / f"{count}.{ending}"
        _write_rows(path, count)
        source = open_source(path)
        tracemalloc.start()
        try:
            assert sum(1 for _ in source.scan()) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few = peak(rows // 10)
    assert peak(rows) < few + 300_000


def _write_rows(path: Path, count: int) -> None:
    records = [{"image": "a.png", "text": f"caption of row {i}, " * 3} for i in range(count)]
    if path.suffix == ".csv":
        stream = io.StringIO(newline="")
        writer = csv.DictWriter(stream, ["image", "text"])
        writer.writeheader()
        writer.writerows(records)
        write(path, stream.getvalue())
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path, row_group_size=500)
    elif path.suffix == ".json":
        write(path, json.dumps(records))
    else:
        write(path, "".join(json.dumps(record) + "\n" for record in records))


def test_a_large_row_group_is_read_without_holding_it(root):
    rows = [{"image": bytes([i % 256]) * 1_000_000, "n": i} for i in range(120)]
    path = root / "l.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, use_dictionary=False, compression="none")
    del rows
    assert pq.read_metadata(path).num_row_groups == 1
    source = open_source(path)
    entries, _ = split(source)
    held = pa.total_allocated_bytes()
    for i in [*range(0, 120, 7), 3]:
        sample = source.read(entries[i])
        assert (sample.image, sample.file.fields) == (bytes([i % 256]) * 1_000_000, {"n": i})
        assert pa.total_allocated_bytes() - held < 60_000_000


def test_pictures_beside_listed_ones_that_have_no_row_are_counted(root):
    write(root / "metadata.csv", "file_name,text\na.png,x\na.png,again\nx/c.png,y\n")
    (root / "x" / "d.jpg").write_bytes(b"x")
    (root / "other").mkdir()
    (root / "other" / "e.png").write_bytes(b"a map, or anything else")
    source = open_source(root)
    assert len(split(source)[0]) == 3
    assert source.left_out == {"picture without a row": 2}


def test_tables_in_some_folders_do_not_make_the_pictures_of_others_disappear(root):
    write(root / "x" / "metadata.csv", "file_name,text\nc.png,x\n")
    with pytest.raises(ConfigError, match=r"a\.png and others are in no table; name the kind"):
        open_source(root)
    assert len(split(open_source(root, kind="table"))[0]) == 1
    assert len(split(open_source(root, kind="folder"))[0]) == 3
