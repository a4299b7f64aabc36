"""Runs from Python and from the command line: parts, blueprints in other processes, a store, and what a run would take."""

from __future__ import annotations

import heapq
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import encode_jpeg, picture, write_files
from stores import Server, environment, in_environment, s3_server
from test_reinforce import generation
from test_run import data_set

import dali_dr
from dali_dr.cli import main, make_parser
from dali_dr.errors import DaliDrError
from dali_dr.reinforce.blueprint import Blueprint, Named
from dali_dr.reinforce.engine import reinforce_here
from dali_dr.reinforce.estimate import _in_a_row
from dali_dr.reinforce.part import Part
from dali_dr.reinforce.run import Run
from dali_dr.shards.verify import verify
from dali_dr.sources import ImageFolder

IMAGES = 26
SPEC = dali_dr.AugmentationSpec.preset("rrc+ra+re", size=32)
OPTIONS: dict[str, Any] = {"samples_per_shard": 3, "on_error": "skip"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {f"c{n % 3}/p{n:02d}.jpg": encode_jpeg(picture(40 + n, 60, n)) for n in range(IMAGES)}
    files["c1/p04.jpg"] = b"no image"
    return write_files(tmp_path_factory.mktemp("images"), files)


@pytest.fixture(scope="module")
def alone(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set that one `Run` makes."""
    out = tmp_path_factory.mktemp("alone") / "out"
    assert Run(ImageFolder.scan(images), out, small(), 6, progress=False, **OPTIONS).work().ended
    return out


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A teacher for the command line: timm's smallest network, with random weights in a file."""
    from dali_dr._torchvision import load_torchvision

    load_torchvision()
    import timm

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "teacher.pth"
    torch.save(timm.create_model("test_resnet", num_classes=4).state_dict(), path)
    return f"test_resnet@{path}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with s3_server() as running:
        yield running


def small() -> dali_dr.Generation:
    return generation(spec=SPEC, num_views=4, batch_views=8, num_threads=1)


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    start = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(
        [sys.executable, "-c", start + code], capture_output=True, text=True, timeout=120, env=environment
    )


@pytest.mark.parametrize(
    "before",
    [
        "import dali_dr; call = dali_dr.reinforce",
        "from dali_dr import reinforce as call",
        "import dali_dr, dali_dr.reinforce.run; call = dali_dr.reinforce",
        "from dali_dr.reinforce.networks import Teacher\nfrom dali_dr import reinforce as call",
        "from dali_dr.reinforce.engine import reinforce; import dali_dr; call = dali_dr.reinforce",
    ],
)
def test_the_function_and_the_package_of_one_name(before: str) -> None:
    code = (
        f"{before}\ntry:\n  call(1, 2, 3, num_classes=4, engine='dask')\nexcept ValueError as error:\n  print(error)\n"
    )
    code += (
        "import dali_dr.reinforce.run, dali_dr; print(dali_dr.reinforce.run.Run.__name__, 'reinforce' in dir(dali_dr))"
    )
    done = python(code)
    assert done.stdout.splitlines() == ["engine is 'dask', want one of local, ray", "Run True"], done.stderr


def test_importing_the_package_stays_cheap() -> None:
    done = python(
        "import dali_dr.reinforce; print(*(name for name in ('torch', 'ray', 'obstore') if name in sys.modules))"
    )
    assert done.stdout.strip() == "", done.stderr


def test_reinforce_makes_what_a_run_makes(images: Path, alone: Path, tmp_path: Path) -> None:
    for number, source in enumerate((images, str(images), ImageFolder.scan(images))):
        out = tmp_path / f"out{number}"
        outcome = dali_dr.reinforce(source, str(out), small(), num_classes=6, progress=False, **OPTIONS)
        assert outcome.ended and outcome.manifest is not None and outcome.manifest.images == IMAGES - 1
        assert data_set(out) == data_set(alone)
    again = dali_dr.reinforce(images, out, small(), num_classes=6, progress=False, **OPTIONS)
    assert not again.ended and again.manifest == outcome.manifest and again.summary == outcome.summary


def test_parts_in_any_order(images: Path, alone: Path, tmp_path: Path) -> None:
    out, left = tmp_path / "out", [9, 6, 3]
    for part in ("2/4", "4/4", "3/4"):
        outcome = dali_dr.reinforce(images, out, small(), num_classes=6, part=part, progress=False, **OPTIONS)
        assert outcome.manifest is None and not outcome.ended and len(outcome.missing) <= left.pop(0)
        assert not (out / "dataset.json").exists()
    assert outcome.missing == (0, 4, 8)
    last = dali_dr.reinforce(images, out, small(), num_classes=6, part=Part(0, 4), progress=False, **OPTIONS)
    assert last.ended and data_set(out) == data_set(alone)
    assert {path.name for path in (out / "report").glob("*.log")} == {f"rank-{n}.log" for n in range(4)}


def test_arguments_that_do_not_go_together(images: Path, tmp_path: Path) -> None:
    for options in ({"address": "auto"}, {"workers": 3}, {"engine": "ray", "part": "1/2"}):
        with pytest.raises(ValueError, match="ray"):
            dali_dr.reinforce(images, tmp_path / "out", small(), num_classes=6, **options)
    with pytest.raises(DaliDrError, match="counted from 1"):
        dali_dr.reinforce(images, tmp_path / "out", small(), num_classes=6, part="0/4")
    assert not (tmp_path / "out").exists()


def test_a_blueprint_opens_the_run_in_another_process(images: Path, alone: Path, tmp_path: Path) -> None:
    """With a teacher of its own, whose weights travel; a shard made there, the others here."""
    out = tmp_path / "out"
    blueprint = Blueprint.of(str(images), out, small(), num_classes=6, **OPTIONS)
    views = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    said = blueprint.teacher.predict(views)  # also of a teacher that has worked
    assert torch.equal(pickle.loads(pickle.dumps(blueprint)).teacher.predict(views), said)
    (tmp_path / "blueprint").write_bytes(pickle.dumps(blueprint))
    code = (
        f"import pickle; run = pickle.load(open({str(tmp_path / 'blueprint')!r}, 'rb')).run()\n"
        "assert not run.begin() and len(run) == 9, len(run)\nmade = run.make(3)\nprint(made.number, made.images, made.views)\n"
    )
    done = python(code)
    assert done.stdout.split() == ["3", "3", "8"], done.stderr  # one of three images is none
    when = (out / "shard-000003.tar").stat().st_mtime_ns
    run = blueprint.run()
    assert not run.begin() and run.missing() == [0, 1, 2, 4, 5, 6, 7, 8]
    assert run.finish().missing == (0, 1, 2, 4, 5, 6, 7, 8)
    assert [run.make(number).number for number in range(9)] == list(range(9))
    assert (out / "shard-000003.tar").stat().st_mtime_ns == when
    twin = blueprint.run()
    assert not twin.begin() and twin.missing() == []
    first, second = run.finish(), twin.finish()
    assert first.ended and not second.ended and first.manifest == second.manifest and first.summary == second.summary
    assert data_set(out) == data_set(alone)


def test_a_named_teacher_makes_a_small_blueprint(images: Path, weights: str, tmp_path: Path) -> None:
    generation = {"spec": SPEC, "num_views": 4, "num_threads": 1}
    options = {"samples_per_shard": 3, "on_error": "skip"}
    blueprint = Blueprint(str(images), tmp_path / "out", Named(weights), generation, options, keep=None)
    assert len(pickle.dumps(blueprint)) < 2000
    told: list[str] = []
    run = pickle.loads(pickle.dumps(blueprint)).run("cpu", tell=told.append)
    assert run.num_classes == 4 and list(run.class_names) == ["c0", "c1", "c2", "teacher class 3"]
    assert any("3 classes" in text and "predicts 4" in text for text in told)
    assert run.generation.topk == 4 and run.generation.batch_views == 64
    if not torch.cuda.is_available():
        with pytest.raises(DaliDrError, match="no CUDA device"):
            blueprint.run("gpu")


def command(images: Path, out: Path | str, weights: str, *more: str) -> list[str]:
    return [
        "reinforce", str(images), "--out", str(out), "--teacher", weights, "--views", "4", "--size", "32", "--device", "cpu",
        "--samples-per-shard", "3", "--threads", "1", "--on-error", "skip", "--quiet", *more,
    ]  # fmt: skip


def test_parts_from_the_command_line(
    images: Path, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(images, tmp_path / "one", weights)) == 0
    out = tmp_path / "out"
    capsys.readouterr()
    assert main(command(images, out, weights, "--part", "2/3")) == 0
    told = capsys.readouterr()
    assert "part 2/3 is done; 6 shards are still missing, of parts 1/3, 3/3" in told.err and not told.out
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")  # of --array=5-7
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "5")
    assert main(command(images, out, weights)) == 0
    assert "of part 1/3:" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert main(command(images, out, weights, "--json")) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["images"] == IMAGES - 1 and data_set(out) == data_set(tmp_path / "one")
    assert verify(out, progress=False).ok
    with pytest.raises(SystemExit):
        make_parser().parse_args(command(images, out, weights, "--part", "0/4"))
    assert "counted from 1" in capsys.readouterr().err


def test_what_a_run_would_take(images: Path, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = command(images, out, weights, "--dry-run", "--json", "--workers", "4", "--price-per-hour", "2.5")
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []
    assert main(command(images, out, weights)) == 0
    manifest = dali_dr.Dataset(out).manifest
    assert told["images"] == IMAGES and told["shards"] == 9 and told["refused"] == pytest.approx(1 / IMAGES, abs=1e-3)
    assert told["views"] == manifest.images * 4
    assert told["bytes"] == pytest.approx(sum(shard.bytes for shard in manifest.shards), rel=0.4)  # ends of small tars
    assert 0 < told["teacher_hours"] <= told["device_hours"] and told["workers"] == 4
    assert told["wall_hours"] == pytest.approx(
        told["device_hours"] * 8 / IMAGES, abs=2e-4
    )  # two shards of 3 and one of 2
    assert told["cost"] == pytest.approx(2.5 * told["device_hours"], abs=2e-4) and told["device"] == (
        f"cpu, threads: {torch.get_num_threads()} of the teacher, 1 of decoding and replay"
    )
    assert main([*arguments[:-4], "--out", "s3://no-such-bucket/set"]) == 0  # which is not even looked at
    capsys.readouterr()
    assert main(command(images, out, weights, "--dry-run")) == 0
    assert "teacher hours" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("images", "workers", "can"), [(26, 1, 1), (26, 6, 6), (26, 64, 9), (27, 8, 8), (2, 3, 1), (26, 2, 2)]
)
def test_workers_make_whole_shards(images: int, workers: int, can: int) -> None:
    """The time is that of workers who each take the next shard of three when they are free."""
    free = [0] * workers
    for begin in range(0, images, 3):
        heapq.heapreplace(free, free[0] + min(3, images - begin))
    assert _in_a_row(images, 3, min(workers, -(-images // 3))) == max(free)
    assert sum(done > 0 for done in free) == can


def objects(server: Server, bucket: str, below: str) -> dict[str, bytes]:
    """All objects below a prefix, by boto3."""
    client = server.boto3()
    keys = [key for key in server.keys(bucket) if key.startswith(f"{below}/")]
    return {key[len(below) + 1 :]: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def plain(found: dict[str, bytes]) -> dict[str, bytes]:
    """Without what tells times."""
    return {name: data for name, data in found.items() if not name.endswith((".log", "summary.json"))}


def folder(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_parts_into_a_store(
    images: Path, alone: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part on a machine of its own, so to say; the objects are the files of a folder."""
    with in_environment(environment(server.endpoint)):
        url = server.bucket("parts") + "/set"
        for number, part in enumerate(("2/2", "1/2")):
            monkeypatch.setenv("DALI_DR_WORK", str(tmp_path / f"machine{number}"))
            outcome = dali_dr.reinforce(images, url, small(), num_classes=6, part=part, progress=False, **OPTIONS)
            if number == 0:
                assert outcome.manifest is None and ".write_shards.json" in objects(server, "parts", "set")
        assert outcome.ended
        found = objects(server, "parts", "set")
        assert plain(found) == plain(folder(alone))
        assert {name for name in found if name.endswith(".log")} == {"report/rank-0.log", "report/rank-1.log"}
        monkeypatch.setenv("DALI_DR_WORK", str(tmp_path / "machine2"))
        again = dali_dr.reinforce(images, url, small(), num_classes=6, part="2/2", progress=False, **OPTIONS)
        assert not again.ended and again.manifest == outcome.manifest and objects(server, "parts", "set") == found


def worker(images: Path, out: str, part: str, seconds: float = 0.1) -> subprocess.Popen[bytes]:
    """A process that makes a part, with a slow teacher."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import torch; torch.set_num_threads(1)\n"
        "import time, dali_dr, test_engine as t\nfrom dali_dr.reinforce import journal\njournal.INTERVAL = 0.3\n"
        "g = t.small()\n"
        f"g.teacher.members[0].model.register_forward_hook(lambda *_: time.sleep({seconds}))\n"
        f"dali_dr.reinforce({str(images)!r}, {out!r}, g, num_classes=6, part={part!r}, progress=False, **t.OPTIONS)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_parts_into_a_store_killed_at_random(
    images: Path, alone: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two parts on two machines; ten kills; a machine that is lost with its work folder."""
    rng = random.Random(4)
    with in_environment(environment(server.endpoint)):
        url = server.bucket("kills") + "/set"
        kills, machine = 0, 0
        running: dict[str, subprocess.Popen[bytes]] = {}
        try:
            deadline = time.monotonic() + 400
            while time.monotonic() < deadline and (kills < 10 or running):
                for part in ("1/2", "2/2"):
                    if part not in running and kills < 10:
                        machine += rng.random() < 0.3
                        monkeypatch.setenv("DALI_DR_WORK", str(tmp_path / f"machine{part[0]}-{machine}"))
                        running[part] = worker(images, url, part)
                time.sleep(rng.uniform(2, 6))
                for part, process in list(running.items()):
                    if kills < 10 and process.poll() is None and rng.random() < 0.5:
                        process.kill()
                        kills += 1
                    if process.poll() is not None:
                        running.pop(part).wait()
        finally:
            for process in running.values():
                process.kill()
                process.wait()
        monkeypatch.setenv("DALI_DR_WORK", str(tmp_path / "last"))
        for part in ("1/2", "2/2"):
            outcome = dali_dr.reinforce(images, url, small(), num_classes=6, part=part, progress=False, **OPTIONS)
        assert kills >= 10 and outcome.manifest is not None
        assert plain(objects(server, "kills", "set")) == plain(folder(alone))


def test_ctrl_c_of_the_command_keeps_what_is_done(images: Path, alone: Path, tmp_path: Path) -> None:
    process = worker(images, str(tmp_path / "out"), "1/1", seconds=0.4)
    work = tmp_path / "out" / ".work"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(work.glob("*.dr")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert reinforce_here(
        Blueprint.of(str(images), tmp_path / "out", small(), num_classes=6, **OPTIONS), progress=False
    ).ended
    assert data_set(tmp_path / "out") == data_set(alone)
