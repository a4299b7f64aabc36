"""Text in pictures: in a font that has its letters, and readable where none has them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Final

from PIL import ImageFont

from dali_dr.errors import shown

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_SIZE: Final = 12
_NO_LETTER: Final = "\uffff"  # which no font has
# What systems bring, by the names that Pillow looks for in their folders. Pillow's own font, which is tried first, has
# little more than ASCII.
FONTS: Final = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf",
    "SourceHanSansSC-Regular.otf", "wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf",
    "DroidSansFallback.ttf", "unifont.ttf", "unifont.otf", "Arial Unicode.ttf", "msyh.ttc", "PingFang.ttc",
)  # fmt: skip


def lettered(text: str) -> tuple[str, Font]:
    """``text``, `shown`, and the first font that has all of its letters.

    Where none has, the font that lacks the fewest of them: these become \\uNNNN, and no boxes.
    """
    text = shown(text)
    letters = set(text)
    best: Font | None = None
    lacking = letters
    for font in _fonts(FONTS):
        missing = {letter for letter in letters if not _has(font, letter)}
        if best is None or len(missing) < len(lacking):
            best, lacking = font, missing
        if not missing:
            break
    assert best is not None
    return "".join(_escaped(letter) if letter in lacking else letter for letter in text), best


def dots(font: Font) -> str:
    """What stands for what is left out of a text in this font."""
    return "…" if _has(font, "…") else "..."


def _fonts(names: tuple[str, ...]) -> Iterator[Font]:
    yield _own()
    for name in names:
        if (font := _named(name)) is not None:
            yield font


@functools.cache
def _own() -> Font:
    return ImageFont.load_default(_SIZE)


@functools.cache
def _named(name: str) -> Font | None:
    """A font of the system, if it is there."""
    try:
        return ImageFont.truetype(name, _SIZE)
    except OSError:
        return None


@functools.lru_cache(1 << 14)
def _has(font: Font, letter: str) -> bool:
    """Whether a letter looks other than one that the font lacks, and like something if it is no blank."""
    mask = bytes(font.getmask(letter))
    return letter == " " or (any(mask) and mask != bytes(font.getmask(_NO_LETTER)))


def _escaped(letter: str) -> str:
    code = ord(letter)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
