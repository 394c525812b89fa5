"""DWPose and RTMW: networks in ONNX form, and everything around them."""

from __future__ import annotations

import dataclasses
import json
import logging
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.annotators.dwpose import DwposeParams
from condkit.annotators.nets.onnx_session import load_onnx, provider_for
from condkit.annotators.nets.onnx_whole_body import load_whole_body
from condkit.annotators.nets.simcc import decode
from condkit.annotators.nets.yolox import Yolox, letterbox, on_grid, thinned_out
from condkit.annotators.pose.person_crops import cut_out, in_image, region_around
from condkit.annotators.pose.wholebody import body_from_coco, person_from_whole_body
from condkit.annotators.registry import get_detector
from condkit.annotators.rtmw import RtmwParams
from condkit.budget import Budget
from condkit.errors import ConfigError, DependencyError, MapError, WeightsError
from condkit.runtime import Runtime

CPU = Runtime("cpu", "fp32")
WRITERS = runpy.run_path(str(Path(__file__).parent / "random_weights" / "onnx_networks.py"))
POSE_HW = (384, 288)
DETECTORS = ("dwpose", "rtmw")


def _noise(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Networks whose answers are known.


def _raw_boxes(boxes, side=640):
    """What Megvii's YOLOX says of `boxes` ((x0, y0, x1, y1, class, score)), one cell each.

    Independent of the code under test: a cell is looked up by hand.
    """
    cells = [
        (stride, row, column)
        for stride in (8, 16, 32)
        for row in range(side // stride)
        for column in range(side // stride)
    ]
    place = {cell: number for number, cell in enumerate(cells)}
    raw = np.zeros((len(cells), 85), np.float32)
    for x0, y0, x1, y1, kind, score in boxes:
        x, y, stride = (x0 + x1) / 2, (y0 + y1) / 2, 16
        number = place[stride, int(y // stride), int(x // stride)]
        raw[number, 0] = x / stride - x // stride
        raw[number, 1] = y / stride - y // stride
        raw[number, 2:4] = np.log([(x1 - x0) / stride, (y1 - y0) / stride])
        raw[number, 4] = 1
        raw[number, 5 + kind] = score
    return raw


def _peaked(points, size_hw=POSE_HW):
    """SimCC outputs with peaks at `points` ((133, 3) x, y in pixels of the crop, score)."""
    columns = np.zeros((133, 2 * size_hw[1]), np.float32)
    rows = np.zeros((133, 2 * size_hw[0]), np.float32)
    for number, (x, y, score) in enumerate(points):
        columns[number, round(2 * x)] = score
        rows[number, round(2 * y)] = score + 0.25
    return {"simcc_x": columns, "simcc_y": rows}


POINTS = np.stack(
    [
        np.arange(133) * 2 + 10.5,
        np.arange(133)[::-1] * 2.5 + 20,
        0.31 + np.arange(133) / 200,
    ],
    axis=1,
)


@pytest.fixture
def known(tmp_path):
    """Boxes to a detector that sees them, with `POINTS` in each."""

    def make(boxes, points=POINTS, **params):
        WRITERS["write_constant"](
            tmp_path / "person.onnx", [1, 3, 640, 640], {"output": _raw_boxes(boxes)}
        )
        WRITERS["write_constant"](tmp_path / "pose.onnx", ["batch", 3, *POSE_HW], _peaked(points))
        return load_whole_body(
            tmp_path / "person.onnx",
            tmp_path / "pose.onnx",
            CPU,
            name="dwpose",
            parts=DwposeParams(hands=True, face=True),
            **{"threshold": 0.3, "most": 64, **params},
        )

    return make


def test_points_come_back_in_the_images_own_pixels(known):  # row 13
    """A picture of 320 x 480 is seen at 4/3 of its size, so a box there is 3/4 as large here."""
    (people,) = known([(100, 40, 220, 400, 0, 0.9)])([_noise(1, 320, 480)])
    (person,) = people.persons
    box = np.array([100, 40, 220, 400]) * 0.75
    height = (box[3] - box[1]) * 1.25
    width = height * 288 / 384
    left, top = (box[0] + box[2]) / 2 - width / 2, (box[1] + box[3]) / 2 - height / 2
    expected = POINTS[:, :2] * [width / 288, height / 384] + [left, top]
    np.testing.assert_allclose(person.left_hand[:, :2], expected[91:112], atol=0.01)
    np.testing.assert_allclose(person.right_hand[:, :2], expected[112:], atol=0.01)
    np.testing.assert_allclose(person.face[:68, :2], expected[23:91], atol=0.01)
    np.testing.assert_allclose(person.body[0, :2], expected[0], atol=0.01)
    np.testing.assert_allclose(person.body[4, :2], expected[10], atol=0.01)  # right wrist


def test_scores_are_the_networks_own(known):  # row 14
    (people,) = known([(100, 40, 220, 400, 0, 0.9)])([_noise(1, 320, 480)])
    (person,) = people.persons
    np.testing.assert_allclose(person.left_hand[:, 2], POINTS[91:112, 2], rtol=1e-6)
    np.testing.assert_allclose(person.face[68:], person.body[[14, 15]])
    assert person.body[1, 2] == pytest.approx(min(POINTS[5, 2], POINTS[6, 2]))


def test_half_hidden_faces_keep_all_their_places(known):  # row 14
    hidden = POINTS.copy()
    hidden[30:60, 2] = -0.2
    (people,) = known([(100, 40, 220, 400, 0, 0.9)], hidden)([_noise(1, 320, 480)])
    face = people.persons[0].face
    assert face.shape == (70, 3)
    assert (face[7:37] == 0).all()
    assert (face[37:68, 2] > 0).all()


def test_nobody_in_the_picture_gives_nobody_and_not_the_whole_picture(known):
    """Row 11: theirs takes the whole image for a person where the detector finds none."""
    blue = np.full((256, 256, 3), (0, 0, 255), np.uint8)
    for boxes in ([], [(100, 40, 220, 400, 0, 0.29)], [(100, 40, 220, 400, 16, 0.9)]):
        (people,) = known(boxes)([blue])
        assert people.persons == ()
        assert people.size_hw == (256, 256)


def test_persons_of_many_images_are_one_batch(known):
    detector = known([(10, 10, 90, 200, 0, 0.8), (300, 40, 420, 400, 0, 0.9)])
    images = [_noise(seed, 200 + seed, 300) for seed in range(3)]
    calls = []
    real = detector.network.session.run

    class Counting:
        def __getattr__(self, name):
            return getattr(detector.network.session, name)

        def run(self, names, feeds):
            calls.append(next(iter(feeds.values())).shape)
            return real(names, feeds)

    counted = dataclasses.replace(
        detector,
        network=dataclasses.replace(detector.network, session=Counting()),
        budget=Budget("dwpose", 1 << 30),
    )
    found = counted(images)
    assert calls == [(6, 3, *POSE_HW)]
    for image, people in zip(images, found, strict=True):
        (alone,) = detector([image])
        for ours, others in zip(people.persons, alone.persons, strict=True):
            assert np.array_equal(ours.body, others.body)


def test_the_surest_persons_come_first_and_no_more_than_are_wanted(known):
    boxes = [(20, 10, 90, 200, 0, 0.5), (300, 40, 420, 400, 0, 0.9), (450, 40, 520, 300, 0, 0.7)]
    everyone = known(boxes)([_noise(1, 640, 640)])[0].persons
    (best, second) = known(boxes, most=2)([_noise(1, 640, 640)])[0].persons
    assert len(everyone) == 3
    assert np.array_equal(best.body, everyone[0].body)
    assert 190 < best.body[0, 0] < 230
    assert 360 < second.body[0, 0] < 390


# Colours.


class _Seen:
    """A session that keeps what it is given."""

    def __init__(self, session):
        self.session, self.pixels = session, []

    def __getattr__(self, name):
        return getattr(self.session, name)

    def run(self, names, feeds):
        self.pixels.append(next(iter(feeds.values())))
        return self.session.run(names, feeds)


def test_the_person_detector_sees_bgr_and_the_pose_network_normalised_rgb(known):
    """Row 35: each as it was trained."""
    detector = known([(100, 40, 220, 400, 0, 0.9)])
    boxes, poses = _Seen(detector.persons.network.session), _Seen(detector.network.session)
    watched = dataclasses.replace(
        detector,
        persons=dataclasses.replace(
            detector.persons,
            network=dataclasses.replace(detector.persons.network, session=boxes),
        ),
        network=dataclasses.replace(detector.network, session=poses),
    )
    colour = np.array([200, 100, 20], np.uint8)
    watched([np.full((640, 640, 3), colour)])
    np.testing.assert_array_equal(boxes.pixels[0][0, :, 320, 320], colour[::-1])
    expected = (colour - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    np.testing.assert_allclose(poses.pixels[0][0, :, 192, 144], expected, rtol=1e-4)


# The parts, beside others.


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_peaks_are_found_as_one_by_one(seed):
    rng = np.random.default_rng(seed)
    columns, rows = (rng.normal(0, 1, (3, 133, n)).astype(np.float32) for n in (96, 128))
    columns[0, :9] = -1 - rng.random((9, 96))
    places, scores = decode(columns, rows)
    for n in range(3):
        for k in range(0, 133, 11):
            best = min(max(columns[n, k]), max(rows[n, k]))
            x = list(columns[n, k]).index(max(columns[n, k])) / 2
            y = list(rows[n, k]).index(max(rows[n, k])) / 2
            assert scores[n, k] == max(best, 0)
            assert tuple(places[n, k]) == (x, y)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_boxes_are_thinned_out_as_opencv_does(seed):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 200, (60, 2))
    xyxy = np.concatenate([corner, corner + rng.uniform(20, 150, (60, 2))], 1).astype(np.float32)
    scores = rng.permutation(np.linspace(0.05, 0.95, 60)).astype(np.float32)
    wide = [[float(a), float(b), float(c - a), float(d - b)] for a, b, c, d in xyxy]
    theirs = cv2.dnn.NMSBoxes(wide, scores.tolist(), 0.3, 0.45)
    assert list(thinned_out(xyxy, scores, 0.3)) == list(np.ravel(theirs))


def test_raw_output_is_put_on_its_grid():
    boxes = [(100, 40, 220, 400, 0, 0.9), (300, 100, 340, 180, 0, 0.6), (10, 10, 50, 60, 3, 0.8)]
    xyxy, scores = on_grid(_raw_boxes(boxes), (640, 640))
    found = np.flatnonzero(scores)
    np.testing.assert_allclose(np.sort(scores[found]), [0.6, 0.9], rtol=1e-6)
    order = found[np.argsort(-scores[found])]
    np.testing.assert_allclose(xyxy[order], [b[:4] for b in boxes[:2]], atol=1e-3)


@pytest.mark.parametrize("size_hw", [(640, 640), (320, 480), (1000, 300), (1, 2000), (3, 5)])
def test_images_are_framed_in_their_own_proportions(size_hw):  # row 2
    framed, scale = letterbox(np.full((*size_hw, 3), 255, np.uint8), (640, 640))
    rows, columns = (framed[:, :, 0] == 255).any(1).sum(), (framed[:, :, 0] == 255).any(0).sum()
    assert scale == 640 / max(size_hw)
    assert abs(rows - max(1, size_hw[0] * scale)) <= 1
    assert abs(columns - max(1, size_hw[1] * scale)) <= 1
    assert (framed[:, columns:] == 114).all()


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.floats(-50, 300)] * 2),
    st.tuples(*[st.floats(2, 400)] * 2),
    st.booleans(),
)
def test_a_crop_shows_what_its_places_say(corner, extent, unbiased):
    """Both ways of reckoning, also over the border: a gradient tells where each pixel is from."""
    image = np.zeros((200, 240, 3), np.uint8)
    image[:, :, 0], image[:, :, 1] = np.arange(240), np.arange(200)[:, None]
    box = np.float32([*corner, corner[0] + extent[0], corner[1] + extent[1]])
    region = region_around(box, (64, 48))
    crop = cut_out(image, region, (64, 48), unbiased=unbiased)
    ys, xs = np.mgrid[:64, :48]
    places = in_image(np.float32(np.stack([xs, ys], -1)), region, (64, 48), unbiased=unbiased)
    inside = ((places >= 0.5) & (places <= [238, 198])).all(-1)
    assert np.abs(crop[..., :2][inside] - places[inside]).max(initial=0) <= 1.1
    outside = ((places < -1.5) | (places > [241, 201])).any(-1)
    assert (crop[outside] == 0).all()


def test_an_image_wider_than_opencv_warps_is_cropped_all_the_same():
    image = np.zeros((40, 40_000, 3), np.uint8)
    image[:, 39_900:] = 200
    region = region_around(np.float32([39_850, 0, 39_950, 40]), (64, 48))
    crop = cut_out(image, region, (64, 48))
    assert set(np.unique(crop[30:34, :20])) == {0}
    assert crop[32, 30, 0] == 200


def test_the_neck_is_between_the_shoulders_and_no_surer_than_they_are():
    points = np.zeros((17, 3), np.float32)
    points[5], points[6] = (10, 20, 0.9), (30, 40, 0.4)
    np.testing.assert_allclose(body_from_coco(points)[1], [20, 30, 0.4])
    points[5, 2] = 0
    np.testing.assert_array_equal(body_from_coco(points)[1], 0)


def test_the_133_points_are_read_in_cocos_order():
    points = np.stack([np.arange(133)] * 2 + [np.ones(133)], axis=1).astype(np.float32)
    person = person_from_whole_body(points)
    assert person.body[:, 0].tolist() == [
        *(0, 5.5, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
    ]
    assert person.face[:, 0].tolist() == [*range(23, 91), 2, 1]
    assert person.left_hand[:, 0].tolist() == list(range(91, 112))
    assert person.right_hand[:, 0].tolist() == list(range(112, 133))


# OpenMMLab's person detector.


def test_boxes_that_are_thinned_out_already_are_taken_as_they_are(tmp_path):
    dets = np.array(
        [[10, 20, 110, 220, 0.4], [300, 40, 400, 300, 0.9], [5, 5, 20, 20, 0.2]], np.float32
    )
    WRITERS["write_constant"](tmp_path / "p.onnx", ["batch", 3, 640, 640], {"dets": dets})
    finder = Yolox(
        network=load_onnx(tmp_path / "p.onnx", CPU, "rtmw"),
        threshold=0.3,
        most=9,
        budget=Budget("rtmw", 1),
    )
    for found in finder([_noise(1, 640, 320), _noise(2, 640, 640)]):
        np.testing.assert_allclose(found.scores, [0.9, 0.4])
    np.testing.assert_allclose(found.xyxy, dets[[1, 0], :4], atol=1e-4)


@pytest.mark.parametrize("detector", DETECTORS)
def test_weights_in_the_published_layout_give_a_map_with_json(detector, random_store):
    plan = plan_annotation(["openpose"], {"openpose.detector": detector, "openpose.hands": "true"})
    store = random_store(detector)
    with Annotator(plan, Runtime("cpu", "bf16", store=store)) as annotator:
        (maps,) = annotator([_noise(4, 96, 128)])
    drawn = maps["openpose"]
    content = json.loads(drawn.data[0].encode())
    assert drawn.facts["persons"] == len(content["people"]) > 0
    scores = np.array(content["people"][0]["pose_keypoints_2d"]).reshape(18, 3)[:, 2]
    assert len(set(scores)) > 3


def test_only_the_size_that_is_chosen_is_asked_for():
    definition = get_detector("rtmw")
    for size in ("384x288", "256x192"):
        names = [spec.name for spec in definition.weights(RtmwParams(weights=size))]
        assert names[0].startswith("yolox_m")
        assert size in names[1]
        assert len(names) == 2


# Row 27: ONNX Runtime and GPUs.


@pytest.fixture
def network_file(tmp_path):
    WRITERS["write_simcc"](tmp_path / "pose.onnx", (64, 48))
    return tmp_path / "pose.onnx"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr("condkit.runtime.choose_device", lambda name: torch.device("cuda", 1))
    monkeypatch.setattr("condkit.runtime.choose_dtype", lambda name, device: torch.float32)


def test_a_gpu_that_was_asked_for_is_never_silently_the_cpu(network_file, gpu):
    with pytest.raises(DependencyError, match=r"cuda:1.*CUDAExecutionProvider.*onnxruntime-gpu"):
        load_onnx(network_file, Runtime("cuda:1"), "dwpose")


def test_a_provider_that_does_not_start_is_noticed(network_file, gpu, monkeypatch):
    """ONNX Runtime itself goes on with the CPU and writes a line to standard error."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    asked = []
    real = onnxruntime.InferenceSession

    def open_on_cpu(path, options, providers):
        asked.append(providers)
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_on_cpu)
    with pytest.raises(DependencyError, match=r"could not be started.*onnxruntime-gpu"):
        load_onnx(network_file, Runtime("cuda:1"), "dwpose")
    assert asked[0][0] == ("CUDAExecutionProvider", {"device_id": 1})


def test_auto_takes_the_cpu_and_says_so(network_file, gpu, caplog):
    with caplog.at_level(logging.INFO):
        network = load_onnx(network_file, Runtime("auto"), "dwpose")
    assert network.provider == "CPUExecutionProvider"
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warned) == 1
    assert "going on with the CPU" in warned[0]
    assert "onnxruntime-gpu" in warned[0]


def test_what_runs_a_network_is_reported(network_file, caplog):
    with caplog.at_level(logging.INFO):
        load_onnx(network_file, CPU, "dwpose")
    assert "pose.onnx is run by ONNX Runtime's CPUExecutionProvider" in caplog.text


def test_devices_have_their_providers():
    assert provider_for(torch.device("cpu")) == ("CPUExecutionProvider", {})
    assert provider_for(torch.device("cuda")) == ("CUDAExecutionProvider", {"device_id": 0})
    assert provider_for(torch.device("mps"))[0] == "CoreMLExecutionProvider"


def test_a_missing_onnx_runtime_says_what_to_install(network_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError, match=r"condkit\[onnx\]"):
        load_onnx(network_file, CPU, "dwpose")


def test_a_fixed_batch_is_run_as_often_as_it_takes(tmp_path):
    WRITERS["write_yolox"](tmp_path / "one.onnx", side=64, batch=1)
    WRITERS["write_yolox"](tmp_path / "two.onnx", side=64, batch=2)
    WRITERS["write_yolox"](tmp_path / "any.onnx", side=64, batch="batch")
    pixels = np.float32(_noise(1, 5 * 64, 64)).reshape(5, 64, 64, 3).transpose(0, 3, 1, 2)
    one, two, free = (
        load_onnx(tmp_path / f"{name}.onnx", CPU, "dwpose")(pixels)[0]
        for name in ("one", "two", "any")
    )
    assert one.shape[0] == 5
    np.testing.assert_allclose(one, free, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(two, free, rtol=1e-4, atol=1e-5)


def test_memory_that_runs_out_halves_the_batch(known, caplog):
    detector = known([(10, 10, 90, 200, 0, 0.8), (300, 40, 420, 400, 0, 0.9)])

    class Small(_Seen):
        def run(self, names, feeds):
            if len(next(iter(feeds.values()))) > 1:
                raise RuntimeError("Failed to allocate memory for requested buffer of size 9")
            return super().run(names, feeds)

    small = dataclasses.replace(
        detector,
        network=dataclasses.replace(detector.network, session=Small(detector.network.session)),
        budget=Budget("dwpose", 1 << 30),
    )
    image = _noise(1, 640, 640)
    (found,), (expected,) = small([image]), detector([image])
    assert len(found.persons) == len(expected.persons) == 2
    assert "going on with 1" in caplog.text


# Files that are not what they should be.


def test_a_damaged_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(WeightsError, match=r"bad\.onnx.*fetch the file anew"):
        load_onnx(tmp_path / "bad.onnx", CPU, "dwpose")


def test_another_network_is_an_error_that_names_its_shapes(known, tmp_path):
    detector = known([(100, 40, 220, 400, 0, 0.9)])
    WRITERS["write_constant"](
        tmp_path / "pose.onnx",
        ["batch", 3, *POSE_HW],
        {"x": np.ones((17, 576)), "y": np.ones((17, 768))},
    )
    other = load_whole_body(
        tmp_path / "person.onnx",
        tmp_path / "pose.onnx",
        CPU,
        name="dwpose",
        parts=DwposeParams(),
        threshold=0.3,
        most=9,
    )
    with pytest.raises(WeightsError, match=r"133.*17"):
        other([_noise(1, 64, 64)])
    assert detector is not other
    WRITERS["write_constant"](tmp_path / "p.onnx", [1, 3, 640, 640], {"output": np.ones((7, 9))})
    finder = Yolox(
        network=load_onnx(tmp_path / "p.onnx", CPU, "x"),
        threshold=0.3,
        most=9,
        budget=Budget("x", 1),
    )
    with pytest.raises(WeightsError, match="8400"):
        finder([_noise(1, 64, 64)])


def test_output_that_is_not_finite_is_an_error_and_not_a_black_map(known):
    broken = POINTS.copy()
    broken[40, 2] = np.nan
    with pytest.raises(MapError, match="not finite"):
        known([(100, 40, 220, 400, 0, 0.9)], broken)([_noise(1, 64, 64)])


@pytest.mark.parametrize("params", [DwposeParams, RtmwParams])
@pytest.mark.parametrize(
    "wrong",
    [{"person_threshold": 0.0}, {"person_threshold": 1.5}, {"max_persons": 0}, {"body": False}],
)
def test_impossible_settings_are_refused_by_name(params, wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        params(**wrong)


def test_no_mm_library_is_needed():
    """Row 18: theirs needs mmcv, mmdet and mmpose."""
    code = """
        import sys
        for name in ("mmcv", "mmdet", "mmpose", "mmengine"):
            sys.modules[name] = None
        from condkit.annotators.nets import onnx_whole_body
        from condkit.annotators.registry import get_detector
        for name in ("dwpose", "rtmw"):
            get_detector(name)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
