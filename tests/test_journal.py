"""What is left of a shard in the making: it is taken, where it is right, and the shard is the same in every byte."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import encode_jpeg, picture, write_files
from test_reinforce import Tiny, generation
from test_run import data_set

import dali_dr
from dali_dr.reinforce import journal as journal_module
from dali_dr.reinforce.generate import Generation
from dali_dr.reinforce.journal import Chunk
from dali_dr.reinforce.networks import Member, Teacher
from dali_dr.reinforce.run import Run
from dali_dr.shards import folder as folder_module
from dali_dr.sources import ImageFolder

IMAGES, SHARD, VIEWS = 30, 20, 4
FIGURES = ("images", "skipped", "views", "record_bytes", "confidence_histogram", "mean_confidence")


class Counting(Tiny):
    """A teacher that counts the views that it sees, and does something before some batch."""

    def __init__(self) -> None:
        super().__init__()
        self.views = 0
        self.at: dict[int, Any] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for views, act in list(self.at.items()):
            if self.views >= views:
                act()
        self.views += len(x)
        return super().forward(x)


def stop() -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 pictures, of which one is cut off, and one is no image."""
    files = {f"c{n % 3}/p{n:02d}.jpg": encode_jpeg(picture(40 + n, 60, n)) for n in range(IMAGES)}
    files["c0/p06.jpg"] = files["c0/p06.jpg"][:400]
    files["c2/p11.jpg"] = b"no image"
    return write_files(tmp_path_factory.mktemp("images"), files)


def make_run(images: Path, out: Path, batch: int = 8, **changes: Any) -> tuple[Run, Counting]:
    """A run of two images to a teacher batch."""
    model = Counting()
    teacher = Teacher([Member("tiny", model, 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))], torch.device("cpu"))
    settings = {"teacher": teacher, "num_views": VIEWS, "batch_views": batch, "num_threads": 1}
    g = generation(**{name: changes.pop(name) for name in list(changes) if name in _GENERATION} | settings)
    options = {"samples_per_shard": SHARD, "on_error": "skip", "progress": False}
    return Run(ImageFolder.scan(images), out, g, 6, **{**options, **changes}), model


_GENERATION = {field.name for field in dataclasses.fields(Generation)}


def whole(images: Path, out: Path, **changes: Any) -> dict[str, bytes]:
    run, _ = make_run(images, out, **changes)
    assert run.work().ended
    return data_set(out)


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of a run of the usual settings."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    whole(images, out)
    return out


def summary(out: Path) -> dict[str, Any]:
    found = json.loads((out / "report" / "summary.json").read_bytes())
    return {name: found[name] for name in FIGURES}


def interrupted(images: Path, out: Path, views: int, **changes: Any) -> list[Path]:
    """A run that Ctrl-C ends when the teacher has seen so many views; the chunks that it leaves."""
    run, model = make_run(images, out, **changes)
    model.at[views] = stop
    with pytest.raises(KeyboardInterrupt):
        run.work()
    return sorted((out / ".work").glob("*.dr"))


@pytest.mark.parametrize(
    ("every", "changes", "per_image"),  # every: seconds between chunks: one for each batch, or one at Ctrl-C
    [
        (0.0, {}, VIEWS),
        (1000.0, {}, VIEWS),
        (0.0, {"batch": 3}, VIEWS),  # an image fills several batches
        (1000.0, {"pool": 6, "select": "max-entropy"}, 6),
        (0.0, {"pool": 5, "select": "random"}, 5),
        (0.0, {"spec": dali_dr.AugmentationSpec.preset("rrc+mixing", size=32)}, VIEWS),
        (1000.0, {"probabilities": "float32", "keep_bytes": True}, VIEWS),
    ],
)
def test_an_interrupted_shard_goes_on_where_it_stopped(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: float, changes: dict[str, Any], per_image: int
) -> None:
    monkeypatch.setattr(journal_module, "INTERVAL", every)
    expected = whole(images, tmp_path / "whole", **changes)
    out = tmp_path / "out"
    chunks = interrupted(images, out, 10 * per_image, **changes)
    assert chunks and not list(out.glob("*.tar"))
    mixed = "spec" in changes
    kept = sum(len(range(*map(int, path.name.split(".")[1].split("-")))) for path in chunks)
    assert kept >= 8
    again, model = make_run(images, out, **changes)
    outcome = again.work()
    assert data_set(out) == expected and summary(out) == summary(tmp_path / "whole")
    refused = 0 if mixed else 1  # of the images in the chunks: with mixed views, they are left out before
    asked = (IMAGES - 2 - (kept - refused)) * per_image
    assert asked <= model.views <= asked + per_image
    assert outcome.ended and not (out / ".work").exists()


def test_a_worker_that_is_killed_loses_no_more_than_the_time_between_chunks(images: Path, tmp_path: Path) -> None:
    """At 240 of 500 images: a process with a slow teacher, killed without warning."""
    many = write_files(
        tmp_path / "many", {f"c{n % 2}/p{n:03d}.jpg": encode_jpeg(picture(24, 24, n)) for n in range(500)}
    )
    out = tmp_path / "out"
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import time, os, signal\nfrom pathlib import Path\nimport test_journal as t\n"
        "t.journal_module.INTERVAL = 0.2\n"
        f"run, model = t.make_run(Path({str(many)!r}), Path({str(out)!r}), samples_per_shard=500)\n"
        f"model.at = {{0: lambda: time.sleep(0.01), {240 * VIEWS}: lambda: os.kill(os.getpid(), signal.SIGKILL)}}\n"
        "run.work()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    settings = {"samples_per_shard": 500}
    run, model = make_run(many, out, **settings)
    begun = time.monotonic()
    run.work()
    lost = (model.views - 260 * VIEWS) / VIEWS
    assert 0 <= lost <= 60, f"{lost} images were made twice"  # in 0.2 s, 40 of them at most
    assert data_set(out) == whole(many, tmp_path / "whole", **settings)
    figures = json.loads((out / "report" / "summary.json").read_bytes())
    assert figures["device_hours"] * 3600 > time.monotonic() - begun - 60 and figures["views"] == 500 * VIEWS
    assert not list(out.glob(".*"))


def test_nothing_damaged_is_taken(images: Path, undisturbed: Path, tmp_path: Path) -> None:
    expected = data_set(undisturbed)
    (chunk,) = interrupted(images, tmp_path / "broken", 10 * VIEWS)
    good = chunk.read_bytes()
    belongs = belonging(good)
    rng = random.Random(3)
    places = [*range(0, 400), *range(len(good) - 40, len(good)), *(rng.randrange(len(good)) for _ in range(400))]
    damaged = [good[:at] + bytes([good[at] ^ 1 << rng.randrange(8)]) + good[at + 1 :] for at in places]
    damaged += [good[:at] for at in (0, 1, 18, 22, 100, len(good) - 33, len(good) - 1)] + [
        good + b"\0",
        bytes(len(good)),
    ]
    for data in damaged:
        with pytest.raises(ValueError):
            Chunk.unpack(data, belongs)
    assert Chunk.unpack(good, belongs).pack(belongs) == good
    for number, data in enumerate((damaged[7], damaged[-1], b"")):
        out = tmp_path / f"out{number}"
        shutil.copytree(tmp_path / "broken", out)
        (out / ".work" / chunk.name).write_bytes(data)
        run, model = make_run(images, out)
        run.work()
        assert model.views == (IMAGES - 2) * VIEWS  # all are asked again
        assert data_set(out) == expected


def belonging(chunk: bytes) -> str:
    """What a chunk says that it belongs to, read without our reader."""
    length = int.from_bytes(chunk[18:22], "little")
    told: str = json.loads(chunk[22 : 22 + length])["belongs"]
    return told


def test_nothing_foreign_is_taken(images: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (other,) = interrupted(images, tmp_path / "other", 10 * VIEWS, seed=1)
    (mine,) = interrupted(images, out, 10 * VIEWS)
    data = mine.read_bytes()
    mine.write_bytes(other.read_bytes())  # of a run with another seed
    moved = mine.with_name(mine.name.replace("-000000.", "-000001."))
    moved.write_bytes(data)  # of another shard
    mine.with_name("shard-000000.000002-000012.dr").write_bytes(data)  # at another place
    mine.with_name("shard-000000.x.dr").write_bytes(data)
    run, model = make_run(images, out)
    run.work()
    assert model.views == (IMAGES - 2) * VIEWS
    assert data_set(out) == data_set(undisturbed)


def test_a_changed_image_is_made_anew(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of equal length, as the run refuses others: a chunk is taken up to the batch that it is in."""
    photos = tmp_path / "photos"
    shutil.copytree(images, photos)
    out = tmp_path / "out"
    (chunk,) = interrupted(photos, out, 14 * VIEWS)
    assert chunk.name.endswith("000000-000014.dr") or chunk.name.endswith("000000-000016.dr")
    run, model = make_run(photos, out)
    where = photos / run.source.files[5]
    data = bytearray(where.read_bytes())
    data[-20] ^= 0x15
    where.write_bytes(data)
    run.work()
    assert model.views >= (IMAGES - 2 - 4) * VIEWS - VIEWS  # all but the first four
    assert data_set(out) == whole(photos, tmp_path / "whole")


def test_chunks_that_overlap_or_leave_gaps(
    images: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two workers at one shard leave them, and a disk that lost one."""
    monkeypatch.setattr(journal_module, "INTERVAL", 0.0)
    out = tmp_path / "out"
    chunks = interrupted(images, out, 12 * VIEWS)
    belongs = belonging(chunks[0].read_bytes())
    parts = [Chunk.unpack(path.read_bytes(), belongs) for path in chunks]
    joined = Chunk(2, [*parts[1].entries, *parts[2].entries], 1.0, 0.5)
    (chunks[0].parent / "shard-000000.000002-000006.dr").write_bytes(joined.pack(belongs))
    chunks[3].unlink()
    run, model = make_run(images, out)
    run.work()
    assert model.views < (IMAGES - 2 - 6) * VIEWS
    assert data_set(out) == data_set(undisturbed)


def test_a_full_disk_costs_the_journal_and_not_the_shard(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dali_dr.errors import ShardError
    from dali_dr.reinforce.kept import Kept

    monkeypatch.setattr(journal_module, "INTERVAL", 0.0)
    write = Kept.write

    def full(self: Kept, name: str, data: bytes) -> None:
        if name.endswith(".dr"):
            raise ShardError("no space")
        write(self, name, data)

    monkeypatch.setattr(Kept, "write", full)
    assert whole(images, tmp_path / "out") == whole(images, tmp_path / "again")


def test_a_run_of_an_earlier_version_goes_on(images: Path, undisturbed: Path, tmp_path: Path) -> None:
    """It kept its figures in `.claims`, among files that said who works on what."""
    out = tmp_path / "out"
    run, model = make_run(images, out)
    model.at[25 * VIEWS] = stop
    with pytest.raises(KeyboardInterrupt):
        run.work()
    for path in (out / ".work").glob("*.dr"):
        path.unlink()
    (out / ".work").rename(out / ".claims")
    owner = {"host": "elsewhere", "pid": os.getpid(), "started": 1, "beats": 7}
    for name in ("shard-000000.0", "shard-000001.0", "shard-000001.1"):
        (out / ".claims" / name).write_text(json.dumps(owner))
    again, model = make_run(images, out)
    again.work()
    assert model.views == 9 * VIEWS  # shard 0 is not made again
    assert data_set(out) == data_set(undisturbed) and summary(out) == summary(undisturbed)


def test_a_run_that_an_earlier_version_ended_without_its_report(
    images: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """It wrote the report after dataset.json, and was killed in between."""
    expected = data_set(undisturbed)
    out = tmp_path / "out"
    run, _ = make_run(images, out)
    run.begin()
    for number in run.missing():
        run.make(number)
    folder_module.finalise(out, run.settings, clean=False, report=lambda *_: None)
    (out / ".work").rename(out / ".claims")
    assert not (out / "report" / "summary.json").exists()
    again, model = make_run(images, out)
    assert not again.work().ended and model.views == 0
    assert data_set(out) == expected and summary(out) == summary(undisturbed)
    lists = [(folder / "report" / "skipped.jsonl").read_bytes() for folder in (out, undisturbed)]
    assert lists[0] == lists[1]


def test_what_is_taken_is_made_of_the_images_without_the_teacher(images: Path, tmp_path: Path) -> None:
    """So that a step is counted for each image, whether taken or made."""
    out = tmp_path / "out"
    interrupted(images, out, 10 * VIEWS)
    run, _ = make_run(images, out)
    assert not run.begin()
    steps: list[int] = []
    made = run.make(0, steps.append)
    assert sum(steps) == SHARD == made.images and made.refused == 1 and made.views == 19 * VIEWS
    assert run.make(0, steps.append).seconds == 0 and sum(steps) == SHARD  # it is there
