"""A server that speaks as much of the Hugging Face Hub's API as huggingface_hub uses for data sets, for tests.

Written from what the client sends and expects: repositories with commits, trees in pages, preupload, LFS batches and
uploads, commits as lines of JSON, resolve with ranges and a redirect for large files, tokens, and faults that are ordered.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

WRITER = "hf_tokenofthetestsWriter00000000001"
READER = "hf_tokenofthetestsReader00000000002"
_LARGE = 64  # bytes of files that are not text and go by LFS
_PAGE = 7  # entries of a tree
_REPO = r"/api/datasets/(?P<id>[^/]+/[^/]+)"

Fault = Callable[[str, str], "int | str | None"]


@dataclasses.dataclass
class Repo:
    """A repository: its commits, oldest first, each a dict of paths to contents."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((one for one in self.commits if one[0] == revision), None)


class FakeHub:
    """The server's state.

    Attributes:
      repos: by OWNER/NAME.
      requests: (method, path) of all.
      fault: is asked of every request: a status to answer with, "cut" (a body that ends in the middle), "flip" (a changed
        byte) or None.
      headers: of answers that are faults.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.fault: Fault = lambda method, path: None
        self.headers: dict[str, str] = {}
        self.endpoint = ""
        self.lock = threading.Lock()

    def files(self, name: str) -> dict[str, bytes]:
        """The newest files of a repository, but for what every one has."""
        return {path: data for path, data in self.repos[name].commits[-1][1].items() if path != ".gitattributes"}

    def create(self, name: str, private: bool = False) -> bool:
        if name in self.repos:
            return False
        self.repos[name] = Repo(private, [(_oid(name, 0), {".gitattributes": b"*.tar filter=lfs\n"})])
        return True

    def commit(self, name: str, add: dict[str, bytes], remove: list[str]) -> str:
        repo = self.repos[name]
        files = {path: data for path, data in repo.commits[-1][1].items() if path not in remove} | add
        repo.commits.append((_oid(name, len(repo.commits)), files))
        return repo.commits[-1][0]


@contextlib.contextmanager
def fake_hub(token: str | None = WRITER) -> Iterator[FakeHub]:
    """The server on a free port, with the environment that leads to it, for this process and its children."""
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = _Server(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    before = dict(os.environ)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HOME"):
        os.environ.pop(name, None)
    os.environ |= {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN_PATH": "/nonexistent/token"}
    os.environ |= {"HF_TOKEN": token} if token else {}
    try:
        yield hub
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.shutdown()
        thread.join(10)
        server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is none of the test's business."""


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self) -> None:
        body = self._body()
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path))
        fault = self.hub.fault(self.command, path)
        if isinstance(fault, int):
            self._answer(
                fault, {"error": f"as ordered, {self.headers.get('authorization', '')[:40]}"}, **self.hub.headers
            )
            return
        self._fault = fault
        for method, pattern, act in (
            ("POST", "/api/repos/create", self._create),
            ("POST", "/api/validate-yaml", lambda *_: self._answer(200, {"warnings": [], "errors": []})),
            ("GET", _REPO + "(/revision/(?P<revision>[^/]+))?", self._info),
            ("GET", _REPO + "/tree/(?P<revision>[^/]+)(/(?P<path>.*))?", self._tree),
            ("POST", _REPO + "/paths-info/(?P<revision>[^/]+)", self._paths),
            ("POST", _REPO + "/preupload/(?P<revision>[^/]+)", self._preupload),
            ("POST", r"/datasets/(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", self._upload),
            ("POST", _REPO + "/commit/(?P<revision>[^/]+)", self._commit),
            ("GET", r"/datasets/(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.*)", self._resolve),
            ("GET", "/cdn/(?P<oid>[0-9a-f]{64})", self._cdn),
        ):
            match = re.fullmatch(pattern, path)
            if match and method == self.command:
                groups = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
                act(groups, body)
                return
        self._answer(404, {"error": "no such address"})

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, data: Any, **headers: str) -> None:
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _token(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    def _repo(self, groups: dict[str, str], write: bool = False) -> Repo | None:
        """The repository, if it is there and the token may; None: it was answered."""
        repo, token = self.hub.repos.get(groups["id"]), self._token()
        if token not in ("", WRITER, READER):
            self._answer(401, {"error": "Invalid username or password."}, **{"X-Error-Message": "Invalid credentials"})
        elif write and token != WRITER:
            self._answer(403 if token else 401, {"error": "Forbidden: you need a token that may write"})
        elif repo is None or (repo.private and not token):
            self._answer(401 if not token else 404, {"error": "not found"}, **{"X-Error-Code": "RepoNotFound"})
        else:
            return repo
        return None

    def _state(self, groups: dict[str, str]) -> tuple[str, dict[str, bytes]] | None:
        repo = self._repo(groups)
        state = repo and repo.at(groups.get("revision", "main"))
        if repo and state is None:
            self._answer(404, {"error": "no such revision"}, **{"X-Error-Code": "RevisionNotFound"})
        return state

    def _create(self, groups: dict[str, str], body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if self._token() != WRITER:
            self._answer(401 if self._token() != READER else 403, {"error": "You don't have the rights to create it"})
            return
        made = self.hub.create(name, asked.get("visibility") == "private" or asked.get("private") is True)
        self._answer(200 if made else 409, {"url": f"{self.hub.endpoint}/datasets/{name}"})

    def _info(self, groups: dict[str, str], body: bytes) -> None:
        if state := self._state(groups):
            self._answer(200, {"id": groups["id"], "sha": state[0], "tags": [], "downloads": 0, "likes": 0})

    def _tree(self, groups: dict[str, str], body: bytes) -> None:
        if state := self._state(groups):
            folder = f"{groups['path']}/" if groups.get("path") else ""
            found = sorted(path for path in state[1] if path.startswith(folder))
            if folder and not found:
                self._answer(404, {"error": "no such folder"}, **{"X-Error-Code": "EntryNotFound"})
                return
            at = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
            page = found[at : at + _PAGE]
            entries = [{"type": "directory", "path": folder + "folder", "oid": "0" * 40, "size": 0}] if at == 0 else []
            entries += [_entry(path, state[1][path]) for path in page]
            link = f'<{self.hub.endpoint}{urlsplit(self.path).path}?recursive=true&cursor={at + _PAGE}>; rel="next"'
            self._answer(200, entries, **({"Link": link} if at + _PAGE < len(found) else {}))

    def _paths(self, groups: dict[str, str], body: bytes) -> None:
        if state := self._state(groups):
            paths = parse_qs(body.decode())["paths"]
            self._answer(200, [_entry(path, state[1][path]) for path in paths if path in state[1]])

    def _preupload(self, groups: dict[str, str], body: bytes) -> None:
        if self._repo(groups, write=True) and (state := self._state(groups)):
            self._answer(
                200,
                {
                    "files": [
                        {
                            "path": one["path"],
                            "uploadMode": "lfs" if _is_large(one["path"], one["size"]) else "regular",
                            "shouldIgnore": False,
                            "oid": _hash(one["path"], state[1][one["path"]]) if one["path"] in state[1] else None,
                        }
                        for one in json.loads(body)["files"]
                    ]
                },
            )

    def _batch(self, groups: dict[str, str], body: bytes) -> None:
        if self._repo(groups, write=True):
            objects = []
            for one in json.loads(body)["objects"]:
                href = f"{self.hub.endpoint}/lfs/{one['oid']}?X-Amz-Signature=secretsignature"
                there = one["oid"] in self.hub.blobs
                objects.append(one if there else {**one, "actions": {"upload": {"href": href, "header": {}}}})
            self._answer(200, {"transfer": "basic", "objects": objects})

    def _upload(self, groups: dict[str, str], body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != groups["oid"]:
            self._answer(400, {"error": "other bytes"})
            return
        self.hub.blobs[groups["oid"]] = body
        self._answer(200, b"")

    def _commit(self, groups: dict[str, str], body: bytes) -> None:
        repo = self._repo(groups, write=True)
        if repo is None:
            return
        header, *operations = [json.loads(line) for line in body.splitlines()]
        add: dict[str, bytes] = {}
        remove: list[str] = []
        for one in operations:
            value = one["value"]
            if one["key"] == "file":
                add[value["path"]] = base64.b64decode(value["content"])
            elif one["key"] == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    self._answer(400, {"error": "not uploaded"})
                    return
                add[value["path"]] = self.hub.blobs[value["oid"]]
            else:
                remove.append(value["path"])
        with self.hub.lock:
            parent = header["value"].get("parentCommit")
            if parent is not None and parent != repo.commits[-1][0]:
                self._answer(412, {"error": "A commit has happened since. Please refresh and try again."})
                return
            oid = self.hub.commit(groups["id"], add, remove)
        self._answer(200, {"commitUrl": f"{self.hub.endpoint}/datasets/{groups['id']}/commit/{oid}", "commitOid": oid})

    def _resolve(self, groups: dict[str, str], body: bytes) -> None:
        if state := self._state(groups):
            path = groups["path"]
            if path not in state[1]:
                self._answer(404, {"error": "no such file"}, **{"X-Error-Code": "EntryNotFound"})
            elif _is_large(path, len(state[1][path])):
                oid = hashlib.sha256(state[1][path]).hexdigest()
                self.hub.blobs[oid] = state[1][path]
                self._answer(302, b"", Location=f"{self.hub.endpoint}/cdn/{oid}?Signature=secretsignature")
            else:
                self._ranged(state[1][path])

    def _cdn(self, groups: dict[str, str], body: bytes) -> None:
        self._ranged(self.hub.blobs[groups["oid"]])

    def _ranged(self, data: bytes) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        begin, end = (int(match[1]), int(match[2] or len(data) - 1) + 1) if match else (0, len(data))
        if match and begin >= len(data):
            self._answer(416, b"")
            return
        part = data[begin:end]
        if self._fault == "flip":
            part = bytes([part[0] ^ 1]) + part[1:]
        self.send_response(206 if match else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part[: len(part) // 2] if self._fault == "cut" else part)
        self.close_connection = self.close_connection or self._fault == "cut"


def _oid(name: str, number: int) -> str:
    return hashlib.sha1(f"{name} {number}".encode()).hexdigest()


def _is_large(path: str, size: int) -> bool:
    return size > _LARGE and path.endswith((".tar", ".bin", ".png"))


def _hash(path: str, data: bytes) -> str:
    if _is_large(path, len(data)):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _hash(path, data)}
    if _is_large(path, len(data)):
        entry["oid"] = hashlib.sha1(entry["oid"].encode()).hexdigest()  # of the pointer
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry
