"""A small Hub on this machine: what the real client asks for, answered as the Hub answers.

Repositories, LFS objects and commits live in memory. Tests see what was asked, can make requests
fail, and can act at the moment a file arrives.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

WRITER, READER = "hf_writer", "hf_reader"
LARGE = (".parquet", ".png", ".tar", ".safetensors")
TREE_PAGE = 3
WRITES = ("POST", "PUT")


@dataclass
class Repository:
    """`files` by branch: path to (size, sha256 of LFS files or None, git hash, content or None)."""

    private: bool
    branches: dict = field(default_factory=lambda: {"main": {}})
    commits: list = field(default_factory=list)

    def put(self, path, content, branch="main", large=None):
        sha256 = hashlib.sha256(content).hexdigest()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        large = path.endswith(LARGE) if large is None else large
        self.branches[branch][path] = (len(content), sha256 if large else None, blob)


class StandIn(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = {}
        self.objects = {}
        self.asked = []
        self.failures = []
        self.ignored = set()
        self.xorbs = 0
        self.on_object = lambda count: None
        self.lock = threading.Lock()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def paths(self, method, part):
        return [path for kind, path in self.asked if kind == method and part in path]

    def fail_next(self, part, status, times=1):
        self.failures += [(part, status)] * times


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._handle()

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815

    def _handle(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub, path = self.server, urlsplit(self.path).path
        with hub.lock:
            hub.asked.append((self.command, self.path))
            failure = next((f for f in hub.failures if f[0] in path), None)
            if failure is not None:
                hub.failures.remove(failure)
        if failure is not None:
            return self._answer(failure[1], {"error": "made to fail"})
        if path.startswith(("/v1/", "/v2/")):
            return self._xet(path)
        if path.startswith("/objects/"):
            return self._object(path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in (WRITER, READER):
            words = "Invalid credentials in Authorization header"
            return self._answer(401, {"error": words}, {"X-Error-Message": words})
        if token == READER and self.command in WRITES:
            return self._answer(403, {"error": "this token may only read"})
        for pattern, method in ROUTES:
            if found := re.fullmatch(pattern, path):
                return method(self, *(unquote(part or "") for part in found.groups()))
        return self._answer(404, {"error": f"no {path}"})

    def _answer(self, status, value=None, headers=None):
        content = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _repository(self, kind, repo_id):
        found = self.server.repositories.get((kind, repo_id))
        if found is None:
            headers = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            self._answer(404, {"error": "Repository not found"}, headers)
        return found

    def whoami(self):
        self._answer(200, {"name": "me", "type": "user"})

    def create(self):
        wanted = json.loads(self.body)
        key = wanted["type"], f"{wanted['organization']}/{wanted['name']}"
        if key in self.server.repositories:
            return self._answer(409, {"error": "You already created this repo"})
        self.server.repositories[key] = Repository(wanted.get("visibility") == "private")
        return self._answer(200, {"url": f"{self.server.address}/{key[0]}s/{key[1]}"})

    def validate_yaml(self):
        words = json.loads(self.body)["content"]
        good = words.startswith("---\n")
        self._answer(200 if good else 400, {"errors": [] if good else [{"message": "no YAML"}]})

    def info(self, kind, repo_id):
        if found := self._repository(kind, repo_id):
            self._answer(200, {"id": repo_id, "private": found.private, "sha": "0" * 40})

    def tree(self, kind, repo_id, branch):
        if not (found := self._repository(kind, repo_id)):
            return
        files = sorted(found.branches[branch].items())
        start = int(parse_qs(urlsplit(self.path).query).get("start", ["0"])[0])
        entries = [{"type": "directory", "oid": "0" * 40, "path": "some-folder"}]
        for path, (size, sha256, blob) in files[start : start + TREE_PAGE]:
            lfs = {"lfs": {"oid": sha256, "size": size, "pointerSize": 130}} if sha256 else {}
            entries.append({"type": "file", "path": path, "size": size, "oid": blob, **lfs})
        more = start + TREE_PAGE
        here = f"{self.server.address}{urlsplit(self.path).path}?recursive=True&start={more}"
        link = {"Link": f'<{here}>; rel="next"'} if more < len(files) else {}
        self._answer(200, entries, link)

    def branch(self, kind, repo_id, branch):
        if found := self._repository(kind, repo_id):
            there = branch in found.branches
            found.branches.setdefault(branch, dict(found.branches["main"]))
            self._answer(409 if there else 200, {"error": "there already"} if there else {})

    def preupload(self, kind, repo_id, branch):
        if not (found := self._repository(kind, repo_id)):
            return
        files = []
        for file in json.loads(self.body)["files"]:
            known = found.branches[branch].get(file["path"])
            files.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": file["path"] in self.server.ignored,
                    "oid": known and (known[1] or known[2]),
                }
            )
        self._answer(200, {"files": files})

    def lfs_batch(self, prefix, repo_id):
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            upload = {"href": f"{self.server.address}/objects/{wanted['oid']}"}
            there = wanted["oid"] in self.server.objects
            objects.append({**wanted, **({} if there else {"actions": {"upload": upload}})})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _object(self, path):
        sha256 = path.rpartition("/")[2]
        if hashlib.sha256(self.body).hexdigest() != sha256:
            return self._answer(400, {"error": "this is not what was announced"})
        with self.server.lock:
            self.server.objects[sha256] = len(self.body)
            count = len(self.server.objects)
        self.server.on_object(count)
        return self._answer(200)

    def xet_token(self, kind, repo_id, branch):
        told = {"casUrl": self.server.address, "exp": 4_000_000_000, "accessToken": "xet"}
        headers = {
            "X-Xet-Cas-Url": told["casUrl"],
            "X-Xet-Access-Token": "xet",
            "X-Xet-Token-Expiration": str(told["exp"]),
        }
        self._answer(200, told, headers)

    def _xet(self, path):
        """The content store of Xet: takes every block and every list of blocks."""
        if "/xorbs/" in path and self.command == "POST":
            self.server.xorbs += 1
            return self._answer(200, {"was_inserted": True})
        if path == "/v1/shards" and self.command == "POST":
            return self._answer(200, {"result": 1})
        return self._answer(404, {"error": "not found"})

    def commit(self, kind, repo_id, branch):
        if not (found := self._repository(kind, repo_id)):
            return
        files = found.branches[branch]
        header, *operations = (json.loads(line) for line in self.body.splitlines())
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "lfsFile":
                files[value["path"]] = (value["size"], value["oid"], "0" * 40)
            elif operation["key"] == "file":
                found.put(value["path"], base64.b64decode(value["content"]), branch, large=False)
            else:
                del files[value["path"]]
        found.commits.append((header["value"]["summary"], [o["value"]["path"] for o in operations]))
        url = f"{self.server.address}/{kind}s/{repo_id}/commit/{'1' * 40}"
        self._answer(200, {"commitUrl": url, "commitOid": "1" * 40})

    def log_message(self, *words):
        pass


_REPO = r"/api/(dataset|model)s/([^/]+/[^/]+)"
ROUTES = (
    (r"/api/whoami-v2", _Handler.whoami),
    (r"/api/repos/create", _Handler.create),
    (r"/api/validate-yaml", _Handler.validate_yaml),
    (_REPO, _Handler.info),
    (_REPO + r"/tree/([^/]+)", _Handler.tree),
    (_REPO + r"/branch/([^/]+)", _Handler.branch),
    (_REPO + r"/preupload/([^/]+)", _Handler.preupload),
    (_REPO + r"/commit/([^/]+)", _Handler.commit),
    (_REPO + r"/xet-write-token/([^/]+)", _Handler.xet_token),
    (r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.lfs_batch),
)


@pytest.fixture
def stand_in():
    with StandIn() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def hub_environment(stand_in, tmp_path):
    """Variables that make `stand_in` the Hub of a process, for somebody who may write there."""
    return {
        "HF_ENDPOINT": stand_in.address,
        "HF_HOME": str(tmp_path / "hf-home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": WRITER,
        "NO_PROXY": "127.0.0.1",
    }
