from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.annotators.lineart import inverted_levels
from condkit.annotators.nets.aux_networks import network_class
from condkit.annotators.nets.instance_norm import InstanceNorm
from condkit.annotators.nets.lineart import load_lineart, load_lineart_anime
from condkit.annotators.registry import get_condition, get_detector
from condkit.errors import ConfigError, WeightsError
from condkit.runtime import Runtime


def _noise(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _scene(height, width):
    import cv2

    image = np.full((height, width, 3), (240, 235, 220), np.uint8)
    cv2.circle(image, (width // 2, height // 2), height // 4, (30, 20, 60), 2)
    cv2.line(image, (4, 6), (width - 9, height - 5), (0, 0, 0), 3)
    return image


def _map(detector, image, store=None, dtype="fp32", detect_size=None, **settings):
    chosen = {f"lineart.{name}": value for name, value in settings.items()}
    plan = plan_annotation(
        ["lineart"], {"lineart.detector": detector, **chosen}, detect_size=detect_size
    )
    runtime = Runtime("cpu", dtype) if store is None else Runtime("cpu", dtype, store=store)
    (maps,) = Annotator(plan, runtime)([image])
    return maps["lineart"].pixels


def _reference(detector, store):
    specs = get_detector(detector).spec.weights
    if detector == "lineart":
        networks = [load_lineart(store.path(specs[name])).eval() for name in ("fine", "coarse")]
        return network_class("lineart", "LineartDetector")(*networks)
    network = load_lineart_anime(store.path(specs["netG"])).eval()
    return network_class("lineart_anime", "LineartAnimeDetector")(network)


@pytest.mark.parametrize("size_hw", [(128, 192), (64, 64), (192, 128)])
@pytest.mark.parametrize("weights", ["fine", "coarse"])
def test_the_maps_are_controlnet_auxs(size_hw, weights, random_store):
    store, side = random_store("lineart"), min(size_hw)
    image = _noise(1, *size_hw)
    theirs = _reference("lineart", store)(
        image,
        coarse=weights == "coarse",
        detect_resolution=side,
        image_resolution=side,
        output_type="np",
    )[:, :, 0]
    ours = _map("lineart", image, store, detect_size=side, weights=weights)
    assert np.ptp(theirs.astype(int)) > 50
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("size_hw", [(256, 256), (256, 512)])
def test_the_anime_maps_are_controlnet_auxs_where_they_do_not_stretch(size_hw, random_store):
    store = random_store("lineart_anime")
    image = _noise(2, *size_hw)
    theirs = _reference("lineart_anime", store)(
        image, detect_resolution=256, image_resolution=256, output_type="np"
    )[:, :, 0]
    ours = _map("lineart_anime", image, store, detect_size=256)
    assert np.ptp(theirs.astype(int)) > 50
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_an_anime_image_of_another_size_is_padded_and_not_stretched(random_store):
    """Row 2: theirs is stretched to the next multiple of 256 and back."""
    store = random_store("lineart_anime")
    image = _noise(3, 256, 320)
    padded = np.pad(image, ((0, 0), (0, 192), (0, 0)), mode="edge")
    ours = _map("lineart_anime", image, store, detect_size=256)
    whole = _map("lineart_anime", padded, store, detect_size=256)
    assert np.array_equal(ours, whole[:, :320])


@pytest.mark.parametrize("detector", ["lineart", "lineart_anime"])
def test_bf16_is_close_to_fp32_with_any_weights(detector, random_store):
    store, image = random_store(detector), _scene(128, 128)
    full, half = (_map(detector, image, store, dtype) for dtype in ("fp32", "bf16"))
    off = np.abs(full.astype(int) - half)
    assert off.max() <= 12
    assert off.mean() <= 1


def test_standard_maps_are_controlnet_auxs():
    reference = network_class("lineart_standard", "LineartStandardDetector")()
    for image in (_scene(128, 192), _noise(4, 64, 64), np.full((64, 64, 3), 90, np.uint8)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of theirs, on a flat image
            theirs = reference(image, detect_resolution=min(image.shape[:2]), output_type="np")
        ours = _map("standard", image)
        assert np.abs(ours.astype(int) - theirs[:, :, 0]).max() <= 1


def test_lines_are_white_on_black_whoever_draws_them():
    """Row 30: the polarity is declared, and it is the same for all."""
    assert "white lines on black" in get_condition("lineart").spec.meaning
    assert get_condition("lineart").spec.background == 0
    drawn = _map("standard", _scene(96, 128))
    assert drawn[0, 40] == 0
    assert drawn.max() > 100
    assert drawn.mean() < 40


def test_the_networks_black_lines_are_turned_round(random_store):
    """Row 30: the networks themselves draw black on white."""
    for detector in ("lineart", "lineart_anime"):
        store = random_store(detector)
        image = _noise(5, 256, 256)
        specs = get_detector(detector).spec.weights
        pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2).float()
        with torch.inference_mode():
            if detector == "lineart":
                network = load_lineart(store.path(specs["fine"])).eval()
                drawn = network(pixels / 255)[0, 0] * 255
            else:
                network = load_lineart_anime(store.path(specs["netG"])).eval()
                drawn = network(pixels / 127.5 - 1)[0, 0] * 127.5 + 127.5
        ours = _map(detector, image, store, detect_size=256)
        assert np.abs(255 - ours.astype(float) - drawn.numpy()).max() <= 1.01


@given(arrays(np.float32, (3, 4), elements=st.floats(0, 1, width=32)))
def test_inverted_levels_keep_the_order_and_the_ends(strength):
    levels = inverted_levels(strength)
    assert levels.dtype == np.uint8
    order = np.argsort(strength, axis=None)
    assert (np.diff(levels.ravel()[order].astype(int)) >= 0).all()
    assert (levels[strength == 0] == 0).all()
    assert (levels[strength == 1] == 255).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 20.0])
def test_instance_normalisation_is_torchs(dtype, offset):
    generator = torch.Generator().manual_seed(0)
    hidden = (torch.randn(2, 5, 70, 90, generator=generator) + offset).to(dtype)
    expected = torch.nn.functional.instance_norm(hidden.float())
    for relu in (False, True):
        inputs = hidden.clone(memory_format=torch.channels_last)
        found = InstanceNorm(relu=relu)(inputs)
        assert found.dtype == dtype
        wanted = expected.relu() if relu else expected
        atol = 1e-4 if dtype == torch.float32 else 0.08
        assert torch.allclose(found.float(), wanted, atol=atol)


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (load_lineart, "these are not the line art network's weights"),
        (load_lineart_anime, "these are not the anime network's weights"),
    ],
)
def test_weights_of_another_network_are_refused(load, message, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"some.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=message):
        load(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0}, r"sigma: expected more than 0 pixels, got 0"),
        ({"threshold": 255}, r"threshold: expected 0 to 254, got 255"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        _map("standard", _scene(32, 32), **settings)
