"""What a run would take: a measured minute of it, from which the rest is reckoned. Writes nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Any, Final

import torch

from dali_dr.reinforce.journal import sealed
from dali_dr.reinforce.measure import Clock
from dali_dr.reinforce.pieces import Chosen
from dali_dr.reinforce.run import Run
from dali_dr.shards import tar
from dali_dr.shards.sample import Sample

SECONDS: Final = 60.0
IMAGES: Final = 4096  # at most: of more, the mean is no better known
_GOLDEN: Final = (5**0.5 - 1) / 2  # multiples of it, modulo 1, lie evenly however many there are


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a run is expected to take.

    Attributes:
      images: of the source.
      shards: that they make.
      views: of the images that may enter.
      bytes: of the shards.
      teacher_hours: on this device.
      device_hours: likewise, with reading, decoding and waiting.
      workers: such devices, at work at once; no more than there are shards.
      wall_hours: until the last of them has made its last shard: without what starts and ends a run, and whatever store and
        network cost.
      cost: of all; None where no price was given.
      device: that was measured on.
      measured_images: spread over the source.
      measured_seconds: that they took.
      refused: share of them that may not enter.
    """

    images: int
    shards: int
    views: int
    bytes: int
    teacher_hours: float
    device_hours: float
    workers: int
    wall_hours: float
    cost: float | None
    device: str
    measured_images: int
    measured_seconds: float
    refused: float

    def facts(self) -> dict[str, Any]:
        """By name, rounded; without what is not known."""
        found = dataclasses.asdict(self)
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in found.items()
            if value is not None
        }


def estimate(
    run: Run,
    *,
    seconds: float = SECONDS,
    images: int = IMAGES,
    workers: int = 1,
    price_per_hour: float | None = None,
) -> Estimate:
    """Reinforces some images of the source for a minute, and throws them away.

    What comes before the second teacher batch is not counted (a GPU's first one takes long), where a second one comes.

    Args:
      run: of which nothing is written; see `dali_dr.reinforce.blueprint.Blueprint.run`, ``dry``.
      seconds: that are measured, at most, but for the batch in work.
      images: likewise.
      workers: to share the work among.
      price_per_hour: of a worker.

    Raises:
      DaliDrError: teacher or device do not work, or the settings do not go together.
    """
    run.check()
    total = len(run.source)
    count = min(images, total)
    spread = dict.fromkeys(int(n * _GOLDEN % 1 * total) for n in range(count))
    numbers = list(spread | dict.fromkeys(range(total))) if count == total else list(spread)
    pieces = dataclasses.replace(run.all_pieces, images=Chosen(run.source, numbers), place=None)
    clock = Clock(run.generation.teacher)
    done = stored = size = 0
    begun, asked, counted_from = time.monotonic(), 0.0, 0
    spent = 0.0
    with contextlib.closing(pieces.samples(range(len(numbers)), clock)) as samples:  # type: ignore[type-var]
        for sample in samples:
            done += 1
            if sample.problem is None:
                stored += 1
                size += _bytes_of(sealed(sample, run.settings), sidecar=run.sidecar)
            spent = time.monotonic() - begun
            if done == pieces.batch and spent < seconds and done < len(numbers):
                begun, asked, counted_from, spent = time.monotonic(), clock.seconds, done, 0.0
            elif spent >= seconds:
                break
    measured = done - counted_from
    per_image, in_teacher = spent / max(1, measured), (clock.seconds - asked) / max(1, measured)
    hours = per_image * total / 3600
    shards = -(-total // run.samples_per_shard)
    workers = min(workers, shards)
    return Estimate(
        images=total,
        shards=shards,
        views=round(total * stored / done) * run.generation.num_views,
        bytes=round(size / done * total),
        teacher_hours=in_teacher * total / 3600,
        device_hours=hours,
        workers=workers,
        wall_hours=per_image * _in_a_row(total, run.samples_per_shard, workers) / 3600,
        cost=None if price_per_hour is None else hours * price_per_hour,
        device=_name(run.generation.teacher.device, run.generation.num_threads),
        measured_images=measured,
        measured_seconds=spent,
        refused=1 - stored / done,
    )


def _bytes_of(sample: Sample, *, sidecar: bool) -> int:
    """That ``sample`` takes in a shard."""
    members = [len(sample.record or b"")] + ([] if sidecar else [len(sample.image_bytes), 1])
    return sum(tar.BLOCK + length + len(tar.padding(length)) for length in members)


def _in_a_row(images: int, shard: int, workers: int) -> int:
    """Images that the worker makes who has the most: whole shards, handed out one by one, of which the last may be smaller."""
    rounds, alone = -(-images // (shard * workers)), -(-images // shard) % workers == 1 or workers == 1
    return (rounds - 1) * shard + ((images - 1) % shard + 1 if alone else shard)


def _name(device: torch.device, threads: int) -> str:
    """What the teacher ran on, and beside it decoding and replay on ``threads``."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"cpu, threads: {torch.get_num_threads()} of the teacher, {threads} of decoding and replay"
