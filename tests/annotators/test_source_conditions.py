"""The conditions that need no detector: shuffle, tile, inpaint."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from condkit import imageio
from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.annotators.inpaint import random_mask
from condkit.annotators.nets.aux_networks import network_class
from condkit.annotators.shuffle import content_shuffle
from condkit.annotators.tile import down_and_up
from condkit.cli import app
from condkit.datasets.reader import open_dataset
from condkit.errors import ConfigError, MapError
from condkit.runtime import Runtime
from condkit.trainer.data import hint_from_map
from condkit.trainer.grid import map_picture
from condkit.trainer.sample import checked_map, hint_padding, read_condition_map


def _noise(seed, height=96, width=128):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _map(condition, image, **settings):
    plan = plan_annotation([condition], {f"{condition}.{k}": v for k, v in settings.items()})
    return Annotator(plan)([image])[0][condition]


def test_a_shuffle_is_controlnet_auxs_given_the_same_random_numbers(monkeypatch):
    image = _noise(1, 192, 256)
    detector = network_class("shuffle", "ContentShuffleDetector")()
    generator = np.random.default_rng(5)
    monkeypatch.setattr(np.random, "uniform", generator.uniform)
    theirs = detector(image, detect_resolution=192, image_resolution=192, output_type="np")
    assert np.array_equal(content_shuffle(image, 256, np.random.default_rng(5)), theirs)


@pytest.mark.parametrize("condition", ["shuffle", "inpaint"])
def test_the_same_picture_and_seed_give_the_same_map_and_others_another(condition):
    """Defect 37: elsewhere the random map is another one in each run."""
    one, other = _noise(1), _noise(2)
    again = [_map(condition, one, seed=3).pixels for _ in range(2)]
    assert np.array_equal(*again)
    plan = plan_annotation([condition], {f"{condition}.seed": 3})
    batch = Annotator(plan)([other, one])
    assert np.array_equal(batch[1][condition].pixels, again[0])
    assert not np.array_equal(_map(condition, one, seed=4).pixels, again[0])


def test_a_tile_is_the_picture_or_a_coarser_one_of_its_size(shapes):
    assert np.array_equal(_map("tile", shapes).pixels, shapes)
    height, width = shapes.shape[:2]
    small = cv2.resize(shapes, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(_map("tile", shapes, down_sample=4).pixels, coarse)
    assert down_and_up(_noise(3, 1, 2000), 64).shape == (1, 2000, 3)
    with pytest.raises(ConfigError, match=r"tile\.down_sample: expected a factor from 1 to 64"):
        _map("tile", shapes, down_sample=0.5)


@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.sampled_from(["rectangles", "strokes"]),
    st.floats(0, 1),
    st.integers(0, 2**32),
)
def test_a_mask_hides_the_share_it_is_asked_for_to_the_pixel(size_hw, kind, area, seed):
    mask = random_mask(size_hw, kind, area, np.random.default_rng(seed))
    assert mask.shape == size_hw
    assert np.count_nonzero(mask) == round(area * mask.size)


@pytest.mark.parametrize("kind", ["rectangles", "strokes"])
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 2000), (64, 96)])
@pytest.mark.parametrize("area", [0.0, 0.3, 1.0])
def test_so_does_the_mask_of_a_strip_or_a_pixel(kind, size_hw, area):
    mask = random_mask(size_hw, kind, area, np.random.default_rng(3))
    assert mask.sum() == round(area * mask.size)


def test_an_inpainting_map_is_the_picture_with_a_mask(shapes):
    drawn = _map("inpaint", shapes, area_range=(0.2, 0.4))
    hidden = drawn.pixels[:, :, 3] == 0
    assert set(np.unique(drawn.pixels[:, :, 3])) == {0, 255}
    assert 0.19 < hidden.mean() < 0.41
    assert drawn.facts["hidden"] == pytest.approx(hidden.mean(), abs=1e-4)
    assert np.array_equal(drawn.pixels[~hidden][:, :3], shapes[~hidden])
    assert not drawn.pixels[hidden].any()
    assert np.array_equal(imageio.read_map(imageio.encode_png(drawn.pixels)), drawn.pixels)


def test_hidden_pixels_are_minus_one_in_the_hint_as_in_the_public_checkpoint(shapes):
    drawn = _map("inpaint", shapes)
    hint = hint_from_map(drawn.pixels)
    # diffusers' example for control_v11p_sd15_inpaint: image[mask] = -1 after division by 255.
    expected = shapes.astype(np.float32) / 255
    expected[drawn.pixels[:, :, 3] == 0] = -1.0
    assert np.array_equal(hint, expected.transpose(2, 0, 1))
    assert hint_padding(drawn.spec) == -1
    assert map_picture(drawn.pixels).shape == shapes.shape


def test_a_map_with_and_one_without_a_mask_are_not_mistaken_for_each_other(shapes, tmp_path):
    drawn, tile = _map("inpaint", shapes), _map("tile", shapes)
    assert np.array_equal(checked_map(drawn.pixels, drawn.spec), drawn.pixels)
    with pytest.raises(MapError, match="got an RGB picture without alpha"):
        checked_map(shapes, drawn.spec)
    with pytest.raises(MapError, match="map without alpha"):
        checked_map(drawn.pixels, tile.spec)
    path = tmp_path / "map.png"
    imageio.write_map(path, drawn.pixels)
    assert np.array_equal(read_condition_map(path, drawn.spec), drawn.pixels)


def test_a_map_of_16_bits_is_read_with_all_of_them(tmp_path):
    (spec,) = plan_annotation(["depth"], {"depth.bits": 16}).specs
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 30), dtype=np.uint16)
    imageio.write_map(tmp_path / "map.png", pixels)
    assert np.array_equal(read_condition_map(tmp_path / "map.png", spec), pixels)


@pytest.mark.parametrize("format_", ["parquet", "imagefolder"])
def test_an_inpainting_dataset_keeps_its_masks_and_trains(format_, tmp_path_factory, tmp_path):
    from condkit.captions.registry import make_captioner
    from condkit.pipeline import build

    source = tmp_path / "photos"
    source.mkdir()
    for number in range(4):
        png = imageio.encode_png(_noise(number, 64, 64))
        (source / f"{number}.png").write_bytes(png)
    plan = plan_annotation(["inpaint"])
    captioner = make_captioner("none")
    build(
        source,
        tmp_path / "data",
        plan,
        Runtime(device="cpu"),
        captioner=captioner,
        size=64,
        format=format_,
        val=0.0,
        seed=0,
    )
    dataset = open_dataset(tmp_path / "data")
    assert dataset.conditions["inpaint"].channels == 4
    rows = dataset.split("train")
    assert len(rows) == 4
    for row in (rows[i] for i in range(4)):
        expected = Annotator(plan)([row.image])[0]["inpaint"].pixels
        assert np.array_equal(row.maps["inpaint"], expected)
    from datasets import load_dataset

    loaded = load_dataset(str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))["train"]
    assert len(loaded) == 4
    from condkit.trainer.recipes import load_recipe
    from condkit.trainer.train import train

    settings = {
        "condition": "inpaint",
        "run.steps": "1",
        "data.batch_size": "2",
        "data.resolution": "64",
        "preview.every": "1",
        "preview.pairs": "1",
        "preview.steps": "1",
    }
    config = load_recipe("tiny-canny", settings)
    summary = train(config, tmp_path / "data", tmp_path / "run", device="cpu", dtype="fp32")
    assert np.isfinite(summary.loss)
    imageio.write_map(tmp_path / "map.png", rows[0].maps["inpaint"])
    made = CliRunner().invoke(
        app,
        [
            *("sample", str(tmp_path / "run"), "--condition-image", str(tmp_path / "map.png")),
            *("--prompt", "a red circle", "-o", str(tmp_path / "made.png"), "--steps", "1"),
        ],
    )
    assert made.exit_code == 0, made.output
    assert imageio.decode(tmp_path / "made.png").image.shape == (64, 64, 3)


def test_specs_say_that_the_map_has_four_channels():
    (spec,) = plan_annotation(["inpaint"]).specs
    assert dataclasses.asdict(spec)["channels"] == 4
