"""A stream of samples, judged and tiled ahead of the writer, in batches and in parallel with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import google_crc32c

from dali_dr.ahead import ahead, batches
from dali_dr.images.judge import BATCH, Judge, Refusal
from dali_dr.images.tiling import tile
from dali_dr.shards.sample import Origin, Sample

_WINDOW: Final = 2  # batches that are judged before the writer asks for them


def judged_ahead(
    samples: Iterable[Sample], judge: Judge, *, check: bool = True, tile: bool = False
) -> Generator[Sample, None, None]:
    """The ``samples``, those that ``judge`` refuses with that as their `Sample.problem`, the others tiled if wanted.

    The samples are taken in the caller's thread, some dozens before they are given. Where taking one raises, all
    before it are given first. What is no sample with bytes and without a problem comes as it is.

    Args:
      samples: any number of them.
      judge: who judges, and whose processors tile.
      check: False: nothing is judged.
      tile: whether images are tiled.
    """

    def judged(batch: list[Sample]) -> list[Sample]:
        candidates = [n for n, sample in enumerate(batch) if isinstance(sample, Sample) and sample.can_be_stored]
        if check and candidates:
            verdicts = judge([bytes(batch[n].image_bytes) for n in candidates])
            for number, verdict in zip(candidates, verdicts, strict=True):
                said = {"problem": verdict} if isinstance(verdict, Refusal) else {"shown": verdict}
                batch[number] = dataclasses.replace(batch[number], **said)
        return judge.map(as_tiled, batch) if tile else batch

    with ThreadPoolExecutor(1, "judge") as executor:
        for batch in ahead(executor, judged, batches(samples, BATCH), _WINDOW):
            yield from batch


def as_tiled(sample: Sample) -> Sample:
    """``sample`` with its image tiled, which says what became of it; what cannot be stored, or was tiled, as it is."""
    if not isinstance(sample, Sample) or not sample.can_be_stored or sample.tiling is not None:
        return sample
    data, origin = bytes(sample.image_bytes), sample.origin or Origin()
    before = len(data) if origin.bytes is None else origin.bytes
    stored, tiling = tile(data, before or None)
    if stored is not data:
        crc = int(google_crc32c.value(data)) if origin.crc is None else origin.crc
        origin = dataclasses.replace(origin, crc=crc, bytes=before)
    return dataclasses.replace(sample, image_bytes=stored, tiling=tiling, origin=origin)
