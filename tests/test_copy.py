"""`dali-dr copy`: between folders and S3; what arrives is compared with the source by filecmp and boto3."""

from __future__ import annotations

import filecmp
import functools
import http.server
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from copied_sets import reinforced, tree
from stores import KEY, SECRET, Faulty, Server, s3_server

import dali_dr
from dali_dr.cli import main
from dali_dr.copying import image_tars
from dali_dr.copying import run as copying
from dali_dr.errors import ShardError
from dali_dr.shards.manifest import Manifest, checksum_of
from dali_dr.shards.reshape import subset
from dali_dr.shards.verify import verify
from dali_dr.store.objects import Objects

GOLDEN = Path(__file__).parent / "golden" / "sets"
MARK = ".copy.json"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with s3_server() as found:
        yield found


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reinforced(tmp_path_factory.mktemp("source") / "set")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DALI_DR_STORE_RETRY_S", "20")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


_buckets = iter(range(1000))


def bucket(server: Server) -> str:
    return server.bucket(f"copy-{next(_buckets)}")


def objects(server: Server, url: str) -> dict[str, bytes]:
    """All objects of a bucket as boto3 reads them."""
    name = url.removeprefix("s3://").partition("/")[0]
    client = server.boto3()
    return {key: client.get_object(Bucket=name, Key=key)["Body"].read() for key in server.keys(name)}


def fill(server: Server, url: str, files: dict[str, bytes]) -> None:
    name = url.removeprefix("s3://")
    for key, data in files.items():
        server.boto3().put_object(Bucket=name, Key=key, Body=data)


def same(first: Path, second: Path) -> bool:
    """filecmp's word, for whole trees."""

    def equal(found: filecmp.dircmp[str]) -> bool:
        _, wrong, odd = filecmp.cmpfiles(found.left, found.right, found.common_files, shallow=False)
        whole = not (found.left_only or found.right_only or wrong or odd or found.common_funny)
        return whole and all(map(equal, found.subdirs.values()))

    return equal(filecmp.dircmp(first, second, ignore=[], hide=[os.curdir, os.pardir]))


def copied(src: Path | str, dst: Path | str, **options: Any) -> Any:
    return dali_dr.copy(src, dst, progress=False, **options)


def test_there_and_back_and_between_buckets(server: Server, source: Path, tmp_path: Path) -> None:
    first, second = bucket(server), bucket(server)
    done = copied(source, f"{first}/sets/a")
    assert done.kept == 0 and done.left == () and done.bytes == done.total_bytes
    assert objects(server, first) == {f"sets/a/{name}": data for name, data in tree(source).items()}
    copied(f"{first}/sets/a", second)
    copied(second, tmp_path / "deep" / "back")
    assert same(source, tmp_path / "deep" / "back")
    assert verify(tmp_path / "deep" / "back", progress=False).ok
    again = copied(second, tmp_path / "deep" / "back")
    assert again.kept == again.objects and again.bytes == 0
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir() if (path / "dataset.json").exists()))
def test_every_format_version_is_copied_as_it_is(name: str, tmp_path: Path) -> None:
    done = copied(GOLDEN / name, tmp_path / "copy")
    left = {path.removesuffix("/") for path in done.left}
    expected = {path: data for path, data in tree(GOLDEN / name).items() if path.partition("/")[0] not in left}
    assert tree(tmp_path / "copy") == expected and "dataset.json" in expected


def test_dataset_json_is_last_and_the_mark_goes(server: Server, source: Path) -> None:
    faulty = Faulty(server.endpoint)
    with faulty.serving():
        url = bucket(server)
        copied(source, url)
    calls = [(method, path.rpartition("/")[2]) for method, path, _ in faulty.log if method in ("PUT", "DELETE")]
    calls = [call for call in calls if "." in call[1]]  # of the bucket, there is another
    assert calls[0] == ("PUT", MARK) and calls[-2:] == [("PUT", "dataset.json"), ("DELETE", MARK)]
    at = {name: number for number, (_, name) in enumerate(calls)}
    assert all(at[f"shard-{n:06d}.idx"] < at[f"shard-{n:06d}.tar"] < at["index.bin"] for n in range(4))


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "value": 503, "methods": ("GET", "PUT", "HEAD"), "key": ".tar", "times": 5},
        {"kind": "reset", "methods": ("GET", "PUT"), "key": ".tar", "times": 3},
        {"kind": "cut", "value": 3000, "key": ".tar", "times": 3},
        {"kind": "cut", "value": 10, "key": "index.bin"},
        {"kind": "lost", "methods": ("PUT",), "key": ".tar", "times": 2},
        {"kind": "lost", "methods": ("PUT",), "key": "dataset.json"},
    ],
    ids=lambda fault: f"{fault['kind']} {fault.get('key', '')}",
)
def test_what_passes_is_tried_again(fault: dict[str, Any], server: Server, source: Path, tmp_path: Path) -> None:
    faulty = Faulty(server.endpoint)
    first, second = bucket(server), bucket(server)
    fill(server, first, tree(source))
    with faulty.serving():
        done = faulty.add(**fault)
        copied(first, second)
        copied(second, tmp_path / "back")
    assert done.done == done.times
    assert objects(server, second) == tree(source) and same(source, tmp_path / "back")


@pytest.mark.parametrize("name", ["shard-000001.tar", "index.bin", "dataset.json"])
@pytest.mark.parametrize("back", [False, True], ids=["to a folder", "to a store"])
def test_a_changed_byte_is_an_error_and_does_not_arrive(
    name: str, back: bool, server: Server, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = tree(source)
    first = bucket(server)
    fill(server, first, whole)
    at = len(whole[name]) // 2
    target: Path | str = bucket(server) if back else tmp_path / "copy"
    faulty = Faulty(server.endpoint)
    with faulty.serving():
        faulty.add("flip", key=name, value=at, times=9)
        if name == "index.bin":  # which is made of the shards then
            copied(first, target)
            assert f"{first}/{name}: " in caplog.text and "made anew" in caplog.text
            assert (objects(server, str(target)) if back else tree(tmp_path / "copy")) == whole
            return
        with pytest.raises(ShardError) as error:
            copied(first, target)
        assert f"{first}/{name}" in str(error.value)
    there = objects(server, str(target)) if back else tree(tmp_path / "copy") if (tmp_path / "copy").exists() else {}
    assert "dataset.json" not in there
    assert {key: data for key, data in there.items() if key != MARK}.items() <= whole.items()
    copied(first, target)
    assert (objects(server, str(target)) if back else tree(tmp_path / "copy")) == whole


def test_an_idx_that_lies_is_made_right(server: Server, source: Path, tmp_path: Path) -> None:
    first = bucket(server)
    fill(server, first, tree(source) | {"shard-000002.idx": b"v1.2 1\njpg 0 9999 x.jpg\n"})
    copied(first, tmp_path / "copy")
    assert same(source, tmp_path / "copy")


def test_an_object_that_changes_meanwhile_is_an_error(server: Server, source: Path, tmp_path: Path) -> None:
    first, name = bucket(server), "shard-000002.tar"
    fill(server, first, tree(source))
    other = tree(source)[name][:-1] + b"\1"
    faulty = Faulty(server.endpoint)
    with faulty.serving():
        faulty.add("act", key=name, action=lambda: fill(server, first, {name: other}))
        with pytest.raises(ShardError, match=name):
            copied(first, tmp_path / "copy")
    assert not (tmp_path / "copy" / "dataset.json").exists() and not (tmp_path / "copy" / name).exists()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_changes_while_it_is_sent_is_taken_back(
    replaced: bool, server: Server, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(source, mine)
    put = Objects.put

    def late(self: Objects, name: str, data: bytes | Path, *, create: bool = False) -> bool:
        if name == "shard-000001.tar":
            assert isinstance(data, Path)
            changed = data.read_bytes()[:-1] + b"\1"
            if replaced:
                data.unlink()
            data.write_bytes(changed)
        return put(self, name, data, create=create)

    monkeypatch.setattr(Objects, "put", late)
    url = bucket(server)
    with pytest.raises(ShardError, match=r"shard-000001\.tar.*while it was copied"):
        copied(mine, url)
    there = objects(server, url)
    assert "shard-000001.tar" not in there and "dataset.json" not in there


def test_two_copies_at_once_to_one_bucket(server: Server, source: Path) -> None:
    url = bucket(server)
    failures: list[BaseException] = []

    def one() -> None:
        try:
            copied(source, url)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == [] and objects(server, url) == tree(source)


def test_two_copies_at_once_to_one_folder_exclude_each_other(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner: list[str] = []
    begin = copying._Run.begin

    def nested(self: copying._Run, names: list[str], items: list[Any]) -> None:
        if not inner:
            inner.append("")
            with pytest.raises(ShardError) as error:
                copied(source, tmp_path / "copy")
            inner[0] = str(error.value)
        begin(self, names, items)

    monkeypatch.setattr(copying._Run, "begin", nested)
    copied(source, tmp_path / "copy")
    assert "another process is writing there" in inner[0] and same(source, tmp_path / "copy")


def _ended(child: subprocess.Popen[Any]) -> Any:
    """What a process printed until its end, which must come."""
    try:
        return child.communicate(timeout=120)
    finally:
        child.kill()


def run_until(command: list[str], over: Callable[[], bool]) -> int:
    """The exit status of `dali-dr`, which is killed as soon as ``over``."""
    child = subprocess.Popen([sys.executable, "-m", "dali_dr", *command], stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < end:
        if over():
            child.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    _, told = _ended(child)
    assert child.returncode in (0, -signal.SIGKILL), told.decode()
    return child.returncode


def test_ten_kills_and_the_same_command_ends_it(server: Server, tmp_path: Path) -> None:
    """Each life is killed at a random request; what has arrived is not sent again."""
    source = reinforced(tmp_path / "set", images=24, per_shard=1)
    whole, rng = tree(source), random.Random(5)
    faulty = Faulty(server.endpoint, latency=0.004)
    first, kills = bucket(server), 0
    back = tmp_path / "back"
    with faulty.serving():
        for src, dst in ((str(source), first), (first, str(back))):
            status, here = -1, 0
            while status != 0:
                until = len(faulty.log) + rng.randint(4, 14) if here < 5 else 1 << 30
                status = run_until(["copy", src, dst, "--quiet", "--jobs", "2"], lambda: len(faulty.log) >= until)  # noqa: B023
                kills, here = kills + (status != 0), here + 1
                there = objects(server, first) if dst == first else tree(back) if back.exists() else {}
                shown = {name: data for name, data in there.items() if not name.rpartition("/")[2].startswith(".")}
                assert shown.items() <= whole.items()
                assert status == 0 or "dataset.json" not in shown or len(shown) == len(whole)
    assert kills == 10
    assert objects(server, first) == whole and same(source, back)
    assert all(faulty.count("GET", f"/{first[5:]}/shard-{n:06d}.tar") <= 3 for n in range(24))


def test_ctrl_c_says_that_the_same_command_goes_on(server: Server, source: Path) -> None:
    url = bucket(server)
    faulty = Faulty(server.endpoint, latency=0.2)
    with faulty.serving():
        command = [sys.executable, "-m", "dali_dr", "copy", str(source), url, "--quiet", "--jobs", "1"]
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 60
        while not faulty.count("PUT", f"/{url[5:]}/shard-000000.tar") and time.monotonic() < end:
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        _, told = _ended(child)
    assert child.returncode == 130 and told.endswith("the same command goes on where it stopped\n")
    assert "Traceback" not in told and "dataset.json" not in objects(server, url)
    copied(source, url)
    assert objects(server, url) == tree(source)


def test_what_a_killed_copy_left_in_temporary_folders_goes(source: Path, tmp_path: Path) -> None:
    stale, fresh, other = (tmp_path / "tmp" / name for name in ("dali_dr-copy-old", "dali_dr-copy-new", "mine"))
    for folder in (stale, fresh, other):
        folder.mkdir()
        (folder / "part").write_bytes(b"x")
    for folder in (stale, other):
        os.utime(folder, (1, 1))
    (tmp_path / "copy").mkdir()
    left = tmp_path / "copy" / ".shard-000001.tar.0123456789ab.tmp"
    left.write_bytes(b"half")
    mine = tmp_path / "copy" / ".notes.0123456789ab.tmp"
    mine.write_bytes(b"of the user")
    copied(source, tmp_path / "copy")
    assert not stale.exists() and fresh.exists() and other.exists()
    assert not left.exists() and mine.exists()


def test_another_destination_is_asked_for(server: Server, source: Path, tmp_path: Path) -> None:
    other = reinforced(tmp_path / "other", images=3, seed=1)
    for place in (tmp_path / "there", bucket(server)):
        copied(other, place)
        with pytest.raises(ShardError, match="holds another data set"):
            copied(source, place)
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    shutil.copy(source / "shard-000000.tar", unknown)
    with pytest.raises(ShardError, match="of unknown origin"):
        copied(source, unknown)
    (tmp_path / "writing").mkdir()
    (tmp_path / "writing" / ".write_shards.json").write_text("{}")
    with pytest.raises(ShardError, match="is being written"):
        copied(source, tmp_path / "writing")
    begun = bucket(server)
    fill(server, begun, {MARK: b'{"copy_of": "sha256:00"}'})
    with pytest.raises(ShardError, match="an unfinished copy of another data set"):
        copied(source, begun)
    for inside in (source, source / "report", source / "copy"):
        with pytest.raises(ShardError, match="or in it"):
            copied(source, inside)
    with pytest.raises(ShardError, match="or in it"):
        copied(f"{begun}/x", f"{begun}/x/y")


def test_only_finished_data_sets_are_copied(server: Server, source: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no such folder"):
        copied(tmp_path / "none", tmp_path / "copy")
    with pytest.raises(ShardError, match="holds no data set"):
        copied(bucket(server), tmp_path / "copy")
    begun = tmp_path / "begun"
    shutil.copytree(source, begun)
    (begun / "dataset.json").rename(begun / ".write_shards.json")
    with pytest.raises(ShardError, match="not finished: run its writer again"):
        copied(begun, tmp_path / "copy")
    lost = tmp_path / "lost"
    shutil.copytree(source, lost)
    (lost / "shard-000001.tar").unlink()
    with pytest.raises(ShardError, match="is missing"):
        copied(lost, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def sealed(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A dataset.json that somebody made up, with the right checksum."""
    data = json.loads((folder / "dataset.json").read_bytes())
    change(data)
    data["checksum"] = checksum_of(data)
    (folder / "dataset.json").write_text(json.dumps(data))


@pytest.mark.parametrize("name", ["../../x.tar", "/tmp/x.tar", "a/x.tar", "..\\x.tar", "x\n.tar", ".x.tar"])
def test_no_name_of_a_shard_leads_out(name: str, server: Server, source: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile"
    shutil.copytree(source, hostile)

    def change(data: dict[str, Any]) -> None:
        data["shards"][0]["name"] = name

    sealed(hostile, change)
    url = bucket(server)
    fill(server, url, tree(hostile))
    for src in (hostile, url):
        with pytest.raises(ShardError):
            copied(src, tmp_path / "out" / "copy")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def sidecar(source: Path, tmp_path: Path) -> Path:
    images = tmp_path / "images"
    shutil.copytree(source, images)
    subset(images, tmp_path / "sidecar", views=2, sidecar=True, progress=False)
    return tmp_path / "sidecar"


@pytest.mark.parametrize("path", ["../../x.tar", "/etc/passwd", "..\\x.tar", "report/x.tar", "a/../x.tar", "./x.tar"])
def test_no_path_of_images_is_followed_out_of_a_store(path: str, server: Server, sidecar: Path, tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["image_tars"][0]["path"] = path

    sealed(sidecar, change)
    url = bucket(server)
    fill(server, url, tree(sidecar))
    for with_images in (False, True):
        with pytest.raises(ShardError, match="images lie outside"):
            copied(url, tmp_path / "copy", with_images=with_images)
    assert not (tmp_path / "copy").exists()


def test_images_that_lie_outside_come_along(server: Server, sidecar: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="--with-images"):
        copied(sidecar, tmp_path / "copy")
    url = bucket(server)
    copied(sidecar, url, with_images=True)
    before = dali_dr.Dataset(sidecar)
    expected = [(before.keys[n], before.label(n), before.image(n), before.record_bytes(n)) for n in range(len(before))]
    shutil.rmtree(tmp_path / "images")
    again = copied(url, tmp_path / "copy")
    assert again.left == ()
    found = dali_dr.Dataset(tmp_path / "copy")
    assert [(found.keys[n], found.label(n), found.image(n), found.record_bytes(n)) for n in range(12)] == expected
    assert verify(tmp_path / "copy", progress=False).ok
    assert objects(server, url) == tree(tmp_path / "copy")
    copied(tmp_path / "copy", tmp_path / "third")
    assert same(tmp_path / "copy", tmp_path / "third")


def test_an_image_that_is_not_the_indexed_one_is_an_error(server: Server, sidecar: Path, tmp_path: Path) -> None:
    url = bucket(server)
    copied(sidecar, url, with_images=True)
    name = next(key for key in objects(server, url) if key.startswith("images/"))
    data = bytearray(objects(server, url)[name])
    data[700] ^= 1
    fill(server, url, {name: bytes(data)})
    with pytest.raises(ShardError, match=name):
        copied(url, tmp_path / "copy")
    assert not (tmp_path / "copy" / name).exists()


def test_names_in_an_index_of_version_1_are_not_changed() -> None:
    manifest = Manifest.load(GOLDEN / "v1-sidecar")
    other = image_tars.moved(manifest, {"images/x.tar": manifest.image_tars[0].path})
    assert other is not None
    with pytest.raises(ShardError, match="of version 1"):
        image_tars.moved_index(GOLDEN / "v1-sidecar" / "index.bin", manifest, other)


def test_files_of_the_user_stay_and_are_named(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(source, mine)
    (mine / "notes.txt").write_text("mine")
    (mine / "models").mkdir()
    (mine / "models" / "student.pt").write_bytes(b"weights")
    (mine / "report" / "rank-0.log").write_text("host")
    assert main(["copy", str(mine), str(tmp_path / "copy"), "--quiet"]) == 0
    told = capsys.readouterr()
    assert "models/, notes.txt, report/rank-0.log" in told.err
    assert same(source, tmp_path / "copy")
    assert main(["copy", str(mine), str(tmp_path / "copy"), "--quiet", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["kept"] == figures["objects"] and figures["left"] == ["models/", "notes.txt", "report/rank-0.log"]


def test_recheck_mends_what_is_wrong_at_the_destination(server: Server, source: Path, tmp_path: Path) -> None:
    url, name = bucket(server), "shard-000001.tar"
    damaged = bytearray(tree(source)[name])
    damaged[2000] ^= 4
    for place in (url, tmp_path / "copy"):
        copied(source, place)
        if isinstance(place, Path):
            (place / name).write_bytes(damaged)
        else:
            fill(server, url, {name: bytes(damaged)})
        assert copied(source, place).bytes == 0  # by size alone, it is there
        mended = copied(source, place, recheck=True)
        assert len(damaged) <= mended.bytes < mended.total_bytes / 2
        assert (tree(place) if isinstance(place, Path) else objects(server, url)) == tree(source)


def test_a_shard_that_was_cut_off_at_the_destination_is_told(source: Path, tmp_path: Path) -> None:
    copied(source, tmp_path / "copy")
    with (tmp_path / "copy" / "shard-000001.tar").open("ab") as file:
        file.truncate(1000)
    with pytest.raises(ShardError, match=r"shard-000001\.tar: has 1000 bytes.*--recheck"):
        copied(source, tmp_path / "copy")
    copied(source, tmp_path / "copy", recheck=True)
    assert same(source, tmp_path / "copy")


def test_nothing_secret_is_said(
    server: Server, source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    url = bucket(server)
    faulty = Faulty(server.endpoint)
    with faulty.serving():
        faulty.add("status", value=403, methods=("GET", "PUT", "HEAD"), times=99)
        assert main(["copy", str(source), url]) == 1
        assert main(["copy", url, str(tmp_path / "copy")]) == 1
    told = "".join(capfd.readouterr())
    assert told and SECRET not in told and KEY not in told and "Traceback" not in told


def test_an_index_that_is_far_too_long_is_not_fetched(server: Server, source: Path, tmp_path: Path) -> None:
    url = bucket(server)
    fill(server, url, tree(source) | {"index.bin": bytes(1 << 20)})
    faulty = Faulty(server.endpoint)
    with faulty.serving():
        copied(url, tmp_path / "copy")
    assert same(source, tmp_path / "copy")
    assert not faulty.count("GET", f"/{url[5:]}/index.bin")


@pytest.mark.parametrize("fault", ["damaged", "cut off", "of another set", "absent"])
def test_an_index_that_is_none_is_made_of_the_shards(
    fault: str, server: Server, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By way of what messages say: verify, Dataset, a copy to here, and back over what is there."""
    url, whole = bucket(server), tree(source)
    damaged = bytearray(whole["index.bin"])
    damaged[len(damaged) // 2] ^= 1
    other = tree(reinforced(tmp_path / "other", 9, seed=5))["index.bin"]
    faults = {"damaged": bytes(damaged), "cut off": whole["index.bin"][:200], "of another set": other, "absent": b""}
    fill(server, url, whole | {"index.bin": faults[fault]})
    if fault == "absent":
        server.boto3().delete_object(Bucket=url[5:], Key="index.bin")
    cache = tmp_path / "cache"
    found = verify(url, progress=False, cache=cache)
    assert not found.ok and all(line.startswith(f"{url}/index.bin: ") for line in found.problems), found.problems
    with pytest.raises(ShardError) as caught:
        dali_dr.Dataset(url, cache=cache)
    for said in (*found.problems, str(caught.value)):
        assert f"`dali-dr copy {url} FOLDER`" in said and f"`dali-dr copy FOLDER {url} --recheck`" in said
        assert str(cache) not in said and "delete it" not in said
    copied(url, tmp_path / "copy")
    assert f"{url}/index.bin: " in caplog.text and "made anew" in caplog.text and "delete it" not in caplog.text
    assert same(source, tmp_path / "copy")
    copied(tmp_path / "copy", url, recheck=True)
    assert objects(server, url) == whole
    assert verify(url, progress=False, cache=cache).ok


def test_no_index_is_made_of_damaged_shards(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "set")
    (tmp_path / "set" / "index.bin").unlink()
    shard = tmp_path / "set" / "shard-000002.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ShardError, match=r"set/shard-000002\.tar: "):
        copied(tmp_path / "set", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_sidecar_set_wants_its_index(server: Server, sidecar: Path, tmp_path: Path) -> None:
    """Which alone says what images must be."""
    shutil.copytree(sidecar, tmp_path / "set")
    (tmp_path / "set" / "index.bin").unlink()
    with pytest.raises(ShardError, match=r"index\.bin: is missing; `dali-dr index` makes it anew"):
        copied(tmp_path / "set", tmp_path / "copy", with_images=True)


def test_a_dataset_json_that_is_damaged_at_the_destination(server: Server, source: Path, tmp_path: Path) -> None:
    whole = tree(source)
    for place in (bucket(server), tmp_path / "copy"):
        copied(source, place)
        half = whole["dataset.json"][: len(whole["dataset.json"]) // 2]
        other = tree(reinforced(tmp_path / f"other-{isinstance(place, Path)}", seed=7))
        for there in (whole, other):
            changed = {**there, "dataset.json": half}
            if isinstance(place, Path):
                for name, data in changed.items():
                    (place / name).write_bytes(data)
            else:
                fill(server, place, changed)
            with pytest.raises(ShardError, match=r"its dataset\.json cannot be read \(.*--recheck"):
                copied(source, place)
            if there is whole:
                copied(source, place, recheck=True)
            else:
                with pytest.raises(ShardError, match="the shards there are none of this data set"):
                    copied(source, place, recheck=True)
            now = tree(place) if isinstance(place, Path) else objects(server, place)
            assert now == (whole if there is whole else changed)


def test_a_web_server_is_copied_from_by_name(source: Path, tmp_path: Path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(source.parent))
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{served.server_port}/{source.name}"
        copied(url, tmp_path / "copy")
        with pytest.raises(ShardError, match="only what is named can be read"):
            copied(source, f"{url}-2")
    finally:
        served.shutdown()
        thread.join(10)
        served.server_close()
    assert same(source, tmp_path / "copy")


def test_jobs_are_positive(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="jobs is 0"):
        copied(source, tmp_path / "copy", jobs=0)
