"""How much of the best person is seen: the facts behind the filters on poses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from condkit.annotators.pose.rendering import shares
from condkit.predictions import People, Person

SIZE = (100, 200)


def _points(count, found, x=50.0, score=0.9):
    points = np.zeros((count, 3), np.float32)
    points[:found] = (x, 40, score)
    return points


def _shares(*persons, min_score=0.0):
    return shares(People(persons, SIZE), min_score)


def test_nobody_has_no_share():
    assert _shares() == {"body_share": 0, "whole_body_share": 0}


@given(st.integers(0, 18), st.integers(0, 21), st.integers(0, 21), st.integers(0, 70))
def test_shares_are_of_18_joints_and_of_130_points(body, left, right, face):
    person = Person(
        body=_points(18, body),
        left_hand=_points(21, left),
        right_hand=_points(21, right),
        face=_points(70, face),
    )
    assert _shares(person) == {
        "body_share": body / 18,
        "whole_body_share": (body + left + right + face) / 130,
    }


def test_the_best_person_counts_and_not_the_sum_or_the_first():
    small, large = Person(body=_points(18, 3)), Person(body=_points(18, 12))
    assert _shares(small, large, small)["body_share"] == 12 / 18


def test_a_hand_alone_is_no_body():
    assert _shares(Person(left_hand=_points(21, 21)))["body_share"] == 0


@pytest.mark.parametrize(("x", "seen"), [(-0.6, 0), (-0.4, 6), (199.4, 6), (199.6, 0), (900, 0)])
def test_points_outside_of_the_picture_are_not_seen(x, seen):
    assert _shares(Person(body=_points(18, 6, x)))["body_share"] == seen / 18


@pytest.mark.parametrize(("least", "seen"), [(0.0, 6), (0.4, 6), (0.5, 0)])
def test_points_that_are_not_drawn_are_not_seen(least, seen):
    person = Person(body=_points(18, 6, score=np.float32(0.4)))
    assert _shares(person, min_score=float(np.float32(least)))["body_share"] == seen / 18
