"""Whole runs: saving, resuming, stopping, and what the finished ControlNet can do."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from condkit import imageio
from condkit.datasets.reader import open_dataset
from condkit.errors import MapError, OutputError, TrainingError, UnknownNameError
from condkit.trainer import checkpoint as checkpoints
from condkit.trainer.run_folder import RunFolder, read_record
from condkit.trainer.run_log import read_metrics
from condkit.trainer.sample import sample
from condkit.trainer.train import train


class Killed(BaseException):
    """Stands for a kill signal: nothing catches it."""


def run(config, dataset, output, base, **options):
    options = {"device": "cpu", "dtype": "fp32", **options}
    return train(config, dataset, output, base=str(base), **options)


def weights_of(folder: Path):
    from safetensors.torch import load_file

    return load_file(folder / "diffusion_pytorch_model.safetensors")


def assert_equal_weights(one: Path, other: Path):
    import torch

    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def kill_at(step: int):
    def on_progress(progress):
        if progress.step == step:
            raise Killed

    return on_progress


@pytest.fixture(scope="module")
def finished(dataset, epsilon_base, tmp_path_factory) -> Path:
    """A finished run of four steps with one preview."""
    from condkit.trainer.recipes import load_recipe

    output = tmp_path_factory.mktemp("runs") / "finished"
    settings = {
        "run.steps": "4",
        "run.log_every": "2",
        "data.batch_size": "2",
        "data.resolution": "64",
        "optim.accumulation": "1",
        "optim.lr": "1e-3",
        "checkpoint.every": "2",
        "checkpoint.keep": "1",
        "preview.every": "4",
        "preview.pairs": "2",
        "preview.steps": "2",
    }
    run(load_recipe("canny", settings), dataset, output, epsilon_base)
    return output


@pytest.mark.usefixtures("one_thread")
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    dataset, base_folder, small_run, tmp_path
):
    # Seven steps of 2 x 2 over 10 rows: epochs end in the middle of batches, flips and captions
    # are drawn, the latent cache is warm in one run and cold in the other.
    config = small_run(
        run__steps="7",
        run__log_every="3",
        data__resolution="48",
        optim__accumulation="2",
        optim__schedule="cosine",
        optim__warmup_steps="2",
        checkpoint__every="3",
    )
    run(config, dataset, tmp_path / "whole", base_folder)
    with pytest.raises(Killed):
        run(config, dataset, tmp_path / "cut", base_folder, on_progress=kill_at(5))
    record = read_record(tmp_path / "cut")
    assert (record.status, record.step) == ("running", 3)
    summary = run(config, dataset, tmp_path / "cut", base_folder, resume=True)
    assert summary.resumed_from == 3
    assert_equal_weights(tmp_path / "whole" / "controlnet", tmp_path / "cut" / "controlnet")
    losses = [
        [(entry["step"], entry["loss"]) for entry in read_metrics(RunFolder(tmp_path / name))]
        for name in ("whole", "cut")
    ]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == [3, 6, 7]


@pytest.mark.usefixtures("one_thread")
def test_a_finished_run_can_be_made_longer(dataset, epsilon_base, small_run, tmp_path):
    run(small_run(run__steps="4"), dataset, tmp_path / "whole", epsilon_base)
    run(small_run(run__steps="2"), dataset, tmp_path / "parts", epsilon_base)
    run(small_run(run__steps="4"), dataset, tmp_path / "parts", epsilon_base, resume=True)
    assert_equal_weights(tmp_path / "whole" / "controlnet", tmp_path / "parts" / "controlnet")


@pytest.mark.usefixtures("one_thread")
def test_prefetching_caching_and_previews_change_no_bit(dataset, epsilon_base, small_run, tmp_path):
    plain = small_run(data__prefetch="0", data__cache_latents="false")
    quick = small_run(
        data__prefetch="3", preview__every="2", preview__pairs="1", preview__steps="1"
    )
    run(plain, dataset, tmp_path / "plain", epsilon_base)
    run(quick, dataset, tmp_path / "quick", epsilon_base)
    assert_equal_weights(tmp_path / "plain" / "controlnet", tmp_path / "quick" / "controlnet")


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    dataset, epsilon_base, small_run, tmp_path, monkeypatch
):
    import torch

    original, saved = torch.save, []

    def save_once(*arguments):
        if saved:
            # What a kill leaves behind: a part of the file, in a folder without its final name.
            Path(arguments[1]).write_bytes(b"half")
            raise Killed
        saved.append(arguments[1])
        original(*arguments)

    monkeypatch.setattr(torch, "save", save_once)
    with pytest.raises(Killed):
        run(small_run(), dataset, tmp_path / "run", epsilon_base)
    monkeypatch.undo()
    folder = RunFolder(tmp_path / "run").checkpoints
    assert [path.name for path in checkpoints.complete_checkpoints(folder)] == ["step-00000002"]
    # A kill that no cleaning-up follows leaves a temporary folder, which nobody takes for one.
    shutil.copytree(folder / "step-00000002", folder / ".condkit-tmp-left")
    summary = run(small_run(), dataset, tmp_path / "run", epsilon_base, resume=True)
    assert summary.resumed_from == 2


def test_a_bad_loss_stops_the_run_before_anything_is_saved(
    dataset, epsilon_base, small_run, tmp_path, monkeypatch
):
    from condkit.trainer import step

    original, calls = step.sample_losses, []

    def poisoned(predicted, wanted):
        calls.append(0)
        losses = original(predicted, wanted)
        return losses * float("nan") if len(calls) >= 3 else losses

    monkeypatch.setattr(step, "sample_losses", poisoned)
    with pytest.raises(TrainingError, match=r"step 3: the loss is not finite") as caught:
        run(small_run(), dataset, tmp_path / "run", epsilon_base)
    keys = set(open_dataset(dataset).split("train").keys())
    named = set(re.findall(r"[0-9a-f]{64}", str(caught.value)))
    assert len(named) == 2
    assert named <= keys
    (good,) = checkpoints.complete_checkpoints(tmp_path / "run" / "checkpoints")
    assert good.name == "step-00000002"
    assert all(bool(t.isfinite().all()) for t in weights_of(good / "controlnet").values())
    assert not (tmp_path / "run" / "controlnet").exists()


def test_a_run_folder_holds_what_it_promises(finished, dataset):
    folder = RunFolder(finished)
    record = read_record(finished)
    assert (record.status, record.step, record.condition.name) == ("finished", 4, "canny")
    assert record.loss is not None
    assert [entry["step"] for entry in read_metrics(folder)] == [2, 4]
    assert json.loads(folder.config.read_text())["optim"]["lr"] == 1e-3
    assert list(folder.logs.glob("events.out.tfevents*"))
    assert json.loads((folder.controlnet / "condition.json").read_text())["name"] == "canny"
    preview = imageio.read_map(folder.previews / "step-00000004.png")
    # Two pairs of condition, generated, real, 64 pixels each, 2 pixels between.
    assert preview.shape == (2 * 66 + 2, 3 * 66 + 2, 3)
    row = open_dataset(dataset).split("validation")[0]
    np.testing.assert_array_equal(preview[2:66, 2:66, 0], row.maps["canny"])
    np.testing.assert_array_equal(preview[2:66, 134:198], row.image)


def test_only_the_newest_checkpoints_are_kept(finished):
    names = [path.name for path in (finished / "checkpoints").iterdir()]
    assert names == ["step-00000004"]


def test_tensorboard_reads_the_scalars(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "logs"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4]
    assert "preview" in events.Tags()["images"]


def test_a_run_that_exists_is_not_overwritten(finished, dataset, epsilon_base, small_run):
    with pytest.raises(OutputError, match=r"already holds a run \(up to step-00000004\).*--resume"):
        run(small_run(), dataset, finished, epsilon_base)


def test_a_run_is_resumed_only_as_the_same_run(
    finished, dataset, epsilon_base, velocity_base, small_run, tmp_path
):
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    same = {"data__resolution": "64"}
    with pytest.raises(TrainingError, match=r"optim\.lr: 0\.001 then, 0\.002 now"):
        run(small_run(optim__lr="2e-3", **same), dataset, copy, epsilon_base, resume=True)
    with pytest.raises(TrainingError, match="the base model's weights: 'sha256"):
        run(small_run(**same), dataset, copy, velocity_base, resume=True)
    with pytest.raises(TrainingError, match=r"the precision \(--dtype\): 'float32' then"):
        run(small_run(**same), dataset, copy, epsilon_base, resume=True, dtype="bf16")
    other = tmp_path / "data"
    shutil.copytree(dataset, other)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "note": "changed"}))
    with pytest.raises(TrainingError, match=r"the dataset \(its manifest\.json\)"):
        run(small_run(**same), other, copy, epsilon_base, resume=True)
    # The same run again, with nothing left to do.
    summary = run(small_run(**same), dataset, copy, epsilon_base, resume=True)
    assert summary.resumed_from == 4
    assert_equal_weights(copy / "controlnet", finished / "controlnet")


def test_resume_without_a_checkpoint_begins(dataset, epsilon_base, small_run, tmp_path):
    summary = run(small_run(run__steps="1"), dataset, tmp_path / "new", epsilon_base, resume=True)
    assert summary.resumed_from is None


def test_a_damaged_checkpoint_says_which_folder_to_remove(
    finished, dataset, epsilon_base, small_run, tmp_path
):
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    (copy / "checkpoints" / "step-00000004" / "optimizer.pt").write_bytes(b"half")
    with pytest.raises(TrainingError, match=r"step-00000004.*remove that folder"):
        run(small_run(data__resolution="64"), dataset, copy, epsilon_base, resume=True)


def test_a_condition_that_the_data_lacks_is_named(dataset, epsilon_base, tmp_path):
    from condkit.trainer.recipes import load_recipe

    with pytest.raises(UnknownNameError, match=r"'softedge'.*known: canny"):
        run(load_recipe("softedge"), dataset, tmp_path / "run", epsilon_base)
    assert not (tmp_path / "run").exists()


def test_progress_counts_every_step(dataset, epsilon_base, small_run, tmp_path):
    seen = []
    run(small_run(), dataset, tmp_path / "run", epsilon_base, on_progress=seen.append)
    assert [(progress.step, progress.total) for progress in seen] == [(s, 4) for s in (1, 2, 3, 4)]
    assert np.isfinite(seen[-1].loss)
    assert seen[-1].images_per_second > 0


def test_bf16_keeps_fp32_weights(dataset, epsilon_base, small_run, tmp_path):
    import torch

    run(small_run(run__steps="2"), dataset, tmp_path / "run", epsilon_base, dtype="bf16")
    assert {t.dtype for t in weights_of(tmp_path / "run" / "controlnet").values()} == {
        torch.float32
    }


def test_one_pair_can_be_learnt_by_heart(tmp_path, epsilon_base, dataset, small_run):
    # The same pair with fresh noise each time: the loss must fall if gradients arrive.
    config = small_run(run__steps="24", run__log_every="6", optim__lr="4e-3", data__flip="0")
    alone = tmp_path / "alone"
    shutil.copytree(dataset, alone)
    table = alone / "train" / "metadata.jsonl"
    table.write_text(table.read_text().splitlines()[0] + "\n")
    manifest = json.loads((alone / "manifest.json").read_text())
    manifest["rows"]["train"] = 1
    (alone / "manifest.json").write_text(json.dumps(manifest))
    run(config, alone, tmp_path / "run", epsilon_base)
    losses = [entry["loss"] for entry in read_metrics(RunFolder(tmp_path / "run"))]
    assert losses[-1] < 0.8 * losses[0]


def test_the_finished_control_net_works_in_diffusers_and_equals_sample(
    finished, epsilon_base, dataset
):
    import torch
    from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline
    from PIL import Image

    condition = open_dataset(dataset).split("validation")[0].maps["canny"]
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        epsilon_base,
        controlnet=ControlNetModel.from_pretrained(finished / "controlnet"),
        safety_checker=None,
        requires_safety_checker=False,
    )
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "a red circle",
        image=Image.fromarray(condition),
        num_inference_steps=3,
        guidance_scale=4.0,
        generator=torch.Generator("cpu").manual_seed(5),
    ).images[0]
    ours = sample(
        finished,
        condition,
        "a red circle",
        steps=3,
        guidance=4.0,
        seed=5,
        device="cpu",
        dtype="fp32",
    )
    assert len(ours) == 1
    np.testing.assert_array_equal(ours[0], np.asarray(theirs))


def test_sampling_pads_what_the_model_cannot_take_and_never_resizes(finished):
    condition = np.zeros((30, 45), np.uint8)
    condition[10:20, 10:20] = 255
    options = {"steps": 1, "device": "cpu", "dtype": "fp32"}
    pictures = sample(finished, condition, "a circle", count=2, seed=3, **options)
    assert [picture.shape for picture in pictures] == [(30, 45, 3)] * 2
    assert not np.array_equal(*pictures)
    # Padding is "nothing here", so a map padded beforehand gives the same.
    padded = np.pad(condition, ((0, 2), (0, 3)))
    (whole,) = sample(finished, padded, "a circle", seed=4, **options)
    np.testing.assert_array_equal(whole[:30, :45], pictures[1])


def test_a_photograph_is_not_taken_for_a_map(finished):
    photo = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    with pytest.raises(MapError, match=r"condkit annotate PHOTO .* --condition canny"):
        sample(finished, photo, "a circle", device="cpu")
    grey = np.repeat(photo[:, :, :1], 3, axis=2)
    assert sample(finished, grey, "", steps=1, device="cpu", dtype="fp32")[0].shape == (32, 32, 3)


def test_a_folder_that_is_no_run_says_so(tmp_path):
    with pytest.raises(TrainingError, match=r"is no training run: there is no run\.json"):
        sample(tmp_path, np.zeros((32, 32), np.uint8), "x", device="cpu")
