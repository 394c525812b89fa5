"""The condition `normal`: axes, channels, and the depth that it shares."""

from __future__ import annotations

import cv2
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.annotators.nets.aux_networks import network_class
from condkit.annotators.normal import (
    CONDITION,
    BaeMapParams,
    FromDepthParams,
    convert_normals,
    encode_normals,
    normals_from_depth,
)
from condkit.errors import ConfigError
from condkit.predictions import InverseDepth, SurfaceNormals
from condkit.runtime import Runtime

SIDE = 384
NORMAL_MAPS = hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))
PROTOCOLS = st.sampled_from(["bae", "v1.0"])


def _hemisphere():
    """Height of a ball that bulges towards the camera, and its true normals in our axes."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    x, y = (x - SIDE / 2) / 150, (y - SIDE / 2) / 150
    inside = x**2 + y**2 < 0.8
    height = np.sqrt(np.maximum(1 - x**2 - y**2, 0))
    # To the right of the middle the surface faces right, so its x (to the left) is below 0.
    true = np.stack([-x, -y, height], axis=2)
    return height, true, inside


def _ball(protocol):
    height, _, _ = _hemisphere()
    params = FromDepthParams(protocol=protocol, background=0.0)
    render = CONDITION.renderer("from-depth").render
    return render(InverseDepth((height * 1000).astype(np.float32)), params).pixels.astype(int)


def _true_ball(protocol):
    _, true, inside = _hemisphere()
    xyz = np.where(inside[:, :, None], true, 0).astype(np.float32)
    render = CONDITION.renderer("bae").render
    return render(SurfaceNormals(xyz), BaeMapParams(protocol=protocol)).pixels.astype(int)


@pytest.mark.parametrize("ball", [_ball, _true_ball])
@pytest.mark.parametrize(("protocol", "left", "front"), [("bae", 0, 2), ("v1.0", 2, 0)])
def test_a_ball_shows_the_named_axes_in_the_named_channels(ball, protocol, left, front):
    """Row 31: on a ball, what faces left, up and the camera is known."""
    pixels = ball(protocol)
    middle, off = SIDE // 2, 90
    leftmost, rightmost = pixels[middle, middle - off], pixels[middle, middle + off]
    top, bottom = pixels[middle - off, middle], pixels[middle + off, middle]
    assert leftmost[left] > 170 > 85 > rightmost[left]
    assert top[1] > 170 > 85 > bottom[1]
    assert pixels[middle, middle, front] > 250
    for pixel in (leftmost, rightmost):
        assert abs(pixel[1] - 127) <= 3
    for pixel in (top, bottom):
        assert abs(pixel[left] - 127) <= 3
    assert (pixels[:, :, front] >= 127).all()


def test_the_axes_are_named_in_the_meaning():
    for protocol, words in (("bae", "red is left"), ("v1.0", "red is front")):
        plan = plan_annotation(["normal"], {"normal.protocol": protocol})
        assert words in plan.specs[0].meaning


def test_from_depth_and_bae_default_to_their_public_protocols():
    for detector, words in (("from-depth", "red is front"), ("bae", "red is left")):
        plan = plan_annotation(["normal"], {"normal.detector": detector})
        assert words in plan.specs[0].meaning


@given(NORMAL_MAPS, PROTOCOLS, PROTOCOLS)
def test_conversion_between_protocols_is_exact_and_undoes_itself(pixels, source, target):
    there = convert_normals(pixels, source, target)
    assert np.array_equal(convert_normals(there, target, source), pixels)
    assert np.array_equal(there, pixels) or source != target


@given(st.integers(0, 2**32 - 1), PROTOCOLS)
def test_encoding_keeps_normals_within_one_level(seed, protocol):
    xyz = np.random.default_rng(seed).normal(size=(4, 5, 3)).astype(np.float32)
    xyz /= np.linalg.norm(xyz, axis=2, keepdims=True)
    levels = convert_normals(encode_normals(xyz, protocol), protocol, "bae")
    assert np.abs((levels.astype(float) - 127) / 127.5 - xyz).max() <= 1.5 / 127.5


class _GivesThis(torch.nn.Module):
    def __init__(self, values):
        super().__init__()
        self.values = torch.nn.Parameter(torch.from_numpy(values.copy()), requires_grad=False)

    def forward(self, _):
        return self.values[None].clone()


def _relief(size_hw, seed=0):
    rough = np.random.default_rng(seed).uniform(0, 2000, (7, 9)).astype(np.float32)
    return cv2.resize(rough, size_hw[::-1], interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("background", [0.1, 0.4])
def test_normals_from_depth_equal_controlnet_auxs(background):
    depth = _relief((384, 448))
    midas = network_class("midas", "MidasDetector")(_GivesThis(depth))
    _, theirs = midas(
        np.zeros((384, 448, 3), np.uint8),
        bg_th=background,
        depth_and_normal=True,
        detect_resolution=384,
        image_resolution=384,
    )
    params = FromDepthParams(background=background)
    ours = CONDITION.renderer("from-depth").render(InverseDepth(depth), params).pixels
    off = np.abs(ours.astype(int) - theirs)
    assert off.max() <= 1
    assert np.mean(off > 0) < 0.001


def test_a_larger_image_has_the_same_normals():
    small, large = _relief((384, 384)), _relief((1152, 1152))
    render = CONDITION.renderer("from-depth").render
    of_small = render(InverseDepth(small), FromDepthParams()).pixels
    of_large = render(InverseDepth(large), FromDepthParams()).pixels
    shrunk = cv2.resize(of_large, (384, 384), interpolation=cv2.INTER_AREA)
    inner = (slice(8, -8), slice(8, -8))
    off = np.abs(shrunk[inner].astype(int) - of_small[inner])
    assert np.mean(off) < 2
    assert of_small.std() > 10


def test_flat_depth_faces_the_camera():
    xyz = normals_from_depth(np.full((9, 9), 5, np.float32))
    assert np.array_equal(xyz, np.broadcast_to(np.float32([0, 0, 1]), (9, 9, 3)))


def test_the_background_faces_the_camera():
    depth = np.tile(np.arange(64, dtype=np.float32) ** 2, (64, 1))
    xyz = normals_from_depth(depth, background=0.4)
    far = depth / depth.max() < 0.4
    assert np.array_equal(xyz[far], np.broadcast_to(np.float32([0, 0, 1]), (far.sum(), 3)))
    assert (xyz[~far][:, 0] > 0)[1:].any()


def test_normals_where_nothing_is_known_are_grey_and_counted():
    drawn = CONDITION.renderer("bae").render(
        SurfaceNormals(np.zeros((4, 4, 3), np.float32)), BaeMapParams()
    )
    assert (drawn.pixels == 127).all()
    assert drawn.facts == {"unknown_share": 1.0}


def test_one_prediction_feeds_depth_and_normal(random_store):
    plan = plan_annotation(["depth", "normal"], detect_size=64)
    assert plan.conditions[0].key == plan.conditions[1].key
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with Annotator(plan, Runtime("cpu", "fp32", store=random_store("midas"))) as annotator:
        ((key, detector),) = annotator.load()._detectors.items()
        calls = []
        annotator._detectors[key] = lambda images: calls.append(len(images)) or detector(images)
        (maps,) = annotator([image])
    assert list(maps) == ["depth", "normal"]
    assert calls == [1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normal.protocol": "bgr"}, r"normal\.protocol: expected one of bae, v1\.0"),
        ({"normal.background": "2"}, "normal.background: expected 0 to 1"),
        ({"normal.roundness": "0"}, "normal.roundness: expected a number above 0"),
        ({"normal.gradient_size": "1"}, "normal.gradient_size: expected 16 to 8192"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        plan_annotation(["normal"], settings)
