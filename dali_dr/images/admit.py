"""Admission: images as they enter a data set, judged; with what can be done for those that would be refused.

Without being asked: what is an ordinary photo to everyone but the decoder is put into a form that it shows right. The
container of JPEG, WebP and PNG is written anew, the coded pixels stay. CMYK JPEG, which decoders turn into RGB each in its own
way, and animated PNG become a PNG of what Pillow shows. On request (``convert``) so does whatever else Pillow reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dali_dr.images.convert import as_png, format_of
from dali_dr.images.jpeg import components, is_jpeg, without_junk
from dali_dr.images.judge import Judge, Refusal, Shown
from dali_dr.images.webp import rewritten

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_IEND: Final = b"\0\0\0\0IEND\xaeB`\x82"


@dataclass(frozen=True, slots=True)
class Admitted:
    """An image that enters.

    Attributes:
      data: encoded, as it is stored.
      shown: its container and size.
      change: what was done to the source's bytes, in words that are the same for all of a kind; None: they are stored.
    """

    data: bytes
    shown: Shown
    change: str | None = None


class Admission:
    """Admits images by the batch.

    Args:
      judge: who decides.
      mend: whether to try to mend what would be refused; False where images stay where they are (a sidecar data set).
      convert: whether to store as PNG what Pillow reads and the judge refuses.
    """

    def __init__(self, judge: Judge, *, mend: bool = True, convert: bool = False) -> None:
        self.judge = judge
        self._mend, self._convert = mend, convert

    def __call__(self, images: Sequence[bytes]) -> list[Admitted | Refusal]:
        """What becomes of each of the encoded ``images``."""
        outcomes: list[Admitted | Refusal] = []
        for data, verdict in zip(images, self.judge(images), strict=True):
            outcomes.append(Admitted(data, verdict) if isinstance(verdict, Shown) else self._helped(data, verdict))
        return outcomes

    def _helped(self, data: bytes, refusal: Refusal) -> Admitted | Refusal:
        """The image in a form that is not refused, if there is one."""
        if not self._mend:
            return refusal
        for form, how in (("JPEG", without_junk), ("WebP", rewritten), ("PNG", _with_end)):
            if (better := how(data)) is not None and isinstance(verdict := self.judge([better])[0], Shown):
                return Admitted(better, verdict, f"container of a {form} written anew")
        kind = _always_converted(data)
        if kind is None and self._convert:
            kind = format_of(data, self.judge.max_pixels)
        if kind is None:
            return refusal
        try:
            png = as_png(data, self.judge.max_pixels)
        except ValueError as error:
            return Refusal(f"{refusal.reason}; and Pillow cannot convert it: {error}", "replace it, or leave it out")
        verdict = self.judge([png])[0]
        return Admitted(png, verdict, f"{kind} stored as PNG") if isinstance(verdict, Shown) else refusal


def _with_end(data: bytes) -> bytes | None:
    """The same PNG with the chunk that ends it; None where it has one."""
    return data + _IEND if data.startswith(_PNG) and _IEND not in data else None


def _always_converted(data: bytes) -> str | None:
    """The kind of image that is converted without being asked, in words; None if it is none."""
    if is_jpeg(data) and components(data) == 4:
        return "CMYK JPEG"
    # acTL, which makes a PNG an animated one, comes before IDAT.
    if data.startswith(_PNG) and 0 < data.find(b"acTL") < data.find(b"IDAT"):
        return "animated PNG"
    return None
