"""Shapes of crops, batches of one shape, and what SDXL is told about them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condkit import geometry
from condkit.buckets import BUCKET_TABLES
from condkit.errors import ConfigError, DatasetError, TrainingError
from condkit.geometry import Transform
from condkit.trainer.buckets import BucketSampler, ShapeRule, shapes_of
from condkit.trainer.config import TrainConfig
from condkit.trainer.data_config import DataConfig
from condkit.trainer.examples import ExampleMaker
from condkit.trainer.mixing import Order, Place
from condkit.trainer.sources import DataSource, RowsFeed
from condkit.trainer.training_data import TrainingData, new_loader
from condkit.types import ConditionSpec

SPEC = ConditionSpec(
    name="grid",
    channels=3,
    dtype="uint8",
    meaning="every pixel differs from every other",
    background=0,
    resample="nearest",
)


@dataclass(frozen=True)
class Pair:
    key: str
    image: np.ndarray
    text: str = "a caption"
    maps: dict = field(default_factory=dict)
    facts: dict = field(default_factory=dict)


def grid_pair(height, width, key="k", **facts) -> Pair:
    y, x = np.mgrid[:height, :width]
    picture = np.stack([y % 256, x % 256, (y // 256 + 3 * (x // 256))], axis=2).astype(np.uint8)
    return Pair(key, picture, maps={"grid": picture.copy()}, facts=facts)


def source_of(rows, seed=0, weight=1.0, name="") -> DataSource:
    return DataSource(
        name=name or "rows",
        spec=SPEC,
        feed=RowsFeed(rows, seed, name),
        rows=rows,
        preview_rows=rows,
        fingerprint=f"hash of {name}",
        weight=weight,
    )


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 7), st.integers(0, 1000)
)
@settings(max_examples=60, deadline=None)
def test_every_row_comes_once_per_epoch_in_batches_of_one_shape(numbers, batch_size, seed):
    rows = [None] * len(numbers)
    feed = RowsFeed(rows, seed)
    sampler = BucketSampler(
        Order((1.0,), seed), batch_size, lambda place: numbers[feed.place(place.position)[0]]
    )
    uses = defaultdict(list)
    for cursor in range(4 * len(numbers)):
        batch = sampler(cursor)
        assert len(batch) == batch_size
        assert len({numbers[feed.place(place.position)[0]] for place in batch}) == 1
        for place in batch:
            row, use = feed.place(place.position)
            uses[row].append(use)
    # No row is left out, none repeats an epoch, and none runs ahead of its shape's others.
    for row, seen in uses.items():
        assert seen == list(range(len(seen))), row
    for shape in set(numbers):
        counts = [len(uses[row]) for row, number in enumerate(numbers) if number == shape]
        assert max(counts) - min(counts) <= 1


@given(st.integers(1, 5), st.integers(0, 30), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_a_resumed_run_and_several_ranks_see_the_batches_of_one_run(batch_size, start, ranks):
    numbers = [0, 1, 1, 2, 0, 0, 1, 2, 2, 2, 0]
    feed = RowsFeed([None] * len(numbers), 5)

    def sampler():
        return BucketSampler(
            Order((1.0,), 5), batch_size, lambda place: numbers[feed.place(place.position)[0]]
        )

    whole = sampler()
    batches = [whole(cursor) for cursor in range(start + 20)]
    resumed = sampler()
    assert [resumed(cursor) for cursor in range(start, start + 20)] == batches[start:]
    # Going back is possible, too.
    assert resumed(0) == batches[0]
    own = [sampler() for _ in range(ranks)]
    shared = [own[cursor % ranks](cursor) for cursor in range(start + 20)]
    assert shared == batches


def test_batches_of_a_mixed_dataset_are_made_and_aligned():
    sizes = [(64, 128), (128, 64), (64, 64), (64, 130), (70, 65)]
    rows = [grid_pair(*hw, key=f"row{i}") for i, hw in enumerate(sizes * 3)]
    config = TrainConfig(
        condition="grid", data=DataConfig(buckets="native", batch_size=2, prefetch=3)
    )
    loader = new_loader(TrainingData((source_of(rows),)), config, 16)
    shapes = Counter()
    for batch in loader.batches(0, 30):
        assert len({example.size_hw for example in batch}) == 1
        shapes[batch[0].size_hw] += 1
        for example in batch:
            assert example.picture.shape == example.hint.shape
            np.testing.assert_array_equal(
                np.rint((example.picture + 1) * 127.5), np.rint(example.hint * 255)
            )
    assert set(shapes) == {(64, 128), (128, 64), (64, 64)}
    assert [e.key for e in loader.batch(7)] == [e.key for e in next(loader.batches(7, 8))]


@given(st.integers(40, 300), st.integers(40, 300), st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_a_grid_stays_aligned_through_resize_bucket_crop_and_flip(height, width, use):
    pair = grid_pair(height, width)
    # The picture is resampled as the map is, so that they must stay equal to the bit.
    make = ExampleMaker(SPEC, DataConfig(resolution=64, resize="cover", flip=0.5), 3, 16)
    example = make(pair, use)
    assert example.size_hw == (64, 64)
    scaled = geometry.resize(pair.maps["grid"], example.picture_hw, "nearest")
    if example.flipped:
        mirror = np.ascontiguousarray(pair.maps["grid"][:, ::-1])
        scaled = geometry.resize(mirror, example.picture_hw, "nearest")[:, ::-1]
    top, left, h, w = example.box
    cut = scaled[top : top + h, left : left + w]
    cut = cut[:, ::-1] if example.flipped else cut
    np.testing.assert_array_equal(np.rint(example.hint * 255), cut.transpose(2, 0, 1))
    # Nothing is stretched: both sides are scaled alike, to a pixel.
    scale = max(64 / height, 64 / width)
    assert abs(example.picture_hw[0] - height * scale) <= 1
    assert abs(example.picture_hw[1] - width * scale) <= 1


@given(st.integers(64, 2000), st.integers(64, 2000))
@settings(max_examples=60, deadline=None)
def test_a_cover_holds_its_bucket_and_no_more(height, width):
    rule = ShapeRule(DataConfig(buckets="sd15", resize="cover"), 64)
    shape = rule((height, width), "k")
    assert shape.crop_hw in BUCKET_TABLES["sd15"]
    rest = [s - c for s, c in zip(shape.scaled_hw, shape.crop_hw, strict=True)]
    assert min(rest) == 0


def test_labels_keep_their_values_when_they_are_resized():
    labels = np.random.default_rng(0).choice(np.array([3, 90, 255], np.uint8), (50, 70, 3))
    pair = Pair("k", np.zeros((50, 70, 3), np.uint8), maps={"grid": labels})
    make = ExampleMaker(SPEC, DataConfig(resolution=96, resize="cover"), 0, 8)
    for use in range(5):
        seen = np.unique(np.rint(make(pair, use).hint * 255))
        assert set(seen.tolist()) <= {3, 90, 255}


def test_without_resizing_the_bucket_inside_that_keeps_most_is_cut():
    rule = ShapeRule(DataConfig(buckets="sdxl"), 32)
    assert rule((1024, 1024), "k").crop_hw == (1024, 1024)
    assert rule((832, 1216), "k").crop_hw == (832, 1216)
    with pytest.raises(TrainingError, match=r"row small has .* \(400, 500\).*data\.resize=cover"):
        rule((400, 500), "small")


def test_a_picture_smaller_than_every_native_bucket_is_named():
    rule = ShapeRule(DataConfig(buckets="native"), 8)
    sizes = [np.array([[64, 64], [200, 63], [64, 64]])]
    with pytest.raises(TrainingError, match=r"row number 1 .* lower data\.bucket_multiple"):
        shapes_of(rule, sizes)
    found = shapes_of(rule, [np.array([[64, 130], [70, 64], [65, 129]])])
    assert found.sizes == ((64, 64), (64, 128))
    assert found.numbers[0].tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"buckets": "sd15", "resolution": 512}, r"data\.buckets: .*set data\.resolution=none"),
        ({"resize": "cover"}, r"data\.resize: expected never"),
        ({"resize": "cover", "buckets": "native"}, r"data\.resize: expected never"),
        ({"buckets": "native", "streaming": True}, r"data\.buckets: expected none with streaming"),
        ({"bucket_multiple": 0}, r"data\.bucket_multiple: expected at least 1"),
        ({"workers": 0}, r"data\.workers: expected at least 1"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings_, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**settings_)


def test_a_table_that_the_base_cannot_have_is_refused():
    with pytest.raises(TrainingError, match=r"data\.buckets=sd15.*data\.buckets=native"):
        ShapeRule(DataConfig(buckets="sd15"), 77)


def facts_of(original_hw, transform: Transform) -> dict:
    return {
        "original_height": original_hw[0],
        "original_width": original_hw[1],
        "transform": json.dumps(transform.as_dict()),
    }


def test_sdxl_is_told_the_originals_size_and_the_place_of_the_crop_in_it():
    # A 600 x 900 original, its middle square of 600 at 64 pixels, a crop of 32 of that.
    transform = Transform(source_hw=(600, 900), crop_xyxy=(150, 0, 750, 600), size_hw=(64, 64))
    pair = grid_pair(64, 64, **facts_of((600, 900), transform))
    for flip in (0.0, 1.0):
        make = ExampleMaker(SPEC, DataConfig(resolution=32, flip=flip), 0, 8)
        for use in range(10):
            example = make(pair, use)
            top, left = example.box[:2]
            # At this scale the original has 64 x 96 pixels, and the square begins at 16.
            left = 96 - (16 + left) - 32 if flip else 16 + left
            assert example.time_ids == (600, 900, top, left, 32, 32)


def test_a_picture_resized_once_more_keeps_its_place():
    transform = Transform(source_hw=(600, 900), crop_xyxy=(150, 0, 750, 600), size_hw=(64, 64))
    pair = grid_pair(64, 64, **facts_of((600, 900), transform))
    make = ExampleMaker(
        SPEC, DataConfig(resolution=32, resize="cover", crop="center", flip=0.0), 0, 8
    )
    assert make(pair, 0).time_ids == (600, 900, 0, 8, 32, 32)


def test_a_transform_of_another_picture_is_an_error():
    transform = Transform(source_hw=(600, 900), crop_xyxy=(150, 0, 750, 600), size_hw=(48, 48))
    pair = grid_pair(64, 64, key="odd", **facts_of((600, 900), transform))
    make = ExampleMaker(SPEC, DataConfig(flip=0.0), 0, 8)
    with pytest.raises(DatasetError, match=r"row odd: its column transform ends at .*48"):
        make(pair, 0)
    broken = grid_pair(64, 64, key="odd", original_height=6, transform="{")
    with pytest.raises(DatasetError, match="row odd: its column transform is broken"):
        make(broken, 0)


def test_a_place_is_what_it_says():
    assert Order((1.0,), 0).places(5, 7) == [Place(0, 5), Place(0, 6)]
