"""Writing to a store: what is in the bucket in the end, as boto3 sees it, is what the same command writes into a folder,
byte for byte and object for file, whoever is killed, refused or second."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
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
from conftest import REPOSITORY, encode_jpeg, picture, write_files
from convert_inputs import ml_dr, stored
from faults import Killed
from stores import Server, s3_server
from writing import TIMES, Command, make_studio

import dali_dr
from dali_dr.cli import main
from dali_dr.errors import ShardError
from dali_dr.shards import outbox
from dali_dr.shards import write as write_module
from dali_dr.shards.sample import Sample
from dali_dr.shards.write import write_shards
from dali_dr.store.store import Entry
from dali_dr.store.url import MissingError, StoreError

IMAGES = 10
COMMANDS = ("write_shards", "pack", "subset", "retile", "merge")
HIDDEN = ".write_shards.json"
STEPS = (4, pytest.param(1, marks=pytest.mark.slow))  # of the calls of a run, which are disturbed one after the other


@dataclasses.dataclass
class Place:
    """A URL, seen by boto3.

    Attributes:
      server: of it.
      bucket: made for one test.
      work: the folder of outboxes of this machine.
    """

    server: Server
    bucket: str
    work: Path

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/sets/one"

    def objects(self) -> dict[str, bytes]:
        """All objects of the bucket, which is nobody else's."""
        client = self.server.boto3()
        found = {}
        for key in self.server.keys(self.bucket):
            assert key.startswith("sets/one/"), key
            found[key.removeprefix("sets/one/")] = client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return found

    def put(self, name: str, data: bytes) -> None:
        self.server.boto3().put_object(Bucket=self.bucket, Key=f"sets/one/{name}", Body=data)

    def remove(self, name: str) -> None:
        self.server.boto3().delete_object(Bucket=self.bucket, Key=f"sets/one/{name}")

    def clear(self) -> None:
        for name in self.objects():
            self.remove(name)


class Memory:
    """A store that is fast: a dict of objects, by whose MD5 they are tagged, as those of S3 mostly are.

    Attributes:
      kept: the objects.
      work: see `Place`.
    """

    url = "s3://memory/sets/one"

    def __init__(self, work: Path) -> None:
        self.kept: dict[str, bytes] = {}
        self.work = work
        self._lock = threading.Lock()

    def list(self, prefix: str = "") -> Iterator[Entry]:
        with self._lock:
            names = sorted(name for name in self.kept if name.startswith(prefix))
        return iter([entry for name in names if (entry := self.head(name)) is not None])

    def head(self, name: str) -> Entry | None:
        data = self.kept.get(name)
        return None if data is None else Entry(name, len(data), f'"{hashlib.md5(data).hexdigest()}"')

    def read(self, name: str, begin: int = 0, size: int | None = None, *, limit: int = 1 << 30) -> bytes:
        if name not in self.kept:
            raise MissingError(name)
        return self.kept[name][begin : None if size is None else begin + size]

    def download(self, name: str, to: Path, *, expect: int | None = None, step: Any = None) -> None:
        assert expect in (None, len(self.kept[name]))
        to.write_bytes(self.kept[name])

    def put(self, name: str, data: bytes | Path, *, create: bool = False) -> bool:
        data = data.read_bytes() if isinstance(data, Path) else data
        with self._lock:
            if create and name in self.kept:
                return False
            self.kept[name] = data
        return True

    def remove(self, name: str) -> None:
        self.kept.pop(name, None)

    def objects(self) -> dict[str, bytes]:
        return dict(self.kept)

    def clear(self) -> None:
        self.kept.clear()
        self.lose_work()

    def lose_work(self) -> None:
        """What another machine does not have."""
        shutil.rmtree(self.work, ignore_errors=True)


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Memory:
    monkeypatch.setenv(outbox.FOLDER_VARIABLE, str(tmp_path / "work"))
    return Memory(tmp_path / "work")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with s3_server() as server:
        yield server


_buckets = iter(range(10_000))


@pytest.fixture
def place(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv(outbox.FOLDER_VARIABLE, str(tmp_path / "work"))
    bucket = f"outbox-{next(_buckets)}"
    server.bucket(bucket)
    return Place(server, bucket, tmp_path / "work")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture(scope="module")
def pictures() -> list[Sample]:
    return [Sample(f"c{n % 3}/s{n}", encode_jpeg(picture(24, 32 + n, n)), n % 3) for n in range(IMAGES)]


def write(pictures: list[Sample], out: Path | str, **options: Any) -> None:
    settings = {"spec": None, "num_classes": 3, "samples_per_shard": 3, "check_images": False, "keep_bytes": True}
    write_shards(pictures, out, **{**settings, "progress": False, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(pictures: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The set of `write` in a folder."""
    out = tmp_path_factory.mktemp("whole") / "one"
    write(pictures, out)
    return contents(out)


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Command]]:
    with pytest.MonkeyPatch.context() as patch:
        yield make_studio(tmp_path_factory.mktemp("studio"), patch).commands


# What is in the store in the end.


@pytest.mark.parametrize("name", COMMANDS)
def test_a_bucket_holds_what_a_folder_would(
    name: str, commands: dict[str, Command], place: Place, tmp_path: Path
) -> None:
    commands[name].run(tmp_path / "local")
    expected = contents(tmp_path / "local")
    commands[name].run(place.url)  # type: ignore[arg-type]
    assert place.objects() == expected
    assert "dataset.json" in expected and not any(Path(key).name[0] == "." for key in expected)
    assert contents(place.work) == {}


def test_so_does_convert_which_estimates_first(place: Place, tmp_path: Path) -> None:
    sizes = [(40 + n, 60) for n in range(6)]
    images = write_files(
        tmp_path / "images", {f"n0{n % 2}/p{n}.JPEG": encode_jpeg(picture(*sizes[n], n)) for n in (0, 2, 4, 1, 3, 5)}
    )
    published = stored(ml_dr([sizes[n] for n in (0, 2, 4, 1, 3, 5)], views=2), tmp_path / "rd", "folder")
    words = [
        "convert",
        "ml-dr",
        str(published),
        "--images",
        str(images),
        "--quiet",
        "--samples-per-shard",
        "4",
        "--out",
    ]
    assert main([*words, str(tmp_path / "local")]) == 0
    assert main([*words, place.url, "--dry-run"]) == 0
    assert place.objects() == {}
    assert main([*words, place.url]) == 0
    assert place.objects() == contents(tmp_path / "local")


def test_from_store_to_store(
    commands: dict[str, Command], place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DALI_DR_CACHE", str(tmp_path / "cache"))
    commands["write_shards"].run(place.url)  # type: ignore[arg-type]
    commands["write_shards"].run(tmp_path / "local")
    words = ["--views", "3", "--images", "5", "--quiet", "--out"]
    assert main(["subset", str(tmp_path / "local"), *words, str(tmp_path / "small")]) == 0
    before = place.objects()
    assert main(["subset", place.url, *words, f"{place.url}/small"]) == 0
    small = contents(tmp_path / "small")
    assert place.objects() == before | {f"small/{name}": data for name, data in small.items()}
    with pytest.raises(ShardError, match="is the data set that is read"):
        dali_dr.subset(place.url, f"{place.url}/", views=3)


def test_python_takes_urls_too(pictures: list[Sample], whole: dict[str, bytes], place: Place) -> None:
    settings = {"num_classes": 3, "samples_per_shard": 3, "check_images": False, "keep_bytes": True}
    manifest = dali_dr.write_shards(pictures, place.url + "/", spec=None, progress=False, **settings)  # type: ignore[arg-type]
    assert manifest.images == IMAGES and place.objects() == whole


def test_a_finished_set_is_compared_and_left_as_it_is(
    pictures: list[Sample], whole: dict[str, bytes], place: Place
) -> None:
    write(pictures, place.url)
    client = place.server.boto3()

    def times() -> dict[str, Any]:
        found = client.list_objects_v2(Bucket=place.bucket)["Contents"]
        return {entry["Key"]: entry["LastModified"] for entry in found}

    before = times()
    time.sleep(1.1)  # S3 tells whole seconds
    write(pictures, place.url)
    assert times() == before and place.objects() == whole
    others = [*pictures[:4], dataclasses.replace(pictures[4], label=0), *pictures[5:]]
    with pytest.raises(ShardError, match=r"s3://.*other samples.*another label.*choose another URL"):
        write(others, place.url)
    with pytest.raises(
        ShardError, match=r"s3://.*other settings \(samples_per_shard was 3, now 4\); choose another URL"
    ):
        write(pictures, place.url, samples_per_shard=4)
    assert place.objects() == whole


# How it comes there.


class Tapped:
    """A store whose every call comes through ``on``, which may do it, refuse, or do something else."""

    def __init__(self, memory: Memory, on: Callable[[str, tuple[Any, ...], Callable[[], Any]], Any]) -> None:
        self._store, self._on = memory, on

    def __getattr__(self, name: str) -> Any:
        bare = getattr(self._store, name)
        if name not in ("list", "head", "read", "download", "put", "remove"):
            return bare
        return lambda *some, **more: self._on(name, some, lambda: bare(*some, **more))


@dataclasses.dataclass
class Disturbance:
    """The ``at``-th call of the store fails: "before" it does anything, or "after" it has, as where an answer was lost.

    Attributes:
      error: raised then, and by all later calls if ``lasting``.
      calls: so far.
    """

    at: int
    error: BaseException
    after: bool = False
    lasting: bool = False
    calls: int = 0

    def on(self, call: str, arguments: tuple[Any, ...], do: Callable[[], Any]) -> Any:
        self.calls += 1
        if self.calls == self.at and self.after:
            do()
        if self.calls == self.at or (self.lasting and self.calls > self.at > 0):
            raise self.error
        return do()


def tap(monkeypatch: pytest.MonkeyPatch, memory: Memory, on: Callable[..., Any] = lambda call, some, do: do()) -> None:
    monkeypatch.setattr(outbox, "_opened", lambda url: Tapped(memory, on))


def cut_short(pictures: list[Sample], memory: Memory, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What a run has put that was killed when it was to put its third shard."""

    def on(call: str, arguments: tuple[Any, ...], do: Callable[[], Any]) -> Any:
        if call == "put" and arguments[0] == "shard-000002.tar":
            raise Killed
        return do()

    tap(monkeypatch, memory, on)
    with pytest.raises(Killed):
        write(pictures, memory.url)
    return set(memory.objects())


def test_a_shard_is_there_last_of_its_three_and_the_manifest_last_of_all(
    pictures: list[Sample], memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    puts: list[tuple[str, bool]] = []

    def on(call: str, arguments: tuple[Any, ...], do: Callable[[], Any]) -> Any:
        if call == "put":
            puts.append((arguments[0], arguments[0] in memory.objects()))
        return do()

    tap(monkeypatch, memory, on)
    write(pictures, memory.url)
    names = [name for name, _ in puts]
    assert names[0] == HIDDEN and names[-1] == "dataset.json"
    for number in range(4):
        tar = f"shard-{number:06d}.tar"
        assert names.index(f".{tar}.json") < names.index(tar)
        assert names.index(tar.replace(".tar", ".idx")) < names.index(tar)
    assert not any(again for _, again in puts)


def test_disk_use_is_that_of_two_shards(
    pictures: list[Sample], memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = 120_000
    large = [
        dataclasses.replace(one, image_bytes=bytes(one.image_bytes) + bytes([n]) * images)
        for n, one in enumerate(pictures)
    ]
    most = 0

    def on(call: str, arguments: tuple[Any, ...], do: Callable[[], Any]) -> Any:
        nonlocal most
        # The blocks in use, which of a hollow file are two.
        used = sum(path.stat().st_blocks * 512 for path in memory.work.rglob("*.tar*") if path.is_file())
        most = max(most, used)
        return do()

    tap(monkeypatch, memory, on)
    write(large, memory.url, samples_per_shard=1)
    assert images < most < 4 * images
    assert sum(name.endswith(".tar") for name in memory.objects()) == IMAGES


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_killed_at_any_call_of_the_store(
    pictures: list[Sample],
    whole: dict[str, bytes],
    memory: Memory,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    after: bool,
    kept: bool,
) -> None:
    count = Disturbance(0, Killed())
    tap(monkeypatch, memory, count.on)
    write(pictures, memory.url)
    assert memory.objects() == whole
    for at in range(1 + (kept + 2 * after) % step, count.calls + 1, step):
        memory.clear()
        killed = Disturbance(at, Killed(), after, lasting=True)
        tap(monkeypatch, memory, killed.on)
        with pytest.raises(Killed):
            write(pictures, memory.url)
        partly = memory.objects()
        if "dataset.json" in partly:
            assert whole.items() <= partly.items(), at
        if not kept:
            memory.lose_work()
        tap(monkeypatch, memory)
        write(pictures, memory.url)
        assert memory.objects() == whole, at
        assert contents(memory.work) == {}, at


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("lasting", [False, True])
def test_a_store_that_refuses_is_one_error_and_the_same_command_goes_on(
    pictures: list[Sample],
    whole: dict[str, bytes],
    memory: Memory,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    lasting: bool,
) -> None:
    made: list[str] = []
    write_one = write_module.write_one_shard

    def noted(samples: Any, path: Path, *some: Any, **more: Any) -> Any:
        made.append(path.name)
        return write_one(samples, path, *some, **more)

    monkeypatch.setattr(write_module, "write_one_shard", noted)
    count = Disturbance(0, Killed())
    tap(monkeypatch, memory, count.on)
    write(pictures, memory.url)
    for at in range(1 + 2 * lasting % step, count.calls + 1, step):
        memory.clear()
        tap(monkeypatch, memory, Disturbance(at, StoreError(f"{memory.url}: access denied"), lasting=lasting).on)
        with pytest.raises(StoreError, match="access denied"):
            write(pictures, memory.url)
        there = {Path(name).name: data for name, data in contents(memory.work).items() if name.endswith(".tar")}
        tap(monkeypatch, memory)
        made.clear()
        write(pictures, memory.url)
        assert memory.objects() == whole, at
        assert not {name for name in there if there[name] == whole[name]} & set(made)  # it waited to be put


@pytest.mark.parametrize("begun_anew", [False, True])
def test_what_a_machine_has_left_is_old(
    pictures: list[Sample], whole: dict[str, bytes], memory: Memory, monkeypatch: pytest.MonkeyPatch, begun_anew: bool
) -> None:
    """Two shards of other samples were put by it, and are not in the store any more; another machine has begun anew."""
    others = [dataclasses.replace(one, label=(one.label + 1) % 3) for one in pictures]
    assert cut_short(others, memory, monkeypatch) >= {"shard-000000.tar", "shard-000001.tar"}
    memory.kept.clear()
    if begun_anew:
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv(outbox.FOLDER_VARIABLE, str(memory.work.parent / "elsewhere"))
            assert cut_short(pictures, memory, monkeypatch) >= {"shard-000000.tar", "shard-000001.tar"}
    tap(monkeypatch, memory)
    write(pictures, memory.url)
    assert memory.objects() == whole


def test_facts_that_are_lost_or_damaged_are_read_from_the_shard(
    pictures: list[Sample], whole: dict[str, bytes], memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for harm in ("lost", "damaged", "idx"):
        memory.clear()
        name = ".shard-000000.tar.json"
        assert "shard-000000.tar" in cut_short(pictures, memory, monkeypatch)
        if harm == "damaged":
            memory.put(name, memory.objects()[name].replace(b"1", b"2"))
        else:
            memory.remove(name if harm == "lost" else "shard-000000.idx")
        memory.lose_work()
        tap(monkeypatch, memory)
        write(pictures, memory.url)
        assert memory.objects() == whole


def test_another_run_with_other_bytes_is_told_apart(
    pictures: list[Sample], memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the put of one, the other puts its shard: facts and tar in the end are of the one that was
    first, and the other one says so."""
    others = [dataclasses.replace(one, label=(one.label + 1) % 3) for one in pictures]
    elsewhere = memory.work.parent / "elsewhere"
    inside = False

    def on(call: str, arguments: tuple[Any, ...], do: Callable[[], Any]) -> Any:
        nonlocal inside
        if call == "put" and arguments[0] == "shard-000000.tar" and not inside:
            inside = True
            monkeypatch.setenv(outbox.FOLDER_VARIABLE, str(elsewhere))
            write(others, memory.url)
            monkeypatch.setenv(outbox.FOLDER_VARIABLE, str(memory.work))
        return do()

    tap(monkeypatch, memory, on)
    with pytest.raises(ShardError, match=r"s3://.*shard-000000.tar: another run has put it there with other bytes"):
        write(pictures, memory.url)
    found = memory.objects()
    write(others, memory.work.parent / "local")
    assert {name: found[name] for name in found if name[0] != "."} == contents(memory.work.parent / "local")


def test_whoever_is_first_restores_its_facts(
    pictures: list[Sample], whole: dict[str, bytes], memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run puts its own facts just before the tar of this one."""
    name = ".shard-000000.tar.json"

    def on(call: str, arguments: tuple[Any, ...], do: Callable[[], Any]) -> Any:
        if call == "put" and arguments[0] == "shard-000000.tar":
            memory.put(name, b"{}")
        if call == "put" and arguments[0] == "dataset.json":
            assert memory.objects()[name] != b"{}"
        return do()

    tap(monkeypatch, memory, on)
    write(pictures, memory.url)
    assert memory.objects() == whole


# What is refused.


def test_what_a_store_cannot_is_refused_before_anything_is_written(
    pictures: list[Sample],
    commands: dict[str, Command],
    place: Place,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ShardError, match=r"s3://.*force.*removes nothing from a store"):
        write(pictures, place.url, force=True)
    with pytest.raises(ShardError, match=r"s3://.*sidecar"):
        commands["sidecar"].run(place.url)  # type: ignore[arg-type]
    assert place.objects() == {}
    for out, told in (
        ("s3://user:secret@bucket/x", "credentials by the environment"),
        ("ftp://host/x", "no store is called ftp"),
        ("s3://", "names no bucket"),
    ):
        with pytest.raises(SystemExit):
            main(["pack", str(tmp_path), "--out", out])
        said = capsys.readouterr().err
        assert told in said and "secret" not in said
    for out, told in (("https://host/x", "a web server is only read"), ("hf://datasets/me/x", "dali-dr push")):
        with pytest.raises(StoreError, match=told):
            write(pictures, out)
    assert not (place.work / "x").exists()


def test_two_of_one_machine_do_not_write_at_once(pictures: list[Sample], place: Place) -> None:
    with (
        outbox.writing_to(place.url, progress=False),
        pytest.raises(StoreError, match="another process of this machine is writing there"),
        outbox.writing_to(place.url, progress=False),
    ):
        pass
    with (
        outbox.writing_to(place.url, shared=True, progress=False) as one,
        outbox.writing_to(place.url, shared=True, progress=False) as other,
    ):
        assert one == other


def test_a_bucket_that_is_not_there_is_told(pictures: list[Sample], place: Place) -> None:
    with pytest.raises(StoreError, match="no-such-bucket"):
        write(pictures, "s3://no-such-bucket/one")
    assert not place.work.exists() or not [*place.work.iterdir()]  # nothing was begun


def test_shards_of_unknown_origin_are_not_touched(pictures: list[Sample], place: Place) -> None:
    place.put("shard-000000.tar", bytes(10240))
    with pytest.raises(ShardError, match=r"s3://.*unknown origin"):
        write(pictures, place.url)
    assert place.objects() == {"shard-000000.tar": bytes(10240)}


def test_a_hollow_shard_is_not_taken_for_an_empty_one(
    pictures: list[Sample], memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short(pictures, memory, monkeypatch)
    (path,) = memory.work.rglob("shard-000000.tar")
    with pytest.raises(ShardError, match="not a readable tar"):
        list(dali_dr.shards.tar.scan(path))


# What processes share while they work.


def test_what_is_shared_is_seen_by_another_machine(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    tap(monkeypatch, memory)
    with outbox.writing_to(memory.url, progress=False) as here:
        chunk = here / ".work" / "chunks" / "shard-000001.0"
        chunk.parent.mkdir(parents=True)
        chunk.write_bytes(b"views")
        outbox.share(chunk)
    monkeypatch.setenv(outbox.FOLDER_VARIABLE, str(memory.work.parent / "elsewhere"))
    with outbox.writing_to(memory.url, shared=True, progress=False) as there:
        assert (there / ".work" / "chunks" / "shard-000001.0").read_bytes() == b"views"
        assert there != here
        (there / ".work" / "chunks" / "shard-000001.0").write_bytes(b"seen!")
        outbox.refresh(there)
        assert (there / ".work" / "chunks" / "shard-000001.0").read_bytes() == b"views"  # the store is the truth
        outbox.withdraw(there / ".work" / "chunks" / "shard-000001.0")
    assert memory.objects() == {}
    outbox.refresh(here, alone=True)
    assert not chunk.exists()


def test_in_a_folder_nothing_of_this_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(url: str) -> Any:
        raise AssertionError(url)

    monkeypatch.setattr(outbox, "_opened", never)
    monkeypatch.setenv(outbox.FOLDER_VARIABLE, str(tmp_path / "work"))
    path = tmp_path / "out" / ".work" / "one"
    path.parent.mkdir(parents=True)
    with outbox.writing_to(tmp_path / "out") as out:
        assert out == tmp_path / "out"
        path.write_bytes(b"1")
        outbox.share(path)
        outbox.refresh(out)
        outbox.deliver(out)
        assert outbox.create(out / "state", b"1") and not outbox.create(out / "state", b"2")
        outbox.withdraw(path)
    assert contents(out) == {"state": b"1"} and not (tmp_path / "work").exists()


# Generation, of which several processes make shards.


def generated(objects: dict[str, bytes]) -> dict[str, Any]:
    """What must be equal: all but logs and measured times."""
    found: dict[str, Any] = {name: data for name, data in objects.items() if not name.endswith(".log")}
    summary = json.loads(found["report/summary.json"])
    return found | {"report/summary.json": {name: value for name, value in summary.items() if name not in TIMES}}


@pytest.mark.parametrize("kept", [False, True])
def test_generation_goes_on_wherever_it_was_killed(
    commands: dict[str, Command], memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    commands["generation"].run(tmp_path / "local")
    expected = generated(contents(tmp_path / "local"))

    def generate() -> None:
        with outbox.writing_to(memory.url, shared=True, progress=False) as out:
            commands["generation"].run(out)

    count = Disturbance(0, Killed())
    tap(monkeypatch, memory, count.on)
    generate()
    assert generated(memory.objects()) == expected
    assert contents(memory.work) == {}
    for at in range(1 + 2 * kept, count.calls + 1, 5):
        memory.clear()
        tap(monkeypatch, memory, Disturbance(at, Killed(), after=at % 2 == 0, lasting=True).on)
        with pytest.raises(Killed):
            generate()
        if not kept:
            memory.lose_work()
        tap(monkeypatch, memory)
        generate()
        assert generated(memory.objects()) == expected, at


# Processes.


PACK = "import sys; from dali_dr.cli import main; sys.exit(main(sys.argv[1:]))"


def start(images: Path, url: str, work: Path) -> subprocess.Popen[bytes]:
    words = ["pack", str(images), "--out", url, "--samples-per-shard", "4", "--quiet", "--threads", "1"]
    environment = os.environ | {outbox.FOLDER_VARIABLE: str(work), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-c", PACK, *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def packed(images: Path, out: Path) -> dict[str, bytes]:
    words = ["pack", str(images), "--out", str(out), "--samples-per-shard", "4", "--quiet"]
    assert main(words) == 0
    return contents(out)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {f"c{n % 2}/p{n:02d}.jpg": encode_jpeg(picture(40, 50 + n, n)) for n in range(24)}
    return write_files(tmp_path_factory.mktemp("images") / "photos", files)


def test_two_machines_write_the_same_at_once(images: Path, place: Place, tmp_path: Path) -> None:
    both = [start(images, place.url, tmp_path / f"work-{n}") for n in range(2)]
    for process in both:
        _, told = process.communicate(timeout=120)
        assert process.returncode == 0, told.decode()
    assert place.objects() == packed(images, tmp_path / "local")


@pytest.mark.slow
def test_killed_at_any_time(images: Path, place: Place, tmp_path: Path) -> None:
    """Thirty times, by the clock, on one machine or the next; the set is that of a run that nobody disturbed."""
    expected = packed(images, tmp_path / "local")
    draw = random.Random(3)
    begun = time.monotonic()
    process = start(images, place.url, tmp_path / "first")
    assert process.wait(120) == 0
    took = time.monotonic() - begun
    kills = 0
    place.clear()
    while kills < 30:
        process = start(images, place.url, tmp_path / f"work-{draw.randrange(2)}")
        try:
            assert process.wait(took * draw.uniform(0.5, 1.0)) == 0
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait(10)
            kills += 1
            continue
        assert place.objects() == expected
        place.clear()
        for number in range(2):
            shutil.rmtree(tmp_path / f"work-{number}", ignore_errors=True)
    process = start(images, place.url, tmp_path / "work-0")
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told.decode()
    assert place.objects() == expected
