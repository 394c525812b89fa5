from __future__ import annotations

import cv2
import numpy as np
import pytest

from condkit.annotators import load


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({}, (100, 200, None, 3, False)),
        ({"low": 20, "high": 60}, (20, 60, None, 3, False)),
        ({"aperture": 5, "low": 900, "high": 2000}, (900, 2000, None, 5, False)),
        ({"l2": True}, (100, 200, None, 3, True)),
    ],
)
def test_the_map_is_opencvs_canny_on_the_colour_image(settings, arguments, shapes):
    low, high, _, aperture, l2 = arguments
    expected = cv2.Canny(shapes, low, high, apertureSize=aperture, L2gradient=l2)
    assert expected.any()
    assert np.array_equal(load("canny", **settings)(shapes), expected)


def test_colours_of_equal_brightness_have_an_edge():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, :16] = (200, 0, 0)
    image[:, 16:] = (0, 102, 0)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    assert not cv2.Canny(grey, 100, 200).any()
    assert load("canny")(image).any()


def test_photographs_are_as_opencv_sees_them(photograph):
    for name in ("coral_parrot.jpg", "cn11_bedroom.jpg", "cn_house.png"):
        image = photograph(name, (320, 448))
        assert np.array_equal(load("canny")(image), cv2.Canny(image, 100, 200))
