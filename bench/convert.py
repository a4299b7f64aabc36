"""Records per second, memory and size of `dali-dr convert ml-dr`, on a synthetic set of ImageNet+'s kind.

    python bench/convert.py [--images 4000] [--views 400] [--topk 10] [--variant randaug] [--kinds tar,tar.gz] [--joblib]
        [--places packed,tars,embedded] [--dir DIR] [--json]
    python bench/convert.py --memory 1281167 [--dir DIR]

The archives are made of a few templates, saved by torch.save as ml-dr does it, with the index of each image written into
them; the views are drawn as ImageNet+'s were, and the predictions are softmaxes of an ImageNet model's kind. Images are one
small photo-like JPEG under many keys: they cost next to nothing, as they do beside a packed set. The bars are 2,000
records/s on two cores, 500 MB and 22 bytes a view. tar.gz archives are in random order, as published ones are.

--memory N: what a run over N images takes in memory, with an index of N images, where the files are one file N times: all that
grows with the number of images is there, and the archive is not.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import random
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (375, 500)  # height, width: ImageNet's most common size
INDEX = 0x6ABCDEF1  # stands for the index in templates
CLASSES = 1000
LIKELY = 60  # classes that occur in the predictions of one image's views
TEMPLATES = 8
BARS = {"records_per_second": 2000, "memory_mb": 500, "bytes_per_view": 22}
PRESETS = {"rrc": "rrc", "mixing": "rrc+mixing", "randaug": "rrc+ra+re", "randaug_mixing": "rrc+mixing+ra+re"}


def templates(options: argparse.Namespace) -> list[bytes]:
    """Files of TEMPLATES images, all called INDEX."""
    import joblib
    import torch

    from dali_dr.augment.draw import draw
    from dali_dr.augment.spec import AugmentationSpec
    from dali_dr.record.labels import Reinforcements

    made = []
    spec = AugmentationSpec.preset(PRESETS[options.variant])
    rng = np.random.default_rng(0)
    for number in range(TEMPLATES):
        mixed = {"population": options.images, "partner_size": lambda number: SIZE} if spec.mixing else {}
        height, width = SIZE
        drawn = draw(
            spec, seed=0, key=str(number), views=range(options.views), image_height=height, image_width=width, **mixed
        )
        stored = Reinforcements.from_views(drawn, *predictions(rng, options.views, options.topk))
        buffer = io.BytesIO()
        value = INDEX, [view(stored, row, options.images) for row in range(options.views)]
        if options.joblib:
            joblib.dump(value, buffer, compress=True)
        else:
            torch.save(value, buffer, pickle_protocol=4)
        made.append(buffer.getvalue())
    return made


def predictions(rng: np.random.Generator, views: int, topk: int) -> tuple[Any, Any]:
    """Ids and probabilities that vary from view to view as a teacher's do, as in bench/records.py."""
    from dali_dr.record.labels import sparsify

    pool = np.sort(rng.choice(CLASSES, LIKELY, replace=False))
    logits = rng.normal(0, 3, LIKELY) + rng.normal(0, 1.2, (views, LIKELY))
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    columns, probs = sparsify(weights / weights.sum(axis=1, keepdims=True), topk)
    return pool[columns].astype(np.int32), probs


def view(stored: Any, row: int, images: int) -> dict[str, Any]:
    """View ``row`` as ml-dr stores it."""
    mix = stored.mix
    parameters = own(stored, row)
    if mix is not None:
        lam, cut = float(mix.lam[row]), [int(one) for one in mix.cut[row]]
        mixed = lam != 1.0 or any(cut)
        if mixed:
            parameters = [list(pair) for pair in zip(parameters, own(mix.views, row), strict=True)]
        box = [cut[0], cut[1], cut[0] + cut[2], cut[1] + cut[3]]
        parameters = [
            int(mix.partner[row]) % images if mixed else None,
            *parameters,
            lam if lam != 1.0 else None,
            [0.5, *map(np.int64, box)] if any(cut) else None,
        ]
    order = np.random.default_rng(row).permutation(stored.topk)
    probs = [float(stored.soft_probs[row][one]) for one in order]
    return {"params": parameters, "prob": (probs, [int(stored.soft_ids[row][one]) for one in order])}


def own(views: Any, row: int) -> list[Any]:
    """Crop, flip and, where there are some, operations and erased box of a view."""
    found: list[Any] = [tuple(map(int, views.crop[row])), bool(views.flip[row])]
    if views.num_ops:
        ops = zip(views.ops[row].tolist(), views.magnitudes[row].tolist(), strict=True)
        erase = tuple(map(int, views.erase[row]))
        found += [[(op, magnitude) for op, magnitude in ops], erase if any(erase) else None]
    return found


def numbered(template: bytes, number: int) -> bytes:
    """The file of a template as that of image ``number``: its pickle has another four bytes, and the zip their checksum."""
    if template[:1] == b"\x78":  # zlib
        return zlib.compress(zlib.decompress(template).replace(struct.pack("<i", INDEX), struct.pack("<i", number)), 3)
    import zipfile

    with zipfile.ZipFile(io.BytesIO(template)) as whole:
        info = next(one for one in whole.infolist() if one.filename.endswith("data.pkl"))
        data = whole.read(info)
    other = data.replace(struct.pack("<i", INDEX), struct.pack("<i", number), 1)
    before, after = (struct.pack("<I", zlib.crc32(one)) for one in (data, other))
    return template.replace(data, other, 1).replace(before, after)


def archive(folder: Path, kind: str, options: argparse.Namespace) -> Path:
    """A set of so many images; a compressed one in random order."""
    path = folder / f"set.{kind}"
    made = templates(options)
    order = list(range(options.images))
    if kind == "tar.gz":
        random.Random(0).shuffle(order)
    # gzip's level hardly matters to reading.
    with tarfile.open(path, "w:gz", compresslevel=1) if kind == "tar.gz" else tarfile.open(path, "w") as out:
        for name, data in [("config.pth.tar", configuration(options)), *((f"{n}.pth.tar", None) for n in order)]:
            data = data or numbered(made[int(name.split(".")[0]) % TEMPLATES], int(name.split(".")[0]))
            entry = tarfile.TarInfo(f"reinforced_data/{name}")
            entry.size = len(data)
            out.addfile(entry, io.BytesIO(data))
    return path


def configuration(options: argparse.Namespace) -> bytes:
    import torch

    heavy, mixing = {"enable": "randaug" in options.variant}, {"enable": "mixing" in options.variant}
    images = {
        "random_resized_crop": {"enable": True, "size": 224},
        "random_horizontal_flip": {"enable": True, "p": 0.5},
        "rand_augment": heavy,
        "random_erase": heavy | {"p": 0.25},
        "mixup": mixing | {"alpha": 1.0, "div_by": 2.0, "p": 0.5},
        "cutmix": mixing | {"alpha": 1.0, "p": 0.5},
    }
    buffer = io.BytesIO()
    reinforce = {"num_samples": options.views, "topk": options.topk, "image_augmentation": images}
    torch.save({"num_classes": CLASSES, "teacher": {"name": "none"}, "reinforce": reinforce}, buffer)
    return buffer.getvalue()


def packed(folder: Path, count: int) -> Path:
    """A plain data set of ``count`` images that are one."""
    from dali_dr.shards.sample import Sample
    from dali_dr.shards.write import write_shards

    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8))
    buffer = io.BytesIO()
    small.resize(SIZE[::-1], Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=80)
    image = buffer.getvalue()

    def samples() -> Iterator[Sample]:
        for number in range(count):
            label = number * CLASSES // count
            yield Sample(f"n{label:08d}/n{label:08d}_{number}", image, label)

    out = folder / "images"
    write_shards(samples(), out, spec=None, num_classes=CLASSES, check_images=False, keep_bytes=True, progress=False)
    return out


def rates(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Of each kind of archive and each place of the images."""
    images = packed(folder, options.images)
    figures: dict[str, Any] = {}
    for kind in options.kinds.split(","):
        path = archive(folder, kind, options)
        figures[f"{kind} archive_mb"] = round(path.stat().st_size / 1e6, 1)
        for place in options.places.split(","):
            out = folder / f"out-{kind}-{place}"
            where = str(images) if place == "packed" else str(images / "shard-*.tar")
            more = ["--sidecar"] if place == "tars" else []
            words = ["convert", "ml-dr", path, "--images", where, "--out", out, "--quiet", "--no-decode-check", *more]
            seconds, used, megabytes = measured(words)
            manifest = json.loads((out / "dataset.json").read_text())
            views = manifest["images"] * manifest["views"]["min"]
            figures |= {
                f"{kind} {place} records_per_second": round(options.images / seconds, 1),
                f"{kind} {place} cpu_ms_per_record": round(1000 * used / options.images, 3),
                f"{kind} {place} memory_mb": round(megabytes),
                f"{kind} {place} bytes_per_view": round(manifest["record_bytes"] / views, 2),
            }
            shutil.rmtree(out)
        path.unlink()
    return figures


_RUN = """
import json, sys, time
from pathlib import Path
from dali_dr import _plugin
from dali_dr.cli import main
_plugin.library()
begun, used = time.monotonic(), time.process_time()
assert main(sys.argv[2:]) == 0
largest = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
figures = [time.monotonic() - begun, time.process_time() - used, int(largest) / 1024]
Path(sys.argv[1]).write_text(json.dumps(figures))
"""


def measured(words: Sequence[object]) -> tuple[float, float, float]:
    """Seconds of a whole call in a process of its own, those of its processors, both without the import of DALI, and its
    largest memory in MB."""
    with tempfile.NamedTemporaryFile("r") as found:
        command = [sys.executable, "-c", _RUN, found.name, *map(str, words)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds, used, megabytes = json.loads(found.read())
    return seconds, used, megabytes


def memory(folder: Path, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """What a run over ``count`` images beside a packed set takes in memory; see the module."""
    options.images = count
    (folder / "file").write_bytes(numbered(templates(options)[0], 0))
    (folder / "config").write_bytes(configuration(options))
    large(folder / "images", count)
    with tempfile.NamedTemporaryFile("r") as found:
        program = f"import convert, sys; convert.measure_memory({str(folder)!r}, {count}, {found.name!r})"
        subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent)
        figures: dict[str, Any] = json.loads(found.read())
    return figures


def measure_memory(name: str, count: int, result: str) -> None:
    """In a process of its own."""
    from dali_dr.convert import published as module
    from dali_dr.convert.archives import Archive
    from dali_dr.convert.images import FromDataset
    from dali_dr.convert.ml_dr import meaning
    from dali_dr.convert.survey import Survey
    from dali_dr.convert.work import Conversion
    from dali_dr.shards.dataset import Dataset

    folder = Path(name)
    file = (folder / "file").read_bytes()

    class One(Archive):
        def read(self, row: int) -> bytes:
            return file

    survey = Survey(
        1,
        "0" * 64,
        np.random.default_rng(0).permutation(count).astype(np.int32),
        np.zeros(count, np.uint8),
        np.zeros(count, np.uint32),
        np.zeros(count, np.uint32),
        ("",),
        ((folder / "config").read_bytes(),),
    )
    archives = [One(folder / "set.tar", survey)]
    data = Dataset(folder / "images")
    published = module.Published(archives, count, union=False, kept=folder, progress=False)
    what = meaning(archives, num_images=count, num_classes=CLASSES)
    record = what.converter(0, [file], SIZE)
    what = dataclasses.replace(what, converter=lambda number, files, size: record)
    before, begun = largest(), time.monotonic()
    Conversion(published, FromDataset(data), what).write(folder / "out")
    seconds = time.monotonic() - begun
    figures = {"images": count, "memory_mb before": before, "memory_mb": largest()}
    Path(result).write_text(json.dumps(figures | {"records_per_second without converting": round(count / seconds)}))


def largest() -> int:
    """The most memory that this process has had, in MB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in status if "VmHWM" in line) / 1024)


def large(folder: Path, count: int) -> Path:
    """A data set of ``count`` images, of which only index and manifest are there; the tar is a hole."""
    from dali_dr.shards.index_layout import ENTRY, INDEX_NAME, IndexedFile, section_crc, stored_entries
    from dali_dr.shards.manifest import Manifest, ShardInfo
    from dali_dr.shards.sample_table import SampleTable

    folder.mkdir()
    name, size = "shard-000000.tar", count * 4096
    with (folder / name).open("wb") as file:
        file.truncate(size)
    entries = np.zeros(count, ENTRY)
    entries["image_block"] = np.arange(count) * 8 + 1
    entries["image_bytes"], entries["image_crc"] = 3000, 1
    entries["image_height"], entries["image_width"] = SIZE
    entries["label"] = np.arange(count) * CLASSES // count
    keys = [f"n{label:08d}/n{label:08d}_{number}" for number, label in enumerate(entries["label"].tolist())]
    table = SampleTable()
    table.add_file(IndexedFile(name, size), keys, entries)
    table.write(folder / INDEX_NAME, CLASSES)
    crc = section_crc(stored_entries(entries), np.array([len(key) for key in keys]), "".join(keys).encode(), None)
    shard = ShardInfo(name, count, size, "0" * 64, crc)
    dataclasses.replace(Manifest(CLASSES), shards=(shard,)).save(folder)
    return folder


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--views", type=int, default=400)
    parser.add_argument("--topk", type=int, default=10)
    parser.add_argument("--variant", choices=tuple(PRESETS), default="randaug")
    parser.add_argument("--kinds", default="tar,tar.gz")
    parser.add_argument("--places", default="packed,tars,embedded")
    parser.add_argument("--joblib", action="store_true")
    parser.add_argument("--memory", type=int, default=None, metavar="N")
    parser.add_argument("--dir", default=None)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = parse()
    folder = Path(tempfile.mkdtemp(dir=options.dir))
    try:
        figures = memory(folder, options.memory, options) if options.memory else rates(folder, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    from throughput import machine

    figures = {"variant": options.variant, "views": options.views, **figures}
    if options.json:
        print(json.dumps({"figures": figures, "bars": BARS, "machine": machine()}, indent=1))
        return
    for name, value in figures.items():
        print(f"{name:>40}  {value}")


if __name__ == "__main__":
    main()
