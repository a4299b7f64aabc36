"""Everything that writes a data set, as small commands to be disturbed; and what a data set holds, to be compared."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import encode_jpeg, picture, write_files
from PIL import Image
from test_reinforce import generation
from test_shards_write import CLASSES, SPEC, views

import dali_dr
from dali_dr.cli import make_parser
from dali_dr.images.judge import Judge
from dali_dr.reinforce import report as report_module
from dali_dr.reinforce.generate import Generation
from dali_dr.reinforce.kept import settle_batch
from dali_dr.reinforce.part import Part
from dali_dr.reinforce.run import Run
from dali_dr.shards import folder as folder_module
from dali_dr.shards.reshape import merge, subset
from dali_dr.shards.retile import retile
from dali_dr.shards.sample import Sample
from dali_dr.shards.write import write_shards
from dali_dr.sources import ImageFolder


@dataclasses.dataclass(frozen=True)
class Command:
    """Something that writes a data set into the folder that it is given."""

    name: str
    run: Callable[[Path], Any]


@dataclasses.dataclass
class Studio:
    """Where the commands work.

    Attributes:
      root: a folder in memory, where fsync is cheap.
      out: below it, but two folders down, which are to be made; emptied by `clear`.
      commands: by name.
    """

    root: Path
    commands: dict[str, Command]

    @property
    def disk(self) -> Path:
        return self.root / "disk"

    @property
    def out(self) -> Path:
        return self.disk / "deep" / "out"

    def clear(self) -> Path:
        shutil.rmtree(self.disk, ignore_errors=True)
        self.disk.mkdir()
        return self.out

    def run(self, command: Command) -> None:
        command.run(self.out)


HEIGHT, WIDTH = 40, 128  # of pictures that are tiled
TIMES = ("teacher_hours", "device_hours", "gpu_hours", "teacher_utilisation", "workers")


def snapshot(out: Path) -> dict[str, Any]:
    """Every file and folder of a data set, but for logs and measured times."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_dir():
            found[name] = None
        elif name == "report/summary.json":
            found[name] = {k: v for k, v in json.loads(path.read_bytes()).items() if k not in TIMES}
        elif path.suffix != ".log":
            found[name] = path.read_bytes()
    return found


def holdings(out: Path) -> list[tuple[str, int, bytes, Any]]:
    """What the data set gives to those who read it; ShardError if it cannot be opened."""
    data = dali_dr.Dataset(out)
    found = []
    for number in range(len(data)):
        soft = None
        if data.has_record(number):
            stored = data.reinforcements(number)
            soft = (stored.crop.tobytes(), stored.soft_ids.tobytes(), stored.soft_probs.tobytes())
        found.append((data.keys[number], data.label(number), data.image(number), soft))
    return found


def make_studio(root: Path, patch: pytest.MonkeyPatch) -> Studio:
    jpegs = [encode_jpeg(picture(HEIGHT, WIDTH + n, n)) for n in range(8)]
    jpegs[2] = jpegs[2][: len(jpegs[2]) // 2]
    samples = [Sample(f"c{n % 3}/s{n}", jpegs[n], n % CLASSES, views(n, HEIGHT, WIDTH + n)) for n in range(8)]
    photos = write_files(root / "photos", {f"c{n // 4}/p{n}.jpg": jpegs[n] for n in (0, 1, 3, 4, 5, 6, 7)})
    broken = {f"c{n // 4}/p{n}.jpg": b"no image" if n in (4, 5) else jpegs[n] for n in range(7)}
    bad = write_files(root / "bad", broken)

    def write(out: Path, seed: int = 0, **options: Any) -> None:
        mine = [
            dataclasses.replace(s, reinforcements=views(seed + n, HEIGHT, WIDTH + n)) for n, s in enumerate(samples)
        ]
        settings = {"spec": SPEC, "num_classes": CLASSES, "samples_per_shard": 3, "seed": seed, "progress": False}
        write_shards(mine, out, **{**settings, "on_error": "skip", **options})

    def pack(out: Path) -> None:
        options = make_parser().parse_args(
            ["pack", str(photos), "--out", str(out), "--samples-per-shard", "3", "--quiet", "--json"]
        )
        with contextlib.redirect_stdout(io.StringIO()):
            options.run(options)

    first, second, kept = root / "first", root / "second", root / "kept"
    write(first)
    write(kept, keep_bytes=True)
    write(second, 100)
    # Two thirds of a run's time otherwise, and nothing of this matter.
    versions, picture_of = folder_module.library_versions(), Image.new("RGB", (64, 64))
    patch.setattr(folder_module, "library_versions", lambda: versions)
    patch.setattr(report_module, "histogram", lambda *_: picture_of)
    known: dict[tuple[Any, ...], list[Sample]] = {}
    draw_and_predict = Generation.samples

    def remembered(self: Generation, source: Any, begin: int, end: int) -> Iterator[Sample]:
        """DALI and the teacher work once: what they make is no matter of this."""
        name = (self.spec.name, len(source), begin, end)
        if name not in known:
            known[name] = list(draw_and_predict(self, source, begin, end))
        else:
            for number in range(begin, end):
                source.read(number)  # which notes what cannot be read
        yield from known[name]

    patch.setattr(Generation, "samples", remembered)
    remember_verdicts(patch)
    return Studio(
        root,
        {
            command.name: command
            for command in (
                Command("write_shards", write),
                Command("pack", pack),
                Command("subset", lambda out: subset(first, out, views=3, topk=2, images=5, progress=False)),
                Command("sidecar", lambda out: subset(first, out, views=2, sidecar=True, progress=False)),
                Command("retile", lambda out: retile(kept, out, threads=1, progress=False)),
                Command("merge", lambda out: merge(first, second, out, progress=False)),
                Command("generation", lambda out: generate(bad, out)),
                Command("mixing", lambda out: generate(bad, out, "rrc+mixing")),
            )
        },
    )


def remember_verdicts(patch: pytest.MonkeyPatch) -> None:
    """The decoder that judges images works once for each: what it says is no matter of this."""
    verdicts: dict[bytes, Any] = {}
    judge = Judge.__call__

    def judged(self: Judge, images: Sequence[bytes]) -> list[Any]:
        if unknown := [data for data in images if data not in verdicts]:
            verdicts.update(zip(unknown, judge(self, unknown), strict=True))
        return [verdicts[data] for data in images]

    patch.setattr(Judge, "__call__", judged)


def generate(images: Path, out: Path, preset: str = "rrc+ra+re", part: Part | None = None) -> None:
    """`dali-dr reinforce` with a small teacher; a shard of two images, one of them without any that can be decoded."""
    g = generation(
        spec=dali_dr.AugmentationSpec.preset(preset, size=16),
        num_views=2,
        batch_views=settle_batch(out, lambda: 4),
        num_threads=1,
    )
    Run(
        ImageFolder.scan(images),
        out,
        g,
        6,
        samples_per_shard=2,
        on_error="skip",
        part=part or Part(),
        progress=False,
    ).work()


def memory_folder() -> Path:
    """A new folder, in memory where there is such a file system."""
    shm = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="dali_dr-", dir=shm if os.access(shm, os.W_OK) else None))
