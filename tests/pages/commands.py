"""The programs that pages call, in a forked process: they take what the real ones take, and do less of it.

`dali-dr` is the real one, but for a few views an image, an instant of `bench`, Ray's work in this process, and the CPU
where there is no GPU. timm's pretrained weights, which are downloads, are a small network's. `torchrun` and `srun` check
their options and run the command once. Whatever else a page calls is the real program, or an error.
"""

from __future__ import annotations

import argparse
import itertools
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent
VIEWS = 3  # at most, of those that a page asks for
BATCH = 4  # images at most of a batch of the loader
LARGE = ("resnext101_32x32d",)  # networks of which a small one takes the place, also with weights of a file
WEB = "https://host/"  # a web server that serves the working directory
TRAINING = "--device cpu --epochs 1 --batch-size 8 --size 64 --eval-size 64 --model test_vit"
"""What examples/train_timm.py does here, whatever the recipe says."""


def prepare() -> None:
    """Imports what most commands need, and starts nothing that a fork would lose."""
    import torch

    torch.set_num_threads(1)
    from dali_dr._torchvision import load_torchvision

    load_torchvision()
    import nvidia.dali.plugin.pytorch  # noqa: F401
    import timm

    _cut_down(torch, timm)


def _cut_down(torch: Any, timm: Any) -> None:
    create = timm.create_model

    def create_model(name: str, pretrained: bool = False, **options: Any) -> Any:
        """Of a name that has weights to download: a small network of as many outputs and the same input."""
        if name in LARGE:
            with torch.device("meta"):
                create(name, **options)  # that it has these options
            return create("test_resnet", num_classes=options.get("num_classes", 1000))
        if not pretrained:
            return create(name, **options)
        config = timm.get_pretrained_cfg(name)
        if config is None or not config.has_weights:
            raise RuntimeError(f"timm has no weights of {name}")
        torch.manual_seed(0)
        model = create("test_resnet", num_classes=options.get("num_classes", config.num_classes))
        model.pretrained_cfg = model.default_cfg = {**config.to_dict(), "num_features": 64}
        return model

    timm.create_model = create_model
    _small_batches()
    if torch.cuda.is_available():
        return
    from dali_dr.loader.options import Machine

    checked = Machine.__post_init__

    def on_the_cpu(self: Any) -> None:
        if str(self.device) in ("gpu", "cuda"):
            object.__setattr__(self, "device", "cpu")
        checked(self)

    Machine.__post_init__ = on_the_cpu  # type: ignore[method-assign]
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_, **__: self


def _small_batches() -> None:
    """Of the few images that there are, so that an epoch has several."""
    from dali_dr.loader.iterator import ReinforcedIterator

    make = ReinforcedIterator.__init__

    def smaller(self: Any, dataset: Any, *, batch_size: int, **options: Any) -> None:
        make(self, dataset, batch_size=min(batch_size, BATCH) if isinstance(batch_size, int) else batch_size, **options)

    ReinforcedIterator.__init__ = smaller  # type: ignore[method-assign]


def run(name: str, arguments: list[str]) -> int:
    """Runs a command by its name."""
    sys.argv = [name, *arguments]
    return _COMMANDS[name](arguments)


def dali_dr(arguments: list[str]) -> int:
    """The command itself, with less to do."""
    from dali_dr import cli

    make = cli.make_parser

    def smaller() -> argparse.ArgumentParser:
        parser = make()
        parse = parser.parse_args

        def parsed(words: Any = None, namespace: Any = None) -> Any:
            options = parse(words, namespace)
            for option, value in vars(options).items():
                if option == "seconds" and arguments[0] == "bench":
                    options.seconds, options.rounds = 0.01, 1
                elif option == "views" and isinstance(value, int):
                    options.views = min(value, VIEWS if hasattr(options, "teacher") else 2)
                elif value == "ray" and option == "engine":
                    options.engine, options.address, options.workers = "local", None, None
                elif value == "gpu" and option == "device" and not _has_gpu():
                    options.device = "cpu"
            return options

        parser.parse_args = parsed  # type: ignore[method-assign, assignment]
        return parser

    cli.make_parser = smaller
    if arguments[0] == "bench":
        sys.executable = (
            shutil.which("python") or sys.executable
        )  # of the processes that it starts, which are forks, too
    if any(word.startswith(WEB) for word in arguments):
        arguments = [word.replace(WEB, _web_server()) if word.startswith(WEB) else word for word in arguments]
    return cli.main(arguments)


def _web_server() -> str:
    """A web server of this process for what lies in the working directory; its URL."""
    import http.server
    import threading

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def python(arguments: list[str]) -> int:
    """`python FILE …`, `python -m MODULE …` or `python -c CODE …`."""
    if arguments[:2] == ["-m", "dali_dr"]:
        return dali_dr(arguments[2:])
    if arguments[:2] == ["-m", "venv"]:
        return _venv(arguments[2:])
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return 0
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
        return 0
    file = Path(arguments[0])
    if file.name == "train_timm.py":
        return _train(file, arguments[1:])
    sys.argv = arguments
    sys.path.insert(0, str(file.resolve().parent))
    runpy.run_path(str(file), run_name="__main__")
    return 0


def _venv(arguments: list[str]) -> int:
    """An environment with this world's commands in it."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise SystemExit(f"venv {arguments}: want a folder")
    Path(arguments[0]).mkdir()
    (Path(arguments[0]) / "bin").symlink_to(Path(shutil.which("pip") or "").parent)
    return 0


def _train(file: Path, arguments: list[str]) -> int:
    """The trainer for two steps; a run that was interrupted says so by a status of its own."""
    sys.path.insert(0, str(file.resolve().parent))
    import train_timm

    small = [*TRAINING.split(), "--model-options", "{img_size: 64}"]
    status = train_timm.main([*arguments, *small])
    return 0 if status in (0, None, train_timm.INTERRUPTED) else int(status)


def torchrun(arguments: list[str]) -> int:
    """Options by torchrun's own parser; the script in one process."""
    from torch.distributed.run import get_args_parser

    options = get_args_parser().parse_args(arguments)
    words = [options.training_script, *options.training_script_args]
    return python(["-m", *words] if options.module else words)


def srun(arguments: list[str]) -> int:
    """Options of Slurm's are passed over; the command once, by its first word."""
    words = list(itertools.dropwhile(lambda word: word.startswith("-"), arguments))
    if not words or words[0] not in _COMMANDS:
        raise SystemExit(f"srun {arguments}: no command, or options whose values are words of their own (write --x=y)")
    return run(words[0], words[1:])


def sbatch(arguments: list[str]) -> int:
    """That the script is there, and bash takes it."""
    words = list(itertools.dropwhile(lambda word: word.startswith("-"), arguments))
    return subprocess.run(["bash", "-n", words[0]]).returncode


def accelerate(arguments: list[str]) -> int:
    """`accelerate launch …`, by its own parser; the script in one process."""
    from accelerate.commands.launch import launch_command_parser

    if arguments[0] != "launch":
        raise SystemExit(f"accelerate {arguments[0]}: not in a page's world")
    options = launch_command_parser().parse_args(arguments[1:])
    return python([options.training_script, *options.training_script_args])


def git(arguments: list[str]) -> int:
    """`git clone`, of which there is nothing to fetch."""
    raise SystemExit(
        0 if arguments[0] == "clone" and len(arguments) >= 2 else f"git {arguments}: not in a page's world"
    )


def make(arguments: list[str]) -> int:
    """That the targets are there, and what they would run is well-formed."""
    return subprocess.run(["make", "-n", "-C", REPOSITORY, *arguments], stdout=subprocess.DEVNULL, env={
        **os.environ, "PATH": os.defpath}).returncode  # fmt: skip


def pip(arguments: list[str]) -> int:
    """That extras of this package are there; nothing is installed."""
    import re
    import tomllib

    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    if arguments[0] != "install":
        raise SystemExit(f"pip {arguments[0]}: not in a page's world")
    for word in arguments:
        if named := re.fullmatch(r"(?:dali_dr\S*?|\.)\[([\w,-]+)\]", word):
            for extra in named[1].split(","):
                if extra not in extras:
                    raise SystemExit(f"there is no extra {extra}: {sorted(extras)}")
    return 0


def curl(arguments: list[str]) -> int:
    """`curl -LO URL` of a published archive: one of the world's few images, in the authors' form; or of weights."""
    from pages import published

    name = arguments[-1].rsplit("/", 1)[-1]
    if arguments[:-1] != ["-LO"] or not arguments[-1].startswith("https://"):
        raise SystemExit(f"curl {arguments}: want -LO https://…")
    if name.endswith(".pth"):
        import timm
        import torch

        torch.save(timm.create_model("test_resnet", num_classes=1000).state_dict(), name)
    else:
        published.archive(name, Path("imagenet/train"))
    return 0


def page(arguments: list[str]) -> int:
    """Runs the blocks of a page: see `pages.page`."""
    from pages.page import run_page

    return run_page(*arguments)


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "dali-dr": dali_dr, "python": python, "python3": python, "torchrun": torchrun, "git": git, "make": make, "pip": pip,
    "curl": curl, "srun": srun, "sbatch": sbatch, "accelerate": accelerate, "page": page,
}  # fmt: skip
NAMES = tuple(_COMMANDS)
