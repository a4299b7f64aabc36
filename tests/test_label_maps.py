"""Data sets of label maps: targets against torchvision's roi_align on dense maps, bytes against a reader written here.

The reference does what ReLabel's training code does (its batches' coordinates, the dense map, roi_align, softmax),
with torchvision's own Python implementation of roi_align, as its wheels have no operators for a CPU build of torch. The
softmax alone is taken in float64: over 1000 classes, that of torch in float32 is off by up to 2e-6.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard
from conftest import encode_jpeg, picture
from PIL import Image
from test_iterator import epoch_of, loader

import dali_dr
from dali_dr import LabelMaps, _plugin
from dali_dr._torchvision import load_torchvision
from dali_dr.augment.draw import draw
from dali_dr.augment.fresh import draw_arguments
from dali_dr.augment.reference import replay_pillow
from dali_dr.augment.spec import RandomResizedCrop
from dali_dr.errors import RecordError
from dali_dr.record.label_map import check_label_map, decode_label_map, encode_label_map

load_torchvision()
import torchvision.ops  # noqa: E402,F401

CLASSES, SIDE, DEPTH = 60, 15, 5
ORDERS = ("code", "transposed")


def random_map(seed: int, classes: int = CLASSES, used: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32 and ids int32 (DEPTH, SIDE, SIDE), ids distinct in each cell, of about ``used`` classes."""
    rng = np.random.default_rng(seed)
    some = rng.permutation(classes)[: min(used, classes)]
    ids = np.stack([rng.permutation(some)[:DEPTH] for _ in range(SIDE * SIDE)], 1).reshape(DEPTH, SIDE, SIDE)
    scores = rng.normal(2, 4, ids.shape)
    return scores.astype(np.float16 if seed % 3 == 0 else np.float32).astype(np.float32), ids.astype(np.int32)


def reference(
    scores: np.ndarray, ids: np.ndarray, boxes: np.ndarray, size: tuple[int, int], order: str, classes: int = CLASSES
) -> np.ndarray:
    """The targets (N, classes) of boxes (N, 4) of top, left, height, width on an image of (height, width)."""
    height, width = size
    samples = [(top / height, left / width, h / height, w / width) for top, left, h, w in boxes.tolist()]
    coords = torch.stack(torch.utils.data.default_collate(samples), 1)  # float64, as Python's numbers become
    coords[:, 2:] += coords[:, :2]
    coords = coords.float()
    if order == "transposed":
        coords = coords[:, [1, 0, 3, 2]]
    dense = torch.zeros(1, classes, SIDE, SIDE).scatter_(
        1, torch.from_numpy(ids).long()[None], torch.from_numpy(scores)[None]
    )
    rois = torch.cat([torch.zeros(len(coords), 1), coords * SIDE - 0.5], 1)
    pooled = roi_align(dense, rois)
    return np.asarray(torch.softmax(pooled.reshape(len(boxes), classes).double(), 1).numpy())


def roi_align(dense: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
    import sys

    eager = sys.modules["torchvision.ops.roi_align"]._roi_align.__wrapped__  # without torch.compile
    return eager(dense, rois, 1.0, 1, 1, -1, False)  # type: ignore[no-any-return]


def dense_of(ids: np.ndarray, probs: np.ndarray, classes: int = CLASSES) -> np.ndarray:
    """Dense targets: what the sparse ones leave, in equal parts to the classes that they do not name."""
    result = np.zeros((len(ids), classes))
    for row, (some, values) in enumerate(zip(ids, probs, strict=True)):
        assert len(set(some.tolist())) == len(some)
        result[row] = (1 - values.astype(np.float64).sum()) / max(classes - len(some), 1)
        result[row, some] = values
    return result


SIZES = [(375, 500), (500, 333), (64, 64), (1, 1), (3, 200), (97, 15), (224, 31), (120, 121)]


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return [encode_jpeg(picture(h, w, n)) for n, (h, w) in enumerate(SIZES)]


def samples_of(images: list[bytes], classes: int = CLASSES, used: int = 30) -> list[dali_dr.Sample]:
    return [
        dali_dr.Sample(
            f"a/{n:03d}", image, n % classes,
            record=encode_label_map(*random_map(n, classes, used), num_classes=classes),
        )
        for n, image in enumerate(images)
    ]  # fmt: skip


def write(out: Path, samples: Any, order: Any = "code", classes: int = CLASSES, **options: Any) -> dali_dr.Dataset:
    dali_dr.write_shards(
        samples, out, spec=None, num_classes=classes, label_maps=LabelMaps(SIDE, SIDE, DEPTH, order),
        **{"samples_per_shard": 3, "progress": False} | options,
    )  # fmt: skip
    return dali_dr.Dataset(out)


@pytest.fixture(scope="module", params=ORDERS)
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, images: list[bytes]) -> Any:
    return write(tmp_path_factory.mktemp(request.param) / "set", samples_of(images), request.param)


def read(dataset: dali_dr.Dataset, views: np.ndarray, **arguments: Any) -> dict[str, np.ndarray]:
    """All samples with these views each, by fn.dr.read: params, soft_ids and soft_probs, stacked."""
    _plugin.load()
    from nvidia.dali import fn, pipeline_def

    count = len(dataset)

    @pipeline_def(batch_size=count, num_threads=2, device_id=None)  # type: ignore[untyped-decorator]
    def graph() -> Any:
        samples = fn.external_source(lambda: [np.int64(n) for n in range(count)])
        numbers = fn.external_source(lambda: [views.astype(np.int32)] * count)
        return tuple(fn.dr.read(samples, numbers, index=str(dataset.index_path), **arguments)[4:7])  # type: ignore[attr-defined]

    params, ids, probs = (np.stack([np.asarray(one) for one in output]) for output in graph().run())
    return {"boxes": params[..., :4], "ids": ids, "probs": probs}


BOXES = {
    "usual": {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)},
    "small": {"scale": (1e-6, 0.004), "ratio": (3 / 4, 4 / 3)},  # pixels
    "long": {"scale": (0.001, 0.5), "ratio": (1 / 60, 60.0)},
}


@pytest.mark.parametrize("kind", [*BOXES, "whole"])
@pytest.mark.parametrize("order", ORDERS)
def test_targets_are_those_of_torchvision(images: list[bytes], tmp_path: Path, kind: str, order: Any) -> None:
    """Of maps of few and many classes and crops of all kinds, to 1e-6, also where every class has a map."""
    for classes, used, count in ((CLASSES, 30, 40), (12, 12, 40), (1000, 300, 5)):
        dataset = write(tmp_path / str(classes), samples_of(images, classes, used), order, classes)
        views = -1 - np.arange(1 if kind == "whole" else count)
        arguments = {"draw_whole": True} if kind == "whole" else {
            **draw_arguments(dali_dr.AugmentationSpec(crop=RandomResizedCrop(**BOXES[kind])), 5)
        }  # fmt: skip
        got = read(dataset, views, topk=dataset.manifest.topk, label_maps=order, **arguments)
        for number in range(len(dataset)):
            boxes = got["boxes"][number]
            want = reference(*random_map(number, classes, used), boxes, SIZES[number], order, classes)
            found = dense_of(got["ids"][number], got["probs"][number], classes)
            assert np.abs(found - want).max() < 1e-6, (number, np.abs(found - want).max())
            probs = got["probs"][number]
            assert (np.diff(probs, axis=1) <= 0).all()


def test_sparse_targets_are_filled_up(dataset: dali_dr.Dataset) -> None:
    """Maps of fewer classes than the data set's K: the lowest others come with the probability that each other has."""
    classes = [len(np.unique(dataset.label_map(number)[1])) for number in range(len(dataset))]
    assert dataset.manifest.topk == max(classes)
    order = dataset.manifest.label_maps.order
    got = read(dataset, -1 - np.arange(3), topk=40, label_maps=order, draw_whole=True)
    for number in range(len(dataset)):
        own = set(np.unique(dataset.label_map(number)[1]).tolist())
        others = [c for c in range(CLASSES) if c not in own][: 40 - len(own)]
        for ids, probs in zip(got["ids"][number], got["probs"][number], strict=True):
            assert set(ids.tolist()) == own | set(others)
            filled = probs[np.isin(ids, others)]
            assert np.unique(filled).size == 1 and ids[np.isin(ids, others)].tolist() == others
            assert abs((1 - probs.sum(dtype=np.float64)) / (CLASSES - 40) - filled[0]) < 1e-7


@pytest.mark.parametrize("augment", [None, "rrc+ra+re"])
def test_the_loader_shows_crops_with_their_targets(dataset: dali_dr.Dataset, augment: str | None) -> None:
    """Two epochs: views are Pillow's of the drawn parameters, targets those of torchvision on the drawn boxes."""
    spec = dali_dr.AugmentationSpec.preset(augment or "rrc", 64)
    order = dataset.manifest.label_maps.order
    iterator = loader(dataset, augment=augment, size=64, dtype="uint8", layout="HWC", seed=9)
    for epoch in range(2):
        seen = []
        for batch in epoch_of(iterator):
            for row, number in enumerate(batch["index"].tolist()):
                seen.append(number)
                image = Image.open(io.BytesIO(dataset.image(number))).convert("RGB")
                views = draw(
                    spec, seed=9, key=dataset.keys[number], views=[epoch], image_height=image.height,
                    image_width=image.width,
                )  # fmt: skip
                assert np.array_equal(batch["data"][row].numpy(), replay_pillow(image, views, 0, spec)), (epoch, number)
                want = reference(*random_map(number), views.crop, SIZES[number], order)
                found = dense_of(batch["soft_ids"][row : row + 1].numpy(), batch["soft_probs"][row : row + 1].numpy())
                assert np.abs(found - want).max() < 1e-6
                assert int(batch["label"][row]) == number
        assert sorted(seen) == list(range(len(dataset)))


def test_forms_of_targets_and_several_views(dataset: dali_dr.Dataset) -> None:
    """224 by default, m crops with a target each, dense and top-1 targets; evaluation has the label alone."""
    order = dataset.manifest.label_maps.order
    spec = dali_dr.AugmentationSpec.preset("rrc", 224)
    (sparse,), (dense,), (top,) = (
        next(loader(dataset, views_per_image=3, targets=targets, seed=4)) for targets in ("sparse", "dense", "top1")
    )
    assert sparse["data"].shape == (15, 3, 224, 224) and sparse["view"].tolist() == [-1, -2, -3] * 5
    assert torch.equal(top["targets"], sparse["soft_ids"][:, 0].long())
    for row, (number, view) in enumerate(zip(sparse["index"].tolist(), sparse["view"].tolist(), strict=True)):
        height, width = SIZES[number]
        crop = draw(
            spec, seed=4, key=dataset.keys[number], views=[-1 - view], image_height=height, image_width=width
        ).crop
        want = reference(*random_map(number), crop, SIZES[number], order)[0]
        assert np.abs(dense["targets"][row].numpy() - want).max() < 1e-6
    (evaluated,) = next(loader(dataset, augment="eval", size=64))
    assert evaluated["soft_ids"].shape[1] == 1
    assert torch.equal(evaluated["soft_ids"][:, 0], evaluated["label"].int())


def test_a_run_goes_on_in_mid_epoch(dataset: dali_dr.Dataset, images: list[bytes], tmp_path: Path) -> None:
    """With the same views and targets; not with the maps laid the other way round."""
    whole = loader(dataset, size=32)
    batches = epoch_of(whole) + epoch_of(whole)
    first = loader(dataset, size=32)
    next(first)
    state = first.state_dict()
    second = loader(dataset, size=32)
    second.load_state_dict(state)
    rest = epoch_of(second) + epoch_of(second)
    assert len(rest) == len(batches) - 1
    for a, b in zip(rest, batches[1:], strict=True):
        assert all(torch.equal(a[name], b[name]) for name in ("data", "soft_ids", "soft_probs"))
    turned = {"code": "transposed", "transposed": "code"}[dataset.manifest.label_maps.order]
    other = loader(write(tmp_path / "other", samples_of(images), turned), size=32)
    with pytest.raises(ValueError, match="augment"):
        other.load_state_dict(state)


def test_what_the_loader_refuses(dataset: dali_dr.Dataset) -> None:
    for option in ({"p_reinforced": 0.5}, {"curriculum": lambda epoch: (0, 1)}):
        with pytest.raises(ValueError, match=rf"{next(iter(option))} is .* with label maps"):
            loader(dataset, **option)


@pytest.mark.parametrize(
    ("views", "arguments", "message"),
    [
        ([0], {"topk": 30}, "label maps"),
        ([-1], {"topk": 0}, "`topk`"),
        ([-1], {"topk": 3}, r"30 classes, but `topk` is 3"),
        ([-1], {"topk": 30, "label_maps": "other"}, "`label_maps` is"),
        ([-1], {"topk": 30, "mixing": True}, "`mixing`"),
    ],
)
def test_what_the_operator_refuses(dataset: dali_dr.Dataset, views: Any, arguments: Any, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        read(dataset, np.array(views), **{"label_maps": "code", "draw_whole": True} | arguments)


# --- bytes


def by_the_schema(member: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A reader of its own, from schemas/label-map.md: per cell a dict of classes would do, but it gives (scores, ids)."""
    content = zstandard.ZstdDecompressor().decompress(member)
    assert content[:4] == b"drlm"
    version, header, length, height, width, depth, entries, classes, encoding = struct.unpack_from(
        "<HHIHHHHIB", content, 4
    )
    assert (version, header, length) == (1, 28, len(content)) and content[25:28] == bytes(3)
    values, wide = depth * height * width, 4 if classes > 65536 else 2
    table = [int.from_bytes(content[28 + wide * i : 28 + wide * (i + 1)], "little") for i in range(entries)]
    assert table == sorted(set(table))
    at, step = 28 + wide * entries, 2 if entries > 256 else 1
    ids = [table[int.from_bytes(content[at + step * i : at + step * (i + 1)], "little")] for i in range(values)]
    at += step * values
    code, size = ("<e", 2) if encoding else ("<f", 4)
    planes = [content[at + values * plane : at + values * (plane + 1)] for plane in range(size)]
    assert at + values * size == len(content)
    scores = [struct.unpack(code, bytes(plane[i] for plane in planes))[0] for i in range(values)]
    shape = depth, height, width
    return np.array(scores, np.float32).reshape(shape), np.array(ids, np.int32).reshape(shape)


@pytest.mark.parametrize(("classes", "used"), [(60, 30), (1000, 400), (100_000, 500)])
@pytest.mark.parametrize("seed", [3, 4])
def test_bytes_are_those_of_the_schema(classes: int, used: int, seed: int) -> None:
    scores, ids = random_map(seed, classes, used)
    member = encode_label_map(scores, ids, num_classes=classes)
    for found in (by_the_schema(member), decode_label_map(member)):
        assert np.array_equal(found[0], scores) and np.array_equal(found[1], ids)
        assert found[0].dtype == np.float32 and found[1].dtype == np.int32
    assert check_label_map(member, LabelMaps(), classes) == len(np.unique(ids))
    assert member[4] & 4  # zstd's checksum


def test_the_last_of_a_class_in_a_cell_counts() -> None:
    scores, ids = random_map(1)
    ids[1, 2, 3] = ids[4, 2, 3]
    found, _ = decode_label_map(encode_label_map(scores, ids, num_classes=CLASSES))
    assert found[1, 2, 3] == 0 and found[4, 2, 3] == scores[4, 2, 3]
    found[1, 2, 3] = scores[1, 2, 3]
    assert np.array_equal(found, scores)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, i: (s * np.nan, i), "score is nan"),
        (lambda s, i: (s.astype(np.float64) * 1e300, i), "score is .*inf"),
        (lambda s, i: (s, i + CLASSES), "class id"),
        (lambda s, i: (s, i - CLASSES), "class id is -"),
        (lambda s, i: (s, i.astype(np.float32)), "shape"),
        (lambda s, i: (s[:, :14], i[:, :14]), "14 x 15 cells"),
        (lambda s, i: (s[0], i[0]), "shape"),
        (lambda s, i: (s[:0], i[:0]), "depth is 0"),
    ],
)
def test_what_cannot_be_stored(change: Any, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        encode_label_map(*change(*random_map(1)), num_classes=CLASSES)


def changed_members() -> dict[str, bytes]:
    """Members that both readers must refuse."""
    good = encode_label_map(*random_map(3), num_classes=CLASSES)
    content = zstandard.ZstdDecompressor().decompress(good)
    count = struct.unpack_from("<H", content, 18)[0]

    def packed(data: bytes, **options: Any) -> bytes:
        return zstandard.ZstdCompressor(write_checksum=True, **options).compress(data)

    def put(at: int, form: str, value: int) -> bytes:
        data = bytearray(content)
        struct.pack_into(form, data, at, value)
        return packed(bytes(data))

    return {
        "empty": b"",
        "no frame": b"drlm",
        "no checksum": zstandard.ZstdCompressor(write_checksum=False).compress(content),
        "two frames": good + good,
        "more behind": good + b"x",
        "cut": good[:-1],
        "damaged": good[:90] + bytes([good[90] ^ 1]) + good[91:],
        "bomb": packed(bytes(1 << 22)),
        "a record": packed(b"drrc" + content[4:]),
        "version": put(4, "<H", 2),
        "header": put(6, "<H", 52),
        "length": put(8, "<I", 7),
        "height": put(12, "<H", 14),
        "no depth": put(16, "<H", 0),
        "depth": put(16, "<H", 65535),
        "no classes": put(18, "<H", 0),
        "more classes": put(18, "<H", count + 1),
        "other classes": put(20, "<I", CLASSES + 1),
        "encoding": put(24, "B", 7),
        "zeros": put(26, "B", 1),
        "table": put(28, "<H", CLASSES),
        "falling table": put(28, "<H", CLASSES - 1),
        "entry": put(28 + 2 * count, "B", count),
        "infinite": put(28 + 2 * count + 2 * 1125 + 5, "B", 0x7C),
        "short": packed(content[:-1]),
        "tiny": packed(content[:20]),
    }


BAD = changed_members()


@pytest.mark.parametrize("name", BAD)
def test_damaged_maps_are_refused(name: str) -> None:
    with pytest.raises(RecordError):
        check_label_map(BAD[name], LabelMaps(), CLASSES)


def test_no_changed_byte_gets_through() -> None:
    """Of what a frame holds: refused, or a map that is read as it stands."""
    good = encode_label_map(*random_map(3), num_classes=CLASSES)
    content, rng = zstandard.ZstdDecompressor().decompress(good), np.random.default_rng(0)
    for at in [*range(28), *rng.integers(28, len(content), 60).tolist()]:
        data = bytearray(content)
        data[at] ^= 1 << rng.integers(8)
        member = zstandard.ZstdCompressor(write_checksum=True).compress(bytes(data))
        try:
            found = decode_label_map(member)
        except RecordError:
            continue
        for a, b in zip(found, by_the_schema(member), strict=True):
            assert np.array_equal(a, b)
    for at in rng.integers(0, len(good), 60).tolist():  # of the frame itself
        data = bytearray(good)
        data[at] ^= 1 << rng.integers(8)
        with pytest.raises(RecordError):
            check_label_map(bytes(data), LabelMaps(), CLASSES)
