"""The workers of a run on a Ray cluster: who there is, what each makes, what becomes of shards whose worker is gone.

The driver holds numbers alone: of shards that are missing, of workers, of images that are done. Machines come and go: the
workers follow what the cluster has. A shard whose worker is gone is made by another, without end, since that says nothing of
the shard; a shard that fails is tried again a few times, on other workers where there are some; what would be the same
again (an image that may not enter) ends the run at once. All of it lies here and nothing with Ray, which neither restarts
actors nor repeats calls.
"""

from __future__ import annotations

import collections
import dataclasses
import heapq
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import ray
from ray import exceptions

from dali_dr.errors import DaliDrError
from dali_dr.reinforce.ray_worker import About, Failure, RayWorker, Reply, versions

_log = logging.getLogger(__name__)
_TURN: Final = 0.5  # seconds that the driver waits for something to happen before it looks at the progress
_ASKS: Final = 100  # of how far they are that all workers answer in a second, however many they are
_REMEDY: Final = "the same command goes on where it stopped"


@dataclasses.dataclass(frozen=True)
class Need:
    """What a worker takes of a machine.

    Attributes:
      cpus: which are also its threads.
      gpus: 0 for a teacher on the CPU.
    """

    cpus: float
    gpus: float = 0

    @property
    def threads(self) -> int:
        """Of a worker."""
        return max(1, int(self.cpus))

    def fits(self, resources: Mapping[str, float]) -> int:
        """Workers that a machine with these resources holds."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        return min(int(resources.get(name, 0) / amount + 1e-6) for name, amount in wanted.items() if amount)

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long, and how often.

    Attributes:
      failures: errors of one shard, or of workers that open the run with none that succeeded between, that end the run.
      deaths: processes that ended over one shard while their machine lived, which end the run: what a machine has too
        little memory for, or what a library crashes over, would go on for ever.
      grace: seconds after which a machine whose process ended counts as living; Ray needs some to find out.
      look: seconds between looks at the cluster.
      waiting: seconds without any worker after which that is told, again and again.
      stop: seconds that workers have to keep what they have, when the run is interrupted.
    """

    failures: int = 3
    deaths: int = 10
    grace: float = 60
    look: float = 2
    waiting: float = 60
    stop: float = 20


@dataclasses.dataclass
class Hand:
    """A worker, as the driver knows it.

    Attributes:
      rank: the smallest number that no other has.
      actor: Ray's handle.
      call: what it is doing: "about", "open", "make"; "" where it has nothing to do.
      answer: that is waited for.
      about: who it is; None until a machine was found for it.
      shard: that it makes.
      asked: the images of the shard that are done, on their way.
      done: the images of the shard that are done, when last heard of.
      since: by the driver's clock, when it had its machine.
    """

    rank: int
    actor: Any
    call: str
    answer: Any
    about: About | None = None
    shard: int | None = None
    asked: Any = None
    done: int = 0
    since: float = 0.0


class Pool:
    """Workers that make shards until none is missing."""

    def __init__(
        self,
        opening: Any,
        need: Need,
        *,
        most: int | None,
        waits: bool,
        patience: Patience | None = None,
    ) -> None:
        """
        Args:
          opening: Ray's reference to an `Opening`.
          need: of a worker.
          most: workers, all of which are asked for at once, so that a cluster that grows on demand grows; None: as many as
            the machines hold that are there.
          waits: whether the cluster may grow: then workers may wait for machines, with most=None one at a time, by which it
            learns of the demand.
          patience: see there.
        """
        self._opening, self._need = opening, need
        self._most, self._waits = most, waits
        self._patience = patience or Patience()
        self._hands: list[Hand] = []
        self._queue: list[int] = []  # a heap
        self._begun: set[int] = set()
        self._again: collections.deque[int] = collections.deque()  # that failed: others first
        self._failures: collections.Counter[int | None] = collections.Counter()  # by shard; None: of opening
        self._deaths: collections.Counter[int] = collections.Counter()
        self._graves: list[tuple[float, str, str, int]] = []  # (when, node, host, shard)
        self._nodes: dict[str, str] | None = None  # host by id
        self._seconds = 0.0  # of workers that are gone
        self._looked = self._asked = -1e9
        self._alone = time.monotonic()  # since when there has been no worker, or since that was told
        self._versions = versions()

    @property
    def alive(self) -> int:
        """Workers that have a machine."""
        return sum(hand.about is not None for hand in self._hands)

    @property
    def under_way(self) -> int:
        """Images of unfinished shards that are done."""
        return sum(hand.done for hand in self._hands)

    @property
    def worker_hours(self) -> float:
        """That the machines were held."""
        now = time.monotonic()
        return (self._seconds + sum(now - hand.since for hand in self._hands if hand.about)) / 3600

    def work(self, shards: Iterable[int], made: Callable[[int, Any, About], None], turn: Callable[[], None]) -> None:
        """Makes ``shards``.

        Args:
          shards: their numbers.
          made: called with the number of each that is done, what `Making.make` gave, and by whom.
          turn: called about twice a second.

        Raises:
          DaliDrError: one that ends the run.
        """
        self._queue = list(shards)
        heapq.heapify(self._queue)
        try:
            while self._left:
                self._look()
                self._hand_out()
                for hand, reply in self._answers():
                    self._settle(hand, reply, made)
                self._ask()
                turn()
        except KeyboardInterrupt:
            self._stop()
            raise
        finally:
            self.close()

    def close(self) -> None:
        """Ends all workers."""
        for hand in list(self._hands):
            self._dismiss(hand)

    @property
    def _left(self) -> int:
        return len(self._queue) + len(self._again) + sum(hand.shard is not None for hand in self._hands)

    def _look(self) -> None:
        """Looks at the cluster: who came, who is gone; and has as many workers as fit."""
        now = time.monotonic()
        if now < self._looked + self._patience.look:
            return
        self._looked = now
        nodes = [node for node in ray.nodes() if node["Alive"]]
        self._tell(nodes)
        self._mourn(now)
        fits = sum(self._need.fits(node["Resources"]) for node in nodes)
        if not fits and not self._waits:
            raise DaliDrError(
                f"a worker takes {self._need}, which this machine has not: see --cpus-per-worker", kind="usage"
            )
        most = fits + self._waits if self._most is None else self._most if self._waits else min(self._most, fits)
        wanted = min(most, self._left)
        free = [hand for hand in self._hands if hand.shard is None]
        free.sort(key=lambda hand: hand.about is not None)  # those that wait for a machine first
        for hand in free[: max(0, len(self._hands) - wanted)]:
            self._dismiss(hand)
        while len(self._hands) < wanted:
            self._engage()
        if self.alive:
            self._alone = now
        elif now > self._alone + self._patience.waiting:
            _log.warning("no worker has a machine; each takes %s: waiting for the cluster to have them", self._need)
            self._alone = now

    def _tell(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        """Logs which machines came and went."""
        now = {str(node["NodeID"]): str(node["NodeManagerHostname"]) for node in nodes}
        before = self._nodes
        self._nodes = now
        if before is None:
            return
        for node in now.keys() - before.keys():
            _log.warning("machine %s (%.8s) joined the cluster", now[node], node)
        for node in before.keys() - now.keys():
            shards = {hand.shard for hand in self._hands if hand.about and hand.about.node == node}
            shards |= {shard for _, place, _, shard in self._graves if place == node}
            _log.warning("machine %s (%.8s) was lost%s", before[node], node, _again(shards))

    def _mourn(self, now: float) -> None:
        """Counts the processes that ended though their machines live."""
        assert self._nodes is not None
        waiting = []
        for when, node, host, shard in self._graves:
            if node not in self._nodes:
                continue
            if now < when + self._patience.grace:
                waiting.append((when, node, host, shard))
            else:
                self._count_death(shard, host)
        self._graves = waiting

    def _count_death(self, shard: int, host: str) -> None:
        self._deaths[shard] += 1
        if self._deaths[shard] >= self._patience.deaths:
            raise DaliDrError(
                f"shard {shard}: {self._deaths[shard]} processes ended while they made it, the last on {host}, though their "
                "machines live: look there for want of memory (the system's log, ray logs), or lower --batch, --threads or "
                f"the workers of a machine (--cpus-per-worker); {_REMEDY}"
            )

    def _engage(self) -> None:
        ranks = {hand.rank for hand in self._hands}
        rank = next(number for number in range(len(ranks) + 1) if number not in ranks)
        actor = (
            ray.remote(concurrency_groups={"ask": 1})(RayWorker)
            .options(
                num_cpus=self._need.cpus,
                num_gpus=self._need.gpus,
                max_restarts=0,
                max_task_retries=0,
            )
            .remote(rank)
        )
        self._hands.append(Hand(rank, actor, "about", actor.about.remote()))

    def _dismiss(self, hand: Hand) -> None:
        """Ends a worker, whatever it does."""
        if hand.about is not None:
            self._seconds += time.monotonic() - hand.since
        self._hands.remove(hand)
        ray.kill(hand.actor)

    def _hand_out(self) -> None:
        for hand in self._hands:
            if hand.call == "" and (self._queue or self._again):
                hand.shard = heapq.heappop(self._queue) if self._queue else self._again.popleft()
                hand.done, hand.call = 0, "make"
                hand.answer = hand.actor.make.remote(hand.shard, hand.shard in self._begun)
                self._begun.add(hand.shard)

    def _answers(self) -> list[tuple[Hand, Any]]:
        """What has been answered, after `_TURN` seconds at most: what the call gave, or an error of Ray's."""
        waiting = {hand.answer: hand for hand in self._hands if hand.call}
        if not waiting:
            time.sleep(_TURN)
            return []
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=_TURN)
        ready = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)[0] if ready else []
        answers: list[tuple[Hand, Any]] = []
        for reference in ready:
            try:
                answers.append((waiting[reference], ray.get(reference)))
            except exceptions.RayError as error:
                answers.append((waiting[reference], error))
        return answers

    def _settle(self, hand: Hand, answer: Any, made: Callable[[int, Any, About], None]) -> None:
        """Does what an answer asks for."""
        if isinstance(answer, exceptions.RayTaskError) and hand.shard is not None:  # what the worker did not foresee
            failed, hand.shard = hand.shard, None
            self._failed(hand, failed, Failure(DaliDrError(_reason(answer)), sound=False))
        elif isinstance(answer, exceptions.RayError):
            self._lost(hand, answer)
        elif isinstance(answer, About):
            hand.about, hand.since = answer, time.monotonic()
            self._check(answer)
            hand.call, hand.answer = "open", hand.actor.open.remote(self._opening)
        else:
            assert isinstance(answer, Reply) and hand.about is not None
            for line in answer.warnings:
                _log.warning("%s: %s", hand.about.host, line)
            shard, hand.shard, hand.call, hand.done = hand.shard, None, "", 0
            if answer.failure is not None:
                self._failed(hand, shard, answer.failure)
            elif shard is None:
                self._failures[None] = 0
                _log.info("worker %d on %s, process %d, is at work", hand.rank, hand.about.host, hand.about.pid)
            else:
                made(shard, answer.made, hand.about)

    def _check(self, about: About) -> None:
        """DaliDrError if a worker would not make what others make."""
        names = sorted(about.versions.keys() | self._versions.keys())
        pairs = [(name, about.versions.get(name, "none"), self._versions.get(name, "none")) for name in names]
        if other := [f"{name} {there} (here {here})" for name, there, here in pairs if there != here]:
            raise DaliDrError(
                f"machine {about.host} has {', '.join(other)}: shards would not be those of one machine; install the same "
                "versions on all machines of the cluster"
            )

    def _failed(self, hand: Hand, shard: int | None, failure: Failure) -> None:
        """Has a shard made again, or ends the run."""
        if failure.final:
            raise failure.error
        assert hand.about is not None
        self._failures[shard] += 1
        times, most = self._failures[shard], self._patience.failures
        what = "the run could not be opened" if shard is None else f"shard {shard} could not be made"
        if times >= most:
            raise DaliDrError(
                f"{what}, {times} times, the last on {hand.about.host}: {failure.error}; once that is mended, {_REMEDY}"
            ) from failure.error
        _log.warning("%s on %s (%d of %d times): %s", what, hand.about.host, times, most, failure.error)
        if shard is not None:
            self._again.append(shard)
        if shard is None or not failure.sound:
            self._dismiss(hand)

    def _lost(self, hand: Hand, error: exceptions.RayError) -> None:
        """Has the shard of a worker that is gone made by another."""
        shard, about = hand.shard, hand.about
        hand.shard = None
        self._dismiss(hand)
        reason = _reason(error)
        if isinstance(error, (exceptions.RuntimeEnvSetupError, exceptions.AuthenticationError)):
            raise DaliDrError(f"Ray cannot start a worker: {reason}")
        if isinstance(error, exceptions.RayTaskError) or getattr(error, "actor_init_failed", False):
            self._failures[None] += 1
            if self._failures[None] >= self._patience.failures:
                raise DaliDrError(
                    f"Ray cannot start a worker: {reason}: all machines of the cluster need the same dali_dr as this one "
                    "(pip install 'dali_dr[ray]')"
                )
        where = f" on {about.host}" if about else ""
        _log.info("worker %d%s is gone: %s", hand.rank, where, reason)
        if shard is None:
            return
        heapq.heappush(self._queue, shard)
        assert about is not None
        if isinstance(error, exceptions.OutOfMemoryError):
            _log.warning("%s had no memory left for worker %d%s", about.host, hand.rank, _again([shard]))
            self._count_death(shard, about.host)
        else:
            self._graves.append((time.monotonic(), about.node, about.host, shard))

    def _ask(self) -> None:
        """Asks how far the shards are, and takes what was answered since."""
        now = time.monotonic()
        if now < self._asked + len(self._hands) / _ASKS:
            return
        self._asked = now
        asked = {hand.asked: hand for hand in self._hands if hand.asked is not None}
        if asked:
            for reference in ray.wait(list(asked), num_returns=len(asked), timeout=0)[0]:
                hand = asked[reference]
                hand.asked = None
                try:
                    done = ray.get(reference)
                except exceptions.RayError:
                    continue  # gone: its shard's answer says so
                if hand.call == "make":
                    hand.done = done
        for hand in self._hands:
            if hand.call == "make" and hand.asked is None:
                hand.asked = hand.actor.done.remote()

    def _stop(self) -> None:
        """Has the workers keep what they have."""
        busy = [hand for hand in self._hands if hand.call == "make"]
        for hand in busy:
            hand.actor.stop.remote()
        if busy:
            ray.wait([hand.answer for hand in busy], num_returns=len(busy), timeout=self._patience.stop)


def _again(shards: Iterable[int | None]) -> str:
    numbers = sorted(shard for shard in shards if shard is not None)
    return f"; others make shard {', '.join(map(str, numbers))}" if numbers else ""


def _reason(error: Exception) -> str:
    """The line of a text of Ray's that says why."""
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    if isinstance(error, exceptions.RayTaskError) or getattr(error, "actor_init_failed", False):
        return lines[-1] if lines else type(error).__name__
    return lines[0] if lines else type(error).__name__
