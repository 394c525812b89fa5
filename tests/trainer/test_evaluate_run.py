"""Floors and ceiling."""

import json
import shutil

import numpy as np
import pytest

from condkit import imageio
from condkit.datasets.reader import open_dataset
from condkit.errors import ConfigError, DatasetError
from condkit.runtime import Runtime
from condkit.trainer.evaluate import _batches, evaluate
from condkit.trainer.evaluation import PairScores
from condkit.trainer.recipes import load_recipe
from condkit.trainer.train import train

CPU = Runtime(device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def trained(dataset, epsilon_base, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluated") / "run"
    settings = {"run.steps": "1", "data.batch_size": "1", "preview.every": "0"}
    settings |= {"data.resolution": "none", "optim.accumulation": "1"}
    train(
        load_recipe("canny", settings),
        dataset,
        output,
        base=str(epsilon_base),
        device="cpu",
        dtype="fp32",
    )
    return output


@pytest.fixture(scope="module")
def evaluation(trained, dataset):
    progress = []
    result = evaluate(
        trained,
        dataset,
        pairs=3,
        steps=2,
        batch_size=2,
        runtime=CPU,
        on_progress=lambda done, total, note: progress.append((done, total)),
    )
    assert progress == [(6, 9), (9, 9)]
    return result


def test_the_real_pictures_score_one_because_detection_repeats(evaluation, dataset):
    rows = open_dataset(dataset).split("validation")
    assert [scores.key for scores in evaluation.scores] == list(rows.keys())
    assert evaluation.real == 1.0
    assert all(0 <= getattr(s, n) <= 1 for s in evaluation.scores for n in PairScores.__slots__[1:])


def test_shown_pairs_carry_all_pictures(evaluation, dataset):
    row = open_dataset(dataset).split("validation")[1]
    shown = evaluation.shown[1]
    np.testing.assert_array_equal(shown.condition, row.maps["canny"])
    np.testing.assert_array_equal(shown.real, row.image)
    assert shown.caption == row.text
    assert shown.controlled.shape == shown.uncontrolled.shape == row.image.shape
    assert shown.redetected.shape == row.maps["canny"].shape
    assert shown.score == evaluation.scores[1].control


def test_figures_and_grid_are_written(evaluation, trained):
    written = json.loads((trained / "evaluation.json").read_text())
    assert written == json.loads(json.dumps(evaluation.as_dict()))
    assert written["edge_f1"]["control"] == pytest.approx(
        np.mean([scores["control"] for scores in written["scores"]])
    )
    assert imageio.read_map(trained / "evaluation.png").shape == (3 * 66 + 2, 5 * 66 + 2, 3)
    assert all(isinstance(cell, str) for row in evaluation.rows() for cell in row)


def test_the_batch_size_changes_no_pair(evaluation, trained, dataset):
    again = evaluate(trained, dataset, pairs=3, steps=2, batch_size=3, runtime=CPU)
    for one, other in zip(evaluation.shown, again.shown, strict=True):
        # Another batch size takes other kernels: the last bits may differ, no more.
        difference = np.abs(one.controlled.astype(int) - other.controlled)
        assert difference.max() <= 1


def test_an_untrained_control_net_steers_nothing(trained, dataset, epsilon_base, tmp_path):
    # Zero convolutions: with control and without must be the same pictures, noise for noise.
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    path = copy / "controlnet" / "diffusion_pytorch_model.safetensors"
    zeroed = {
        name: tensor * 0 if name.startswith("controlnet_") else tensor
        for name, tensor in load_file(path).items()
    }
    save_file(zeroed, path, metadata={"format": "pt"})
    result = evaluate(copy, dataset, pairs=2, steps=2, runtime=CPU)
    for pair in result.shown:
        np.testing.assert_array_equal(pair.controlled, pair.uncontrolled)
    assert result.control == result.no_control


def test_every_pair_gets_another_ones_map_of_its_size():
    class Row:
        def __init__(self, height):
            self.image = np.zeros((height, 8, 3), np.uint8)

    rows = [Row(height) for height in (8, 16, 8, 16, 8)]
    pairs = [pair for batch in _batches(rows, 2) for pair in zip(*batch, strict=True)]
    assert sorted(place for place, _ in pairs) == list(range(5))
    assert sorted(other for _, other in pairs) == list(range(5))
    assert all(place != other for place, other in pairs)
    assert all(rows[p].image.shape == rows[o].image.shape for p, o in pairs)


def test_too_few_pairs_are_refused(trained, dataset, tmp_path):
    with pytest.raises(ConfigError, match="at least 2"):
        evaluate(trained, dataset, pairs=1)
    copy = tmp_path / "data"
    shutil.copytree(dataset, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["annotation"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DatasetError, match="does not say how its 'canny' maps were made"):
        evaluate(trained, copy, runtime=CPU)


def test_settings_of_the_dataset_decide_the_detection(trained, dataset, tmp_path):
    # The maps were made with the usual thresholds; a manifest that says otherwise is believed.
    copy = tmp_path / "data"
    shutil.copytree(dataset, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["annotation"]["canny"]["detector_params"] |= {"low": 5000, "high": 5000}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    result = evaluate(trained, copy, pairs=2, steps=1, runtime=CPU)
    assert result.real == 0.0
