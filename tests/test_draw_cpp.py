"""csrc/draw, through fn.dr.read: fresh views are those of dali_dr.augment.draw, and sizes those that Pillow reads."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import encode_jpeg, picture
from PIL import Image
from test_iterator import make_dataset

import dali_dr
from dali_dr._plugin import load
from dali_dr.augment.draw import draw
from dali_dr.augment.fresh import Evaluation, draw_arguments
from dali_dr.augment.spec import (
    AugmentationSpec,
    ColourJitter,
    FixedResizeCrop,
    GaussianBlur,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    TrivialAugmentWide,
)
from dali_dr.encoded import image_info
from dali_dr.errors import PluginError

try:
    load()
except PluginError as error:
    pytest.skip(f"the plugin does not load: {error}", allow_module_level=True)

from nvidia.dali import Pipeline, fn

SPECS = {
    "rrc": AugmentationSpec.preset("rrc"),
    "rrc+ra+re": AugmentationSpec.preset("rrc+ra+re", 160),
    "rare tries": AugmentationSpec(
        size=31,
        crop=RandomResizedCrop((0.5, 1.0), (0.2, 7.0)),
        flip=0.1,
        rand_augment=RandAugment(8, 30, 31),
        random_erasing=RandomErasing(0.9, (0.0001, 1.0), (0.05, 20.0)),
    ),
    "all at once": AugmentationSpec(
        size=160,
        crop=FixedResizeCrop(181),
        colour_jitter=ColourJitter(0.4, 1.5, 0.3, 0.5, probability=0.8),
        greyscale=0.2,
        blur=GaussianBlur(0.5, (0.1, 3.0)),
        rand_augment=RandAugment(8, 9, 11, magnitude_std=0.5, probability=0.5),
        random_erasing=RandomErasing(),
    ),
    "centre": AugmentationSpec(
        crop=FixedResizeCrop(random=False),
        flip=0.3,
        colour_jitter=ColourJitter(0.0, 0.4, 0.0, 0.1),
        trivial_augment=TrivialAugmentWide(256),
    ),
    "often": AugmentationSpec(size=97, rand_augment=RandAugment(3, 1, 31, magnitude_std=3.0)),
    "seldom": AugmentationSpec(rand_augment=RandAugment(2, 9, 31, probability=0.1)),
    **{name: AugmentationSpec.preset(name) for name in (
        "moco-v2", "swav", "fkd", "deit", "usi", "rrc+aa+re", "rrc+ta+re", "crop+flip",
    )},
}  # fmt: skip


def plain(folder: Path, images: Sequence[bytes], keys: Sequence[str] | None = None) -> dali_dr.Dataset:
    keys = keys or [f"n/{number}" for number in range(len(images))]
    samples = [dali_dr.Sample(key, data, n % 10) for n, (key, data) in enumerate(zip(keys, images, strict=True))]
    dali_dr.write_shards(samples, folder, spec=None, num_classes=10, check_images=False, progress=False)
    return dali_dr.Dataset(folder)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(index: Path, samples: Sequence[int], views: Sequence[Any], **arguments: Any) -> list[list[np.ndarray]]:
    """The outputs of fn.dr.read, sample by sample."""
    feeds = {
        "samples": [np.array(number, np.int64) for number in samples],
        "views": [np.array(numbers, np.int32) for numbers in views],
    }
    graph = Pipeline(batch_size=len(samples), num_threads=2, device_id=None)
    with graph:
        inputs = [fn.external_source(name=name) for name in feeds]
        graph.set_outputs(*fn.dr.read(*inputs, index=str(index), **arguments))  # type: ignore[attr-defined]
    graph.build()
    for name, values in feeds.items():
        graph.feed_input(name, values)
    return [[np.array(output.at(i)) for i in range(len(samples))] for output in graph.run()]


@pytest.mark.parametrize("name", SPECS)
def test_every_bit_of_many_views(tmp_path: Path, name: str) -> None:
    """50,000 views of each spec: images of all shapes, keys of all lengths and alphabets, numbers up to int32's end."""
    spec, rng = SPECS[name], random.Random(name)
    sizes = [(1, 1), (1, 500), (500, 1), (3, 2), (375, 500), (500, 375), (4000, 5000)]
    sizes += [(rng.randint(1, 1200), rng.randint(1, 1200)) for _ in range(93)]
    keys = [f"{i}/" + "".join(rng.choices("abc012_-äß猫🦊", k=rng.choice((1, 3, 20, 30)))) for i in range(100)]
    keys[0] = "/".join(["key"] * 32)  # hashed as two blocks
    images = [encoded(Image.new("1", (width, height)), "PNG") for height, width in sizes]
    dataset = plain(tmp_path, images, keys)
    seed = rng.getrandbits(64)
    numbers = [np.array([rng.choice((i, rng.randrange(2**31))) for i in range(500)]) for _ in sizes]
    outputs = read(dataset.index_path, range(100), [-1 - n for n in numbers], **draw_arguments(spec, seed))
    wrong = 0
    for i, (height, width) in enumerate(sizes):
        want = draw(spec, seed=seed, key=keys[i], views=numbers[i], image_height=height, image_width=width)
        wrong += int((outputs[4][i] != want.pack()).any(axis=1).sum())
        ends = outputs[4][i][:, :2] + outputs[4][i][:, 2:4]
        assert np.array_equal(outputs[2][i], outputs[4][i][:, :2].min(0))  # the union of the crops
        assert np.array_equal(outputs[2][i] + outputs[3][i], ends.max(0))
    assert wrong == 0, f"{wrong} of {100 * 500} views differ"


def test_serialised_pipelines_draw_the_same(tmp_path: Path) -> None:
    """Also the bits of the numbers survive it, seeds above 2^63 among them."""
    dataset = plain(tmp_path, [encode_jpeg(picture(200, 300, 0))] * 4)
    arguments = draw_arguments(SPECS["rare tries"], 2**64 - 3)
    graph = Pipeline(batch_size=4, num_threads=1, device_id=None)
    with graph:
        inputs = [fn.external_source(name=name) for name in ("samples", "views")]
        graph.set_outputs(fn.dr.read(*inputs, index=str(dataset.index_path), **arguments)[4])  # type: ignore[attr-defined]
    again = Pipeline.deserialize(graph.serialize())
    for name, dtype in (("samples", np.int64), ("views", np.int32)):
        again.feed_input(name, [np.array(-1 - i if name == "views" else i, dtype) for i in range(4)])
    (params,) = again.run()
    for i in range(4):
        want = draw(SPECS["rare tries"], seed=2**64 - 3, key=f"n/{i}", views=[i], image_height=200, image_width=300)
        assert np.array_equal(params.at(i), want.pack()[0])


def test_hard_targets_of_fresh_views(tmp_path: Path) -> None:
    dataset = plain(tmp_path, [encode_jpeg(picture(20, 30, 0))] * 10)
    arguments = draw_arguments(SPECS["rrc"], 0)
    for topk in (0, 1, 4, 10):
        *_, ids, probs = read(dataset.index_path, range(10), [[-1, -2]] * 10, topk=topk, **arguments)
        for label in range(10):
            assert ids[label].shape == probs[label].shape == (2, max(topk, 1))
            for row in range(2):
                assert ids[label][row, 0] == label and probs[label][row].tolist() == [1.0] + [0.0] * (max(topk, 1) - 1)
                assert len(set(ids[label][row])) == max(topk, 1) and set(ids[label][row]) <= set(range(10))


def test_stored_and_fresh_views_of_one_sample(tmp_path: Path, jpeg_bytes: list[bytes]) -> None:
    """A record without operations beside fresh views with two, and the reverse, and a K of the record's."""
    for folder, stored_preset, fresh in (("a", "rrc", "rrc+ra+re"), ("b", "rrc+ra+re", "rrc")):
        dataset = make_dataset(tmp_path / folder, jpeg_bytes, stored_preset)
        outputs = read(dataset.index_path, range(8), [[2, -8, 0]] * 8, **draw_arguments(SPECS[fresh], 5))
        for i in range(8):
            stored = dataset.reinforcements(i)
            height, width = dataset.image_size(i)
            want = draw(
                SPECS[fresh], seed=5, key=dataset.keys[i], views=[7], image_height=height, image_width=width
            ).pack()[0]
            words, packed = outputs[4][i], stored.pack()
            assert words.shape == (3, 14)
            for row, expected in ((0, packed[2]), (1, want), (2, packed[0])):
                assert np.array_equal(words[row, : len(expected)], expected) and not words[row, len(expected) :].any()
            assert np.array_equal(outputs[5][i][[0, 2]], stored.soft_ids[[2, 0]])
            assert outputs[6][i][[0, 2]].tobytes() == stored.soft_probs[[2, 0]].tobytes()
            assert outputs[5][i][1, 0] == dataset.label(i) and outputs[6][i][1].tolist() == [1, 0, 0, 0]


def test_errors_of_fresh_views(tmp_path: Path, jpeg_bytes: list[bytes]) -> None:
    dataset = plain(tmp_path / "plain", [encode_jpeg(picture(20, 30, 0))])
    good, usi, pairs = (draw_arguments(SPECS[name], 0) for name in ("rrc+ra+re", "usi", "rrc+aa+re"))
    half, two = (int(np.float64(v).view(np.int64)) for v in (0.5, 2.0))
    for arguments, view, message in (
        ({}, -1, r"n/0.*`draw_\.\.\.` is given"),
        (good, 0, "no reinforcement record"),
        ({k: v for k, v in good.items() if k != "draw_crop_scale"}, -1, "`draw_crop_scale`: want 2 numbers, got 0"),
        ({k: v for k, v in good.items() if k != "draw_size"}, -1, "`draw_seed`: is of no use without `draw_size`"),
        (good | {"draw_whole": True}, -1, "`draw_seed`: is of no use beside `draw_whole`"),
        (good | {"draw_flip": two}, -1, "`draw_flip`: want a probability in 0 to 1, got 2"),
        (good | {"draw_crop_ratio": [two, half]}, -1, "`draw_crop_ratio`: want two numbers 0 < low <= high"),
        (good | {"draw_magnitudes": [1.0] * 13}, -1, "`draw_magnitudes`: want 14 numbers, got 13"),
        (good | {"draw_num_ops": 9}, -1, "`draw_num_ops`: want 0 to 8 operations, got 9"),
        (good | {"draw_size": 8193}, -1, "`draw_size`: want 1 to 8192 pixels, got 8193"),
        (good | {"topk": 11}, -1, "`topk` is 11"),
        (usi | {"draw_magnitudes": [1.0] * 14}, -1, "`draw_magnitudes`: want 238 numbers, got 14"),
        (usi | {"draw_level_ends": [half] * 17}, -1, "`draw_level_ends`: want 1 as the last of them, got 0.5"),
        (usi | {"draw_op_probability": two}, -1, "`draw_op_probability`: want a probability in 0 to 1, got 2"),
        (pairs | {"draw_policy_ops": [1] * 49}, -1, "`draw_policy_ops`: want pairs, got 49 numbers"),
        (pairs | {"draw_policy_ops": [1] * 48}, -1, "`draw_policy_probabilities`: want 48 numbers, got 50"),
        (pairs | {"draw_policy_ops": [16] * 50}, -1, "`draw_policy_ops`: want numbers 0 to 13, got 16"),
        (good | {"draw_resize": 159}, -1, "`draw_resize`: want `draw_size` to 16384 pixels, got 159"),
        (good | {"draw_random_window": True}, -1, "`draw_random_window`: want it with `draw_resize` only"),
        (good | {"draw_jitter_ops": [14]}, -1, "`draw_jitter_magnitudes`: want 32 numbers for each operation, got 0"),
        (good | {"draw_greyscale": two}, -1, "`draw_greyscale`: want a probability in 0 to 1, got 2"),
        (good | {"draw_blur_radii": [1.0]}, -1, "`draw_blur_radii`: want 32 numbers or none, got 1"),
    ):
        with pytest.raises((RuntimeError, ValueError), match=message):
            read(dataset.index_path, [0], [view], **arguments)
    dataset = make_dataset(tmp_path / "reinforced", jpeg_bytes[:1])
    with pytest.raises(RuntimeError, match="have 4 classes, but `topk` is 3"):
        read(dataset.index_path, [0], [[-1, 0]], topk=3, **good)


def images_of_all_kinds() -> list[bytes]:
    out = []
    for number, (height, width) in enumerate(((1, 1), (17, 40), (333, 500), (16383, 3))):
        image = Image.fromarray(picture(height, width, number))
        thumbnail = encode_jpeg(picture(30, 40, 9))
        exif = b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0" + thumbnail  # rotated, with another SOF
        out += [encoded(image, "JPEG", progressive=p, exif=exif, comment=b"\xff\xc0" * 50) for p in (False, True)]
        out += [encoded(image.convert(mode), "JPEG") for mode in ("L", "CMYK")]
        out += [encoded(image.convert(mode), "PNG") for mode in ("RGB", "RGBA", "P", "1")]
        out += [encoded(image, "WEBP", quality=50), encoded(image, "WEBP", lossless=True)]
        out += [encoded(image.convert("RGBA"), "WEBP", exif=exif)]
    return out


def sizes_read(folder: Path, images: Sequence[bytes]) -> list[tuple[int, int]]:
    dataset = plain(folder, images)
    *_, params, _, _ = read(dataset.index_path, range(len(images)), [-1] * len(images), draw_whole=True)
    assert all(p[:2].tolist() == [0, 0] and not p[4:].any() for p in params)
    return [(int(p[2]), int(p[3])) for p in params]


def test_sizes_are_pillows(tmp_path: Path) -> None:
    images = images_of_all_kinds()
    assert sizes_read(tmp_path, images) == [image_info(data)[1:] for data in images]


def test_sizes_of_real_photos(tmp_path: Path, photos_dir: Path) -> None:
    images = [path.read_bytes() for path in sorted(photos_dir.iterdir())[:400]]
    assert sizes_read(tmp_path, images) == [image_info(data)[1:] for data in images]


def test_damaged_headers(tmp_path: Path) -> None:
    """Mutated and cut images that Pillow accepts: the same size, or a clear error that names the sample."""
    rng, images, wants = random.Random(1), [], []
    for data in images_of_all_kinds()[:33]:
        for _ in range(40):
            changed = bytearray(data[: rng.choice((len(data), rng.randint(1, min(len(data), 1000))))])
            for _ in range(rng.randint(0, 3)):
                changed[rng.randrange(min(len(changed), 700))] = rng.choice((0, 0xFF, rng.randrange(256)))
            try:
                wants.append(image_info(bytes(changed))[1:])
            except ValueError:
                continue
            images.append(bytes(changed))
    assert len(images) > 300
    dataset = plain(tmp_path, images)
    numbers, refused = list(range(len(images))), 0
    while True:
        try:
            params = read(dataset.index_path, numbers, [-1] * len(numbers), draw_whole=True)[4]
            break
        except RuntimeError as error:
            found = re.search(r"the image of sample \d+ \(key n/(\d+)\)|\(key n/(\d+)\).*: the image", str(error))
            assert found, error
            numbers.remove(int(found[1] or found[2]))
            refused += 1
    assert refused < len(images) // 4  # of these DALI's parsers refuse most, too (tests/test_zoo.py)
    for number, words in zip(numbers, params, strict=True):
        # Of a JPEG that gives its size twice, Pillow takes the last, decoders refuse it.
        assert (int(words[2]), int(words[3])) == wants[number] or images[number].startswith(b"\xff\xd8"), number


def test_the_arguments_of_an_evaluation() -> None:
    assert draw_arguments(Evaluation(), 3) == {"draw_whole": True}
