"""Files of published sets in, records out: csrc/published through ctypes.

The files are pickles, which can run any program; here none is run. The reader in csrc/pickle knows the few opcodes and names
that these files have and refuses all others by name. Python's lock is not held meanwhile, so that many threads may convert.
"""

from __future__ import annotations

import ctypes
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from dali_dr import _plugin
from dali_dr.convert.inflate import InflateError, decompressobj
from dali_dr.errors import ConvertError, brief
from dali_dr.record.layout import ENCODINGS, Probabilities
from dali_dr.record.logprobs import DEFAULT_LOG_STEP

TRANSFORMS: Final = (
    "resize", "random_crop", "random_resized_crop", "random_horizontal_flip",
    "rand_augment", "random_erase", "mixup", "cutmix",
)  # fmt: skip
"""Transformations of ml-dr that have parameters, in the order of its code."""

LabelForm = Literal["auto", "full", "hard", "smoothing", "marginal"]

_FORMS: Final = ("auto", "full", "hard", "smoothing", "marginal")
_ZLIB_OR_GZIP: Final = 15 | 32  # by its header
_MOST_INFLATED: Final = 64 << 20  # bytes; the largest file known has 5 million


@dataclass(frozen=True)
class MlDr:
    """What ``config.pth.tar`` says, reduced to what reading the files takes.

    Attributes:
      transforms: those of TRANSFORMS that are enabled, in that order.
      view: edge of a view in pixels.
      crop: edge of ``random_crop``, of which files hold (top, left) in the stored image; 0: there is none.
      num_ops: RandAugment's operations per view; a view that it left out has so many Identities.
      num_classes: class ids are below.
      num_images: partners are below.
      probabilities, log_step: as `dali_dr.record.encode.encode` has them.
      recode: look for the very codes whose reading gives these probabilities; of sets that were exported from here.
      sizes: uint32 (num_images, 2): height and width of all images, with which crops of partners are compared; 0 where
        they are not known.
    """

    transforms: tuple[str, ...]
    view: int
    crop: int
    num_ops: int
    num_classes: int
    num_images: int
    probabilities: Probabilities = "root8"
    log_step: float = DEFAULT_LOG_STEP
    recode: bool = False
    sizes: npt.NDArray[np.uint32] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        sizes = self.sizes
        if sizes is not None and not (
            sizes.dtype == np.uint32 and sizes.shape == (self.num_images, 2) and sizes.flags.c_contiguous
        ):
            raise ValueError(f"sizes: want uint32 of shape ({self.num_images}, 2), got {sizes.dtype} of {sizes.shape}")


@dataclass(frozen=True)
class Fkd:
    """How FKD's files are read.

    Attributes:
      view: edge in pixels at which views are to be replayed.
      num_classes: class ids are below.
      form: of the labels: "full" (N, classes), "hard" (N,), "smoothing" (N, 2), "marginal" (N, 2, K); "auto": by the shape.
      probabilities, log_step: as `dali_dr.record.encode.encode` has them.
    """

    view: int
    num_classes: int
    form: LabelForm = "auto"
    probabilities: Probabilities = "root8"
    log_step: float = DEFAULT_LOG_STEP


@dataclass(frozen=True)
class Made:
    """A record: the member KEY.dr.zst, its number of views, and of classes in each."""

    record: bytes
    views: int
    topk: int


class _File(ctypes.Structure):
    """DaliDrFile of csrc/published/export.cc."""

    _fields_ = (("data", ctypes.c_char_p), ("size", ctypes.c_uint64))


class _Published(ctypes.Structure):
    """DaliDrPublished of csrc/published/export.cc."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_uint64),
        ("reason", ctypes.c_char_p),
        ("numbers", ctypes.c_uint32 * 3),
    )


class _Record(ctypes.Structure):
    """DaliDrRecordSettings of csrc/published/export.cc."""

    _fields_ = (
        ("number", ctypes.c_int64),
        *((name, ctypes.c_uint32) for name in ("height", "width", "view", "crop", "num_ops", "num_classes")),
        *((name, ctypes.c_uint32) for name in ("num_images", "form", "transform_count", "encoding")),
        ("transforms", ctypes.c_uint32 * len(TRANSFORMS)),
        ("log_step", ctypes.c_float),
        ("recode", ctypes.c_uint32),
        ("sizes", ctypes.c_void_p),
    )


def ml_dr_record(files: Sequence[bytes], number: int, size: tuple[int, int], settings: MlDr) -> Made:
    """The views of one image as a record.

    Args:
      files: the image's file of each folder; their views follow one after another.
      number: of the image, which the files must name.
      size: (height, width) of the stored image in pixels.
      settings: what the folders' configuration says.

    Raises:
      ConvertError: a file is damaged, hostile, of another image, or holds what does not fit image, view or classes.
    """
    fields = _Record.from_buffer_copy(_of_all_files(settings))
    fields.number = _fits("number", number, 1 << 63)
    fields.height, fields.width = (_fits("the image's size", edge) for edge in size)
    if settings.sizes is not None:
        fields.sizes = settings.sizes.ctypes.data
    inflated = [unwrapped(file) for file in files]
    array = (_File * len(inflated))(*(_File(file, len(file)) for file in inflated))
    return _record(_library().dali_dr_ml_dr_new(array, len(inflated), ctypes.byref(fields)))


@functools.lru_cache(8)
def _of_all_files(settings: MlDr) -> bytes:
    """What `_Record` says of every file."""
    unknown = [name for name in settings.transforms if name not in TRANSFORMS]
    if unknown:
        raise ConvertError(f"ml-dr has no transformation {brief(unknown[0])} with parameters")
    places = [TRANSFORMS.index(name) for name in settings.transforms]
    if len(places) > len(TRANSFORMS):
        raise ConvertError(f"the configuration has {len(places)} transformations, some of them twice")
    fields = _fields((0, 0), settings)
    for name in ("crop", "num_ops", "num_images"):
        setattr(fields, name, _fits(name, getattr(settings, name)))
    fields.transform_count, fields.recode = len(places), settings.recode
    fields.transforms[: len(places)] = places
    return bytes(fields)


def fkd_record(file: bytes, size: tuple[int, int], settings: Fkd) -> Made:
    """The views of one image as a record; arguments and errors as `ml_dr_record` has them."""
    if settings.form not in _FORMS:
        raise ConvertError(f"there are no labels of the form {brief(settings.form)}; there are {', '.join(_FORMS)}")
    fields = _fields(size, settings)
    fields.form = _FORMS.index(settings.form)
    data = unwrapped(file)
    return _record(_library().dali_dr_fkd_new(ctypes.byref(_File(data, len(data))), ctypes.byref(fields)))


def label_map(file: bytes) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """ReLabel's map: scores and class ids, float32 and int32 (D, H, W) of the D best classes of H x W cells.

    Raises:
      ConvertError: the file is damaged, hostile, or no such map.
    """
    data = unwrapped(file)
    made, shape = _take(_library().dali_dr_label_map_new(ctypes.byref(_File(data, len(data)))))
    scores, ids = np.frombuffer(made, np.float32).reshape(2, *shape)
    return scores.copy(), ids.view(np.int32).copy()


def pickle_json(file: bytes) -> Any:
    """What a small file such as ``config.pth.tar`` holds; tuples as lists, NumPy's numbers as Python's.

    Raises:
      ConvertError: the file is damaged, hostile, or holds arrays.
    """
    data = unwrapped(file)
    made, _ = _take(_library().dali_dr_pickle_json_new(ctypes.byref(_File(data, len(data)))))
    try:
        return json.loads(made.decode())
    except ValueError as error:
        raise ConvertError(f"a text in the file is no UTF-8: {error}") from error


def unwrapped(data: bytes) -> bytes:
    """``data`` without the zlib or gzip compression that joblib and others put around it; else as it is.

    Raises:
      ConvertError: it is damaged, or inflates to more than 64 MiB.
    """
    zlib_head = len(data) > 1 and data[0] & 0x8F == 8 and (data[0] << 8 | data[1]) % 31 == 0
    if not zlib_head and data[:2] != b"\x1f\x8b":
        return data
    inflater = decompressobj(_ZLIB_OR_GZIP)
    try:
        inflated = inflater.decompress(data, _MOST_INFLATED)
    except InflateError as error:
        raise ConvertError(f"its compression is damaged: {error}") from error
    if inflater.eof and not inflater.unused_data:
        return inflated
    if inflater.eof:
        raise ConvertError(f"{len(inflater.unused_data)} bytes follow its compressed part: the file is damaged")
    if inflater.unconsumed_tail or len(inflated) == _MOST_INFLATED:
        raise ConvertError(f"it inflates to more than {_MOST_INFLATED >> 20} MiB, which no file of this kind does")
    raise ConvertError("its compressed part ends too soon: the file was cut off")


def _fits(name: str, value: int, limit: int = 1 << 32) -> int:
    """``value``, which C could not hold if it were outside of 0 to ``limit``."""
    if not 0 <= value < limit:
        raise ConvertError(f"{name} is {value}, which is outside of 0 to {limit - 1}")
    return value


def _fields(size: tuple[int, int], settings: MlDr | Fkd) -> _Record:
    fields = _Record(log_step=settings.log_step, encoding=ENCODINGS.index(settings.probabilities))
    fields.height, fields.width = (_fits("the image's size", edge) for edge in size)
    fields.view, fields.num_classes = _fits("view", settings.view), _fits("num_classes", settings.num_classes)
    return fields


def _record(made: Any) -> Made:
    record, (views, topk, _) = _take(made)
    return Made(record, views, topk)


def _take(made: Any) -> tuple[bytes, tuple[int, int, int]]:
    """Bytes and numbers of what a C function made, which is deleted."""
    if not made:
        raise MemoryError
    try:
        struct: Any = made.contents
        if struct.reason:
            raise ConvertError(struct.reason.decode(errors="backslashreplace"))
        first, second, third = struct.numbers
        return ctypes.string_at(struct.data, struct.size), (first, second, third)
    finally:
        _library().dali_dr_published_delete(made)


@_plugin.once
def _library() -> ctypes.CDLL:
    """The plugin, once its functions' types are said."""
    library = _plugin.library()
    file, record, made = ctypes.POINTER(_File), ctypes.POINTER(_Record), ctypes.POINTER(_Published)
    for name, arguments in (
        ("ml_dr", (file, ctypes.c_uint32, record)),
        ("fkd", (file, record)),
        ("label_map", (file,)),
        ("pickle_json", (file,)),
    ):
        function = getattr(library, f"dali_dr_{name}_new")
        function.argtypes, function.restype = arguments, made
    library.dali_dr_published_delete.argtypes = (made,)
    library.dali_dr_published_delete.restype = None
    return library
