"""What native code says on the standard error stream and nowhere else: why nvImageCodec cannot decode an image."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import fcntl
import functools
import os
import re
import threading
from collections.abc import Iterator
from typing import Final

_SAID: Final = re.compile(r"(?:\x1b\[[0-9;]*m)*\[(?:ERROR|FATAL|WARNING)\]\s*(?:\x1b\[[0-9;]*m)*\s*(\[\w+\].*)")
# libjpeg's own words, of which it writes a line for each damaged image (jerror.h), and libpng's.
_LIBRARIES: Final = re.compile(
    r"(libpng (?:error|warning): |Corrupt JPEG data: |Premature end of JPEG file|Inconsistent progression sequence"
    r"|Unknown Adobe color transform code|Warning: unknown JFIF revision|Invalid SOS parameters|Unsupported JPEG process"
    r"|Quantization table 0x|Huffman table 0x|Bogus |Empty JPEG image|Input file read error|Invalid JPEG file structure"
    r"|Unsupported marker type|Maximum supported image)"
)
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")


class Overheard:
    """Listens while a `with listening():` lasts. What others write meanwhile goes on to where it would have gone.

    Attributes:
      reasons: what the decoder said, without repetitions.
    """

    def __init__(self) -> None:
        self.reasons: list[str] = []

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Short enough for nobody to miss what they write: it comes after. One at a time in a process; others wait."""
        with _turn:
            try:
                screen = os.dup(2)
            except OSError:  # closed, as daemons have it
                yield
                return
            try:
                tape = _tape()
                self._play(tape, screen)
                os.dup2(tape.file, 2)
                try:
                    yield
                finally:
                    os.dup2(screen, 2)
                    self._play(tape, screen)
            finally:
                os.close(screen)

    def _play(self, tape: _Tape, screen: int) -> None:
        """Takes what is new on the tape; what others wrote goes to the screen."""
        said = os.pread(tape.file, os.fstat(tape.file).st_size - tape.played, tape.played)
        tape.played += len(said)
        if rest := self._keep(said):
            os.write(screen, rest)

    def _keep(self, said: bytes) -> bytes:
        """Takes the decoder's lines; the others."""
        rest = []
        for line in said.splitlines(keepends=True):
            text = line.decode(errors="backslashreplace").rstrip()
            if match := _SAID.search(text):
                reason = _COLOURS.sub("", match[1])
                if reason not in self.reasons:
                    self.reasons.append(reason)
            elif _COLOURS.sub("", text) and not _LIBRARIES.match(text):
                rest.append(line)
        return b"".join(rest)


@dataclasses.dataclass
class _Tape:
    """What was written while somebody listened. It stays: who was about to write when the screen came back writes to it.

    Attributes:
      file: descriptor.
      played: bytes that were taken.
    """

    file: int
    played: int = 0


_turn = threading.Lock()


@functools.cache
def _tape() -> _Tape:
    tape = _Tape(os.memfd_create("overheard", os.MFD_CLOEXEC))
    # Of two writes at once to a memfd at its position one may cover the other.
    fcntl.fcntl(tape.file, fcntl.F_SETFL, os.O_APPEND)
    atexit.register(_play_the_end)
    return tape


def _play_the_end() -> None:
    with contextlib.suppress(OSError):
        Overheard()._play(_tape(), 2)
