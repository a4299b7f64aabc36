"""`dali-dr export ml-dr`: what ml-dr's reading makes of it is what our loader shows, on the same set."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard
from conftest import encode_jpeg, picture
from PIL import Image
from published import ml_dr_replay

import dali_dr
from dali_dr.augment.draw import draw
from dali_dr.augment.spec import FixedResizeCrop, Mixing, RandAugment, RandomResizedCrop
from dali_dr.cli import main
from dali_dr.convert import export as export_module
from dali_dr.convert.export import export_ml_dr
from dali_dr.encoded import image_info
from dali_dr.errors import ShardError
from dali_dr.shards import files

SIZE, CLASSES, VIEWS, IMAGES, K = 56, 30, 6, 11, 10
LABELS = [3, 1, 2, 0, 3, 2, 2, 1, 0, 1, 3]  # not in the order of the samples


def make(
    out: Path, spec: dali_dr.AugmentationSpec, classes: int = CLASSES, topk: int = K, **writing: Any
) -> dali_dr.Dataset:
    """A set of drawn views and made-up predictions, some of which sum to more than 1."""
    rng = np.random.default_rng(1)
    photos = [encode_jpeg(picture(60 + 7 * n, 110 - 3 * n, n)) for n in range(IMAGES)]
    sizes = [image_info(data)[1:] for data in photos]

    def samples() -> Iterator[dali_dr.Sample]:
        for number, data in enumerate(photos):
            height, width = sizes[number]
            more = {"population": IMAGES, "partner_size": lambda n: sizes[n]} if spec.mixing else {}
            drawn = draw(
                spec, seed=0, key=str(number), views=range(VIEWS), image_height=height, image_width=width, **more
            )
            ids = np.stack([rng.permutation(classes)[:topk] for _ in range(VIEWS)]).astype(np.int32)
            probs = -np.sort(-rng.dirichlet(np.full(topk, 0.3), VIEWS), axis=1).astype(np.float32)
            probs *= np.float32(1) + rng.integers(-2, 3, (VIEWS, 1)).astype(np.float32) * np.float32(1e-6)
            views = dali_dr.Reinforcements.from_views(drawn, ids, np.minimum(probs, np.float32(1)))
            yield dali_dr.Sample(f"image{number:03d}", data, LABELS[number], views)

    options: dict[str, Any] = {"num_classes": classes, "samples_per_shard": 4, "progress": False, **writing}
    options.setdefault("probabilities", "float32")
    dali_dr.write_shards(samples(), out, spec=spec, **options)
    return dali_dr.Dataset(out)


def exported(out: Path) -> tuple[dict[str, Any], dict[int, list[dict[str, Any]]]]:
    """Configuration and reinforcements in a folder, as ml-dr's training opens them."""
    folder = out / "reinforced_data"
    config = ml_dr_replay.loaded((folder / "config.pth.tar").read_bytes())
    images = {}
    for path in folder.glob("[0-9]*.pth.tar"):
        number, entries = ml_dr_replay.loaded(path.read_bytes())
        assert path.name == f"{number}.pth.tar"
        images[number] = entries
    return config, images


def batches(data: dali_dr.Dataset, **options: Any) -> Iterator[tuple[int, int, torch.Tensor, torch.Tensor]]:
    """Number, view, image and target of everything that the loader shows."""
    iterator = dali_dr.ReinforcedIterator(
        data, batch_size=4, device="cpu", num_threads=2, with_index=True, targets="ml-dr", **options
    )
    for _ in range(VIEWS):
        for (batch,) in iterator:
            yield from zip(*(batch[k] for k in ("index", "view", "data", "targets")), strict=True)


@pytest.mark.parametrize("preset", ["rrc", "rrc+mixing", "rrc+ra+re", "rrc+mixing+ra+re"])
def test_their_reading_shows_what_the_loader_shows(tmp_path: Path, preset: str) -> None:
    data = make(tmp_path / "set", dali_dr.AugmentationSpec.preset(preset, size=SIZE))
    out = tmp_path / "out"
    assert main(["export", "ml-dr", str(data.path), str(out), "--images", str(tmp_path / "images"), "--quiet"]) == 2
    # ImageFolder wants images in every class; here only four of thirty have some.
    assert not (out / "reinforced_data").exists()
    assert main(["export", "ml-dr", str(data.path), str(out), "--quiet"]) == 0
    config, images = exported(out)
    order = [data.find(key) for key in (out / "order.txt").read_text().split()]
    assert order == sorted(range(IMAGES), key=lambda n: (LABELS[n], n)) and sorted(images) == list(range(IMAGES))
    idx = {number: place for place, number in enumerate(order)}
    pictures = [Image.open(io.BytesIO(data.image(number))) for number in order]
    augmentation = config["reinforce"]["image_augmentation"]
    seen = set()
    for number, view, shown, target in batches(data):
        place, row = idx[int(number)], int(view)
        entry = images[place][row]
        want = ml_dr_replay.replay(entry["params"], augmentation, pictures[place], lambda n: pictures[n])
        assert torch.equal(shown, want), (number, view, entry["params"])  # mixed ones, too: weights are float32
        torch.testing.assert_close(target, ml_dr_replay.densify(entry["prob"], CLASSES), rtol=1e-6, atol=1e-9)
        seen.add((place, row))
    assert len(seen) == IMAGES * VIEWS
    assert config["reinforce"]["num_samples"] == VIEWS and config["reinforce"]["topk"] == K


def test_what_the_pickles_hold(tmp_path: Path) -> None:
    """Types as ml-dr's own files have them: lists and floats, NumPy integers in CutMix boxes alone; protocol 4."""
    data = make(tmp_path / "set", dali_dr.AugmentationSpec.preset("rrc+mixing+ra+re", size=SIZE))
    export_ml_dr(data, tmp_path / "out", progress=False)
    _, images = exported(tmp_path / "out")
    cuts = 0
    for entries in images.values():
        for entry in entries:
            id2, *rest, mixup, cutmix = entry["params"]
            probs, ids = entry["prob"]
            assert all(type(p) is float for p in probs) and all(type(i) is int for i in ids)
            assert (id2 is None) == (mixup is None and cutmix is None)
            assert all(isinstance(pair, list) and len(pair) == 2 for pair in rest) or id2 is None
            crop, flip = rest[0][0] if id2 is not None else rest[0], rest[1][0] if id2 is not None else rest[1]
            assert isinstance(crop, tuple) and all(type(v) is int for v in crop) and type(flip) is bool
            if cutmix is not None:
                cuts += 1
                assert type(cutmix[0]) is float and all(isinstance(v, np.int64) for v in cutmix[1:])
    assert cuts > 5
    with zipfile.ZipFile(tmp_path / "out" / "reinforced_data" / "0.pth.tar") as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        assert archive.read(name)[:2] == b"\x80\x04"


def test_configuration(tmp_path: Path) -> None:
    spec = dali_dr.AugmentationSpec(
        size=SIZE,
        interpolation="bicubic",
        crop=RandomResizedCrop(scale=(0.2, 1.0)),
        rand_augment=RandAugment(magnitude=7),
        mixing=Mixing(lam=(0.0, 0.25), mixup_alpha=0.5),
    )
    teacher = {
        "names": ["a", "b"],
        "weights_digest": "0" * 64,
        "input_size": 224,
        "normalisation": {"mean": [0.5] * 3, "std": [0.5] * 3},
    }
    data = make(tmp_path / "set", spec, teacher=teacher, probabilities="log8", seed=5)
    export_ml_dr(data, tmp_path / "out", progress=False)
    config, _ = exported(tmp_path / "out")
    augmentation = config["reinforce"]["image_augmentation"]
    assert list(augmentation) == [
        "uint8", "random_resized_crop", "random_horizontal_flip", "rand_augment", "to_tensor", "normalize", "mixup", "cutmix",
    ]  # fmt: skip
    assert augmentation["random_resized_crop"] == {
        "enable": True,
        "size": SIZE,
        "scale": [0.2, 1.0],
        "interpolation": 3,
    }
    assert augmentation["rand_augment"] == {"enable": True, "p": 1.0, "magnitude": 7}
    assert augmentation["mixup"] == {"enable": True, "alpha": 0.5, "div_by": 4.0, "p": 0.5}
    assert config["teacher"] == {"timm_ensemble": True, "name": "a,b"} and config["seed"] == 5
    assert config["dali_dr"]["probabilities"] == "log8" and config["dali_dr"]["log_step"] == pytest.approx(0.15)
    assert dali_dr.AugmentationSpec.from_json(config["dali_dr"]["spec"]) == spec


def test_images_are_an_image_folder_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    for names in (None, ["ant", "bee", "cat", "dog"], ["dog", "cat", "bee", "ant"]):
        few = {"classes": 4, "topk": 3, "class_names": names}
        data = make(tmp_path / f"set{names}", dali_dr.AugmentationSpec.preset("rrc", size=SIZE), **few)
        images = tmp_path / f"images{names}"
        export_ml_dr(data, tmp_path / f"out{names}", images=images, progress=False)
        folder = ImageFolder(str(images))
        order = (tmp_path / f"out{names}" / "order.txt").read_text().split()
        assert len(folder) == IMAGES
        for (path, label), key in zip(folder.samples, order, strict=True):
            number = data.find(key)
            assert label == data.label(number) and Path(path).read_bytes() == data.image(number)
        assert folder.classes == (names if names == sorted(names or "x") else ["0", "1", "2", "3"])


def test_an_archive_holds_the_same(tmp_path: Path) -> None:
    data = make(tmp_path / "set", dali_dr.AugmentationSpec.preset("rrc+mixing+ra+re", size=SIZE))
    export_ml_dr(data, tmp_path / "out", progress=False)
    done = export_ml_dr(data, tmp_path / "packed", tar=True, progress=False)
    folder = {path.name: path.read_bytes() for path in (tmp_path / "out" / "reinforced_data").iterdir()}
    with tarfile.open(tmp_path / "packed" / "reinforced_data.tar.gz") as archive:
        held = {m.name: archive.extractfile(m).read() for m in archive.getmembers()}  # type: ignore[union-attr]
    assert held == {f"reinforced_data/{name}": contents for name, contents in folder.items()}
    assert next(iter(held)) == "reinforced_data/config.pth.tar" and done.images == IMAGES
    assert export_ml_dr(data, tmp_path / "packed", tar=True, progress=False).kept == IMAGES


def test_an_interrupted_export_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make(tmp_path / "set", dali_dr.AugmentationSpec.preset("rrc+ra+re", size=SIZE))
    whole, out = tmp_path / "whole", tmp_path / "out"
    export_ml_dr(data, whole, progress=False)
    want = {path.name: path.read_bytes() for path in (whole / "reinforced_data").iterdir()}
    publish, left = files.publish, 0

    def dying(partial: Path, path: Path) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        publish(partial, path)

    monkeypatch.setattr(export_module.files, "publish", dying)
    for step in range(0, IMAGES + 5, 3):
        left = step
        try:
            export_ml_dr(data, out, progress=False)
        except KeyboardInterrupt:
            continue
        break
    monkeypatch.setattr(export_module.files, "publish", publish)
    done = export_ml_dr(data, out, progress=False)
    assert done.kept == done.images == IMAGES and done.bytes == 0
    assert {path.name: path.read_bytes() for path in (out / "reinforced_data").iterdir()} == want
    assert (out / "order.txt").read_bytes() == (whole / "order.txt").read_bytes()


def test_another_export_in_the_folder_is_refused(tmp_path: Path) -> None:
    data = make(tmp_path / "set", dali_dr.AugmentationSpec.preset("rrc", size=SIZE))
    other = make(tmp_path / "other", dali_dr.AugmentationSpec.preset("rrc+ra+re", size=SIZE))
    export_ml_dr(data, tmp_path / "out", progress=False)
    with pytest.raises(ShardError, match="another data set"):
        export_ml_dr(other, tmp_path / "out", progress=False)
    (tmp_path / "theirs" / "reinforced_data").mkdir(parents=True)
    with pytest.raises(ShardError, match="no export of ours"):
        export_ml_dr(data, tmp_path / "theirs", progress=False)


def test_what_ml_dr_cannot_say_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rrc = dali_dr.AugmentationSpec.preset("rrc", size=SIZE)
    three = dataclasses.replace(rrc, rand_augment=RandAugment(num_ops=3))
    double = dataclasses.replace(rrc, mixing=Mixing(double=True))
    teacher = {
        "names": ["a"],
        "weights_digest": "0" * 64,
        "input_size": 224,
        "normalisation": {"mean": [0.5] * 3, "std": [0.5] * 3},
        "outputs": 64,
    }
    for name, spec, writing, message in (
        ("three", three, {}, "3 RandAugment operations"),
        ("double", double, {}, "double-mix"),
        ("later", dataclasses.replace(rrc, greyscale=0.2), {}, "drawn with greyscale, which ml-dr"),
        ("window", dataclasses.replace(rrc, crop=FixedResizeCrop()), {}, r"drawn with crop\.resize, crop\.random"),
        ("embedding", rrc, {"teacher": teacher}, "embeddings of 64"),
    ):
        data = make(tmp_path / name, spec, **writing)
        assert main(["export", "ml-dr", str(data.path), str(tmp_path / f"{name}-out")]) == 2
        assert re.search(message, capsys.readouterr().err)
        assert not (tmp_path / f"{name}-out").exists()
    plain = tmp_path / "plain"
    dali_dr.write_shards(
        [dali_dr.Sample("a", encode_jpeg(picture(40, 50, 1)), 0)], plain, spec=None, num_classes=2, progress=False
    )
    with pytest.raises(ShardError, match="plain images"):
        export_ml_dr(plain, tmp_path / "plain-out")


def test_figures_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make(tmp_path / "set", dali_dr.AugmentationSpec.preset("rrc", size=SIZE))
    assert main(["export", "ml-dr", str(data.path), str(tmp_path / "out"), "--quiet", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["images"] == IMAGES and figures["kept"] == 0 and figures["bytes"] > 1000


def content(record: bytes) -> bytes:
    """A record's zstd frames, decompressed."""
    reader = zstandard.ZstdDecompressor().stream_reader(record, read_across_frames=True)
    return bytes(reader.read())


@pytest.mark.parametrize("encoding", ["root8", "log8", "float16", "float32"])
@pytest.mark.parametrize("preset", ["rrc+ra+re", "rrc+mixing+ra+re"])
def test_a_converted_export_is_what_was_exported(tmp_path: Path, preset: str, encoding: Any) -> None:
    tar = encoding in ("root8", "float16")
    few = {"classes": 4, "topk": 4 if encoding == "root8" else 3, "probabilities": encoding, "seed": 3}
    if encoding == "log8":
        few["log_step"] = 0.2
    spec = dataclasses.replace(dali_dr.AugmentationSpec.preset(preset, size=SIZE), interpolation="bicubic")
    data = make(tmp_path / "set", spec, **few)
    out, images, back = tmp_path / "out", tmp_path / "images", tmp_path / "back"
    export_ml_dr(data, out, tar=tar, images=images, progress=False)
    place = out / ("reinforced_data.tar.gz" if tar else "reinforced_data")
    assert main(["convert", "ml-dr", str(place), "--images", str(images), "--out", str(back), "--quiet"]) == 0
    again = dali_dr.Dataset(back)
    order = [data.find(key) for key in (out / "order.txt").read_text().split()]
    assert len(again) == len(data) and again.spec == data.spec
    assert (again.manifest.probabilities, again.manifest.log_step) == (
        data.manifest.probabilities,
        data.manifest.log_step,
    )
    numbers = {number: place for place, number in enumerate(order)}
    for place, number in enumerate(order):
        assert again.label(place) == data.label(number) and again.image(place) == data.image(number)
        if spec.mixing is None or order == sorted(order):
            one, other = content(again.record_bytes(place)), content(data.record_bytes(number))
            if encoding == "log8":  # the code of a rest below 1e-7 moves no probability, and cannot be found again
                assert len(one) == len(other) and sum(a != b for a, b in zip(one, other, strict=True)) <= VIEWS
            else:
                assert one == other
        ours, theirs = again.reinforcements(place), data.reinforcements(number)
        assert ours.mix is None or theirs.mix is not None
        if theirs.mix is not None:
            mapped = np.array([numbers.get(p, p) for p in theirs.mix.partner.tolist()], np.int32)
            theirs = dataclasses.replace(theirs, mix=dataclasses.replace(theirs.mix, partner=mapped))
        assert ours == theirs
    # What was exported in the order of its classes comes back in every byte, partners included.
    export_ml_dr(again, tmp_path / "out2", images=tmp_path / "images2", progress=False)
    once_more = tmp_path / "back2"
    arguments = ["--images", str(tmp_path / "images2"), "--out", str(once_more), "--quiet"]
    assert main(["convert", "ml-dr", str(tmp_path / "out2"), *arguments]) == 0
    third = dali_dr.Dataset(once_more)
    for number in range(len(again)):
        assert content(third.record_bytes(number)) == content(again.record_bytes(number))
