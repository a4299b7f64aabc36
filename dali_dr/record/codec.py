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

from dali_dr.augment.views import OP_NAMES
from dali_dr.errors import RecordError
from dali_dr.record.labels import Reinforcements, repeats

Probabilities = Literal["log8", "float16", "float32"]

# The numbers below are those of schemas/reinforcement-record.md, version 1.
MAGIC: Final = b"drrc"
VERSION: Final = 1
_HEADER: Final = struct.Struct("<4sHHIIIIIHHHHHHB3sf")
_FLIP, _ERASE, _WIDE_CLASSES = 1, 2, 4
_ENCODINGS: Final[tuple[Probabilities, ...]] = ("float32", "float16", "log8")  # by their number in the header
_LOG8: Final = 2
MAX_VIEWS: Final = 65536
MAX_SIDE: Final = 65535
MAX_OPS: Final = 16
MAX_RECORD_BYTES: Final = 64 << 20
_REST_BIAS: Final = 96  # the rest may outweigh the most likely class by exp(96 * 0.15) = 1.8 million
_ZERO_CODE: Final = 255
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
    falling probability if they are not (equals keep their order). Equal input gives equal bytes.

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
    erased = reinforcements.erase[:, 2] > 0
    boxes = reinforcements.erase[erased]
    if boxes.size and ((boxes[:, :2] + boxes[:, 2:]).max(axis=0) > view_size).any():
        _refuse("erase box", "outside the view", f"the view is {view_size[0]}x{view_size[1]}")

    classes, class_index = _class_table(reinforcements.soft_ids)
    op_table, op_index = _op_table(reinforcements)
    for name, table in (("operation", op_table), ("class", classes)):
        if len(table) > 65535:
            _refuse(f"number of {name} table entries", len(table), "a record holds 65535: store fewer views")
    wide = bool(classes.size) and int(classes.max()) > 0xFFFF
    flags = _FLIP * bool(reinforcements.flip.any()) | _ERASE * bool(erased.any()) | _WIDE_CLASSES * wide
    box_type = _narrow(max(view_size), 255)
    op_type = _narrow(len(op_table), 256)
    class_type = _narrow(len(classes), 256)
    if encoding == _LOG8:
        codes = _to_codes(reinforcements.soft_probs, step).T
    else:
        codes = reinforcements.soft_probs.astype("<f2" if probabilities == "float16" else "<f4").T
    tables = (
        classes.astype("<u4" if wide else "<u2").tobytes()
        + (op_table >> np.uint64(32)).astype(np.uint8).tobytes()
        + op_table.astype("<u4").tobytes()
    )
    geometry = (
        _pack_crops(reinforcements.crop, image_height, image_width)
        + (_pack_bits(reinforcements.flip) if flags & _FLIP else b"")
        + (_pack_bits(erased) if flags & _ERASE else b"")
        + boxes.astype(box_type).tobytes()
    )
    ranks = class_index.T.astype(class_type)
    # One list entry per zstd block, see _compress: columns of like distribution belong together.
    blocks = [tables + op_index.astype(op_type).tobytes(), geometry, ranks.tobytes(), codes.tobytes()]
    record_bytes = _HEADER.size + sum(map(len, blocks))
    if record_bytes > MAX_RECORD_BYTES:
        _refuse("record size", f"{record_bytes} bytes", f"want at most {MAX_RECORD_BYTES}: store fewer views")
    header = _HEADER.pack(
        MAGIC, VERSION, _HEADER.size, record_bytes, flags, views, image_height, image_width, *view_size,
        ops_per_view, len(op_table), topk, len(classes), encoding, bytes(3), step,
    )  # fmt: skip
    return _compress([header + blocks[0], *blocks[1:]])


def decode(frame: bytes) -> Record:
    """The record in a zstd frame, checked for all that `Reinforcements.validate` checks but the sums.

    Raises:
        RecordError: naming the field that is wrong, its value, and what to do. Bytes raise nothing else.
    """
    return _decode_record(_decompress(frame))


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


def _op_table(reinforcements: Reinforcements) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.intp]]:
    """Distinct (op << 32 | magnitude bits) (M,) and, slot by slot, each view's place in them (n * N,)."""
    bits = np.ascontiguousarray(reinforcements.magnitudes).view(np.uint32)
    keys = reinforcements.ops.astype(np.uint64) << np.uint64(32) | bits
    table, index = np.unique(keys.T.ravel(), return_inverse=True)
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
    reserved: bytes
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
            ("flags", 0, _FLIP | _ERASE | _WIDE_CLASSES, update),
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
            ("log_step", sys.float_info.min if log8 else 0, sys.float_info.max if log8 else 0, _DAMAGED),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                _refuse(name, value, f"want {low}" + (f"..{high}" if low != high else "") + f": {advice}")
        if any(self.reserved):
            _refuse("reserved", self.reserved.hex(), f"want zero: {update}")


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
    views, topk, view_size = header.views, header.topk, (header.view_height, header.view_width)
    class_entries, op_entries = header.class_entries, header.op_entries

    columns = _Columns(record)
    classes = columns.take("classes", "<u4" if header.flags & _WIDE_CLASSES else "<u2", class_entries)
    op_ids = columns.take("op ids", "u1", op_entries)
    op_magnitudes = columns.take("op magnitudes", "<f4", op_entries)
    op_index = columns.take("ops", _narrow(op_entries, 256), header.num_ops * views)
    crop_bits = columns.take_bits("crops", views * _crop_bits(header.image_height, header.image_width))
    unset = np.zeros(views, np.bool_)
    flip = columns.take_bits("flips", views).astype(np.bool_) if header.flags & _FLIP else unset
    erased = columns.take_bits("erased", views).astype(np.bool_) if header.flags & _ERASE else unset
    erased_rows = int(erased.sum())
    boxes = columns.take("erase boxes", _narrow(max(view_size), 255), 4 * erased_rows).reshape(-1, 4)
    class_index = columns.take("class indices", _narrow(class_entries, 256), topk * views)
    value_type = ("<f4", "<f2", "u1")[header.probability_encoding]
    values = columns.take("probabilities", value_type, topk * views).reshape(topk, views)
    columns.finish()

    _check_rows(classes > np.iinfo(np.int32).max, "class id", classes, "want below 2**31")
    _check_rows(repeats(classes[None]), "class table", classes[None], "want distinct ids")
    _check_rows(op_ids >= len(OP_NAMES), "operation", op_ids, f"want 0..{len(OP_NAMES) - 1}")
    _check_rows(~np.isfinite(op_magnitudes), "operation magnitude", op_magnitudes, "want a finite number")
    _check_rows(op_index >= op_entries, "operation table entry", op_index, f"want below {op_entries}")
    entries = class_index.reshape(topk, views).T
    unknown = (entries >= class_entries).any(axis=1)
    _check_rows(unknown, "class table entries", entries, f"want below {class_entries}")
    _check_rows(repeats(entries), "class table entries", entries, "want distinct classes")
    erase = np.zeros((views, 4), np.int32)
    erase[erased] = boxes
    outside = (erase[:, :2] + erase[:, 2:] > view_size).any(axis=1)
    empty = erased & (erase[:, 2:] == 0).any(axis=1)
    view = f"the view of {header.view_height}x{header.view_width}"
    _check_rows(outside | empty, "erase box", erase, f"want it inside {view} and not empty")
    if header.probability_encoding == _LOG8 and topk:
        probs = _from_codes(values, header.log_step)
    else:
        probs = np.ascontiguousarray(values.T.astype(np.float32))
        outside = ~((probs >= 0) & (probs <= 1)).all(axis=1)
        _check_rows(outside, "probabilities", probs, "want numbers in 0..1")
        _check_rows((probs[:, 1:] > probs[:, :-1]).any(axis=1), "probabilities", probs, "want them falling")
    rows_of_ops = op_index.reshape(header.num_ops, views).T
    reinforcements = Reinforcements(
        crop=_unpack_crops(crop_bits.reshape(views, -1), header.image_height, header.image_width),
        flip=flip,
        ops=op_ids[rows_of_ops],
        magnitudes=op_magnitudes[rows_of_ops].astype(np.float32, copy=False),
        erase=erase,
        soft_ids=np.ascontiguousarray(classes[entries].astype(np.int32)),
        soft_probs=probs,
    )
    return Record(
        reinforcements,
        header.image_height,
        header.image_width,
        view_size,
        _ENCODINGS[header.probability_encoding],
        header.log_step,
    )
