"""dali-dr env: what a bug report wants to know of this machine and environment. It never fails; nothing private is in it."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from dali_dr.cli.common import add_quiet, command, say, say_json
from dali_dr.errors import brief

_DALIS: Final = ("nvidia-dali-cuda120", "nvidia-dali-cuda130", "nvidia-dali-cuda110")
_PACKAGES: Final = (
    *("torchvision", "timm", "numpy", "pillow", "webdataset", "zstandard", "obstore", "huggingface_hub"),
    *("pyarrow", "datasets", "ray"),
)
_DRIVERS: Final = {"12": 525, "13": 580}  # oldest driver of a CUDA version: docs.nvidia.com/deploy/cuda-compatibility
_TIMEOUT: Final = 20  # seconds for nvidia-smi
_NONE: Final = "none"


class Version(argparse.Action):
    """--version, whose answer is found when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=options.get("help"))

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Prints it and ends."""
        from dali_dr import __version__

        say(f"dali_dr {__version__}; DALI {_guarded(_dali)}; plugin: {_guarded(_plugin)}")
        parser.exit()


def add(commands: Any) -> None:
    """Adds the subcommand."""
    env = command(
        commands, "env", _env, "print versions and what this machine has, for a bug report", "dali-dr env > env.txt"
    )
    add_quiet(env)


def _env(options: argparse.Namespace) -> None:
    facts = _facts()
    if options.json:
        say_json(facts)
        return
    for name, value in facts.items():
        for number, one in enumerate(value if isinstance(value, list) else [value]):
            say(f"{name if number == 0 else '':>16}  {one}")


def _facts() -> dict[str, Any]:
    """What is found, by name, each as a text or a list of texts."""
    probes: dict[str, Callable[[], Any]] = {
        "dali_dr": _own,
        "python": lambda: f"{platform.python_implementation()} {platform.python_version()}",
        "DALI": _dali,
        "plugin": _plugin,
        "torch": _torch,
        **{name: functools.partial(_version, name) for name in _PACKAGES},
        "driver": _driver,
        "GPUs": _gpus,
        "cores": _cores,
        "AVX2": lambda: "yes" if re.search(r"\bavx2\b", Path("/proc/cpuinfo").read_text()) else "no",
        "memory": _memory,
        "/dev/shm": lambda: _disk("/dev/shm"),
        "open files": _open_files,
        "system": _system,
        "problems": _problems,
    }
    return {name: _private(_guarded(probe)) for name, probe in probes.items()}


def _guarded(probe: Callable[[], Any]) -> Any:
    """What ``probe`` finds, or why it finds nothing."""
    try:
        return probe()
    except Exception as error:  # whatever a broken environment may do
        return f"unknown ({type(error).__name__}: {brief(str(error))})"


def _private(value: Any) -> Any:
    """``value`` without the user's name and home."""
    if isinstance(value, list):
        return [_private(one) for one in value]
    text = str(value)
    home = os.path.expanduser("~")  # noqa: PTH111  (which fails for users without a home)
    return text.replace(home, "~") if len(home) > 1 else text


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return _NONE


def _own() -> str:
    from dali_dr import __file__, __version__

    return f"{__version__} in {Path(__file__).parent}"


def _dalis() -> list[tuple[str, str]]:
    found = [(name, _version(name)) for name in _DALIS]
    return [(name, version) for name, version in found if version != _NONE]


def _dali() -> str:
    return ", ".join(f"{version} ({name})" for name, version in _dalis()) or _NONE


def _plugin() -> str:
    from dali_dr._plugin import LIBRARY, build_facts

    override = os.environ.get("DALI_DR_PLUGIN")
    if not (Path(override) if override else LIBRARY).is_file():
        return "not built"
    facts = build_facts()
    cuda = f"CUDA {facts['cuda']} for {facts.get('cuda_architectures')}" if facts.get("cuda") else "CPU only"
    return f"built for DALI {facts.get('dali_version', 'unknown')}, {cuda}" + (" (DALI_DR_PLUGIN)" if override else "")


def _torch() -> str:
    version = _version("torch")
    if version == _NONE:
        return version
    import torch

    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"{version}, {cuda}, sees {seen} GPUs"


def _asked(query: str) -> list[str]:
    """Lines of nvidia-smi; none without one."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command_line = [tool, f"--query-gpu={query}", "--format=csv,noheader"]
    done = subprocess.run(command_line, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def _driver() -> str:
    from dali_dr._plugin import driver_cuda

    lines, cuda = _asked("driver_version"), driver_cuda()
    if not lines and cuda is None:
        return _NONE
    return f"{lines[0] if lines else 'unknown'}, up to CUDA {'unknown' if cuda is None else f'{cuda}.x'}"


def _gpus() -> list[str]:
    return _asked("name,memory.total,compute_cap") or [_NONE]


def _cores() -> str:
    limit = ""
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        used, _, period = quota.read_text().partition(" ")
        limit = f", limited to {int(used) / int(period):g}" if used.isdecimal() else ""
    return f"{os.cpu_count()}, {len(os.sched_getaffinity(0))} of them for this process{limit}"


def _memory() -> str:
    values = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE))
    text = f"{int(values['MemTotal']) / 2**20:.1f} GiB, {int(values['MemAvailable']) / 2**20:.1f} of them free"
    limit = Path("/sys/fs/cgroup/memory.max")
    most = limit.read_text().strip() if limit.is_file() else ""
    return text + (f", limited to {int(most) / 2**30:.1f}" if most.isdecimal() else "")


def _disk(path: str) -> str:
    usage = shutil.disk_usage(path)
    return f"{usage.total / 2**30:.1f} GiB, {usage.free / 2**30:.1f} of them free"


def _open_files() -> str:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"at most {soft} (hard limit {hard})"


def _system() -> str:
    release = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    return f"{release}, Linux {platform.release()}, {platform.machine()}, {' '.join(platform.libc_ver())}"


def _problems() -> list[str]:
    """Versions that do not go together."""
    checks = (_of_dali, _of_plugin, _of_cuda, _of_driver, _of_torchvision)
    found = [text for check in checks for text in _listed(_guarded(check))]
    return found or [_NONE]


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [str(value)]


def _of_dali() -> list[str]:
    names = [name for name, _ in _dalis()]
    if len(names) > 1:
        return [f"{' and '.join(names)} are installed, which overwrite each other: pip uninstall both, install one"]
    return [] if names else ["DALI is not installed: pip install 'nvidia-dali-cuda120==2.4.*'"]


def _of_plugin() -> list[str]:
    from dali_dr._plugin import LIBRARY, build_facts

    override = os.environ.get("DALI_DR_PLUGIN")
    if not (Path(override) if override else LIBRARY).is_file():
        return ["the plugin is not built: pip install --no-build-isolation -e . in a checkout, or make setup"]
    built, dalis = build_facts().get("dali_version"), _dalis()
    if built and dalis and built != dalis[0][1]:
        return [
            f"the plugin was built for DALI {built}, and DALI {dalis[0][1]} is installed: install that, or build anew"
        ]
    return []


def _cuda_of(name: str) -> str:
    """The CUDA version of a flavour of DALI: "12" of "…-cuda120"."""
    return name.rpartition("cuda")[2][:2]


def _of_cuda() -> list[str]:
    import torch

    dalis, cuda = _dalis(), torch.version.cuda
    if cuda is None or not dalis or cuda.split(".")[0] == _cuda_of(dalis[0][0]):
        return []
    return [f"torch is for CUDA {cuda}, and DALI for CUDA {_cuda_of(dalis[0][0])}: both are loaded into one process"]


def _of_driver() -> list[str]:
    from dali_dr._plugin import build_facts, driver_cuda

    newest = driver_cuda()
    if newest is None:
        return []
    wanted = {name: _cuda_of(name) for name, _ in _dalis()} | {
        "the plugin": build_facts().get("cuda", "").split(".")[0]
    }
    return [
        f"{what} wants CUDA {cuda}, and the driver goes up to {newest}.x: update it to {_DRIVERS.get(cuda, 'a newer one')}"
        for what, cuda in wanted.items()
        if cuda and int(cuda) > newest
    ]


def _of_torchvision() -> list[str]:
    """Whether a script's own `import torchvision` works: its operators must fit torch."""
    if importlib.util.find_spec("torchvision") is None:
        return []
    code = "import torchvision; import torch; torch.ops.torchvision.nms"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 0:
        return []
    last = (done.stderr.strip().splitlines() or ["it ends without a message"])[-1]
    return [
        f"import torchvision fails beside this torch ({brief(last)}): install the torchvision of the same build as torch"
    ]
