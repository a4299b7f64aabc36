"""rebuild_index: index.bin made anew from the tars of a data set."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

from dali_dr.errors import ShardError
from dali_dr.progress import bar as progress_bar
from dali_dr.shards.facts import ImageTars, image_files, scan_shard
from dali_dr.shards.index_layout import IndexedFile
from dali_dr.shards.manifest import Manifest, ShardInfo
from dali_dr.shards.sample_table import SampleTable


def rebuild_index(
    folder: Path,
    manifest: Manifest,
    index: Path,
    *,
    full: bool = False,
    progress: bool = False,
    here: Callable[[ShardInfo], contextlib.AbstractContextManager[Path]] | None = None,
) -> None:
    """Write ``index`` anew from the tars of ``folder``.

    Args:
      folder: of the data set.
      manifest: its dataset.json.
      index: the file to write.
      full: read every byte, so that the index has the CRCs of the images; otherwise only headers are read. Then each
        tar's SHA-256 is compared too.
      progress: show a progress bar.
      here: has a shard as a file for so long, where they are not all in ``folder``.

    Raises:
      ShardError: a tar does not hold what the manifest says.
    """
    images = ImageTars.of(folder, manifest)
    table = SampleTable(image_files(manifest), image_crcs=full)
    records = dataclasses.replace(manifest, tiles=None)  # what became of images is of no concern here
    with progress_bar(total=manifest.images, unit="img", disable=not progress, desc=index.name) as bar:
        for shard in manifest.shards:
            path = folder / shard.name
            with contextlib.nullcontext(path) if here is None else here(shard) as path:
                facts = scan_shard(path, images, full=full, draft=records)
            for bad, what in (
                (
                    len(facts.keys) != shard.samples,
                    f"holds {len(facts.keys)} samples, dataset.json says {shard.samples}",
                ),
                (
                    any(label >= manifest.num_classes for label in facts.labels),
                    f"holds a label that is not below the {manifest.num_classes} classes of dataset.json",
                ),
                (
                    full and facts.sha256 != shard.sha256,
                    "its SHA-256 is not the one in dataset.json: it was changed or damaged",
                ),
                (
                    shard.index_crc32c is not None and facts.index_crc32c != shard.index_crc32c,
                    "its keys, labels, places or image sizes are not those that were written (index_crc32c in "
                    "dataset.json): it was changed or damaged",
                ),
            ):
                if bad:
                    raise ShardError(f"{path}: {what}; restore it from a copy")
            table.add_file(IndexedFile(shard.name, shard.bytes), facts.keys, facts.entries())
            bar.update(shard.samples)
    table.write(index, manifest.num_classes, manifest.num_outputs)
