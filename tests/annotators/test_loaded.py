from __future__ import annotations

import doctest
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import condkit
from condkit.annotators import LoadedCondition, load, loaded
from condkit.annotators.annotator import Annotator
from condkit.errors import ConfigError, ImageError, UnknownNameError
from condkit.predictions import EdgeStrength, InverseDepth

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
RANDOM = runpy.run_path(str(Path(__file__).parents[1] / "plan_with_data.py"))["RANDOM"]
EXPECTED = cv2.Canny(IMAGE, 50, 200)


@pytest.fixture(scope="module")
def canny():
    return load("canny", low=50)


def test_load_is_in_the_public_interface():
    assert condkit.load is load


def test_the_example_in_the_docstring_holds():
    assert doctest.testmod(loaded).failed == 0


def test_one_image_gives_one_map_and_a_list_gives_a_list(canny):
    assert np.array_equal(canny(IMAGE), EXPECTED)
    maps = canny([IMAGE, IMAGE[:10]])
    assert isinstance(maps, list)
    assert [pixels.shape for pixels in maps] == [(24, 40), (10, 40)]
    assert canny.spec.name == "canny"


def test_arrays_pillow_images_and_paths_are_the_same_image(canny, tmp_path):
    path = tmp_path / "ä photo.png"
    Image.fromarray(IMAGE).save(path)
    for given in (IMAGE, np.asfortranarray(IMAGE), Image.fromarray(IMAGE), path, str(path)):
        assert np.array_equal(canny(given), EXPECTED)


def test_a_grey_array_is_a_grey_image(canny):
    grey = IMAGE[:, :, 0]
    assert np.array_equal(canny(grey), canny(np.repeat(grey[:, :, None], 3, axis=2)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F", "YCbCr"])
def test_pillow_images_of_any_mode_are_read(canny, mode):
    base = Image.fromarray(IMAGE)
    image = Image.fromarray(IMAGE[:, :, 0].astype(np.uint16) * 257) if mode == "I;16" else base
    assert canny(image if mode == "I;16" else base.convert(mode)).shape == (24, 40)


def test_the_orientation_of_a_pillow_image_counts(canny, tmp_path):
    image = Image.fromarray(IMAGE)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as turned:
        assert canny(turned).shape == (40, 24)


def test_more_images_than_a_batch_come_back_in_order(canny):
    images = [IMAGE[:, : index + 1] for index in range(40)]
    assert [pixels.shape[1] for pixels in canny(images)] == list(range(1, 41))


@pytest.mark.parametrize("given", [3, [3], [None]])
def test_what_is_no_image_is_refused(canny, given):
    with pytest.raises(ConfigError, match="expected an"):
        canny(given)


def test_a_file_that_is_no_image_is_named(canny, tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("no picture")
    with pytest.raises(ImageError, match=r"notes\.png"):
        canny(path)


def test_an_unknown_setting_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'low'"):
        load("canny", lo=3)


def test_alpha_in_an_array_is_composited_on_white_as_in_a_file(canny, tmp_path):
    alpha = np.zeros((24, 40, 1), np.uint8)
    alpha[6:18, 10:30] = 255
    rgba = np.concatenate([IMAGE, alpha], axis=2)
    Image.fromarray(rgba).save(tmp_path / "ring.png")
    on_white = np.where(alpha > 0, IMAGE, 255).astype(np.uint8)
    for given in (rgba, tmp_path / "ring.png", Image.fromarray(rgba)):
        assert np.array_equal(canny(given), canny(on_white))


def test_an_array_of_images_is_a_sequence_of_images(canny):
    maps = canny(np.stack([IMAGE, IMAGE[::-1]]))
    assert [np.array_equal(m, canny(i)) for m, i in zip(maps, (IMAGE, IMAGE[::-1]), strict=True)]
    assert isinstance(maps, list)


@pytest.mark.parametrize(
    "given",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
    ids=str,
)
def test_an_array_that_is_no_picture_is_refused_with_its_shape_and_type(canny, given):
    with pytest.raises(ConfigError, match=r"expected an array .* got shape .* of \w+"):
        canny(given)


@pytest.mark.parametrize("method", ["predict", "annotate"])
@pytest.mark.parametrize(
    "given", [IMAGE, "photo.jpg", Image.fromarray(IMAGE)], ids=["array", "path", "Pillow"]
)
def test_one_image_is_no_sequence_of_images(canny, method, given):
    with pytest.raises(ConfigError, match="put it into a list"):
        getattr(canny, method)(given)


def test_predictions_are_raw_and_at_the_images_own_size(canny):
    first, second = canny.predict(iter([IMAGE, IMAGE[:10]]))
    assert isinstance(first, EdgeStrength)
    assert np.array_equal(first.strength > 0, EXPECTED > 0)
    assert second.size_hw == (10, 40)


def test_predictions_are_drawn_again_without_predicting(canny, monkeypatch):
    predictions = canny.predict([IMAGE])
    monkeypatch.setattr(canny.annotator, "predict", None)
    (drawn,) = canny.render(predictions)
    assert np.array_equal(drawn.pixels, EXPECTED)
    (changed,) = canny.render([EdgeStrength(np.zeros((3, 5), np.float32))])
    assert changed.pixels.shape == (3, 5)


def test_predictions_of_another_kind_are_refused(canny):
    with pytest.raises(ConfigError, match="expected predictions of EdgeStrength, got InverseDepth"):
        canny.render([InverseDepth(np.zeros((3, 5), np.float32))])


def test_maps_come_with_what_was_counted_and_what_they_mean(canny):
    (drawn,) = canny.annotate([IMAGE])
    assert np.array_equal(drawn.pixels, EXPECTED)
    assert drawn.facts == {"edge_fraction": np.mean(EXPECTED > 0)}
    assert drawn.spec == canny.spec
    assert "Canny" in canny.source


def test_a_condition_is_closed_at_the_end_of_its_block_and_loads_again(monkeypatch):
    with load("canny", low=50) as canny:
        assert np.array_equal(canny(IMAGE), EXPECTED)
        assert canny.annotator._detectors
    assert not canny.annotator._detectors
    assert np.array_equal(canny(IMAGE), EXPECTED)
    canny.close()


def test_a_random_drawing_made_from_predictions_is_that_of_the_image():
    condition = LoadedCondition(Annotator(RANDOM))
    images = [IMAGE, IMAGE[::-1]]
    predictions = condition.predict(images)
    drawn = condition.render(predictions, images)
    for one, other in zip(drawn, condition.annotate(images), strict=True):
        assert np.array_equal(one.pixels, other.pixels)
    assert not np.array_equal(drawn[0].pixels, drawn[1].pixels)
    with pytest.raises(ConfigError, match="expected 2 images beside the predictions, got 0"):
        condition.render(predictions)
