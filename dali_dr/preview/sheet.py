"""Contact sheets: the original beside views as training gets them, with the teacher's top classes under each."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from dali_dr.encoded import rgb_image
from dali_dr.errors import DaliDrError, PluginError, kind_of, shown
from dali_dr.preview.lettering import dots, lettered
from dali_dr.preview.maps import drawn_over
from dali_dr.preview.names import Names, names_of
from dali_dr.preview.replayed import Replayer, Wanted, named_view, spread
from dali_dr.preview.suffixes import FORMATS, check_suffix
from dali_dr.record.labels import Reinforcements
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.files import discard, temporary

TILE: Final = 224
_MARGIN: Final = 8
_LINE: Final = 15
_LINES: Final = 3  # under a picture; of classes, so many are named under a view
_COLUMN, _ROW = TILE + _MARGIN, TILE + _LINES * _LINE + 2 * _MARGIN
_LETTERS, _MESSAGE_LINES = 30, 12  # of a message in a tile
_LONGEST: Final = 16_000  # pixels of a side: WebP holds 16,383


def contact_sheet(
    dataset: Dataset,
    samples: Sequence[int],
    views: int = 5,
    *,
    names: Names | None = None,
    damaged: dict[str, str] | None = None,
) -> Image.Image:
    """Draws samples: with stored views, a row for each: the original, then views, in the order in which they are stored.

    Of a set of label maps a row holds the original and the same under its map; plain images fill the rows one by one.

    Args:
      dataset: any.
      samples: sample numbers.
      views: views per row, at most: of fewer stored ones, each is drawn once. Of plain images, so many and one fill a row.
      names: of the classes; None: `names_of` the set.
      damaged: is filled with what is wrong with samples that cannot be shown, by their keys, and with single views
        (`named_view`); a tile in their place says it.

    Returns:
      An RGB picture.

    Raises:
      DaliDrError: there are no samples, none that can be shown, or so many that no picture holds them.
    """
    if not len(samples):
        raise DaliDrError(
            f"{dataset.path}: there is nothing to draw: no images are wanted, or it has none", kind="usage"
        )
    names = names_of(dataset) if names is None else names
    found: dict[int, str] = {}
    single: dict[str, str] = {}
    lines = [_cells(dataset, number, views, names, found, single) for number in samples]
    if len(found) == len(set(samples)):
        raise DaliDrError(next(iter(found.values())))
    if damaged is not None:
        damaged |= {dataset.keys[number]: message for number, message in found.items()} | single
    if dataset.manifest.label_maps is None and not dataset.manifest.views_max:
        cells = [cell for line in lines for cell in line]
        lines = [cells[at : at + views + 1] for at in range(0, len(cells), views + 1)]
    size = (_COLUMN * max(map(len, lines)) + _MARGIN, _ROW * len(lines) + _MARGIN)
    if max(size) > _LONGEST:
        raise DaliDrError(
            f"a contact sheet of {size[0]} x {size[1]} pixels is too large: ask for fewer images or views, or for --html",
            kind="usage",
        )
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for y, line in enumerate(lines):
        for x, (picture, caption) in enumerate(line):
            left, top = _MARGIN + x * _COLUMN, _MARGIN + y * _ROW
            sheet.paste(picture, (left, top))
            for number, text in enumerate(caption):
                place = (left, top + TILE + 2 + number * _LINE)
                readable, font = lettered(text)
                draw.text(place, fitted(readable, TILE, font.getlength, dots(font)), fill="black", font=font)
    return sheet


def save_contact_sheet(
    dataset: Dataset, path: Path, rows: int = 6, views: int = 5, *, names: Names | None = None
) -> dict[str, str]:
    """Writes the sheet of samples spread over the data set as an image file, by its suffix one of `FORMATS`.

    Of plain images, ``rows`` rows are filled.

    Returns:
      What is wrong with samples and views that cannot be shown, as `contact_sheet` tells it.

    Raises:
      DaliDrError: another suffix, said before anything is drawn; or the file cannot be written.
    """
    check_suffix(path)
    plain = not dataset.manifest.views_max and dataset.manifest.label_maps is None
    numbers = spread(len(dataset), rows * (views + 1) if plain else rows)
    damaged: dict[str, str] = {}
    picture = contact_sheet(dataset, numbers, views, names=names, damaged=damaged)
    partial = temporary(path)
    try:
        picture.save(partial, FORMATS[path.suffix.lower()])
        partial.replace(path)
    except OSError as error:
        raise DaliDrError(
            f"{path}: cannot be written ({error.strerror or error}): choose another place", kind=kind_of(error)
        ) from error
    finally:
        discard(partial)
    return damaged


def fitted(text: str, width: float, length: Callable[[str], float], between: str = "…") -> str:
    """``text``, `shown`, if it takes no more than ``width``; else as much of its beginning and end as fits."""
    text = shown(text)
    if length(text) <= width:
        return text
    keep, most = 0, len(text) - 1
    while keep < most:  # the most characters that fit
        middle = (keep + most + 1) // 2
        if length(_shortened(text, middle, between)) <= width:
            keep = middle
        else:
            most = middle - 1
    return _shortened(text, keep, between)


def _shortened(text: str, keep: int, between: str) -> str:
    end = keep // 3  # names differ more at their beginnings, keys of one folder at their ends
    return f"{text[: keep - end].rstrip()}{between}{text[len(text) - end :].lstrip()}"


_Cell = tuple[Image.Image, list[str]]  # a picture and the lines under it


def _cells(
    dataset: Dataset, number: int, views: int, names: Names, damaged: dict[int, str], single: dict[str, str]
) -> list[_Cell]:
    """Of one sample. Of one that cannot be shown, a tile that says why, which is noted in ``damaged`` as well.

    Of a view that cannot be shown, too, which is noted in ``single``.
    """
    try:
        if dataset.manifest.label_maps is not None:
            return _mapped(dataset, number, names)
        if dataset.manifest.views_max:
            return _reinforced(dataset, number, views, names, single)
        return [_original(dataset, number, names)]
    except PluginError:
        raise
    except DaliDrError as error:
        damaged[number] = str(error)
    except ValueError as error:  # of Pillow's reading
        damaged[number] = shown(f"the image cannot be decoded: {error}")
    caption = [dataset.keys[number], f"label: {names.label(dataset.label(number))}", "cannot be shown"]
    return [(_told(damaged[number]), caption)]


def _told(message: str) -> Image.Image:
    """A tile that says what is wrong."""
    tile = Image.new("RGB", (TILE, TILE), "mistyrose")
    text, font = lettered(message)
    lines = textwrap.wrap(text, _LETTERS, max_lines=_MESSAGE_LINES, placeholder=f" {dots(font)}")
    ImageDraw.Draw(tile).text((_MARGIN, _MARGIN), "\n".join(lines), fill="darkred", font=font)
    return tile


def _original(dataset: Dataset, number: int, names: Names) -> _Cell:
    picture = rgb_image(dataset.image(number))
    caption = [
        dataset.keys[number],
        f"label: {names.label(dataset.label(number))}",
        f"{picture.width} x {picture.height}",
    ]
    return ImageOps.pad(picture, (TILE, TILE), color="white"), caption


def _reinforced(dataset: Dataset, number: int, views: int, names: Names, single: dict[str, str]) -> list[_Cell]:
    cells = [_original(dataset, number, names)]
    if not dataset.has_record(number):
        return cells
    reinforcements = dataset.reinforcements(number)
    rows = spread(len(reinforcements), views)
    if not rows:
        return cells
    replayer = Replayer(dataset, images=1, views=len(rows), threads=1)
    taken = reinforcements.take(np.asarray(rows))
    pixels, faults = replayer.replay_each(Wanted(number, dataset.image(number), taken))
    for place, row in enumerate(rows):
        if place in faults:
            single[named_view(dataset, number, row)] = faults[place]
            cells.append((_told(faults[place]), ["this view cannot be shown"]))
            continue
        picture = Image.fromarray(pixels[place])
        tile = picture if picture.size == (TILE, TILE) else picture.resize((TILE, TILE))
        cells.append((tile, list(_classes(reinforcements, row, names))))
    return cells


def _classes(reinforcements: Reinforcements, row: int, names: Names) -> Iterator[str]:
    pairs: list[Any] = list(zip(reinforcements.soft_ids[row], reinforcements.soft_probs[row], strict=True))
    for number, probability in pairs[:_LINES]:
        yield f"{probability:5.1%} {names.output(int(number))}"


def _mapped(dataset: Dataset, number: int, names: Names) -> list[_Cell]:
    cell = _original(dataset, number, names)
    picture = rgb_image(dataset.image(number))
    overlay, shares = drawn_over(picture, dataset, number)
    caption = [f"{share:5.1%} of cells {names.output(output)}" for output, share in shares[:_LINES]]
    return [cell, (ImageOps.pad(overlay, (TILE, TILE), color="white"), caption)]
