"""The pictures of the documentation, each for light and dark pages: `python docs/pictures/make.py`.

What they show is computed: views come out of the operator that training uses, classes from a teacher, tiles and record
sizes from the files that `dali-dr reinforce` writes. The photos come with scikit-image (public domain, and CC0).
"""

from __future__ import annotations

import argparse
import io
import struct
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from drawing import DARK, LIGHT, Drawing, Palette
from PIL import Image

import dali_dr
from dali_dr.augment.operations import OPERATIONS
from dali_dr.cli import main as dali_dr_command
from dali_dr.images.tiles import tiled
from dali_dr.loader.graph import view_pipeline
from dali_dr.record.frames import split

HERE = Path(__file__).resolve().parent
SIZE = 224  # pixels of a view
VIEWS = 400
_VISIBLE = ("Color", "Rotate", "Posterize", "Solarize", "Equalize", "ShearX", "AutoContrast", "Brightness")
CONTEXT = 2  # pixels around a crop that chroma upsampling needs, docs/tiles.md


def main() -> None:
    """Draws all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_set(Path(folder))
        pictures: dict[str, Callable[[Palette], Drawing]] = {
            "overview": overview,
            "epochs": epochs,
            "tiles": tiles,
            "replay": lambda palette: replay(palette, dataset),
            "record": lambda palette: record(palette, dataset),
        }
        for name, draw in pictures.items():
            for palette in (LIGHT, DARK):
                path = out / f"{name}-{palette.name}.svg"
                path.write_text(draw(palette).svg(), encoding="utf-8")
                print(path, path.stat().st_size)


def photo(name: str) -> Image.Image:
    """A photo that comes with scikit-image."""
    import skimage

    return Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    """The image as a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def make_set(folder: Path) -> dali_dr.Dataset:
    """One photo of a cat (ImageNet's n02124075), reinforced by EfficientNet-Lite0 with 400 views."""
    path = folder / "photos" / "n02124075" / "chelsea.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(jpeg(photo("chelsea.png")))
    command = f"reinforce {folder}/photos --out {folder}/set --teacher efficientnet-lite0 --views {VIEWS} --quiet"
    if dali_dr_command(command.split()):
        raise SystemExit("dali-dr reinforce failed")
    return dali_dr.Dataset(folder / "set")


def shown(encoded: bytes, views: dali_dr.Views) -> npt.NDArray[np.uint8]:
    """Views of one image, (N, height, width, 3), by the operator of training."""
    pipeline = view_pipeline(
        lambda info: ([np.frombuffer(encoded, np.uint8)], [views.pack()]),
        batch_size=1,
        device="cpu",
        device_id=None,
        num_threads=1,
        size=(SIZE, SIZE),
        stored_size=SIZE,
        interpolation="bilinear",
        prefetch=1,
    )
    return np.asarray(pipeline.run()[0][0]).transpose(0, 2, 3, 1)


def overview(palette: Palette) -> Drawing:
    """What happens once, and what in every epoch."""
    d = Drawing(
        palette, 760, 268, "Once a teacher labels drawn views; in every epoch a stored view is replayed and trained on"
    )
    d.text(0, 18, "once: dali-dr reinforce", size=15, bold=True)
    top = ["images", "N drawn views\nof each", "teacher", "shards"]
    notes = [
        "your folder, tars,\nlists, a bucket",
        "crop, flip,\nRandAugment, erase",
        "top-K classes\nof each view",
        "images, and 18 bytes\nper view",
    ]
    for at, (title, note) in enumerate(zip(top, notes, strict=True)):
        x = at * 200
        d.box(x, 30, 160, 84, title, note, strong=at == 3)
        if at:
            d.arrow(x - 40, 72, x, 72)
    d.text(0, 162, "every epoch: dali_dr.ReinforcedIterator", size=15, bold=True)
    bottom = ["student", "batch", "the same view", "one stored row"]
    notes = ["no teacher\nin the loop", "view and\nits targets", "replayed\nbit for bit", "another one\neach epoch"]
    for at, (title, note) in enumerate(zip(bottom, notes, strict=True)):
        x = at * 200
        d.box(x, 174, 160, 84, title, note, strong=at == 0)
        if at:
            d.arrow(x, 216, x - 40, 216)
    d.arrow(680, 114, 680, 174)
    return d


def replay(palette: Palette, dataset: dali_dr.Dataset) -> Drawing:
    """A stored view, step by step, and what the teacher said of it."""
    stored = dataset.reinforcements(0)
    row = _eventful(stored)
    view = stored.take([row])
    nothing = np.zeros_like(view.erase)
    bare = replace(view, ops=view.ops[:, :0], magnitudes=view.magnitudes[:, :0], erase=nothing)
    stages = [replace(bare, flip=~view.flip), bare, replace(view, erase=nothing), view]
    encoded = dataset.image(0)
    pictures = [shown(encoded, dali_dr.Views(s.crop, s.flip, s.ops, s.magnitudes, s.erase))[0] for s in stages]
    names = [
        f"{OPERATIONS[op].name} {magnitude:.2g}" for op, magnitude in zip(view.ops[0], view.magnitudes[0], strict=True)
    ]
    captions = ["1. crop, resized to 224", "2. flip", f"3. {', '.join(names)}", "4. erase = what the teacher saw"]

    d = Drawing(palette, 760, 560, "A photo with the stored crop, the four steps of a view, and the teacher's classes")
    original = Image.open(io.BytesIO(encoded))
    scale = 240 / original.width
    d.image(0, 22, 240, original.height * scale, jpeg(original.convert("RGB"), 80))
    t, left, h, w = (view.crop[0] * scale).tolist()
    d.frame(left, 22 + t, w, h)
    d.text(0, 14, "the stored image and crop")
    d.picture(260, 22, 240, pictures[0], captions[0])
    d.picture(520, 22, 240, pictures[1], captions[1])
    d.picture(0, 310, 240, pictures[2], captions[2])
    d.picture(260, 310, 240, pictures[3], captions[3])
    d.text(520, 302, "its stored targets")
    names_of = dataset.class_names or ()
    import timm.data

    words = timm.data.ImageNetInfo()
    for at in range(6):
        number, probability = int(stored.soft_ids[row, at]), float(stored.soft_probs[row, at])
        y = 330 + at * 34
        word = words.index_to_description(number).split(",")[0] if len(names_of) == 1000 else str(number)
        d.text(520, y, word)
        d.text(760, y, f"{probability:.1%}", anchor="end")
        d.bar(520, y + 6, 240 * probability, 8)
    d.text(520, 330 + 6 * 34, f"… of {stored.soft_ids.shape[1]} classes; row {row} of {len(stored)}", muted=True)
    return d


def _eventful(stored: dali_dr.Reinforcements) -> int:
    """The first row that is flipped, is erased, has a middling crop, and of which the teacher is not too sure."""
    area = stored.crop[:, 2] * stored.crop[:, 3] / (300 * 451)
    erased = stored.erase[:, 2] * stored.erase[:, 3] / SIZE**2
    sure = stored.soft_probs[:, 0]
    seen = np.isin(stored.ops, [at for at, op in enumerate(OPERATIONS) if op.name in _VISIBLE])
    wanted = (
        stored.flip & (erased > 0.05) & (erased < 0.15) & (area > 0.25) & (area < 0.7) & (sure < 0.75) & seen.all(1)
    )
    rows = np.flatnonzero(wanted)
    return int(rows[0]) if len(rows) else int(np.flatnonzero(stored.flip & (erased > 0.03))[0])


def record(palette: Palette, dataset: dali_dr.Dataset) -> Drawing:
    """One record: its frames with their true sizes, and the columns of a group."""
    member = dataset.record_bytes(0)
    sizes = [len(frame) for frame in split(member)]
    d = Drawing(palette, 760, 330, "The parts of a record: a head, then groups of 100 rows, each with its columns")
    d.text(
        0,
        16,
        f"KEY.dr.zst of one image: {len(member):,} bytes for {VIEWS} views, {len(member) / VIEWS:.1f} a view",
        bold=True,
    )
    x, least = 0.0, 72  # a head is too small to be drawn to scale
    for at, size in enumerate(sizes):
        width = least if at == 0 else (748 - least) * size / sum(sizes[1:])
        title = "head" if at == 0 else f"rows {(at - 1) * 100} … {at * 100 - 1}"
        d.box(x, 28, width, 62, title, f"{size:,} bytes", strong=at == 2)
        if at == 2:
            opened = x, width
        x += width + 3
    d.fan(opened[0], opened[0] + opened[1], 90, 0, 760, 128)
    columns = ["crops", "flips", "erase boxes", "ops", "class indices", "probabilities"]
    widths = [130, 70, 120, 110, 160, 170]
    left = 0.0
    for name, width in zip(columns, widths, strict=True):
        d.text(left + width / 2, 146, name, anchor="middle", bold=True)
        for line in range(5):
            d.cell(left, 154 + line * 24, width - 4, 20, strong=line == 2)
        left += width
    d.text(
        0,
        296,
        "Each part is a zstd frame with a checksum. For one view the head and its group are decompressed.",
        muted=True,
    )
    d.text(
        0,
        318,
        "Rows lie by falling confidence of the teacher. Ops and classes are entries of tables in the head.",
        muted=True,
    )
    return d


def tiles(palette: Palette) -> Drawing:
    """A photo stored in tiles, and those that a crop needs."""
    encoded = tiled(jpeg(photo("rocket.jpg"), 90))
    if isinstance(encoded, str):
        raise SystemExit(f"rocket.jpg was not tiled: {encoded}")
    image = Image.open(io.BytesIO(encoded))
    per_tile = struct.unpack(">H", encoded[encoded.index(b"\xff\xdd") + 4 :][:2])[0]  # the restart interval, in MCUs
    wide, high = 16 * per_tile, 16
    top, left, height, width = 150, 230, 180, 200
    scale = 760 / image.width
    d = Drawing(
        palette,
        760,
        image.height * scale + 30,
        "A photo with the grid of its tiles; those that the crop touches are bright",
    )
    d.image(0, 0, 760, image.height * scale, jpeg(image.convert("RGB"), 70))
    needed = count = 0
    for y in range(0, image.height, high):
        for x in range(0, image.width, wide):
            inside = (
                x < left + width + CONTEXT
                and x + wide > left - CONTEXT
                and y < top + height + CONTEXT
                and y + high > top - CONTEXT
            )
            count, needed = count + 1, needed + inside
            w, h = min(wide, image.width - x), min(high, image.height - y)
            d.tile(x * scale, y * scale, w * scale, h * scale, needed=inside)
    d.frame(left * scale, top * scale, width * scale, height * scale)
    d.text(
        0,
        image.height * scale + 20,
        f"{needed} of {count} tiles of {wide} × {high} pixels are decoded for this crop",
        muted=True,
    )
    return d


def epochs(palette: Palette) -> Drawing:
    """An epoch on two ranks, broken off, and gone on with on four."""
    d = Drawing(
        palette, 760, 300, "A run on two ranks stops after five batches; on four ranks it goes on with the sixth"
    )
    d.text(0, 16, "two ranks: epoch 3, a batch is 2 × 256 samples", bold=True)
    for batch in range(8):
        done = batch < 5
        for rank in range(2):
            d.cell(batch * 95, 28 + rank * 34, 88, 28, strong=done, text=f"rank {rank}")
        d.text(batch * 95 + 44, 112, f"batch {batch + 1}", anchor="middle", muted=not done)
    d.mark(5 * 95 - 4, 22, 98)
    d.text(5 * 95 + 6, 136, "state_dict():", size=13)
    d.text(5 * 95 + 6, 154, "epoch 3, 2560 consumed, …", size=13)
    d.arrow(5 * 95 - 4, 122, 5 * 95 - 4, 176)
    d.text(0, 194, "four ranks: load_state_dict(…), the rest of the same epoch", bold=True)
    for batch in range(5, 8):
        for rank in range(4):
            d.cell(batch * 95, 206 + rank * 19, 88, 15, strong=True, text=f"rank {rank}", small=True)
        d.text(batch * 95 + 44, 298, f"batch {batch + 1}", anchor="middle")
    d.text(0, 240, "A batch is 4 × 128 samples: the same ones,", muted=True)
    d.text(0, 260, "in the same views.", muted=True)
    return d


if __name__ == "__main__":
    main()
