"""Reinforcing a whole source: one worker or any number of them, on any machines that share the folder of the data set.

What is in a shard depends on its images and the settings alone (`dali_dr.reinforce.pieces`). Workers claim shards
(`dali_dr.reinforce.claims`), write them, and wait for each other at the end; whoever claims the end writes index,
manifest and report. So workers may come and go, and a data set made by any number of them, killed however often, is
byte for byte that of one worker, as long as the teacher gives equal predictions on their machines (the same kind of
device and number of threads).

In the folder, while the work goes on: `.claims/`, with a JSON of figures for each finished shard. In the end:
`report/`, with summary.json, confidence.png, skipped.jsonl and the workers' logs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import tqdm

from dali_dr.encoded import MAX_PIXELS
from dali_dr.errors import ShardError, shown
from dali_dr.record.layout import Probabilities
from dali_dr.record.logprobs import DEFAULT_LOG_STEP
from dali_dr.reinforce.claims import CLAIMS_NAME, DEFAULT_LEASE, Claim, ClaimLost, Claims, ClaimsGone
from dali_dr.reinforce.generate import Generation
from dali_dr.reinforce.measure import Meter
from dali_dr.reinforce.pieces import Pieces
from dali_dr.reinforce.report import read_summary, write_report
from dali_dr.reinforce.select import Select
from dali_dr.reinforce.worker import Worker
from dali_dr.shards import files, tar
from dali_dr.shards import folder as shards_folder
from dali_dr.shards.compare import described, fingerprint
from dali_dr.shards.facts import ShardFacts
from dali_dr.shards.manifest import MANIFEST_NAME, Manifest
from dali_dr.shards.one_shard import OnError, write_one_shard
from dali_dr.shards.report import REPORT_NAME, Announcer, Refused
from dali_dr.shards.sample import Sample
from dali_dr.shards.tile_counts import TileCounts
from dali_dr.shards.write import SAMPLES_PER_SHARD
from dali_dr.sources.source import Source, TarSource, image_labels, sizes_of, staying_in_tars

_END: Final = "end"  # the last piece of work: index, manifest, report
_REFUSED: Final = "refused.json"
_log = logging.getLogger(__name__)


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
      probabilities: see `dali_dr.record.encode.encode`.
      on_error: "skip" leaves images out that cannot be read, decoded or stored, and lists them in report/skipped.jsonl;
        "raise" stops at the first.
      pool: candidate views per image, of which num_views are kept; None: none are drawn in vain.
      select: how they are chosen, see `dali_dr.reinforce.select`.
      sidecar: store records alone, beside the tars of a `TarSource`, which stay as they are.
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
    probabilities: Probabilities = "root8"
    on_error: OnError = "raise"
    pool: int | None = None
    select: Select = "random"
    sidecar: bool = False
    lease: float = DEFAULT_LEASE
    worker: Worker = dataclasses.field(default_factory=Worker)
    progress: bool = True

    def __post_init__(self) -> None:
        # A run opens files there for days; the process may change its working directory meanwhile.
        object.__setattr__(self, "out", Path(self.out).absolute())

    def work(self) -> Outcome:
        """Takes part in the run until the data set is finished.

        Raises:
          ShardError: an image cannot be decoded or stored (with on_error="raise"), or `out` belongs to another run.
        """
        self._check()
        self._check_source()
        draft = self._draft()
        finished = shards_folder.begin(self.out, draft, alone=False)
        folder = self.out / CLAIMS_NAME
        if finished and not folder.exists():
            return self._outcome(draft)
        with self.worker.logging_to(self.out / REPORT_NAME):
            claims = Claims(folder, self.lease)
            with contextlib.suppress(ClaimsGone):
                if not finished:
                    self._write_shards(self._pieces(), draft, claims)
                return self._end(draft, claims)
        return self._outcome(draft)

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

    def _check_source(self) -> None:
        """ShardError if the folder belongs to a run of the same images by name, of which some changed, or of others."""
        before = shards_folder.settings_of(self.out) if self.out.exists() else None
        recorded = (before or {}).get("extra", {}).get("source")
        if recorded and (other := described(recorded, self._source)):
            raise ShardError(
                f"{self.out}: belongs to a run with other settings: its source has changed: {other}; restore the source, "
                "or choose another folder"
            )

    @functools.cached_property
    def _source(self) -> dict[str, Any]:
        """What the manifest says of the source. A run that an earlier dali_dr began has no sizes of images in it."""
        before = shards_folder.settings_of(self.out) if self.out.exists() else None
        recorded = (before or {}).get("extra", {}).get("source", {"sizes": ""})
        return fingerprint(self.source.keys, self.source.labels, sizes_of(self.source) if "sizes" in recorded else None)

    @functools.cached_property
    def _tars(self) -> TarSource | None:
        """The source, where its images stay in their tars."""
        return staying_in_tars(self.source) if self.sidecar else None

    @functools.cached_property
    def _announce(self) -> Announcer:
        return Announcer()

    def _draft(self) -> Manifest:
        g = self.generation
        extra: dict[str, Any] = {"views": g.num_views, "topk": g.topk, "batch_views": g.batch_views}
        extra["source"] = self._source
        if g.max_pixels != MAX_PIXELS:  # it decides which images are left out
            extra["max_pixels"] = g.max_pixels
        if g.convert:
            extra["convert"] = True
        if self.pool is not None:
            extra["selection"] = {"pool": self.pool, "select": self.select}
        if self._tars is not None:
            extra |= image_labels(self._tars)
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
            image_tars=() if self._tars is None else self._tars.image_tars(self.out),
            tiles=None if g.keep_bytes or self._tars is not None else TileCounts(),
            decoder=g.decoder,
        )

    def _pieces(self) -> Pieces:
        """What is to be made. With mixed views and images that may be left out, of the images that decode alone.

        Mixed views name their partners by number in the data set, so an image left out later would shift all that
        follow.
        """
        pieces = Pieces(
            self.source,
            self.generation,
            self.samples_per_shard,
            self.on_error,
            self.pool,
            self.select,
            place=None if self._tars is None else self._tars.place,
            progress=self.progress and self.worker.rank == 0,
        )
        if self.generation.spec.mixing is None or self.on_error == "raise":
            return pieces
        path = self.out / CLAIMS_NAME / _REFUSED
        if not path.exists():  # else another worker, or an earlier one, has decoded all
            refused = pieces.refused()
            for one in refused.values():
                self._announce(one)
            found = {number: dataclasses.asdict(one) for number, one in refused.items()}
            tar.create_atomically(path, json.dumps(found).encode())
        return pieces.without(self._refused())

    def _refused(self) -> dict[int, Refused]:
        """What `_pieces` left out, by number in the source."""
        with contextlib.suppress(OSError):
            found = json.loads((self.out / CLAIMS_NAME / _REFUSED).read_bytes())
            keys = self.source.keys  # an earlier dali_dr left reasons alone
            return {
                int(number): Refused(keys[int(number)], one) if isinstance(one, str) else Refused(**one)
                for number, one in found.items()
            }
        return {}

    def _write_shards(self, pieces: Pieces, draft: Manifest, claims: Claims) -> None:
        """Claims and writes shards until none is missing."""
        images = len(pieces.images)
        first = self.worker.rank * len(pieces) // self.worker.world_size
        order = [(first + n) % len(pieces) for n in range(len(pieces))]
        silent = not self.progress or self.worker.rank > 0
        with tqdm.tqdm(total=images, unit="img", disable=silent, desc=shown(self.out.name)) as bar:
            start = True
            while missing := self._missing(draft, order):
                # Others' shards count when they are done; what was there before this worker is not its rate.
                done = images - sum(len(pieces.numbers(number)) for number in missing)
                bar.initial, bar.n, start = (done if start else bar.initial), done, False
                bar.refresh()
                names = {shards_folder.shard_path(self.out, draft, number).stem: number for number in missing}
                claim = claims.take(names)
                if claim is None:
                    time.sleep(min(1.0, self.lease / 20))
                    continue
                with claims.held(claim):
                    number = names[claim.piece]
                    if number in self._missing(draft, [number]):
                        try:
                            self._write_shard(pieces, number, draft, claim, bar)
                        except ClaimLost as lost:
                            _log.warning("%s", lost)
            bar.n = images
            bar.refresh()

    def _write_shard(self, pieces: Pieces, number: int, draft: Manifest, claim: Claim, bar: Any) -> None:
        path = shards_folder.shard_path(self.out, draft, number)
        meter = Meter(self.generation.teacher)

        def samples() -> Iterator[Sample]:
            for sample in pieces.samples(number, meter.teacher):
                meter.see(sample)
                bar.update()
                yield sample

        def confirm(facts: ShardFacts) -> None:
            claim.check()
            if path.exists():
                raise ClaimLost(f"{path.name}: another worker has finished it")
            figures = meter.figures(facts, self.worker)
            tar.write_atomically(self.out / CLAIMS_NAME / f"{path.stem}.json", json.dumps(figures).encode())

        limit = self.generation.max_pixels
        try:
            facts = write_one_shard(
                samples(),
                path,
                draft,
                on_error=pieces.on_error,
                max_pixels=limit,
                confirm=confirm,
                announce=self._announce,
            )
        except files.WriteError as error:  # this worker was stopped, and what it was writing cleared away meanwhile
            if (self.out / MANIFEST_NAME).exists():
                raise ClaimLost(f"{path.name}: other workers have ended the run") from error
            raise
        images, seconds = len(facts.keys) if facts else 0, meter.seconds
        asked = meter.teacher.seconds
        _log.info("%s: %d images in %.1f s, %.1f s of them in the teacher", path.name, images, seconds, asked)

    def _end(self, draft: Manifest, claims: Claims) -> Outcome:
        """Finishes the data set, or waits for the worker that does."""
        while (claim := claims.take([_END])) is None:  # also once there is a manifest: that worker may have died since
            time.sleep(min(0.5, self.lease / 20))
        with claims.held(claim):
            missing = not (self.out / MANIFEST_NAME).exists()
            manifest = (
                shards_folder.finalise(self.out, draft, clean=False, lists=False)
                if missing
                else Manifest.load(self.out)
            )
            figures = [json.loads(path.read_bytes()) for path in sorted(claims.folder.glob(f"{draft.name}-*.json"))]
            # No figures: this worker came when all was done, and made the folder of claims anew. A summary: another was
            # killed while it removed the figures, of which some are left.
            if figures and not read_summary(self.out):
                self._report(manifest, figures, draft)
            self._tidy(draft)
            claims.remove()
        files.remove_folder(claims.folder)  # once no file of it is open, which NFS would keep under another name
        return Outcome(manifest, missing, read_summary(self.out))

    def _report(self, manifest: Manifest, figures: Sequence[dict[str, Any]], draft: Manifest) -> None:
        facts = [ShardFacts.saved(self.out / shard.name) for shard in manifest.shards]
        known = [f for f in facts if f is not None] + [*shards_folder.empty_shards(self.out, draft).values()]
        known.sort(key=lambda f: f.name)
        refused = [one for f in known for one in f.refused] + list(self._refused().values())
        write_report(self.out, manifest, figures, refused, [one for f in known for one in f.changed])

    def _missing(self, draft: Manifest, numbers: Sequence[int]) -> list[int]:
        done = {*shards_folder.finished_shards(self.out, draft), *shards_folder.empty_shards(self.out, draft)}
        return [number for number in numbers if number not in done]

    def _tidy(self, draft: Manifest) -> None:
        """Removes what was for resuming, and what workers that were stopped have left."""
        shards_folder.begin(self.out, draft)

    def _outcome(self, draft: Manifest) -> Outcome:
        """What came of it where another worker, or an earlier one, wrote index and manifest, and nobody is at work now."""
        self._tidy(draft)
        return Outcome(Manifest.load(self.out), False, read_summary(self.out))


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
