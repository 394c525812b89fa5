"""`build`: the same bytes however it is run, interrupted or not; nothing lost, mixed or changed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import condkit
from condkit import imageio, pipeline
from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.captions import make_captioner
from condkit.datasets.lock import locked
from condkit.datasets.plan_store import PlanStore
from condkit.datasets.reader import open_dataset
from condkit.errors import ConfigError, DatasetError, OutputError
from condkit.pipeline import build_job
from condkit.runtime import Runtime
from condkit.weights import WeightStore

PLAN = plan_annotation(["canny", "scribble"], {"scribble.detector": "xdog"})
PLANS = Path(__file__).with_name("plan_with_data.py")
WITH_DATA, DEEP, UNPINNED = (
    runpy.run_path(str(PLANS))[name] for name in ("PLAN", "DEEP", "UNPINNED")
)
FORMATS = ("parquet", "imagefolder")
SIDE = 32


def save_picture(path: Path, seed: int, hw: tuple[int, int] = (40, 56)) -> None:
    """Coloured blocks, different for each seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    pixels = cv2.resize(blocks, (hw[1], hw[0]), interpolation=cv2.INTER_NEAREST)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())


def tree(folder: Path) -> dict[str, str]:
    """Relative name to hash of all files, hidden ones too, but for the lock."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def run(source, output, plan=PLAN, **options):
    options = {
        "captioner": make_captioner("sidecar"),
        "size": SIDE,
        "val": 0.3,
        "shard_size": 4,
        **options,
    }
    return pipeline.build(source, output, plan, Runtime(), **options)


def rows(dataset: Path) -> dict[str, tuple[str, str]]:
    """Source name to split and caption."""
    found = {}
    opened = open_dataset(dataset)
    names = {}
    store = PlanStore(dataset / ".condkit/plan.sqlite")
    for item in store.span(0, 1000):
        names[item.sha256] = item.relative
    store.close()
    for split in opened.splits:
        for row in opened.split(split):
            found[names[row.key]] = (split, row.text)
    return found


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Thirteen good pictures with captions, and three bad inputs."""
    root = tmp_path / "photos"
    for n in range(13):
        path = root / ("sub dir" if n % 3 else "ü") / f"a {n}.{'jpg' if n % 2 else 'png'}"
        save_picture(path, n)
        path.with_suffix(".txt").write_text(f"caption {n}", encoding="utf-8")
    (root / "text.jpg").write_text("I am no picture")
    save_picture(root / "uncaptioned.png", 50)
    shutil.copy(root / "ü" / "a 0.png", root / "ü" / "copy.png")
    return root


@pytest.fixture(params=FORMATS)
def layout(request) -> str:
    return request.param


def test_every_input_becomes_a_row_or_a_rejection(photos, tmp_path, layout):
    before = tree(photos)
    summary = run(photos, tmp_path / "out", format=layout)
    assert (summary.planned, summary.written, summary.skipped) == (16, 13, 0)
    assert [(r.source, r.stage) for r in summary.rejections] == [
        ("text.jpg", "decode"),
        ("uncaptioned.png", "caption"),
        ("ü/copy.png", "filter"),
    ]
    assert "ü/a 0.png" in summary.rejections[2].reason
    found = rows(tmp_path / "out")
    assert {name: text for name, (_, text) in found.items()} == {
        name: f"caption {name.rpartition(' ')[2].split('.')[0]}"
        for name in before
        if name.endswith(("jpg", "png")) and " " in name.rpartition("/")[2]
    }
    lines = (tmp_path / "out/rejected.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [r.as_dict() for r in summary.rejections]
    assert tree(photos) == before


def test_a_row_is_the_middle_square_and_the_annotators_maps_of_it(photos, tmp_path, layout):
    run(photos, tmp_path / "out", format=layout)
    opened = open_dataset(tmp_path / "out")
    with Annotator(PLAN, Runtime()) as annotator:
        for split in opened.splits:
            for row in opened.split(split):
                assert row.image.shape == (SIDE, SIDE, 3)
                (maps,) = annotator([row.image])
                for name, drawn in maps.items():
                    np.testing.assert_array_equal(row.maps[name], drawn.pixels)


def test_without_a_size_pictures_stay_as_they_are(photos, tmp_path, layout):
    run(photos, tmp_path / "out", format=layout, size=None)
    row = open_dataset(tmp_path / "out").split("train")[0]
    assert row.image.shape == (40, 56, 3)
    sources = [photos / name for name in rows(tmp_path / "out")]
    hashes = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in sources}
    np.testing.assert_array_equal(row.image, imageio.decode(hashes[row.key]).image)


def test_workers_and_batches_do_not_change_a_byte(photos, tmp_path, layout):
    trees = []
    for workers, batch_size in ((1, 1), (4, 3)):
        output = tmp_path / f"out{workers}"
        run(photos, output, format=layout, workers=workers, batch_size=batch_size)
        trees.append(tree(output))
    assert trees[0] == trees[1]


def test_a_dataset_holds_no_absolute_path(photos, tmp_path, layout):
    run(photos, tmp_path / "out", format=layout)
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert str(tmp_path).encode() not in path.read_bytes(), path


def test_a_row_keeps_what_its_maps_were_drawn_from_and_what_was_counted(photos, tmp_path, layout):
    import datasets

    datasets.disable_progress_bars()
    run(photos, tmp_path / "out", WITH_DATA, format=layout)
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    opened = open_dataset(tmp_path / "out")
    assert set(loaded["train"].column_names) == set(opened.manifest["columns"])
    assert opened.manifest["data"] == {
        "levels_json": {"condition": "levels", "suffix": ".json"},
        "levels_labels": {"condition": "levels", "suffix": ".labels.png"},
    }
    for split in opened.splits:
        for theirs, row in zip(loaded[split], opened.split(split), strict=True):
            drawn = row.maps["levels"]
            np.testing.assert_array_equal(np.array(theirs["levels_labels"]) * 85, drawn)
            told = json.loads(theirs["levels_json"])
            assert told["dark"] == np.count_nonzero(drawn == 0)
            assert told["note"] == "dunkel: 猫"
            counted = json.loads(theirs["facts"])
            assert list(counted) == ["canny", "levels"]
            assert counted["levels"]["levels"] == len(np.unique(drawn))
            assert counted["canny"] == {"edge_fraction": np.mean(row.maps["canny"] > 0)}
    card = (tmp_path / "out/README.md").read_text("utf-8")
    assert "`levels_labels` | PNG" in card


def test_data_can_be_left_out_and_this_is_a_setting(photos, tmp_path, layout):
    run(photos, tmp_path / "out", WITH_DATA, format=layout, data=False)
    manifest = open_dataset(tmp_path / "out").manifest
    assert manifest["data"] == {}
    assert not [column for column in manifest["columns"] if column.startswith("levels_")]
    assert not list((tmp_path / "out").rglob("levels_labels"))
    with pytest.raises(OutputError, match=r"data.* now 'levels_json'"):
        run(photos, tmp_path / "out", WITH_DATA, format=layout)


def test_maps_of_sixteen_bits_are_kept_as_the_settings_make_them(photos, tmp_path, layout):
    run(photos, tmp_path / "out", DEEP, format=layout)
    opened = open_dataset(tmp_path / "out")
    assert opened.conditions["levels"] == DEEP.specs[0]
    assert opened.manifest["conditions"]["levels"]["dtype"] == "uint16"
    drawn = opened.split("train")[0].maps["levels"]
    assert drawn.dtype == np.uint16
    assert drawn.max() > 255


def test_weights_without_a_published_hash_stand_with_theirs_in_manifest_and_record(
    photos, tmp_path
):
    weights = tmp_path / "weights" / "levels.bin"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    store = WeightStore(overrides=(weights.parent,), cache=tmp_path / "cache", offline=True)
    runtime = Runtime(device="cpu", store=store)
    options = {"captioner": make_captioner("sidecar"), "size": SIDE, "val": 0.3}
    for _ in range(2):
        pipeline.build(photos, tmp_path / "out", UNPINNED, runtime, **options)
        pipeline.annotate([photos], tmp_path / "maps", UNPINNED, runtime)
    manifest = open_dataset(tmp_path / "out").manifest
    assert manifest["annotation"]["levels"]["weights"] == [{"file": "levels.bin", "sha256": digest}]
    assert digest in (tmp_path / "maps/.condkit/annotate.json").read_text("utf-8")
    weights.write_bytes(b"others")
    fresh = Runtime(device="cpu", store=replace(store, cache=tmp_path / "other cache"))
    for again in (
        lambda: pipeline.build(photos, tmp_path / "out", UNPINNED, fresh, **options),
        lambda: pipeline.annotate([photos], tmp_path / "maps", UNPINNED, fresh),
    ):
        with pytest.raises(OutputError, match=f"sha256 was '{digest}'"):
            again()


def test_a_finished_dataset_is_left_alone(photos, tmp_path, layout, monkeypatch):
    run(photos, tmp_path / "out", format=layout)
    before = tree(tmp_path / "out")
    monkeypatch.setattr(build_job, "Annotator", None)
    summary = run(photos, tmp_path / "out", format=layout)
    assert (summary.written, summary.skipped, len(summary.rejections)) == (0, 13, 3)
    assert tree(tmp_path / "out") == before


def test_an_interrupted_build_keeps_its_shards_and_ends_with_the_same_bytes(
    photos, tmp_path, layout
):
    run(photos, tmp_path / "whole", format=layout)

    def interrupt(progress):
        if progress.done == 8 and not progress.stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / "out", format=layout, on_progress=interrupt)
    with pytest.raises(DatasetError, match="not finished"):
        open_dataset(tmp_path / "out")
    summary = run(photos, tmp_path / "out", format=layout)
    assert summary.skipped > 0
    assert summary.written + summary.skipped == 13
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


KILLED = """
import os, runpy, signal, sys
from pathlib import Path

source, output, layout, limit, plans = sys.argv[1:]
count = 0

def watch(event, arguments):
    global count
    if event in ("open", "os.rename", "os.remove", "os.mkdir") and output in str(arguments[0]):
        count += 1
        if count == int(limit):
            os.kill(os.getpid(), signal.SIGKILL)

from condkit import pipeline
from condkit.runtime import Runtime
from condkit.captions import make_captioner

plan = runpy.run_path(plans)["PLAN"]
sys.addaudithook(watch)
pipeline.build(Path(source), Path(output), plan, Runtime(), captioner=make_captioner("sidecar"),
               size=32, val=0.3, shard_size=4, format=layout, workers=2)
sys.stdout.write(str(count))
"""


def child(source: Path, output: Path, layout: str, limit: int) -> subprocess.CompletedProcess:
    root = str(Path(condkit.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", KILLED, str(source), str(output), layout, str(limit), str(PLANS)],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_build_killed_anywhere_ends_with_the_same_bytes(photos, tmp_path, layout):
    counted = child(photos, tmp_path / "whole", layout, 0)
    assert counted.returncode == 0, counted.stderr
    whole = tree(tmp_path / "whole")
    operations = int(counted.stdout)
    assert operations > 30
    draw = random.Random(layout)
    for limit in sorted(draw.sample(range(2, operations), 3)):
        output = tmp_path / f"killed-{limit}"
        assert child(photos, output, layout, limit).returncode == -signal.SIGKILL
        run(photos, output, WITH_DATA, format=layout)
        assert tree(output) == whole, f"killed at file operation {limit} of {operations}"


def test_a_damaged_shard_is_made_again(photos, tmp_path, layout):
    run(photos, tmp_path / "out", format=layout)
    before = tree(tmp_path / "out")
    victim = next(p for p in (tmp_path / "out/").rglob("*0001*") if "metadata" not in p.parts)
    victim = victim if victim.is_file() else tmp_path / "out/.condkit/shards/00001.json"
    victim.write_bytes(victim.read_bytes()[:100])
    assert run(photos, tmp_path / "out", format=layout).written in (3, 4)
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"size": 48}, "size was 32, now 48"),
        ({"val": 0.5}, "val was 0.3, now 0.5"),
        ({"seed": 3}, "seed was 0, now 3"),
        ({"shard_size": 5}, "shard_size was 4, now 5"),
        ({"format": "imagefolder"}, "format was 'parquet', now 'imagefolder'"),
        ({"captioner": make_captioner("none")}, "captions.captioner was 'sidecar', now 'none'"),
        ({"plan": plan_annotation(["canny"])}, "annotation.scribble"),
        (
            {
                "plan": plan_annotation(
                    ["canny", "scribble"], {"scribble.detector": "xdog", "canny.low": "5"}
                )
            },
            "annotation.canny.detector_params.low was 100, now 5",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_changed_settings_are_refused_by_name(options, named, photos, tmp_path):
    run(photos, tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(OutputError) as caught:
        run(photos, tmp_path / "out", **options)
    assert named in str(caught.value)
    assert tree(tmp_path / "out") == before


def test_a_changed_source_is_refused_by_name(photos, tmp_path):
    run(photos, tmp_path / "out")
    save_picture(photos / "new.png", 99)
    with pytest.raises(OutputError, match=r"new\.png is new"):
        run(photos, tmp_path / "out")
    (photos / "new.png").unlink()
    (photos / "ü/a 3.txt").write_text("another caption")
    with pytest.raises(OutputError, match=r"beside ü/a 3\.jpg \(its caption"):
        run(photos, tmp_path / "out")
    (photos / "ü/a 3.txt").write_text("caption 3")
    save_picture(photos / "ü/a 3.jpg", 98)
    with pytest.raises(OutputError, match=r"ü/a 3\.jpg has other content"):
        run(photos, tmp_path / "out")
    (photos / "ü/a 3.jpg").unlink()
    with pytest.raises(OutputError, match=r"ü/a 3\.jpg is gone"):
        run(photos, tmp_path / "out")


def test_a_source_that_changes_during_the_build_is_an_error(photos, tmp_path):
    def change(progress):
        if progress.done == 4 and not progress.stage:
            save_picture(photos / "ü/a 9.jpg", 97)

    with pytest.raises(DatasetError, match=r"a 9\.jpg has changed"):
        run(photos, tmp_path / "out", workers=1, batch_size=1, on_progress=change)


def test_another_environment_matters_only_while_work_is_left(photos, tmp_path, monkeypatch):
    run(photos, tmp_path / "out")
    monkeypatch.setattr(build_job.manifest, "_version", lambda name: "9.9")
    assert run(photos, tmp_path / "out").skipped == 13
    (tmp_path / "out/.condkit/shards/00001.json").unlink()
    with pytest.raises(OutputError, match=r"numpy was .*, now '9\.9'"):
        run(photos, tmp_path / "out")


def test_overwrite_begins_anew_and_removes_only_the_dataset(photos, tmp_path):
    run(photos, tmp_path / "out")
    (tmp_path / "out/notes.md").write_text("mine")
    summary = run(photos, tmp_path / "out", format="imagefolder", overwrite=True)
    assert summary.written == 13
    assert not (tmp_path / "out/data").exists()
    assert (tmp_path / "out/notes.md").read_text() == "mine"


def test_a_folder_with_other_things_is_refused(photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("mine")
    for options in ({}, {"overwrite": True}):
        with pytest.raises(OutputError, match=r"thesis\.tex"):
            run(photos, tmp_path / "out", **options)
    assert tree(tmp_path / "out").keys() == {"thesis.tex"}


def test_two_runs_cannot_use_one_folder(photos, tmp_path):
    with locked(tmp_path / "out"), pytest.raises(OutputError, match="another condkit run"):
        run(photos, tmp_path / "out")


def test_the_split_of_a_row_stays_when_data_is_added(photos, tmp_path):
    run(photos, tmp_path / "before")
    for n in range(100, 110):
        save_picture(photos / f"b{n}.png", n)
        (photos / f"b{n}.txt").write_text("new")
    run(photos, tmp_path / "after")
    before, after = rows(tmp_path / "before"), rows(tmp_path / "after")
    assert len(after) == len(before) + 10
    assert {name: after[name] for name in before} == before
    assert {split for split, _ in before.values()} == {"train", "validation"}


def test_a_dry_run_counts_and_writes_nothing(photos, tmp_path):
    summary = run(photos, tmp_path / "out", dry_run=True)
    assert (summary.dry_run, summary.planned, summary.remaining) == (True, 16, 15)
    assert [r.source for r in summary.rejections] == ["ü/copy.png"]
    assert not (tmp_path / "out").exists()


def test_progress_counts_up_to_all_images(photos, tmp_path):
    told = []
    run(photos, tmp_path / "out", on_progress=told.append)
    hashed = [p for p in told if p.stage == "hash"]
    assert hashed
    assert told[: len(hashed)] == hashed
    made = told[len(hashed) :]
    assert [p.done for p in made] == list(range(2, 17))
    assert {p.total for p in told} == {16}
    assert told[-1].rejected == 3


def test_a_source_of_only_bad_inputs_is_an_error(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_text("no picture")
    with pytest.raises(DatasetError, match="all 1 inputs"):
        run(tmp_path / "in", tmp_path / "out")
    assert "a.jpg" in (tmp_path / "out/rejected.jsonl").read_text()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"val": 1.0}, "val"),
        ({"val": -0.1}, "val"),
        ({"size": 0}, "size"),
        ({"shard_size": 0}, "shard_size"),
        ({"format": "parqet"}, "did you mean 'parquet'"),
        ({"plan": plan_annotation([])}, "condition"),
    ],
    ids=str,
)
def test_impossible_values_are_refused(options, named, photos, tmp_path):
    with pytest.raises(ValueError, match=named):
        run(photos, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected a folder"):
        run(tmp_path / "gone", tmp_path / "out")


def test_the_checksums_are_those_of_the_files(photos, tmp_path, layout):
    output = tmp_path / "out"
    run(photos, output, format=layout)
    listed = {}
    for line in (output / "SHA256SUMS").read_text().splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    data = {
        name: digest
        for name, digest in tree(output).items()
        if name.split("/")[0] in ("data", "train", "validation")
    }
    assert listed == data


def test_the_manifest_tells_how_the_dataset_was_made(photos, tmp_path, layout):
    run(photos, tmp_path / "out", format=layout)
    manifest = open_dataset(tmp_path / "out").manifest
    assert manifest["annotation"] == PLAN.as_dict()
    assert list(manifest["conditions"]) == ["canny", "scribble"]
    assert manifest["captions"]["captioner"] == "sidecar"
    assert (manifest["size"], manifest["split"]["validation"]) == (SIDE, 0.3)
    assert sum(manifest["rows"].values()) == 13
    assert sum(sum(shard["rows"].values()) for shard in manifest["shards"]) == 13
    assert manifest["rejected"] == {"caption": 1, "decode": 1, "filter": 1}
    assert manifest["environment"]["condkit"] == condkit.__version__
