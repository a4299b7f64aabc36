"""Admission: images as they enter a data set, judged; with what can be done for those that would be refused.

Without being asked: what is an ordinary photo to everyone but the decoder is put into a form that it shows right. The
container of JPEG, WebP and PNG is written anew, the coded pixels stay. CMYK JPEG, which decoders turn into RGB each in its own
way, and animated PNG become a PNG of what Pillow shows. On request (``convert``) so does whatever else Pillow reads.

What is admitted is tiled (``tile``): JPEGs are transcoded without loss, so that training decodes no more than it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dali_dr.images.convert import as_png, format_of
from dali_dr.images.jpeg import components, is_jpeg, without_junk
from dali_dr.images.judge import Judge, Refusal, Shown
from dali_dr.images.tiling import Tiling, tile
from dali_dr.images.webp import rewritten

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_IEND: Final = b"\0\0\0\0IEND\xaeB`\x82"


@dataclass(frozen=True, slots=True)
class Admitted:
    """An image that enters.

    Attributes:
      data: encoded, as it is stored.
      shown: its container and size.
      change: what was done to the source's bytes, in words that are the same for all of a kind; None: they are stored, or
        tiled.
      tiling: what became of it where it was to be tiled; None where it was not.
    """

    data: bytes
    shown: Shown
    change: str | None = None
    tiling: Tiling | None = None


class Admission:
    """Admits images by the batch.

    Args:
      judge: who decides.
      mend: whether to try to mend what would be refused; False where images stay where they are (a sidecar data set).
      convert: whether to store as PNG what Pillow reads and the judge refuses.
      tile: whether to tile what is admitted.
    """

    def __init__(self, judge: Judge, *, mend: bool = True, convert: bool = False, tile: bool = False) -> None:
        self.judge = judge
        self._mend, self._convert, self._tile = mend, convert, tile

    def __call__(self, images: Sequence[bytes]) -> list[Admitted | Refusal]:
        """What becomes of each of the encoded ``images``."""
        outcomes: list[Admitted | Refusal] = [
            verdict if isinstance(verdict, Refusal) else Admitted(data, verdict)
            for data, verdict in zip(images, self.judge(images), strict=True)
        ]
        if self._mend:
            for helped in (_rewritten, self._as_png):
                self._try(helped, images, outcomes)
        return self._tiled(images, outcomes) if self._tile else outcomes

    def _tiled(self, images: Sequence[bytes], outcomes: list[Admitted | Refusal]) -> list[Admitted | Refusal]:
        """``outcomes`` with the admitted ones tiled, in parallel."""

        def tiled(pair: tuple[bytes, Admitted | Refusal]) -> Admitted | Refusal:
            source, outcome = pair
            if isinstance(outcome, Refusal):
                return outcome
            data, tiling = tile(outcome.data, len(source))
            return replace(outcome, data=data, tiling=tiling)

        return self.judge.map(tiled, list(zip(images, outcomes, strict=True)))

    def _try(
        self,
        helped: Callable[[bytes], tuple[bytes, str] | str | None],
        images: Sequence[bytes],
        outcomes: list[Admitted | Refusal],
    ) -> None:
        """Puts those of ``images`` that are refused into another form, together with what that is called, if it helps."""
        refused = {n: outcome for n, outcome in enumerate(outcomes) if isinstance(outcome, Refusal)}
        better: dict[int, tuple[bytes, str]] = {}
        for number, form in zip(refused, self.judge.map(helped, [images[n] for n in refused]), strict=True):
            if isinstance(form, str):
                reason = f"{refused[number].reason}; and Pillow cannot convert it: {form}"
                outcomes[number] = Refusal(reason, "replace it, or leave it out")
            elif form is not None:
                better[number] = form
        verdicts = self.judge([data for data, _ in better.values()])
        for (number, (data, change)), verdict in zip(better.items(), verdicts, strict=True):
            if isinstance(verdict, Shown):
                outcomes[number] = Admitted(data, verdict, change)

    def _as_png(self, data: bytes) -> tuple[bytes, str] | str | None:
        """A PNG of the image; why there is none; None if it is not one to be converted."""
        kind = _always_converted(data)
        if kind is None and self._convert:
            kind = format_of(data, self.judge.max_pixels)
        if kind is None:
            return None
        try:
            return as_png(data, self.judge.max_pixels), f"{kind} stored as PNG{' of 8-bit RGB' * (kind == 'PNG')}"
        except ValueError as error:
            return str(error)


def _rewritten(data: bytes) -> tuple[bytes, str] | None:
    """The same image in a container that is written anew, where that is another."""
    for form, how in (("JPEG", without_junk), ("WebP", rewritten), ("PNG", _with_end)):
        if (better := how(data)) is not None:
            return better, f"container of a {form} written anew"
    return None


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
