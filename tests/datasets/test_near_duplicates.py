"""Near copies and the largest pictures: compared with brute force, and on real photographs."""

from __future__ import annotations

import io
import itertools
import random

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from condkit import geometry, imageio
from condkit.datasets import near_duplicates
from condkit.datasets.examining import Examined, Examiner
from condkit.datasets.filters import FilterSettings
from condkit.datasets.near_duplicates import MOST_BITS, keep_first, perceptual_hash
from condkit.errors import ImageError
from condkit.sizing import SizePolicy

CANON = st.integers(0, 2**64 - 1)


def _brute_force(hashes, most_bits):
    """The definition, word by word."""
    kept = []
    for place, value in enumerate(hashes):
        if all((value ^ hashes[other]).bit_count() > most_bits for other in kept):
            kept.append(place)
    instead, bits = [], []
    for place, value in enumerate(hashes):
        if place in kept:
            instead.append(-1)
            bits.append(0)
        else:
            best = min(((value ^ hashes[other]).bit_count(), other) for other in kept)
            bits.append(best[0])
            instead.append(best[1])
    return instead, bits


def _changed(value, draw, most):
    for _ in range(draw.randint(0, most)):
        value ^= 1 << draw.randrange(64)
    return value


def _family(seed, count, centres, most):
    """Hashes that lie around a few centres."""
    draw = random.Random(seed)
    middles = [draw.getrandbits(64) for _ in range(centres)]
    return [_changed(draw.choice(middles), draw, most) for _ in range(count)]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(0, 120),
    st.integers(1, 12),
    st.integers(0, 12),
    st.integers(0, MOST_BITS),
)
def test_the_same_are_kept_as_by_comparing_all_with_all(seed, count, centres, most, bits):
    hashes = _family(seed, count, centres, most)
    instead, distances = keep_first(np.array(hashes, np.uint64), bits)
    assert (instead.tolist(), distances.tolist()) == _brute_force(hashes, bits)


@given(st.lists(st.one_of(st.sampled_from([0, 1, 3, 2**64 - 1]), CANON), max_size=40))
def test_extreme_hashes_are_compared_too(hashes):
    instead, distances = keep_first(np.array(hashes, np.uint64), 2)
    assert (instead.tolist(), distances.tolist()) == _brute_force(hashes, 2)


@pytest.mark.parametrize("bits", [0, 3, 4, 7, 10])
def test_chunks_do_not_change_what_is_kept(bits, monkeypatch):
    hashes = np.array(_family(bits, 3000, 60, 9), np.uint64)
    whole = keep_first(hashes, bits)
    monkeypatch.setattr(near_duplicates, "_CHUNK", 128)
    monkeypatch.setattr(near_duplicates, "_PAIRS", 300)
    monkeypatch.setattr(near_duplicates, "_SMALLEST_CHUNK", 4)
    parts = keep_first(hashes, bits)
    assert np.array_equal(whole[0], parts[0])
    assert np.array_equal(whole[1], parts[1])
    assert (whole[0] >= 0).any()


def test_no_two_of_a_large_set_that_are_kept_are_near():
    draw = np.random.default_rng(0)
    hashes = draw.integers(0, 2**64, 60_000, np.uint64)
    copies = draw.permutation(60_000)[:20_000]
    hashes[copies] = hashes[draw.integers(0, 60_000, 20_000)]
    for _ in range(4):
        hashes[copies] ^= np.uint64(1) << draw.integers(0, 64, 20_000, np.uint64)
    instead, distances = keep_first(hashes, 4)
    left_out = np.flatnonzero(instead >= 0)
    assert len(left_out) > 12_000
    kept_instead = instead[left_out]
    assert (instead[kept_instead] < 0).all()
    differ = np.bitwise_count(hashes[left_out] ^ hashes[kept_instead])
    assert np.array_equal(differ, distances[left_out])
    assert differ.max() <= 4
    kept = np.flatnonzero(instead < 0)
    assert (keep_first(hashes[kept], 4)[0] < 0).all()


# The hash.


def _scene(seed):
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (6, 7, 3), np.uint8)
    return cv2.resize(coarse, (210, 180), interpolation=cv2.INTER_CUBIC)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_other_pictures_have_far_hashes(one, other):
    distance = (perceptual_hash(_scene(one)) ^ perceptual_hash(_scene(other))).bit_count()
    assert (distance == 0) if one == other else (distance > MOST_BITS)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(64, 500), st.integers(-15, 15))
def test_size_and_brightness_hardly_change_a_hash(seed, side, brighter):
    image = _scene(seed).astype(int) // 2 + 60
    copy = np.clip(image + brighter, 0, 255).astype(np.uint8)
    copy = geometry.resize(copy, geometry.size_for_short_side(copy.shape[:2], side), "image")
    first, second = perceptual_hash(image.astype(np.uint8)), perceptual_hash(copy)
    assert (first ^ second).bit_count() <= 4


@pytest.mark.parametrize("level", [0, 127, 255])
def test_a_flat_picture_has_no_hash(level):
    assert perceptual_hash(np.full((80, 100, 3), level, np.uint8)) is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (3, 5), (2000, 1)])
def test_odd_shapes_are_hashed_or_flat(shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    value = perceptual_hash(noise)
    assert value is None or 0 <= value < 2**64


def _jpeg(image, quality):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


COPIES = {
    "a half": lambda image: geometry.resize(image, _part(image, 2), "image"),
    "a quarter": lambda image: geometry.resize(image, _part(image, 4), "image"),
    "JPEG at 10": lambda image: imageio.decode(_jpeg(image, 10), at_least=64).image,
    "brighter": lambda image: np.clip(image.astype(int) + 20, 0, 255).astype(np.uint8),
    "darker": lambda image: (image * 0.8).astype(np.uint8),
    "grey": lambda image: np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None], 3, 2),
    "blurred": lambda image: cv2.GaussianBlur(image, (0, 0), 2),
}


def _part(image, parts):
    return max(1, image.shape[0] // parts), max(1, image.shape[1] // parts)


@pytest.fixture(scope="module")
def photographs(assets):
    paths = sorted(path for path in (assets / "photos").iterdir() if path.suffix != ".json")
    images = {path.name: imageio.decode(path, at_least=256).image for path in paths}
    return {name: (image, perceptual_hash(image)) for name, image in images.items()}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_of_real_photographs_are_near(photographs, copy):
    for name, (image, value) in photographs.items():
        distance = (value ^ perceptual_hash(COPIES[copy](image))).bit_count()
        assert distance <= 4, (name, distance)


def test_different_real_photographs_are_far(photographs):
    near = {
        (one, other)
        for one, other in itertools.combinations(photographs, 2)
        if (photographs[one][1] ^ photographs[other][1]).bit_count() <= 4
    }
    # The same photograph at two sizes.
    assert near == {("coral_cat_1080p.jpg", "coral_cat_720p.jpg")}


# The examiner.


def _examined(pixels, phash="00"):
    return Examined(pixels, 1, None if phash is None else phash.rjust(16, "0"))


def _left_out(settings, rows, too_small=None):
    return dict(Examiner(settings, too_small).select(rows))


def test_the_copy_with_most_pixels_is_kept_then_the_first_by_name():
    rows = [
        (0, "small.jpg", _examined(100, "f0")),
        (1, "b.jpg", _examined(900, "f1")),
        (2, "a.jpg", _examined(900, "f3")),
        (3, "other.jpg", _examined(50, "ffff0000")),
    ]
    found = _left_out(FilterSettings(near_duplicates=4), rows)
    assert set(found) == {0, 1}
    assert found[1] == (
        "is a near copy of a.jpg, which is kept: their perceptual hashes differ in 1 of 64 bits, "
        "within near_duplicates=4"
    )
    assert "near copy of a.jpg" in found[0]
    assert "differ in 2 of 64 bits" in found[0]


def test_flat_pictures_are_no_copies_of_each_other():
    rows = [(n, f"{n}.png", _examined(10, None)) for n in range(5)]
    assert _left_out(FilterSettings(near_duplicates=4), rows) == {}


def test_the_largest_are_kept_without_copies_being_counted():
    rows = [
        (0, "d", _examined(10, "ff")),
        (1, "c", _examined(30, "ff0000")),
        (2, "b", _examined(20, "ff0001")),
        (3, "a", _examined(10, "ff00000000")),
        (4, "e", _examined(5, "ff000000000000")),
    ]
    found = _left_out(FilterSettings(near_duplicates=4, keep_largest=2), rows)
    assert set(found) == {2, 0, 4}
    assert "near copy of c" in found[2]
    assert found[0] == "has 10 pixels and is not among the 2 largest pictures (keep_largest)"


def test_what_is_left_out_for_its_own_size_takes_part_in_nothing():
    rows = [
        (0, "huge.png", Examined(9000, 10, "0" * 16)),
        (1, "good.png", Examined(600, 600, "0" * 16)),
        (2, "tiny.png", Examined(20, 600, "f" * 16)),
    ]
    settings = FilterSettings(near_duplicates=4, keep_largest=1, max_aspect=3)
    found = _left_out(settings, rows, SizePolicy(size=500, enlarge=False).too_small)
    assert set(found) == {0, 2}
    assert "max_aspect=3" in found[0]
    assert "max_aspect=3" in found[2]
    small = _left_out(FilterSettings(keep_largest=5), rows, SizePolicy(enlarge=False).too_small)
    assert set(small) == {0, 2}
    assert "enlarged" in small[2]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 4),
            st.one_of(st.none(), st.sampled_from(["00", "01", "ff", "f00"])),
            st.text(min_size=1, max_size=3),
        ),
        max_size=25,
        unique_by=lambda row: row[2],
    ),
    st.randoms(),
)
def test_the_order_does_not_matter(pictures, draw):
    rows = [(n, name, _examined(pixels, phash)) for n, (pixels, phash, name) in enumerate(pictures)]
    settings = FilterSettings(near_duplicates=1, keep_largest=3)
    found = _left_out(settings, rows)
    draw.shuffle(rows)
    assert _left_out(settings, rows) == found
    assert len(rows) - len(found) <= 3


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        (FilterSettings(), False),
        (FilterSettings(min_side=512, drop_empty=True), False),
        (FilterSettings(near_duplicates=0), True),
        (FilterSettings(keep_largest=7), True),
    ],
)
def test_all_pictures_are_looked_at_only_where_a_limit_needs_it(settings, needed):
    assert Examiner(settings).is_needed == needed


def test_a_picture_is_examined_upright_and_by_its_pixels(tmp_path):
    image = _scene(5)
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(image).copy()).save(path, quality=95, exif=exif)
    png = io.BytesIO()
    Image.fromarray(image).save(png, "PNG")
    examiner = Examiner(FilterSettings(near_duplicates=4))
    turned, plain = examiner.examine(path), examiner.examine(png.getvalue())
    assert (turned.width, turned.height) == (plain.width, plain.height) == (210, 180)
    assert (int(turned.phash, 16) ^ int(plain.phash, 16)).bit_count() <= 2
    header = Examiner(FilterSettings(keep_largest=1)).examine(path)
    assert header.phash is None
    assert header.width * header.height == 210 * 180


@pytest.mark.parametrize(
    "settings", [FilterSettings(near_duplicates=4), FilterSettings(keep_largest=1)]
)
@pytest.mark.parametrize("data", [b"", b"no picture"])
def test_what_is_no_picture_is_an_error(settings, data):
    with pytest.raises(ImageError):
        Examiner(settings).examine(data)


def test_a_truncated_picture_is_an_error_where_it_is_decoded():
    data = _jpeg(_scene(1), 90)
    with pytest.raises(ImageError):
        Examiner(FilterSettings(near_duplicates=4)).examine(data[: len(data) // 2])
