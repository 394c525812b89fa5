"""Poses and hands beside what people have annotated: OKS, PCK, and floors under both.

`pytest -s` shows the figures.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.imageio import decode
from condkit.runtime import Runtime

# OpenPose's joints that are COCO's, in COCO's order, and COCO's spread of each.
COCO = [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]
SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
# CrowdPose: the same without the head, then the top of the head and the neck, which we leave out.
CROWDPOSE = slice(5, 17)


def oks(found, truth, area, sigmas=SIGMAS):
    """Object key point similarity: 1 where all annotated points are hit.

    Args:
        found: (K, 3) x, y, score; points of score 0 are far away.
        truth: (K, 3) x, y, 0 where nothing is annotated.
        area: Of the person in pixels.
    """
    marked = truth[:, 2] > 0
    places = np.where(found[:, 2:] > 0, found[:, :2], 1e6)
    apart = ((places - truth[:, :2]) ** 2).sum(1)
    likeness = np.exp(-apart / ((2 * sigmas) ** 2 * (area + np.spacing(1)) * 2))
    return float(likeness[marked].mean())


def pck(found, truth, size, share=0.2):
    """Share of the annotated points that are hit to a `share` of the box's longer side."""
    marked = truth[:, 2] > 0
    apart = np.hypot(*(found[:, :2] - truth[:, :2]).T)
    return float((apart[marked] <= share * size).mean())


@pytest.fixture(scope="module")
def predict(real_weights):
    plan = plan_annotation(
        ["openpose"],
        {
            "openpose.detector": "mediapipe",
            "openpose.pose": "wheel",
            "openpose.hand": "wheel",
            "openpose.hands": "true",
        },
    )
    hands = plan_annotation(["hands"], {"hands.detector": "mediapipe", "hands.hand": "wheel"})
    runtime = Runtime(device="cpu", store=real_weights)
    with Annotator(plan, runtime) as people, Annotator(hands, runtime) as alone:

        def run(path, *, only_hands=False):
            (found,) = (alone if only_hands else people).predict([decode(path).image])
            (prediction,) = found.by_detector.values()
            return prediction.persons

        yield run


def _annotated(folder, file):
    """(name of the picture, its annotations) of a data set in COCO's form."""
    content = json.loads((folder / file).read_text())
    for image in content["images"]:
        marked = [
            {
                **one,
                "keypoints": np.array(one["keypoints"], float).reshape(-1, 3),
                "area": one.get("area") or np.prod(one["bbox"][2:]) * 0.53,
            }
            for one in content["annotations"]
            if one["image_id"] == image["id"] and not one["iscrowd"] and one.get("keypoints")
        ]
        yield image["file_name"], [one for one in marked if one["keypoints"][:, 2].any()]


def _as_annotated(body, joints):
    return body[COCO][joints]


BODIES = {
    # Floors of the mean similarity of the best match, over the persons that are at least a third
    # of the picture's height, and of the share of them with 0.5 or more. (MediaPipe is made for
    # one person in front; it finds no crowds.)
    "coco": ("mmpose_coco", "test_coco.json", slice(0, 17), 0.27, 0.4),
    "crowdpose": ("mmpose_crowdpose", "test_crowdpose.json", CROWDPOSE, 0.33, 0.5),
    "ochuman": ("mmpose_ochuman", "test_ochuman.json", slice(0, 17), 0.66, 0.8),
}


@pytest.mark.parametrize("name", BODIES)
def test_mediapipes_bodies_are_where_people_were_annotated(name, predict, assets):
    folder, file, joints, least_mean, least_share = BODIES[name]
    scores = []
    for picture, marked in _annotated(assets / "golden" / folder, file):
        path = assets / "golden" / folder / picture
        height = decode(path).image.shape[0]
        bodies = [p.body for p in predict(path) if p.body is not None]
        for one in marked:
            if one["bbox"][3] < height / 3:
                continue
            truth = one["keypoints"][: len(SIGMAS[joints])]
            if not truth[:, 2].any():
                continue
            sigmas, area = SIGMAS[joints], one["area"]
            matches = [oks(_as_annotated(body, joints), truth, area, sigmas) for body in bodies]
            scores.append(max(matches, default=0.0))
    print(name, len(scores), "persons, OKS", np.round(scores, 2), "mean", np.mean(scores))
    assert np.mean(scores) >= least_mean
    assert np.mean(np.array(scores) >= 0.5) >= least_share


HANDS = {
    # Floors of the number that is found, and of their mean share of hit points; the person's own
    # side of each, where the picture leaves no doubt (FreiHAND has right hands only).
    "onehand10k": (
        ("mmpose_onehand10k", "test_onehand10k.json"),
        (4, 0.95),
        {"1402.jpg": "right", "33.jpg": "left", "9.jpg": "right"},
    ),
    "freihand": (
        ("mmpose_freihand", "test_freihand.json"),
        (6, 0.84),
        dict.fromkeys(
            (
                "00000355.jpg",
                "00017620.jpg",
                "00032915.jpg",
                "00082740.jpg",
                "00098035.jpg",
                "00115300.jpg",
            ),
            "right",
        ),
    ),
}


@pytest.mark.parametrize("name", HANDS)
def test_mediapipes_hands_are_where_people_were_annotated(name, predict, assets):
    (folder, file), (least_found, least_hit), true_sides = HANDS[name]
    scores, sides = {}, {}
    for picture, (one,) in _annotated(assets / "golden" / folder, file):
        persons = predict(assets / "golden" / folder / picture, only_hands=True)
        points = [(p.left_hand, "left") for p in persons if p.left_hand is not None]
        points += [(p.right_hand, "right") for p in persons if p.right_hand is not None]
        size = max(one["bbox"][2:])
        matches = [(pck(hand, one["keypoints"], size), side) for hand, side in points]
        best = max(matches, default=(0.0, "none"))
        scores[picture], sides[picture] = best
    print(name, "PCK@0.2", {n: (round(scores[n], 2), sides[n]) for n in scores})
    hit = [score for score in scores.values() if score]
    assert len(hit) >= least_found
    assert np.mean(hit) >= least_hit
    for picture, side in true_sides.items():
        assert sides[picture] == side, picture


def test_our_similarity_is_that_of_cocos_own_evaluation(predict, assets, tmp_path):
    from pycocotools import coco
    from pycocotools.cocoeval import COCOeval

    folder = assets / "golden/mmpose_coco"
    truth = coco.COCO(str(folder / "test_coco.json"))
    results, ours = [], {}
    for picture, marked in _annotated(folder, "test_coco.json"):
        number = marked[0]["image_id"]
        for body in (p.body for p in predict(folder / picture) if p.body is not None):
            points = body[COCO]
            points[points[:, 2] == 0, :2] = 1e6
            results.append(
                {
                    "image_id": number,
                    "category_id": 1,
                    "keypoints": np.float64(points).ravel().tolist(),
                    "score": float(points[:, 2].mean()),
                }
            )
            for one in marked:
                ours.setdefault((number, one["id"]), []).append(
                    oks(body[COCO], one["keypoints"], one["area"])
                )
    (tmp_path / "found.json").write_text(json.dumps(results))
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), "keypoints")
    compared = 0
    for number in truth.getImgIds():
        evaluation.params.imgIds = [number]
        evaluation._prepare()
        theirs = evaluation.computeOks(number, 1)
        marked = evaluation._gts[number, 1]
        for column, one in enumerate(marked):
            if not one["num_keypoints"] or one["iscrowd"] or (number, one["id"]) not in ours:
                continue
            np.testing.assert_allclose(
                np.sort(theirs[:, column]), np.sort(ours[number, one["id"]]), atol=1e-9
            )
            compared += 1
    assert compared > 5
