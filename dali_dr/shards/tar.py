"""Plain tar shards: deterministic members, a scan of what a tar holds, wds2idx lines and atomic files."""

from __future__ import annotations

import functools
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from dali_dr.errors import ShardError
from dali_dr.shards import files
from dali_dr.shards.reading import opened, read_fully
from dali_dr.shards.tar_scan import Compressed, TarFault, name_in, scan_headers

BLOCK: Final = tarfile.BLOCKSIZE  # 512: headers and data start at multiples of it
RECORD_SUFFIX: Final = "dr.zst"
LABEL_SUFFIX: Final = "cls"
_SHORT: Final = 100  # characters of a name in the first of a header's two fields
_EIGHT_GIB: Final = 8**11  # a size has eleven octal digits
_COMPARED: Final = 90  # characters of a key that is compared with a header
_LEADING: Final = re.compile(r"^(?:\.?/)+")
_ESCAPED: Final = re.compile(r"%([0-9A-F]{2})")
_CUT: Final = re.compile(r"-[0-9a-f]{16}\Z")  # keys that were too long end so


class Member(NamedTuple):
    """One file in a tar: its name, the offset of its first data byte and its length in bytes."""

    name: str
    offset: int
    size: int

    @property
    def key(self) -> str:
        """The name up to the first dot after the last slash: webdataset's sample key."""
        return self.name[: self._dot]

    @property
    def suffix(self) -> str:
        """The name after that dot."""
        return self.name[self._dot + 1 :]

    @property
    def _dot(self) -> int:
        dot = self.name.find(".", self.name.rfind("/") + 1)
        return dot if dot >= 0 else len(self.name)


def header(name: str, size: int) -> bytes:
    """The 512-byte ustar header of a regular file: mode 0644, time, owner and group 0, so that equal samples
    make equal shards.

    Raises:
      ValueError: if the name does not fit (100 bytes after a slash, 155 before it) or size exceeds 8 GiB.
    """
    if len(name) <= _SHORT and name.isascii() and "\0" not in name and 0 <= size < _EIGHT_GIB:
        head = bytearray(_usual())  # tarfile makes each anew in forty microseconds
        head[: len(name)] = name.encode()
        head[124:135] = b"%011o" % size
        head[148:155] = b"%06o\0" % sum(head)
        return bytes(head)
    return _made(name, size)


@functools.cache
def _usual() -> bytes:
    """The header of an empty file without a name, with blanks for the checksum."""
    head = bytearray(_made("", 0))
    head[148:156] = b" " * 8
    return bytes(head)


def _made(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)  # its defaults: mode 0644, mtime, uid and gid 0, no user or group name
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")


def is_header_of(block: bytes, key: str, size: int) -> bool:
    """Whether ``block`` heads a regular file of ``size`` bytes called KEY.something.

    In tars that others made names may begin with "./", and hold characters that stand in the key as %XX. A name that is
    not ASCII or too long may stand in an extension header elsewhere, and is not compared.
    """
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    name = name_in(block)
    names = (name, _LEADING.sub("", name, count=1))
    named = any(
        any(written.startswith(f"{wanted}.") for written in names)
        or not wanted.isascii()
        or len(wanted) > _COMPARED
        or _CUT.search(wanted)
        for wanted in {key, _ESCAPED.sub(lambda match: chr(int(match[1], 16)), key)}
    )
    return info.isreg() and info.size == size and named


def padding(size: int) -> bytes:
    """The zeros between the end of ``size`` bytes and the next block."""
    return bytes(-size % BLOCK)


def trailer(size: int) -> bytes:
    """What ends a tar of ``size`` bytes: two zero blocks, then zeros to a whole 10,240-byte record, as tar does."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % tarfile.RECORDSIZE)


def scan(path: Path) -> Iterator[Member]:
    """The regular files of the tar at ``path``, in order.

    Raises:
      ShardError: if the file is missing, cut off or not a tar.
    """
    try:
        for found in scan_headers(path):
            yield Member(*found)
    except Compressed as error:
        raise ShardError(f"{path}: {error}") from error
    except TarFault as error:
        raise ShardError(f"{path}: not a readable tar ({error}); restore it from a copy or write it anew") from error


def idx_text(samples: Sequence[Sequence[Member]]) -> str:
    """The wds2idx v1.2 index of a tar, as DALI's ``wds2idx`` writes it: one line per sample with
    ``suffix offset size name`` of each member."""
    lines = [" ".join(f"{m.suffix} {m.offset} {m.size} {m.name}" for m in members) for members in samples]
    return "\n".join([f"v1.2 {len(lines)}", *lines, ""])


def write_atomically(path: Path, *chunks: bytes | memoryview) -> None:
    """Write ``chunks`` to ``path`` so that it is, at every instant, absent, its old self or complete and on disk.

    Raises:
      ShardError: naming the file that cannot be written.
    """
    files.publish(_write_temporary(path, *chunks), path)


def create_atomically(path: Path, *chunks: bytes | memoryview) -> bool:
    """As `write_atomically`, but only where there is no ``path`` yet; of several callers, one succeeds.

    Returns:
      Whether it was this call that made the file.

    Raises:
      ShardError: naming the file that cannot be written.
    """
    return files.publish_first(_write_temporary(path, *chunks), path)


def _write_temporary(path: Path, *chunks: bytes | memoryview) -> Path:
    partial = files.temporary(path)
    try:
        with files.NewFile.open(partial) as file:
            for chunk in chunks:
                file.write(chunk)
            file.sync()
    except BaseException:
        files.discard(partial)
        raise
    return partial


def read_at(path: Path, offset: int, size: int) -> bytes:
    """``size`` bytes of ``path`` from ``offset``; no descriptor is kept, so a data set may have any number of files.

    Raises:
      ShardError: if the file is missing or too short.
    """
    with opened(path) as descriptor:
        return read_fully(descriptor, path, offset, size)
