"""How a graph's encoded images become views: by our own decoder within replay or before it, or by DALI's."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import numpy as np

from dali_dr.images.decoder import decoder_arguments
from dali_dr.loader.options import DecodeDevice, DecoderName, Device, Machine, RoiDecode, decodes_on_gpu
from dali_dr.shards.dataset import Dataset

_log = logging.getLogger(__name__)

Route = Literal["replay", "decode", "slices", "whole"]
"""What decodes:

- replay: `fn.dr.replay` itself, what its views need.
- decode: `fn.dr.decode`, on the CPU, the region that the views need.
- slices: DALI's decoder, that region of the file, or of a slice of it where it is tiled.
- whole: DALI's decoder, all of the image.

With the first two, images that are no JPEG are decoded by DALI.
"""

OURS: Final = ("replay", "decode")
"""The routes whose JPEGs are decoded by our own decoder."""
_READ: Final[dict[Route, dict[str, bool]]] = {
    "replay": {"foreign": True},
    "decode": {"foreign": True},
    "slices": {"slices": True},
    "whole": {},
}


def route(device: Device, decode_device: DecodeDevice, decoder: DecoderName, roi_decode: RoiDecode) -> Route:
    """Which way the options mean."""
    if roi_decode == "off":
        return "whole"
    if decoder == "dali" or decodes_on_gpu(device, decode_device):
        return "slices"
    return "replay" if device == "cpu" else "decode"


def compare_decoders(dataset: Dataset, machine: Machine) -> None:
    """Says it where the views that are shown will not be, in every byte, those that the teacher saw."""
    theirs = dataset.manifest.decoder
    ours = "nvJPEG" if decodes_on_gpu(machine.device, machine.decode_device) else "libjpeg-turbo"
    if theirs in (None, ours):
        return
    remedy = '. decode_device="cpu" takes that away' if theirs == "libjpeg-turbo" else ""
    _log.warning(
        "%s: the teacher saw images as %s decodes them; now %s does, whose pixels differ a little%s",
        dataset.path, theirs, ours, remedy,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Decoding:
    """Draws a graph's decoding.

    Args:
      route: which way.
      dr, fn, types: our operators, DALI's, and its types.
      device: where the views are made.
      on_gpu: DALI's decoder runs on the GPU.
      monitor: number of the plugin's monitor; -1: none.
      hw_decoder_load: as DALI's decoder takes it.
    """

    route: Route
    dr: Any
    fn: Any
    types: Any
    device: Device
    on_gpu: bool
    monitor: int = -1
    hw_decoder_load: float = 0.65

    @property
    def ours(self) -> bool:
        """Whether JPEGs are decoded by our own decoder."""
        return self.route in OURS

    @property
    def reading(self) -> dict[str, bool]:
        """What `fn.dr.read` is to give besides."""
        return _READ[self.route]

    def views(self, params: Any, images: Sequence[Any], partners: Sequence[Any], replay: dict[str, Any]) -> Any:
        """Decodes and replays.

        Args:
          params: views.
          images: what `fn.dr.read` gave of the images: bytes, roi_start, roi_shape, and what `reading` asks for.
          partners: the same of the partners; empty without mixing.
          replay: more arguments of `fn.dr.replay`.
        """
        by_dali = {0: self._by_dali, 1: self._by_dali_partner}
        both = [images, partners] if partners else [images]
        at = {"slices": 3, "whole": None}.get(self.route, 1)  # where a region's place in the source stands
        names = ("origin", "partner_origin")
        origins = {} if at is None else {name: one[at] for name, one in zip(names, both, strict=False)}
        if self.ours:
            foreign = [self._foreign(one, by_dali[n]) for n, one in enumerate(both)]
        if self.route == "replay":
            first, *second = (one[0] for one in both)
            return self.dr.replay(first, params, *second, *foreign, pixels=True, **origins, **replay)
        if self.route == "decode":
            how = {"monitor": self.monitor}
            decoded = [self.dr.decode(*one[:3], foreign[n], partner=n == 1, **how).gpu() for n, one in enumerate(both)]
        else:
            decoded = [by_dali[n](one) for n, one in enumerate(both)]
            decoded = [pixels if self.on_gpu or self.device == "cpu" else pixels.gpu() for pixels in decoded]
        return self.dr.replay(decoded[0], params, *decoded[1:], **origins, **replay)

    def _by_dali(self, given: Sequence[Any]) -> Any:
        arguments = decoder_arguments(self.on_gpu, hw_decoder_load=self.hw_decoder_load)
        encoded, start, shape = given[:3]
        if self.route == "whole":
            return self.fn.decoders.image(encoded, **arguments)
        return self.fn.decoders.image_slice(encoded, start=start, shape=shape, axis_names="HW", **arguments)

    def _by_dali_partner(self, given: Sequence[Any]) -> Any:
        def decode_partner() -> Any:  # by this name an error's traceback tells it (images/decoder.py)
            return self._by_dali(given)

        return decode_partner()

    def _foreign(self, given: Sequence[Any], by_dali: Callable[[Sequence[Any]], Any]) -> Any:
        *inputs, foreign = given
        return where_foreign(self.fn, self.types, foreign, inputs, by_dali)


def where_foreign(
    fn: Any, types: Any, foreign: Any, inputs: Sequence[Any], by_dali: Callable[[Sequence[Any]], Any]
) -> Any:
    """Pixels of what our decoder does not decode, one pixel elsewhere.

    This is ``if foreign: pixels = by_dali(…) else: pixels = …`` as DALI's conditionals draw it, without their rewriting of
    every function on the way. Where no image of a batch is such, nothing is decoded.

    Args:
      fn, types: DALI's.
      foreign: bool per sample.
      inputs: what `by_dali` takes.
      by_dali: makes pixels of those of them that are of foreign images.
    """
    conditional = fn._conditional
    split = [conditional.split(one, predicate=foreign, _if_stmt=True) for one in inputs]
    nothing = types.Constant(np.zeros((1, 1, 3), np.uint8), device="cpu", layout="HWC")
    _, others = conditional.split(nothing, predicate=foreign, _if_stmt=True)
    return conditional.merge(by_dali([which for which, _ in split]), others, predicate=foreign)
