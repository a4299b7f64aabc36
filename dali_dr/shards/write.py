"""write_shards: samples to tar shards, so that a kill at any instant loses at most the shard in work.

A generator with several processes calls `folder.begin`, then `one_shard.write_one_shard` by number in each process,
then `folder.finalise` (`dali_dr.reinforce.run` does).
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from dali_dr.augment.spec import AugmentationSpec
from dali_dr.encoded import MAX_PIXELS
from dali_dr.errors import ShardError, shown
from dali_dr.images.judge import Judge
from dali_dr.progress import bar as progress_bar
from dali_dr.record.label_map import LabelMaps
from dali_dr.record.labels import ROW_ORDERS, RowOrder
from dali_dr.record.layout import Probabilities
from dali_dr.record.logprobs import DEFAULT_LOG_STEP
from dali_dr.shards import outbox
from dali_dr.shards.compare import Comparison, Held, Identity, Inventory, compare_inventory, described
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.facts import ImageTars, ShardFacts
from dali_dr.shards.folder import begin, finalise, finished_shards, lock, remedy, shard_path, source_of
from dali_dr.shards.index_layout import MAX_LABEL
from dali_dr.shards.judged import judged_ahead
from dali_dr.shards.keys import KeyTable
from dali_dr.shards.manifest import Decoder, ImageTar, Manifest
from dali_dr.shards.one_shard import OnError, write_one_shard
from dali_dr.shards.report import Announcer, Refused
from dali_dr.shards.sample import Sample, Samples
from dali_dr.shards.tile_counts import TileCounts
from dali_dr.store.url import as_place

# 1000 ImageNet photos with 400 views each are about 115 MB: large enough for sequential reads (webdataset advises
# 100 MB to 1 GB), small enough that a kill costs a minute or two of one GPU's teacher.
SAMPLES_PER_SHARD: Final = 1000


def write_shards(
    samples: Samples,
    out: str | Path,
    *,
    spec: AugmentationSpec | None,
    num_classes: int,
    class_names: Sequence[str] | None = None,
    teacher: Mapping[str, Any] | None = None,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    name: str = "shard",
    probabilities: Probabilities = "root8",
    log_step: float = DEFAULT_LOG_STEP,
    seed: int | None = None,
    extra: Mapping[str, Any] | None = None,
    image_tars: Sequence[ImageTar] = (),
    resume: bool = True,
    force: bool = False,
    inventory: Inventory | None = None,
    on_error: OnError = "raise",
    check_images: bool = True,
    keep_bytes: bool = False,
    decoder: Decoder | None = None,
    label_maps: LabelMaps | None = None,
    row_order: RowOrder = "confidence",
    max_pixels: int = MAX_PIXELS,
    total: int | None = None,
    progress: bool = True,
) -> Manifest:
    """Write ``samples`` as a data set into the folder ``out``.

        paths = sorted(Path("photos").rglob("*.jpg"))
        samples = [dali_dr.Sample(path.stem, path.read_bytes(), label=0) for path in paths]
        dali_dr.write_shards(samples, "packed", spec=None, num_classes=1)

    JPEGs are stored tiled: transcoded without loss, to the same coefficients and so the same pixels, with restart
    intervals that let training decode no more of an image than it shows (docs/tiles.md).

    A run that was killed is continued by the same call, to the byte-for-byte result of an uninterrupted run. What is
    there, finished or not, is kept once key, label and CRC-32C of each image were found to be those of ``samples`` (views
    are not compared); else nothing is changed, and the error says what differs. Views are stored in ``row_order``.
    Equal samples and settings give equal files with the same library versions. What was left out or changed is listed
    in ``out``/report.

    Args:
      samples: an iterable, or a function START -> iterable without the first START samples (refused ones count).
      out: a folder, made if absent, or the URL of one in a store (docs/stores.md); may hold an unfinished run of the same
        settings.
      spec: what the views were drawn from; None only if no sample has reinforcements.
      num_classes: labels and teacher ids are below it.

    What the manifest says:
      class_names: one per class.
      teacher: JSON-able: names [str], weights_digest, input_size, normalisation {mean, std}, and what else is known.
      seed: of the drawn views; kept in the manifest.
      extra: JSON-able, kept in the manifest.
      decoder: by which the JPEGs were decoded that the teacher saw; None: not known.
      name: shards are called NAME-000000.tar and on.

    How it is stored:
      samples_per_shard: of every shard but the last.
      probabilities, log_step: encoding of the teacher's probabilities, see `dali_dr.record.encode.encode`.
      row_order: of the views of every image, which curricula go by: "confidence", falling, or "entropy", rising
        (`dali_dr.record.labels.order_rows`). Samples that bring a ready record must have it in that order.
      keep_bytes: store every image as it is given. So does a sidecar data set, which does not store images.
      image_tars: the tars that hold the images (`Sample.place`): a sidecar data set, whose shards are records alone.
      label_maps: what the samples' records are, where they are label maps; spec is None then.

    Images:
      on_error: "skip" leaves refused samples out and logs each; "raise" stops at the first. Finished shards stay.
      check_images: refuse what training would not decode to what Pillow shows; samples are taken some dozens ahead for
        it. False: look at headers alone, which lets images in that end training.
      max_pixels: that an image may have. The loader has a limit of its own.

    Going on:
      resume: False refuses a folder that already holds shards.
      force: first remove the plain data set, finished or not, in ``out``; one with reinforcements is refused.
      inventory: to compare with where ``samples`` is a function; without it only ``total`` is compared.
      total: number of samples, where ``samples`` has no length.
      progress: show a progress bar.

    Returns:
      The manifest that was written to ``out``/dataset.json.

    Raises:
      ShardError: naming the key of a sample that cannot be stored, or saying why the folder cannot be used.
    """
    draft = Manifest(
        num_classes=num_classes,
        class_names=None if class_names is None else tuple(class_names),
        name=name,
        samples_per_shard=samples_per_shard,
        spec=spec,
        teacher=teacher,
        probabilities=None if spec is None else probabilities,
        log_step=log_step if spec is not None and probabilities == "log8" else None,
        seed=seed,
        extra=extra or {},
        image_tars=tuple(image_tars),
        tiles=None if keep_bytes or image_tars else TileCounts(),
        decoder=decoder,
        label_maps=label_maps,
        row_order=row_order,
    )
    with outbox.writing_to(as_place(out), progress=progress) as folder:
        return write_draft(
            samples,
            folder,
            draft,
            handling=Handling(check_images, draft.tiles is not None, max_pixels),
            resume=resume,
            force=force,
            inventory=inventory,
            on_error=on_error,
            total=total,
            progress=progress,
        )


@dataclass(frozen=True, slots=True)
class Handling:
    """What is done with samples before they are written.

    Attributes:
      check: whether images are judged; False for those that were.
      tile: whether they are tiled in parallel; False for those that were, and where they are kept as they are.
      max_pixels: that an image may have.
    """

    check: bool = True
    tile: bool = True
    max_pixels: int = MAX_PIXELS


def write_draft(
    samples: Samples,
    out: Path,
    draft: Manifest,
    *,
    handling: Handling,
    resume: bool = True,
    force: bool = False,
    inventory: Inventory | None = None,
    on_error: OnError = "raise",
    total: int | None = None,
    progress: bool = True,
) -> Manifest:
    """Write ``samples`` as the data set that ``draft`` describes; the rest as in `write_shards`."""
    _check(draft, samples, on_error)
    total = _length(samples, inventory) if total is None else total
    out = out.absolute()  # the samples are someone else's code, which may change the working directory
    with lock(out), progress_bar(total=total, unit="img", disable=not progress, desc=shown(out.name)) as bar:
        run = _Run(samples, out, draft, inventory, on_error, total, bar)
        return run.do(resume, force, handling)


def _length(samples: Samples, inventory: Inventory | None) -> int | None:
    """How many samples there are, where that is known."""
    with contextlib.suppress(TypeError):
        return len(samples) if inventory is None else len(inventory)  # type: ignore[arg-type]
    return None


def _check(draft: Manifest, samples: Samples, on_error: OnError) -> None:
    """ShardError for an argument of write_shards that is out of range."""
    names, classes = draft.class_names, draft.num_classes
    for good, what in (
        (
            isinstance(samples, Iterable) or callable(samples),
            f"samples is a {type(samples).__name__}, want an iterable or a function of the number to leave out",
        ),
        (classes in range(1, MAX_LABEL + 1), f"num_classes is {classes}, want 1..{MAX_LABEL}"),
        (names is None or len(names) == classes, f"{len(names or ())} class_names for {classes} classes"),
        (draft.label_maps is None or draft.spec is None, "label_maps and spec: a data set has one of them"),
        (
            draft.row_order in ROW_ORDERS,
            f"row_order is {draft.row_order!r:.80}, want one of {', '.join(map(repr, ROW_ORDERS))}",
        ),
        (
            draft.row_order == "confidence" or draft.spec is not None,
            "row_order, but no spec: it orders views, of which there are none; leave it out",
        ),
        (draft.samples_per_shard >= 1, f"samples_per_shard is {draft.samples_per_shard}, want 1 or more"),
        (on_error in ("raise", "skip"), f"on_error is {on_error!r}, want 'raise' or 'skip'"),
        (
            re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}", draft.name) is not None,
            f"name is {draft.name!r}, want letters, digits, '_', '-' and '.'",
        ),
    ):
        if not good:
            raise ShardError(f"write_shards: {what}", kind="usage")


@contextlib.contextmanager
def _entering(stream: Iterator[Sample], handling: Handling) -> Iterator[Iterator[Sample]]:
    """The samples as they are written: judged and tiled, as far as that is wanted."""
    if not (handling.check or handling.tile):
        yield stream
        return
    with (
        Judge(max_pixels=handling.max_pixels) as judge,
        contextlib.closing(judged_ahead(stream, judge, check=handling.check, tile=handling.tile)) as judged,
    ):
        yield judged


class _Run:
    """One call of `write_shards`, which holds the folder.

    Args:
      samples, inventory, on_error, total: see `write_shards`.
      out: the folder.
      draft: the settings.
      bar: the progress bar.
    """

    def __init__(
        self,
        samples: Samples,
        out: Path,
        draft: Manifest,
        inventory: Inventory | None,
        on_error: OnError,
        total: int | None,
        bar: Any,
    ) -> None:
        self._samples, self._out, self._draft = samples, out, draft
        self._inventory, self._on_error, self._total, self._bar = inventory, on_error, total, bar
        self._announce = Announcer()

    def do(self, resume: bool, force: bool, handling: Handling) -> Manifest:
        """Everything; see `write_shards`."""
        source = None if self._inventory is None else self._inventory.fingerprint
        if begin(self._out, self._draft, resume=resume, force=force, source=source):
            return self.recheck()
        self.write_missing(handling)
        return finalise(self._out, self._draft)

    def recheck(self) -> Manifest:
        """The manifest of the finished data set, after it was found to hold the samples."""
        dataset = Dataset(self._out)
        held = Held.finished(dataset)
        with self._checking():
            if self._inventory is not None:
                self._same(compare_inventory(self._inventory, held, whole=True, step=self._bar.update))
            elif isinstance(self._samples, Iterable):
                comparison = Comparison(held)
                for sample in self._samples:
                    self._bar.update()
                    comparison.see(Identity.of(sample))
                self._same(comparison.differences())
            elif self._total not in (None, count := len(held.keys) + len(held.refused)):
                self._same(f"{self._total} samples, where {count} came before")
        self._left_out(held.refused)
        return dataset.manifest

    def write_missing(self, handling: Handling) -> None:
        """Write every shard that is missing, comparing the others with the samples where those are at hand."""
        finished = set(finished_shards(self._out, self._draft))
        start = next(number for number in itertools.count() if number not in finished)
        stream = self._stream(start)
        if isinstance(self._samples, Iterable):
            start = 0
        keys = KeyTable()
        topk: int | None = None
        with contextlib.ExitStack() as stack:
            publish = stack.enter_context(outbox.behind(self._out, self._uploading))
            if not isinstance(self._samples, Iterable) and (close := getattr(stream, "close", None)) is not None:
                # Its threads end here: the collector may find it in a thread that begins, where Python 3.11 gets stuck.
                stack.callback(close)
            judged: Iterator[Sample] | None = None
            for number in itertools.count():
                path = shard_path(self._out, self._draft, number)
                if number in finished:
                    done = self._facts(number)
                    if number >= start:
                        self._follow(stream if judged is None else judged, done)
                    for key in done.keys:
                        keys.add(key, number)
                    facts: ShardFacts | None = done
                else:
                    if judged is None:
                        judged = stack.enter_context(_entering(stream, handling))
                    facts = write_one_shard(
                        self._counted(judged),
                        path,
                        self._draft,
                        limit=self._draft.samples_per_shard,
                        on_error=self._on_error,
                        max_pixels=handling.max_pixels,
                        topk=topk,
                        keys=keys,
                        announce=self._announce,
                        publish=publish,
                    )
                if facts is None:
                    number -= 1
                    break
                topk = facts.topk
                if len(facts.keys) < self._draft.samples_per_shard:  # the last one
                    break
            surplus = next(stream if judged is None else judged, None)
        if surplus is not None:
            self._differ(f"{path.name} ended the run in it, but sample {surplus.key} follows now")
        if finished and max(finished) > number:
            last = shard_path(self._out, self._draft, max(finished)).name
            self._differ(f"it holds {last}, but the samples end before that")

    def _stream(self, start: int) -> Iterator[Sample]:
        """The samples, but for those of the first ``start`` shards where these need not be made again."""
        if isinstance(self._samples, Iterable):
            return iter(self._samples)
        leading = (self._facts(number) for number in range(start))
        paths = [shard_path(self._out, self._draft, number) for number in range(start)]
        held = Held.of_shards(leading, paths, tiled=self._draft.tiles is not None)
        if self._inventory is not None:
            with self._checking():
                self._same(compare_inventory(self._inventory, held, whole=False, step=self._bar.update))
                before = source_of(self._out)
                if before is not None and (other := described(before, self._inventory.fingerprint)):
                    self._same(f"its source was another when it was begun, though not in what is written: {other}")
        self._left_out(held.refused)
        consumed = len(held.keys) + len(held.refused)
        if self._inventory is None or self._inventory.crcs is None:
            self._bar.update(consumed)
        return iter(self._samples(consumed))

    def _follow(self, stream: Iterator[Sample], facts: ShardFacts) -> None:
        """Take the samples of a finished shard from ``stream`` and compare them."""
        path = self._out / facts.name
        held = Held.of_shards([facts], [path], tiled=self._draft.tiles is not None)
        comparison = Comparison(held, whole=False)
        with self._checking():
            for sample in itertools.islice(stream, facts.consumed):
                self._bar.update()
                comparison.see(Identity.of(sample))
        if found := comparison.differences():
            self._same(f"{path.name}: {found}")
        self._left_out(facts.refused)

    def _facts(self, number: int) -> ShardFacts:
        path = shard_path(self._out, self._draft, number)
        return ShardFacts.load(path, self._draft, ImageTars.of(self._out, self._draft))

    def _left_out(self, refused: Sequence[Refused]) -> None:
        """Tell of what an earlier run has left out; ShardError if that is not wanted now."""
        if refused and self._on_error == "raise":
            raise ShardError(
                f"{self._out}: {len(refused)} images were left out there by on_error='skip', the first: {refused[0]}; "
                f"pass that again (--on-error skip), or {remedy(self._draft, self._out)}",
                key=refused[0].key,
                reason=refused[0].reason,
                remedy=refused[0].remedy or None,
                kind="usage",
            )
        for one in refused:
            self._announce(one)

    @contextlib.contextmanager
    def _checking(self) -> Iterator[None]:
        """The progress bar says so meanwhile."""
        self._bar.set_description("checking what is there")
        try:
            yield
        finally:
            self._bar.set_description(shown(self._out.name))

    def _uploading(self, name: str) -> None:
        self._bar.set_postfix_str(f"{name} goes to the store" if name else "")

    def _counted(self, stream: Iterator[Sample]) -> Iterator[Sample]:
        for sample in stream:
            self._bar.update()
            yield sample

    def _same(self, differences: str) -> None:
        """ShardError if there are any."""
        if differences:
            self._differ(differences)

    def _differ(self, what: str) -> NoReturn:
        raise ShardError(
            f"{self._out}: belongs to a run with other samples: {what}; {remedy(self._draft, self._out)}", kind="usage"
        )
