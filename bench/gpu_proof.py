"""What the GPU path must show, measured: run by gpu_proof.sh on a machine with a GPU, or alone.

    python bench/gpu_proof.py --photos DIR --json FILE [--parts copy replay loaders train gap] [--device cpu]

  copy     bandwidth of a device-to-device copy, bytes read and written: the ceiling of memory-bound work
  replay   fn.dr.replay alone on decoded crops that already lie on the device, per variant: images per second of the whole
           pipeline and of the kernels by themselves (from the profiler), the bytes that must move (crop in, view out)
           per second, and their share of the copy bandwidth
  loaders  bench/throughput.py's loaders: decode alone, stock DALI, stock DALI with rand_augment, ours; first the two that
           matter over hw_decoder_load x threads, then all of them where stock DALI was fastest
  train    milliseconds per training step (channels-last, autocast) fed by stock DALI and by ours, and by a batch that
           is on the device already
  gap      stored crops of the same photos decoded by the GPU and by the CPU, then replayed: largest and mean difference
           of levels, and with --teacher the teacher's mean KL divergence between the two

With --device cpu everything runs small on the CPU, to check this script where there is no GPU. Without --photos pictures
are made here; rates of decoders then say little. Every part writes the JSON anew, so that a run that is cut off keeps
what it has.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import replay_op
import throughput
import torch
from PIL import Image

PARTS = ("copy", "replay", "loaders", "train", "gap")
MODELS = {"resnet50": 128, "mobilenetv3_large_100": 256, "swin_tiny_patch4_window7_224": 128}  # timm name: batch size
Options = argparse.Namespace


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of JPEG files, or a data set with all of rrc+ra+re")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--seconds", type=float, default=2.0, help="per measurement")
    parser.add_argument("--deadline", type=float, default=math.inf, help="seconds after which nothing new is begun")
    parser.add_argument("--teacher", help="name for dali_dr.reinforce.teachers.load_teacher, in part gap")
    parser.add_argument("--tests", help="outcome of the gpu tests, to be kept with the figures")
    options = parser.parse_args()
    options.end = time.monotonic() + options.deadline
    options.gpu = options.device == "gpu"
    report: dict[str, Any] = {"machine": throughput.machine() | driver(), "tests": options.tests}
    with tempfile.TemporaryDirectory(prefix="dali-dr-proof-") as folder:
        scratch = Path(folder)
        if {"loaders", "train", "gap"} & set(options.parts):
            photos = options.photos or make_photos(scratch / "made", options)
            report["data"] = throughput.prepare(photos, scratch, ("ours_rrc_mixing_ra_re",))
        for part in options.parts:
            begin = time.monotonic()
            try:
                report[part] = globals()[f"part_{part}"](scratch, options, report)
            except Exception:
                report[part] = {"error": traceback.format_exc(limit=4)}
                print(report[part]["error"], file=sys.stderr)
            report.setdefault("seconds", {})[part] = round(time.monotonic() - begin, 1)
            if options.json:
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_text(json.dumps(report, indent=1) + "\n")
    table(report)
    return int(any("error" in report[part] for part in options.parts))


def driver() -> dict[str, Any]:
    from dali_dr import _plugin

    facts: dict[str, Any] = {"plugin": _plugin.build_facts(), "torch_cuda": torch.version.cuda}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "multiprocessors": properties.multi_processor_count,
            "capability": f"{properties.major}.{properties.minor}",
            "driver": os.popen("nvidia-smi --query-gpu=driver_version --format=csv,noheader").read().strip(),
        }
    return facts


def make_photos(folder: Path, options: Options) -> Path:
    """Pictures of ImageNet's usual size, where no photos were given."""
    (folder / "class").mkdir(parents=True)
    y, x = np.mgrid[0:375, 0:500]
    for number in range(256 if options.gpu else 16):
        rng = np.random.default_rng(number)
        waves = [127 + 90 * np.sin(rng.uniform(0.01, 0.2) * y + rng.uniform(0.01, 0.2) * x) for _ in range(3)]
        pixels = np.stack(waves, -1) + rng.normal(0, 12, (375, 500, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(
            folder / "class" / f"{number:04d}.jpg", quality=90
        )
    return folder


def synchronise(options: Options) -> None:
    if options.gpu:
        torch.cuda.synchronize()


def part_copy(scratch: Path, options: Options, report: dict[str, Any]) -> dict[str, Any]:
    size = 2**32 if options.gpu else 2**26  # several times any cache
    device = "cuda" if options.gpu else "cpu"
    a, b = torch.zeros(size, dtype=torch.uint8, device=device), torch.zeros(size, dtype=torch.uint8, device=device)
    best = math.inf
    for _ in range(8):
        synchronise(options)
        begin = time.perf_counter()
        b.copy_(a)
        synchronise(options)
        best = min(best, time.perf_counter() - begin)
    return {"gb_per_s": round(2 * size / best / 1e9, 1)}


# ---- replay alone


def variants() -> dict[str, tuple[int, float, dict[str, Any]]]:
    """Name: (operations, probability of an erase, arguments of the operator)."""
    from nvidia.dali import types

    normalised: dict[str, Any] = {"mean": throughput.MEAN, "std": throughput.STD}
    half = normalised | {"dtype": types.FLOAT16}
    return {
        "rrc float16": (0, 0.0, half),
        "rrc+ra+re float16": (2, 0.25, half),
        "rrc+ra+re float16 HWC": (2, 0.25, half | {"output_layout": "HWC"}),
        "rrc+ra+re bfloat16": (2, 0.25, normalised | {"dtype": types.INT16}),
        "rrc+ra+re float32": (2, 0.25, normalised | {"dtype": types.FLOAT}),
        "rrc+ra+re uint8": (2, 0.25, {}),
        "rrc+ra+re float16 bicubic": (2, 0.25, half | {"interpolation": "bicubic"}),
        "rrc+ra+re float16 160": (2, 0.25, half | {"size": 160, "stored_size": 224}),
        "rrc+ra+re float16 288": (2, 0.25, half | {"size": 288, "stored_size": 224}),
        "rrc+ra+re float16 384": (2, 0.25, half | {"size": 384, "stored_size": 224}),
        "rrc+mixing+ra+re float16": (2, 0.25, half | {"mixing": True}),
    }


def part_replay(scratch: Path, options: Options, report: dict[str, Any]) -> dict[str, Any]:
    ceiling = report.get("copy", {}).get("gb_per_s")
    results: dict[str, Any] = {}
    batches = (64, 256, 512) if options.gpu else (8,)
    for name, (ops, erase, arguments) in variants().items():
        for batch in batches if name == "rrc+ra+re float16" else batches[-2:][:1]:
            if time.monotonic() > options.end:
                return results
            row = replay_alone(batch, ops, erase, arguments, options)
            if ceiling:
                row["share_of_copy"] = round(row["gb_per_s"] / ceiling, 4)
            results[f"{name}, batch {batch}"] = row
            print(f"{name}, batch {batch}: {row}", file=sys.stderr)
    return results


def replay_alone(batch: int, ops: int, erase: float, arguments: dict[str, Any], options: Options) -> dict[str, Any]:
    import nvidia.dali as dali
    from nvidia.dali import fn

    from dali_dr import _plugin

    _plugin.load()
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (375 * 500 * 3,)).astype(np.uint8)
    smooth = np.sort(noise.reshape(-1, 100), axis=1).reshape(-1)  # neighbours are near each other, as in photos
    feeds, crop_bytes = [], 0
    arguments = {"size": 224, **arguments}
    mixing = arguments.pop("mixing", False)
    mix = np.array([0, 0, np.float32(0.7).view(np.int32), 60, 40, 90, 120], np.int32)  # MixUp and CutMix
    for _ in range(4):  # different batches in turn, as in training
        feed: list[list[Any]] = []
        for _ in range(2 if mixing else 1):  # the images, and their partners
            words = [replay_op.draw(rng, 375, 500, ops, erase) for _ in range(batch)]
            crops: list[Any] = [smooth[: int(w[2] * w[3] * 3)].reshape(w[2], w[3], 3).copy() for w in words]
            crop_bytes += sum(c.size for c in crops)
            if options.gpu:
                crops = [torch.from_numpy(c).cuda() for c in crops]
            feed += [crops, words, [w[:2].copy() for w in words]]
        if mixing:
            feed[1] = [np.concatenate([a, mix, b]) for a, b in zip(feed[1], feed[4], strict=True)]
        feeds.append(feed)

    @dali.pipeline_def(batch_size=batch, num_threads=len(os.sched_getaffinity(0)), device_id=0 if options.gpu else None)
    def graph() -> Any:
        def source(part: int) -> Any:
            return lambda info: feeds[info.iteration % len(feeds)][part]

        where: dict[str, Any] = {"device": "gpu"} if options.gpu else {}

        def pixels(part: int) -> Any:
            return fn.external_source(source(part), batch=True, batch_info=True, no_copy=True, ndim=3, **where)

        def numbers(part: int) -> Any:
            return fn.external_source(source(part), batch=True, batch_info=True, ndim=1)

        if mixing:
            return fn.dr.replay(
                pixels(0), numbers(1), pixels(3), origin=numbers(2), partner_origin=numbers(5), **arguments
            )
        return fn.dr.replay(pixels(0), numbers(1), origin=numbers(2), **arguments)

    pipeline = graph()
    pipeline.build()
    (out,) = pipeline.run()
    out_bytes = sum(math.prod(shape) for shape in out.shape()) * np.dtype(dtype_name(out)).itemsize
    del out

    def run(seconds: float) -> float:
        images = 0
        synchronise(options)
        begin = time.perf_counter()
        while time.perf_counter() < begin + seconds:
            for _ in range(4):
                pipeline.run()
                images += batch
        synchronise(options)
        return images / (time.perf_counter() - begin)

    run(0.3)
    rate = run(options.seconds)
    moved = crop_bytes / len(feeds) / batch + out_bytes / batch
    row = {"img_per_s": round(rate), "bytes_per_img": round(moved)}
    kernels = kernel_rate(pipeline, batch) if options.gpu else None
    if kernels:
        row |= {"kernel_img_per_s": round(kernels)}
    row["gb_per_s"] = round((kernels or rate) * moved / 1e9, 1)
    return row


def dtype_name(out: Any) -> str:
    return {"UINT8": "uint8", "FLOAT16": "float16", "INT16": "int16", "FLOAT": "float32"}[str(out.dtype).split(".")[-1]]


def kernel_rate(pipeline: Any, batch: int, runs: int = 40) -> float | None:
    """Images per second of the replay kernels alone, from their times on the device."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(runs):
            pipeline.run()
        torch.cuda.synchronize()
    spent = [e for e in profiler.key_averages() if "ReplayIn" in e.key]
    launches = max((e.count for e in spent), default=0)
    microseconds = sum(getattr(e, "device_time_total", None) or getattr(e, "cuda_time_total", 0) for e in spent)
    return launches * batch / (microseconds / 1e6) if microseconds else None


# ---- end to end


def part_loaders(scratch: Path, options: Options, report: dict[str, Any]) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0))
    batch = 256 if options.gpu else 8
    results: dict[str, Any] = {"grid": {}, "all": {}, "batch": batch}

    def measure(name: str, load: float, threads: int) -> float:
        settings = Options(
            seconds=options.seconds, threads=threads, batch_size=batch, device=options.device, hw_decoder_load=load
        )
        return throughput.in_fresh_process(name, scratch, settings)

    grid = (
        itertools.product((0.12, 0.5, 0.65, 0.99), sorted({max(1, cores // 2), cores}))
        if options.gpu
        else [(0.65, cores)]
    )
    best = (0.65, cores)
    top = 0.0
    for load, threads in grid:
        if time.monotonic() > options.end:
            break
        row = {name: round(measure(name, load, threads), 1) for name in ("dali_plain", "ours_rrc_ra_re")}
        results["grid"][f"hw_decoder_load {load}, {threads} threads"] = row
        print(load, threads, row, file=sys.stderr)
        if row["dali_plain"] > top:
            top, best = row["dali_plain"], (load, threads)
    results["best_for_stock"] = {"hw_decoder_load": best[0], "threads": best[1]}
    names: tuple[str, ...] = (
        "decode_full",
        "decode_roi",
        "dali_plain",
        "dali_rand_augment",
        "ours_rrc",
        "ours_rrc_ra_re",
    )
    names += ("ours_rrc_mixing_ra_re", "ours_plain", "ours_eval")
    for _ in range(3 if options.gpu else 1):  # rounds over all, so that drift hits all alike
        for name in names:
            if time.monotonic() < options.end:
                results["all"].setdefault(name, []).append(round(measure(name, *best), 1))
    return results


# ---- training


def endlessly(iterator: Any) -> Iterator[dict[str, torch.Tensor]]:
    while True:
        for batch in iterator:
            yield batch[0]


def numbers(text: torch.Tensor) -> torch.Tensor:
    """Class ids from padded ASCII, on the device."""
    value = torch.zeros(len(text), dtype=torch.int64, device=text.device)
    for column in text.T.to(torch.int64):
        value = torch.where(column == 32, value, value * 10 + column - 48)
    return value


def part_train(scratch: Path, options: Options, report: dict[str, Any]) -> dict[str, Any]:
    from dali_dr._torchvision import load_torchvision

    load_torchvision()  # before timm, which imports it
    import timm

    import dali_dr
    from dali_dr.losses import kl_divergence

    torch.backends.cudnn.benchmark = True
    device = "cuda" if options.gpu else "cpu"
    best = report.get("loaders", {}).get(
        "best_for_stock", {"hw_decoder_load": 0.65, "threads": len(os.sched_getaffinity(0))}
    )
    results: dict[str, Any] = {}
    for model_name, size in MODELS.items():
        batch = size if options.gpu else 2
        settings = Options(batch_size=batch, device=options.device, **best)
        row: dict[str, Any] = {"batch": batch}
        for feed in ("plain", "ours", "resident", "plain", "ours"):  # both twice: the order must not matter
            if time.monotonic() > options.end:
                break
            torch.manual_seed(0)
            model = timm.create_model(model_name, num_classes=1000).to(device, memory_format=torch.channels_last)
            optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, fused=options.gpu)
            if feed == "plain":
                batches = endlessly(throughput.stock_iterator(False, scratch, settings))
            elif feed == "ours":
                batches = endlessly(
                    dali_dr.ReinforcedIterator(
                        scratch / "rrc+ra+re",
                        batch_size=batch,
                        device=options.device,
                        num_threads=settings.threads,
                        hw_decoder_load=settings.hw_decoder_load,
                        size=throughput.SIZE,
                        last_batch="fill",
                    )
                )
            else:
                fixed = {"data": torch.randn(batch, 3, throughput.SIZE, throughput.SIZE, device=device)}
                fixed["label"] = torch.full((batch, 3), 49, dtype=torch.uint8, device=device)
                batches = itertools.repeat(fixed)

            def step(
                batch: dict[str, torch.Tensor], feed: str = feed, model: Any = model, optimizer: Any = optimizer
            ) -> None:
                images = batch["data"].to(memory_format=torch.channels_last)
                with torch.autocast(device, dtype=torch.bfloat16, enabled=options.gpu):
                    logits = model(images)
                    if feed == "ours":
                        loss = kl_divergence(logits, batch["soft_ids"], batch["soft_probs"])
                    else:
                        loss = torch.nn.functional.cross_entropy(logits, numbers(batch["label"]))
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            row.setdefault(feed, []).append(round(milliseconds(step, batches, options), 2))
            del model, optimizer, batches, step
        results[model_name] = row
        print(model_name, row, file=sys.stderr)
    return results


def milliseconds(step: Callable[[dict[str, torch.Tensor]], None], batches: Iterator[Any], options: Options) -> float:
    warm, count = (12, 40) if options.gpu else (1, 1)
    for batch in itertools.islice(batches, warm):
        step(batch)
    synchronise(options)
    begin = time.perf_counter()
    for batch in itertools.islice(batches, count):
        step(batch)
    synchronise(options)
    return 1000 * (time.perf_counter() - begin) / count


# ---- decoders


def part_gap(scratch: Path, options: Options, report: dict[str, Any]) -> dict[str, Any]:
    import dali_dr

    teacher = None
    if options.teacher:
        from dali_dr.reinforce.teachers import load_teacher

        teacher = load_teacher(options.teacher, "cuda" if options.gpu else "cpu")
    results: dict[str, Any] = {}
    for variant in ("rrc", "rrc+ra+re"):
        common = {
            "batch_size": 32,
            "dtype": "uint8",
            "size": throughput.SIZE,
            "order": "sequential",
            "with_index": True,
        }
        cpu = dali_dr.ReinforcedIterator(scratch / variant, device="cpu", **common)
        gpu = dali_dr.ReinforcedIterator(scratch / variant, device=options.device, **common)
        largest, total, values, divergences = 0, 0.0, 0, []
        for (want,), (got,) in zip(itertools.islice(cpu, 8), gpu, strict=False):
            assert (want["index"] == got["index"].cpu()).all() and (want["view"] == got["view"].cpu()).all()
            gap = (got["data"].cpu().int() - want["data"].int()).abs()
            largest, total, values = max(largest, int(gap.max())), total + float(gap.sum()), values + gap.numel()
            if teacher:
                p, q = (
                    teacher.predict(x.to("cuda" if options.gpu else "cpu")).double()
                    for x in (want["data"], got["data"])
                )
                divergences += (p * ((p + 1e-12).log() - (q + 1e-12).log())).sum(1).tolist()
        results[variant] = {
            "max_levels": largest,
            "mean_levels": round(total / values, 4),
            "views": values // (3 * throughput.SIZE**2),
        }
        if divergences:
            results[variant] |= {"teacher": options.teacher, "mean_kl_nats": statistics.mean(divergences)}
    return results


# ---- the table


def table(report: dict[str, Any]) -> None:
    machine = report["machine"]
    print(
        f"\n{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, {machine['date']}; tests: {report['tests']}"
    )
    if "gb_per_s" in report.get("copy", {}):
        print(f"{'copy bandwidth':44}{report['copy']['gb_per_s']:>12} GB/s")
    for name, row in report.get("replay", {}).items():
        if isinstance(row, dict):
            kernels, share = row.get("kernel_img_per_s", "-"), row.get("share_of_copy", "-")
            rates = f"{row['img_per_s']:>12} img/s  kernels {kernels:>9}"
            print(f"{name:44}{rates}  {row['gb_per_s']:>7} GB/s  {share} of copy")
    loaders = report.get("loaders", {})
    medians = {name: statistics.median(rates) for name, rates in loaders.get("all", {}).items()}
    for name, rate in medians.items():
        print(f"{name:44}{rate:>12.0f} img/s")
    for other in ("dali_plain", "dali_rand_augment", "decode_roi"):
        if other in medians and "ours_rrc_ra_re" in medians:
            print(f"{'ours_rrc_ra_re ÷ ' + other:44}{medians['ours_rrc_ra_re'] / medians[other]:>12.3f}")
    for name, row in report.get("train", {}).items():
        if isinstance(row, dict) and "plain" in row and "ours" in row:
            plain, ours = min(row["plain"]), min(row["ours"])
            print(f"{'step ' + name:44}{plain:>9} ms plain {ours:>9} ms ours  ratio {ours / plain:.3f}")
    for name, row in report.get("gap", {}).items():
        if isinstance(row, dict):
            kl = f", teacher's KL {row['mean_kl_nats']:.2e} nats" if "mean_kl_nats" in row else ""
            print(
                f"{'GPU against CPU decoder, ' + name:44}max {row['max_levels']}, mean {row['mean_levels']} levels{kl}"
            )
    for part in PARTS:
        if "error" in report.get(part, {}):
            print(f"part {part} failed: {report[part]['error'].strip().splitlines()[-1]}")


if __name__ == "__main__":
    sys.exit(main())
