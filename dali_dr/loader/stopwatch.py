"""Where an epoch's time goes: the consumer's waits, and the pipeline's stages."""

from __future__ import annotations

import ctypes
import itertools
import time
from typing import Any, Final

from dali_dr import _plugin

_BOTTLENECK: Final = 0.1  # of all time that a consumer waits, above which it is loading that decides


class _Struct(ctypes.Structure):
    """DaliDrTimes of csrc/operators/monitor.h."""

    _fields_ = (
        ("read", ctypes.c_double),
        ("decode", ctypes.c_double),
        ("replay", ctypes.c_double),
        ("batches", ctypes.c_int64),
        ("sliced", ctypes.c_int64),
        ("whole", ctypes.c_int64),
        ("misfit", ctypes.c_int64),
    )


class Stopwatch:
    """Times the consumer (a context manager around each wait) and, by a monitor of the plugin, the pipeline's stages.

    Attributes:
      number: of the plugin's monitor; every stopwatch of a process has one of its own.
    """

    _numbers = itertools.count()

    def __init__(self) -> None:
        self.number: int = next(self._numbers)
        self._reset()

    def _reset(self) -> None:
        self._batches = 0
        self._wait = 0.0
        self._start = time.perf_counter()
        _plugin.library().dali_dr_monitor_reset(self.number)

    def __enter__(self) -> None:
        self._entered = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self._batches += exception[0] is None
        self._wait += time.perf_counter() - self._entered

    def stats(self) -> dict[str, Any]:
        """Sums since the last call; see `dali_dr.ReinforcedIterator.stats`."""
        sums = _Struct()
        _plugin.library().dali_dr_monitor_sums(self.number, ctypes.byref(sums))
        replayed = max(sums.batches, 1)
        total, given = time.perf_counter() - self._start, max(self._batches, 1)
        result: dict[str, Any] = {
            "batches": self._batches,
            "wait": self._wait / given,
            "other": (total - self._wait) / given,
            "read": sums.read / replayed,
            "decode": sums.decode / replayed,
            "replay": sums.replay / replayed,
            "sliced": sums.sliced,
            "whole": sums.whole,
            "misfit": sums.misfit,
            "loading_is_the_bottleneck": self._wait > _BOTTLENECK * total,
        }
        self._reset()
        return result
