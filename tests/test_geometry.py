"""Promises of the pure geometry: nothing is stretched, images and maps stay aligned."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from condkit.errors import ConfigError
from condkit.geometry import (
    Transform,
    center_crop_box,
    crop_to,
    fit_square,
    hflip,
    pad_to_multiple,
    padded_size,
    resize,
    size_for_short_side,
)

SIDES = st.integers(1, 90)
SHAPES = st.sampled_from([(), (3,), (1,)])
DTYPES = st.sampled_from([np.uint8, np.uint16, np.float32])


def noise(shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


def grid(height, width):
    """The centre of each pixel as (x, y)."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    return np.stack([x, y], axis=-1)


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 1024))
def test_the_short_side_is_exact_and_the_aspect_kept_to_half_a_pixel(height, width, short):
    new_height, new_width = size_for_short_side((height, width), short)
    assert min(new_height, new_width) == short
    scale = short / min(height, width)
    assert abs(new_height - height * scale) <= 0.5
    assert abs(new_width - width * scale) <= 0.5


@given(SIDES, SIDES, SHAPES, DTYPES, SIDES, SIDES, st.sampled_from(["image", "area", "bilinear"]))
def test_resize_gives_size_type_and_channels_and_leaves_its_input(
    height, width, channels, dtype, new_height, new_width, how
):
    pixels = noise((height, width, *channels), dtype)
    before = pixels.copy()
    resized = resize(pixels, (new_height, new_width), how)
    assert resized.shape == (new_height, new_width, *channels)
    assert resized.dtype == dtype
    assert resized.flags.c_contiguous
    assert not np.shares_memory(resized, pixels)
    np.testing.assert_array_equal(pixels, before)


@given(SIDES, SIDES, SIDES, SIDES, DTYPES)
def test_a_flat_image_stays_flat_whatever_the_size(height, width, new_height, new_width, dtype):
    for how in ("image", "area", "bilinear", "nearest"):
        flat = resize(np.full((height, width), 77, dtype), (new_height, new_width), how)
        np.testing.assert_allclose(flat, 77, rtol=1e-5)


@given(SIDES, SIDES, SIDES, SIDES)
def test_nearest_makes_no_new_values_and_takes_the_closest_centre(h, w, new_h, new_w):
    labels = np.arange(h * w, dtype=np.int32).reshape(h, w)
    resized = resize(labels, (new_h, new_w), "nearest")
    assert np.isin(resized, labels).all()
    wanted = (grid(new_h, new_w) * (w / new_w, h / new_h)).reshape(-1, 2)
    got = np.stack([resized % w, resized // w], axis=-1).reshape(-1, 2) + 0.5
    assert np.abs(got - wanted).max() <= 0.5 + 1e-3


def test_shrinking_an_image_averages_instead_of_skipping_lines():
    lines = np.zeros((64, 64, 3), np.uint8)
    lines[::4] = 255
    assert np.ptp(resize(lines, (16, 16), "image")) <= 1


@given(SIDES, SIDES, st.integers(1, 40))
def test_fit_square_moves_image_and_map_alike(height, width, size):
    image = noise((height, width, 3))
    square, transform = fit_square(image, size)
    assert square.shape == (size, size, 3)
    assert square.flags.c_contiguous
    mapped = transform.apply(grid(height, width), "bilinear")
    x0, y0, x1, y1 = transform.crop_xyxy
    centres = grid(size, size) / transform.scale_hw[::-1] + (x0, y0)
    inside = np.clip(centres, (x0 + 0.5, y0 + 0.5), (x1 - 0.5, y1 - 0.5))
    np.testing.assert_allclose(mapped, inside, atol=0.02)
    red = transform.apply(image[..., 0], "image")
    assert np.abs(red.astype(int) - square[..., 0]).max() <= 1


@given(SIDES, SIDES, st.integers(1, 40))
def test_fit_square_keeps_the_whole_short_side_the_middle_and_the_aspect(height, width, size):
    _, transform = fit_square(noise((height, width, 3)), size)
    x0, y0, x1, y1 = transform.crop_xyxy
    assert (x1 - x0, y1 - y0) == (min(height, width),) * 2
    assert abs(x0 - (width - x1)) <= 1
    assert abs(y0 - (height - y1)) <= 1
    assert transform.scale_hw[0] == transform.scale_hw[1]


@given(SIDES, SIDES)
def test_a_square_of_its_own_size_is_the_plain_crop(height, width):
    image = noise((height, width, 3))
    square, transform = fit_square(image, min(height, width))
    x0, y0, x1, y1 = transform.crop_xyxy
    np.testing.assert_array_equal(square, image[y0:y1, x0:x1])


@pytest.mark.parametrize("shape", [(1, 2000, 3), (2000, 1, 3), (1, 1, 3), (3, 5000, 3)])
def test_very_thin_images_work(shape):
    square, _ = fit_square(noise(shape), 64)
    assert square.shape == (64, 64, 3)
    padded, hw = pad_to_multiple(noise(shape), 64)
    assert crop_to(padded, hw).shape == shape


def test_a_transform_survives_json():
    _, transform = fit_square(noise((30, 47, 3)), 16)
    again = Transform.from_dict(json.loads(json.dumps(transform.as_dict())))
    assert again == transform
    assert hash(again) == hash(transform)


@given(SIDES, SIDES, SHAPES, st.sampled_from([1, 8, 14, 32, 64]), DTYPES)
def test_padding_repeats_the_edge_and_cropping_takes_it_off(h, w, channels, multiple, dtype):
    pixels = noise((h, w, *channels), dtype)
    padded, hw = pad_to_multiple(pixels, multiple)
    assert padded.shape[:2] == padded_size((h, w), multiple)
    assert padded.shape[0] % multiple == padded.shape[1] % multiple == 0
    assert padded.shape[0] - h < multiple
    assert padded.shape[1] - w < multiple
    np.testing.assert_array_equal(crop_to(padded, hw), pixels)
    rows = np.minimum(np.arange(padded.shape[0]), h - 1)
    columns = np.minimum(np.arange(padded.shape[1]), w - 1)
    np.testing.assert_array_equal(padded, pixels[rows[:, None], columns])


@given(SIDES, SIDES, SHAPES)
def test_two_flips_are_none_and_one_puts_the_first_column_last(height, width, channels):
    pixels = noise((height, width, *channels), np.uint16)
    flipped = hflip(pixels)
    assert flipped.flags.c_contiguous
    np.testing.assert_array_equal(flipped[:, -1], pixels[:, 0])
    np.testing.assert_array_equal(hflip(flipped), pixels)


def test_the_odd_pixel_of_a_centre_crop_is_left_on_the_right_and_bottom():
    assert center_crop_box((5, 8), (2, 3)) == (2, 1, 5, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: size_for_short_side((0, 5), 8), "size: expected"),
        (lambda: size_for_short_side((5, 5), 0), "short side: expected at least 1"),
        (lambda: resize(noise((4, 4)), (0, 4), "image"), "size: expected"),
        (lambda: resize(noise((4, 4)), (2, 2), "sinc"), "how: expected image, area"),
        (lambda: resize(noise((4,)), (2, 2), "image"), "expected an array"),
        (lambda: resize(noise((0, 4)), (2, 2), "image"), "at least one pixel"),
        (lambda: center_crop_box((4, 4), (5, 1)), "does not fit into 4x4"),
        (lambda: fit_square(noise((4, 4, 3)), 0), "size: expected at least 1"),
        (lambda: pad_to_multiple(noise((4, 4)), 0), "multiple: expected at least 1"),
        (lambda: crop_to(noise((4, 4)), (5, 4)), "cannot crop"),
        (lambda: hflip(noise((4,))), "expected an array"),
        (
            lambda: fit_square(noise((4, 6, 3)), 2)[1].apply(noise((6, 4)), "nearest"),
            "expected an array of",
        ),
        (
            lambda: Transform(source_hw=(4, 4), crop_xyxy=(0, 0, 5, 4), size_hw=(2, 2)),
            "expected a box inside of 4x4",
        ),
        (lambda: Transform.from_dict({"source_hw": [4, 4]}), "does not fit"),
    ],
)
def test_impossible_geometry_is_named(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
