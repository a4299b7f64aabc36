"""Drawing view parameters: a pure function of (spec, seed, image key, view number, image size).

Derivation, all little-endian:
  k = BLAKE2b(seed as uint64 || key in UTF-8, digest of 16 bytes, person "dali_dr draw 1") as two uint64.
  Stream s (0 crop and flip, 1 erase, 2 operations, 16 window, 17 levels, 18 colour; with 3 added the same of the
  partner's view; 6 mixing) has W words of 64 bits per view (24, 24, 16, 4, 16, 12; 8 for mixing). Word w
  of view v is word w mod 4 of the Philox4x64-10 block (Salmon et al., "Parallel random numbers: as easy
  as 1, 2, 3", SC 2011) with key k and the 256-bit counter s*2^192 + v*W/4 + floor(w/4) + 1.
  A word x gives the uniform u = (x >> 11) * 2^-53 in [0, 1).
  Crop, try i = 0..9: area = H*W*lerp(scale, u[2i]), ratio = exp(lerp(log ratio, u[2i+1])),
  width = round(sqrt(area*ratio)), height = round(sqrt(area/ratio)), halves to even; the first try that
  fits in the image counts, else the centre crop. top = floor(u[20]*(H-height+1)), left likewise by u[21].
  Flip: u[22] < p. Erase: where u[22] < p, likewise on the view, but ratio = height/width, and a box must
  be smaller than the view both ways; without one in ten tries nothing is erased.
  RandAugment and TrivialAugmentWide, operation i: floor(14*u[2i]), negative where it is signed and u[2i+1] < 0.5.
  With words w of stream 17: applied where w[2i+1] < p, at the first level whose end is above w[2i]. Ends are, of
  TrivialAugmentWide's B bins, (l+1)/B; of RandAugment with a deviation d, whose level l = 0..16 is index
  m + d*(l-8)/2 cut to 0..B-1, the normal distribution function at (l-8)/2 + 1/4, and 1 for the last.
  AutoAugment, words of stream 17: pair floor(25*w[0]) of torchvision's list; operation i = 0, 1 of it is applied
  where w[1+i] < p, negative where it is signed and w[3+i] < 0.5.
  Colour, words of stream 18: jitter where w[0] < p, its k operations (brightness, contrast, saturation, hue, those
  that are changed) in the order that is number floor(k!*w[1]) of all in lexicographic order; the j-th of them in
  torchvision's order has the middle of part floor(32*w[2+j]) of 32 equal parts of its range. Greyscale where
  w[6] < p. Blur where w[7] < p, its radius likewise by w[8].
  Fixed resize: top floor(w[0]*(H-size+1)) and left floor(w[1]*(W-size+1)) with words of stream 16 and sides H, W
  of torchvision's Resize: floor(resize*side/shorter side).
  Operations are stored in the order window, colour jitter, greyscale, blur, then the others; one that is not
  applied is Identity with magnitude 0.
  Mixing: partner floor(w*images), or image floor((j + 1/2)*images/L) with j = floor(w*L) for a library of L;
  w = u[0], or with a pool of M word 0 of "view" floor(M*u[0]) of stream 7, which has 4 words a view. MixUp where
  u[1] < p, CutMix where u[2] < p, a partner where either (always with double). By the
  inverse of the distribution function, beta = q/2^16 with the largest q whose F(q/2^16) <= u, F of
  Beta(alpha, alpha), u = u[3] for MixUp and u[4] for CutMix. lam = min(floor(2^16*lerp(lam, beta)), 2^16 - 1)
  / 2^16. CutMix as torchvision's: centre floor(size*u[5]), floor(size*u[6]), half an edge
  floor(size*sqrt(1 - beta)/2), cut off at the border; an empty box is no CutMix. With double, view v is drawn
  as view floor(v/2), exchanged where v is odd; with own_mixes MixUp and CutMix of odd v are then drawn from the
  same words of stream 8 instead, which has 8 a view.
The double arithmetic may differ in its last bit between math libraries, hence a crop edge in some 10^13:
what is replayed are the stored parameters, never the seed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dali_dr.augment.op_tables import OpTables, draw_ops
from dali_dr.augment.operations import OP_NAMES
from dali_dr.augment.spec import AugmentationSpec, FixedResizeCrop, Mixing, RandomErasing, RandomResizedCrop
from dali_dr.augment.views import NO_PARTNER, SELF_PARTNER, VIEW_COLUMNS, Mix, Views, no_partner_views
from dali_dr.keyed import UInt64, philox_key, philox_words

_TRIES: Final = 10  # torchvision's RandomResizedCrop and RandomErasing give up after as many
_WINDOW: Final = [OP_NAMES.index("WindowTop"), OP_NAMES.index("WindowLeft")]

# Streams: (number, random 64-bit words per view, a multiple of Philox's four). Numbers and word positions are
# format: changing one redraws every data set. A new kind of augmentation takes a new stream number. Those of operations
# (2, 17, 18) are in `op_tables`.
_CROP_STREAM: Final = (0, 24)  # tries: 2i area, 2i+1 ratio; then top, left, flip; 23 is unused
_ERASE_STREAM: Final = (1, 24)  # tries: 2i area, 2i+1 ratio; then top, left, gate; 23 is unused
_PARTNER: Final = 3  # added to the numbers of streams of views: the partner's own view
_MIX_STREAM: Final = (6, 8)  # partner; gates of MixUp and CutMix; their lam; centre row, column; 7 is unused
_OWN_MIX_STREAM: Final = (8, 8)  # as _MIX_STREAM, of a pair's second view; its partner's word is unused
_POOL_STREAM: Final = (7, 4)  # of "view" j: 0 the j-th image of the pool; 1 to 3 are unused
_WINDOW_STREAM: Final = (16, 4)  # top, left; 2 and 3 are unused
_LAM_STEPS: Final = 1 << 16  # a drawn lam is a multiple of 1 / this, so that records hold it exactly in two bytes
_TOP, _LEFT, _FLIP, _GATE = 2 * _TRIES, 2 * _TRIES + 1, 2 * _TRIES + 2, 2 * _TRIES + 2
_PERSON: Final = b"dali_dr draw 1"  # BLAKE2b personalisation: the version of the derivation above

_Floats = npt.NDArray[np.float64]


def draw(
    spec: AugmentationSpec,
    *,
    seed: int,
    key: str,
    views: Sequence[int] | npt.NDArray[np.integer[Any]],
    image_height: int,
    image_width: int,
    population: int | None = None,
    partner_size: Callable[[int], tuple[int, int]] | None = None,
) -> Views:
    """Draw the parameters of the views numbered ``views`` of one image.

    Row ``i`` depends on (spec, seed, key, views[i], image size) alone, not on what else is drawn. The
    distributions are those of torchvision's RandomResizedCrop, RandomCrop, RandomHorizontalFlip, ColorJitter,
    RandomGrayscale, AutoAugment, TrivialAugmentWide, RandAugment and RandomErasing (``get_params`` / ``forward``), and
    of timm's RandAugment with mstd; their streams are not. Of a range of factors or radii 32 values are drawn, of a
    normal distribution those in steps of half a deviation, so that records stay small. With ``spec.mixing`` a row
    depends on the number of images and on its partner's size too.

    The derivation is that of the module's docstring.

    Args:
      spec: what may be drawn.
      seed: 0 <= seed < 2^64, one per data set.
      key: the sample's key.
      views: view numbers, each >= 0 and below 2^53; runs of consecutive numbers are fast.
      image_height: in pixels, as is image_width.
      population: with mixing: images in the data set, from whose numbers partners are drawn.
      partner_size: with mixing: gives (height, width) in pixels of the image of a number.

    Returns:
      Views with len(views) rows and spec.num_ops operations. Magnitudes are physical values as they are applied at
      spec.size: shear factors, pixels, degrees, enhancement factor minus 1, bits, threshold, turns of hue, radius.

    Raises:
      ValueError: if the seed, a view number or the image size is out of range.
    """
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"draw: seed must be in 0..2^64-1, got {seed}")
    if image_height < 1 or image_width < 1:
        raise ValueError(f"draw: image {key!r} has no pixels: {image_height}x{image_width}")
    numbers = _view_numbers(views)
    stream_key = philox_key(key, seed, _PERSON)
    if spec.mixing is None:
        return _draw_views(spec, stream_key, 0, numbers, np.array([image_height]), np.array([image_width]))
    if spec.mixing.partners == "self":
        population, partner_size = 1, lambda number: (image_height, image_width)
    if population is None or partner_size is None or not 0 < population < 1 << 31:
        raise ValueError(
            f"draw: the spec mixes images: pass population (1..2^31-1, got {population}) and partner_size, the number "
            "of images in the data set and a function that gives the size of one"
        )
    swapped = np.zeros(len(numbers), np.bool_)
    if spec.mixing.double:
        numbers, swapped = numbers // 2, numbers % 2 == 1
    own = _draw_views(spec, stream_key, 0, numbers, np.array([image_height]), np.array([image_width]))
    mix = _draw_mix(spec, spec.mixing, stream_key, numbers, swapped, population, partner_size)
    return replace(own, mix=mix)


def _view_numbers(views: Sequence[int] | npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    numbers = np.asarray(views, dtype=np.int64).reshape(-1)
    if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) < 1 << 53:
        raise ValueError(f"draw: view numbers must be in 0..2^53-1, got {numbers.min()}..{numbers.max()}")
    return numbers


def _draw_views(
    spec: AugmentationSpec,
    key: UInt64,
    shift: int,
    numbers: npt.NDArray[np.int64],
    heights: npt.NDArray[np.int64],
    widths: npt.NDArray[np.int64],
) -> Views:
    """Views of images of these sizes (one for all, or one each); ``shift`` is added to the numbers of the streams."""

    def uniforms(stream: tuple[int, int]) -> _Floats:
        return _uniforms(key, (stream[0] + shift, stream[1]), numbers)

    u = uniforms(_CROP_STREAM)
    heights, widths, _ = np.broadcast_arrays(heights, widths, numbers)
    flip = u[:, _FLIP] < spec.flip
    ops, magnitudes = draw_ops(OpTables.of(spec), uniforms, len(numbers))
    if isinstance(spec.crop, RandomResizedCrop):
        crop = _draw_crop(spec.crop, u, heights, widths)
    else:
        crop = np.stack([np.zeros_like(heights), np.zeros_like(widths), heights, widths], axis=1).astype(np.int32)
        if spec.crop.random:
            window = _draw_window(spec.crop, uniforms(_WINDOW_STREAM), spec.size, heights, widths)
            ops = np.hstack([np.tile(np.array(_WINDOW, np.uint8), (len(numbers), 1)), ops])
            magnitudes = np.hstack([window, magnitudes])
    if spec.random_erasing is None:
        erase = np.zeros((len(numbers), 4), np.int32)
    else:
        erase = _draw_erase(spec.random_erasing, uniforms(_ERASE_STREAM), spec.size)
    return Views(crop=crop, flip=flip, ops=ops, magnitudes=magnitudes, erase=erase)


def _draw_mix(
    spec: AugmentationSpec,
    mixing: Mixing,
    key: npt.NDArray[np.uint64],
    numbers: npt.NDArray[np.int64],
    swapped: npt.NDArray[np.bool_],
    population: int,
    partner_size: Callable[[int], tuple[int, int]],
) -> Mix:
    """How the views of these numbers are mixed; those that are swapped are the second of their pair."""
    u = _uniforms(key, _MIX_STREAM, numbers)
    places = u[:, 0]
    if mixing.pool is not None:
        slots = np.floor(places * mixing.pool).astype(np.int64)
        places = _uniforms(key, _POOL_STREAM, slots)[:, 0]
    partner = _draw_partner(mixing, places, population)
    lam, cut = _draw_lam_and_cut(mixing, u, spec.size)
    if mixing.own_mixes:
        second = _draw_lam_and_cut(mixing, _uniforms(key, _OWN_MIX_STREAM, numbers), spec.size)
        lam, cut = np.where(swapped, second[0], lam), np.where(swapped[:, None], second[1], cut)
    if not mixing.double:
        partner[(lam == 1) & ~cut.any(axis=1)] = NO_PARTNER
    mixed = np.flatnonzero(partner != NO_PARTNER)
    known = {number: partner_size(number) for number in np.unique(partner[mixed]).tolist()}
    heights, widths = np.array([known[number] for number in partner[mixed].tolist()], np.int64).reshape(-1, 2).T
    if mixing.partners == "self":
        partner[mixed] = SELF_PARTNER
    drawn = _draw_views(spec, key, _PARTNER, numbers[mixed], heights, widths)
    partners = no_partner_views(len(numbers), drawn.num_ops)
    for name in VIEW_COLUMNS:
        getattr(partners, name)[mixed] = getattr(drawn, name)
    return Mix(partner, partners, lam, cut, swapped)


def _draw_partner(spec: Mixing, u: _Floats, population: int) -> npt.NDArray[np.int32]:
    """Numbers of images, by uniforms (N,)."""
    if isinstance(spec.partners, int) and spec.partners < population:
        place = np.floor(u * spec.partners).astype(np.int64)
        return ((2 * place + 1) * population // (2 * spec.partners)).astype(np.int32)
    return np.floor(u * population).astype(np.int32)


def _draw_lam_and_cut(spec: Mixing, u: _Floats, size: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """lam and CutMix box of each view, as `Mix` holds them."""
    low, high = spec.lam
    steps = np.floor(_LAM_STEPS * (low + (high - low) * _beta(spec.mixup_alpha, u[:, 3])))
    lam = (np.minimum(steps, _LAM_STEPS - 1) / _LAM_STEPS).astype(np.float32)
    lam[u[:, 1] >= spec.mixup_probability] = 1

    half = np.floor(0.5 * np.sqrt(1 - _beta(spec.cutmix_alpha, u[:, 4])) * size)
    centre = np.floor(size * u[:, 5:7])
    start = np.maximum(centre - half[:, None], 0)
    extent = np.minimum(centre + half[:, None], size) - start
    cut = np.hstack([start, extent]).astype(np.int32)
    cut[(u[:, 2] >= spec.cutmix_probability) | (half == 0)] = 0
    return lam, cut


def _beta(alpha: float, u: _Floats) -> _Floats:
    """Beta(alpha, alpha) by inversion, cut to multiples of 2^-16: the largest whose distribution function is <= u."""
    return np.searchsorted(_beta_distribution(alpha), u, side="right") / _LAM_STEPS


@functools.lru_cache(maxsize=8)
def _beta_distribution(alpha: float) -> _Floats:
    """The distribution function of Beta(alpha, alpha) at k / 2^16, k = 1 .. 2^16 - 1.

    Below 1/2 by the continued fraction of the incomplete beta function (DLMF 8.17.22), evaluated by Lentz's method
    as modified by Thompson and Barnett (Press et al., Numerical Recipes, section 6.4); above by symmetry.
    """
    x = np.arange(1, _LAM_STEPS) / _LAM_STEPS
    if alpha == 1:
        return x
    a, low = alpha, x[x < 0.5]
    c, d = np.ones_like(low), 1 / (1 - (2 * a) * low / (a + 1))
    fraction = d.copy()
    for m in range(1, 1000):
        before = fraction
        for term in (
            m * (a - m) / ((a + 2 * m - 1) * (a + 2 * m)), -(a + m) * (2 * a + m) / ((a + 2 * m) * (a + 2 * m + 1))
        ):  # fmt: skip
            d, c = 1 / (1 + term * low * d), 1 + term * low / c
            fraction = fraction * d * c
        if np.abs(fraction / before - 1).max() < 1e-15:
            break
    scale = a * (np.log(low) + np.log1p(-low)) + math.lgamma(2 * a) - 2 * math.lgamma(a)
    below = np.exp(scale) / a * fraction
    return np.concatenate([below, [0.5], 1 - below[::-1]])


def _uniforms(key: UInt64, stream: tuple[int, int], numbers: npt.NDArray[np.int64]) -> _Floats:
    """Uniforms in [0, 1) of one stream: float64 (len(numbers), words per view)."""
    number, words = stream
    return (philox_words(key, number, numbers, words) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _tries(
    u: _Floats, area: int | npt.NDArray[np.int64], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[_Floats, _Floats]:
    """round(sqrt(area * ratio)) and round(sqrt(area / ratio)) of the ten tries: float64 (N, 10) each."""
    target = area * (scale[0] + u[:, 0 : 2 * _TRIES : 2] * (scale[1] - scale[0]))
    low, high = np.log(ratio)
    aspect = np.exp(low + u[:, 1 : 2 * _TRIES : 2] * (high - low))
    return np.rint(np.sqrt(target * aspect)), np.rint(np.sqrt(target / aspect))


def _boxes(
    u: _Floats,
    height: _Floats,
    width: _Floats,
    outer_height: int | npt.NDArray[np.int64],
    outer_width: int | npt.NDArray[np.int64],
) -> npt.NDArray[np.int32]:
    """Boxes of the given sizes at uniform places in the outer box: int32 (N, 4)."""
    top = np.floor(u[:, _TOP] * (outer_height - height + 1))
    left = np.floor(u[:, _LEFT] * (outer_width - width + 1))
    return np.stack([top, left, height, width], axis=1).astype(np.int32)


def _draw_crop(
    spec: RandomResizedCrop, u: _Floats, image_height: npt.NDArray[np.int64], image_width: npt.NDArray[np.int64]
) -> npt.NDArray[np.int32]:
    """Crops in images of these sizes, one per row."""
    widths, heights = _tries(u, (image_height * image_width)[:, None], spec.scale, spec.ratio)
    fits = (widths >= 1) & (widths <= image_width[:, None]) & (heights >= 1) & (heights <= image_height[:, None])
    rows, first = np.arange(len(u)), fits.argmax(axis=1)
    crop = _boxes(u, heights[rows, first], widths[rows, first], image_height, image_width)
    for row in np.flatnonzero(~fits.any(axis=1)):
        crop[row] = _centre_crop(spec, int(image_height[row]), int(image_width[row]))
    return crop


def _centre_crop(spec: RandomResizedCrop, image_height: int, image_width: int) -> tuple[int, int, int, int]:
    """torchvision's fallback: the largest centred box of an allowed ratio (and, unlike its, never empty)."""
    height, width = image_height, image_width
    if image_width / image_height < spec.ratio[0]:
        height = max(round(width / spec.ratio[0]), 1)
    elif image_width / image_height > spec.ratio[1]:
        width = max(round(height * spec.ratio[1]), 1)
    return (image_height - height) // 2, (image_width - width) // 2, height, width


def _draw_window(
    spec: FixedResizeCrop,
    u: _Floats,
    size: int,
    image_height: npt.NDArray[np.int64],
    image_width: npt.NDArray[np.int64],
) -> npt.NDArray[np.float32]:
    """Top and left of views of this size in images of these sizes, resized as torchvision's Resize does: (N, 2)."""
    sides = np.stack([image_height, image_width], axis=1)
    resized = np.floor(spec.resize * sides / sides.min(axis=1, keepdims=True))
    places: _Floats = np.floor(u[:, :2] * (resized - size + 1))
    return places.astype(np.float32)


def _draw_erase(spec: RandomErasing, u: _Floats, size: int) -> npt.NDArray[np.int32]:
    heights, widths = _tries(u, size * size, spec.scale, spec.ratio)
    fits = (heights < size) & (widths < size)
    rows, first = np.arange(len(u)), fits.argmax(axis=1)
    height, width = heights[rows, first], widths[rows, first]
    erase = _boxes(u, height, width, size, size)
    kept = (u[:, _GATE] < spec.probability) & fits.any(axis=1) & (height > 0) & (width > 0)
    erase[~kept] = 0
    return erase
