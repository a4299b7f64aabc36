"""This process among those that make one data set together: which shards are its own, which GPU, and its log."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from dali_dr.errors import DaliDrError, ShownFormatter
from dali_dr.shards import files

_TEXT: Final = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Part:
    """Every ``count``-th shard, from shard ``index`` on.

    So all parts come forward through the source alike, however it is ordered, and finish together.

    Attributes:
      index: from 0.
      count: parts in all.
      local: this process among those on its machine, which is also the number of its GPU.
    """

    index: int = 0
    count: int = 1
    local: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise DaliDrError(
                f"part {self.index + 1}/{self.count}: parts are counted from 1/{self.count}", kind="usage"
            )

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"

    @classmethod
    def of_text(cls, text: str) -> Part:
        """From "K/N", the K-th of N parts, counted from 1.

        Raises:
          DaliDrError: it is no such text.
        """
        match = _TEXT.fullmatch(text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise DaliDrError(
                f"part {text!r}: want K/N, the K-th of N parts, counted from 1: 1/4, 2/4, 3/4, 4/4", kind="usage"
            )
        return cls(int(match[1]) - 1, int(match[2]), cls.of_environment().local)

    @classmethod
    def of_environment(cls) -> Part:
        """As torchrun (RANK, WORLD_SIZE, LOCAL_RANK) or Slurm says, the tasks of its steps (srun: SLURM_PROCID,
        SLURM_NTASKS, SLURM_LOCALID), its job arrays (SLURM_ARRAY_TASK_ID, _COUNT, _MIN, _STEP), or both.

        Raises:
          DaliDrError: they contradict each other.
        """
        env = os.environ
        local = _number(env, 0, "LOCAL_RANK", "SLURM_LOCALID")
        if "RANK" in env:
            return cls(_number(env, 0, "RANK"), max(_number(env, 1, "WORLD_SIZE"), 1), local)
        index, count = 0, 1
        if "SLURM_ARRAY_TASK_ID" in env:
            first, step = _number(env, 0, "SLURM_ARRAY_TASK_MIN"), max(_number(env, 1, "SLURM_ARRAY_TASK_STEP"), 1)
            index = (_number(env, first, "SLURM_ARRAY_TASK_ID") - first) // step
            count = max(_number(env, 1, "SLURM_ARRAY_TASK_COUNT"), 1)
            if index >= count:
                raise DaliDrError(
                    f"SLURM_ARRAY_TASK_ID: the array's numbers have gaps ({count} tasks): say which part this is by --part"
                )
        # A batch script has a SLURM_PROCID, too, and what runs in it without srun is no task of several.
        if "SLURM_PROCID" in env and ("SLURM_STEP_ID" in env or "SLURM_JOB_ID" not in env):
            tasks = max(_number(env, 1, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), 1)
            index, count = index * tasks + _number(env, 0, "SLURM_PROCID"), count * tasks
        return cls(index, count, local)

    def numbers(self, shards: int) -> range:
        """Its shards of ``shards``."""
        return range(self.index, shards, self.count)

    def log_in(self, folder: Path) -> Path:
        """Its log file in the folder of the report."""
        return folder / f"rank-{self.index}.log"

    @contextlib.contextmanager
    def logging_to(self, folder: Path) -> Iterator[None]:
        """Appends what this package logs to `log_in` ``folder``, which is made if absent."""
        files.make_folder(folder)
        path = self.log_in(folder)
        try:
            handler = _LogFile(path, encoding="utf-8")
        except OSError as error:
            raise files.failure(path, error) from error
        handler.setFormatter(
            ShownFormatter(f"%(asctime)s {socket.gethostname()} {os.getpid()} %(levelname)s %(message)s")
        )
        logger = logging.getLogger("dali_dr")
        before = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        except BaseException as error:
            _log.error("stopped: %s: %s", type(error).__name__, error)
            raise
        finally:
            logger.setLevel(before)
            logger.removeHandler(handler)
            handler.close()


class _LogFile(logging.FileHandler):
    """A log that does without lines that the disk does not take: a run that cannot go on without it says so itself."""

    def handleError(self, record: logging.LogRecord) -> None:
        del record

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


def _number(env: Mapping[str, str], default: int, *names: str) -> int:
    """The first of the variables that is a number."""
    return next((int(env[name]) for name in names if env.get(name, "").isdecimal()), default)
