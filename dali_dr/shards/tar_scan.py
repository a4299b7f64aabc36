"""What a tar holds, from its headers alone: ustar, pax and GNU, as tarfile writes and reads them.

tarfile itself believes what a header says of the length of an extension and reads that much into memory.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from dali_dr.shards.reading import opened, read_fully

_BLOCK: Final = 512
_MAX_EXTENSION: Final = 1 << 20  # bytes of a pax or GNU extension header; names have 4,096 at most
_REGULAR: Final = (b"0", b"\0", b"7")
_WITHOUT_DATA: Final = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes
_AHEAD: Final = 8 << 10  # bytes that are read at a time: a label lies in them with the header after it
_BEGIN: Final = 8  # bytes that tell how a file is compressed


class TarFault(ValueError):
    """Bytes that are no tar; the message says why and where."""


class Compressed(TarFault):
    """A tar that is compressed as a whole: nothing in it has a place of its own; the message says what to run."""


class Compression(NamedTuple):
    """A way in which tars are compressed.

    Attributes:
      name: as people write it.
      magic: how such files begin.
      keep: the command that decompresses FILE beside itself.
      stdout: the command that decompresses FILE to its output.
      suffixes: of files that ``keep`` takes, to which it gives the name without it, or with .tar for those of one part.
    """

    name: str
    magic: bytes
    keep: str
    stdout: str
    suffixes: tuple[str, ...]


COMPRESSIONS: Final = (
    Compression("gzip", b"\x1f\x8b", "gunzip -k", "gzip -dc", (".tar.gz", ".tgz")),
    Compression("zstd", b"\x28\xb5\x2f\xfd", "zstd -d", "zstd -dc", (".tar.zst", ".tzst")),
    Compression("xz", b"\xfd7zXZ\0", "xz -dk", "xz -dc", (".tar.xz", ".txz")),
    Compression("bzip2", b"BZh", "bunzip2 -k", "bzip2 -dc", (".tar.bz2", ".tbz2", ".tbz")),
    Compression("lz4", b"\x04\x22\x4d\x18", "lz4 -dk -m", "lz4 -dc", (".tar.lz4",)),
)
COMPRESSED_SUFFIXES: Final = tuple(suffix for way in COMPRESSIONS for suffix in way.suffixes)


def refuse_compressed(path: Path, begin: bytes, others: int = 0) -> None:
    """Refuses the tar at ``path`` if it is compressed, by what it begins with, whatever it is called.

    Args:
      path: the file.
      begin: its first bytes.
      others: compressed files that were found besides.

    Raises:
      Compressed: with the command that makes a plain tar of it.
    """
    way = next((way for way in COMPRESSIONS if begin.startswith(way.magic)), None)
    if way is None:
        return
    suffix = next((suffix for suffix in way.suffixes if path.name.lower().endswith(suffix)), None)
    if suffix is not None:
        plain = path.name[: len(path.name) - len(suffix)] + ".tar"
        command = f"{way.keep} {shlex.quote(str(path))}"
    else:
        plain = re.sub(r"(?i)(\.tar)?$", ".plain.tar", path.name, count=1)
        command = f"{way.stdout} {shlex.quote(str(path))} > {shlex.quote(str(path.with_name(plain)))}"
    more = f" (and the same for {others} more)" if others else ""
    raise Compressed(
        f"it is compressed with {way.name}, so that no image in it has a place of its own: make a plain tar of it once, "
        f"by `{command}`{more}, and give {plain}"
    )


class Found(NamedTuple):
    """A regular file in a tar."""

    name: str
    offset: int
    size: int


def scan_headers(path: Path) -> Iterator[Found]:
    """The regular files of the tar at ``path``, in order.

    Raises:
      ShardError: the file is missing or no regular file.
      Compressed: it is compressed as a whole.
      TarFault: it is cut off, or no tar that is read here.
    """
    with opened(path) as descriptor:
        yield from _FileScan(descriptor, path).files()


class Scan:
    """One pass over the headers of a tar.

    Args:
      path: of the tar, for messages.
      size: its bytes.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size

    def read(self, at: int, size: int) -> bytes:
        """``size`` bytes from ``at``, which never falls. TarFault where they are not there."""
        raise NotImplementedError

    def files(self) -> Iterator[Found]:
        """See `scan_headers`."""
        if self._size < _BLOCK:
            self._refuse_compressed()
            raise TarFault(f"it has {self._size} bytes, a tar has at least one header of {_BLOCK}")
        at = 0
        common: dict[str, str] = {}
        pending: dict[str, str] = {}
        while at < self._size:
            block = self.read(at, _BLOCK)
            if block.count(0) == _BLOCK:
                return  # the end of the archive
            if at == 0 and block[257:262] != b"ustar":
                self._refuse_compressed()
            _check_sum(block, at)
            kind, size = block[156:157], _number(block[124:136], at)
            data = at + _BLOCK
            if kind in (b"x", b"X", b"g", b"L", b"K"):
                if size > _MAX_EXTENSION:
                    raise TarFault(f"the extension header at byte {at} says it has {size} bytes")
                text = self.read(data, size)
                if kind in (b"L", b"K"):
                    pending |= {"path": _text(text)} if kind == b"L" else {}
                else:
                    target = common if kind == b"g" else pending
                    target |= _pax(text, at)
                at = data + -(-size // _BLOCK) * _BLOCK
                continue
            said = common | pending
            pending = {}
            if kind == b"S" or any(name.startswith("GNU.sparse") for name in said):
                raise TarFault(f"the member at byte {at} is a sparse file")
            if "size" in said:
                size = _decimal(said["size"], at)
            if kind in _WITHOUT_DATA:
                size = 0
            if data + size > self._size:
                raise TarFault(f"the member at byte {at} says it has {size} bytes, of which the file lacks some")
            name = said.get("path") or name_in(block)
            if kind in _REGULAR and not (kind == b"\0" and name.endswith("/")):  # an old way to say folder
                if "\0" in name:
                    raise TarFault(f"the name of the member at byte {at} holds a zero byte")
                yield Found(name.rstrip("/"), data, size)
            at = data + -(-size // _BLOCK) * _BLOCK
        if pending:
            raise TarFault("it ends after an extension header")

    def _refuse_compressed(self) -> None:
        refuse_compressed(self._path, self.read(0, min(self._size, _BEGIN)))


class _FileScan(Scan):
    """That of a file, which is read where headers are."""

    def __init__(self, descriptor: int, path: Path) -> None:
        super().__init__(path, os.fstat(descriptor).st_size)
        self._descriptor = descriptor
        self._ahead, self._ahead_at = b"", 0

    def read(self, at: int, size: int) -> bytes:
        """See `Scan`; anywhere."""
        if at + size > self._size:
            raise TarFault(f"it ends before byte {at + size}")
        start = at - self._ahead_at
        if not 0 <= start <= len(self._ahead) - size:
            self._ahead_at = at
            self._ahead = read_fully(self._descriptor, self._path, at, min(max(size, _AHEAD), self._size - at))
            start = 0
        return self._ahead[start : start + size]


def _check_sum(block: bytes, at: int) -> None:
    said = _number(block[148:156], at)
    total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if said != total and said != total - 256 * sum(byte > 127 for byte in block[:148] + block[156:]):  # of signed bytes
        raise TarFault(f"the header at byte {at} does not have its checksum")


def _number(field: bytes, at: int) -> int:
    """Octal text, or GNU's base 256."""
    if field[0] & 0x80:
        value = int.from_bytes(field[1:], "big") + ((field[0] & 0x7F) << 8 * (len(field) - 1))
        if field[0] & 0x40 or value >= 1 << 63:
            raise TarFault(f"a number in the header at byte {at} is negative or beyond 2^63")
        return value
    text = field.partition(b"\0")[0].strip()
    try:
        value = int(text or b"0", 8)
    except ValueError:
        value = -1
    if value < 0 or text[:1] in (b"+", b"-") or b"_" in text:
        raise TarFault(f"a number in the header at byte {at} is {field!r}")
    return value


def _decimal(text: str, at: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise TarFault(f"the pax header before byte {at} says that the size is {text[:40]!r}")
    return int(text)


def _pax(text: bytes, at: int) -> dict[str, str]:
    """The records LENGTH NAME=VALUE of a pax header."""
    records, start = {}, 0
    while start < len(text) and text[start]:
        length, space, _ = text[start : start + 21].partition(b" ")
        if not space or not length.isdigit():
            raise TarFault(f"a record of the pax header at byte {at} has no length")
        end = start + int(length)
        name, equals, value = text[start + len(length) + 1 : end - 1].partition(b"=")
        if int(length) < len(length) + 3 or end > len(text) or text[end - 1 : end] != b"\n" or not equals or not name:
            raise TarFault(f"a record of the pax header at byte {at} is not as long as it says")
        records[name.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        start = end
    return records


def name_in(block: bytes) -> str:
    """The name in a header. Only POSIX's has a prefix: GNU's has times there, and those before ustar nothing."""
    name, prefix = _text(block[:100]), _text(block[345:500])
    return f"{prefix}/{name}" if prefix and block[257:263] == b"ustar\0" else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")
