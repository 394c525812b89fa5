from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.annotators.nets.resampling import bilinear
from condkit.annotators.nets.sam2_masks import Masks, point_grid, segment_ids
from condkit.annotators.nets.semantic import Framing, frame
from condkit.annotators.registry import get_condition, get_detector
from condkit.annotators.segments import SegmentsParams, draw_segments, segment_colours
from condkit.errors import ConfigError, MapError
from condkit.imageio import read_map
from condkit.predictions import Segments
from condkit.runtime import Runtime

SIDE = 64  # of what the random network sees
# Thresholds that let a random network through.
LOOSE = {"iou_threshold": 0.02, "stability_threshold": 0.3, "nms_threshold": 0.9}


@pytest.fixture(scope="module")
def store(random_store):
    return random_store("sam2")


@pytest.fixture(scope="module")
def load(store):
    def load(dtype="fp32", **settings):
        definition = get_detector("sam2")
        params = definition.params(**{"points_per_side": 8, **LOOSE, **settings})
        return definition.load(params, Runtime("cpu", dtype, store=store))

    return load


def _picture(seed, height, width):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 16), -(-width // 16), 3), dtype=np.uint8)
    image = np.repeat(np.repeat(coarse, 16, axis=0), 16, axis=1)[:height, :width]
    return np.ascontiguousarray(image ^ rng.integers(0, 16, image.shape, dtype=np.uint8))


def _laid(masks):
    """Masks over each other, the largest first, as segment numbers."""
    ids = np.zeros(masks[0].shape, np.int32)
    for number, mask in enumerate(sorted(masks, key=lambda mask: -mask.sum()), start=1):
        ids[mask] = number
    return np.searchsorted(np.union1d(ids, [0]), ids)


@pytest.mark.parametrize("side", [SIDE, 32, 48])
def test_square_pictures_give_the_pipelines_masks(load, store, side):
    folder = store.folder(get_detector("sam2").spec.weights["large"])
    pipe = transformers.pipeline(
        "mask-generation",
        model=transformers.Sam2Model.from_pretrained(folder),
        image_processor=transformers.Sam2ImageProcessor.from_pretrained(folder),
    )
    image = _picture(side, side, side)
    theirs = pipe(
        Image.fromarray(image),
        points_per_crop=8,
        pred_iou_thresh=LOOSE["iou_threshold"],
        stability_score_thresh=LOOSE["stability_threshold"],
        crops_nms_thresh=LOOSE["nms_threshold"],
    )["masks"]
    assert len(theirs) > 1
    (found,) = load()([image])
    expected = _laid([np.asarray(mask).astype(bool) for mask in theirs])
    assert np.mean(found.ids != expected) < 0.002


def test_a_wide_picture_is_padded_where_the_pipeline_stretches_it(load):
    # transformers stretches the picture to a square but not the points: they miss its lower part.
    image = _picture(1, 32, SIDE)
    square = np.pad(image, ((0, 32), (0, 0), (0, 0)), mode="edge")
    detector = load()
    item = frame(image, 0, Framing(short=None, longest=SIDE, least=SIDE))
    assert np.array_equal(item.pixels.permute(1, 2, 0).numpy(), square)
    points = point_grid(4, item.inner_hw)
    assert points[:, 1].max() == 28
    assert points[:, 0].max() == 56
    assert detector([image])[0].size_hw == (32, SIDE)


def test_the_grids_points_are_spread_evenly_over_the_picture():
    assert point_grid(2, (40, 80)).tolist() == [[20, 10], [60, 10], [20, 30], [60, 30]]


def test_pictures_that_are_encoded_together_do_not_share_results(load):
    detector = load()
    pictures = [_picture(1, 48, 64), _picture(2, 64, 30), _picture(3, 64, 64)]
    alone = [detector([picture])[0].ids for picture in pictures]
    detector.budget.pixels = 2 * SIDE**2
    for together, single in zip(detector(pictures), alone, strict=True):
        assert np.mean(together.ids != single) < 0.005


def test_bf16_finds_much_the_same(load):
    picture = _picture(4, 64, 64)
    full, half = (load(dtype)([picture])[0].ids > 0 for dtype in ("fp32", "bf16"))
    assert np.mean(full == half) > 0.9


def test_an_output_that_is_not_finite_is_an_error_and_no_empty_map(store):
    definition = get_detector("sam2")
    params = definition.params(points_per_side=8)
    broken = definition.load(params, Runtime("cpu", "fp32", store=store))
    for parameter in broken.network.mask_decoder.iou_prediction_head.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(MapError, match="sam2: the network's output is not finite"):
        broken([_picture(3, 64, 64)])


def test_nothing_good_enough_is_an_empty_map_that_says_so(store):
    settings = {"segments.iou_threshold": 1.0, "segments.points_per_side": 2}
    with Annotator(plan_annotation(["segments"], settings), Runtime("cpu", store=store)) as maker:
        drawn = maker([_picture(5, 40, 50)])[0]["segments"]
    assert not drawn.pixels.any()
    assert drawn.facts == {"segments": 0, "covered": 0.0, "largest_share": 0.0}
    assert json.loads(drawn.data[1].encode()) == {"segments": []}


def test_row_37_the_same_picture_gives_the_same_map_and_another_seed_other_colours(store):
    picture = _picture(6, 48, 64)
    loose = {f"segments.{name}": value for name, value in LOOSE.items()}
    maps = []
    for seed in (0, 0, 1):
        settings = {**loose, "segments.points_per_side": 8, "segments.seed": seed}
        with Annotator(plan_annotation(["segments"], settings), Runtime("cpu", store=store)) as one:
            # In a batch of other pictures, so that order does not matter either.
            batch = [picture] if not maps else [_picture(7, 30, 30), picture]
            maps.append(one(batch)[-1]["segments"].pixels)
    assert maps[0].any()
    assert np.array_equal(maps[0], maps[1])
    assert not np.array_equal(maps[0], maps[2])
    assert np.array_equal(maps[0].any(axis=2), maps[2].any(axis=2))


@given(count=st.integers(0, 300), seed=st.integers(0, 2**32))
def test_every_segment_has_a_colour_of_its_own_that_is_not_black(count, seed):
    colours = segment_colours(count, np.random.default_rng(seed))
    assert colours.shape == (count, 3)
    assert colours.dtype == np.uint8
    assert len(np.unique(colours, axis=0)) == count
    assert (colours >= 32).all()


def _render(ids, seed=0):
    renderer = get_condition("segments").renderers[0]
    return renderer.render(Segments(ids), SegmentsParams(seed=seed), np.random.default_rng(seed))


def test_ids_and_statistics_go_beside_the_map():
    ids = np.zeros((4, 5), np.int32)
    ids[1:3, :4] = 1
    ids[3, 4] = 2
    drawn = _render(ids)
    png, text = drawn.data
    assert (png.suffix, text.suffix) == (".segments.png", ".segments.json")
    kept = read_map(png.encode())
    assert kept.dtype == np.uint16
    assert np.array_equal(kept, ids)
    first, second = json.loads(text.encode())["segments"]
    assert (first["id"], first["pixels"], first["share"]) == (1, 8, 0.4)
    assert first["box"] == [0, 1, 3, 2]
    assert second["box"] == [4, 3, 4, 3]
    colours = np.array([first["colour"], second["colour"]], np.uint8)
    assert np.array_equal(drawn.pixels, draw_segments(ids, colours))
    assert drawn.facts == {"segments": 2, "covered": 0.45, "largest_share": 0.4}


def test_more_segments_than_the_file_can_number_are_refused():
    ids = np.arange(70_000, dtype=np.int32).reshape(7, 10_000)
    with pytest.raises(MapError, match="at most 65535 segments, got 69999"):
        _render(ids)


def _masks(*regions, size=(6, 6)):
    logits = torch.full((len(regions), *size), -1.0)
    for mask, region in zip(logits, regions, strict=True):
        mask[region] = 1
    areas = (logits > 0).sum((1, 2)).float()
    return Masks(logits, size, torch.ones(len(regions)), torch.zeros(len(regions), 4), areas)


def test_what_lies_inside_of_another_segment_stays_visible():
    small, large = np.s_[2:4, 2:4], np.s_[1:5, 1:5]
    ids = segment_ids(_masks(small, large), (6, 6))
    assert ids[2:4, 2:4].tolist() == [[2, 2], [2, 2]]
    assert np.count_nonzero(ids == 1) == 12
    assert ids[0].tolist() == [0] * 6


def test_a_segment_that_others_cover_leaves_no_gap_in_the_numbers():
    left, right, behind = np.s_[:, :3], np.s_[:, 3:], np.s_[:, :]
    ids = segment_ids(_masks(behind, left, right), (6, 6))
    assert np.unique(ids).tolist() == [1, 2]


def test_no_masks_are_no_segments():
    assert not segment_ids(_masks(size=(4, 4)), (9, 7)).any()


def test_masks_of_a_padded_picture_lose_the_padding():
    values = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(values[None], (64, 64), mode="bilinear", align_corners=False)[0]
    assert torch.equal(bilinear(values, (16, 16), (64, 64)), whole)
    cut = bilinear(values, (10.5, 16), (42, 64))
    assert torch.allclose(cut, whole[:, :42], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points_per_side": 0}, r"sam2\.points_per_side: expected 1 to 128, got 0"),
        ({"iou_threshold": 1.5}, r"sam2\.iou_threshold: expected 0 to 1, got 1\.5"),
        ({"nms_threshold": -0.1}, r"sam2\.nms_threshold: expected 0 to 1, got -0\.1"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, message):
    with pytest.raises(ConfigError, match=message):
        get_detector("sam2").params(**settings)
    with pytest.raises(ConfigError, match=r"segments\.seed: expected at least 0, got -1"):
        SegmentsParams(seed=-1)
