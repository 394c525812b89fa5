"""Tars as sources: what is one sample, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import runpy
import tarfile
import tracemalloc
from pathlib import Path

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from condkit.datasets.sources.opening import open_source
from condkit.datasets.sources.tar_places import expand_braces, find_tars
from condkit.errors import ConfigError, DatasetError
from condkit.types import Rejection

WRITERS = runpy.run_path(str(Path(__file__).with_name("source_writers.py")))
write_tar = WRITERS["write_tar"]
many_tars = WRITERS["many_tars"]
samples = WRITERS["samples"]


def split(source) -> tuple[list, list[Rejection]]:
    everything = list(source.scan())
    rejections = [item for item in everything if isinstance(item, Rejection)]
    return [item for item in everything if item not in rejections], rejections


def names(source) -> list[str]:
    return [entry.relative for entry in split(source)[0]]


def test_a_sample_is_what_shares_the_name_up_to_its_first_dot(tmp_path):
    members = [
        ("d.ir/a.jpg", b"1"),
        ("d.ir/a.canny.png", b"2"),
        ("d.ir/a.v1.txt", b"x"),
        ("d.ir/b.JPG", b"3"),
        ("./c.png", b"4"),
    ]
    source = open_source(write_tar(tmp_path / "t.tar", members), maps={"canny": "canny.png"})
    entries, _ = split(source)
    assert names(source) == ["t/d.ir/a.jpg", "t/d.ir/b.jpg", "t/c.png"]
    first = source.read(entries[0])
    assert (first.image, first.maps, first.file.fields) == (b"1", {"canny": b"2"}, {"v1.txt": "x"})


KEYS = st.lists(
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="./\\"), min_size=1)
    .filter(lambda key: key.lower() not in {"lost+found", "@eadir", "__macosx", "$recycle"})
    .map(lambda key: key[:60]),
    min_size=1,
    max_size=8,
    unique=True,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(keys=KEYS, captions=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=8))
def test_any_key_and_caption_come_through(keys, captions, tmp_path_factory):
    members = []
    for key, caption in zip(keys, captions, strict=False):
        members += [(f"{key}.png", key.encode()), (f"{key}.txt", caption.encode())]
    path = write_tar(tmp_path_factory.mktemp("tar") / "t.tar", members)
    source = open_source(path)
    found = {e.relative: source.read(e) for e in source.scan()}
    assert {name: (s.image.decode(), s.file.fields["txt"]) for name, s in found.items()} == {
        f"t/{key}.png": (key, caption.removeprefix("\ufeff"))
        for key, caption in zip(keys, captions, strict=False)
    }


def test_json_gives_fields_but_never_in_place_of_a_text(tmp_path):
    values = json.dumps({"txt": "other", "width": 5, "tags": ["a"]})
    members = [("a.jpg", b"1"), ("a.txt", b"caption"), ("a.json", values.encode())]
    source = open_source(write_tar(tmp_path / "t.tar", members))
    (entry,) = source.scan()
    expected = {"txt": "caption", "width": 5, "tags": ["a"], "json": values}
    assert source.file(entry).fields == expected


def test_members_that_lie_apart_are_an_error_that_names_the_key(tmp_path):
    members = [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.txt", b"x")]
    source = open_source(write_tar(tmp_path / "t.tar", members))
    with pytest.raises(DatasetError, match="sample a lie apart"):
        list(source.scan())


def test_a_key_in_two_tars_is_two_samples(tmp_path):
    for name in ("0", "1"):
        write_tar(tmp_path / "t" / f"{name}.tar", [("a.jpg", name.encode())])
    assert names(open_source(tmp_path / "t")) == ["0/a.jpg", "1/a.jpg"]


def test_samples_without_one_picture_are_rejected_and_the_others_stay(tmp_path):
    members = [("a.txt", b"x"), ("b.jpg", b"1"), ("b.png", b"2"), ("c.jpg", b"3")]
    path = write_tar(tmp_path / "t.tar", members)
    entries, rejections = split(open_source(path))
    assert [entry.relative for entry in entries] == ["t/c.jpg"]
    assert [rejection.source for rejection in rejections] == ["t/a", "t/b"]
    assert "several pictures (jpg, png)" in rejections[1].reason
    assert names(open_source(path, image_column="jpg")) == ["t/b.jpg", "t/c.jpg"]


def test_texts_that_cannot_be_read_are_rejected(tmp_path):
    members = [("a.jpg", b"1"), ("a.txt", b"caf\xe9"), ("b.jpg", b"2"), ("b.json", b"{")]
    _, rejections = split(open_source(write_tar(tmp_path / "t.tar", members)))
    assert [(r.source, r.stage) for r in rejections] == [("t/a", "caption"), ("t/b", "caption")]
    assert "not UTF-8 (byte 3)" in rejections[0].reason


def test_a_name_that_leads_out_is_only_a_name(tmp_path):
    members = [("../../a.jpg", b"1"), ("/etc/b.jpg", b"2")]
    source = open_source(write_tar(tmp_path / "in" / "t.tar", members))
    assert names(source) == ["t/a.jpg", "t/etc/b.jpg"]
    assert [source.read(entry).image for entry in source.scan()] == [b"1", b"2"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in", "t.tar"]


def test_links_hidden_and_system_members_are_left_out_and_counted(tmp_path):
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("a.jpg", "._a.jpg", "__MACOSX/a.jpg", "README"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"1"))
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    source = open_source(path)
    assert names(source) == ["t/a.jpg"]
    assert source.left_out == {"hidden": 1, "link": 1, "system": 1, "without an ending": 1}


def test_long_and_unicode_names_come_through(tmp_path):
    key = "ü" * 100 + "/" + "k" * 200
    assert names(open_source(write_tar(tmp_path / "t.tar", [(f"{key}.jpg", b"1")]))) == [
        f"t/{key}.jpg"
    ]


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.8])
def test_a_tar_that_was_cut_off_is_an_error_that_names_it(kept, tmp_path):
    path = write_tar(tmp_path / "t.tar", [(f"{i:03d}.jpg", bytes([1]) * 700) for i in range(30)])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(DatasetError, match=r"t\.tar is broken or was cut off"):
        list(open_source(path).scan())


def test_a_tar_cut_off_between_two_members_is_an_error_too(tmp_path):
    path = write_tar(tmp_path / "t.tar", [(f"{i:03d}.jpg", bytes(512)) for i in range(30)])
    path.write_bytes(path.read_bytes()[: 10 * 1024])
    with pytest.raises(DatasetError, match="end mark is missing"):
        list(open_source(path).scan())


def test_tars_joined_byte_by_byte_are_an_error_and_no_silent_loss(tmp_path):
    one = write_tar(tmp_path / "1.tar", [("a.jpg", b"1")]).read_bytes()
    two = write_tar(tmp_path / "2.tar", [("b.jpg", b"2")]).read_bytes()
    (tmp_path / "t.tar").write_bytes(one + two)
    with pytest.raises(DatasetError, match="goes on behind its end mark"):
        list(open_source(tmp_path / "t.tar").scan())


def test_an_empty_file_is_no_tar(tmp_path):
    (tmp_path / "t.tar").write_bytes(b"")
    with pytest.raises(DatasetError, match="empty"):
        list(open_source(tmp_path / "t.tar").scan())


@pytest.mark.parametrize("name", ["t.tar.gz", "t.tgz", "t.tar"])
def test_a_compressed_tar_is_refused_with_what_to_do(name, tmp_path):
    data = write_tar(tmp_path / "plain", [("a.jpg", b"1")]).read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(data))
    with pytest.raises(DatasetError, match=r"gzip.*decompress it first"):
        list(open_source(tmp_path / name).scan())


def test_a_tar_that_changed_since_the_scan_is_noticed(tmp_path):
    path = write_tar(tmp_path / "t.tar", [("a.jpg", b"1")])
    source = open_source(path)
    (entry,) = source.scan()
    write_tar(path, [("b.txt", b"x"), ("a.jpg", b"1" * 20_000)])
    with pytest.raises(DatasetError, match="has changed"):
        source.read(entry)


def test_a_map_that_no_sample_has_is_an_error_with_the_endings_there_are(tmp_path):
    path = write_tar(tmp_path / "t.tar", [("a.jpg", b"1"), ("a.depth.png", b"2")])
    with pytest.raises(ConfigError, match=r"endings there are: depth\.png, jpg"):
        list(open_source(path, maps={"canny": "canny.png"}).scan())


def test_a_pattern_with_braces_names_its_tars(tmp_path):
    many_tars(tmp_path, samples())
    source = open_source(f"{tmp_path}/shards/{{00000..00001}}.tar")
    assert {name.partition("/")[0] for name in names(source)} == {"00000", "00001"}


def test_a_pattern_with_a_missing_tar_is_an_error_that_names_it(tmp_path):
    many_tars(tmp_path, samples())
    with pytest.raises(ConfigError, match=r"1 of 4 tars are not there.*00003\.tar"):
        open_source(f"{tmp_path}/shards/{{00000..00003}}.tar")


def test_braces_count_and_list():
    assert expand_braces("{08..10}-{a,b}.tar") == [
        *("08-a.tar", "08-b.tar", "09-a.tar", "09-b.tar", "10-a.tar", "10-b.tar")
    ]
    with pytest.raises(ConfigError, match="expected a range"):
        expand_braces("{3..1}.tar")


def test_tars_in_folders_keep_the_folders_in_their_names(tmp_path):
    for name in ("train/0.tar", "val/0.tar"):
        write_tar(tmp_path / name, [("a.jpg", b"1")])
    assert [tar.name for tar in find_tars(str(tmp_path))] == ["train/0", "val/0"]


def test_the_library_datasets_sees_the_same_samples(tmp_path):
    folder = tmp_path / "shards"
    for shard in range(2):
        members = [(f"x/{i}.{end}", b"{}") for i in range(4) for end in ("jpg", "json", "b.png")]
        write_tar(folder / f"{shard}.tar", members)
    pattern = {"train": str(folder / "*.tar")}
    peer = datasets.load_dataset("webdataset", data_files=pattern, split="train", streaming=True)
    peer = peer.cast_column("jpg", datasets.Image(decode=False))
    peer = peer.cast_column("b.png", datasets.Image(decode=False))
    peer_keys = [f"{Path(row['__url__']).stem}/{row['__key__']}.jpg" for row in peer]
    assert names(open_source(folder)) == peer_keys


def test_memory_does_not_grow_with_the_members(tmp_path):
    def peak(count: int) -> int:
        members = [(f"{i:06d}.jpg", b"1") for i in range(count)]
        source = open_source(write_tar(tmp_path / f"{count}.tar", members))
        tracemalloc.start()
        try:
            assert sum(1 for _ in source.scan()) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(3_000) < peak(300) + 200_000
