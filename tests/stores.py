"""An S3 service on this machine for tests: moto's server, and a proxy before it that breaks what it is told to."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import http.server
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

import pytest

KEY = "AKIDALIDRTESTKEY0001"
SECRET = "secret/of+the/tests/that/no/message/may/show"
REGION = "us-east-1"
_OURS = ("AWS_", "GOOGLE_", "STORAGE_EMULATOR_", "AZURE_", "DALI_DR_STORE_")


# Names that a store and a client each could spell in its own way.
NAMES = [
    "a",
    "a b",
    "a+b",
    "50%",
    "%41",
    "%2F",
    "ü/é ß",
    "日本/x",
    "q?r#s",
    "t~*'()",
    "x" * 200,
    "dir/sub/f.tar",
    ".hidden",
]


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that no two places share."""
    return random.Random(seed).randbytes(size)


@dataclasses.dataclass
class Server:
    """An S3 service.

    Attributes:
      endpoint: its URL.
    """

    endpoint: str

    def boto3(self) -> Any:
        """The reference: boto3's client of this service."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name=REGION,
            config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
        )

    def bucket(self, name: str) -> str:
        """Makes a bucket; its URL."""
        self.boto3().create_bucket(Bucket=name)
        return f"s3://{name}"

    def keys(self, bucket: str) -> list[str]:
        """All keys of a bucket, by boto3."""
        pages = self.boto3().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def environment(endpoint: str) -> dict[str, str]:
    """What a user would set for the service at ``endpoint``."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextlib.contextmanager
def in_environment(values: dict[str, str]) -> Iterator[None]:
    """os.environ with these values and none else for stores."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(_OURS)]:
        del os.environ[name]
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def s3_server() -> Iterator[Server]:
    """moto's server on a free port of this machine, in threads of this process, with the environment that leads to it.

    moto looks and then writes: create-only puts go through one at a time, as a store's do in effect.
    """
    pytest.importorskip("moto", reason="moto, the S3 service of the tests, is not installed")
    pytest.importorskip("obstore", reason="obstore is not installed")
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = DomainDispatcherApplication(create_backend_app)
    single = threading.Lock()

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if "HTTP_IF_NONE_MATCH" in environ and environ["REQUEST_METHOD"] == "PUT":
            with single:
                return application(environ, start_response)
        return application(environ, start_response)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, guarded, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        found = Server(f"http://127.0.0.1:{server.server_port}")
        with in_environment(environment(found.endpoint)):
            yield found
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@dataclasses.dataclass
class Fault:
    """What is done to requests: to ``times`` of them, after ``skip``, whose method and key fit.

    Attributes:
      kind: "status" (answered with ``value`` and ``code``, not forwarded), "reset" (the connection ends with no answer, not
        forwarded), "lost" (forwarded, then the connection ends with no answer), "cut" (the body ends after ``value``
        bytes), "stall" (after ``after`` bytes of the body nothing comes for ``value`` seconds, then the connection ends),
        "flip" (the byte at ``value`` of the object is changed), "act" (``action`` is called before the request is
        forwarded).
      methods: that fit.
      key: that fits: a part of /BUCKET/KEY.
      value, after, code, action: see ``kind``.
      times: how often.
      skip: requests that fit and pass.
      done: how often it was done.
    """

    kind: str
    methods: tuple[str, ...] = ("GET",)
    key: str = ""
    value: float = 0
    after: int = 0
    code: str = "Broken"
    times: int = 1
    skip: int = 0
    action: Callable[[], object] = lambda: None
    done: int = 0

    def fits(self, method: str, path: str) -> bool:
        """Whether it is done to this request, which it counts."""
        if method not in self.methods or self.key not in path or self.done >= self.times:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.done += 1
        return True


class Pace:
    """A link's bandwidth, shared by all that is sent."""

    def __init__(self, bytes_per_s: float | None) -> None:
        self.bytes_per_s = bytes_per_s
        self._free = time.monotonic()
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Returns when ``size`` bytes are through."""
        if self.bytes_per_s is None:
            return
        with self._lock:
            self._free = max(self._free, time.monotonic()) + size / self.bytes_per_s
            free = self._free
        time.sleep(max(0.0, free - time.monotonic()))


class Faulty:
    """A proxy before an S3 service.

    Attributes:
      faults: done in their order, the first that fits a request; add to it at any time.
      latency: seconds before each request is looked at.
      pace: of what is sent to clients.
      log: (method, /BUCKET/KEY, the Range header or "") of each request.
    """

    def __init__(self, upstream: str, *, latency: float = 0, bandwidth: float | None = None) -> None:
        self.upstream = upstream.removeprefix("http://")
        self.faults: list[Fault] = []
        self.latency = latency
        self.pace = Pace(bandwidth)
        self.log: list[tuple[str, str, str]] = []
        self._lock = threading.Lock()
        self._over = threading.Event()

    def add(self, kind: str, **options: Any) -> Fault:
        """Adds a `Fault`."""
        fault = Fault(kind, **options)
        self.faults.append(fault)
        return fault

    def count(self, method: str, key: str) -> int:
        """Requests so far with this method for the object /BUCKET/KEY."""
        return sum(entry[:2] == (method, key) for entry in self.log)

    def found(self, method: str, path: str, bytes_range: str) -> Fault | None:
        """Notes a request; the fault that it meets."""
        with self._lock:
            self.log.append((method, path, bytes_range))
            return next((fault for fault in self.faults if fault.fits(method, path)), None)

    def pause(self, seconds: float) -> None:
        """Sleeps, unless the proxy ends."""
        self._over.wait(seconds)

    @contextlib.contextmanager
    def serving(self) -> Iterator[Server]:
        """The proxy at work, with the environment that leads to it."""
        proxy = self

        class Bound(_Handler):
            faulty = proxy

        server = _Threading(("127.0.0.1", 0), Bound)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            found = Server(f"http://127.0.0.1:{server.server_address[1]}")
            with in_environment({**os.environ, **environment(found.endpoint)}):
                yield found
        finally:
            self._over.set()
            server.shutdown()
            thread.join(10)
            server.server_close()


class _Threading(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none of the test's business."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faulty: Faulty
    _PIECE = 1 << 16

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(self.path.split("?")[0])
        fault = self.faulty.found(self.command, path, self.headers.get("Range") or "")
        kind = fault.kind if fault else ""
        self.faulty.pause(self.faulty.latency)
        if fault and kind == "status":
            return self._refuse(int(fault.value), fault.code)
        if kind == "reset":
            return self._break()
        if fault and kind == "act":
            fault.action()
        connection = http.client.HTTPConnection(self.faulty.upstream, timeout=30)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            connection.request(self.command, self.path, body=body or None, headers=headers)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if kind == "lost":
            return self._break()
        self.send_response(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "server", "date"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        if length is not None:
            self.send_header("Content-Length", length)
        self.end_headers()
        begin = int((answer.getheader("Content-Range") or "bytes 0-").removeprefix("bytes ").split("-")[0])
        if fault and kind == "flip" and begin <= fault.value < begin + len(data):
            changed = bytearray(data)
            changed[int(fault.value) - begin] ^= 0x40
            data = bytes(changed)
        self._send(data, fault if kind in ("cut", "stall") else None)

    def _send(self, data: bytes, fault: Fault | None) -> None:
        end = len(data)
        if fault:
            end = min(end, int(fault.value) if fault.kind == "cut" else fault.after)
        for at in range(0, end, self._PIECE):
            piece = data[at : min(end, at + self._PIECE)]
            self.faulty.pace.take(len(piece))
            self.wfile.write(piece)
        if fault:
            self.wfile.flush()
            self.faulty.pause(fault.value if fault.kind == "stall" else 0)
            self._break()

    def _refuse(self, status: int, code: str) -> None:
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>told to</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _break(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward
