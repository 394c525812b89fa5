"""Crops, flips, captions, hints and the order of samples."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from condkit.cli import app
from condkit.datasets.formats import available_formats
from condkit.errors import ConfigError, DatasetError, TrainingError
from condkit.trainer import noise
from condkit.trainer.batches import BatchLoader
from condkit.trainer.data import hint_from_map, pixels_from_image
from condkit.trainer.data_config import CacheConfig, DataConfig
from condkit.trainer.examples import ExampleMaker
from condkit.trainer.mixing import Order, Sampler
from condkit.trainer.recipes import load_recipe
from condkit.trainer.sources import RowsFeed
from condkit.trainer.training_data import new_loader, open_training_data
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


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Drawn scenes, some of them twice as wide, with two captions each."""
    from condkit.imageio import encode_png
    from condkit.scenes import draw_scene

    folder = tmp_path_factory.mktemp("pictures")
    for i in range(6):
        scene = draw_scene(np.random.default_rng([3, i]))
        image = np.concatenate([scene.image] * (1 + i % 2), axis=1)
        (folder / f"{i}.png").write_bytes(encode_png(image))
        captions = json.dumps({"caption": [scene.caption, f"drawing {i}"]})
        (folder / f"{i}.json").write_text(captions)
    return folder


def built(pictures, output, *options: str):
    result = CliRunner().invoke(
        app, ["build", str(pictures), "-o", str(output), "-c", "canny", "-q", *options]
    )
    assert result.exit_code == 0, result.output
    return output


def settings_of(**changes):
    usual = {"data.resolution": "none", "data.batch_size": "2", "data.flip": "0"}
    return load_recipe("canny", usual | {k.replace("__", "."): v for k, v in changes.items()})


@pytest.mark.parametrize("layout", available_formats())
def test_every_format_that_build_writes_is_trained_on(layout, pictures, tmp_path):
    data = built(pictures, tmp_path / "data", "--format", layout, "--size", "48")
    opened = open_training_data(settings_of(), data)
    rows = opened.sources[0].rows
    assert len(rows) == opened.rows == 6
    by_key = {row.key: row for row in rows}
    for i in range(6):
        file = (pictures / f"{i}.png").read_bytes()
        row = by_key[hashlib.sha256(file).hexdigest()]
        assert row.image.shape == (48, 48, 3)
        assert row.maps["canny"].shape == (48, 48)
        assert set(np.unique(row.maps["canny"])) <= {0, 255}
        assert row.facts["original_width"] == 64 * (1 + i % 2)
        assert f"drawing {i}" in row.captions or len(row.captions) == 1
    make = ExampleMaker(opened.spec, settings_of().data, 0, 16)
    wide = by_key[hashlib.sha256((pictures / "1.png").read_bytes()).hexdigest()]
    # The middle square of 64 of 64 x 128, at 48: three quarters of the whole.
    assert make(wide, 0).time_ids == (64, 128, 0, 24, 48, 48)


def test_pictures_of_many_sizes_train_in_buckets(pictures, tmp_path):
    data = built(pictures, tmp_path / "data", "--fit", "original")
    settings_ = settings_of(data__buckets="native", data__bucket_multiple="32")
    opened = open_training_data(settings_, data)
    loader = new_loader(opened, settings_, 16)
    shapes = {batch[0].size_hw for batch in loader.batches(0, 6)}
    assert shapes == {(64, 64), (64, 128)}
    with pytest.raises(TrainingError, match=r"set data\.resolution .*data\.buckets=native"):
        list(new_loader(opened, settings_of(), 16).batches(0, 9))


def test_condkits_own_datasets_are_not_streamed(dataset):
    with pytest.raises(ConfigError, match=r"data\.streaming: expected false for .*condkit build"):
        open_training_data(settings_of(data__streaming="true"), dataset)


def test_a_row_names_itself_when_its_files_are_broken(pictures, tmp_path):
    data = built(pictures, tmp_path / "data", "--format", "imagefolder")
    rows = open_training_data(settings_of(), data).sources[0].rows
    key = rows[0].key
    for path in (data / "train" / "canny").glob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DatasetError, match=rf"row {key}.*build the dataset again"):
        dict(rows[0].maps)


def test_every_setting_that_the_page_on_training_data_names_exists():
    page = (Path(__file__).parents[2] / "docs" / "training-data.md").read_text("utf-8")
    named = set(re.findall(r"`(data|cache)\.([a-z_]+)", page))
    assert len(named) > 15
    tables = {"data": DataConfig, "cache": CacheConfig}
    for table, name in named:
        assert name in tables[table].__slots__, f"{table}.{name}"
