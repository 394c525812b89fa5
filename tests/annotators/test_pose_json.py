"""OpenPose 1.3 JSON: what is written can be read again, by us and by others."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from condkit.annotators.pose.openpose_json import people_from_json, people_to_json
from condkit.errors import MapError
from condkit.predictions import People, Person

COUNTS = {
    "pose_keypoints_2d": 18,
    "hand_left_keypoints_2d": 21,
    "hand_right_keypoints_2d": 21,
    "face_keypoints_2d": 70,
}
PARTS = ("body", "left_hand", "right_hand", "face")


def _points(count):
    place = st.floats(-(2**20), 2**20, width=32)
    score = st.floats(0, 2, width=32)
    points = st.tuples(
        hnp.arrays(np.float32, (count, 2), elements=place),
        hnp.arrays(np.float32, (count, 1), elements=score),
    )
    return st.none() | points.map(lambda both: np.concatenate(both, axis=1))


people = st.builds(
    People,
    persons=st.lists(
        st.builds(
            Person,
            body=_points(18),
            left_hand=_points(21),
            right_hand=_points(21),
            face=_points(70),
        ),
        max_size=3,
    ).map(tuple),
    size_hw=st.tuples(st.integers(1, 10_000), st.integers(1, 10_000)),
)


@settings(max_examples=60, deadline=None)
@given(people=people)
def test_what_is_written_is_read_again_to_the_last_bit(people):
    again = people_from_json(people_to_json(people))
    assert again.size_hw == people.size_hw
    for one, other in zip(people.persons, again.persons, strict=True):
        for part in PARTS:
            before, after = getattr(one, part), getattr(other, part)
            assert (before is None) == (after is None)
            if before is not None:
                # A point that was not found is 0, 0, 0 whatever stood there.
                assert np.array_equal(np.where(before[:, 2:] > 0, before, 0), after)


@settings(max_examples=30, deadline=None)
@given(people=people)
def test_lists_have_openposes_fixed_lengths_or_are_empty(people):
    written = json.loads(people_to_json(people))
    assert written["version"] == 1.3
    height, width = people.size_hw
    assert (written["canvas_height"], written["canvas_width"]) == (height, width)
    for person in written["people"]:
        for key, count in COUNTS.items():
            assert len(person[key]) in (0, 3 * count)


def test_a_half_hidden_face_keeps_the_places_of_its_points():  # row 14
    face = np.zeros((70, 3), np.float32)
    face[30:] = [(x, 7.5, 0.1 + x / 100) for x in range(40)]
    written = json.loads(people_to_json(People((Person(face=face),), (20, 50))))
    values = written["people"][0]["face_keypoints_2d"]
    assert values[: 3 * 30] == [0] * 90
    assert values[3 * 30 : 3 * 32] == [0.0, 7.5, 0.1, 1.0, 7.5, 0.11]


def test_scores_are_the_networks_own():  # row 14
    body = np.tile(np.float32([1, 2, 0.4375]), (18, 1))
    written = json.loads(people_to_json(People((Person(body=body),), (20, 50))))
    assert set(written["people"][0]["pose_keypoints_2d"][2::3]) == {0.4375}


def test_what_other_programs_write_is_read():
    body = [10.0, 20.0, 0.5] * 18
    text = json.dumps(
        {
            "version": 1.3,
            "people": [
                {
                    "pose_keypoints_2d": body,
                    "face_keypoints_2d": [1.0, 2.0, 1.0] * 68,
                    "hand_left_keypoints_2d": None,
                    "pose_keypoints_3d": [],
                }
            ],
        }
    )
    found = people_from_json(text, (100, 200))
    assert found.size_hw == (100, 200)
    (person,) = found.persons
    assert person.body[17].tolist() == [10, 20, 0.5]
    assert person.left_hand is None
    assert person.right_hand is None
    assert person.face[67].tolist() == [1, 2, 1]
    assert person.face[68:].tolist() == [[0, 0, 0], [0, 0, 0]]


def _one(**values):
    return json.dumps({"people": [values], "canvas_width": 5, "canvas_height": 5})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", 'an object with a list "people"'),
        ('{"people": [3], "canvas_width": 5, "canvas_height": 5}', r"people\[0\]: expected an obj"),
        ('{"people": []}', "canvas_height and canvas_width in pixels, got None and None"),
        (_one(pose_keypoints_2d=[1.0] * 75), r"people\[0\].pose_keypoints_2d: expected 54"),
        (_one(pose_keypoints_2d=["a"] * 54), "expected a list of numbers"),
        (_one(face_keypoints_2d=[float("nan")] * 210), "finite"),
    ],
)
def test_anything_else_is_refused_by_place(text, message):
    with pytest.raises(MapError, match=message):
        people_from_json(text)
