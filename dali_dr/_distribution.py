"""Which distributions are installed into one folder, where only one of a kind can be whole.

dali_dr comes as `dali_dr` and `dali_dr-cuda130`, one for each flavour of DALI, and DALI likewise: two of them share their
files, and the one that was installed last has overwritten the other's. pip does not see that. Listing a folder takes a
tenth of a millisecond, so that `import dali_dr` can afford it.
"""

from __future__ import annotations

import os
from typing import Final

from dali_dr.errors import PluginError

FLAVOURS: Final = ("cuda120", "cuda130")
HOME: Final = os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120  (pathlib may not be imported yet)


def refuse_two(folder: str, *names: str) -> None:
    """Raises PluginError if more than one of the distributions ``names`` is installed in ``folder``."""
    try:
        entries = os.listdir(folder)  # noqa: PTH208
    except OSError:  # a zip file
        return
    there = {entry.split("-")[0] for entry in entries if entry.endswith(".dist-info")}
    found = [name for name in names if name.replace("-", "_") in there]
    if len(found) > 1:
        both = " and ".join(found)
        raise PluginError(
            f"{both} are both installed in {folder} and have overwritten files of each other. "
            f"Remove both (pip uninstall -y {' '.join(found)}), then install the one that you want: dali_dr brings DALI "
            f"for CUDA 12, dali_dr-cuda130 DALI for CUDA 13 (docs/install.md)"
        )


def refuse_two_of_ours() -> None:
    """Raises PluginError if both flavours of dali_dr are installed where this one is."""
    refuse_two(HOME, "dali_dr", "dali_dr-cuda130")
