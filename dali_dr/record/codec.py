"""Reinforcement records (schemas/reinforcement-record.md): `encode` and `decode`, from and to NumPy columns.

A record holds all views of one image; compressed as one zstd frame, it is the member KEY.dr.zst of a shard.
"""

from __future__ import annotations

import functools
import math
import struct
import sys
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NoReturn

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
_HEADER: Final = struct.Struct("<4sHHIIIIIHHHHHHBBHf")
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

# Bytes; below, a zstd block's own Huffman table costs more than it saves (50 views: 24.7, not 24.3 bytes).
_MIN_BLOCK: Final = 256

# 0.15 nats: mean KL(original || stored) stays below about step**2 / 24 = 9.4e-4 nats (1e-3 is promised).
DEFAULT_LOG_STEP: Final = 0.15

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
) -> bytes:
    """One image's reinforcements as a zstd frame.

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
    box_type = _narrow(max(view_size), 255)
    op_type = _narrow(len(op_table), 256)
    class_type = _narrow(int(class_index.max(initial=0)) + 1 if grouped else len(classes), 256)
    if encoding == _LOG8:
        codes = _to_codes(predictions.soft_probs, step).T
    else:
        codes = predictions.soft_probs.astype("<f2" if probabilities == "float16" else "<f4").T
    geometry = (
        _pack_crops(reinforcements.crop, image_height, image_width)
        + (_pack_bits(reinforcements.flip) if flags & _FLIP else b"")
        + (_pack_bits(erased) if flags & _ERASE else b"")
        + boxes.astype(box_type).tobytes()
    )
    tables += (op_table >> np.uint64(32)).astype(np.uint8).tobytes() + op_table.astype("<u4").tobytes()
    # One list entry per zstd block, see _compress: columns of like distribution belong together.
    # More and smaller groups pay where predictions vary more.
    groups = (slice(1), slice(1, 2), slice(2, 4), slice(4, None)) if mix is not None else (slice(None),)
    own_ops = op_index[: reinforcements.ops.size].astype(op_type).tobytes()
    blocks = [
        tables + own_ops,
        geometry,
        class_index.T.astype(class_type).tobytes(),
        *(codes[rows].tobytes() for rows in groups),
    ]
    partner_entries = 0
    if mix is not None and partners is not None:
        mix_flags, partner_entries, mix_blocks = _mix_columns(mix, partners, mixed, box_type)
        flags |= mix_flags
        blocks += [*mix_blocks, op_index[reinforcements.ops.size :].astype(op_type).tobytes()]
    record_bytes = _HEADER.size + sum(map(len, blocks))
    if record_bytes > MAX_RECORD_BYTES:
        _refuse("record size", f"{record_bytes} bytes", f"want at most {MAX_RECORD_BYTES}: store fewer views")
    header = _HEADER.pack(
        MAGIC, VERSION, _HEADER.size, record_bytes, flags, views, image_height, image_width, *view_size,
        ops_per_view, len(op_table), topk, class_entries, encoding, 0, partner_entries, step,
    )  # fmt: skip
    return _compress([header + blocks[0], *blocks[1:]])


def decode(frame: bytes) -> Record:
    """The record in a zstd frame, checked for all that `Reinforcements.validate` checks but the sums.

    Raises:
        RecordError: naming the field that is wrong, its value, and what to do. Bytes raise nothing else.
    """
    return _decode_record(_decompress(frame))


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


def _mix_columns(mix: Mix, partners: Views, mixed: npt.NDArray[np.intp], box_type: str) -> tuple[int, int, list[bytes]]:
    """Flags, entries of the partner table, and the mix columns up to the partners' operations, as zstd blocks."""
    numbers, lam, cut = mix.partner[mixed], mix.lam[mixed], mix.cut[mixed]
    own = numbers == SELF_PARTNER
    if own.any() and not own.all():
        _refuse("partner", "the image itself in some views", "want it in all mixed views or in none")
    table, index = np.unique(numbers, return_inverse=True)
    if own.any():
        table, index = table[:0], index[:0]
    if len(table) > 65535:
        _refuse("number of partners", len(table), "a record holds 65535: store fewer views")
    flags = _MIXING
    weights, cuts, erased = lam[lam < 1], cut[:, 2] > 0, partners.erase[:, 2] > 0
    steps = weights.astype(np.float64) * _WEIGHT_STEPS
    if (steps == np.floor(steps)).all():
        stored = steps.astype("<u2").tobytes()
    else:
        flags, stored = flags | _WIDE_WEIGHTS, weights.astype("<f4").tobytes()
    crop = partners.crop.T.astype(np.uint16)
    blocks = [
        # What hardly compresses, together.
        table.astype("<u4").tobytes() + _pack_bits(mix.partner != NO_PARTNER) + _pack_bits(lam < 1) + _pack_bits(cuts)
        + _pack_bits(partners.flip) + _pack_bits(erased) + stored + (crop & 255).astype(np.uint8).tobytes(),
        index.astype(_narrow(len(table), 256)).tobytes(),
        (crop >> 8).astype(np.uint8).tobytes(),
        *(cut[cuts].T[rows].astype(box_type).tobytes() for rows in (slice(2), slice(2, None))),
        partners.erase[erased].astype(box_type).tobytes(),
    ]  # fmt: skip
    return flags, len(table), blocks


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


def _compress(blocks: list[bytes]) -> bytes:
    """``blocks``, one after another, as one zstd frame; each that is not too small becomes a zstd block.

    A zstd block has its own Huffman table. These columns hold hardly any repeated strings, so what serves is
    Huffman coding with as few matches as can be had (least tables, longest shortest match) and a block for
    each group of like columns. Each table costs a reader about 2 us, so there are only four: 18.7 bytes per view on
    10 photos x 400 views (EfficientNet-Lite0 teacher, K = 10). Nine blocks and "lazy2" take 17.7 bytes but 40 %
    more time to read; one block takes 20.2 bytes.
    """
    parameters = zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, chain_log=6, search_log=1,
        target_length=0, window_log=17, write_content_size=1, write_checksum=0, write_dict_id=0,
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


def _decompress(frame: bytes) -> bytes:
    try:
        size = zstandard.get_frame_parameters(frame).content_size
    except zstandard.ZstdError as error:
        raise RecordError(f"reinforcement record: not a zstd frame ({error}); {_DAMAGED}") from error
    if size > MAX_RECORD_BYTES:  # an unknown size is reported as 2**64 - 1
        found = size if size < 2**63 else "absent"
        _refuse("zstd content size", found, f"want it given and at most {MAX_RECORD_BYTES}: {_DAMAGED}")
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
            ("log_step", sys.float_info.min if log8 else 0, sys.float_info.max if log8 else 0, _DAMAGED),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                _refuse(name, value, f"want {low}" + (f"..{high}" if low != high else "") + f": {advice}")
        if self.flags & (_WIDE_WEIGHTS | _DOUBLE | _PARTNER_CLASSES) and not self.flags & _MIXING:
            _refuse("flags", self.flags, f"want bits 4 to 6 with MIXING only: {update}")
        if self.flags & _PARTNER_CLASSES and not self.topk:
            _refuse("flags", self.flags, f"want PARTNER_CLASSES with predictions only: {_DAMAGED}")
        if self.flags & _DOUBLE and self.views % 2:
            _refuse("views", self.views, f"want an even number with DOUBLE: {_DAMAGED}")


class _Columns:
    """Cuts the columns off a record, in order; RecordError where they end too early."""

    def __init__(self, record: bytes) -> None:
        self._record = record
        self._offset = _HEADER.size

    def take(self, name: str, dtype: str, count: int) -> npt.NDArray[Any]:
        end = self._offset + count * np.dtype(dtype).itemsize
        if end > len(self._record):
            have = f"but the record has {len(self._record)} bytes: {_DAMAGED}"
            _refuse(f"end of column {name}", f"byte {end}", have)
        column = np.frombuffer(self._record, dtype, count, self._offset)
        self._offset = end
        return column

    def take_bits(self, name: str, count: int) -> npt.NDArray[np.uint8]:
        """The column's ``count`` bits, one per element."""
        bits = np.unpackbits(self.take(name, "u1", (count + 7) // 8), bitorder="little")
        if bits[count:].any():
            _refuse(f"last byte of column {name}", f"{bits[-8:]}", f"want its unused bits zero: {_DAMAGED}")
        return bits[:count]

    def finish(self) -> None:
        if self._offset != len(self._record):
            have = f"but the columns end at byte {self._offset}: {_DAMAGED}"
            _refuse("record_bytes", len(self._record), have)


def _check_rows(bad: Any, field: str, values: npt.NDArray[Any], want: str) -> None:
    """RecordError for the first row (leading axis) where ``bad``, bool (rows,), holds."""
    if bad.any():
        row = int(np.argmax(bad))
        value = str(values[row].tolist())
        _refuse(f"{field} of row {row}", value if len(value) < 200 else f"{value[:200]} ...", f"{want}: {_DAMAGED}")


def _decode_record(record: bytes) -> Record:
    """The record in its uncompressed bytes."""
    if len(record) < _HEADER.size:
        _refuse("record size", f"{len(record)} bytes", f"want {_HEADER.size} or more: {_DAMAGED}")
    header = _Header(*_HEADER.unpack_from(record))
    header.check(len(record))
    topk, view_size = header.topk, (header.view_height, header.view_width)
    rows = header.views  # of predictions; two of them share the parameters of a pair
    views = rows // 2 if header.flags & _DOUBLE else rows
    class_entries, op_entries = header.class_entries, header.op_entries

    columns = _Columns(record)
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
    op_index = columns.take("ops", _narrow(op_entries, 256), header.num_ops * views)
    crop_bits = columns.take_bits("crops", views * _crop_bits(header.image_height, header.image_width))
    unset = np.zeros(views, np.bool_)
    flip = columns.take_bits("flips", views).astype(np.bool_) if header.flags & _FLIP else unset
    erased = columns.take_bits("erased", views).astype(np.bool_) if header.flags & _ERASE else unset
    erased_rows = int(erased.sum())
    boxes = columns.take("erase boxes", _narrow(max(view_size), 255), 4 * erased_rows).reshape(-1, 4)
    class_index = columns.take("class indices", _narrow(largest, 256), topk * rows)
    value_type = ("<f4", "<f2", "u1")[header.probability_encoding]
    values = columns.take("probabilities", value_type, topk * rows).reshape(topk, rows)
    stored_mix = _MixColumns(columns, header, views) if header.flags & _MIXING else None
    columns.finish()

    _check_rows(classes > np.iinfo(np.int32).max, "class id", classes, "want below 2**31")
    if not by_partner:
        _check_rows(repeats(classes[None]), "class table", classes[None], "want distinct ids")
    _check_rows(op_ids >= len(OP_NAMES), "operation", op_ids, f"want 0..{len(OP_NAMES) - 1}")
    _check_rows(~np.isfinite(op_magnitudes), "operation magnitude", op_magnitudes, "want a finite number")
    entries = class_index.reshape(topk, rows).T.astype(np.int64)
    limit: Any = class_entries
    if by_partner and stored_mix is not None:
        group = np.repeat(stored_mix.group(), 2 if header.flags & _DOUBLE else 1)
        limit = counts.astype(np.int64)[group][:, None]
        entries = entries + (np.cumsum(counts, dtype=np.int64) - counts)[group][:, None]
        limit = limit + (np.cumsum(counts, dtype=np.int64) - counts)[group][:, None]
    unknown = (entries >= limit).any(axis=1)
    _check_rows(unknown, "class table entries", entries, "want them below the number of entries")
    _check_rows(repeats(entries), "class table entries", entries, "want distinct classes")
    soft_ids = np.ascontiguousarray(classes[entries].astype(np.int32))
    erase = _placed_boxes("erase box", erased, boxes, view_size)
    if header.probability_encoding == _LOG8 and topk:
        probs = _from_codes(values, header.log_step)
    else:
        probs = np.ascontiguousarray(values.T.astype(np.float32))
        outside = ~((probs >= 0) & (probs <= 1)).all(axis=1)
        _check_rows(outside, "probabilities", probs, "want numbers in 0..1")
        _check_rows((probs[:, 1:] > probs[:, :-1]).any(axis=1), "probabilities", probs, "want them falling")

    def operations(index: npt.NDArray[Any], count: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        _check_rows(index >= op_entries, "operation table entry", index, f"want below {op_entries}")
        places = index.reshape(header.num_ops, count).T
        return op_ids[places], op_magnitudes[places].astype(np.float32, copy=False)

    crop = _unpack_crops(crop_bits.reshape(views, -1), header.image_height, header.image_width)
    own = Views(crop, flip, *operations(op_index, views), erase)
    if stored_mix is not None:
        own = replace(own, mix=stored_mix.mix(header, *operations(stored_mix.op_index, len(stored_mix.mixed))))
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


class _MixColumns:
    """The columns of mixed views, cut off a record in their order."""

    def __init__(self, columns: _Columns, header: _Header, views: int) -> None:
        box = _narrow(max(header.view_height, header.view_width), 255)
        self.table = columns.take("partner table", "<u4", header.partner_entries)
        self.present = columns.take_bits("partnered", views).astype(np.bool_)
        self.mixed = np.flatnonzero(self.present)
        count = len(self.mixed)
        self.mixup, self.cuts, self.flip, self.erased = (
            columns.take_bits(name, count).astype(np.bool_)
            for name in ("mixups", "cutmixes", "partner flips", "partner erased")
        )
        kind = "<f4" if header.flags & _WIDE_WEIGHTS else "<u2"
        self.weights = columns.take("mixup weights", kind, int(self.mixup.sum()))
        self.low = columns.take("partner crops, low bytes", "u1", 4 * count).reshape(4, count)
        indexed = count if header.partner_entries else 0
        self.index = columns.take("partners", _narrow(header.partner_entries, 256), indexed)
        self.high = columns.take("partner crops, high bytes", "u1", 4 * count).reshape(4, count)
        self.cut_boxes = columns.take("cutmix boxes", box, 4 * int(self.cuts.sum())).reshape(4, -1).T
        self.erase_boxes = columns.take("partner erase boxes", box, 4 * int(self.erased.sum())).reshape(-1, 4)
        self.op_index = columns.take("partner ops", _narrow(header.op_entries, 256), header.num_ops * count)

    def group(self) -> npt.NDArray[np.int64]:
        """The class table of each view: its partner's entry, or the one after the last."""
        group = np.full(len(self.present), len(self.table), np.int64)
        if len(self.table):
            _check_rows(
                self.index >= len(self.table), "partner table entry", self.index, f"want below {len(self.table)}"
            )
            group[self.mixed] = self.index
        return group

    def mix(self, header: _Header, ops: npt.NDArray[np.uint8], magnitudes: npt.NDArray[np.float32]) -> Mix:
        """The columns checked and spread over all views; RecordError for the first that is wrong."""
        count, view_size = len(self.mixed), (header.view_height, header.view_width)
        if header.flags & _DOUBLE:
            _check_rows(~self.present, "partner", self.present, "want one in every view of a double-mix")
        numbers = np.full(count, SELF_PARTNER, np.int32)
        if header.partner_entries:
            _check_rows(self.table > np.iinfo(np.int32).max, "partner", self.table, "want below 2**31")
            numbers = self.table[self.group()[self.mixed]].astype(np.int32)
        lam = np.ones(count, np.float32)
        if header.flags & _WIDE_WEIGHTS:
            _check_rows(~((self.weights >= 0) & (self.weights < 1)), "mixup weight", self.weights, "want it in 0..1")
            lam[self.mixup] = self.weights
        else:
            lam[self.mixup] = self.weights / np.float32(_WEIGHT_STEPS)
        crop = (self.low.astype(np.int32) | self.high.astype(np.int32) << 8).T
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
