"""Copies of data sets between folders and stores: every object checked, dataset.json last, resumable.

A copy that is under way has `MARK_NAME` at the destination, which says of which data set it is: objects there that have
their size were put there by a copy of the same set, whole, as no writer of ours leaves half a file under its own name. So
a copy that was killed goes on by sizes alone; ``recheck`` reads all bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from dali_dr.ahead import ahead
from dali_dr.copying.original import Original, OriginalSet
from dali_dr.copying.origins import FolderOrigin, Item, Origin, StoreOrigin
from dali_dr.copying.targets import FolderTarget, Target, target_in
from dali_dr.errors import ShardError, shown
from dali_dr.progress import bar as progress_bar
from dali_dr.shards import files
from dali_dr.shards.absent import no_data_set
from dali_dr.shards.index_layout import INDEX_NAME
from dali_dr.shards.manifest import MANIFEST_NAME, STATE_NAME, checksum_of
from dali_dr.shards.strict_json import MAX_BYTES
from dali_dr.store.url import as_place

MARK_NAME: Final = ".copy.json"  # at the destination, while a copy is unfinished
JOBS: Final = 4  # objects at a time
_ROOM: Final = "dali_dr-copy-"  # what folders of unfinished copies are called, in that for temporary files
_FRESH: Final = 60.0  # seconds: as long, a folder without a lock may have just been made


@dataclasses.dataclass(frozen=True)
class Copied:
    """What a copy has done.

    Attributes:
      objects: at the destination, a data card among them.
      kept: of them, those that were there.
      bytes: of the objects that were copied now.
      total_bytes: of all.
      left: what is beside the data set in its source and was not copied.
    """

    objects: int
    kept: int
    bytes: int
    total_bytes: int
    left: tuple[str, ...]


Beside = Callable[[Original], Mapping[str, bytes]]


def copy_set(
    src: Path | str,
    dst: Path | str,
    *,
    jobs: int = JOBS,
    with_images: bool = False,
    recheck: bool = False,
    progress: bool = True,
    beside: Beside | None = None,
    prepare: Callable[[], None] | None = None,
) -> Copied:
    """Copy a finished data set; the same call goes on with a copy that was killed.

    Args:
      src, dst: folders or URLs.
      jobs: objects at a time. As many lie in a folder for temporary files ($TMPDIR) between two stores.
      with_images: also copy the image tars of a sidecar data set that lie outside its folder, into images/.
      recheck: read what is at the destination, and replace what is wrong.
      progress: show a bar.
      beside: more small objects, by their names.
      prepare: is called before the destination is looked at, once the source was found to be right.

    Raises:
      ShardError: there is no finished data set in ``src``, or it is damaged; ``dst`` holds something else, or cannot be
        written.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}, want 1 or more")
    places = as_place(src), as_place(dst)
    _apart(*places)
    with _room() as room:
        origin, target = _origin(places[0], room), _target(places[1], room)
        original = OriginalSet(origin, places[0], room, with_images)
        items = original.items()
        names = [item.name for item in items] + [item.beside[0] for item in items if item.beside] + [MARK_NAME]
        if prepare is not None:
            prepare()
        with target.open(names):
            run = _Run(target, original, sum(item.size or 0 for item in items), recheck, progress)
            with run:
                run.begin(names, items)
                run.copy(items[:-1], jobs)
                if beside is not None:
                    told = original.told(lambda name: target.read(name, MAX_BYTES))
                    made = beside(told)
                    run.look(list(made))
                    run.copy(original.made(made), jobs)
                run.copy(items[-1:], jobs)
                run.end()
    left = original.left(names)
    return Copied(run.objects, run.kept, run.bytes, run.total, left)


class _Run:
    """The copying itself.

    Args:
      target: where to.
      original: what.
      whole: bytes of it.
      recheck: see `copy_set`.
      progress: show a bar.

    Attributes:
      objects, kept, bytes, total: see `Copied`.
    """

    def __init__(self, target: Target, original: OriginalSet, whole: int, recheck: bool, progress: bool) -> None:
        self._target, self._identity, self._recheck = target, original.identity, recheck
        self._shards = {shard.name for shard in original.manifest.shards}
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._there: dict[str, int] = {}
        self.objects = self.kept = self.bytes = self.total = 0
        self._bar: Any = progress_bar(
            total=whole, unit="B", unit_scale=True, unit_divisor=1000, desc="copied", disable=not progress
        )

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def look(self, names: list[str]) -> dict[str, int]:
        """Find out which of ``names`` are at the destination: of all asked for so far, their sizes."""
        self._there |= self._target.sizes(names)
        return self._there

    def begin(self, names: list[str], items: list[Item]) -> None:
        """Find out what is at the destination. ShardError if it is something else."""
        where = self._target.where
        there = self.look([*names, STATE_NAME])
        if MANIFEST_NAME in there:
            text = self._target.read(MANIFEST_NAME, MAX_BYTES) or b""
            try:
                other = checksum_of(json.loads(text))
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                self._damaged(f"{where}: its {MANIFEST_NAME} cannot be read ({shown(str(error))})", items)
                return
            if other != self._identity:
                raise ShardError(
                    f"{where}: holds another data set; choose another destination, or remove what is there",
                    kind="usage",
                )
            return
        if STATE_NAME in there:
            raise ShardError(
                f"{where}: holds a data set that is being written; choose another destination", kind="usage"
            )
        known = any(name in there for name in (*self._shards, INDEX_NAME))
        if known and MARK_NAME not in there:
            raise ShardError(
                f"{where}: holds files named as this data set's, of unknown origin; choose another destination, or remove "
                "them",
                kind="usage",
            )
        mark = json.dumps({"copy_of": self._identity}).encode()
        if self._target.mark(MARK_NAME, mark) != mark:
            raise ShardError(
                f"{where}: an unfinished copy of another data set is there; finish it, choose another destination, or "
                f"remove what is there with its {MARK_NAME}",
                kind="usage",
            )
        self._there[MARK_NAME] = len(mark)

    def _damaged(self, what: str, items: list[Item]) -> None:
        """A dataset.json at the destination that is none: ShardError unless it is to be replaced and all shards are ours."""
        if not self._recheck:
            raise ShardError(
                f"{what}: copy again with --recheck (recheck=True), which replaces it if the shards there are this data "
                "set's; or choose another destination"
            )
        shards = [item for item in items if item.name in self._shards and item.name in self._there]
        ours = all(self._there[item.name] == item.size for item in shards)
        silent = _Passing(self._bar, self._lock, self._stop, 0)
        if not shards or not ours or not self._target.recheck(shards[0], silent):
            raise ShardError(
                f"{what}, and the shards there are none of this data set, or damaged, too: remove what is there if it is of "
                "no use, or choose another destination"
            )

    def copy(self, items: list[Item], jobs: int) -> None:
        """Copy ``items``: shards and image tars in any order, then the others."""
        large = [item for item in items if item.name.endswith(".tar")]
        for group in (large, items[len(large) :]):
            with ThreadPoolExecutor(jobs, "dali_dr-copy") as pool:
                try:
                    for size, was_there in ahead(pool, self._one, group, 2 * jobs):
                        self.objects += 1
                        self.total += size
                        self.kept += was_there
                        self.bytes += 0 if was_there else size
                        if group is large:  # the others are few, and go with dataset.json where there are commits
                            self._target.settle()
                except BaseException:
                    self._stop.set()  # those that are on their way end at their next piece
                    raise

    def end(self) -> None:
        """Take the mark away: the copy is there."""
        if MARK_NAME in self._there:
            self._target.unmark(MARK_NAME)
        self._target.settle(last=True)

    def _one(self, item: Item) -> tuple[int, bool]:
        """Copy an item; its bytes, and whether it was there."""
        if self._stop.is_set():
            raise _Stopped
        step, size = _Passing(self._bar, self._lock, self._stop, item.size or 0), self._there.get(item.name)
        replace = item.replace or self._recheck
        if size is not None and (item.beside is None or item.beside[0] in self._there):
            looked = self._recheck or item.small
            if size == item.size and (not looked or self._target.recheck(item, step)):
                step.rest()
                return size, True
            if not replace:
                raise ShardError(
                    f"{self._target.where}/{item.name}: has {size} bytes, want {item.size}: it was changed or cut off; "
                    "copy again with --recheck (recheck=True), which replaces what is wrong"
                )
        self._target.take(dataclasses.replace(item, replace=replace), step)
        step.rest()
        return item.size or 0, False


class _Stopped(ShardError):
    """Another object has failed, or the user has stopped the copy: which is told."""


class _Passing:
    """Counts the bytes of one object in the bar, those that pass again but once."""

    def __init__(self, bar: Any, lock: threading.Lock, stop: threading.Event, size: int) -> None:
        self._bar, self._lock, self._stop, self._rest = bar, lock, stop, size

    def __call__(self, count: int) -> None:
        if self._stop.is_set():
            raise _Stopped
        with self._lock:
            count = min(count, self._rest)
            self._rest -= count
            self._bar.update(count)

    def rest(self) -> None:
        """The object is there."""
        with self._lock:
            self._bar.update(self._rest)
            self._rest = 0


def _origin(place: Path | str, room: Path) -> Origin:
    if isinstance(place, Path):
        if not place.is_dir():
            raise no_data_set(place)
        return FolderOrigin(place)
    from dali_dr.store.opening import open_store

    return StoreOrigin(open_store(place), room)


def _target(place: Path | str, room: Path) -> Target:
    if isinstance(place, Path):
        return FolderTarget(place)
    from dali_dr.store.opening import open_store

    return target_in(open_store(place), room)


def _apart(src: Path | str, dst: Path | str) -> None:
    """ShardError if one is the other, or the copy would lie in what is copied."""
    if isinstance(src, Path) and isinstance(dst, Path):
        inside = dst.resolve().is_relative_to(src.resolve())
    else:
        inside = isinstance(src, str) and isinstance(dst, str) and f"{dst}/".startswith(f"{src}/")
    if inside:
        raise ShardError(f"{dst}: is the data set that is copied, or in it; choose another destination", kind="usage")


@contextlib.contextmanager
def _room() -> Iterator[Path]:
    """A folder for what is on its way; those of copies that were killed go."""
    for stale in Path(tempfile.gettempdir()).glob(f"{_ROOM}*"):
        with contextlib.suppress(OSError, ShardError):
            if time.time() - stale.stat().st_mtime > _FRESH:
                files.close(files.open_locked(stale))  # of a process that lives no more
                shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(prefix=_ROOM) as name:
        descriptor = files.open_locked(Path(name))
        try:
            yield Path(name)
        finally:
            files.close(descriptor)
