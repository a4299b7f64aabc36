"""Partners of mixed views that are kept decoded: a cache of the plugin, which outlives the pipelines that use it."""

from __future__ import annotations

import ctypes
import itertools
import weakref
from typing import Any, Final

from dali_dr import _plugin
from dali_dr.augment.spec import Mixing
from dali_dr.loader.decoding import OURS, route
from dali_dr.loader.options import Machine

_NAMES: Final = ("images", "bytes", "hits", "misses")


class _Counts(ctypes.Structure):
    """DaliDrPartners of csrc/samples/export.cc."""

    _fields_ = tuple((name, ctypes.c_int64) for name in _NAMES)


class PartnerCache:
    """Keeps the images of a library that views are mixed with, decoded, as long as this object lives.

    One belongs to one iterator, and so to one data set. It keeps those that are wanted first until the bytes are used up, and
    lets none go: each of a library is wanted as often as any other. Images that our decoder does not decode (PNG, WebP, CMYK)
    are not kept. The plugin frees the memory once the last batch that shows it is gone, too.

    Args:
      most_bytes: of pixels, 3 a pixel of the whole image.

    Attributes:
      number: of the plugin's cache.
    """

    _numbers = itertools.count()

    def __init__(self, most_bytes: int) -> None:
        self.number: int = next(self._numbers)
        self.most_bytes = most_bytes
        library = _plugin.library()
        self._counts = library.dali_dr_partners_counts
        weakref.finalize(self, library.dali_dr_partners_drop, self.number)

    @property
    def graph(self) -> dict[str, Any]:
        """Arguments of `dali_dr.loader.graph.replay_pipeline`."""
        return {"partner_cache": self.number, "partner_cache_bytes": self.most_bytes}

    def stats(self) -> dict[str, Any]:
        """What it holds (images, bytes), and since it was made how often a partner was there (hits) or not (misses)."""
        counts = _Counts()
        self._counts(self.number, ctypes.byref(counts))
        return {name: int(getattr(counts, name)) for name in _NAMES}


def make_partner_cache(mixing: Mixing | None, machine: Machine) -> PartnerCache | None:
    """A cache where partners come from a library and are decoded by our own decoder; None elsewhere.

    Partners of the whole data set would fill it with images that are seldom wanted again. nvJPEG decodes on the GPU, from the
    file's bytes, every time.

    Args:
      mixing: of the stored views that are shown; None: none are, or they are not mixed.
      machine: how images are decoded, and bytes; 0: no cache.
    """
    ours = route(machine.device, machine.decode_device, machine.decoder, machine.roi_decode) in OURS
    library = mixing is not None and isinstance(mixing.partners, int)
    return PartnerCache(machine.partner_cache_bytes) if library and ours and machine.partner_cache_bytes else None
