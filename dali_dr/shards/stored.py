"""What a data set is in a store while it is written, and how a folder on this machine and a store are brought together.

Objects are called as the files of a folder are: `.write_shards.json` (settings), `.NAME-000000.tar.json` (facts of a
shard), `.work/…` while it is unfinished, and in the end those of a data set. A tar is there last of a shard's three, by
creation alone, so that a tar in the store is a finished shard. The store is the truth; the folder may be lost, or old.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from dali_dr.ahead import ahead
from dali_dr.errors import ShardError
from dali_dr.progress import bar as progress_bar
from dali_dr.shards import files, tar
from dali_dr.shards.facts import ShardFacts, facts_path, parse_facts
from dali_dr.shards.index_layout import INDEX_NAME
from dali_dr.shards.manifest import MANIFEST_NAME, STATE_NAME, WORK_NAME, Manifest, ShardInfo
from dali_dr.shards.report import CHANGED_NAME, REPORT_NAME, SKIPPED_NAME
from dali_dr.shards.source_table import SOURCES_NAME
from dali_dr.store.store import Entry, Store
from dali_dr.store.url import MissingError

# Whoever reads a hollow file for a tar finds this in place of a header, and an error.
_HOLLOW: Final = b"dali_dr: the bytes of this shard are in a store\n".ljust(tar.BLOCK, b"\n")
_SHARD: Final = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*-\d{6,}"
_TAR: Final = re.compile(rf"{_SHARD}\.tar")
_IDX: Final = re.compile(rf"({_SHARD})\.idx")
_HIDDEN: Final = re.compile(rf"\.{_SHARD}\.tar(\.empty)?\.json")  # facts, also of shards of which nothing is left
_EMPTY: Final = re.compile(rf"\.{_SHARD}\.tar\.empty\.json")
_BELOW: Final = re.compile(rf"({re.escape(WORK_NAME)}|{REPORT_NAME})(/[A-Za-z0-9_-][A-Za-z0-9_.-]*){{1,3}}")
# Of the report, what need not be there; logs of other machines stay.
_LISTS: Final = tuple(f"{REPORT_NAME}/{name}" for name in (SKIPPED_NAME, CHANGED_NAME, SOURCES_NAME))
_TRIES: Final = 3  # to take in what another machine changes meanwhile
_THREADS: Final = 16  # that wait for small objects
_COMPARED: Final = 8 << 20  # bytes of two tars at a time
_MD5: Final = re.compile(r'"?([0-9a-f]{32})"?')
_same: dict[Path, tuple[str | None, int, int, int]] = {}  # files that were found to be what the store has: tag, file
_PATIENCE: Final = 2.0  # seconds before a progress bar is worth it


@dataclasses.dataclass(frozen=True)
class Stored:
    """A data set in ``store`` and the folder ``out`` in which it is written.

    Attributes:
      out: on this machine.
      store: its objects.
      progress: whether long work shows a bar.
    """

    out: Path
    store: Store
    progress: bool = True

    def upload(self, path: Path, tarball: Path) -> None:
        """Put the complete shard into the store that lies in ``tarball``, and whose facts and .idx are beside ``path``.

        Raises:
          ShardError: there is such a shard of another run already.
        """
        facts = facts_path(path).read_bytes()
        ours = parse_facts(facts)
        if ours is None:
            raise ShardError(f"{facts_path(path)}: is damaged: remove {path} and run the same command again")
        beside = {facts_path(path).name: facts, path.with_suffix(".idx").name: path.with_suffix(".idx").read_bytes()}
        there = self.store.head(path.name)
        if there is None:
            for name, data in beside.items():
                self.store.put(name, data)
            made = self.store.put(path.name, tarball, create=True)
            if made or self._has_bytes(path.name, tarball):
                if self._read(facts_path(path).name) == facts:
                    return
                if self.store.head(MANIFEST_NAME) is not None:  # others had the shard, and have finished the data set
                    self.store.remove(facts_path(path).name)
                    return
                # Another run, whose samples were others, was about to write the shard, too, and was second.
                for name, data in beside.items():
                    self.store.put(name, data)
                return
        else:
            theirs = parse_facts(self._read(facts_path(path).name) or b"")
            if theirs is not None and (theirs.sha256, there.bytes) == (ours.sha256, ours.bytes):
                return
            if theirs is None and self._has_bytes(path.name, tarball):
                return
        raise ShardError(
            f"{self.store.url}/{path.name}: another run has put it there with other bytes: its samples or the versions of "
            "its libraries are not those of this run; let only one of them go on, at another URL if it is to be this one"
        )

    def hollow(self, path: Path, size: int) -> None:
        """Put a hollow file in the place of the shard ``path``, whose bytes are in the store."""
        files.make_hollow(path, size, _HOLLOW)

    def take_in(self, *, alone: bool) -> None:
        """Make the folder say what the store says.

        Args:
          alone: no other process works in the folder: what is in it and not in the store is removed, but for whole shards,
            which are put into the store.
        """
        for last in (*[False] * (_TRIES - 1), True):
            try:
                self._take_in(alone)
                return
            except MissingError:  # it was there a moment ago: the data set may be finished
                if last:
                    raise

    def _take_in(self, alone: bool) -> None:
        before = [path.name for path in self.out.iterdir()]  # others put into the store first, and then into the folder
        there = self.listed()
        if MANIFEST_NAME in there:
            self._take_finished(there)
            return
        if alone or not self._is_deliverable(there):
            files.remove(self.out / MANIFEST_NAME)
        state = self.out / STATE_NAME
        if state.exists() and not (STATE_NAME in there and self._is_same(there[STATE_NAME], state)):
            self._forget()
        self._take(there, (name for name in there if name == STATE_NAME or _EMPTY.fullmatch(name)))
        self._take(there, (name for name in there if name.startswith(f"{WORK_NAME}/") and _BELOW.fullmatch(name)))
        for name in filter(_TAR.fullmatch, before):
            if (self.out / name).exists() and (name not in there or not self._is_hollow(self.out / name)):
                self._settle(self.out / name, name in there, alone)
        if alone:
            for path in sorted((self.out / WORK_NAME).rglob("*")):
                if path.is_file() and path.relative_to(self.out).as_posix() not in there:
                    files.remove(path)
        self._each([name for name in there if _TAR.fullmatch(name)], lambda name: self._take_shard(there, name))

    def deliver(self) -> None:
        """Put all but the shards into the store, dataset.json last, and remove what was for resuming.

        Raises:
          ShardError: a shard is not in the store, or it holds another finished data set.
        """
        manifest = Manifest.load(self.out)
        there = self.listed()
        for shard in manifest.shards:
            self._check(shard, there)
        names = {shard.name for shard in manifest.shards}
        small = {INDEX_NAME} | {path.with_suffix(".idx").name for path in map(Path, names)}
        report = {path.relative_to(self.out).as_posix() for path in (self.out / REPORT_NAME).rglob("[!.]*")}
        small |= {name for name in report if (self.out / name).is_file()}

        def put(name: str) -> None:
            path = self.out / name
            if path.exists() and not (name in there and self._is_same(there[name], path)):
                self.store.put(name, path)

        self._each(sorted(small), put)
        if MANIFEST_NAME not in there:
            stale = [name for name in _LISTS if name in there and name not in report]
            stale += [name for name in there if (match := _IDX.fullmatch(name)) and f"{match[1]}.tar" not in names]
            for name in stale:
                self.store.remove(name)
        if not self.store.put(MANIFEST_NAME, self.out / MANIFEST_NAME, create=True):
            theirs = self._manifest(self.store.read(MANIFEST_NAME))
            if theirs.shards != manifest.shards or theirs.settings() != manifest.settings():
                raise ShardError(f"{self.store.url}: another data set was finished there meanwhile; choose another URL")
        self._each([name for name in self.listed() if _is_spent(name)], self.store.remove)

    def listed(self) -> dict[str, Entry]:
        """The objects by name."""
        return {entry.name: entry for entry in self.store.list()}

    def _take_finished(self, there: dict[str, Entry]) -> None:
        """Make the folder that of the finished data set in the store."""
        text = self.store.read(MANIFEST_NAME)
        manifest = self._manifest(text)
        if not (self.out / MANIFEST_NAME).exists() or (self.out / MANIFEST_NAME).read_bytes() != text:
            self._forget()
        for shard in manifest.shards:
            self._check(shard, there)
            path = self.out / shard.name
            if not path.exists() or path.stat().st_size != shard.bytes or not self._is_hollow(path):
                self.hollow(path, shard.bytes)
        of_report = [name for name in there if name.startswith(f"{REPORT_NAME}/") and _BELOW.fullmatch(name)]
        self._take(there, [INDEX_NAME] * (INDEX_NAME in there) + of_report)
        tar.write_atomically(self.out / MANIFEST_NAME, text)

    def _manifest(self, text: bytes) -> Manifest:
        """What a dataset.json in the store says."""
        where = f"{self.store.url}/{MANIFEST_NAME}"
        try:
            return Manifest.from_json(json.loads(text), where)
        except (RecursionError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ShardError(f"{where}: not a manifest ({error}); restore it from a copy, or remove it") from None

    def _is_deliverable(self, there: dict[str, Entry]) -> bool:
        """Whether another process of this machine is about to put dataset.json into the store, or was killed then."""
        try:
            shards = Manifest.load(self.out).shards
        except ShardError:
            return False
        return all(shard.name in there and there[shard.name].bytes == shard.bytes for shard in shards)

    def _check(self, shard: ShardInfo, there: dict[str, Entry]) -> None:
        """ShardError if the store does not have a shard of its data set."""
        entry = there.get(shard.name)
        if entry is None or entry.bytes != shard.bytes:
            found = "is missing" if entry is None else f"has {entry.bytes} bytes, {MANIFEST_NAME} says {shard.bytes}"
            raise ShardError(
                f"{self.store.url}/{shard.name}: {found}: something has removed or changed it; remove {MANIFEST_NAME} there "
                "and run the same command again to write it anew"
            )

    def _settle(self, path: Path, in_store: bool, alone: bool) -> None:
        """See to a shard that is here, and not in the store or not as a hollow file."""
        if self._is_hollow(path):
            self._remove_shard(path)
        elif alone and ShardFacts.saved(path) is not None and path.with_suffix(".idx").exists():
            self.upload(path, path)
            self.hollow(path, path.stat().st_size)
        elif alone and not in_store:
            self._remove_shard(path)

    def _take_shard(self, there: dict[str, Entry], name: str) -> None:
        """Take in the facts and the .idx of a shard in the store, and make it hollow here."""
        path, size = self.out / name, there[name].bytes
        beside = (facts_path(path), path.with_suffix(".idx"))
        if STATE_NAME not in there:  # whose shards those are is not known: `folder.begin` will say so
            self.hollow(path, size)
            return
        here = path.exists() and path.stat().st_size == size
        if here and not self._is_hollow(path):
            return
        if all(one.name in there for one in beside):
            if here and all(one.exists() and self._is_same(there[one.name], one) for one in beside):
                return
            data = self.store.read(beside[0].name)
            facts = parse_facts(data)
            if facts is not None and (facts.name, facts.bytes) == (name, size):
                tar.write_atomically(beside[0], data)
                tar.write_atomically(beside[1], self.store.read(beside[1].name))
                self.hollow(path, size)
                return
        # What should tell of the shard is lost or damaged: the shard itself does.
        self._remove_shard(path)
        partial = files.temporary(path)
        self.store.download(name, partial, expect=size)
        files.publish(partial, path)

    def _take(self, there: dict[str, Entry], names: Iterable[str]) -> None:
        """Take in small objects where the files here are others."""

        def take(name: str) -> None:
            path = self.out / name
            if not path.exists() or not self._is_same(there[name], path):
                files.make_folder(path.parent)
                try:
                    tar.write_atomically(path, self.store.read(name))
                except MissingError:
                    if not name.startswith(f"{WORK_NAME}/"):  # chunks come and go
                        raise

        self._each(list(names), take)

    def _each(self, names: list[str], do: Callable[[str], Any]) -> None:
        """Call ``do`` with each name, several at a time."""
        bar = progress_bar(
            total=len(names), desc=f"{self.out.name}: store", unit="object", leave=False, delay=_PATIENCE,
            disable=not self.progress,
        )  # fmt: skip
        with bar, ThreadPoolExecutor(_THREADS, "store") as executor:
            for _ in ahead(executor, do, names, 2 * _THREADS):
                bar.update()

    def _read(self, name: str) -> bytes | None:
        """An object; None where there is none."""
        try:
            return self.store.read(name)
        except MissingError:
            return None

    def _has_bytes(self, name: str, path: Path) -> bool:
        """Whether the object ``name`` is, byte for byte, the file ``path``."""
        entry, size = self.store.head(name), path.stat().st_size
        if entry is None or entry.bytes != size:
            return False
        for at in range(0, size, _COMPARED):
            length = min(_COMPARED, size - at)
            if self.store.read(name, at, length) != tar.read_at(path, at, length):
                return False
        return True

    def _is_same(self, entry: Entry, path: Path) -> bool:
        """Whether the small file ``path`` is what the store has; its bytes are not asked for where its tag is their MD5."""
        try:
            status = path.stat()
            known = (entry.tag, status.st_ino, status.st_mtime_ns, status.st_size)
            if status.st_size != entry.bytes:
                return False
            if entry.tag is not None and _same.get(path) == known:
                return True
            data = path.read_bytes()
        except FileNotFoundError:  # another process of this machine has removed it
            return False
        tag = _MD5.fullmatch(entry.tag or "")
        same = tag is not None and tag[1] == hashlib.md5(data, usedforsecurity=False).hexdigest()
        if same or self.store.read(entry.name) == data:
            _same[path] = known
            return True
        return False

    def _is_hollow(self, path: Path) -> bool:
        """Whether there is a file ``path`` and it is hollow."""
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            return file.read(len(_HOLLOW)) == _HOLLOW
        return False

    def _remove_shard(self, path: Path) -> None:
        for one in (path, facts_path(path), path.with_suffix(".idx")):
            files.remove(one)

    def _forget(self) -> None:
        """Remove what the folder holds of another data set, or of one that the store has no more."""
        for path in sorted(self.out.iterdir()):
            name = path.name
            ours = _TAR.fullmatch(name) or _IDX.fullmatch(name) or _is_spent(name)
            if path.is_file() and (ours or name in (INDEX_NAME, MANIFEST_NAME)):
                files.remove(path)
            elif path.is_dir() and name in (WORK_NAME, REPORT_NAME):
                files.remove_tree(path)


def _is_spent(name: str) -> bool:
    """Whether an object is of no use once the data set is finished."""
    return name == STATE_NAME or name.startswith(f"{WORK_NAME}/") or _HIDDEN.fullmatch(name) is not None
