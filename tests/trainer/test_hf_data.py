"""Hugging Face datasets: columns of any name, folders of any kind, whole and streamed."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condkit.annotators.registry import available_conditions, get_condition
from condkit.errors import ConfigError, DatasetError, ImageError, TrainingError, UnknownNameError
from condkit.imageio import encode_png
from condkit.trainer.data_config import SpecConfig
from condkit.trainer.examples import ExampleMaker
from condkit.trainer.hf_files import fitted
from condkit.trainer.known_conditions import spec_of
from condkit.trainer.recipes import load_recipe
from condkit.trainer.streaming import StreamFeed
from condkit.trainer.train import train
from condkit.trainer.training_data import new_loader, open_training_data


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Prepared tables of the tests stay out of the user's cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def picture(seed, size=(64, 64)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def edges(seed, size=(64, 64)):
    return np.random.default_rng(seed + 99).choice(np.array([0, 255], np.uint8), size)


def jpeg(pixels, orientation=None):
    from PIL import Image

    image, exif = Image.fromarray(pixels), Image.Exif()
    if orientation:
        exif[274] = orientation
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


def table_of(count=6, captions=None):
    import datasets

    rows = {
        "image": [{"bytes": encode_png(picture(i)), "path": None} for i in range(count)],
        "conditioning_image": [{"bytes": encode_png(edges(i)), "path": None} for i in range(count)],
        "text": captions or [f"caption {i}" for i in range(count)],
    }
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "conditioning_image": datasets.Image(),
            "text": datasets.Value("string")
            if isinstance(rows["text"][0], str)
            else datasets.List(datasets.Value("string")),
        }
    )
    return datasets.Dataset.from_dict(rows, features=features)


def write_image_folder(folder, count=6):
    """What datasets' "imagefolder" reads, as fill50k's successors are laid out."""
    for split, first in (("train", 0), ("validation", 100)):
        lines = []
        for i in range(first, first + count):
            for kind, data in (("image", encode_png(picture(i))), ("edge", encode_png(edges(i)))):
                path = folder / split / kind / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            lines.append(
                {
                    "file_name": f"image/{i}.png",
                    "edge_file_name": f"edge/{i}.png",
                    "words": f"caption {i}",
                }
            )
        table = folder / split / "metadata.jsonl"
        table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def config_of(**settings):
    usual = {"data.batch_size": "2", "data.resolution": "none", "data.prefetch": "0"}
    changed = {name.replace("__", "."): value for name, value in settings.items()}
    return load_recipe("canny", {**usual, **changed})


NAMED = {
    "data__image_column": "image",
    "data__condition_column": "edge",
    "data__caption_column": "words",
}


def samples(source, config, data, count):
    """Key, use, caption, box, flip and hint of the first samples."""
    loader = new_loader(data, config, 8)
    return [
        (e.key, e.use, e.caption, e.box, e.flipped, e.hint.tobytes())
        for batch in loader.batches(source, source + count)
        for e in batch
    ]


def test_pictures_and_maps_come_from_the_named_columns_and_validation_is_shown(tmp_path):
    folder = write_image_folder(tmp_path / "data")
    config = config_of(**NAMED, data__flip="0", data__caption_dropout="0")
    opened = open_training_data(config, folder)
    (source,) = opened.sources
    assert len(source.rows) == 6
    by_text = {row.text: row for row in source.rows}
    for i in range(6):
        row = by_text[f"caption {i}"]
        np.testing.assert_array_equal(row.image, picture(i))
        np.testing.assert_array_equal(row.maps["canny"], edges(i))
    shown = {opened.preview_rows[i].text for i in range(len(opened.preview_rows))}
    assert shown == {f"caption {i}" for i in range(100, 106)}


def test_usual_column_names_are_found_and_others_are_asked_for(tmp_path):
    table_of().save_to_disk(tmp_path / "saved")
    opened = open_training_data(config_of(), tmp_path / "saved")
    assert opened.sources[0].rows[2].text == "caption 2"
    renamed = table_of().rename_columns({"conditioning_image": "hints", "text": "words"})
    renamed.save_to_disk(tmp_path / "renamed")
    with pytest.raises(DatasetError, match=r"data\.condition_column .* image, hints, words"):
        open_training_data(config_of(), tmp_path / "renamed")
    with pytest.raises(UnknownNameError, match=r"'hint'; did you mean 'hints'"):
        open_training_data(config_of(data__condition_column="hint"), tmp_path / "renamed")
    settings_ = {"data__condition_column": "hints", "data__caption_column": "words"}
    assert open_training_data(config_of(**settings_), tmp_path / "renamed").rows == 6


def test_a_split_that_is_not_there_is_named(tmp_path):
    folder = write_image_folder(tmp_path / "data")
    with pytest.raises(UnknownNameError, match=r"split in .*'trian'; did you mean 'train'"):
        open_training_data(config_of(**NAMED, data__split="trian"), folder)


def test_parquet_and_paths_in_text_columns_are_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "data"
    (folder / "pictures").mkdir(parents=True)
    for i in range(3):
        (folder / "pictures" / f"{i}.png").write_bytes(encode_png(picture(i)))
        (folder / "pictures" / f"{i}-edges.png").write_bytes(encode_png(edges(i)))
    rows = {
        "image": [f"pictures/{i}.png" for i in range(3)],
        "conditioning_image": [f"pictures/{i}-edges.png" for i in range(3)],
        "text": ["a", "b", None],
    }
    pq.write_table(pa.table(rows), folder / "train.parquet")
    opened = open_training_data(config_of(), folder)
    row = opened.sources[0].rows[1]
    np.testing.assert_array_equal(row.image, picture(1))
    np.testing.assert_array_equal(row.maps["canny"], edges(1))
    assert opened.sources[0].rows[2].text == ""
    (folder / "pictures" / "1.png").unlink()
    with pytest.raises(DatasetError, match=r"row 1, column 'image': cannot read .*1\.png"):
        opened.sources[0].rows[1]


def test_several_captions_of_a_row_are_all_used(tmp_path):
    table_of(2, [["one", "two"], ["three"]]).save_to_disk(tmp_path / "saved")
    opened = open_training_data(config_of(), tmp_path / "saved")
    make = ExampleMaker(opened.spec, config_of(data__caption_dropout="0").data, 0, 8)
    row = opened.sources[0].rows[0]
    assert {make(row, use).caption for use in range(30)} == {"one", "two"}


def test_orientation_is_obeyed_and_grey_jpegs_are_grey(tmp_path):
    import datasets

    # Stored lying, shown upright.
    stored = np.zeros((32, 64, 3), np.uint8)
    stored[:, :8] = 255
    hint = np.zeros((64, 32, 3), np.uint8)
    hint[:8] = 255
    cells = {
        "image": [{"bytes": jpeg(stored, orientation=6), "path": None}],
        "conditioning_image": [{"bytes": jpeg(hint), "path": None}],
        "text": ["x"],
    }
    kinds = {name: datasets.Image() for name in ("image", "conditioning_image")}
    features = datasets.Features({**kinds, "text": datasets.Value("string")})
    table = datasets.Dataset.from_dict(cells, features=features)
    table.save_to_disk(tmp_path / "saved")
    opened = open_training_data(config_of(), tmp_path / "saved")
    row = opened.sources[0].rows[0]
    assert row.image.shape == (64, 32, 3)
    assert row.maps["canny"].shape == (64, 32)
    make = ExampleMaker(opened.spec, config_of(data__flip="0").data, 0, 32)
    example = make(row, 0)
    assert abs(example.picture[0, :7].mean() - 1) < 0.1
    assert abs(example.hint[0, :7].mean() - 1) < 0.1
    assert example.time_ids == (64, 32, 0, 0, 64, 32)


def test_a_map_of_another_size_needs_leave_and_one_of_another_shape_is_refused(tmp_path):
    import datasets

    def saved(name, map_hw):
        cells = {
            "image": [{"bytes": encode_png(picture(0)), "path": None}],
            "conditioning_image": [{"bytes": encode_png(edges(0, map_hw)), "path": None}],
            "text": ["x"],
        }
        kinds = {name: datasets.Image() for name in ("image", "conditioning_image")}
        features = datasets.Features({**kinds, "text": datasets.Value("string")})
        table = datasets.Dataset.from_dict(cells, features=features)
        table.save_to_disk(tmp_path / name)
        return tmp_path / name

    small = saved("small", (32, 32))
    with pytest.raises(DatasetError, match=r"\(64, 64\) and its map \(32, 32\).*resize=cover"):
        dict(open_training_data(config_of(), small).sources[0].rows[0].maps)
    settings_ = {"data__resolution": "64", "data__resize": "cover"}
    row = open_training_data(config_of(**settings_), small).sources[0].rows[0]
    np.testing.assert_array_equal(row.maps["canny"], edges(0, (32, 32)).repeat(2, 0).repeat(2, 1))
    wide = saved("wide", (32, 64))
    with pytest.raises(DatasetError, match="another shape"):
        dict(open_training_data(config_of(**settings_), wide).sources[0].rows[0].maps)


def test_what_the_maps_mean_is_known_by_name_or_given():
    for name in available_conditions():
        ours, theirs = spec_of(name, None).as_dict(), get_condition(name).spec.as_dict()
        if theirs["flip"] == "mirror-normal-x":
            # Which of two protocols a foreign dataset has, its name does not tell.
            assert ours.pop("meaning") == "surface normals, RGB"
            theirs.pop("meaning")
        assert ours == theirs
    with pytest.raises(ConfigError, match=r"'cany' is none .* did you mean 'canny'.*data\.spec"):
        spec_of("cany", None)
    given_ = spec_of("heat", SpecConfig(channels=1, resample="bilinear", meaning="degrees"))
    assert (given_.name, given_.channels, given_.meaning) == ("heat", 1, "degrees")
    with pytest.raises(TrainingError, match=r"data\.spec\.meaning"):
        ExampleMaker(spec_of("normal", None), config_of().data, 0, 8)


def test_maps_are_brought_to_their_conditions_channels_or_refused():
    grey, colour = spec_of("canny", None), spec_of("seg", None)
    assert fitted(np.zeros((2, 2, 3), np.uint8), grey).shape == (2, 2)
    assert fitted(np.zeros((2, 2), np.uint8), colour).shape == (2, 2, 3)
    painted = np.zeros((2, 2, 3), np.uint8)
    painted[0, 0] = (255, 0, 0)
    with pytest.raises(ImageError, match="got one with colours"):
        fitted(painted, grey)
    with pytest.raises(ImageError, match="expected uint8 for 'canny', got uint16"):
        fitted(np.zeros((2, 2), np.uint16), grey)
    with pytest.raises(ImageError, match=r"expected 4 channel\(s\) for 'inpaint', got 3"):
        fitted(painted, spec_of("inpaint", None))


class Numbers:
    """A stream of numbered rows in shards."""

    def __init__(self, sizes):
        self.sizes, self.made = sizes, 0

    @property
    def shards(self):
        return len(self.sizes)

    def read(self, shard):
        first = sum(self.sizes[:shard])
        yield from range(first, first + self.sizes[shard])

    def row(self, raw, number):
        self.made += 1
        return raw


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any),
    st.integers(1, 12),
    st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_a_stream_gives_every_row_once_per_epoch_and_goes_on_anywhere(sizes, window, seed):
    count = sum(sizes)
    whole = StreamFeed(Numbers(sizes), seed, window)
    stream = [whole.at(position) for position in range(3 * count)]
    for epoch in range(3):
        part = stream[epoch * count : (epoch + 1) * count]
        assert sorted(row for row, _ in part) == list(range(count))
        assert {use for _, use in part} == {epoch}
    for position in {0, count // 2, count - 1, count, 2 * count + count // 3}:
        resumed = StreamFeed(Numbers(sizes), seed, window)
        assert [resumed.at(p) for p in range(position, 3 * count)] == stream[position:]
    # Threads ask in any order near each other.
    backwards = StreamFeed(Numbers(sizes), seed, window)
    assert [backwards.at(p) for p in reversed(range(3 * count))] == stream[::-1]


def test_epochs_and_seeds_of_a_stream_differ_and_passing_over_decodes_nothing():
    feed = StreamFeed(Numbers([50, 50]), 0, 10)
    first = [feed.at(p)[0] for p in range(100)]
    second = [feed.at(p)[0] for p in range(100, 200)]
    other = StreamFeed(Numbers([50, 50]), 1, 10)
    assert len({tuple(first), tuple(second), tuple(other.at(p)[0] for p in range(100))}) == 3
    numbers = Numbers([50, 50])
    StreamFeed(numbers, 0, 10).at(95)
    assert numbers.made <= 20


def test_an_empty_stream_says_so():
    with pytest.raises(DatasetError, match="has no rows"):
        StreamFeed(Numbers([0]), 0, 4).at(0)


def test_a_streamed_folder_is_shuffled_and_resumes(tmp_path):
    folder = write_image_folder(tmp_path / "data", count=8)
    config = config_of(**NAMED, data__streaming="true", data__shuffle_buffer="3")
    opened = open_training_data(config, folder)
    assert opened.sources[0].rows is None
    whole = samples(0, config, opened, 12)
    assert {use for _, use, *_ in whole} == {0, 1, 2}
    for epoch in range(3):
        assert len({key for key, use, *_ in whole if use == epoch}) == 8
    threaded = config_of(
        **NAMED, data__streaming="true", data__shuffle_buffer="3", data__prefetch="4"
    )
    again = open_training_data(threaded, folder)
    assert samples(5, threaded, again, 7) == whole[10:]
    assert again.fingerprint == opened.fingerprint
    assert len(opened.preview_rows) == config.preview.pairs


def test_a_run_on_a_stream_resumes_exactly(tmp_path, epsilon_base, small_run):
    folder = write_image_folder(tmp_path / "data")
    options = {"base": str(epsilon_base), "device": "cpu", "dtype": "fp32"}
    config = small_run(**NAMED, run__steps="2", data__streaming="true", checkpoint__every="1")
    train(config, folder, tmp_path / "stream", **options)
    half = small_run(**NAMED, run__steps="1", data__streaming="true", checkpoint__every="1")
    train(half, folder, tmp_path / "half", **options)
    train(config, folder, tmp_path / "half", resume=True, **options)
    weights = [
        (tmp_path / name / "controlnet" / "diffusion_pytorch_model.safetensors").read_bytes()
        for name in ("stream", "half")
    ]
    assert weights[0] == weights[1]


def test_a_folder_that_is_no_dataset_says_what_would_be_one(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"cannot be read as a dataset .* made by condkit build"):
        open_training_data(config_of(), tmp_path / "empty")
