"""Watching control: what the curve says, that training does not notice, that a resume goes on."""

import itertools
import json
import random
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from condkit.errors import ConfigError
from condkit.trainer.base_loading import load_base
from condkit.trainer.checkpoint import best_checkpoint, complete_checkpoints
from condkit.trainer.compute import resolve_compute
from condkit.trainer.config import StopConfig
from condkit.trainer.control_curve import (
    Bounds,
    Point,
    set_in,
    steepest,
    stop_reason,
    without_improvement,
)
from condkit.trainer.control_meter import ControlMeter, unchanged_random_state
from condkit.trainer.control_plot import control_svg
from condkit.trainer.control_scores import score_of
from condkit.trainer.data import HIDDEN, hint_from_map
from condkit.trainer.known_conditions import spec_of
from condkit.trainer.model_card import write_model_card
from condkit.trainer.recipes import load_recipe
from condkit.trainer.run_folder import RunFolder, read_record
from condkit.trainer.run_log import read_metrics
from condkit.trainer.train import train

BOUNDS = Bounds(floor_none=0.1, floor_shuffled=0.2, ceiling=0.8)
HALF = 0.5
"""The score half way from the higher floor to the ceiling."""

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=20)
WATCHED = {"watch__every": "2", "watch__pairs": "2", "watch__steps": "2"}
ALL_CONDITIONS = (
    "canny",
    "depth",
    "face",
    "hands",
    "inpaint",
    "lineart",
    "lines",
    "normal",
    "openpose",
    "scribble",
    "seg",
    "segments",
    "shuffle",
    "softedge",
    "tile",
)


def curve_of(*scores):
    return [Point(10 * i, score) for i, score in enumerate(scores)]


# The curve


@given(SCORES)
def test_control_sets_in_at_the_first_evaluation_past_half_way_after_one_below(scores):
    curve = curve_of(*scores)
    step = set_in(curve, BOUNDS)
    there = [BOUNDS.share(point.score) >= 0.5 for point in curve]
    crossings = [i for i in range(1, len(curve)) if there[i] and not there[i - 1]]
    assert step == (curve[crossings[0]].step if crossings else None)


@given(SCORES, SCORES)
def test_once_found_the_step_stays_whatever_comes_later(scores, later):
    step = set_in(curve_of(*scores), BOUNDS)
    if step is not None:
        assert set_in(curve_of(*scores, *later), BOUNDS) == step


def test_a_sudden_rise_is_found_and_so_is_its_steepest_part():
    curve = curve_of(0.1, 0.12, 0.11, 0.13, 0.62, 0.7, 0.69)
    assert set_in(curve, BOUNDS) == 40
    assert steepest(curve) == (30, 40, pytest.approx(0.49))


def test_what_was_there_from_the_beginning_did_not_set_in():
    assert set_in(curve_of(0.6, 0.7), BOUNDS) is None
    assert set_in(curve_of(0.6, 0.3, 0.7), BOUNDS) == 20


@given(SCORES)
def test_without_room_nothing_sets_in(scores):
    assert (
        set_in(curve_of(*scores), Bounds(floor_none=0.5, floor_shuffled=0.1, ceiling=0.5)) is None
    )


@given(SCORES)
def test_the_steepest_rise_is_steeper_than_every_other(scores):
    curve = curve_of(*scores)
    found = steepest(curve)
    rises = [b.score - a.score for a, b in itertools.pairwise(curve)]
    assert (found is None) == (max(rises, default=0.0) <= 0.0)
    if found is not None:
        assert found.rise == max(rises)


@given(SCORES)
def test_evaluations_without_improvement_are_those_after_the_first_best(scores):
    stale = without_improvement(curve_of(*scores))
    best = len(scores) - 1 - stale
    assert scores[best] == max(scores)
    assert all(score < max(scores) for score in scores[:best])


# Stopping


@given(SCORES)
def test_a_run_without_stop_settings_never_ends_early(scores):
    assert stop_reason(curve_of(*scores), BOUNDS, StopConfig()) is None


@given(SCORES, st.floats(0.01, 1))
def test_a_run_ends_exactly_where_the_wanted_score_is_reached(scores, wanted):
    curve = curve_of(0.0, *scores)
    reason = stop_reason(curve, BOUNDS, StopConfig(control_score=wanted))
    assert (reason is not None) == (scores[-1] >= wanted)
    assert reason is None or "stop.control_score" in reason


def test_a_plateau_ends_the_run_and_names_the_best():
    stop = StopConfig(plateau=2)
    assert stop_reason(curve_of(0.1, 0.7, 0.6), BOUNDS, stop) is None
    reason = stop_reason(curve_of(0.1, 0.7, 0.6, 0.7), BOUNDS, stop)
    assert reason == (
        "the control score has not risen in 2 evaluations (stop.plateau = 2); the best was 0.700 "
        "at step 10"
    )


@given(st.lists(st.floats(0, HALF - 0.01), min_size=1, max_size=20), st.integers(1, 5))
def test_the_plateau_before_control_sets_in_ends_no_run(scores, patience):
    assert stop_reason(curve_of(*scores), BOUNDS, StopConfig(plateau=patience)) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"watch.every": "-1"}, r"watch\.every: expected 0 or more steps, got -1"),
        ({"watch.pairs": "1"}, r"watch\.pairs: expected at least 2, got 1"),
        ({"watch.steps": "0"}, r"watch\.steps: expected at least 1"),
        ({"watch.guidance": "-1"}, r"watch\.guidance: expected 0 or more"),
        ({"stop.plateau": "0", "watch.every": "5"}, r"stop\.plateau: expected at least 1"),
        ({"stop.control_score": "2", "watch.every": "5"}, r"stop\.control_score: expected a sc"),
        ({"stop.plateau": "3"}, r"watch\.every: expected more than 0 with stop\.control_score"),
    ],
)
def test_settings_say_what_was_expected(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("canny", settings)


# Scores of all conditions


def random_map(spec, seed):
    draw = np.random.default_rng(seed)
    shape = (24, 16) if spec.channels == 1 else (24, 16, spec.channels)
    if spec.resample == "nearest":
        levels = draw.integers(0, 2, shape) * 255
    else:
        levels = draw.integers(0, 256, shape)
    if "F1" in score_of(spec).name:
        # Lines are thin: a tolerance of a pixel must not cover everything.
        levels[draw.random(shape[:2]) > 0.06] = 0
    return levels.astype(spec.dtype)


@pytest.mark.parametrize("name", ALL_CONDITIONS)
@given(seed=st.integers(0, 999))
def test_a_map_follows_itself_best_and_scores_one(name, seed):
    spec = spec_of(name, None)
    one, other = (hint_from_map(random_map(spec, [seed, i])) for i in range(2))
    measure = score_of(spec).measure
    assert measure(one, one) == pytest.approx(1.0, abs=1e-5)
    assert -1.0 - 1e-6 <= measure(other, one) <= 1.0 + 1e-6
    if name not in ("openpose", "hands", "face"):
        assert measure(other, one) < measure(one, one)


def test_every_condition_of_the_package_is_tested_here():
    from condkit.annotators.registry import available_conditions

    assert sorted(ALL_CONDITIONS) == sorted(available_conditions())


@given(st.floats(0.1, 0.9), st.floats(0, 0.1))
def test_depth_is_known_up_to_scale_and_shift(scale, shift):
    wanted = np.random.default_rng(1).random((3, 8, 8), np.float32)
    wanted[:] = wanted[:1]
    measure = score_of(spec_of("depth", None)).measure
    found = (wanted * scale + shift).astype(np.float32)
    assert measure(found, wanted) == pytest.approx(1.0, abs=1e-4)
    assert measure(1 - found, wanted) < 0.9, "near and far exchanged"


def test_poses_nearby_count_and_poses_elsewhere_do_not():
    spec = spec_of("openpose", None)
    drawn = np.zeros((100, 100, 3), np.uint8)
    drawn[20:60, 30:33] = (0, 255, 85)
    measure, wanted = score_of(spec).measure, hint_from_map(drawn)
    assert measure(hint_from_map(np.roll(drawn, 2, axis=1)), wanted) == pytest.approx(1.0)
    assert measure(hint_from_map(np.roll(drawn, 30, axis=1)), wanted) == 0.0


def test_segmentation_is_the_mean_over_its_classes():
    spec = spec_of("seg", None)
    wanted, found = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)
    wanted[:2], wanted[2:] = (120, 120, 120), (4, 200, 3)
    found[:] = (120, 120, 120)
    score = score_of(spec).measure(hint_from_map(found), hint_from_map(wanted))
    assert score == pytest.approx((0.5 + 0.0) / 2)


def test_inpainting_is_compared_where_the_picture_was_shown():
    spec, measure = spec_of("inpaint", None), score_of(spec_of("inpaint", None)).measure
    assert not score_of(spec).detects
    wanted = np.full((3, 4, 4), 0.5, np.float32)
    wanted[:, :2] = HIDDEN
    found = np.full((3, 4, 4), 0.5, np.float32)
    found[:, :2] = 1.0
    assert measure(found, wanted) == 1.0
    found[:, 2:] = 0.25
    assert measure(found, wanted) == pytest.approx(0.75)


# The drawing


@given(SCORES, st.floats(-1, 1), st.floats(-1, 1))
def test_the_drawing_is_valid_and_nothing_lies_outside(scores, floor, ceiling):
    curve = curve_of(*scores)
    svg = control_svg(curve, Bounds(floor_none=floor, floor_shuffled=0.1, ceiling=ceiling), "a<b")
    root = ElementTree.fromstring(svg)
    dots = root.findall("{http://www.w3.org/2000/svg}circle")
    assert len(dots) == len(curve)
    assert all(0 <= float(d.get("cx")) <= 720 and 0 <= float(d.get("cy")) <= 400 for d in dots)


# Runs


def run(config, dataset, output, base, **options):
    return train(config, dataset, output, base=str(base), device="cpu", dtype="fp32", **options)


def files_of(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".safetensors", ".pt")
    }


def watched_of(output):
    control = json.loads((output / "control.json").read_text("utf-8"))
    scores = [
        {k: v for k, v in entry.items() if k == "step" or "control/" in k}
        for entry in read_metrics(RunFolder(output))
        if "control/score" in entry
    ]
    return control, scores, (output / "control.svg").read_bytes()


@pytest.fixture(scope="module")
def watched(dataset, epsilon_base, tmp_path_factory):
    """A watched run of 6 steps, and its summary."""
    output = tmp_path_factory.mktemp("watched") / "run"
    settings = {name.replace("__", "."): value for name, value in WATCHED.items()}
    settings |= {
        "run.steps": "6",
        "data.batch_size": "2",
        "data.resolution": "none",
        "optim.lr": "1e-2",
        "checkpoint.every": "3",
        "checkpoint.keep": "9",
        "preview.every": "0",
        "ema.decay": "0.5",
    }
    config = load_recipe("canny", settings)
    return config, output, run(config, dataset, output, epsilon_base)


def without_watch(config):
    from dataclasses import replace

    from condkit.trainer.config import WatchConfig

    return replace(config, watch=WatchConfig())


def test_training_is_the_same_bit_for_bit_with_and_without_the_watch(
    watched, dataset, epsilon_base, tmp_path
):
    config, output, _ = watched
    run(without_watch(config), dataset, tmp_path, epsilon_base)
    for name in ("controlnet", "checkpoints/step-00000003", "checkpoints/step-00000006"):
        assert files_of(tmp_path / name) == files_of(output / name)
        assert files_of(output / name)


def test_random_states_are_untouched():
    import torch

    def draws():
        return random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002

    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    expected = draws()
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    with unchanged_random_state():
        draws()
    assert draws() == expected


def test_a_resumed_run_goes_on_with_the_course_exactly(watched, dataset, epsilon_base, tmp_path):
    config, output, _ = watched

    class KilledError(Exception):
        pass

    def kill(progress):
        if progress.step == 5:
            raise KilledError

    with pytest.raises(KilledError):
        run(config, dataset, tmp_path, epsilon_base, on_progress=kill)
    run(config, dataset, tmp_path, epsilon_base, resume=True)
    assert watched_of(tmp_path) == watched_of(output)


def test_a_run_killed_between_checkpoint_and_measurement_measures_it_later(
    watched, dataset, epsilon_base, tmp_path, monkeypatch
):
    config, output, _ = watched
    measure = ControlMeter.control
    calls = []

    def once(self, control_net):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(self, control_net)

    monkeypatch.setattr(ControlMeter, "control", once)
    with pytest.raises(KeyboardInterrupt):
        run(config, dataset, tmp_path, epsilon_base)
    assert complete_checkpoints(tmp_path / "checkpoints")[-1].name == "step-00000004"
    run(config, dataset, tmp_path, epsilon_base, resume=True)
    assert watched_of(tmp_path) == watched_of(output)


def test_a_longer_run_forgets_the_measurement_off_its_grid(
    watched, dataset, epsilon_base, tmp_path
):
    from dataclasses import replace

    config, output, _ = watched
    shorter = replace(config, run=replace(config.run, steps=3))
    run(shorter, dataset, tmp_path, epsilon_base)
    assert [p["step"] for p in watched_of(tmp_path)[0]["curve"]] == [0, 2, 3]
    run(config, dataset, tmp_path, epsilon_base, resume=True)
    assert watched_of(tmp_path)[0] == watched_of(output)[0]


def test_measurements_are_logged_saved_and_drawn(watched):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, output, summary = watched
    control, scores, _ = watched_of(output)
    assert [entry["step"] for entry in scores] == [2, 4, 6]
    assert [p["step"] for p in control["curve"]] == [0, 2, 4, 6]
    assert control["curve"][0]["score"] == control["bounds"]["floor_none"]
    assert all(e["control/ceiling"] == control["bounds"]["ceiling"] for e in scores)
    events = EventAccumulator(str(output / "logs"))
    events.Reload()
    names = {"score", "floor_none", "floor_shuffled", "ceiling"}
    assert {f"control/{name}" for name in names} <= set(events.Tags()["scalars"])
    logged = [event.value for event in events.Scalars("control/score")]
    assert logged == pytest.approx([entry["control/score"] for entry in scores])
    assert summary.control.score == scores[-1]["control/score"]


def test_the_best_checkpoint_is_the_one_with_the_best_score(watched):
    _, output, summary = watched
    best = best_checkpoint(output / "checkpoints")
    assert best is not None
    assert int(best.name.removeprefix("step-")) == summary.control.best


def test_other_pairs_begin_a_new_course(watched, dataset, epsilon_base, tmp_path):
    from dataclasses import replace

    config, _, _ = watched
    shorter = replace(config, run=replace(config.run, steps=2))
    run(shorter, dataset, tmp_path, epsilon_base)
    changed = replace(config, watch=replace(config.watch, seed=9))
    run(changed, dataset, tmp_path, epsilon_base, resume=True)
    assert [p["step"] for p in watched_of(tmp_path)[0]["curve"]] == [2, 4, 6]


@pytest.fixture
def faked(monkeypatch):
    """Runs whose scores are given; 0.1 and 0.2 are the floors, 0.8 is the ceiling."""

    def fake(*scores):
        left = iter(scores)
        monkeypatch.setattr(ControlMeter, "bounds", lambda self: BOUNDS)
        monkeypatch.setattr(ControlMeter, "control", lambda self, control_net: next(left))

    return fake


def test_the_wanted_score_ends_the_run_with_a_checkpoint(
    dataset, epsilon_base, small_run, tmp_path, faked
):
    faked(0.15, 0.75)
    config = small_run(run__steps="40", stop__control_score="0.7", **WATCHED)
    summary = run(config, dataset, tmp_path, epsilon_base)
    assert summary.steps == 4
    assert summary.stopped == "the control score is 0.750 (stop.control_score = 0.7)"
    assert summary.control.set_in == 4
    assert complete_checkpoints(tmp_path / "checkpoints")[-1].name == "step-00000004"
    assert read_metrics(RunFolder(tmp_path))[-1]["control/set_in"] == 4
    card = write_model_card(tmp_path, read_record(tmp_path), [])
    assert "| control set in at step | 4 |" in card
    assert "| steepest rise | 0.600 between step 2 and 4 |" in card


def test_a_run_that_has_ended_stays_so_until_its_settings_change(
    dataset, epsilon_base, small_run, tmp_path, faked
):
    config = small_run(run__steps="8", stop__plateau="1", **WATCHED)
    faked(0.75, 0.7)
    summary = run(config, dataset, tmp_path, epsilon_base)
    assert summary.steps == 4
    assert "stop.plateau = 1" in summary.stopped
    assert best_checkpoint(tmp_path / "checkpoints").name == "step-00000002"
    again = run(config, dataset, tmp_path, epsilon_base, resume=True)
    assert (again.steps, again.stopped) == (summary.steps, summary.stopped)
    faked(0.76, 0.77)
    free = small_run(run__steps="8", **WATCHED)
    last = run(free, dataset, tmp_path, epsilon_base, resume=True)
    assert (last.steps, last.stopped, last.control.set_in) == (8, None, 2)


def test_too_little_memory_for_a_measurement_does_not_end_the_run(
    dataset, epsilon_base, small_run, tmp_path, monkeypatch, caplog
):
    def full(self, control_net):
        raise MemoryError

    monkeypatch.setattr(ControlMeter, "control", full)
    summary = run(small_run(**WATCHED), dataset, tmp_path, epsilon_base)
    assert (summary.steps, summary.control) == (4, None)
    assert "no memory to measure control" in caplog.text


def test_a_condition_that_cannot_be_detected_is_said_before_training(
    dataset, epsilon_base, small_run, tmp_path
):
    import shutil

    from condkit.errors import DatasetError

    shutil.copytree(dataset, tmp_path / "data")
    manifest = json.loads((dataset / "manifest.json").read_text("utf-8"))
    manifest["annotation"] = {}
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(DatasetError, match="cannot be detected again"):
        run(small_run(**WATCHED), tmp_path / "data", tmp_path / "run", epsilon_base)
    assert not complete_checkpoints(tmp_path / "run" / "checkpoints")


def test_the_built_in_base_has_room_between_floor_and_ceiling(dataset, tmp_path):
    settings = {
        "run.steps": "2",
        "data.batch_size": "3",
        "preview.every": "0",
        "watch.every": "2",
        "watch.pairs": "3",
        "watch.steps": "4",
        "watch.guidance": "1",
    }
    summary = run(load_recipe("tiny-canny", settings), dataset, tmp_path, "condkit/tiny")
    bounds = watched_of(tmp_path)[0]["bounds"]
    assert bounds["ceiling"] > 0.6 > bounds["floor_none"]
    assert bounds["ceiling"] > 0.6 > bounds["floor_shuffled"]
    assert summary.control.set_in is None
    base = load_base("condkit/tiny", resolve_compute("cpu", "fp32"))
    assert base.fingerprint == read_record(tmp_path).base_fingerprint
