"""ViTPose after RT-DETR, beside transformers' own processors on the same weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers

from condkit.annotators.annotator import plan_annotation
from condkit.annotators.nets.rtdetr import RtDetr, load_rtdetr
from condkit.annotators.nets.vitpose import VitPose, load_vitpose, peaks
from condkit.annotators.registry import get_detector
from condkit.annotators.vitpose import VitposeParams
from condkit.budget import Budget
from condkit.errors import ConfigError, MapError, WeightsError
from condkit.runtime import Runtime

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(random_store):
    return random_store("vitpose")


@pytest.fixture(scope="module")
def folder(store):
    weights = get_detector("vitpose").spec.weights
    return lambda name: store.folder(weights[name])


def _persons(folder, dtype=torch.float32, **values):
    return RtDetr(
        network=load_rtdetr(folder("person"), CPU, dtype),
        **{"threshold": 0.3, "most": 64, "device": CPU, "budget": Budget("vitpose", 1), **values},
    )


def _vitpose(folder, name="base-simple", dtype=torch.float32, pixels=1):
    return VitPose(
        persons=_persons(folder, dtype),
        network=load_vitpose(folder(name), CPU, dtype),
        device=CPU,
        budget=Budget("vitpose", pixels),
    )


def _smooth(seed, height, width):
    """Like a photograph: noise without the finest detail, which filters treat differently."""
    import cv2

    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(2, height // 12), max(2, width // 12), 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


BOXES = [
    np.float32([[10, 5, 70, 90], [40, 20, 150, 60]]),
    np.float32([[-20, 30, 55, 140]]),
    np.zeros((0, 4), np.float32),
]
IMAGES = [_smooth(1, 100, 160), _smooth(2, 130, 90), _smooth(3, 40, 50)]


@pytest.mark.parametrize("name", ["base-simple", "plus-small"])
def test_joints_are_those_of_transformers_own_processor(name, folder):
    """Where the crop reaches over the border, the outermost pixels differ: theirs end sharply, ours
    fade into black, as in the training.
    """
    images = [_smooth(1, 240, 320), _smooth(2, 300, 200)]
    boxes = [
        np.float32([[120, 60, 180, 150], [90, 80, 190, 140]]),
        np.float32([[50, 90, 121, 180]]),
    ]
    ours = _vitpose(folder, name).joints(images, boxes)
    processor, network = _theirs(folder(name))
    assert [len(of_image) for of_image in ours] == [2, 1]
    for image, of_image, joints in zip(images, boxes, ours, strict=True):
        wide = of_image.copy()
        wide[:, 2:] -= wide[:, :2]
        inputs = processor(image, boxes=[wide.tolist()], return_tensors="pt")
        if name != "base-simple":
            inputs["dataset_index"] = torch.zeros(len(wide), dtype=torch.long)
        with torch.no_grad():
            outputs = network(**inputs)
        (theirs,) = processor.post_process_pose_estimation(outputs, boxes=[wide.tolist()])
        for mine, other in zip(joints, theirs, strict=True):
            scores, places = other["scores"].numpy(), other["keypoints"].numpy()
            clear = scores > 0.3
            assert clear.sum() > 8
            np.testing.assert_allclose(mine[clear, 2], scores[clear], atol=2e-3)
            # Newton's step on maps of random weights, some of them flat, makes much of little.
            apart = np.hypot(*(mine[clear, :2] - places[clear]).T)
            assert np.median(apart) < 0.02
            assert apart.max() < 1


def _theirs(place):
    network = transformers.VitPoseForPoseEstimation.from_pretrained(place)
    return transformers.VitPoseImageProcessor.from_pretrained(place), network.eval()


def test_peaks_are_those_of_transformers_on_the_same_heat_maps():
    rng = np.random.default_rng(5)
    ys, xs = np.mgrid[:16, :12]
    middles = rng.uniform([1, 1], [10, 14], (2, 17, 2))
    heat = np.exp(
        -((xs - middles[..., :1, None]) ** 2 + (ys - middles[..., 1:, None]) ** 2) / (2 * 2.0**2)
    ).astype(np.float32)
    found = peaks(torch.from_numpy(heat)).numpy()
    from transformers.models.vitpose.image_processing_vitpose import (
        get_keypoint_predictions,
        post_dark_unbiased_data_processing,
    )

    places, scores = get_keypoint_predictions(heat)
    theirs = post_dark_unbiased_data_processing(places, heat, kernel=11)
    np.testing.assert_allclose(found[..., :2], theirs, atol=0.01)
    np.testing.assert_allclose(found[..., 2:], scores)
    inner = ((middles > 3) & (middles < [8, 12])).all(-1)
    assert np.abs(found[inner][:, :2] - middles[inner]).max() < 0.15


def test_a_plain_or_a_ridge_gives_a_finite_place():
    heat = torch.zeros(1, 3, 16, 12)
    heat[0, 1] = 0.7
    heat[0, 2, :, 4] = 1.0
    found = peaks(heat)
    assert torch.isfinite(found).all()
    assert found[0, :, 2].tolist() == pytest.approx([0, 0.7, 1])
    assert found[0, 2, 0].item() == pytest.approx(4, abs=0.5)


def test_persons_of_square_images_are_those_of_transformers_own_processor(folder):
    image = _smooth(7, 640, 640)
    place = folder("person")
    processor = transformers.RTDetrImageProcessor.from_pretrained(place)
    network = transformers.RTDetrForObjectDetection.from_pretrained(place).eval()
    with torch.no_grad():
        outputs = network(**processor(image, return_tensors="pt"))
    scores, (boxes,) = outputs.logits.sigmoid()[0, :, 0], outputs.pred_boxes
    sure = torch.nonzero(scores > 0.3).flatten()
    sure = sure[scores[sure].argsort(descending=True)]
    centre, half = boxes[sure, :2] * 640, boxes[sure, 2:] * 320
    theirs = torch.cat([centre - half, centre + half], 1).clamp(0, 640).numpy()
    (found,) = _persons(folder)([image])
    assert len(found.scores) == len(sure) > 2
    np.testing.assert_allclose(found.scores, scores[sure].numpy(), atol=1e-4)
    np.testing.assert_allclose(found.xyxy, theirs, atol=0.1)


@pytest.mark.parametrize("size_hw", [(320, 640), (640, 200), (1, 2000), (3, 5)])
def test_persons_are_sought_in_the_images_own_proportions(size_hw, folder):  # row 2
    seen = []
    finder = _persons(folder, most=3)
    finder.network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    (found,) = finder([np.full((*size_hw, 3), (255, 128, 0), np.uint8)])
    pixels = seen[0][0]
    assert pixels.shape == (3, 640, 640)
    scale = 640 / max(size_hw)
    height, width = (max(1, round(side * scale)) for side in size_hw)
    assert pixels[:, height // 2, width // 2].tolist() == pytest.approx([1, 128 / 255, 0])
    assert pixels[:, height:].abs().sum() == 0
    assert pixels[:, :, width:].abs().sum() == 0
    assert (found.xyxy <= np.array([size_hw[1], size_hw[0]] * 2)).all()
    assert (found.xyxy >= 0).all()


def test_persons_of_many_images_are_one_batch(folder):
    together, alone = _vitpose(folder, pixels=1 << 30), _vitpose(folder)
    sizes = []
    together.network.register_forward_pre_hook(
        lambda _, args: sizes.append(len(args[0])) if args else None
    )
    joints = together.joints(IMAGES, BOXES)
    assert sizes == [3]
    for ours, others in zip(joints, alone.joints(IMAGES, BOXES), strict=True):
        for one, other in zip(ours, others, strict=True):
            np.testing.assert_allclose(one, other, atol=0.01)


def test_nobody_in_the_picture_gives_nobody(folder):  # row 11
    detector = _vitpose(folder)
    nobody = VitPose(
        persons=_persons(folder, threshold=0.9999),
        network=detector.network,
        device=CPU,
        budget=detector.budget,
    )
    for people, image in zip(nobody(IMAGES), IMAGES, strict=True):
        assert people.persons == ()
        assert people.size_hw == image.shape[:2]


def test_bf16_moves_no_clear_peak_by_a_pixel(folder):
    exact, half = (
        np.concatenate([joint for of_image in found for joint in of_image])
        for found in (
            _vitpose(folder, dtype=dtype).joints(IMAGES, BOXES)
            for dtype in (torch.float32, torch.bfloat16)
        )
    )
    # Of random weights, some maps have two peaks of one height.
    assert np.median(np.hypot(*(exact[:, :2] - half[:, :2]).T)) < 0.5
    assert 0 < np.abs(exact[:, 2] - half[:, 2]).max() < 0.1


def test_output_that_is_not_finite_is_an_error_and_not_a_black_map(folder):
    detector = _vitpose(folder)
    with torch.no_grad():
        detector.network.head.conv.bias.fill_(float("nan"))
    with pytest.raises(MapError, match="not finite"):
        detector.joints(IMAGES, BOXES)


def test_a_network_of_other_joints_is_refused(folder, tmp_path):
    config = transformers.VitPoseConfig.from_pretrained(folder("base-simple"))
    config.num_labels = 21
    transformers.VitPoseForPoseEstimation(config).save_pretrained(tmp_path)
    transformers.VitPoseImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"17 joints, got 21"):
        load_vitpose(tmp_path, CPU, torch.float32)


def test_a_file_that_lacks_a_tensor_is_refused(folder, tmp_path):  # row 17
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder("base-simple") / name).read_bytes())
    state = load_file(folder("base-simple") / "model.safetensors")
    state.pop("head.conv.weight")
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"head\.conv\.weight is missing"):
        load_vitpose(tmp_path, CPU, torch.float32)


def test_the_default_is_free_for_commercial_use():  # row 41
    definition = get_detector("vitpose")
    chosen = definition.weights(VitposeParams())
    assert [model.name for model in chosen] == [
        "PekingU/rtdetr_r50vd_coco_o365",
        "usyd-community/vitpose-base-simple",
    ]
    assert all(model.commercial_use for model in chosen)


@pytest.mark.parametrize("wrong", [{"person_threshold": 0.0}, {"max_persons": 999}])
def test_impossible_settings_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        VitposeParams(**wrong)


def test_the_published_layout_gives_bodies_as_json(store):
    from condkit.annotators.annotator import Annotator

    plan = plan_annotation(["openpose"], {"openpose.detector": "vitpose"})
    with Annotator(plan, Runtime("cpu", "bf16", store=store)) as annotator:
        (maps,) = annotator([IMAGES[0]])
    content = json.loads(maps["openpose"].data[0].encode())
    assert maps["openpose"].facts["persons"] == len(content["people"]) > 0
    assert content["people"][0]["face_keypoints_2d"] == []
