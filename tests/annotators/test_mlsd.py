from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.annotators.lines import draw
from condkit.annotators.mlsd import clip
from condkit.annotators.nets.aux_networks import network_class
from condkit.annotators.registry import get_detector
from condkit.errors import MapError
from condkit.runtime import Runtime

PHOTOGRAPHS = {
    "cn11_bedroom.jpg": (384, 512),
    "cn_building.png": (384, 256),
    "cn11_city.jpg": (320, 448),
    "cn_human.png": (256, 256),
    "coral_parrot.jpg": (256, 192),
}


def _annotator(store, dtype, side, **settings):
    values = {"lines.weights": "tiny", **{f"mlsd.{k}": v for k, v in settings.items()}}
    return Annotator(
        plan_annotation(["lines"], values, detect_size=side), Runtime("cpu", dtype, store=store)
    )


@pytest.fixture(scope="module")
def reference(real_weights):
    """controlnet_aux's own detector on the same weights."""
    path = real_weights.path(get_detector("mlsd").spec.weights["tiny"])
    network = network_class("mlsd.models.mbv2_mlsd_tiny", "MobileV2_MLSD_Tiny")()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network_class("mlsd", "MLSDdetector")(network.eval())


def _segments(annotator, image):
    (found,) = annotator.predict([image])
    (prediction,) = found.by_detector.values()
    return prediction


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_real_weights_give_controlnet_auxs_segments_and_map(
    name, reference, real_weights, photograph
):
    size_hw = PHOTOGRAPHS[name]
    image, side = photograph(name, size_hw), min(size_hw)
    pred_lines = network_class("mlsd.utils", "pred_lines")
    theirs = np.asarray(pred_lines(image, reference.model, list(size_hw), 0.1, 0.1), np.float32)
    with _annotator(real_weights, "fp32", side) as annotator:
        prediction = _segments(annotator, image)
        (maps,) = annotator([image])
    cut, inside = clip(theirs, size_hw)
    assert len(prediction.xyxy) == int(inside.sum())
    # Equal scores may come in another order.
    ours = prediction.xyxy[np.lexsort(prediction.xyxy.T)]
    assert np.abs(ours - cut[inside][np.lexsort(cut[inside].T)]).max() < 0.05
    drawn = reference(image, detect_resolution=side, image_resolution=side, output_type="np")
    # The same segments are drawn alike; ours end at the border, theirs beyond it, which leads the
    # pixels of a slanting line another way.
    assert np.array_equal(draw(theirs, size_hw), drawn[:, :, 0])
    assert np.mean(maps["lines"].pixels != drawn[:, :, 0]) < 0.006
    # Nothing but that: with theirs cut the same way, at most an end point is truncated differently.
    assert np.mean(maps["lines"].pixels != draw(cut[inside], size_hw)) < 0.001
    assert maps["lines"].facts["lines"] == len(prediction.xyxy)


def test_bf16_finds_the_segments_of_fp32_within_a_pixel(real_weights, photograph):
    """All but a few: of two neighbouring cells that are about equal, rounding chooses one."""
    near = total = 0
    for name, size_hw in PHOTOGRAPHS.items():
        image, side = photograph(name, size_hw), min(size_hw)
        both = [
            _segments(_annotator(real_weights, dtype, side), image).xyxy
            for dtype in ("fp32", "bf16")
        ]
        apart = np.abs(both[0][:, None] - both[1][None]).max(2)
        near += int((apart.min(1) <= 1.0).sum())
        total += len(both[0])
    assert total > 200
    assert near / total > 0.9


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("level", [0, 127, 255])
def test_a_flat_picture_has_no_lines(real_weights, dtype, level):
    images = [np.full((side, 192, 3), level, np.uint8) for side in (128, 256)]
    with _annotator(real_weights, dtype, 128) as annotator:
        for maps in annotator(images):
            assert maps["lines"].facts == {"lines": 0}
            assert not maps["lines"].pixels.any()


def test_openvino_finds_the_segments_of_fp32(real_weights, photograph, tmp_path):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    image = photograph("cn11_bedroom.jpg", (192, 256))
    plan = plan_annotation(["lines"], {"lines.weights": "tiny"}, detect_size=192)
    store = dataclasses.replace(real_weights, cache=tmp_path)
    runtimes = (
        Runtime("cpu", "fp32", store=store),
        Runtime("cpu", "auto", backend="openvino", store=store),
    )
    one, other = (_segments(Annotator(plan, runtime), image).xyxy for runtime in runtimes)
    apart = np.abs(one[:, None] - other[None]).max(2).min(1)
    assert np.mean(apart < 0.1) > 0.99


def test_padding_inside_the_convolutions_changes_nothing(real_weights):
    from condkit.annotators.nets.mlsd import MlsdMaps, mlsd_maps

    path = real_weights.path(get_detector("mlsd").spec.weights["tiny"])
    network = network_class("mlsd.models.mbv2_mlsd_tiny", "MobileV2_MLSD_Tiny")().eval()
    network.load_state_dict(torch.load(path, weights_only=True))
    ours = mlsd_maps(path, "tiny", Runtime("cpu", "fp32", store=real_weights))
    pixels = torch.rand(1, 3, 128, 192, generator=torch.Generator().manual_seed(0)) * 255
    with torch.inference_mode():
        assert torch.allclose(ours(pixels), MlsdMaps(network)(pixels), atol=1e-3)


def test_no_line_is_an_empty_list_and_not_an_error(real_weights, reference):
    """Defect 10: elsewhere every error becomes a black map, and no lines are such an error."""
    flat = np.full((128, 192, 3), 127, np.uint8)
    with pytest.raises(IndexError):
        network_class("mlsd.utils", "pred_lines")(flat, reference.model, [128, 192], 0.1, 0.1)
    with _annotator(real_weights, "fp32", 128) as annotator:
        (maps,) = annotator([flat])
    assert not maps["lines"].pixels.any()
    assert maps["lines"].facts == {"lines": 0}
    (data,) = maps["lines"].data
    assert json.loads(data.encode()) == {"width": 192, "height": 128, "segments": []}


def test_an_error_is_raised_and_never_a_black_map(real_weights):
    with _annotator(real_weights, "fp32", 64) as annotator:
        annotator.load()
        (detector,) = annotator._detectors.values()
        broken = type(detector)(
            forward=lambda pixels: pixels[:, :, ::2, ::2].repeat(1, 2, 1, 1)[:, :5] * float("nan"),
            params=detector.params,
            device=detector.device,
            budget=detector.budget,
        )
    with pytest.raises(MapError, match="mlsd: the network's output is not finite"):
        broken([np.zeros((64, 64, 3), np.uint8)])


def test_segments_are_kept_with_their_scores(real_weights, photograph):
    image = photograph("cn11_bedroom.jpg", (384, 512))
    with _annotator(real_weights, "fp32", 384) as annotator:
        (maps,) = annotator([image])
    (data,) = maps["lines"].data
    assert data.suffix == ".json"
    table = json.loads(data.encode())
    assert (table["width"], table["height"]) == (512, 384)
    assert len(table["segments"]) == maps["lines"].facts["lines"] > 20
    scores = [segment["score"] for segment in table["segments"]]
    assert scores == sorted(scores, reverse=True)
    assert 0.1 < min(scores) < max(scores) <= 1


def test_segments_lie_in_the_images_own_pixels_whatever_the_working_size(real_weights, photograph):
    small = photograph("cn11_bedroom.jpg", (384, 512))
    large = np.repeat(np.repeat(small, 2, 0), 2, 1)
    with _annotator(real_weights, "fp32", 384, score="0.4") as annotator:
        one, other = _segments(annotator, small).xyxy, _segments(annotator, large).xyxy
    apart = np.abs(one[:, None] * 2 - other[None]).max(2).min(1)
    assert np.mean(apart < 4) > 0.8


ENDS = st.floats(-300, 300, width=32)


@given(st.tuples(ENDS, ENDS, ENDS, ENDS), st.integers(1, 100), st.integers(1, 100))
def test_a_segment_is_cut_where_it_leaves_the_image_and_keeps_its_direction(ends, height, width):
    cut, inside = clip(np.array([ends], np.float32), (height, width))
    x0, y0, x1, y1 = ends
    steps = np.linspace(0, 1, 400)
    xs, ys = x0 + (x1 - x0) * steps, y0 + (y1 - y0) * steps
    seen = (xs >= 0) & (xs <= width - 1) & (ys >= 0) & (ys <= height - 1)
    assert inside[0] or not seen.any()
    if inside[0]:
        assert (cut >= 0).all()
        assert (cut[0, [0, 2]] <= width - 1).all()
        assert (cut[0, [1, 3]] <= height - 1).all()
        length = np.hypot(x1 - x0, y1 - y0)
        for x, y in cut.reshape(2, 2):
            off = abs((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0))
            assert off <= 1e-3 * max(length, 1) + 1e-2 * length
