"""A stream of samples, judged ahead of the writer, in batches and in parallel with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from dali_dr.ahead import ahead, batches
from dali_dr.images.judge import BATCH, Judge, Refusal
from dali_dr.shards.sample import Sample

_WINDOW: Final = 2  # batches that are judged before the writer asks for them


def judged_ahead(samples: Iterable[Sample], judge: Judge) -> Generator[Sample, None, None]:
    """The ``samples``, those that ``judge`` refuses with that as their `Sample.problem`.

    The samples are taken in the caller's thread, some dozens before they are given. Where taking one raises, all
    before it are given first. What is no sample with bytes and without a problem comes as it is.
    """

    def judged(batch: list[Sample]) -> list[Sample]:
        candidates = [n for n, sample in enumerate(batch) if _is_candidate(sample)]
        verdicts = judge([bytes(batch[n].image_bytes) for n in candidates]) if candidates else []
        for number, verdict in zip(candidates, verdicts, strict=True):
            said = {"problem": verdict} if isinstance(verdict, Refusal) else {"shown": verdict}
            batch[number] = dataclasses.replace(batch[number], **said)
        return batch

    with ThreadPoolExecutor(1, "judge") as executor:
        for batch in ahead(executor, judged, batches(samples, BATCH), _WINDOW):
            yield from batch


def _is_candidate(sample: Sample) -> bool:
    is_sample = isinstance(sample, Sample) and sample.problem is None
    return is_sample and isinstance(sample.image_bytes, (bytes, bytearray, memoryview))
