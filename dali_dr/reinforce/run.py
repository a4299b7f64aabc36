"""Reinforcing a whole source: one worker or any number of them, on any machines that share the folder of the data set.

Shard k holds source images k*S .. (k+1)*S-1, and what is in it depends on them and the settings alone. Workers claim
shards (`dali_dr.reinforce.claims`), write them, and wait for each other at the end; whoever claims the end writes index,
manifest and report. So workers may come and go, and a data set made by any number of them, killed however often, is byte
for byte that of one worker, as long as the teacher gives equal predictions on their machines (the same kind of device and
number of threads).

In the folder, while the work goes on: `.claims/`, with a JSON of figures for each finished shard. In the end: `report/`,
with summary.json, confidence.png, skipped.jsonl and the workers' logs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import torch
import tqdm

from dali_dr.encoded import image_info
from dali_dr.errors import ShardError
from dali_dr.record.codec import DEFAULT_LOG_STEP, Probabilities
from dali_dr.reinforce.claims import DEFAULT_LEASE, Claim, ClaimLost, Claims, ClaimsGone
from dali_dr.reinforce.generate import Generation
from dali_dr.reinforce.report import CONFIDENCE_BINS, write_report
from dali_dr.reinforce.select import Select, select
from dali_dr.reinforce.sources import Source, WebDatasetTars
from dali_dr.reinforce.teachers import Teacher
from dali_dr.shards import folder as shards_folder
from dali_dr.shards import tar
from dali_dr.shards.facts import ShardFacts
from dali_dr.shards.manifest import MANIFEST_NAME, Manifest
from dali_dr.shards.one_shard import OnError, write_one_shard
from dali_dr.shards.sample import Place, Sample
from dali_dr.shards.write import SAMPLES_PER_SHARD

CLAIMS_NAME: Final = ".claims"
REPORT_NAME: Final = "report"
_END: Final = "end"  # the last piece of work: index, manifest, report
_BATCH: Final = "batch_views"
_REFUSED: Final = "refused.json"
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


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What `Run.work` came to.

    Attributes:
      manifest: of the finished data set.
      ended: whether this worker wrote index and manifest.
      summary: what report/summary.json says; empty if it is not there.
    """

    manifest: Manifest
    ended: bool
    summary: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """A source, what is made of it, and where.

    Attributes:
      source: the images; their keys must be distinct.
      out: folder of the data set, on a file system that all workers see.
      generation: what is drawn and who predicts; its num_views are kept.
      num_classes: labels are below it, and so are the teacher's ids (unless it gives embeddings).
      class_names: one per class.
      samples_per_shard: S, images per shard: the piece of work that a worker takes, and loses when it is killed.
      probabilities: see `dali_dr.record.codec.encode`.
      on_error: "skip" leaves images out that cannot be read, decoded or stored, and lists them in report/skipped.jsonl;
        "raise" stops at the first.
      pool: candidate views per image, of which num_views are kept; None: none are drawn in vain.
      select: how they are chosen, see `dali_dr.reinforce.select`.
      sidecar: store records alone, beside the tars of a `WebDatasetTars`, which stay as they are.
      lease: seconds without a sign of life after which a worker counts as dead.
      worker: this process.
      progress: show a progress bar (rank 0 only).
    """

    source: Source
    out: Path
    generation: Generation
    num_classes: int
    class_names: Sequence[str] | None = None
    samples_per_shard: int = SAMPLES_PER_SHARD
    probabilities: Probabilities = "log8"
    on_error: OnError = "raise"
    pool: int | None = None
    select: Select = "random"
    sidecar: bool = False
    lease: float = DEFAULT_LEASE
    worker: Worker = dataclasses.field(default_factory=Worker)
    progress: bool = True

    def work(self) -> Outcome:
        """Takes part in the run until the data set is finished.

        Raises:
          ShardError: an image cannot be decoded or stored (with on_error="raise"), or `out` belongs to another run.
        """
        self._check()
        draft = self._draft()
        finished = shards_folder.begin(self.out, draft, alone=False)
        folder = self.out / CLAIMS_NAME
        if finished and not folder.exists():
            return Outcome(Manifest.load(self.out), False, self._summary())
        with self._log_file():
            claims = Claims(folder, self.lease)
            with contextlib.suppress(ClaimsGone):
                if not finished:
                    self._without_bad_partners()._write_shards(draft, claims)
                return self._end(draft, claims)
        return Outcome(Manifest.load(self.out), False, self._summary())

    def _without_bad_partners(self) -> Run:
        """This run with the images that decode alone, if views are mixed and others are to be left out.

        Mixed views name their partners by number in the data set, so an image left out later would shift all that follow.
        """
        if self.generation.spec.mixing is None or self.on_error == "raise":
            return self
        path = self.out / CLAIMS_NAME / _REFUSED
        if not path.exists():  # else another worker, or an earlier one, has decoded all

            def problem(number: int) -> str | None:
                source = _Readable(self.source)
                try:
                    image_info(data := source.read(number), full=True)
                except ValueError:
                    return f"sample {self.source.keys[number]}: {source.problem(number, data)}"
                return None

            with ThreadPoolExecutor(self.generation.num_threads) as pool:
                problems = pool.map(problem, range(len(self.source)))
                refused = {number: why for number, why in enumerate(problems) if why is not None}
            for why in refused.values():
                _log.warning("left out: %s", why)
            tar.create_atomically(path, json.dumps(refused).encode())
        source = _Part(self.source, [n for n in range(len(self.source)) if n not in self._refused()])
        return dataclasses.replace(self, source=source, on_error="raise")

    def _refused(self) -> dict[int, str]:
        """What `_without_bad_partners` left out: reasons by number in the source."""
        with contextlib.suppress(OSError):
            found = json.loads((self.out / CLAIMS_NAME / _REFUSED).read_bytes())
            return {int(number): why for number, why in found.items()}
        return {}

    @property
    def shards(self) -> int:
        """How many shards there will be."""
        return -(-len(self.source) // self.samples_per_shard)

    def _check(self) -> None:
        keys, kept = self.source.keys, self.generation.num_views
        if len(set(keys)) < len(keys):
            seen: set[str] = set()
            twice = next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ShardError(f"two images have the key {twice}: rename one")
        if self.pool is not None and self.pool < kept:
            raise ShardError(f"a pool of {self.pool} candidates holds no {kept} views")
        mixing = self.generation.spec.mixing
        if self.pool is not None and mixing is not None and mixing.double:
            raise ShardError(
                "the views of a double-mix come in pairs, of which a pool cannot keep one: leave the pool out"
            )
        if self.sidecar and not isinstance(self.source, WebDatasetTars):
            raise ShardError("a sidecar data set goes with images in tars: give a pattern such as 'images/*.tar'")

    def _draft(self) -> Manifest:
        g = self.generation
        sha = hashlib.sha256()
        for key, label in zip(self.source.keys, self.source.labels, strict=True):
            sha.update(f"{key} {int(label)}\n".encode())
        extra: dict[str, Any] = {"views": g.num_views, "topk": g.topk, "batch_views": g.batch_views}
        extra["source"] = {"images": len(self.source), "digest": f"sha256:{sha.hexdigest()}"}
        if self.pool is not None:
            extra["selection"] = {"pool": self.pool, "select": self.select}
        return Manifest(
            num_classes=self.num_classes,
            class_names=None if self.class_names is None else tuple(self.class_names),
            samples_per_shard=self.samples_per_shard,
            spec=g.spec,
            teacher=g.teacher.facts(),
            probabilities=self.probabilities,
            log_step=DEFAULT_LOG_STEP if self.probabilities == "log8" else None,
            seed=g.seed,
            extra=extra,
            image_tars=cast(WebDatasetTars, self.source).image_tars(self.out) if self.sidecar else (),
        )

    def _write_shards(self, draft: Manifest, claims: Claims) -> None:
        """Claims and writes shards until none is missing."""
        first = self.worker.rank * self.shards // self.worker.world_size
        order = [(first + n) % self.shards for n in range(self.shards)]
        silent = not self.progress or self.worker.rank > 0
        with tqdm.tqdm(total=len(self.source), unit="img", disable=silent, desc=self.out.name) as bar:
            start = True
            while missing := self._missing(draft, order):
                # Others' shards count when they are done; what was there before this worker is not its rate.
                done = len(self.source) - sum(len(self._range(number)) for number in missing)
                bar.initial, bar.n, start = (done if start else bar.initial), done, False
                bar.refresh()
                pieces = {shards_folder.shard_path(self.out, draft, number).stem: number for number in missing}
                claim = claims.take(pieces)
                if claim is None:
                    time.sleep(min(1.0, self.lease / 20))
                    continue
                with claims.held(claim):
                    number = pieces[claim.piece]
                    if number in self._missing(draft, [number]):
                        try:
                            self._write_shard(number, draft, claim, bar)
                        except ClaimLost as lost:
                            _log.warning("%s", lost)
            bar.n = len(self.source)
            bar.refresh()

    def _write_shard(self, number: int, draft: Manifest, claim: Claim, bar: Any) -> None:
        path = shards_folder.shard_path(self.out, draft, number)
        begun = time.monotonic()
        clock = _Clock(self.generation.teacher)
        confidence = np.zeros(CONFIDENCE_BINS, np.int64)

        def samples() -> Iterator[Sample]:
            for sample in self._samples(self._range(number), clock):
                if sample.reinforcements is not None:
                    best = sample.reinforcements.soft_probs[:, 0]
                    confidence[:] += np.histogram(best, CONFIDENCE_BINS, (0, 1))[0]
                bar.update()
                yield sample

        def confirm(facts: ShardFacts) -> None:
            claim.check()
            if path.exists():
                raise ClaimLost(f"{path.name}: another worker has finished it")
            figures = {
                "rank": self.worker.rank,
                "host": socket.gethostname(),
                "device": str(self.generation.teacher.device),
                "images": len(facts.keys),
                "skipped": len(facts.skipped),
                "views": sum(facts.views),
                "seconds": time.monotonic() - begun,
                "teacher_seconds": clock.seconds,
                "confidence": confidence.tolist(),
            }
            tar.write_atomically(claims_figures(self.out, path), json.dumps(figures).encode())

        facts = write_one_shard(samples(), path, draft, on_error=self.on_error, topk=None, confirm=confirm)
        images = len(facts.keys) if facts else 0
        seconds = time.monotonic() - begun
        _log.info("%s: %d images in %.1f s, %.1f s of them in the teacher", path.name, images, seconds, clock.seconds)

    def _samples(self, numbers: range, clock: _Clock) -> Iterator[Sample]:
        """The samples of source images ``numbers``, all of them; those that cannot be stored say why."""
        g, source = self.generation, _Readable(self.source)
        wide = self.pool is not None and self.select in ("min-entropy", "max-entropy", "kmeans")
        drawn = dataclasses.replace(
            g,
            teacher=cast(Teacher, clock),
            num_views=self.pool or g.num_views,
            topk=g.teacher.num_outputs if wide else g.topk,
        )
        made = drawn.samples(cast(Source, source), numbers.start, numbers.stop)
        for number, sample in zip(numbers, made, strict=True):
            if sample.reinforcements is None:
                sample = dataclasses.replace(sample, problem=source.problem(number, sample.image_bytes))
            elif self.pool is not None:
                views = sample.reinforcements
                probs = views.soft_probs
                if wide:  # the clusters are of predictions, which are comparable by class, not by rank
                    probs = np.zeros_like(probs)
                    np.put_along_axis(probs, views.soft_ids.astype(np.int64), views.soft_probs, axis=1)
                views = views.take(select(probs, g.num_views, self.select, key=sample.key, seed=g.seed))
                sample = dataclasses.replace(sample, reinforcements=views.likeliest(g.topk))
            if self.sidecar:
                sample = dataclasses.replace(sample, place=cast(WebDatasetTars, self.source).place(number))
            yield sample

    def _end(self, draft: Manifest, claims: Claims) -> Outcome:
        """Finishes the data set, or waits for the worker that does."""
        while (claim := claims.take([_END])) is None:
            if (self.out / MANIFEST_NAME).exists():
                return Outcome(Manifest.load(self.out), False, self._summary())
            time.sleep(min(0.5, self.lease / 20))
        with claims.held(claim):
            missing = not (self.out / MANIFEST_NAME).exists()
            manifest = shards_folder.finalise(self.out, draft, clean=False) if missing else Manifest.load(self.out)
            figures = [json.loads(path.read_bytes()) for path in sorted(claims.folder.glob(f"{draft.name}-*.json"))]
            if figures:  # none: this worker came when all was done, and made the folder of claims anew
                facts = [ShardFacts.saved(self.out / shard.name) for shard in manifest.shards]
                known = [f for f in facts if f is not None] + [*shards_folder.empty_shards(self.out, draft).values()]
                skipped = [
                    {"key": key, "why": why}
                    for f in sorted(known, key=lambda f: f.name)
                    for key, why in zip(f.skipped, f.reasons, strict=True)
                ]
                skipped += [{"key": self.source.keys[number], "why": why} for number, why in self._refused().items()]
                write_report(self.out / REPORT_NAME, manifest, figures, skipped)
            shards_folder.begin(self.out, draft)  # removes what was for resuming
            shutil.rmtree(claims.folder, ignore_errors=True)
        return Outcome(manifest, missing, self._summary())

    def _missing(self, draft: Manifest, numbers: Sequence[int]) -> list[int]:
        done = {*shards_folder.finished_shards(self.out, draft), *shards_folder.empty_shards(self.out, draft)}
        return [number for number in numbers if number not in done]

    def _range(self, number: int) -> range:
        size = self.samples_per_shard
        return range(number * size, min((number + 1) * size, len(self.source)))

    def _summary(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            summary: dict[str, Any] = json.loads((self.out / REPORT_NAME / "summary.json").read_bytes())
            return summary
        return {}

    @contextlib.contextmanager
    def _log_file(self) -> Iterator[None]:
        """Appends what this package logs to report/rank-R.log."""
        (self.out / REPORT_NAME).mkdir(exist_ok=True)
        handler = logging.FileHandler(self.out / REPORT_NAME / f"rank-{self.worker.rank}.log", encoding="utf-8")
        handler.setFormatter(
            logging.Formatter(f"%(asctime)s {socket.gethostname()} {os.getpid()} %(levelname)s %(message)s")
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


def reinforce(source: Source, out: Path, generation: Generation, *, num_classes: int, **options: Any) -> Manifest:
    """Reinforces a whole source into a data set; a run that was interrupted goes on where it stopped.

    Args:
      source, out, generation, num_classes, options: see `Run`.

    Returns:
      The manifest of the data set.

    Raises:
      ShardError: an image cannot be decoded or stored (with on_error="raise"), or `out` belongs to another run.
    """
    return Run(source, out, generation, num_classes, **options).work().manifest


def settle_batch(out: Path, measure: Callable[[], int]) -> int:
    """The views per teacher batch of the run in ``out``: what its first worker measured, the same for all and ever after."""
    settings = shards_folder.settings_of(out) if out.exists() else None
    if settings is not None and _BATCH in settings["extra"]:
        return int(settings["extra"][_BATCH])
    path = out / CLAIMS_NAME / _BATCH
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        tar.create_atomically(path, str(measure()).encode())
    return int(path.read_text())


def claims_figures(out: Path, shard: Path) -> Path:
    """Where the figures of a finished shard are kept until the report is written."""
    return out / CLAIMS_NAME / f"{shard.stem}.json"


class _Clock:
    """A teacher that counts the seconds spent in it."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._teacher, name)

    def predict(self, views: torch.Tensor) -> torch.Tensor:
        begun = time.monotonic()
        probabilities = self._teacher.predict(views)
        if probabilities.is_cuda:
            torch.cuda.synchronize(probabilities.device)
        self.seconds += time.monotonic() - begun
        return probabilities


class _Part:
    """The images ``numbers`` of a source, as a source."""

    def __init__(self, source: Source, numbers: Sequence[int]) -> None:
        self._source, self._numbers = source, numbers
        self.keys: Sequence[str] = [source.keys[number] for number in numbers]
        self.labels: Sequence[int] = [int(source.labels[number]) for number in numbers]
        self.class_names: Sequence[str] = source.class_names

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, number: int) -> bytes:
        return self._source.read(self._numbers[number])

    def place(self, number: int) -> Place:
        """As of the source, for a sidecar data set."""
        return cast(WebDatasetTars, self._source).place(self._numbers[number])


class _Readable:
    """A source that gives no bytes where the image's file cannot be read, and remembers why."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._problems: dict[int, str] = {}
        self.keys: Sequence[str] = source.keys
        self.labels: Sequence[int] | npt.NDArray[np.int32] = source.labels

    def __len__(self) -> int:
        return len(self._source)

    def read(self, number: int) -> bytes:
        try:
            return self._source.read(number)
        except (OSError, ShardError) as error:
            self._problems[number] = f"cannot be read: {error}"
            return b""

    def problem(self, number: int, data: bytes) -> str:
        """Why image ``number`` has no views."""
        if number in self._problems:
            return self._problems[number]
        try:
            image_info(data, full=True)
        except ValueError as error:
            return str(error)
        return "it came without views"
