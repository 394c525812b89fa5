"""The base model, the ControlNet made from it, and what a step may and may not change."""

import json
import shutil

import numpy as np
import pytest

from condkit.errors import TrainingError
from condkit.trainer.base_loading import load_base
from condkit.trainer.checkpoint import save_control_net
from condkit.trainer.compute import resolve_compute
from condkit.trainer.config import ControlConfig
from condkit.trainer.control_net import (
    embedding_channels_for,
    load_control_net,
    new_control_net,
)
from condkit.trainer.data import Example
from condkit.trainer.data_config import DataConfig
from condkit.trainer.latents import LatentCache, LatentEncoder
from condkit.trainer.loss import prediction, target
from condkit.trainer.loss_watch import LossWatch
from condkit.trainer.step import OptimizerStep
from condkit.types import ConditionSpec

CPU = resolve_compute("cpu", "fp32")
SPEC = ConditionSpec(
    name="canny",
    channels=1,
    dtype="uint8",
    meaning="edges",
    background=0,
    resample="nearest",
)


def example(key: str = "k", use: int = 0, size: int = 32) -> Example:
    rng = np.random.default_rng(abs(hash((key, size))) % 1000)
    return Example(
        key=key,
        use=use,
        caption="a red circle",
        pixels=rng.uniform(-1, 1, (3, size, size)).astype(np.float32),
        hint=rng.uniform(0, 1, (3, size, size)).astype(np.float32),
        picture_hw=(size, size),
        box=(0, 0, size, size),
        flipped=False,
        crop_repeats=True,
    )


def optimizer_of(control_net):
    import torch

    return torch.optim.AdamW(control_net.parameters(), lr=1e-3)


def step_of(base, control_net, optimizer, config) -> OptimizerStep:
    encoder = LatentEncoder(base, LatentCache(2**20))
    return OptimizerStep(base, control_net, optimizer, encoder, config)


def noisy_batch(base):
    import torch

    generator = torch.Generator().manual_seed(3)
    noisy = torch.randn(2, 4, 8, 8, generator=generator)
    hint = torch.rand(2, 3, 8 * base.vae_stride, 8 * base.vae_stride, generator=generator)
    return noisy, torch.tensor([10, 900]), base.encode_text(["a red circle", ""]), hint


def test_at_step_zero_the_controlled_output_is_the_bases_exactly(base):
    import torch

    control_net = new_control_net(base, ControlConfig(), 0)
    noisy, timesteps, text, hint = noisy_batch(base)
    sizes = torch.tensor([example().time_ids] * 2)
    added = {"text_embeds": text.pooled, "time_ids": sizes} if base.is_xl else None
    with torch.no_grad():
        controlled = prediction(base, control_net, noisy, timesteps, text, hint, sizes)
        alone = base.unet(
            noisy, timesteps, encoder_hidden_states=text.hidden, added_cond_kwargs=added
        ).sample
    assert torch.equal(controlled, alone)


def test_the_control_net_is_a_copy_of_the_encoder_behind_zeros(base):
    import torch

    control_net = new_control_net(base, ControlConfig(), 0)
    encoder = base.unet.state_dict()
    last = "controlnet_cond_embedding.conv_out"
    zero = ("controlnet_down_blocks", "controlnet_mid_block", last)
    for name, tensor in control_net.state_dict().items():
        if name.startswith(zero):
            assert not tensor.any()
        elif not name.startswith("controlnet_cond_embedding"):
            assert torch.equal(tensor, encoder[name])


def test_the_seed_decides_the_hint_encoder_and_touches_no_other_random_state(base):
    import torch

    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    one, same, other = (new_control_net(base, ControlConfig(), seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    name = "controlnet_cond_embedding.conv_in.weight"
    assert torch.equal(one.state_dict()[name], same.state_dict()[name])
    assert not torch.equal(one.state_dict()[name], other.state_dict()[name])


def test_training_changes_the_control_net_and_nothing_else(base, small_run):
    import torch

    control_net = new_control_net(base, ControlConfig(), 0)
    before = {
        part: {name: tensor.clone() for name, tensor in module.state_dict().items()}
        for part, module in base.modules.items()
    }
    start = {name: tensor.clone() for name, tensor in control_net.state_dict().items()}
    step = step_of(base, control_net, optimizer_of(control_net), small_run())
    results = [step(done, [[example("a"), example("b")]], 1e-3) for done in (1, 2, 3)]
    assert all(bool(torch.isfinite(result.losses).all()) for result in results)
    for part, module in base.modules.items():
        for name, parameter in module.named_parameters():
            assert parameter.grad is None, f"{part}.{name}"
            assert not parameter.requires_grad
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor, before[part][name]), f"{part}.{name}"
    same = [n for n, t in control_net.state_dict().items() if torch.equal(t, start[n])]
    assert same == []


def test_zero_convolutions_leave_zero_first_and_the_hint_encoder_learns_after_them(base, small_run):
    control_net = new_control_net(base, ControlConfig(), 0)
    embedding = control_net.controlnet_cond_embedding
    body = embedding.conv_in.weight.detach().clone()
    optimizer = optimizer_of(control_net)
    # No weight decay: only gradients may move weights here.
    optimizer.param_groups[0]["weight_decay"] = 0.0
    step = step_of(base, control_net, optimizer, small_run())
    step(1, [[example("a"), example("b")]], 1e-3)
    assert all(bool(conv.weight.any()) for conv in control_net.controlnet_down_blocks)
    assert bool(control_net.controlnet_mid_block.weight.any())
    assert not embedding.conv_out.weight.any()
    assert bool((embedding.conv_in.weight == body).all())
    for done in (2, 3, 4):
        step(done, [[example("a"), example("b")]], 1e-3)
    assert bool(embedding.conv_out.weight.any())
    assert bool((embedding.conv_in.weight != body).any())


def test_the_target_is_the_noise_or_the_velocity(epsilon_base, velocity_base):
    import torch

    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    timesteps = torch.tensor([3, 700])
    epsilon = load_base(str(epsilon_base), CPU)
    assert torch.equal(target(epsilon, latents, noise, timesteps), noise)
    velocity = load_base(str(velocity_base), CPU)
    assert velocity.prediction_type == "v_prediction"
    alpha = velocity.scheduler.alphas_cumprod[timesteps].view(2, 1, 1, 1)
    torch.testing.assert_close(
        target(velocity, latents, noise, timesteps),
        alpha.sqrt() * noise - (1 - alpha).sqrt() * latents,
    )


def test_a_cached_latent_trains_as_a_fresh_one(base):
    import torch

    draws = torch.randn(2, 4, 32 // base.vae_stride, 32 // base.vae_stride)
    cache = LatentCache(2**20)
    cached, fresh = LatentEncoder(base, cache), LatentEncoder(base, LatentCache(0))
    pair = [example("a"), example("b")]
    first = cached(pair, draws)
    assert len(cache) == 2
    assert torch.equal(cached(pair, draws), first)
    assert torch.equal(fresh(pair, draws), first)
    # And it does not matter which samples share a batch.
    assert torch.equal(fresh(pair[1:], draws[1:]), first[1:])


def test_the_cache_tells_crops_and_flips_apart_and_keeps_its_budget(base):
    import torch

    cache = LatentCache(3 * 4 * 10)
    for i in range(5):
        cache.put(("k", (0, i, 8, 8), False, "vae"), torch.full((10,), float(i)))
    assert len(cache) == 3
    assert cache.get(("k", (0, 0, 8, 8), False, "vae")) is None
    assert cache.get(("k", (0, 4, 8, 8), True, "vae")) is None
    kept = cache.get(("k", (0, 4, 8, 8), False, "vae"))
    assert kept is not None
    assert kept[0] == 4.0


def test_a_loss_that_is_not_finite_names_the_step_and_its_samples(base, small_run):
    bad = example("bad")
    bad.pixels[:] = np.nan
    step = step_of(
        base, control_net := new_control_net(base, ControlConfig(), 0), None, small_run()
    )
    step._optimizer = optimizer_of(control_net)
    watch = LossWatch()
    watch.add(step(1, [[example("good"), example("fine")]], 1e-3))
    watch.mean()
    watch.add(step(2, [[example("good"), bad]], 1e-3))
    watch.add(step(3, [[example("good"), example("fine")]], 1e-3))
    with pytest.raises(
        TrainingError, match=r"step 2: the loss is not finite; the samples are bad\."
    ):
        watch.mean()


def test_the_hint_encoder_follows_the_vaes_stride(base):
    control_net = new_control_net(base, ControlConfig(), 0)
    channels = control_net.config.conditioning_embedding_out_channels
    assert tuple(channels) == embedding_channels_for(base.vae_stride)
    assert embedding_channels_for(8) == (16, 32, 96, 256)
    assert embedding_channels_for(4) == (16, 32, 96)


def test_a_stride_that_does_not_fit_is_a_clear_error(epsilon_base, velocity_base, tmp_path):
    base = load_base(str(epsilon_base), CPU)
    with pytest.raises(
        TrainingError,
        match=r"control\.embedding_channels=\[16, 32, 96, 256\] shrinks the condition map 8 times, "
        r"and the VAE .* 4 times.*use 3 channel counts",
    ):
        new_control_net(base, ControlConfig(embedding_channels=(16, 32, 96, 256)), 0)
    save_control_net(new_control_net(base, ControlConfig(), 0), tmp_path / "net", SPEC)
    with pytest.raises(TrainingError, match=r"the ControlNet in .* shrinks .* 4 times"):
        load_control_net(tmp_path / "net", load_base(str(velocity_base), CPU))


def test_wider_hint_encoders_are_possible(epsilon_base):
    base = load_base(str(epsilon_base), CPU)
    control_net = new_control_net(base, ControlConfig(embedding_channels=(32, 48, 64)), 0)
    assert control_net.controlnet_cond_embedding.conv_in.out_channels == 32


def test_strides_without_a_hint_encoder_are_refused():
    with pytest.raises(TrainingError, match="stride of 3"):
        embedding_channels_for(3)


def test_the_fingerprint_is_of_the_weights(epsilon_base, velocity_base):
    one, same = load_base(str(epsilon_base), CPU), load_base(str(epsilon_base), CPU)
    other = load_base(str(velocity_base), CPU)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    changed = load_base(str(epsilon_base), CPU)
    changed.vae.decoder.conv_out.bias.data[0] += 1
    assert changed.vae_fingerprint != one.vae_fingerprint
    assert changed.fingerprint != one.fingerprint


def test_the_units_come_from_vae_and_unet(epsilon_base, velocity_base):
    assert (
        load_base(str(epsilon_base), CPU).vae_stride,
        load_base(str(epsilon_base), CPU).unit,
    ) == (4, 8)
    assert load_base(str(velocity_base), CPU).unit == 16


def edited(base_folder, tmp_path, part: str, **values):
    folder = tmp_path / "edited"
    shutil.copytree(base_folder, folder)
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    path = folder / part / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return str(folder)


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (
            "scheduler",
            {"prediction_type": "sample"},
            "epsilon or v_prediction, got 'sample'",
        ),
        ("unet", {"num_class_embeds": 3}, "class embeddings"),
    ],
)
def test_models_of_another_kind_are_refused(epsilon_base, tmp_path, part, values, message):
    with pytest.raises(TrainingError, match=message):
        load_base(edited(epsilon_base, tmp_path, part, **values), CPU)


def test_a_base_that_is_not_there_says_what_to_give(tmp_path, epsilon_base):
    with pytest.raises(TrainingError, match=r"no model_index\.json"):
        load_base(str(tmp_path), CPU)
    with pytest.raises(TrainingError, match=r"no such folder.*OWNER/NAME.*condkit/tiny"):
        load_base("./nowhere/at/all", CPU)
    with pytest.raises(TrainingError, match="cannot load its unet"):
        load_base("nobody/has-this-model", CPU, offline=True)
    shutil.copytree(epsilon_base, tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "vae")
    with pytest.raises(TrainingError, match="cannot load its vae"):
        load_base(str(tmp_path / "cut"), CPU)


def test_the_built_in_base_can_be_trained():
    base = load_base("condkit/tiny", CPU)
    assert base.vae_stride == 4
    assert new_control_net(base, ControlConfig(), 0).config.in_channels == 4


def test_batches_of_several_passes_equal_one_large_batch(base, small_run):
    import torch

    examples = [example(key) for key in "abcd"]
    weights = []
    for parts, accumulation in (([examples], "1"), ([examples[:2], examples[2:]], "2")):
        control_net = new_control_net(base, ControlConfig(), 0)
        # Plain gradient descent: Adam would hide a wrong scale of the gradient.
        sgd = torch.optim.SGD(control_net.parameters(), lr=1.0)
        config = small_run(optim__accumulation=accumulation, optim__clip_norm="0")
        step_of(base, control_net, sgd, config)(1, parts, 1.0)
        weights.append(control_net.controlnet_mid_block.weight.detach().clone())
    assert bool(weights[0].any())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-7)


def test_a_hint_is_what_diffusers_pipeline_makes_of_the_same_map(base):
    from PIL import Image

    from condkit.trainer.examples import ExampleMaker
    from condkit.trainer.generation import Painter

    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (32, 32)).astype(np.uint8)

    class Row:
        key, text = "k", ""
        image = np.zeros((32, 32, 3), np.uint8)
        maps = {"canny": grey}  # noqa: RUF012

    ours = ExampleMaker(SPEC, DataConfig(flip=0.0), 0, base.unit)(Row(), 0).hint
    pipeline = Painter(base, new_control_net(base, ControlConfig(), 0))._pipeline
    theirs = pipeline.prepare_image(Image.fromarray(grey), 32, 32, 1, 1, "cpu", None)
    np.testing.assert_array_equal(ours, theirs[0].numpy())
