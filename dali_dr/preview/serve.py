"""The page from a local server, of sets of any size: nothing is decoded before somebody looks at it.

It answers GET and HEAD alone. What a client may name are numbers of samples and rows, and a text that keys are searched for:
no paths. Requests whose Host header names another machine are refused, so that no site can reach the set through a browser by
giving its own name this machine's address (DNS rebinding).
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http
import http.server
import io
import ipaddress
import json
import re
import socket
import sys
import threading
import urllib.parse
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from dali_dr.encoded import ANY_PIXELS, image_info
from dali_dr.errors import DaliDrError, shown
from dali_dr.loader.options import default_threads
from dali_dr.preview.facts import Read, Reader, details, sampled
from dali_dr.preview.names import Names
from dali_dr.preview.page import assets, deflated, describe, policy_of, skeleton
from dali_dr.preview.replayed import Pixels, Replayer, Wanted
from dali_dr.preview.stats import Statistics
from dali_dr.preview.thumbs import Sizes, image_thumb, sprite, view_thumbs, webp
from dali_dr.shards.dataset import Dataset

_SIZES: Final = Sizes(256, 128)
_INDEX_ROWS: Final = 32_768  # of an answer: 1.5 MB
_READ_ROWS: Final = 256
_STATISTICS_OF: Final = 2_000  # images, spread evenly
_KEPT: Final = 96  # images whose views stay, at 1.2 MB for eight of 224 pixels
_IDLE: Final = 60  # seconds until a connection on which nothing is asked ends
_MOST_TEXT: Final = 500  # characters that keys are searched for
_BYTES: Final = "application/octet-stream"
_TEXT: Final = "text/plain; charset=utf-8"
_TYPES: Final = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_NUMBERED: Final = re.compile(r"/(index|read|sample|thumb|views|image)/(\d{1,12})", re.ASCII)
_VIEW: Final = re.compile(r"/view/(\d{1,12})/(\d{1,6})", re.ASCII)

Answer = tuple[str, bytes]  # its type and itself


class NotThere(Exception):
    """A number or path that there is not."""


class Site:
    """What the server tells of a set, by path.

    Args:
      dataset: any.
      names: of the classes.
      views: shown of an image, at most.
    """

    def __init__(self, dataset: Dataset, names: Names, views: int) -> None:
        self._dataset, self._names, self._views = dataset, names, views
        self._reader = Reader(dataset, views, names.comparable)
        self._replayer = None
        if most := min(views, dataset.manifest.views_max):
            self._replayer = Replayer(dataset, images=1, views=most, threads=default_threads())
        self._replayed = functools.lru_cache(_KEPT)(self._replay)
        self._small = functools.lru_cache(_KEPT)(
            lambda number: webp(image_thumb(self._dataset.image(number), _SIZES.image))
        )
        self._counting = threading.Lock()
        self._counted: dict[str, Any] = {"plots": None, "note": "Reading records…"}
        self._counter: threading.Thread | None = None
        about = describe(dataset, names, _SIZES, views, len(dataset)) | {"served": True}
        style, script = assets()
        self.policy = policy_of(
            style, script, "img-src 'self' blob: data:", "connect-src 'self'", "frame-ancestors 'none'"
        )
        head, tail = skeleton(about["title"], style, None)
        data = f'<script type="application/octet-stream" id="set">{deflated(about)}</script>\n'
        self._page = f"{head}{data}<script>{script}</script>\n{tail}".encode()

    def answer(self, path: str, query: str) -> Answer:
        """What is asked for.

        Raises:
          NotThere: there is no such thing.
          DaliDrError: a sample that cannot be shown.
        """
        if path == "/":
            return "text/html; charset=utf-8", self._page
        if path == "/plots":
            return _json(self._plots())
        if path == "/find":
            return _BYTES, self._find(urllib.parse.parse_qs(query).get("text", [""])[0])
        if match := _VIEW.fullmatch(path):
            return "image/png", self._view(self._checked(match[1]), int(match[2]))
        if match := _NUMBERED.fullmatch(path):
            acts: dict[str, Callable[[int], Answer]] = {
                "index": self._index, "read": self._read, "sample": self._sample, "thumb": self._thumb,
                "views": self._sprite, "image": self._image,
            }  # fmt: skip
            return acts[match[1]](self._checked(match[2]))
        raise NotThere(path)

    def _checked(self, text: str) -> int:
        if (number := int(text)) >= len(self._dataset):
            raise NotThere(text)
        return number

    def _index(self, start: int) -> Answer:
        rows = self._reader.indexed(start, min(start + _INDEX_ROWS, len(self._dataset)))
        return _BYTES, rows.tobytes()

    def _read(self, start: int) -> Answer:
        stop = min(start + _READ_ROWS, len(self._dataset))
        return _BYTES, b"".join(self._facts(number).tobytes() for number in range(start, stop))

    def _facts(self, number: int) -> npt.NDArray[Any]:
        """Facts of a sample; of a damaged one, those of the index."""
        try:
            return self._reader.read(number).facts
        except DaliDrError:
            return np.asarray(self._reader.indexed(number, number + 1)[0])

    def _sample(self, number: int) -> Answer:
        try:
            read = self._reader.read(number)
            self._small(number)
            faults = self._replayed(number)[2] if read.rows else {}
            told = details(read, self._dataset.manifest.spec, faults)
        except DaliDrError as error:  # told, so that the page shows it: a status would fill a browser's console
            read = Read(self._reader.indexed(number, number + 1)[0], None)
            told = {"views": [], "error": str(error)}
        told |= {"key": shown(self._dataset.keys[number]), "facts": base64.b64encode(read.facts.tobytes()).decode()}
        return _json(told)

    def _thumb(self, number: int) -> Answer:
        return "image/webp", self._small(number)

    def _sprite(self, number: int) -> Answer:
        _, pixels, _ = self._replayed(number)
        return "image/webp", webp(sprite(view_thumbs(pixels, _SIZES.view), _SIZES.view))

    def _image(self, number: int) -> Answer:
        data = self._dataset.image(number)
        return _TYPES[image_info(data, max_pixels=ANY_PIXELS)[0]], data

    def _view(self, number: int, row: int) -> bytes:
        read, pixels, faults = self._replayed(number)
        if row not in read.rows or read.rows.index(row) in faults:
            raise NotThere(str(row))
        out = io.BytesIO()
        Image.fromarray(pixels[read.rows.index(row)]).save(out, "PNG", compress_level=1)
        return out.getvalue()

    def _replay(self, number: int) -> tuple[Read, Pixels, dict[int, str]]:
        read = self._reader.read(number)
        views = read.shown
        if views is None or self._replayer is None:
            raise NotThere(str(number))
        return read, *self._replayer.replay_each(Wanted(number, self._dataset.image(number), views))

    def _find(self, text: str) -> bytes:
        """A byte for each sample: whether its key holds the text, whatever the case."""
        wanted = text[:_MOST_TEXT].lower()
        found = (wanted in shown(key).lower() for key in self._dataset.keys)
        return np.fromiter(found, np.uint8, len(self._dataset)).tobytes()

    def _plots(self) -> dict[str, Any]:
        """Plots once they are made; what is told meanwhile. The first call begins them."""
        with self._counting:
            if self._counter is None:
                self._counter = threading.Thread(target=self._count, daemon=True)
                self._counter.start()
            return self._counted

    def _count(self) -> None:
        statistics = Statistics(self._dataset, self._reader, self._names)
        numbers = sampled(len(self._dataset), _STATISTICS_OF)
        damaged = 0
        try:
            for done, number in enumerate(numbers, start=1):
                try:
                    statistics.add(self._reader.read(number))
                except DaliDrError:
                    damaged += 1
                if done % 50 == 0:
                    self._counted = {"plots": None, "note": f"Reading records: {done:,} of {len(numbers):,}…"}
            few = len(numbers) < len(self._dataset)
            note = f"Of {len(numbers):,} images, spread evenly over the set." if few else ""
            if damaged:
                note += f" {damaged:,} of them cannot be read." if few else f"{damaged:,} images cannot be read."
            self._counted = {"plots": statistics.plots(), "note": note}
        except DaliDrError as error:
            self._counted = {"plots": [], "note": str(error)}


def _json(data: Any) -> Answer:
    return "application/json", json.dumps(data).encode()


def allowed_host(header: str | None, host: str) -> bool:
    """Whether a Host header may name this server: an address, localhost, this machine's name, or ``host``.

    A name that somebody else gave this machine's address to is none of these.
    """
    try:
        name = urllib.parse.urlsplit(f"//{header or ''}").hostname or ""
    except ValueError:
        return False
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return name in ("localhost", host.lower(), socket.gethostname().lower())


def make_server(site: Site, host: str, port: int) -> http.server.ThreadingHTTPServer:
    """A server of ``site``, which listens already.

    Args:
      site: what it tells.
      host: address or name to listen at.
      port: 0: any that is free.

    Raises:
      DaliDrError: it cannot listen there.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _IDLE

        def do_GET(self) -> None:
            """Answers."""
            try:
                if not allowed_host(self.headers.get("Host"), host):
                    raise PermissionError
                parts = urllib.parse.urlsplit(self.path)
                kind, body = site.answer(parts.path, parts.query)
            except PermissionError:
                self._send(http.HTTPStatus.MISDIRECTED_REQUEST, _TEXT, b"the Host header names another machine")
            except DaliDrError as error:
                self._send(http.HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, str(error).encode())
            except (NotThere, ValueError):
                self._send(http.HTTPStatus.NOT_FOUND, _TEXT, b"there is no such thing")
            else:
                self._send(http.HTTPStatus.OK, kind, body)

        do_HEAD = do_GET

        def _send(self, status: http.HTTPStatus, kind: str, body: bytes) -> None:
            with contextlib.suppress(ConnectionError):  # a reader who went elsewhere
                self.send_response(status)
                for name, value in (
                    ("Content-Type", kind),
                    ("Content-Length", str(len(body))),
                    ("Content-Security-Policy", site.policy if kind.startswith("text/html") else "default-src 'none'"),
                    ("X-Content-Type-Options", "nosniff"),
                    ("Cross-Origin-Resource-Policy", "same-origin"),
                    ("Referrer-Policy", "no-referrer"),
                    ("Cache-Control", "no-store"),
                ):
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: a page asks for hundreds of pictures."""

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def handle_error(self, request: Any, client_address: Any) -> None:
            """As usual, but for connections that a browser has dropped."""
            if not isinstance(sys.exception(), ConnectionError):
                super().handle_error(request, client_address)

    try:
        return Server((host, port), Handler)
    except OSError as error:
        raise DaliDrError(
            f"--serve: cannot listen at {host}, port {port} ({error.strerror or error}): choose another port (0: any that is "
            "free) or --host",
            kind="usage",
        ) from error


def serve(dataset: Dataset, *, names: Names, host: str, port: int, views: int, tell: Callable[[str], None]) -> None:
    """Serves the page of a set until Ctrl-C.

    Args:
      dataset: any.
      names: of the classes.
      host, port: see `make_server`.
      views: of each image, at most.
      tell: prints a line.

    Raises:
      DaliDrError: it cannot listen there, or the set is empty.
    """
    if not len(dataset):
        raise DaliDrError(f"{dataset.path}: has no images, of which there is nothing to show", kind="usage")
    with make_server(Site(dataset, names, views), host, port) as server:
        where = f"[{host}]" if ":" in host else host
        tell(f"http://{where}:{server.server_port}/ shows {shown(dataset.url or dataset.path)}; Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
