"""Reinforcing a whole source, shard by shard, by any number of workers in any order, who need not know of each other.

A shard is a function of its images and the settings alone (`dali_dr.reinforce.pieces`), and is there whole or not at all.
So nobody has to agree on who makes it: two workers at one shard cost time and change no byte. What is run, where and how
often is an engine's business (`dali_dr.reinforce.engine`); it begins, makes what is missing, and finishes:

    run.begin(); for number in run.missing(): run.make(number); run.finish()

A data set made so by any number of workers, killed however often, is byte for byte that of one, as long as the teacher
gives equal predictions on their machines (the same kind of device and number of threads).

In the folder, while the work goes on: `.work/` (`dali_dr.reinforce.kept`). In the end: `report/`, with summary.json,
confidence.png, skipped.jsonl and the workers' logs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from dali_dr.encoded import MAX_PIXELS
from dali_dr.errors import ShardError, shown
from dali_dr.progress import bar as progress_bar
from dali_dr.record.labels import RowOrder
from dali_dr.record.layout import Probabilities
from dali_dr.record.logprobs import DEFAULT_LOG_STEP
from dali_dr.reinforce.generate import Generation
from dali_dr.reinforce.journal import Journal, belongs_to
from dali_dr.reinforce.kept import REFUSED, Kept
from dali_dr.reinforce.making import Making
from dali_dr.reinforce.making import Step as Step
from dali_dr.reinforce.measure import Meter
from dali_dr.reinforce.part import Part
from dali_dr.reinforce.pieces import Pieces
from dali_dr.reinforce.report import read_summary, write_report
from dali_dr.reinforce.select import Select
from dali_dr.reinforce.settings import check_settings
from dali_dr.shards import files, outbox
from dali_dr.shards import folder as shards_folder
from dali_dr.shards.compare import described, fingerprint
from dali_dr.shards.facts import ShardFacts
from dali_dr.shards.manifest import MANIFEST_NAME, Manifest
from dali_dr.shards.one_shard import OnError, write_one_shard
from dali_dr.shards.report import REPORT_NAME, Announcer, Changed, Refused
from dali_dr.shards.tile_counts import TileCounts
from dali_dr.shards.write import SAMPLES_PER_SHARD
from dali_dr.sources.source import Source, TarSource, image_labels, sizes_of, staying_in_tars

_ENDING: Final = 900.0  # seconds that index, report and manifest of a billion images may take, and a slow file system
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Made:
    """What the making of one shard came to.

    Attributes:
      number: of the shard.
      images: of the source that it covers.
      refused: of them, left out.
      views: in it.
      seconds: that it took; 0 where it was there already.
      teacher_seconds: of them, in the teacher.
    """

    number: int
    images: int
    refused: int = 0
    views: int = 0
    seconds: float = 0.0
    teacher_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
      manifest: of the finished data set; None while shards are missing.
      ended: whether this process wrote index and manifest.
      summary: what report/summary.json says; empty if it is not there.
      missing: numbers of the shards that are missing.
    """

    manifest: Manifest | None
    ended: bool
    summary: dict[str, Any]
    missing: tuple[int, ...] = ()


class _Overtaken(Exception):
    """What was being read to finish the data set went meanwhile: another process has finished it, or its disk failed."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A source, what is made of it, and where.

    Attributes:
      source: the images; their keys must be distinct.
      out: folder of the data set, on a file system that all workers see, or this machine's outbox of it.
      generation: what is drawn and who predicts; its num_views are kept.
      num_classes: labels are below it, and so are the teacher's ids (unless it gives embeddings).
      class_names: one per class.
      samples_per_shard: S, images per shard: the piece of work that a worker takes.
      probabilities: see `dali_dr.record.encode.encode`.
      on_error: "skip" leaves images out that cannot be read, decoded or stored, and lists them in report/skipped.jsonl;
        "raise" stops at the first.
      pool: candidate views per image, of which num_views are kept; None: none are drawn in vain.
      select: how they are chosen, see `dali_dr.reinforce.select`.
      row_order: of the stored views, see `dali_dr.shards.write.write_shards`.
      sidecar: store records alone, beside the tars of a `TarSource`, which stay as they are.
      config: options of `dali-dr reinforce` that make this data set, by name, for the report; they decide nothing here.
      part: of the shards, that `work` makes.
      progress: show a progress bar (of the first part only).
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
    row_order: RowOrder = "confidence"
    sidecar: bool = False
    config: Mapping[str, Any] | None = None
    part: Part = dataclasses.field(default_factory=Part)
    progress: bool = True

    def __post_init__(self) -> None:
        # A run opens files there for days; the process may change its working directory meanwhile.
        object.__setattr__(self, "out", Path(self.out).absolute())

    def work(self) -> Outcome:
        """Makes the missing shards of this part, and finishes the data set if no other shard is missing.

        Raises:
          ShardError: an image cannot be decoded or stored (with on_error="raise"), or `out` belongs to another run.
        """
        if not self.begin():
            with self.part.logging_to(self.out / REPORT_NAME):
                self._make_part()
            outbox.share(self.part.log_in(self.out / REPORT_NAME))
        return self.finish()

    def begin(self) -> bool:
        """Checks that source and folder belong together, and joins the run there or begins it; each worker does it first.

        Returns:
          Whether the data set is finished: then `finish` is all that is left.

        Raises:
          ShardError: they do not, or with mixed views and on_error="raise" an image cannot be decoded.
        """
        outbox.refresh(self.out)
        self.check()
        self._check_source()
        return shards_folder.begin(self.out, self._draft, alone=False)

    def __len__(self) -> int:
        """How many shards the data set has, made or not."""
        return len(self._pieces)

    def images_of(self, number: int) -> int:
        """How many images of the source shard ``number`` covers."""
        return len(self._pieces.numbers(number))

    @property
    def settings(self) -> Manifest:
        """The manifest of the data set, as far as it is known before there is one."""
        return self._draft

    def missing(self) -> list[int]:
        """Numbers of the shards that nobody has made yet, rising."""
        outbox.refresh(self.out)
        if (self.out / MANIFEST_NAME).exists():
            return []
        done = {
            *shards_folder.finished_shards(self.out, self._draft),
            *shards_folder.empty_shards(self.out, self._draft),
        }
        return [number for number in range(len(self)) if number not in done]

    def make(self, number: int, step: Step | None = None) -> Made:
        """Makes shard ``number``, unless it is there. Several processes may do so at once.

        Args:
          number: 0 … len-1.
          step: see `Step`.

        Raises:
          ShardError: an image cannot be decoded or stored (with on_error="raise"), or the shard cannot be written.
        """
        path, images = self._path(number), self.images_of(number)
        if self._is_done(path):
            return Made(number, images)
        meter = Meter(self.generation.teacher)
        journal = Journal(self._kept, path.stem, self._belongs, self._pieces.batch, images)
        making = Making(self._pieces, number, self._draft, meter, journal, step)

        def confirm(facts: ShardFacts) -> None:
            self._kept.write(f"{path.stem}.json", json.dumps(meter.figures(facts, self.part)).encode())

        try:
            facts = write_one_shard(
                making.samples(),
                path,
                self._draft,
                on_error=self._pieces.on_error,
                max_pixels=self.generation.max_pixels,
                confirm=confirm,
                announce=self._announce,
            )
        except files.WriteError:
            if not (self.out / MANIFEST_NAME).exists():
                raise
            # The same shard was made elsewhere, too, and the run ended there, which cleared away what was being written.
            return Made(number, images)
        except (KeyboardInterrupt, SystemExit):
            journal.flush(meter.seconds, meter.teacher_seconds)
            raise
        journal.remove()
        stored, seconds, asked = len(facts.keys) if facts else 0, meter.seconds, meter.teacher_seconds
        _log.info("%s: %d images in %.1f s, %.1f s of them in the teacher", path.name, stored, seconds, asked)
        return Made(number, images, images - stored, sum(facts.views) if facts else 0, seconds, asked)

    def finish(self) -> Outcome:
        """Writes index, report and manifest, if no shard is missing; and removes what was for resuming.

        Whoever finds all shards there may do it, also again, and several at once.

        Raises:
          ShardError: two images have one key, or a file cannot be read or written.
        """
        with self._ending():
            return self._finish()

    def _finish(self) -> Outcome:
        ended = False
        if not (self.out / MANIFEST_NAME).exists():
            if missing := self.missing():
                return Outcome(None, False, {}, tuple(missing))
            try:
                shards_folder.finalise(self.out, self._draft, clean=False, report=self._report)
                ended = True
            except _Overtaken:
                if not (self.out / MANIFEST_NAME).exists():
                    return Outcome(None, False, {}, tuple(self.missing()))
            except ShardError:
                if not (self.out / MANIFEST_NAME).exists():
                    raise
        manifest = Manifest.load(self.out)
        if not read_summary(self.out):
            self._report_late(manifest)
        outcome = Outcome(manifest, ended, read_summary(self.out))
        shards_folder.begin(self.out, self._draft)  # which removes what was for resuming, and what killed workers left
        self._kept.remove()
        outbox.deliver(self.out)
        return outcome

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        """Waits while another process is finishing the data set, where the file system has locks, as long as that may take.

        Both would write the same; but one whose disk fails may take back a file that the other has just written.
        """
        begun = time.monotonic()
        with contextlib.ExitStack() as stack:
            while time.monotonic() - begun < _ENDING:
                try:
                    stack.callback(files.close, files.open_locked(self.out))
                    break
                except BlockingIOError:
                    time.sleep(0.1)
            yield

    def check(self) -> None:
        """ShardError for settings that do not go together, or not with the source."""
        check_settings(self.source, self.generation, select=self.select, row_order=self.row_order, pool=self.pool)

    def _check_source(self) -> None:
        """ShardError if the folder belongs to a run of the same images by name, of which some changed, or of others."""
        before = shards_folder.settings_of(self.out) if self.out.exists() else None
        recorded = (before or {}).get("extra", {}).get("source")
        if recorded and (other := described(recorded, self._source)):
            raise ShardError(
                f"{self.out}: belongs to a run with other settings: its source has changed: {other}; restore the source, "
                "or choose another folder",
                kind="usage",
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

    @functools.cached_property
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
            row_order=self.row_order,
        )

    def _path(self, number: int) -> Path:
        return shards_folder.shard_path(self.out, self._draft, number)

    def _is_done(self, path: Path) -> bool:
        """Whether a shard is there with all that the end wants to know of it: a worker whose disk failed may have taken
        back files of the same names as another's."""
        whole = shards_folder.is_done(path) and self._kept.has(f"{path.stem}.json")
        return whole or (self.out / MANIFEST_NAME).exists()

    @functools.cached_property
    def _kept(self) -> Kept:
        return Kept(self.out)

    @functools.cached_property
    def _belongs(self) -> str:
        return belongs_to(self._draft, self.generation.teacher.device.type)

    @functools.cached_property
    def _pieces(self) -> Pieces:
        """What is to be made. With mixed views and images that may be left out, of the images that decode alone.

        Mixed views name their partners by number in the data set, so an image left out later would shift all that
        follow.
        """
        pieces = self.all_pieces
        if self.generation.spec.mixing is None or self.on_error == "raise":
            return pieces
        if self._kept.read(REFUSED) is None:  # else another worker, or an earlier one, has decoded all
            refused = pieces.refused()
            for one in refused.values():
                self._announce(one)
            found = {number: dataclasses.asdict(one) for number, one in refused.items()}
            self._kept.create(REFUSED, json.dumps(found).encode())
        return pieces.without(self._refused())

    @property
    def all_pieces(self) -> Pieces:
        """The pieces of all images of the source, whether they may enter or not."""
        return Pieces(
            self.source,
            self.generation,
            self.samples_per_shard,
            self.on_error,
            self.pool,
            self.select,
            place=None if self._tars is None else self._tars.place,
            progress=self._shows,
        )

    def _refused(self) -> dict[int, Refused]:
        """What `_pieces` left out, by number in the source."""
        text = self._kept.read(REFUSED)
        found = {} if text is None else json.loads(text)
        keys = self.source.keys  # an earlier dali_dr left reasons alone
        return {
            int(number): Refused(keys[int(number)], one) if isinstance(one, str) else Refused(**one)
            for number, one in found.items()
        }

    @property
    def _shows(self) -> bool:
        return self.progress and self.part.index == 0

    def _make_part(self) -> None:
        mine = [number for number in self.missing() if number in self.part.numbers(len(self))]
        of_part = sum(map(self.images_of, self.part.numbers(len(self))))
        done = of_part - sum(map(self.images_of, mine))
        name = shown(self.out.name) + (f" {self.part}" if self.part.count > 1 else "")
        with progress_bar(total=of_part, initial=done, unit="img", disable=not self._shows, desc=name) as bar:
            for number in mine:
                begun = bar.n
                self.make(number, bar.update)
                bar.update(self.images_of(number) - (bar.n - begun))  # made elsewhere meanwhile

    def _report(self, manifest: Manifest, refused: Sequence[Refused], changed: Sequence[Changed]) -> None:
        figures = self._kept.figures(self._draft.name)
        if (self.out / MANIFEST_NAME).exists() or self.missing():  # now that all is read
            raise _Overtaken
        write_report(self.out, manifest, figures, [*refused, *self._refused().values()], changed, self._settled_config)

    def _report_late(self, manifest: Manifest) -> None:
        """The report of a run that an earlier dali_dr ended, which wrote it last, and did not come to that."""
        figures = self._kept.figures(self._draft.name)
        if not figures:
            return
        facts = [ShardFacts.saved(self.out / shard.name) for shard in manifest.shards]
        known = [f for f in facts if f is not None] + [*shards_folder.empty_shards(self.out, self._draft).values()]
        known.sort(key=lambda f: f.name)
        refused = [one for f in known for one in f.refused] + list(self._refused().values())
        changed = [one for f in known for one in f.changed]
        write_report(self.out, manifest, figures, refused, changed, self._settled_config)

    @property
    def _settled_config(self) -> dict[str, Any] | None:
        """The config, with the views per teacher batch, which were perhaps measured."""
        return None if self.config is None else {**self.config, "batch": self.generation.batch_views}


def reinforce(source: Source, out: Path, generation: Generation, *, num_classes: int, **options: Any) -> Manifest:
    """Reinforces a whole source into a data set, in this process; a run that was interrupted goes on where it stopped.

    Args:
      source, out, generation, num_classes, options: see `Run`.

    Returns:
      The manifest of the data set.

    Raises:
      ShardError: an image cannot be decoded or stored (with on_error="raise"), or `out` belongs to another run.
    """
    manifest = Run(source, out, generation, num_classes, **options).work().manifest
    if manifest is None:
        raise ShardError(f"{out}: shards of other parts are missing")
    return manifest
