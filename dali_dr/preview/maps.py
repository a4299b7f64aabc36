"""Label maps as pictures: in each cell the class with the highest score, as training lays the map over the image."""

from __future__ import annotations

import colorsys
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from dali_dr.record.label_map import Ids, Order, Scores
from dali_dr.shards.dataset import Dataset

_TURN: Final = 0.618033988749895  # of the colour circle between classes: the golden ratio, so that neighbours differ
_OPAQUE: Final = 128  # of 255


def leading(scores: Scores, ids: Ids, order: Order) -> npt.NDArray[np.int32]:
    """The class with the highest score in each cell: int32 (side, side), rows from the top of the image.

    Args:
      scores, ids: (depth, side, side), of a label map.
      order: with "code" training takes the map's rows along the image's width (`dali_dr.record.label_map.LabelMaps`), so the
        map is transposed here.
    """
    best = np.take_along_axis(ids, scores.argmax(axis=0)[None], axis=0)[0]
    return np.ascontiguousarray(best.T if order == "code" else best)


def shares(cells: npt.NDArray[np.int32]) -> list[tuple[int, float]]:
    """(class, share of the cells that it leads), the largest first, of equals the lower class."""
    classes, counts = np.unique(cells, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(int(classes[place]), float(counts[place] / cells.size)) for place in order]


def colour(number: int) -> tuple[int, int, int]:
    """RGB of a class, the same in every picture."""
    red, green, blue = colorsys.hls_to_rgb(number * _TURN % 1, 0.55, 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


def drawn_over(picture: Image.Image, dataset: Dataset, number: int) -> tuple[Image.Image, list[tuple[int, float]]]:
    """``picture`` of a sample under its map, and the `shares` of the map's classes."""
    maps = dataset.manifest.label_maps
    assert maps is not None
    cells = leading(*dataset.label_map(number), maps.order)
    colours = np.array([colour(int(cell)) for cell in cells.ravel()], np.uint8).reshape(*cells.shape, 3)
    layer = Image.fromarray(colours).resize(picture.size, Image.Resampling.NEAREST)
    return Image.blend(picture, layer, _OPAQUE / 255), shares(cells)
