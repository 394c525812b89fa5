"""Weights without a published hash: the first file used becomes the pin."""

from __future__ import annotations

import hashlib
import json
import re
import threading

import pytest

from condkit.errors import WeightsError
from condkit.weights import HubFile, UrlFile, WeightStore
from condkit.weights.pins import PinBook

CONTENT = b"pretend these are weights " * 4000
NAME = "model.bin"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def unpinned(spec, server):
    server.files["/model"] = CONTENT
    return spec(UrlFile(server.address + "/model"), pinned=False)


def test_the_first_download_is_recorded_with_its_day_and_place(store, unpinned):
    assert store.pin(unpinned) is None
    store.path(unpinned)
    pin = store.pin(unpinned)
    assert pin.sha256 == DIGEST
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", pin.recorded)
    assert pin.source == unpinned.sources[0].url
    (entry,) = json.loads(store.pins.path.read_text()).values()
    assert entry == {"sha256": DIGEST, "recorded": pin.recorded, "source": pin.source}


def test_what_is_fetched_is_found_again_without_network(store, unpinned, server):
    path = store.path(unpinned)
    assert store.status(unpinned) == "present"
    assert WeightStore(cache=store.cache, offline=True).path(unpinned) == path
    assert len(server.asked) == 1


def test_another_file_later_is_an_error_that_says_what_was_recorded(store, unpinned, server):
    store.path(unpinned).unlink()
    server.files["/model"] = b"changed at the source"
    with pytest.raises(WeightsError) as caught:
        store.path(unpinned)
    for part in (
        hashlib.sha256(b"changed at the source").hexdigest(),
        DIGEST,
        "was recorded at its first use on",
        f'delete the entry "{unpinned.key}" of {store.pins.path}',
    ):
        assert part in str(caught.value)
    assert store.status(unpinned) == "missing"


def test_the_cure_that_the_error_names_works(store, unpinned, server):
    store.path(unpinned).unlink()
    server.files["/model"] = b"changed at the source"
    store.pins.path.write_text(
        json.dumps({k: v for k, v in json.loads(store.pins.path.read_text()).items() if k == ""})
    )
    assert store.path(unpinned).read_bytes() == b"changed at the source"


def test_a_damaged_copy_of_the_recorded_file_is_fetched_again(store, unpinned):
    kept = store.path(unpinned)
    kept.write_bytes(b"damaged")
    assert store.path(unpinned).read_bytes() == CONTENT


def test_a_file_of_an_override_folder_is_recorded_at_its_first_use(tmp_path, spec, put):
    path = put(tmp_path / "weights" / "deep" / NAME)
    store = WeightStore(overrides=(tmp_path / "weights",), cache=tmp_path / "cache", offline=True)
    unpinned = spec(HubFile("some/repo", NAME), pinned=False)
    assert store.path(unpinned) == path
    assert store.pin(unpinned).sha256 == DIGEST
    path.write_bytes(b"swapped")
    with pytest.raises(WeightsError, match="was recorded at its first use"):
        store.path(unpinned)


def test_the_recorded_file_is_found_among_others_of_its_name(tmp_path, spec, put):
    good = put(tmp_path / "weights" / "z" / NAME)
    store = WeightStore(overrides=(tmp_path / "weights",), cache=tmp_path / "cache", offline=True)
    store.path(spec(pinned=False))
    put(tmp_path / "weights" / "a" / NAME, b"of another model")
    assert store.path(spec(pinned=False)) == good


def test_of_different_files_without_a_hash_none_is_guessed(tmp_path, spec, put):
    put(tmp_path / "weights" / "a" / NAME)
    put(tmp_path / "weights" / "b" / NAME, b"of another model")
    store = WeightStore(overrides=(tmp_path / "weights",), cache=tmp_path / "cache", offline=True)
    with pytest.raises(WeightsError, match=r"these different files have its name: .*a.*b"):
        store.path(spec(pinned=False))


def test_a_known_size_excludes_other_files_of_the_name(tmp_path, spec, put):
    put(tmp_path / "weights" / "a" / NAME, b"of another model")
    good = put(tmp_path / "weights" / "b" / NAME)
    store = WeightStore(overrides=(tmp_path / "weights",), cache=tmp_path / "cache", offline=True)
    assert store.path(spec(pinned=False, size=len(CONTENT))) == good


def test_a_download_of_another_size_than_known_is_not_recorded(store, unpinned, spec):
    wanted = spec(*unpinned.sources, pinned=False, size=7)
    with pytest.raises(WeightsError, match=f"has {len(CONTENT)} bytes, expected 7"):
        store.path(wanted)
    assert store.pin(wanted) is None


def test_files_of_one_name_in_different_repositories_have_their_own_pins_and_places(
    store, server, spec
):
    server.files |= {"/a/model": b"a", "/b/model": b"b"}
    specs = [spec(UrlFile(f"{server.address}/{n}/model"), pinned=False) for n in "ab"]
    assert [store.path(each).read_bytes() for each in specs] == [b"a", b"b"]
    assert [store.path(each).read_bytes() for each in specs] == [b"a", b"b"]


def test_processes_that_record_at_once_lose_nothing(tmp_path):
    book = PinBook(tmp_path / "cache" / "pins.json")
    threads = [
        threading.Thread(target=book.record, args=(f"key{n}", f"{n:064x}", "here"))
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {n: book.get(f"key{n}").sha256 for n in range(12)} == {n: f"{n:064x}" for n in range(12)}


def test_who_records_second_gets_what_was_recorded_first(tmp_path):
    book = PinBook(tmp_path / "pins.json")
    first = book.record("key", "a" * 64, "here")
    assert book.record("key", "b" * 64, "there") == first


@pytest.mark.parametrize("text", ["{", "[]", '{"key": {}}', '{"key": {"sha256": "abc"}}'])
def test_a_damaged_book_of_pins_is_an_error_with_its_cure(store, unpinned, text, put):
    put(store.pins.path, text.encode())
    with pytest.raises(WeightsError, match=r"pins\.json: damaged .*Delete it"):
        store.path(unpinned)


def test_pins_that_cannot_be_written_still_let_local_files_be_used(tmp_path, spec, put, caplog):
    path = put(tmp_path / "weights" / NAME)
    put(tmp_path / "cache", b"a file where the folder should be")
    store = WeightStore(overrides=(tmp_path / "weights",), cache=tmp_path / "cache", offline=True)
    assert store.path(spec(pinned=False)) == path
    assert "cannot be recorded" in caplog.text
