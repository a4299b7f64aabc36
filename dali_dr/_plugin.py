"""Loads the compiled DALI plugin, once, and explains what is wrong when it cannot.

A plugin is bound to the exact DALI version it was built against (its symbols are versioned), so the build writes that
version into `_build.json` beside the library and the check happens here, before DALI's loader fails with a linker message.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from dali_dr._distribution import FLAVOURS, refuse_two
from dali_dr.errors import PluginError

LIBRARY = Path(__file__).with_name("libdali_dr_ops.so")
BUILD_FACTS = Path(__file__).with_name("_build.json")
_REBUILD = (
    "Rebuild it against the installed DALI: `pip install --no-build-isolation -e .` in a checkout (or `make setup`)."
)


T = TypeVar("T")
_loading = threading.RLock()


def once(make: Callable[[], T]) -> Callable[[], T]:
    """``make``, whose result is kept; of several threads that are the first to ask, one makes it and the others wait."""
    kept = functools.cache(make)

    @functools.wraps(make)
    def made() -> T:
        with _loading:
            return kept()

    return made


@once
def load() -> None:
    """Registers `fn.dr.read` and `fn.dr.replay` with DALI.

    The environment variable DALI_DR_PLUGIN names another library file, for development or where the package's folder is
    not to be written; what its build recorded is read from beside it.

    Raises:
      PluginError: the plugin is missing, was built for another DALI version, or does not load (too old a driver, for
        instance); the message names both versions and the command that mends it.
    """
    import nvidia.dali as dali
    import nvidia.dali.plugin_manager as plugin_manager

    refuse_two(str(Path(dali.__file__).parents[2]), *(f"nvidia-dali-{flavour}" for flavour in FLAVOURS))
    override = os.environ.get("DALI_DR_PLUGIN")
    library = Path(override) if override else LIBRARY
    if not library.is_file():
        raise PluginError(
            f"dali_dr's DALI plugin {library} does not exist; DALI {dali.__version__} is installed. {_REBUILD}"
        )
    facts = build_facts()
    built_for = facts.get("dali_version")
    if built_for is not None and built_for != dali.__version__:
        raise PluginError(
            f"dali_dr's DALI plugin was built for DALI {built_for}, but DALI {dali.__version__} is installed. "
            f"{_REBUILD} Or install the DALI it was built for: "
            f"pip install {facts.get('dali', 'nvidia-dali-cuda120')}=={built_for}"
        )
    try:
        plugin_manager.load_library(str(library))
    except RuntimeError as error:
        raise PluginError(
            f"dali_dr's DALI plugin {library} (built for DALI {built_for or 'unknown'}) does not load into "
            f"DALI {dali.__version__}: {error}. {_REBUILD}"
        ) from error


@once
def library() -> ctypes.CDLL:
    """The loaded plugin, for its few C functions (csrc/operators/monitor.cc, and export.cc in csrc's folders)."""
    load()
    override = os.environ.get("DALI_DR_PLUGIN")
    return ctypes.CDLL(override or str(LIBRARY))


def require_gpu() -> None:
    """Checks what `device="gpu"` needs of the plugin and of the driver, where DALI would fail with less to go by.

    Raises:
      PluginError: the plugin was built without CUDA, or with a newer CUDA than the driver supports.
    """
    if os.environ.get("DALI_DR_PLUGIN") and not build_facts():
        return  # a library whose build is not on record
    cuda = build_facts().get("cuda", "")
    if not cuda:
        raise PluginError(
            'device="gpu", but dali_dr\'s plugin was built without CUDA: no nvcc was found then. Put nvcc on the PATH '
            f'(or name it in CUDACXX), or use device="cpu". {_REBUILD}'
        )
    driver = driver_cuda()
    if driver is not None and driver < int(cuda.split(".")[0]):
        raise PluginError(
            f"dali_dr's plugin was built with CUDA {cuda}, but this machine's NVIDIA driver supports CUDA {driver}.x at "
            f"most (CUDA 13 needs driver 580, CUDA 12 needs 525). Update the driver, or rebuild with an nvcc of CUDA "
            f"{driver} (CUDACXX=/path/to/nvcc). {_REBUILD}"
        )


def driver_cuda() -> int | None:
    """The newest CUDA major version that the NVIDIA driver supports; None where there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0 or version.value == 0:
        return None
    return version.value // 1000


def build_facts() -> dict[str, str]:
    """What the build recorded; empty if unknown.

    Returns:
      dali (the distribution), dali_version, cuda (version of the compiler, or empty), cuda_architectures.
    """
    override = os.environ.get("DALI_DR_PLUGIN")
    path = Path(override).with_name(BUILD_FACTS.name) if override else BUILD_FACTS
    if not path.is_file():
        return {}
    facts: dict[str, str] = json.loads(path.read_text())
    return facts
