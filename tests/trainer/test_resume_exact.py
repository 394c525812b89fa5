"""N steps, a kill, M steps more: the same as N + M steps, bit for bit."""

import json
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from condkit.trainer import step as step_module
from condkit.trainer.checkpoint import complete_checkpoints
from condkit.trainer.train import train

# Averages, several passes, a decoder that is unlocked between the kill and the checkpoint's step,
# a schedule, and flips and captions drawn by chance.
SETTINGS = {
    "run.steps": "6",
    "run.log_every": "2",
    "data.batch_size": "2",
    "data.resolution": "48",
    "optim.accumulation": "2",
    "optim.lr": "1e-3",
    "optim.schedule": "cosine",
    "optim.warmup_steps": "2",
    "checkpoint.every": "3",
    "checkpoint.keep": "3",
    "preview.every": "0",
    "ema.decay": "0.9",
    "control.unlock_decoder": "2",
    "control.decoder_lr": "1e-4",
    "loss.noise_offset": "0.05",
    "loss.min_snr_gamma": "5",
}

CHILD = """
    import json, os, signal, sys
    from pathlib import Path
    import torch
    from condkit.trainer.recipes import load_recipe
    from condkit.trainer.train import train

    torch.set_num_threads(1)
    settings, data, output, base, kill = json.loads(sys.argv[1])

    def on_progress(progress):
        if progress.step == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    train(
        load_recipe("canny", settings), Path(data), Path(output), base=base, device="cpu",
        dtype="fp32", resume=True, on_progress=on_progress,
    )
"""


def run_in_child(dataset, output, base, kill: int):
    words = json.dumps([SETTINGS, str(dataset), str(output), str(base), kill])
    code = textwrap.dedent(CHILD)
    return subprocess.run([sys.executable, "-c", code, words], capture_output=True, text=True)


def tensors_of(folder):
    """Every tensor below a folder, by file and name."""
    from safetensors.torch import load_file

    found = {
        f"{path.relative_to(folder)} {name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }
    for path in sorted(folder.rglob("optimizer.pt")):
        for index, state in torch.load(path, weights_only=True)["state"].items():
            found |= {f"{path.relative_to(folder)} {index} {k}": v for k, v in state.items()}
    return found


@pytest.mark.usefixtures("one_thread")
def test_a_run_killed_without_warning_goes_on_as_if_nothing_had_happened(
    dataset, velocity_base, tmp_path
):
    """Rows 9 and 10: ControlNet, average, decoder and optimizer, all of them."""
    from condkit.trainer.recipes import load_recipe

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    config, options = load_recipe("canny", SETTINGS), {"device": "cpu", "dtype": "fp32"}
    train(config, dataset, whole, base=str(velocity_base), **options)
    killed = run_in_child(dataset, cut, velocity_base, kill=5)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in complete_checkpoints(cut / "checkpoints")] == ["step-00000003"]
    assert not (cut / "controlnet").exists()
    train(config, dataset, cut, base=str(velocity_base), resume=True, **options)
    one, other = tensors_of(whole), tensors_of(cut)
    assert one.keys() == other.keys()
    assert any("unlocked_decoder" in name for name in one)
    assert any("ema/" in name for name in one)
    assert any("optimizer.pt" in name for name in one)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.fixture
def watched(monkeypatch):
    """Every sample of every step, with what was drawn for it."""
    seen = []
    original = step_module.OptimizerStep.__call__

    def look(self, step, micro_batches, rate):
        batches = list(micro_batches)
        for batch in batches:
            for example, drawn in zip(batch.examples, batch.noise.numpy(), strict=True):
                chosen = (example.key, example.use, example.caption, example.box, example.flipped)
                seen.append((step, rate, *chosen, hash(drawn.tobytes())))
        return original(self, step, batches, rate)

    monkeypatch.setattr(step_module.OptimizerStep, "__call__", look)
    return seen


class Killed(BaseException):
    """Stands for a kill signal: nothing catches it."""


def test_samples_noise_and_rates_are_the_same_too(dataset, epsilon_base, tmp_path, watched):
    from condkit.trainer.recipes import load_recipe

    config, options = load_recipe("canny", SETTINGS), {"device": "cpu", "dtype": "fp32"}
    train(config, dataset, tmp_path / "whole", base=str(epsilon_base), **options)
    whole = list(watched)
    watched.clear()

    def kill(progress):
        if progress.step == 5:
            raise Killed

    with pytest.raises(Killed):
        train(
            config,
            dataset,
            tmp_path / "cut",
            base=str(epsilon_base),
            on_progress=kill,
            **options,
        )
    before = [sample for sample in watched if sample[0] <= 3]
    watched.clear()
    train(config, dataset, tmp_path / "cut", base=str(epsilon_base), resume=True, **options)
    assert before + watched == whole
    # Ten rows, six steps of four: every row twice, most of them three times.
    uses = [sample[2:4] for sample in whole]
    assert len(set(uses)) == len(uses) == 24
