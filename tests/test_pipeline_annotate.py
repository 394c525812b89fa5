"""`annotate` over real files: where maps lie, what is kept, what is refused, what is rejected."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import condkit
from condkit import imageio, pipeline
from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.datasets.lock import locked
from condkit.errors import ConfigError, OutputError
from condkit.pipeline import annotating
from condkit.runtime import Runtime

CANNY = plan_annotation(["canny"])
BOTH = plan_annotation(["canny", "scribble"], {"scribble.detector": "xdog"})
PLANS = Path(__file__).with_name("plan_with_data.py")
WITH_DATA, DEEP = (runpy.run_path(str(PLANS))[name] for name in ("PLAN", "DEEP"))


def save_picture(path: Path, seed: int, hw: tuple[int, int] = (40, 56)) -> None:
    """Coloured blocks, different for each seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    pixels = cv2.resize(blocks, (hw[1], hw[0]), interpolation=cv2.INTER_NEAREST)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())


def tree(folder: Path) -> dict[str, str]:
    """Relative name to hash of all visible files."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".condkit" not in path.parts
    }


def facts(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "facts.jsonl").read_text("utf-8").splitlines()]


def run(paths, output, plan=CANNY, **options):
    paths = paths if isinstance(paths, list) else [paths]
    return pipeline.annotate(paths, output, plan, Runtime(), **options)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    names = ["a.jpg", "a.png", "sub/a.jpg", "sub dir/ü 1.2.JPG", "猫/b.png"]
    for seed, name in enumerate(names):
        save_picture(root / name, seed)
    return root


def test_every_image_has_its_map_under_its_whole_name_and_nothing_collides(photos, tmp_path):
    before = tree(photos)
    summary = run(photos, tmp_path / "out", BOTH)
    expected = {f"{c}/{name}.png" for c in ("canny", "scribble") for name in before}
    assert set(tree(tmp_path / "out")) == expected | {"facts.jsonl"}
    assert (summary.planned, summary.written, summary.skipped) == (5, 5, 0)
    assert summary.rejections == ()
    assert tree(photos) == before


def test_a_map_is_the_annotators_for_the_decoded_image(photos, tmp_path):
    run(photos, tmp_path / "out", BOTH)
    image = imageio.decode(photos / "sub/a.jpg").image
    with Annotator(BOTH, Runtime()) as annotator:
        (maps,) = annotator([image])
    for name, drawn in maps.items():
        stored = imageio.read_map(tmp_path / "out" / name / "sub/a.jpg.png")
        assert stored.shape[:2] == image.shape[:2]
        np.testing.assert_array_equal(stored, drawn.pixels)


def test_workers_and_batches_do_not_change_a_byte(photos, tmp_path):
    trees = []
    for workers, batch_size in ((1, 1), (4, 3)):
        output = tmp_path / f"out{workers}"
        run(photos, output, BOTH, workers=workers, batch_size=batch_size)
        trees.append(tree(output))
    assert trees[0] == trees[1]


def test_size_is_the_short_side_that_is_annotated(photos, tmp_path):
    run(photos, tmp_path / "out", size=20)
    assert imageio.read_map(tmp_path / "out/canny/a.jpg.png").shape == (20, 28)


def test_a_second_run_makes_nothing_again(photos, tmp_path, monkeypatch):
    run(photos, tmp_path / "out")
    monkeypatch.setattr(annotating, "Annotator", None)
    summary = run(photos, tmp_path / "out")
    assert (summary.written, summary.skipped) == (0, 5)


def test_only_what_is_missing_is_made(photos, tmp_path, monkeypatch):
    output = tmp_path / "out"
    run(photos, output)
    (output / "canny/a.jpg.png").unlink()
    save_picture(photos / "new.png", 9)
    made = []

    class Spy(Annotator):
        def predict(self, images):
            made.append((tuple(s.name for s in self.plan.specs), len(images)))
            return super().predict(images)

    monkeypatch.setattr(annotating, "Annotator", Spy)
    summary = run(photos, output, BOTH, batch_size=8)
    assert sorted(made) == [(("canny", "scribble"), 2), (("scribble",), 4)]
    assert (summary.written, summary.skipped) == (6, 0)
    assert run(photos, output, BOTH).skipped == 6


def test_the_map_of_a_changed_source_is_made_again(photos, tmp_path):
    output = tmp_path / "out"
    run(photos, output)
    before = tree(output)
    save_picture(photos / "a.png", 77, (30, 30))
    assert run(photos, output).written == 1
    after = tree(output)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"canny/a.png.png", "facts.jsonl"}


def test_a_source_that_was_only_touched_keeps_its_map(photos, tmp_path):
    run(photos, tmp_path / "out")
    os.utime(photos / "a.png", (1, 1))
    assert run(photos, tmp_path / "out").skipped == 5


def test_a_map_of_a_killed_run_that_was_not_noted_is_made_again(photos, tmp_path):
    output = tmp_path / "out"
    run(photos, output)
    before = tree(output)
    log = output / ".condkit/maps.jsonl"
    log.write_bytes(log.read_bytes()[:-40])
    assert run(photos, output).written == 1
    assert run(photos, output).skipped == 5
    assert tree(output) == before


def test_half_a_map_of_a_killed_run_is_removed(photos, tmp_path):
    half = tmp_path / "out/canny/sub/.condkit-tmp-0123"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    run(photos, tmp_path / "out")
    assert not half.exists()


def test_other_settings_are_refused_by_name_until_overwrite(photos, tmp_path):
    output = tmp_path / "out"
    run(photos, output)
    other = plan_annotation(["canny"], {"canny.low": "50"})
    with pytest.raises(OutputError, match=r"canny\.detector_params\.low was 100.*now 50"):
        run(photos, output, other)
    with pytest.raises(OutputError, match=r"canny\.size was None, now 20"):
        run(photos, output, size=20)
    assert run(photos, output, other, overwrite=True).written == 5
    assert run(photos, output, other).skipped == 5


def test_a_file_that_is_not_ours_is_not_replaced_until_overwrite(photos, tmp_path):
    strange = tmp_path / "out/canny/a.jpg.png"
    save_picture(strange, 5)
    before = strange.read_bytes()
    with pytest.raises(OutputError, match=r"a\.jpg\.png"):
        run(photos, tmp_path / "out")
    assert strange.read_bytes() == before
    run(photos, tmp_path / "out", overwrite=True)
    assert strange.read_bytes() != before


def test_an_output_inside_of_the_input_is_never_an_input(photos):
    assert run(photos, photos / "maps").written == 5
    again = run(photos, photos / "maps")
    assert (again.planned, again.skipped) == (5, 5)


def test_maps_are_not_written_into_the_folder_that_is_read(photos):
    shutil.copytree(photos, photos / "canny")
    with pytest.raises(ConfigError, match="canny maps would be written"):
        run(photos / "canny", photos)


def test_several_folders_keep_their_maps_apart(tmp_path):
    for seed, name in enumerate(("x/a.jpg", "y/a.jpg")):
        save_picture(tmp_path / name, seed)
    run([tmp_path / "x", tmp_path / "y"], tmp_path / "out")
    assert set(tree(tmp_path / "out/canny")) == {"x/a.jpg.png", "y/a.jpg.png"}
    assert [told["source"] for told in facts(tmp_path / "out")] == ["x/a.jpg", "y/a.jpg"]


def test_inputs_that_cannot_be_used_are_listed_with_their_reasons(photos, tmp_path):
    (photos / "text.jpg").write_text("I am no picture")
    whole = (photos / "a.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "empty.png").touch()
    (photos / "gone.jpg").symlink_to(photos / "nothing.jpg")
    output = tmp_path / "out"
    summary = run(photos, output)
    assert (summary.written, len(summary.rejections)) == (5, 4)
    assert summary.rejected_by_stage == {"decode": 4}
    lines = [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]
    assert [line["source"] for line in lines] == ["cut.jpg", "empty.png", "gone.jpg", "text.jpg"]
    assert all(line["reason"] for line in lines)
    for name in ("cut.jpg", "empty.png", "text.jpg", "gone.jpg"):
        (photos / name).unlink()
    assert run(photos, output).rejections == ()
    assert not (output / "rejected.jsonl").exists()


def test_a_rejected_input_is_tried_again(photos, tmp_path):
    (photos / "late.png").write_text("still downloading")
    assert len(run(photos, tmp_path / "out").rejections) == 1
    save_picture(photos / "late.png", 8)
    summary = run(photos, tmp_path / "out")
    assert (summary.written, summary.skipped, summary.rejections) == (1, 5, ())


def test_a_map_name_that_cannot_be_is_a_rejection(photos, tmp_path):
    save_picture(photos / ("x" * 250 + ".png"), 7)
    save_picture(photos / "a.jpg.png" / "inner.png", 8)
    summary = run(photos, tmp_path / "out")
    assert {r.stage for r in summary.rejections} == {"write"}
    assert [r.source for r in summary.rejections] == ["a.jpg", "x" * 250 + ".png"]
    assert summary.written == 5


def test_a_dry_run_counts_and_writes_nothing(photos, tmp_path):
    summary = run(photos, tmp_path / "out", dry_run=True)
    assert (summary.dry_run, summary.remaining, summary.written) == (True, 5, 0)
    assert not (tmp_path / "out").exists()
    run(photos, tmp_path / "out")
    save_picture(photos / "new.png", 9)
    before = tree(tmp_path / "out")
    summary = run(photos, tmp_path / "out", dry_run=True)
    assert (summary.remaining, summary.skipped) == (1, 5)
    assert tree(tmp_path / "out") == before


def test_progress_counts_up_to_all_images(photos, tmp_path):
    (photos / "text.jpg").write_text("I am no picture")
    told = []
    run(photos, tmp_path / "out", on_progress=told.append)
    assert [p.done for p in told] == list(range(1, 7))
    assert {p.total for p in told} == {6}
    assert told[-1].rejected == 1


def test_an_interrupted_run_keeps_what_is_finished_and_goes_on(photos, tmp_path):
    def interrupt(progress):
        if progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / "out", workers=1, batch_size=1, on_progress=interrupt)
    assert len(tree(tmp_path / "out/canny")) == 3
    summary = run(photos, tmp_path / "out")
    assert (summary.written, summary.skipped) == (2, 3)


def test_what_a_map_was_drawn_from_lies_beside_it(photos, tmp_path):
    run(photos, tmp_path / "out", WITH_DATA)
    images = list(tree(photos))
    expected = {f"canny/{name}.png" for name in images}
    expected |= {f"levels/{n}{s}" for n in images for s in (".png", ".json", ".labels.png")}
    assert set(tree(tmp_path / "out")) == expected | {"facts.jsonl"}
    for name in images:
        drawn = imageio.read_map(tmp_path / "out/levels" / f"{name}.png")
        labels = imageio.read_map(tmp_path / "out/levels" / f"{name}.labels.png")
        np.testing.assert_array_equal(labels * 85, drawn)
        told = json.loads((tmp_path / "out/levels" / f"{name}.json").read_text("utf-8"))
        assert told["dark"] == np.count_nonzero(drawn == 0)


def test_what_was_counted_stands_in_one_table_sorted_by_source(photos, tmp_path):
    run(photos, tmp_path / "out", WITH_DATA)
    told = facts(tmp_path / "out")
    keys = [(line["source"], line["condition"]) for line in told]
    assert keys == sorted((name, c) for name in tree(photos) for c in ("canny", "levels"))
    for line in told:
        path = tmp_path / "out" / line["condition"] / f"{line['source']}.png"
        drawn = imageio.read_map(path)
        if line["condition"] == "canny":
            assert line["facts"] == {"edge_fraction": np.mean(drawn > 0)}
        else:
            assert line["facts"]["levels"] == len(np.unique(drawn))


def test_facts_stay_complete_and_single_when_runs_add_to_each_other(photos, tmp_path):
    output = tmp_path / "out"
    run(photos, output, WITH_DATA)
    whole = tree(output)
    (output / "facts.jsonl").unlink()
    (output / "canny/a.png.png").unlink()
    run(photos, output, CANNY)
    assert tree(output) == whole
    run(photos, output, plan_annotation(["canny"], {"canny.low": "1"}), overwrite=True)
    assert len(facts(output)) == 10


def test_data_can_be_left_out_and_made_later(photos, tmp_path):
    output = tmp_path / "out"
    run(photos, tmp_path / "whole", WITH_DATA)
    run(photos, output, WITH_DATA, data=False)
    assert {Path(name).suffix for name in tree(output)} == {".png", ".jsonl"}
    assert not list(output.rglob("*.labels.png"))
    assert run(photos, output, WITH_DATA, data=False).skipped == 5
    assert run(photos, output, WITH_DATA).written == 5
    assert tree(output) == tree(tmp_path / "whole")
    assert run(photos, output, WITH_DATA, data=False).skipped == 5


def test_a_map_counts_only_with_its_data(photos, tmp_path):
    output = tmp_path / "out"
    run(photos, output, WITH_DATA)
    whole = tree(output)
    (output / "levels/a.jpg.json").unlink()
    (output / "levels/a.png.labels.png").unlink()
    assert run(photos, output, WITH_DATA).written == 2
    assert tree(output) == whole


def test_old_data_does_not_stay_beside_a_new_map(photos, tmp_path):
    output = tmp_path / "out"
    run(photos, output, WITH_DATA)
    save_picture(photos / "a.jpg", 70)
    run(photos, output, WITH_DATA, data=False)
    assert not (output / "levels/a.jpg.json").exists()
    assert (output / "levels/a.png.json").exists()


def test_data_that_cannot_have_its_name_is_a_rejection(photos, tmp_path):
    save_picture(photos / "a.jpg.json" / "inner.png", 8)
    summary = run(photos, tmp_path / "out", WITH_DATA)
    assert [(r.source, r.stage) for r in summary.rejections] == [("a.jpg", "write")]
    assert "a.jpg.json" in summary.rejections[0].reason
    whole = photos / "b.png"
    save_picture(whole, 9)
    whole.rename(photos / "a.png.labels")
    paths = [photos / "a.png", photos / "a.png.labels"]
    summary = run(paths, tmp_path / "files", WITH_DATA)
    assert [r.source for r in summary.rejections] == ["a.png"]
    assert "the map of another input" in summary.rejections[0].reason


def test_a_file_of_facts_that_is_not_ours_is_not_replaced(photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/facts.jsonl").write_text("mine")
    with pytest.raises(OutputError, match=r"facts\.jsonl"):
        run(photos, tmp_path / "out")
    assert (tmp_path / "out/facts.jsonl").read_text() == "mine"


def test_a_fact_that_is_no_number_rejects_its_image_by_name(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(np, "count_nonzero", lambda ids: float("nan"))
    summary = run(photos, tmp_path / "out", WITH_DATA)
    assert len(summary.rejections) == 5
    assert "dark_fraction" in summary.rejections[0].reason


def test_maps_of_sixteen_bits_are_written_as_such(photos, tmp_path):
    run(photos, tmp_path / "out", DEEP)
    assert imageio.read_map(tmp_path / "out/levels/a.jpg.png").dtype == np.uint16


KILLED = """
import os, runpy, signal, sys
from pathlib import Path

source, output, limit, plans = sys.argv[1:]
count = 0

def watch(event, arguments):
    global count
    if event in ("open", "os.rename", "os.mkdir") and output in str(arguments[0]):
        count += 1
        if count == int(limit):
            os.kill(os.getpid(), signal.SIGKILL)

from condkit import pipeline
from condkit.runtime import Runtime

plan = runpy.run_path(plans)["PLAN"]
sys.addaudithook(watch)
pipeline.annotate([Path(source)], Path(output), plan, Runtime(), workers=2)
"""


@pytest.mark.parametrize("limit", [14, 22, 41, 60])
def test_a_killed_run_leaves_no_half_map_and_is_gone_on_with(limit, photos, tmp_path):
    run(photos, tmp_path / "whole", WITH_DATA)
    output = tmp_path / "out"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(photos), str(output), str(limit), str(PLANS)],
        env={**os.environ, "PYTHONPATH": str(Path(condkit.__file__).parents[1])},
        check=False,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL
    finished = [path for path in output.rglob("*.png") if not path.name.startswith(".")]
    assert all(imageio.read_map(path).shape == (40, 56) for path in finished)
    summary = run(photos, output, WITH_DATA)
    assert summary.written + summary.skipped == 5
    assert tree(output) == tree(tmp_path / "whole")


def test_two_runs_cannot_use_one_folder(photos, tmp_path):
    with locked(tmp_path / "out"), pytest.raises(OutputError, match="another condkit run"):
        run(photos, tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(photos, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="out"):
        run(photos, tmp_path / "out")


def test_an_unexpected_error_names_the_image(photos, tmp_path, monkeypatch):
    def fail(pixels):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(imageio, "encode_png", fail)
    with pytest.raises(RuntimeError) as caught:
        run(photos, tmp_path / "out")
    assert any("a.jpg" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("name", ["size", "workers", "batch_size"])
def test_counts_below_one_are_refused(name, photos, tmp_path):
    with pytest.raises(ConfigError, match=name):
        run(photos, tmp_path / "out", **{name: 0})


def test_a_summary_reads_well_and_as_json(photos, tmp_path):
    (photos / "text.jpg").write_text("I am no picture")
    summary = run(photos, tmp_path / "out")
    values = json.loads(json.dumps(summary.as_dict()))
    assert (values["written"], values["rejected"], values["remaining"]) == (5, 1, 0)
    assert "6 images: 5 written, 0 skipped, 1 rejected (decode 1)" in summary.lines()[0]


def test_a_run_that_failed_before_its_first_map_binds_nobody_to_its_settings(tmp_path):
    import cv2

    from condkit.annotators.annotator import plan_annotation
    from condkit.errors import WeightsError
    from condkit.pipeline import annotate
    from condkit.runtime import Runtime
    from condkit.weights import WeightStore

    photo, output = tmp_path / "cat.png", tmp_path / "maps"
    cv2.imwrite(str(photo), np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    nowhere = Runtime(device="cpu", store=WeightStore(cache=tmp_path / "cache", offline=True))
    with pytest.raises(WeightsError):
        annotate([photo], output, plan_annotation(["scribble"]), nowhere)
    plan = plan_annotation(["scribble"], {"scribble.detector": "xdog"})
    assert annotate([photo], output, plan, nowhere).written == 1
