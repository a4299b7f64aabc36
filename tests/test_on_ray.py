"""Ray: machines that are killed and come, a driver that is killed; the data set is that of one process, byte for byte."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import encode_jpeg, picture, write_files
from ray_nodes import ENVIRONMENT, Nodes, nodes
from stores import in_environment, s3_server

import dali_dr
from dali_dr.reinforce import on_ray
from dali_dr.reinforce.on_ray import Cluster, need_of, reinforce_on_ray
from dali_dr.shards.verify import verify

HERE = Path(__file__).parent
IMAGES = 120  # in shards of two
KILLS = 22  # of nodes, in a storm
TIMED = re.compile(r"/report/(rank.*|summary\.json|confidence\.png)$")
TIME = 240  # seconds, after which something hangs


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small photos, of which three are cut off or no images, two of these in one shard."""
    files = {f"c{n % 6}/p{n:03d}.jpg": encode_jpeg(picture(50 + n % 9, 64, n)) for n in range(IMAGES)}
    names = sorted(files)
    files[names[7]] = files[names[7]][:200]
    files |= {names[n]: b"no image" for n in (20, 21)}
    return write_files(tmp_path_factory.mktemp("images"), files)


@pytest.fixture(scope="module")
def alone(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of one process."""
    out = tmp_path_factory.mktemp("alone") / "out"
    go = tmp_path_factory.mktemp("go") / "go"
    go.touch()
    done = subprocess.run([*DRIVER, images, out, "none", go], capture_output=True, text=True, timeout=TIME, env=env())
    assert done.returncode == 0, done.stderr
    assert len(dali_dr.Dataset(out)) == IMAGES - 3 and verify(out, progress=False).ok
    return out


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """Three nodes of a CPU each."""
    with nodes(1, 1, 1) as found:
        yield found
    time.sleep(1)
    assert not [line for line in raylets() if found.address in line], "nodes outlive the cluster"


DRIVER = [sys.executable, str(HERE / "ray_driver.py")]


def env() -> dict[str, str]:
    paths = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": paths}


def raylets() -> list[str]:
    """Command lines of all raylets."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if words[0].endswith(b"/raylet"):
                found.append(b" ".join(words).decode(errors="replace"))
    return found


def data_set(folder: Path) -> dict[str, bytes]:
    """All files but those of the report that tell times and workers."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not TIMED.search(str(path))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def stormy(cluster: Nodes, images: Path, out: str, folder: Path, kills: int, driver_kills: int, seed: int) -> str:
    """Runs a driver until it is done, while nodes are killed and added at random instants, and the driver, too.

    Returns:
      What the drivers logged.
    """
    rng = random.Random(seed)
    go, log = folder / "go", folder / "log"
    # As long as nodes are killed there is something to do: each takes some seconds to come, of which few are work.
    command = [*DRIVER, str(images), out, cluster.address, str(go), str(0.05 * kills)]
    dead_drivers = 0
    with log.open("w") as text:

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(command, stdout=text, stderr=text, env=env(), start_new_session=True)

        driver, ends = start(), time.monotonic() + TIME * (1 + kills / 10)
        at_work = len(re.findall("is at work", log.read_text()))
        try:
            for number in range(kills):
                waits = time.monotonic() + rng.uniform(0.5, 4)
                while time.monotonic() < waits or len(re.findall("is at work", log.read_text())) <= at_work:
                    assert driver.poll() is None, log.read_text()
                    assert time.monotonic() < ends, f"nobody works: {log.read_text()}"
                    time.sleep(0.05)
                if dead_drivers < driver_kills and number >= (dead_drivers + 1) * kills // (driver_kills + 1):
                    dead_drivers += 1
                    driver.kill()
                    driver.wait()
                    driver = start()
                    at_work = len(re.findall("is at work", log.read_text()))
                cluster.kill(rng.randrange(3))
                cluster.add()
            go.touch()
            status = driver.wait(ends - time.monotonic())
        finally:
            driver.kill()
    assert status == 0 and dead_drivers == driver_kills, log.read_text()
    return log.read_text()


def test_nodes_and_driver_killed_at_random_leave_the_data_set_of_one_process(
    cluster: Nodes, images: Path, alone: Path, tmp_path: Path
) -> None:
    told = stormy(cluster, images, str(tmp_path / "out"), tmp_path, kills=5, driver_kills=1, seed=1)
    assert data_set(tmp_path / "out") == data_set(alone)
    assert "was lost" in told and "joined the cluster" in told and "Traceback" not in told
    summary, single = (json.loads((f / "report" / "summary.json").read_bytes()) for f in (tmp_path / "out", alone))
    for name in ("images", "skipped", "views", "record_bytes", "confidence_histogram"):
        assert summary[name] == single[name]


def test_workers_that_fail(cluster: Nodes, tmp_path: Path) -> None:
    toys = [sys.executable, str(HERE / "ray_toys.py"), cluster.address, str(tmp_path)]
    done = subprocess.run(toys, capture_output=True, text=True, timeout=TIME, env=env())
    assert done.returncode == 0, done.stderr
    told = {line[0]: line[1:] for line in map(json.loads, re.findall(r"^\[\".*", done.stdout, re.MULTILINE))}
    all_shards, but_one = [0, 1, 2, 3, 4, 5], [0, 1, 2, 4, 5]

    def tries(way: str) -> int:
        return len(list(tmp_path.glob(f"{way}-*")))

    # What may pass is tried again, and so is what a lost process was making, more often than errors are.
    assert told["twice"][:2] == [None, all_shards] and tries("twice") == 3
    assert told["died"][:2] == [None, all_shards] and tries("died") == 5
    # What would be the same again ends the run at once, with its own message.
    assert told["image"][0] == "ShardError: sample a/b: is no image" and tries("image") == 1
    # Other errors have a limit, and all other shards are made before.
    for way, reason in (("always", "RuntimeError: CUDA error"), ("disk", "no space left"), ("unportable", "worth 3")):
        error, made, _ = told[way]
        assert made == but_one and tries(way) == 3
        assert error.startswith("DaliDrError: shard 3 could not be made, 3 times, the last on ") and reason in error
        assert "\n" not in error and "same command goes on" in error
    assert re.match(
        "DaliDrError: the run could not be opened, 3 times.*no teacher is called 'tiny'", told["teacher"][0]
    )
    assert "shard 3: 3 processes ended while they made it" in told["dies"][0] and 3 not in told["dies"][1]
    # Ctrl-C: the worker at a shard of a minute stops after its next image.
    assert told["interrupted"][0].startswith("KeyboardInterrupt") and told["interrupted"][1] == but_one
    assert told["interrupted"][2] < 15
    assert (
        "torch" in told["versions"][0]
        and "here 1.0" in told["versions"][0]
        and "other none (here 7)" in told["versions"][0]
    )
    assert "Traceback" not in done.stderr


def cli(*words: object, **changes: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dali_dr", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIME, env={**env(), **changes})


REINFORCE = ("reinforce", "--teacher", "tiny", "--engine", "ray", "--quiet", "--out")


def test_an_address_that_does_not_answer(images: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    begun = time.monotonic()
    done = cli(*REINFORCE, tmp_path / "out", images, "--address", f"127.0.0.1:{port}")
    assert time.monotonic() - begun < 60
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert f"no Ray cluster at 127.0.0.1:{port}" in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("ray://head:10001", "on a machine of the cluster"),
        ("head", "want HOST:PORT"),
        ("127.0.0.1:x", "want HOST:PORT"),
    ],
)
def test_addresses_that_are_refused(address: str, text: str) -> None:
    with pytest.raises(dali_dr.DaliDrError, match=re.escape(text)):
        reinforce_on_ray(None, Cluster(address))  # type: ignore[arg-type]


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(dali_dr.DaliDrError, match=r"pip install 'dali_dr\[ray\]'"):
        reinforce_on_ray(None)  # type: ignore[arg-type]
    monkeypatch.setattr(metadata, "version", lambda name: "2.9.3")
    with pytest.raises(dali_dr.DaliDrError, match=r"Ray is 2\.9\.3, want 2\.50"):
        reinforce_on_ray(None)  # type: ignore[arg-type]


def test_parts_and_ray_exclude_each_other(images: Path, tmp_path: Path) -> None:
    done = cli(*REINFORCE, tmp_path / "out", images, "--part", "1/2")
    assert done.returncode == 2 and "--part" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("cluster", "device", "resources", "cpus", "gpus"),
    [
        (Cluster(), "auto", [{"CPU": 8}], 8, 0),  # one machine: all of it
        (Cluster(), "auto", [{"CPU": 2}, {"CPU": 64}, {"CPU": 64}], 64, 0),  # a small head
        (Cluster(), "auto", [{}, {"CPU": 16}], 16, 0),  # a head without CPUs
        (Cluster(), "auto", [{"CPU": 2}, {"CPU": 64, "GPU": 8}], 8, 1),  # a machine's CPUs by its GPUs
        (Cluster(), "cpu", [{"CPU": 64, "GPU": 8}], 64, 0),
        (Cluster(gpus_per_worker=0.5), "gpu", [{"CPU": 64, "GPU": 8}], 4, 0.5),
        (Cluster(cpus_per_worker=3), "gpu", [{"CPU": 64, "GPU": 8}], 3, 1),
        (Cluster(workers=4, cpus_per_worker=3), "gpu", [{}], 3, 1),  # machines that are still to come
    ],
)
def test_what_a_worker_takes(
    cluster: Cluster, device: str, resources: list[dict[str, float]], cpus: float, gpus: float
) -> None:
    need = need_of(cluster, device, resources)
    assert (need.cpus, need.gpus) == (cpus, gpus)


@pytest.mark.parametrize(("device", "text"), [("gpu", "no machine of the cluster has a GPU"), ("auto", "to judge by")])
def test_nothing_to_judge_by(device: str, text: str) -> None:
    with pytest.raises(dali_dr.DaliDrError, match=text):
        need_of(Cluster(), device, [{}])


class Hours:
    """In place of a pool: two workers, of whom one leaves when three shards are left, make a shard a second each."""

    def __init__(self, clock: types.SimpleNamespace) -> None:
        self._clock, self.alive, self.under_way, self.worker_hours = clock, 0, 0, 0.0

    def work(self, shards: list[int], made: Callable[..., None], turn: Callable[[], None]) -> None:
        """As `Pool.work`, by that clock."""
        turn()
        left = list(shards)
        while left:
            self.alive = 2 if len(left) > 3 else 1
            turn()
            self._clock.now += 1
            for number in left[: self.alive]:
                made(number, None, types.SimpleNamespace(host="here"))
            del left[: self.alive]
            turn()
        self.alive = 0  # they were let go


def states(shards: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(images, workers) of each line in a file."""
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    left = [list(range(shards)), []]

    class Ten(list[int]):
        """In place of a run of shards of ten images."""

        out = Path("set")

        def images_of(self, number: int) -> int:
            return 10

        def missing(self) -> list[int]:
            return left.pop(0) if left else []

    with on_ray._Driver(Ten(range(shards)), Hours(clock), None, True) as driver:  # type: ignore[arg-type]
        driver.work()
    text = capsys.readouterr().err
    assert text.endswith("\n") and "\r" not in text, "what follows begins a line"
    found = [(int(done), int(workers)) for done, workers in re.findall(r"(\d+)/\d+ \[.*?workers=(\d+)", text)]
    assert len(found) == text.count("\n")
    return found


def test_the_bar_in_a_file(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = states(12, capsys, monkeypatch)  # six seconds and a half
    assert found[:3] == [(0, 0), (0, 2), (60, 2)] and found[-1] == (120, 1) and len(found) <= 6
    found = states(7200, capsys, monkeypatch)  # an hour
    assert found[1] == (0, 2) and found[-1] == (72_000, 1) and 120 <= len(found) <= 160


@pytest.mark.slow
def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(
    cluster: Nodes, images: Path, alone: Path, tmp_path: Path
) -> None:
    out, go = tmp_path / "out", tmp_path / "go"
    command = [*DRIVER, str(images), str(out), cluster.address, str(go)]
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env(), start_new_session=True)
    ends = time.monotonic() + TIME
    while not list(out.glob("shard-*.tar")) and time.monotonic() < ends:
        time.sleep(0.1)
    driver.send_signal(signal.SIGINT)
    _, told = driver.communicate(timeout=60)
    assert driver.returncode != 0 and "KeyboardInterrupt" in told and not (out / "dataset.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("shard-*.tar")}
    go.touch()
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIME, env=env())
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept and data_set(out) == data_set(alone)


@pytest.mark.slow
def test_a_storm(cluster: Nodes, images: Path, alone: Path, tmp_path: Path) -> None:
    stormy(cluster, images, str(tmp_path / "out"), tmp_path, kills=KILLS, driver_kills=2, seed=2)
    assert data_set(tmp_path / "out") == data_set(alone)


@pytest.mark.slow
def test_a_storm_over_a_store(images: Path, alone: Path, tmp_path: Path) -> None:
    """Machines that share nothing but the store."""
    with s3_server() as server, in_environment({**os.environ, "DALI_DR_WORK": str(tmp_path / "work")}):
        bucket = server.bucket("storm")
        with nodes(1, 1, 1) as found:
            stormy(found, images, f"{bucket}/made/set", tmp_path, kills=KILLS, driver_kills=2, seed=3)
        client = server.boto3()
        keys = [key for key in server.keys("storm") if not TIMED.search(key)]
        objects = {key: client.get_object(Bucket="storm", Key=key)["Body"].read() for key in keys}
    assert objects == {f"made/set/{name}": data for name, data in data_set(alone).items()}
    assert len(list(tmp_path.glob("work-*"))) > 3 and not list((tmp_path / "work").glob("*"))
