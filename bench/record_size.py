"""Bytes per stored reinforcement, by column, and what lossy encodings lose, with real photos and a real teacher.

    python bench/record_size.py --photos DIR [--images 2] [--views 400] [--topk 10] [--teacher NAME] [--groups G …] [--json]

Views are drawn and replayed as in generation (Pillow replay); the teacher runs on the CPU at some 20 views a second.
With mixing, partners are drawn as from a data set of ImageNet's size, and the photos stand in for its images in turn.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from PIL import Image

from dali_dr.augment.draw import draw
from dali_dr.augment.reference import replay_pillow_mixed
from dali_dr.augment.spec import AugmentationSpec
from dali_dr.augment.views import NO_PARTNER
from dali_dr.record.decode import decode
from dali_dr.record.encode import encode
from dali_dr.record.labels import Reinforcements, order_by_confidence, sparsify
from dali_dr.reinforce.networks import Teacher
from dali_dr.reinforce.teachers import load_teacher

ENCODINGS = ("root8", "log8", "float16", "float32")
BATCH = 50  # views per call of the teacher
REPEATS = 20  # timed calls; the fastest counts
POPULATION = 1_281_167  # images of ImageNet: as many partner numbers


def reinforce(
    photo: Path, photos: list[Path], spec: AugmentationSpec, teacher: Teacher, views: int, topk: int
) -> dict[str, Any]:
    """One photo's reinforcements in stored order, as the keyword arguments of `encode`; ``photos`` hold the partners."""
    image = Image.open(photo).convert("RGB")
    drawn = draw(
        spec,
        seed=0,
        key=photo.stem,
        views=range(views),
        image_height=image.height,
        image_width=image.width,
        population=POPULATION,
        partner_size=lambda number: Image.open(photos[number % len(photos)]).size[::-1],
    )

    def replay(row: int) -> np.ndarray:
        number = NO_PARTNER if drawn.mix is None else int(drawn.mix.partner[row])
        partner = Image.open(photos[number % len(photos)]).convert("RGB") if number >= 0 else None
        return replay_pillow_mixed(image, partner, drawn, row, spec)

    probs = []
    for start in range(0, views, BATCH):
        rows = range(start, min(start + BATCH, views))
        probs.append(teacher.predict(torch.from_numpy(np.stack([replay(row) for row in rows]))).cpu())
    ids, values = sparsify(torch.cat(probs), topk)
    stored = Reinforcements.from_views(drawn, ids.numpy(), values.numpy())
    return {
        "reinforcements": stored.take(order_by_confidence(stored)),
        "image_height": image.height,
        "image_width": image.width,
        "view_size": (spec.size, spec.size),
    }


def unzip(member: bytes) -> list[tuple[bytes, bytes]]:
    """A member's zstd frames, and what they hold."""
    parts = []
    while member:
        frame = zstandard.ZstdDecompressor().decompressobj()
        content = frame.decompress(member)
        parts.append((member[: len(member) - len(frame.unused_data)], content))
        member = frame.unused_data
    return parts


def columns(parts: list[bytes]) -> dict[str, list[bytes]]:
    """The columns of a record's head and groups, cut by the tables in schemas/reinforcement-record.md."""
    head = parts[0]
    flags, rows, height, width = struct.unpack_from("<4I", head, 12)
    view_height, view_width, num_ops, op_entries, topk, class_entries, encoding = struct.unpack_from("<6HB", head, 28)
    partner_entries, group_rows = struct.unpack_from("<2xH4xI", head, 40)
    pair_rank = head[41]
    root_width = pair_rank + 1 + (topk - pair_rank + 1) // 2 if pair_rank else topk + min(topk, 1)
    row_bytes = root_width if encoding == 3 else topk * (4, 2, 1)[encoding]
    crop_bits = sum((side * (side + 1) // 2 - 1).bit_length() for side in (height, width))
    out: dict[str, list[bytes]] = {}

    def cut(part: bytes, lengths: dict[str, int]) -> bytes:
        for name, length in lengths.items():
            out.setdefault(name, []).append(part[:length])
            part = part[length:]
        return part

    # With PARTNER_CLASSES, several class tables; their sizes come first.
    largest = max(struct.unpack_from(f"<{partner_entries + 1}H", head, 52)) if flags & 64 else class_entries
    tables = class_entries * (4 if flags & 4 else 2) + (2 * (partner_entries + 1) if flags & 64 else 0)
    if flags & 128:  # packed
        tables = (class_entries * (flags >> 24 & 31) + 7) // 8
    rest = cut(
        head,
        {"header": 52, "class table": tables, "operation table": 5 * op_entries, "partner table": 4 * partner_entries},
    )
    groups = parts[1:] or [rest]
    for start, part in zip(range(0, rows, group_rows), groups, strict=True):
        lines = min(group_rows, rows - start)
        views = lines // 2 if flags & 32 else lines
        bit_column = (views + 7) // 8
        crops, flips = (views * crop_bits + 7) // 8, bit_column if flags & 1 else 0
        erased = part[crops + flips :][: bit_column if flags & 2 else 0]
        boxes = int.from_bytes(erased, "little").bit_count()
        lengths = {
            "crops": crops,
            "flips": flips,
            "erased": len(erased),
            "erase boxes": boxes * (8 if max(view_height, view_width) > 255 else 4),
            "operations": num_ops * views * (2 if op_entries > 256 else 1),
            "class indices": topk * lines * (2 if largest > 256 else 1),
            "probabilities": lines * row_bytes,
        }
        cut(part, lengths | {"mixing": len(part) - sum(lengths.values())})
    return out


def divergence(original: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """KL(original ‖ stored) of each row in nats; the probability outside the K classes is one further outcome."""

    def complete(probs: np.ndarray) -> np.ndarray:
        wide = probs.astype(np.float64)
        # The rest is a difference of float32 numbers near 1: known to some 1e-7 only.
        return np.hstack([wide, np.maximum(1 - wide.sum(axis=1, keepdims=True), 1e-7)])

    p, q = complete(original), complete(stored)
    return np.asarray(np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / np.maximum(q, 1e-300)), 0).sum(axis=1))


def fastest_us(call: Any, argument: Any) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call(argument)
        times.append(time.perf_counter() - start)
    return 1e6 * min(times)


def measure(images: list[dict[str, Any]], encoding: Any) -> dict[str, Any]:
    """Figures of one encoding over all images; bytes are per reinforcement, times per record."""
    views = sum(len(image["reinforcements"]) for image in images)
    frames = [encode(**image, probabilities=encoding) for image in images]
    split: dict[str, float] = {}
    zipper = zstandard.ZstdCompressor(level=19)
    overhead = len(zipper.compress(b""))
    for frame in frames:
        for name, pieces in columns([content for _, content in unzip(frame)]).items():
            cost = sum(len(zipper.compress(column)) - overhead for column in pieces)
            split[name] = split.get(name, 0) + cost / views
    losses = np.concatenate(
        [
            divergence(image["reinforcements"].soft_probs, decode(frame).reinforcements.soft_probs)
            for image, frame in zip(images, frames, strict=True)
        ]
    )
    return {
        "bytes": sum(map(len, frames)) / views,
        "plain_bytes": sum(len(content) for frame in frames for _, content in unzip(frame)) / views,
        "bytes_of_columns_alone": split,
        "kl_mean": float(losses.mean()),
        "kl_max": float(losses.max()),
        "encode_us": fastest_us(lambda image: encode(**image, probabilities=encoding), images[0]),
        "decode_us": fastest_us(decode, frames[0]),
        "zstd_us": fastest_us(unzip, frames[0]),
    }


def measure_groups(images: list[dict[str, Any]], groups: int) -> dict[str, float]:
    """Bytes per reinforcement with so many groups of rows, and what one view needs decompressed: head and a group."""
    views = sum(len(image["reinforcements"]) for image in images)
    members = [encode(**image, group_rows=-(-len(image["reinforcements"]) // groups)) for image in images]
    unzipper = zstandard.ZstdDecompressor()
    needed = [[frame for frame, _ in unzip(member)[:2]] for member in members]
    return {
        "bytes": sum(map(len, members)) / views,
        "us": float(np.mean([fastest_us(lambda f: [unzipper.decompress(x) for x in f], some) for some in needed])),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--photos", type=Path, required=True, help="folder of JPEGs, taken evenly over its sorted names"
    )
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--views", type=int, default=400, help="reinforcements per image (N)")
    parser.add_argument("--topk", type=int, default=10, help="classes per reinforcement (K)")
    parser.add_argument("--spec", default="rrc+ra+re", help="augmentation preset")
    parser.add_argument("--teacher", default="efficientnet-lite0")
    parser.add_argument("--groups", type=int, nargs="+", default=[], help="also with so many groups of rows per record")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    arguments = parser.parse_args()

    photos = sorted(p for p in arguments.photos.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not photos:
        print(f"{arguments.photos} holds no photos (.jpg, .jpeg, .png)", file=sys.stderr)
        return 1
    chosen = photos[:: max(len(photos) // arguments.images, 1)][: arguments.images]
    spec, teacher = AugmentationSpec.preset(arguments.spec), load_teacher(arguments.teacher)
    images = [reinforce(photo, photos, spec, teacher, arguments.views, arguments.topk) for photo in chosen]
    confidence = np.mean([image["reinforcements"].soft_probs[:, 0].mean() for image in images])
    report = {
        "images": len(images),
        "views": arguments.views,
        "topk": arguments.topk,
        "spec": arguments.spec,
        "teacher": teacher.name,
        "mean_confidence": float(confidence),
        "encodings": {encoding: measure(images, encoding) for encoding in ENCODINGS},
        "groups": {groups: measure_groups(images, groups) for groups in arguments.groups},
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
        return 0
    print(f"{len(images)} photos x {arguments.views} views, K = {arguments.topk}, {arguments.spec}, {teacher.name}")
    print(f"mean confidence {confidence:.3f}; bytes per reinforcement, microseconds per record\n")
    print(f"{'':>16}" + "".join(f"{name:>10}" for name in ENCODINGS))
    results: dict[str, Any] = report["encodings"]
    for key, form in (
        ("bytes", ".2f"), ("plain_bytes", ".2f"), ("kl_mean", ".1e"), ("kl_max", ".1e"),
        ("encode_us", ".0f"), ("decode_us", ".0f"), ("zstd_us", ".0f"),
    ):  # fmt: skip
        print(f"{key:>16}" + "".join(f"{results[name][key]:>10{form}}" for name in ENCODINGS))
    print("\neach column compressed by itself:")
    for column in results["root8"]["bytes_of_columns_alone"]:
        values = (results[name]["bytes_of_columns_alone"][column] for name in ENCODINGS)
        print(f"{column:>16}" + "".join(f"{value:>10.2f}" for value in values))
    for groups, figures in report["groups"].items():
        print(
            f"{groups} groups: {figures['bytes']:.2f} bytes, {figures['us']:.1f} us to decompress what one view needs"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
