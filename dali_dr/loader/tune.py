"""Finds this machine's loader settings by trying them: threads, share of the JPEG engine, batches prepared ahead."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import Any

import torch

from dali_dr.loader.iterator import ReinforcedIterator
from dali_dr.loader.options import Device, default_threads
from dali_dr.progress import bar as progress_bar
from dali_dr.shards.dataset import Dataset

HW_LOADS = (0.0, 0.12, 0.65, 0.99)
"""Shares of the JPEG engine to try: none, NVIDIA's gate for Hopper with 70 threads, DALI's default, MLPerf with 6 threads."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One setting and its rate: `rate` images per second; arguments of ReinforcedIterator."""

    num_threads: int
    prefetch: int
    hw_decoder_load: float | None
    rate: float


def tune(
    dataset: Dataset,
    *,
    device: Device = "cpu",
    batch_size: int = 64,
    seconds: float = 2.0,
    threads: Sequence[int] | None = None,
    prefetch: Sequence[int] = (1, 2, 4),
    hw_loads: Sequence[float] | None = None,
    progress: bool = True,
    **options: Any,
) -> list[Trial]:
    """Measures every combination on the data set itself, with a consumer that does nothing.

    Args:
      dataset: reinforced data set; its pages should be in memory or on the disk that training will read.
      device, batch_size: as for training.
      seconds: per combination, after a warm-up of half of that.
      threads, prefetch, hw_loads: what to try; default: a quarter, half and all of the processors (hw_loads: GPU only).
      progress: show a progress bar.
      options: further arguments of `ReinforcedIterator`.

    Returns:
      The trials, fastest first.
    """
    cores = default_threads()
    threads = threads or sorted({max(1, cores // 4), max(1, cores // 2), cores})
    loads: Sequence[float | None] = (hw_loads or HW_LOADS) if device == "gpu" else (None,)
    combinations = list(itertools.product(threads, prefetch, loads))
    trials = []
    for count, depth, load in progress_bar(combinations, unit="setting", disable=not progress, desc="tune"):
        more: dict[str, Any] = {} if load is None else {"hw_decoder_load": load}
        iterator = ReinforcedIterator(
            dataset,
            batch_size=batch_size,
            device=device,
            num_threads=count,
            prefetch=depth,
            last_batch="fill",
            **more,
            **options,
        )
        _run(iterator, seconds / 2)
        trials.append(Trial(count, depth, load, round(_run(iterator, seconds), 1)))
    return sorted(trials, key=lambda trial: -trial.rate)


def _run(iterator: ReinforcedIterator, seconds: float) -> float:
    """Images per second."""
    begin, images = time.perf_counter(), 0
    while (now := time.perf_counter()) < begin + seconds:
        try:
            (batch,) = next(iterator)
        except StopIteration:
            continue
        if batch["data"].is_cuda:
            torch.cuda.current_stream().synchronize()
        images += len(batch["data"])
    return images / (now - begin)
