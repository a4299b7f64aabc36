"""Stores in other processes: pickled, forked off, and the light server of the measurements."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from stores import KEY, SECRET, Faulty, Server, in_environment, noise, s3_server

from dali_dr.store import aide, reading
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


BIG = noise(4 * reading.PIECE, 2)


def running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class TestProcesses:
    def test_pickles_without_what_is_secret(self, bucket: str) -> None:
        store = open_store(f"{bucket}/pickled")
        store.put("x", b"1")
        data = pickle.dumps(store)
        assert SECRET.encode() not in data and KEY.encode() not in data
        assert pickle.loads(data).read("x") == b"1"

    def test_works_after_a_fork(self, s3: Server, bucket: str, tmp_path: Path) -> None:
        """obstore itself would wait for ever."""
        store = open_store(f"{bucket}/forked")
        assert store.put("x", BIG)  # its threads are there now
        found, told = multiprocessing.get_context("fork").Pipe()

        def child() -> None:
            steps: list[int] = []
            answers: list[object] = [
                store.read("x", 3, 7),
                [entry.name for entry in store.list()],
                store.head("nothing"),
                store.put("y", b"child", create=True),
                store.put("x", b"child", create=True),
                store.download("x", tmp_path / "x", step=steps.append).bytes,
                sum(steps),
            ]
            with ThreadPoolExecutor(4) as pool:
                answers.append(list(pool.map(lambda n: store.read("x", n, 1), range(8))))
            for ask in (lambda: store.read("nothing"), lambda: store.download("x", Path("/no/folder"))):
                try:
                    ask()
                except Exception as error:
                    answers.append((type(error).__name__, str(error)))
            answers.append((store.traffic.requests > 10, store.traffic.written))
            told.send(answers)

        process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
        process.start()
        assert found.poll(60), "the forked process waits"
        assert found.recv() == [
            BIG[3:10],
            ["x"],
            None,
            True,
            False,
            len(BIG),
            len(BIG),
            [BIG[n : n + 1] for n in range(8)],
            ("MissingError", "s3://tested/forked/nothing: there is no such object, or no such bucket"),
            ("FileNotFoundError", "[Errno 2] No such file or directory: '/no/folder'"),
            (True, 5),
        ]
        process.join(10)
        assert process.exitcode == 0
        assert (tmp_path / "x").read_bytes() == BIG
        assert store.read("y") == b"child"

    def test_an_aide_that_dies_is_said_and_replaced_and_one_that_is_not_needed_ends(
        self, faulty: Faulty, bucket: str
    ) -> None:
        store = open_store(f"{bucket}/aided")
        store.put("x", b"0123456789")
        faulty.add("stall", key="aided/x", value=60)
        found, told = multiprocessing.get_context("fork").Pipe()

        def child() -> None:
            killer = threading.Timer(1, lambda: aide._aide and aide._aide._child.kill())
            killer.start()
            answers: list[object] = []
            for _ in range(2):
                try:
                    answers.append(store.read("x"))
                except StoreError as error:
                    answers.append(str(error))
            told.send((answers, aide._aide and aide._aide._child.pid))

        process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
        process.start()
        assert found.poll(60), "the forked process waits"
        (died, read), pid = found.recv()
        assert died.startswith("s3://tested/aided: the process that reads the store for this forked one has ended")
        assert read == b"0123456789"
        process.join(10)
        deadline = time.monotonic() + 10
        while running(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not running(pid)

    def test_a_fork_before_the_first_request_needs_no_aide(self, bucket: str) -> None:
        code = (
            "import os, sys\n"
            "from dali_dr.store import aide\n"
            "from dali_dr.store.opening import open_store\n"
            "store = open_store(sys.argv[1])\n"
            "if os.fork() == 0:\n"
            "    store.put('by-fork', b'1'); print(store.read('by-fork'), aide._aide, flush=True); os._exit(0)\n"
            "os.wait(); print(store.read('by-fork'))"
        )
        done = subprocess.run([sys.executable, "-c", code, bucket], capture_output=True, text=True, timeout=60)
        assert done.stdout == "b'1' None\nb'1'\n", done.stderr


def test_the_light_server_is_a_store(tmp_path: Path) -> None:
    """Of bench/: boto3 and ours agree about it, and its link has the bandwidth and latency that it should."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
    import store_server

    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "big").write_bytes(BIG)
    for n in range(1005):
        (tmp_path / "set" / f"{n:05} ü+%").touch()
    with store_server.running(tmp_path, latency=0.02, bandwidth=40e6) as server, in_environment(server.environment):
        store, reference = open_store("s3://set"), Server(server.endpoint).boto3()
        assert [e.name for e in store.list()] == [*(f"{n:05} ü+%" for n in range(1005)), "big"]
        begun = time.monotonic()
        store.download("big", tmp_path / "big", expect=len(BIG))
        assert (tmp_path / "big").read_bytes() == BIG
        assert time.monotonic() - begun >= 0.02 + len(BIG) / 40e6
        assert server.counts()["GET /set/big"] == 4 and server.sent() == len(BIG)
        got = reference.get_object(Bucket="set", Key="big", Range="bytes=5-9")
        assert got["Body"].read() == BIG[5:10] and got["ContentRange"] == f"bytes 5-9/{len(BIG)}"
        assert store.put("new", b"ours", create=True) is True
        assert store.put("new", b"ours", create=True) is False
        assert reference.get_object(Bucket="set", Key="new")["Body"].read() == b"ours"
        store.remove("new")
        assert store.head("new") is None
        with pytest.raises(StoreError, match="no such bucket"):
            open_store("s3://other").list()
