"""`condkit caption` on folders: what is written, what is left alone, stopped at any moment."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from condkit.captions import make_captioner
from condkit.captions.base import Captions, WithoutNetwork
from condkit.captions.existing import KeptCaptions
from condkit.datasets.lock import locked
from condkit.errors import ConfigError, OutputError
from condkit.pipeline.captioning import caption
from condkit.runtime import Runtime
from condkit.types import Rejection, SourceFile
from condkit.weights import WeightStore

CORNERS = ["None", "007", "2023-01-01", "a, b", '"q"', "ünïcode 猫", "null", "true"]
# The command as it is registered; the folder of the suite does not matter to it.
COMMAND = (
    "from condkit import cli\n"
    "from condkit.cli_caption import caption\n"
    "names = {c.name or c.callback.__name__ for c in cli.app.registered_commands}\n"
    "if 'caption' not in names:\n    cli.app.command()(caption)\n"
    "cli.main()\n"
)


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (24, 16)) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "caption", *map(str, arguments)],
        env={**os.environ, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def condkit(*arguments: object) -> subprocess.CompletedProcess[str]:
    process = start(*arguments)
    out, errors = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


def contents(folder: Path) -> dict[str, bytes]:
    """Visible files by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    }


def texts(folder: Path) -> dict[str, str]:
    return {n: d.decode() for n, d in contents(folder).items() if n.endswith((".txt", ".caption"))}


class Said(WithoutNetwork):
    """A captioner that says what the test wants, and remembers what it was asked."""

    name = "said"
    many = True

    def __init__(self, say=lambda source: (f"about {source.relative}",)):
        self.say = say
        self.batches = []
        self.closed = 0

    def as_dict(self):
        return {"captioner": self.name}

    def reads(self, source):
        return ()

    def __call__(self, images, sources):
        self.batches.append([source.relative for source in sources])
        said = [self.say(source) for source in sources]
        return [s if isinstance(s, Rejection) else Captions(s, self.name) for s in said]

    def close(self):
        self.closed += 1


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    for seed, name in enumerate(["a b.png", "ünï/c.v2.jpg", "ünï/deep/d.PNG", "e.jpg"]):
        picture(folder / name, seed)
    return folder


def run(folder, captioner=None, **options):
    return caption(folder, captioner or Said(), Runtime(device="cpu"), **options)


def test_captions_stand_beside_the_pictures_which_stay_as_they_are(photos):
    before = contents(photos)
    captioner = Said()
    summary = run(photos, captioner)
    assert (summary.planned, summary.written, summary.skipped) == (4, 4, 0)
    assert texts(photos) == {
        "a b.txt": "about a b.png\n",
        "e.txt": "about e.jpg\n",
        "ünï/c.v2.txt": "about ünï/c.v2.jpg\n",
        "ünï/deep/d.txt": "about ünï/deep/d.PNG\n",
    }
    assert {n: d for n, d in contents(photos).items() if n in before} == before
    assert captioner.closed == 1


@pytest.mark.parametrize("text", CORNERS)
def test_a_caption_is_read_back_as_it_was_said(text, photos):
    run(photos, Said(lambda source: (text,)))
    source = SourceFile(photos / "e.jpg", "e.jpg")
    (found,) = make_captioner("sidecar")([None], [source])
    assert found.texts == (text,)


def test_several_captions_are_lines(photos):
    run(photos, Said(lambda source: ("one", "two, three")))
    assert texts(photos)["e.txt"] == "one\ntwo, three\n"
    reader = make_captioner("sidecar", settings={"lines": "several"})
    (found,) = reader([None], [SourceFile(photos / "e.jpg", "e.jpg")])
    assert found.texts == ("one", "two, three")


def test_an_empty_caption_is_an_empty_file_and_counts_as_there(photos):
    run(photos, make_captioner("none"))
    assert set(texts(photos).values()) == {""}
    assert run(photos).skipped == 4


EXISTING = {
    "e.txt": b"mine",
    "e.caption": b"mine",
    "e.jpg.txt": b"mine\n\nof two lines",
    "e.TXT": b"mine",
    "e.json": b'{"caption": "mine"}',
    "e.jpg.json": b'["mine", "too"]',
}


@pytest.mark.parametrize("name", EXISTING)
def test_a_caption_that_is_there_is_never_touched(name, photos):
    (photos / name).write_bytes(EXISTING[name])
    os.utime(photos / name, ns=(1, 1))
    captioner = Said()
    summary = run(photos, captioner)
    assert (summary.written, summary.skipped) == (3, 1)
    assert "e.jpg" not in [one for batch in captioner.batches for one in batch]
    assert (photos / name).read_bytes() == EXISTING[name]
    assert (photos / name).stat().st_mtime_ns == 1
    assert {n for n in contents(photos) if n.startswith("e.")} == {"e.jpg", name}


def test_a_json_file_of_another_kind_is_no_caption(photos):
    (photos / "e.json").write_text('{"people": []}')
    assert run(photos).written == 4
    assert (photos / "e.json").read_text() == '{"people": []}'


def test_a_caption_that_cannot_be_read_is_told_and_left(photos):
    (photos / "e.json").write_text('{"caption"')
    summary = run(photos)
    (rejection,) = summary.rejections
    assert (rejection.source, rejection.stage) == ("e.jpg", "caption")
    assert "e.json is no JSON" in rejection.reason
    assert "e.txt" not in contents(photos)


def test_with_overwrite_captions_are_written_anew(photos):
    (photos / "e.txt").write_text("mine")
    summary = run(photos, overwrite=True)
    assert (summary.written, summary.skipped) == (4, 0)
    assert texts(photos)["e.txt"] == "about e.jpg\n"


def test_a_second_run_makes_only_what_is_missing(photos):
    run(photos)
    before = texts(photos)
    captioner = Said()
    assert run(photos, captioner).skipped == 4
    assert captioner.batches == []
    (photos / "ünï" / "c.v2.txt").unlink()
    assert run(photos, captioner).written == 1
    assert captioner.batches == [["ünï/c.v2.jpg"]]
    assert texts(photos) == before


def test_into_another_folder_the_tree_is_the_same_and_the_source_untouched(photos, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in photos.rglob("*")}
    (photos / "e.txt").write_text("mine")
    before[photos / "e.txt"] = (photos / "e.txt").stat().st_mtime_ns
    before[photos] = photos.stat().st_mtime_ns
    out = tmp_path / "out"
    assert run(photos, KeptCaptions(Said()), output=out).written == 4
    assert {path: path.stat().st_mtime_ns for path in photos.rglob("*")} | {
        photos: photos.stat().st_mtime_ns
    } == before
    assert texts(out) == {
        "a b.txt": "about a b.png\n",
        "e.txt": "mine\n",
        "ünï/c.v2.txt": "about ünï/c.v2.jpg\n",
        "ünï/deep/d.txt": "about ünï/deep/d.PNG\n",
    }
    (out / "e.txt").write_text("edited")
    assert run(photos, output=out).skipped == 4
    assert texts(out)["e.txt"] == "edited"


def test_pictures_that_share_a_stem_have_captions_of_their_own(photos):
    picture(photos / "e.png", 9)
    run(photos)
    assert texts(photos)["e.jpg.txt"] == "about e.jpg\n"
    assert texts(photos)["e.png.txt"] == "about e.png\n"
    assert "e.txt" not in texts(photos)
    sources = [SourceFile(photos / name, name) for name in ("e.jpg", "e.png")]
    found = make_captioner("sidecar")([None, None], sources)
    assert [one.texts[0] for one in found] == ["about e.jpg", "about e.png"]


def test_another_extension_can_be_asked_for(photos):
    run(photos, extension=".caption")
    assert set(texts(photos)) == {
        "a b.caption",
        "e.caption",
        "ünï/c.v2.caption",
        "ünï/deep/d.caption",
    }


@pytest.mark.parametrize("mirrored", [False, True])
def test_pictures_that_cannot_be_used_are_told_and_the_others_made(mirrored, photos, tmp_path):
    (photos / "broken.jpg").write_bytes((photos / "e.jpg").read_bytes()[:200])
    (photos / "ünï" / "gone.png").symlink_to(tmp_path / "nowhere")
    no = Said(
        lambda s: Rejection(s.relative, "caption", "no words") if s.relative == "e.jpg" else ("x",)
    )
    out = tmp_path / "out" if mirrored else None
    summary = run(photos, no, output=out)
    assert summary.written == 3
    assert [(r.source, r.stage) for r in summary.rejections] == [
        ("broken.jpg", "decode"),
        ("e.jpg", "caption"),
        ("ünï/gone.png", "decode"),
    ]
    assert not (photos / "rejected.jsonl").exists()
    named = any("rejected.jsonl" in line for line in summary.lines())
    assert named == mirrored
    if out is not None:
        listed = (out / "rejected.jsonl").read_text().splitlines()
        assert [json.loads(line)["source"] for line in listed] == [
            "broken.jpg",
            "e.jpg",
            "ünï/gone.png",
        ]


def test_a_dry_run_changes_nothing(photos):
    before = sorted(photos.rglob("*"))
    (photos / "e.txt").write_text("mine")
    summary = run(photos, dry_run=True)
    assert (summary.remaining, summary.skipped, summary.written) == (3, 1, 0)
    assert sorted(photos.rglob("*")) == sorted([*before, photos / "e.txt"])


def test_batches_do_not_change_what_is_written(photos):
    for seed in range(7):
        picture(photos / f"more{seed}.png", seed)
    captioner = Said()
    run(photos, captioner, batch_size=3, workers=2)
    assert max(map(len, captioner.batches)) == 3
    written = texts(photos)
    run(photos, Said(), batch_size=1, workers=1, overwrite=True)
    assert texts(photos) == written


def test_two_runs_in_one_folder_are_refused(photos):
    with locked(photos), pytest.raises(OutputError, match="another condkit run"):
        run(photos)


def test_what_a_killed_run_left_unfinished_is_swept(photos):
    left = photos / "ünï" / ".condkit-tmp-0123"
    left.write_text("half a capt")
    run(photos)
    assert not left.exists()


def test_progress_reaches_its_end(photos):
    (photos / "e.txt").write_text("mine")
    (photos / "bad.png").write_bytes(b"no picture")
    seen = []
    run(photos, on_progress=lambda p: seen.append((p.done, p.total, p.rejected)))
    assert seen[-1] == (5, 5, 1)
    assert [done for done, _, _ in seen] == [2, 3, 4, 5]


def test_an_error_of_the_captioner_ends_the_run_and_closes_it(photos):
    captioner = Said(lambda source: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(photos, captioner)
    assert captioner.closed == 1


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"workers": 0}])
def test_impossible_counts_are_refused(options, photos):
    with pytest.raises(ConfigError, match="expected a whole number of at least 1"):
        run(photos, **options)


def test_a_folder_without_pictures_is_an_error(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ConfigError, match="no images in"):
        run(tmp_path)
    with pytest.raises(ConfigError, match="expected a folder of pictures"):
        run(tmp_path / "nothing")


# --- the command


def test_the_command_writes_skips_and_tells(photos):
    (photos / "e.txt").write_text("mine")
    options = ["--captioner", "template", "--caption-prefix", "a photo of", "--trigger", "sks"]
    done = condkit(photos, *options, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["planned"], told["written"], told["skipped"]) == (4, 3, 1)
    assert texts(photos)["a b.txt"] == "sks, a photo of a b\n"
    assert texts(photos)["e.txt"] == "mine"
    (photos / "bad.png").write_bytes(b"no picture")
    done = condkit(photos, *options)
    assert done.returncode == 3
    assert "rejected bad.png (decode)" in done.stderr
    assert "0 written, 4 skipped, 1 rejected" in done.stdout
    quiet = condkit(photos, *options, "-q")
    assert (quiet.stdout, quiet.stderr) == ("", "")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--captioner", "blip-bas"], "did you mean 'blip-base'?"),
        (["--set", "nun_beams=1"], "did you mean 'num_beams'?"),
        (["--set", "captions.top_p=2"], "captions.top_p: expected above 0 and at most 1"),
        (["--count", "2", "--set", "count=3"], "--count and --set count=... are both given"),
        (["--caption-template", "x"], "only --captioner template uses it"),
        (["--captioner", "blip2", "--commercial-only"], "blip2: Salesforce/blip2-opt-2.7b forbids"),
        (["--captioner", "template", "--caption-template", "{stm}"], "did you mean 'stem'?"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_done(options, complaint, photos):
    before = sorted(photos.rglob("*"))
    done = condkit(photos, *options)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert sorted(photos.rglob("*")) == before


@pytest.mark.slow
def test_the_command_runs_a_network(photos, tmp_path):
    here = Path(__file__).parent / "captions" / "random_weights" / "blip_large.py"
    runpy.run_path(str(here))["write"](tmp_path / "mine")
    options = ["--captioner", "blip-large", "--weights-dir", tmp_path / "mine", "--offline"]
    options += ["--device", "cpu", "--dtype", "fp32", "--set", "min_new_tokens=3", "--count", "2"]
    done = condkit(photos, *options, "--set", "max_new_tokens=8", "--seed", "3")
    assert done.returncode == 0, done.stderr
    found = texts(photos)
    assert {len(text.splitlines()) for text in found.values()} == {2}
    assert len(set(found.values())) > 1
    # The same from Python, in batches of other sizes.
    runtime = Runtime(device="cpu", dtype="fp32", store=WeightStore(overrides=(tmp_path / "mine",)))
    settings = {"min_new_tokens": 3, "max_new_tokens": 8, "count": 2, "seed": 3}
    captioner = make_captioner("blip-large", settings=settings, existing="replace", runtime=runtime)
    caption(photos, captioner, runtime, output=tmp_path / "again", batch_size=1)
    assert texts(tmp_path / "again") == found


# --- stopped at any moment


@pytest.fixture
def many(tmp_path) -> Path:
    folder = tmp_path / "many"
    for number in range(60):
        picture(folder / f"{number % 7}" / f"{number:03d}.png", number, (400, 300))
    return folder


def _when(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until a number of captions is there, or the run is over."""
    while process.poll() is None and len(list(folder.rglob("*.txt"))) < count:
        time.sleep(0.001)


def test_killed_at_any_moment_and_started_again_nothing_is_missing_or_half(many, tmp_path):
    arguments = ["--captioner", "template", "--caption-template", "a long text about {stem} " * 40]
    whole = tmp_path / "whole"
    assert condkit(many, *arguments, "-o", whole).returncode == 0
    expected = texts(whole)
    killed = 0
    for count in np.random.default_rng(0).integers(1, 59, 6).cumsum() % 60:
        process = start(many, *arguments)
        _when(many, int(count), process)
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert texts(many).items() <= expected.items()
    assert killed
    done = condkit(many, *arguments)
    assert done.returncode == 0, done.stderr
    assert texts(many) == expected
    assert not list(many.rglob(".condkit-tmp-*"))


def test_ctrl_c_ends_at_once_keeps_what_is_done_and_exits_130(many):
    process = start(many, "--captioner", "template")
    _when(many, 5, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert 5 <= len(texts(many)) <= 60
