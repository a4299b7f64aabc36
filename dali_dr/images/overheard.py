"""What native code says on the standard error stream and nowhere else: why nvImageCodec cannot decode an image."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Final

_SAID: Final = re.compile(r"(?:\x1b\[[0-9;]*m)*\[(?:ERROR|FATAL|WARNING)\]\s*(?:\x1b\[[0-9;]*m)*\s*(\[\w+\].*)")
# libjpeg's own words, of which it writes a line for each damaged image (jerror.h).
_LIBJPEG: Final = re.compile(
    r"(Corrupt JPEG data: |Premature end of JPEG file|Inconsistent progression sequence|Unknown Adobe color transform code"
    r"|Warning: unknown JFIF revision|Invalid SOS parameters|Unsupported JPEG process|Quantization table 0x|Huffman table 0x"
    r"|Bogus |Empty JPEG image|Input file read error|Invalid JPEG file structure|Unsupported marker type|Maximum supported image)"
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
        """Short enough for nobody to miss what they write: it comes after."""
        try:
            screen = os.dup(2)
        except OSError:  # closed, as daemons have it
            yield
            return
        try:
            tape = os.memfd_create("overheard", os.MFD_CLOEXEC)
            try:
                os.dup2(tape, 2)
                try:
                    yield
                finally:
                    os.dup2(screen, 2)
                    size = os.lseek(tape, 0, os.SEEK_END)
                    rest = self._keep(os.pread(tape, size, 0))
                    if rest:
                        os.write(screen, rest)
            finally:
                os.close(tape)
        finally:
            os.close(screen)

    def _keep(self, said: bytes) -> bytes:
        """Takes the decoder's lines; the others."""
        rest = []
        for line in said.splitlines(keepends=True):
            text = line.decode(errors="backslashreplace").rstrip()
            if match := _SAID.search(text):
                reason = _COLOURS.sub("", match[1])
                if reason not in self.reasons:
                    self.reasons.append(reason)
            elif _COLOURS.sub("", text) and not _LIBJPEG.match(text):
                rest.append(line)
        return b"".join(rest)
