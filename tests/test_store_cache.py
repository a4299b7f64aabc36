"""The cache of sets in a store: what is in it is what the store has, once for all processes, within its bound, or an error."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, encode_jpeg, picture
from stores import Faulty, Server, s3_server
from test_iterator import make_dataset

import dali_dr
from dali_dr.cli import main
from dali_dr.errors import ShardError
from dali_dr.shards.manifest import Manifest
from dali_dr.store import cache as caching
from dali_dr.store import room
from dali_dr.store.cache import Shelf, Wanted
from dali_dr.store.locks import Locks
from dali_dr.store.opening import open_store
from dali_dr.store.room import Cache

COUNT = 40  # images, five shards of eight
BUCKET = "tested"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dali_dr.Dataset:
    images = [encode_jpeg(picture(60 + 3 * (i % 9), 90 - 2 * (i % 7), i)) for i in range(COUNT)]
    return make_dataset(tmp_path_factory.mktemp("store") / "set", images)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with s3_server() as found:
        found.bucket(BUCKET)
        yield found


@pytest.fixture
def faulty(server: Server) -> Iterator[Faulty]:
    proxy = Faulty(server.endpoint)
    with proxy.serving():
        yield proxy


def upload(server: Server, folder: Path, name: str) -> str:
    """Puts a data set into the store, by boto3; its URL."""
    for path in folder.rglob("*"):
        if path.is_file():
            server.boto3().upload_file(str(path), BUCKET, f"{name}/{path.relative_to(folder).as_posix()}")
    return f"s3://{BUCKET}/{name}"


@pytest.fixture(scope="module")
def url(server: Server, local: dali_dr.Dataset) -> str:
    return upload(server, local.path, "set")


def files_in(cache: Path) -> dict[str, int]:
    """Names and sizes of what lies in a cache, but for its locks and what opening fetches."""
    found = {p.name: p.lstat().st_size for p in (cache / "sets").rglob("*") if p.is_file()}
    return {name: size for name, size in found.items() if name not in ("dataset.json", "index.bin")}


def same(one: dali_dr.Dataset, other: dali_dr.Dataset, number: int) -> bool:
    return one.image(number) == other.image(number) and one.record_bytes(number) == other.record_bytes(number)


def test_samples_are_those_of_the_folder(url: str, local: dali_dr.Dataset, faulty: Faulty, tmp_path: Path) -> None:
    far = dali_dr.Dataset(url, cache=tmp_path)
    assert far.url == url and far.path.is_relative_to(tmp_path / "sets") and repr(url) in repr(far)
    assert list(far.keys) == list(local.keys) and (far.labels == local.labels).all()
    assert files_in(tmp_path) == {}  # opening fetches no shard
    assert {path.rpartition("/")[2] for _, path, _ in faulty.log} == {"dataset.json", "index.bin"}
    assert same(far, local, 17)
    assert files_in(tmp_path) == {"shard-000002.tar": (local.path / "shard-000002.tar").stat().st_size}
    assert all(same(far, local, number) for number in range(COUNT))
    assert far.samples_in(far.path / "shard-000001.tar").tolist() == list(range(8, 16))
    gets = [path for method, path, _ in faulty.log if method == "GET" and path.endswith(".tar")]
    assert len(gets) == len(set(gets)) == 5
    again = dali_dr.Dataset(url, cache=tmp_path)
    assert same(again, local, 39)
    assert len([1 for _, path, _ in faulty.log if path.endswith(".tar")]) == 5


def test_the_environment_says_where_the_cache_is(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DALI_DR_CACHE", str(tmp_path / "said"))
    assert dali_dr.Dataset(url).path.is_relative_to(tmp_path / "said")
    monkeypatch.delenv("DALI_DR_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert dali_dr.Dataset(url).path.is_relative_to(tmp_path / ".cache" / "dali_dr" / "sets")


def _image(dataset: dali_dr.Dataset, number: int) -> bytes:
    return dataset.image(number)


def test_forks_can_use_it(url: str, local: dali_dr.Dataset, tmp_path: Path) -> None:
    far = dali_dr.Dataset(url, cache=tmp_path)
    assert same(far, local, 0)
    with far.holding(0), multiprocessing.get_context("fork").Pool(2) as pool:
        got = pool.starmap_async(_image, [(far, number) for number in range(0, COUNT, 5)]).get(60)
    assert got == [local.image(number) for number in range(0, COUNT, 5)]
    assert pickle.loads(pickle.dumps(far)).path == far.path


def test_a_fork_holds_nothing(url: str, tmp_path: Path) -> None:
    far = dali_dr.Dataset(url, cache=tmp_path)
    with far.holding(0) as path:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, str(far.remote.shelf.holds(path.name)).encode())  # type: ignore[union-attr]
            time.sleep(30)
            os._exit(0)
        try:
            assert os.read(reading, 10) == b"False"
            other = Locks(tmp_path / "locks" / far.path.name)
            assert not other.exclusive(path.name)
            far.remote.shelf.release(path.name)  # type: ignore[union-attr]
            assert other.exclusive(path.name)  # though the child lives on
            other.close()
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reading)
            os.close(writing)


# ---- what the store may do


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("status", {"value": 503, "times": 2}),
        ("status", {"value": 500}),
        ("reset", {}),
        ("cut", {"value": 1000}),
        ("flip", {"value": 20_000}),
    ],
)
def test_what_passes_is_tried_again(
    url: str, local: dali_dr.Dataset, faulty: Faulty, tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    fault = faulty.add(kind, key="shard-000001.tar", **options)
    far = dali_dr.Dataset(url, cache=tmp_path)
    assert same(far, local, 10) and fault.done == fault.times
    assert list(files_in(tmp_path)) == ["shard-000001.tar"]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("flip", {"value": 20_000, "times": 99}, r"its SHA-256 is not the one .*restore it there from a copy"),
        ("status", {"value": 403, "times": 99}, "shard-000001.tar"),
        ("status", {"value": 404, "times": 99}, "shard-000001.tar"),
    ],
)
def test_what_stays_is_one_error(
    url: str, faulty: Faulty, tmp_path: Path, kind: str, options: dict[str, Any], message: str
) -> None:
    far = dali_dr.Dataset(url, cache=tmp_path)
    faulty.add(kind, key="shard-000001.tar", **options)
    with pytest.raises(ShardError, match=message) as caught:
        far.image(10)
    assert f"{url}/shard-000001.tar" in str(caught.value) and "secret" not in str(caught.value)
    assert files_in(tmp_path) == {}


def test_a_shard_of_another_size_is_refused(server: Server, local: dali_dr.Dataset, tmp_path: Path) -> None:
    place = upload(server, local.path, "sizes")
    far = dali_dr.Dataset(place, cache=tmp_path)
    for data in (b"", b"short", (local.path / "shard-000001.tar").read_bytes() + b"more"):
        server.boto3().put_object(Bucket=BUCKET, Key="sizes/shard-000001.tar", Body=data)
        with pytest.raises(ShardError, match=r"sizes/shard-000001.tar.*bytes"):
            far.image(10)
    server.boto3().delete_object(Bucket=BUCKET, Key="sizes/shard-000001.tar")
    with pytest.raises(ShardError, match=r"sizes/shard-000001.tar"):
        far.image(10)
    assert files_in(tmp_path) == {}
    assert same(far, local, 2)  # the others are


def test_a_changed_set_is_another_one(server: Server, local: dali_dr.Dataset, tmp_path: Path) -> None:
    place = upload(server, local.path, "changing")
    old = dali_dr.Dataset(place, cache=tmp_path / "cache")
    assert same(old, local, 3)
    other = make_dataset(tmp_path / "other", [encode_jpeg(picture(50 + i, 70, 90 + i)) for i in range(COUNT)])
    upload(server, other.path, "changing")
    new = dali_dr.Dataset(place, cache=tmp_path / "cache")
    assert same(new, other, 3) and same(old, local, 3) and new.path != old.path
    with pytest.raises(ShardError, match=r"shard-000004.tar.*(bytes|SHA-256|changed)"):
        old.image(39)
    with pytest.raises(ShardError, match=r"dataset.json: was changed since"):
        pickle.loads(pickle.dumps(old))


def test_an_unfinished_set(server: Server, local: dali_dr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=rf"s3://{BUCKET}/nothing/dataset.json: missing.*finish"):
        dali_dr.Dataset(f"s3://{BUCKET}/nothing", cache=tmp_path)
    place = upload(server, local.path, "unfinished")
    server.boto3().delete_object(Bucket=BUCKET, Key="unfinished/index.bin")
    with pytest.raises(ShardError, match=r"unfinished/index.bin: missing; .*dali-dr copy"):
        dali_dr.Dataset(place, cache=tmp_path)


def test_damaged_indices_and_manifests(server: Server, local: dali_dr.Dataset, tmp_path: Path) -> None:
    place, index = upload(server, local.path, "damaged"), (local.path / "index.bin").read_bytes()
    put = server.boto3().put_object
    for data, message in (
        (index[:-9], "damaged"),
        (index[:200] + b"\xff" + index[201:], "damaged"),
        (bytes(1_000_000), "at most"),
        (b"", "damaged|bytes"),
    ):
        put(Bucket=BUCKET, Key="damaged/index.bin", Body=data)
        with pytest.raises(ShardError, match=rf"damaged/index.bin: .*{message}"):
            dali_dr.Dataset(place, cache=tmp_path)
    put(Bucket=BUCKET, Key="damaged/index.bin", Body=index)
    far = dali_dr.Dataset(place, cache=tmp_path)
    (far.path / "index.bin").write_bytes(index[:-1])  # in the cache: fetched anew
    assert same(dali_dr.Dataset(place, cache=tmp_path), local, 0)
    put(Bucket=BUCKET, Key="damaged/dataset.json", Body=b"{" * 100)
    with pytest.raises(ShardError, match=r"damaged/dataset.json: not JSON"):
        dali_dr.Dataset(place, cache=tmp_path)


@pytest.mark.parametrize(
    "path", ["../tar.tar", "/etc/passwd", "a/../../b.tar", "./a.tar", "a//b.tar", ".work/x.tar", "index.bin"]
)
def test_names_stay_inside(server: Server, local: dali_dr.Dataset, tmp_path: Path, path: str) -> None:
    data = json.loads((local.path / "dataset.json").read_text())
    data["tiles"] = None
    data["image_tars"] = [{"path": path, "bytes": 2048}]
    manifest = Manifest.from_json(data, sealed=False)
    text = json.dumps(manifest.to_json()).encode()
    server.boto3().put_object(Bucket=BUCKET, Key="hostile/dataset.json", Body=text)
    with pytest.raises(ShardError, match=r"s3://tested/hostile: its images are in .*not below the set.*dali-dr copy"):
        dali_dr.Dataset(f"s3://{BUCKET}/hostile", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_links_in_the_cache_are_not_followed(url: str, local: dali_dr.Dataset, tmp_path: Path) -> None:
    far = dali_dr.Dataset(url, cache=tmp_path / "cache")
    other = tmp_path / "other.tar"
    shutil.copy(local.path / "shard-000001.tar", other)
    (far.path / "shard-000001.tar").symlink_to(other)
    assert same(far, local, 10)
    assert not (far.path / "shard-000001.tar").is_symlink()
    assert other.read_bytes() == (local.path / "shard-000001.tar").read_bytes()


# ---- one cache, several processes

_READ = """
import sys, time
import dali_dr
data = dali_dr.Dataset(sys.argv[1], cache=sys.argv[2], cache_bytes=int(sys.argv[3]) or None)
for number in eval(sys.argv[4]):
    data.image(number)
counts = data.remote.shelf.counts
print(counts.fetched, counts.hits, counts.evicted)
"""


def reading(url: str, cache: Path, limit: int = 0, numbers: str = "range(40)") -> subprocess.Popen[str]:
    """Another process that reads samples."""
    return subprocess.Popen(
        [sys.executable, "-c", _READ, url, str(cache), str(limit), numbers],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> list[int]:
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    return [int(number) for number in out.split()]


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_processes_fetch_each_shard_once(url: str, faulty: Faulty, tmp_path: Path) -> None:
    faulty.latency = 0.1
    counts = [ended(process) for process in [reading(url, tmp_path) for _ in range(3)]]
    assert sum(fetched for fetched, *_ in counts) == 6  # the index, too
    for number in range(5):
        assert faulty.count("GET", f"/{BUCKET}/set/shard-{number:06d}.tar") == 1


def test_a_killed_process_leaves_nothing_half(url: str, local: dali_dr.Dataset, faulty: Faulty, tmp_path: Path) -> None:
    stall = faulty.add("stall", key="shard-000000.tar", value=60, after=5000)
    process = reading(url, tmp_path)
    try:
        until(lambda: stall.done and any(name.endswith(".tmp") for name in files_in(tmp_path)))
        waiting = reading(url, tmp_path)  # for the shard that the first one fetches
        time.sleep(0.5)
        assert "shard-000000.tar" not in files_in(tmp_path)
    finally:
        process.kill()
        process.wait(10)
        process.stdout and process.stdout.close()
        process.stderr and process.stderr.close()
    assert ended(waiting)[0] == 5 and stall.done == 1
    assert sorted(files_in(tmp_path)) == [f"shard-{number:06d}.tar" for number in range(5)]
    far = dali_dr.Dataset(url, cache=tmp_path)
    assert all(same(far, local, number) for number in range(0, COUNT, 8))


def test_the_bound_holds_while_two_processes_read(url: str, local: dali_dr.Dataset, tmp_path: Path) -> None:
    sizes = [shard.bytes for shard in local.manifest.shards]
    limit = 2 * max(sizes) + (local.path / "index.bin").stat().st_size + (local.path / "dataset.json").stat().st_size
    assert sum(sizes) > limit
    random = "__import__('random').Random({}).choices(range(40), k=60)"
    processes = [reading(url, tmp_path, limit, random.format(seed)) for seed in (1, 2)]
    most = 0
    while any(process.poll() is None for process in processes):
        total = 0
        for path in tmp_path.rglob("*"):
            try:
                total += path.lstat().st_size if path.is_file() else 0
            except FileNotFoundError:
                continue
        most = max(most, total)
        time.sleep(0.005)
    evicted = sum(ended(process)[2] for process in processes)
    assert 0 < most <= limit and evicted > 5


def test_what_was_used_least_recently_goes_first(url: str, local: dali_dr.Dataset, tmp_path: Path) -> None:
    limit = sum(shard.bytes for shard in local.manifest.shards) + 10_000
    far = dali_dr.Dataset(url, cache=tmp_path, cache_bytes=limit)
    for number in (0, 8, 16, 24, 0):
        far.image(number)
        time.sleep(0.02)
    used = sum(p.lstat().st_size for p in (tmp_path / "sets").rglob("*") if p.is_file())
    tight = dali_dr.Dataset(url, cache=tmp_path, cache_bytes=used + 100)
    tight.image(32)
    kept = set(files_in(tmp_path))
    assert "shard-000000.tar" in kept and "shard-000004.tar" in kept and "shard-000001.tar" not in kept


def test_what_is_in_use_stays(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "_ROOM_S", 0.3)
    far = dali_dr.Dataset(url, cache=tmp_path)
    sizes = [wanted.bytes for wanted in far.remote.wanted]  # type: ignore[union-attr]
    with far.holding(0) as path:
        small = sum(p.lstat().st_size for p in (tmp_path / "sets").rglob("*") if p.is_file())
        tight = dali_dr.Dataset(url, cache=tmp_path, cache_bytes=small + max(sizes) // 2)
        with pytest.raises(ShardError, match=r"no room for shard-000002.tar.*in use.*pass more cache_bytes"):
            tight.image(16)
        assert path.exists()
    tight.image(16)
    assert not path.exists()
    with pytest.raises(ShardError, match=r"does not fit into cache_bytes=1000"):
        dali_dr.Dataset(url, cache=tmp_path, cache_bytes=1000).image(0)


def disk_with(free: int, cache: Path) -> Callable[..., Any]:
    """`os.statvfs` of a disk that has so many bytes free now, fewer as files are written into the cache, more as they go."""
    first, facts = sum(files_in(cache).values()), os.statvfs(cache)

    def statvfs(path: object) -> Any:
        left = max(0, free + first - sum(files_in(cache).values()))
        return os.statvfs_result((*facts[:1], 1, *facts[2:4], left, *facts[5:]))

    return statvfs


@pytest.mark.parametrize("limit", [None, 1 << 40])
def test_a_disk_that_is_full_of_other_things_is_told_at_once(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    far = dali_dr.Dataset(url, cache=tmp_path, cache_bytes=limit)
    far.image(0)
    wanted = far.remote.wanted  # type: ignore[union-attr]
    there = sum(p.stat().st_size for p in (tmp_path / "sets").rglob("*") if p.is_file())
    monkeypatch.setattr(os, "statvfs", disk_with(room.KEPT_FREE + wanted[2].bytes - there - 1, tmp_path))
    begin = time.monotonic()
    with pytest.raises(ShardError, match=r"no room for shard-000002.tar.*would not do: free \d+ bytes") as caught:
        far.image(16)
    assert time.monotonic() - begin < 10 and "cache_bytes" not in str(caught.value)
    missing = int(str(caught.value).split("free ")[-1].split(" bytes")[0])
    assert missing == there + 1 and files_in(tmp_path) == {"shard-000000.tar": wanted[0].bytes}  # nothing left in vain
    monkeypatch.setattr(os, "statvfs", disk_with(room.KEPT_FREE + wanted[2].bytes - wanted[0].bytes, tmp_path))
    far.image(16)  # what is not in use goes
    assert files_in(tmp_path) == {"shard-000002.tar": wanted[2].bytes}


def test_a_disk_whose_room_is_in_use_is_waited_for(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "_VAIN_S", 0.0)
    monkeypatch.setattr(caching, "_ROOM_S", 0.4)
    far = dali_dr.Dataset(url, cache=tmp_path)
    wanted = far.remote.wanted  # type: ignore[union-attr]
    with far.holding(0):
        monkeypatch.setattr(os, "statvfs", disk_with(room.KEPT_FREE + wanted[2].bytes - 1, tmp_path))
        begin = time.monotonic()
        with pytest.raises(ShardError, match=r"is in use by this or other processes: free 1 bytes on that disk"):
            far.image(16)
        assert time.monotonic() - begin >= 0.4
    far.image(16)


def test_a_full_disk_is_an_error_of_the_cache(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far = dali_dr.Dataset(url, cache=tmp_path)

    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(
        ShardError, match=r"cannot be written \(No space left on device\).*another folder for the cache"
    ):
        far.image(0)
    assert files_in(tmp_path) == {}


def test_leftovers_make_room(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    folder = cache.folder("dead")
    folder.mkdir()
    left = folder / ".a.tar.900-0123456789ab.tmp"
    left.write_bytes(b"x" * 10)
    assert cache.used() == 900
    made, evicted = cache.reserve(cache.folder("new") / ".b.tar.500-0123456789ab.tmp", 500)
    assert made and evicted == 1 and not left.exists()
    held = cache.locks("new")
    assert held.exclusive("b.tar")
    assert cache.reserve(cache.folder("new") / ".c.tar.600-0123456789ab.tmp", 600) == (False, 0)
    held.close()


def test_small_files_stay_as_long_as_others(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000, ("index.bin", "report/source.bin"))
    old, new = cache.folder("old"), cache.folder("new")
    (old / "report").mkdir(parents=True)
    for name, size in (("index.bin", 100), ("report/source.bin", 100), ("a.tar", 300), ("b.tar", 300)):
        (old / name).write_bytes(bytes(size))
    user = cache.locks("old")
    fetcher = cache.locks("new")
    assert user.shared("") and user.shared("b.tar") and fetcher.exclusive("c.tar") and fetcher.exclusive("d.tar")
    assert cache.reserve(new / ".c.tar.400-0123456789ab.tmp", 400) == (True, 1)
    assert sorted(p.name for p in old.rglob("*.*")) == ["b.tar", "index.bin", "source.bin"]
    user.release("b.tar")
    assert cache.reserve(new / ".d.tar.400-0123456789ab.tmp", 400)[0]
    assert sorted(p.name for p in old.rglob("*.*")) == ["index.bin", "source.bin"]  # the set is open
    assert not cache.reserve(new / ".e.tar.200-0123456789ab.tmp", 200)[0]
    user.close()
    assert cache.reserve(new / ".e.tar.200-0123456789ab.tmp", 200)[0]
    fetcher.close()
    assert [p.name for p in old.rglob("*.*")] == []


def test_one_process_is_not_its_own_rival(url: str, local: dali_dr.Dataset, tmp_path: Path) -> None:
    far = dali_dr.Dataset(url, cache=tmp_path)
    wrong: list[int] = []

    def read(seed: int) -> None:
        for number in range(seed, COUNT, 3):
            if not same(far, local, number):
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and far.remote.shelf.counts.fetched == 6  # type: ignore[union-attr]


def test_a_wait_can_be_stopped(url: str, faulty: Faulty, tmp_path: Path) -> None:
    far = dali_dr.Dataset(url, cache=tmp_path)
    faulty.add("stall", key="shard-000000.tar", value=60, after=5000)
    process = reading(url, tmp_path)
    try:
        until(lambda: any(name.endswith(".tmp") for name in files_in(tmp_path)))
        begin = time.monotonic()
        with pytest.raises(caching.Stopped):
            far.remote.shelf.hold(  # type: ignore[union-attr]
                far.remote.wanted[0],
                stop=lambda: time.monotonic() > begin + 0.2,  # type: ignore[union-attr]
            )
        assert time.monotonic() < begin + 5
    finally:
        process.kill()
        process.communicate(timeout=10)


# ---- the command line


def test_subcommands_take_urls(
    url: str, local: dali_dr.Dataset, faulty: Faulty, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) in (0, None)
        return capsys.readouterr().out

    assert run("info", url, "--json") == run("info", local.path, "--json")
    assert [path for _, path, _ in faulty.log] == [f"/{BUCKET}/set/dataset.json"]
    cached = ("--cache", tmp_path / "cache")
    far = json.loads(run("verify", url, *cached, "--json", "--quiet"))
    assert far == json.loads(run("verify", local.path, "--json", "--quiet"))
    for place, more in ((url, cached), (local.path, ())):
        out = tmp_path / ("far" if more else "near")
        run("subset", place, *more, "--views", 2, "--images", "0:20", "--out", out, "--quiet", "--json")
    assert (tmp_path / "far/shard-000000.tar").read_bytes() == (tmp_path / "near/shard-000000.tar").read_bytes()
    assert (tmp_path / "far/dataset.json").read_bytes() == (tmp_path / "near/dataset.json").read_bytes()
    with pytest.raises(SystemExit):
        main(["info", "nowhere://set"])
    assert "no store is called nowhere://" in capsys.readouterr().err


def test_verify_tells_of_damage(
    server: Server, local: dali_dr.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = upload(server, local.path, "verified")
    far = dali_dr.Dataset(place, cache=tmp_path)
    far.image(0)
    with (far.path / "shard-000000.tar").open("r+b") as file:  # in the cache: fetched anew
        file.seek(3000)
        file.write(b"damage")
    data = bytearray((local.path / "shard-000003.tar").read_bytes())
    data[5000] ^= 1
    server.boto3().put_object(Bucket=BUCKET, Key="verified/shard-000003.tar", Body=bytes(data))
    assert main(["verify", place, "--cache", str(tmp_path), "--quiet", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert len(found["problems"]) == 1 and f"{place}/shard-000003.tar: its SHA-256" in found["problems"][0]


# ---- a folder as a store: the cache knows nothing of S3


def test_shelves_work_on_any_store(tmp_path: Path) -> None:
    (tmp_path / "store" / "deep").mkdir(parents=True)
    (tmp_path / "store" / "deep" / "a").write_bytes(b"abc" * 1000)
    shelf = Shelf(Cache(tmp_path / "cache", None), open_store(tmp_path / "store"), "name")
    seen: list[int] = []
    with shelf.holding(Wanted("deep/a", 3000)) as path:
        assert path.read_bytes() == b"abc" * 1000
    shelf.hold(Wanted("deep/a", 3000), step=seen.append)
    assert seen == [3000] and shelf.holds("deep/a") and shelf.release("deep/a") and not shelf.release("deep/a")
    with pytest.raises(ShardError, match="SHA-256"):
        shelf.discard("deep/a")
        shelf.hold(Wanted("deep/a", 3000, "0" * 64))
    assert files_in(tmp_path / "cache") == {}


def test_what_is_finished_while_it_is_counted_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path, None)
    folder = cache.folder("a")
    folder.mkdir()
    partial = folder / f".x.tar.100-{'0' * 12}.tmp"
    partial.write_bytes(bytes(100))

    def finished(_: Path, listed: Any = room.below) -> list[Path]:
        paths = list(listed(folder))
        partial.replace(folder / "x.tar")
        return paths

    monkeypatch.setattr(room, "below", finished)
    assert cache.used() == 100
