"""Where hands and faces are looked for, and how they are cut out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condkit.annotators.nets.aux_networks import network_class
from condkit.annotators.pose.boxes import Square, face_square, hand_squares
from condkit.annotators.pose.crops import cut, placed, resized

SIZE = (480, 640)
INSIDE = st.tuples(st.floats(0, 639, width=32), st.floats(0, 479, width=32), st.just(1.0))


@st.composite
def bodies(draw, joints, place=INSIDE):
    """(18, 3) with some of `joints` found."""
    body = np.zeros((18, 3), np.float32)
    for joint in joints:
        if draw(st.booleans()):
            body[joint] = draw(place)
    return body


@pytest.fixture(scope="module")
def aux():
    """controlnet_aux's rule for hands or faces on (18, 3) points."""
    keypoint = network_class("open_pose.body", "Keypoint")
    result = network_class("open_pose.body", "BodyResult")

    def run(name, body):
        points = [keypoint(float(x), float(y)) if s > 0 else None for x, y, s in body]
        rule = network_class("open_pose.util", name)
        return rule(result(points, 0, 0), np.zeros((*SIZE, 3), np.uint8))

    return run


def _inside(square):
    right, bottom = square.left + square.side + 1, square.top + square.side + 1
    return square.left > 0 and square.top > 0 and right < SIZE[1] and bottom < SIZE[0]


@settings(max_examples=200)
@given(body=bodies(joints=range(2, 8)))
def test_hands_are_where_controlnet_aux_looks_for_them(aux, body):
    arms = (5, 6, 7), (2, 3, 4)
    theirs = {is_left: Square(x, y, side) for x, y, side, is_left in aux("handDetect", body)}
    for square, arm, is_left in zip(hand_squares(body, SIZE), arms, (True, False), strict=True):
        whole = (body[list(arm), 2] > 0).all()
        if whole and square is not None and _inside(square):
            assert theirs[is_left] == square


@settings(max_examples=200)
@given(body=bodies(joints=(0, 14, 15, 16, 17)))
def test_faces_are_where_controlnet_aux_looks_for_them(aux, body):
    square, theirs = face_square(body, SIZE), aux("faceDetect", body)
    if theirs is None:
        assert square is None or not _inside(square)
    elif square is not None and _inside(square):
        assert theirs == (square.left, square.top, square.side)


def _arm(shoulder, elbow, wrist):
    body = np.zeros((18, 3), np.float32)
    for joint, place in zip((5, 6, 7), (shoulder, elbow, wrist), strict=True):
        if place is not None:
            body[joint] = (*place, 1)
    return body


def test_a_hand_at_the_border_keeps_its_whole_square(aux):  # row 12
    inner = _arm((400, 200), (450, 240), (500, 240))
    border = inner + np.float32([130, 0, 0]) * (inner[:, 2:] > 0)
    square, _ = hand_squares(border, SIZE)
    (expected, _) = hand_squares(inner, SIZE)
    assert square == Square(expected.left + 130, expected.top, expected.side)
    (_, _, shrunk, _), *_ = aux("handDetect", border)
    assert shrunk < 0.9 * square.side


def test_a_hand_without_a_seen_shoulder_is_looked_for(aux):  # row 12
    body = _arm(None, (300, 240), (360, 240))
    square, right = hand_squares(body, SIZE)
    assert square == Square(334, 195, 90)
    assert right is None
    assert aux("handDetect", body) == []


def test_a_hand_without_a_wrist_or_an_elbow_is_not():
    assert hand_squares(_arm((1, 2), (300, 240), None), SIZE) == (None, None)
    assert hand_squares(_arm((1, 2), None, (300, 240)), SIZE) == (None, None)


@settings(max_examples=200)
@given(
    body=bodies(
        joints=range(18),
        place=st.tuples(st.floats(-500, 1200), st.floats(-500, 1200), st.just(1.0)),
    )
)
def test_squares_are_useful_or_none(body):
    for square in (*hand_squares(body, SIZE), face_square(body, SIZE)):
        if square is None:
            continue
        assert square.side >= 20
        assert square.left < SIZE[1]
        assert square.top < SIZE[0]
        assert square.left + square.side > 0
        assert square.top + square.side > 0


@settings(max_examples=100)
@given(left=st.integers(-30, 30), top=st.integers(-30, 30), side=st.integers(1, 60))
def test_a_crop_is_the_image_and_grey_around_it(left, top, side):
    image = np.random.default_rng(0).integers(0, 100, (25, 31, 3), np.uint8)
    wide = np.full((200, 200, 3), 128, np.uint8)
    wide[100:125, 100:131] = image
    expected = wide[100 + top : 100 + top + side, 100 + left : 100 + left + side]
    assert np.array_equal(cut(image, Square(left, top, side)), expected)


@settings(max_examples=100)
@given(
    square=st.builds(Square, st.integers(-50, 50), st.integers(-50, 50), st.integers(20, 200)),
    place=st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)),
)
def test_points_of_a_crop_lie_in_its_square(square, place):
    peaks = np.array([[*place, 0.5], [*place, 0]], np.float32)
    points = placed(peaks, square)
    x, y, score = points[0].tolist()
    assert square.left - 0.5 <= x <= square.left + square.side - 0.5 + 1e-3
    assert square.top - 0.5 <= y <= square.top + square.side - 0.5 + 1e-3
    assert score == 0.5
    assert points[1].tolist() == [0, 0, 0]
    assert placed(peaks[1:], square) is None


def test_the_pixel_that_is_lit_is_the_point_that_is_placed():
    """Cut, resize, find the brightest, place: the way of every hand and face."""
    image = np.zeros((120, 160, 3), np.uint8)
    image[71, 93] = 255
    square = Square(60, 40, 64)
    for side in (128, 384):
        crop = resized(cut(image, square), side)[:, :, 0].astype(float)
        ys, xs = np.indices(crop.shape)
        x, y = ((crop * v).sum() / crop.sum() + 0.5 for v in (xs, ys))
        points = placed(np.array([[x / side, y / side, 1]], np.float32), square)
        assert points[0, :2] == pytest.approx([93, 71], abs=0.25)
