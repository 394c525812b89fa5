"""Promises that every captioner keeps, and what each of them reads."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from condkit.captions import available_captioners, make_captioner
from condkit.captions.base import one_line
from condkit.captions.registry import network_captioners
from condkit.captions.texts import split
from condkit.captions.wording import Wording
from condkit.errors import ConfigError, UnknownNameError
from condkit.runtime import Runtime
from condkit.types import Rejection, SourceFile
from condkit.weights import WeightStore


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


SETTINGS = {"max_new_tokens": 6, "min_new_tokens": 2}


@pytest.fixture
def build(make):
    """Any captioner with few tokens; networks have small random weights."""

    def build(name, **options):
        if name in network_captioners():
            options["settings"] = SETTINGS
        return make(name, **options)

    return build


@pytest.mark.parametrize("name", available_captioners())
def test_every_image_gets_one_result_that_does_not_depend_on_its_batch(name, build, tmp_path):
    captioner = build(name)
    sources = [
        dataclasses.replace(
            source(tmp_path, f"{n}/cat_{n}.jpg", txt=f"caption {n}"), fields={"text": f"column {n}"}
        )
        for n in range(3)
    ]
    together = caption(captioner, *sources)
    assert len(together) == 3
    assert together == [caption(captioner, one)[0] for one in sources]
    assert all(isinstance(text, str) and "\n" not in text for text in together)
    assert captioner([], []) == []


@pytest.mark.parametrize("name", available_captioners())
def test_a_captioner_describes_itself_in_json(name):
    values = make_captioner(name).as_dict()
    assert values["captioner"] == name == make_captioner(name).name
    assert values == make_captioner(name).as_dict() == json.loads(json.dumps(values))


@pytest.mark.parametrize("name", available_captioners())
def test_only_networks_have_weights_and_all_can_be_closed(name):
    captioner = make_captioner(name)
    assert bool(captioner.weights) == (name in network_captioners())
    captioner.close()
    captioner.close()


@pytest.mark.parametrize("name", available_captioners())
def test_words_go_around_every_captioners_texts(name, build, tmp_path):
    one = dataclasses.replace(source(tmp_path, "a.jpg", txt="x"), fields={"text": "y"})
    plain = build(name)
    worded = build(name, prefix="a photo of", suffix=", sharp", trigger="sks")
    (expected,) = caption(plain, one)
    (found,) = caption(worded, one)
    assert found == one_line(f"sks, a photo of {expected}") + ", sharp"
    assert worded.as_dict() == plain.as_dict() | {
        "prefix": "a photo of",
        "suffix": ", sharp",
        "trigger": "sks",
    }


def test_making_and_describing_captioners_loads_no_library():
    code = (
        "import sys\n"
        "from condkit.captions import available_captioners, make_captioner\n"
        "for name in available_captioners():\n    make_captioner(name, trigger='x').as_dict()\n"
        "heavy = {'torch', 'PIL', 'transformers', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_captioner_is_named_with_a_suggestion():
    with pytest.raises(UnknownNameError, match="did you mean 'sidecar'"):
        make_captioner("sidecars")


def test_no_captions_are_empty_texts(tmp_path):
    assert caption(make_captioner("none"), source(tmp_path, "a.jpg")) == [""]


CORNERS = [
    "None",
    "007",
    "2023-01-01",
    "null",
    "a cat, a dog",
    '"quoted"',
    "ünïcode 猫 🐈",
    " ",
    "",
]


@pytest.mark.parametrize("text", CORNERS)
@pytest.mark.parametrize("way", ["txt", "caption", "json", "field", "json field", "column"])
def test_a_text_is_the_caption_as_it_is(text, way, tmp_path):
    """No text is taken for a number, a date or nothing."""
    document = json.dumps({"caption": text}, ensure_ascii=False)
    fields = {"field": {"txt": text}, "json field": {"json": document}, "column": {"text": text}}
    if way in fields:
        one = SourceFile(tmp_path / "x.tar", "a.jpg", fields=fields[way])
    else:
        one = source(tmp_path, "a.jpg", **{way: document if way == "json" else text})
    found = caption(make_captioner("metadata" if way == "column" else "sidecar"), one)
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
    both = source(tmp_path, "c.jpg", txt="x", json="{}")
    assert captioner.reads(both) == (tmp_path / "c.txt",)
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
    "text",
    [
        "{stm}",
        "{stem",
        "{0}",
        "{}",
        "{stem!r}",
        "{stem:>9}",
        "{stem.x}",
        "{fields}",
        "{fields[a][b]}",
    ],
)
def test_an_impossible_template_is_refused(text):
    with pytest.raises(ConfigError, match=r"captions\.text"):
        make_captioner("template", template=text)


def test_a_template_takes_columns(tmp_path):
    captioner = make_captioner("template", template="{stem} by {fields[the artist]}, {fields[0]}")
    fields = {"the artist": "Doe, {x}", "0": 1887}
    good = SourceFile(tmp_path / "a.jpg", "a.jpg", fields=fields)
    bad = SourceFile(tmp_path / "b.jpg", "b.jpg", fields={"the artist": None, "0": "x"})
    found, missing = caption(captioner, good, bad)
    assert found == "a by Doe, {x}, 1887"
    assert "column 'the artist'" in missing.reason


# --- sidecar files


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("join", ("a cat on a mat",)),
        ("first", ("a cat",)),
        ("several", ("a cat", "on a mat")),
    ],
)
def test_lines_mean_what_is_asked_for(lines, expected, tmp_path):
    one = source(tmp_path, "a.jpg", txt="\n a cat \r\n\r\n on  a mat\n")
    captioner = make_captioner("sidecar", settings={"lines": lines})
    assert captioner([None], [one])[0].texts == expected


@pytest.mark.parametrize("lines", ["join", "first", "several"])
@given(text=st.text())
def test_captions_of_any_text_are_lines_and_at_least_one(lines, text):
    texts = split(text, lines)
    assert texts
    assert all(text == one_line(text) for text in texts)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"prompt": "third", "text": "second", "caption": "first"}, ("first",)),
        ({"caption": None, "text": "second"}, ("second",)),
        ({"caption": ["one", "two, three", "7"]}, ("one", "two, three", "7")),
        ({"caption": 7.50}, ("7.5",)),
        (["one", "two"], ("one", "two")),
        ("only", ("only",)),
        ({"caption": ""}, ("",)),
    ],
)
def test_a_json_file_holds_captions(document, expected, tmp_path):
    one = source(tmp_path, "a.jpg", json=json.dumps(document))
    assert make_captioner("sidecar")([None], [one])[0].texts == expected


def test_a_number_in_json_stays_as_it_is_written(tmp_path):
    one = source(tmp_path, "a.jpg", json='{"caption": 1.50, "text": "x"}')
    assert caption(make_captioner("sidecar"), one) == ["1.50"]


def test_the_json_field_can_be_chosen(tmp_path):
    one = source(tmp_path, "a.jpg", json='{"caption": "a", "long": "b"}')
    assert caption(make_captioner("sidecar", settings={"json_key": "long"}), one) == ["b"]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ('{"caption": "x"', "is no JSON"),
        ('{"caption": {"x": 1}}', "expected text or a list of texts, got dict"),
        ('{"caption": true}', "got bool"),
        ('{"url": "x"}', "a.json has no caption (expected a field caption or text or prompt)"),
        ("[]", "has no caption"),
    ],
)
def test_a_json_file_without_captions_is_a_rejection(document, reason, tmp_path):
    (found,) = caption(make_captioner("sidecar"), source(tmp_path, "a.jpg", json=document))
    assert isinstance(found, Rejection)
    assert reason in found.reason


def test_a_json_file_of_another_kind_does_not_hide_the_text(tmp_path):
    one = source(tmp_path, "a.jpg", txt="the caption")
    (tmp_path / "a.jpg.json").write_text('{"people": []}')
    assert caption(make_captioner("sidecar"), one) == ["the caption"]


def test_missing_captions_can_be_empty(tmp_path):
    one = source(tmp_path, "a.jpg")
    for name in ("sidecar", "metadata"):
        assert caption(make_captioner(name, settings={"missing": "empty"}), one) == [""]
    broken = source(tmp_path, "b.jpg", txt=b"\xff")
    (found,) = caption(make_captioner("sidecar", settings={"missing": "empty"}), broken)
    assert isinstance(found, Rejection)


def test_endings_may_be_in_capitals(tmp_path):
    one = source(tmp_path, "A.JPG")
    (tmp_path / "A.TXT").write_text("loud")
    assert caption(make_captioner("sidecar"), one) == ["loud"]
    listed = dataclasses.replace(one, beside=("A.TXT",))
    assert caption(make_captioner("sidecar"), listed) == ["loud"]


def test_names_that_the_source_has_listed_are_not_looked_up_again(tmp_path, monkeypatch):
    one = dataclasses.replace(
        source(tmp_path, "a.jpg", txt="x", caption="y"), beside=("a.caption", "a.jpg.json")
    )
    (tmp_path / "a.jpg.json").write_text("{}")
    none = dataclasses.replace(source(tmp_path, "b.jpg", txt="x"), beside=())

    def refuse(*args, **kwargs):
        raise AssertionError("asked the disk")

    monkeypatch.setattr(Path, "is_file", refuse)
    found, missing = caption(make_captioner("sidecar"), one, none)
    assert found == "y"
    assert isinstance(missing, Rejection)


def test_a_picture_in_an_archive_has_no_files_beside_it(tmp_path):
    (tmp_path / "shard.txt").write_text("no caption")
    one = SourceFile(tmp_path / "shard.tar", "0001.jpg")
    (found,) = caption(make_captioner("sidecar"), one)
    assert isinstance(found, Rejection)


def test_the_samples_of_an_archive_have_their_texts_in_fields(tmp_path):
    fields = [
        {"txt": b"\xef\xbb\xbfbytes"},
        {"json": {"caption": ["read", "already"]}},
        {"json": b'{"text": 5}', "caption": "before json"},
        {"text": "a column"},
        {"txt": "é".encode("latin-1")},
    ]
    sources = [SourceFile(tmp_path / "x.tar", f"{n}.jpg", fields=f) for n, f in enumerate(fields)]
    results = make_captioner("sidecar")([None] * 5, sources)
    assert [found.texts for found in results[:3]] == [
        ("bytes",),
        ("read", "already"),
        ("before json",),
    ]
    assert "metadata" in results[3].reason
    assert "UTF-8" in results[4].reason


# --- columns


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a cat\non a mat", ("a cat on a mat",)),
        (["a", "b\nc", None], ("a", "b c")),
        (7, ("7",)),
        (0.1, ("0.1",)),
        (10**20, ("100000000000000000000",)),
        (np.int64(3), ("3",)),
        (np.array(["x", "y"]), ("x", "y")),
        ("é".encode(), ("é",)),
        ("", ("",)),
    ],
)
def test_a_column_becomes_text(value, expected, tmp_path):
    one = SourceFile(tmp_path / "x.parquet", "0.jpg", fields={"caption": value})
    assert make_captioner("metadata")([None], [one])[0].texts == expected


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "no column 'text' or 'caption' or 'prompt' or 'captions' or 'txt' (columns: none)"),
        ({"capton": "x"}, "(columns: capton)"),
        ({"text": None, "url": "x"}, "column 'text' has no text"),
        ({"text": float("nan")}, "column 'text' has no text"),
        ({"text": []}, "column 'text' has no text"),
        ({"text": {"en": "x"}}, "expected text or a list of texts, got dict"),
        ({"text": True}, "got bool"),
    ],
)
def test_a_column_that_is_no_text_is_a_rejection(fields, reason, tmp_path):
    one = SourceFile(tmp_path / "x.parquet", "0.jpg", fields=fields)
    (found,) = caption(make_captioner("metadata"), one)
    assert isinstance(found, Rejection)
    assert reason in found.reason


def test_columns_are_tried_in_order_or_chosen(tmp_path):
    fields = {"captions": ["d"], "prompt": "c", "caption": "b", "text": None}
    one = SourceFile(tmp_path / "x.parquet", "0.jpg", fields=fields)
    assert caption(make_captioner("metadata"), one) == ["b"]
    assert caption(make_captioner("metadata", settings={"column": "captions"}), one) == ["d"]
    (missing,) = caption(make_captioner("metadata", settings={"column": "promt"}), one)
    assert "no column 'promt'; did you mean 'prompt'?" in missing.reason


# --- words around


@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        ({"prefix": "a photo of "}, "a cat", "a photo of a cat"),
        ({"suffix": "in a park"}, "a cat", "a cat in a park"),
        ({"suffix": ", 4k"}, "a cat", "a cat, 4k"),
        ({"trigger": "sks cat"}, "a cat", "sks cat, a cat"),
        ({"trigger": "sks"}, "a SKS cat", "a SKS cat"),
        ({"trigger": "sks"}, "sksy cat", "sks, sksy cat"),
        ({"trigger": "c++"}, "a c++ book", "a c++ book"),
        ({"trigger": "sks", "prefix": "photo of sks"}, "x", "photo of sks x"),
        ({"trigger": "sks"}, "", "sks"),
        ({"prefix": "p", "suffix": "s"}, "", "p s"),
    ],
)
def test_words_are_put_around_a_caption(words, text, expected):
    assert Wording(**words).around(text) == expected


@given(
    text=st.text(),
    prefix=st.text(max_size=9),
    suffix=st.text(max_size=9),
    trigger=st.text(max_size=9),
)
def test_words_around_keep_one_line_and_the_trigger_once(text, prefix, suffix, trigger):
    words = {"prefix": one_line(prefix), "suffix": one_line(suffix), "trigger": one_line(trigger)}
    worded = Wording(**words).around(text)
    assert worded == one_line(worded)
    assert Wording(trigger=words["trigger"]).around(worded) == worded


def test_words_of_several_lines_are_refused():
    with pytest.raises(ConfigError, match=r"captions\.prefix: expected one line"):
        make_captioner("none", prefix="a\nb")


# --- captions that are there


def test_a_network_makes_only_what_the_source_lacks(build, tmp_path):
    texts = source(tmp_path, "a.jpg", txt="my own")
    column = SourceFile(tmp_path / "x.parquet", "b.jpg", fields={"text": ["one", "two"]})
    empty = source(tmp_path, "c.jpg", txt=" \n")
    nothing = source(tmp_path, "d.jpg")
    broken = source(tmp_path, "e.jpg", txt=b"\xff")
    sources = [nothing, texts, column, empty, broken]
    images = [np.full((8, 8, 3), 40 * n, np.uint8) for n in range(5)]
    kept = build("blip-base", existing="keep")(images, sources)
    made = build("blip-base", existing="replace")(images, sources)
    assert [found.captioner for found in kept[:4]] == [
        "blip-base",
        "sidecar",
        "metadata",
        "blip-base",
    ]
    assert kept[1].texts == ("my own",)
    assert kept[2].texts == ("one", "two")
    assert [kept[0], kept[3]] == [made[0], made[3]]
    assert isinstance(kept[4], Rejection)
    assert {found.captioner for found in made} == {"blip-base"}


def test_what_is_kept_is_watched_and_told(tmp_path):
    one = source(tmp_path, "a.jpg", txt="my own")
    keeps, replaces = (make_captioner("blip-base", existing=e) for e in ("keep", "replace"))
    assert keeps.reads(one) == (tmp_path / "a.txt",)
    assert replaces.reads(one) == ()
    assert keeps.as_dict()["existing"] == "keep"
    assert "existing" not in replaces.as_dict()


def test_where_everything_is_kept_no_network_is_loaded(tmp_path):
    one = source(tmp_path, "a.jpg", txt="my own")
    store = WeightStore(cache=tmp_path, offline=True)
    captioner = make_captioner("blip2", runtime=Runtime(device="cpu", store=store))
    assert caption(captioner, one) == ["my own"]


def test_an_unknown_way_with_existing_captions_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'keep'"):
        make_captioner("blip2", existing="keeep")


@given(st.text())
def test_one_line_has_no_line_ends_and_does_not_change_twice(text):
    line = one_line(text)
    assert line.splitlines() in ([], [line])
    assert not any(unicodedata.category(letter) == "Cc" for letter in line)
    assert one_line(line) == line
