"""The base's decoder: locked, then trained; what a changed base means for the ControlNet's user."""

import json

import numpy as np
import pytest
import torch

from condkit.datasets.reader import open_dataset
from condkit.errors import TrainingError
from condkit.trainer.base_loading import load_base
from condkit.trainer.checkpoint import complete_checkpoints
from condkit.trainer.compute import resolve_compute
from condkit.trainer.config import ControlConfig
from condkit.trainer.control_net import new_control_net
from condkit.trainer.data import Example
from condkit.trainer.decoder import DECODER_FILE, decoder_parameters
from condkit.trainer.export import export_run
from condkit.trainer.latents import LatentCache, LatentEncoder
from condkit.trainer.learner import Learner
from condkit.trainer.recipes import load_recipe
from condkit.trainer.run_folder import read_record
from condkit.trainer.sample import open_run, sample
from condkit.trainer.step import OptimizerStep
from condkit.trainer.train import train

CPU = resolve_compute("cpu", "fp32")
DECODER = ("up_blocks.", "conv_norm_out.", "conv_out.")


def example(key: str, size: int = 32) -> Example:
    rng = np.random.default_rng([ord(letter) for letter in key])
    return Example(
        key=key,
        use=0,
        caption="a red circle",
        pixels=rng.uniform(-1, 1, (3, size, size)).astype(np.float32),
        hint=rng.uniform(0, 1, (3, size, size)).astype(np.float32),
        picture_hw=(size, size),
        box=(0, 0, size, size),
        flipped=False,
        crop_repeats=True,
    )


def copies(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(module, before):
    return {n for n, t in module.state_dict().items() if not torch.equal(t, before[n])}


def test_the_decoder_is_all_output_blocks_and_the_last_layers(base):
    names = set(decoder_parameters(base.unet))
    assert names == {name for name in base.unet.state_dict() if name.startswith(DECODER)}
    assert {name.split(".")[0] for name in names} == {"up_blocks", "conv_norm_out", "conv_out"}


def test_only_the_decoder_joins_and_only_when_it_is_time(base, small_run):
    """Row 27: whatever is not trained has no gradient, before and after."""
    config = small_run(control__unlock_decoder="2", optim__weight_decay="0")
    learner = Learner(base, new_control_net(base, ControlConfig(), 0), config)
    encoder = LatentEncoder(base, LatentCache(2**20))
    step = OptimizerStep(base, learner.control_net, learner.optimizer, encoder, config)
    before = {part: copies(module) for part, module in base.modules.items()}
    decoder = set(decoder_parameters(base.unet))
    for done in (1, 2, 3, 4):
        if learner.is_due(done - 1):
            learner.unlock()
        seen = {}
        learner.optimizer.register_step_post_hook(lambda *_, seen=seen: seen.update(_grads(base)))
        step(done, [[example("a"), example("b")]], 1e-3)
        moved = {part: changed(module, before[part]) for part, module in base.modules.items()}
        if done <= 2:
            assert seen == {}
            assert not any(moved.values())
        else:
            assert seen.keys() == decoder
            assert moved.pop("unet") == decoder
            assert not any(moved.values())
    assert all(p.grad is None for module in base.modules.values() for p in module.parameters())


def _grads(base):
    """Which of the base's weights have a gradient."""
    return {
        name: 0
        for module in base.modules.values()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def test_the_decoder_learns_at_its_own_rate_along_the_schedule(base, small_run):
    config = small_run(control__unlock_decoder="0", control__decoder_lr="2e-6", optim__lr="1e-4")
    learner = Learner(base, new_control_net(base, ControlConfig(), 0), config)
    learner.unlock()
    step = OptimizerStep(
        base,
        learner.control_net,
        learner.optimizer,
        LatentEncoder(base, LatentCache(2**20)),
        config,
    )
    step(1, [[example("a")]], 0.5e-4)
    rates = [group["lr"] for group in learner.optimizer.param_groups]
    assert rates == pytest.approx([0.5e-4, 1e-6])


@pytest.fixture(scope="module")
def unlocked(dataset, epsilon_base, tmp_path_factory):
    """A finished run whose decoder was unlocked after two of four steps."""
    settings = {
        "run.steps": "4",
        "run.log_every": "2",
        "data.batch_size": "2",
        "data.resolution": "none",
        "optim.accumulation": "1",
        "optim.lr": "1e-3",
        "control.unlock_decoder": "2",
        "control.decoder_lr": "1e-3",
        "checkpoint.every": "1",
        "checkpoint.keep": "4",
        "preview.every": "0",
        "ema.decay": "0.5",
    }
    output = tmp_path_factory.mktemp("runs") / "unlocked"
    config = load_recipe("canny", settings)
    train(config, dataset, output, base=str(epsilon_base), device="cpu", dtype="fp32")
    return output


def test_the_changed_decoder_is_saved_and_marked_as_not_portable(unlocked, epsilon_base):
    saved = complete_checkpoints(unlocked / "checkpoints")
    assert [(c / "controlnet" / DECODER_FILE).is_file() for c in saved] == [
        False,
        False,
        True,
        True,
    ]
    assert (saved[-1] / "ema" / DECODER_FILE).is_file()
    record = json.loads((unlocked / "controlnet" / "record.json").read_text())
    assert record["portable"] is False
    assert record["base_fingerprint"] == load_base(str(epsilon_base), CPU).fingerprint
    assert not read_record(unlocked).portable


def test_samples_are_made_with_the_changed_decoder(unlocked, epsilon_base, dataset):
    from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline
    from PIL import Image
    from safetensors.torch import load_file

    condition = open_dataset(dataset).split("validation")[0].maps["canny"]
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        epsilon_base,
        controlnet=ControlNetModel.from_pretrained(unlocked / "controlnet"),
        safety_checker=None,
        requires_safety_checker=False,
    )
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)

    def theirs():
        picture = pipeline(
            "a red circle",
            image=Image.fromarray(condition),
            num_inference_steps=2,
            guidance_scale=4.0,
            generator=torch.Generator("cpu").manual_seed(5),
        ).images[0]
        return np.asarray(picture)

    locked = theirs()
    pipeline.unet.load_state_dict(load_file(unlocked / "controlnet" / DECODER_FILE), strict=False)
    (ours,) = sample(
        unlocked,
        condition,
        "a red circle",
        steps=2,
        guidance=4.0,
        seed=5,
        device="cpu",
        dtype="fp32",
    )
    np.testing.assert_array_equal(ours, theirs())
    assert not np.array_equal(ours, locked)


def test_another_base_is_refused(unlocked, velocity_base, tmp_path):
    from shutil import copytree

    from safetensors.torch import load_file, save_file

    base = load_base(read_record(unlocked).base, CPU)
    other = tmp_path / "other"
    copytree(base.name, other)
    file = other / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_in.bias"] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"decoder unlocked.*works with that base alone"):
        open_run(unlocked, CPU, base=str(other))


def test_a_single_file_is_refused_and_a_folder_has_the_decoder_in_it(unlocked, tmp_path):
    """Row 34."""
    from safetensors.torch import load_file

    with pytest.raises(TrainingError, match="--format diffusers, which keeps the decoder"):
        export_run(unlocked, tmp_path / "net.safetensors", format="single-file")
    export_run(unlocked, tmp_path / "net", format="diffusers", dtype="fp16")
    exported = load_file(tmp_path / "net" / DECODER_FILE)
    wanted = load_file(unlocked / "controlnet" / DECODER_FILE)
    assert exported.keys() == wanted.keys()
    assert all(torch.equal(exported[name], wanted[name].half()) for name in wanted)
    assert json.loads((tmp_path / "net" / "record.json").read_text())["portable"] is False
    assert "Not portable" in (tmp_path / "net" / "README.md").read_text()


def test_a_locked_run_says_nothing_of_a_decoder(dataset, epsilon_base, small_run, tmp_path):
    run, options = tmp_path / "run", {"base": str(epsilon_base), "device": "cpu", "dtype": "fp32"}
    train(small_run(run__steps="1"), dataset, run, **options)
    assert not list(run.rglob(DECODER_FILE))
    assert read_record(run).portable
    export_run(run, tmp_path / "net")
    assert "Not portable" not in (tmp_path / "net" / "README.md").read_text()


def test_a_run_that_goes_on_from_an_unlocked_one_is_warned(
    unlocked, epsilon_base, small_run, dataset, tmp_path, caplog
):
    config = small_run(run__steps="1", control__start_from=str(unlocked))
    options = {"base": str(epsilon_base), "device": "cpu", "dtype": "fp32"}
    train(config, dataset, tmp_path / "next", **options)
    assert "begins with the base's own decoder" in caplog.text
