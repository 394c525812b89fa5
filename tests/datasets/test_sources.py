"""What a search for images finds, under which names, and what it leaves out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from condkit.datasets.sources.walk import scan
from condkit.errors import ConfigError


def fill(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def names(paths, output: Path) -> list[str]:
    return [file.relative for file in scan(paths, output=output).files]


def test_names_are_relative_sorted_and_keep_folders_and_endings(tmp_path):
    expected = ["a b.JPG", "a.jpg", "a.png", "z/a.jpg", "ü/v1.2.Jpeg"]
    root = fill(tmp_path / "in", *expected)
    assert names([root], tmp_path / "out") == expected


def test_hidden_system_and_other_files_are_left_out_and_counted(tmp_path):
    root = fill(
        tmp_path / "in",
        "a.jpg",
        ".b.jpg",
        ".git/c.jpg",
        "Thumbs.db",
        "@eaDir/d.jpg",
        "a.txt",
        "a.mp4",
    )
    found = scan([root], output=tmp_path / "out")
    assert [file.relative for file in found.files] == ["a.jpg"]
    assert found.left_out == {"hidden": 2, "not an image": 1, "system": 2, "text file": 1}


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    root = fill(tmp_path / "in", "sub/a.jpg")
    other = fill(tmp_path / "other", "b.jpg")
    (root / "link").symlink_to(other)
    (root / "sub" / "up").symlink_to(root)
    found = scan([root], output=tmp_path / "out")
    assert [file.relative for file in found.files] == ["link/b.jpg", "sub/a.jpg"]
    assert found.left_out == {"loop": 1}


def test_a_link_to_nowhere_is_found_so_that_it_gets_rejected(tmp_path):
    root = fill(tmp_path / "in", "a.jpg")
    (root / "b.jpg").symlink_to(root / "gone.jpg")
    assert names([root], tmp_path / "out") == ["a.jpg", "b.jpg"]


def test_a_pipe_is_left_out(tmp_path):
    root = fill(tmp_path / "in", "a.jpg")
    os.mkfifo(root / "b.jpg")
    found = scan([root], output=tmp_path / "out")
    assert found.left_out == {"special file": 1}


def test_the_output_inside_of_the_input_is_not_searched(tmp_path):
    root = fill(tmp_path / "in", "a.jpg", "maps/canny/a.jpg.png")
    assert names([root], root / "maps") == ["a.jpg"]


def test_the_output_must_not_be_the_input(tmp_path):
    root = fill(tmp_path / "in", "a.jpg")
    with pytest.raises(ConfigError, match="both input and output"):
        scan([root], output=tmp_path / "in" / ".." / "in")


def test_several_folders_keep_their_names(tmp_path):
    x, y = fill(tmp_path / "x", "a.jpg"), fill(tmp_path / "y", "a.jpg")
    assert names([x, y], tmp_path / "out") == ["x/a.jpg", "y/a.jpg"]


def test_folders_of_one_name_are_refused_and_both_named(tmp_path):
    one, two = fill(tmp_path / "1" / "x", "a.jpg"), fill(tmp_path / "2" / "x", "a.jpg")
    with pytest.raises(ConfigError) as caught:
        scan([one, two], output=tmp_path / "out")
    assert str(one) in str(caught.value)
    assert str(two) in str(caught.value)


def test_a_path_given_twice_is_taken_once(tmp_path):
    root = fill(tmp_path / "x", "a.jpg")
    assert names([root, root], tmp_path / "out") == ["x/a.jpg"]


def test_a_file_that_is_named_is_taken_whatever_its_ending(tmp_path):
    root = fill(tmp_path / "in", "a.scan")
    assert names([root / "a.scan"], tmp_path / "out") == ["a.scan"]


@pytest.mark.parametrize("content", [(), ("a.txt",)])
def test_a_folder_without_images_is_an_error(content, tmp_path):
    root = fill(tmp_path / "in", *content)
    root.mkdir(exist_ok=True)
    with pytest.raises(ConfigError, match="no images"):
        scan([root], output=tmp_path / "out")


def test_a_path_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.jpg"):
        scan([tmp_path / "gone.jpg"], output=tmp_path / "out")


def test_a_name_that_is_not_utf8_is_rejected_readably(tmp_path):
    root = fill(tmp_path / "in", "a.jpg")
    try:
        (root / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system allows only UTF-8 names")
    found = scan([root], output=tmp_path / "out")
    (rejection,) = found.rejections
    assert rejection.source == r"caf\udce9.jpg"
    assert "UTF-8" in rejection.reason
