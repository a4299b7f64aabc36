"""What an unfinished generation keeps in the folder of the data set, in `.work/`, and what goes when it is finished.

Figures of finished shards (shard-000003.json), records of unfinished ones (`dali_dr.reinforce.journal`), the views per
teacher batch, and with mixed views the images that may not enter. Workers in other folders of one store see it, too.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from dali_dr.shards import files, outbox, tar
from dali_dr.shards import folder as shards_folder
from dali_dr.shards.manifest import WORK_NAME

REFUSED: Final = "refused.json"
_CLAIMS: Final = ".claims"  # where earlier versions kept it, among files that said who works on what
_BATCH: Final = "batch_views"  # name of the setting in the manifest, and of the file where it is agreed before


class Kept:
    """The files of `.work/` in ``out``."""

    def __init__(self, out: Path) -> None:
        self.folder: Path = out / WORK_NAME
        self._earlier = out / _CLAIMS

    def write(self, name: str, data: bytes) -> None:
        """The file ``name`` holds ``data`` from now on."""
        files.make_folder(self.folder)
        tar.write_atomically(self.folder / name, data)
        outbox.share(self.folder / name)

    def create(self, name: str, data: bytes) -> None:
        """As `write`, where there is no file ``name`` yet: of several workers, one succeeds."""
        files.make_folder(self.folder)
        outbox.create(self.folder / name, data)

    def read(self, name: str) -> bytes | None:
        """What the file ``name`` holds; None where there is none."""
        for folder in (self.folder, self._earlier):
            with contextlib.suppress(OSError):
                return (folder / name).read_bytes()
        return None

    def matching(self, pattern: str) -> list[Path]:
        """Files by a pattern of their names, by name."""
        return sorted(self.folder.glob(pattern))

    def has(self, name: str) -> bool:
        """Whether there is a file ``name``."""
        return any((folder / name).exists() for folder in (self.folder, self._earlier))

    def names(self) -> set[str]:
        """Of all files."""
        return {path.name for folder in (self.folder, self._earlier) if folder.is_dir() for path in folder.iterdir()}

    def figures(self, shards: str) -> list[dict[str, Any]]:
        """Figures of the finished shards, which are called ``shards``-NUMBER."""
        found = [name for name in self.names() if name.startswith(f"{shards}-") and name.endswith(".json")]
        texts = [self.read(name) for name in sorted(found)]
        return [json.loads(text) for text in texts if text is not None]

    def withdraw(self, path: Path) -> None:
        """Removes a file, here and where other workers see it."""
        outbox.withdraw(path)

    def remove(self) -> None:
        """Removes all of it, as the data set is finished."""
        for folder in (self.folder, self._earlier):
            if folder.is_dir():
                files.remove_tree(folder)


def settle_batch(out: Path, measure: Callable[[], int]) -> int:
    """The views per teacher batch of the run in ``out``: what its first worker measured, for all and ever after.

    Args:
      out: folder of the data set; made if absent.
      measure: see `dali_dr.reinforce.networks.fit_batch`; called by the first alone.
    """
    settings = shards_folder.settings_of(out) if out.exists() else None
    if settings is not None and _BATCH in settings["extra"]:
        return int(settings["extra"][_BATCH])
    kept = Kept(out)
    agreed = kept.read(_BATCH)
    if agreed is None:
        kept.create(_BATCH, str(measure()).encode())
        agreed = kept.read(_BATCH)
    assert agreed is not None
    return int(agreed)
