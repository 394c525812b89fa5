"""MediaPipe's landmarkers as a detector: settings, sides, threads, silence."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.annotators.mediapipe import MediapipeParams
from condkit.annotators.nets.mediapipe_tasks import load_landmarker
from condkit.annotators.pose.hand_owners import Hand, with_hands
from condkit.annotators.pose.wholebody import body_from_mediapipe
from condkit.annotators.registry import get_condition, get_detector
from condkit.errors import ConfigError, WeightsError
from condkit.imageio import decode
from condkit.predictions import Person
from condkit.runtime import Runtime
from condkit.weights import WeightStore

WHEEL = {
    "openpose.detector": "mediapipe",
    "openpose.pose": "wheel",
    "openpose.hand": "wheel",
    "openpose.hands": "true",
}


@pytest.fixture(scope="module")
def annotator(real_weights):
    with Annotator(
        plan_annotation(["openpose"], WHEEL), Runtime("cpu", store=real_weights)
    ) as made:
        yield made


def _people(annotator, image):
    (found,) = annotator.predict([image])
    (prediction,) = found.by_detector.values()
    return prediction.persons


@pytest.fixture(scope="module")
def waving(assets):
    """A man who faces the camera and waves his right hand."""
    return decode(assets / "photos/cn11_demo.jpg").image


def test_hands_are_on_the_side_they_are_of(annotator, waving):
    (person,) = _people(annotator, waving)
    assert person.left_hand is None
    wrist, elbow = person.body[4, :2], person.body[3, :2]
    assert np.hypot(*(person.right_hand[0, :2] - wrist)) < 20
    assert wrist[1] < elbow[1]
    assert (person.right_hand[[8, 12, 16, 20], 1] < wrist[1]).all()


def test_a_mirrored_picture_has_the_sides_swapped(annotator, waving):
    (person,) = _people(annotator, waving)
    (mirrored,) = _people(annotator, np.ascontiguousarray(waving[:, ::-1]))
    assert mirrored.right_hand is None
    there = mirrored.left_hand * [-1, 1, 1] + [waving.shape[1] - 1, 0, 0]
    assert np.hypot(*(there - person.right_hand)[:, :2].T).max() < 12
    shoulders = mirrored.body[[5, 2]] * [-1, 1, 1] + [waving.shape[1] - 1, 0, 0]
    assert np.hypot(*(shoulders - person.body[[2, 5]])[:, :2].T).max() < 12


def test_scores_are_mediapipes_own(annotator, waving):  # row 14
    (person,) = _people(annotator, waving)
    body = person.body[:, 2]
    assert len(set(body.tolist())) > 10
    assert body[[0, 2, 5]].min() > 0.9
    assert body[[10, 13]].max() < 0.3  # the ankles are not in the picture
    assert 0.5 < person.right_hand[0, 2] <= 1


def test_nobody_in_the_picture_gives_nobody(annotator, assets):  # row 11
    blue = np.full((256, 256, 3), (0, 0, 255), np.uint8)
    room = decode(assets / "photos/t2i_room.jpg").image
    for maps in annotator([blue, room]):
        drawn = maps["openpose"]
        assert not any(drawn.facts.values())
        assert not drawn.pixels.any()


def test_many_threads_see_what_one_sees(annotator, waving):
    (expected,) = _people(annotator, waving)
    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(lambda _: _people(annotator, waving), range(12)):
            np.testing.assert_allclose(found[0].body, expected.body, atol=1e-4)
            np.testing.assert_allclose(found[0].right_hand, expected.right_hand, atol=1e-4)


def test_hands_alone_need_no_body(real_weights, assets):
    """Row 12: theirs looks for hands at the wrists of a body, and there is none here."""
    plan = plan_annotation(["hands"], {"hands.hand": "wheel"})
    assert [spec.name for spec in _weights(plan)] == ["hand_landmarker_from_legacy.task"]
    with Annotator(plan, Runtime("cpu", store=real_weights)) as made:
        image = decode(assets / "golden/mmpose_onehand10k/1402.jpg").image
        (maps,) = made([image])
        assert maps["hands"].facts["hands"] == 1
        assert maps["hands"].pixels.any()
        # Cut off by the picture's border, it is found all the same.
        (cut,) = made([np.ascontiguousarray(image[:250])])
        assert cut["hands"].facts["hands"] == 1


def _weights(plan):
    planned = plan.conditions[0]
    return planned.detector.weights(planned.detector_params)


def test_it_is_the_default_for_hands():
    assert get_condition("hands").detectors[0] == "mediapipe"


def test_only_the_bundles_that_are_needed_are_asked_for():
    definition = get_detector("mediapipe")
    names = [
        [spec.name for spec in definition.weights(MediapipeParams(**parts))]
        for parts in ({}, {"hands": True}, {"body": False, "hands": True, "hand": "wheel"})
    ]
    assert names == [
        ["pose_landmarker_full.task"],
        ["pose_landmarker_full.task", "hand_landmarker.task"],
        ["hand_landmarker_from_legacy.task"],
    ]
    assert all(spec.commercial_use for spec in definition.spec.weights.values())


def test_where_googles_storage_is_out_of_reach_the_wheel_is_named(tmp_path):
    store = WeightStore(cache=tmp_path, offline=True)
    plan = plan_annotation(["hands"])
    with pytest.raises(WeightsError, match="hand=wheel"):
        Annotator(plan, Runtime("cpu", store=store)).load()


def test_max_hands_and_persons_are_kept(real_weights, assets):
    image = decode(assets / "golden/mmpose_ochuman/000817.jpg").image
    for most in (1, 8):
        plan = plan_annotation(["openpose"], {**WHEEL, "openpose.max_persons": str(most)})
        with Annotator(plan, Runtime("cpu", store=real_weights)) as made:
            bodies = [p for p in _people(made, image) if p.body is not None]
            assert len(bodies) == min(most, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"face": True},
        {"body": False},
        {"max_persons": 0},
        {"max_hands": 65},
        {"min_confidence": 1.5},
    ],
)
def test_impossible_settings_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=rf"mediapipe\.{next(iter(wrong))}"):
        MediapipeParams(**wrong)


def test_a_damaged_bundle_is_an_error_that_names_it(tmp_path):
    (tmp_path / "bad.task").write_bytes(b"PK nothing")
    with pytest.raises(WeightsError, match=r"bad\.task.*fetch the file anew"):
        load_landmarker("PoseLandmarker", tmp_path / "bad.task", 1, 0.5)


def test_a_gpu_that_was_asked_for_is_an_error_and_auto_is_the_cpu(real_weights, monkeypatch):
    """Row 21: the CPU never stands in silently."""
    monkeypatch.setattr("condkit.runtime.choose_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr("condkit.runtime.choose_dtype", lambda name, device: torch.float32)
    plan = plan_annotation(["openpose"], WHEEL)
    with pytest.raises(ConfigError, match=r"mediapipe runs on the CPU"):
        Annotator(plan, Runtime("cuda", store=real_weights)).load()
    with Annotator(plan, Runtime("auto", store=real_weights)) as made:
        made.load()


_SCRIPT = """
    import os, sys
    from pathlib import Path
    import numpy as np
    {before}
    from condkit.annotators.annotator import Annotator, plan_annotation
    from condkit.runtime import Runtime
    from condkit.weights import WeightStore
    store = WeightStore(overrides=(Path(sys.argv[1]),), offline=True)
    made = Annotator(plan_annotation(["openpose"], {settings!r}), Runtime("cpu", store=store))
    (maps,) = made([np.full((64, 64, 3), 90, np.uint8)])
    print(maps["openpose"].facts["persons"])
    """


@pytest.mark.parametrize(
    "before",
    [
        "pass",
        "from condkit.annotators.nets.aux_networks import hed_network; hed_network()",
    ],
    ids=["alone", "after controlnet_aux"],
)
def test_it_works_and_writes_nothing_to_the_terminal(before, assets):
    """Row 16: controlnet_aux cannot be imported beside a new mediapipe, unless it is hidden."""
    script = textwrap.dedent(_SCRIPT.format(before=before, settings=WHEEL))
    done = subprocess.run(
        [sys.executable, "-c", script, str(assets / "weights")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0\n"
    assert done.stderr == ""


# Joints and owners.


def test_the_33_points_are_read_in_mediapipes_order():
    points = np.stack([np.arange(33)] * 2 + [np.ones(33)], axis=1).astype(np.float32)
    assert body_from_mediapipe(points)[:, 0].tolist() == [
        *(0, 11.5, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
    ]


def _body(left_wrist, right_wrist):
    body = np.ones((18, 3), np.float32)
    body[7, :2], body[4, :2] = left_wrist, right_wrist
    return Person(body=body)


def _hand(wrist, *, is_left, palm=20):
    points = np.ones((21, 3), np.float32)
    points[:, :2] = wrist
    points[9, :2] += (0, -palm)
    return Hand(points, is_left=is_left)


def test_a_hand_at_a_wrist_is_that_wrists_whatever_it_looks_like():
    hand = _hand((103, 100), is_left=True)
    (person,) = with_hands([_body((300, 100), (100, 100))], [hand])
    assert person.right_hand is hand.points
    assert person.left_hand is None


def test_a_hand_that_no_wrist_is_near_is_a_person_of_its_own():
    hands = [_hand((600, 100), is_left=True), _hand((700, 100), is_left=False)]
    body, left, right = with_hands([_body((300, 100), (100, 100))], hands)
    assert body.left_hand is body.right_hand is None
    assert left.left_hand is hands[0].points
    assert right.right_hand is hands[1].points
    assert left.body is left.right_hand is right.left_hand is None


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(0, 200)] * 4), max_size=4),
    st.lists(st.tuples(st.floats(0, 200), st.floats(0, 200), st.booleans()), max_size=6),
)
def test_every_hand_has_exactly_one_place(bodies, hands):
    persons = [_body(b[:2], b[2:]) for b in bodies]
    found = with_hands(persons, [_hand(h[:2], is_left=h[2]) for h in hands])
    placed = [h for p in found for h in (p.left_hand, p.right_hand) if h is not None]
    assert len(placed) == len(hands)
    for before, after in zip(persons, found, strict=False):
        assert after.body is before.body
