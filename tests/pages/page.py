"""Runs the blocks of one page, in their order, in this process: Python shares its names, as in a notebook."""

from __future__ import annotations

import builtins
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
import traceback
from pathlib import Path
from typing import Any

from pages.blocks import DATA, SHELL, SHOWN, Block, blocks, diffed, well_formed

SECONDS = 240  # of one block of shell commands
_OUT = re.compile(r"--out[ =](\S+)")


def run_page(page: str, report: str, slow: str) -> int:
    """Runs a page's blocks.

    Args:
      page: the file.
      report: where a line of JSON for each block goes: line, language, how ("run", "compile", "run by", "shown", "slow",
        "failed"), why, seconds.
      slow: "slow" to run the blocks that are so marked, with what they need; else they are left to that run.
    """
    runner = _Runner(slow == "slow")
    with Path(report).open("w") as file:
        for block in blocks(Path(page)):
            began = time.monotonic()
            try:
                how, why = runner.run(block)
            except BaseException as error:
                how, why = "failed", _shown(error, block)
            seconds = round(time.monotonic() - began, 2)
            line = {"line": block.line, "language": block.language, "how": how, "why": why, "seconds": seconds}
            file.write(json.dumps(line) + "\n")
            file.flush()
    return 0


def _shown(error: BaseException, block: Block) -> str:
    """What went wrong, and in which line of the page."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == block.where]
    place = f"line {block.line + lines[-1]} of the page: " if lines and lines[-1] else ""
    return f"{place}{type(error).__name__}: {error}"[-4000:]


class _Runner:
    def __init__(self, slow: bool) -> None:
        self.slow = slow
        self.names = _assumed()
        self.before: Block | None = None

    def run(self, block: Block) -> tuple[str, str]:
        """How a block was run, and why so; raises what it raises."""
        if block.language in SHOWN:
            return "shown", ""
        if "slow" in block.orders and not self.slow:
            return "slow", block.orders["slow"]
        elsewhere = block.orders.get("run by")
        if block.language == "python":
            self.before = block
            code = compile(block.text, block.where, "exec")
            if elsewhere is None and "compile" not in block.orders:
                self._execute(code, block, self.names)
        elif block.language == "diff":
            self._diff(block, elsewhere is None)
        elif block.language in SHELL:
            self._shell(block, elsewhere is None)
        elif block.language in DATA:
            _data(block)
        how = "compile" if "compile" in block.orders else "run" if elsewhere is None else "run by"
        return how, block.orders.get("compile") or elsewhere or ""

    def _execute(self, code: Any, block: Block, names: dict[str, Any]) -> None:
        last = int(block.orders.get("epochs", 0))
        if last:
            names["range"] = lambda *ends: list(itertools.islice(builtins.range(*ends), last))
        try:
            exec(code, names)
        finally:
            names.pop("range", None)

    def _diff(self, block: Block, runs: bool) -> None:
        """Applies it to the Python block before it, and runs what comes of it by itself; what another test does, or nobody
        can, is looked at alone."""
        well_formed(block)
        if not runs or "compile" in block.orders:
            return
        if self.before is None:
            raise ValueError("there is no Python block before this diff")
        code = compile(diffed(self.before.text, block), block.where, "exec")
        self._execute(code, block, _assumed())

    def _shell(self, block: Block, runs: bool) -> None:
        subprocess.run(["bash", "-n", "-c", block.text], check=True, capture_output=True)
        if not runs or "compile" in block.orders:
            options_exist(block.text)
            return
        for out in dict.fromkeys(_OUT.findall(re.sub(r"#.*", "", block.text))):
            _remove(out)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise RuntimeError(f"status {done.returncode}\n{done.stdout[-1500:]}\n{done.stderr[-2500:]}")


def _remove(out: str) -> None:
    """What a block makes, it makes from the beginning, whatever was there."""
    if out.startswith("s3://"):
        import boto3

        bucket, _, prefix = out.removeprefix("s3://").partition("/")
        store = boto3.resource("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).Bucket(bucket)
        store.objects.filter(Prefix=f"{prefix}/").delete()
    elif Path(out).is_dir() and Path.cwd() in Path(out).resolve().parents:
        shutil.rmtree(out)


def options_exist(text: str) -> None:
    """Whether every `dali-dr` in shell text has a subcommand and options that exist; ValueError else."""
    from dali_dr.cli import make_parser

    subcommands = make_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    for line in re.sub(r"\\\n", " ", text).splitlines():
        words = shlex.split(line, comments=True)
        if "dali-dr" not in words:
            continue
        name, *rest = words[words.index("dali-dr") + 1 :]
        if name.startswith("-") or "…" in name:
            continue
        if name not in subcommands:
            raise ValueError(f"{line}: there is no subcommand {name}")
        parser = subcommands[name]
        if parser._subparsers and rest:
            parser, rest = parser._subparsers._group_actions[0].choices[rest[0]], rest[1:]
        known = {option for action in parser._actions for option in action.option_strings}
        for word in rest:
            if word.startswith("--") and word.split("=")[0] not in known:
                raise ValueError(f"{line}: {name} has no option {word}")


def _data(block: Block) -> None:
    """Parses it; what looks like an augmentation is one, and what looks like options of a command is them."""
    if block.language == "toml":
        tomllib.loads(block.text)
        return
    if block.language == "yaml":
        import yaml

        _options_of_yaml(yaml.safe_load(block.text))
        return
    found = json.loads(block.text)
    if isinstance(found, dict) and "crop" in found:
        from dali_dr import AugmentationSpec

        again = AugmentationSpec.from_json(found).to_json()
        if again != found:
            raise ValueError(f"read as an augmentation it is another: {again}")


def _options_of_yaml(found: Any) -> None:
    """Keys of `dali-dr reinforce --config`, or of a recipe of the trainer, where the first is one; ValueError else."""
    from dali_dr.cli import make_parser

    reinforce = make_parser()._subparsers._group_actions[0].choices["reinforce"]  # type: ignore[union-attr]
    sys.path.insert(0, str(Path("examples").resolve()))
    from train_timm_options import make_parser as trainer

    for parser in (reinforce, trainer(None)):
        known = {action.dest for action in parser._actions}
        names = [str(name).replace("-", "_") for name in found] if isinstance(found, dict) else []
        if names and names[0] in known:
            if unknown := [name for name in names if name not in known]:
                raise ValueError(f"{parser.prog} has no option {', '.join(unknown)}")
            return


def _assumed() -> dict[str, Any]:
    """Names that a page may take for granted: what any training script has before it comes to its loader."""
    import torch

    import dali_dr

    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 1000))
    sys.path[:1] = [""]
    return {
        "__name__": "__main__", "dali_dr": dali_dr, "torch": torch, "F": torch.nn.functional, "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "checkpoint": {}, "rank": 0,
    }  # fmt: skip
