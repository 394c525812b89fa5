"""Flips: a mirrored map is the map of the mirrored picture, whatever the condition."""

from __future__ import annotations

import json
import logging

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condkit.annotators.planning import plan_annotation
from condkit.annotators.pose import drawing
from condkit.annotators.pose.mirroring import mirrored
from condkit.annotators.pose.openpose_json import people_to_json
from condkit.annotators.pose.skeleton import LIMBS
from condkit.annotators.registry import available_conditions, get_condition
from condkit.errors import TrainingError
from condkit.predictions import (
    ClassLabels,
    EdgeStrength,
    InverseDepth,
    LineSegments,
    MetricDepth,
    People,
    Person,
    Segments,
    SourcePixels,
    SurfaceNormals,
)
from condkit.trainer import flips
from condkit.trainer.data_config import DataConfig
from condkit.trainer.examples import ExampleMaker
from condkit.trainer.flips import Flipper, exchanged_sides, mirrored_normals
from condkit.trainer.redraw import pose_redraw

H, W = 96, 80
WAYS = [(name, r.choice) for name in available_conditions() for r in get_condition(name).renderers]
# A segment drawn from the other end takes other pixels where it passes between two.
ROUNDED = {"lines", "hands", "face"}
# Their maps show a part of the picture that is drawn at random.
OF_THE_PICTURE = {"inpaint", "shuffle"}


def smooth(rng, sigma):
    values = cv2.GaussianBlur(rng.random((H, W)).astype(np.float32), (0, 0), sigma)
    return (values - values.min()) / (values.max() - values.min())


def person(rng, *, hands=True, face=True) -> Person:
    def points(count):
        # The public maps leave out what lies in the first row and column, but not in the last ones.
        places = np.rint(1 + rng.uniform(0, 1, (count, 2)) * [W - 3, H - 3])
        return np.column_stack([places, np.ones(count)]).astype(np.float32)

    return Person(
        body=points(18),
        left_hand=points(21) if hands else None,
        right_hand=points(21) if hands else None,
        face=points(70) if face else None,
    )


def prediction_of(kind, seed, palette="ade20k"):
    rng = np.random.default_rng(seed)
    if kind is SurfaceNormals:
        xyz = rng.normal(size=(H, W, 3)).astype(np.float32)
        xyz /= np.linalg.norm(xyz, axis=2, keepdims=True)
        xyz[:5] = 0
        return SurfaceNormals(xyz)
    if kind is LineSegments:
        ends = np.rint(rng.uniform(0, 1, (24, 4)) * [W - 1, H - 1, W - 1, H - 1])
        return LineSegments(ends.astype(np.float32), np.ones(24, np.float32), (H, W))
    make = {
        EdgeStrength: lambda: EdgeStrength(smooth(rng, 3)),
        InverseDepth: lambda: InverseDepth(smooth(rng, 8) * 10),
        MetricDepth: lambda: MetricDepth(smooth(rng, 8) * 10 + 0.5),
        ClassLabels: lambda: ClassLabels(rng.integers(-1, 9, (H, W)).astype(np.int32), palette),
        Segments: lambda: Segments(rng.integers(0, 4, (H, W)).astype(np.int32)),
        SourcePixels: lambda: SourcePixels(rng.integers(0, 256, (H, W, 3)).astype(np.uint8)),
        People: lambda: People((person(rng), person(rng)), (H, W)),
    }
    return make[kind]()


def in_a_mirror(prediction):
    match prediction:
        case People():
            return mirrored(prediction)
        case LineSegments(xyxy, score, size_hw):
            turned = xyxy.copy()
            turned[:, [0, 2]] = W - 1 - turned[:, [0, 2]]
            return LineSegments(turned, score, size_hw)
        case SurfaceNormals(xyz):
            return SurfaceNormals(np.ascontiguousarray(xyz[:, ::-1] * np.float32([-1, 1, 1])))
        case ClassLabels(ids, palette):
            return ClassLabels(np.ascontiguousarray(ids[:, ::-1]), palette)
    (name,) = [n for n in type(prediction).__slots__ if n != "facts"]
    return type(prediction)(np.ascontiguousarray(getattr(prediction, name)[:, ::-1]))


def maps_and_people(name, choice, seed):
    """The spec, the map of a prediction, that of its mirror image, and the columns beside it."""
    (planned,) = plan_annotation([name], {f"{name}.detector": choice}).conditions
    palettes = ("ade20k", "coco", "coco-stuff")
    prediction = prediction_of(planned.detector.spec.yields, seed)
    if isinstance(prediction, ClassLabels):
        named = [p for p in palettes if p in str(planned.spec.meaning).lower()]
        prediction = ClassLabels(prediction.ids, named[0] if named else palettes[0])

    def draw(seen):
        extra = (np.random.default_rng(0),) if planned.renderer.seeded else ()
        return planned.renderer.render(seen, planned.render_params, *extra).pixels

    beside = {}
    if isinstance(prediction, People):
        beside = {f"{name}_json": people_to_json(prediction).encode()}
    manifest = {"annotation": {name: planned.as_dict()}}
    flipper = Flipper(planned.spec, pose_redraw(manifest, planned.spec), f"{name}_json")
    return flipper, draw(prediction), draw(in_a_mirror(prediction)), beside, prediction


@pytest.mark.parametrize(("name", "choice"), WAYS)
def test_the_flipped_map_is_the_map_of_the_mirrored_picture(name, choice):
    for seed in range(3):
        flipper, drawn, wanted, beside, prediction = maps_and_people(name, choice, seed)
        before = drawn.copy()
        flipped = flipper(drawn, "k", {}, beside)
        np.testing.assert_array_equal(drawn, before)
        if name in OF_THE_PICTURE:
            np.testing.assert_array_equal(flipped, drawn[:, ::-1])
        elif name in ROUNDED:
            assert_within_a_pixel(flipped, wanted)
        else:
            np.testing.assert_array_equal(flipped, wanted)
        assert isinstance(prediction, SourcePixels) or not np.array_equal(flipped, drawn)


def assert_within_a_pixel(one, other):
    """What one shows, the other shows too, at most one pixel beside it."""
    near = np.ones((3, 3), np.uint8)
    for first, second in ((one, other), (other, one)):
        drawn = np.atleast_3d(first).any(axis=2)
        wide = cv2.dilate(np.atleast_3d(second).any(axis=2).astype(np.uint8), near)
        assert wide[drawn].all()


@pytest.mark.parametrize("channel", [0, 2])
def test_flipped_normals_are_those_of_mirrored_surfaces(channel):
    x = np.linspace(-1, 1, 1001, dtype=np.float32)
    levels = np.clip(x * 127.5 + 127.5, 0, 255).astype(np.uint8)
    turned = np.clip(-x * 127.5 + 127.5, 0, 255).astype(np.uint8)
    pixels = np.full((1, len(x), 3), 90, np.uint8)
    pixels[0, :, channel] = levels
    flipped = mirrored_normals(pixels, channel)[0, ::-1]
    exact = (x * 127.5 + 127.5) % 1 != 0
    np.testing.assert_array_equal(flipped[exact, channel], turned[exact])
    assert np.abs(flipped[:, channel].astype(int) - turned).max() <= 1
    others = [c for c in range(3) if c != channel]
    assert (flipped[:, others] == 90).all()


def test_which_colour_is_left_follows_from_the_protocol():
    pixels = np.zeros((1, 1, 3), np.uint8)
    pixels[0, 0] = (10, 20, 30)
    for choice, protocol, wanted in (
        ("bae", "bae", (244, 20, 30)),
        ("from-depth", "v1.0", (10, 20, 224)),
        ("from-depth", "bae", (244, 20, 30)),
    ):
        options = {"normal.detector": choice, "normal.protocol": protocol}
        (planned,) = plan_annotation(["normal"], options).conditions
        flipped = Flipper(planned.spec)(pixels, "k", {}, {})
        assert tuple(flipped[0, 0].tolist()) == wanted


def test_normals_of_an_unknown_protocol_are_refused_before_the_first_step():
    (planned,) = plan_annotation(["normal"], {}).conditions
    spec = type(planned.spec).from_dict({**planned.spec.as_dict(), "meaning": "some colours"})
    with pytest.raises(TrainingError, match=r"which colour .* data\.spec\.meaning .* data\.flip=0"):
        ExampleMaker(spec, DataConfig(flip=0.5), 0, 8)
    ExampleMaker(spec, DataConfig(flip=0.0), 0, 8)


def test_the_colours_and_the_order_of_limbs_are_those_that_are_drawn():
    assert flips.JOINT_COLOURS == drawing.JOINT_COLOURS
    turned = [
        tuple(flips.MIRRORED_JOINTS[joint] for joint in LIMBS[limb])
        for limb in flips.MIRRORED_LIMBS
    ]
    assert turned == list(LIMBS)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_exchanging_the_colours_of_a_standard_drawing_loses_nothing(seed):
    people = People((person(np.random.default_rng(seed), hands=False),), (H, W))
    drawn = drawing.draw_people(people)
    flipped = exchanged_sides(drawn)
    assert flipped is not None
    # The same pixels are drawn; a second flip gives the map back.
    np.testing.assert_array_equal(flipped.any(axis=2), drawn[:, ::-1].any(axis=2))
    np.testing.assert_array_equal(exchanged_sides(flipped), drawn)


def test_exchanged_colours_are_those_of_the_mirrored_person():
    # Arms and legs apart, so that no limb lies over another, and whole pixels in the middle.
    places = [(40, 10), (40, 24), (28, 24), (20, 36), (12, 48), (52, 24), (60, 36), (68, 48)]
    places += [(34, 54), (30, 70), (26, 88), (46, 54), (50, 70), (54, 88)]
    places += [(36, 6), (44, 6), (30, 8), (50, 8)]
    body = np.column_stack([np.asarray(places), np.ones(18)]).astype(np.float32)
    people = People((Person(body=body),), (96, 81))
    ours = exchanged_sides(drawing.draw_people(people))
    theirs = drawing.draw_people(mirrored(people))
    # The person is symmetric: mirrored, it is drawn as before.
    assert np.mean(ours != theirs) < 0.02
    for joint in range(18):
        x, y = mirrored(people).persons[0].body[joint, :2].astype(int)
        assert tuple(ours[y, x].tolist()) == drawing.JOINT_COLOURS[joint]


def test_maps_with_hands_are_not_guessed_at_and_that_is_said_once(caplog):
    (planned,) = plan_annotation(["openpose"], {}).conditions
    rng = np.random.default_rng(0)
    flipper = Flipper(planned.spec)
    with caplog.at_level(logging.WARNING):
        for key in ("one", "two"):
            hands = drawing.draw_people(People((person(rng),), (H, W)))
            assert flipper(hands, key, {}, {}) is None
    (record,) = caplog.records
    assert "row one is not flipped" in record.message
    assert "--data" in record.message


def test_a_hand_of_one_point_is_known_from_the_facts():
    (planned,) = plan_annotation(["openpose"], {}).conditions
    knee = np.zeros((9, 9, 3), np.uint8)
    knee[4, 4] = (0, 0, 255)
    facts = {"facts": json.dumps({"openpose": {"persons": 1, "hands": 1, "faces": 0}})}
    assert Flipper(planned.spec)(knee, "k", facts, {}) is None
    flipped = Flipper(planned.spec)(knee, "k", {}, {})
    assert tuple(flipped[4, 4].tolist()) == (0, 255, 255)


def test_limbs_that_were_mixed_are_drawn_anew_or_left():
    options = {"openpose.style": "v1.0"}
    (planned,) = plan_annotation(["openpose"], options).conditions
    people = People((person(np.random.default_rng(1), hands=False),), (H, W))
    drawn = planned.renderer.render(people, planned.render_params).pixels
    assert exchanged_sides(drawn) is None
    redraw = pose_redraw({"annotation": {"openpose": planned.as_dict()}}, planned.spec)
    data = {"openpose_json": people_to_json(people).encode()}
    flipped = Flipper(planned.spec, redraw, "openpose_json")(drawn, "k", {}, data)
    wanted = planned.renderer.render(mirrored(people), planned.render_params).pixels
    np.testing.assert_array_equal(flipped, wanted)


def test_key_points_that_do_not_draw_the_map_are_not_used():
    (planned,) = plan_annotation(["openpose"], {}).conditions
    rng = np.random.default_rng(2)
    people, others = (People((person(rng, hands=False),), (H, W)) for _ in range(2))
    drawn = planned.renderer.render(people, planned.render_params).pixels
    redraw = pose_redraw({"annotation": {"openpose": planned.as_dict()}}, planned.spec)
    data = {"openpose_json": people_to_json(others).encode()}
    flipped = Flipper(planned.spec, redraw, "openpose_json")(drawn, "k", {}, data)
    np.testing.assert_array_equal(flipped, exchanged_sides(drawn))


class Row:
    def __init__(self, pixels, condition="openpose"):
        self.key, self.text = "k", ""
        self.image = np.zeros((*pixels.shape[:2], 3), np.uint8)
        self.image[:, 0] = 255
        self.maps = {condition: pixels}


def test_a_row_that_cannot_be_flipped_is_used_as_it_is():
    (planned,) = plan_annotation(["openpose"], {}).conditions
    pixels = drawing.draw_people(People((person(np.random.default_rng(0)),), (H, W)))
    example = ExampleMaker(planned.spec, DataConfig(flip=1.0), 0, 8)(Row(pixels), 0)
    assert not example.flipped
    np.testing.assert_array_equal(np.rint(example.hint * 255), pixels.transpose(2, 0, 1))
    # Picture and map are one decision: the white column is where it was.
    assert (example.picture[:, :, 0] == 1).all()
