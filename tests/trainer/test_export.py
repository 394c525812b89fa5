from __future__ import annotations

import json
import logging

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from condkit.errors import OutputError, TrainingError, UnknownNameError
from condkit.trainer.export import export_run
from condkit.trainer.ldm_keys import from_ldm
from condkit.trainer.recipes import load_recipe
from condkit.trainer.train import train


@pytest.fixture(scope="module")
def trained(dataset, epsilon_base, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "trained"
    settings = {
        "run.steps": "2",
        "data.batch_size": "2",
        "data.resolution": "64",
        "optim.lr": "1e-3",
        "preview.every": "0",
    }
    train(
        load_recipe("canny", settings),
        dataset,
        run,
        base=str(epsilon_base),
        device="cpu",
        dtype="fp32",
    )
    return run


def model(folder):
    from diffusers import ControlNetModel

    return ControlNetModel.from_pretrained(folder)


def outputs(control_net):
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(shape, generator=generator)

    with torch.no_grad():
        down, middle = control_net(
            noise(1, 4, 16, 16), 7, noise(1, 77, 32), noise(1, 3, 64, 64), return_dict=False
        )
    return [*down, middle]


def test_both_forms_give_the_outputs_of_the_run(trained, tmp_path):
    export_run(trained, tmp_path / "folder", dtype="fp32")
    file = tmp_path / "control.safetensors"
    exported = export_run(trained, file, format="single-file", dtype="fp32")
    assert exported.keys == "ldm"
    expected = outputs(model(trained / "controlnet"))
    assert any(bool(tensor.abs().sum() > 0) for tensor in expected), "two steps were trained"
    from_file = model(tmp_path / "folder")
    state = from_ldm(load_file(file), from_file.state_dict(), layers_per_block=1)
    with torch.no_grad():
        for parameter in from_file.parameters():
            parameter.zero_()
    from_file.load_state_dict(state)
    for candidate in (model(tmp_path / "folder"), from_file):
        for ours, theirs in zip(outputs(candidate), expected, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("dtype", "kind"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_weights_have_the_type_asked_for(trained, tmp_path, dtype, kind):
    file = tmp_path / "c.safetensors"
    exported = export_run(trained, file, format="single-file", dtype=dtype)
    state = load_file(file)
    assert {tensor.dtype for tensor in state.values()} == {kind}
    assert exported.size == file.stat().st_size
    assert exported.tensors == len(state)


def test_a_single_file_says_what_it_is(trained, tmp_path):
    file = tmp_path / "c.safetensors"
    export_run(trained, file, format="single-file")
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    assert json.loads(metadata["condition"])["name"] == "canny"
    assert metadata["base_fingerprint"].startswith("sha256:")


def test_the_folder_has_a_card_that_names_base_data_and_settings(trained, tmp_path):
    export_run(trained, tmp_path / "folder")
    card = (tmp_path / "folder" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: diffusers\n")
    for part in ("# ControlNet: canny", "optim.lr", "0.001", "ControlNetModel.from_pretrained"):
        assert part in card
    assert str(trained.parent) not in card, "a path of this machine is nobody else's business"


def test_what_is_there_is_not_replaced_unasked(trained, tmp_path):
    file = tmp_path / "c.safetensors"
    file.write_bytes(b"mine")
    with pytest.raises(OutputError, match="--overwrite"):
        export_run(trained, file, format="single-file")
    assert file.read_bytes() == b"mine"
    export_run(trained, file, format="single-file", overwrite=True)
    assert load_file(file)


def test_wrong_places_and_names_are_refused(trained, tmp_path):
    with pytest.raises(OutputError, match=r"ends in \.safetensors"):
        export_run(trained, tmp_path / "c.ckpt", format="single-file")
    with pytest.raises(UnknownNameError, match="single-file"):
        export_run(trained, tmp_path / "c", format="single")
    with pytest.raises(UnknownNameError, match="fp16"):
        export_run(trained, tmp_path / "c", dtype="half")
    with pytest.raises(TrainingError, match="no training run"):
        export_run(tmp_path, tmp_path / "c")


def test_a_name_that_makes_others_pool_the_control_is_warned_about(trained, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        export_run(trained, tmp_path / "shuffle.safetensors", format="single-file")
    assert "choose another name" in caplog.text


def test_the_command_line_exports(trained, tmp_path):
    from typer.testing import CliRunner

    from condkit.cli import app

    file = tmp_path / "c.safetensors"
    arguments = ["export", str(trained), "-o", str(file), "--format", "single-file", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["keys"] == "ldm"
    assert load_file(file)


def test_the_card_of_an_sdxl_run_uses_sdxls_pipeline_and_the_file_keeps_diffusers_names(
    dataset, xl_base, small_run, tmp_path
):
    run = tmp_path / "run"
    train(small_run(run__steps="1"), dataset, run, base=str(xl_base), device="cpu", dtype="fp32")
    export_run(run, tmp_path / "folder")
    card = (tmp_path / "folder" / "README.md").read_text(encoding="utf-8")
    assert "StableDiffusionXLControlNetPipeline.from_pretrained(" in card
    file = tmp_path / "c.safetensors"
    assert export_run(run, file, format="single-file").keys == "diffusers"
    assert "controlnet_cond_embedding.conv_in.weight" in load_file(file)


def test_the_cards_code_runs_for_the_built_in_base(dataset, small_run, tmp_path):
    run, folder = tmp_path / "run", tmp_path / "folder"
    config = small_run(run__steps="1", data__resolution="64")
    train(config, dataset, run, base="condkit/tiny", device="cpu", dtype="fp32")
    export_run(run, folder, dtype="fp32")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "base_model:" not in card, "the hub has no such model"
    code = card.split("```python")[1].split("```")[0].replace("path/to/this/folder", str(folder))
    names: dict = {}
    exec(code, names)
    assert type(names["pipeline"]).__name__ == "StableDiffusionControlNetPipeline"
