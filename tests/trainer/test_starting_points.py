"""What a run begins with, and the objective's options."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from condkit.errors import ConfigError, TrainingError
from condkit.trainer.base_loading import load_base
from condkit.trainer.checkpoint import save_control_net
from condkit.trainer.compute import resolve_compute
from condkit.trainer.config import ControlConfig, LossConfig
from condkit.trainer.control_net import initial_control_net, new_control_net
from condkit.trainer.data import Example
from condkit.trainer.latents import LatentCache, LatentEncoder
from condkit.trainer.ldm_keys import PREFIX, to_ldm
from condkit.trainer.loss import min_snr_weights
from condkit.trainer.step import OptimizerStep
from condkit.trainer.train import train
from condkit.types import ConditionSpec

SPEC = ConditionSpec(
    name="canny", channels=1, dtype="uint8", meaning="edges", background=0, resample="nearest"
)


@pytest.fixture(scope="module")
def start(epsilon_base):
    """A base and a ControlNet for it whose every weight is random."""
    base = load_base(str(epsilon_base), resolve_compute("cpu", "fp32"))
    control_net = new_control_net(base, ControlConfig(), 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in control_net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return base, control_net


def saved(start, kind, folder):
    """The ControlNet in one of the layouts that people have."""
    from safetensors.torch import save_file

    _, control_net = start
    state = {name: value.clone() for name, value in control_net.state_dict().items()}
    original = to_ldm(state, layers_per_block=1)
    if kind == "folder":
        save_control_net(control_net, folder / "net", SPEC)
        return folder / "net"
    path = folder / f"net.{'pth' if kind == 'whole pickle' else 'safetensors'}"
    if kind == "diffusers file":
        save_file(state, path)
    elif kind == "original file":
        save_file(original, path)
    else:
        whole = {PREFIX + name: value for name, value in original.items()}
        torch.save({"state_dict": {**whole, "first_stage_model.x": torch.zeros(2)}}, path)
    return path


KINDS = ["folder", "diffusers file", "original file", "whole pickle"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_can_begin_with_an_existing_control_net_in_any_layout(start, kind, tmp_path):
    base, control_net = start
    config = ControlConfig(start_from=str(saved(start, kind, tmp_path)))
    begun = initial_control_net(base, config, seed=5)
    assert begun.training
    for name, value in control_net.state_dict().items():
        assert torch.equal(begun.state_dict()[name], value), name
    assert all(parameter.requires_grad for parameter in begun.parameters())


def test_a_run_can_begin_with_another_runs_control_net(dataset, epsilon_base, small_run, tmp_path):
    first, second = tmp_path / "canny", tmp_path / "lines"
    options = {"base": str(epsilon_base), "device": "cpu", "dtype": "fp32"}
    train(small_run(run__steps="1"), dataset, first, **options)
    config = small_run(run__steps="1", control__start_from=str(first), optim__lr="1e-12")
    train(config, dataset, second, **options)
    from safetensors.torch import load_file

    name = "controlnet/diffusion_pytorch_model.safetensors"
    one, other = load_file(first / name), load_file(second / name)
    assert any(value.any() for key, value in one.items() if "controlnet_down_blocks" in key)
    assert all(torch.allclose(one[key], other[key], atol=1e-7) for key in one)


def test_what_cannot_be_started_from_is_refused(start, tmp_path):
    base, _ = start
    with pytest.raises(TrainingError, match="no such file or folder"):
        initial_control_net(base, ControlConfig(start_from=str(tmp_path / "nothing")), 0)
    text = tmp_path / "x.safetensors"
    text.write_text("hello")
    with pytest.raises(TrainingError, match="not a file of plain tensors"):
        initial_control_net(base, ControlConfig(start_from=str(text)), 0)
    with pytest.raises(ConfigError, match="leave one of"):
        ControlConfig(start_from="x", embedding_channels=(16, 32, 96))


def test_a_control_net_of_another_base_is_refused_with_the_tensor_named(start, tmp_path):
    from safetensors.torch import save_file

    base, control_net = start
    state = {name: value.clone() for name, value in control_net.state_dict().items()}
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    state[name] = torch.zeros(64, 77)
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(TrainingError, match=r"attn2\.to_k\.weight has shape \(64, 77\)"):
        initial_control_net(base, ControlConfig(start_from=str(tmp_path / "net.safetensors")), 0)


def example(key, size=32):
    rng = np.random.default_rng(len(key))
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


def test_with_the_middle_alone_the_encoders_outputs_stay_zero_and_the_rest_learns(
    start, small_run, tmp_path
):
    base, _ = start
    path = str(saved(start, "folder", tmp_path))
    config = small_run(control__only_mid="true", control__start_from=path)
    control_net = initial_control_net(base, config.control, 0)
    before = {name: value.clone() for name, value in control_net.named_parameters()}
    trainable = [p for p in control_net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-3)
    step = OptimizerStep(base, control_net, optimizer, LatentEncoder(base, LatentCache(0)), config)
    for number in (1, 2):
        step(number, [[example("a"), example("bb")]], 1e-3)
    for name, value in control_net.named_parameters():
        if name.startswith("controlnet_down_blocks"):
            assert not value.any(), name
        else:
            assert not torch.equal(value, before[name]), name
    control_net.save_config(tmp_path)
    save_control_net(control_net, tmp_path / "mid", SPEC)
    reconnected = initial_control_net(base, ControlConfig(start_from=str(tmp_path / "mid")), 0)
    assert all(parameter.requires_grad for parameter in reconnected.parameters())


def losses_of(start, config):
    base, _ = start
    control_net = new_control_net(base, ControlConfig(), 0)
    optimizer = torch.optim.AdamW(control_net.parameters(), lr=0.0)
    step = OptimizerStep(base, control_net, optimizer, LatentEncoder(base, LatentCache(0)), config)
    return step(1, [[example("a"), example("bb"), example("ccc")]], 0.0).losses


def test_min_snr_weighs_each_sample_by_its_timestep(start, small_run, velocity_base):
    base, _ = start
    plain = losses_of(start, small_run())
    weighed = losses_of(start, small_run(loss__min_snr_gamma="5"))
    assert (weighed <= plain * 1.0001).all()
    assert not torch.allclose(weighed, plain)
    timesteps = torch.tensor([1, 300, 999])
    alphas = base.scheduler.alphas_cumprod[timesteps]
    snr = alphas / (1 - alphas)
    assert torch.allclose(min_snr_weights(base, timesteps, 5.0), snr.clamp(max=5) / snr)
    velocity = load_base(str(velocity_base), resolve_compute("cpu", "fp32"))
    alphas = velocity.scheduler.alphas_cumprod[timesteps]
    snr = alphas / (1 - alphas)
    expected = snr.clamp(max=5) / (snr + 1)
    assert torch.allclose(min_snr_weights(velocity, timesteps, 5.0), expected)


def test_offset_noise_changes_the_loss_and_repeats_itself(start, small_run):
    plain, config = losses_of(start, small_run()), small_run(loss__noise_offset="0.1")
    shifted = losses_of(start, config)
    assert not torch.allclose(plain, shifted)
    assert torch.equal(shifted, losses_of(start, config))


def test_impossible_objectives_are_refused():
    with pytest.raises(ConfigError, match=r"loss\.min_snr_gamma: expected more than 0"):
        LossConfig(min_snr_gamma=0)
    with pytest.raises(ConfigError, match=r"loss\.noise_offset"):
        LossConfig(noise_offset=2)
