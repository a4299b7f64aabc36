"""The conversion: files of published archives, joined with their images, as a data set; resumable by shard."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import itertools
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from dali_dr.ahead import ahead, batches
from dali_dr.convert.format import Meaning, Record
from dali_dr.convert.images import Pictures, shown_size
from dali_dr.convert.order import named
from dali_dr.convert.published import Published
from dali_dr.encoded import MAX_PIXELS
from dali_dr.errors import ConvertError, RecordError, ShardError
from dali_dr.progress import bar as progress_bar
from dali_dr.shards import files
from dali_dr.shards.folder import lock, settings_of
from dali_dr.shards.manifest import MANIFEST_NAME, STATE_NAME, Manifest
from dali_dr.shards.one_shard import OnError
from dali_dr.shards.outbox import url_of, writing_to
from dali_dr.shards.sample import Sample
from dali_dr.shards.tile_counts import TileCounts
from dali_dr.shards.write import SAMPLES_PER_SHARD, Handling, write_draft
from dali_dr.sources.remote import Unavailable

KEPT_NAME: Final = ".convert"  # folder of what a run that is killed need not do again, in that of the data set
_BATCH: Final = 16  # images that a thread takes at a time
_WINDOW: Final = 8  # batches that each is ahead: as long as a shard takes to become durable
_COLLECTED: Final = 100_000  # objects more, before Python looks for cycles, of which there are none here
_TURN: Final = 5e-4  # seconds that a thread may keep Python's lock
_COUNTS: Final = struct.Struct("<II")
_WAITING: Final = 16  # threads that convert what arrives, where they wait for images in a store
_Read = list[bytes | None] | ShardError | None
_Item = tuple[int, Sample, list[bytes | None], _Read]


class _Usual(NamedTuple):
    """An image, and its views and classes per view, in all runs of a set together."""

    number: int
    counts: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What is converted, and into what.

    Attributes:
      published: the files.
      pictures: the images, as many.
      meaning: of the files.
      keep_bytes: whether images are stored as they are.
      on_error: "skip" leaves out images that cannot be read or stored, with their reinforcements; "raise" stops.
      max_pixels: that an image may have.
      samples_per_shard: of every shard but the last.
      threads: that convert; None: one for each CPU.
      progress: show a progress bar.
    """

    published: Published
    pictures: Pictures
    meaning: Meaning
    keep_bytes: bool = False
    on_error: OnError = "raise"
    max_pixels: int = MAX_PIXELS
    samples_per_shard: int = SAMPLES_PER_SHARD
    threads: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.meaning.mixing and self.on_error == "skip":
            raise ConvertError(
                "--on-error skip: mixed views name other images by number, so none can be left out: mend or replace the "
                "images that cannot be read",
                kind="usage",
            )

    def write(self, place: Path | str) -> Manifest:
        """Writes the data set into a folder or to a URL, or goes on with it.

        Raises:
          ShardError: naming the index, key and what is wrong; or ``place`` holds something else.
        """
        try:
            with writing_to(place, progress=self.progress) as out:
                return self._write(out.absolute())
        finally:
            self.published.forget()

    def _write(self, out: Path) -> Manifest:
        draft = self.draft(out)
        _forget_what_never_began(out, draft)
        with tuned():
            manifest = write_draft(
                self.samples,
                out,
                draft,
                handling=Handling(check=False, tile=False, max_pixels=self.max_pixels),  # images are, when they enter
                inventory=self.pictures.inventory(),
                on_error=self.on_error,
                progress=self.progress,
            )
        remove_kept(out)
        return manifest

    def draft(self, out: Path) -> Manifest:
        """The settings of the data set."""
        meaning, pictures = self.meaning, self.pictures
        facts = [archive.facts for archive in self.published.archives]
        reinforced = meaning.spec is not None
        return Manifest(
            num_classes=meaning.num_classes,
            class_names=_names(pictures.class_names, meaning.num_classes),
            samples_per_shard=self.samples_per_shard,
            spec=meaning.spec,
            teacher=meaning.teacher,
            probabilities=meaning.probabilities if reinforced else None,
            log_step=meaning.log_step if reinforced else None,
            extra={"published": meaning.published(facts), **pictures.extra},
            image_tars=pictures.image_tars(out),
            tiles=None if self.keep_bytes or pictures.sidecar else TileCounts(),
            **meaning.manifest,
        )

    def samples(self, start: int) -> Iterator[Sample]:
        """From number ``start`` on."""
        look_at_sizes(self.meaning, self.pictures, self.progress)
        threads = self.threads or len(os.sched_getaffinity(0))
        threads = max(threads, _WAITING) if self.published.alone and self.pictures.readers else threads
        with (
            ThreadPoolExecutor(threads, "convert") as executor,
            contextlib.closing(self.published),
            contextlib.closing(self.pictures.samples(start)) as pictures,
        ):
            if self.published.alone:
                self.published.begin(self._arrived, executor)
                for number, sample in enumerate(pictures, start):
                    (staged,) = self._taken(number)
                    if sample.problem is None:
                        sample = _recorded(sample, self._as_usual(number, _unpacked(staged or b"")))
                    yield sample
                return
            self.published.begin()
            with self._reading(start) as here:
                numbered = enumerate(zip(pictures, here, strict=False), start)
                items = ((number, sample, self._taken(number), read) for number, (sample, read) in numbered)
                for batch in ahead(executor, self._all_finished, batches(items, _BATCH), threads * _WINDOW):
                    yield from batch

    @contextlib.contextmanager
    def _reading(self, start: int) -> Iterator[Iterator[_Read]]:
        """What `Published.read` gives of each image from ``start`` on, read ahead where a store is waited for; else None."""
        readers = self.published.readers
        if not readers:
            yield itertools.repeat(None)
            return

        def read(number: int) -> _Read:
            try:
                return self.published.read(number)
            except ShardError as error:  # of an image that may be left out for other reasons
                return error

        with ThreadPoolExecutor(readers, "published") as executor:
            found = ahead(executor, read, range(start, len(self.pictures)), 2 * readers)
            with contextlib.closing(found):
                yield found

    def _taken(self, number: int) -> list[bytes | None]:
        try:
            return self.published.take(number)
        except ConvertError as error:
            if error.sample is not None:  # of another image, which came meanwhile
                raise
            raise self._told(number, error) from error

    def _arrived(self, number: int, file: bytes) -> bytes:
        try:
            return arrived(self.meaning, self.pictures, number, file)
        except Unavailable:
            raise
        except (ShardError, RecordError) as error:
            raise self._told(number, error) from error

    def _all_finished(self, items: list[_Item]) -> list[Sample]:
        return [self._finished(item) for item in items]

    def _finished(self, item: _Item) -> Sample:
        number, sample, taken, here = item
        if sample.problem is not None:
            return sample
        try:
            if isinstance(here, ShardError):
                raise here
            here = self.published.read(number) if here is None else here
        except Unavailable:
            raise
        except ShardError as error:
            raise self._told(number, error) from error
        found = [one if other is None else other for one, other in zip(here, taken, strict=True)]
        size = shown_size(sample.shown, sample.image_bytes)
        return _recorded(sample, self.converted(number, [one for one in found if one is not None], size))

    def converted(self, number: int, found: Sequence[bytes], size: tuple[int, int]) -> Record:
        """The record of image ``number``. ConvertError naming it; also if it has not as many views as `usual`."""
        try:
            record = self.meaning.converter(number, found, size)
        except (ShardError, RecordError) as error:
            raise self._told(number, error) from error
        return self._as_usual(number, record) if len(found) == self.published.files else record

    def _as_usual(self, number: int, record: Record) -> Record:
        usual = self.usual
        if usual is not None and record.counts not in (None, usual.counts):
            views, topk = record.counts or (0, 0)
            raise self._told(
                number,
                ConvertError(
                    f"has {views} views of {topk} classes each, where index {usual.number}, which is the first in its "
                    f"archive, has {usual.counts[0]} of {usual.counts[1]}: is one of the two files cut short?"
                ),
            )
        return record

    @functools.cached_property
    def usual(self) -> _Usual | None:
        """What every image should have, as the first one that comes says it; None if it has no views, or is damaged."""
        several = self.published.files > 1
        if self.meaning.spec is None or (several and self.published.streamed):
            return None
        with contextlib.suppress(OSError, ValueError, ShardError, RecordError):  # told of in its turn
            number, found = 0, [file for file in self.published.read(0) if file is not None] if several else []
            if not several:
                with contextlib.closing(self.published.coming()) as coming:
                    number, file = next(coming)
                found = [file]
            counts = self.meaning.converter(number, found, self.pictures.size(number)).counts
            return None if counts is None else _Usual(number, counts)
        return None

    def _told(self, number: int, error: Exception) -> ConvertError:
        archives = ", ".join(archive.path.name for archive in self.published.archives[:3])
        return ConvertError(f"index {number} ({named(self.pictures, number)}) of {archives}: {error}", sample=number)


def look_at_sizes(meaning: Meaning, pictures: Pictures, progress: bool) -> None:
    """Of all images, where views of some are mixed with crops of others, which must lie inside."""
    if meaning.sizes is None or meaning.sizes.any():  # looked at before
        return
    sizes = progress_bar(pictures.sizes(), "sizes of images", len(pictures), disable=not progress, unit="img")
    for number, size in enumerate(sizes):
        meaning.sizes[number] = size


def arrived(meaning: Meaning, pictures: Pictures, number: int, file: bytes) -> bytes:
    """The record of an image, as it waits for its turn. Of an image that cannot be read, nothing: it tells of itself.

    Raises:
      ShardError, RecordError: what is wrong with the file, without saying which it is.
    """
    try:
        size = pictures.size(number)
    except Unavailable:
        raise
    except (OSError, ValueError):
        return b""
    return _packed(meaning.converter(number, [file], size))


@contextlib.contextmanager
def tuned() -> Iterator[None]:
    """Python as the conversion wants it.

    Its collector sees many new objects, and would take a tenth of the time to find that all are in use. And threads that come
    back from C wait for Python's lock as long as a turn of the others is, by default ten times what a record takes.
    """
    collected, turn = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(_COLLECTED, *collected[1:])
    sys.setswitchinterval(min(turn, _TURN))
    try:
        yield
    finally:
        gc.set_threshold(*collected)
        sys.setswitchinterval(turn)


def _recorded(sample: Sample, record: Record) -> Sample:
    # dataclasses.replace takes thirty times as long, of which there are millions.
    return Sample(
        sample.key, sample.image_bytes, sample.label, place=sample.place, origin=sample.origin, shown=sample.shown,
        tiling=sample.tiling, record=record.member, counts=record.counts,
    )  # fmt: skip


def _packed(record: Record) -> bytes:
    """A record as it waits for its turn."""
    return _COUNTS.pack(*(record.counts or (0, 0))) + record.member


def _unpacked(data: bytes) -> Record:
    views, topk = _COUNTS.unpack_from(data)
    return Record(data[_COUNTS.size :], (views, topk) if views else None)


def _forget_what_never_began(out: Path, draft: Manifest) -> None:
    """Removes an unfinished run of other settings that has not written a shard, as where its archive was wrong."""
    state = out / STATE_NAME
    if url_of(out) is not None:  # another machine may be about to write its first shard there
        return
    if not state.is_file() or (out / MANIFEST_NAME).exists() or any(out.glob("*.tar")):
        return
    with lock(out):
        if settings_of(out) != draft.settings():
            remove_kept(out)
            files.remove(state)


def remove_kept(out: Path) -> None:
    """Removes what was kept in ``out`` for a run that goes on."""
    folder = out / KEPT_NAME
    if folder.is_dir():
        files.remove_tree(folder)


def _names(names: Sequence[str] | None, classes: int) -> tuple[str, ...] | None:
    """Names of all classes, of which the images may not have all."""
    if names is None:
        return None
    return (*names, *(f"class {number}" for number in range(len(names), classes)))
