"""Which files a contact sheet can be written as; apart from the sheet, as the command line asks before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dali_dr.errors import DaliDrError

FORMATS: Final = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Pillow's format by suffix."""


def check_suffix(path: Path) -> Path:
    """``path``, if a contact sheet can be written there by its suffix.

    Raises:
      DaliDrError: naming the suffixes that can be.
    """
    if path.suffix.lower() not in FORMATS:
        raise DaliDrError(
            f"{path}: a contact sheet is a picture: want one of {', '.join(FORMATS)} as its suffix", kind="usage"
        )
    return path
