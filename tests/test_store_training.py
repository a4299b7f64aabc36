"""Training from a store: the batches are those of the local folder in every byte, whatever the store, the cache and others do."""

from __future__ import annotations

import _thread
import contextlib
import dataclasses
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, encode_jpeg, picture, write_files
from stores import Faulty, Server, s3_server
from test_iterator import make_dataset
from test_mixing import make as make_mixed
from test_store_cache import BUCKET, files_in, upload

import dali_dr
from dali_dr.errors import ShardError
from dali_dr.loader import supply as supplying

COUNT, SHARD = 64, 8  # images, and of a shard
MISSING = "shard-000003.tar"


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


@pytest.fixture(scope="module")
def url(server: Server, local: dali_dr.Dataset) -> str:
    return upload(server, local.path, "set")


@pytest.fixture
def faulty(server: Server) -> Iterator[Faulty]:
    proxy = Faulty(server.endpoint)
    with proxy.serving():
        yield proxy


def loader(dataset: Any, **options: Any) -> dali_dr.ReinforcedIterator:
    always = {"batch_size": 4, "device": "cpu", "num_threads": 2, "with_index": True, "seed": 7, "window": 10}
    return dali_dr.ReinforcedIterator(dataset, **{**always, **options})


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def assert_equal(ours: Any, theirs: Any, epochs: int = 2) -> None:
    """Two iterators yield the same batches."""
    for _ in range(epochs):
        pairs = list(zip(ours, theirs, strict=True))
        assert pairs and all(equal(one, other) for (one,), (other,) in pairs)


def tight(dataset: dali_dr.Dataset, shards: float) -> int:
    """A bound that so many shards fit into, beside what opening fetches."""
    small = sum((dataset.path / name).stat().st_size for name in ("index.bin", "dataset.json"))
    return int(shards * max(shard.bytes for shard in dataset.manifest.shards)) + small


@pytest.mark.parametrize(
    "options",
    [
        {"order": "global"},
        {"order": "windowed"},
        {"order": "sequential"},
        {"order": "windowed", "repeats": 2},
        {"order": "windowed", "class_mates": 1},
        {"order": "windowed", "samples": list(range(3, 60, 5))},
        {"order": "windowed", "size": [(64, 8), (96, 4)]},
        {"order": "windowed", "last_batch": "fill", "batch_size": 7},
        {"augment": "eval", "size": 64},
    ],
)
def test_batches_are_those_of_the_folder(
    url: str, local: dali_dr.Dataset, tmp_path: Path, options: dict[str, Any]
) -> None:
    far = loader(dali_dr.Dataset(url, cache=tmp_path), **options)
    assert_equal(far, loader(local, **options))
    cold = far.stats()["store"]
    assert cold["shards"] == len(files_in(tmp_path)) and cold["bytes"] == sum(files_in(tmp_path).values())
    warm = loader(dali_dr.Dataset(url, cache=tmp_path), **options)
    assert_equal(warm, loader(local, **options))
    stats = warm.stats()["store"]
    assert stats["shards"] == stats["bytes"] == stats["evicted"] == 0 and stats["hits"] >= cold["shards"]


def test_a_url_is_all_it_takes(
    url: str, local: dali_dr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DALI_DR_CACHE", str(tmp_path))
    assert_equal(loader(url), loader(local.path))
    assert "store" not in loader(local.path).stats()


def bytes_in(folder: Path) -> int:
    """Of all files that are there; threads of the loader make, rename and remove some meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.lstat().st_size if path.is_file() else 0
    return total


@pytest.mark.parametrize("order", ["windowed", "sequential"])
def test_a_small_cache_gives_the_same_batches(url: str, local: dali_dr.Dataset, tmp_path: Path, order: str) -> None:
    limit = tight(local, 5.2)
    far, near = loader(dali_dr.Dataset(url, cache=tmp_path, cache_bytes=limit), order=order), loader(local, order=order)
    for _ in range(3):
        for (one,), (other,) in zip(far, near, strict=True):
            assert equal(one, other)
            assert bytes_in(tmp_path / "sets") <= limit
    stats = far.stats()["store"]
    assert stats["evicted"] >= 2 * (COUNT // SHARD - 5) and stats["shards"] >= 3 * (COUNT // SHARD - 5)


@pytest.mark.parametrize(
    "options", [{"order": "windowed"}, {"order": "sequential"}, {"order": "windowed", "window": 1000}]
)
def test_a_cache_for_the_whole_set_suffices(
    url: str, local: dali_dr.Dataset, tmp_path: Path, options: dict[str, Any]
) -> None:
    """What one epoch holds while the next begins is there once."""
    whole = sum(shard.bytes for shard in local.manifest.shards) + tight(local, 0)
    for more in ({}, {"prefetch": 16}):  # batches of a whole epoch
        far = loader(dali_dr.Dataset(url, cache=tmp_path, cache_bytes=whole), **options, **more)
        assert_equal(far, loader(local, **options), epochs=3)
        assert far.stats()["store"]["evicted"] == 0
    if "window" in options:
        with pytest.raises(ShardError, match=r"pass 1 bytes more"):
            loader(dali_dr.Dataset(url, cache=tmp_path, cache_bytes=whole - 1), **options)


@pytest.mark.parametrize("prefetch", [1, 3, 8, 14])
def test_what_is_in_use_together_is_counted_exactly(
    url: str, local: dali_dr.Dataset, tmp_path: Path, prefetch: int
) -> None:
    """Counted once more, batch by batch: the one the consumer gets, those ready behind it, the one being read."""
    sizes, small = [shard.bytes for shard in local.manifest.shards], tight(local, 0)
    batches = [{number // SHARD for number in range(at, at + 4)} for at in range(0, COUNT, 4)] * 2
    needs = [set().union(*batches[at : at + prefetch + 2]) for at in range(len(batches))]
    peak = max(sum(sizes[shard] for shard in need) for need in needs) + small
    options = {"order": "sequential", "prefetch": prefetch}
    far = loader(dali_dr.Dataset(url, cache=tmp_path, cache_bytes=peak), **options)
    assert_equal(far, loader(local, **options))
    with pytest.raises(ShardError, match=r"in use together need \d+ bytes at once, .*: pass 1 bytes more"):
        loader(dali_dr.Dataset(url, cache=tmp_path, cache_bytes=peak - 1), **options)


def test_the_disk_has_its_space_back(url: str, local: dali_dr.Dataset, tmp_path: Path) -> None:
    """Files that left the cache are open in no process: else the bound would be one of names, not of bytes."""

    def open_now() -> set[str]:
        links = set()
        for entry in Path("/proc/self/fd").iterdir():
            try:
                links.add(str(entry.readlink()))
            except OSError:
                continue
        return {link for link in links if link.startswith(str(tmp_path)) and "shard-" in link}

    far = loader(dali_dr.Dataset(url, cache=tmp_path, cache_bytes=tight(local, 5.2)), order="sequential")
    seen = set()
    for _ in range(2):
        for _ in far:
            seen |= open_now()
            assert not [link for link in open_now() if link.endswith("(deleted)")]
    assert seen  # they are open while they are in use


def test_shards_come_ahead_in_the_order_of_need(
    url: str, local: dali_dr.Dataset, faulty: Faulty, tmp_path: Path
) -> None:
    far = loader(dali_dr.Dataset(url, cache=tmp_path), order="windowed", window=4)
    first = next(far)[0]["index"]
    deadline = time.monotonic() + 30
    while len(files_in(tmp_path)) < COUNT // SHARD and time.monotonic() < deadline:
        time.sleep(0.01)  # without a consumer
    while len([path for _, path, _ in faulty.log if "shard-" in path]) < COUNT // SHARD and time.monotonic() < deadline:
        time.sleep(0.01)  # a file may be there before it is asked for
    asked = [int(path[-10:-4]) for _, path, _ in faulty.log if "shard-" in path]
    stream = [int(n) // SHARD for (batch,) in loader(local, order="windowed", window=4) for n in batch["index"]]
    wanted = list(dict.fromkeys(stream))
    assert int(first[0]) // SHARD == wanted[0] and sorted(asked) == sorted(wanted)
    # Threads fetch side by side, so that neighbours may change places.
    assert all(abs(asked.index(shard) - place) < supplying.THREADS for place, shard in enumerate(wanted))


def test_the_next_epoch_begins_while_this_one_ends(url: str, local: dali_dr.Dataset, tmp_path: Path) -> None:
    far = loader(dali_dr.Dataset(url, cache=tmp_path, cache_bytes=tight(local, 5.2)), order="windowed", window=4)
    near = loader(local, order="windowed", window=4)
    near.set_epoch(1)
    coming = int(next(iter(near))[0]["index"][0]) // SHARD
    batches = iter(far)
    for _ in range(len(far)):
        next(batches)
    deadline = time.monotonic() + 20
    while f"shard-{coming:06d}.tar" not in files_in(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    near = loader(local, order="windowed", window=4)
    near.set_epoch(1)
    assert_equal(far, near, epochs=1)


# ---- resuming, and other ranks

_RESUME = """
import json, sys, torch, numpy as np
import dali_dr
url, cache, limit, order, state, rank, world = json.loads(sys.argv[1])
data = dali_dr.Dataset(url, cache=cache, cache_bytes=limit)
far = dali_dr.ReinforcedIterator(data, batch_size=4, device="cpu", num_threads=1, with_index=True, seed=7, window=10, order=order,
                                 rank=rank, world_size=world)
if state:
    far.load_state_dict(state)
out = [{name: value.numpy() for name, value in batch.items()} for (batch,) in far]
np.savez(sys.argv[2], **{f"{i}-{name}": value for i, batch in enumerate(out) for name, value in batch.items()})
print(json.dumps(far.stats()["store"]))
"""


def elsewhere(out: Path, *what: Any) -> subprocess.Popen[str]:
    """Another process that runs an epoch, or the rest of one, and writes its batches."""
    return subprocess.Popen(
        [sys.executable, "-c", _RESUME, json.dumps(what), str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip


def batches_of(process: subprocess.Popen[str], out: Path) -> tuple[list[dict[str, np.ndarray]], dict[str, Any]]:
    text, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    found: dict[int, dict[str, np.ndarray]] = {}
    with np.load(out) as arrays:
        for name in arrays:
            number, _, field = name.partition("-")
            found.setdefault(int(number), {})[field] = arrays[name]
    return [found[number] for number in sorted(found)], json.loads(text)


def assert_same(got: list[dict[str, np.ndarray]], near: Iterator[Any]) -> None:
    wanted = [batch for (batch,) in near]
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        assert all(np.array_equal(one[name], other[name].numpy()) for name in other)


@pytest.mark.parametrize("order", ["global", "windowed"])
def test_a_run_goes_on_in_another_process(url: str, local: dali_dr.Dataset, tmp_path: Path, order: str) -> None:
    far, near = loader(dali_dr.Dataset(url, cache=tmp_path / "warm"), order=order), loader(local, order=order)
    for _, ((one,), (other,)) in zip(range(11), zip(far, near, strict=True), strict=False):
        assert equal(one, other)
    state = far.state_dict()
    assert state == near.state_dict()
    processes = {name: elsewhere(tmp_path / f"{name}.npz", url, str(tmp_path / name), None, order, state, 0, 1)
                 for name in ("warm", "cold")}  # fmt: skip
    for name, process in processes.items():
        got, store = batches_of(process, tmp_path / f"{name}.npz")
        again = loader(local, order=order)
        again.load_state_dict(state)
        assert_same(got, again)
        assert (store["shards"] == 0) == (name == "warm")
    if order == "windowed":  # the rest of the epoch, and what the next one begins with
        assert store["shards"] <= COUNT // SHARD


def test_ranks_share_a_cache(url: str, local: dali_dr.Dataset, faulty: Faulty, tmp_path: Path) -> None:
    faulty.latency = 0.02
    processes = []
    for rank in (0, 1):
        what = url, str(tmp_path / "cache"), None, "windowed", None, rank, 2
        processes.append(elsewhere(tmp_path / f"{rank}.npz", *what))
    stores = []
    for rank, process in enumerate(processes):
        got, store = batches_of(process, tmp_path / f"{rank}.npz")
        assert_same(got, loader(local, order="windowed", rank=rank, world_size=2))
        stores.append(store)
    assert sum(store["shards"] for store in stores) == COUNT // SHARD
    assert all(faulty.count("GET", f"/{BUCKET}/set/shard-{number:06d}.tar") == 1 for number in range(COUNT // SHARD))


def test_a_rank_fetches_what_its_share_touches(url: str, local: dali_dr.Dataset, tmp_path: Path) -> None:
    options = {
        "order": "sequential",
        "samples": list(range(2 * SHARD)),
        "batch_size": SHARD,
        "world_size": 2,
        "rank": 1,
    }
    far = loader(dali_dr.Dataset(url, cache=tmp_path), **options)
    assert_equal(far, loader(local, **options))
    assert list(files_in(tmp_path)) == ["shard-000001.tar"]


# ---- faults


def test_orders_that_jump_fill_the_cache_or_say_what_it_takes(url: str, local: dali_dr.Dataset, tmp_path: Path) -> None:
    total = sum(shard.bytes for shard in local.manifest.shards)
    small = dali_dr.Dataset(url, cache=tmp_path, cache_bytes=total - 1)
    with pytest.raises(ShardError, match=rf'need {total} bytes at once.*pass \d+ bytes more, or order="windowed"'):
        loader(small, order="global")
    loader(small, order="global", samples=list(range(8)))  # which are all in one shard
    with pytest.raises(ShardError, match=r"in use together need .* at once.*pass \d+ bytes more, or a smaller window"):
        loader(dali_dr.Dataset(url, cache=tmp_path, cache_bytes=tight(local, 1.1)), order="windowed", window=1000)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("status", {"value": 503, "times": 6}),
        ("cut", {"value": 3000, "times": 3}),
        ("reset", {"times": 3}),
        ("flip", {"value": 20_000, "times": 3}),
    ],
)
def test_faults_that_pass_change_nothing(
    url: str, local: dali_dr.Dataset, faulty: Faulty, tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    far = loader(dali_dr.Dataset(url, cache=tmp_path), order="windowed")
    fault = faulty.add(kind, key="shard-", **options)
    far = loader(dali_dr.Dataset(url, cache=tmp_path / "other"), order="windowed")
    assert_equal(far, loader(local, order="windowed"))
    assert fault.done == fault.times


@pytest.mark.parametrize("order", ["windowed", "global"])
@pytest.mark.parametrize(("kind", "value"), [("flip", 20_000), ("status", 404)])
def test_faults_that_stay_are_one_error(
    url: str, local: dali_dr.Dataset, faulty: Faulty, tmp_path: Path, kind: str, value: float, order: str
) -> None:
    fault = faulty.add(kind, key=MISSING, value=value, times=10**6)
    far, near = loader(dali_dr.Dataset(url, cache=tmp_path), order=order), loader(local, order=order)
    given = 0
    with pytest.raises(ShardError, match=rf"{url}/{MISSING}"):
        for (one,), (other,) in zip(far, near, strict=True):
            assert equal(one, other)
            given += 1
    assert (given > 0) == (order == "windowed") and MISSING not in files_in(tmp_path)
    state = far.state_dict()
    with pytest.raises(ShardError, match=MISSING):
        next(far)
    fault.times = 0  # it is mended: the run goes on where it stood
    near = loader(local, order=order)
    near.load_state_dict(state)
    rest = [next(far)[0] for _ in range(len(near) - given)]
    assert all(equal(one, other) for one, (other,) in zip(rest, near, strict=True))


@pytest.mark.parametrize("order", ["windowed", "global"])
def test_a_lost_shard_is_skipped_as_a_local_one(
    server: Server, url: str, local: dali_dr.Dataset, faulty: Faulty, tmp_path: Path, order: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    import shutil

    options = {"order": order, "on_error": "skip", "max_skipped": 1.0, "io_retry_s": 0.1}
    shutil.copytree(local.path, tmp_path / "copy")
    (tmp_path / "copy" / MISSING).unlink()
    faulty.add("status", key=MISSING, value=404, times=10**6)
    far = loader(dali_dr.Dataset(url, cache=tmp_path / "cache"), **options)
    near = loader(tmp_path / "copy", **options)
    assert_equal(far, near)
    assert {(one.key, one.count) for one in far.skip_report()} == {(one.key, one.count) for one in near.skip_report()}
    assert f"{url}/{MISSING}" in caplog.text
    assert all(f"{url}/{MISSING}" in one.reason for one in far.skip_report())


def test_a_small_cache_and_stand_ins(url: str, local: dali_dr.Dataset, faulty: Faulty, tmp_path: Path) -> None:
    """Stand-ins lie in other shards than those that the order is at."""
    import shutil

    options = {"order": "windowed", "on_error": "skip", "max_skipped": 1.0, "io_retry_s": 0.1}
    shutil.copytree(local.path, tmp_path / "copy")
    (tmp_path / "copy" / MISSING).unlink()
    faulty.add("status", key=MISSING, value=404, times=10**6)
    far = loader(dali_dr.Dataset(url, cache=tmp_path / "cache", cache_bytes=tight(local, 7.2)), **options)
    assert_equal(far, loader(tmp_path / "copy", **options))


def test_waiting_can_be_interrupted(url: str, local: dali_dr.Dataset, faulty: Faulty, tmp_path: Path) -> None:
    faulty.add("stall", key="shard-", value=5, after=1000, times=1)
    far = loader(dali_dr.Dataset(url, cache=tmp_path), order="windowed")
    near = loader(local, order="windowed")
    begin = time.monotonic()
    threading.Timer(0.5, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        while True:
            (one,), (other,) = next(far), next(near)
            assert equal(one, other)
    assert time.monotonic() - begin < 4
    near.load_state_dict(far.state_dict())
    assert equal(next(far)[0], next(near)[0])  # once it comes


def test_leaving_a_place(url: str, local: dali_dr.Dataset, tmp_path: Path) -> None:
    far = loader(dali_dr.Dataset(url, cache=tmp_path, cache_bytes=tight(local, 5.2)), order="windowed")
    near = loader(local, order="windowed")
    for epoch, batches in ((0, 3), (5, 2), (1, 9), (1, 1)):
        for iterator in (far, near):
            iterator.set_epoch(epoch)
        pairs = zip(iter(far), iter(near), strict=False)
        assert all(equal(one, other) for _, ((one,), (other,)) in zip(range(batches), pairs, strict=False))
    assert_equal(far, near)


def test_what_is_in_use_stays_after_a_step_back(url: str, tmp_path: Path) -> None:
    """Shards that were there for a later epoch are not let go while an earlier one, which was gone to, reads them."""
    far = loader(dali_dr.Dataset(url, cache=tmp_path), order="windowed")
    supply = far._supply
    for epoch in (5, 1):
        far.set_epoch(epoch)
        next(iter(far))
        deadline = time.monotonic() + 20
        while epoch == 5 and len(supply._held) < COUNT // SHARD and time.monotonic() < deadline:
            time.sleep(0.01)
        with supply._change:
            used = {file for files in supply._touched for file in files}
            assert used and not [file for file in used if file not in supply._held or supply._is_done(file)]


def test_what_is_waited_for_stays_first(
    url: str, local: dali_dr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was let go for want of room, and is needed again, queues behind it: else nobody would take either."""
    far = loader(dali_dr.Dataset(url, cache=tmp_path, cache_bytes=tight(local, 5.2)), order="windowed")
    next(far)
    supply = far._supply
    with supply._change:  # no thread takes anything
        for name in ("_is_due", "_is_done"):
            monkeypatch.setattr(supply, name, lambda file: False)
        monkeypatch.setattr(supply, "_release", lambda files: None)
        monkeypatch.setattr(supply, "_held", {0: 0, 1: 0})
        monkeypatch.setattr(supply, "_urgent", {3})
        monkeypatch.setattr(supply, "_queue", deque([(0, 2), (0, 3)]))
        supply._give()
        assert list(supply._queue) == [(0, 3), (0, 0), (0, 1), (0, 2)] and supply._may_take()


def test_a_user_function_that_fails_fails_when_it_is_due(url: str, local: dali_dr.Dataset, tmp_path: Path) -> None:
    def size(epoch: int) -> int:
        if epoch > 0:
            raise RuntimeError("no more sizes")
        return 64

    far = loader(dali_dr.Dataset(url, cache=tmp_path), order="windowed", size=size)
    assert len(list(far)) == COUNT // 4
    with pytest.raises(RuntimeError, match="no more sizes"):
        next(far)


def test_mixed_views_have_all_partners(server: Server, tmp_path: Path) -> None:
    photos = {f"{i % 3}/{i}.jpg": encode_jpeg(picture(60 + i, 70 + i, i)) for i in range(12)}
    made = make_mixed(write_files(tmp_path / "photos", photos), tmp_path / "mixed", "rrc+mixing")
    place = upload(server, made.path, "mixed")
    options = {"order": "windowed", "window": 2, "batch_size": 2}
    far = loader(dali_dr.Dataset(place, cache=tmp_path / "cache"), **options)
    assert_equal(far, loader(made, **options))
    assert far.stats()["store"]["shards"] == len(made.manifest.shards)


def test_images_in_tars_of_the_set(server: Server, local: dali_dr.Dataset, tmp_path: Path) -> None:
    """A sidecar set whose image tars lie inside it."""
    out = tmp_path / "sidecar"
    dali_dr.subset(local.path, out, views=3, sidecar=True, progress=False)
    place = upload(server, out, "sidecar")
    with pytest.raises(ShardError, match=r"not below the set.*dali-dr copy"):
        dali_dr.Dataset(place, cache=tmp_path / "cache")
    inside = tmp_path / "inside"
    (inside / "images").mkdir(parents=True)
    for shard in local.manifest.shards:
        (inside / "images" / shard.name).write_bytes((local.path / shard.name).read_bytes())
    moved = dali_dr.Dataset(out).manifest
    tars = tuple(dataclasses.replace(t, path=f"images/{Path(t.path).name}") for t in moved.image_tars)
    for path in out.glob("*.tar"):
        (inside / path.name).write_bytes(path.read_bytes())
    dataclasses.replace(moved, image_tars=tars).save(inside)
    near = dali_dr.Dataset(inside)  # which makes its index
    far = loader(dali_dr.Dataset(upload(server, inside, "inside"), cache=tmp_path / "cache"), order="windowed")
    assert_equal(far, loader(near, order="windowed"))
