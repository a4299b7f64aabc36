"""verify: read every byte of a data set and say what is wrong with it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from dali_dr.augment.views import Mix
from dali_dr.encoded import ANY_PIXELS, MAX_PIXELS, image_info, written_suffix
from dali_dr.errors import ShardError, shown
from dali_dr.images.jpeg import restart_interval
from dali_dr.images.judge import BATCH, Judge, Refusal
from dali_dr.progress import Progress
from dali_dr.progress import bar as progress_bar
from dali_dr.shards import tar
from dali_dr.shards.facts import (
    ImageTars,
    ShardFacts,
    digest,
    measured,
    members_of,
    read_label_map,
    read_record,
    read_sample,
)
from dali_dr.shards.index import REMEDY, SampleIndex
from dali_dr.shards.index_fit import indexed_files
from dali_dr.shards.index_layout import INDEX_NAME
from dali_dr.shards.keys import KeyTable
from dali_dr.shards.manifest import Manifest, ShardInfo
from dali_dr.shards.tile_counts import TileCounts
from dali_dr.store.url import as_place

MAX_PROBLEMS: Final = 100  # more are counted, not kept


@dataclass
class VerifyReport:
    """What `verify` found.

    Attributes:
      images, records, views: that were read.
      bytes: of all shards.
      problems: the first `MAX_PROBLEMS`, each naming the shard and, where it concerns one, the key.
      problem_count: all of them.
    """

    images: int = 0
    records: int = 0
    views: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.problem_count == 0

    def add(self, problem: str) -> None:
        """Note a problem."""
        self.problem_count += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(shown(problem))


def verify(
    path: str | Path,
    *,
    images: bool = False,
    max_pixels: int = MAX_PIXELS,
    progress: bool = True,
    cache: str | os.PathLike[str] | None = None,
    cache_bytes: int | None = None,
) -> VerifyReport:
    """Check the data set in ``path``, a folder or a URL, against its manifest and itself.

    Read and compared: the manifest with its schema; every shard's length and SHA-256; the .idx files and index.bin
    with the tars; every label; every record in full (columns, boxes, probabilities, class ids) with its image's size,
    the spec and the manifest's K and encoding, or every label map; counts, also of tiled images; keys, which must be distinct.
    Of a URL all but the .idx files, by way of the cache, whose copies are compared, too, and fetched anew if they are damaged.

    Args:
      images: also judge every image as `write_shards` does: whether training shows it as Pillow does; otherwise only their
        headers are read.
      max_pixels: that an image may have, with ``images``.
      progress: show a progress bar.
      cache, cache_bytes: of a URL, as `Dataset` takes them.

    Raises:
      ShardError: if there is no readable manifest. Anything else is in the report.
    """
    place, report = as_place(path), VerifyReport()
    with contextlib.ExitStack() as kept:
        if isinstance(place, str):
            from dali_dr.shards.remote import Remote

            remote = Remote(place, cache, cache_bytes)
            try:
                remote.bring_for_checks(kept)
            except ShardError as error:
                report.add(str(error))
            _verify(remote.folder, remote.manifest, report, remote.checked, images, max_pixels, progress)
            report.problems = [remote.told(problem) for problem in report.problems]
        else:
            _verify(place, Manifest.load(place), report, None, images, max_pixels, progress)
    return report


def _verify(
    folder: Path,
    manifest: Manifest,
    report: VerifyReport,
    bring: Callable[[str], contextlib.AbstractContextManager[Path]] | None,
    images: bool,
    max_pixels: int,
    progress: bool,
) -> None:
    """Fills in the report. ``bring``: of a set in a store, has a shard here for so long."""
    index = _open_index(folder / INDEX_NAME, manifest, report)
    keys, pictures = KeyTable(), ImageTars.of(folder, manifest)
    for image_tar in manifest.image_tars:
        place = folder / image_tar.path
        there = f"has {place.stat().st_size} bytes" if place.is_file() else "missing"
        if there != f"has {image_tar.bytes} bytes":
            report.add(f"{place}: {there}, dataset.json says {image_tar.bytes}")
    lowest, highest, record_bytes, start, map_classes = manifest.views_max, 0, 0, 0, 0
    tiles = TileCounts()
    mixed = manifest.spec is not None and manifest.spec.mixing is not None
    partners = _Partners(manifest.images) if mixed and (bring or _has_room(folder, manifest)) else None
    here = bring or (lambda name: contextlib.nullcontext(folder / name))
    with (
        Judge(max_pixels=max_pixels, decode=images) as judge,
        progress_bar(total=manifest.images, unit="img", disable=not progress, desc=shown(folder.name)) as bar,
    ):
        judged = _Judged(judge, report) if images else None
        for number, shard in enumerate(manifest.shards):
            facts = ShardFacts(shard.name, bytes=shard.bytes)
            try:
                with here(shard.name):
                    _check_shard(
                        folder, shard, manifest, judged, pictures, facts, report, bar, partners, start, not bring
                    )
            except (ShardError, OSError) as error:
                report.add(str(error))
            for key in facts.keys:
                for other in keys.shards_of(key):
                    with here(manifest.shards[other].name) as elsewhere:
                        twice = any(members[0].key == key for members in members_of(elsewhere))
                    if twice:
                        report.add(f"{folder / shard.name}: sample {key}: {elsewhere.name} has this key too")
            for key in facts.keys:
                keys.add(key, number)
            if len(facts.keys) == shard.samples and shard.index_crc32c not in (None, facts.index_crc32c):
                report.add(
                    f"{folder / shard.name}: its keys, labels, places or image sizes are not those that were written "
                    "(index_crc32c in dataset.json)"
                )
            if index is not None and len(facts.keys) == shard.samples:
                _check_index(index, number, start, facts, len(manifest.image_tars), report)
            start += shard.samples
            report.images += len(facts.keys)
            report.records += sum(size > 0 for _, size in facts.records)
            report.views += sum(facts.views)
            lowest, highest = min([lowest, *facts.views]), max([highest, *facts.views])
            record_bytes += facts.record_bytes
            tiles += facts.tiles
            map_classes = max(map_classes, facts.map_classes)
    if partners is not None and report.images == manifest.images:
        for problem in partners.problems():
            report.add(f"{folder}: {problem}")
    for what, found, said in (
        ("record_bytes", record_bytes, manifest.record_bytes),
        ("views", (lowest, highest), (manifest.views_min, manifest.views_max)),
        ("topk", map_classes or manifest.topk, manifest.topk),
    ):
        if found != said and report.images == manifest.images:
            report.add(f"{folder}: {what}: dataset.json says {said}, the shards hold {found}")
    if manifest.tiles is not None and report.images == manifest.images:
        # Those that were kept as they were may have restart intervals of their own.
        said, found = ((counts.images, counts.bytes_after) for counts in (manifest.tiles, tiles))
        if said[0] > found[0] or (said[0] == found[0] and said[1] != found[1]):
            report.add(
                f"{folder}: tiles: dataset.json says {said[0]} images of {said[1]} bytes in all, the shards hold {found[0]} "
                f"of {found[1]} bytes with restart intervals"
            )


def _check_shard(
    folder: Path,
    shard: ShardInfo,
    manifest: Manifest,
    judged: _Judged | None,
    pictures: ImageTars | None,
    facts: ShardFacts,
    report: VerifyReport,
    bar: Progress,
    partners: _Partners | None,
    start: int,
    with_idx: bool,
) -> None:
    """Check one tar and its .idx; ``facts`` is filled in."""
    path = folder / shard.name
    size = path.stat().st_size
    report.bytes += size
    if size != shard.bytes:
        report.add(f"{path}: has {size} bytes, dataset.json says {shard.bytes}")
    elif digest(path) != shard.sha256:
        report.add(f"{path}: its SHA-256 is not the one in dataset.json: it was changed or damaged")
    samples = []
    for members in members_of(path):
        bar.update()
        samples.append(members)
        key = members[0].key
        try:
            number = start + len(samples) - 1
            image = _check_sample(path, members, manifest, pictures, facts, partners, number)
            if judged is not None:
                judged.add(f"{path}: sample {key}", image)
        except (ShardError, ValueError) as error:
            text = str(error)
            report.add(text if text.startswith(str(path)) else f"{path}: sample {key}: {text}")
    if judged is not None:
        judged.finish()
    if len(samples) != shard.samples:
        report.add(f"{path}: holds {len(samples)} samples, dataset.json says {shard.samples}")
    idx = path.with_suffix(".idx")
    if not with_idx:
        return
    if not idx.exists():
        report.add(f"{idx}: missing; DALI's stock reader wants it (`wds2idx` makes it)")
    elif idx.read_bytes() != tar.idx_text(samples).encode():
        report.add(f"{idx}: does not describe its tar; make it anew with `wds2idx`")


class _Judged:
    """Judges images in batches, and reports those that are refused."""

    def __init__(self, judge: Judge, report: VerifyReport) -> None:
        self._judge, self._report = judge, report
        self._waiting: list[tuple[str, bytes]] = []

    def add(self, where: str, image: bytes) -> None:
        """Note an image, and where it is."""
        self._waiting.append((where, image))
        if len(self._waiting) == BATCH:
            self.finish()

    def finish(self) -> None:
        """Judge what waits."""
        waiting, self._waiting = self._waiting, []
        for (where, _), verdict in zip(waiting, self._judge([image for _, image in waiting]), strict=True):
            if isinstance(verdict, Refusal):
                self._report.add(f"{where}: {verdict}")


class _Partners:
    """Sizes of all images, and how far the crops reach that mixed views of others cut out of them."""

    def __init__(self, images: int) -> None:
        self._sizes = np.full((images, 2), np.iinfo(np.int32).max, np.int32)
        self._reach = np.zeros((images, 2), np.int32)
        self._from = np.zeros((images, 2), np.int32)  # the sample whose view reaches furthest

    def add(self, number: int, height: int, width: int, mix: Mix) -> None:
        """Note sample ``number``. ValueError for a partner that does not exist."""
        if number < len(self._sizes):
            self._sizes[number] = height, width
        named = mix.partner >= 0
        numbers, crop = mix.partner[named], mix.views.crop[named]
        if (beyond := numbers >= len(self._sizes)).any():
            raise ValueError(f"a view's partner is {numbers[beyond][0]}, the data set has {len(self._sizes)} images")
        reach = crop[:, :2] + crop[:, 2:]
        for axis in (0, 1):
            further = reach[:, axis] > self._reach[numbers, axis]
            np.maximum.at(self._reach[:, axis], numbers[further], reach[further, axis])
            self._from[numbers[further], axis] = number

    def problems(self) -> Iterator[str]:
        """One for each partner image that a crop leaves."""
        for number in np.flatnonzero((self._reach > self._sizes).any(axis=1)):
            axis = int(np.argmax(self._reach[number] > self._sizes[number]))
            height, width = self._sizes[number]
            yield (
                f"a view of sample {self._from[number, axis]} is mixed with sample {number}, of {height}x{width} "
                f"pixels, but its crop there reaches to {'row' if axis == 0 else 'column'} {self._reach[number, axis]}: "
                "the data set was put together from others, or its samples were reordered"
            )


def _check_sample(
    path: Path,
    members: list[tar.Member],
    manifest: Manifest,
    pictures: ImageTars | None,
    facts: ShardFacts,
    partners: _Partners | None,
    number: int,
) -> bytes:
    """Check one sample, whose image it returns, and append it to ``facts``.

    ShardError or ValueError for the first thing that is wrong.
    """
    places = pictures.paths if pictures else [path]
    sample, encoded = measured(read_sample(path, members, pictures), places, full=True)
    if restart_interval(encoded):
        facts.tiles += TileCounts(1, None, len(encoded))
    if sample.record is None:
        facts.add(sample, 0, -1)
    elif manifest.label_maps is not None:
        facts.add(sample, 0, 0, read_label_map(path, sample.record, manifest.label_maps, manifest.num_outputs))
    else:
        record = read_record(path, sample.record)
        facts.add(sample, len(record.reinforcements), record.reinforcements.topk)
    if sample.label >= manifest.num_classes:
        raise ValueError(f"its label is {sample.label}, dataset.json has {manifest.num_classes} classes")
    suffix, height, width = image_info(encoded, max_pixels=ANY_PIXELS)
    if pictures is None and suffix != written_suffix(sample.image.suffix):
        raise ValueError(f"its image is a {suffix}, but called {sample.image.name}")
    if sample.record is None:
        if manifest.views_max or manifest.label_maps is not None:
            raise ValueError("it has no record")
        return encoded
    if manifest.label_maps is not None:
        return encoded
    if (record.image_height, record.image_width) != (height, width):
        raise ValueError(
            f"its record is for an image of {record.image_height}x{record.image_width}, the image has {height}x{width}"
        )
    if manifest.spec is None:
        raise ValueError("it has a record, but dataset.json has no spec")
    size = manifest.spec.size
    log_step = None if manifest.log_step is None else float(np.float32(manifest.log_step))
    for what, found, said in (
        ("view size", record.view_size, (size, size)),
        ("K", record.reinforcements.topk, manifest.topk),
        ("encoding", record.probabilities, manifest.probabilities),
        ("log_step", record.log_step or None, log_step),
    ):
        if found != said:
            raise ValueError(f"its record has the {what} {found}, dataset.json says {said}")
    record.reinforcements.validate(height, width, size, manifest.num_outputs)
    mix = record.reinforcements.mix
    if (mix is None) != (manifest.spec.mixing is None):
        raise ValueError(f"its views are {'not ' * (mix is None)}mixed, against the spec in dataset.json")
    asked = manifest.spec.mixing
    if mix is not None and asked is not None and (mix.double != asked.double or mix.own_mixes > asked.own_mixes):
        raise ValueError(
            f"its views are mixed otherwise than the spec in dataset.json says: double {mix.double}, own_mixes {mix.own_mixes}"
        )
    if mix is not None and partners is not None:
        partners.add(number, height, width, mix)
    return encoded


def _has_room(folder: Path, manifest: Manifest) -> bool:
    """Whether the shards can hold as many samples as the manifest says."""
    sizes = (path.stat().st_size for path in (folder / shard.name for shard in manifest.shards) if path.is_file())
    return manifest.images * 2 * tar.BLOCK <= sum(sizes)


def _open_index(path: Path, manifest: Manifest, report: VerifyReport) -> SampleIndex | None:
    """index.bin, if it is one of this manifest."""
    try:
        index = SampleIndex(path)
    except ShardError as error:
        report.add(str(error))
        return None
    says = (index.files, len(index), index.num_classes, index.num_outputs or manifest.num_outputs)
    if says == (tuple(indexed_files(manifest)), manifest.images, manifest.num_classes, manifest.num_outputs):
        if index.version == 1 and manifest.format_version > 1:
            report.add(f"{path}: it is of version 1, the data set of version {manifest.format_version}; {REMEDY}")
        return index
    report.add(f"{path}: its files, samples or classes are not those of dataset.json; {REMEDY}")
    return None


def _check_index(
    index: SampleIndex, number: int, start: int, facts: ShardFacts, image_tars: int, report: VerifyReport
) -> None:
    """Compare index.bin with what shard ``number`` holds, whose first sample is ``start``."""
    want = facts.entries()
    want["record_file"] = number
    want["image_file"] = want["image_file"] + len(index.files) - image_tars if image_tars else number
    end = start + len(want)
    if not index.has_sizes:
        want["image_height"] = want["image_width"] = 0
    if not index.has_crcs:
        want["image_crc"] = 0
    if not np.array_equal(index.entries_of(start, end), want) or index.keys[start:end] != facts.keys:
        report.add(
            f"{index.path}: its samples of {facts.name} are not those in the tar. Where the tar is damaged, restore it; where "
            "the tar is what it should be, delete the index, it is rebuilt when the data set is opened"
        )
