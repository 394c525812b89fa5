from __future__ import annotations

import doctest

import cv2
import numpy as np
import pytest
from PIL import Image

import condkit
from condkit.annotators import load, loaded
from condkit.errors import ConfigError, ImageError, UnknownNameError

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
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
