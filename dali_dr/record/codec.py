"""Reinforcement records (schemas/reinforcement-record.md): `encode` and `decode`, from and to NumPy columns.

A record holds all views of one image; compressed as zstd frames, it is the member KEY.dr.zst of a shard. Rows are
stored in groups, each in a frame of its own, so that a reader of one view need not decompress all.
"""

from __future__ import annotations

import functools
import math
import struct
import sys
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt
import zstandard

from dali_dr.augment.views import MAX_SIDE, NO_PARTNER, OP_NAMES, SELF_PARTNER, Mix, Views, no_partner_views
from dali_dr.errors import RecordError
from dali_dr.record.labels import Reinforcements, repeats

Probabilities = Literal["log8", "float16", "float32"]

# The numbers below are those of schemas/reinforcement-record.md, version 1.
MAGIC: Final = b"drrc"
VERSION: Final = 1
_HEADER: Final = struct.Struct("<4sHHIIIIIHHHHHHBBHfI")
_FLIP, _ERASE, _WIDE_CLASSES, _MIXING, _WIDE_WEIGHTS, _DOUBLE, _PARTNER_CLASSES = (1 << bit for bit in range(7))
_ALL_FLAGS: Final = 127
_ENCODINGS: Final[tuple[Probabilities, ...]] = ("float32", "float16", "log8")  # by their number in the header
_LOG8: Final = 2
MAX_VIEWS: Final = 65536
MAX_OPS: Final = 16
MAX_RECORD_BYTES: Final = 64 << 20
_REST_BIAS: Final = 96  # the rest may outweigh the most likely class by exp(96 * 0.15) = 1.8 million
_ZERO_CODE: Final = 255
_WEIGHT_STEPS: Final = 1 << 16  # MixUp weights in two bytes are multiples of 1 / this
# Nats that an encoder accepts. Below, the codes do not span the ratios that predictions have (at 0.1, the
# rest may weigh exp(9.6) = 14,765 times the most likely class); above, they are crude.
MIN_LOG_STEP: Final = 0.1
MAX_LOG_STEP: Final = 1.0

# A record of unmixed views has as many groups of rows as hold this many: 4 at N = 400, see _compress.
_MIN_GROUP_ROWS: Final = 100

# Of unmixed views the first columns of codes share a zstd block with operations and class indices, see _compress.
_FIRST_RANKS: Final = 3

# Bytes; below, a zstd block's own Huffman table costs more than it saves.
_MIN_BLOCK: Final = 256

# 0.15 nats: mean KL(original || stored) stays below about step**2 / 24 = 9.4e-4 nats (1e-3 is promised).
DEFAULT_LOG_STEP: Final = 0.15

_FRAME_HEADER_BYTES: Final = 18  # of zstd, at most
_RUN_BLOCK: Final = 1  # zstd's block that is one byte repeated

_DAMAGED: Final = "the record is damaged: fetch or write its shard again"


@dataclass(frozen=True)
class Record:
    """A decoded record.

    Attributes:
        reinforcements: the N views and their predictions, in stored order.
        image_height, image_width: source image in pixels, EXIF orientation not applied.
        view_size: (height, width) in pixels at which erase boxes and translations are given.
        probabilities: how probabilities are stored: "log8", "float16" or "float32".
        log_step: nats per unit of the logarithmic code, as float32 holds it; 0 for the other encodings.
    """

    reinforcements: Reinforcements
    image_height: int
    image_width: int
    view_size: tuple[int, int]
    probabilities: Probabilities
    log_step: float


def encode(
    reinforcements: Reinforcements,
    *,
    image_height: int,
    image_width: int,
    view_size: tuple[int, int],
    probabilities: Probabilities = "log8",
    log_step: float = DEFAULT_LOG_STEP,
    group_rows: int | None = None,
) -> bytes:
    """One image's reinforcements as zstd frames, one after another.

    Rows keep their order (see `labels.order_by_confidence`); within a row, classes are put in order of
    falling probability if they are not (equals keep their order). Equal input gives equal bytes. Mixed views:
    partners are all the image itself, or none is; pairs of a double-mix are rows 2i and 2i + 1.

    Args:
        reinforcements: 1..65536 views.
        image_height, image_width: the source image in pixels (1..65535), EXIF orientation not applied.
        view_size: (height, width) in pixels (1..65535) at which erase boxes and translations are given.
        probabilities: "log8", one byte per class, off by a factor of at most exp(log_step / 2) before classes
            and rest are scaled to sum to 1; "float16"; or "float32" (lossless).
        log_step: nats per unit of the logarithmic code, 0.1..1; KL(original || stored) of a view is at most
            log_step**2 / 8, and about log_step**2 / 24 for flat predictions, less for confident ones.
        group_rows: rows per group (1..N, even for double-mixes), which only sizes and reading times depend on;
            None: what serves best.

    Raises:
        RecordError: the reinforcements do not fit the image, the view or the format.
    """
    views, ops_per_view, topk = len(reinforcements), reinforcements.num_ops, reinforcements.topk
    if probabilities not in _ENCODINGS:
        _refuse("probabilities", repr(probabilities), f"want one of {', '.join(_ENCODINGS)}")
    for name, value, low, high in (
        ("number of views", views, 1, MAX_VIEWS),
        ("image height", image_height, 1, MAX_SIDE),
        ("image width", image_width, 1, MAX_SIDE),
        ("view height", view_size[0], 1, MAX_SIDE),
        ("view width", view_size[1], 1, MAX_SIDE),
        ("number of operations per view", ops_per_view, 0, MAX_OPS),
        ("number of classes per view", topk, 0, 65535),
    ):
        if not low <= value <= high:
            _refuse(name, value, f"a record holds {low}..{high}")
    encoding = _ENCODINGS.index(probabilities)
    step = float(np.float32(log_step)) if encoding == _LOG8 else 0.0
    if encoding == _LOG8 and not MIN_LOG_STEP <= log_step <= MAX_LOG_STEP:
        _refuse("log_step", log_step, f"want {MIN_LOG_STEP}..{MAX_LOG_STEP} nats")
    reinforcements = _sort_classes(reinforcements)
    try:
        reinforcements.validate(image_height, image_width, max(view_size))
    except ValueError as error:
        raise RecordError(f"these reinforcements cannot be stored: {error}") from error
    classes, class_index = _class_table(reinforcements.soft_ids)
    predictions, double = reinforcements, reinforcements.mix is not None and reinforcements.mix.double
    if double:
        reinforcements = _first_of_pairs(reinforcements)
    if group_rows is None:
        # Mixed views compress best together, and their bytes are what is short.
        group_rows = views if reinforcements.mix is not None else -(-views // max(views // _MIN_GROUP_ROWS, 1))
    if not 1 <= group_rows <= views or (double and group_rows % 2):
        _refuse("group_rows", group_rows, f"want 1..{views}" + ", even for a double-mix" * double)
    mix = reinforcements.mix
    mixed = np.zeros(0, np.intp) if mix is None else np.flatnonzero(mix.partner != NO_PARTNER)
    partners = None if mix is None else mix.views.take(mixed)
    erased = reinforcements.erase[:, 2] > 0
    boxes = reinforcements.erase[erased]
    for name, column in (
        ("erase box", boxes),
        *((("cutmix box", mix.cut), ("partner's erase box", partners.erase)) if mix and partners else ()),
    ):
        if column.size and ((column[:, :2] + column[:, 2:]).max(axis=0) > view_size).any():
            _refuse(name, "outside the view", f"the view is {view_size[0]}x{view_size[1]}")

    op_table, op_index = _op_table(reinforcements, *([partners] if partners else []))
    for name, table in (("operation", op_table), ("class", classes)):
        if len(table) > 65535:
            _refuse(f"number of {name} table entries", len(table), "a record holds 65535: store fewer views")
    wide = bool(classes.size) and int(classes.max()) > 0xFFFF
    class_entries = len(classes)
    tables, grouped = classes.astype("<u4" if wide else "<u2").tobytes(), None
    if mix is not None and len(classes) > 256:
        grouped = _classes_by_partner(mix, predictions.soft_ids)
    if grouped is not None:
        counts, gaps, class_index = grouped
        planes = gaps.astype("<u4").view(np.uint8).reshape(-1, 4).T[: 4 if wide else 2]
        tables = counts.astype("<u2").tobytes() + planes.tobytes()
        class_entries = len(gaps)
    flags = _FLIP * bool(reinforcements.flip.any()) | _ERASE * bool(erased.any()) | _WIDE_CLASSES * wide
    flags |= _DOUBLE * double | _PARTNER_CLASSES * (grouped is not None)
    class_type = _narrow(int(class_index.max(initial=0)) + 1 if grouped else len(classes), 256)
    partner_table = np.zeros(0, np.int32)
    if mix is not None:
        mix_flags, partner_table = _mix_facts(mix)
        flags |= mix_flags
    write = _GroupWriter(
        image_size=(image_height, image_width),
        box_type=_narrow(max(view_size), 255),
        op_type=_narrow(len(op_table), 256),
        class_type=class_type,
        flags=flags,
        partner_table=partner_table,
    )
    codes: npt.NDArray[Any]
    if encoding == _LOG8:
        codes = _to_codes(predictions.soft_probs, step)
    else:
        codes = predictions.soft_probs.astype("<f2" if probabilities == "float16" else "<f4")
    own_ops = op_index[: reinforcements.ops.size].reshape(ops_per_view, len(reinforcements))
    partner_ops = op_index[reinforcements.ops.size :].reshape(ops_per_view, len(mixed))
    groups = []
    for start in range(0, views, group_rows):
        rows = slice(start, start + group_rows)
        drawn = slice(rows.start // 2, rows.stop // 2) if double else rows
        of_partners = slice(*np.searchsorted(mixed, (drawn.start, drawn.stop)))
        groups.append(
            write.blocks(
                reinforcements.take(drawn),
                own_ops[:, drawn],
                partner_ops[:, of_partners],
                class_index[rows],
                codes[rows],
            )
        )
    blocks = [
        tables + (op_table >> np.uint64(32)).astype(np.uint8).tobytes() + op_table.astype("<u4").tobytes(),
        partner_table.astype("<u4").tobytes(),
    ]
    record_bytes = _HEADER.size + sum(map(len, blocks)) + sum(len(block) for group in groups for block in group)
    if record_bytes > MAX_RECORD_BYTES:
        _refuse("record size", f"{record_bytes} bytes", f"want at most {MAX_RECORD_BYTES}: store fewer views")
    header = _HEADER.pack(
        MAGIC, VERSION, _HEADER.size, record_bytes, flags, views, image_height, image_width, *view_size,
        ops_per_view, len(op_table), topk, class_entries, encoding, 0, len(partner_table), step, group_rows,
    )  # fmt: skip
    blocks[0] = header + blocks[0]
    if len(groups) == 1:
        return _compress([*blocks, *groups[0]])
    return _compress([b"".join(blocks)], literal=True) + b"".join(_compress(group) for group in groups)


def decode(member: bytes) -> Record:
    """The record in a member's zstd frames, checked for all that `Reinforcements.validate` checks but the sums.

    Raises:
        RecordError: naming the field that is wrong, its value, and what to do. Bytes raise nothing else.
    """
    return _decode_record([_decompress(frame) for frame in _frames(member)])


def _first_of_pairs(reinforcements: Reinforcements) -> Reinforcements:
    """Every other row, of rows in pairs that differ in nothing but ``swapped`` and their predictions."""
    mix = reinforcements.mix
    assert mix is not None
    views = Views(*(getattr(reinforcements, name) for name in ("crop", "flip", "ops", "magnitudes", "erase")))
    plain = replace(mix, swapped=np.zeros_like(mix.swapped))
    first, second = slice(0, None, 2), slice(1, None, 2)
    paired = len(views) % 2 == 0 and not mix.swapped[first].any() and mix.swapped[second].all()
    if not paired or views.take(first) != views.take(second) or plain.take(first) != plain.take(second):
        _refuse("a double-mix", "not in pairs", "want rows 2i and 2i + 1 alike, the second swapped")
    return reinforcements.take(first)


def _mix_facts(mix: Mix) -> tuple[int, npt.NDArray[np.int32]]:
    """The flags of mixed views, but DOUBLE, and the partner table."""
    numbers = mix.partner[mix.partner != NO_PARTNER]
    own = numbers == SELF_PARTNER
    if own.any() and not own.all():
        _refuse("partner", "the image itself in some views", "want it in all mixed views or in none")
    table = np.unique(numbers[~own])
    if len(table) > 65535:
        _refuse("number of partners", len(table), "a record holds 65535: store fewer views")
    steps = mix.lam.astype(np.float64) * _WEIGHT_STEPS
    return _MIXING | _WIDE_WEIGHTS * bool((steps != np.floor(steps)).any()), table


@dataclass(frozen=True)
class _GroupWriter:
    """Writes the columns of one group of rows, as one list entry per zstd block: like columns belong together."""

    image_size: tuple[int, int]
    box_type: str
    op_type: str
    class_type: str
    flags: int
    partner_table: npt.NDArray[np.int32]

    def blocks(
        self,
        views: Views,
        ops: npt.NDArray[np.intp],
        partner_ops: npt.NDArray[np.intp],
        class_index: npt.NDArray[Any],
        codes: npt.NDArray[Any],
    ) -> list[bytes]:
        """The columns of ``views``; table entries of their and their partners' operations (n, views) and (n, Q).

        class_index, codes: (rows, K), which are twice as many rows with DOUBLE.
        """
        erased = views.erase[:, 2] > 0
        geometry = (
            _pack_crops(views.crop, *self.image_size)
            + (_pack_bits(views.flip) if self.flags & _FLIP else b"")
            + (_pack_bits(erased) if self.flags & _ERASE else b"")
            + views.erase[erased].astype(self.box_type).tobytes()
        )
        own = ops.astype(self.op_type).tobytes()
        classes = class_index.T.astype(self.class_type).tobytes()
        if views.mix is not None:
            # More and smaller blocks pay where predictions vary more.
            values = [codes[:, ranks].T.tobytes() for ranks in (slice(1), slice(1, 2), slice(2, 4), slice(4, None))]
            return [geometry, own, classes, *values, *self._mix(views.mix), partner_ops.astype(self.op_type).tobytes()]
        if codes.dtype != np.uint8:
            return [geometry, own + classes, codes.T.tobytes()]
        first, others = codes[:, :_FIRST_RANKS].T.tobytes(), codes[:, _FIRST_RANKS:].T.tobytes()
        return [geometry, own + classes + first, others]

    def _mix(self, mix: Mix) -> list[bytes]:
        """The columns of mixed views but the partners' operations."""
        mixed = mix.partner != NO_PARTNER
        partners, numbers = mix.views.take(np.flatnonzero(mixed)), mix.partner[mixed]
        lam, cut = mix.lam[mixed], mix.cut[mixed]
        index = np.searchsorted(self.partner_table, numbers) if len(self.partner_table) else numbers[:0]
        weights, cuts, erased = lam[lam < 1], cut[:, 2] > 0, partners.erase[:, 2] > 0
        stored = weights if self.flags & _WIDE_WEIGHTS else weights.astype(np.float64) * _WEIGHT_STEPS
        crop = partners.crop.T.astype(np.uint16)
        return [
            # What hardly compresses, together.
            _pack_bits(mixed) + _pack_bits(lam < 1) + _pack_bits(cuts) + _pack_bits(partners.flip) + _pack_bits(erased)
            + stored.astype("<f4" if self.flags & _WIDE_WEIGHTS else "<u2").tobytes()
            + (crop & 255).astype(np.uint8).tobytes(),
            index.astype(_narrow(len(self.partner_table), 256)).tobytes(),
            (crop >> 8).astype(np.uint8).tobytes(),
            *(cut[cuts].T[edges].astype(self.box_type).tobytes() for edges in (slice(2), slice(2, None))),
            partners.erase[erased].astype(self.box_type).tobytes(),
        ]  # fmt: skip


def _refuse(field: str, value: object, advice: str) -> NoReturn:
    raise RecordError(f"reinforcement record: {field} is {value}; {advice}")


def _sort_classes(reinforcements: Reinforcements) -> Reinforcements:
    probs = reinforcements.soft_probs
    if not (probs[:, 1:] > probs[:, :-1]).any():
        return reinforcements
    order = np.argsort(-probs, axis=1, kind="stable")
    ids = np.take_along_axis(reinforcements.soft_ids, order, axis=1)
    return replace(reinforcements, soft_ids=ids, soft_probs=np.take_along_axis(probs, order, axis=1))


def _narrow(value: int, limit: int) -> str:
    """The u8 column type if ``value`` is at most ``limit``, else u16."""
    return "u1" if value <= limit else "<u2"


def _class_table(ids: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.intp]]:
    """Distinct ids (D,), most frequent first (equals: lower id first), and each id's place in them (N, K)."""
    table, index, counts = np.unique(ids.ravel(), return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return table[order], place[index].reshape(ids.shape)


def _classes_by_partner(
    mix: Mix, ids: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Class tables of the views of each partner (ascending numbers) and of those without: what a mixed view may be.

    Returns:
        Classes per table; ascending ids as differences, table after table; each id's place in its table (N, K). None
        where these do not fit a record.
    """
    numbers = np.unique(mix.partner[mix.partner >= 0])
    group = np.where(mix.partner >= 0, np.searchsorted(numbers, mix.partner), len(numbers))
    group = np.repeat(group, len(ids) // len(group))
    keys, index = np.unique(group[:, None].astype(np.int64) << 32 | ids, return_inverse=True)
    counts = np.bincount(keys >> 32, minlength=len(numbers) + 1)
    if len(keys) > 65535:
        return None
    starts = np.cumsum(counts) - counts
    classes = keys & 0xFFFFFFFF
    gaps = np.diff(classes, prepend=0)
    first = starts[counts > 0]
    gaps[first] = classes[first]
    return counts, gaps, index.reshape(ids.shape) - starts[group][:, None]


def _from_gaps(counts: npt.NDArray[Any], planes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """The classes of all tables (entries,), from the byte planes of their differences."""
    gaps = np.zeros(planes.shape[1], np.int64)
    for place, plane in enumerate(planes):
        gaps |= plane.astype(np.int64) << (8 * place)
    starts = np.cumsum(counts, dtype=np.int64) - counts
    first = np.zeros(len(gaps), np.bool_)
    first[starts[counts > 0]] = True
    _check_rows((gaps == 0) & ~first, "class gap", gaps, "want distinct classes")
    total = np.cumsum(gaps)
    before = np.repeat(total[np.minimum(starts, len(gaps) - 1)] - gaps[np.minimum(starts, len(gaps) - 1)], counts)
    return np.asarray(total - before)


def _op_table(*parts: Views) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.intp]]:
    """Distinct (op << 32 | magnitude bits) (M,) and, part by part and slot by slot, each view's place in them."""
    keys = []
    for views in parts:
        bits = np.ascontiguousarray(views.magnitudes).view(np.uint32)
        keys.append((views.ops.astype(np.uint64) << np.uint64(32) | bits).T.ravel())
    table, index = np.unique(np.concatenate(keys), return_inverse=True)
    return table, index


def _side_bits(length: int) -> int:
    """Bits that hold the number of any box on an axis of ``length`` pixels."""
    return (length * (length + 1) // 2 - 1).bit_length()


def _crop_bits(height: int, width: int) -> int:
    return _side_bits(height) + _side_bits(width)


def _pack_bits(bits: npt.NDArray[np.bool_]) -> bytes:
    return np.packbits(bits, bitorder="little").tobytes()


def _pack_crops(crop: npt.NDArray[np.int32], height: int, width: int) -> bytes:
    top, left, crop_height, crop_width = crop.astype(np.int64).T
    free_y, free_x = height - crop_height, width - crop_width
    vertical = free_y * (free_y + 1) // 2 + top
    horizontal = free_x * (free_x + 1) // 2 + left
    numbers = vertical | horizontal << _side_bits(height)
    bits = np.unpackbits(numbers.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    return np.packbits(bits[:, : _crop_bits(height, width)], bitorder="little").tobytes()


def _unpack_crops(bits: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.int32]:
    """int32 (N, 4) of the crop column's bits (N, B)."""
    low = _side_bits(height)
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
    _check_rows(numbers >= limit, f"{axis} crop number", numbers, f"want below {limit}")
    free = ((np.sqrt(8 * numbers + 1) - 1) // 2).astype(np.int64)
    return numbers - free * (free + 1) // 2, length - free


def _to_codes(probs: npt.NDArray[np.float32], step: float) -> npt.NDArray[np.uint8]:
    """(N, K): the rest code and the K - 1 steps of every row of falling probabilities."""
    if not probs.shape[1]:
        return np.empty(probs.shape, np.uint8)
    values = probs.astype(np.float64)
    first, rest = values[:, :1], 1 - values.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.clip(np.rint(np.log(first / values) / step), 0, _ZERO_CODE - 1)
        rest_code = np.clip(np.rint(np.log(first / rest) / step) + _REST_BIAS, 0, _ZERO_CODE - 1)
    codes[values == 0] = _ZERO_CODE
    rest_code[rest <= 0] = _ZERO_CODE
    codes[:, 0] = 0
    # log need not be monotonic to the last bit, and the steps must not be negative
    steps = np.diff(np.maximum.accumulate(codes, axis=1), axis=1)
    return np.hstack([rest_code, steps]).astype(np.uint8)


@functools.lru_cache(maxsize=16)
def _weights(step: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Weight of every class code and of every rest code, by libm (NumPy's exp may differ in the last bit)."""

    def exp(value: float) -> float:
        return math.exp(value) if value < 709 else math.inf  # exp(709.8) overflows: a step no encoder writes

    weight = np.array([exp(-step * code) for code in range(_ZERO_CODE)] + [0.0])
    rest = np.array([exp(-step * (code - _REST_BIAS)) for code in range(_ZERO_CODE)] + [0.0])
    return weight, rest


def _from_codes(columns: npt.NDArray[np.uint8], step: float) -> npt.NDArray[np.float32]:
    """float32 (N, K) of the stored rest codes and steps (K, N)."""
    codes = columns.astype(np.uint32)
    codes[0] = 0
    codes = codes.cumsum(axis=0, dtype=np.uint32)
    _check_rows(codes[-1] > _ZERO_CODE, "logarithmic code", codes[-1], f"want at most {_ZERO_CODE}")
    weight, rest = _weights(step)
    weights = weight[codes]
    total = rest[columns[0]]
    for row in weights:  # in this order, so that every reader rounds alike
        total = total + row
    _check_rows(~np.isfinite(total), "weight of the rest", total, f"want it finite (log_step is {step})")
    return np.ascontiguousarray((weights / total).T.astype(np.float32))


def _compress(blocks: list[bytes], *, literal: bool = False) -> bytes:
    """``blocks``, one after another, as one zstd frame; each that is not too small becomes a zstd block.

    A zstd block has its own Huffman table. These columns hold hardly any repeated strings, so what serves is Huffman
    coding with as few matches as can be had (least tables, longest shortest match) and a block for each group of like
    columns. Each table costs a reader time, and so does what it decodes beside the row that it wants. Hence four groups
    of rows at N = 400, each of a block that does not compress (crops) and two that do, and the tables left as they
    are (``literal``). `bench/record_size.py --images 10 --groups 1 2 3 4 5 6` on two cores of an AMD EPYC (EfficientNet-Lite0
    teacher, K = 10; us to decompress what one view needs, with libzstd 1.5.7):

        groups                 1      2      3      4      5      6
        bytes per view      18.6   18.9   19.1   19.2   19.4   19.6
        us                  17.6   10.5    8.6    7.7    7.0    5.8

    "lazy" rather than "fast": that reuses tables which do not fit well.
    """
    parameters = zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_FAST if literal else zstandard.STRATEGY_LAZY,
        target_length=int(literal),  # with "fast" and above 0, there is no Huffman coding
        min_match=7, hash_log=6, chain_log=6, search_log=1,
        window_log=17, write_content_size=1, write_checksum=0, write_dict_id=0,
    )  # fmt: skip
    size = sum(map(len, blocks))
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=size)
    out, pending = [], 0
    for block in blocks:
        out.append(compressor.compress(block))
        pending += len(block)
        if pending >= _MIN_BLOCK:
            out.append(compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
            pending = 0
    return b"".join([*out, compressor.flush()])


def _frames(member: bytes) -> list[bytes]:
    """The zstd frames of a member, whole and with sizes of content that are allowed; RFC 8878 says what is read here."""
    frames: list[bytes] = []
    start = content = 0
    while start < len(member) or not frames:
        try:
            facts = zstandard.get_frame_parameters(member[start : start + _FRAME_HEADER_BYTES])
            at = start + zstandard.frame_header_size(member[start : start + _FRAME_HEADER_BYTES])
        except zstandard.ZstdError as error:
            raise RecordError(
                f"reinforcement record: not a zstd frame at byte {start} ({error}); {_DAMAGED}"
            ) from error
        content += facts.content_size
        if member[start : start + 4] != zstandard.FRAME_HEADER or content > MAX_RECORD_BYTES:
            # a skippable frame, or too much; an unknown size is reported as 2**64 - 1
            found = content if content < 2**63 else "absent"
            _refuse("zstd content size", found, f"want it given and at most {MAX_RECORD_BYTES}: {_DAMAGED}")
        last = False
        while not last:
            block = int.from_bytes(member[at : at + 3], "little")
            last = bool(block & 1) or at >= len(member)
            at += 3 + (1 if block >> 1 & 3 == _RUN_BLOCK else block >> 3)
        at += 4 * bool(facts.has_checksum)
        if at > len(member):
            _refuse("end of a zstd frame", f"byte {at}", f"but its member has {len(member)} bytes: {_DAMAGED}")
        frames.append(member[start:at])
        start = at
    return frames


def _decompress(frame: bytes) -> bytes:
    try:
        return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise RecordError(f"reinforcement record: zstd: {error}; {_DAMAGED}") from error


@dataclass(frozen=True)
class _Header:
    """The header's fields, checked, by the names in the schema."""

    magic: bytes
    version: int
    header_bytes: int
    record_bytes: int
    flags: int
    views: int
    image_height: int
    image_width: int
    view_height: int
    view_width: int
    num_ops: int
    op_entries: int
    topk: int
    class_entries: int
    probability_encoding: int
    reserved: int
    partner_entries: int
    log_step: float
    group_rows: int

    def check(self, available: int) -> None:
        """RecordError for the first field that the schema refuses; ``available``: the record's bytes."""
        update = "the record was written by a newer dali_dr (update dali_dr) or is damaged"
        if self.magic != MAGIC:
            _refuse("magic", repr(self.magic), f"want {MAGIC!r}: this is not a reinforcement record")
        log8 = self.probability_encoding == _LOG8
        for name, low, high, advice in (
            ("version", VERSION, VERSION, update),
            ("header_bytes", _HEADER.size, _HEADER.size, update),
            ("flags", 0, _ALL_FLAGS, update),
            ("probability_encoding", 0, len(_ENCODINGS) - 1, update),
            ("record_bytes", available, available, _DAMAGED),
            ("views", 1, MAX_VIEWS, _DAMAGED),
            ("image_height", 1, MAX_SIDE, _DAMAGED),
            ("image_width", 1, MAX_SIDE, _DAMAGED),
            ("view_height", 1, MAX_SIDE, _DAMAGED),
            ("view_width", 1, MAX_SIDE, _DAMAGED),
            ("num_ops", 0, MAX_OPS, _DAMAGED),
            ("op_entries", min(self.num_ops, 1), 0xFFFF * min(self.num_ops, 1), _DAMAGED),
            ("class_entries", self.topk, 0xFFFF * min(self.topk, 1), _DAMAGED),
            ("reserved", 0, 0, update),
            ("partner_entries", 0, 0xFFFF * bool(self.flags & _MIXING), update),
            ("group_rows", 1, self.views, _DAMAGED),
            ("log_step", sys.float_info.min if log8 else 0, sys.float_info.max if log8 else 0, _DAMAGED),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                _refuse(name, value, f"want {low}" + (f"..{high}" if low != high else "") + f": {advice}")
        if self.flags & (_WIDE_WEIGHTS | _DOUBLE | _PARTNER_CLASSES) and not self.flags & _MIXING:
            _refuse("flags", self.flags, f"want bits 4 to 6 with MIXING only: {update}")
        if self.flags & _PARTNER_CLASSES and not self.topk:
            _refuse("flags", self.flags, f"want PARTNER_CLASSES with predictions only: {_DAMAGED}")
        for name in ("views", "group_rows"):
            if self.flags & _DOUBLE and getattr(self, name) % 2:
                _refuse(name, getattr(self, name), f"want an even number with DOUBLE: {_DAMAGED}")


class _Columns:
    """Cuts the columns off a part of a record, in order; RecordError where they end too early."""

    def __init__(self, part: bytes, offset: int = 0) -> None:
        self._part = part
        self._offset = offset

    def take(self, name: str, dtype: str, count: int) -> npt.NDArray[Any]:
        end = self._offset + count * np.dtype(dtype).itemsize
        if end > len(self._part):
            have = f"but this part of the record has {len(self._part)} bytes: {_DAMAGED}"
            _refuse(f"end of column {name}", f"byte {end}", have)
        column = np.frombuffer(self._part, dtype, count, self._offset)
        self._offset = end
        return column

    def take_bits(self, name: str, count: int) -> npt.NDArray[np.uint8]:
        """The column's ``count`` bits, one per element."""
        bits = np.unpackbits(self.take(name, "u1", (count + 7) // 8), bitorder="little")
        if bits[count:].any():
            _refuse(f"last byte of column {name}", f"{bits[-8:]}", f"want its unused bits zero: {_DAMAGED}")
        return bits[:count]

    def finish(self) -> None:
        if self._offset != len(self._part):
            have = f"but its columns end at byte {self._offset}: {_DAMAGED}"
            _refuse("length of a part of the record", f"{len(self._part)} bytes", have)


def _check_rows(bad: Any, field: str, values: npt.NDArray[Any], want: str) -> None:
    """RecordError for the first row (leading axis) where ``bad``, bool (rows,), holds."""
    if bad.any():
        row = int(np.argmax(bad))
        value = str(values[row].tolist())
        _refuse(f"{field} of row {row}", value if len(value) < 200 else f"{value[:200]} ...", f"{want}: {_DAMAGED}")


def _decode_record(parts: list[bytes]) -> Record:
    """The record in the contents of its frames."""
    if len(parts[0]) < _HEADER.size:
        _refuse("record size", f"{len(parts[0])} bytes", f"want {_HEADER.size} or more: {_DAMAGED}")
    header = _Header(*_HEADER.unpack_from(parts[0]))
    header.check(sum(map(len, parts)))
    starts = range(0, header.views, header.group_rows)
    if len(parts) != (frames := 1 if len(starts) == 1 else 1 + len(starts)):
        _refuse("number of zstd frames", len(parts), f"want {frames} for {len(starts)} groups of rows: {_DAMAGED}")
    topk, view_size = header.topk, (header.view_height, header.view_width)
    rows = header.views  # of predictions; two of them share the parameters of a pair
    views = rows // 2 if header.flags & _DOUBLE else rows
    class_entries, op_entries = header.class_entries, header.op_entries

    columns = _Columns(parts[0], _HEADER.size)
    wide = bool(header.flags & _WIDE_CLASSES)
    largest = class_entries
    if by_partner := bool(header.flags & _PARTNER_CLASSES):
        counts = columns.take("class counts", "<u2", header.partner_entries + 1)
        if (total := int(counts.sum(dtype=np.int64))) != class_entries:
            _refuse("sum of the class counts", total, f"want class_entries = {class_entries}: {_DAMAGED}")
        planes = columns.take("class gaps", "u1", (4 if wide else 2) * class_entries).reshape(-1, class_entries)
        classes = _from_gaps(counts, planes)
        largest = int(counts.max())
    else:
        classes = columns.take("classes", "<u4" if wide else "<u2", class_entries)
    op_ids = columns.take("op ids", "u1", op_entries)
    op_magnitudes = columns.take("op magnitudes", "<f4", op_entries)
    partner_table = columns.take("partner table", "<u4", header.partner_entries)
    if len(starts) == 1:
        groups = [_take_group(columns, header, rows, largest)]
    else:
        columns.finish()
        groups = [
            _take_group(_Columns(part), header, min(header.group_rows, rows - start), largest)
            for start, part in zip(starts, parts[1:], strict=True)
        ]
    stored = _joined([group for group, _ in groups])
    stored_mix = _joined([mix for _, mix in groups if mix is not None]) if header.flags & _MIXING else None
    flip, erased = stored.flip.astype(np.bool_), stored.erased.astype(np.bool_)

    _check_rows(classes > np.iinfo(np.int32).max, "class id", classes, "want below 2**31")
    if not by_partner:
        _check_rows(repeats(classes[None]), "class table", classes[None], "want distinct ids")
    _check_rows(op_ids >= len(OP_NAMES), "operation", op_ids, f"want 0..{len(OP_NAMES) - 1}")
    _check_rows(~np.isfinite(op_magnitudes), "operation magnitude", op_magnitudes, "want a finite number")
    entries = stored.class_index.astype(np.int64)
    limit: Any = class_entries
    if by_partner and stored_mix is not None:
        group = np.repeat(stored_mix.group(partner_table), 2 if header.flags & _DOUBLE else 1)
        limit = counts.astype(np.int64)[group][:, None]
        entries = entries + (np.cumsum(counts, dtype=np.int64) - counts)[group][:, None]
        limit = limit + (np.cumsum(counts, dtype=np.int64) - counts)[group][:, None]
    unknown = (entries >= limit).any(axis=1)
    _check_rows(unknown, "class table entries", entries, "want them below the number of entries")
    _check_rows(repeats(entries), "class table entries", entries, "want distinct classes")
    soft_ids = np.ascontiguousarray(classes[entries].astype(np.int32))
    erase = _placed_boxes("erase box", erased, stored.boxes, view_size)
    if header.probability_encoding == _LOG8 and topk:
        probs = _from_codes(stored.values.T, header.log_step)
    else:
        probs = np.ascontiguousarray(stored.values.astype(np.float32))
        outside = ~((probs >= 0) & (probs <= 1)).all(axis=1)
        _check_rows(outside, "probabilities", probs, "want numbers in 0..1")
        _check_rows((probs[:, 1:] > probs[:, :-1]).any(axis=1), "probabilities", probs, "want them falling")

    def operations(index: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        unknown = (index >= op_entries).any(axis=1)
        _check_rows(unknown, "operation table entries", index, f"want below {op_entries}")
        return op_ids[index], op_magnitudes[index].astype(np.float32, copy=False)

    crop = _unpack_crops(stored.crop_bits, header.image_height, header.image_width)
    own = Views(crop, flip, *operations(stored.op_index), erase)
    if stored_mix is not None:
        own = replace(own, mix=stored_mix.mix(header, partner_table, *operations(stored_mix.op_index)))
    if header.flags & _DOUBLE:
        own = own.take(np.repeat(np.arange(views), 2))
        assert own.mix is not None
        own.mix.swapped[1::2] = True
    return Record(
        Reinforcements.from_views(own, soft_ids, probs),
        header.image_height,
        header.image_width,
        view_size,
        _ENCODINGS[header.probability_encoding],
        header.log_step,
    )


def _placed_boxes(
    name: str, present: npt.NDArray[np.bool_], boxes: npt.NDArray[Any], view_size: tuple[int, int]
) -> npt.NDArray[np.int32]:
    """int32 (rows, 4): the boxes in the rows that have one, checked against the view; zeros in the others."""
    placed = np.zeros((len(present), 4), np.int32)
    placed[present] = boxes
    outside = (placed[:, :2] + placed[:, 2:] > view_size).any(axis=1)
    empty = present & (placed[:, 2:] == 0).any(axis=1)
    view = f"the view of {view_size[0]}x{view_size[1]}"
    _check_rows(outside | empty, name, placed, f"want it inside {view} and not empty")
    return placed


@dataclass(frozen=True)
class _Rows:
    """The columns of some rows, and of the views that these share; rows lead."""

    crop_bits: npt.NDArray[np.uint8]
    flip: npt.NDArray[np.uint8]
    erased: npt.NDArray[np.uint8]
    boxes: npt.NDArray[Any]
    op_index: npt.NDArray[Any]
    class_index: npt.NDArray[Any]
    values: npt.NDArray[Any]


@dataclass(frozen=True)
class _MixRows:
    """The columns of mixed views of some rows; entries lead. All but ``present`` are of those that have a partner."""

    present: npt.NDArray[np.bool_]
    mixup: npt.NDArray[np.bool_]
    cuts: npt.NDArray[np.bool_]
    flip: npt.NDArray[np.bool_]
    erased: npt.NDArray[np.bool_]
    weights: npt.NDArray[Any]
    crop: npt.NDArray[np.int32]
    index: npt.NDArray[Any]
    cut_boxes: npt.NDArray[Any]
    erase_boxes: npt.NDArray[Any]
    op_index: npt.NDArray[Any]

    @property
    def mixed(self) -> npt.NDArray[np.intp]:
        """The views that have a partner."""
        return np.flatnonzero(self.present)

    def group(self, table: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The class table of each view: its partner's entry in the partner table, or the one after the last."""
        group = np.full(len(self.present), len(table), np.int64)
        if len(table):
            _check_rows(self.index >= len(table), "partner table entry", self.index, f"want below {len(table)}")
            group[self.mixed] = self.index
        return group

    def mix(
        self,
        header: _Header,
        table: npt.NDArray[Any],
        ops: npt.NDArray[np.uint8],
        magnitudes: npt.NDArray[np.float32],
    ) -> Mix:
        """The columns checked and spread over all views; RecordError for the first that is wrong."""
        count, view_size = len(self.mixed), (header.view_height, header.view_width)
        if header.flags & _DOUBLE:
            _check_rows(~self.present, "partner", self.present, "want one in every view of a double-mix")
        numbers = np.full(count, SELF_PARTNER, np.int32)
        if header.partner_entries:
            _check_rows(table > np.iinfo(np.int32).max, "partner", table, "want below 2**31")
            numbers = table[self.group(table)[self.mixed]].astype(np.int32)
        lam = np.ones(count, np.float32)
        if header.flags & _WIDE_WEIGHTS:
            _check_rows(~((self.weights >= 0) & (self.weights < 1)), "mixup weight", self.weights, "want it in 0..1")
            lam[self.mixup] = self.weights
        else:
            lam[self.mixup] = self.weights / np.float32(_WEIGHT_STEPS)
        crop = self.crop
        limit = (MAX_SIDE, MAX_SIDE) if header.partner_entries else (header.image_height, header.image_width)
        outside = (crop[:, :2] + crop[:, 2:] > limit).any(axis=1) | (crop[:, 2:] == 0).any(axis=1)
        _check_rows(outside, "partner crop", crop, f"want it inside {limit[0]}x{limit[1]} and not empty")
        cut = _placed_boxes("cutmix box", self.cuts, self.cut_boxes, view_size)
        erase = _placed_boxes("partner erase box", self.erased, self.erase_boxes, view_size)
        views = len(self.present)
        out = Mix(
            np.full(views, NO_PARTNER, np.int32),
            no_partner_views(views, header.num_ops),
            np.ones(views, np.float32),
            np.zeros((views, 4), np.int32),
            np.zeros(views, np.bool_),
        )
        out.partner[self.mixed], out.lam[self.mixed], out.cut[self.mixed] = numbers, lam, cut
        columns = {"crop": crop, "flip": self.flip, "ops": ops, "magnitudes": magnitudes, "erase": erase}
        for name, column in columns.items():
            getattr(out.views, name)[self.mixed] = column
        return out


def _take_group(columns: _Columns, header: _Header, rows: int, largest: int) -> tuple[_Rows, _MixRows | None]:
    """Cuts the columns of one group, which is all that is left of a part; ``largest``: entries of a class table."""
    topk, num_ops = header.topk, header.num_ops
    views = rows // 2 if header.flags & _DOUBLE else rows
    box_type = _narrow(max(header.view_height, header.view_width), 255)
    op_type = _narrow(header.op_entries, 256)
    unset = np.zeros(views, np.uint8)
    crop_bits = columns.take_bits("crops", views * _crop_bits(header.image_height, header.image_width))
    flip = columns.take_bits("flips", views) if header.flags & _FLIP else unset
    erased = columns.take_bits("erased", views) if header.flags & _ERASE else unset
    group = _Rows(
        crop_bits.reshape(views, -1),
        flip,
        erased,
        columns.take("erase boxes", box_type, 4 * int(erased.sum())).reshape(-1, 4),
        columns.take("ops", op_type, num_ops * views).reshape(num_ops, views).T,
        columns.take("class indices", _narrow(largest, 256), topk * rows).reshape(topk, rows).T,
        columns.take("probabilities", ("<f4", "<f2", "u1")[header.probability_encoding], topk * rows)
        .reshape(topk, rows)
        .T,
    )
    mix = None
    if header.flags & _MIXING:
        present = columns.take_bits("partnered", views).astype(np.bool_)
        count = int(present.sum())
        mixup, cuts, partner_flip, partner_erased = (
            columns.take_bits(name, count).astype(np.bool_)
            for name in ("mixups", "cutmixes", "partner flips", "partner erased")
        )
        kind = "<f4" if header.flags & _WIDE_WEIGHTS else "<u2"
        weights = columns.take("mixup weights", kind, int(mixup.sum()))
        low = columns.take("partner crops, low bytes", "u1", 4 * count).reshape(4, count).T
        indexed = count if header.partner_entries else 0
        index = columns.take("partners", _narrow(header.partner_entries, 256), indexed)
        high = columns.take("partner crops, high bytes", "u1", 4 * count).reshape(4, count).T
        mix = _MixRows(
            present,
            mixup,
            cuts,
            partner_flip,
            partner_erased,
            weights,
            low.astype(np.int32) | high.astype(np.int32) << 8,
            index,
            columns.take("cutmix boxes", box_type, 4 * int(cuts.sum())).reshape(4, -1).T,
            columns.take("partner erase boxes", box_type, 4 * int(partner_erased.sum())).reshape(-1, 4),
            columns.take("partner ops", op_type, num_ops * count).reshape(num_ops, count).T,
        )
    columns.finish()
    return group, mix


_Part = TypeVar("_Part", _Rows, _MixRows)


def _joined(parts: list[_Part]) -> _Part:
    """The rows of all parts, in order."""
    if len(parts) == 1:
        return parts[0]
    columns = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(parts[0])}
    return type(parts[0])(**columns)
