"""Models of several files, as `from_pretrained` reads them."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from condkit.errors import WeightsError
from condkit.weights import UrlFile, WeightStore, hub_model

FILES = {
    "model.safetensors": b"weights" * 1000,
    "config.json": b"{}",
    "preprocessor_config.json": b"[]",
}
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def model():
    return hub_model(
        "some/repo",
        revision=REVISION,
        licence="MIT",
        commercial_use=True,
        origin="made up",
        sha256=hashlib.sha256(FILES["model.safetensors"]).hexdigest(),
        size=len(FILES["model.safetensors"]),
    )


@pytest.fixture
def offline(tmp_path):
    return WeightStore(overrides=(tmp_path / "mine",), cache=tmp_path / "cache", offline=True)


def _fill(put, folder, files=FILES):
    for name, content in files.items():
        put(folder / name, content)
    return folder


@pytest.mark.parametrize("place", ["some/repo", "repo", f"models--some--repo/snapshots/{REVISION}"])
def test_a_folder_of_ones_own_is_found_by_the_models_name(tmp_path, put, model, offline, place):
    folder = _fill(put, tmp_path / "mine" / place)
    assert offline.status(model) == "present"
    assert offline.folder(model) == folder


def test_the_models_folder_may_itself_be_the_one_that_is_named(tmp_path, put, model):
    folder = _fill(put, tmp_path / "mine" / "repo")
    store = WeightStore(overrides=(folder,), cache=tmp_path / "cache", offline=True)
    assert store.folder(model) == folder


def test_the_hubs_cache_is_used_as_it_is(tmp_path, hub, model, offline):
    places = {hub(name, content).parent for name, content in FILES.items()}
    assert offline.status(model) == "present"
    assert {offline.folder(model)} == places
    assert not (tmp_path / "cache" / "weights" / "models").exists()


def test_a_branch_in_the_hubs_cache_is_found_offline(hub, model, offline):
    model = hub_model("some/repo", licence="MIT", commercial_use=True, origin="made up")
    for name, content in FILES.items():
        path = hub(name, content, branch="main")
    assert offline.folder(model) == path.parent


def test_a_folder_with_other_weights_is_passed_over(tmp_path, put, hub, model, offline):
    _fill(put, tmp_path / "mine" / "some" / "repo", FILES | {"model.safetensors": b"other"})
    with pytest.raises(WeightsError, match=r"model\.safetensors is another file"):
        offline.folder(model)
    for name, content in FILES.items():
        path = hub(name, content)
    assert offline.folder(model) == path.parent


def test_a_folder_that_lacks_a_file_is_told_with_the_file(tmp_path, put, model, offline):
    _fill(put, tmp_path / "mine" / "repo", {"config.json": b"{}"})
    assert offline.status(model) == "missing"
    with pytest.raises(WeightsError) as caught:
        offline.folder(model)
    for part in (
        "the model some/repo (model.safetensors, config.json, preprocessor_config.json; 0.0 MB)",
        f"{tmp_path / 'mine' / 'repo'}: without model.safetensors, preprocessor_config.json",
        f"{tmp_path / 'mine' / 'some' / 'repo'}: not there",
        "network: not used",
        "into a folder some/repo (or repo) below",
        "one of its sources: Hugging Face hub some/repo.",
    ):
        assert part in str(caught.value)


def test_a_settings_file_that_changes_after_its_first_use_is_an_error(
    tmp_path, put, model, offline
):
    folder = _fill(put, tmp_path / "mine" / "some" / "repo")
    offline.folder(model)
    (folder / "config.json").write_text('{"hidden_size": 1}')
    with pytest.raises(WeightsError, match=r"config\.json .*was recorded at its first use"):
        offline.folder(model)


def _from_addresses(model, server):
    for name, content in FILES.items():
        server.files[f"/{name}"] = content
    files = [
        dataclasses.replace(file, sources=(UrlFile(f"{server.address}/{file.name}"),))
        for file in model.files
    ]
    return dataclasses.replace(model, files=tuple(files))


def test_files_from_different_places_come_together_in_one_folder(store, server, model):
    model = _from_addresses(model, server)
    folder = store.folder(model)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert store.status(model) == "present"
    assert WeightStore(cache=store.cache, offline=True).folder(model) == folder
    assert len(server.asked) == len(FILES)


def test_a_damaged_file_of_the_folder_is_fetched_again(store, server, model):
    model = _from_addresses(model, server)
    path = store.folder(model) / "model.safetensors"
    path.write_bytes(b"damaged")
    assert (store.folder(model) / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_folder_appears_only_when_all_of_it_is_there(store, server, model):
    model = _from_addresses(model, server)
    del server.files["/preprocessor_config.json"]
    with pytest.raises(WeightsError, match=r"preprocessor_config\.json: HTTPError"):
        store.folder(model)
    assert not list(store.cache_folder.glob("weights/models/*"))
    server.files["/preprocessor_config.json"] = FILES["preprocessor_config.json"]
    assert {path.name for path in store.folder(model).iterdir()} == FILES.keys()
    assert len([path for _, path in server.asked if path == "/model.safetensors"]) == 1


def test_a_model_is_fetched_from_a_mirror_once_and_then_found_offline(
    tmp_path, server, mirror_environment
):
    """Defects 25 and 26: the mirror of HF_ENDPOINT, a branch, and no network when it is there."""
    for name, content in FILES.items():
        server.files[f"/some/repo/resolve/main/{name}"] = content
    code = f"""
        from pathlib import Path
        from condkit.weights import WeightStore, hub_model
        model = hub_model("some/repo", licence="MIT", commercial_use=True, origin="made up")
        folder = WeightStore(cache=Path({str(tmp_path / "cache")!r})).folder(model)
        offline = WeightStore(cache=Path({str(tmp_path / "cache")!r}), offline=True)
        assert offline.folder(model) == folder
        print(folder)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        env=mirror_environment,
    )
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert folder.is_relative_to(tmp_path / "home")
    assert sum(method == "GET" for method, _ in server.asked) == len(FILES)
