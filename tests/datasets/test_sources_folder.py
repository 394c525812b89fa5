"""Folders as sources: what is taken, what lies beside it, and which map is whose."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from condkit.datasets.sources.directories import sharing_stem
from condkit.datasets.sources.folder import FolderSource
from condkit.datasets.sources.map_folders import AmbiguousMapError, find_map
from condkit.datasets.sources.opening import open_source
from condkit.datasets.sources.walk import scan
from condkit.errors import ConfigError, DatasetError
from condkit.types import Rejection


def fill(root: Path, *names: str) -> Path:
    root.mkdir(exist_ok=True)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def found(source) -> tuple[list[str], list[Rejection]]:
    everything = list(source.scan())
    rejections = [item for item in everything if isinstance(item, Rejection)]
    return sorted(e.relative for e in everything if e not in rejections), rejections


def beside(source) -> dict[str, tuple[str, ...]]:
    return {entry.relative: source.file(entry).beside for entry in source.scan()}


def maps(source) -> dict[str, bytes | None]:
    return {e.relative: source.read(e).maps.get("canny") for e in source.scan()}


def test_a_folder_source_and_a_walk_find_the_same(tmp_path):
    root = fill(tmp_path / "in", "a.JPG", "x/b.Jpeg", "x/.c.jpg", "x/d.txt", "Thumbs.db", "e.mp4")
    (root / "again").symlink_to(root)
    (root / "more").symlink_to(fill(tmp_path / "other", "f.avif"))
    source = FolderSource(root)
    names, _ = found(source)
    walked = scan([root], output=tmp_path / "out")
    assert names == [file.relative for file in walked.files] == ["a.JPG", "more/f.avif", "x/b.Jpeg"]
    assert source.left_out == walked.left_out


def test_the_output_and_the_folders_of_maps_inside_are_not_searched(tmp_path):
    root = fill(tmp_path / "in", "a.jpg", "maps/canny/a.jpg.png", "out/data/b.png")
    source = open_source(root, maps={"canny": "maps/canny"}, output=root / "out")
    assert found(source)[0] == ["a.jpg"]
    assert source.left_out == {"map folder": 1, "output": 1}


def test_an_output_that_is_the_source_is_refused(tmp_path):
    root = fill(tmp_path / "in", "a.jpg")
    with pytest.raises(ConfigError, match="both input and output"):
        open_source(root, output=root)


def test_a_link_to_nowhere_is_rejected(tmp_path):
    root = fill(tmp_path / "in", "a.jpg")
    (root / "b.jpg").symlink_to(root / "gone.jpg")
    names, (rejection,) = found(FolderSource(root))
    assert names == ["a.jpg"]
    assert (rejection.source, rejection.stage) == ("b.jpg", "decode")


def test_a_name_that_is_not_utf8_is_rejected_readably(tmp_path):
    root = fill(tmp_path / "in", "a.jpg")
    try:
        fill(root / os.fsdecode(b"caf\xe9"), "b.jpg")
    except OSError:
        pytest.skip("this file system allows only UTF-8 names")
    _, (rejection,) = found(FolderSource(root))
    assert rejection.source == r"caf\udce9/b.jpg"
    assert "UTF-8" in rejection.reason


def test_a_folder_without_pictures_says_what_it_holds(tmp_path):
    root = fill(tmp_path / "in", "a.txt", "b.mp4")
    with pytest.raises(ConfigError, match=r"no images in .*1 not an image, 1 text file"):
        list(FolderSource(root).scan())


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path):
    root = fill(tmp_path / "in", "a.jpg", "x/b.jpg")
    (root / "x").chmod(0)
    try:
        if os.access(root / "x", os.R_OK):
            pytest.skip("this user reads everything")
        with pytest.raises(DatasetError, match="cannot read the folder"):
            list(FolderSource(root).scan())
    finally:
        (root / "x").chmod(0o700)


def test_beside_a_picture_is_what_shares_its_stem_or_its_name(tmp_path):
    root = fill(
        tmp_path / "in",
        *("cat.jpg", "cat.txt", "cat.jpg.json", "cat.v2.txt", "cat2.txt", "cat-1.txt"),
        *("v1.2.jpg", "v1.2.txt", "v1.txt", "v1.jpg", "x/cat.caption"),
    )
    assert beside(FolderSource(root)) == {
        "cat.jpg": ("cat.jpg.json", "cat.txt"),
        "v1.2.jpg": ("v1.2.txt",),
        "v1.jpg": ("v1.txt",),
    }


def stem_of(name: str) -> str:
    """What `os.path.splitext` leaves: leading dots are no ending."""
    bare = name.lstrip(".")
    return name[: len(name) - len(bare)] + (bare.rpartition(".")[0] if "." in bare else bare)


NAMES = st.lists(
    st.text(st.sampled_from("ab.-1 ü"), min_size=1, max_size=6).filter(
        lambda name: name[0] != "." and name.strip(".")
    ),
    unique=True,
    max_size=12,
)


@given(NAMES)
def test_what_shares_a_stem_is_found_among_any_names(names):
    names = sorted(names)
    for name in names:
        stem = stem_of(name)
        slow = [
            other
            for other in names
            if other != name and other.startswith(f"{stem}.") and stem_of(other) in (stem, name)
        ]
        assert list(sharing_stem(names, name)) == slow


PICTURES = st.lists(
    st.text(st.sampled_from("abü .-_1猫"), min_size=1, max_size=8).filter(
        lambda name: name[0] not in ". " and name.strip(". ") == name
    ),
    min_size=1,
    max_size=6,
    unique=True,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(stems=PICTURES, folders=st.lists(st.sampled_from(["", "x/", "x/y/"]), max_size=6))
def test_any_name_comes_through_with_its_map_and_caption(stems, folders, tmp_path_factory):
    root = tmp_path_factory.mktemp("any")
    placed = {f"{folder}{stem}" for stem in stems for folder in [*folders, ""]}
    for stem in placed:
        fill(root / "in", f"{stem}.png", f"{stem}.txt")
        fill(root / "canny", f"{stem}.png.png")
    source = FolderSource(root / "in", maps={"canny": root / "canny"})
    assert maps(source) == {f"{stem}.png": f"{stem}.png.png".encode() for stem in placed}
    for name, others in beside(source).items():
        assert f"{Path(name).stem}.txt" in others


@pytest.mark.parametrize(
    "name", ["x/a.jpg.png", "x/a.jpg", "x/a.png", "x/a.webp"], ids=["full", "same", "stem", "any"]
)
def test_a_map_lies_at_the_same_place_under_the_full_name_or_the_stem(name, tmp_path):
    root = fill(tmp_path / "in", "x/a.jpg")
    canny = fill(tmp_path / "canny", name, "a.png", "x/ab.png")
    assert maps(FolderSource(root, maps={"canny": canny})) == {"x/a.jpg": name.encode()}


def test_a_picture_without_a_map_comes_without(tmp_path):
    root = fill(tmp_path / "in", "a.jpg", "x/b.jpg")
    canny = fill(tmp_path / "canny", "a.png")
    assert maps(FolderSource(root, maps={"canny": canny})) == {"a.jpg": b"a.png", "x/b.jpg": None}


def test_pictures_that_share_a_stem_do_not_share_a_map(tmp_path):
    root = fill(tmp_path / "in", "a.jpg", "a.png", "b.jpg", "b.webp")
    canny = fill(tmp_path / "canny", "a.jpg.png", "a.png", "b.png")
    source = FolderSource(root, maps={"canny": canny})
    names, rejections = found(source)
    assert names == ["a.jpg", "a.png"]
    assert maps_of(source, names) == [b"a.jpg.png", b"a.png"]
    assert [rejection.source for rejection in rejections] == ["b.jpg", "b.webp"]
    assert "call it b.jpg.png" in rejections[0].reason


def maps_of(source, names: list[str]) -> list[bytes]:
    entries = {e.relative: e for e in source.scan() if not isinstance(e, Rejection)}
    return [source.read(entries[name]).maps["canny"] for name in names]


def test_two_maps_that_would_do_are_not_guessed_between():
    with pytest.raises(AmbiguousMapError, match=r"a\.jpg and a\.webp"):
        find_map(["a.jpg", "a.webp"], "a.bmp", [])


def test_a_map_that_changes_changes_the_stamp(tmp_path):
    root = fill(tmp_path / "in", "a.jpg")
    canny = fill(tmp_path / "canny", "a.png")
    source = FolderSource(root, maps={"canny": canny})
    (before,) = source.scan()
    (canny / "a.png").write_bytes(b"longer than it was")
    (after,) = source.scan()
    assert before.stamp != after.stamp


def test_a_folder_of_maps_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no folder nowhere"):
        open_source(fill(tmp_path / "in", "a.jpg"), maps={"canny": "nowhere"})


def test_memory_holds_the_names_of_one_folder(tmp_path):
    fill(tmp_path / "in", *(f"{i // 100:03d}/{i:05d}.jpg" for i in range(10_000)))
    source = FolderSource(tmp_path / "in")
    tracemalloc.start()
    try:
        assert sum(1 for _ in source.scan()) == 10_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 300_000
