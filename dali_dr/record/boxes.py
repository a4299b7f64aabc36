"""Boxes: crops as numbers in few bits, each possible box in an image having one; erase and CutMix boxes as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dali_dr.record.checks import check_rows
from dali_dr.record.layout import side_bits


def crops_to_bits(crop: npt.NDArray[np.int32], height: int, width: int) -> npt.NDArray[np.uint8]:
    """The numbers of crops (N, 4) of an image of this size as bits (N, B), lowest first."""
    top, left, crop_height, crop_width = crop.astype(np.int64).T
    free_y, free_x = height - crop_height, width - crop_width
    vertical = free_y * (free_y + 1) // 2 + top
    horizontal = free_x * (free_x + 1) // 2 + left
    numbers = vertical | horizontal << side_bits(height)
    bits = np.unpackbits(numbers.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    return bits[:, : side_bits(height) + side_bits(width)]


def crops_from_bits(bits: npt.NDArray[np.bool_], height: int, width: int) -> npt.NDArray[np.int32]:
    """The inverse of ``crops_to_bits``; RecordError for a number that no crop has."""
    low = side_bits(height)
    padded = np.zeros((len(bits), 64), np.uint8)
    padded[:, : bits.shape[1]] = bits
    numbers = np.packbits(padded, axis=1, bitorder="little").view("<u8").ravel().astype(np.int64)
    top, crop_height = _axis_box(numbers & ((1 << low) - 1), height, "vertical")
    left, crop_width = _axis_box(numbers >> low, width, "horizontal")
    return np.stack([top, left, crop_height, crop_width], axis=1).astype(np.int32)


def _axis_box(
    numbers: npt.NDArray[np.int64], length: int, axis: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(start, length) of the boxes with these numbers. The root is exact: 8 * number + 1 < 2**35."""
    limit = length * (length + 1) // 2
    check_rows(numbers >= limit, f"{axis} crop number", numbers, f"want below {limit}")
    free = ((np.sqrt(8 * numbers + 1) - 1) // 2).astype(np.int64)
    return numbers - free * (free + 1) // 2, length - free


def place_boxes(
    name: str, present: npt.NDArray[np.bool_], boxes: npt.NDArray[Any], view_size: tuple[int, int]
) -> npt.NDArray[np.int32]:
    """int32 (rows, 4): the boxes in the rows that have one, checked against the view; zeros in the others."""
    placed = np.zeros((len(present), 4), np.int32)
    placed[present] = boxes
    outside = placed[:, :2] + placed[:, 2:] > view_size
    empty = present[:, None] & (placed[:, 2:] == 0)
    view = f"the view of {view_size[0]}x{view_size[1]}"
    check_rows(outside | empty, name, placed, f"want it inside {view} and not empty")
    return placed
