"""This process among those that reinforce one data set together: which it is, and what they settle among themselves."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from dali_dr.errors import ShownFormatter
from dali_dr.reinforce.claims import CLAIMS_NAME
from dali_dr.shards import files, tar
from dali_dr.shards import folder as shards_folder

_BATCH: Final = "batch_views"  # name of the setting in the manifest, and of the file where it is agreed before
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Worker:
    """This process among those that were started together: torchrun's, Slurm's or a single one.

    Attributes:
      rank: its number. It decides where in the source the worker begins, nothing else.
      world_size: how many.
      local_rank: its number on its machine, which is also that of its GPU.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @classmethod
    def of_environment(cls) -> Worker:
        """From RANK, WORLD_SIZE, LOCAL_RANK (torchrun) or SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID."""

        def number(names: Sequence[str], default: int) -> int:
            return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()), default)

        if "RANK" not in os.environ and "SLURM_PROCID" not in os.environ:
            return cls()
        return cls(
            number(("RANK", "SLURM_PROCID"), 0),
            max(number(("WORLD_SIZE", "SLURM_NTASKS"), 1), 1),
            number(("LOCAL_RANK", "SLURM_LOCALID"), 0),
        )

    @contextlib.contextmanager
    def logging_to(self, folder: Path) -> Iterator[None]:
        """Appends what this package logs to rank-R.log in ``folder``, which is made if absent."""
        files.make_folder(folder)
        path = folder / f"rank-{self.rank}.log"
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


def settle_batch(out: Path, measure: Callable[[], int]) -> int:
    """The views per teacher batch of the run in ``out``: what its first worker measured, for all and ever after.

    Args:
      out: folder of the data set, on a file system that all workers see; made if absent.
      measure: see `dali_dr.reinforce.teachers.fit_batch`; called by the first alone.
    """
    settings = shards_folder.settings_of(out) if out.exists() else None
    if settings is not None and _BATCH in settings["extra"]:
        return int(settings["extra"][_BATCH])
    path = out / CLAIMS_NAME / _BATCH
    files.make_folder(path.parent)
    if not path.exists():
        tar.create_atomically(path, str(measure()).encode())
    return int(path.read_text())
