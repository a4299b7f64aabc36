"""A disk that forgets: what a crash may leave of what was written, where POSIX promises no more than fsync does.

A file's bytes are safe once the file was fsynced; a name in a folder, or its removal, once the folder was. Of everything
later any part may be there, in any order: bytes that are missing, cut off or zero, any subset of the names. (Real file
systems promise more. One call is atomic: a rename is done or not.)
"""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults import KINDS, Killed, Tap, befall


@dataclasses.dataclass
class File:
    """Bytes that are safe, and what was written since: (offset, bytes)."""

    safe: bytes = b""
    written: list[tuple[int, bytes]] = dataclasses.field(default_factory=list)

    def sync(self) -> None:
        self.safe, self.written = _overwritten(self.safe, self.written), []

    def after_crash(self, rng: random.Random) -> bytes:
        whole = _overwritten(self.safe, self.written)
        if not self.written:
            return self.safe
        how = rng.randrange(5)
        if how == 0:
            return self.safe
        if how == 1:
            return whole[: rng.randint(min(len(self.safe), len(whole)), len(whole))]
        if how == 2:  # the length came to the disk, the bytes did not
            return self.safe + bytes(len(whole) - len(self.safe))
        if how == 3:
            return _overwritten(self.safe, [one for one in self.written if rng.random() < 0.5])
        return whole


def _overwritten(data: bytes, written: list[tuple[int, bytes]]) -> bytes:
    result = bytearray(data)
    for at, more in written:
        result.extend(bytes(max(0, at - len(result))))
        result[at : at + len(more)] = more
    return bytes(result)


Change = list[tuple[str, "File | Folder | None"]]


@dataclasses.dataclass
class Folder:
    """Names as they are seen, those that are safe, and the changes since: each a list of names and what they name."""

    seen: dict[str, File | Folder] = dataclasses.field(default_factory=dict)
    safe: dict[str, File | Folder] = dataclasses.field(default_factory=dict)
    changes: list[Change] = dataclasses.field(default_factory=list)

    def change(self, *names: tuple[str, File | Folder | None]) -> None:
        self.changes.append(list(names))
        _apply(self.seen, self.changes[-1])

    def sync(self) -> None:
        for change in self.changes:
            _apply(self.safe, change)
        self.changes = []

    def lose(self, rng: random.Random) -> None:
        """An fsync fails: some changes are safe, the others will never be."""
        for change in self.changes:
            if rng.random() < 0.5:
                _apply(self.safe, change)
        self.changes = []

    def after_crash(self, rng: random.Random) -> dict[str, Any]:
        names = dict(self.safe)
        share = rng.choice((0.0, 0.2, 0.5, 0.8, 1.0))
        for change in self.changes:
            if rng.random() < share:
                _apply(names, change)
        return {name: node.after_crash(rng) for name, node in sorted(names.items())}


def _apply(names: dict[str, Any], change: Change) -> None:
    for name, node in change:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


Event = tuple[str, tuple[Any, ...]]


class Recorder(Tap):
    """Notes what is done below ``root``, to be repeated by `disk_after`.

    Args:
      root: what is there already is safe.
      kill_at: from this call on (counted from 1) the process is dead; 0: never.
      fault: (kind of `faults.KINDS`, which of the calls that it can befall).
    """

    def __init__(self, root: Path, kill_at: int = 0, fault: tuple[str, int] | None = None) -> None:
        self.root, self.kill_at, self.fault = root, kill_at, fault
        self.events: list[Event] = []
        self.before = _tree(root)
        self._paths: dict[int, int] = {}  # descriptors to numbers of the events that opened them
        self._at: dict[int, int] = {}
        self._calls = self._hit = 0

    def on(self, call: str, arguments: tuple[Any, ...], do: Callable[[], Any]) -> Any:
        self._calls += 1
        if self.kill_at and self._calls >= self.kill_at:
            if call == "close":
                do()
            raise Killed
        if self.fault is not None and call in KINDS[self.fault[0]]:
            self._hit += 1
            if self._hit == self.fault[1]:
                if self.fault[0] == "lost":
                    self.events.append(("lost", (self._paths[arguments[0]],)))
                befall("EIO", call, arguments, do)
        if call == "open":
            existed = arguments[0].exists()
            result = do()
            self._paths[result] = len(self.events)
            self._at[result] = 0
            self.events.append(("open", (arguments[0], existed, arguments[1])))
            return result
        result = do()
        if call in ("write", "pwrite"):
            descriptor, data, *at = arguments
            where = at[0] if at else self._at[descriptor]
            if not at:
                self._at[descriptor] += result
            self.events.append(("write", (self._paths[descriptor], where, bytes(data[:result]))))
        elif call == "fsync":
            self.events.append(("fsync", (self._paths[arguments[0]],)))
        elif call not in ("close", "flock"):
            self.events.append((call, arguments))
        return result

    def disk_after(self, count: int, rng: random.Random) -> Folder:
        """The disk after the first ``count`` events."""
        root = _load(self.before)
        opened: dict[int, File | Folder] = {}
        for number, (call, arguments) in enumerate(self.events[:count]):
            if call == "open":
                path, existed, flags = arguments
                if not existed:
                    self._folder(root, path).change((path.name, File()))
                node = self._node(root, path)
                if isinstance(node, File) and existed and flags & os.O_TRUNC:
                    raise NotImplementedError("no writer empties a file")
                opened[number] = node
            elif call == "write":
                opened[arguments[0]].written.append(arguments[1:])  # type: ignore[union-attr]
            elif call == "fsync":
                opened[arguments[0]].sync()
            elif call == "lost":
                node = opened[arguments[0]]
                if isinstance(node, Folder):
                    node.lose(rng)
                else:
                    node.safe, node.written = node.after_crash(rng), []
            elif call in ("replace", "link"):
                old, new = arguments
                assert old.parent == new.parent
                node = self._node(root, old)
                gone: Change = [(old.name, None)] if call == "replace" else []
                self._folder(root, new).change(*gone, (new.name, node))
            elif call == "mkdir":
                self._folder(root, arguments[0]).change((arguments[0].name, Folder()))
            else:
                assert call in ("unlink", "rmdir")
                self._folder(root, arguments[0]).change((arguments[0].name, None))
        return root

    def _node(self, root: Folder, path: Path) -> File | Folder:
        node: File | Folder = root
        if path not in (self.root, *self.root.parents):
            for name in path.relative_to(self.root).parts:
                assert isinstance(node, Folder)
                node = node.seen[name]
        return node

    def _folder(self, root: Folder, path: Path) -> Folder:
        node = self._node(root, path.parent)
        assert isinstance(node, Folder)
        return node


def _tree(folder: Path) -> dict[str, Any]:
    return {path.name: _tree(path) if path.is_dir() else path.read_bytes() for path in folder.iterdir()}


def _load(tree: dict[str, Any]) -> Folder:
    nodes: dict[str, File | Folder] = {
        name: _load(node) if isinstance(node, dict) else File(node) for name, node in tree.items()
    }
    return Folder(dict(nodes), dict(nodes))


def put(tree: dict[str, Any], folder: Path) -> None:
    """Make the files and folders of `Folder.after_crash` in the empty ``folder``."""
    for name, node in tree.items():
        if isinstance(node, dict):
            (folder / name).mkdir()
            put(node, folder / name)
        else:
            (folder / name).write_bytes(node)
