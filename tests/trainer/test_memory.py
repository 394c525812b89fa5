"""Arithmetic and memory of a step, said before the run: counted, and compared with real steps."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from condkit.errors import ConfigError
from condkit.trainer.arithmetic import Meter, peak_of_name, step_arithmetic
from condkit.trainer.base_loading import load_base
from condkit.trainer.compute import resolve_compute
from condkit.trainer.config import ControlConfig
from condkit.trainer.control_net import new_control_net
from condkit.trainer.data import Example
from condkit.trainer.dry_run import plan_training
from condkit.trainer.latents import LatentCache, LatentEncoder
from condkit.trainer.learner import Learner
from condkit.trainer.memory import predict_memory
from condkit.trainer.meta import meta_networks
from condkit.trainer.run_folder import RunFolder
from condkit.trainer.run_log import read_metrics
from condkit.trainer.step import OptimizerStep
from condkit.trainer.train import train

SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD21 = {
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
SDXL = {
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
# TFLOP of one sample: ControlNet forward and backward, base forward, decoder to activations, all.
PUBLISHED = [
    pytest.param(SD15, 64, (0.283, 0.565, 0.803, 0.614, 2.265), id="SD 1.5 at 512"),
    pytest.param(SD21, 96, (0.774, 1.545, 2.149, 1.794, 6.263), id="SD 2.1 at 768"),
    pytest.param(
        SDXL,
        128,
        (3.020, 6.014, 6.761, 4.220, 20.016),
        id="SDXL at 1024",
        marks=pytest.mark.slow,
    ),
]


def published(config):
    from diffusers import ControlNetModel, UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
        return unet, ControlNetModel.from_unet(unet, load_weights_from_unet=False)


@pytest.mark.parametrize(("config", "side", "wanted"), PUBLISHED)
def test_the_arithmetic_of_the_published_models(config, side, wanted):
    counted = step_arithmetic(meta_networks(*published(config)), (side, side))
    parts = (
        counted.control_forward,
        counted.control_backward,
        counted.base_forward,
        counted.base_backward,
        counted.total,
    )
    assert parts == pytest.approx([value * 1e12 for value in wanted], rel=2e-3)


def test_the_locked_encoder_has_no_backward_pass_and_the_unlocked_decoder_has_one_for_weights():
    """Row 27: what is frozen costs its forward pass alone."""
    networks = published(SD15)
    locked = step_arithmetic(meta_networks(*networks), (64, 64))
    unlocked = step_arithmetic(meta_networks(*networks, unlocked=True), (64, 64))
    assert unlocked.base_backward > 1.5 * locked.base_backward
    assert unlocked.control_backward == locked.control_backward
    # Twice the forward pass of the decoder at the most, not of the whole base.
    assert unlocked.base_backward < 2.1 * 0.542e12


def test_the_share_of_the_peak_is_arithmetic_over_time(base):
    control_net = new_control_net(base, ControlConfig(), 0)
    one = step_arithmetic(meta_networks(base.unet, control_net), (8, 8)).total
    meter = Meter(base.unet, control_net, peak=100 * one)
    meter.add(((8, 8), (8, 8)), unlocked=False)
    meter.add(((8, 8), (8, 8)), unlocked=False)
    assert meter.read(0.5) == pytest.approx((8.0, 0.08))
    assert meter.read(1.0) == (0.0, 0.0)
    meter.add(((8, 8),), unlocked=True)
    assert meter.read(1.0)[1] > 0.01
    assert Meter(base.unet, control_net, peak=None).read(1.0) == (0.0, None)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_the_peak_of_a_card_is_its_data_sheets(name, tflops):
    assert peak_of_name(name) == tflops * 1e12


def test_an_unknown_card_has_no_share_of_its_peak():
    assert peak_of_name("Tesla K80") is None


def test_the_share_is_logged_where_the_peak_is_known(dataset, epsilon_base, small_run, tmp_path):
    options = {"base": str(epsilon_base), "device": "cpu", "dtype": "fp32"}
    seen = []
    config = small_run(compute__peak_tflops="1")
    train(config, dataset, tmp_path / "known", on_progress=seen.append, **options)
    entries = read_metrics(RunFolder(tmp_path / "known"))
    assert all(0 < entry["mfu"] < 1 for entry in entries)
    assert all(entry["memory_gb"] > 0.1 for entry in entries)
    assert seen[0].seconds_left is None
    assert seen[-2].seconds_left > 0
    assert seen[-1].seconds_left == 0
    assert seen[-1].mfu == entries[-1]["mfu"]
    train(small_run(), dataset, tmp_path / "unknown", **options)
    assert not any("mfu" in entry for entry in read_metrics(RunFolder(tmp_path / "unknown")))


def example(key: str, size: int) -> Example:
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


def measured(base, config, size: int, passes: int) -> int:
    """What torch's allocator gave out at most during the third step of a run, bytes."""
    from torch.profiler import ProfilerActivity, profile

    learner = Learner(base, new_control_net(base, ControlConfig(), 0), config)
    if config.compute.gradient_checkpointing:
        learner.control_net.enable_gradient_checkpointing()
        base.unet.enable_gradient_checkpointing()
    if config.control.unlock_decoder is not None:
        learner.unlock()
    encoder = LatentEncoder(base, LatentCache(2**24))
    step = OptimizerStep(base, learner.control_net, learner.optimizer, encoder, config)
    keys = [chr(97 + i) for i in range(config.data.batch_size)]
    batches = [[example(key, size) for key in keys]] * passes
    # The first steps fill the latent cache and make the optimizer's state.
    for done in (1, 2):
        step(done, batches, 1e-3)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(3, batches, 1e-3)
    now = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({}, 1),
        ({"optim__accumulation": "2"}, 2),
        ({"compute__gradient_checkpointing": "true"}, 1),
        ({"control__unlock_decoder": "0", "optim__accumulation": "2"}, 2),
    ],
    ids=["plain", "accumulation", "checkpointing", "unlocked"],
)
def test_the_predicted_peak_is_what_the_allocator_gives_out(
    epsilon_base, small_run, settings, passes
):
    """Row 1: within a twentieth."""
    base = load_base(str(epsilon_base), resolve_compute("cpu", "fp32"))
    config = small_run(data__batch_size="8", **settings)
    most = measured(base, config, 128, passes)
    control_net = new_control_net(base, ControlConfig(), 0)
    memory = predict_memory(base, control_net, config, (32, 32))
    moving = memory.activations + memory.gradients
    assert moving == pytest.approx(most, rel=0.05)


def test_memory_follows_the_settings(epsilon_base, small_run):
    base = load_base(str(epsilon_base), resolve_compute("cpu", "fp32"))
    control_net = new_control_net(base, ControlConfig(), 0)

    def of(**settings):
        return predict_memory(base, control_net, small_run(**settings), (16, 16))

    plain = of()
    weights = sum(p.numel() for p in control_net.parameters())
    assert plain.gradients == 4 * weights
    assert plain.optimizer == 8 * weights
    assert plain.averages == 0
    assert of(ema__decay="0.9").averages == 4 * weights
    assert of(optim__name="adamw8bit").optimizer == 2 * weights
    assert of(optim__name="adafactor").peak < plain.peak
    assert of(data__batch_size="4").activations > 1.7 * plain.activations
    assert of(compute__gradient_checkpointing="true").peak < plain.peak
    assert of(control__unlock_decoder="5").gradients > plain.gradients
    shared = small_run(compute__shard="true", ema__decay="0.9")
    alone, half = (predict_memory(base, control_net, shared, (16, 16), devices=n) for n in (1, 2))
    for name in ("gradients", "optimizer", "averages"):
        assert getattr(half, name) == getattr(alone, name) // 2
    assert half.activations == alone.activations
    assert of(optim__accumulation="8").peak == of(optim__accumulation="2").peak > plain.peak


@pytest.mark.slow
def test_the_largest_parts_of_the_published_models_are_as_known():
    """SD 1.5: fp32 weights, gradients and Adam's averages of the ControlNet take 5.8 GB."""
    from condkit.trainer.memory import _peak_of_passes

    networks = published(SD15)
    count = sum(p.numel() for p in networks[1].parameters())
    assert 16 * count == pytest.approx(5.8e9, rel=0.01)
    options = {"dtype": torch.bfloat16, "device_type": "cuda", "passes": 1}
    four, eight = (
        _peak_of_passes(meta_networks(*networks), batch, (64, 64), **options) for batch in (4, 8)
    )
    # Activations grow with the batch and gradients do not; a 24 GB card holds the tutorial's four.
    assert four < eight < 2 * four
    assert four + 12 * count + 4 * 1.07e9 < 24e9


def test_a_dry_run_says_what_a_run_would_be_and_writes_nothing(
    dataset, epsilon_base, small_run, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    config = small_run(
        ema__decay="0.9",
        control__unlock_decoder="2",
        cache__latents="true",
        cache__text="true",
        cache__folder=str(tmp_path / "cache"),
        optim__accumulation="3",
    )
    options = {"base": str(epsilon_base), "device": "cpu", "dtype": "fp32"}
    plan = plan_training(config, dataset, devices=2, **options)
    base = load_base(str(epsilon_base), resolve_compute("cpu", "fp32"))
    control_net = new_control_net(base, ControlConfig(), 0)
    assert plan.trained == sum(p.numel() for p in control_net.parameters())
    assert plan.trained_later > 0
    everything = [*base.modules.values(), control_net]
    total = sum(p.numel() for module in everything for p in module.parameters())
    assert plan.trained + plan.trained_later + plan.frozen == total
    assert (plan.batch, plan.rows, plan.sizes) == (12, 10, (((64, 64), 1.0),))
    assert plan.step_flops == 12 * plan.arithmetic.total
    # Ten pictures of 8 channels, mean and deviation of four, in bf16.
    assert plan.latent_cache == 10 * 8 * 16 * 16 * 2
    assert plan.text_cache == 11 * 77 * 32 * 2
    assert list(tmp_path.iterdir()) == []


def test_the_predicted_checkpoint_is_as_large_as_the_written_one(
    dataset, epsilon_base, small_run, tmp_path
):
    settings = {"run__steps": "2", "ema__decay": "0.9", "control__unlock_decoder": "1"}
    options = {"base": str(epsilon_base), "device": "cpu", "dtype": "fp32"}
    plan = plan_training(small_run(**settings), dataset, **options)
    train(small_run(**settings), dataset, tmp_path / "run", **options)
    folder = tmp_path / "run" / "checkpoints" / "step-00000002"
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert plan.checkpoint == pytest.approx(written, rel=0.1)


def test_the_command_prints_the_plan_and_makes_no_folder(dataset, epsilon_base, tmp_path):
    from condkit.cli import app

    words = ["train", "canny", "--data", str(dataset), "-o", str(tmp_path / "run"), "--dry-run"]
    words += ["--base", str(epsilon_base), "--device", "cpu", "--dtype", "fp32"]
    words += ["--set", "data.resolution=64"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    for what in ("trained parameters", "arithmetic per step", "predicted peak memory", "cached"):
        assert what in shown.stdout
    figures = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert figures["memory"]["peak"] > figures["memory"]["weights"] > 0
    assert figures["arithmetic"]["total"] * figures["batch"] == figures["step_flops"]
    assert list(tmp_path.iterdir()) == []


def test_the_sizes_of_streamed_pictures_have_to_be_given(
    epsilon_base, small_run, tmp_path, monkeypatch
):
    import datasets

    from condkit.imageio import encode_png

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    png = {"bytes": encode_png(np.zeros((64, 64, 3), np.uint8)), "path": None}
    features = {
        "image": datasets.Image(),
        "conditioning_image": datasets.Image(),
        "text": datasets.Value("string"),
    }
    columns = {"image": [png] * 2, "conditioning_image": [png] * 2, "text": ["a", "b"]}
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    (tmp_path / "data").mkdir()
    table.to_parquet(tmp_path / "data" / "train.parquet")
    options = {"base": str(epsilon_base), "device": "cpu", "dtype": "fp32"}

    def plan_of(**settings):
        config = small_run(data__streaming="true", **settings)
        return plan_training(config, tmp_path / "data", **options)

    with pytest.raises(ConfigError, match=r"--dry-run: .*set data\.resolution"):
        plan_of()
    plan = plan_of(data__resolution="64")
    assert (plan.rows, plan.sizes) == (None, (((64, 64), 1.0),))
    assert ("training rows", "streamed") in list(plan.lines())
