"""Credentials: found, missing, refused and never shown; Azure's and Google's own ways."""

from __future__ import annotations

import functools
import http.server
import pickle
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import KEY, SECRET, Faulty, Server, in_environment, s3_server

from dali_dr.store.answers import understood
from dali_dr.store.opening import open_store
from dali_dr.store.url import StoreError


@pytest.fixture(scope="module")
def s3() -> Iterator[Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def bucket(s3: Server) -> str:
    return s3.bucket("tested")


@pytest.fixture
def faulty(s3: Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    monkeypatch.setenv("DALI_DR_STORE_RETRY_S", "8")
    proxy = Faulty(s3.endpoint)
    with proxy.serving():
        yield proxy


class TestSecrets:
    """Whatever fails, what is in the environment is in no message, no cause of one and no log."""

    def test_errors_show_nothing(
        self, s3: Server, faulty: Faulty, bucket: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("DALI_DR_STORE_RETRY_S", "0.3")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "token-that-is-secret")
        caplog.set_level("DEBUG")
        faults = [
            ("status", 403),
            ("status", 401),
            ("status", 400),
            ("status", 503),
            ("reset", 0),
            ("cut", 0),
            ("none", 0),
        ]
        texts = []
        for kind, value in faults:
            faulty.faults.clear()
            faulty.add(
                kind, methods=("GET", "PUT", "HEAD", "DELETE"), value=value, times=10**6, key="" if value else "x"
            )
            for url in (f"{bucket}/x", "s3://no-such-bucket/x"):
                store = open_store(url)
                for ask in (
                    lambda store=store: store.read("nothing"),
                    lambda store=store: store.put("x" * 2000, b"1", create=True),
                    lambda store=store: store.list(),
                    lambda store=store: store.remove("../x"),
                ):
                    try:
                        ask()
                    except StoreError as error:
                        texts += ["".join(traceback.format_exception(error)), repr(error), str(error)]
                        assert "\n" not in str(error) and len(str(error)) < 2500
        assert len(texts) > 60
        said = "".join([*texts, caplog.text])
        for secret in (SECRET, KEY, "token-that-is-secret", "Signature", "Authorization", "RetryError", "obstore."):
            assert secret not in said

    @pytest.mark.parametrize(
        ("url", "name", "value", "why"),
        [
            ("s3://b", "AWS_ENDPOINT_URL", "127.0.0.1:9", "does not begin with http://"),
            ("s3://b", "AWS_ENDPOINT_URL", "localhost", "does not begin with http://"),
            ("s3://b", "AWS_ENDPOINT_URL", "localhost:9", "does not begin with http://"),
            ("s3://b", "AWS_ENDPOINT_URL", "http:127.0.0.1", "does not begin with http://"),
            ("s3://b", "AWS_ENDPOINT_URL", "ftp://127.0.0.1", "does not begin with http://"),
            ("s3://b", "AWS_ENDPOINT_URL", "http://127.0.0.1:9 ", "white space"),
            ("s3://b", "AWS_ENDPOINT_URL", "http://127.0.0.1:abc", "no port"),
            ("s3://b", "AWS_ENDPOINT_URL", "http://127.0.0.1:99999", "no port"),
            ("s3://b", "AWS_ENDPOINT_URL", "http://a b:9", "names no host"),
            ("s3://b", "AWS_ENDPOINT_URL", "http://", "names no host"),
            ("s3://b", "AWS_ENDPOINT_URL", "http://u:hidden@127.0.0.1:9", "has a user"),
            ("s3://b", "AWS_ENDPOINT_URL_S3", "127.0.0.1:9", "does not begin with http://"),
            ("s3://b", "AWS_ACCESS_KEY_ID", "hidden\n", "newline"),
            ("s3://b", "AWS_ACCESS_KEY_ID", "hid\x01den", "control character"),
            ("s3://b", "AWS_SECRET_ACCESS_KEY", "hidden\n", "newline"),
            ("s3://b", "AWS_SESSION_TOKEN", " hidden", "white space"),
            ("s3://b", "AWS_REGION", "us-east-1\r\n", "newline"),
            ("s3://b", "AWS_DEFAULT_REGION", "us-east-1\n", "newline"),
            ("gs://b", "STORAGE_EMULATOR_HOST", "127.0.0.1:abc", "no port"),
            ("gs://b", "STORAGE_EMULATOR_HOST", "127.0.0.1:9 ", "white space"),
            ("gs://b", "GOOGLE_APPLICATION_CREDENTIALS", "/tmp/x\n", "newline"),
            ("az://b", "AZURE_STORAGE_ACCOUNT_NAME", "x\n", "newline"),
            ("az://b", "AZURE_STORAGE_ACCOUNT_KEY", "hidden\n", "newline"),
            ("az://b", "AZURE_STORAGE_TOKEN", "hidden\n", "newline"),
            ("az://b", "AZURE_STORAGE_SAS_TOKEN", "sig=hidden\n", "newline"),
            ("az://b", "AZURE_STORAGE_ENDPOINT", "127.0.0.1:9", "does not begin with http://"),
        ],
    )
    def test_values_that_are_none(
        self, url: str, name: str, value: str, why: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        right = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AZURE_STORAGE_ACCOUNT_NAME": "x"}
        store = open_store(url)
        with in_environment({**right, name: value, "DALI_DR_STORE_RETRY_S": "0.3"}):
            for ask in (lambda: store.read("x"), lambda: store.put("x", b""), store.list, lambda: store.head("x")):
                with pytest.raises(StoreError, match=f"^{url}: the environment's {name} .*{why}") as caught:
                    ask()
                assert "hidden" not in str(caught.value) and "\n" not in str(caught.value)
        assert not "".join(capfd.readouterr())  # no panic's backtrace

    @pytest.mark.parametrize(
        "endpoint", ["http://127.0.0.1:9", "http://[::1]:9/", "http://127.0.0.1:9/behind/a/proxy", "HTTP://localhost:9"]
    )
    def test_values_that_are_some(self, endpoint: str) -> None:
        right = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL": endpoint}
        store = open_store("s3://b")
        with (
            in_environment({**right, "AWS_PAGER": " ", "AWS_REGION": "", "DALI_DR_STORE_RETRY_S": "0.3"}),
            pytest.raises(StoreError, match="look at the network"),
        ):
            store.read("x")

    def test_a_panic_is_one_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of obstore itself, by a token that was not looked at."""
        monkeypatch.setattr("dali_dr.store.clients.check_environment", lambda url: None)
        wrong = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": "hidden\n"}
        with in_environment({**wrong, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}):
            store = open_store("s3://b")
            for ask in (lambda: store.read("x"), lambda: store.put("x", b""), store.list, lambda: store.head("x")):
                with pytest.raises(StoreError, match=r"^s3://b: obstore broke down .*AWS_") as caught:
                    ask()
                assert caught.value.__context__ is None

    @pytest.mark.parametrize("status", [401, 403])
    def test_denied(self, faulty: Faulty, bucket: str, status: int) -> None:
        faulty.add("status", methods=("GET", "PUT", "HEAD"), value=status, times=10**6)
        store = open_store(bucket)
        for ask in (
            lambda: store.read("x"),
            lambda: store.put("x", b""),
            lambda: store.list(),
            lambda: store.head("x"),
        ):
            with pytest.raises(
                StoreError, match=rf"s3://tested.*: access is denied \(status {status}.*look at the credentials"
            ):
                ask()
        assert store.traffic.retries == 0

    def test_none_at_all(self, s3: Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        environment = {
            "AWS_ENDPOINT_URL": s3.endpoint,
            "AWS_METADATA_ENDPOINT": "http://127.0.0.1:9",
            "HOME": str(tmp_path),
            "DALI_DR_STORE_RETRY_S": "0.5",
        }
        with in_environment(environment), pytest.raises(StoreError, match=r"^s3://tested/x: no credentials were found"):
            open_store(bucket).read("x")

    def test_a_profile(self, s3: Server, bucket: str, tmp_path: Path) -> None:
        pytest.importorskip("boto3")
        (tmp_path / "credentials").write_text(f"[mine]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n")
        (tmp_path / "config").write_text(f"[profile mine]\nregion=us-east-1\nendpoint_url={s3.endpoint}\n")
        environment = {
            "AWS_PROFILE": "mine",
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
            "AWS_CONFIG_FILE": str(tmp_path / "config"),
        }
        with in_environment(environment):
            assert open_store(f"{bucket}/profile").put("x", b"1")
            assert pickle.loads(pickle.dumps(open_store(f"{bucket}/profile"))).read("x") == b"1"
        refused = pytest.raises(StoreError, match="s3://tested/profile: the store cannot be opened")
        with in_environment({**environment, "AWS_PROFILE": "other"}), refused:
            open_store(f"{bucket}/profile").read("x")

    def test_others_that_name_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "key.json").write_text('{"private_key": "secret-of-google"}')
        cases = {
            "gs://bucket/x": {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "key.json")},
            "az://container/x": {"AZURE_STORAGE_ACCOUNT_KEY": "secret-of-azure"},
            "azure://container/x": {"AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_STORAGE_ACCOUNT_KEY": "secret-of-azure"},
            "abfss://data@account.example.com/x": {"AZURE_STORAGE_ACCOUNT_KEY": "secret-of-azure"},
        }
        for url, environment in cases.items():
            with in_environment({**environment, "DALI_DR_STORE_RETRY_S": "0.1"}):
                with pytest.raises(StoreError, match=f"^{url}") as caught:
                    open_store(url).read("x")
                assert "secret-of" not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
    def test_the_limit_is_a_number(self, bucket: str, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        monkeypatch.setenv("DALI_DR_STORE_RETRY_S", text)
        with pytest.raises(StoreError, match="DALI_DR_STORE_RETRY_S is not a number of seconds"):
            open_store(bucket).read("x")


class _Cloud(http.server.BaseHTTPRequestHandler):
    """Says of Azure and Google what their documentation says: an object "there", and refusals by the object's name."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str, str]]
    refusals = {  # noqa: RUF012
        "no-container": (404, "ContainerNotFound"),
        "no-bucket": (404, "NoSuchBucket"),
        "exists-azure": (409, "BlobAlreadyExists"),
        "exists-google": (412, "PreconditionFailed"),
        "denied": (403, "AuthorizationFailure"),
        "busy": (503, "ServerBusy"),
    }

    def log_message(self, *_: object) -> None: ...

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        name = unquote(self.path.split("?")[0]).rpartition("/")[2]
        condition = self.headers.get("If-None-Match") or self.headers.get("x-goog-if-generation-match") or ""
        self.seen.append((self.command, name, condition))
        status, code = self.refusals.get(name, (200 if self.command in ("GET", "HEAD") else 201, ""))
        data = b"<?xml version='1.0'?><Error><Code>%s</Code></Error>" % code.encode() if code else b"0123456789"
        if self.command == "PUT" and not code:
            data = b""
            assert body == b"ours"
        span = (self.headers.get("x-ms-range") or self.headers.get("Range") or "").removeprefix("bytes=")
        if span and status == 200:
            first, last = map(int, span.split("-"))
            whole, data, status = len(data), data[first : last + 1], 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{first + len(data) - 1}/{whole}")
        self.send_header("ETag", '"0x8D4BCC2E4835CD0"')
        self.send_header("x-goog-generation", "17")
        self.send_header("Last-Modified", "Fri, 27 Nov 2026 20:00:00 GMT")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = _answer


@pytest.fixture
def cloud() -> Iterator[type[_Cloud]]:
    class Bound(_Cloud):
        seen: list[tuple[str, str, str]] = []  # noqa: RUF012

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    environment = {
        "AZURE_STORAGE_ACCOUNT_NAME": "account",
        "AZURE_STORAGE_ACCOUNT_KEY": "c2VjcmV0LW9mLWF6dXJl",
        "AZURE_STORAGE_ENDPOINT": endpoint,
        "STORAGE_EMULATOR_HOST": endpoint,
        "DALI_DR_STORE_RETRY_S": "0.5",
    }
    with in_environment(environment):
        yield Bound
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.mark.parametrize("url", ["az://box", "azure://box/", "gs://box"])
def test_azure_and_google(cloud: type[_Cloud], url: str, tmp_path: Path) -> None:
    """Their conditional puts and their refusals, which differ from S3's."""
    store = open_store(url)
    assert store.read("there") == b"0123456789" and store.read("there", 2, 3) == b"234"
    assert store.download("there", tmp_path / "there").bytes == 10
    assert store.put("new", b"ours", create=True) is True
    assert store.put("new", b"ours") is True
    assert [entry for entry in cloud.seen if entry[0] == "PUT"] == [
        ("PUT", "new", "0" if url.startswith("gs") else "*"),
        ("PUT", "new", ""),
    ]
    assert store.put("exists-google" if url.startswith("gs") else "exists-azure", b"ours", create=True) is False
    for name, why in [
        ("no-bucket" if url.startswith("gs") else "no-container", "there is no such bucket"),
        ("denied", "access is denied .*403, AuthorizationFailure"),
        ("busy", "does not give .*503, ServerBusy.* tries"),
    ]:
        for ask in (store.read, functools.partial(store.put, data=b"ours", create=True)):
            with pytest.raises(StoreError, match=why):
                ask(name)


class SomethingError(Exception):
    """A stranger's."""


@given(st.text(max_size=200), st.sampled_from([SomethingError, ValueError, OSError, FileNotFoundError]))
def test_any_error_becomes_a_short_line_without_urls(text: str, kind: type[Exception]) -> None:
    for said in (text, f"status code: 503 {text}", f"https://host/x?sig={text}", f"a {text}\nhttps://host/?sig=s"):
        answer = understood(kind(said))
        assert len(answer.text) < 200 and "://" not in answer.text
