"""Faults of a store are overcome or said in one clear line; of many writers one creates."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from stores import Faulty, Server, noise, s3_server

from dali_dr.store import reading, uploads
from dali_dr.store.opening import open_store
from dali_dr.store.url import MissingError, StoreError


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


BIG = noise(4 * reading.PIECE, 2)


@pytest.fixture(scope="module")
def _objects(s3: Server, bucket: str) -> None:
    s3.boto3().put_object(Bucket="tested", Key="big", Body=BIG)
    s3.boto3().put_object(Bucket="tested", Key="few/small", Body=b"0123456789")


@pytest.mark.usefixtures("_objects")
class TestFaults:
    """A fault of a store is overcome, or one clear error."""

    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
    def test_what_passes_is_tried_again(self, faulty: Faulty, bucket: str, tmp_path: Path, status: int) -> None:
        faulty.add("status", methods=("GET", "PUT", "HEAD", "DELETE"), value=status, times=2)
        store = open_store(f"{bucket}/few")
        asked: list[Callable[[], object]] = [
            lambda: store.read("small"),
            lambda: store.head("small"),
            lambda: list(store.list("sma")),
            lambda: store.put(f"put-{status}", b"1", create=True),
            lambda: store.remove(f"put-{status}"),
        ]
        for n, ask in enumerate(asked, 1):
            assert ask() in (b"0123456789", True, None) or n in (2, 3)
            assert store.traffic.retries == 2 * n
            faulty.faults[0].done = 0

    @pytest.mark.parametrize("kind", ["reset", "cut", "stall"])
    @pytest.mark.parametrize("piece", [0, 2])
    def test_broken_reads_go_on(self, faulty: Faulty, bucket: str, tmp_path: Path, kind: str, piece: int) -> None:
        value = {"reset": 0, "cut": 3_000_000, "stall": 60}[kind]
        faulty.add(kind, key="big", value=value, after=2_500_000, skip=piece, times=2)
        store = open_store(bucket)
        store.download("big", tmp_path / "big")
        assert (tmp_path / "big").read_bytes() == BIG
        assert faulty.faults[0].done == 2 and store.traffic.retries == 2
        assert store.traffic.read < 1.3 * len(BIG), "a read goes on behind what came"

    def test_reads_into_memory_go_on(self, faulty: Faulty, bucket: str) -> None:
        faulty.add("cut", key="big", value=1_500_000, times=3)
        assert open_store(bucket).read("big", 1000, 6_000_000) == BIG[1000:6_001_000]
        faulty.add("cut", key="big", value=1_500_000, times=3)
        assert open_store(bucket).read("big") == BIG

    def test_connections_that_always_break_still_get_there(self, faulty: Faulty, bucket: str) -> None:
        faulty.add("cut", key="big", value=100_000, times=10**6)
        assert open_store(bucket).read("big", 7, 1_000_000) == BIG[7:1_000_007]
        assert faulty.faults[0].done > 9

    @pytest.mark.parametrize("kind", ["status", "reset", "cut", "stall"])
    def test_what_stays_broken_is_an_error_in_time(
        self, faulty: Faulty, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        monkeypatch.setenv("DALI_DR_STORE_RETRY_S", "1")
        faulty.add(kind, key="big", value={"status": 503, "stall": 60}.get(kind, 0), times=10**6)
        begun = time.monotonic()
        with pytest.raises(
            StoreError, match=r"s3://tested/big: the store does not give its bytes: .* tries within 1 s"
        ):
            open_store(bucket).download("big", tmp_path / "big")
        assert time.monotonic() - begun < 5
        assert not (tmp_path / "big").exists()

    def test_slow_is_not_dead(
        self, faulty: Faulty, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DALI_DR_STORE_RETRY_S", "1")
        faulty.pace.bytes_per_s = 6e6
        begun = time.monotonic()
        open_store(bucket).download("big", tmp_path / "big")
        assert time.monotonic() - begun > 2, "else this shows nothing"
        assert (tmp_path / "big").read_bytes() == BIG

    @pytest.mark.parametrize("skip", [1, 3])
    def test_an_object_that_changes_is_noticed(
        self, s3: Server, faulty: Faulty, bucket: str, tmp_path: Path, skip: int
    ) -> None:
        s3.boto3().put_object(Bucket="tested", Key="changing", Body=BIG)
        other = lambda: s3.boto3().put_object(Bucket="tested", Key="changing", Body=BIG[::-1])  # noqa: E731
        faulty.add("act", key="changing", action=other, skip=skip)
        with pytest.raises(StoreError, match=r"s3://tested/changing: changed while it was read"):
            open_store(bucket).download("changing", tmp_path / "f")
        assert not (tmp_path / "f").exists()

    def test_changed_between_a_break_and_the_rest(self, s3: Server, faulty: Faulty, bucket: str) -> None:
        s3.boto3().put_object(Bucket="tested", Key="changing", Body=BIG)
        faulty.add("cut", key="changing", value=3_000_000)
        faulty.add(
            "act", key="changing", action=lambda: s3.boto3().put_object(Bucket="tested", Key="changing", Body=BIG[::-1])
        )
        with pytest.raises(StoreError, match=r"changed while it was read"):
            open_store(bucket).read("changing", 0, 5_000_000)

    def test_removed_between(self, s3: Server, faulty: Faulty, bucket: str, tmp_path: Path) -> None:
        s3.boto3().put_object(Bucket="tested", Key="going", Body=BIG)
        faulty.add("act", key="going", skip=2, action=lambda: s3.boto3().delete_object(Bucket="tested", Key="going"))
        with pytest.raises(MissingError, match=r"s3://tested/going"):
            open_store(bucket).download("going", tmp_path / "f")

    def test_a_full_disk_is_no_fault_of_the_store(
        self, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written: list[int] = []

        def pwrite(file: int, data: memoryview, offset: int) -> int:
            written.append(len(data))
            if len(written) > 5:
                raise OSError(errno.ENOSPC, "No space left on device")
            return len(data)

        monkeypatch.setattr(os, "pwrite", pwrite)
        with pytest.raises(OSError, match="No space left"):
            open_store(bucket).download("big", tmp_path / "big")
        assert not (tmp_path / "big").exists()

    @pytest.mark.parametrize(
        ("status", "code", "why"),
        [
            (301, "PermanentRedirect", "another region.*set AWS_REGION"),
            (400, "AuthorizationHeaderMalformed", "another region .*set AWS_REGION"),
            (400, "ExpiredToken", "access is denied .*ExpiredToken.*credentials"),
            (400, "Odd", r"it failed \(status 400, Odd\)"),
        ],
    )
    def test_other_refusals(self, faulty: Faulty, bucket: str, status: int, code: str, why: str) -> None:
        faulty.add("status", methods=("GET", "PUT"), value=status, code=code, times=10**6)
        store = open_store(bucket)
        for ask in (lambda: store.read("x"), lambda: store.put("x", b""), lambda: store.list()):
            with pytest.raises(StoreError, match=why):
                ask()
        assert store.traffic.retries == 0

    def test_nobody_there(self, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("DALI_DR_STORE_RETRY_S", "0.5")
        store = open_store(bucket)
        for ask in (lambda: store.read("x"), lambda: store.put("x", b""), lambda: store.list()):
            with pytest.raises(
                StoreError,
                match=r"^s3://tested.*does not give .*: Connection refused; \d+ tries within 0.5 s",
            ):
                ask()

    def test_no_bucket(self, s3: Server) -> None:
        store = open_store("s3://no-such-bucket/set")
        for ask in (lambda: store.put("x", b""), lambda: store.list(), lambda: store.read("x")):
            with pytest.raises(StoreError, match=r"^s3://no-such-bucket/set.*: there is no such bucket .*: create it"):
                ask()


class TestCreateOnly:
    def test_is_refused_where_there_is_one(self, s3: Server, bucket: str) -> None:
        store = open_store(bucket)
        assert store.put("once", b"first", create=True) is True
        assert store.put("once", b"first", create=True) is False
        assert store.put("once", b"second", create=True) is False
        assert s3.boto3().get_object(Bucket="tested", Key="once")["Body"].read() == b"first"

    @pytest.mark.parametrize("size", [10, 9_000_000])
    def test_a_lost_answer_is_looked_at(
        self, s3: Server, faulty: Faulty, bucket: str, tmp_path: Path, size: int
    ) -> None:
        data = noise(size)
        (tmp_path / "file").write_bytes(data)
        for n, body in enumerate([data, tmp_path / "file"]):
            faulty.add("lost", methods=("PUT",), key=f"lost-{size}-{n}")
            assert open_store(bucket).put(f"lost-{size}-{n}", body, create=True) is True
            assert faulty.count("PUT", f"/tested/lost-{size}-{n}") == 2
            assert s3.boto3().get_object(Bucket="tested", Key=f"lost-{size}-{n}")["Body"].read() == data

    def test_another_was_first_while_ours_was_lost(self, s3: Server, faulty: Faulty, bucket: str) -> None:
        def other(data: bytes) -> Callable[[], object]:
            return lambda: s3.boto3().put_object(Bucket="tested", Key="raced", Body=data)

        for theirs in (b"theirs", b"OURS", b"longer than ours"):
            s3.boto3().delete_object(Bucket="tested", Key="raced")
            faulty.faults.clear()
            faulty.add("reset", methods=("PUT",), key="raced")
            faulty.add("act", methods=("PUT",), key="raced", action=other(theirs))
            assert open_store(bucket).put("raced", b"ours", create=True) is False
            assert s3.boto3().get_object(Bucket="tested", Key="raced")["Body"].read() == theirs

    def test_a_conflict_is_no_object(self, s3: Server, faulty: Faulty, bucket: str) -> None:
        """S3 says 409 where two conditional puts meet, and that the loser should try again."""
        faulty.add("status", methods=("PUT",), key="conflict", value=409, code="ConditionalRequestConflict", times=2)
        assert open_store(bucket).put("conflict", b"ours", create=True) is True
        assert faulty.count("PUT", "/tested/conflict") == 3
        assert s3.boto3().get_object(Bucket="tested", Key="conflict")["Body"].read() == b"ours"

    def test_a_put_that_hangs(self, s3: Server, faulty: Faulty, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DALI_DR_STORE_RETRY_S", "1")
        hang = faulty.add("act", methods=("PUT",), key="hung", action=lambda: faulty.pause(20), times=1)
        assert open_store(bucket).put("hung", b"ours", create=True) is True
        hang.times = 10**6
        monkeypatch.setattr(uploads, "_TRIES", 2)
        begun = time.monotonic()
        with pytest.raises(
            StoreError, match=r"s3://tested/hung-2: the store does not give an answer to a put: .*2 tries"
        ):
            open_store(bucket).put("hung-2", b"ours", create=True)
        assert time.monotonic() - begun < 15

    def test_one_of_many_threads_writes(self, bucket: str) -> None:
        store, gate = open_store(bucket), threading.Barrier(16)

        def put(n: int) -> bool:
            gate.wait()
            return store.put("contested", f"{n}".encode(), create=True)

        with ThreadPoolExecutor(16) as pool:
            wrote = list(pool.map(put, range(16)))
        assert wrote.count(True) == 1
        assert store.read("contested") == f"{wrote.index(True)}".encode()

    def test_one_of_many_processes_writes(self, bucket: str) -> None:
        code = (
            "import sys; from dali_dr.store.opening import open_store\n"
            "store = open_store(sys.argv[1]); store.head('x'); print('ready', flush=True); input()\n"
            "print(store.put('by-process', sys.argv[2].encode(), create=True))"
        )
        children = [
            subprocess.Popen(
                [sys.executable, "-c", code, bucket, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for n in range(4)
        ]
        for child in children:
            assert child.stdout is not None and child.stdout.readline() == "ready\n"
        wrote = [child.communicate("\n", timeout=30)[0].strip() for child in children]
        assert sorted(wrote) == ["False", "False", "False", "True"]
        assert open_store(bucket).read("by-process") == str(wrote.index("True")).encode()
