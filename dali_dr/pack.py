"""Packing: any source as plain shards. Images are read ahead, judged ahead in parallel, and written in order."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import google_crc32c

from dali_dr.ahead import ahead, batches
from dali_dr.encoded import MAX_PIXELS
from dali_dr.images.admit import Admission
from dali_dr.images.judge import BATCH, Judge
from dali_dr.images.tiling import tile
from dali_dr.shards import files, tar
from dali_dr.shards.compare import Inventory
from dali_dr.shards.manifest import Manifest
from dali_dr.shards.one_shard import OnError
from dali_dr.shards.outbox import writing_to
from dali_dr.shards.report import (
    REPORT_NAME,
    SUMMARY_NAME,
    Changed,
    Refused,
    counted,
    read_changed,
    read_refused,
)
from dali_dr.shards.sample import Sample
from dali_dr.shards.tile_counts import TileCounts
from dali_dr.shards.write import SAMPLES_PER_SHARD, Handling, write_draft
from dali_dr.sources.entrance import Entrance
from dali_dr.sources.source import Source, readers_of, sizes_of
from dali_dr.store.url import as_place

_READERS: Final = 8  # threads that wait for files; of a store more
_READ_AHEAD: Final = 2 * BATCH  # images, and one for each reader
_JUDGES: Final = 2  # batches at a time: while one waits for its last image, the other keeps all processors busy
_JUDGED_AHEAD: Final = 8  # batches: as long as a shard takes to become durable


@dataclass(frozen=True)
class Packed:
    """What came of `pack`.

    Attributes:
      manifest: of the data set.
      refused: every image that was left out.
      changed: every image that is not stored as its source has it.
      taken: images that this call read and judged; others were there already.
      seconds: that it took.
    """

    manifest: Manifest
    refused: list[Refused]
    changed: list[Changed]
    taken: int
    seconds: float

    @property
    def changes(self) -> dict[str, int]:
        """How often each change was made."""
        return counted(one.change for one in self.changed)

    @property
    def figures(self) -> dict[str, Any]:
        """For `dali_dr.cli.common.print_info`."""
        figures: dict[str, Any] = {"taken": self.taken, "skipped": len(self.refused), "changed": self.changes}
        return figures | ({"images_per_second": round(self.taken / self.seconds, 1)} if self.seconds else {})


def pack(
    source: Source,
    out: Path | str,
    *,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    on_error: OnError = "raise",
    max_pixels: int = MAX_PIXELS,
    check: bool = True,
    convert: bool = False,
    keep_bytes: bool = False,
    force: bool = False,
    threads: int | None = None,
    progress: bool = True,
) -> Packed:
    """Packs a source into plain shards; what was interrupted goes on, what is finished is compared with the source.

    Beside the shards lies `report/`: summary.json, skipped.jsonl and changed.jsonl.

    Args:
      source: the images; their keys must be distinct.
      out: folder of the data set, or its URL in a store.
      samples_per_shard: of every shard but the last.
      on_error: "skip" leaves images out that cannot be read or stored, and lists them; "raise" stops at the first.
      max_pixels: that an image may have.
      check: decode each image as training does; False: look at headers alone.
      convert: store what is no JPEG, PNG or WebP, but Pillow reads, as PNG.
      keep_bytes: store images as they are; False: as tiled JPEGs, of which training decodes what it shows.
      force: first remove what plain data set, finished or not, is in ``out``.
      threads: that judge images; None: one for each CPU.
      progress: show a progress bar.

    Raises:
      ShardError: an image cannot be stored (with on_error="raise"), or ``out`` holds something else.
    """
    extra = {"max_pixels": max_pixels} if max_pixels != MAX_PIXELS else {}  # these decide what is in the data set
    extra |= {} if check else {"decode_check": False}
    extra |= {"convert": True} if convert else {}
    draft = Manifest(
        num_classes=len(source.class_names),
        class_names=tuple(source.class_names),
        samples_per_shard=samples_per_shard,
        extra=extra,
        tiles=None if keep_bytes else TileCounts(),
    )
    with Judge(max_pixels=max_pixels, threads=threads, decode=check) as judge:
        work = _Work(source, Admission(judge, convert=convert, tile=not keep_bytes))
        inventory = Inventory(
            source.keys,
            source.labels,  # type: ignore[arg-type]
            sizes_of(source),
            work.crcs,
            None if keep_bytes else work.tiled_crc,
        )
        with writing_to(as_place(out), progress=progress) as folder:
            manifest = write_draft(
                work.samples,
                folder,
                draft,
                handling=Handling(check=False, tile=False, max_pixels=max_pixels),  # that is `Admission`'s
                force=force,
                inventory=inventory,
                on_error=on_error,
                progress=progress,
            )
            refused, changed = read_refused(folder), read_changed(folder)
            _summarise(folder, source, manifest, refused, changed)
    return Packed(manifest, refused, changed, work.taken, work.seconds)


class _Work:
    """Reads and judges.

    Attributes:
      taken: images so far.
      seconds: between the first that was begun and the last that was done.
    """

    def __init__(self, source: Source, admission: Admission) -> None:
        self.taken = 0
        self.seconds = 0.0
        self._source, self._entrance = source, Entrance(source, admission)
        self._readers = readers_of(source, _READERS)
        self._window = max(_READ_AHEAD, self._readers + BATCH)  # a batch is taken while all readers wait

    def samples(self, start: int) -> Iterator[Sample]:
        """The samples from number ``start`` on; those that cannot be stored say why."""
        begun = time.monotonic()
        numbers = range(start, len(self._source))
        with ThreadPoolExecutor(self._readers, "read") as readers, ThreadPoolExecutor(_JUDGES, "judge") as judging:
            read = ahead(readers, self._entrance.read, numbers, self._window)
            for batch in ahead(judging, self._entrance.admit, batches(read, BATCH), _JUDGED_AHEAD):
                for sample in batch:
                    self.taken += 1
                    yield sample
                    self.seconds = time.monotonic() - begun

    def crcs(self, count: int) -> Iterator[int]:
        """CRC-32C of the first ``count`` images as they are in the source; of those that cannot be read, of no bytes."""

        def crc(number: int) -> int:
            return int(google_crc32c.value(self._entrance.read(number).data))

        with ThreadPoolExecutor(self._readers, "read") as readers:
            yield from ahead(readers, crc, range(min(count, len(self._source))), self._window)

    def tiled_crc(self, number: int) -> int:
        """CRC-32C of an image as it is in the source, tiled."""
        data, _ = tile(self._entrance.read(number).data, None)
        return int(google_crc32c.value(data))


def _summarise(out: Path, source: Source, manifest: Manifest, refused: list[Refused], changed: list[Changed]) -> None:
    """Writes report/summary.json, where it does not say that already."""
    summary: dict[str, Any] = {
        "images": manifest.images,
        "skipped": len(refused),
        "changed": counted(one.change for one in changed),
        "notes": list(source.notes),
    }
    path = out.absolute() / REPORT_NAME / SUMMARY_NAME
    text = (json.dumps(summary, indent=1) + "\n").encode()
    if not path.exists() or path.read_bytes() != text:
        files.make_folder(path.parent)
        tar.write_atomically(path, text)
