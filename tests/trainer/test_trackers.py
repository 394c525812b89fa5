"""Who is told the numbers of a run, and that nobody has to be."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from condkit.errors import DependencyError, UnknownNameError
from condkit.trainer import trackers
from condkit.trainer.recipes import load_recipe
from condkit.trainer.run_folder import RunFolder
from condkit.trainer.run_log import RunLog, read_metrics
from condkit.trainer.train import train

PROMISES = Path(__file__).resolve().parents[2] / "docs" / "trainer-promises.md"


def run(config, dataset, output, base, **options):
    return train(config, dataset, output, base=str(base), device="cpu", dtype="fp32", **options)


def test_metrics_need_no_tracker(dataset, epsilon_base, small_run, tmp_path, monkeypatch):
    """Row 29: not even TensorBoard has to be installed."""
    for name in ("tensorboard", "torch.utils.tensorboard", "wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
    run(small_run(run__trackers="none"), dataset, tmp_path, epsilon_base)
    entries = read_metrics(RunFolder(tmp_path))
    assert [entry["step"] for entry in entries] == [2, 4]
    assert entries[0].keys() >= {"loss", "lr", "gradient_norm", "images_per_second"}
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_named_before_the_first_step(
    dataset, epsilon_base, small_run, tmp_path, monkeypatch, name
):
    monkeypatch.setattr(trackers, "find_spec", lambda package: None)
    with pytest.raises(DependencyError, match=rf"run\.trackers: .*{name}.*pip install {name}"):
        run(small_run(run__trackers=name), dataset, tmp_path, epsilon_base)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_services_are_told_numbers_and_pictures(tmp_path, monkeypatch, name):
    told = []

    class Run:
        def log(self, values, step):
            told.append((step, values))

        def finish(self):
            told.append("finished")

    service = types.ModuleType(name)
    service.init = lambda **options: told.append(options) or Run()
    service.Image = lambda picture: ("picture", picture.shape)
    monkeypatch.setitem(sys.modules, name, service)
    monkeypatch.setattr(trackers, "find_spec", lambda package: object())
    (tmp_path / "first-run").mkdir()
    log = RunLog(RunFolder(tmp_path / "first-run"), 0, (name,))
    log.numbers(3, {"loss": 0.5})
    log.picture(3, np.zeros((4, 5, 3), np.uint8))
    log.close()
    assert told == [
        {"project": "condkit", "name": "first-run", "resume": "allow"},
        (3, {"train/loss": 0.5}),
        (3, {"preview": ("picture", (4, 5, 3))}),
        "finished",
    ]


def test_several_lines_of_a_step_are_one_entry(tmp_path):
    log = RunLog(RunFolder(tmp_path), 0, ())
    log.numbers(1, {"loss": 0.5})
    log.numbers(2, {"loss": 0.4})
    log.numbers(2, {"score": 0.9})
    log.close()
    assert read_metrics(RunFolder(tmp_path)) == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 0.4, "score": 0.9},
    ]
    # A run that goes on from step 1 takes the rest back.
    RunLog(RunFolder(tmp_path), 1, ()).close()
    assert [entry["step"] for entry in read_metrics(RunFolder(tmp_path))] == [1]


def test_an_unknown_tracker_suggests_the_nearest():
    with pytest.raises((UnknownNameError, ValueError), match="did you mean 'wandb'"):
        load_recipe("canny", {"run.trackers": "wandbb"})


def test_every_promise_names_tests_that_are_there():
    text = PROMISES.read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 40
    root = PROMISES.parents[1]
    missing = [
        f"{path}::{name}"
        for path, name in named
        if f"def {name}(" not in (root / path).read_text(encoding="utf-8")
    ]
    assert missing == []
