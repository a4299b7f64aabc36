"""Views: the drawn augmentation parameters of one image, as NumPy columns, and their packed int32 form."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

# torchvision RandAugment's 14 operations in its own order; Views.ops holds indices into them.
OP_NAMES: Final[tuple[str, ...]] = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)

# Layout of one packed row (int32 words), shared with csrc/image/view.h.
CROP_WORD: Final = 0  # top, left, height, width in source pixels
FLIP_WORD: Final = 4  # 0 or 1
ERASE_WORD: Final = 5  # top, left, height, width in output pixels of the stored view size
NUM_OPS_WORD: Final = 9
OPS_WORD: Final = 10  # then, per op: id, magnitude (float32 bits)


def packed_words(num_ops: int) -> int:
    """Number of int32 words in a packed view of ``num_ops`` operations."""
    return OPS_WORD + 2 * num_ops


_COLUMNS: Final[dict[str, tuple[Any, tuple[int | str, ...]]]] = {  # name -> (dtype, shape after N)
    "crop": (np.int32, (4,)),
    "flip": (np.bool_, ()),
    "ops": (np.uint8, ("n",)),
    "magnitudes": (np.float32, ("n",)),
    "erase": (np.int32, (4,)),
}


@dataclass(frozen=True, eq=False)
class Views:
    """N augmented views of one image; row ``i`` of every column belongs to view ``i``.

    Attributes:
        crop: int32 (N, 4): top, left, height, width in source (file) pixels.
        flip: bool (N,): horizontal flip after the resize.
        ops: uint8 (N, n): indices into ``OP_NAMES``; n may be 0.
        magnitudes: float32 (N, n): final signed physical values (see ``draw``).
        erase: int32 (N, 4): top, left, height, width in output pixels; all zero = no erase.

    Construction checks dtypes and shapes (ValueError); ``validate`` checks the values.
    Equality is by value, with magnitudes compared bit for bit. A subclass adds columns as fields, keeps
    ``eq=False`` in its decorator to inherit that, and calls ``super().__post_init__()``.
    """

    crop: npt.NDArray[np.int32]
    flip: npt.NDArray[np.bool_]
    ops: npt.NDArray[np.uint8]
    magnitudes: npt.NDArray[np.float32]
    erase: npt.NDArray[np.int32]

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

    def __len__(self) -> int:
        return int(self.flip.shape[0])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Views) or type(other) is not type(self):
            return NotImplemented
        return all(
            a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
            for a, b in ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        )

    __hash__ = None  # type: ignore[assignment]  # arrays are mutable

    @property
    def num_ops(self) -> int:
        """Number of RandAugment operations per view (n)."""
        return int(self.ops.shape[1])

    def take(self, rows: npt.ArrayLike | slice) -> Self:
        """The views ``rows`` (integer indices, a mask or a slice), in that order; keeps the subclass."""
        index = rows if isinstance(rows, slice) else np.asarray(rows)
        if isinstance(index, np.ndarray) and index.size == 0:
            index = index.astype(np.intp)
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def validate(self, image_height: int, image_width: int, view_size: int) -> None:
        """Check every value against the image (pixels) and the view size (pixels).

        Raises:
            ValueError: naming the first bad row and what is wrong with it.
        """
        top, left, height, width = self.crop.astype(np.int64).T
        _reject(
            (top < 0) | (left < 0) | (height < 1) | (width < 1)
            | (top + height > image_height) | (left + width > image_width),
            f"crop (top, left, height, width) is empty or outside the image of {image_height}x{image_width}",
            self.crop,
        )  # fmt: skip
        _reject(
            (self.ops >= len(OP_NAMES)).any(axis=1),
            f"op index above {len(OP_NAMES) - 1} in (op, ...)",
            self.ops,
        )
        _reject(~np.isfinite(self.magnitudes).all(axis=1), "magnitude is not finite in (...)", self.magnitudes)
        top, left, height, width = self.erase.astype(np.int64).T
        _reject(
            (top < 0) | (left < 0) | (height < 0) | (width < 0)
            | (top + height > view_size) | (left + width > view_size)
            | (((height == 0) | (width == 0)) & self.erase.any(axis=1)),
            f"erase (top, left, height, width) is outside the view of {view_size}x{view_size} "
            "or empty without being all zero",
            self.erase,
        )  # fmt: skip

    def pack(self) -> npt.NDArray[np.int32]:
        """The views as int32 (N, 10 + 2n), one packed row per view (layout: the ``*_WORD`` constants)."""
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
        """The inverse of ``pack``: int32 (N, 10 + 2n) -> Views.

        Raises:
            ValueError: if the shape, the op count, an op id or a flip word of a row does not fit the layout.
        """
        if packed.ndim != 2 or packed.dtype != np.int32 or packed.shape[1] < OPS_WORD or packed.shape[1] % 2:
            raise ValueError(
                f"packed views: want int32 of shape (N, {OPS_WORD} + 2n), got {packed.dtype} of shape {packed.shape}"
            )
        num_ops = (packed.shape[1] - OPS_WORD) // 2
        ops = packed[:, OPS_WORD::2]
        _reject(packed[:, NUM_OPS_WORD] != num_ops, f"op count is not {num_ops}, as the row's length says", packed)
        _reject((packed[:, FLIP_WORD] & ~1) != 0, "flip word is neither 0 nor 1", packed)
        _reject(((ops < 0) | (ops >= len(OP_NAMES))).any(axis=1), "op id is outside 0..13", ops)
        return Views(
            crop=packed[:, CROP_WORD : CROP_WORD + 4].copy(),
            flip=packed[:, FLIP_WORD] != 0,
            ops=ops.astype(np.uint8),
            magnitudes=np.ascontiguousarray(packed[:, OPS_WORD + 1 :: 2]).view(np.float32),
            erase=packed[:, ERASE_WORD : ERASE_WORD + 4].copy(),
        )


def _reject(bad: Any, what: str, values: npt.NDArray[Any]) -> None:
    """Raise ValueError for the first row where ``bad`` (bool (N,)) holds, quoting that row of ``values``."""
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"view {row}: {what}: {tuple(values[row].tolist())}")
