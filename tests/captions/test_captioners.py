"""Promises that every captioner keeps, and what each of them reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from condkit.captions import available_captioners, make_captioner
from condkit.captions.base import one_line
from condkit.errors import ConfigError, UnknownNameError
from condkit.types import Rejection, SourceFile


def caption(captioner, *sources: SourceFile) -> list[str | Rejection]:
    results = captioner([np.zeros((4, 4, 3), np.uint8) for _ in sources], list(sources))
    return [r if isinstance(r, Rejection) else r.texts[0] for r in results]


def source(folder: Path, relative: str, **beside: str | bytes) -> SourceFile:
    """An input with files beside it: suffix without dot to content."""
    path = folder / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"picture")
    for suffix, content in beside.items():
        data = content.encode() if isinstance(content, str) else content
        path.with_suffix(f".{suffix}").write_bytes(data)
    return SourceFile(path=path, relative=relative)


@pytest.mark.parametrize("name", available_captioners())
def test_every_image_gets_one_result_that_does_not_depend_on_its_batch(name, tmp_path):
    captioner = make_captioner(name)
    sources = [source(tmp_path, f"{n}/cat_{n}.jpg", txt=f"caption {n}") for n in range(3)]
    together = caption(captioner, *sources)
    assert len(together) == 3
    assert together == [caption(captioner, one)[0] for one in sources]
    assert all(isinstance(text, str) and "\n" not in text for text in together)


@pytest.mark.parametrize("name", available_captioners())
def test_a_captioner_describes_itself_in_json(name):
    values = make_captioner(name).as_dict()
    assert values["captioner"] == name
    assert values == make_captioner(name).as_dict()


def test_an_unknown_captioner_is_named_with_a_suggestion():
    with pytest.raises(UnknownNameError, match="did you mean 'sidecar'"):
        make_captioner("sidecars")


def test_no_captions_are_empty_texts(tmp_path):
    assert caption(make_captioner("none"), source(tmp_path, "a.jpg")) == [""]


@pytest.mark.parametrize(
    "text",
    ["None", "007", "2023-01-01", "null", "a cat, a dog", '"quoted"', "ünïcode 猫", " ", ""],
)
def test_a_sidecar_is_read_as_the_text_it_is(text, tmp_path):
    found = caption(make_captioner("sidecar"), source(tmp_path, "a.jpg", txt=text))
    assert found == [text.strip()]


def test_lines_are_joined_by_spaces(tmp_path):
    one = source(tmp_path, "a.jpg", txt="a cat \r\n\r\n on a mat\n")
    assert caption(make_captioner("sidecar"), one) == ["a cat on a mat"]


def test_a_byte_order_mark_is_no_part_of_the_caption(tmp_path):
    one = source(tmp_path, "a.jpg", txt=b"\xef\xbb\xbfa cat")
    assert caption(make_captioner("sidecar"), one) == ["a cat"]


def test_txt_comes_before_caption(tmp_path):
    both = source(tmp_path, "a.jpg", caption="second", txt="first")
    only = source(tmp_path, "b.jpg", caption="second")
    assert caption(make_captioner("sidecar"), both, only) == ["first", "second"]


def test_files_with_one_stem_can_have_captions_of_their_own(tmp_path):
    jpg = source(tmp_path, "a.jpg", txt="shared")
    png = source(tmp_path, "a.png")
    (tmp_path / "a.png.txt").write_text("only the png")
    assert caption(make_captioner("sidecar"), jpg, png) == ["shared", "only the png"]


def test_a_name_with_dots_keeps_all_but_its_ending(tmp_path):
    one = source(tmp_path, "v1.2 final.jpg", txt="dotted")
    assert caption(make_captioner("sidecar"), one) == ["dotted"]


def test_a_missing_caption_is_a_rejection_that_says_what_was_expected(tmp_path):
    (found,) = caption(make_captioner("sidecar"), source(tmp_path, "x/a.jpg"))
    assert isinstance(found, Rejection)
    assert (found.source, found.stage) == ("x/a.jpg", "caption")
    assert "a.txt" in found.reason


def test_a_caption_that_is_not_utf8_is_a_rejection(tmp_path):
    (found,) = caption(
        make_captioner("sidecar"), source(tmp_path, "a.jpg", txt="é".encode("cp1252"))
    )
    assert isinstance(found, Rejection)
    assert "UTF-8" in found.reason


def test_a_sidecar_captioner_names_the_file_that_it_reads(tmp_path):
    captioner = make_captioner("sidecar")
    assert captioner.reads(source(tmp_path, "a.jpg", txt="x")) == (tmp_path / "a.txt",)
    assert captioner.reads(source(tmp_path, "b.jpg")) == ()


def test_a_template_is_filled_from_the_name(tmp_path):
    captioner = make_captioner("template", template="a {folder} photo of {stem} ({name}) {{x}}")
    one = source(tmp_path, "sub/old-toys/red_ball-2.jpg")
    assert caption(captioner, one) == ["a old toys photo of red ball 2 (red_ball-2.jpg) {x}"]


def test_a_file_at_the_top_has_an_empty_folder(tmp_path):
    captioner = make_captioner("template", template="{folder} {stem}")
    assert caption(captioner, source(tmp_path, "a.jpg")) == ["a"]


@pytest.mark.parametrize(
    "text", ["{stm}", "{stem", "{0}", "{}", "{stem!r}", "{stem:>9}", "{stem.x}"]
)
def test_an_impossible_template_is_refused(text):
    with pytest.raises(ConfigError, match=r"captions\.text"):
        make_captioner("template", template=text)


@given(st.text())
def test_one_line_has_no_line_ends_and_does_not_change_twice(text):
    line = one_line(text)
    assert line.splitlines() in ([], [line])
    assert one_line(line) == line
