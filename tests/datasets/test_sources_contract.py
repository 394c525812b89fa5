"""What every kind of source promises, on the same six pictures, captions and maps."""

from __future__ import annotations

import hashlib
import json
import runpy
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from condkit.datasets.sources.base import SourceEntry, SourceSample
from condkit.datasets.sources.opening import SOURCE_KINDS, open_source
from condkit.errors import ConfigError
from condkit.types import Rejection

WRITERS = runpy.run_path(str(Path(__file__).with_name("source_writers.py")))
SOURCES = WRITERS["SOURCES"]
SAMPLES = WRITERS["samples"]


def open_as(name: str, place: Path, root: Path, **changes: Any):
    known = SOURCES[name]
    options = {
        "maps": {key: value.format(root=root) for key, value in known.maps.items()},
        **(known.options or {}),
        **changes,
    }
    return open_source(place, **options)


def image_bytes(sample: SourceSample) -> bytes:
    return sample.image if isinstance(sample.image, bytes) else sample.image.read_bytes()


def caption_of(name: str, sample: SourceSample) -> str:
    field = SOURCES[name].field
    if field is not None:
        return sample.file.fields[field]
    (beside,) = [other for other in sample.file.beside if not other.endswith((".png", ".jpg"))]
    return (sample.file.path.parent / beside).read_text(encoding="utf-8")


def contents(name: str, source) -> dict[bytes, tuple[str, bytes | None]]:
    found = [source.read(entry) for entry in source.scan()]
    return {image_bytes(s): (caption_of(name, s), s.maps.get("canny")) for s in found}


def tree(root: Path) -> dict[str, tuple[int, str]]:
    return {
        str(path.relative_to(root)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sorted(root.rglob("*"))
    }


@pytest.fixture(params=SOURCES, scope="module")
def written(request, tmp_path_factory) -> tuple[str, Path, Path]:
    root = tmp_path_factory.mktemp("source")
    return request.param, SOURCES[request.param].write(root, SAMPLES()), root


@pytest.fixture
def source(written):
    name, place, root = written
    return open_as(name, place, root)


def test_every_kind_is_covered():
    assert {known.kind for known in SOURCES.values()} == set(SOURCE_KINDS)


def test_the_kind_is_found_by_itself(written, source):
    assert source.kind == SOURCES[written[0]].kind


def test_the_same_pictures_captions_and_maps_come_out(written, source):
    expected = {sample.image: (sample.caption, sample.canny) for sample in SAMPLES()}
    assert contents(written[0], source) == expected


def test_scanning_again_finds_the_same(source):
    assert list(source.scan()) == list(source.scan())


def test_names_are_unique_relative_and_readable(source):
    names = [entry.relative for entry in source.scan()]
    assert len(set(names)) == len(names) == len(SAMPLES())
    for name in names:
        assert not name.startswith("/")
        assert not {"", ".", ".."} & set(name.split("/"))
        assert "\\" not in name
        name.encode("utf-8")


def test_a_sample_s_file_is_the_one_that_file_gives(source):
    for entry in source.scan():
        known = source.file(entry)
        assert known == source.read(entry).file
        assert known.relative == entry.relative
        json.dumps(dict(known.fields), allow_nan=False)


def test_maps_that_are_not_asked_for_are_not_given(written):
    name, place, root = written
    source = open_as(name, place, root, maps={})
    assert source.given == ()
    assert all(source.read(entry).maps == {} for entry in source.scan())


def test_given_are_the_maps_asked_for(source):
    assert source.given == ("canny",)


def test_many_threads_read_what_one_reads(source):
    entries = list(source.scan())
    expected = [source.read(entry) for entry in entries]
    mixed = [entries[i * 5 % len(entries)] for i in range(6 * len(entries))]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(source.read, mixed))
    by_name = {sample.file.relative: sample for sample in expected}
    assert found == [by_name[entry.relative] for entry in mixed]


def test_entries_kept_as_text_are_read_by_a_source_opened_anew(written, source):
    name, place, root = written
    kept = [(entry.relative, entry.stamp, entry.where) for entry in source.scan()]
    kept = json.loads(json.dumps(kept))
    again = open_as(name, place, root)
    for relative, stamp, where in reversed(kept):
        entry = SourceEntry(relative=relative, stamp=stamp, where=where)
        assert again.read(entry) == source.read(entry)


def test_nothing_in_the_source_changes(written):
    name, place, root = written
    before = tree(root)
    contents(name, open_as(name, place, root))
    assert tree(root) == before


def test_what_decides_it_says_no_place_and_is_the_same_elsewhere(written, source, tmp_path):
    name, place, root = written
    values = source.as_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["kind"] == source.kind
    assert str(root) not in json.dumps(values)
    shutil.copytree(root, tmp_path / "moved")
    moved = open_as(name, tmp_path / "moved" / place.relative_to(root), tmp_path / "moved")
    assert moved.as_dict() == values
    names = [entry.relative for entry in source.scan()]
    assert [entry.relative for entry in moved.scan()] == names


def test_another_picture_has_another_stamp(written, source, tmp_path):
    name, _, _ = written
    place = SOURCES[name].write(tmp_path, SAMPLES(first_red=11))
    old = {entry.relative: entry.stamp for entry in source.scan()}
    new = {entry.relative: entry.stamp for entry in open_as(name, place, tmp_path).scan()}
    assert set(old) == set(new)
    assert all(old[relative] != new[relative] for relative in old)


def test_nothing_is_rejected_or_left_out_unsaid(written, source):
    assert not [found for found in source.scan() if isinstance(found, Rejection)]
    allowed = {"text file", "not an image"}
    assert set(source.left_out) <= allowed


def test_a_map_that_is_nowhere_is_an_error(written):
    name, place, root = written
    with pytest.raises(ConfigError, match="maps"):
        list(open_as(name, place, root, maps={"depth": "nowhere"}).scan())
