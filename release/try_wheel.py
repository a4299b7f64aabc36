"""Installs a wheel as a new user would and trains a batch: an empty environment per Python, and no compiler in reach.

    python release/try_wheel.py WHEEL [--pythons PYTHON ...]

Prints the seconds of each step, and in brackets those of the processor: `downloads` depends on the network and on pip's
cache, `install` on the disk, because PyTorch's and CUDA's wheels are gigabytes. The bar for all but downloads is five
minutes. pip's own variables hold: PIP_CONSTRAINT=FILE that names a PyTorch without CUDA, for instance, tries that one.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BAR = 300  # seconds, beside the downloads
VERSIONS = ("3.11", "3.12", "3.13")
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "nvcc", "cmake", "ninja", "make")

# Photos that are drawn, packed, reinforced by an untrained teacher, and one step of training on them.
TRAIN = """
import pathlib, subprocess, sys
import numpy, torch
from PIL import Image
import torchvision, timm
import dali_dr
random = numpy.random.default_rng(0)
for name in ("cat", "dog"):
    folder = pathlib.Path("photos", name)
    folder.mkdir(parents=True)
    for number in range(8):
        rows = random.integers(0, 256, (8, 8, 3), numpy.uint8)
        Image.fromarray(rows).resize((160, 120), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
teacher = timm.create_model("resnet10t", num_classes=2)
torch.save(teacher.state_dict(), "teacher.pth")
command = [sys.executable, "-m", "dali_dr", "reinforce", "photos", "--out", "set", "--views", "2", "--topk", "2"]
subprocess.run([*command, "--spec", "rrc+ra+re", "--teacher", "resnet10t@teacher.pth"], check=True)
loader = dali_dr.ReinforcedIterator("set", batch_size=8, device="cpu", as_tuples=True)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 4), torch.nn.Flatten(), torch.nn.LazyLinear(2))
images, target = next(iter(loader))
loss = torch.nn.functional.cross_entropy(model(images), target)
loss.backward()
assert torch.isfinite(loss), loss
print("one batch", tuple(images.shape), "loss", float(loss.detach()), "torch", torch.__version__)
"""


def pythons() -> list[Path]:
    """The interpreters of VERSIONS that are here: on the PATH, or under pyenv, the newest release of each."""
    found = []
    for version in VERSIONS:
        kept = sorted(
            (Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"), key=lambda p: p.stat().st_mtime
        )
        named = shutil.which(f"python{version}")
        candidates = [*kept[-1:], *([Path(named)] if named else [])]
        found += [c for c in candidates if works(c, version)][:1]
    return found


def works(python: Path, version: str) -> bool:
    """Whether this interpreter runs and is of that version (a shim of pyenv may name one that it does not start)."""
    told = subprocess.run(
        [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True
    )
    return told.stdout.strip() == version


def clean_environment(folder: Path, bin_folder: Path) -> dict[str, str]:
    """The variables of a user without a compiler: a PATH on which there is none, and nothing of this checkout."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("sh", "env", "uname", "ldconfig"):
        if there := shutil.which(name, path=f"{os.environ['PATH']}:/sbin:/usr/sbin"):
            (tools / name).symlink_to(there)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DALI_DR", "CUDA", "CC", "CXX"))}
    path = f"{bin_folder}{os.pathsep}{tools}"
    seen = [name for name in COMPILERS if shutil.which(name, path=path)]
    if seen:
        raise SystemExit(f"release/try_wheel.py: {', '.join(seen)} can be reached, so this would prove nothing")
    return {**kept, "PATH": path}


def processor_seconds() -> float:
    """Of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def try_wheel(python: Path, wheel: Path) -> float:
    """Installs and trains; prints how long each step takes. Returns seconds beside downloads."""
    with tempfile.TemporaryDirectory(prefix="dali_dr-wheel-") as name:
        folder = Path(name)
        variables = clean_environment(folder, folder / "venv" / "bin")
        pip = [str(folder / "venv" / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "-q"]
        steps = {
            "venv": [str(python), "-m", "venv", str(folder / "venv")],
            "downloads": [*pip, "download", "-d", str(folder / "downloads"), str(wheel), "torchvision"],
            "install": [
                *pip,
                "install",
                "--no-index",
                "--find-links",
                str(folder / "downloads"),
                str(wheel),
                "torchvision",
            ],
            "torchvision": [pip[0], "-m", "dali_dr._torchvision"],
            "first batch": [pip[0], "-c", TRAIN],
        }
        took, busy = {}, {}
        for step, command in steps.items():
            began, processor = time.monotonic(), processor_seconds()
            done = subprocess.run(command, env=variables, cwd=folder)
            took[step], busy[step] = time.monotonic() - began, processor_seconds() - processor
            if done.returncode:
                raise SystemExit(f"release/try_wheel.py: {python}: {step} failed (above)")
    beside = sum(seconds for step, seconds in took.items() if step != "downloads")
    each = ", ".join(f"{step} {seconds:.0f} s ({busy[step]:.0f})" for step, seconds in took.items())
    print(f"{python}: {each}; {beside:.0f} s beside downloads", flush=True)
    return beside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument(
        "--pythons", nargs="+", type=Path, help=f"default: those of {', '.join(VERSIONS)} that are here"
    )
    options = parser.parse_args()
    chosen = options.pythons or pythons()
    if not chosen:
        raise SystemExit(f"no Python of {', '.join(VERSIONS)} is here")
    slow = [python for python in chosen if try_wheel(python, options.wheel.resolve()) > BAR]
    if slow:
        sys.exit(f"more than {BAR} s beside the downloads: {', '.join(map(str, slow))}")


if __name__ == "__main__":
    main()
