"""A Ray cluster of several nodes on this machine, in a process of its own, whose nodes are killed and added on demand.

Nothing of it outlives the test: the process ends all when its standard input ends.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

START_SECONDS = 60  # in which a cluster must be there
OBJECTS = 80 << 20  # bytes of a node's object store, the least that Ray takes
# No network but this machine; lost nodes are noticed in a second or two.
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


class Nodes:
    """The cluster, from outside.

    Attributes:
      address: of it.
    """

    def __init__(self, cpus: list[float]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(cpus)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **ENVIRONMENT},
            start_new_session=True,  # a Ctrl-C is the test's
        )
        self.address: str = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise OSError(f"the cluster's process ended with status {self._process.wait()}")
        return json.loads(line)

    def _ask(self, *words: object) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def count(self) -> int:
        """Nodes that live, but the head."""
        return int(self._ask("count"))

    def add(self, cpus: float = 1) -> None:
        """One more."""
        self._ask("add", cpus)

    def kill(self, number: int) -> None:
        """Kills all processes of a node, by SIGKILL."""
        self._ask("kill", number)

    def close(self) -> None:
        """Ends all of it."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
            return
        os.killpg(self._process.pid, signal.SIGKILL)


@contextlib.contextmanager
def nodes(*cpus: float) -> Iterator[Nodes]:
    """A head without CPUs and a node for each of ``cpus``; the test is skipped where Ray does not start."""
    pytest.importorskip("ray")
    alarm = signal.signal(signal.SIGALRM, _too_slow)
    signal.alarm(START_SECONDS)
    try:
        cluster = Nodes(list(cpus))
    except OSError as error:
        pytest.skip(f"Ray does not start here: {error}")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, alarm)
    try:
        yield cluster
    finally:
        cluster.close()


def _too_slow(*_: object) -> None:
    raise OSError(f"no answer in {START_SECONDS} s")


def children(process: int) -> list[int]:
    """All processes below a process."""
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *children(child)]
    return found


def _serve(cpus: list[float]) -> None:
    """Obeys lines from standard input."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": OBJECTS, "include_dashboard": False},
    )

    def add(amount: float) -> Any:
        own: dict[str, Any] = {}
        if work := os.environ.get("DALI_DR_WORK"):  # as on machines that share no disk
            own["env_vars"] = {"DALI_DR_WORK": f"{work}-{next(numbers)}"}
        return cluster.add_node(num_cpus=amount, object_store_memory=OBJECTS, wait=False, **own)

    numbers = itertools.count()
    living = [add(amount) for amount in cpus]
    cluster.wait_for_nodes(START_SECONDS)
    print(json.dumps(cluster.address), flush=True)
    for line in sys.stdin:
        word, *rest = json.loads(line)
        answer: Any = None
        if word == "add":
            living.append(add(rest[0]))
        elif word == "kill":
            node = living.pop(rest[0] % len(living))
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
            with contextlib.suppress(Exception):
                cluster.worker_nodes.discard(node)
        elif word == "count":
            answer = len(living)
        print(json.dumps(answer), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    out = os.dup(1)
    os.dup2(2, 1)  # Ray prints, too
    sys.stdout = os.fdopen(out, "w")
    _serve(json.loads(sys.argv[1]))
