"""fn.dr.replay against torchvision's functional transforms on PIL images: not one byte may differ."""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import picture
from PIL import Image

dali = pytest.importorskip("nvidia.dali")
import nvidia.dali.fn as fn  # noqa: E402
import nvidia.dali.types as types  # noqa: E402

from dali_dr._plugin import load  # noqa: E402
from dali_dr._torchvision import load_torchvision  # noqa: E402
from dali_dr.loader.faults import take_fault  # noqa: E402

load()
load_torchvision()
import torch  # noqa: E402
from torchvision.transforms import InterpolationMode, RandAugment  # noqa: E402
from torchvision.transforms import functional as F  # noqa: E402
from torchvision.transforms.autoaugment import _apply_op  # noqa: E402

Pixels = npt.NDArray[np.uint8]
Words = npt.NDArray[np.int32]
Op = tuple[int, float]  # index, magnitude

BINS = 31
NAMES = list(RandAugment()._augmentation_space(BINS, (224, 224)))
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILTERS = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
# 10,000 chains on small images; DALI_DR_TEST_CHAINS asks for more or fewer.
CHAINS = int(os.environ.get("DALI_DR_TEST_CHAINS", "10000"))


@functools.cache
def _pipeline(device: str, mixing: bool, dim: int, **arguments: Any) -> tuple[Any, dict[str, Any]]:
    """A pipeline of one replay operator, and the dictionary that its inputs are taken from."""
    feed: dict[str, Any] = {}

    @dali.pipeline_def(batch_size=512, num_threads=2, device_id=0 if device == "gpu" else None, prefetch_queue_depth=1)
    def graph() -> Any:
        def source(name: str, dim: int) -> Any:
            return fn.external_source(lambda: feed[name], batch=True, ndim=dim, name=name)

        words, origin = source("params", dim), source("origin", 1)
        images, *partners = (source(name, 3) for name in ("images", "partners")[: 2 if mixing else 1])
        if device == "gpu":
            images, partners = images.gpu(), [p.gpu() for p in partners]
        return fn.dr.replay(images, words, *partners, origin=origin, **arguments)

    pipeline = graph()
    pipeline.build()
    return pipeline, feed


def run(
    images: Sequence[Pixels],
    params: Sequence[Words],
    origins: Sequence[tuple[int, int]] | None = None,
    device: str = "cpu",
    partners: Sequence[Pixels] | None = None,
    **arguments: Any,
) -> list[npt.NDArray[Any]]:
    """Replays params[i] (P or m x P words) on images[i] (and partners[i]), 512 at a time; arguments as for fn.dr.replay."""
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
    pipeline, feed = _pipeline(device, partners is not None, np.ndim(params[0]), **arguments)
    out: list[npt.NDArray[Any]] = []
    for begin in range(0, len(images), 512):
        part = slice(begin, begin + 512)
        feed["images"] = list(images[part])
        feed["partners"] = list((partners or [])[part])
        feed["params"] = list(params[part])
        feed["origin"] = [np.array(o, np.int32) for o in (origins or [(0, 0)] * len(images))[part]]
        try:
            (batch,) = pipeline.run()
        except RuntimeError:
            _pipeline.cache_clear()  # DALI pipelines do not survive an error
            raise
        batch = batch.as_cpu() if device == "gpu" else batch
        out += [np.array(batch[i]) for i in range(len(batch))]
    return out


def pack(crop: Sequence[int], ops: Sequence[Op] = (), flip: bool = False, erase: Sequence[int] = (0, 0, 0, 0)) -> Words:
    """The packed words of a view, written from the contract and not by the package."""
    words = [*crop, int(flip), *erase, len(ops)]
    for index, magnitude in ops:
        words += [index, int(np.float32(magnitude).view(np.int32))]
    return np.array(words, np.int32)


def reference(
    image: Pixels,
    size: tuple[int, int],
    crop: Sequence[int],
    ops: Sequence[Op] = (),
    flip: bool = False,
    erase: Sequence[int] = (0, 0, 0, 0),
    interpolation: str = "bilinear",
) -> Pixels:
    """The view by torchvision on PIL images, HWC."""
    top, left, height, width = crop
    view = F.resized_crop(Image.fromarray(image), top, left, height, width, list(size), FILTERS[interpolation])
    if flip:
        view = F.hflip(view)
    for index, magnitude in ops:
        value = float(np.float32(magnitude))
        view = _apply_op(view, NAMES[index], value, InterpolationMode.NEAREST, None)
    pixels = np.array(view)
    top, left, height, width = erase
    pixels[top : top + height, left : left + width] = 0
    return pixels


def assert_same(got: Sequence[npt.NDArray[Any]], want: Sequence[npt.NDArray[Any]], labels: Sequence[Any]) -> None:
    assert len(got) == len(want) == len(labels)
    wrong = [
        (label, "shapes", g.shape, w.shape) if g.shape != w.shape else (label, int((g != w).sum()), "of", g.size)
        for g, w, label in zip(got, want, labels, strict=True)
        if g.shape != w.shape or g.dtype != w.dtype or g.tobytes() != w.tobytes()
    ]
    assert not wrong, f"{len(wrong)} of {len(got)} views differ: {wrong[:8]}"


def magnitudes(index: int, size: tuple[int, int]) -> list[float]:
    """All 31 bins with both signs, and values that no bin has."""
    bins, signed = RandAugment()._augmentation_space(BINS, size)[NAMES[index]]
    values = [float(bins)] if bins.ndim == 0 else [float(v) for v in bins]
    if signed:
        values += [-v for v in values]
    shears = [1.0, -0.77, 1e-6, -1e-6, 2.5]
    shifts = [0.999, -0.999, 1.0, 1e5, -1e5, size[1] - 1.0, float(-size[0])]
    angles = [45.0, 90.0, -90.0, 180.0, -180.0, 270.0, 359.999, -1e-20, 1e-7, 123.456, 720.0, 1000.5]
    factors = [-1.0, -1.5, 1.7, 20.0, -30.0, 1e-9, 1e6]
    odd = {
        **dict(
            zip(range(1, 10), [shears, shears, shifts, shifts, angles, factors, factors, factors, factors], strict=True)
        ),
        10: [1.0, 1.99, 2.0, 3.7, 8.0],
        11: [-3.0, 0.5, 127.99, 128.0, 254.5, 255.5, 256.0, 300.0],
    }
    return values + odd.get(index, [])


def grey_like(height: int, width: int) -> Pixels:
    return np.repeat(picture(height, width, 3)[..., :1], 3, axis=2)


def test_images() -> dict[str, Pixels]:
    rng = np.random.default_rng(1)
    two = np.where(rng.random((40, 50, 1)) < 0.3, np.uint8(17), np.uint8(201)) * np.ones((1, 1, 3), np.uint8)
    narrow = rng.integers(100, 140, (40, 50, 3)).astype(np.uint8)
    mixed = narrow.copy()
    mixed[..., 1] = 77  # one constant channel
    return {
        "photo": picture(60, 73, 0),
        "noise": rng.integers(0, 256, (61, 47, 3)).astype(np.uint8),
        "grey": grey_like(50, 50),
        "black": np.zeros((40, 50, 3), np.uint8),
        "white": np.full((40, 50, 3), 255, np.uint8),
        "two values": two,
        "0 and 255": np.where(rng.random((40, 50, 3)) < 0.5, np.uint8(0), np.uint8(255)),
        "narrow": narrow,
        "mixed": mixed,
        "rare top": np.where(rng.random((40, 50, 3)) < 0.001, np.uint8(255), np.uint8(3)),
    }


test_images.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("index", range(14), ids=NAMES)
@pytest.mark.parametrize("size", [(56, 56), (45, 67)], ids=str)
def test_every_operation_over_its_whole_range(index: int, size: tuple[int, int]) -> None:
    cases = [
        (name, image, magnitude)
        for name, image in test_images().items()
        for magnitude in magnitudes(index, size)
        if name in ("photo", "noise") or index >= 6
    ]
    crops = [(0, 0, *image.shape[:2]) for _, image, _ in cases]
    params = [pack(crop, [(index, m)]) for crop, (_, _, m) in zip(crops, cases, strict=True)]
    got = run([image for _, image, _ in cases], params, size=size, output_layout="HWC")
    want = [reference(image, size, crop, [(index, m)]) for crop, (_, image, m) in zip(crops, cases, strict=True)]
    assert_same(got, want, [(name, m) for name, _, m in cases])


@pytest.mark.parametrize("index", range(14), ids=NAMES)
def test_every_operation_at_224(index: int) -> None:
    image = picture(300, 400, 5)
    values = magnitudes(index, (224, 224))[:: 1 if index < 6 else 5]
    crop = (10, 20, 250, 333)
    got = run([image] * len(values), [pack(crop, [(index, m)]) for m in values], size=224)
    want = [reference(image, (224, 224), crop, [(index, m)]).transpose(2, 0, 1) for m in values]
    assert_same(got, want, values)


@pytest.mark.parametrize("index", range(14), ids=NAMES)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 5), (3, 3), (7, 1), (33, 2)], ids=str)
def test_every_operation_on_tiny_views(index: int, size: tuple[int, int]) -> None:
    image = picture(23, 31, 5)
    values = magnitudes(index, size)[::3]
    crop = (1, 2, 20, 25)
    got = run([image] * len(values), [pack(crop, [(index, m)]) for m in values], size=size, output_layout="HWC")
    want = [reference(image, size, crop, [(index, m)]) for m in values]
    assert_same(got, want, values)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (32, 32), (33, 63), (100, 1), (1, 77), (96, 160)], ids=str)
def test_resize(interpolation: str, size: tuple[int, int]) -> None:
    shapes = [1, 2, 3, 4, 5, 8, 15, 32, 33, 64, 97, 200]
    images, crops = [], []
    for height, width, margin in itertools.product(shapes, shapes, (0, 3)):  # the whole image, and a part of it
        images.append(picture(height + 2 * margin, width + margin, height * width))
        crops.append((margin, margin, height, width))
    for flip in (False, True):
        params = [pack(crop, flip=flip) for crop in crops]
        got = run(images, params, size=size, interpolation=interpolation, output_layout="HWC")
        want = [
            reference(image, size, crop, flip=flip, interpolation=interpolation)
            for image, crop in zip(images, crops, strict=True)
        ]
        assert_same(got, want, [(image.shape, crop, flip) for image, crop in zip(images, crops, strict=True)])


@pytest.mark.parametrize("interpolation", FILTERS)
def test_large_downscale_and_extreme_values(interpolation: str) -> None:
    rng = np.random.default_rng(0)
    images = [
        picture(2000, 1999, 1),
        rng.integers(0, 256, (3000, 2, 3)).astype(np.uint8),
        np.full((2500, 700, 3), 255, np.uint8),
        np.where(rng.random((1500, 1500, 3)) < 0.5, np.uint8(0), np.uint8(255)),
        rng.integers(0, 256, (1, 5000, 3)).astype(np.uint8),
    ]
    crops = [(0, 0, *image.shape[:2]) for image in images]
    for size in ((224, 224), (2, 3)):
        got = run(images, [pack(c) for c in crops], size=size, interpolation=interpolation, output_layout="HWC")
        want = [reference(i, size, c, interpolation=interpolation) for i, c in zip(images, crops, strict=True)]
        assert_same(got, want, crops)


def random_view(rng: np.random.Generator, image: Pixels, size: tuple[int, int]) -> dict[str, Any]:
    height, width = (int(rng.integers(1, n + 1)) for n in image.shape[:2])
    ops: list[Op] = []
    for index in rng.integers(0, 14, rng.choice([0, 1, 2, 2, 2, 3, 5])).tolist():
        value = rng.choice(magnitudes(index, size))
        ops.append((index, float(value)))
    erase = (0, 0, 0, 0)
    if rng.random() < 0.5:
        h, w = (int(rng.integers(1, n + 1)) for n in size)
        erase = (int(rng.integers(0, size[0] - h + 1)), int(rng.integers(0, size[1] - w + 1)), h, w)
    return {
        "crop": (
            int(rng.integers(0, image.shape[0] - height + 1)),
            int(rng.integers(0, image.shape[1] - width + 1)),
            height,
            width,
        ),
        "ops": ops,
        "flip": bool(rng.random() < 0.5),
        "erase": erase,
    }


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("size", [(32, 32), (48, 31), (17, 64)], ids=str)
def test_random_chains(size: tuple[int, int], interpolation: str) -> None:
    rng = np.random.default_rng([*size, len(interpolation)])
    pictures = [picture(int(h), int(w), i) for i, (h, w) in enumerate(rng.integers(1, 130, (40, 2)))]
    pictures += list(test_images().values())
    count = -(-CHAINS // 6)
    images = [pictures[i] for i in rng.integers(0, len(pictures), count)]
    views = [random_view(rng, image, size) for image in images]
    got = run(images, [pack(**v) for v in views], size=size, interpolation=interpolation, output_layout="HWC")
    want = [reference(i, size, interpolation=interpolation, **v) for i, v in zip(images, views, strict=True)]
    assert_same(got, want, views)


def test_random_chains_on_photos(photos_dir: Any) -> None:
    rng = np.random.default_rng(7)
    paths = sorted(photos_dir.iterdir())[::20]
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths for _ in range(6)]
    views = [random_view(rng, image, (224, 224)) for image in images]
    got = run(images, [pack(**v) for v in views], size=224)
    want = [reference(i, (224, 224), **v).transpose(2, 0, 1) for i, v in zip(images, views, strict=True)]
    assert_same(got, want, views)


@pytest.mark.parametrize("layout", ["CHW", "HWC"])
@pytest.mark.parametrize("dtype", ["UINT8", "FLOAT16", "INT16", "FLOAT"])
@pytest.mark.parametrize(
    ("mean", "std"),
    [((), ()), (IMAGENET_MEAN, IMAGENET_STD), ((0.5,) * 3, (0.5,) * 3), ((0.0, 0.3, 2.0), (1.0, 1e-3, 7.7))],
    ids=["plain", "imagenet", "half", "odd"],
)
def test_types_layouts_and_normalisation(layout: str, dtype: str, mean: Sequence[float], std: Sequence[float]) -> None:
    if dtype == "UINT8" and mean:
        pytest.skip("normalised values do not fit uint8")
    ramp = np.arange(256 * 3).astype(np.uint8).reshape(16, 16, 3)
    images = [ramp, picture(50, 60, 0), ramp]
    views = [
        {"crop": (0, 0, 16, 16)},
        {"crop": (3, 1, 40, 44), "ops": [(9, 0.27)], "flip": True, "erase": (2, 3, 5, 9)},
        {"crop": (0, 0, 16, 16), "erase": (0, 0, 16, 16)},
    ]
    normalise = {"mean": list(mean), "std": list(std)} if mean else {}
    got = run(
        images, [pack(**v) for v in views], size=16, dtype=getattr(types, dtype), output_layout=layout, **normalise
    )
    want = []
    for image, view in zip(images, views, strict=True):
        pixels = torch.from_numpy(reference(image, (16, 16), **view)).permute(2, 0, 1)
        if mean:
            pixels = F.normalize(F.to_tensor(reference(image, (16, 16), **view)), list(mean), list(std))
        torch_types = {"FLOAT16": torch.float16, "INT16": torch.bfloat16, "FLOAT": torch.float32}
        pixels = pixels.to(torch_types.get(dtype, torch.uint8))
        pixels = pixels.view(torch.int16) if dtype == "INT16" else pixels
        want.append((pixels if layout == "CHW" else pixels.permute(1, 2, 0)).contiguous().numpy())
    assert_same(got, want, views)


def several_views(rng: np.random.Generator, image: Pixels, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Five random views with as many words each."""
    views = [random_view(rng, image, size) for _ in range(5)]
    return [view | {"ops": (view["ops"] + [(0, 0.0)] * 5)[:5]} for view in views]


def test_many_views_per_image() -> None:
    rng = np.random.default_rng(0)
    images = [picture(80, 90, 0), picture(40, 70, 1)]
    views = [several_views(rng, image, (32, 40)) for image in images]
    got = run(images, [np.stack([pack(**v) for v in rows]) for rows in views], size=(32, 40))
    want = [
        np.stack([reference(i, (32, 40), **v).transpose(2, 0, 1) for v in rows])
        for i, rows in zip(images, views, strict=True)
    ]
    assert got[0].shape == (5, 3, 32, 40)
    assert_same(got, want, views)


def test_a_part_of_the_image_with_its_origin_gives_the_same_view() -> None:
    rng = np.random.default_rng(3)
    image = picture(120, 160, 0)
    views = [random_view(rng, image, (32, 32)) for _ in range(50)]
    whole = run([image] * 50, [pack(**v) for v in views], size=32)
    parts, origins = [], []
    for i, view in enumerate(views):
        top, left, height, width = view["crop"]
        bottom, right = top + height, left + width
        if i % 2:  # more than the crop
            top, left, bottom, right = top // 2, left // 2, (bottom + 120) // 2, (right + 160) // 2
        parts.append(np.ascontiguousarray(image[top:bottom, left:right]))
        origins.append((top, left))
    assert_same(run(parts, [pack(**v) for v in views], origins, size=32), whole, views)


@pytest.mark.parametrize("origin", [None, (4, 7)])
def test_origin_may_be_left_out_or_be_one_constant(origin: tuple[int, int] | None) -> None:
    image = picture(60, 70, 0)

    @dali.pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def graph() -> Any:
        top, left = origin or (0, 0)
        pixels = types.Constant(np.ascontiguousarray(image[top:, left:]), device="cpu")
        words = types.Constant(pack((10, 20, 30, 40)), device="cpu")
        return fn.dr.replay(pixels, words, size=16, output_layout="HWC", **({"origin": origin} if origin else {}))

    pipeline = graph()
    pipeline.build()
    (batch,) = pipeline.run()
    assert_same([np.array(batch[0])], [reference(image, (16, 16), (10, 20, 30, 40))], [origin])


@pytest.mark.parametrize("size", [(160, 160), (288, 288), (100, 231)], ids=str)
def test_another_size_scales_erase_edges_and_translations(size: tuple[int, int]) -> None:
    stored = 224
    image = picture(90, 110, 0)
    crop = (5, 7, 80, 90)

    def scale(x: float, out: int) -> int:
        return math.floor(x * out / stored + 0.5)

    erases = [(0, 0, 0, 0), (3, 5, 1, 1), (0, 0, 224, 224), (100, 17, 37, 111), (223, 223, 1, 1)]
    shifts = [0.0, 30.45, -30.45, 1.0, -0.99, 101.5, -7.7]
    params, want = [], []
    for (top, left, height, width), shift in itertools.product(erases, shifts):
        for index in (3, 4):
            params.append(pack(crop, [(index, shift), (5, 9.0)], erase=(top, left, height, width)))
            axis = size[1] if index == 3 else size[0]
            moved = math.copysign(scale(abs(int(np.float32(shift))), axis), shift)
            y0, y1 = scale(top, size[0]), scale(top + height, size[0])
            x0, x1 = scale(left, size[1]), scale(left + width, size[1])
            want.append(reference(image, size, crop, [(index, moved), (5, 9.0)], erase=(y0, x0, y1 - y0, x1 - x0)))
    got = run([image] * len(params), params, size=size, stored_size=stored, output_layout="HWC")
    assert_same(got, want, params)


GOOD = pack((0, 0, 20, 20), [(10, 4.0)])


def spoiled(**words: int) -> Words:
    bad = GOOD.copy()
    for key, value in words.items():
        bad[int(key[1:])] = value
    return bad


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (spoiled(w2=21), "crop box .* not inside the given 20x30"),
        (spoiled(w0=1), "crop box .* not inside"),
        (spoiled(w1=-1), "box coordinate -1"),
        (spoiled(w3=2**31 - 1), "box coordinate 2147483647"),
        (spoiled(w2=0), "crop box is empty"),
        (spoiled(w4=2), "flip is 2"),
        (spoiled(w5=10, w7=10, w8=3), "erase box .* `stored_size`"),
        (spoiled(w9=2), "number of operations 2"),
        (spoiled(w9=-1), "number of operations -1"),
        (spoiled(w9=2**31 - 1), "number of operations 2147483647"),
        (spoiled(w10=18), "operation 18 is unknown"),
        (spoiled(w10=-5), "operation -5 is unknown"),
        (spoiled(w11=0x7FC00000), "magnitude nan"),
        (spoiled(w11=0x7F800000), "magnitude inf"),
        (spoiled(w11=0x41100000), "Posterize keeps 1 to 8 bits"),
        (spoiled(w10=1, w11=0x49742400), "moves pixels further"),
        (GOOD[:9], "9 words, fewer than the 10"),
    ],
)
def test_bad_parameters_are_named(bad: Words, message: str) -> None:
    images = [picture(20, 30, 0)] * 3
    with pytest.raises(RuntimeError, match=rf"(?s)Sample 2 of the batch, view 0: .*{message}"):
        run(images, [GOOD, GOOD, bad], size=16)


def test_a_fault_names_the_place_in_the_batch() -> None:
    with pytest.raises(RuntimeError) as caught:
        run([picture(20, 30, 0)] * 3, [GOOD, spoiled(w2=21), spoiled(w2=0)], size=16, monitor=2000)
    fault = take_fault(2000)
    assert fault is not None and fault.message in str(caught.value)
    assert (fault.kind, fault.place, fault.sample, fault.failed) == ("view", 1, None, ())
    with pytest.raises(RuntimeError):
        run([np.zeros((20, 30, 4), np.uint8)], [GOOD], size=16, monitor=2000)
    assert (fault := take_fault(2000)) is not None and (fault.kind, fault.place) == ("view", 0)
    with pytest.raises(RuntimeError):
        run([picture(20, 30, 0)], [GOOD.astype(np.int64)], size=16, monitor=2000)
    assert (fault := take_fault(2000)) is not None and (fault.kind, fault.place) == ("argument", None)
    assert take_fault(2000) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "`size` is 0x0"),
        ({"size": 10000}, "`size` is 10000x10000"),
        ({"size": (3, 4, 5)}, "`size` has 3 values"),
        ({"size": 16, "stored_size": -1}, "`stored_size` is -1x-1"),
        ({"size": 16, "interpolation": "lanczos"}, '`interpolation` is "lanczos"'),
        ({"size": 16, "mean": [0.5], "std": [0.5]}, "three of each"),
        ({"size": 16, "mean": [0.5] * 3}, "three of each"),
        ({"size": 16, "mean": [0.5] * 3, "std": [0.0] * 3, "dtype": types.FLOAT}, "positive"),
        ({"size": 16, "mean": [0.5] * 3, "std": [0.5] * 3}, "need `dtype` FLOAT16, INT16 or FLOAT"),
        ({"size": 16, "dtype": types.INT32}, "pass UINT8, FLOAT16, INT16"),
        ({"size": 16, "output_layout": "WHC"}, 'pass "CHW" or "HWC"'),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        run([picture(20, 30, 0)], [GOOD], **arguments)


@pytest.mark.parametrize(
    ("image", "words", "message"),
    [
        (np.zeros((20, 30, 4), np.uint8), GOOD, "Sample 0 .* has shape \\(20, 30, 4\\)"),
        (np.zeros((20, 30, 3), np.int32), GOOD, "decode to uint8 RGB"),
        (np.zeros((20, 30, 3), np.uint8), GOOD.astype(np.int64), "pass int32"),
        (np.zeros((20, 30, 3), np.uint8), np.zeros((1, 1, 10), np.int32), "`params` have 3 dimensions"),
    ],
)
def test_bad_inputs_are_named(image: Any, words: Any, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        run([image], [words], size=16)
