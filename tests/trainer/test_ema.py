"""The running average: what it is, where it is used, and that the weights come back."""

import numpy as np
import pytest
import torch

from condkit.trainer.checkpoint import complete_checkpoints
from condkit.trainer.ema import Ema
from condkit.trainer.loop import Judgement
from condkit.trainer.preview import Previewer
from condkit.trainer.run_folder import RunFolder
from condkit.trainer.sample import open_run
from condkit.trainer.train import train

WEIGHTS = "diffusion_pytorch_model.safetensors"


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / WEIGHTS)


def run(config, dataset, output, base, **options):
    return train(config, dataset, output, base=str(base), device="cpu", dtype="fp32", **options)


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_average_is_the_formulas():
    generator = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(5, generator=generator))
    ema, wanted = Ema({"p": parameter}, 0.6), parameter.detach().clone().double()
    for n in range(12):
        with torch.no_grad():
            parameter.copy_(torch.randn(5, generator=generator))
        ema.update()
        decay = 0.0 if n == 0 else min(0.6, (1 + n) / (10 + n))
        wanted = decay * wanted + (1 - decay) * parameter.detach().double()
    with ema.applied():
        torch.testing.assert_close(parameter.detach().double(), wanted, rtol=1e-5, atol=1e-6)
    assert ema.updates == 12


def test_the_weights_come_back_bit_for_bit_even_after_an_error():
    parameter = torch.nn.Parameter(torch.tensor([1.0, 1e-30, -0.0]))
    ema = Ema({"p": parameter}, 0.9)
    before = parameter.detach().clone()
    for value in (2.0, 3.0):
        with torch.no_grad():
            parameter.fill_(value)
        ema.update()

    def stop():
        with ema.applied():
            assert not torch.equal(parameter.detach(), torch.full((3,), 3.0))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop()
    assert torch.equal(parameter.detach(), torch.full((3,), 3.0))
    assert not torch.equal(before, parameter.detach())


@pytest.fixture(scope="module")
def averaged(dataset, epsilon_base, tmp_path_factory):
    """A finished run with an average, its previews' weights, and its scores' weights."""
    from condkit.trainer.recipes import load_recipe

    settings = {
        "run.steps": "4",
        "run.log_every": "2",
        "data.batch_size": "2",
        "data.resolution": "none",
        "optim.accumulation": "1",
        "optim.lr": "1e-3",
        "checkpoint.every": "2",
        "preview.every": "4",
        "preview.pairs": "1",
        "ema.decay": "0.9",
    }
    output = tmp_path_factory.mktemp("runs") / "averaged"
    seen = {}

    def draw(self):
        seen["preview"] = {k: v.clone() for k, v in self._control_net.state_dict().items()}
        return np.zeros((8, 8, 3), np.uint8)

    def judge(learner, step):
        seen["score"] = {k: v.clone() for k, v in learner.control_net.state_dict().items()}
        return Judgement(score=float(step))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Previewer, "draw", draw)
        run(load_recipe("canny", settings), dataset, output, epsilon_base, judge=judge)
    return output, seen


def test_the_average_is_saved_beside_the_weights_and_is_what_the_run_gives(averaged):
    output, _ = averaged
    newest = complete_checkpoints(RunFolder(output).checkpoints)[-1]
    raw, average = weights_of(newest / "controlnet"), weights_of(newest / "ema")
    assert not same(raw, average)
    assert same(weights_of(output / "controlnet"), average)


def test_validation_sees_the_average_and_training_goes_on_with_the_weights(
    averaged, dataset, epsilon_base, small_run, tmp_path
):
    output, seen = averaged
    average = weights_of(output / "controlnet")
    assert same(seen["preview"], average)
    assert same(seen["score"], average)
    # The same run without validation and average has the same weights.
    run(small_run(), dataset, tmp_path / "plain", epsilon_base)
    newest = complete_checkpoints(RunFolder(output).checkpoints)[-1]
    assert same(weights_of(tmp_path / "plain" / "controlnet"), weights_of(newest / "controlnet"))


def test_an_unfinished_run_is_sampled_with_its_average(averaged, tmp_path):
    import json
    import shutil

    from condkit.trainer.compute import resolve_compute

    output, _ = averaged
    copy = tmp_path / "run"
    shutil.copytree(output, copy)
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(record | {"status": "running"}))
    trained = open_run(copy, resolve_compute("cpu", "fp32"))
    newest = complete_checkpoints(copy / "checkpoints")[-1]
    assert same(trained.control_net.state_dict(), weights_of(newest / "ema"))


def test_without_a_decay_there_is_no_average(dataset, epsilon_base, small_run, tmp_path):
    run(small_run(run__steps="2"), dataset, tmp_path, epsilon_base)
    (checkpoint,) = complete_checkpoints(tmp_path / "checkpoints")
    assert not (checkpoint / "ema").exists()
