from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from condkit.annotators.nets.aux_networks import network_class
from condkit.annotators.palettes import palette, palette_of_weights
from condkit.errors import MapError, UnknownNameError

ROAD, SKYSCRAPER = 6, 48
SIZES = {"ade20k": 150, "coco": 133}


def _colours(name):
    return [tuple(colour) for colour in palette(name).colours.tolist()]


def test_the_ade20k_palette_is_controlnet_auxs():
    theirs = network_class("util", "ade_palette")()
    assert palette("ade20k").colours.tolist() == theirs


@pytest.mark.parametrize("name", SIZES)
def test_a_palette_names_and_colours_all_classes(name):
    found = palette(name)
    assert found.name == name
    assert found.colours.shape == (SIZES[name], 3)
    assert len(found.classes) == len(set(found.classes)) == SIZES[name]
    assert (0, 0, 0) not in _colours(name)  # black is "no class"


def test_road_and_skyscraper_alone_share_a_colour_in_ade20k():
    colours = _colours("ade20k")
    assert colours[ROAD] == colours[SKYSCRAPER] == (140, 140, 140)
    assert len(set(colours)) == 149
    assert palette("ade20k").classes[ROAD] == "road"
    assert palette("ade20k").classes[SKYSCRAPER] == "skyscraper"


def test_cocos_colours_are_all_different_and_share_one_with_ade20k():
    coco = _colours("coco")
    assert len(set(coco)) == 133
    assert len(set(coco) & set(_colours("ade20k"))) == 1


@pytest.mark.parametrize(
    ("name", "index", "class_name", "colour"),
    [
        ("ade20k", 0, "wall", (120, 120, 120)),
        ("ade20k", 2, "sky", (6, 230, 230)),
        ("ade20k", 12, "person", (150, 5, 61)),
        ("ade20k", 149, "flag", (92, 0, 255)),
        ("coco", 0, "person", (220, 20, 60)),
        ("coco", 79, "toothbrush", (191, 162, 208)),
        ("coco", 80, "banner", (255, 255, 128)),
        ("coco", 119, "sky-other-merged", (70, 130, 180)),
        ("coco", 132, "rug-merged", (250, 141, 255)),
    ],
)
def test_classes_stand_at_their_published_places(name, index, class_name, colour):
    found = palette(name)
    assert found.classes[index] == class_name
    assert _colours(name)[index] == colour


@pytest.mark.parametrize("name", SIZES)
@given(data=st.data())
def test_what_is_painted_can_be_read_back_up_to_shared_colours(name, data):
    found = palette(name)
    shapes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=8)
    ids = data.draw(hnp.arrays(np.int32, shapes, elements=st.integers(-1, len(found.classes) - 1)))
    painted = found.paint(ids)
    assert painted.shape == (*ids.shape, 3)
    assert painted.dtype == np.uint8
    assert (painted[ids == -1] == 0).all()
    expected = np.where((name == "ade20k") & (ids == SKYSCRAPER), ROAD, ids)
    assert np.array_equal(found.read(painted), expected)


def test_a_colour_of_no_class_is_read_as_none():
    pixels = np.array([[[1, 2, 3], [120, 120, 120], [121, 120, 120]]], np.uint8)
    assert palette("ade20k").read(pixels).tolist() == [[-1, 0, -1]]


@pytest.mark.parametrize("wrong", [-2, 150])
def test_an_id_that_is_no_class_is_refused(wrong):
    with pytest.raises(MapError, match="expected class ids from -1 to 149"):
        palette("ade20k").paint(np.full((2, 2), wrong, np.int32))


def test_a_palette_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="read-only"):
        palette("coco").colours[0] = 0


def test_weights_name_their_palette():
    assert palette_of_weights("coco") is palette("coco")
    assert palette_of_weights("ade20k-b5") is palette("ade20k")
    with pytest.raises(UnknownNameError, match="palette 'large'"):
        palette_of_weights("large")
