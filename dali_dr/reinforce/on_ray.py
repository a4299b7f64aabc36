"""The engine that works on a Ray cluster: a worker per GPU (or so many CPUs), as many as there are, while they are there.

This process, the driver, only says who makes which shard (`dali_dr.reinforce.ray_pool`), and finishes the data set. All may
die at any time. A lost worker's shard is made by another; after a lost driver the same command goes on, and what its
workers had finished is finished. The data set is that of one process on the same kind of device, byte for byte.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from dali_dr.errors import DaliDrError, shown
from dali_dr.progress import bar as progress_bar
from dali_dr.progress import show as show_progress
from dali_dr.reinforce.blueprint import Blueprint
from dali_dr.reinforce.part import Part
from dali_dr.reinforce.run import Made, Outcome, Run, Step
from dali_dr.shards import outbox
from dali_dr.shards.report import REPORT_NAME

if TYPE_CHECKING:
    from dali_dr.reinforce.ray_pool import Need, Patience, Pool
    from dali_dr.reinforce.ray_worker import About

_OLDEST: Final = (2, 50)  # of the versions of Ray
_ANSWER: Final = 10.0  # seconds in which a cluster's address must answer
_UNSEEN: Final = (
    120.0  # seconds after which a shard that a worker made must be seen here: NFS may keep a listing for 60
)
_TURNS: Final = 0.5  # seconds between states of the bar
_LONGEST: Final = 400  # characters of a text of Ray's
_OBJECTS: Final = 100 << 20  # bytes of a local Ray's object store, in which only the blueprint lies
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where the workers are, and how many.

    Attributes:
      address: of a cluster that is there: HOST:PORT, or "auto" on one of its machines; None: as RAY_ADDRESS says, else this
        machine alone.
      workers: all of which are asked for at once, so that a cluster that grows on demand grows to hold them; None: as many
        as the machines hold that are there, and one more that waits.
      cpus_per_worker: which are also its threads; None: on GPUs, a machine's CPUs by its GPUs; else all of a machine's.
      gpus_per_worker: None: 1, or 0 where the teacher works on CPUs.
      price_per_hour: of a worker, to show what it costs so far.
    """

    address: str | None = None
    workers: int | None = None
    cpus_per_worker: float | None = None
    gpus_per_worker: float | None = None
    price_per_hour: float | None = None


@dataclasses.dataclass(frozen=True)
class Opener:
    """Opens a blueprint's run for a worker.

    Attributes:
      blueprint: what is made.
      device: as `Blueprint.run` takes it.
      threads: of a worker.
      folder: that relative paths of the blueprint start from, on every machine.
    """

    blueprint: Blueprint
    device: str
    threads: int
    folder: str = dataclasses.field(default_factory=os.getcwd)

    def open(self, rank: int) -> Run:
        """The run, of which each worker has its own log."""
        with contextlib.suppress(OSError):  # where there is no such folder, only relative paths are missed
            os.chdir(self.folder)
        torch.set_num_threads(self.threads)
        given = {"num_threads": self.threads, **self.blueprint.generation}
        # Ray shows a worker its own GPUs alone, so that it always takes the first.
        return dataclasses.replace(self.blueprint, generation=given).run(self.device, part=Part(rank, rank + 1))

    def run(self, rank: int) -> Opened:
        """The run, joined, with its log and outbox open."""
        held = contextlib.ExitStack()
        held.enter_context(outbox.writing_to(self.blueprint.out, shared=True, progress=False))
        run = self.open(rank)
        run.begin()
        held.enter_context(run.part.logging_to(run.out / REPORT_NAME))
        return Opened(run, held)


class Opened:
    """A run that is open in a worker; its log and outbox are, too, as long as the worker lives."""

    def __init__(self, run: Run, held: contextlib.ExitStack) -> None:
        self._run, self._held = run, held

    def make(self, number: int, step: Step | None = None, *, again: bool = False) -> Made:
        """See `Making.make`."""
        if again:  # what the other has kept of it may be in the store
            outbox.refresh(self._run.out)
        try:
            return self._run.make(number, step)
        finally:
            outbox.share(self._run.part.log_in(self._run.out / REPORT_NAME))


def reinforce_on_ray(
    blueprint: Blueprint,
    cluster: Cluster | None = None,
    *,
    device: str = "auto",
    progress: bool = True,
    tell: Callable[[str], object] | None = None,
    patience: Patience | None = None,
) -> Outcome:
    """Reinforces on a Ray cluster; a run that was interrupted goes on where it stopped.

    Args:
      blueprint: what is made; source and out are seen by all machines by the same names.
      cluster: see there.
      device: of the teachers: "cpu"; "gpu"; or "auto", GPUs where the cluster has some.
      progress: show a progress bar over all workers.
      tell: called with what a user should know of source and classes.
      patience: with what fails.

    Raises:
      DaliDrError: Ray is missing, or cannot be reached; its machines have other versions, or no folder that all share; a
        shard fails time and again; or what `Run.make` raises and would raise again.
    """
    cluster = cluster or Cluster()
    _check_ray(cluster)
    with _connected(cluster) as grows:
        import ray
        from ray.exceptions import RayError

        from dali_dr.reinforce.ray_pool import Pool

        try:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            need = need_of(cluster, device, nodes)
            device = "gpu" if need.gpus else "cpu"
            blueprint = _settled(blueprint, device, need)
            with outbox.writing_to(blueprint.out, shared=True, progress=progress):
                run = _driver_run(blueprint, tell)
                if not run.begin():
                    opener = ray.put(Opener(blueprint, device, need.threads))
                    pool = Pool(opener, need, most=cluster.workers, waits=grows, patience=patience)
                    with _Driver(run, pool, cluster.price_per_hour, progress) as driver:
                        driver.work()
                return run.finish()
        except RayError as error:
            text = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise DaliDrError(f"the Ray cluster fails: {text}; the same command goes on where it stopped") from error


def need_of(cluster: Cluster, device: str, nodes: Sequence[Mapping[str, float]]) -> Need:
    """What a worker takes, as ``cluster`` says, else of the machines' resources what most of them can give.

    Raises:
      DaliDrError: nothing is said, and there is no machine to judge by.
    """
    from dali_dr.reinforce.ray_pool import Need

    has_gpus = any(node.get("GPU", 0) >= 1 for node in nodes)
    if device == "gpu" and not has_gpus and cluster.workers is None:
        raise DaliDrError(
            "--device gpu: no machine of the cluster has a GPU; one that grows on demand wants --workers N",
            kind="usage",
        )
    gpus = cluster.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if device == "gpu" or (device == "auto" and has_gpus) else 0.0
    cpus = cluster.cpus_per_worker
    if cpus is None:
        shares = collections.Counter(
            int(node.get("CPU", 0) * (gpus / node["GPU"] if gpus else 1))
            for node in nodes
            if node.get("CPU", 0) >= 1 and (not gpus or node.get("GPU", 0) >= gpus)
        )
        if not shares:
            raise DaliDrError(
                "the cluster has no machine yet to judge by: say what a worker takes by --cpus-per-worker", kind="usage"
            )
        # That of the most machines; of several, the largest, since a small machine among others is mostly the head.
        cpus = float(max(1, max(shares, key=lambda share: (shares[share], share))))
    return Need(cpus, gpus)


class _Driver:
    """What this process does while the workers work: the progress, and looks whether shards arrive."""

    def __init__(self, run: Run, pool: Pool, price: float | None, progress: bool) -> None:
        self._run, self._pool, self._price = run, pool, price
        self._done = 0
        self._unseen: dict[int, tuple[float, str]] = {}  # shards of workers' machines, the first of each
        self._hosts: set[str] = set()
        self._looked = self._shown = 0.0
        self._began = time.monotonic()
        self._workers = 0  # when last looked
        self._bar: Any = progress_bar(
            disable=not progress, unit="img", desc=shown(Path(outbox.shown_place(run.out)).name)
        )

    def __enter__(self) -> _Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def work(self) -> None:
        """Has the shards made that are missing."""
        run, total = self._run, sum(map(self._run.images_of, range(len(self._run))))
        missing = run.missing()
        self._done = total - sum(map(run.images_of, missing))
        self._bar.reset(total)
        self._bar.initial = self._done
        self._show(now=True)
        self._began = time.monotonic()
        while missing:
            self._pool.work(missing, self._made, self._turn)
            self._show(now=True)
            self._wait_for_unseen()
            missing = run.missing()  # one that was removed meanwhile
        _log.info(
            "%d images in %.0f s, %.2f worker hours", total, time.monotonic() - self._began, self._pool.worker_hours
        )

    def _made(self, number: int, made: Made, about: About) -> None:
        self._done += self._run.images_of(number)
        if about.host not in self._hosts:
            self._hosts.add(about.host)
            self._unseen[number] = (time.monotonic(), about.host)
            self._looked = 0.0

    def _turn(self) -> None:
        first, self._workers = not self._workers, self._pool.alive
        self._show(now=first and self._workers > 0)
        if self._unseen and time.monotonic() > self._looked + 5:
            self._looked = time.monotonic()
            self._see()

    def _show(self, now: bool = False) -> None:
        """Shows where the run is, ``now`` or if it is time."""
        clock, bar = time.monotonic(), self._bar
        if not now and clock < self._shown + _TURNS:
            return
        self._shown = clock
        bar.n = self._done + self._pool.under_way
        if bar.n == bar.initial:
            # The rate is that of work, not of loading. (A bar that was last printed before it began ends without a newline.)
            bar.start_t = bar.last_print_t = time.time()
        told: dict[str, object] = {"workers": self._workers}
        if self._price is not None:
            told["cost"] = f"{self._pool.worker_hours * self._price:,.2f}"
        bar.set_postfix(told, refresh=False)
        if now:
            show_progress(bar)
        else:
            bar.refresh()

    def _see(self) -> None:
        """Looks whether what workers made is here.

        Raises:
          DaliDrError: something is not, for so long that it will not come.
        """
        missing = set(self._run.missing())
        now = time.monotonic()
        self._unseen = {number: one for number, one in self._unseen.items() if number in missing}
        for number, (when, host) in self._unseen.items():
            if now > when + _UNSEEN:
                raise DaliDrError(
                    f"{outbox.shown_place(self._run.out)}: {host} has made shard {number}, which is not here: all machines "
                    "must see the same folder by this name; or give a store: --out s3://BUCKET/FOLDER"
                )

    def _wait_for_unseen(self) -> None:
        self._see()
        while self._unseen:
            time.sleep(1)
            self._see()


def _driver_run(blueprint: Blueprint, tell: Callable[[str], object] | None) -> Run:
    """The run as the driver has it: with the teacher on the CPU, where it is only asked who it is."""
    given = dict(blueprint.generation)
    decode = given.pop("decode_device", "cpu")
    told = dataclasses.replace(blueprint, generation=given)
    run = told.run("cpu", tell=tell)
    # Views are made by the workers alone; the manifest says what decodes there.
    object.__setattr__(run.generation, "decode_device", decode)
    return run


def _settled(blueprint: Blueprint, device: str, need: Need) -> Blueprint:
    """``blueprint`` with the views per teacher batch, which on GPUs one of the workers' machines measures."""
    if device == "cpu" or blueprint.generation.get("batch_views") is not None:
        return blueprint
    import ray

    def settle(opener: Opener) -> int:
        return opener.open(0).generation.batch_views

    task = ray.remote(settle).options(num_cpus=need.cpus, num_gpus=need.gpus, max_retries=-1)
    try:
        batch = ray.get(task.remote(Opener(blueprint, device, need.threads)))
    except ray.exceptions.RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise (
            cause if isinstance(cause, DaliDrError) else DaliDrError(f"the run could not be opened: {cause}")
        ) from None
    return dataclasses.replace(blueprint, generation={**blueprint.generation, "batch_views": batch})


def _check_ray(cluster: Cluster) -> None:
    """DaliDrError if Ray is missing or old, or the address is none that this engine takes."""
    try:
        version = metadata.version("ray")
    except metadata.PackageNotFoundError:
        raise DaliDrError("--engine ray: Ray is not installed: pip install 'dali_dr[ray]'") from None
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        raise DaliDrError(
            f"Ray is {version}, want {'.'.join(map(str, _OLDEST))} or later: pip install -U 'dali_dr[ray]'"
        )
    if (cluster.address or os.environ.get("RAY_ADDRESS", "")).startswith("ray://"):
        raise DaliDrError(
            "a ray:// address connects a process outside of the cluster, which would have to see the data set's folder and "
            "live as long as the run: start the command on a machine of the cluster with --address auto, or by "
            "ray job submit",
            kind="usage",
        )


@contextlib.contextmanager
def _connected(cluster: Cluster) -> Iterator[bool]:
    """Connected to the cluster; gives whether it may grow. Where the caller has initialised Ray, that is used and left."""
    import ray

    if ray.is_initialized():
        yield True
        return
    address = cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet |= {"include_dashboard": False, "object_store_memory": _OBJECTS}
    elif address != "auto":
        _knock(address)
    try:
        ray.init(address=address, **quiet)
    except Exception as error:  # ConnectionError, RuntimeError, ValueError, errors of Ray's
        text = (
            " ".join(str(error).split())[:_LONGEST] or type(error).__name__
        )  # versions that differ are told in a table
        remedy = "start one by ray start --head, or leave --address out for this machine alone"
        raise DaliDrError(f"no Ray cluster at {address}: {text}; {remedy}") from error
    with contextlib.suppress(AttributeError):
        # Ray prints the last lines of a lost machine's log to stdout; which was lost, and what that means, the pool tells.
        ray._private.worker._worker_logs_enabled = False
    try:
        yield address != "local"
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """DaliDrError if nobody listens there, which Ray takes minutes to find out."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        raise DaliDrError(
            f"--address {address}: want HOST:PORT of a Ray cluster (ray start prints it), or auto", kind="usage"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER).close()
    except (OSError, OverflowError) as error:
        raise DaliDrError(
            f"no Ray cluster at {address}: {error}; look at the address (ray status), or leave --address out for this "
            "machine alone"
        ) from error
