"""Which checkpoints stay, and what happens while one is written."""

import json
import shutil
from pathlib import Path

import pytest

from condkit.errors import OutputError, TrainingError
from condkit.trainer.checkpoint import best_checkpoint, complete_checkpoints, mark_best
from condkit.trainer.loop import Judgement
from condkit.trainer.run_folder import RunFolder, read_record
from condkit.trainer.run_log import read_metrics
from condkit.trainer.train import train


def run(config, dataset, output, base, **options):
    return train(config, dataset, output, base=str(base), device="cpu", dtype="fp32", **options)


def steps_in(run: Path) -> list[int]:
    return [
        int(path.name.removeprefix("step-")) for path in complete_checkpoints(run / "checkpoints")
    ]


def scores(*values):
    """A judge that gives these scores to the checkpoints in turn."""
    given = iter(values)
    return lambda learner, step: Judgement(score=next(given))


def test_the_newest_and_the_best_stay(dataset, epsilon_base, small_run, tmp_path):
    config = small_run(run__steps="5", checkpoint__every="1", checkpoint__keep="2")
    run(config, dataset, tmp_path, epsilon_base, judge=scores(0.1, 0.9, 0.3, 0.2, 0.4))
    assert steps_in(tmp_path) == [2, 4, 5]
    assert best_checkpoint(tmp_path / "checkpoints").name == "step-00000002"
    entries = {entry["step"]: entry for entry in read_metrics(RunFolder(tmp_path))}
    assert entries[2]["score"] == 0.9
    assert "loss" in entries[2]


def test_a_better_one_takes_the_best_ones_place(dataset, epsilon_base, small_run, tmp_path):
    config = small_run(run__steps="5", checkpoint__every="1", checkpoint__keep="1")
    run(config, dataset, tmp_path, epsilon_base, judge=scores(0.9, 0.1, 1.5, 0.2, 0.3))
    assert steps_in(tmp_path) == [3, 5]


def test_without_scores_or_wish_only_the_newest_stay(dataset, epsilon_base, small_run, tmp_path):
    settings = {"run__steps": "3", "checkpoint__every": "1", "checkpoint__keep": "1"}
    run(small_run(**settings), dataset, tmp_path / "unscored", epsilon_base)
    assert steps_in(tmp_path / "unscored") == [3]
    config = small_run(**settings, checkpoint__keep_best="false")
    run(config, dataset, tmp_path / "unwanted", epsilon_base, judge=scores(0.9, 0.1, 0.1))
    assert steps_in(tmp_path / "unwanted") == [3]


def test_a_resumed_run_remembers_its_best(dataset, epsilon_base, small_run, tmp_path):
    settings = {"checkpoint__every": "1", "checkpoint__keep": "1"}
    run(small_run(run__steps="2", **settings), dataset, tmp_path, epsilon_base, judge=scores(3, 1))
    config = small_run(run__steps="4", **settings)
    run(config, dataset, tmp_path, epsilon_base, resume=True, judge=scores(2, 1))
    assert steps_in(tmp_path) == [1, 4]


def test_a_judge_may_end_the_run_and_need_not_judge_every_checkpoint(
    dataset, epsilon_base, small_run, tmp_path
):
    def judge(learner, step):
        if step == 1:
            return None
        stop = "control has set in" if step == 3 else None
        return Judgement(score=step / 10, figures={"floor": 0.01}, stop=stop)

    config = small_run(run__steps="5", checkpoint__every="1")
    summary = run(config, dataset, tmp_path, epsilon_base, judge=judge)
    assert (summary.steps, summary.stopped) == (3, "control has set in")
    record = read_record(tmp_path)
    assert (record.status, record.step) == ("finished", 3)
    assert (tmp_path / "controlnet").is_dir()
    figures = [entry.get("floor") for entry in read_metrics(RunFolder(tmp_path))]
    assert figures == [None, 0.01, 0.01]
    # Whoever wants more goes on from there.
    summary = run(config, dataset, tmp_path, epsilon_base, resume=True)
    assert (summary.steps, summary.resumed_from, summary.stopped) == (5, 3, None)


def test_an_equal_score_does_not_take_the_place(tmp_path):
    assert mark_best(tmp_path, 1, 0.5)
    assert not mark_best(tmp_path, 2, 0.5)
    assert mark_best(tmp_path, 3, 0.6)


def test_a_damaged_note_of_the_best_stops_nothing(tmp_path, caplog):
    (tmp_path / "best.json").write_text("{")
    assert best_checkpoint(tmp_path) is None
    assert "not known" in caplog.text
    assert mark_best(tmp_path, 1, 0.1)


def test_a_full_disk_leaves_the_checkpoint_before(
    dataset, epsilon_base, small_run, tmp_path, monkeypatch
):
    from condkit.trainer import checkpoint

    original, calls = checkpoint.save_control_net, []

    def full(*arguments):
        calls.append(0)
        if len(calls) == 2:
            raise OutputError("cannot write: no space left on the device")
        original(*arguments)

    monkeypatch.setattr(checkpoint, "save_control_net", full)
    with pytest.raises(OutputError, match="no space"):
        run(small_run(), dataset, tmp_path, epsilon_base)
    assert steps_in(tmp_path) == [2]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_a_checkpoint_of_another_layout_says_so(dataset, epsilon_base, small_run, tmp_path):
    run(small_run(run__steps="2"), dataset, tmp_path, epsilon_base)
    state = tmp_path / "checkpoints" / "step-00000002" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"format": 1}))
    with pytest.raises(TrainingError, match="has checkpoint format 1; this condkit reads 2"):
        run(small_run(), dataset, tmp_path, epsilon_base, resume=True)


def test_passes_and_batches_may_be_shared_out_anew_but_a_step_keeps_its_samples(
    dataset, epsilon_base, small_run, tmp_path
):
    """Two passes on one device are one pass on each of two; three are another run."""
    run(small_run(run__steps="2", optim__accumulation="2"), dataset, tmp_path, epsilon_base)
    config = small_run(run__steps="4", optim__accumulation="3")
    with pytest.raises(TrainingError, match=r"accumulation times devices\): 2 then, 3 now"):
        run(config, dataset, tmp_path, epsilon_base, resume=True)


def test_a_checkpoint_without_the_average_that_is_wanted_is_another_run(
    dataset, epsilon_base, small_run, tmp_path
):
    run(small_run(run__steps="2"), dataset, tmp_path, epsilon_base)
    with pytest.raises(TrainingError, match=r"ema\.decay: 0\.0 then, 0\.9 now"):
        run(small_run(ema__decay="0.9"), dataset, tmp_path, epsilon_base, resume=True)


def test_a_checkpoint_whose_average_is_damaged_names_the_folder(
    dataset, epsilon_base, small_run, tmp_path
):
    config = small_run(run__steps="2", ema__decay="0.9")
    run(config, dataset, tmp_path, epsilon_base)
    average = tmp_path / "checkpoints" / "step-00000002" / "ema"
    shutil.rmtree(average)
    average.mkdir()
    longer = small_run(ema__decay="0.9")
    with pytest.raises(TrainingError, match=r"cannot resume from .*step-00000002.*remove"):
        run(longer, dataset, tmp_path, epsilon_base, resume=True)
