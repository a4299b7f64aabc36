"""retile: a data set that is there, once more with its images as tiled JPEGs; labels and records stay as they are."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from dali_dr.ahead import ahead
from dali_dr.encoded import ANY_PIXELS, image_info
from dali_dr.errors import ShardError
from dali_dr.images.judge import Shown
from dali_dr.shards.compare import Inventory
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.judged import as_tiled
from dali_dr.shards.manifest import FORMAT_VERSION, Manifest
from dali_dr.shards.others import IMAGE_LABELS
from dali_dr.shards.outbox import writing_to
from dali_dr.shards.reshape import check_elsewhere
from dali_dr.shards.sample import Sample
from dali_dr.shards.tile_counts import TileCounts
from dali_dr.shards.write import Handling, write_draft
from dali_dr.store.url import as_place

_AHEAD: Final = 32  # images for each thread: as long as a shard takes to become durable
_COPIED_SINCE: Final = 2  # format version of data sets whose records are copied; older ones have no checksums


def retile(
    source: Dataset | str | Path,
    out: str | Path,
    *,
    samples_per_shard: int | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> Manifest:
    """Write a data set once more with its images tiled, which training decodes faster; views and targets stay the same.

    Records are copied byte for byte, checked by their checksums. A sidecar data set becomes one that holds its images.
    What was interrupted goes on, and what is finished is compared with ``source``.

    Args:
      source: any data set whose images were stored as they were given.
      out: folder, or URL of one in a store, to write, or to continue.
      samples_per_shard: None: as ``source`` has it.
      threads: that tile; None: one for each CPU.
      progress: show a progress bar.

    Raises:
      ShardError: the images are tiled already, something in ``source`` is damaged, or ``out`` holds something else.
    """
    data = source if isinstance(source, Dataset) else Dataset(source)
    manifest, place = data.manifest, as_place(out)
    if manifest.tiles is not None:
        raise ShardError(
            f"{data.path}: its images are tiled already ({manifest.tiles}), so nothing would change", kind="usage"
        )
    check_elsewhere(data, place)
    for name, number in (("samples_per_shard", samples_per_shard), ("threads", threads)):
        if number is not None and number < 1:
            raise ShardError(f"retile: {name} is {number}, want 1 or more", kind="usage")
    history = {"retile": {"images": len(data)}}
    extra = {name: value for name, value in manifest.extra.items() if name != IMAGE_LABELS}  # where tars have labels
    draft = dataclasses.replace(
        manifest,
        samples_per_shard=samples_per_shard or manifest.samples_per_shard,
        extra={**extra, "made_by": [*manifest.extra.get("made_by", ()), history]},
        image_tars=(),
        tiles=TileCounts(),
        format_version=FORMAT_VERSION,
    )
    with writing_to(place, progress=progress) as folder:
        return write_draft(
            _Work(data, threads or len(os.sched_getaffinity(0))).samples,
            folder,
            draft,
            handling=Handling(check=False, tile=False, max_pixels=ANY_PIXELS),  # judged when they were stored
            inventory=_inventory(data),
            progress=progress,
        )


class _Work:
    """Reads and tiles in parallel."""

    def __init__(self, data: Dataset, threads: int) -> None:
        self._data, self._threads = data, threads

    def samples(self, start: int) -> Iterator[Sample]:
        """The samples from number ``start`` on."""
        with ThreadPoolExecutor(self._threads, "tile") as executor:
            numbers = range(start, len(self._data))
            yield from ahead(executor, self._sample, numbers, self._threads * _AHEAD)

    def _sample(self, number: int) -> Sample:
        data = self._data
        image = data.image(number)
        try:
            shown = Shown(*image_info(image, max_pixels=ANY_PIXELS))
        except ValueError as error:
            raise ShardError(f"{data.path}: sample {number} ({data.keys[number]}): {error}; restore it") from error
        sample = Sample(data.keys[number], image, data.label(number), shown=shown)
        if data.has_record(number):
            if data.manifest.format_version >= _COPIED_SINCE:
                sample = dataclasses.replace(sample, record=data.record_bytes(number))
            else:
                sample = dataclasses.replace(sample, reinforcements=data.reinforcements(number))
        return as_tiled(sample)


def _inventory(data: Dataset) -> Inventory:
    """What the samples of ``data`` are, as its index says."""
    crcs: list[int] = data.index.entries["image_crc"].tolist()
    return Inventory(
        list(data.keys),
        data.index.labels.tolist(),
        crcs=(lambda count: crcs[:count]) if data.index.has_crcs else None,
    )
