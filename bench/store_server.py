"""A light S3 of a folder for measurements: its buckets are the folder's folders; a link of a given latency and bandwidth.

It speaks GET (ranges, If-Match), HEAD, PUT (If-None-Match), DELETE and ListObjectsV2, asks for no signature, and sends by
sendfile from a process of its own, so that it takes little of what it measures.

    python bench/store_server.py FOLDER [--port 9000] [--latency 0.05] [--bandwidth 200e6]

prints its URL, for AWS_ENDPOINT_URL, and serves until standard input ends or it is interrupted. GET /-/counts gives the
requests so far as JSON: {"GET /BUCKET/KEY": n}; GET /-/bytes what was sent.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import http.server
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_SLICE: Final = 128 << 10  # bytes that pass the link at a time
_PAGE: Final = 1000  # objects in one answer to a list


class Link:
    """A link that all connections share: each byte waits for those before it."""

    def __init__(self, latency: float, bandwidth: float) -> None:
        self.latency = latency
        self.bandwidth = bandwidth
        self.sent = 0
        self.counts: collections.Counter[str] = collections.Counter()
        self._free = time.monotonic()
        self._lock = threading.Lock()

    def asked(self, what: str) -> None:
        """Counts a request, and waits as long as it travels."""
        with self._lock:
            self.counts[what] += 1
        time.sleep(self.latency)

    def take(self, size: int) -> None:
        """Returns when ``size`` bytes are through. Less than a millisecond is not slept, but owed."""
        with self._lock:
            self.sent += size
            self._free = max(self._free, time.monotonic()) + size / self.bandwidth
            wait = self._free - time.monotonic()
        if wait > 1e-3:
            time.sleep(wait)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    root: Path
    link: Link

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        """An object, a range of it, or a list."""
        parts = urlsplit(self.path)
        if parts.path == "/-/counts":
            return self._text(json.dumps(self.link.counts), "application/json")
        if parts.path == "/-/bytes":
            return self._text(json.dumps(self.link.sent), "application/json")
        query = parse_qs(parts.query, keep_blank_values=True)
        if "list-type" in query:
            return self._list(unquote(parts.path).strip("/"), {name: values[0] for name, values in query.items()})
        self._object(body=True)

    def do_HEAD(self) -> None:
        """What an object is."""
        self._object(body=False)

    def do_PUT(self) -> None:
        """Writes an object, whole or not at all."""
        path = self._path()
        self.link.asked(f"PUT {unquote(self.path)}")
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.parent / f".put-{uuid.uuid4().hex}"
        partial.write_bytes(data)
        try:
            if self.headers.get("If-None-Match") == "*":
                os.link(partial, path)
            else:
                partial.replace(path)
        except FileExistsError:
            return self._refuse(412, "PreconditionFailed")
        finally:
            partial.unlink(missing_ok=True)
        self._empty(200, {"ETag": _tag(path.stat())})

    def do_DELETE(self) -> None:
        """Removes an object."""
        self.link.asked(f"DELETE {unquote(self.path)}")
        self._path().unlink(missing_ok=True)
        self._empty(204, {})

    def _path(self) -> Path:
        parts = [part for part in unquote(urlsplit(self.path).path).split("/") if part]
        return self.root.joinpath(*(part for part in parts if part not in (".", "..")))

    def _object(self, *, body: bool) -> None:
        self.link.asked(f"{self.command} {unquote(urlsplit(self.path).path)}")
        path = self._path()
        if not path.is_file():
            return self._refuse(404, "NoSuchKey" if len(path.relative_to(self.root).parts) > 1 else "NoSuchBucket")
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if self.headers.get("If-Match", _tag(status)) != _tag(status):
                return self._refuse(412, "PreconditionFailed")
            begin, end = 0, status.st_size
            wanted = self.headers.get("Range", "").removeprefix("bytes=")
            if wanted:
                first, _, last = wanted.partition("-")
                begin = int(first) if first else max(0, end - int(last))
                end = min(end, int(last) + 1) if first and last else end
                if begin >= end:
                    return self._refuse(416, "InvalidRange")
            self.send_response(206 if wanted else 200)
            self.send_header("ETag", _tag(status))
            self.send_header("Last-Modified", self.date_time_string(status.st_mtime))
            self.send_header("Accept-Ranges", "bytes")
            if wanted:
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{status.st_size}")
            self.send_header("Content-Length", str(end - begin))
            self.end_headers()
            self.wfile.flush()
            while body and begin < end:
                self.link.take(min(_SLICE, end - begin))
                begin += os.sendfile(self.connection.fileno(), file.fileno(), begin, min(_SLICE, end - begin))

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        self.link.asked(f"LIST /{bucket}")
        base, prefix = self.root / bucket, query.get("prefix", "")
        if not base.is_dir():
            return self._refuse(404, "NoSuchBucket")
        keys = sorted(path.relative_to(base).as_posix() for path in base.rglob("*") if path.is_file())
        after = query.get("continuation-token") or query.get("start-after") or ""
        keys = [key for key in keys if key.startswith(prefix) and key > after]
        page = keys[:_PAGE]
        text = ['<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>', f"<Name>{escape(bucket)}</Name>"]
        text.append(f"<IsTruncated>{'true' if len(keys) > _PAGE else 'false'}</IsTruncated>")
        if len(keys) > _PAGE:
            text.append(f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>")
        for key in page:
            status = (base / key).stat()
            when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(status.st_mtime))
            text.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{when}</LastModified>"
                f"<ETag>{escape(_tag(status))}</ETag><Size>{status.st_size}</Size></Contents>"
            )
        self._text("".join(text) + "</ListBucketResult>", "application/xml")

    def _text(self, text: str, kind: str, status: int = 200) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: int, code: str) -> None:
        self._text(f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>", "application/xml", status)

    def _empty(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away."""


def _tag(status: os.stat_result) -> str:
    return f'"{status.st_mtime_ns:x}-{status.st_size:x}"'


class Running:
    """A server in a process of its own.

    Attributes:
      endpoint: its URL.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    @property
    def environment(self) -> dict[str, str]:
        """What leads the store of s3:// URLs to it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_REGION": "us-east-1",
        }

    def counts(self) -> dict[str, int]:
        """Requests so far: "METHOD /BUCKET/KEY" to how many."""
        counts: dict[str, int] = self._ask("/-/counts")
        return counts

    def sent(self) -> int:
        """Bytes of objects that were sent so far."""
        sent: int = self._ask("/-/bytes")
        return sent

    def _ask(self, path: str) -> Any:
        connection = http.client.HTTPConnection(self.endpoint.removeprefix("http://"), timeout=30)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


@contextlib.contextmanager
def running(folder: Path, *, latency: float = 0.0, bandwidth: float = float("inf")) -> Iterator[Running]:
    """A server of ``folder`` while the context lasts; its environment is the caller's to set."""
    command = [sys.executable, __file__, str(folder), "--latency", str(latency), "--bandwidth", str(bandwidth)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            yield Running(child.stdout.readline().strip())
        finally:
            child.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="whose folders are the buckets")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that each request takes to arrive")
    parser.add_argument("--bandwidth", type=float, default=float("inf"), help="bytes per second, of all together")
    args = parser.parse_args()

    class Bound(Handler):
        root = args.folder.resolve()
        link = Link(args.latency, args.bandwidth)

    server = _Server(("127.0.0.1", args.port), Bound)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        if sys.stdin.isatty():
            threading.Event().wait()
        sys.stdin.read()


if __name__ == "__main__":
    main()
