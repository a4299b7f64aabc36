"""The reference replay: stored view parameters applied with Pillow alone, equal to torchvision's PIL path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from dali_dr.augment.members import FixedResizeCrop
from dali_dr.augment.operations import BLACK, OP_NAMES, OPERATIONS, rescale
from dali_dr.augment.spec import AugmentationSpec
from dali_dr.augment.views import NO_PARTNER, SELF_PARTNER, Views

_WINDOW: Final = (OP_NAMES.index("WindowTop"), OP_NAMES.index("WindowLeft"))
_FILTERS: Final = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def replay_pillow(
    image: Image.Image | npt.NDArray[np.uint8],
    views: Views,
    row: int,
    spec: AugmentationSpec,
    size: int | tuple[int, int] | None = None,
) -> npt.NDArray[np.uint8]:
    """Replay view ``row`` on the whole source image: crop and resize, flip, operations, erase with 0.

    Args:
      image: RGB image, or uint8 (H, W, 3); other Pillow modes are converted to RGB.
      views: the stored parameters.
      row: which of them.
      spec: gives the interpolation and the size that the parameters were stored at.
      size: output edge or (height, width) in pixels; None is the stored size. At another size the edges of
        the erase box, the whole-pixel translations (their absolute values) and the length and the places of a fixed
        resize scale by output/stored and round half up; the radius of a blur scales, too.

    Returns:
      uint8 (height, width, 3).

    Raises:
      ValueError: a view of a fixed resize that does not lie in the resized image.

    Source: torchvision's ``resized_crop``, ``resize``, ``crop`` and ``hflip``, whose PIL path makes the same Pillow
    calls, and `operations`.
    """
    size = spec.size if size is None else size
    out_height, out_width = (size, size) if isinstance(size, int) else size
    view = image.convert("RGB") if isinstance(image, Image.Image) else Image.fromarray(image)
    top, left, height, width = views.crop[row].tolist()
    view = view.crop((left, top, left + width, top + height))
    if isinstance(spec.crop, FixedResizeCrop):
        view = _cut_out(view, views, row, spec, out_height, out_width)
    else:
        view = view.resize((out_width, out_height), _FILTERS[spec.interpolation])
    if views.flip[row]:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for op, magnitude in zip(views.ops[row].tolist(), views.magnitudes[row].tolist(), strict=True):
        view = OPERATIONS[op].apply(view, magnitude, spec.size)
    top, left, height, width = views.erase[row].tolist()
    if height:
        left, right = (rescale(x, out_width, spec.size) for x in (left, left + width))
        top, bottom = (rescale(y, out_height, spec.size) for y in (top, top + height))
        view.paste(BLACK, (left, top, right, bottom))
    return np.asarray(view)


def _cut_out(
    image: Image.Image, views: Views, row: int, spec: AugmentationSpec, out_height: int, out_width: int
) -> Image.Image:
    """torchvision's Resize(resize) and crop of the image, where the view's operations say or in the centre."""
    assert isinstance(spec.crop, FixedResizeCrop)
    size, shorter = spec.size, min(image.size)
    drawn_width, drawn_height = (spec.crop.resize * side // shorter for side in image.size)
    resize = max(rescale(spec.crop.resize, out, size) for out in (out_height, out_width))
    width, height = (resize * side // shorter for side in image.size)
    resized = image.resize((width, height), _FILTERS[spec.interpolation])
    top, left = round((height - out_height) / 2), round((width - out_width) / 2)
    given = dict(zip(views.ops[row].tolist(), views.magnitudes[row].tolist(), strict=True))
    if given.keys() & set(_WINDOW):
        top, left = (int(given.get(op, 0)) for op in _WINDOW)
        if not (0 <= top <= drawn_height - size and 0 <= left <= drawn_width - size):
            raise ValueError(
                f"replay: view {row} at ({top}, {left}) of {size}x{size} pixels is not inside the image resized to "
                f"{drawn_height}x{drawn_width}"
            )
        top = min(rescale(top, out_height, size), height - out_height)
        left = min(rescale(left, out_width, size), width - out_width)
    return resized.crop((left, top, left + out_width, top + out_height))


def replay_pillow_mixed(
    image: Image.Image | npt.NDArray[np.uint8],
    partner: Image.Image | npt.NDArray[np.uint8] | None,
    views: Views,
    row: int,
    spec: AugmentationSpec,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | tuple[int, int] | None = None,
) -> npt.NDArray[np.float32]:
    """Replay view ``row`` and mix it with its partner's: MixUp, then CutMix, on normalised floats.

    Args:
      image, views, row, spec, size: as for ``replay_pillow``; edges of the CutMix box scale as those of the erase box.
      partner: the image whose number is ``views.mix.partner[row]``; not used where there is none, or it is the
        image itself.
      mean, std: see ``normalise``; None leaves values in 0..255.

    Returns:
      float32 (3, height, width): float32(lam) * a + float32(1 - lam) * b, each operation rounded to float32, and b
      inside the CutMix box (a: the view, b: its partner's; exchanged where swapped).
    """

    def finished(source: Any, columns: Views) -> npt.NDArray[np.float32]:
        pixels = replay_pillow(source, columns, row, spec, size)
        if mean is None or std is None:
            return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)
        return normalise(pixels, mean, std)

    a, mix = finished(image, views), views.mix
    if mix is None or mix.partner[row] == NO_PARTNER:
        return a
    other = image if mix.partner[row] == SELF_PARTNER else partner
    if other is None:
        raise ValueError(f"replay: view {row} is mixed with sample {mix.partner[row]}: pass it as partner")
    b = finished(other, mix.views)
    if mix.swapped[row]:
        a, b = b, a
    lam = mix.lam[row]
    mixed = a.copy() if lam == 1 else lam * a + (np.float32(1) - lam) * b
    top, left, height, width = mix.cut[row].tolist()
    top, bottom = (rescale(y, a.shape[1], spec.size) for y in (top, top + height))
    left, right = (rescale(x, a.shape[2], spec.size) for x in (left, left + width))
    mixed[:, top:bottom, left:right] = b[:, top:bottom, left:right]
    return mixed


def normalise(array: npt.NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> npt.NDArray[np.float32]:
    """uint8 (H, W, C) -> float32 (C, H, W): ((v / 255) - mean) / std in float32, by a 256-entry table.

    ``mean`` and ``std`` have one value per channel, in units of v / 255. Bit for bit torchvision's
    ``to_tensor`` followed by ``normalize``.
    """
    values = np.arange(256, dtype=np.float32) / np.float32(255)
    offset, scale = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    table = (values - offset[:, None]) / scale[:, None]
    return np.stack([table[channel][array[..., channel]] for channel in range(array.shape[-1])])
