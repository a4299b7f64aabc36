"""Installs a wheel as a new user would and trains a batch: an empty environment per Python, and no compiler in reach.

    python release/try_wheel.py WHEEL [WHEEL ...] [--pythons PYTHON ...] [--by pip|pip-no-compile|uv]

The first wheel is tried by every Python, others by the last one only: no Python is in the plugin. Printed are the seconds
of each step and, in brackets, those of the processor, which say more where others work on the machine:

    venv         an empty environment
    downloads    `pip download`, which also finds out what is needed, in an environment of its own; not counted
    unpack       and writing: gigabytes of CUDA; `resolve`, a part of it, is what pip takes to find out what is needed
    bytecode     what `pip install` compiles, all of it; left out by --no-compile and by uv, for Python then compiles at
                 the first import what is imported
    torchvision  python -m dali_dr._torchvision
    first batch  photos, a teacher, a reinforced set, one step of training; the parts are printed

The bar for all but downloads is five minutes by the clock, or, where more programs run than there are processors, of
the processor. pip's own variables hold: PIP_CONSTRAINT=FILE that names a PyTorch without CUDA, for instance, tries that
one. uv is fetched by pip.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

BAR = 300  # seconds, beside the downloads
VERSIONS = ("3.11", "3.12", "3.13")
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "nvcc", "cmake", "ninja", "make")
WAYS = ("pip", "pip-no-compile", "uv")
DOWNLOADS = "downloads"
LOG = "pip.log"

# Photos that are drawn, packed, reinforced by an untrained teacher, and one step of training on them.
TRAIN = """
import time
began = time.monotonic()
def told(what):
    global began
    print(f"  {what} {time.monotonic() - began:.1f} s", flush=True)
    began = time.monotonic()
import pathlib, subprocess, sys
import numpy, torch
from PIL import Image
told("import torch")
import torchvision, timm
told("import torchvision, timm")
import nvidia.dali.plugin.pytorch
told("import DALI")
import dali_dr
told("import dali_dr")
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
told("dali-dr reinforce")
loader = dali_dr.ReinforcedIterator("set", batch_size=8, device="cpu", as_tuples=True)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 4), torch.nn.Flatten(), torch.nn.LazyLinear(2))
images, target = next(iter(loader))
loss = torch.nn.functional.cross_entropy(model(images), target)
loss.backward()
assert torch.isfinite(loss), loss
told("a batch and a step")
from importlib import metadata
dali = [d.name + " " + d.version for d in metadata.distributions() if d.name.startswith("nvidia-dali")]
print("one batch", tuple(images.shape), "loss", float(loss.detach()), "torch", torch.__version__, *dali)
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


def clean_environment(folder: Path) -> dict[str, str]:
    """The variables of a user without a compiler: a PATH on which there is none, and nothing of this checkout."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("sh", "env", "uname", "ldconfig"):
        if there := shutil.which(name, path=f"{os.environ['PATH']}:/sbin:/usr/sbin"):
            (tools / name).symlink_to(there)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DALI_DR", "CUDA", "CC", "CXX", "UV_"))}
    seen = [name for name in COMPILERS if shutil.which(name, path=str(tools))]
    if seen:
        raise SystemExit(f"release/try_wheel.py: {', '.join(seen)} can be reached, so this would prove nothing")
    return {**kept, "PATH": str(tools), "UV_CACHE_DIR": str(folder / "uv-cache"), "UV_NO_CONFIG": "1"}


def steps(python: Path, wheel: Path, way: str, folder: Path) -> dict[str, list[str]]:
    """The commands of each step, in the environment FOLDER/WAY, by what was downloaded."""
    own = str(folder / way / "bin" / "python")
    wanted = ["--no-index", "--find-links", str(folder / DOWNLOADS), str(wheel), "torchvision"]
    commands = {"venv": [str(python), "-m", "venv", str(folder / way)]}
    if way == "uv":
        commands["unpack"] = [str(folder / "tool" / "bin" / "uv"), "pip", "install", "-q", "--python", own, *wanted]
    else:
        # Without bytecode first, which is then made as pip makes it, so that the seconds are told apart.
        commands["unpack"] = [*pip(own), "--log", str(folder / LOG), "install", "--no-compile", *wanted]
    if way == "pip":
        # As pip does, which passes over what cannot be compiled: packages ship files for newer Pythons.
        code = "import compileall, sys; compileall.compile_dir(sys.argv[1], quiet=2)"
        commands["bytecode"] = [own, "-c", code, str(folder / way / "lib")]
    commands["torchvision"] = [own, "-m", "dali_dr._torchvision"]
    commands["first batch"] = [own, "-c", TRAIN]
    return commands


def pip(python: str) -> list[str]:
    return [python, "-m", "pip", "--disable-pip-version-check", "-q"]


def processor_seconds() -> float:
    """Of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def resolve_seconds(log: Path) -> float:
    """What pip took until it began to unpack, by its log, each line of which begins with the time; NaN: it does not say."""
    lines = [line for line in log.read_text().splitlines() if re.match(r"\d{4}-\d\d-\d\dT[\d:,]+ ", line)]
    ends = [line for line in lines if "Installing collected packages" in line]
    if not ends:
        return float("nan")
    begin, end = (datetime.fromisoformat(line.split()[0].replace(",", ".")) for line in (lines[0], ends[0]))
    return (end - begin).total_seconds()


def size(folder: Path, pattern: str = "*") -> tuple[int, float]:
    """Number of the files below, and their gigabytes."""
    files = [path.lstat().st_size for path in folder.rglob(pattern) if path.is_file() and not path.is_symlink()]
    return len(files), sum(files) / 1e9


def try_wheel(python: Path, wheel: Path, ways: list[str]) -> dict[str, float]:
    """Installs and trains; prints how long each step takes. Returns by way what is held against the bar."""
    with tempfile.TemporaryDirectory(prefix="dali_dr-wheel-") as name:
        folder = Path(name)
        tool = folder / "tool"  # an environment that downloads, with uv where it is wanted, and is not counted
        variables = clean_environment(folder)
        print(f"{wheel.name}, {python}", flush=True)

        def step(what: str, command: list[str], bin_folder: Path) -> tuple[float, float]:
            (work := bin_folder.parent / "work").mkdir(parents=True, exist_ok=True)
            began, processor = time.monotonic(), processor_seconds()
            path = f"{bin_folder}{os.pathsep}{variables['PATH']}"
            done = subprocess.run(command, env={**variables, "PATH": path}, cwd=work)
            seconds, busy = time.monotonic() - began, processor_seconds() - processor
            if done.returncode:
                raise SystemExit(f"release/try_wheel.py: {python}: {what} failed (above)")
            print(f"  {what:12} {seconds:5.0f} s ({busy:.0f})", flush=True)
            return seconds, busy

        subprocess.run([python, "-m", "venv", tool], check=True)
        own = pip(str(tool / "bin" / "python"))
        if "uv" in ways:
            subprocess.run([*own, "install", "uv"], env=variables, check=True)
        step(DOWNLOADS, [*own, "download", "-d", str(folder / DOWNLOADS), str(wheel), "torchvision"], tool / "bin")
        print("    {} wheels, {:.1f} GB".format(*size(folder / DOWNLOADS)))
        held = {}
        for way in ways:
            took = []
            for what, command in steps(python, wheel, way, folder).items():
                took.append(step(what, command, folder / way / "bin"))
                if what == "unpack":
                    files, gigabytes = size(folder / way)
                    print(f"    {files} files, {gigabytes:.1f} GB, {size(folder / way, '*.py')[0]} of Python")
                    if way != "uv":
                        print(f"    resolve {resolve_seconds(folder / LOG):.1f} s of it")
            beside, busy = (sum(column) for column in zip(*took, strict=True))
            shared = os.getloadavg()[1] > (os.cpu_count() or 1)  # of the last five minutes
            held[way] = busy if shared else beside
            note = "; others use this machine: the latter is held against the bar" if shared else ""
            print(f"{python} by {way}: {beside:.0f} s beside downloads, {busy:.0f} of the processor{note}", flush=True)
            shutil.rmtree(folder / way)
        return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheels", nargs="+", type=Path, metavar="WHEEL")
    parser.add_argument(
        "--pythons", nargs="+", type=Path, help=f"default: those of {', '.join(VERSIONS)} that are here"
    )
    parser.add_argument("--by", nargs="+", choices=WAYS, default=["pip"], help="what installs (default: pip)")
    options = parser.parse_args()
    chosen = options.pythons or pythons()
    if not chosen:
        raise SystemExit(f"no Python of {', '.join(VERSIONS)} is here")
    first, *others = [wheel.resolve() for wheel in options.wheels]
    tries = [(python, first) for python in chosen] + [(chosen[-1], wheel) for wheel in others]
    slow = [
        f"{python} by {way}"
        for python, wheel in tries
        for way, seconds in try_wheel(python, wheel, options.by).items()
        if seconds > BAR
    ]
    if slow:
        sys.exit(f"more than {BAR} s beside the downloads: {', '.join(slow)}")


if __name__ == "__main__":
    main()
