"""Conditions made of the picture alone: shuffle, tile, inpaint, from the map to the hint."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from condkit import imageio, pipeline
from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.annotators.base import Runtime
from condkit.annotators.inpaint import random_mask
from condkit.annotators.shuffle import content_shuffle
from condkit.annotators.tile import down_and_up
from condkit.captions import make_captioner
from condkit.datasets.reader import open_dataset
from condkit.errors import MapError
from condkit.trainer.data import hint_from_map
from condkit.trainer.grid import map_picture
from condkit.trainer.sample import checked_map, hint_padding


def _noise(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _map(condition, image, **settings):
    plan = plan_annotation([condition], {f"{condition}.{k}": v for k, v in settings.items()})
    return Annotator(plan)([image])[0][condition]


def test_shuffle_equals_controlnet_aux_with_the_same_random_numbers(monkeypatch):
    from condkit.annotators.nets.aux_networks import network_class

    image = _noise(0, 512, 640)
    draw = np.random.default_rng(5)
    monkeypatch.setattr(np.random, "uniform", draw.uniform)
    theirs = network_class("shuffle", "ContentShuffleDetector")()(image, output_type="np")
    ours = content_shuffle(image, 256, np.random.default_rng(5))
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("condition", ["shuffle", "inpaint"])
def test_row_37_a_random_map_comes_again_and_another_seed_gives_another(condition):
    image = _noise(1, 64, 80)
    first = _map(condition, image).pixels
    assert np.array_equal(first, _map(condition, image).pixels)
    assert not np.array_equal(first, _map(condition, image, seed=1).pixels)


def test_tile_is_the_picture_or_its_areas_enlarged():
    image = _noise(2, 48, 64)
    assert np.array_equal(_map("tile", image).pixels, image)
    small = cv2.resize(image, (16, 12), interpolation=cv2.INTER_AREA)
    expected = cv2.resize(small, (64, 48), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(down_and_up(image, 4), expected)


@pytest.mark.parametrize("kind", ["rectangles", "strokes"])
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 2000), (64, 96)])
@pytest.mark.parametrize("area", [0.0, 0.3, 1.0])
def test_a_mask_hides_the_share_asked_for_to_the_pixel(kind, size_hw, area):
    mask = random_mask(size_hw, kind, area, np.random.default_rng(3))
    assert mask.sum() == round(area * mask.size)


def test_what_is_seen_is_the_picture_and_what_is_hidden_is_zero():
    image = _noise(4, 60, 90)
    drawn = _map("inpaint", image, area_range=(0.2, 0.4))
    hidden = drawn.pixels[:, :, 3] == 0
    assert 0.19 <= hidden.mean() <= 0.41
    assert drawn.facts["hidden"] == pytest.approx(hidden.mean(), abs=1e-6)
    assert (drawn.pixels[hidden] == 0).all()
    assert np.array_equal(drawn.pixels[~hidden][:, :3], image[~hidden])
    assert (drawn.pixels[~hidden][:, 3] == 255).all()


def test_the_hint_is_minus_one_where_hidden_and_the_picture_elsewhere():
    """As diffusers' example for control_v11p_sd15_inpaint does: `image[mask > 0.5] = -1`."""
    image = _noise(5, 40, 56)
    drawn = _map("inpaint", image)
    expected = image.astype(np.float32) / 255
    expected[drawn.pixels[:, :, 3] == 0] = -1
    assert np.array_equal(hint_from_map(drawn.pixels), expected.transpose(2, 0, 1))
    assert hint_padding(drawn.spec) == -1
    assert np.array_equal(checked_map(drawn.pixels, drawn.spec), drawn.pixels)
    assert map_picture(drawn.pixels).shape == (40, 56, 3)
    with pytest.raises(MapError, match="alpha"):
        checked_map(image, drawn.spec)
    with pytest.raises(MapError, match="without alpha"):
        checked_map(drawn.pixels, _map("tile", image).spec)


@pytest.mark.parametrize("layout", ["parquet", "imagefolder"])
def test_a_map_with_a_mask_survives_a_dataset(layout, tmp_path):
    (tmp_path / "in").mkdir()
    for n in range(4):
        imageio.write_map(tmp_path / "in" / f"{n}.png", _noise(n, 32, 32))
    plan = plan_annotation(["inpaint"])
    captioner = make_captioner("none")
    options = {"captioner": captioner, "size": None, "format": layout}
    pipeline.build(tmp_path / "in", tmp_path / "out", plan, Runtime(), **options)
    opened = open_dataset(tmp_path / "out")
    seen = 0
    for split in opened.splits:
        for row in opened.split(split):
            expected = _map("inpaint", row.image).pixels
            assert np.array_equal(row.maps["inpaint"], expected)
            seen += 1
    assert seen == 4
