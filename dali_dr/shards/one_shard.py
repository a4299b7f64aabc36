"""write_one_shard: samples to one tar, so that under its final name a shard is complete.

Order on disk: the tar under a hidden name, fsynced; its facts; its .idx; the tar's final name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from dali_dr.choices import OnError as OnError
from dali_dr.encoded import MAX_PIXELS
from dali_dr.errors import ShardError
from dali_dr.shards import files, outbox, tar
from dali_dr.shards.facts import ShardFacts, StoredSample
from dali_dr.shards.folder import save_empty, shard_number, shard_path
from dali_dr.shards.judged import as_tiled
from dali_dr.shards.keys import KeyTable, keys_of
from dali_dr.shards.manifest import Manifest
from dali_dr.shards.report import Announcer, Changed, Refused
from dali_dr.shards.sample import Origin, Parts, Sample, check_key, parts_of, refuse


def write_one_shard(
    samples: Iterable[Sample],
    path: Path,
    draft: Manifest,
    *,
    limit: int | None = None,
    on_error: OnError = "raise",
    max_pixels: int = MAX_PIXELS,
    topk: int | None = None,
    keys: KeyTable | None = None,
    confirm: Callable[[ShardFacts], None] | None = None,
    announce: Announcer | None = None,
    publish: outbox.Publish = outbox.publish,
) -> ShardFacts | None:
    """Write the shard ``path`` (see `shard_path`) and its .idx, atomically.

    Args:
      samples: read until ``limit`` samples are written or there are no more.
      path: of the shard.
      draft: the settings; its shards and counts are not used. If it has ``tiles``, images that were not tiled before are.
      limit: samples in the shard; None: all.
      on_error: "skip" leaves refused samples out and logs each; "raise" stops at the first.
      max_pixels: that an image may have.
      topk: teacher classes that every sample must have (-1: no reinforcements); None: as the first one has.
      keys: keys of other shards, which the samples must not have; theirs are added.
      confirm: called with the facts when all is written but nothing is seen under its final name; what it raises ends
        the call without a trace.
      announce: tells of refused samples; None: one for this shard alone.
      publish: gives the tar its final name, see `outbox.behind`.

    Returns:
      The shard's facts, or None (and no shard) if there was no sample. If samples were left out of a shard that has no
      other, the facts stay beside it, see `empty_shards`.

    Raises:
      ShardError: naming shard and key, for a sample that cannot be stored and ``on_error="raise"``; or naming a file
        that cannot be written.
    """
    keys = KeyTable() if keys is None else keys
    number = shard_number(path, draft)
    announce = Announcer() if announce is None else announce
    facts = ShardFacts(path.name, topk=topk)
    partial = files.temporary(path)
    try:
        with files.NewFile.open(partial) as file:
            shard = _OpenShard(file, path.parent, number, draft, facts, keys)
            for coming in samples:
                sample = coming if draft.tiles is None else as_tiled(coming)  # mostly it was, in parallel
                try:
                    parts = shard.check(sample, max_pixels)
                except ShardError as error:
                    refused = Refused.of(sample, error)
                    if on_error == "raise":
                        raise _told(path, refused, error) from error
                    announce(refused, path.name)
                    facts.refused.append(refused)
                    continue
                shard.add(sample, parts)
                if len(shard.members) == limit:
                    break
            shard.finish()
        if confirm is not None:
            confirm(facts)
        if not shard.members:
            if facts.refused:
                outbox.share(save_empty(path, facts))
            files.discard(partial)
            return None
        facts.save(path)
        tar.write_atomically(path.with_suffix(".idx"), tar.idx_text(shard.members).encode())
        publish(partial, path)
    except BaseException:
        files.discard(partial)
        raise
    return facts


def _told(path: Path, refused: Refused, error: ShardError) -> ShardError:
    """What to raise for a sample that the shard ``path`` cannot hold: all that a report would say of it."""
    facts = f" ({refused.facts})" if refused.facts else ""
    key, reason, remedy = refused.key, refused.reason, refused.remedy
    return ShardError(f"{path.name}: {error}{facts}", key=key, shard=str(path), reason=reason, remedy=remedy)


class _OpenShard:
    """The tar in work.

    Attributes:
      members: of each sample so far.
    """

    def __init__(
        self, file: files.NewFile, folder: Path, number: int, draft: Manifest, facts: ShardFacts, keys: KeyTable
    ) -> None:
        self.members: list[list[tar.Member]] = []
        self._file, self._folder, self._number = file, folder, number
        self._draft, self._facts, self._keys = draft, facts, keys
        self._sha = hashlib.sha256()

    def check(self, sample: Sample, max_pixels: int) -> Parts:
        """What ``sample`` becomes. ShardError if it cannot be stored in this shard; then nothing is changed."""
        check_key(sample)
        for other in self._keys.shards_of(sample.key):
            there = shard_path(self._folder, self._draft, other)
            if sample.key in (self._facts.keys if other == self._number else keys_of(there)):
                refuse(sample.key, f"is in {there.name} already")
        parts = parts_of(sample, self._draft, max_pixels=max_pixels)
        try:
            self._facts.check_topk(parts.topk)
        except ShardError as error:
            refuse(sample.key, str(error))
        return parts

    def add(self, sample: Sample, parts: Parts) -> None:
        """Write ``parts``, which `check` made of ``sample``."""
        written: list[tar.Member] = []
        pieces: list[bytes] = []
        at = self._facts.bytes
        for suffix, data in parts.members:
            name, size = f"{sample.key}.{suffix}", len(data)
            padding = tar.padding(size)
            pieces += (tar.header(name, size), data, padding)
            written.append(tar.Member(name, at + tar.BLOCK, size))
            at += tar.BLOCK + size + len(padding)
        self._put(b"".join(pieces))  # of small pieces, each call would take longer than what it does
        self.members.append(written)
        self._keys.add(sample.key, self._number)
        record = written[-1] if parts.topk >= 0 else None
        image, image_tar = written[0], None
        if sample.place is not None and self._draft.image_tars:
            size = len(sample.image_bytes) if sample.place.bytes is None else sample.place.bytes
            image = tar.Member(sample.key, sample.place.offset, size)
            image_tar = sample.place.tar
        stored = StoredSample(sample.key, int(sample.label), image, record, image_tar, parts.size, parts.crc)
        self._facts.add(stored, parts.views, parts.topk, parts.map_classes)
        origin = sample.origin or Origin()
        if origin.change is not None:
            self._facts.changed.append(Changed(sample.key, origin.path, origin.change, origin.crc))
        if self._draft.tiles is not None and sample.tiling is not None:
            crc = parts.crc if origin.crc is None else origin.crc
            self._facts.add_tiling(sample.tiling, (crc, image.size if origin.bytes is None else origin.bytes))

    def finish(self) -> None:
        """Write the end of the tar, note its checksum, and make what was written durable."""
        self._put(tar.trailer(self._facts.bytes))
        self._facts.sha256 = self._sha.hexdigest()
        if self.members:
            self._file.sync()

    def _put(self, data: bytes) -> None:
        self._sha.update(data)
        self._file.write(data)
        self._facts.bytes += len(data)
