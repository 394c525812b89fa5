"""Optimizers by name, what they may not do, and the choices between memory and time."""

import sys
import types

import numpy as np
import pytest
import torch

from condkit.errors import ConfigError, DependencyError
from condkit.trainer.base_loading import load_base
from condkit.trainer.compute import resolve_compute
from condkit.trainer.config import ControlConfig
from condkit.trainer.control_net import new_control_net
from condkit.trainer.data import Example
from condkit.trainer.latents import LatentCache, LatentEncoder
from condkit.trainer.learner import Learner
from condkit.trainer.optimizers import STATE_BYTES, new_optimizer
from condkit.trainer.step import OptimizerStep

CPU = resolve_compute("cpu", "fp32")


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


def step_of(base, learner, config) -> OptimizerStep:
    encoder = LatentEncoder(base, LatentCache(2**20))
    return OptimizerStep(base, learner.control_net, learner.optimizer, encoder, config)


def trained(base, config, *, steps: int = 2, rate: float = 1e-3) -> dict[str, torch.Tensor]:
    """A ControlNet's weights after some steps on the same pair."""
    learner = Learner(base, new_control_net(base, ControlConfig(), 0), config)
    step = step_of(base, learner, config)
    for done in range(1, steps + 1):
        step(done, [[example("a"), example("b")]], rate)
    return learner.control_net.state_dict()


@pytest.fixture
def small_base(epsilon_base):
    return load_base(str(epsilon_base), CPU)


@pytest.fixture
def without(monkeypatch):
    """Hides packages: importing them fails, installed or not."""

    def hide(*names):
        for name in names:
            for known in [name, f"{name}.optim"]:
                monkeypatch.setitem(sys.modules, known, None)

    return hide


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_every_weight_moves_with_every_optimizer(small_base, small_run, name):
    before = new_control_net(small_base, ControlConfig(), 0).state_dict()
    after = trained(small_base, small_run(optim__name=name), steps=3)
    assert [key for key in before if torch.equal(before[key], after[key])] == []


def test_adafactor_takes_the_rate_as_it_is_so_zero_convolutions_leave_zero(small_base, small_run):
    config = small_run(optim__name="adafactor", optim__weight_decay="0")
    after = trained(small_base, config, steps=1, rate=1e-3)
    moved = after["controlnet_mid_block.weight"].abs().max()
    # Its own rule would scale the step by the weight's size, which is zero: 1e-3 * 1e-3.
    assert 1e-4 < float(moved) <= 3e-3


def test_adamw_is_fused_and_has_the_runs_settings(small_base, small_run):
    config = small_run(optim__betas="0.8,0.95", optim__eps="1e-6", optim__weight_decay="0.3").optim
    parameters = list(new_control_net(small_base, ControlConfig(), 0).parameters())
    (group,) = new_optimizer(config, parameters).param_groups
    assert group["fused"]
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.8, 0.95), 1e-6, 0.3)


def test_8_bit_adam_without_its_libraries_says_what_to_install(small_run, without):
    without("bitsandbytes", "torchao")
    parameters = [torch.nn.Parameter(torch.zeros(3))]
    with pytest.raises(DependencyError, match=r"bitsandbytes or torchao.*condkit\[8bit\]"):
        new_optimizer(small_run(optim__name="adamw8bit").optim, parameters)


@pytest.mark.parametrize("package", ["bitsandbytes", "torchao"])
def test_8_bit_adam_is_taken_from_whichever_library_is_there(
    small_run, monkeypatch, without, package
):
    class AdamW8bit(torch.optim.AdamW):
        pass

    without(*({"bitsandbytes", "torchao"} - {package}))
    stand_in = types.ModuleType(f"{package}.optim")
    stand_in.AdamW8bit = AdamW8bit
    monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    monkeypatch.setitem(sys.modules, f"{package}.optim", stand_in)
    config = small_run(optim__name="adamw8bit", optim__lr="3e-4").optim
    optimizer = new_optimizer(config, [torch.nn.Parameter(torch.zeros(3))])
    assert isinstance(optimizer, AdamW8bit)
    assert optimizer.param_groups[0]["lr"] == 3e-4


def test_what_adamw_remembers_is_as_large_as_predicted(small_base, small_run):
    config = small_run()
    learner = Learner(small_base, new_control_net(small_base, ControlConfig(), 0), config)
    step_of(small_base, learner, config)(1, [[example("a")]], 1e-3)
    held = sum(
        value.numel() * value.element_size()
        for state in learner.optimizer.state.values()
        for value in state.values()
        if value.numel() > 1
    )
    weights = sum(p.numel() for p in learner.parameters() if p.numel() > 1)
    assert held == weights * STATE_BYTES["adamw"]


def test_the_gradient_is_clipped_to_its_norm(small_base, small_run):
    control_net = new_control_net(small_base, ControlConfig(), 0)
    before = torch.cat([p.detach().reshape(-1).clone() for p in control_net.parameters()])
    config = small_run(optim__clip_norm="0.01")
    sgd = torch.optim.SGD(control_net.parameters(), lr=1.0)
    encoder = LatentEncoder(small_base, LatentCache(2**20))
    step = OptimizerStep(small_base, control_net, sgd, encoder, config)
    result = step(1, [[example("a"), example("b")]], 1.0)
    after = torch.cat([p.detach().reshape(-1) for p in control_net.parameters()])
    assert float(result.gradient_norm) > 0.01
    assert float((after - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_small_steps_are_not_lost_in_bf16(epsilon_base, small_run):
    """Row 33: weights kept in bf16 would not move at all by a rate of 1e-6."""
    base = load_base(str(epsilon_base), resolve_compute("cpu", "bf16"))
    config = small_run(optim__weight_decay="0")
    before = new_control_net(base, ControlConfig(), 0).state_dict()
    after = trained(base, config, steps=6, rate=1e-6)
    for name in ("conv_in.weight", "mid_block.resnets.0.conv1.weight"):
        moved = (after[name] - before[name]).abs()
        assert after[name].dtype == torch.float32
        assert float(moved.median()) > 1e-6
        assert torch.equal(after[name].bfloat16(), before[name].bfloat16()) or moved.max() < 1e-4


@pytest.mark.parametrize(
    "settings",
    [
        {"compute__gradient_checkpointing": "true"},
        {"compute__channels_last": "false"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_trades_memory_for_time_changes_nothing_but_rounding(
    dataset, epsilon_base, small_run, tmp_path, settings
):
    from safetensors.torch import load_file

    from condkit.trainer.train import train

    weights = []
    for name, changed in (("plain", {}), ("other", settings)):
        config = small_run(run__steps="2", optim__lr="1e-4", **changed)
        options = {"base": str(epsilon_base), "device": "cpu", "dtype": "fp32"}
        train(config, dataset, tmp_path / name, **options)
        file = tmp_path / name / "controlnet" / "diffusion_pytorch_model.safetensors"
        weights.append(load_file(file))
    for name, tensor in weights[0].items():
        # Adam's first steps are as large as the rate whatever the gradient, so rounding of a
        # gradient near zero can turn one around.
        assert float((weights[1][name] - tensor).abs().mean()) < 2e-5, name


@pytest.mark.slow
def test_both_networks_are_compiled_whole_and_the_run_is_the_same(
    dataset, epsilon_base, small_run, tmp_path, monkeypatch
):
    """Traced and differentiated as for a device, without the minutes of a C++ compiler."""
    from safetensors.torch import load_file

    from condkit.trainer.train import train

    compiled, original = [], torch.compile

    def quick(module, **options):
        compiled.append((type(module).__name__, options))
        return original(module, backend="aot_eager", **options)

    monkeypatch.setattr(torch, "compile", quick)
    weights = []
    for name in ("false", "true"):
        config = small_run(run__steps="2", optim__lr="1e-4", compute__compile=name)
        options = {"base": str(epsilon_base), "device": "cpu", "dtype": "fp32"}
        train(config, dataset, tmp_path / name, **options)
        file = tmp_path / name / "controlnet" / "diffusion_pytorch_model.safetensors"
        weights.append(load_file(file))
    static = {"dynamic": False}
    assert compiled == [("UNet2DConditionModel", static), ("ControlNetModel", static)]
    for name, tensor in weights[0].items():
        assert float((weights[1][name] - tensor).abs().mean()) < 2e-5, name


def test_frozen_weights_held_in_bf16_give_the_same_results_to_the_bit(base_folder, small_run):
    from condkit.trainer.precision import hold_base

    results = []
    for held in (False, True):
        base = load_base(str(base_folder), resolve_compute("cpu", "bf16"))
        config = small_run(control__unlock_decoder="1")
        learner = Learner(base, new_control_net(base, ControlConfig(), 0), config)
        before = sum(p.numel() * p.element_size() for p in base.unet.parameters())
        if held:
            hold_base(base, config)
            after = sum(p.numel() * p.element_size() for p in base.unet.parameters())
            assert after < 0.8 * before
        step = step_of(base, learner, config)
        losses = []
        for done in (1, 2, 3):
            if learner.is_due(done - 1):
                learner.unlock()
            losses.append(step(done, [[example("a"), example("b")]], 1e-3).losses)
        results.append((torch.cat(losses), learner.control_net.state_dict(), base))
    (one, weights, _), (other, same, lean) = results
    assert torch.equal(one, other)
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    # What is trained stays in fp32, and the hash is that of the published weights.
    assert {p.dtype for p in lean.unet.parameters() if p.requires_grad} == {torch.float32}
    assert lean.fingerprint == load_base(str(base_folder), CPU).fingerprint


def test_checkpointing_reaches_both_networks(
    dataset, epsilon_base, small_run, tmp_path, monkeypatch
):
    from condkit.trainer import step as step_module
    from condkit.trainer.train import train

    seen = {}
    original = step_module.OptimizerStep.__init__

    def look(self, base, control_net, *arguments, **options):
        seen["both"] = base.unet.is_gradient_checkpointing, control_net.is_gradient_checkpointing
        original(self, base, control_net, *arguments, **options)

    monkeypatch.setattr(step_module.OptimizerStep, "__init__", look)
    config = small_run(run__steps="1", compute__gradient_checkpointing="true")
    train(config, dataset, tmp_path / "run", base=str(epsilon_base), device="cpu", dtype="fp32")
    assert seen["both"] == (True, True)


def test_attention_is_torchs_own_fused_one(base):
    """No attention matrix is ever kept: diffusers' default calls scaled_dot_product_attention."""
    control_net = new_control_net(base, ControlConfig(), 0)
    for network in (base.unet, control_net):
        kinds = {type(processor).__name__ for processor in network.attn_processors.values()}
        assert kinds == {"AttnProcessor2_0"}


def test_no_step_reads_from_the_device(base, small_run, monkeypatch):
    """Whoever reads a number waits for the device: losses are only read at log lines."""
    config = small_run(loss__min_snr_gamma="5", loss__noise_offset="0.05", ema__decay="0.9")
    learner = Learner(base, new_control_net(base, ControlConfig(), 0), config)
    step = step_of(base, learner, config)
    batch = [example("a"), example("b")]
    # The first step fills the latent cache and makes the optimizer's state.
    step(1, [batch], 1e-3)

    def forbidden(*arguments, **options):
        raise AssertionError("a step read a number from the device")

    names = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__")
    with monkeypatch.context() as patch:
        for name in names:
            patch.setattr(torch.Tensor, name, forbidden)
        result = step(2, [batch, batch], 1e-3)
        learner.update_averages()
    assert bool(result.losses.isfinite().all())


def test_everything_is_sent_to_the_device_without_waiting_for_it(base, small_run, monkeypatch):
    """A plain copy to a CUDA device waits for all work before it; `Compute.send` does not."""
    learner = Learner(base, new_control_net(base, ControlConfig(), 0), small_run())
    step = step_of(base, learner, small_run())
    original, senders = torch.Tensor.to, []

    def watch(tensor, *arguments, **options):
        sender = sys._getframe(1).f_globals["__name__"]
        if sender.startswith("condkit.") and any(isinstance(a, torch.device) for a in arguments):
            senders.append(sender)
        return original(tensor, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", watch)
    step(1, [[example("a"), example("b")]], 1e-3)
    step(2, [[example("a"), example("b")]], 1e-3)
    assert set(senders) == {"condkit.trainer.compute"}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_batches_made_ahead_come_in_order_and_errors_at_their_turn(count):
    from condkit.trainer.batch import ahead

    def make(number):
        if number == 4:
            raise ValueError("row 4 is damaged")
        return 10 + number

    assert list(ahead(iter(range(4)), make, count)) == [10, 11, 12, 13]
    results = ahead(iter(range(9)), make, count)
    assert [next(results) for _ in range(4)] == [10, 11, 12, 13]
    with pytest.raises(ValueError, match="row 4 is damaged"):
        next(results)


def test_a_loop_that_ends_early_leaves_no_thread_behind():
    import threading

    from condkit.trainer.batch import ahead

    results = ahead(iter(range(10_000)), lambda number: number + 1, 2)
    assert next(results) == 1
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("condkit-ahead")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optim.name": "adam8bit"}, "did you mean 'adamw8bit'"),
        ({"ema.decay": "1"}, r"ema\.decay: expected 0 to below 1, got 1"),
        ({"control.unlock_decoder": "-1"}, r"control\.unlock_decoder: expected 0 or more steps"),
        ({"control.decoder_lr": "0"}, r"control\.decoder_lr: expected more than 0"),
        ({"compute.peak_tflops": "0"}, r"compute\.peak_tflops: expected more than 0"),
        (
            {"compute.shard": "true", "control.unlock_decoder": "5"},
            r"compute\.shard: expected false with control\.unlock_decoder",
        ),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, message):
    from condkit.trainer.recipes import load_recipe

    with pytest.raises(ConfigError, match=message):
        load_recipe("canny", settings)
