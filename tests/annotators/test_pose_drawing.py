"""Drawn poses against controlnet_aux's and ControlNet's own drawing, pixel for pixel."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from condkit.annotators.nets.aux_networks import network_class
from condkit.annotators.pose.drawing import (
    HAND_EDGES,
    JOINT_COLOURS,
    draw_people,
    stick_scale,
)
from condkit.annotators.pose.mirroring import mirrored
from condkit.annotators.pose.rendering import (
    PartDrawing,
    PoseDrawing,
    SurePoseDrawing,
    face_map,
    hands_map,
    pose_map,
)
from condkit.annotators.pose.skeleton import LIMBS
from condkit.annotators.registry import get_condition
from condkit.errors import ConfigError
from condkit.predictions import People, Person

SIDES = st.sampled_from([32, 64, 128, 256])


def _points(count):
    """Places on and around a map, a quarter of them not found."""
    place = st.integers(-40, 300).map(lambda n: n + 0.25)
    score = st.sampled_from([0, 0.2, 0.6, 1])
    point = st.tuples(place, place, score)
    return st.lists(point, min_size=count, max_size=count).map(_array)


def _array(points):
    array = np.asarray(points, np.float32)
    array[array[:, 2] == 0] = 0
    return array


def _person(body=True, hands=True, face=True):
    return st.builds(
        Person,
        body=_points(18) if body else st.none(),
        left_hand=st.none() | _points(21) if hands else st.none(),
        right_hand=_points(21) if hands else st.none(),
        face=st.none() | _points(70) if face else st.none(),
    )


@pytest.fixture(scope="module")
def aux():
    """A person as controlnet_aux draws it; it wants coordinates between 0 and 1."""
    keypoint = network_class("open_pose.body", "Keypoint")
    body_result = network_class("open_pose.body", "BodyResult")
    pose_result = network_class("open_pose", "PoseResult")
    draw_poses = network_class("open_pose", "draw_poses")
    import matplotlib.colors  # noqa: F401 - controlnet_aux uses it without importing it

    def scaled(points, size, missing):
        height, width = size
        return [
            keypoint(float(x) / width, float(y) / height) if score > 0 else missing
            for x, y, score in points
        ]

    def draw(people):
        poses = []
        absent = keypoint(-1 / 1000, -1 / 1000)
        for p in people.persons:
            parts = [
                None if part is None else scaled(part, people.size_hw, absent)
                for part in (p.left_hand, p.right_hand, p.face)
            ]
            body = body_result(scaled(p.body, people.size_hw, None), 0, 0)
            poses.append(pose_result(body, *parts))
        return draw_poses(poses, *people.size_hw)

    return draw


@settings(max_examples=60, deadline=None)
@given(person=_person(), height=SIDES, width=SIDES)
def test_a_person_is_controlnet_auxs_pixel_for_pixel(aux, person, height, width):
    people = People((person,), (height, width))
    assert np.array_equal(draw_people(people), aux(people))


def _moved(person, dx):
    def part(points):
        if points is None:
            return None
        moved = np.clip(points, 12.25, 100.25)
        moved[:, 0] += dx
        moved[:, 2] = points[:, 2]
        return moved

    return Person(
        body=part(person.body),
        left_hand=part(person.left_hand),
        right_hand=part(person.right_hand),
        face=part(person.face),
    )


@settings(max_examples=20, deadline=None)
@given(first=_person(), second=_person())
def test_persons_apart_are_controlnet_auxs_pixel_for_pixel(aux, first, second):
    people = People((_moved(first, 0), _moved(second, 256)), (128, 512))
    assert np.array_equal(draw_people(people), aux(people))


def _controlnet(bodies, size_hw, style):
    """ControlNet's loops as they stand in its papers' code: a whole picture for every limb."""
    canvas = np.zeros((*size_hw, 3), np.uint8)

    def joints():
        for joint, colour in enumerate(JOINT_COLOURS):
            for body in bodies:
                if body[joint, 2] > 0:
                    cv2.circle(canvas, body[joint, :2].astype(int).tolist(), 4, colour, -1)

    if style == "v1.0":
        joints()
    for (a, b), colour in zip(LIMBS, JOINT_COLOURS, strict=False):
        for body in bodies:
            if body[a, 2] > 0 and body[b, 2] > 0:
                (x0, y0), (x1, y1) = body[a, :2].tolist(), body[b, :2].tolist()
                shape = cv2.ellipse2Poly(
                    (int((x0 + x1) / 2), int((y0 + y1) / 2)),
                    (int(math.hypot(x0 - x1, y0 - y1) / 2), 4),
                    int(math.degrees(math.atan2(y0 - y1, x0 - x1))),
                    0,
                    360,
                    1,
                )
                over = canvas.copy()
                level = colour if style == "v1.0" else [int(c * 0.6) for c in colour]
                cv2.fillConvexPoly(over, shape, level)
                share = 0.6 if style == "v1.0" else 1.0
                canvas[:] = cv2.addWeighted(canvas, 1 - share, over, share, 0)
    if style == "v1.1":
        joints()
    return canvas


@settings(max_examples=40, deadline=None)
@given(
    persons=st.lists(_person(hands=False, face=False), max_size=3),
    height=SIDES,
    width=SIDES,
    style=st.sampled_from(["v1.0", "v1.1"]),
)
def test_a_crowd_is_controlnets_pixel_for_pixel(persons, height, width, style):
    people = People(tuple(persons), (height, width))
    expected = _controlnet([person.body for person in persons], (height, width), style)
    assert np.array_equal(draw_people(people, style=style), expected)


def _standing(scale=1.0):
    """A whole person in 512 x 512 pixels."""
    places = [
        *[(250, 60), (250, 120), (200, 120), (180, 190), (170, 260), (300, 120), (320, 190)],
        *[(330, 260), (220, 270), (215, 370), (210, 470), (280, 270), (285, 370), (290, 470)],
        *[(240, 50), (260, 50), (225, 55), (275, 55)],
    ]
    points = np.ones((18, 3), np.float32)
    points[:, :2] = np.asarray(places, np.float32) * scale
    return Person(body=points)


def test_where_people_overlap_all_limbs_come_before_all_joints_as_in_controlnet_11(aux):
    first = _standing()
    second = Person(body=first.body + np.float32([3, 2, 0]))
    people = People((first, second), (512, 512))
    ours, theirs = draw_people(people), aux(people)
    assert np.array_equal(ours, _controlnet([first.body, second.body], (512, 512), "v1.1"))
    assert not np.array_equal(ours, theirs)  # person by person: the second's limbs hide joints


def _limb_width(scale, side, **options):
    """Height in pixels of the shoulder, half way from the neck."""
    drawn = draw_people(People((_standing(scale),), (side, side)), **options)
    column = drawn[:, int(225 * scale)].any(axis=1)
    top, bottom = int((120 - 20) * scale), int((120 + 20) * scale)
    return int(column[top:bottom].sum())


def test_a_stick_is_as_wide_at_every_size_it_is_drawn_at():  # row 15
    assert [_limb_width(side / 512, side) for side in (512, 1024, 4096)] == [9, 9, 9]


def test_sdxl_sticks_grow_with_the_maps_longer_side():  # row 15
    sides = (256, 499, 500, 999, 1000, 2048, 4096, 8000)
    scales = [stick_scale("sdxl", (8, side))[0] for side in sides]
    assert scales == [1, 1, 2, 2, 3, 4, 6, 7]
    widths = [_limb_width(side / 512, side, stick_width="sdxl") for side in (512, 1024)]
    assert widths == [17, 25]


def test_a_width_in_pixels_widens_hands_and_faces_too():
    hand, face = np.zeros((21, 3), np.float32), np.zeros((70, 3), np.float32)
    hand[0], face[0] = (60, 60, 1), (160, 60, 1)
    people = People((Person(left_hand=hand, face=face),), (128, 256))
    drawn = draw_people(people, stick_width=8)
    assert drawn[60, :128].any(axis=1).sum() == 17
    assert drawn[60, 128:].any(axis=1).sum() == 13


def test_the_hands_edges_and_the_limbs_are_openposes():
    assert len(HAND_EDGES) == 20
    assert HAND_EDGES[:5] == ((0, 1), (1, 2), (2, 3), (3, 4), (0, 5))
    assert len(LIMBS) == 17
    assert len(set(JOINT_COLOURS)) == 18


def test_nobody_gives_a_black_map_and_says_so():  # row 11
    for name, draw, params in (
        ("openpose", pose_map, PoseDrawing()),
        ("hands", hands_map, PartDrawing()),
        ("face", face_map, PartDrawing()),
    ):
        drawn = draw(People((), (33, 47)), params, get_condition(name).spec)
        assert drawn.pixels.shape == (33, 47, 3)
        assert not drawn.pixels.any()
        shares = {"body_share": 0, "whole_body_share": 0} if name == "openpose" else {}
        assert drawn.facts == {"persons": 0, "hands": 0, "faces": 0, **shares}


def test_unsure_points_are_counted_and_drawn_only_where_asked_for():
    person = _standing()
    person.body[:, 2] = 0.25
    hand = np.full((21, 3), 0.25, np.float32)
    hand[:, :2] = 30 + 5 * np.arange(21, dtype=np.float32)[:, None]
    people = People((Person(body=person.body, left_hand=hand),), (512, 512))
    spec = get_condition("openpose").spec
    shown, hidden = (pose_map(people, p, spec) for p in (PoseDrawing(), SurePoseDrawing()))
    assert shown.pixels.any()
    body = int((person.body[:, 2] > 0).sum())
    shares = {"body_share": body / 18, "whole_body_share": (body + 21) / 130}
    assert shown.facts == {"persons": 1, "hands": 1, "faces": 0, **shares}
    assert not hidden.pixels.any()
    shares = {"body_share": 0, "whole_body_share": 0}
    assert hidden.facts == {"persons": 1, "hands": 0, "faces": 0, **shares}
    # The file keeps them: what is drawn is the drawing's business.
    assert [d.encode() for d in shown.data] == [d.encode() for d in hidden.data]
    assert b"0.25" in hidden.data[0].encode()


@settings(max_examples=20, deadline=None)
@given(person=_person())
def test_each_part_can_be_left_out(person):
    people = People((person,), (128, 128))
    spec = get_condition("openpose").spec
    off = {"draw_body": False, "draw_hands": False, "draw_face": False}
    assert not pose_map(people, PoseDrawing(**off), spec).pixels.any()
    alone = {
        "draw_body": Person(body=person.body),
        "draw_hands": Person(left_hand=person.left_hand, right_hand=person.right_hand),
        "draw_face": Person(face=person.face),
    }
    for switch, part in alone.items():
        only = pose_map(people, PoseDrawing(**(off | {switch: True})), spec).pixels
        assert np.array_equal(only, draw_people(People((part,), (128, 128))))


@settings(max_examples=30, deadline=None)
@given(persons=st.lists(_person(), max_size=3), width=st.integers(1, 400))
def test_mirroring_twice_changes_nothing(persons, width):
    people = People(tuple(persons), (100, width))
    back = mirrored(mirrored(people))
    for one, other in zip(people.persons, back.persons, strict=True):
        for part in ("body", "left_hand", "right_hand", "face"):
            ours, theirs = getattr(one, part), getattr(other, part)
            assert (ours is None) == (theirs is None)
            assert ours is None or np.array_equal(ours, theirs)


def test_a_mirrored_person_raises_the_other_arm_in_the_other_half():
    person = _standing()
    person.body[4, :2] = (150, 20)
    (flipped,) = mirrored(People((person,), (512, 512))).persons
    assert flipped.body[7].tolist() == [511 - 150, 20, 1]
    # The limbs keep the colours of their side, which mirrored pixels would not.
    drawn = draw_people(People((person,), (512, 512)))
    again = draw_people(People((flipped,), (512, 512)))
    assert not np.array_equal(again, drawn[:, ::-1])
    covered = again.any(axis=2) == drawn[:, ::-1].any(axis=2)
    assert covered.mean() > 0.97


@given(
    points=hnp.arrays(np.float32, (18, 3), elements=st.floats(-1e6, 1e6, width=32)),
    style=st.sampled_from(["v1.0", "v1.1"]),
)
@settings(max_examples=30, deadline=None)
def test_points_far_outside_are_no_error(points, style):
    points[:, 2] = np.abs(points[:, 2])
    drawn = draw_people(People((Person(body=points),), (40, 60)), style=style)
    assert drawn.shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("params", "values", "message"),
    [
        (PoseDrawing, {"stick_width": 0}, "stick_width: expected standard, sdxl or 1 to 512"),
        (PartDrawing, {"stick_width": 1000}, "stick_width: expected"),
        (PoseDrawing, {"min_score": 1.5}, "min_score: expected 0 to 1, got 1.5"),
    ],
)
def test_impossible_settings_are_refused(params, values, message):
    with pytest.raises(ConfigError, match=message):
        params(**values)
