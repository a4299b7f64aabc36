"""Whether an index is that of a data set: names and sizes of files, counts, and what dataset.json keeps of each shard."""

from __future__ import annotations

from pathlib import Path

from dali_dr.errors import ShardError
from dali_dr.shards.facts import image_files
from dali_dr.shards.index import REMEDY, SampleIndex
from dali_dr.shards.index_layout import IndexedFile
from dali_dr.shards.manifest import Manifest


def indexed_files(manifest: Manifest) -> list[IndexedFile]:
    """Every tar that samples lie in, in the index's order."""
    return [IndexedFile(shard.name, shard.bytes) for shard in manifest.shards] + image_files(manifest)


def fits(index: SampleIndex, manifest: Manifest) -> bool:
    """Whether ``index`` is of the data set with this manifest."""
    start = 0
    if (
        index.files != tuple(indexed_files(manifest))
        or len(index) != manifest.images
        or index.num_classes != manifest.num_classes
        or index.num_outputs not in (None, manifest.num_outputs)
        or (manifest.format_version > 1 and index.version == 1)
        or (index.version > 1 and index.has_image_files != bool(manifest.image_tars))
    ):
        return False
    for shard in manifest.shards:
        end = start + shard.samples
        if shard.index_crc32c not in (None, index.crc_of(start, end, len(manifest.image_tars))):
            return False
        start = end
    return True


def checked_index(path: Path, manifest: Manifest, where: str) -> SampleIndex:
    """The index in the file ``path``, which holds what is said to be at ``where``.

    Raises:
      ShardError: it is damaged, or of another data set. What to do is not said.
    """
    try:
        index = SampleIndex(path)
    except ShardError as error:
        raise ShardError(str(error).replace(str(path.absolute()), where).replace(f"; {REMEDY}", "")) from error
    if not fits(index, manifest):
        raise ShardError(f"{where}: does not fit dataset.json")
    return index
