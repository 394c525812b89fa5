"""`condkit caption` on a dataset: a copy in which only captions differ."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import runpy
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from condkit.captions import make_captioner
from condkit.captions.base import Captions, WithoutNetwork
from condkit.cli_caption import caption
from condkit.datasets.formats import available_formats
from condkit.datasets.reader import open_dataset
from condkit.errors import ConfigError, DatasetError, OutputError
from condkit.pipeline.captioning import caption as write_captions
from condkit.pipeline.recaptioning import caption_dataset
from condkit.runtime import Runtime
from condkit.types import Rejection

MADE = runpy.run_path(str(Path(__file__).parent / "datasets" / "made_datasets.py"))
make_rows, write_dataset, files_of = MADE["make_rows"], MADE["write_dataset"], MADE["tree"]

app = typer.Typer()
app.command()(caption)


class Said(WithoutNetwork):
    """Says which picture it was given."""

    name = "said"
    many = False

    def __init__(self, stop_at=None, reject=()):
        self.seen = []
        self.stop_at = stop_at
        self.reject = reject

    def as_dict(self):
        return {"captioner": self.name}

    def reads(self, source):
        return ()

    def __call__(self, images, sources):
        if self.stop_at is not None and len(self.seen) >= self.stop_at:
            raise KeyboardInterrupt
        self.seen += [source.relative for source in sources]
        return [
            Rejection(source.relative, "caption", "no words")
            if source.relative in self.reject
            else Captions(
                (f"picture {hashlib.sha256(image.tobytes()).hexdigest()[:9]}",), self.name
            )
            for image, source in zip(images, sources, strict=True)
        ]


def rows_of(dataset: Path):
    """Every row of every split, in the order of the build."""
    ours = open_dataset(dataset)
    splits = [ours.split(name) for name in ours.splits]
    rows = [split.row(n) for split in splits for n in range(len(split))]
    return sorted(rows, key=lambda row: row.index)


@pytest.fixture(scope="module")
def rows():
    """Every third caption is empty."""
    return [
        dataclasses.replace(row, text="", captions=("",)) if row.index % 3 == 0 else row
        for row in make_rows(14)
    ]


@pytest.fixture
def source(rows, tmp_path):
    return write_dataset(tmp_path / "in", "parquet", rows)


def run(source, captioner, output, **options):
    return caption_dataset(source, captioner, Runtime(device="cpu"), output=output, **options)


@pytest.mark.parametrize("name", available_formats())
def test_only_empty_captions_are_made_and_all_else_stays(name, rows, tmp_path):
    source = write_dataset(tmp_path / "in", name, rows)
    before, kept = files_of(source), rows_of(source)
    captioner = Said()
    summary = run(source, captioner, tmp_path / "out")
    assert (summary.planned, summary.written, summary.skipped) == (len(kept), len(kept), 0)
    assert files_of(source) == before
    made = rows_of(tmp_path / "out")
    for old, new in zip(kept, made, strict=True):
        if any(old.captions or (old.text,)):
            assert new == old
        else:
            assert new.text.startswith("picture ")
            assert new.facts["captioner"] == "said"
            same = dataclasses.replace(new, text=old.text, captions=old.captions, facts=old.facts)
            assert same == old
    assert len(captioner.seen) == sum(not row.text for row in kept)


def test_with_overwrite_every_caption_is_made(source, tmp_path):
    run(source, Said(), tmp_path / "out", overwrite=True)
    made = rows_of(tmp_path / "out")
    assert all(row.text.startswith("picture ") for row in made)
    assert len({row.text for row in made}) == len(made)


def test_the_columns_can_be_worded_again(source, tmp_path):
    settings = {"missing": "empty"}
    captioner = make_captioner("metadata", settings=settings, trigger="sks")
    run(source, captioner, tmp_path / "out", overwrite=True)
    for old, new in zip(rows_of(source), rows_of(tmp_path / "out"), strict=True):
        assert new.text == (f"sks, {' '.join(old.text.split())}" if old.text.strip() else "sks")


def test_batches_do_not_change_a_row(source, tmp_path):
    for size in (1, 4, 100):
        run(source, Said(), tmp_path / str(size), overwrite=True, batch_size=size)
    assert rows_of(tmp_path / "1") == rows_of(tmp_path / "4") == rows_of(tmp_path / "100")


def test_the_manifest_tells_who_said_what(source, tmp_path):
    run(source, Said(), tmp_path / "kept")
    run(source, Said(), tmp_path / "all", overwrite=True)
    before = open_dataset(source).manifest["captions"]
    kept = open_dataset(tmp_path / "kept").manifest["captions"]
    assert kept == {"captioner": "said", "rows": "those without a caption", "others": before}
    everything = open_dataset(tmp_path / "all").manifest["captions"]
    assert everything == {"captioner": "said", "rows": "all"}


def test_interrupted_and_started_again_it_ends_the_same(source, tmp_path):
    run(source, Said(), tmp_path / "whole", overwrite=True, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        run(source, Said(stop_at=6), tmp_path / "out", overwrite=True, batch_size=2)
    with pytest.raises(DatasetError):
        open_dataset(tmp_path / "out")
    second = Said()
    summary = run(source, second, tmp_path / "out", overwrite=True, batch_size=2)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    assert summary.skipped == summary.planned - len(second.seen)
    assert summary.skipped > 0


def test_other_captions_are_not_mixed_in(source, tmp_path):
    run(source, Said(), tmp_path / "out")
    with pytest.raises(OutputError, match="other settings"):
        run(source, make_captioner("none"), tmp_path / "out")


def test_a_row_that_cannot_be_captioned_is_named(source, tmp_path):
    relative = str(next(row for row in rows_of(source) if not row.text).facts["source"])
    with pytest.raises(DatasetError, match="cannot be captioned: no words") as caught:
        run(source, Said(reject=(relative,)), tmp_path / "out")
    assert relative in str(caught.value)


def test_the_command_needs_a_new_folder_for_a_dataset(source, tmp_path):
    runner = CliRunner()
    done = runner.invoke(app, [str(source), "--captioner", "template"])
    assert "a dataset, which is not changed" in str(done.exception)
    options = ["--captioner", "template", "--caption-template", "of {fields[text]}", "--overwrite"]
    out = tmp_path / "out"
    failed = runner.invoke(app, [str(source), *options, "-o", str(source / "inside")])
    assert isinstance(failed.exception, OutputError)
    done = runner.invoke(app, [str(source), *options, "-o", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["written"] == len(rows_of(source))
    for old, new in zip(rows_of(source), rows_of(out), strict=True):
        assert new.text == " ".join(f"of {old.text}".split())


def test_captions_are_not_written_beside_the_pictures_of_a_dataset(rows, tmp_path):
    source = write_dataset(tmp_path / "in", "imagefolder", rows)
    before = files_of(source)
    with pytest.raises(ConfigError, match="is a dataset"):
        write_captions(source, Said(), Runtime(device="cpu"))
    assert files_of(source) == before
