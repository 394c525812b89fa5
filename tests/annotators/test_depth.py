"""The condition `depth`: what its pixels mean, whatever network saw the image."""

from __future__ import annotations

import dataclasses
import logging

import cv2
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from condkit import imageio, pipeline
from condkit.annotators.annotator import plan_annotation
from condkit.annotators.depth import (
    CONDITION,
    DepthParams,
    MetricDepthParams,
    ZoedepthMapParams,
    nearness,
    spec_of,
)
from condkit.annotators.nets.aux_networks import network_class
from condkit.captions import make_captioner
from condkit.datasets.reader import open_dataset
from condkit.errors import ConfigError
from condkit.predictions import InverseDepth, MetricDepth
from condkit.runtime import Runtime
from condkit.trainer.data import hint_from_map

SCENES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(2, 12), st.integers(2, 12)),
    elements=st.floats(0.125, 64, width=32),
)


def _draw(prediction, params):
    name = "midas" if isinstance(prediction, InverseDepth) else "depth-pro"
    return CONDITION.renderer(name).render(prediction, params)


def _ramp(first, last, size_hw=(16, 64)):
    return np.tile(np.linspace(first, last, size_hw[1], dtype=np.float32), (size_hw[0], 1))


class _GivesThis(torch.nn.Module):
    """Stands for a network of controlnet_aux whose output is known."""

    def __init__(self, values):
        super().__init__()
        self.values = torch.nn.Parameter(torch.from_numpy(values.copy()), requires_grad=False)

    def forward(self, _):
        return self.values[None].clone()

    def infer(self, _):
        return self.values[None, None].clone()


def _scene(seed=0, size_hw=(128, 192)):
    rough = np.random.default_rng(seed).uniform(1, 9, (6, 8)).astype(np.float32)
    return cv2.resize(rough, size_hw[::-1], interpolation=cv2.INTER_CUBIC).clip(0.5, None)


@pytest.mark.parametrize("scale", ["inverse", "linear"])
def test_near_is_white_whether_depth_is_inverse_or_metric(scale):
    """Row 32: the same ramp, nearest on the right, as inverse depth and as metres."""
    inverse = InverseDepth(_ramp(0.1, 2.0))
    metric = MetricDepth(_ramp(10.0, 0.5))
    for prediction, params in (
        (inverse, DepthParams()),
        (metric, MetricDepthParams(scale=scale)),
    ):
        pixels = _draw(prediction, params).pixels.astype(int)
        assert pixels[0, 0] == 0
        assert pixels[0, -1] == 255
        assert (np.diff(pixels, axis=1) >= 0).all()
        black = _draw(prediction, dataclasses.replace(params, near="black")).pixels
        assert np.array_equal(255 - pixels, black)


def test_metres_drawn_inverse_look_as_inverse_depth_does():
    metres = np.random.default_rng(0).uniform(0.5, 20, (30, 40)).astype(np.float32)
    as_metric = _draw(MetricDepth(metres), MetricDepthParams()).pixels
    as_inverse = _draw(InverseDepth(1 / metres), DepthParams()).pixels
    assert np.array_equal(as_metric, as_inverse)


@pytest.mark.parametrize("value", [0.0, 1e-30, 3.5, 4000.0])
@pytest.mark.parametrize("clip", [0.0, 10.0])
def test_constant_depth_gives_zeros_and_a_warning_instead_of_nan(value, clip, caplog):
    """Row 33: controlnet_aux divides 0 by 0 here."""
    flat = np.full((64, 64), value, np.float32)
    midas = network_class("midas", "MidasDetector")(_GivesThis(flat))
    with pytest.warns(RuntimeWarning, match="invalid value"):
        midas(np.zeros((64, 64, 3), np.uint8), detect_resolution=64, image_resolution=64)
    for prediction, params in (
        (InverseDepth(flat), DepthParams(clip_near=clip)),
        (MetricDepth(flat), MetricDepthParams(clip_far=clip)),
        (MetricDepth(flat), ZoedepthMapParams()),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            drawn = _draw(prediction, params)
        assert not drawn.pixels.any()
        assert drawn.facts["flat"] == 1
        assert all(np.isfinite(fact) for fact in drawn.facts.values())
        assert "the same everywhere" in caplog.text


def test_rounding_of_the_network_on_a_flat_image_is_no_depth():
    noise = np.random.default_rng(0).normal(0, 1e-6, (20, 20)).astype(np.float32)
    assert _draw(InverseDepth(np.float32(7) + noise), DepthParams()).facts["flat"] == 1


@given(SCENES, st.sampled_from([8, 16]), st.floats(0, 20), st.floats(0, 20))
def test_a_map_keeps_the_order_of_depth_and_uses_all_levels(depth, bits, near, far):
    params = DepthParams(bits=bits, clip_near=near, clip_far=far)
    drawn = _draw(InverseDepth(depth), params)
    levels = drawn.pixels.ravel().astype(int)
    order = np.argsort(depth, axis=None, kind="stable")
    assert (np.diff(levels[order]) >= 0).all()
    if not drawn.facts["flat"]:
        assert levels.min() == 0
        assert levels.max() == 2**bits - 1


@given(SCENES, st.floats(0.5, 100), st.floats(0, 100))
def test_scale_and_shift_of_relative_depth_change_nothing(depth, scale, shift):
    before = nearness(depth)
    after = nearness((depth.astype(np.float64) * scale + shift).astype(np.float32))
    if not before.flat and not after.flat and np.ptp(depth) > 0.1:
        assert np.abs(before.values - after.values).max() < 0.01


def test_min_max_maps_equal_controlnet_auxs_midas_maps():
    depth = _scene()
    midas = network_class("midas", "MidasDetector")(_GivesThis(depth))
    image = np.zeros((128, 192, 3), np.uint8)
    theirs = midas(image, detect_resolution=128, image_resolution=128)
    assert np.array_equal(_draw(InverseDepth(depth), DepthParams()).pixels, theirs[:, :, 0])


def test_clipped_linear_maps_equal_controlnet_auxs_zoe_maps():
    metres = _scene(1)
    zoe = network_class("zoe", "ZoeDetector")(_GivesThis(metres))
    image = np.zeros((128, 192, 3), np.uint8)
    theirs = zoe(image, detect_resolution=128, image_resolution=128)[:, :, 0]
    ours = CONDITION.renderer("zoedepth").render(MetricDepth(metres), ZoedepthMapParams()).pixels
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert np.mean(ours != theirs) < 0.01


def test_clipping_that_leaves_no_range_falls_back_to_the_whole_range():
    metres = np.full((20, 20), 8, np.float32)
    metres[:1] = 2
    drawn = CONDITION.renderer("zoedepth").render(MetricDepth(metres), ZoedepthMapParams())
    assert drawn.facts["flat"] == 0
    assert (drawn.pixels[0] == 255).all()
    assert not drawn.pixels[1:].any()


def test_sixteen_bits_keep_what_eight_bits_merge():
    depth = _ramp(1, 2, (2, 4096))
    assert len(np.unique(_draw(InverseDepth(depth), DepthParams()).pixels)) == 256
    deep = _draw(InverseDepth(depth), DepthParams(bits=16))
    assert deep.pixels.dtype == np.uint16
    assert len(np.unique(deep.pixels)) == 4096
    assert deep.spec.dtype == "uint16"
    assert "65535 (nearest)" in deep.spec.meaning


def test_sixteen_bits_survive_the_file():
    drawn = _draw(InverseDepth(_scene()), DepthParams(bits=16))
    again = imageio.read_map(imageio.encode_png(drawn.pixels))
    assert again.dtype == np.uint16
    assert np.array_equal(again, drawn.pixels)


@pytest.mark.parametrize("layout", ["parquet", "imagefolder"])
def test_sixteen_bits_survive_from_build_to_the_trainers_hint(tmp_path, random_store, layout):
    source = tmp_path / "in"
    source.mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        picture = cv2.resize(pixels, (96, 64), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(source / f"{seed}.png"), picture)
        (source / f"{seed}.txt").write_text("coloured clouds")
    plan = plan_annotation(["depth"], {"depth.bits": 16, "depth.detect_size": 64})
    pipeline.build(
        source,
        tmp_path / "out",
        plan,
        Runtime("cpu", "fp32", store=random_store("midas")),
        captioner=make_captioner("sidecar"),
        size=64,
        format=layout,
        val=0,
    )
    dataset = open_dataset(tmp_path / "out")
    assert dataset.conditions["depth"] == plan.specs[0]
    assert dataset.conditions["depth"].dtype == "uint16"
    for row in dataset.split("train"):
        pixels = row.maps["depth"]
        assert pixels.dtype == np.uint16
        assert len(np.unique(pixels)) > 256
        hint = hint_from_map(pixels)
        assert hint.dtype == np.float32
        assert hint.min() == 0
        assert hint.max() == 1
        assert np.array_equal(hint[0], pixels.astype(np.float32) / 65535)


def test_metres_are_recorded():
    drawn = _draw(MetricDepth(_ramp(1.5, 12)), MetricDepthParams())
    assert drawn.facts == {"nearest_m": 1.5, "farthest_m": 12.0, "flat": 0}


def test_the_meaning_says_what_the_settings_did():
    meaning = spec_of(CONDITION.spec, ZoedepthMapParams(near="black")).meaning
    assert meaning.startswith("depth, per image from 255 (farthest) to 0 (nearest)")
    assert spec_of(CONDITION.spec, ZoedepthMapParams(near="black")).background == 255
    assert spec_of(CONDITION.spec, DepthParams()) == CONDITION.spec


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth.bits": "12"}, "depth.bits: expected one of 8, 16"),
        ({"depth.clip_far": "60"}, "depth.clip_far: expected 0 to below 50"),
        ({"depth.clip_near": "-1"}, "depth.clip_near: expected 0 to below 50"),
        ({"depth.detect_size": "8"}, "midas.detect_size: expected 32 to 4096"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        plan_annotation(["depth"], settings)
