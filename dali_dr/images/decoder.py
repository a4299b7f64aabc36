"""The decoder that training uses, asked for images that may be damaged: pixels, or why there are none."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dali_dr.errors import DaliDrError
from dali_dr.images.overheard import Overheard

Pixels = npt.NDArray[np.uint8]
Region = tuple[int, int, int, int]
"""(y, x, height, width) in pixels of the image as stored."""

PARTNERS_DECODER: Final = "decode_partner"
"""The function of the loader's graph that decodes partners, which DALI names in its messages."""

_DECODERS: Final = "nvidia.dali.fn.decoders."
_CONTEXT: Final = ("Critical error in pipeline", "Current pipeline object is no longer valid")
_OF_FILE: Final = (3, 4, 17)  # statuses that parsing an image file's header ends with
_STATUS: Final = {  # nvimgcodecStatus_t
    1: "not initialised",
    2: "invalid parameter",
    3: "damaged image file",
    4: "an image file of a kind that it does not know, or none at all",
    5: "out of memory",
    6: "the decoder failed",
    7: "not made for this device",
    8: "internal error",
    9: "a kind of image that it does not support",
    10: "something that it depends on is missing",
    12: "invalid parameter",  # from here on of an extension: a parser or a decoder
    13: "damaged image file",
    14: "a kind of image that it does not support",
    15: "out of memory",
    17: "damaged image file, or one that it does not understand",
    18: "a kind of image that it does not support",
    19: "cut-off image file",
    20: "the decoder failed",
}
_used = False  # whether this process has built a pipeline
_forked = False  # whether it is a fork of one that had
_KEPT_BYTES: Final = 100 << 20  # of a batch's pixels, above which the buffers are given back


@dataclass(frozen=True)
class DecoderFailure:
    """What DALI says of an image that cannot be decoded.

    Attributes:
      reason: the decoder's, as far as DALI hands it on: nvImageCodec's own words go to the standard error stream.
      place: in the batch, where it is said; a header that cannot be parsed is not placed.
      partner: it is the image that a view is mixed with.
      of_file: it is so whatever region is asked for.
    """

    reason: str
    place: int | None
    partner: bool
    of_file: bool


def decoder_failure(text: str) -> DecoderFailure | None:
    """Reads DALI's message; None if it was no decoder that failed."""
    if _DECODERS not in text:
        return None
    reason = cleaned(text)
    placed = re.search(r"sample #(\d+)", reason)
    status = re.search(r"nvImageCodec failure: '#(\d+)'", reason)
    code = int(status[1]) if status else 0
    if status:
        reason = f"nvImageCodec: {_STATUS.get(code, 'status')} ({code})"
    elif placed and reason[placed.end() :].strip(" :\n"):
        reason = reason[placed.end() :].strip(" :\n")
    return DecoderFailure(
        reason, int(placed[1]) if placed else None, f"in {PARTNERS_DECODER}\n" in text, code in _OF_FILE
    )


def cleaned(text: str) -> str:
    """What DALI says, without its own context."""
    lines = (line.strip() for line in text.rpartition("encountered:")[2].splitlines())
    return "\n".join(line for line in lines if line and not line.startswith(_CONTEXT))


def _in_child() -> None:
    global _forked
    _forked = _forked or _used


os.register_at_fork(after_in_child=_in_child)


def decoder_arguments(on_gpu: bool, **gpu_only: Any) -> dict[str, Any]:
    """Arguments of DALI's decoders. Boxes are in pixels of the file, so EXIF orientation is not applied.

    Raises:
      DaliDrError: this process is a fork of one that used DALI, whose threads are not here: it would hang.
    """
    from nvidia.dali import types

    global _used
    if _forked:
        raise DaliDrError(
            "DALI was used in the process that this one is a fork of, and would hang here: start processes by spawn "
            "(multiprocessing.get_context('spawn')), or before the first loader is made or image judged; to write shards in a "
            "fork pass check_images=False",
            kind="argument",
        )
    _used = True
    where = {"device": "mixed", **gpu_only} if on_gpu else {"device": "cpu"}
    return {"output_type": types.RGB, "adjust_orientation": False, **where}


class Decoder:
    """Decodes batches on the CPU, images that fail among them or not. For one thread at a time.

    Args:
      threads: of the CPU.
      batch_size: images at a time, at most.
    """

    def __init__(self, threads: int, batch_size: int) -> None:
        self._threads, self._batch_size = threads, batch_size
        self._pipelines: dict[bool, Any] = {}  # with the whole image as an output, and without
        self._given: tuple[list[Any], ...] = ()

    def decode(
        self, images: Sequence[bytes], regions: Sequence[Region], *, whole: bool = True
    ) -> Iterator[tuple[int, Pixels | None, Pixels] | tuple[int, str]]:
        """Decodes a region of each image, and all of it.

        Args:
          images: encoded, at most `batch_size`.
          regions: one for each image, within it.
          whole: whether to decode all of each image, too; the same image may be among them with several regions.

        Yields:
          In any order, for each image its place, its pixels (H, W, 3), or None, and those of its region, all valid until the
          next is asked for; or its place and why it cannot be decoded.
        """
        waiting = [list(range(len(images)))]
        while waiting:
            if not (places := waiting.pop()):  # which would end a pipeline
                continue
            outcome = self._run([images[n] for n in places], [regions[n] for n in places], whole)
            if not isinstance(outcome, str):
                for at, place in enumerate(places):
                    pixels = [output[at] for output in outcome]
                    yield place, (pixels[0] if whole else None), pixels[-1]
                if (
                    sum(pixels.size for pixels in outcome[0]) > _KEPT_BYTES
                ):  # not before: they are the pipeline's memory
                    self._pipelines.pop(whole, None)
                continue
            failure = decoder_failure(outcome)
            if len(places) == 1:
                yield places[0], outcome if failure is None else self._reasons(outcome, failure)
            elif failure is not None and failure.place is not None and failure.place < len(places):
                waiting += [places[: failure.place] + places[failure.place + 1 :], [places[failure.place]]]
            else:
                half = len(places) // 2
                waiting += [places[half:], places[:half]]

    def _run(self, images: list[bytes], regions: list[Region], whole: bool) -> list[Any] | str:
        """The outputs of the pipeline, or what is wrong."""
        arrays = [np.frombuffer(data, np.uint8) for data in images]
        boxes = np.array(regions, np.int32).reshape(-1, 4)
        self._given = (arrays, list(boxes[:, :2]), list(boxes[:, 2:]))
        self._heard = Overheard()
        # A pipeline that has failed is not used again; until it has succeeded it counts as such.
        pipeline = self._pipelines.pop(whole, None)
        try:
            with self._heard.listening():
                if pipeline is None:
                    pipeline = self._pipeline(whole)
                outputs = [output.as_cpu() for output in pipeline.run()]
        except RuntimeError as error:
            if pipeline is not None:
                pipeline._shutdown()
            return str(error)
        self._pipelines[whole] = pipeline
        return [[np.asarray(output[at]) for at in range(len(images))] for output in outputs]

    def _pipeline(self, whole: bool) -> Any:
        from nvidia.dali import fn, pipeline_def, types

        @pipeline_def(  # type: ignore[untyped-decorator]
            batch_size=self._batch_size, num_threads=self._threads, device_id=None, prefetch_queue_depth=1
        )
        def graph() -> tuple[Any, ...]:
            given: Callable[[], tuple[list[Any], ...]] = lambda: self._given  # noqa: E731
            encoded, start, shape = fn.external_source(
                given, num_outputs=3, dtype=[types.UINT8, types.INT32, types.INT32]
            )
            arguments = decoder_arguments(on_gpu=False)
            part = fn.decoders.image_slice(encoded, start=start, shape=shape, axis_names="HW", **arguments)
            return (fn.decoders.image(encoded, **arguments), part) if whole else (part,)

        pipeline = graph()
        pipeline.build()
        return pipeline

    def _reasons(self, text: str, failure: DecoderFailure) -> str:
        return "; ".join(self._heard.reasons) or failure.reason
