"""Prints the DALI that fits the installed torch, as a requirement: for CUDA 13 where torch and nvcc are, else for CUDA 12.

DALI for CUDA 12 goes beside any torch: its CUDA runtime is in its own libraries, and a driver for CUDA 13 runs it, too.
On a GPU this is by CUDA's rules, and was not tried beside a torch for CUDA 13; without one it was (docs/install.md).
DALI for CUDA 13 beside a torch for CUDA 12 would ask for a newer driver than torch does. An nvcc of CUDA 12 builds no
plugin for DALI of CUDA 13.
"""

from __future__ import annotations

import re
import shutil
import subprocess

DALI = "2.4.*"


def flavour(torch_cuda: str | None, nvcc: str | None) -> str:
    """cuda120 or cuda130, by the CUDA version of torch and of nvcc; None where there is none."""
    newer = torch_cuda is not None and int(torch_cuda.split(".")[0]) >= 13
    return "cuda130" if newer and (nvcc is None or int(nvcc.split(".")[0]) >= 13) else "cuda120"


def nvcc_version() -> str | None:
    """Of the nvcc on the PATH."""
    if not (nvcc := shutil.which("nvcc")):
        return None
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"release ([0-9.]+)", text)
    return match[1] if match else None


if __name__ == "__main__":
    import torch

    print(f"nvidia-dali-{flavour(torch.version.cuda, nvcc_version())}=={DALI}")
