"""Measures a loader in this process, and says on which machine that was."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch

from dali_dr.throughput.loaders import Loader, Settings

WARM_UP: Final = 1.0
"""Seconds run before the clock starts, but no more than are measured: queues fill, page cache and allocators settle."""


def machine() -> dict[str, Any]:
    """Of what machine and versions figures are, as JSON."""
    cpu = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")),
        platform.machine(),
    )
    packages = ("nvidia-dali-cuda120", "nvidia-dali-cuda130", "torch", "torchvision", "pillow", "numpy")
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": versions,
        "date": time.strftime("%Y-%m-%d"),
    }


def measure(loader: Loader, scratch: Path, settings: Settings) -> float:
    """Images per second of one loader over the data sets in ``scratch``."""
    run, release = loader(scratch, settings)
    deadline = time.perf_counter() + min(WARM_UP, settings.seconds)
    while time.perf_counter() < deadline:
        run()
    begin, images = time.perf_counter(), 0
    while (now := time.perf_counter()) < begin + settings.seconds:
        images += run()
    release()
    return images / (now - begin)
