"""Low-rank differences on the encoder copy: what learns, how it is saved, what others read."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from condkit.errors import ConfigError, TrainingError
from condkit.trainer.base_loading import load_base
from condkit.trainer.checkpoint import complete_checkpoints
from condkit.trainer.compute import resolve_compute
from condkit.trainer.config import ComputeConfig, ControlConfig, TrainConfig
from condkit.trainer.control_lora import (
    MARKER,
    add_control_lora,
    load_lora_state,
    lora_state,
    merge_control_lora,
    plain_state,
    published_names,
    rank_of,
    resumed_state,
)
from condkit.trainer.control_net import (
    control_stride,
    initial_control_net,
    load_control_net,
    new_control_net,
    read_single_file,
)
from condkit.trainer.dry_run import plan_training
from condkit.trainer.export import export_run
from condkit.trainer.learner import Learner
from condkit.trainer.sample import open_run, sample
from condkit.trainer.train import train

CPU = resolve_compute("cpu", "fp32")
RANK = 4
SDXL = {
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def outputs(control_net, hint_seed=0):
    generator = torch.Generator().manual_seed(hint_seed)

    def noise(*shape):
        return torch.randn(shape, generator=generator)

    config, side = control_net.config, 8 * control_stride(control_net)
    conditions = {}
    if config.addition_embed_type:
        ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]])
        conditions["added_cond_kwargs"] = {"text_embeds": noise(1, 32), "time_ids": ids}
    sample_, text = noise(1, 4, 8, 8), noise(1, 77, config.cross_attention_dim)
    hint = noise(1, 3, side, side)
    with torch.no_grad():
        down, middle = control_net(sample_, 7, text, hint, return_dict=False, **conditions)
    return [*down, middle]


def assert_close(ours, theirs, *, rtol=1e-4, atol=1e-5):
    for one, other in zip(outputs(ours), outputs(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def shaken(control_net, seed=3):
    """With random numbers in all that learns, so that every tensor matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in control_net.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return control_net


def opened_by_hand(state, base, *, layers_per_block):
    """What ComfyUI does: the base's tensors of equal name, then the file's; W + up @ down."""
    from condkit.trainer.ldm_keys import from_ldm, to_ldm

    full = new_control_net(base, ControlConfig(), 0)
    weights = to_ldm(full.state_dict(), layers_per_block=layers_per_block)
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        if kind == "up":
            change = torch.mm(tensor.flatten(1), state[f"{layer}.down"].flatten(1))
            weight = weights[f"{layer}.weight"]
            weights[f"{layer}.weight"] = weight + change.reshape(weight.shape)
        elif kind != "down" and name != MARKER:
            weights[name] = tensor
    full.load_state_dict(from_ldm(weights, full.state_dict(), layers_per_block=layers_per_block))
    return full.eval()


@pytest.fixture(scope="module", params=["epsilon_base", "xl_base"])
def run(request, dataset, tmp_path_factory):
    """A finished run of rank 4, and its base."""
    from condkit.trainer.recipes import load_recipe

    folder = request.getfixturevalue(request.param)
    path = tmp_path_factory.mktemp("lora") / "run"
    settings = {
        "run.steps": "4",
        "control.lora_rank": str(RANK),
        "data.batch_size": "2",
        "data.resolution": "32",
        "optim.lr": "1e-2",
        "checkpoint.every": "2",
        "preview.every": "0",
    }
    config = load_recipe("canny", settings)
    train(config, dataset, path, base=str(folder), device="cpu", dtype="fp32")
    return path, load_base(str(folder), CPU)


def test_a_new_control_lora_gives_what_the_encoder_copy_gives(base):
    """The very outputs of the encoder, seen through zero convolutions that are not zero here."""
    plain = new_control_net(base, ControlConfig(), 0)
    lora = initial_control_net(base, ControlConfig(lora_rank=RANK), 0)
    for net in (plain, lora):
        for name, parameter in net.named_parameters():
            if name.startswith(("controlnet_down", "controlnet_mid")):
                torch.nn.init.constant_(parameter, 0.01)
    for ours, theirs in zip(outputs(lora), outputs(plain), strict=True):
        assert torch.equal(ours, theirs)
        assert bool(ours.abs().sum() > 0)


def test_differences_hint_encoder_and_zero_convolutions_learn_and_nothing_else(base):
    lora = initial_control_net(base, ControlConfig(lora_rank=RANK), 0)
    for name, parameter in lora.named_parameters():
        is_new = name.startswith("controlnet_")
        is_factor = name.endswith((".weight.0.up", ".weight.0.down"))
        assert parameter.requires_grad == (is_new or is_factor), name
    inner = [
        name
        for name, module in lora.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
        and not name.startswith("controlnet_")
    ]
    ups = {name for name in lora_state(lora) if name.endswith(".up")}
    assert ups == {f"{name}.up" for name in inner}, "every linear layer and convolution has one"


def test_the_optimizer_remembers_only_what_learns(base, small_run):
    config = small_run(control__lora_rank=str(RANK))
    learner = Learner(base, initial_control_net(base, config.control, 0), config)
    learning = {id(p) for p in learner.control_net.parameters() if p.requires_grad}
    assert {id(p) for p in learner.parameters()} == learning


def test_training_leaves_the_bases_weights_in_the_copy(run):
    path, base = run
    copy = new_control_net(base, ControlConfig(), 0).state_dict()
    state = load_file(path / "controlnet" / "control_lora.safetensors")
    for name, tensor in state.items():
        if not name.startswith("controlnet_") and name in copy:
            assert torch.equal(tensor, copy[name]), f"{name} (a bias or norm) does not learn"
    assert any(bool(t.abs().sum() > 0) for n, t in state.items() if n.endswith(".up"))


def test_a_resumed_run_equals_one_that_never_stopped(
    dataset, epsilon_base, small_run, tmp_path, one_thread
):
    config = small_run(control__lora_rank="4", ema__decay="0.9", data__resolution="32")
    arguments = {"base": str(epsilon_base), "device": "cpu", "dtype": "fp32"}
    through, stopped = tmp_path / "through", tmp_path / "stopped"
    train(config, dataset, through, **arguments)

    def stop(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, dataset, stopped, on_progress=stop, **arguments)
    assert [p.name for p in complete_checkpoints(stopped / "checkpoints")] == ["step-00000002"]
    summary = train(config, dataset, stopped, resume=True, **arguments)
    assert summary.resumed_from == 2
    last = "checkpoints/step-00000004"
    for place in ("controlnet", f"{last}/controlnet", f"{last}/ema"):
        for name in ("control_lora.safetensors", "diffusion_pytorch_model.safetensors"):
            ours, theirs = (load_file(r / place / name) for r in (stopped, through))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours), (place, name)


def test_the_file_has_the_marker_the_original_names_and_the_shapes_of_published_ones(run, tmp_path):
    path, _ = run
    file = tmp_path / "lora.safetensors"
    exported = export_run(path, file, format="control-lora", dtype="fp32")
    state = load_file(file)
    assert exported.tensors == len(state)
    assert state[MARKER].numel() == 0
    assert state["input_blocks.1.0.in_layers.2.up"].shape == (32, RANK, 1, 1)
    assert state["input_blocks.1.0.in_layers.2.down"].shape == (RANK, 32, 3, 3)
    assert state["time_embed.0.up"].shape == (128, RANK)
    assert state["time_embed.0.down"].shape == (RANK, 32)
    for whole in ("input_hint_block.0", "zero_convs.0.0", "middle_block_out.0"):
        assert f"{whole}.weight" in state
        assert f"{whole}.up" not in state
    assert not any(n.startswith(("down_blocks", "mid_block", "controlnet_")) for n in state)


@pytest.mark.parametrize(
    ("dtype", "kind", "within"),
    [("fp32", torch.float32, 1e-5), ("fp16", torch.float16, 4e-3), ("bf16", torch.bfloat16, 3e-2)],
)
def test_all_forms_give_the_outputs_of_the_run(run, tmp_path, dtype, kind, within):
    path, base = run
    expected = load_control_net(path / "controlnet", base)
    assert any(bool(tensor.abs().sum() > 0) for tensor in outputs(expected))
    files = {form: tmp_path / f"{form}.safetensors" for form in ("control-lora", "single-file")}
    for form, file in files.items():
        export_run(path, file, format=form, dtype=dtype)
        assert {tensor.dtype for tensor in load_file(file).values()} == {kind}
    export_run(path, tmp_path / "folder", dtype=dtype)
    state = {n: t.float() for n, t in load_file(files["control-lora"]).items()}
    per_block = int(expected.config.layers_per_block)
    read = [
        load_control_net(tmp_path / "folder", base),
        *(read_single_file(file, base) for file in files.values()),
        opened_by_hand(state, base, layers_per_block=per_block),
    ]
    for net in read:
        assert_close(net, expected, rtol=within, atol=within)


def test_a_control_lora_file_starts_another_run(run, tmp_path):
    path, base = run
    file = tmp_path / "lora.safetensors"
    export_run(path, file, format="control-lora", dtype="fp32")
    expected = load_control_net(path / "controlnet", base)
    for start in (file, path, path / "controlnet"):
        going_on = initial_control_net(
            base, ControlConfig(start_from=str(start), lora_rank=RANK), 0
        )
        assert rank_of(going_on) == RANK
        assert_close(going_on, expected)
        full = initial_control_net(base, ControlConfig(start_from=str(start)), 0)
        assert rank_of(full) == 0
        assert all(parameter.requires_grad for parameter in full.parameters())
        assert_close(full, expected)


def test_going_on_needs_a_control_lora_of_the_same_rank(run, tmp_path):
    path, base = run
    with pytest.raises(TrainingError, match=f"has rank {RANK}; give that"):
        initial_control_net(base, ControlConfig(start_from=str(path), lora_rank=RANK + 1), 0)
    export_run(path, tmp_path / "full", dtype="fp32")
    start = ControlConfig(start_from=str(tmp_path / "full"), lora_rank=RANK)
    with pytest.raises(TrainingError, match=r"from a Control-LoRA alone, and .* is none"):
        initial_control_net(base, start, 0)


def test_the_run_paints_and_its_card_says_what_it_is(run, tmp_path):
    path, _ = run
    trained = open_run(path, CPU)
    assert rank_of(trained.control_net) == 0, "for use the differences are added in"
    condition = np.zeros((32, 32), np.uint8)
    condition[8:24, 16] = 255
    pictures = sample(path, condition, "a red circle", steps=2, device="cpu", dtype="fp32")
    assert [picture.shape for picture in pictures] == [(32, 32, 3)]
    export_run(path, tmp_path / "folder")
    card = (tmp_path / "folder" / "README.md").read_text(encoding="utf-8")
    assert f"## Control-LoRA\n\nTrained as differences of rank {RANK} at most" in card
    assert "million numbers" in card


def test_a_run_of_the_whole_encoder_is_not_exported_as_a_control_lora(
    dataset, epsilon_base, small_run, tmp_path
):
    config = small_run(run__steps="1", data__resolution="32")
    train(config, dataset, tmp_path / "run", base=str(epsilon_base), device="cpu", dtype="fp32")
    with pytest.raises(TrainingError, match=r"train with control\.lora_rank"):
        export_run(tmp_path / "run", tmp_path / "c.safetensors", format="control-lora")


def test_the_command_line_exports_a_control_lora(run, tmp_path):
    from typer.testing import CliRunner

    from condkit.cli import app

    file = tmp_path / "c.safetensors"
    arguments = ["export", str(run[0]), "-o", str(file), "--format", "control-lora", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["format"] == "control-lora"
    assert MARKER in load_file(file)


def test_merging_keeps_the_outputs_and_every_name(base):
    lora = shaken(initial_control_net(base, ControlConfig(lora_rank=RANK), 0))
    plain, before = plain_state(lora), outputs(lora)
    merge_control_lora(lora)
    assert set(lora.state_dict()) == set(plain)
    assert all(torch.equal(lora.state_dict()[name], plain[name]) for name in plain)
    assert all(torch.equal(a, b) for a, b in zip(outputs(lora), before, strict=True))


def test_what_is_saved_brings_back_every_bit(base):
    lora = shaken(initial_control_net(base, ControlConfig(lora_rank=RANK), 0))
    fresh = initial_control_net(base, ControlConfig(lora_rank=RANK), 1)
    fresh.load_state_dict(resumed_state(fresh, lora_state(lora)))
    assert all(torch.equal(fresh.state_dict()[n], t) for n, t in lora.state_dict().items())


def test_a_file_that_does_not_fit_says_what_is_wrong(base, tmp_path):
    lora = shaken(initial_control_net(base, ControlConfig(lora_rank=RANK), 0))
    state = lora_state(lora)
    up = next(name for name in state if name.endswith(".up"))
    down = f"{up.removesuffix('.up')}.down"
    faults = {
        r"tensors are not the ControlNet's \(x\.up\)": {"x.up": torch.zeros(1, 1)},
        "expected both an up and a down factor": {down: None},
        "made for another base": {down: torch.zeros(RANK, 999)},
        "lacks 1 tensors of the hint encoder": {"controlnet_mid_block.bias": None},
        "got both": {f"{up.removesuffix('.up')}.weight": torch.zeros(1)},
    }
    for message, change in faults.items():
        broken = {n: t for n, t in (state | change).items() if t is not None}
        with pytest.raises(TrainingError, match=message):
            load_lora_state(new_control_net(base, ControlConfig(), 0), broken)
    broken = {n: t.contiguous() for n, t in state.items()} | {MARKER: torch.zeros(0)}
    del broken[down]
    save_file(broken, tmp_path / "broken.safetensors")
    with pytest.raises(TrainingError, match="expected both"):
        read_single_file(tmp_path / "broken.safetensors", base)


@pytest.mark.parametrize(("rank", "millions"), [(128, 197.8), (256, 387.1)])
def test_sdxls_size_is_the_one_that_is_stated_for_it(rank, millions):
    """198 million of rank 128, says Hugging Face's post on T2I-Adapters for SDXL."""
    from diffusers import ControlNetModel

    with torch.device("meta"):
        control_net = ControlNetModel(**SDXL)
        names = list(control_net.state_dict())
        add_control_lora(control_net, rank, 0)
    state = published_names(lora_state(control_net), names, layers_per_block=2)
    assert sum(tensor.numel() for tensor in state.values()) / 1e6 == pytest.approx(
        millions, abs=0.1
    )


@pytest.mark.parametrize("setting", ["gradient_checkpointing", "channels_last"])
def test_what_saves_memory_changes_no_gradient(dataset, epsilon_base, small_run, tmp_path, setting):
    states = []
    for value in ("true", "false"):
        config = small_run(
            run__steps="2",
            control__lora_rank="4",
            data__resolution="32",
            **{f"compute__{setting}": value},
        )
        path = tmp_path / value
        train(config, dataset, path, base=str(epsilon_base), device="cpu", dtype="fp32")
        states.append(load_file(path / "controlnet" / "control_lora.safetensors"))
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-3, atol=2e-4, msg=name)


def test_a_dry_run_counts_what_learns(dataset, epsilon_base, small_run):
    counts = [
        plan_training(
            small_run(control__lora_rank=rank, data__resolution="32"),
            dataset,
            base=str(epsilon_base),
            device="cpu",
            dtype="fp32",
        ).trained
        for rank in ("0", "2", "4")
    ]
    assert counts[1] < counts[2] < counts[0]


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(ConfigError, match=r"control\.lora_rank: expected 0 or more"):
        ControlConfig(lora_rank=-1)
    with pytest.raises(
        ConfigError, match=r"compute\.shard: expected false with control\.lora_rank"
    ):
        TrainConfig(
            condition="canny",
            control=ControlConfig(lora_rank=4),
            compute=ComputeConfig(shard=True),
        )
