"""The body parser on real heat maps, beside controlnet_aux's parser on the same maps.

The maps come from a small network with OpenPose's layout (19 heat maps, 38 fields, stride 8).
"""

from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch

from condkit.annotators.nets.aux_networks import network_class
from condkit.annotators.openpose import OpenPoseParams
from condkit.annotators.pose.drawing import JOINT_COLOURS, draw_people
from condkit.annotators.pose.estimation import OpenPose
from condkit.annotators.pose.parser import parse
from condkit.annotators.pose.rendering import PoseDrawing, pose_map
from condkit.annotators.registry import get_condition
from condkit.budget import Budget
from condkit.imageio import decode

CPU = torch.device("cpu")
INPUT_HW = (368, 432)

# Upright and square ones: the network's input is not wide.
PICTURES = [
    "golden/mmpose_ochuman/000817.jpg",
    "golden/mmpose_ochuman/003799.jpg",
    "golden/mmpose_ochuman/003896.jpg",
    "golden/openpose_mikubill/woman.jpeg",
    "photos/cn_human.png",
    "photos/cn11_demo.jpg",
]


@pytest.fixture(scope="module")
def network(assets):
    """(N, 3, h, w) RGB in [0, 255] to (N, 57, h / 8, w / 8); what is beside the input is grey."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(
        str(assets / "weights/pose/openpose_mnv2_dm14_368x432_wq.tflite"), num_threads=1
    )
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()

    def forward(pixels):
        height, width = pixels.shape[2:]
        assert height <= INPUT_HW[0]
        assert width <= INPUT_HW[1]
        maps = []
        for image in pixels:
            canvas = np.full((1, *INPUT_HW, 3), 128, np.float32)
            canvas[0, :height, :width] = image.permute(1, 2, 0).numpy()
            interpreter.set_tensor(source["index"], canvas)
            interpreter.invoke()
            found = interpreter.get_tensor(target["index"])[0, : height // 8, : width // 8]
            maps.append(torch.from_numpy(found.copy()).permute(2, 0, 1))
        return torch.stack(maps)

    return forward


@pytest.fixture(scope="module")
def half_size_maps(network):
    """Maps of an image for an input of half the network's, as controlnet_aux makes its inputs."""

    def maps(image, inner_hw):
        height, width = inner_hw
        pixels = cv2.resize(image, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR)
        below, right = -2 * height % 16, -2 * width % 16
        pixels = np.pad(pixels, ((0, below), (0, right), (0, 0)), constant_values=128)
        found = network(torch.from_numpy(pixels)[None].permute(0, 3, 1, 2).float())
        return torch.nn.functional.avg_pool2d(found, 2)

    return maps


def _detector(network, image, params=None):
    """The whole detector with the small network as its body network, at its full size."""
    height, width = image.shape[:2]
    fits = min(INPUT_HW[0] / height, INPUT_HW[1] / width)
    size = max(16, int(fits * min(height, width)))
    params = params or OpenPoseParams(detect_size=size)
    return OpenPose(
        networks={"body": network},
        parts=params,
        detect_size=params.detect_size,
        device=CPU,
        budget=Budget.on(CPU, "openpose"),
    )


@pytest.fixture(scope="module")
def aux_parser():
    """controlnet_aux's parser on given maps: (18, 3) x, y, score per person, surest first."""
    body = network_class("open_pose.body", "Body")

    class Given(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.place = torch.nn.Parameter(torch.zeros(1))
            self.maps = None

        def forward(self, data):
            assert data.shape[2:] == tuple(8 * s for s in self.maps.shape[2:])
            return self.maps[:, 19:], self.maps[:, :19]

    parser = body.__new__(body)
    parser.model = Given()

    def run(image, maps):
        parser.model.maps = maps
        candidates, persons = parser(image[:, :, ::-1].copy())
        surest = sorted(persons, key=lambda person: -person[18] / person[19])
        return [
            np.array([candidates[int(i)][:3] if i >= 0 else (0, 0, 0) for i in person[:18]])
            for person in surest
        ]

    return run


def _read(assets, name):
    return decode(assets / name).image


@pytest.mark.parametrize("height", [256, 512])
@pytest.mark.parametrize("name", PICTURES)
def test_persons_and_joints_are_controlnet_auxs(name, height, assets, half_size_maps, aux_parser):
    image = _read(assets, name)
    width = height * image.shape[1] // image.shape[0]
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    inner = 184, int(width * 184 / height)
    maps = half_size_maps(image, inner)
    (ours,), theirs = parse(maps, inner, image.shape[:2]), aux_parser(image, maps)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert np.array_equal(one[:, 2] > 0, other[:, 2] != 0)
        assert np.abs(one[:, :2] - other[:, :2]).max() <= 1
        assert np.abs(one[:, 2] - other[:, 2]).max() < 0.01


TWINS = ["golden/mmpose_coco/000000196141.jpg", "golden/mmpose_crowdpose/106848.jpg"]


@pytest.mark.parametrize("name", TWINS)
def test_a_joint_on_a_slanting_ridge_is_one_candidate(name, assets, half_size_maps, aux_parser):
    """Theirs compares four neighbours, so two pixels that touch by a corner are both maxima; limbs
    are then lost to the joint's twin."""
    image = _read(assets, name)
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    image = cv2.resize(
        image[top : top + side, left : left + side], (512, 512), interpolation=cv2.INTER_AREA
    )
    maps = half_size_maps(image, (184, 184))
    (ours,), theirs = parse(maps, (184, 184), (512, 512)), aux_parser(image, maps)
    assert len(ours) == len(theirs)
    found = [sum((body[:, 2] != 0).sum() for body in bodies) for bodies in (ours, theirs)]
    assert found[0] > found[1]
    for one, other in zip(ours, theirs, strict=True):
        both = (one[:, 2] > 0) & (other[:, 2] != 0)
        assert both.sum() == (other[:, 2] != 0).sum()
        assert np.abs(one[both, :2] - other[both, :2]).max() <= 1


def test_a_large_picture_is_parsed_as_controlnet_aux_does(assets, half_size_maps, aux_parser):
    image = _read(assets, "golden/mmpose_ochuman/000817.jpg")
    maps = half_size_maps(image, (184, 122))
    ours, theirs = parse(maps, (184, 122), image.shape[:2])[0], aux_parser(image, maps)
    assert len(ours) == len(theirs) == 3
    assert max(np.abs(a[:, :2] - b[:, :2]).max() for a, b in zip(ours, theirs, strict=True)) <= 1


def test_a_batch_is_parsed_as_its_images(assets, half_size_maps):
    names = PICTURES[:3]
    maps = [half_size_maps(_read(assets, name), (184, 122)) for name in names]
    together = parse(torch.cat(maps), (184, 122), (512, 340))
    assert [len(found) for found in together] != [0, 0, 0]
    for found, alone in zip(together, maps, strict=True):
        (single,) = parse(alone, (184, 122), (512, 340))
        assert len(found) == len(single)
        for one, other in zip(found, single, strict=True):
            assert np.array_equal(one[:, :2], other[:, :2])
            assert np.abs(one[:, 2] - other[:, 2]).max() < 1e-5


@pytest.mark.parametrize("name", PICTURES[:3])
def test_maps_in_bf16_move_joints_by_a_pixel_at_most(name, assets, half_size_maps):
    maps = half_size_maps(_read(assets, name), (184, 122))
    (exact,) = parse(maps, (184, 122), (512, 340))
    (rounded,) = parse(maps.bfloat16().float(), (184, 122), (512, 340))
    assert len(exact) == len(rounded) > 0
    for one, other in zip(exact, rounded, strict=True):
        both = (one[:, 2] > 0) & (other[:, 2] > 0)
        assert np.abs(one[both, :2] - other[both, :2]).max() <= 1
        assert both.sum() >= max((one[:, 2] > 0).sum(), (other[:, 2] > 0).sum()) - 1


def _joint_places(drawn):
    """Where each joint's colour is."""
    places = {}
    for joint, colour in enumerate(JOINT_COLOURS):
        ys, xs = np.nonzero((drawn == np.array(colour, np.uint8)).all(axis=2))
        if len(ys) > 20:
            places[joint] = np.array([xs.mean(), ys.mean()])
    return places


def test_the_skier_is_close_to_the_published_map(assets, network):
    image = _read(assets, "golden/openpose_mikubill/ski.jpg")
    published = _read(assets, "golden/openpose_mikubill/expected_ski_output.png")
    (people,) = _detector(network, image)([image])
    assert len(people.persons) == 1
    drawn = draw_people(people)
    ours, theirs = _joint_places(drawn), _joint_places(published)
    shared = ours.keys() & theirs.keys()
    assert len(shared) >= 12
    # The small network sees the legs otherwise; a tenth of the skier's height is its own.
    close = [np.linalg.norm(ours[joint] - theirs[joint]) < 20 for joint in shared]
    assert np.mean(close) >= 0.85
    here, there = drawn.any(axis=2), published.any(axis=2)
    wide = cv2.dilate(there.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
    assert (here & wide).sum() / here.sum() > 0.75


# Each joint's tolerance in COCO's measure, in OpenPose's order without the neck.
_OPENPOSE_OF_COCO = [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]
_SIGMAS = [26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]


def _oks(body, truth, area):
    """COCO's object keypoint similarity of one person, over the joints that are labelled."""
    points = body[_OPENPOSE_OF_COCO]
    seen = truth[:, 2] > 0
    squared = ((points[:, :2] - truth[:, :2]) ** 2).sum(axis=1)
    variance = (2 * np.array(_SIGMAS) / 1000) ** 2
    close = np.exp(-squared / (2 * variance * (area + 1e-9))) * (points[:, 2] > 0)
    return close[seen].mean()


def test_people_of_coco_are_found_where_they_were_labelled(assets, network):
    folder = assets / "golden/mmpose_coco"
    truth = json.loads((folder / "test_coco.json").read_text())
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    found, best = {}, []
    for label in truth["annotations"]:
        if label["num_keypoints"] < 8:
            continue
        image_id = label["image_id"]
        if image_id not in found:
            image = _read(folder, names[image_id])
            (found[image_id],) = _detector(network, image)([image])
        points = np.array(label["keypoints"], float).reshape(17, 3)
        scores = [_oks(p.body, points, label["area"]) for p in found[image_id].persons]
        best.append(max(scores, default=0))
    assert len(best) >= 8
    # 0.61 and 10 of 12 here; floors leave room for one person more or less.
    assert np.mean(best) > 0.55
    assert np.mean(np.array(best) > 0.5) >= 0.7


@pytest.mark.parametrize(
    "image",
    [
        np.full((256, 256, 3), (30, 60, 200), np.uint8),
        np.zeros((64, 90, 3), np.uint8),
        np.full((1, 300, 3), 90, np.uint8),
    ],
    ids=["blue", "black", "strip"],
)
def test_a_picture_of_nobody_is_a_black_map_with_zero_persons(network, image):  # row 11
    (people,) = _detector(network, image)([image])
    drawn = pose_map(people, PoseDrawing(), get_condition("openpose").spec)
    assert drawn.facts["persons"] == 0
    assert not drawn.pixels.any()
    written = json.loads(drawn.data[0].encode())
    assert written["people"] == []
    assert (written["canvas_height"], written["canvas_width"]) == image.shape[:2]


def test_pictures_of_many_sizes_go_through_one_call(assets, network):
    first = cv2.resize(_read(assets, PICTURES[0]), (332, 500), interpolation=cv2.INTER_AREA)
    images = [first, np.full((90, 64, 3), 200, np.uint8), first[:, ::-1].copy(), first]
    detector = _detector(network, images[0], OpenPoseParams(detect_size=240))
    together = detector(images)
    for people, image in zip(together, images, strict=True):
        (alone,) = detector([image])
        assert people.size_hw == image.shape[:2]
        assert len(people.persons) == len(alone.persons)
        for one, other in zip(people.persons, alone.persons, strict=True):
            assert np.abs(one.body - other.body).max() < 1e-3
    assert len(together[0].persons) >= 2
    assert dataclasses.astuple(together[1])[0] == ()
