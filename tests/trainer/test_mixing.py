"""Several datasets with weights, and several captions per row."""

from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condkit.errors import ConfigError, TrainingError
from condkit.trainer.data_config import DataConfig, SourceConfig
from condkit.trainer.examples import ExampleMaker
from condkit.trainer.mixing import Order
from condkit.trainer.recipes import load_recipe
from condkit.trainer.sources import LazyRow
from condkit.trainer.training_data import _check_alike, new_loader, open_training_data
from condkit.types import ConditionSpec

SPEC = ConditionSpec(
    name="seg", channels=3, dtype="uint8", meaning="colours", background=0, resample="nearest"
)


class Pictures:
    def __init__(self, value=0):
        self.value = value

    def image(self):
        return np.full((16, 16, 3), self.value, np.uint8)

    def map(self):
        return np.zeros((16, 16, 3), np.uint8)


def test_datasets_are_drawn_as_often_as_their_weights_say():
    order = Order((3.0, 1.0), 7)
    drawn = Counter(place.dataset for place in order.places(0, 20_000))
    assert drawn[0] / 20_000 == pytest.approx(0.75, abs=0.01)


def test_each_dataset_is_gone_through_in_order():
    places = Order((1.0, 2.0, 0.5), 1).places(0, 9000)
    for dataset in range(3):
        positions = [place.position for place in places if place.dataset == dataset]
        assert positions == list(range(len(positions)))


@given(st.integers(0, 12_000), st.integers(0, 200), st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_a_place_is_the_same_whoever_asks_and_when(start, length, seed):
    weights = (1.0, 2.0)
    whole = Order(weights, seed).places(0, start + length)
    order = Order(weights, seed)
    assert order.places(start, start + length) == whole[start:]
    assert order.places(0, 10) == whole[:10] or start + length < 10


def test_seeds_have_orders_of_their_own():
    one, other = (Order((1.0, 1.0), seed).places(0, 100) for seed in (0, 1))
    assert one != other


def test_every_caption_of_a_row_is_used_and_anew_at_each_use():
    row = LazyRow("k", "seg", Pictures(), ("one", "two", "three"))
    make = ExampleMaker(SPEC, DataConfig(caption_dropout=0.5), 0, 8)
    seen = Counter(make(row, use).caption for use in range(3000))
    assert seen[""] / 3000 == pytest.approx(0.5, abs=0.02)
    for caption in ("one", "two", "three"):
        assert seen[caption] / 3000 == pytest.approx(1 / 6, abs=0.02)
    assert make(row, 17).caption == make(row, 17).caption


def test_a_mix_is_trained_on_and_knows_its_datasets(dataset, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(dataset, other)
    config = load_recipe(
        "canny", {"data.batch_size": "4", "data.resolution": "none", "data.weight": "3"}
    )
    mixed = SourceConfig(path=str(other), weight=1.0)
    data = DataConfig(**{**_fields(config.data), "mix": (mixed,)})
    config = type(config)(**{**_fields(config), "data": data})
    opened = open_training_data(config, dataset)
    assert [source.weight for source in opened.sources] == [3.0, 1.0]
    assert opened.fingerprint != open_training_data(load_recipe("canny"), dataset).fingerprint
    loader = new_loader(opened, config, 8)
    batches = list(loader.batches(0, 30))
    contents = Counter(e.content.split(":")[0] for batch in batches for e in batch)
    # Equal manifests would be one dataset; the order of each is its own all the same.
    assert sum(contents.values()) == 120
    again = list(new_loader(opened, config, 8).batches(11, 13))
    assert [e.key for b in again for e in b] == [e.key for b in batches[11:13] for e in b]


def _fields(instance):
    return {name: getattr(instance, name) for name in instance.__slots__}


def test_a_recipe_file_names_the_datasets_of_a_mix(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'condition = "canny"\n[data]\nweight = 2\n'
        '[[data.mix]]\npath = "photos"\nweight = 0.5\n[[data.mix]]\npath = "owner/name"\n'
        'image_column = "jpg"\nstreaming = true\n'
    )
    config = load_recipe(str(path))
    assert [source.path for source in config.data.mix] == ["photos", "owner/name"]
    assert config.data.mix[1].streaming
    assert config.data.main.weight == 2
    assert load_recipe(str(path), {"data.mix": "none"}).data.mix is None
    path.write_text('condition = "canny"\n[[data.mix]]\nweight = 0.5\n')
    with pytest.raises(ConfigError, match=r"data\.mix\[0\]\.path: expected a folder"):
        load_recipe(str(path))
    path.write_text('condition = "canny"\n[[data.mix]]\npath = "x"\nweight = 0\n')
    with pytest.raises(ConfigError, match=r"data\.weight: expected more than 0"):
        load_recipe(str(path))


class Source:
    def __init__(self, name, **changes):
        self.name = name
        self.spec = ConditionSpec.from_dict({**SPEC.as_dict(), **changes})


def test_maps_of_different_kinds_are_not_mixed(caplog):
    with pytest.raises(TrainingError, match=r"different kinds: channels: 3 and 1"):
        _check_alike(Source("one"), Source("other", channels=1))
    normal = {"flip": "mirror-normal-x"}
    with pytest.raises(TrainingError, match=r"meaning: 'red is left' and 'blue is left'"):
        _check_alike(
            Source("one", **normal, meaning="red is left"),
            Source("other", **normal, meaning="blue is left"),
        )
    # Two palettes in one model are what ControlNet 1.1 was trained on.
    _check_alike(Source("one", meaning="ADE20K"), Source("other", meaning="COCO"))
    assert "mean different things" in caplog.text
