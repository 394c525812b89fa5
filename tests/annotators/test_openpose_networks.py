"""OpenPose's networks, and everything around them, beside controlnet_aux on the same weights."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.annotators.nets.aux_networks import network_class
from condkit.annotators.nets.openpose import load_network
from condkit.annotators.openpose import OpenPoseParams
from condkit.annotators.pose.boxes import face_square, hand_squares
from condkit.annotators.pose.estimation import OpenPose
from condkit.annotators.pose.parser import parse
from condkit.annotators.pose.part_peaks import face_peaks, hand_peaks
from condkit.annotators.registry import get_detector
from condkit.budget import Budget
from condkit.errors import ConfigError, MapError, WeightsError
from condkit.runtime import Runtime

CPU = torch.device("cpu")
FP32 = Runtime("cpu", "fp32")
FILES = {"body": "body_pose_model.pth", "hands": "hand_pose_model.pth", "face": "facenet.pth"}


def _noise(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# The networks themselves.


@pytest.fixture(scope="module")
def store(random_store):
    return random_store("openpose")


def _aux_network(part, path):
    """As controlnet_aux fills its networks."""
    module, name = {
        "body": ("open_pose.model", "bodypose_model"),
        "hands": ("open_pose.model", "handpose_model"),
        "face": ("open_pose.face", "FaceNet"),
    }[part]
    network, state = network_class(module, name)(), torch.load(path, weights_only=True)
    if part != "face":
        state = network_class("open_pose.util", "transfer")(network, state)
    network.load_state_dict(state)
    return network.eval()


@pytest.mark.parametrize("part", FILES)
def test_networks_give_controlnet_auxs_maps(part, store):
    path = store.path(get_detector("openpose").spec.weights[part])
    image = _noise(1, 64, 72)
    bgr = np.float32(image[:, :, ::-1].transpose(2, 0, 1)[None]) / 256 - 0.5
    with torch.no_grad():
        theirs = _aux_network(part, path)(torch.from_numpy(bgr))
        if part == "body":
            theirs = torch.cat([theirs[1], theirs[0]], dim=1)
        elif part == "face":
            theirs = theirs[-1]
        pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2).float()
        ours = load_network(part, path, FP32)(pixels)
        half = load_network(part, path, Runtime("cpu", "bf16"))(pixels)
    assert ours.dtype == half.dtype == torch.float32
    assert ours.shape == theirs.shape == (1, {"body": 57, "hands": 22, "face": 71}[part], 8, 9)
    spread = theirs.std()
    assert spread > 1e-3
    assert (ours - theirs).abs().max() < 1e-4 * spread
    assert 0 < (half - theirs).abs().mean() < 0.03 * spread


def test_only_the_networks_that_are_needed_are_asked_for():
    definition = get_detector("openpose")
    names = [
        [spec.name for spec in definition.weights(OpenPoseParams(**parts))]
        for parts in ({}, {"hands": True}, {"body": False, "face": True})
    ]
    body, hand, face = FILES.values()
    assert names == [[body], [body, hand], [body, face]]
    plan = plan_annotation(["hands", "face"], {"hands.detector": "openpose"})
    assert {
        spec.name
        for spec in plan.conditions[0].detector.weights(plan.conditions[0].detector_params)
    } == {body, hand}


def test_the_weights_are_not_for_commercial_use():  # row 41
    for spec in get_detector("openpose").spec.weights.values():
        assert spec.commercial_use is False
        assert "non-commercial" in spec.licence


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("conv4_2.bias"), r"model0\.conv4_2\.bias is missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "extra is not OpenPose's body's"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_tensor(store, tmp_path, change, message):  # row 17
    path = store.path(get_detector("openpose").spec.weights["body"])
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, tmp_path / "body.pth")
    with pytest.raises(WeightsError, match=message):
        load_network("body", tmp_path / "body.pth", FP32)


# Maps that are known: people made of blobs and fields.


def _fake_body(people, scales):
    """A body network that sees `people` ((18, 3) each, in image pixels) in whatever it is shown.

    Args:
        people: What it sees.
        scales: Input pixels per image pixel, (x, y).
    """
    from condkit.annotators.pose.affinity import _CHANNELS, GROUPED_LIMBS

    def forward(pixels):
        height, width = (side // 8 for side in pixels.shape[2:])
        maps = np.zeros((57, height, width), np.float32)
        ys, xs = np.indices((height, width))
        for body in people:
            place = ((body[:, :2] + 0.5) * scales - 0.5 - 3.5) / 8
            for joint in range(18):
                x, y = place[joint]
                blob = body[joint, 2] * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 2)
                maps[joint] = np.maximum(maps[joint], blob)
            for (a, b), channel in zip(GROUPED_LIMBS, _CHANNELS, strict=True):
                if body[a, 2] > 0 and body[b, 2] > 0:
                    way = place[b] - place[a]
                    length = max(np.hypot(*way), 1e-6)
                    unit = way / length
                    dx, dy = xs - place[a][0], ys - place[a][1]
                    along, beside = dx * unit[0] + dy * unit[1], dx * unit[1] - dy * unit[0]
                    on = (along > -1) & (along < length + 1) & (np.abs(beside) < 1)
                    maps[19 + channel][on], maps[20 + channel][on] = unit
        return torch.from_numpy(maps)[None].repeat(len(pixels), 1, 1, 1)

    return forward


def _person(left, top, height):
    """A standing person of a height in pixels."""
    places = [
        *[(0.50, 0.10), (0.50, 0.22), (0.38, 0.22), (0.33, 0.37), (0.30, 0.50), (0.62, 0.22)],
        *[(0.67, 0.37), (0.70, 0.50), (0.42, 0.53), (0.40, 0.74), (0.40, 0.95), (0.58, 0.53)],
        *[(0.60, 0.74), (0.60, 0.95), (0.46, 0.06), (0.54, 0.06), (0.40, 0.08), (0.60, 0.08)],
    ]
    body = np.full((18, 3), 0.9, np.float32)
    body[:, :2] = np.array(places) * height + (left, top)
    return body


def _detector(networks, params, device=CPU):
    return OpenPose(
        networks=networks,
        parts=params,
        detect_size=params.detect_size,
        device=device,
        budget=Budget.on(device, "openpose"),
    )


@pytest.mark.parametrize(
    "size", [(700, 600), (600, 700), (512, 512), (333, 517), (184, 184), (150, 211), (1080, 1920)]
)
def test_key_points_are_in_the_images_own_pixels(size):  # row 13
    height, width = size
    first = _person(0.02 * width, 0.05 * height, 0.85 * height)
    first[[4, 10]] = 0
    second = _person(0.0, 0.3 * height, 0.6 * height)
    second[:, 0] += width - 0.62 * height
    params = OpenPoseParams(detect_size=368)
    scale = 368 / min(size)
    inner = [max(1, round(side * scale)) for side in size]
    scales = np.array([inner[1] / width, inner[0] / height])
    (found,) = _detector({"body": _fake_body([first, second], scales)}, params)([_noise(1, *size)])
    assert found.size_hw == size
    assert len(found.persons) == 2
    bodies = sorted((p.body for p in found.persons), key=lambda body: body[1, 0])
    for body, truth in zip(bodies, (first, second), strict=True):
        assert np.array_equal(body[:, 2] > 0, truth[:, 2] > 0)
        # An eighth of a cell is what a blob of one cell's width can be off by.
        assert np.abs(body[:, :2] - truth[:, :2]).max() <= max(1, 1 / scale) + 0.5
        assert body[4, :].tolist() == [0, 0, 0] or truth[4, 2] > 0


def test_scores_are_the_heat_maps_own():  # row 14
    person = _person(100, 20, 400)
    person[:, 2] = np.linspace(0.6, 0.95, 18)
    scales = np.array([368 / 512] * 2)
    detector = _detector({"body": _fake_body([person], scales)}, OpenPoseParams(detect_size=368))
    (found,) = detector([_noise(1, 512, 512)])
    assert np.abs(found.persons[0].body[:, 2] - person[:, 2]).max() < 0.06


def test_the_surest_person_comes_first():
    sure, unsure = _person(0, 60, 400), _person(260, 60, 400)
    unsure[:, 2] = 0.55
    network = _fake_body([unsure, sure], np.array([368 / 512] * 2))
    (found,) = _detector({"body": network}, OpenPoseParams(detect_size=368))([_noise(1, 512, 512)])
    assert [person.body[1, 0] < 256 for person in found.persons] == [True, False]


def test_flat_and_noisy_maps_are_parsed_in_bounded_time():
    for maps in (torch.full((2, 57, 23, 23), 0.5), torch.rand((2, 57, 23, 30))):
        size = (184, 8 * maps.shape[3])
        for persons in parse(maps, size, size):
            for body in persons:
                assert np.isfinite(body).all()
    assert parse(torch.zeros((1, 57, 23, 23)), (184, 184), (512, 512)) == [[]]


def test_maps_that_are_not_finite_are_an_error():
    detector = _detector(
        {"body": lambda pixels: torch.full((len(pixels), 57, 8, 8), float("nan"))},
        OpenPoseParams(detect_size=64),
    )
    with pytest.raises(MapError, match="body network's output is not finite; try --dtype fp32"):
        detector([_noise(1, 64, 64)])


# Hands and faces: the way in and out, with a network small enough to run at all sizes.


class _Small(torch.nn.Module):
    """One number per 8 x 8 pixels and map: a random projection, smoothed, a tenth of it above 0."""

    def __init__(self, maps, *, stages=False):
        super().__init__()
        torch.manual_seed(3)
        self.convolution = torch.nn.Conv2d(3, maps, 8, stride=8)
        self.stages = stages

    def forward(self, pixels):
        found = self.convolution(pixels)
        for _ in range(3):
            found = torch.nn.functional.avg_pool2d(found, 3, 1, 1, count_include_pad=False)
        found = (found - found.mean((2, 3), keepdim=True)) * 3
        return [found] if self.stages else found


def _as_ours(network):
    """A network of controlnet_aux as `load_network` would give it."""

    def forward(pixels):
        found = network.eval()(pixels.flip(1) / 256 - 0.5)
        return found[-1] if isinstance(found, list) else found

    return forward


def _blobs(size_hw, seed):
    """A smooth picture, so that its maps have wide peaks."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return cv2.resize(small, size_hw[::-1], interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def person():
    """Arms and head well inside of 480 x 640 pixels."""
    return _person(140, 60, 400)


def _with_parts(person, networks, params, image):
    height, width = image.shape[:2]
    short = min(width, height)
    scales = np.array([round(side * 184 / short) / side for side in (width, height)])
    networks = {"body": _fake_body([person], scales)} | {
        name: _as_ours(network) for name, network in networks.items()
    }
    return _detector(networks, params)([image])


def test_hands_are_controlnet_auxs(person):
    image, network = _blobs((480, 640), 5), _Small(22)
    hand = network_class("open_pose.hand", "Hand")
    estimation = hand.__new__(hand)
    estimation.model = network.eval()
    params = OpenPoseParams(hands=True)
    (found,) = _with_parts(person, {"hands": network}, params, image)
    (ours,) = found.persons
    compared = 0
    for square, points in zip(
        hand_squares(ours.body, (480, 640)), (ours.left_hand, ours.right_hand), strict=True
    ):
        crop = image[square.top : square.top + square.side, square.left :][:, : square.side]
        theirs = estimation(crop[:, :, ::-1].copy()).astype(float)
        # Theirs says 0, 0 for what is not found, and for what is in the crop's first pixel.
        seen = theirs.any(axis=1)
        first = (points[:, :2] - (square.left, square.top) < square.side / 128).all(axis=1)
        assert np.array_equal(points[:, 2] > 0, seen | first)
        # Theirs is the corner of a cell of side / 128 pixels, ours its centre.
        offset = points[seen, :2] - theirs[seen] - (square.left, square.top)
        assert np.abs(offset).max() <= max(1, square.side / 128)
        compared += seen.sum()
    assert compared > 30


def test_a_face_is_controlnet_auxs_without_the_background(person):
    image, network = _blobs((480, 640), 7), _Small(71, stages=True)
    face = network_class("open_pose.face", "Face")
    estimation = face.__new__(face)
    estimation.model = network.eval()
    (found,) = _with_parts(person, {"face": network}, OpenPoseParams(face=True), image)
    (ours,) = found.persons
    square = face_square(ours.body, (480, 640))
    crop = image[square.top : square.top + square.side, square.left :][:, : square.side]
    heat = estimation(crop[:, :, ::-1].copy())
    theirs = estimation.compute_peaks_from_heatmaps(heat)
    # Theirs: maps of 48 cells stretched over the crop, without the half cell at its borders, and
    # the background's highest place drawn as a 71st point.
    assert len(theirs) == 71
    assert ours.face.shape == (70, 3)
    offset = ours.face[:, :2] - theirs[:70] - (square.left, square.top)
    assert np.abs(offset).max() <= square.side / 48 + 1
    assert (np.abs(offset) <= square.side / 96 + 1).mean() > 0.9
    assert ours.face[:, 2] == pytest.approx(heat[:70].max((1, 2)), abs=0.02)


def test_a_half_hidden_face_keeps_the_places_of_its_points(person):  # row 14
    class Half(_Small):
        def forward(self, pixels):
            (found,) = super().forward(pixels)
            found[:, ::2] = 0
            return [found]

    image = _blobs((480, 640), 7)
    (found,) = _with_parts(
        person, {"face": Half(71, stages=True)}, OpenPoseParams(face=True), image
    )
    (ours,) = found.persons
    assert ours.face.shape == (70, 3)
    assert not ours.face[::2].any()
    assert (ours.face[1::2, 2] > 0).all()


def test_hands_of_many_images_are_the_hands_of_each(person):
    images = [_blobs((480, 640), seed) for seed in (1, 2, 3)]
    params, networks = OpenPoseParams(hands=True, face=True), {"hands": _Small(22)}
    networks["face"] = _Small(71, stages=True)
    scales = np.array([245 / 640, 184 / 480])
    forwards = {"body": _fake_body([person], scales)} | {
        name: _as_ours(network) for name, network in networks.items()
    }
    detector = _detector(forwards, params)
    detector.budget.pixels = 1 << 24
    for together, image in zip(detector(images), images, strict=True):
        (alone,) = _detector(forwards, params)([image])
        for one, other in zip(together.persons, alone.persons, strict=True):
            for part in ("left_hand", "right_hand", "face"):
                assert np.abs(getattr(one, part) - getattr(other, part)).max() < 0.01


def test_parts_that_nobody_asked_for_are_none(person):
    image = _blobs((480, 640), 5)
    networks = {"hands": _Small(22)}
    (found,) = _with_parts(person, networks, OpenPoseParams(body=False, hands=True), image)
    (only,) = found.persons
    assert only.body is None
    assert only.face is None
    assert only.left_hand is not None
    # Someone without a hand in the picture is nobody where only hands are looked for.
    armless = person.copy()
    armless[[3, 4, 6, 7]] = 0
    (found,) = _with_parts(armless, networks, OpenPoseParams(body=False, hands=True), image)
    assert found.persons == ()


def test_a_hand_over_the_border_is_found_where_it_is(person):  # row 12
    """The same arm, in the middle and cut by the border, has its points in the same places."""

    class Bright(torch.nn.Module):
        def forward(self, pixels):
            grey = torch.nn.functional.avg_pool2d(pixels.mean(1, keepdim=True), 8)
            return (grey - 0.1).clamp_min(0).repeat(1, 22, 1, 1)

    image = np.full((480, 640, 3), 60, np.uint8)
    wrist = person[4, :2].astype(int)
    cv2.circle(image, (int(wrist[0]) + 5, int(wrist[1]) + 25), 6, (255, 255, 255), -1)
    cut_at = int(wrist[0]) - 12
    moved = person - np.float32([cut_at, 0, 0]) * (person[:, 2:] > 0)
    params = OpenPoseParams(hands=True)
    (whole,) = _with_parts(person, {"hands": Bright()}, params, image)
    part = np.ascontiguousarray(image[:, cut_at:])
    (cut_off,) = _with_parts(moved, {"hands": Bright()}, params, part)
    square = hand_squares(cut_off.persons[0].body, part.shape[:2])[1]
    assert square.left < 0
    ours, there = cut_off.persons[0].right_hand, whole.persons[0].right_hand
    assert (ours[:, 2] > 0).all()
    # The narrower picture is looked at in another size, so the square is off by a pixel or two.
    assert np.abs(ours[:, :2] + (cut_at, 0) - there[:, :2]).max() <= 3


def test_a_hands_point_is_in_the_region_with_the_most_of_its_map():
    maps = np.zeros((21, 128, 128), np.float32)
    maps[:, 20:24, 20:24] = 0.9
    maps[:, 60:90, 60:90] = 0.3
    maps[:, 75, 70] = 0.4
    maps[5] = 0
    found = hand_peaks(maps, maps)
    assert found[0] == pytest.approx([70.5 / 128, 75.5 / 128, 0.4])
    assert found[5].tolist() == [0, 0, 0]
    assert (found[np.arange(21) != 5] == found[0]).all()


@pytest.mark.parametrize("place", [(10.0, 20.0), (10.3, 19.8), (0.2, 46.9), (47.2, 3.45)])
def test_a_faces_point_is_found_between_cells(place):
    ys, xs = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    blob = torch.exp(-((xs - place[0]) ** 2 + (ys - place[1]) ** 2) / 4)
    (((x, y, score),),) = face_peaks(blob[None, None]).tolist()
    assert (x * 48 - 0.5, y * 48 - 0.5) == pytest.approx(place, abs=0.3)
    assert 0.8 < score <= 1
    assert face_peaks(torch.full((1, 2, 48, 48), 0.04)).abs().max() == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"body": False}, "openpose.body, openpose.hands and openpose.face: expected at least one"),
        ({"detect_size": 8}, "openpose.detect_size: expected 16 to 4096 pixels, got 8"),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        OpenPoseParams(**values)


def test_a_condition_can_ask_for_parts(store):
    settings = {"openpose.hands": True, "openpose.face": True, "openpose.style": "v1.0"}
    plan = plan_annotation(["openpose"], settings, detect_size=64)
    params = plan.conditions[0].detector_params
    assert dataclasses.asdict(params) == {
        "body": True,
        "hands": True,
        "face": True,
        "detect_size": 64,
    }
    with Annotator(plan, Runtime("cpu", "fp32", store=store)) as annotator:
        (maps,) = annotator([_noise(1, 64, 80)])
    assert maps["openpose"].data[0].suffix == ".json"
    shares = {"body_share", "whole_body_share"}
    assert set(maps["openpose"].facts) == {"persons", "hands", "faces", *shares}


@pytest.mark.parametrize(
    "params",
    [
        OpenPoseParams(),
        OpenPoseParams(body=False, hands=True),
        OpenPoseParams(body=False, face=True),
        OpenPoseParams(hands=True, face=True),
    ],
    ids=str,
)
def test_one_prediction_serves_bodies_hands_and_faces(person, params):
    image, networks = _blobs((480, 640), 5), {"hands": _Small(22), "face": _Small(71, stages=True)}
    sharing = get_detector("openpose").sharing
    others = [params, OpenPoseParams(hands=True), OpenPoseParams(body=False, face=True)]
    whole, *same = sharing.joined(others)
    assert same == [whole, whole]
    (all_parts,) = _with_parts(person, networks, whole, image)
    (alone,) = _with_parts(person, networks, params, image)
    (ours,), (theirs,) = sharing.part(all_parts, params).persons, alone.persons
    for part in ("body", "left_hand", "right_hand", "face"):
        one, other = getattr(ours, part), getattr(theirs, part)
        assert (one is None) == (other is None)
        assert one is None or np.array_equal(one, other)
