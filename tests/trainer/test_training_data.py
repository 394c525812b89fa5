"""Crops, flips, captions, hints and the order of samples."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condkit.errors import DatasetError, TrainingError
from condkit.trainer import noise
from condkit.trainer.config import DataConfig
from condkit.trainer.data import (
    BatchLoader,
    ExampleMaker,
    hint_from_map,
    pixels_from_image,
)
from condkit.trainer.mixing import Order, Sampler
from condkit.trainer.sources import RowsFeed
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


def grid_pair(height: int, width: int, key: str = "k") -> Pair:
    """A picture whose every pixel tells its place, as image and as map."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([y, x, (y + 3 * x) % 256], axis=2).astype(np.uint8)
    return Pair(key, picture, maps={"grid": picture.copy()})


def maker(unit: int = 8, spec: ConditionSpec = SPEC, seed: int = 0, **data) -> ExampleMaker:
    return ExampleMaker(spec, DataConfig(**data), seed, unit)


def loader_of(rows, batch_size: int, make: ExampleMaker, prefetch: int = 0, workers: int = 2):
    sampler = Sampler(Order((1.0,), 0), batch_size)
    return BatchLoader([RowsFeed(rows, 0)], sampler, [make], prefetch, workers)


@given(
    st.integers(16, 60),
    st.integers(16, 60),
    st.integers(0, 50),
    st.sampled_from(["random", "center"]),
)
@settings(max_examples=60)
def test_a_picture_that_is_also_its_map_stays_aligned_pixel_by_pixel(height, width, use, crop):
    make = maker(resolution=16, crop=crop, flip=0.5)
    example = make(grid_pair(height, width), use)
    assert example.pixels.shape == example.hint.shape == (3, 16, 16)
    np.testing.assert_array_equal(
        np.rint((example.pixels + 1) * 127.5), np.rint(example.hint * 255)
    )


def test_crop_and_flip_are_what_the_example_says():
    make = maker(resolution=16, flip=0.5)
    pair, flips, boxes = grid_pair(40, 48), set(), set()
    for use in range(40):
        example = make(pair, use)
        top, left, height, width = example.box
        cut = pair.image[top : top + height, left : left + width]
        shown = cut[:, ::-1] if example.flipped else cut
        np.testing.assert_array_equal(example.hint, hint_from_map(shown))
        flips.add(example.flipped)
        boxes.add(example.box)
    assert flips == {True, False}
    assert len(boxes) > 20


def test_the_central_crop_repeats_and_a_random_one_does_not():
    pair = grid_pair(40, 48)
    assert maker(resolution=16, crop="center")(pair, 0).box == (12, 16, 16, 16)
    assert maker(resolution=16, crop="center")(pair, 0).crop_repeats
    assert not maker(resolution=16, crop="random")(pair, 0).crop_repeats
    assert maker(resolution=16, crop="random")(grid_pair(16, 16), 0).crop_repeats


def test_without_a_resolution_the_largest_crop_that_the_model_takes_is_used():
    assert maker(unit=8)(grid_pair(21, 47), 0).box[2:] == (16, 40)


def test_half_of_the_captions_are_dropped_and_anew_at_each_use():
    make = maker(caption_dropout=0.5)
    pairs = [grid_pair(8, 8, key=f"row{i}") for i in range(50)]
    dropped = np.array([[make(p, use).caption == "" for use in range(40)] for p in pairs])
    assert abs(dropped.mean() - 0.5) < 0.03
    # No row is always dropped or always kept, as when a cache froze the draw.
    assert dropped.mean(axis=1).min() > 0
    assert dropped.mean(axis=1).max() < 1


@pytest.mark.parametrize(("probability", "left"), [(0.0, "a caption"), (1.0, "")])
def test_dropout_of_none_and_of_all(probability, left):
    assert all(
        maker(caption_dropout=probability)(grid_pair(8, 8), use).caption == left
        for use in range(20)
    )


def test_a_hint_is_rgb_from_zero_to_one():
    grey = np.array([[0, 51, 255]], np.uint8)
    hint = hint_from_map(grey)
    assert hint.dtype == np.float32
    np.testing.assert_array_equal(hint, np.float32([[[0, 0.2, 1]]] * 3))
    colour = np.zeros((1, 1, 3), np.uint8)
    colour[0, 0] = (255, 0, 51)
    assert hint_from_map(colour)[:, 0, 0].tolist() == np.float32([1, 0, 0.2]).tolist()
    deep = np.array([[0, 65535]], np.uint16)
    assert hint_from_map(deep)[0].tolist() == [[0.0, 1.0]]


def test_pixels_go_from_minus_one_to_one():
    image = np.zeros((1, 2, 3), np.uint8)
    image[0, 1] = 255
    assert pixels_from_image(image)[:, 0].tolist() == [[-1.0, 1.0]] * 3


@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 5))
def test_every_row_is_used_once_per_epoch(count, batch_size, seed):
    sampler, feed = Sampler(Order((1.0,), seed), batch_size), RowsFeed([None] * count, seed)
    places = [place for cursor in range(3 * count) for place in sampler(cursor)]
    stream = [feed.place(place.position) for place in places]
    for epoch in range(3):
        rows = stream[epoch * count : (epoch + 1) * count]
        assert sorted(row for row, _ in rows) == list(range(count))
        assert {use for _, use in rows} == {epoch}


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [tuple(noise.permutation(seed, epoch, 50)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4


@pytest.mark.parametrize(("prefetch", "workers"), [(0, 1), (1, 1), (5, 2), (5, 7)])
def test_a_batch_is_the_same_from_wherever_the_run_goes_on(prefetch, workers):
    rows = [grid_pair(24, 24, key=f"row{i}") for i in range(7)]
    make = maker(resolution=16)
    loader = loader_of(rows, 3, make, prefetch, workers)
    whole = list(loader.batches(0, 9))
    parts = list(loader.batches(0, 4)) + list(loader.batches(4, 9))
    assert len(whole) == len(parts) == 9
    for one, other in zip(whole, parts, strict=True):
        assert [(e.key, e.use, e.box, e.flipped, e.caption) for e in one] == [
            (e.key, e.use, e.box, e.flipped, e.caption) for e in other
        ]


def test_a_loader_that_is_closed_early_stops():
    rows = [grid_pair(8, 8)]
    batches = loader_of(rows, 1, maker(), 2).batches(0, 10_000)
    next(batches)
    batches.close()


def test_random_numbers_depend_on_seed_purpose_sample_and_use_alone():
    drawn = noise.normal(1, "noise", "a", 2, (4, 3))
    noise.normal(1, "noise", "b", 2, (100,))
    np.testing.assert_array_equal(drawn, noise.normal(1, "noise", "a", 2, (4, 3)))
    others = [
        noise.normal(*key, (4, 3))
        for key in (
            (2, "noise", "a", 2),
            (1, "crop", "a", 2),
            (1, "noise", "b", 2),
            (1, "noise", "a", 3),
        )
    ]
    assert all(not np.array_equal(drawn, other) for other in others)


def test_random_numbers_never_change_between_releases():
    # A resumed run must meet the numbers it began with; see `noise.SCHEME`.
    assert noise.timestep(0, "key", 0, 1000) == 76
    assert noise.normal(0, "noise", "key", 0, (3,)).tolist() == pytest.approx(
        [-0.07932015, -0.74285287, -1.03563035], abs=1e-7
    )


def test_timesteps_cover_the_whole_schedule_evenly():
    drawn = np.array([noise.timestep(0, f"row{i}", 0, 10) for i in range(5000)])
    counts = np.bincount(drawn, minlength=10)
    assert len(counts) == 10
    assert abs(counts - 500).max() < 100


def test_a_resolution_that_the_model_cannot_have_is_refused_with_two_that_it_can():
    with pytest.raises(
        TrainingError, match=r"data\.resolution=100: .* multiples of 64 .* 64 or 128"
    ):
        maker(unit=64, resolution=100)


def test_a_picture_smaller_than_the_crop_is_named():
    with pytest.raises(TrainingError, match=r"row small has height and width \(24, 40\)"):
        maker(resolution=32)(grid_pair(24, 40, key="small"), 0)


def test_pictures_of_different_size_need_a_resolution():
    rows = [grid_pair(16, 16, "one"), grid_pair(16, 24, "other")]
    loader = loader_of(rows, 2, maker())
    with pytest.raises(TrainingError, match=r"differ in size.*set data\.resolution"):
        list(loader.batches(0, 1))


def test_a_map_that_is_missing_or_of_another_size_names_the_row():
    picture = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(DatasetError, match="row bare: there is no map 'grid'"):
        maker()(Pair("bare", picture), 0)
    with pytest.raises(DatasetError, match="row bad"):
        maker()(Pair("bad", picture, maps={"grid": picture[:8]}), 0)
