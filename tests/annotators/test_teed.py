from __future__ import annotations

import numpy as np
import pytest
import torch

from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.annotators.nets.aux_networks import network_class
from condkit.annotators.nets.teed import load_teed, smish
from condkit.annotators.registry import get_detector
from condkit.errors import WeightsError
from condkit.runtime import Runtime


@pytest.fixture(scope="module")
def weights(random_store):
    return random_store("teed")


def _annotator(store, dtype="fp32", detect_size=128, **settings):
    chosen = {f"softedge.{name}": value for name, value in settings.items()}
    plan = plan_annotation(
        ["softedge"], {"softedge.detector": "teed", **chosen}, detect_size=detect_size
    )
    return Annotator(plan, Runtime("cpu", dtype, store=store))


def _noise(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["5", "7"])
@pytest.mark.parametrize("size_hw", [(128, 192), (192, 128), (64, 64)])
@pytest.mark.parametrize("safe", [False, True])
def test_the_maps_are_controlnet_auxs(name, size_hw, safe, weights):
    path = weights.path(get_detector("teed").spec.weights[name])
    reference = network_class("teed", "TEEDdetector")(load_teed(path).eval())
    image, side = _noise(1, *size_hw), min(size_hw)
    theirs = reference(
        image, detect_resolution=side, safe_steps=2 if safe else 0, output_type="np"
    )[:, :, 0]
    annotator = _annotator(weights, detect_size=side, weights=name, safe=safe)
    ours = annotator([image])[0]["softedge"].pixels
    off = np.abs(ours.astype(int) - theirs)
    assert np.mean(off > 1) <= (0.001 if safe else 0)
    assert len(np.unique(theirs)) > 1 or safe


def test_bf16_is_close_to_fp32(weights):
    image = _noise(2, 128, 128)
    full, half = (
        _annotator(weights, dtype)([image])[0]["softedge"].pixels for dtype in ("fp32", "bf16")
    )
    assert np.abs(full.astype(int) - half).max() <= 2


def test_smish_is_the_published_function():
    values = torch.linspace(-30, 30, 2001)
    expected = network_class("teed.Fsmish", "smish")(values)
    assert torch.allclose(smish(values), expected, atol=1e-6)


def test_smish_of_bf16_is_the_exact_one_rounded():
    values = (6 * torch.randn(2, 5, 7, 9, generator=torch.Generator().manual_seed(0))).bfloat16()
    for inputs in (values, values.contiguous(memory_format=torch.channels_last), values[:, :, 2:]):
        assert torch.equal(smish(inputs), smish(inputs.float()).bfloat16())


def test_strips_change_nothing(weights):
    from condkit.annotators.nets.teed import TeedEdges

    path = weights.path(get_detector("teed").spec.weights["5"])
    pixels = torch.from_numpy(_noise(3, 200, 64))[None].permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        whole, strips = (
            TeedEdges(load_teed(path), split=False, in_strips=in_strips).eval()(pixels)
            for in_strips in (False, True)
        )
    assert torch.allclose(whole, strips, atol=1e-6)


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "5_model.pth"
    torch.save({"block_1.conv1.weight": torch.zeros(16, 3, 3, 3)}, path)
    with pytest.raises(WeightsError, match="these are not TEED's weights"):
        load_teed(path)
