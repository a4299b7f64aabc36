"""Does the GPU's JPEG decoder ever give other pixels for the same bytes? Batches in turn, a busy device, reused buffers.

    python bench/decode_stress.py --data DIR [--roi-decode off] [--iterations 200] [--json FILE]

pytorch/vision issue 9606 reports that nvJPEG's hardware path on H100 writes before the caller's stream is ready: a buffer that
earlier work still reads is overwritten. Here each of several different batches is decoded over and over by one pipeline, while
another stream multiplies matrices and the pipeline's own later stages (replay, padding) still read the buffers that the next
batch is decoded into. Every result is compared with that of the same batch decoded alone, each step awaited. A sample that
differs once is corrupt; with the same batch over and over an early write would write the same bytes and be seen by nobody,
hence the turns.

Configurations: hw_decoder_load 0.65 (DALI's default), 0.99 and 0; regions, as training decodes, or with --roi-decode off whole
images. Where one of them differs, the same is tried again with remedies (no asynchronous execution; one batch in flight), so
that one run tells what is safe.
"""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import proof_step
import replay_op
import torch
from PIL import Image

LOADS = (0.65, 0.99, 0.0)  # the default first, in case time runs out
BATCHES = 3  # in turn
REMEDIES: dict[str, dict[str, Any]] = {
    "one batch in flight": {"prefetch_queue_depth": 1},
    "not asynchronous": {"prefetch_queue_depth": 1, "exec_async": False, "exec_pipelined": False},
}


def main() -> int:
    parser = proof_step.parser(__doc__)
    parser.add_argument("--iterations", type=int, default=200, help="per configuration (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    if options.device == "cpu":
        options.iterations, options.batch_size = min(options.iterations, 2 * BATCHES), min(options.batch_size, 4)
    results = proof_step.Results(options)
    feeds = make_feeds(options.data, options.batch_size)
    corrupt = iterations = 0
    region = options.roi_decode == "on"
    for load in LOADS:
        if results.time_is_up:
            results.put("left out", "the rest: time is up")
            break
        name = f"hw_decoder_load {load}, {'regions' if region else 'whole images'}"
        row = stress(feeds, load, region, options, {})
        results.put(name, row)
        corrupt, iterations = corrupt + row["iterations_that_differ"], iterations + row["iterations"]
        for remedy, arguments in REMEDIES.items() if row["iterations_that_differ"] else ():
            results.put(f"{name}, {remedy}", stress(feeds, load, region, options, arguments))
    results.put("total", {"iterations_that_differ": corrupt, "iterations": iterations})
    return int(corrupt > 0)


Feed = tuple[list[Any], list[Any], list[Any], list[Any]]  # JPEG bytes, starts, shapes, packed views of the region


def make_feeds(data: Path, batch_size: int) -> list[Feed]:
    """Different batches of JPEG files, with a random region and augmentations of each."""
    from dali_dr import Dataset

    dataset = Dataset(data / "plain")
    rng = np.random.default_rng(0)
    feeds: list[Feed] = []
    for number in range(BATCHES):
        images, starts, shapes, words = [], [], [], []
        for k in range(batch_size):
            encoded = dataset.image((number * batch_size + k) % len(dataset))
            width, height = image_size(encoded)
            view = replay_op.draw(rng, height, width, 2, 0.0)
            images.append(np.frombuffer(encoded, np.uint8))
            starts.append(view[:2].copy())
            shapes.append(view[2:4].copy())
            words.append(view)
        feeds.append((images, starts, shapes, words))
    return feeds


def image_size(encoded: bytes) -> tuple[int, int]:
    import io

    return Image.open(io.BytesIO(encoded)).size


class Busy:
    """Keeps the device busy with matrix products on a stream of their own."""

    def __init__(self, gpu: bool) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True) if gpu else None

    def _work(self) -> None:
        a = torch.randn(2048, 2048, device="cuda", dtype=torch.bfloat16)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            while not self._stop.is_set():
                for _ in range(20):
                    a @ a
                stream.synchronize()

    def __enter__(self) -> None:
        if self._thread:
            self._thread.start()

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()


def pipeline(
    feeds: list[Feed], load: float, region: bool, options: argparse.Namespace, execution: dict[str, Any]
) -> Any:
    """Decodes the feeds in turn; returns views of the decoded pixels, and the pixels themselves, padded to one shape."""
    import nvidia.dali as dali
    from nvidia.dali import fn, types

    from dali_dr import _plugin

    _plugin.load()
    gpu = options.device == "gpu"
    decoder: dict[str, Any] = {"output_type": types.RGB, "adjust_orientation": False}
    decoder |= {"device": "mixed", "hw_decoder_load": load} if gpu else {"device": "cpu"}

    @dali.pipeline_def(
        batch_size=options.batch_size, num_threads=options.threads, device_id=0 if gpu else None, **execution
    )
    def graph() -> Any:
        def source(part: int, ndim: int) -> Any:
            return fn.external_source(
                lambda info: feeds[info.iteration % len(feeds)][part], batch=True, batch_info=True, ndim=ndim
            )

        encoded, start, shape, words = (source(part, 1) for part in range(4))
        if region:
            pixels = fn.decoders.image_slice(encoded, start=start, shape=shape, axis_names="HW", **decoder)
            views = fn.dr.replay(pixels, words, size=224, origin=start)
        else:
            pixels = fn.decoders.image(encoded, **decoder)
            views = fn.dr.replay(pixels, words, size=224)
        return views, fn.pad(pixels, fill_value=0)

    made = graph()
    made.build()
    return made


def tensors(outputs: Any) -> list[torch.Tensor]:
    """DALI's outputs as tensors on their device, without a copy."""
    return [torch.utils.dlpack.from_dlpack(output.as_tensor()) for output in outputs]


def stress(
    feeds: list[Feed], load: float, region: bool, options: argparse.Namespace, execution: dict[str, Any]
) -> dict[str, Any]:
    alone = pipeline(
        feeds, load, region, options, {"prefetch_queue_depth": 1, "exec_async": False, "exec_pipelined": False}
    )
    want = []
    for _ in feeds:
        want.append([t.clone() for t in tensors(alone.run())])
        if options.device == "gpu":
            torch.cuda.synchronize()  # before the pipeline may write there again
    del alone
    tested = pipeline(feeds, load, region, options, execution)
    differ, samples, largest = 0, 0, 0
    with Busy(options.device == "gpu"):
        for iteration in range(options.iterations):
            outputs = tested.run()
            bad = torch.zeros(options.batch_size, dtype=torch.bool)
            for got, expected in zip(tensors(outputs), want[iteration % len(feeds)], strict=True):
                rows = (got != expected).flatten(1).any(1)
                if rows.any():
                    bad |= rows.cpu()
                    largest = max(largest, int((got.int() - expected.int()).abs().max()))
            differ, samples = differ + bool(bad.any()), samples + int(bad.sum())
            del outputs
    return {
        "iterations_that_differ": differ,
        "iterations": options.iterations,
        "samples_that_differ": samples,
        "largest_difference": largest,
    }


if __name__ == "__main__":
    sys.exit(main())
