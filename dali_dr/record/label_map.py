"""Label maps: a teacher's scores of a few classes in each cell of a grid over an image (schemas/label-map.md)."""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, NoReturn, get_args

import numpy as np
import numpy.typing as npt
import zstandard

from dali_dr.errors import RecordError
from dali_dr.record.frames import check_checksums, decompress, split

Order = Literal["code", "transposed"]
ORDERS: Final[tuple[Order, ...]] = get_args(Order)

MAX_SIDE_CELLS: Final = 255
MAX_VALUES: Final = 65_536  # of a map
_MAGIC: Final = b"drlm"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<4sHHIHHHHIB3s")
_MAX_BYTES: Final = _HEADER.size + (4 + 2 + 4) * MAX_VALUES
_FLOAT32, _FLOAT16 = 0, 1
_MAX_CLASSES: Final = 2**31 - 1
_NARROW_CLASSES: Final = 65_536  # up to so many have ids of two bytes
_NARROW_ENTRIES: Final = 256
_CHECKSUMMED: Final = 2  # a version of records whose frames have checksums
_DAMAGED: Final = "the label map is damaged: fetch or write its shard again"

Scores = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class LabelMaps:
    """What the label maps of a data set are.

    Attributes:
      height, width: cells of a map, equal.
      depth: classes that have a score in a cell.
      order: how a crop is laid over a map: "code", as ReLabel's published training code does it, which passes (top, left,
        bottom, right) where torchvision's roi_align takes (x1, y1, x2, y2), or "transposed", with left and top in the
        places of x and y.
    """

    height: int = 15
    width: int = 15
    depth: int = 5
    order: Order = "code"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise RecordError(f"label maps: order is {self.order!r:.80}, want one of {', '.join(ORDERS)}")
        if self.height != self.width or not 1 <= self.height <= MAX_SIDE_CELLS:
            raise RecordError(
                f"label maps of {self.height} x {self.width} cells: want a square of 1 to {MAX_SIDE_CELLS}, "
                "as its box is scaled by one number"
            )
        if not 1 <= self.depth * self.height * self.width <= MAX_VALUES:
            raise RecordError(f"label maps: depth is {self.depth}, want 1 or more, and up to {MAX_VALUES} scores a map")

    def to_json(self) -> dict[str, Any]:
        """As dataset.json has it."""
        return asdict(self)


def encode_label_map(scores: npt.NDArray[Any], ids: npt.NDArray[Any], *, num_classes: int) -> bytes:
    """The member KEY.dr.zst of a label map.

    Where a cell names a class twice, all its scores but the last are stored as 0: the published training code writes
    them over each other in an order that PyTorch leaves open.

    Args:
      scores: (depth, side, side), finite in float32.
      ids: (depth, side, side) class ids, 0 <= id < num_classes.
      num_classes: of the data set.

    Raises:
      RecordError: what cannot be stored, and why.
    """
    scores, ids = np.asarray(scores), np.asarray(ids)
    if scores.ndim != 3 or scores.shape != ids.shape or not np.issubdtype(ids.dtype, np.integer):
        _refuse("shape", f"{scores.shape} of scores, {ids.shape} of {ids.dtype} ids", "want (depth, side, side) twice")
    LabelMaps(scores.shape[1], scores.shape[2], scores.shape[0])  # refuses other shapes
    with np.errstate(over="ignore"):
        stored = scores.astype(np.float32)
    if not np.isfinite(stored).all():
        _refuse("score", str(stored[~np.isfinite(stored)][0]), "want finite ones")
    if outside := ids[(ids < 0) | (ids >= num_classes)].tolist():
        _refuse("class id", outside[0], f"want ids of 0..{num_classes - 1}")
    stored[_overwritten(ids)] = 0
    classes, entries = np.unique(ids, return_inverse=True)
    with np.errstate(over="ignore"):
        half = stored.astype(np.float16)
    encoding = _FLOAT16 if np.array_equal(half.astype(np.float32).view(np.uint32), stored.view(np.uint32)) else _FLOAT32
    values = half if encoding == _FLOAT16 else stored
    planes = np.ascontiguousarray(values.ravel()).view(np.uint8).reshape(-1, values.itemsize).T
    columns = (
        classes.astype(_class_type(num_classes)).tobytes()
        + entries.astype(_entry_type(len(classes))).tobytes()
        + planes.tobytes()
    )
    depth, height, width = scores.shape
    header = _HEADER.pack(
        _MAGIC, _VERSION, _HEADER.size, _HEADER.size + len(columns),
        height, width, depth, len(classes), num_classes, encoding, bytes(3),
    )  # fmt: skip
    parameters = zstandard.ZstdCompressionParameters.from_level(9, write_content_size=1, write_checksum=1)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(header + columns)


def decode_label_map(member: bytes) -> tuple[Scores, Ids]:
    """Scores float32 and class ids int32, both (depth, side, side), of a member. RecordError where it is damaged."""
    return _read(member)[:2]


def check_label_map(member: bytes, maps: LabelMaps, num_classes: int) -> int:
    """How many classes the map in a member has. RecordError where it is damaged, or not one of this data set."""
    scores, ids, classes = _read(member)
    depth, height, width = scores.shape
    for name, found, wanted in (
        ("cells", (height, width), (maps.height, maps.width)),
        ("depth", depth, maps.depth),
        ("number of classes", classes, num_classes),
    ):
        if found != wanted:
            _refuse(name, found, f"want {wanted}, as the data set has it")
    return len(np.unique(ids))


def _read(member: bytes) -> tuple[Scores, Ids, int]:
    """Scores, class ids and the number of classes."""
    content = _content(member)
    if len(content) < _HEADER.size or content[:4] != _MAGIC:
        _refuse("beginning", repr(content[:4]), f"want {_MAGIC!r} and a header of {_HEADER.size} bytes: {_DAMAGED}")
    _, version, header_bytes, length, height, width, depth, count, num_classes, encoding, zeros = _HEADER.unpack_from(
        content
    )
    if version != _VERSION:
        _refuse("version", version, f"this dali_dr reads {_VERSION}: update dali_dr, or {_DAMAGED}")
    LabelMaps(height, width, depth)
    values = depth * height * width
    class_type, entry_type = _class_type(num_classes), _entry_type(count)
    score_bytes = 2 if encoding == _FLOAT16 else 4
    whole = _HEADER.size + class_type.itemsize * count + (entry_type.itemsize + score_bytes) * values
    for good, name, found, want in (
        (header_bytes == _HEADER.size, "header_bytes", header_bytes, f"want {_HEADER.size}"),
        (1 <= num_classes <= _MAX_CLASSES, "number of classes", num_classes, f"want 1 to {_MAX_CLASSES}"),
        (encoding in (_FLOAT32, _FLOAT16), "encoding", encoding, "want 0 or 1"),
        (not any(zeros), "end of the header", zeros, "want zeros"),
        (1 <= count <= min(values, num_classes), "class_entries", count, f"want 1 to {min(values, num_classes)}"),
        (length == len(content) == whole, "map_bytes", f"{length} of {len(content)}", f"want {whole} for its columns"),
    ):
        if not good:
            _refuse(name, found, f"{want}: {_DAMAGED}")
    classes = np.frombuffer(content, class_type, count, _HEADER.size).astype(np.int64)
    at = _HEADER.size + class_type.itemsize * count
    entries = np.frombuffer(content, entry_type, values, at)
    at += entry_type.itemsize * values
    planes = np.frombuffer(content, np.uint8, offset=at).reshape(score_bytes, values)
    scores = np.ascontiguousarray(planes.T).view(np.float16 if score_bytes == 2 else np.float32).astype(np.float32)
    for good, name, want in (
        ((np.diff(classes) > 0).all() and classes[-1] < num_classes, "class table", f"rising, below {num_classes}"),
        (np.array_equal(np.unique(entries), np.arange(count)), "entries", "each of the class table, and no other"),
        (np.isfinite(scores).all(), "scores", "finite"),
    ):
        if not good:
            _refuse(name, "wrong", f"want {want}: {_DAMAGED}")
    shape = depth, height, width
    return scores.reshape(shape), classes[entries].astype(np.int32).reshape(shape), num_classes


def _content(member: bytes) -> bytes:
    """What the one frame of a member holds, of whose size its header tells before it is unpacked."""
    frames = split(member)
    check_checksums(frames, _CHECKSUMMED)
    size = zstandard.get_frame_parameters(frames[0][:18]).content_size
    if len(frames) != 1 or size > _MAX_BYTES:
        _refuse("frames", f"{len(frames)}, the first of {size} bytes", f"want one of up to {_MAX_BYTES}: {_DAMAGED}")
    return decompress(frames[0])


def _overwritten(ids: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which values of (depth, ...) ids have the same class further down in their cell."""
    found = np.zeros(ids.shape, np.bool_)
    for earlier in range(len(ids) - 1):
        found[earlier] = (ids[earlier + 1 :] == ids[earlier]).any(axis=0)
    return found


def _class_type(num_classes: int) -> np.dtype[Any]:
    return np.dtype("<u2" if num_classes <= _NARROW_CLASSES else "<u4")


def _entry_type(count: int) -> np.dtype[Any]:
    return np.dtype("u1" if count <= _NARROW_ENTRIES else "<u2")


def _refuse(field: str, value: object, advice: str) -> NoReturn:
    raise RecordError(f"label map: {field} is {value}; {advice}")
