"""What SDXL has and the others have not: two text encoders, and sizes as conditions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from condkit.trainer.base_loading import load_base
from condkit.trainer.compute import resolve_compute
from condkit.trainer.config import ControlConfig
from condkit.trainer.control_net import new_control_net
from condkit.trainer.data_config import DataConfig
from condkit.trainer.examples import ExampleMaker
from condkit.trainer.generation import Painter, Sampling
from condkit.trainer.train import train
from condkit.types import ConditionSpec

SPEC = ConditionSpec(
    name="canny", channels=1, dtype="uint8", meaning="edges", background=0, resample="nearest"
)


@pytest.fixture(scope="module")
def xl(xl_base):
    return load_base(str(xl_base), resolve_compute("cpu", "fp32"))


def test_captions_are_read_as_the_diffusers_pipeline_reads_them(xl):
    pipeline = Painter(xl, new_control_net(xl, ControlConfig(), 0))._pipeline
    captions = ["a red circle", ""]
    with torch.no_grad():
        hidden, _, pooled, _ = pipeline.encode_prompt(
            captions, device="cpu", do_classifier_free_guidance=False
        )
        ours = xl.encode_text(captions)
    assert torch.equal(ours.hidden, hidden)
    assert torch.equal(ours.pooled, pooled)


@dataclasses.dataclass
class Row:
    key: str
    image: np.ndarray
    maps: dict
    text: str = "a red circle"


def test_each_sample_tells_its_size_and_where_its_crop_lies(xl):
    image = np.zeros((48, 80, 3), np.uint8)
    row = Row("k", image, {"canny": image[:, :, 0]})
    for flip in (0.0, 1.0):
        data = DataConfig(resolution=32, crop="random", flip=flip, caption_dropout=0.0)
        make = ExampleMaker(SPEC, data, 0, xl.unit)
        seen = [make(row, use) for use in range(20)]
        assert len({example.box for example in seen}) > 5
        for example in seen:
            top, left, height, width = example.box
            left = 80 - 32 - left if flip else left
            assert example.time_ids == (48, 80, top, left, 32, 32)
            assert (height, width) == (32, 32)


def test_the_sizes_reach_the_networks(xl):
    from condkit.trainer.loss import prediction

    control_net = new_control_net(xl, ControlConfig(), 0)
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(1, 4, 8, 8, generator=generator)
    hint = torch.rand(1, 3, 64, 64, generator=generator)
    text = xl.encode_text(["a red circle"])
    with torch.no_grad():
        one, other = (
            prediction(xl, control_net, noisy, torch.tensor([5]), text, hint, torch.tensor([ids]))
            for ids in ([64, 64, 0, 0, 64, 64], [512, 512, 9, 0, 64, 64])
        )
    assert not torch.allclose(one, other)


def test_a_run_trains_and_samples_in_the_pipelines_own_way(dataset, xl_base, small_run, tmp_path):
    run = tmp_path / "run"
    config = small_run(run__steps="2", preview__every="2", preview__pairs="1", preview__steps="2")
    train(config, dataset, run, base=str(xl_base), device="cpu", dtype="fp32")
    assert list((run / "previews").glob("*.png"))

    from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline

    from condkit.trainer.generation import sampling_scheduler
    from condkit.trainer.sample import sample

    hint = np.zeros((64, 64), np.uint8)
    hint[20:40, 20] = 255
    options = {"steps": 3, "guidance": 5.0, "seed": 4}
    (ours,) = sample(run, hint, "a red circle", device="cpu", dtype="fp32", **options)
    pipeline = StableDiffusionXLControlNetPipeline.from_pretrained(
        xl_base,
        controlnet=ControlNetModel.from_pretrained(run / "controlnet"),
        add_watermarker=False,
    )
    pipeline.scheduler = sampling_scheduler(pipeline.scheduler.config)
    theirs = pipeline(
        "a red circle",
        negative_prompt="",
        image=torch.from_numpy(np.repeat(hint[None, None], 3, 1).astype(np.float32) / 255),
        height=64,
        width=64,
        num_inference_steps=3,
        guidance_scale=5.0,
        generator=torch.Generator("cpu").manual_seed(4),
        output_type="np",
    ).images[0]
    assert np.abs(ours.astype(int) - (theirs * 255).round().astype(int)).max() <= 1


def test_sampling_options_hold_for_it_too(xl):
    painter = Painter(xl, None)
    (picture,) = painter(
        ["a red circle"], [np.zeros((3, 64, 64), np.float32)], [1], Sampling(steps=1, guidance=1.0)
    )
    assert picture.shape == (64, 64, 3)
