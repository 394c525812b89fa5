from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from condkit.annotators import load
from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.annotators.nets.aux_networks import hed_network, network_class
from condkit.annotators.nets.hed import load_hed
from condkit.annotators.registry import get_detector
from condkit.errors import MapError, WeightsError
from condkit.runtime import Runtime

# Name and a size whose sides are multiples of 64, as controlnet_aux needs them.
PHOTOGRAPHS = {
    "coral_parrot.jpg": (256, 128),
    "cn11_bedroom.jpg": (192, 256),
    "cn_human.png": (192, 192),
    "t2i_people.jpg": (128, 256),
    "cn11_city.jpg": (192, 256),
    "cn11_anime1.png": (256, 192),
    "cn_building.png": (192, 128),
}


def _softedge(store, dtype, size_hw):
    plan = plan_annotation(["softedge"], {"softedge.weights": "bsds500"}, detect_size=min(size_hw))
    return Annotator(plan, Runtime("cpu", dtype, store=store))


@pytest.fixture(scope="module")
def reference(real_weights):
    """controlnet_aux's own detector on the same weights, and its map of each photograph."""
    path = real_weights.path(get_detector("hed").spec.weights["bsds500"])
    network = hed_network()
    network.load_state_dict(load_hed(path).state_dict())
    return network_class("hed", "HEDdetector")(network.eval())


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_real_weights_give_controlnet_auxs_maps(name, reference, real_weights, photograph):
    size_hw = PHOTOGRAPHS[name]
    image, side = photograph(name, size_hw), min(size_hw)
    theirs = reference(image, detect_resolution=side, image_resolution=side, output_type="np")
    theirs = theirs[:, :, 0].astype(int)
    assert theirs.shape == size_hw
    assert theirs.max() - theirs.min() > 150
    for dtype, most, mean in (("fp32", 1, 0.01), ("bf16", 2, 0.15)):
        with _softedge(real_weights, dtype, size_hw) as annotator:
            (maps,) = annotator([image])
        off = np.abs(maps["softedge"].pixels.astype(int) - theirs)
        assert off.max() <= most, f"{dtype}: {off.max()} levels"
        assert off.mean() <= mean, f"{dtype}: {off.mean()} levels on average"


def test_a_scribble_is_controlnet_auxs(reference, real_weights, photograph):
    image = photograph("cn_human.png", (192, 192))
    theirs = reference(
        image, detect_resolution=192, image_resolution=192, output_type="np", scribble=True
    )[:, :, 0]
    plan = plan_annotation(["scribble"], {"scribble.weights": "bsds500"}, detect_size=192)
    (maps,) = Annotator(plan, Runtime("cpu", "fp32", store=real_weights))([image])
    # A map value that is off by one level may move a stroke's border by a pixel.
    assert np.mean(maps["scribble"].pixels != theirs) < 0.001


def test_the_h5_file_fills_every_tensor(real_weights):
    path = real_weights.path(get_detector("hed").spec.weights["bsds500"])
    network = load_hed(path)
    assert network.norm.flatten().tolist() == pytest.approx([122.67891, 116.66877, 104.00699])
    assert all(tensor.abs().sum() > 0 for tensor in network.state_dict().values())


@pytest.fixture(scope="module")
def random_hed(random_weights):
    plan = plan_annotation(["softedge"], detect_size=64)
    with Annotator(plan, Runtime("cpu", "fp32", store=random_weights)) as annotator:
        yield annotator.load()


def _strength(annotator, images):
    return [
        prediction.strength
        for found in annotator.predict(images)
        for prediction in found.by_detector.values()
    ]


def _noise(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_images_that_share_a_forward_pass_do_not_share_results(random_hed, monkeypatch):
    images = [_noise(1, 64, 80), _noise(2, 70, 90), _noise(3, 64, 64), _noise(4, 64, 100)]
    alone = [_strength(random_hed, [image])[0] for image in images]
    (detector,) = random_hed._detectors.values()
    monkeypatch.setattr(detector.budget, "pixels", 1 << 20)
    for together, single in zip(_strength(random_hed, images), alone, strict=True):
        assert np.abs(together - single).max() <= 1 / 255


def test_bf16_is_close_to_fp32_with_any_weights(random_hed, random_weights):
    image = _noise(5, 64, 64)
    plan = random_hed.plan
    (full,) = _strength(random_hed, [image])
    (half,) = _strength(Annotator(plan, Runtime("cpu", "bf16", store=random_weights)), [image])
    assert 0 < np.abs(full - half).max() < 8 / 255


def test_padding_changes_only_what_is_near_it(random_hed):
    image = _noise(6, 64, 128)
    (whole,) = _strength(random_hed, [image])
    (cut,) = _strength(random_hed, [np.ascontiguousarray(image[:, :100])])
    assert cut.shape == (64, 100)
    assert np.abs(cut[:, :8] - whole[:, :8]).max() < np.abs(cut[:, -8:] - whole[:, 92:100]).max()


def test_an_image_larger_than_the_working_size_comes_back_at_its_own(random_hed):
    (found,) = _strength(random_hed, [_noise(7, 150, 211)])
    assert found.shape == (150, 211)


def test_an_output_that_is_not_finite_is_an_error(random_hed):
    (detector,) = random_hed._detectors.values()
    broken = dataclasses.replace(detector, forward=lambda pixels: pixels[:, 0] * float("nan"))
    with pytest.raises(MapError, match="not finite; try --dtype fp32"):
        broken([_noise(8, 64, 64)])


def _saved(tmp_path, state):
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("block3.convs.1.bias"), r"block3\.convs\.1\.bias is missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "extra is not HED's"),
        (lambda s: s.update(norm=torch.zeros(3)), r"norm has shape \(3,\), expected \(1, 3, 1, 1"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_by_tensor(tmp_path, change, message):
    state = hed_network().state_dict()
    change(state)
    with pytest.raises(WeightsError, match=message):
        load_hed(_saved(tmp_path, state))


def test_an_h5_file_without_a_tensor_is_refused_by_name(tmp_path):
    import h5py

    path = tmp_path / "hed.h5"
    with h5py.File(path, "w") as file:
        file["block1/layers/conv2d/vars/0"] = np.zeros((3, 3, 3, 64), np.float32)
    with pytest.raises(WeightsError, match="a tensor of HED is missing"):
        load_hed(path)


@pytest.mark.parametrize("name", ["weights.pth", "weights.h5"])
def test_a_file_of_something_else_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"not a weight file at all")
    with pytest.raises(WeightsError, match=name):
        load_hed(path)


def test_code_in_a_weight_file_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "proof"), "w"))

    with pytest.raises(WeightsError, match="not a torch file of plain tensors"):
        load_hed(_saved(tmp_path, {"norm": Evil()}))
    assert not (tmp_path / "proof").exists()


def test_weights_that_cannot_be_had_are_named_when_loading(tmp_path, monkeypatch):
    monkeypatch.setenv("CONDKIT_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"hed_bsds500\.weights\.h5"):
        load("softedge", weights="bsds500", offline=True)


@pytest.mark.parametrize("size_hw", [(240, 320), (350, 300)])
def test_a_circle_stays_a_circle(size_hw, real_weights):
    """Row 2: theirs rounds each side to multiples of 64 by itself, which stretches."""
    import cv2

    height, width = size_hw
    image = np.full((height, width, 3), 230, np.uint8)
    cv2.circle(image, (width // 2, height // 2), 90, (20, 20, 20), -1)
    plan = plan_annotation(["softedge"], {"softedge.weights": "bsds500"}, detect_size=256)
    (maps,) = Annotator(plan, Runtime("cpu", store=real_weights))([image])
    pixels = maps["softedge"].pixels
    strong = pixels > pixels.max() * 0.7
    rows, columns = (np.flatnonzero(strong.any(axis=axis)) for axis in (1, 0))
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 4
    assert abs(np.ptp(rows) - 180) <= 16
