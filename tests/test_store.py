"""Stores: a bucket, a folder and a web server give and take the same, by names that lead nowhere else."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import NAMES, Faulty, Server, in_environment, noise, s3_server

from dali_dr.cli import main
from dali_dr.sources.opening import open_source
from dali_dr.store import reading
from dali_dr.store.opening import open_store
from dali_dr.store.url import MissingError, StoreError, as_place, below, shown_url


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


class TestObjects:
    def test_writes_what_boto3_reads(self, s3: Server, bucket: str) -> None:
        store = open_store(f"{bucket}/written here/100%/")
        for name in NAMES:
            assert store.put(name, name.encode())
        keys = {f"written here/100%/{name}": name.encode() for name in NAMES}
        assert {key for key in s3.keys("tested") if key.startswith("written here/")} == set(keys)
        for key, data in keys.items():
            assert s3.boto3().get_object(Bucket="tested", Key=key)["Body"].read() == data

    def test_reads_what_boto3_writes(self, s3: Server, bucket: str) -> None:
        for name in NAMES:
            s3.boto3().put_object(Bucket="tested", Key=f"theirs/{name}", Body=name.encode() * 3)
        store = open_store(f"{bucket}/theirs")
        assert [entry.name for entry in store.list()] == sorted(NAMES)
        for name in NAMES:
            data = name.encode() * 3
            head = s3.boto3().head_object(Bucket="tested", Key=f"theirs/{name}")
            entry = store.head(name)
            assert entry is not None and (entry.name, entry.bytes, entry.tag) == (name, len(data), head["ETag"])
            assert store.read(name) == data
            assert store.read(name, 1, 2) == data[1:3]

    def test_lists_by_the_beginning_of_names(self, s3: Server, bucket: str) -> None:
        for name in ["shard-1.tar", "shard-2.tar", "shards/x", "other", "deep/shard-3", "deep", "deep!"]:
            s3.boto3().put_object(Bucket="tested", Key=f"listed/{name}", Body=b"1")
        for marker in ["listed/", "listed/empty/", "listed/shards/"]:
            s3.boto3().put_object(Bucket="tested", Key=marker, Body=b"")
        store = open_store(f"{bucket}/listed")
        assert [e.name for e in store.list("shard-")] == ["shard-1.tar", "shard-2.tar"]
        assert [e.name for e in store.list("shards/")] == ["shards/x"]
        assert [e.name for e in store.list("deep")] == ["deep", "deep!", "deep/shard-3"]
        assert list(store.list("nothing")) == []
        assert "shards" not in [e.name for e in store.list()], (
            "the console's object for a folder is no object of the set"
        )
        assert list(open_store(f"{bucket}/liste").list()) == [], "a URL is a folder, not the beginning of names"

    def test_lists_more_than_a_page(self, s3: Server, bucket: str) -> None:
        from moto.core import DEFAULT_ACCOUNT_ID
        from moto.s3.models import s3_backends

        store = open_store(f"{bucket}/many")
        backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        for n in range(1100):  # S3 gives a thousand at a time
            backend.put_object("tested", f"many/{n:05}", b"")
        assert [e.name for e in store.list()] == [f"{n:05}" for n in range(1100)]

    @pytest.mark.parametrize("size", [0, 1, reading.PIECE - 1, reading.PIECE, reading.PIECE + 1, 5 * reading.PIECE + 7])
    def test_downloads_in_pieces(self, s3: Server, bucket: str, tmp_path: Path, size: int) -> None:
        data = noise(size)
        s3.boto3().put_object(Bucket="tested", Key="sized", Body=data)
        store, steps = open_store(bucket), []
        entry = store.download("sized", tmp_path / "file", expect=size, step=steps.append)
        assert (tmp_path / "file").read_bytes() == data
        assert (entry.bytes, sum(steps)) == (size, size)
        assert store.read("sized") == data
        with pytest.raises(StoreError, match=r"not 9,999,999"):
            store.download("sized", tmp_path / "file", expect=9_999_999)
        assert not (tmp_path / "file").exists()

    def test_ranges_and_limits(self, bucket: str) -> None:
        store = open_store(bucket)
        store.put("ten", b"0123456789")
        assert store.read("ten", 3) == b"3456789"
        assert store.read("ten", 3, 0) == b""
        assert store.read("ten", 10) == b""
        for begin, size in [(0, 11), (9, 2), (10, 1), (50, 1)]:
            with pytest.raises(StoreError, match=r"tested/ten: ends at byte 10"):
                store.read("ten", begin, size)
        with pytest.raises(StoreError, match=r"has 10 bytes, more than the 9"):
            store.read("ten", limit=9)

    def test_what_is_missing(self, bucket: str, tmp_path: Path) -> None:
        store = open_store(bucket)
        assert store.head("nothing") is None
        store.remove("nothing")
        to = tmp_path / "f"
        for ask in (
            lambda: store.read("nothing"),
            lambda: store.read("nothing", 0, 5),
            lambda: store.download("nothing", to),
        ):
            with pytest.raises(MissingError, match=r"s3://tested/nothing: there is no such object"):
                ask()
        assert not (tmp_path / "f").exists()
        store.put("there", b"x")
        store.remove("there")
        assert store.head("there") is None

    def test_puts_files_and_replaces(self, s3: Server, bucket: str, tmp_path: Path) -> None:
        store, data = open_store(bucket), noise(20_000_003)
        (tmp_path / "file").write_bytes(data)
        (tmp_path / "empty").write_bytes(b"")
        assert store.put("file", b"before")
        assert store.put("file", tmp_path / "file")
        assert s3.boto3().get_object(Bucket="tested", Key="file")["Body"].read() == data
        assert store.put("empty", tmp_path / "empty") and store.read("empty") == b""
        assert s3.boto3().list_multipart_uploads(Bucket="tested").get("Uploads", []) == []

    def test_more_than_one_put_takes(self, bucket: str, tmp_path: Path) -> None:
        with (tmp_path / "huge").open("wb") as file:
            file.truncate((5 << 30) + 1)
        with pytest.raises(StoreError, match=r"s3://tested/huge: .*5 GiB"):
            open_store(bucket).put("huge", tmp_path / "huge")

    def test_traffic(self, bucket: str) -> None:
        store = open_store(bucket)
        store.put("traffic", b"12345")
        store.read("traffic")
        store.head("traffic")
        traffic = store.traffic
        assert (traffic.requests, traffic.retries, traffic.read, traffic.written) == (3, 0, 5, 5)


class TestNames:
    @pytest.mark.parametrize(
        "name", ["", "/abs", "../x", "a/../b", "a//b", "./a", "a/", "..", "a\nb", "nul\0", "\ud800"]
    )
    def test_no_name_leads_elsewhere(self, bucket: str, tmp_path: Path, name: str) -> None:
        with pytest.raises(StoreError, match="no name of an object"):
            below(tmp_path, name)
        for store in (open_store(bucket), open_store(tmp_path)):
            for ask in (store.read, functools.partial(store.put, data=b""), store.head):
                with pytest.raises(StoreError):
                    ask(name)

    @pytest.mark.parametrize("name", NAMES)
    def test_harmless_names_stay(self, tmp_path: Path, name: str) -> None:
        assert below(tmp_path, name) == Path(f"{tmp_path}/{name}")

    @given(st.lists(st.sampled_from(["..", ".", "", "a", "\0", "\n", "~", "%2e%2e", "…", "\\"]), max_size=6))
    def test_any_name_is_refused_or_stays(self, parts: list[str]) -> None:
        folder, name = Path("/folder/of/a/set"), "/".join(parts)
        try:
            path = below(folder, name)
        except StoreError:
            return
        assert Path(os.path.normpath(path)) == path and folder in path.parents

    @pytest.mark.parametrize("key", ["hostile/../../etc/x", "hostile//x", "hostile/./x"])
    def test_hostile_keys_in_a_listing(self, s3: Server, bucket: str, key: str) -> None:
        s3.boto3().put_object(Bucket="tested", Key=key, Body=b"1")
        try:
            with pytest.raises(StoreError, match=r"s3://tested/hostile: .*rename or remove it"):
                open_store(f"{bucket}/hostile").list()
        finally:
            s3.boto3().delete_object(Bucket="tested", Key=key)

    def test_urls(self) -> None:
        assert as_place("s3://b/x/") == "s3://b/x"
        assert as_place("file:///a%20b") == Path("/a b")
        assert as_place("abfss://data@account.dfs.core.windows.net/x") == "abfss://data@account.dfs.core.windows.net/x"
        for url, why in [
            ("ftp://b/x", "no store is called ftp"),
            ("s3://", "names no bucket"),
            ("s3://key:secret@b/x", "has a user"),
            ("https://user:secret@host/x", "has a user"),
            ("abfss://data:secret@account.dfs.core.windows.net/x", "has a user"),
            ("s3://b/x//y", "a part that is empty"),
            ("s3://b/x/../y", "a part that is empty"),
            ("https://host/x?X-Amz-Signature=secret", "a query"),
        ]:
            with pytest.raises(StoreError, match=why) as caught:
                open_store(url)
            assert "secret" not in str(caught.value).lower().replace("secret_access", "")
        assert shown_url("https://u:p@h/x?sig=s#f") == "https://h/x"

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("s3:/b/x", "did you mean s3://b/x"),
            ("S3:b/x", "did you mean s3://b/x"),
            ("gs:/b/x", "did you mean gs://b/x"),
            ("https:/h/x", "did you mean https://h/x"),
            ("hf:o/x", "did you mean hf://o/x"),
            ("file:/a/x", "did you mean file:///a/x"),
            ("s3:/key:secret@b/x", "did you mean s3://b/x"),
            ("3://b/x", "no store is called 3://"),
            ("://b/x", "no store is called ://"),
            ("http://h:abc/x", "its host or port is none"),
            ("http://[::1/x", "its host or port is none"),
        ],
    )
    def test_what_is_nearly_a_url(
        self, text: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(StoreError, match=re.escape(why)) as caught:
            as_place(text)
        assert "secret" not in str(caught.value)
        (tmp_path / "in" / "a").mkdir(parents=True)
        with contextlib.suppress(SystemExit):
            main(["pack", "in", "--out", text])
        assert why in capsys.readouterr().err
        if not text.startswith("hf:"):  # which is a source's
            with pytest.raises(StoreError, match=re.escape(why)):
                open_source(text)
        if not text.startswith(("hf:", "http:")):
            with pytest.raises(StoreError, match=re.escape(why)):
                open_source(f"a.tar::{text}.tar")
        assert [path.name for path in tmp_path.iterdir()] == ["in"]

    def test_folders_that_are_called_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "s3:" / "b").mkdir(parents=True)
        assert as_place("s3:/b") == Path("s3:/b")
        for text in ("./s3:/new", "C:/x", "a:b", "x/s3:b", "s3", "/a://b"):
            assert as_place(text) == Path(text)


class TestFolder:
    """A folder is the same store."""

    def test_gives_what_was_put(self, tmp_path: Path) -> None:
        store = open_store(tmp_path / "new")
        for name in NAMES:
            assert store.put(name, name.encode(), create=True) is True
            assert store.put(name, b"other", create=True) is False
        assert [e.name for e in store.list()] == sorted(NAMES)
        for name in NAMES:
            assert (tmp_path / "new" / name).read_bytes() == store.read(name) == name.encode()
        assert store.read("dir/sub/f.tar", 4, 3) == b"sub"
        store.remove("a")
        store.remove("a")
        assert store.head("a") is None
        assert sorted(str(p) for p in (tmp_path / "new").iterdir() if p.name.startswith(".put")) == []

    def test_says_the_same(self, tmp_path: Path) -> None:
        store = open_store(tmp_path)
        (tmp_path / "ten").write_bytes(b"0123456789")
        for begin, size in [(0, 11), (10, 1), (50, 1)]:
            with pytest.raises(StoreError, match="ten: ends at byte 10"):
                store.read("ten", begin, size)
        with pytest.raises(StoreError, match="more than the 9"):
            store.read("ten", limit=9)
        with pytest.raises(StoreError, match="not 9"):
            store.download("ten", tmp_path / "to", expect=9)
        with pytest.raises(MissingError):
            store.download("nothing", tmp_path / "to")
        assert not (tmp_path / "to").exists()
        assert list(open_store(tmp_path / "none").list()) == []
        assert [e.name for e in store.list("te")] == ["ten"]

    def test_one_of_many_writes(self, tmp_path: Path) -> None:
        store, gate = open_store(tmp_path), threading.Barrier(16)

        def put(n: int) -> bool:
            gate.wait()
            return store.put("contested", f"{n}".encode(), create=True)

        with ThreadPoolExecutor(16) as pool:
            wrote = list(pool.map(put, range(16)))
        assert wrote.count(True) == 1
        assert (tmp_path / "contested").read_text() == f"{wrote.index(True)}"
        assert [path.name for path in tmp_path.iterdir()] == ["contested"]


class _Web(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """Python's own web server of a folder: no ranges, no tags, no lists."""
    handler = functools.partial(_Web, directory=str(tmp_path / "served"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    with in_environment({"DALI_DR_STORE_RETRY_S": "2"}):
        yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(10)
    server.server_close()


class TestWeb:
    def test_is_read(self, web: str, tmp_path: Path) -> None:
        data = noise(3 * reading.PIECE + 5)
        for name in [*NAMES, "empty"]:
            path = below(tmp_path / "served" / "a b%", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"" if name == "empty" else name.encode() * 5)
        (tmp_path / "served" / "a b%" / "big").write_bytes(data)
        store = open_store(f"{web}/a%20b%25/")
        for name in NAMES:
            assert store.read(name) == name.encode() * 5
            assert store.read(name, 2, 3) == (name.encode() * 5)[2:5]
            entry = store.head(name)
            assert entry is not None and entry.bytes == 5 * len(name.encode())
        assert store.read("empty") == b""
        assert store.read("big", 9_000_000, 100) == data[9_000_000:9_000_100]
        store.download("big", tmp_path / "big", expect=len(data))
        assert (tmp_path / "big").read_bytes() == data
        with pytest.raises(StoreError, match="ends at byte"):
            store.read("a", 3, 10)
        assert store.head("nothing") is None
        with pytest.raises(MissingError):
            store.read("nothing")

    def test_is_not_listed_or_written(self, web: str) -> None:
        store = open_store(f"{web}/set")
        with pytest.raises(
            StoreError, match=r"http://127.*/set: the web server does not give its list .*only what is named"
        ):
            store.list()
        for ask in (lambda: store.put("x", b""), lambda: store.remove("x")):
            with pytest.raises(StoreError, match="only read"):
                ask()

    def test_goes_on_without_ranges(self, web: str, tmp_path: Path) -> None:
        data = noise(5_000_000)
        (tmp_path / "served").mkdir()
        (tmp_path / "served" / "big").write_bytes(data)
        proxy = Faulty(web)
        with proxy.serving() as through:
            store = open_store(through.endpoint)
            proxy.add("cut", key="big", value=3_000_000, skip=1, times=2)
            store.download("big", tmp_path / "big")
            assert (tmp_path / "big").read_bytes() == data
            assert proxy.faults[0].done == 2

    def test_changed_without_tags(self, web: str, tmp_path: Path) -> None:
        (tmp_path / "served").mkdir()
        big = tmp_path / "served" / "big"
        big.write_bytes(noise(5_000_000))
        proxy = Faulty(web)
        with proxy.serving() as through:  # the first request, for a range, was in vain
            proxy.add("cut", key="big", value=3_000_000, skip=1)
            proxy.add("act", key="big", skip=1, action=lambda: big.write_bytes(noise(5_000_001)))
            with pytest.raises(StoreError, match="changed while it was read"):
                open_store(through.endpoint).read("big")
