"""Sizes of pictures and maps: one cut, one resize, never a stretch."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condkit import geometry
from condkit.buckets import BUCKET_TABLES, budget_buckets, nearest_bucket
from condkit.errors import ConfigError, ImageError, MapError
from condkit.geometry import Transform
from condkit.settings import from_mapping
from condkit.sizing import SizePolicy, fit_map

SIDES = st.integers(1, 3000)
SIZES = st.tuples(SIDES, SIDES)
CROPS = st.sampled_from(["center", "random", "top", "bottom", "left", "right"])
POLICIES = st.one_of(
    st.builds(SizePolicy, mode=st.just("square"), size=st.integers(1, 1200), crop=CROPS),
    st.builds(
        lambda size, multiple, crop: SizePolicy(
            mode="short_side", size=size * multiple, multiple=multiple, crop=crop
        ),
        st.integers(1, 70),
        st.sampled_from([1, 8, 64]),
        CROPS,
    ),
    st.builds(
        SizePolicy, mode=st.just("bucket"), buckets=st.sampled_from(["sd15", "sdxl"]), crop=CROPS
    ),
    st.builds(
        SizePolicy,
        mode=st.just("bucket"),
        buckets=st.just("budget"),
        size=st.integers(256, 1100),
        step=st.sampled_from([8, 16, 64]),
        max_aspect=st.one_of(st.none(), st.floats(1, 5)),
        crop=CROPS,
    ),
    st.builds(SizePolicy, crop=CROPS, mode=st.just("original"), multiple=st.just(1)),
)


@settings(max_examples=300)
@given(POLICIES, SIZES, st.text(max_size=8))
def test_a_picture_is_never_stretched(policy, hw, key):
    transform = policy.transform_for(hw, key=key)
    x0, y0, x1, y1 = transform.crop_xyxy
    height, width = y1 - y0, x1 - x0
    high, wide = transform.size_hw
    # Of the two sides of the part that is kept, one follows from the other up to half a pixel.
    exact = (height * wide / high, width * high / wide)
    assert abs(exact[0] - width) <= 0.5 or abs(exact[1] - height) <= 0.5 or min(width, height) == 1


@settings(max_examples=300)
@given(POLICIES, SIZES)
def test_as_much_is_kept_as_can_be(policy, hw):
    x0, y0, x1, y1 = policy.transform_for(hw, key="").crop_xyxy
    assert y1 - y0 == hw[0] or x1 - x0 == hw[1]


@settings(max_examples=200)
@given(POLICIES, SIZES)
def test_the_result_has_the_size_that_was_promised(policy, hw):
    got = policy.transform_for(hw, key="k").size_hw
    if policy.sizes:
        assert got in policy.sizes
    elif policy.mode == "original":
        assert got == hw
    else:
        assert min(got) == policy.size
        assert all(side % policy.multiple == 0 for side in got)


@settings(max_examples=100)
@given(SIZES, st.integers(1, 700))
def test_the_square_is_the_one_of_before(hw, size):
    hw = (hw[0] % 300 + 1, hw[1] % 300 + 1)
    image = np.random.default_rng(hw).integers(0, 256, (*hw, 3), np.uint8)
    pixels, transform = geometry.fit_square(image, size)
    ours = SizePolicy(size=size).transform_for(hw, key="anything")
    assert ours == transform
    assert np.array_equal(ours.apply(image, "image"), pixels)


@given(POLICIES, SIZES, st.text(max_size=8))
def test_a_transform_survives_json(policy, hw, key):
    transform = policy.transform_for(hw, key=key)
    assert Transform.from_dict(json.loads(json.dumps(transform.as_dict()))) == transform


@given(POLICIES)
def test_a_policy_is_made_again_from_what_it_says(policy):
    told = json.loads(json.dumps(policy.as_dict()))
    again = from_mapping(SizePolicy, told)
    assert again.as_dict() == told
    for hw in ((480, 640), (1300, 500)):
        assert again.transform_for(hw, key="a") == policy.transform_for(hw, key="a")


def test_random_places_depend_on_key_and_seed_alone():
    policy = SizePolicy(crop="random", size=100)
    boxes = [policy.transform_for((100, 900), key=str(n)).crop_xyxy for n in range(300)]
    assert boxes == [policy.transform_for((100, 900), key=str(n)).crop_xyxy for n in range(300)]
    lefts = [box[0] for box in boxes]
    assert len(set(lefts)) > 200
    assert min(lefts) < 40
    assert max(lefts) > 760
    assert abs(np.mean(lefts) - 400) < 50
    other = dataclasses.replace(policy, seed=1)
    assert [other.transform_for((100, 900), key=str(n)).crop_xyxy for n in range(300)] != boxes


@pytest.mark.parametrize(
    ("crop", "wide", "high"),
    [
        ("center", (20, 0), (0, 20)),
        ("left", (0, 0), (0, 20)),
        ("right", (41, 0), (0, 20)),
        ("top", (20, 0), (0, 0)),
        ("bottom", (20, 0), (0, 41)),
    ],
)
def test_a_crop_takes_the_end_it_names(crop, wide, high):
    policy = SizePolicy(size=10, crop=crop)
    assert policy.transform_for((10, 51), key="").crop_xyxy[:2] == wide
    assert policy.transform_for((51, 10), key="").crop_xyxy[:2] == high


def test_the_page_describes_every_setting_with_its_default():
    page = (Path(__file__).parents[1] / "docs" / "sizes.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", page.partition("## Settings")[2], re.M))
    fields = {field.name: field.default for field in dataclasses.fields(SizePolicy)}
    assert set(rows) == set(fields) - {"mode"}
    for name, told in rows.items():
        default = fields[name]
        if default is not None:
            assert told.strip("`") == json.dumps(default).strip('"'), name


# The tables as published.


def test_sd15_has_the_17_buckets_of_sd_scripts():
    table = BUCKET_TABLES["sd15"]
    assert len(table) == 17
    assert {(512, 512), (576, 448), (640, 384), (768, 320), (1024, 256)} <= set(table)
    assert all(h * w <= 512 * 512 and h % 64 == w % 64 == 0 for h, w in table)
    assert {(w, h) for h, w in table} == set(table)


def test_sdxl_has_the_40_sizes_of_its_paper():
    table = BUCKET_TABLES["sdxl"]
    assert len(set(table)) == len(table) == 40
    assert table[0] == (512, 2048)
    assert table[-1] == (2048, 512)
    assert {(1024, 1024), (896, 1152), (1216, 832), (704, 1344)} <= set(table)
    assert all(0.9 < h * w / 1024**2 <= 1.02 for h, w in table)
    assert all(h % 64 == w % 64 == 0 for h, w in table)


@given(st.integers(256, 1536), st.sampled_from([8, 32, 64]), st.floats(1, 4))
def test_a_budget_is_kept(size, step, aspect):
    found = budget_buckets(
        size**2, step=step, min_side=size // 2, max_side=2 * size, max_aspect=aspect
    )
    for height, width in found:
        assert height * width <= size**2
        assert height % step == width % step == 0
        assert size // 2 <= min(height, width)
        assert max(height, width) <= min(2 * size, aspect * min(height, width))
        # One of the sides is as long as the budget or the limit allows, given the other.
        longer = (height * (width + step), width * (height + step))
        assert max(longer) > size**2 or max(height, width) + step > 2 * size or height == width
    assert {(w, h) for h, w in found} == set(found)


@given(SIZES)
def test_the_nearest_bucket_cuts_off_least(hw):
    table = BUCKET_TABLES["sd15"]

    def lost(bucket):
        ratio = bucket[0] * hw[1] / (bucket[1] * hw[0])
        return abs(math.log(ratio))

    assert lost(nearest_bucket(hw, table)) <= min(map(lost, table)) + 1e-9


def test_upright_and_lying_pictures_are_treated_alike():
    for height, width in itertools.product((333, 512, 700, 1024), repeat=2):
        bucket = nearest_bucket((height, width), BUCKET_TABLES["sd15"])
        assert nearest_bucket((width, height), BUCKET_TABLES["sd15"]) == bucket[::-1]


# What is too small.


@pytest.mark.parametrize(
    ("policy", "hw", "words"),
    [
        (SizePolicy(enlarge=False), (511, 900), "enlarged to 512x512"),
        (SizePolicy(mode="short_side", size=64, enlarge=False), (63, 90), "has 90x63 pixels"),
        (SizePolicy(mode="bucket", buckets="sdxl", enlarge=False), (900, 900), "to 1024x1024"),
        (SizePolicy(mode="original", multiple=64), (63, 900), "no side of 63"),
    ],
)
def test_a_picture_that_is_too_small_is_refused_with_both_sizes(policy, hw, words):
    assert words in policy.too_small(hw)
    with pytest.raises(ImageError, match=words):
        policy.transform_for(hw, key="")


@given(SIZES)
def test_nothing_is_enlarged_unless_allowed(hw):
    policy = SizePolicy(mode="bucket", enlarge=False)
    if policy.too_small(hw) is None:
        transform = policy.transform_for(hw, key="")
        assert max(transform.scale_hw) <= 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"size": "0"}, "sizes.size: expected at least 1 pixel, got 0"),
        ({"mode": "squre"}, "did you mean 'square'"),
        ({"mode": "original", "size": "64"}, "sizes.size: expected to be left out"),
        ({"buckets": "sdxl"}, "sizes.buckets: expected to be left out with sizes.mode=square"),
        ({"mode": "bucket", "size": "768"}, "sizes.buckets=budget reads it"),
        ({"mode": "bucket", "buckets": "budget", "step": "12"}, "a multiple of 8 pixels, got 12"),
        ({"mode": "bucket", "buckets": "budget", "min_side": "900", "max_side": "800"}, "<= max"),
        ({"mode": "bucket", "buckets": "budget", "max_aspect": "0.5"}, "at least 1, got 0.5"),
        ({"mode": "bucket", "buckets": "budget", "min_side": "768", "max_side": "999"}, "lower"),
        ({"mode": "short_side", "multiple": "7"}, "expected a multiple of sizes.multiple=7"),
        ({"crop": "random", "seed": "-1"}, "sizes.seed"),
    ],
)
def test_a_mistake_is_refused_by_name(values, words):
    with pytest.raises(ConfigError, match=words):
        from_mapping(SizePolicy, values, where="sizes")


# Maps that exist already.


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.tuples(st.integers(2, 60), st.integers(2, 60)), POLICIES)
def test_a_map_of_its_pictures_size_goes_the_pictures_way(seed, hw, policy):
    pixels = np.random.default_rng(seed).integers(0, 256, hw, np.uint8)
    transform = policy.transform_for(hw, key=str(seed))
    fitted, note = fit_map(pixels, hw, transform, "nearest")
    assert note == ""
    assert np.array_equal(fitted, transform.apply(pixels, "nearest"))


@pytest.mark.parametrize("factor", [0.25, 0.5, 2, 3])
def test_a_map_of_another_size_and_the_same_shape_is_cut_where_its_picture_is(factor):
    hw = (240, 400)
    map_hw = (int(hw[0] * factor), int(hw[1] * factor))
    columns = (np.arange(map_hw[1]) + 0.5) / map_hw[1] * 255
    pixels = np.repeat(columns[None].astype(np.uint8), map_hw[0], axis=0)
    transform = SizePolicy(size=120, crop="right").transform_for(hw, key="")
    fitted, note = fit_map(pixels, hw, transform, "bilinear")
    assert note == f"map-of-{map_hw[1]}x{map_hw[0]}"
    assert fitted.shape == (120, 120)
    assert abs(int(fitted[60, 0]) - 255 * 160 / 400) < 4
    assert abs(int(fitted[60, -1]) - 254) < 4


def test_a_rounded_side_is_the_same_shape():
    transform = SizePolicy(size=64).transform_for((333, 500), key="")
    fitted, note = fit_map(np.zeros((341, 512), np.uint8), (333, 500), transform, "nearest")
    assert fitted.shape == (64, 64)
    assert note == "map-of-512x341"


@pytest.mark.parametrize(
    ("map_hw", "words"),
    [((500, 333), "lies on its side"), ((400, 400), "another picture's"), ((336, 500), "500x336")],
)
def test_a_map_of_another_shape_is_refused_with_both_sizes(map_hw, words):
    transform = SizePolicy(size=64).transform_for((333, 500), key="")
    with pytest.raises(MapError, match="500x333") as error:
        fit_map(np.zeros(map_hw, np.uint8), (333, 500), transform, "nearest")
    assert words in str(error.value)
