"""Inflating by ISA-L, in half of zlib's time."""

from __future__ import annotations

from typing import Final, cast

from isal import isal_zlib

decompressobj: Final = isal_zlib.decompressobj
"""As zlib's."""

InflateError: Final = cast("type[Exception]", isal_zlib.error)  # which its types have for an exception
"""What it raises for data that is damaged."""
