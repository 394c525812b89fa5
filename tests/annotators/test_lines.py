from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condkit.annotators import load
from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.annotators.hough import HoughParams, detect
from condkit.annotators.lines import draw
from condkit.errors import ConfigError

HOUGH = {"lines.detector": "hough"}


def _polygon(points, size_hw=(128, 160)):
    image = np.full((*size_hw, 3), 220, np.uint8)
    cv2.fillPoly(image, [np.array(points, np.int32)], (40, 70, 160))
    return image


def _distance_to_sides(xyxy, points):
    """The largest distance of each segment's ends from the line through its nearest side."""
    corners = np.array(points, float)
    starts, ends = corners, np.roll(corners, -1, axis=0)
    along = (ends - starts) / np.linalg.norm(ends - starts, axis=1, keepdims=True)
    normals = np.stack([-along[:, 1], along[:, 0]], axis=1)
    offsets = [
        np.abs(((segment.reshape(2, 1, 2) - starts) * normals).sum(axis=2)).max(axis=0).min()
        for segment in xyxy
    ]
    return np.array(offsets)


POLYGONS = {
    "rectangle": [(30, 25), (120, 25), (120, 100), (30, 100)],
    "triangle": [(20, 110), (80, 15), (140, 105)],
    "tilted": [(40, 20), (130, 45), (110, 110), (25, 90)],
}


@pytest.mark.parametrize("name", POLYGONS)
def test_the_sides_of_a_polygon_are_found_and_nothing_else(name):
    points = POLYGONS[name]
    found = detect(_polygon(points), HoughParams())
    assert len(points) <= len(found.xyxy) <= 2 * len(points)
    assert _distance_to_sides(found.xyxy, points).max() < 2.5
    total = np.hypot(*(found.xyxy[:, 2:] - found.xyxy[:, :2]).T).sum()
    around = np.linalg.norm(np.roll(points, -1, axis=0) - np.array(points), axis=1).sum()
    assert total > 0.8 * around


def test_texture_is_not_full_of_lines():
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    plain = cv2.HoughLinesP(
        (cv2.Canny(cv2.GaussianBlur(noise, (0, 0), 1), 40, 100) > 0).astype(np.uint8),
        1,
        np.pi / 360,
        13,
        minLineLength=13,
        maxLineGap=3,
    )
    assert len(detect(noise, HoughParams()).xyxy) < 0.1 * len(plain)


def test_segments_come_longest_first_and_the_same_each_time():
    image = _polygon(POLYGONS["tilted"])
    found, again = detect(image, HoughParams()), detect(image, HoughParams())
    lengths = np.hypot(*(found.xyxy[:, 2:] - found.xyxy[:, :2]).T)
    assert (np.diff(lengths) <= 0).all()
    assert np.array_equal(found.xyxy, again.xyxy)


def test_longer_minimum_lengths_leave_fewer_lines():
    image = _polygon(POLYGONS["rectangle"])
    counts = [len(detect(image, HoughParams(min_length=m)).xyxy) for m in (0.05, 0.65, 1.0)]
    assert counts[0] >= counts[1] >= counts[2]
    assert counts[0] > counts[2]


@settings(max_examples=50)
@given(st.lists(st.tuples(*[st.integers(-20, 60)] * 4), max_size=5))
def test_drawn_lines_are_binary_one_pixel_wide_and_cut_at_the_border(segments):
    xyxy = np.array(segments, np.float32).reshape(-1, 4)
    canvas = draw(xyxy, (30, 40))
    assert canvas.shape == (30, 40)
    assert set(np.unique(canvas)) <= {0, 255}
    longest = sum(max(abs(x1 - x0), abs(y1 - y0)) + 1 for x0, y0, x1, y1 in segments)
    assert np.count_nonzero(canvas) <= longest


def test_the_map_tells_how_many_lines_it_has():
    image = _polygon(POLYGONS["rectangle"])
    maps = Annotator(plan_annotation(["lines"], HOUGH))([image, np.zeros_like(image)])
    assert maps[0]["lines"].facts["lines"] == len(detect(image, HoughParams()).xyxy)
    assert maps[1]["lines"].facts == {"lines": 0}
    assert not maps[1]["lines"].pixels.any()


def test_a_higher_score_leaves_fewer_lines(photograph):
    image = photograph("cn11_bedroom.jpg", (256, 320))
    by_hough = {"detector": "hough"}
    some, all_of_them = (
        load("lines", **by_hough, min_score=0.9)(image),
        load("lines", **by_hough)(image),
    )
    assert 0 < np.count_nonzero(some) < np.count_nonzero(all_of_them)


@pytest.mark.parametrize("setting", ["min_length", "max_gap", "min_votes", "min_support"])
def test_fractions_are_checked(setting):
    with pytest.raises(ConfigError, match=f"hough.{setting}: expected 0 to 1, got 3"):
        plan_annotation(["lines"], {**HOUGH, f"hough.{setting}": 3})
