"""Drawing: torchvision's distributions, purity, and the derivation recomputed without NumPy's Philox."""

from __future__ import annotations

import functools
import hashlib
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from dali_dr._torchvision import load_torchvision
from dali_dr.augment.draw import draw
from dali_dr.augment.op_tables import magnitude_table
from dali_dr.augment.operations import OP_NAMES
from dali_dr.augment.spec import AugmentationSpec, RandAugment, RandomErasing, RandomResizedCrop
from dali_dr.augment.views import Views

load_torchvision()
from torchvision import transforms  # noqa: E402
from torchvision.transforms import autoaugment  # noqa: E402

DRAWS = 20_000
LEAST_P = 1e-3  # seeds are fixed, so a test that passes once passes always
FULL = AugmentationSpec.preset("rrc+ra+re")


def sample(spec: AugmentationSpec = FULL, count: int = DRAWS, **changes: Any) -> Views:
    options: dict[str, Any] = {"seed": 1, "key": "n01440764_10026", "image_height": 375, "image_width": 500}
    return draw(spec, views=range(count), **(options | changes))


def assert_same_distribution(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Kolmogorov-Smirnov on top, left, height, width, area and ratio of boxes (N, 4)."""

    def marginals(boxes: np.ndarray) -> dict[str, np.ndarray]:
        top, left, height, width = np.asarray(boxes, np.float64).T
        return {
            "top": top, "left": left, "height": height, "width": width,
            "area": height * width, "ratio": width / height, "bottom": top + height, "right": left + width,
        }  # fmt: skip

    expected = marginals(theirs)
    p = {name: stats.ks_2samp(column, expected[name]).pvalue for name, column in marginals(ours).items()}
    assert min(p.values()) > LEAST_P, p


@functools.cache
def torchvision_crops(height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]) -> np.ndarray:
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    params = [transforms.RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(DRAWS)]
    return np.array(params)


@pytest.mark.parametrize(
    ("height", "width", "crop"),
    [
        (375, 500, RandomResizedCrop()),
        (60, 400, RandomResizedCrop()),  # many tries miss; the centre crop occurs
        (400, 60, RandomResizedCrop(scale=(0.5, 1.0))),  # nothing fits: the centre crop always
        (7, 9, RandomResizedCrop(scale=(0.01, 0.1))),  # sizes that round to zero
        (375, 500, RandomResizedCrop(ratio=(1.5, 4.0))),  # tells width/height from height/width
    ],
)
def test_crops_are_distributed_as_torchvisions(height: int, width: int, crop: RandomResizedCrop) -> None:
    views = sample(AugmentationSpec(crop=crop), image_height=height, image_width=width)
    views.validate(height, width, 224)
    theirs = torchvision_crops(height, width, crop.scale, crop.ratio)
    assert_same_distribution(views.crop, theirs)
    if len(np.unique(theirs, axis=0)) == 1:
        np.testing.assert_array_equal(views.crop, theirs)
    # The share of centre crops (a point mass that Kolmogorov-Smirnov sees poorly), as a two by two table.
    centre = np.array(
        transforms.RandomResizedCrop.get_params(torch.empty(3, height, width), [2.0, 2.0], list(crop.ratio))
    )
    hits = [int((boxes == centre).all(axis=1).sum()) for boxes in (views.crop, theirs)]
    if 0 < sum(hits) < 2 * DRAWS:
        assert stats.fisher_exact([hits, [DRAWS - hit for hit in hits]]).pvalue > LEAST_P, hits


@pytest.mark.parametrize(
    "height, width, ratio",
    [(1, 1, (3.0, 4.0)), (1, 1, (0.1, 0.2)), (3, 1000, (0.1, 0.2)), (1000, 2, (50.0, 60.0))],
)
def test_tiny_images_never_get_an_empty_crop(height: int, width: int, ratio: tuple[float, float]) -> None:
    spec = AugmentationSpec(crop=RandomResizedCrop(scale=(0.01, 0.02), ratio=ratio))
    sample(spec, 500, image_height=height, image_width=width).validate(height, width, 224)


@pytest.mark.parametrize(
    ("size", "erasing"),
    [
        (224, RandomErasing(probability=1.0)),
        (
            8,
            RandomErasing(probability=1.0, scale=(0.5, 1.0)),
        ),  # boxes as high or wide as the view are refused
        (224, RandomErasing(probability=0.4, ratio=(1.5, 4.0))),  # which are erased has no part in where
    ],
)
def test_erase_boxes_are_distributed_as_torchvisions(size: int, erasing: RandomErasing) -> None:
    views = sample(AugmentationSpec(size=size, random_erasing=erasing))
    views.validate(375, 500, size)
    torch.manual_seed(0)
    image = torch.empty(3, size, size)
    params = [
        transforms.RandomErasing.get_params(image, erasing.scale, erasing.ratio, value=[0.0])[:4] for _ in range(DRAWS)
    ]
    theirs = np.array(params)
    theirs[(theirs == (0, 0, size, size)).all(axis=1)] = 0  # torchvision's way to say: no box found
    found = [int(boxes.any(axis=1).sum()) for boxes in (views.erase, theirs)]
    if erasing.probability == 1.0 and min(found) < DRAWS:
        assert stats.fisher_exact([found, [DRAWS - n for n in found]]).pvalue > LEAST_P, found
    assert_same_distribution(views.erase[views.erase.any(axis=1)], theirs[theirs.any(axis=1)])


def test_erase_that_rounds_to_nothing_is_no_erase() -> None:
    views = sample(AugmentationSpec(size=4, random_erasing=RandomErasing(1.0, (0.001, 0.03))), 1000)
    views.validate(375, 500, 4)
    assert 0 < views.erase.any(axis=1).sum() < 1000


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_flip_and_erase_probabilities(probability: float) -> None:
    views = sample(AugmentationSpec(flip=probability, random_erasing=RandomErasing(probability)))
    for fired in (views.flip, views.erase.any(axis=1)):
        assert stats.binomtest(int(fired.sum()), DRAWS, probability).pvalue > LEAST_P


def test_operations_signs_and_magnitudes_are_distributed_as_torchvisions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[str, float]] = []

    def record(image: Image.Image, name: str, magnitude: float, **_: object) -> Image.Image:
        calls.append((name, magnitude))
        return image

    monkeypatch.setattr(autoaugment, "_apply_op", record)
    torch.manual_seed(0)
    transform, image = autoaugment.RandAugment(), Image.new("RGB", (224, 224))
    for _ in range(DRAWS // 4):  # its forward is slow: 10,000 operations against our 40,000
        transform(image)
    views = sample()
    ours = list(zip((OP_NAMES[op] for op in views.ops.ravel()), views.magnitudes.ravel().tolist(), strict=True))
    kinds = sorted(set(calls))
    assert len(kinds) == 23 and kinds == sorted(set(ours))  # float32 magnitudes agree to the bit
    table = [[pairs.count(kind) for kind in kinds] for pairs in (calls, ours)]
    assert stats.chi2_contingency(table).pvalue > LEAST_P
    # And against the law itself, with the two positions jointly uniform.
    first, second = views.ops.T.astype(int)
    assert stats.chisquare(np.bincount(first * 14 + second, minlength=14 * 14)).pvalue > LEAST_P
    signed = (views.ops >= 1) & (views.ops <= 9)
    assert stats.binomtest(int((views.magnitudes[signed] < 0).sum()), int(signed.sum())).pvalue > LEAST_P
    assert not (np.signbit(views.magnitudes) & ~signed).any()


@pytest.mark.parametrize("bins", [2, 3, 10, 31, 64])
@pytest.mark.parametrize("size", [1, 96, 224, 288, 475])
def test_magnitude_table_is_torchvisions(bins: int, size: int) -> None:
    space = autoaugment.RandAugment()._augmentation_space(bins, (size, size))
    assert tuple(space) == OP_NAMES[: len(space)]
    for magnitude in range(bins):
        theirs = [values[magnitude].item() if values.ndim else 0.0 for values, _ in space.values()]
        ours = magnitude_table(RandAugment(2, magnitude, bins), size)
        # torch.linspace's kernels differ among themselves by one ulp; at ImageNet+'s magnitude they do not.
        np.testing.assert_array_max_ulp(ours, np.array(theirs, np.float32), 0 if (magnitude, bins) == (9, 31) else 1)


def test_zero_magnitude_has_no_negative_zero() -> None:
    views = sample(AugmentationSpec(rand_augment=RandAugment(magnitude=0)), 400)
    assert not np.signbit(views.magnitudes).any()


def test_columns_are_as_dependent_as_torchvisions() -> None:
    def crop_columns(crop: np.ndarray) -> list[np.ndarray]:
        top, left, height, width = crop.T
        return [
            top / np.maximum(375 - height, 1),
            left / np.maximum(500 - width, 1),
            height * width,
            width / height,
        ]

    views = sample()
    theirs = torchvision_crops(375, 500, RandomResizedCrop().scale, RandomResizedCrop().ratio)
    others = [views.flip, views.ops[:, 0], np.sign(views.magnitudes[:, 1]), views.erase.any(axis=1)]
    ours = np.corrcoef(np.stack([*crop_columns(views.crop), *others]).astype(np.float64))
    expected = np.eye(8)  # flip, operations and erase depend on nothing; area and ratio do on each other
    expected[:4, :4] = np.corrcoef(np.stack(crop_columns(theirs)))
    pairs = np.triu_indices(8, 1)
    error = np.arctanh(ours[pairs]) - np.arctanh(expected[pairs])  # Fisher's z: deviation sqrt(1/n) on each side
    assert np.abs(error).max() < stats.norm.isf(LEAST_P / 56) * math.sqrt(2 / DRAWS)


def test_a_view_depends_on_its_number_alone() -> None:
    everything = sample(count=400)
    options: dict[str, Any] = {"seed": 1, "key": "n01440764_10026", "image_height": 375, "image_width": 500}
    numbers = list(range(400))
    random.Random(0).shuffle(numbers)
    for chosen in ([7], [399, 0], numbers, [5, 5, 3], list(range(3, 400, 8)), [0, 50, 300], []):
        assert draw(FULL, views=chosen, **options) == everything.take(chosen)
    far = 1 << 50
    assert draw(FULL, views=[0, far, 7], **options) == draw(FULL, views=[far, 7, 0], **options).take([2, 0, 1])
    assert sample(count=400) == everything  # and the calls in between left no trace


def test_a_part_of_the_spec_does_not_shift_the_others() -> None:
    everything, plain = sample(count=400), sample(AugmentationSpec(), count=400)
    np.testing.assert_array_equal(everything.crop, plain.crop)
    np.testing.assert_array_equal(everything.flip, plain.flip)
    fewer = sample(AugmentationSpec(rand_augment=RandAugment(num_ops=1), random_erasing=RandomErasing()), count=400)
    np.testing.assert_array_equal(fewer.ops[:, 0], everything.ops[:, 0])
    np.testing.assert_array_equal(fewer.erase, everything.erase)
    assert plain.num_ops == 0 and not plain.erase.any()


@pytest.mark.parametrize(
    "changes", [{"seed": 2}, {"seed": 257}, {"seed": 2**64 - 1}, {"key": "n01440764_10027"}, {"key": "ä/ö"}]
)
def test_other_seeds_and_keys_are_unrelated(changes: dict[str, Any]) -> None:
    one, other = sample(), sample(**changes)
    assert (one.crop == other.crop).all(axis=1).mean() < 1e-3
    limit = stats.norm.isf(LEAST_P / 10) / math.sqrt(DRAWS)
    for a, b in ((one.crop, other.crop), (one.ops, other.ops)):
        for left, right in zip(a.T, b.T, strict=True):
            assert abs(np.corrcoef(left, right)[0, 1]) < limit
    agree = int((one.flip == other.flip).sum())
    assert stats.binomtest(agree, DRAWS).pvalue > LEAST_P


def philox4x64(counter: int, key: tuple[int, int]) -> list[int]:
    """One block of Philox4x64-10, after the paper (Salmon et al., SC 2011)."""
    mask = (1 << 64) - 1
    x = [counter >> shift & mask for shift in (0, 64, 128, 192)]
    k0, k1 = key
    for _ in range(10):
        p0, p1 = x[0] * 0xD2E7470EE14C6C93, x[2] * 0xCA5A826395121157
        x = [p1 >> 64 ^ x[1] ^ k0, p1 & mask, p0 >> 64 ^ x[3] ^ k1, p0 & mask]
        k0, k1 = k0 + 0x9E3779B97F4A7C15 & mask, k1 + 0xBB67AE8584CAA73B & mask
    return x


def test_philox_known_answers() -> None:
    # Random123's kat_vectors for philox4x64 10.
    assert philox4x64(0, (0, 0)) == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]
    assert philox4x64((1 << 256) - 1, ((1 << 64) - 1,) * 2) == [
        0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0,
    ]  # fmt: skip


def derived_row(spec: AugmentationSpec, seed: int, key: str, view: int, height: int, width: int) -> list[Any]:
    """The docstring of `draw`'s module in plain Python integers and floats."""
    digest = hashlib.blake2b(
        seed.to_bytes(8, "little") + key.encode(), digest_size=16, person=b"dali_dr draw 1"
    ).digest()
    philox_key = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")

    def uniforms(stream: int, words: int) -> list[float]:
        first = (stream << 192) + view * words // 4 + 1
        blocks = [philox4x64(first + block, philox_key) for block in range(words // 4)]
        return [(word >> 11) * 2.0**-53 for block in blocks for word in block]

    def sides(
        u: list[float], area: int, scale: tuple[float, float], ratio: tuple[float, float], i: int
    ) -> tuple[int, int]:
        target = area * (scale[0] + u[2 * i] * (scale[1] - scale[0]))
        low, high = math.log(ratio[0]), math.log(ratio[1])
        aspect = math.exp(low + u[2 * i + 1] * (high - low))
        return round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))

    u = uniforms(0, 24)
    tries = (sides(u, height * width, spec.crop.scale, spec.crop.ratio, i) for i in range(10))
    w, h = next((w, h) for w, h in tries if 0 < w <= width and 0 < h <= height)
    crop = [int(u[20] * (height - h + 1)), int(u[21] * (width - w + 1)), h, w]
    flip = u[22] < spec.flip
    assert spec.rand_augment and spec.random_erasing
    u = uniforms(2, 16)
    ops = [int(14 * u[2 * i]) for i in range(spec.rand_augment.num_ops)]
    negative = [u[2 * i + 1] < 0.5 and 1 <= op <= 9 for i, op in enumerate(ops)]
    u = uniforms(1, 24)
    tries = (sides(u, spec.size**2, spec.random_erasing.scale, spec.random_erasing.ratio, i) for i in range(10))
    h, w = next((h, w) for h, w in tries if h < spec.size and w < spec.size)
    erase = [int(u[20] * (spec.size - h + 1)), int(u[21] * (spec.size - w + 1)), h, w]
    return [crop, flip, ops, negative, erase if u[22] < spec.random_erasing.probability else [0, 0, 0, 0]]


def test_derivation_recomputed_from_its_description() -> None:
    for seed, key, first in ((0, "", 0), (1, "n01440764_10026", 120), (2**64 - 1, "ä/ö", 2**40)):
        numbers = range(first, first + 40)
        views = draw(FULL, seed=seed, key=key, views=numbers, image_height=375, image_width=500)
        for row, view in enumerate(numbers):
            ours = [views.crop[row].tolist(), bool(views.flip[row]), views.ops[row].tolist()]
            ours += [(views.magnitudes[row] < 0).tolist(), views.erase[row].tolist()]
            assert ours == derived_row(FULL, seed, key, view, 375, 500), (seed, key, view)


GOLDEN = {  # view of sample(): crop, flip, ops, magnitudes, erase
    0: ([164, 63, 180, 235], True, [8, 2], [-0.26999998, 0.09], [0, 0, 0, 0]),
    1: ([12, 58, 314, 331], True, [4, 11], [30.453173, 178.5], [0, 0, 0, 0]),
    3: ([0, 183, 363, 316], False, [3, 5], [-30.453173, -9.0], [0, 0, 0, 0]),
    4: ([98, 116, 189, 197], False, [10, 7], [7.0, 0.26999998], [0, 0, 0, 0]),
    6: ([6, 10, 335, 317], False, [4, 9], [-30.453173, 0.26999998], [67, 116, 61, 78]),
    18: ([94, 209, 279, 215], True, [4, 10], [30.453173, 7.0], [24, 66, 47, 83]),
}


def test_golden_values() -> None:
    """Pinned: a change here redraws every data set and needs a new derivation version."""
    views = sample(count=max(GOLDEN) + 1)
    for row, (crop, flip, ops, magnitudes, erase) in GOLDEN.items():
        assert (views.crop[row].tolist(), bool(views.flip[row]), views.ops[row].tolist()) == (crop, flip, ops)
        assert views.magnitudes[row].tolist() == np.float32(magnitudes).tolist()
        assert views.erase[row].tolist() == erase


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": -1},
        {"seed": 1 << 64},
        {"image_height": 0},
        {"image_width": -5},
        {"views": [-1]},
        {"views": [0, 1 << 53]},
    ],
)
def test_out_of_range_arguments(changes: dict[str, Any]) -> None:
    options: dict[str, Any] = {"seed": 0, "key": "a", "views": [0], "image_height": 8, "image_width": 8}
    with pytest.raises(ValueError, match="draw: "):
        draw(FULL, **(options | changes))
