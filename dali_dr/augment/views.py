"""Views: the drawn augmentation parameters of one image, as NumPy columns, and their packed int32 form."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from dali_dr.augment.operations import OPERATIONS, outside_limits

# Layout of one packed row (int32 words), shared with csrc/view/layout.h.
CROP_WORD: Final = 0  # top, left, height, width in source pixels
FLIP_WORD: Final = 4  # 0 or 1
ERASE_WORD: Final = 5  # top, left, height, width in output pixels of the stored view size
NUM_OPS_WORD: Final = 9
OPS_WORD: Final = 10  # then, per op: id, magnitude (float32 bits)

# Of a mixed view: these words stand between the words of the view and those of its partner view.
MIX_WORDS: Final = 7  # partner, swapped (0 or 1), lam (float32 bits), cut box top, left, height, width

MAX_SIDE: Final = 65535  # pixels of an image that a record holds
NO_PARTNER: Final = -1
SELF_PARTNER: Final = -2  # the image itself, whatever its number


def packed_words(num_ops: int, mixing: bool = False) -> int:
    """Number of int32 words in a packed view of ``num_ops`` operations. Odd exactly with mixing."""
    words = OPS_WORD + 2 * num_ops
    return 2 * words + MIX_WORDS if mixing else words


_COLUMNS: Final[dict[str, tuple[Any, tuple[int | str, ...]]]] = {  # name -> (dtype, shape after N)
    "crop": (np.int32, (4,)),
    "flip": (np.bool_, ()),
    "ops": (np.uint8, ("n",)),
    "magnitudes": (np.float32, ("n",)),
    "erase": (np.int32, (4,)),
}
VIEW_COLUMNS: Final = tuple(_COLUMNS)  # names, in the order of the fields of Views


@dataclass(frozen=True, eq=False)
class Views:
    """N augmented views of one image; row ``i`` of every column belongs to view ``i``.

    Attributes:
      crop: int32 (N, 4): top, left, height, width in source (file) pixels.
      flip: bool (N,): horizontal flip after the resize.
      ops: uint8 (N, n): indices into `operations.OPERATIONS`; n may be 0.
      magnitudes: float32 (N, n): final signed physical values (see ``draw``).
      erase: int32 (N, 4): top, left, height, width in output pixels; all zero = no erase.
      mix: how the views are mixed with others; None where the data set has no mixing.

    Construction checks dtypes and shapes (ValueError); ``validate`` checks the values.
    Equality is by value, with magnitudes compared bit for bit. A subclass adds columns as fields, keeps
    ``eq=False`` in its decorator to inherit that, and calls ``super().__post_init__()``.
    """

    crop: npt.NDArray[np.int32]
    flip: npt.NDArray[np.bool_]
    ops: npt.NDArray[np.uint8]
    magnitudes: npt.NDArray[np.float32]
    erase: npt.NDArray[np.int32]
    mix: Mix | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        rows = self.flip.shape[:1]
        for name, (dtype, trailing) in _COLUMNS.items():
            column = getattr(self, name)
            fits = column.ndim == 1 + len(trailing) and column.shape[:1] == rows
            if not fits or trailing == (4,) != column.shape[1:] or column.dtype != dtype:
                raise ValueError(
                    f"Views.{name}: want {np.dtype(dtype)} of shape {('N', *trailing)} with N = len(flip), "
                    f"got {column.dtype} of shape {column.shape}"
                )
        if self.ops.shape != self.magnitudes.shape:
            raise ValueError(f"Views: ops {self.ops.shape} and magnitudes {self.magnitudes.shape} differ in shape")
        if self.mix is not None and (len(self.mix.views), self.mix.views.num_ops) != (len(self), self.num_ops):
            raise ValueError(
                f"Views.mix: {len(self.mix.views)} partner views of {self.mix.views.num_ops} operations for "
                f"{len(self)} views of {self.num_ops}"
            )

    def __len__(self) -> int:
        return int(self.flip.shape[0])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Views) or type(other) is not type(self):
            return NotImplemented
        return _equal_columns(self, other)

    __hash__ = None  # type: ignore[assignment]  # arrays are mutable

    @property
    def num_ops(self) -> int:
        """Number of operations per view (n)."""
        return int(self.ops.shape[1])

    def take(self, rows: npt.ArrayLike | slice) -> Self:
        """The views ``rows`` (integer indices, a mask or a slice), in that order; keeps the subclass."""
        index = rows if isinstance(rows, slice) else np.asarray(rows)
        if isinstance(index, np.ndarray) and index.size == 0:
            index = index.astype(np.intp)
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        mix = columns.pop("mix")
        mix = mix and mix.take(index)
        return type(self)(**{name: column[index] for name, column in columns.items()}, mix=mix)

    def validate(self, image_height: int, image_width: int, view_size: int) -> None:
        """Check every value against the image (pixels) and the view size (pixels).

        Raises:
          ValueError: naming the first bad row and what is wrong with it.
        """
        top, left, height, width = self.crop.astype(np.int64).T
        reject(
            (top < 0) | (left < 0) | (height < 1) | (width < 1)
            | (top + height > image_height) | (left + width > image_width),
            f"crop (top, left, height, width) is empty or outside the image of {image_height}x{image_width}",
            self.crop,
        )  # fmt: skip
        reject(
            (self.ops >= len(OPERATIONS)).any(axis=1),
            f"op index above {len(OPERATIONS) - 1} in (op, ...)",
            self.ops,
        )
        reject(~np.isfinite(self.magnitudes).all(axis=1), "magnitude is not finite in (...)", self.magnitudes)
        self._check_magnitudes()
        top, left, height, width = self.erase.astype(np.int64).T
        reject(
            (top < 0) | (left < 0) | (height < 0) | (width < 0)
            | (top + height > view_size) | (left + width > view_size)
            | (((height == 0) | (width == 0)) & self.erase.any(axis=1)),
            f"erase (top, left, height, width) is outside the view of {view_size}x{view_size} "
            "or empty without being all zero",
            self.erase,
        )  # fmt: skip
        if self.mix is not None:
            self.mix.validate(image_height, image_width, view_size)

    def _check_magnitudes(self) -> None:
        """That of operations which have limits."""
        outside = outside_limits(self.ops, self.magnitudes)
        if outside.any():
            row, place = np.argwhere(outside)[0].tolist()
            operation = OPERATIONS[int(self.ops[row, place])]
            whole = "whole number" if operation.whole else "value"
            raise ValueError(
                f"view {row}: magnitude {self.magnitudes[row, place]} of {operation.name} is no {whole} from "
                f"{operation.least:g} to {operation.most:g}"
            )

    def pack(self) -> npt.NDArray[np.int32]:
        """The views as int32, one packed row per view (layout: the ``*_WORD`` constants).

        (N, 10 + 2n); with mixing (N, 2 * (10 + 2n) + 7): the view, the mix words, the partner's view.
        """
        own = self._pack_own()
        return own if self.mix is None else np.hstack([own, self.mix.words(), self.mix.views.pack()])

    def _pack_own(self) -> npt.NDArray[np.int32]:
        packed = np.empty((len(self), packed_words(self.num_ops)), np.int32)
        packed[:, CROP_WORD : CROP_WORD + 4] = self.crop
        packed[:, FLIP_WORD] = self.flip
        packed[:, ERASE_WORD : ERASE_WORD + 4] = self.erase
        packed[:, NUM_OPS_WORD] = self.num_ops
        packed[:, OPS_WORD::2] = self.ops
        packed[:, OPS_WORD + 1 :: 2] = np.ascontiguousarray(self.magnitudes).view(np.int32)
        return packed

    @staticmethod
    def unpack(packed: npt.NDArray[np.int32]) -> Views:
        """The inverse of ``pack``.

        Raises:
          ValueError: if the shape, the op count, an op id or a flip word of a row does not fit the layout.
        """
        if packed.ndim == 2 and packed.shape[1] % 2 and packed.shape[1] >= packed_words(0, mixing=True):
            words = (packed.shape[1] - MIX_WORDS) // 2
            first, partner = (Views.unpack(part) for part in (packed[:, :words], packed[:, -words:]))
            return replace(first, mix=Mix.from_words(packed[:, words : words + MIX_WORDS], partner))
        if packed.ndim != 2 or packed.dtype != np.int32 or packed.shape[1] < OPS_WORD or packed.shape[1] % 2:
            raise ValueError(
                f"packed views: want int32 of shape (N, {OPS_WORD} + 2n), got {packed.dtype} of shape {packed.shape}"
            )
        num_ops = (packed.shape[1] - OPS_WORD) // 2
        ops = packed[:, OPS_WORD::2]
        reject(packed[:, NUM_OPS_WORD] != num_ops, f"op count is not {num_ops}, as the row's length says", packed)
        reject((packed[:, FLIP_WORD] & ~1) != 0, "flip word is neither 0 nor 1", packed)
        unknown = (ops < 0) | (ops >= len(OPERATIONS))
        reject(unknown.any(axis=1), f"op id is outside 0..{len(OPERATIONS) - 1}", ops)
        return Views(
            crop=packed[:, CROP_WORD : CROP_WORD + 4].copy(),
            flip=packed[:, FLIP_WORD] != 0,
            ops=ops.astype(np.uint8),
            magnitudes=np.ascontiguousarray(packed[:, OPS_WORD + 1 :: 2]).view(np.float32),
            erase=packed[:, ERASE_WORD : ERASE_WORD + 4].copy(),
        )


@dataclass(frozen=True, eq=False)
class Mix:
    """How N views are mixed with views of partner images.

    With ``a`` the finished view (normalised floats) and ``b`` that of the partner, exchanged where ``swapped``:
    x = float32(lam) * a + float32(1 - lam) * b, each operation rounded to float32; then x = b inside ``cut``.

    Attributes:
      partner: int32 (N,): the partner's number in the data set, ``SELF_PARTNER`` or ``NO_PARTNER``.
      views: the partner's own parameters (N rows, without a mix of their own). Rows without a partner hold
        ``no_partner_views``.
      lam: float32 (N,): weight of ``a`` in MixUp, 0..1; 1: no MixUp.
      cut: int32 (N, 4): CutMix box, top, left, height, width in output pixels; all zero: no CutMix.
      swapped: bool (N,): image and partner change places (the second view of a double-mix pair, which shares all but
        ``lam`` and ``cut`` with the first, and mostly those).
    """

    partner: npt.NDArray[np.int32]
    views: Views
    lam: npt.NDArray[np.float32]
    cut: npt.NDArray[np.int32]
    swapped: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        rows = len(self.views)
        for name, dtype, shape in (
            ("partner", np.int32, (rows,)), ("lam", np.float32, (rows,)),
            ("cut", np.int32, (rows, 4)), ("swapped", np.bool_, (rows,)),
        ):  # fmt: skip
            column = getattr(self, name)
            if column.dtype != dtype or column.shape != shape:
                raise ValueError(
                    f"Mix.{name}: want {np.dtype(dtype)} of shape {shape}, got {column.dtype} of shape {column.shape}"
                )
        if self.views.mix is not None:
            raise ValueError("Mix.views: a partner's view is not mixed itself")

    def __eq__(self, other: object) -> bool:
        return _equal_columns(self, other) if isinstance(other, Mix) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    @property
    def double(self) -> bool:
        """Whether rows come in pairs (2i, 2i + 1), the second with image and partner exchanged."""
        return bool(self.swapped.any())

    @property
    def own_mixes(self) -> bool:
        """Whether the two of some pair of a double-mix differ in ``lam`` or ``cut``."""
        if not self.double:
            return False
        paired = len(self.lam) // 2 * 2
        lam, cut = self.lam[:paired].reshape(-1, 2), self.cut[:paired].reshape(-1, 2, 4)
        return bool((lam[:, 0] != lam[:, 1]).any() or (cut[:, 0] != cut[:, 1]).any())

    def take(self, index: Any) -> Mix:
        """The rows ``index`` (an array or slice)."""
        columns = (self.lam[index], self.cut[index], self.swapped[index])
        return Mix(self.partner[index], self.views.take(index), *columns)

    def validate(self, image_height: int, image_width: int, view_size: int) -> None:
        """Check every value; a partner's crop only against the limits of the format, unless it is the image itself.

        Raises:
          ValueError: naming the first bad row and what is wrong with it.
        """
        reject(self.partner < SELF_PARTNER, "partner is no sample number", self.partner[:, None])
        reject(~((self.lam >= 0) & (self.lam <= 1)), "mixup weight is outside 0..1", self.lam[:, None])
        top, left, height, width = self.cut.astype(np.int64).T
        reject(
            (self.cut < 0).any(axis=1) | (top + height > view_size) | (left + width > view_size)
            | (((height == 0) | (width == 0)) & self.cut.any(axis=1)),
            f"cutmix box (top, left, height, width) is outside the view of {view_size}x{view_size} "
            "or empty without being all zero",
            self.cut,
        )  # fmt: skip
        own = self.partner == SELF_PARTNER
        try:
            self.views.take(own).validate(image_height, image_width, view_size)
            self.views.take(~own).validate(MAX_SIDE, MAX_SIDE, view_size)
        except ValueError as error:
            raise ValueError(f"partner {error}") from error
        alone = self.partner == NO_PARTNER
        reject(
            alone & ((self.lam != 1) | self.cut.any(axis=1) | self.swapped), "is mixed, but has no partner", self.cut
        )
        if self.views.take(alone) != no_partner_views(int(alone.sum()), self.views.num_ops):
            raise ValueError("a view without partner has parameters of a partner view")

    def words(self) -> npt.NDArray[np.int32]:
        """int32 (N, 7): the words between view and partner view."""
        out = np.empty((len(self.partner), MIX_WORDS), np.int32)
        out[:, 0], out[:, 1] = self.partner, self.swapped
        out[:, 2] = np.ascontiguousarray(self.lam).view(np.int32)
        out[:, 3:] = self.cut
        return out

    @staticmethod
    def from_words(words: npt.NDArray[np.int32], views: Views) -> Mix:
        """The inverse of ``words``; ValueError if a swapped word is neither 0 nor 1."""
        reject((words[:, 1] & ~1) != 0, "swapped word is neither 0 nor 1", words)
        lam = np.ascontiguousarray(words[:, 2]).view(np.float32)
        return Mix(words[:, 0].copy(), views, lam, words[:, 3:].copy(), words[:, 1] != 0)


def no_partner_views(rows: int, num_ops: int) -> Views:
    """What stands for the partner's view where there is none: one pixel, left as it is."""
    return Views(
        crop=np.tile(np.array([0, 0, 1, 1], np.int32), (rows, 1)),
        flip=np.zeros(rows, np.bool_),
        ops=np.zeros((rows, num_ops), np.uint8),
        magnitudes=np.zeros((rows, num_ops), np.float32),
        erase=np.zeros((rows, 4), np.int32),
    )


def _equal_columns(a: Any, b: Any) -> bool:
    """Equality of two of one dataclass, arrays compared bit for bit."""
    for f in fields(a):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if isinstance(x, np.ndarray):
            if x.shape != y.shape or x.dtype != y.dtype or x.tobytes() != y.tobytes():
                return False
        elif x != y:
            return False
    return True


def reject(bad: Any, what: str, values: npt.NDArray[Any]) -> None:
    """Raise ValueError for the first row where ``bad`` (bool (N,)) holds, quoting that row of ``values``."""
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"view {row}: {what}: {tuple(values[row].tolist())}")
