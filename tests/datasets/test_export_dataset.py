"""A dataset in another format: nothing lost, nothing changed, and it goes on when it is killed."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from condkit.cli_export import export
from condkit.datasets.export import export_dataset
from condkit.datasets.formats import available_formats
from condkit.datasets.lock import locked
from condkit.datasets.reader import open_dataset
from condkit.errors import ConfigError, DatasetError, OutputError, UnknownNameError

HERE = Path(__file__)
MADE = runpy.run_path(str(HERE.with_name("made_datasets.py")))
make_row, make_rows, write_dataset = MADE["make_row"], MADE["make_rows"], MADE["write_dataset"]
files_of, DATA, CONDITIONS = MADE["tree"], MADE["DATA"], MADE["CONDITIONS"]

FORMATS = available_formats()
DESCRIBING = ("manifest.json", "README.md", "contact_sheet.png")

app = typer.Typer()
app.command()(export)


def rows_of(dataset: Path):
    """Every row of every split."""
    ours = open_dataset(dataset)
    splits = [ours.split(name) for name in ours.splits]
    return [split.row(n) for split in splits for n in range(len(split))]


def content(dataset: Path) -> dict[str, bytes]:
    """The files of a dataset, without those that describe where it comes from."""
    files = files_of(dataset)
    return {name: data for name, data in files.items() if name not in DESCRIBING}


@pytest.fixture(scope="module")
def rows():
    """Rows with gaps at the end of a shard, a whole shard, and the end of the dataset."""
    return [row for row in make_rows(23, data=DATA) if row.index not in {3, *range(7, 12), 22}]


@pytest.fixture(scope="module")
def built(rows, tmp_path_factory) -> dict[str, Path]:
    """The dataset that a build would have written, by format."""
    root = tmp_path_factory.mktemp("built")
    return {name: write_dataset(root / name, name, rows, data=DATA) for name in FORMATS}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(FORMATS, repeat=2)))
def test_an_export_is_the_dataset_that_the_build_would_have_written(before, after, built, tmp_path):
    summary = export_dataset(built[before], tmp_path / "out", format=after)
    assert content(tmp_path / "out") == content(built[after])
    assert (summary.written, summary.skipped) == (16, 0)
    assert summary.rows == {"train": 12, "validation": 4}


texts = st.text(
    st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20
) | st.sampled_from(MADE["CAPTIONS"])


@st.composite
def row_lists(draw):
    """A few rows with any texts; every row has one to three captions."""
    rows = []
    for index in sorted(draw(st.sets(st.integers(0, 30), min_size=1, max_size=5))):
        captions = tuple(draw(st.lists(texts, min_size=1, max_size=3)))
        split = draw(st.sampled_from(["train", "validation"]))
        row = make_row(index, captions[0], split=split, captions=captions, data=DATA)
        facts = {**row.facts, "source": draw(texts), "notes": draw(texts)}
        rows.append(dataclasses.replace(row, facts=facts))
    return rows


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=row_lists(), way=st.permutations(FORMATS))
def test_rows_survive_the_way_through_all_formats_and_back(rows, way, tmp_path_factory):
    root = tmp_path_factory.mktemp("way")
    at = write_dataset(root / "0", way[0], rows, data=DATA, many_captions=True)
    wanted, first = rows_of(at), content(at)
    assert sorted(wanted, key=lambda row: row.index) == rows
    for step, name in enumerate([*way[1:], way[0]], 1):
        export_dataset(at, root / str(step), format=name)
        at = root / str(step)
        assert rows_of(at) == wanted
    assert content(at) == first
    shutil.rmtree(root)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_pictures_keep_their_ending_and_bytes_where_the_format_can(suffix, tmp_path):
    rows = make_rows(4, validation=0, image_suffix=suffix)
    source = write_dataset(tmp_path / "in", "parquet", rows, image_suffix=suffix)
    for name in FORMATS:
        if name == "simpletuner":
            with pytest.raises(ConfigError, match="choose another format"):
                export_dataset(source, tmp_path / name, format=name)
            assert not (tmp_path / name).exists()
            continue
        export_dataset(source, tmp_path / name, format=name)
        assert rows_of(tmp_path / name) == rows


def test_the_manifest_is_kept_and_says_where_the_export_comes_from(built, tmp_path):
    export_dataset(built["parquet"], tmp_path / "out", format="kohya")
    before = json.loads((built["parquet"] / "manifest.json").read_text("utf-8"))
    after = json.loads((tmp_path / "out/manifest.json").read_text("utf-8"))
    digest = hashlib.sha256((built["parquet"] / "manifest.json").read_bytes()).hexdigest()
    assert after.pop("exported_from") == digest
    changed = {key for key in after if after[key] != before[key]}
    assert after.keys() == before.keys()
    assert changed == {"format", "shards"}
    assert after["format"] == "kohya"
    listed = (tmp_path / "out/SHA256SUMS").read_text("utf-8").splitlines()
    sums = dict(line.split("  ", 1)[::-1] for line in listed)
    unlisted = {"manifest.json", "README.md", "SHA256SUMS", "contact_sheet.png"}
    assert set(sums) == set(files_of(tmp_path / "out")) - unlisted
    for name, sha256 in sums.items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == sha256


def test_rejections_go_along(built, tmp_path):
    source = tmp_path / "in"
    shutil.copytree(built["parquet"], source)
    (source / "rejected.jsonl").write_text('{"source": "a"}\n')
    export_dataset(source, tmp_path / "out", format="tree")
    assert (tmp_path / "out/rejected.jsonl").read_text() == '{"source": "a"}\n'


def test_conditions_and_splits_can_be_chosen_and_reordered(built, rows, tmp_path):
    for before, after in (("webdataset", "fill50k"), ("parquet", "webdataset"), ("tree", "kohya")):
        out = tmp_path / before
        export_dataset(
            built[before], out, format=after, conditions=["softedge", "canny"], splits=["train"]
        )
        ours = open_dataset(out)
        assert (list(ours.conditions), ours.splits) == (["softedge", "canny"], ("train",))
        wanted = [row for row in rows if row.split == "train"]
        assert rows_of(out) == wanted
        alone = tmp_path / f"{before}-alone"
        export_dataset(built[before], alone, format=after, conditions=["softedge"])
        assert open_dataset(alone).manifest["data"] == {}
        assert open_dataset(alone).manifest["annotation"] == {"softedge": {"detector": "made"}}
        for row, whole in zip(rows_of(alone), rows_of(built[before]), strict=True):
            maps = {"softedge": whole.maps["softedge"]}
            assert row == dataclasses.replace(whole, maps=maps, data={})
    first = (tmp_path / "webdataset/train/prompt.json").read_text("ascii").splitlines()[0]
    assert json.loads(first)["source"].startswith("softedge/")


class StoppedError(Exception):
    pass


def stop_after(rows: int):
    def stop(done: int, total: int) -> None:
        if done == rows:
            raise StoppedError

    return stop


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("stop_at", [1, 5, 16])
def test_a_stopped_export_goes_on_and_ends_with_the_same_bytes(name, stop_at, built, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        export_dataset(built["parquet"], out, format=name, on_progress=stop_after(stop_at))
    assert not (out / "manifest.json").exists()
    with pytest.raises(DatasetError):
        open_dataset(out)
    seen = []
    summary = export_dataset(
        built["parquet"], out, format=name, on_progress=lambda done, total: seen.append(done)
    )
    assert summary.written + summary.skipped == 16
    assert seen == list(range(summary.skipped + 1, 17))
    assert content(out) == content(built[name])
    assert not (out / ".condkit/partial").exists()


def test_a_finished_export_is_not_written_again(built, tmp_path):
    export_dataset(built["parquet"], tmp_path / "out", format="tree")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()}
    summary = export_dataset(built["parquet"], tmp_path / "out", format="tree")
    assert (summary.written, summary.skipped) == (0, 16)
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert {p.name for p in after if after[p] != before.get(p)} <= {"lock"}


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_that_ended_before_its_manifest_is_finished(name, built, tmp_path):
    out = tmp_path / "out"
    export_dataset(built["parquet"], out, format=name)
    before = files_of(out)
    for path in (out / "manifest.json", out / "README.md", *out.glob("*/metadata.*")):
        path.unlink()
    with pytest.raises(DatasetError, match=r"this export is not finished.*condkit export"):
        open_dataset(out)
    summary = export_dataset(built["parquet"], out, format=name)
    assert (summary.written, summary.skipped) == (0, 16)
    assert files_of(out) == before


def test_a_file_that_went_missing_is_made_again(built, tmp_path):
    export_dataset(built["parquet"], tmp_path / "out", format="tree")
    (tmp_path / "out/train/canny/000002.png").unlink()
    (tmp_path / "out/train/images/000020.png").write_bytes(b"cut")
    summary = export_dataset(built["parquet"], tmp_path / "out", format="tree")
    assert 0 < summary.written < 16
    assert content(tmp_path / "out") == content(built["tree"])


KILLED = """
import runpy, sys, time
from pathlib import Path
from condkit.datasets.export import export_dataset
export_dataset(Path(sys.argv[1]), Path(sys.argv[2]), format=sys.argv[3],
               on_progress=lambda done, total: (print(done, flush=True), time.sleep(0.01)))
"""


@pytest.mark.parametrize(("name", "kill_at"), [("webdataset", 7), ("tree", 12)])
def test_a_killed_export_goes_on_and_ends_with_the_same_bytes(name, kill_at, built, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(built["parquet"]), str(out), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) == kill_at:
                process.send_signal(signal.SIGKILL)
                break
        process.wait(30)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    summary = export_dataset(built["parquet"], out, format=name)
    assert summary.written > 0
    assert content(out) == content(built[name])


def test_other_settings_are_refused_and_overwrite_begins_anew(built, tmp_path):
    out = tmp_path / "out"
    export_dataset(built["parquet"], out, format="imagefolder")
    with pytest.raises(OutputError, match="format was 'imagefolder', now 'tree'"):
        export_dataset(built["parquet"], out, format="tree")
    with pytest.raises(OutputError, match="source was"):
        export_dataset(built["webdataset"], out, format="imagefolder")
    assert content(out) == content(built["imagefolder"])
    export_dataset(built["parquet"], out, format="tree", overwrite=True)
    assert content(out) == content(built["tree"])


def test_overwrite_leaves_no_lines_of_the_longer_dataset_before(rows, built, tmp_path):
    few = write_dataset(tmp_path / "few", "parquet", rows[:3], data=DATA)
    export_dataset(built["parquet"], tmp_path / "out", format="imagefolder")
    export_dataset(few, tmp_path / "out", format="imagefolder", overwrite=True)
    assert rows_of(tmp_path / "out") == rows_of(few)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_things_is_left_alone(overwrite, built, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"holds other things \(holiday\.jpg\)"):
        export_dataset(built["parquet"], out, format="tree", overwrite=overwrite)
    assert [path.name for path in out.iterdir()] == ["holiday.jpg"]
    with pytest.raises(OutputError, match="this is a file"):
        export_dataset(built["parquet"], out / "holiday.jpg", format="tree", overwrite=overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_built_dataset_is_never_the_output(overwrite, built, tmp_path):
    target = tmp_path / "target"
    shutil.copytree(built["tree"], target)
    before = files_of(target)
    with pytest.raises(OutputError, match="holds other things"):
        export_dataset(built["parquet"], target, format="tree", overwrite=overwrite)
    for inside in (target, target / "train/deep"):
        with pytest.raises(OutputError, match="in the dataset that is exported"):
            export_dataset(target, inside, format="parquet", overwrite=overwrite)
    assert files_of(target) == before


def test_the_source_is_not_changed(built, tmp_path):
    def state():
        files = [path for path in built["tree"].rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = state()
    export_dataset(built["tree"], tmp_path / "out", format="parquet")
    assert state() == before


def test_two_exports_into_one_folder_are_told_apart(built, tmp_path):
    with locked(tmp_path / "out"), pytest.raises(OutputError, match="another condkit run"):
        export_dataset(built["parquet"], tmp_path / "out", format="tree")
    export_dataset(built["parquet"], tmp_path / "out", format="tree")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_place_is_an_error_that_names_it(built, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="choose a writable output folder"):
        export_dataset(built["parquet"], tmp_path / "out", format="tree")


def test_wrong_names_are_errors_with_the_right_ones(built, tmp_path):
    source, out = built["parquet"], tmp_path / "out"
    with pytest.raises(UnknownNameError, match="did you mean 'webdataset'"):
        export_dataset(source, out, format="webdatasets")
    with pytest.raises(UnknownNameError, match="did you mean 'canny'"):
        export_dataset(source, out, format="tree", conditions=["cany"])
    with pytest.raises(UnknownNameError, match="split of"):
        export_dataset(source, out, format="tree", splits=["test"])
    for nothing in ({"conditions": []}, {"splits": []}):
        with pytest.raises(ConfigError, match="at least one condition and one split"):
            export_dataset(source, out, format="tree", **nothing)
    assert not out.exists()


def test_a_source_with_too_few_rows_is_an_error_before_anything_is_written(built, tmp_path):
    source = tmp_path / "in"
    shutil.copytree(built["parquet"], source)
    next((source / "data").glob("train-*")).unlink()
    with pytest.raises(DatasetError, match="12 rows in order"):
        export_dataset(source, tmp_path / "out", format="tree")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_a_dataset_and_tells_what(built, tmp_path):
    arguments = [str(built["parquet"]), "-o", str(tmp_path / "out"), "--format", "tree"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert "tree, rows: 12 train, 4 validation" in result.stdout
    again = CliRunner().invoke(app, [*arguments, "--json"])
    values = json.loads(again.stdout)
    assert (values["written"], values["skipped"]) == (0, 16)
    assert values["rows"] == {"train": 12, "validation": 4}
    chosen = [*arguments[:2], str(tmp_path / "some"), *arguments[3:]]
    CliRunner().invoke(app, [*chosen, "-c", "softedge", "--split", "validation"])
    ours = open_dataset(tmp_path / "some")
    assert (list(ours.conditions), ours.splits) == (["softedge"], ("validation",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "one of parquet, imagefolder, .*none was given"),
        (["--format", "diffusers"], "a dataset is exported as one of parquet, .*got 'diffusers'"),
        (["--format", "tree", "--dtype", "fp16"], "--dtype: not for the export of a dataset"),
    ],
)
def test_the_command_lists_what_fits_a_dataset(options, message, built, tmp_path):
    arguments = [str(built["parquet"]), "-o", str(tmp_path / "out"), *options]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, ConfigError)
    with pytest.raises(ConfigError, match=message):
        raise result.exception


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "parquet"], "one of diffusers, single-file, control-lora; got 'parquet'"),
        (["--dtype", "int8"], "--dtype: .* one of fp32, fp16, bf16"),
        (["-c", "canny"], "--condition: not for the export of a training run"),
        (["--split", "train"], "--split: not for the export of a training run"),
    ],
)
def test_the_command_lists_what_fits_a_run(options, message, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    result = CliRunner().invoke(app, [str(tmp_path), "-o", str(tmp_path / "out"), *options])
    with pytest.raises(ConfigError, match=message):
        raise result.exception


def test_the_command_tells_what_is_neither_a_run_nor_a_dataset(tmp_path):
    for path in (tmp_path, tmp_path / "gone"):
        result = CliRunner().invoke(app, [str(path), "-o", str(tmp_path / "out")])
        with pytest.raises(ConfigError, match="this is neither"):
            raise result.exception
