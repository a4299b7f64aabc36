"""Milliseconds per training step of one model, fed by stock DALI (plain), by ours (reinforced), and by a batch that is there.

    python bench/train_step.py --data DIR --model resnet50 --batch-size 128 [--json FILE]

Channels-last, autocast to bfloat16, SGD; one model for all feeds, which come in turn and the first two twice, so that order
does not matter. Plain learns from labels (cross-entropy), ours from the stored sparse targets (KL divergence).
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import proof_step
import torch

from dali_dr.throughput.loaders import our_iterator, stock_iterator
from dali_dr.throughput.sets import SIZE

WARM, MEASURED = 10, 40  # steps


def main() -> int:
    parser = proof_step.parser(__doc__)
    parser.add_argument("--model", default="resnet50", help="timm's name")
    parser.add_argument("--batch-size", type=int, default=128)
    options = parser.parse_args()
    gpu = options.device == "gpu"
    if not gpu:
        options.batch_size = 2
    results = proof_step.Results(options)
    results.put(
        "settings",
        {n: getattr(options, n) for n in ("model", "batch_size", "hw_decoder_load", "roi_decode", "threads")},
    )
    from dali_dr._torchvision import load_torchvision

    load_torchvision()  # before timm, which imports it
    import timm

    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    device = "cuda" if gpu else "cpu"
    model = timm.create_model(options.model, num_classes=1000).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, fused=gpu)
    times: dict[str, list[float]] = {}
    for feed in ("plain", "ours", "resident", "plain", "ours"):
        if results.time_is_up:
            break
        batches = FEEDS[feed](options)
        times.setdefault(feed, []).append(round(milliseconds(step_of(feed, model, optimizer, gpu), batches, gpu), 2))
        results.put("milliseconds", times)
        del batches
    if times.get("ours"):
        results.put("ours_by_plain", round(min(times["ours"]) / min(times["plain"]), 4))
    return 0


Batch = dict[str, torch.Tensor]


def endlessly(iterator: Any) -> Iterator[Batch]:
    while True:
        for batch in iterator:
            yield batch[0]


def plain(options: argparse.Namespace) -> Iterator[Batch]:
    return endlessly(stock_iterator(False, options.data, options))


def ours(options: argparse.Namespace) -> Iterator[Batch]:
    return endlessly(our_iterator("rrc+ra+re", options.data, options))


def resident(options: argparse.Namespace) -> Iterator[Batch]:
    device = "cuda" if options.device == "gpu" else "cpu"
    fixed = {
        "data": torch.randn(options.batch_size, 3, SIZE, SIZE, device=device),
        "label": torch.full((options.batch_size, 3), 49, dtype=torch.uint8, device=device),
    }
    return itertools.repeat(fixed)


FEEDS: dict[str, Callable[[argparse.Namespace], Iterator[Batch]]] = {"plain": plain, "ours": ours, "resident": resident}


def numbers(text: torch.Tensor) -> torch.Tensor:
    """Class ids from padded ASCII, on the device."""
    value = torch.zeros(len(text), dtype=torch.int64, device=text.device)
    for column in text.T.to(torch.int64):
        value = torch.where(column == 32, value, value * 10 + column - 48)
    return value


def step_of(feed: str, model: Any, optimizer: Any, gpu: bool) -> Callable[[Batch], None]:
    from dali_dr.losses import kl_divergence

    def step(batch: Batch) -> None:
        images = batch["data"].to(memory_format=torch.channels_last)
        with torch.autocast("cuda" if gpu else "cpu", dtype=torch.bfloat16, enabled=gpu):
            logits = model(images)
            if feed == "ours":
                loss = kl_divergence(logits, batch["soft_ids"], batch["soft_probs"])
            else:
                loss = torch.nn.functional.cross_entropy(logits, numbers(batch["label"]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def milliseconds(step: Callable[[Batch], None], batches: Iterator[Batch], gpu: bool) -> float:
    warm, count = (WARM, MEASURED) if gpu else (1, 1)
    synchronise = torch.cuda.synchronize if gpu else lambda: None
    for batch in itertools.islice(batches, warm):
        step(batch)
    synchronise()
    begin = time.perf_counter()
    for batch in itertools.islice(batches, count):
        step(batch)
    synchronise()
    return 1000 * (time.perf_counter() - begin) / count


if __name__ == "__main__":
    sys.exit(main())
