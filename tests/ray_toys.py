"""Runs that need no images: what the driver of a Ray cluster does with workers that fail, in one process for all of them.

    python tests/ray_toys.py ADDRESS FOLDER

Prints a line of JSON for each: [name, error or null, shards that were made].
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import ray

from dali_dr.errors import DaliDrError, ShardError
from dali_dr.reinforce import ray_worker
from dali_dr.reinforce.ray_pool import Need, Patience, Pool
from dali_dr.shards.files import WriteError

SHARDS = 6


@dataclasses.dataclass(frozen=True)
class Toy:
    """Makes nothing, in a way of its own.

    Attributes:
      way: what happens at shard 3.
      folder: where it is counted how often.
    """

    way: str
    folder: str

    def run(self, rank: int) -> Toy:
        """As `Opening.run`."""
        if self.way == "teacher":
            raise DaliDrError("no teacher is called 'tiny'")
        return self

    def make(self, number: int, step: Callable[[int], object] | None = None, *, again: bool = False) -> str:
        """As `Making.make`."""
        assert step is not None
        if number == 3:
            times = len(list(Path(self.folder).glob(f"{self.way}-*")))
            assert again == (times > 0)
            (Path(self.folder) / f"{self.way}-{times}").touch()
            self._three(times, step)
        step(1)
        return f"{self.way} {number}"

    def _three(self, times: int, step: Callable[[int], object]) -> None:
        if self.way == "image":
            raise ShardError("sample a/b: is no image", key="a/b", reason="is no image", remedy="remove it")
        if self.way == "always":
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore lines")
        if self.way == "disk":
            raise WriteError("/data/x: cannot be written: no space left on device; free space there")
        if self.way == "twice" and times < 2:
            raise OSError(5, "Input/output error", "/data/t.tar")
        if self.way == "dies" or (self.way == "died" and times < 4):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.way == "unportable":
            raise Unportable(1, 2)
        if self.way == "interrupted":
            for _ in range(600):
                time.sleep(0.1)
                step(1)


class Unportable(DaliDrError):
    """An error that cannot be unpickled."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"worth {a + b}")


def play(way: str, folder: str) -> None:
    """Runs one, and prints what came of it; "interrupted" gets a Ctrl-C when all but the shard of a minute are made."""
    made: list[int] = []
    patience = Patience(deaths=3 if way == "dies" else 10, grace=0.5, look=0.2)
    pool = Pool(ray.put(Toy(way, folder)), Need(1), most=3, waits=True, patience=patience)
    error, begun, sent = None, time.monotonic(), False

    def turn() -> None:
        nonlocal begun, sent
        if way == "interrupted" and len(made) == SHARDS - 1 and not sent and pool.under_way:
            begun, sent = time.monotonic(), True
            os.kill(os.getpid(), signal.SIGINT)

    try:
        pool.work(range(SHARDS), lambda number, value, about: made.append(number), turn)
    except (DaliDrError, OSError, KeyboardInterrupt) as caught:
        error = f"{type(caught).__name__}: {caught}"
    print(json.dumps([way, error, sorted(made), round(time.monotonic() - begun, 1)]), flush=True)


def main() -> None:
    address, folder = sys.argv[1:]
    ray.init(address=address, log_to_driver=False)
    for way in ("twice", "image", "always", "disk", "teacher", "unportable", "died", "dies", "interrupted"):
        play(way, folder)
    versions = ray_worker.versions()
    pool = Pool(ray.put(Toy("fine", folder)), Need(1), most=1, waits=True)
    pool._versions = {**versions, "torch": "1.0", "other": "7"}  # as a driver of another installation
    try:
        pool.work([1], lambda *_: None, lambda: None)
    except DaliDrError as error:
        print(json.dumps(["versions", str(error), [], 0]), flush=True)
    assert pickle.loads(pickle.dumps(ray_worker.failure(ShardError("x", reason="y")))).final
    ray.shutdown()


if __name__ == "__main__":
    main()
