"""Contact sheets: the original beside views as training gets them, with the teacher's top classes under each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, ImageOps

from dali_dr.augment.fresh import resize_of
from dali_dr.augment.views import NO_PARTNER, SELF_PARTNER
from dali_dr.errors import DaliDrError
from dali_dr.loader.graph import view_pipeline
from dali_dr.record.labels import Reinforcements
from dali_dr.shards.dataset import Dataset

TILE = 224
_MARGIN = 8
_LINE = 15
_LINES = 3  # classes named under a view


def contact_sheet(dataset: Dataset, samples: Sequence[int], views: int = 5) -> Image.Image:
    """Draws one row per sample: the original, then views spread over their order, what the teacher is surest of first.

    Args:
      dataset: a reinforced data set.
      samples: sample numbers, one row each.
      views: views per row, at most: of fewer stored ones, each is drawn once.

    Returns:
      An RGB picture.
    """
    views = min(views, max(len(dataset.reinforcements(number)) for number in samples))
    column, row = TILE + _MARGIN, TILE + _LINES * _LINE + 2 * _MARGIN
    sheet = Image.new("RGB", (column * (views + 1) + _MARGIN, row * len(samples) + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for line, number in enumerate(samples):
        top = _MARGIN + line * row
        reinforcements = dataset.reinforcements(number)
        stored = len(reinforcements)
        rows = np.linspace(0, stored - 1, min(views, stored)).round().astype(int)
        original = Image.open(BytesIO(dataset.image(number))).convert("RGB")
        sheet.paste(ImageOps.pad(original, (TILE, TILE), color="white"), (_MARGIN, top))
        label = dataset.label(number)
        caption = [
            dataset.keys[number][-34:],
            f"label: {_name(dataset, label)}",
            f"{original.width} x {original.height}",
        ]
        _write(draw, font, _MARGIN, top + TILE + 2, caption)
        for place, (view, pixels) in enumerate(zip(rows, replay_views(dataset, number, rows), strict=True), start=1):
            left = _MARGIN + place * column
            tile = Image.fromarray(pixels).resize((TILE, TILE)) if pixels.shape[0] != TILE else Image.fromarray(pixels)
            sheet.paste(tile, (left, top))
            _write(draw, font, left, top + TILE + 2, _classes(dataset, reinforcements, int(view)))
    return sheet


def replay_views(
    dataset: Dataset, number: int, rows: Sequence[int] | npt.NDArray[Any]
) -> Iterator[npt.NDArray[np.uint8]]:
    """Replays stored views of one sample through the operator that training uses (on the CPU).

    Yields:
      (size, size, 3) uint8 RGB per row; mixed views rounded.
    """
    views = dataset.reinforcements(number).take(np.asarray(rows))
    words, mix = views.pack(), views.mix
    encoded = np.frombuffer(dataset.image(number), np.uint8)
    if mix is None:
        batch: tuple[Any, ...] = ([encoded], [words])
    else:  # one entry per view
        images, places = [encoded] * len(views), list(np.arange(len(views), dtype=np.int32))
        others = [number if n in (NO_PARTNER, SELF_PARTNER) else n for n in mix.partner.tolist()]
        partners = [np.frombuffer(dataset.image(n), np.uint8) for n in others]
        batch = images, list(words), places, partners, places
    pipeline = view_pipeline(
        lambda info: batch,
        batch_size=len(batch[0]),
        mixing=mix is not None,
        device="cpu",
        device_id=None,
        num_threads=1,
        size=(dataset.spec.size, dataset.spec.size),
        stored_size=dataset.spec.size,
        interpolation=dataset.spec.interpolation,
        resize_shorter=resize_of(dataset.spec),
        prefetch=1,
    )
    (out,) = pipeline.run()
    pixels = np.asarray(out[0]) if mix is None else np.rint(np.stack([np.asarray(o) for o in out])).astype(np.uint8)
    yield from pixels.transpose(0, 2, 3, 1)


def save_contact_sheet(dataset: Dataset, path: Path, rows: int = 6, views: int = 5) -> None:
    """Writes the sheet of samples spread over the data set as an image file (PNG by its suffix)."""
    if dataset.manifest.label_maps is not None:
        raise DaliDrError(f"{dataset.path}: holds label maps and no stored views, of which there is nothing to draw")
    numbers = np.linspace(0, len(dataset) - 1, min(rows, len(dataset))).round().astype(int)
    contact_sheet(dataset, [int(n) for n in numbers], views).save(path)


def _classes(dataset: Dataset, reinforcements: Reinforcements, view: int) -> list[str]:
    pairs = list(zip(reinforcements.soft_ids[view], reinforcements.soft_probs[view], strict=True))[:_LINES]
    return [f"{prob:5.1%} {_name(dataset, int(number))}" for number, prob in pairs]


def _name(dataset: Dataset, number: int) -> str:
    return dataset.class_names[number] if dataset.class_names else str(number)


def _write(draw: ImageDraw.ImageDraw, font: Any, left: int, top: int, lines: Sequence[str]) -> None:
    for number, text in enumerate(lines):
        draw.text((left, top + number * _LINE), text[:36], fill="black", font=font)
