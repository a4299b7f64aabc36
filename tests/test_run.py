"""Parts of one data set, killed and started again: the data set is that of one worker, byte for byte."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import encode_jpeg, picture, write_files
from PIL import Image
from test_reinforce import generation

import dali_dr
from dali_dr.errors import DaliDrError
from dali_dr.reinforce import journal as journal_module
from dali_dr.reinforce import run as run_module
from dali_dr.reinforce.kept import settle_batch
from dali_dr.reinforce.part import Part
from dali_dr.reinforce.run import Run
from dali_dr.shards.verify import verify
from dali_dr.sources import ImageFolder

TEACHERS_SECONDS = 0.15  # that a batch takes, so that there is something to kill


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """42 small photos and, in shard 3 of 6 to a shard, one that is cut off; all six of shard 5 are no images."""
    files = {f"c{n // 6}/p{n:02d}.jpg": encode_jpeg(picture(50 + n, 64, n)) for n in range(42)}
    files["c3/p20.jpg"] = files["c3/p20.jpg"][: len(files["c3/p20.jpg"]) // 2]
    files |= {name: b"no image" for name in files if name.startswith("c5/")}
    return write_files(tmp_path_factory.mktemp("images"), files)


def make_run(images: Path, out: Path, **changes: Any) -> Run:
    source = ImageFolder.scan(images)
    g = generation(batch_views=10, num_threads=1)
    defaults = {"class_names": None, "samples_per_shard": 6, "on_error": "skip", "progress": False}
    defaults["probabilities"] = "float32"
    return Run(source, out, g, 7, **{**defaults, **changes})


def data_set(folder: Path) -> dict[str, bytes]:
    """All files but the report, which tells times."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "report"}


@pytest.fixture(scope="module")
def alone(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of one worker."""
    out = tmp_path_factory.mktemp("alone") / "out"
    outcome = make_run(images, out).work()
    assert outcome.ended and outcome.manifest.images == 42 - 1 - 6
    return out


def working_process(images: Path, out: Path, part: Part) -> int:
    """Forks a worker; its exit status is 0 when its part is finished."""
    if process := os.fork():
        return process
    try:
        journal_module.INTERVAL = 0.2  # type: ignore[misc]
        run = make_run(images, out, part=part)
        # While workers are killed, none is done before, on however fast a machine.
        calm = out.with_name("calm")
        run.generation.teacher.members[0].model.register_forward_hook(
            lambda *_: time.sleep(TEACHERS_SECONDS if calm.exists() else 3 * TEACHERS_SECONDS)
        )
        run.work()
    except BaseException as error:
        logging.exception(error)
        os._exit(1)
    os._exit(0)


def four_parts(images: Path, out: Path, seed: int) -> None:
    """Four parts: of the first three, one at random is killed time and again and started anew; the fourth is killed for
    good, and started by hand in the end. Two at a time make the same part for a while."""
    rng = random.Random(seed)
    parts = {index: Part(index, 4) for index in range(4)}
    workers = {index: working_process(images, out, part) for index, part in parts.items()}
    twin = working_process(images, out, parts[0])
    time.sleep(0.7)
    os.kill(workers[3], signal.SIGKILL)
    os.waitpid(workers.pop(3), 0)
    kills = 0
    for _ in range(40):
        time.sleep(rng.uniform(0.02, 0.25))
        index = rng.choice([0, 1, 2])
        os.kill(workers[index], signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(workers[index], 0)[1])  # else it had finished already
        if kills == 12:
            break
        workers[index] = working_process(images, out, parts[index])
    out.with_name("calm").touch()
    workers[index] = working_process(images, out, parts[index])
    statuses = [os.waitpid(process, 0)[1] for process in (*workers.values(), twin)]
    finished = (out / "dataset.json").exists()
    last = [working_process(images, out, parts[index]) for index in (3, 3, 0)]
    statuses += [os.waitpid(process, 0)[1] for process in last]
    print(json.dumps({"kills": kills, "statuses": statuses, "finished": finished}))


def test_four_parts_killed_at_random_make_the_data_set_of_one(images: Path, alone: Path, tmp_path: Path) -> None:
    # In a process of its own, which has no DALI threads yet when it forks.
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_run; from pathlib import Path\n"
    )
    code += "import torch; torch.set_num_threads(1)\n"
    code += f"test_run.four_parts(Path({str(images)!r}), Path({str(tmp_path / 'out')!r}), 1)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] >= 10 and told["statuses"] == [0] * 7 and not told["finished"], done.stderr
    assert data_set(tmp_path / "out") == data_set(alone)
    report = tmp_path / "out" / "report"
    summary, single = (json.loads((f / "report" / "summary.json").read_bytes()) for f in (tmp_path / "out", alone))
    for name in ("images", "skipped", "views", "record_bytes", "confidence_histogram", "mean_confidence"):
        assert summary[name] == single[name]
    assert {path.name for path in report.iterdir()} == {path.name for path in (alone / "report").iterdir()} | {
        f"rank-{index}.log" for index in range(4)
    }
    assert (report / "skipped.jsonl").read_bytes() == (alone / "report" / "skipped.jsonl").read_bytes()
    logs = "".join(path.read_text() for path in report.glob("*.log"))
    assert "images in" in logs and "left out" in logs


def test_report_of_a_run(alone: Path, images: Path) -> None:
    summary = json.loads((alone / "report" / "summary.json").read_bytes())
    dataset = dali_dr.Dataset(alone)
    assert summary["images"] == len(dataset) == 35 and summary["views"] == 35 * 7 and summary["skipped"] == 7
    sizes = [int(dataset.index.entry(n)["record_bytes"]) for n in range(35)]
    assert summary["bytes_per_reinforcement"] == pytest.approx(sum(sizes) / (35 * 7), abs=0.01)
    confidence = np.concatenate([dataset.reinforcements(n).soft_probs[:, 0] for n in range(35)])
    assert np.histogram(confidence, 50, (0, 1))[0].tolist() == summary["confidence_histogram"]
    assert summary["mean_confidence"] == pytest.approx(confidence.mean(), abs=0.01)  # from the histogram
    assert 0 < summary["teacher_utilisation"] < 1 and summary["gpu_hours"] == 0 and summary["teacher_hours"] >= 0
    skipped = [json.loads(line) for line in (alone / "report" / "skipped.jsonl").read_text().splitlines()]
    assert [one["key"] for one in skipped] == ["c3/p20", *(f"c5/p{n}" for n in range(30, 36))]
    assert all(" read" in one["reason"] and one["path"].endswith(".jpg") and one["starts"] for one in skipped)
    assert Image.open(alone / "report" / "confidence.png").size == (640, 360)
    assert verify(alone, images=True, progress=False).ok
    assert not (alone / "shard-000005.tar").exists() and (alone / "shard-000006.tar").exists()


def test_a_finished_run_is_not_done_again(images: Path, alone: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in alone.rglob("*")}
    outcome = make_run(images, alone).work()
    assert not outcome.ended and outcome.summary["images"] == 35
    assert {path: path.stat().st_mtime_ns for path in alone.rglob("*")} == before


def test_finished_shards_are_not_computed_again(images: Path, alone: Path, tmp_path: Path) -> None:
    run = make_run(images, tmp_path / "out")
    calls: list[int] = []

    def interrupt(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt

    hook = run.generation.teacher.members[0].model.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.work()
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    assert len(done) == 3  # 6 batches a shard: one image's 7 views do not fill a batch of 10
    hook.remove()
    calls.clear()
    run.generation.teacher.members[0].model.register_forward_hook(lambda *_: calls.append(1))
    run.work()
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(calls) == 4 + 6 + 6  # shards 3 but for its first image, 4 and 6
    assert data_set(tmp_path / "out") == data_set(alone)


def test_a_run_killed_before_its_report_still_gets_it(
    images: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    run = make_run(images, tmp_path / "out")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_module, "write_report", interrupt)
        run.work()
    assert not (tmp_path / "out" / "dataset.json").exists()  # which says that all is there
    assert run.work().summary["skipped"] == 7
    assert data_set(tmp_path / "out") == data_set(alone)


@pytest.mark.parametrize("change", ["seed", "label", "teacher", "batch"])
def test_other_settings_or_images_are_refused(change: str, images: Path, alone: Path) -> None:
    run = make_run(images, alone)
    if change == "label":
        source = dataclasses.replace(run.source, labels=[6, *run.source.labels[1:]])
        run = dataclasses.replace(run, source=source)
    elif change == "teacher":
        teacher = dataclasses.replace(run.generation.teacher, temperature=2.0)
        run = dataclasses.replace(run, generation=dataclasses.replace(run.generation, teacher=teacher))
    else:
        g = dataclasses.replace(run.generation, **{"seed": {"seed": 5}, "batch": {"batch_views": 11}}[change])
        run = dataclasses.replace(run, generation=g)
    with pytest.raises(dali_dr.ShardError, match="other settings"):
        run.work()


def test_an_unreadable_file_is_told_as_such(tmp_path: Path, images: Path) -> None:
    run = make_run(images, tmp_path / "out")
    files = ["c0/gone.jpg" if n == 1 else file for n, file in enumerate(run.source.files)]
    run = dataclasses.replace(run, source=dataclasses.replace(run.source, files=files))
    run.work()
    first = json.loads((tmp_path / "out" / "report" / "skipped.jsonl").read_text().splitlines()[0])
    assert first["key"] == "c0/p01" and "No such file" in first["reason"]
    with pytest.raises(dali_dr.ShardError, match=r"c0/p01.*No such file"):
        dataclasses.replace(run, out=tmp_path / "raise", on_error="raise").work()


def test_two_images_of_one_key_are_refused(images: Path, tmp_path: Path) -> None:
    run = make_run(images, tmp_path / "out")
    source = dataclasses.replace(run.source, keys=["a", *run.source.keys[1:41], "a"])
    with pytest.raises(dali_dr.ShardError, match="key a"):
        dataclasses.replace(run, source=source).work()


SLURM = ("PROCID", "NTASKS", "STEP_NUM_TASKS", "LOCALID", "STEP_ID", "JOB_ID")
ARRAY = ("ID", "COUNT", "MIN", "STEP")


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        *(f"SLURM_{n}" for n in SLURM),
        *(f"SLURM_ARRAY_TASK_{n}" for n in ARRAY),
    ):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Part(0, 1, 0)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Part(5, 8, 1)),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "2"}, Part(3, 4, 2)),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "4"},
         Part(1, 2, 0)),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, Part(1, 2, 0)),
        ({"SLURM_NTASKS": "4"}, Part(0, 1, 0)),  # in an allocation, but not started by srun
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, Part(0, 1, 0)),  # a batch script itself
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "64", "SLURM_ARRAY_TASK_MIN": "0"}, Part(0, 64, 0)),
        ({"SLURM_ARRAY_TASK_ID": "64", "SLURM_ARRAY_TASK_COUNT": "64", "SLURM_ARRAY_TASK_MIN": "1",
          "SLURM_ARRAY_TASK_STEP": "1", "SLURM_JOB_ID": "9", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, Part(63, 64, 0)),
        ({"SLURM_ARRAY_TASK_ID": "12", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "4",
          "SLURM_ARRAY_TASK_STEP": "4"}, Part(2, 4, 0)),
        ({"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_STEP_ID": "0",
          "SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}, Part(21, 24, 1)),  # an array of steps
    ],
)  # fmt: skip
def test_part_of_environment(variables: dict[str, str], expected: Part, no_launcher: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        no_launcher.setenv(name, value)
    assert Part.of_environment() == expected


def test_parts_that_are_none(no_launcher: pytest.MonkeyPatch) -> None:
    assert Part.of_text("1/1") == Part() and Part.of_text("3/4") == Part(2, 4)
    for text in ("0/4", "5/4", "1", "1/0", "-1/4", "1/4/2", "", "٣/٤"):
        with pytest.raises(DaliDrError, match=r"want K/N, the K-th of N parts, counted from 1"):
            Part.of_text(text)
    for name, value in {"ID": "7", "COUNT": "3", "MIN": "1"}.items():
        no_launcher.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    with pytest.raises(DaliDrError, match="--part"):
        Part.of_environment()
    shards = [number for index in range(4) for number in Part(index, 4).numbers(11)]
    assert sorted(shards) == list(range(11))


def test_the_batch_is_measured_once(tmp_path: Path, alone: Path) -> None:
    assert settle_batch(tmp_path / "new", lambda: 48) == 48
    assert settle_batch(tmp_path / "new", lambda: 96) == 48
    assert settle_batch(alone, lambda: 96) == 10
