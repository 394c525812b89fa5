"""BAE: equal to controlnet_aux on the same random weights; the class has no small form."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from condkit.annotators.nets.aux_networks import network_class
from condkit.annotators.nets.bae import bae_network, load_bae, unit_normals
from condkit.annotators.nets.state import read_state_dict
from condkit.annotators.normal import CONDITION, BaeMapParams
from condkit.annotators.registry import get_detector
from condkit.errors import WeightsError
from condkit.runtime import Runtime

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(random_store):
    return random_store("bae").path(get_detector("bae").spec.weights["scannet"])


@pytest.fixture(scope="module")
def reference(weights):
    """controlnet_aux's own detector on the same weights."""
    with torch.device("meta"):
        network = bae_network()
    network.to_empty(device="cpu").load_state_dict(read_state_dict(weights))
    return network_class("normalbae", "NormalBaeDetector")(network.eval())


def _clouds(seed, size_hw):
    rough = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return cv2.resize(rough, size_hw[::-1], interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def detectors(random_store):
    """By arithmetic; each is loaded once, since 72 million numbers take their time."""
    definition, store = get_detector("bae"), random_store("bae")
    params = definition.params(detect_size=128)
    return {
        dtype: definition.load(params, Runtime("cpu", dtype, store=store))
        for dtype in ("fp32", "bf16")
    }


def _map(prediction, protocol="bae"):
    return CONDITION.renderer("bae").render(prediction, BaeMapParams(protocol=protocol)).pixels


def test_random_weights_give_controlnet_auxs_normals(reference, detectors):
    image = _clouds(0, (128, 192))
    theirs = reference(image, detect_resolution=128, image_resolution=128, output_type="np")
    assert theirs.shape == image.shape
    assert theirs.astype(int).std((0, 1)).max() > 5
    for dtype, levels in (("fp32", 1), ("bf16", 2)):
        (found,) = detectors[dtype]([image])
        assert np.abs(_map(found).astype(int) - theirs).max() <= levels, dtype
        assert np.array_equal(_map(found, "v1.0"), _map(found)[:, :, ::-1])


def test_a_size_that_controlnet_aux_distorts_comes_back_as_it_was(detectors):
    """Rows 1 and 2: 75 x 100 becomes 128 x 192 there."""
    (found,) = detectors["bf16"]([_clouds(1, (75, 100))])
    assert _map(found).shape == (75, 100, 3)
    assert np.allclose(np.linalg.norm(found.xyz, axis=2), 1, atol=1e-5)


def test_a_file_that_lacks_one_tensor_is_refused(weights, tmp_path):
    """Row 17."""
    state = torch.load(weights, weights_only=True)
    state["model"].pop("module.decoder.up1._net.1.running_mean")
    torch.save(state, tmp_path / "scannet.pt")
    with pytest.raises(WeightsError, match=r"decoder\.up1\._net\.1\.running_mean is missing"):
        load_bae(tmp_path / "scannet.pt", CPU, torch.float32)


def test_building_the_network_prints_nothing(capsys, recwarn):
    with torch.device("meta"):
        bae_network()
    assert capsys.readouterr() == ("", "")
    assert not recwarn


def test_resampled_normals_have_length_1_again_or_none():
    values = np.float32([[[0.5, 0, 0], [0, -0.3, 0.4]], [[0, 0, 0], [0, 0, 1e-5]]])
    xyz = unit_normals(values).xyz
    assert np.allclose(xyz, [[[1, 0, 0], [0, -0.6, 0.8]], [[0, 0, 0], [0, 0, 0]]])
