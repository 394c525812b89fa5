from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.annotators.nets.aux_networks import network_class
from condkit.annotators.nets.pidinet import (
    PidinetEdges,
    folded,
    load_pidinet,
    rounded_together,
)
from condkit.annotators.registry import get_detector
from condkit.errors import WeightsError
from condkit.runtime import Runtime

# Name and a size whose sides are multiples of 64, as controlnet_aux needs them.
PHOTOGRAPHS = {
    "coral_parrot.jpg": (256, 128),
    "cn11_bedroom.jpg": (192, 256),
    "cn_human.png": (192, 192),
    "t2i_people.jpg": (128, 256),
    "cn_building.png": (192, 128),
}


@pytest.fixture(scope="module")
def weights(real_weights):
    return real_weights.path(get_detector("pidinet").spec.weights["table5"])


@pytest.fixture(scope="module")
def reference(weights):
    """controlnet_aux's own detector on the same weights."""
    return network_class("pidi", "PidiNetDetector")(load_pidinet(weights).eval())


def _annotator(condition, store, dtype, size_hw, **settings):
    chosen = {f"{condition}.{name}": value for name, value in settings.items()}
    plan = plan_annotation(
        [condition], {f"{condition}.detector": "pidinet", **chosen}, detect_size=min(size_hw)
    )
    return Annotator(plan, Runtime("cpu", dtype, store=store))


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_real_weights_give_controlnet_auxs_maps(name, reference, real_weights, photograph):
    size_hw = PHOTOGRAPHS[name]
    image, side = photograph(name, size_hw), min(size_hw)
    theirs = reference(image, detect_resolution=side, image_resolution=side, output_type="np")
    theirs = theirs[:, :, 0].astype(int)
    assert theirs.shape == size_hw
    assert theirs.max() - theirs.min() > 150
    with _annotator("softedge", real_weights, "fp32", size_hw) as annotator:
        (maps,) = annotator([image])
    off = np.abs(maps["softedge"].pixels.astype(int) - theirs)
    assert off.max() <= 1
    assert off.mean() < 0.01


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_bf16_is_within_two_levels_but_for_single_pixels(name, real_weights, photograph):
    # It computes small differences of large numbers, for which bf16 has 8 bits: one pixel in two
    # hundred at most is further off than two levels, and by six at most.
    size_hw = PHOTOGRAPHS[name]
    image = photograph(name, size_hw)
    maps = [
        _annotator("softedge", real_weights, dtype, size_hw)([image])[0]["softedge"].pixels
        for dtype in ("fp32", "bf16")
    ]
    off = np.abs(maps[0].astype(int) - maps[1])
    assert np.mean(off > 2) <= 0.005
    assert off.max() <= 6
    assert off.mean() <= 0.3


@pytest.mark.parametrize("safe", [False, True])
def test_safe_levels_are_controlnet_auxs(safe, reference, real_weights, photograph):
    image = photograph("cn_human.png", (192, 192))
    options = {"detect_resolution": 192, "image_resolution": 192, "output_type": "np"}
    theirs = reference(image, safe=safe, **options)[:, :, 0]
    with _annotator("softedge", real_weights, "fp32", (192, 192), safe=safe) as annotator:
        (maps,) = annotator([image])
    assert np.mean(np.abs(maps["softedge"].pixels.astype(int) - theirs) > 1) < 0.001


def test_a_scribble_is_controlnet_auxs(reference, real_weights, photograph):
    image = photograph("cn_human.png", (192, 192))
    options = {"detect_resolution": 192, "image_resolution": 192, "output_type": "np"}
    theirs = reference(image, scribble=True, **options)[:, :, 0]
    with _annotator("scribble", real_weights, "fp32", (192, 192)) as annotator:
        (maps,) = annotator([image])
    assert np.mean(maps["scribble"].pixels != theirs) < 0.001


def test_the_authors_map_of_a_photograph_is_reproduced(assets, weights):
    import cv2

    from condkit.imageio import decode

    folder = assets / "golden" / "pidinet_bsds"
    image = decode(folder / "35028.jpg").image
    published = cv2.imread(str(folder / "35028.png"), cv2.IMREAD_GRAYSCALE)
    # The authors normalise RGB as for ImageNet; ControlNet's maps are of BGR as it is, and so are
    # ours, which the network is told here by colours that it sees as the authors' are.
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    seen = ((image / np.float32(255) - mean) / deviation)[:, :, ::-1] * 255
    edges = PidinetEdges(load_pidinet(weights), split=False).eval()
    with torch.inference_mode():
        pixels = torch.from_numpy(seen.copy()).float()[None].permute(0, 3, 1, 2)
        ours = edges(pixels)[0].numpy() * 255
    assert ours.shape == published.shape
    assert np.corrcoef(ours.ravel(), published.ravel())[0, 1] > 0.995


def _difference_convolution(kind, inputs, weight, groups):
    """What `controlnet_aux` computes for a layer of this kind."""
    name = {"central": "cd", "angular": "ad", "radial": "rd", "plain": "cv"}[kind]
    function = network_class("pidi.model", "createConvFunc")(name)
    return function(inputs, weight, None, 1, 1, 1, groups)


@pytest.mark.parametrize("kind", ["central", "angular", "radial", "plain"])
@pytest.mark.parametrize("groups", [1, 6])
def test_a_folded_convolution_equals_the_difference_convolution(kind, groups):
    generator = torch.Generator().manual_seed(groups)
    inputs = torch.randn(2, 6, 11, 13, generator=generator)
    weight = torch.randn(6, 6 // groups, 3, 3, generator=generator)
    expected = _difference_convolution(kind, inputs, weight, groups)
    kernel = folded(weight, kind)
    found = F.conv2d(inputs, kernel, padding=kernel.shape[-1] // 2, groups=groups)
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_folded_network_equals_the_published_one_on_real_weights(weights, photograph):
    network = load_pidinet(weights).eval()
    image = photograph("cn11_city.jpg", (96, 128))
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        expected = network(pixels.flip(1) / 255)[-1][:, 0]
        for in_strips in (False, True):
            edges = PidinetEdges(load_pidinet(weights), split=False, in_strips=in_strips).eval()
            assert torch.allclose(edges(pixels), expected, atol=1e-4)


def test_rounding_keeps_the_sum_of_differences():
    generator = torch.Generator().manual_seed(0)
    kernel = folded(torch.randn(40, 1, 3, 3, generator=generator), "angular")
    rounded = rounded_together(kernel)
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert torch.allclose(rounded, kernel, rtol=2**-7, atol=2**-8)
    separately = kernel.bfloat16().float()
    off, off_separately = (k.sum(dim=(1, 2, 3)).abs().mean() for k in (rounded, separately))
    assert off < off_separately / 4


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "table5_pidinet.pth"
    torch.save({"state_dict": {"module.block9.weight": torch.zeros(1)}}, path)
    with pytest.raises(WeightsError, match="these are not PiDiNet's weights"):
        load_pidinet(path)


@pytest.mark.parametrize("size_hw", [(240, 320), (350, 300)])
def test_a_circle_stays_a_circle(size_hw, real_weights):
    """Row 2: theirs rounds each side to multiples of 64 by itself, which stretches."""
    import cv2

    height, width = size_hw
    image = np.full((height, width, 3), 230, np.uint8)
    cv2.circle(image, (width // 2, height // 2), 90, (20, 20, 20), -1)
    plan = plan_annotation(["softedge"], {"softedge.detector": "pidinet"}, detect_size=256)
    (maps,) = Annotator(plan, Runtime("cpu", store=real_weights))([image])
    pixels = maps["softedge"].pixels
    strong = pixels > pixels.max() * 0.7
    rows, columns = (np.flatnonzero(strong.any(axis=axis)) for axis in (1, 0))
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 4
    assert abs(np.ptp(rows) - 180) <= 16
