"""dali-dr convert: what published sets hold is what the data set holds, whatever form they come in, however often killed."""

from __future__ import annotations

import hashlib
import io
import json
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import encode_jpeg, picture, write_files
from convert_inputs import CLASSES, config, in_order, ml_dr, photos, saved, sizes_of, stored, views_of
from PIL import Image

from dali_dr.cli import main
from dali_dr.convert import archives as archives_module
from dali_dr.convert.order import Ordered
from dali_dr.convert.prepared import Preparation, Prepared
from dali_dr.errors import ConvertError
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.verify import verify
from dali_dr.sources import ImageFolder

IMAGES = 12
VIEWS = 3


def convert(*arguments: object, out: Path, status: int = 0) -> Path:
    """Runs ``dali-dr convert``, and returns the folder that it wrote."""
    words = ["convert", *map(str, arguments), "--out", str(out), "--quiet", "--samples-per-shard", "5"]
    assert main(words) == status
    return out


def expect_views(data: Dataset, number: int, files: Sequence[tuple[int, list[dict[str, Any]]]]) -> None:
    """The views of an image are those of its files, by falling confidence, their probabilities up to what storing costs."""
    views = [view for index, found in files for view in found if index == number]
    views.sort(key=lambda view: -max(view["prob"][0]))
    found = data.reinforcements(number)
    assert len(found) == len(views)
    for row, view in enumerate(views):
        crop, flip, ops, erase = view["params"]
        assert found.crop[row].tolist() == list(crop)
        assert bool(found.flip[row]) == flip
        assert found.ops[row].tolist() == [op for op, _ in ops]
        np.testing.assert_array_equal(found.magnitudes[row], np.float32([magnitude for _, magnitude in ops]))
        assert found.erase[row].tolist() == (list(erase) if erase else [0, 0, 0, 0])
        probs, ids = np.float32(view["prob"][0]), np.array(view["prob"][1])
        order = np.argsort(-probs, kind="stable")
        assert found.soft_ids[row].tolist() == ids[order].tolist()
        np.testing.assert_allclose(found.soft_probs[row], probs[order], atol=0.02)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("convert") / "images", IMAGES)


@pytest.fixture(scope="module")
def files(images: Path) -> dict[str, bytes]:
    return ml_dr(sizes_of(images), views=VIEWS)


@pytest.fixture(scope="module")
def folder_set(images: Path, files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set that everything is compared with, converted of a folder of files."""
    place = tmp_path_factory.mktemp("set")
    return convert("ml-dr", stored(files, place / "rd", "folder"), "--images", images, out=place / "out")


def packed(images: Path, out: Path) -> Path:
    assert main(["pack", str(images), "--out", str(out), "--quiet", "--samples-per-shard", "4"]) == 0
    return out


def test_views_and_predictions_are_those_of_the_files(images: Path, folder_set: Path) -> None:
    data = Dataset(folder_set)
    sizes = sizes_of(images)
    for number in range(IMAGES):
        expect_views(data, number, [views_of(number, sizes[number], VIEWS)])
    assert verify(folder_set, progress=False).ok
    assert list(data.keys) == [f"{path.parent.name}/{path.stem}" for path in in_order(images)]


def test_the_manifest_says_where_it_comes_from(folder_set: Path) -> None:
    manifest = Dataset(folder_set).manifest
    published = manifest.extra["published"]
    assert published["format"] == "ml-dr"
    assert published["config"]["teacher"]["timm_ensemble"] is True
    assert "PIL" in published["reinterpreted"][0]
    assert manifest.teacher is not None
    assert manifest.teacher["names"] == ["ig_resnext101_32x8d", "ig_resnext101_32x16d"]
    assert manifest.teacher["normalisation"]["mean"] == [0.485, 0.456, 0.406]
    assert manifest.num_classes == CLASSES
    assert manifest.class_names == ("n01", "n02", "n03", "class 3", "class 4", "class 5", "class 6")
    spec = manifest.spec
    assert spec is not None
    assert (spec.size, spec.flip, spec.mixing) == (32, 0.5, None)
    assert spec.rand_augment is not None
    assert spec.random_erasing is not None
    assert (spec.rand_augment.num_ops, spec.random_erasing.probability) == (2, 0.25)


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz"])
@pytest.mark.parametrize("by", ["torch", "joblib"])
@pytest.mark.parametrize("shuffle", [None, 1, 2])
def test_every_form_gives_the_same_shards(
    images: Path, folder_set: Path, tmp_path: Path, kind: str, by: str, shuffle: int | None
) -> None:
    files = ml_dr(sizes_of(images), views=VIEWS, by=by)
    archive = stored(files, tmp_path / "rd", kind, folder="" if shuffle == 2 else "reinforced_data", shuffle=shuffle)
    out = convert("ml-dr", archive, "--images", images, out=tmp_path / "out")
    assert shards(out) == shards(folder_set)
    assert not (out / ".convert").exists()
    if kind != "folder":
        facts = Dataset(out).manifest.extra["published"]["archives"]
        data = archive.read_bytes()
        assert facts == [{"name": archive.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}]


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def everything(folder: Path) -> dict[str, bytes]:
    """All files but dataset.json, which names the archives."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "dataset.json"
    }


@pytest.mark.parametrize("budget", [0, 3000, 1 << 26])
def test_what_comes_early_waits_in_memory_or_on_disk(
    images: Path,
    files: dict[str, bytes],
    folder_set: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    budget: int,
) -> None:
    monkeypatch.setattr("dali_dr.convert.published.BUDGET", budget)
    archive = stored(files, tmp_path / "rd", "tar.gz", shuffle=5)
    out = convert("ml-dr", archive, "--images", images, out=tmp_path / "out")
    assert shards(out) == shards(folder_set)


@pytest.mark.parametrize("kinds", [("folder", "tar"), ("tar.gz", "tar.gz"), ("tar", "tar.gz")])
def test_runs_are_merged_views_one_after_the_other(images: Path, tmp_path: Path, kinds: tuple[str, str]) -> None:
    sizes = sizes_of(images)
    runs = [ml_dr(sizes, views=VIEWS, seed=seed) for seed in (0, 1)]
    archives = [
        stored(run, tmp_path / f"rd{number}", kind, shuffle=number)
        for number, (run, kind) in enumerate(zip(runs, kinds, strict=True))
    ]
    out = convert("ml-dr", *archives, "--images", images, out=tmp_path / "out")
    data = Dataset(out)
    assert data.num_views == 2 * VIEWS
    for number in range(IMAGES):
        expect_views(data, number, [views_of(number, sizes[number], VIEWS, seed=seed) for seed in (0, 1)])
    published = data.manifest.extra["published"]
    assert published["config"]["reinforce"]["num_samples"] == 2 * VIEWS
    assert len(published["archives"]) == 2


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_folders_of_one_archive_are_runs(images: Path, tmp_path: Path, kind: str) -> None:
    sizes = sizes_of(images)
    both = {f"run{seed}/{name}": data for seed in (0, 1) for name, data in ml_dr(sizes, seed=seed).items()}
    out = convert("ml-dr", stored(both, tmp_path / "rd", kind, folder=""), "--images", images, out=tmp_path / "out")
    data = Dataset(out)
    for number in range(IMAGES):
        expect_views(data, number, [views_of(number, sizes[number], VIEWS, seed=seed) for seed in (0, 1)])


def test_a_configuration_may_be_given(images: Path, files: dict[str, bytes], folder_set: Path, tmp_path: Path) -> None:
    files = dict(files)
    given = tmp_path / "config.pth.tar"
    given.write_bytes(files.pop("config.pth.tar"))
    archive = stored(files, tmp_path / "rd", "tar")
    convert("ml-dr", archive, "--images", images, out=tmp_path / "no", status=2)
    out = convert("ml-dr", archive, "--images", images, "--config", given, out=tmp_path / "out")
    assert shards(out) == shards(folder_set)


@pytest.mark.parametrize("kind", ["folder", "tar.gz"])
def test_records_lie_beside_the_shards_of_a_packed_set(
    images: Path, files: dict[str, bytes], folder_set: Path, tmp_path: Path, kind: str
) -> None:
    plain = packed(images, tmp_path / "plain")
    out = convert("ml-dr", stored(files, tmp_path / "rd", kind), "--images", plain, out=tmp_path / "out")
    data, whole = Dataset(out), Dataset(folder_set)
    assert [tar.path for tar in data.manifest.image_tars] == [f"../plain/shard-{n:06d}.tar" for n in range(3)]
    assert verify(out, images=True, progress=False).ok
    for number in range(IMAGES):
        assert data.keys[number] == whole.keys[number]
        assert data.label(number) == whole.label(number)
        assert data.image(number) == whole.image(number)
        assert data.record_bytes(number) == whole.record_bytes(number)
    convert("ml-dr", tmp_path / ("rd" if kind == "folder" else "rd.tar.gz"), "--images", plain, out=out)  # again


@pytest.mark.parametrize("check", [True, False])
def test_records_lie_beside_tars(
    images: Path, files: dict[str, bytes], folder_set: Path, tmp_path: Path, check: bool
) -> None:
    packed(images, tmp_path / "plain")
    more = [] if check else ["--no-decode-check"]
    archive = stored(files, tmp_path / "rd", "tar")
    tars = tmp_path / "plain" / "shard-*.tar"
    out = convert("ml-dr", archive, "--images", tars, "--sidecar", *more, out=tmp_path / "out")
    assert verify(out, images=True, progress=False).ok
    whole = Dataset(folder_set)
    for number in range(IMAGES):
        assert Dataset(out).record_bytes(number) == whole.record_bytes(number)
        assert Dataset(out).image(number) == whole.image(number)
    copied = convert("ml-dr", archive, "--images", tars, "--keep-bytes", *more, out=tmp_path / "copied")
    assert Dataset(copied).image(3) == whole.image(3)
    convert("ml-dr", archive, "--images", images, "--sidecar", out=tmp_path / "no", status=2)


@pytest.mark.parametrize("form", ["paths", "absolute", "keys"])
def test_images_in_another_order_are_listed(
    images: Path, files: dict[str, bytes], folder_set: Path, tmp_path: Path, form: str
) -> None:
    """The tars hold the images in an order of their own; the list says which index each has."""
    order = in_order(images)
    mixed = random.Random(3).sample(order, len(order))
    lines = [f"{path.parent.name}/{path.name}" for path in order]
    lines = [f"/data/train/{line}" for line in lines] if form == "absolute" else lines
    lines = [line.rpartition(".")[0] for line in lines] if form == "keys" else lines
    listed = tmp_path / "order.txt"
    listed.write_text("\n".join(lines) + "\n")
    table = tmp_path / "mixed.jsonl"
    table.write_text("".join(json.dumps({"path": str(path), "label": path.parent.name}) + "\n" for path in mixed))
    archive = stored(files, tmp_path / "rd", "tar.gz")
    out = convert("ml-dr", archive, "--images", table, "--order", listed, out=tmp_path / "out")
    data, whole = Dataset(out), Dataset(folder_set)
    for number, path in enumerate(order):
        assert data.keys[number].endswith(f"{path.parent.name}/{path.stem}")
        assert data.record_bytes(number) == whole.record_bytes(number)
        assert data.image(number) == whole.image(number)


def test_wrong_orders_are_refused(images: Path, tmp_path: Path) -> None:
    source = ImageFolder.scan(images)
    lines = [f"{key}.JPEG" for key in source.keys]
    for wrong, what in (
        ([*lines[:-1], lines[0]], "line 12: .* named before"),
        ([*lines[:-1], "n01/other.JPEG"], "line 12: .* no image is called so"),
        (lines[:-1], "names 11 of 12 images, and not n03/n03_8"),
    ):
        path = tmp_path / "order.txt"
        path.write_text("\n".join(wrong))
        with pytest.raises(ConvertError, match=what):
            Ordered(source, path)


def test_mixed_views_name_partners_by_index(tmp_path: Path) -> None:
    images = write_files(tmp_path / "images", {f"c/{n}.jpg": encode_jpeg(picture(60, 60, n)) for n in range(9)})
    files = ml_dr([(60, 60)] * 9, views=8, variant="randaug_mixing")
    out = convert("ml-dr", stored(files, tmp_path / "rd", "tar.gz"), "--images", images, out=tmp_path / "out")
    data = Dataset(out)
    assert verify(out, progress=False).ok
    mixing = data.spec.mixing
    assert mixing is not None
    assert (mixing.lam, mixing.mixup_probability, mixing.cutmix_probability) == ((0.0, 0.5), 0.5, 0.5)
    for number in range(9):
        _, views = views_of(number, (60, 60), 8, variant="randaug_mixing", images=9)
        views.sort(key=lambda view: -max(view["prob"][0]))
        mix = data.reinforcements(number).mix
        assert mix is not None
        wanted = [-1 if view["params"][0] is None else view["params"][0] for view in views]
        assert [number if partner == -2 else int(partner) for partner in mix.partner] == wanted
    convert(
        "ml-dr", tmp_path / "rd.tar.gz", "--images", images, "--on-error", "skip", out=tmp_path / "no", status=2
    )  # an image left out would shift all numbers


@pytest.mark.parametrize(("kind", "status"), [("tar", 1), ("tar.gz", 1), ("folder", 1)])
@pytest.mark.parametrize("odd", [0, 3])
def test_a_file_that_was_cut_short_is_named(
    tmp_path: Path, kind: str, status: int, odd: int, capsys: pytest.CaptureFixture[str]
) -> None:
    images = photos(tmp_path / "images", 6)
    sizes = [_size(path) for path in in_order(images)]
    files = ml_dr(sizes, views=4)
    files[f"{odd}.pth.tar"] = saved(views_of(odd, sizes[odd], 3))
    archive = stored(files, tmp_path / "rd", kind, shuffle=None)
    words = ["convert", "ml-dr", str(archive), "--images", str(images), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(words) == status
    said = capsys.readouterr().err
    assert f"index {odd or 1} (" in said and "views of 4 classes" in said and "cut short" in said
    stored(ml_dr(sizes, views=4), tmp_path / "rd", kind, shuffle=None)
    assert main(words) == 0  # a folder in which nothing was finished is no other run's


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.height, image.width


@pytest.mark.parametrize("packed", [False, True])
def test_crops_of_partners_lie_inside_these(tmp_path: Path, packed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    small, sizes = 4, [(60, 60)] * 4 + [(30, 30)]
    photos = {f"c/{number}.jpg": encode_jpeg(picture(*size, number)) for number, size in enumerate(sizes)}
    images = write_files(tmp_path / "images", photos)
    if packed:
        assert main(["pack", str(images), "--out", str(tmp_path / "packed"), "--quiet"]) == 0
        images = tmp_path / "packed"
    for width, status in ((30, 0), (31, 1)):
        files = {"config.pth.tar": saved(config("mixing", 2))}
        for number, size in enumerate(sizes):
            views = views_of(number, size, 2, variant="mixing", images=5)[1]
            for view in views:
                partner = (0, 0, 30, width if number == 3 else 30)
                view["params"] = [small, [(0, 0, 20, 20), partner], [True, False], 0.25, None]
            files[f"{number}.pth.tar"] = saved((number, views))
        archive = stored(files, tmp_path / f"rd-{width}", "tar")
        out = tmp_path / f"out-{width}"
        words = ["convert", "ml-dr", str(archive), "--images", str(images), "--out", str(out), "--quiet"]
        assert main(words) == status
        assert status or verify(out, progress=False).ok
    assert "index 3 (c/3)" in (said := capsys.readouterr().err) and "outside of 30x30" in said


def test_enlarged_and_padded_images_are_stored_so(tmp_path: Path) -> None:
    images = write_files(tmp_path / "images", {f"c{n % 3}/{n}.png": _png(picture(16, 16, n)) for n in range(6)})
    files = ml_dr([(40, 40)] * 6, variant="cifar")
    out = convert("ml-dr", stored(files, tmp_path / "rd", "folder"), "--images", images, out=tmp_path / "out")
    data = Dataset(out)
    assert {data.image_size(number) for number in range(6)} == {(40, 40)}
    for number, path in enumerate(in_order(images)):
        with Image.open(path) as image:
            padded = torch.zeros(40, 40, 3, dtype=torch.uint8)
            padded[4:36, 4:36] = torch.from_numpy(np.array(image.resize((32, 32), Image.Resampling.BILINEAR)))
        with Image.open(io.BytesIO(data.image(number))) as ours:
            np.testing.assert_array_equal(np.array(ours), padded.numpy())
        _, views = views_of(number, (40, 40), 3, variant="cifar")
        views.sort(key=lambda view: -max(view["prob"][0]))
        assert data.reinforcements(number).crop.tolist() == [[*view["params"][1], 32, 32] for view in views]
    plain = packed(images, tmp_path / "plain")
    again = convert("ml-dr", tmp_path / "rd", "--images", plain, out=tmp_path / "again")
    assert shards(again) == shards(out)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(("height", "width"), [(30, 47), (47, 30), (31, 31), (32, 90), (90, 32)])
def test_preparation_is_torchvisions(height: int, width: int) -> None:
    from dali_dr._torchvision import load_torchvision

    load_torchvision()
    from torchvision import transforms

    image = Image.fromarray(picture(height, width, height))
    reference = transforms.Pad(5)(transforms.Resize(32)(image))
    ours = Preparation(32, 5)(image)
    np.testing.assert_array_equal(np.array(ours), np.array(reference))
    assert Preparation(32, 5).size(height, width) == (ours.height, ours.width)


def test_a_run_that_is_killed_goes_on(images: Path, files: dict[str, bytes], tmp_path: Path) -> None:
    """Killed at a random instant after its first file, again and again; what comes early waits on disk."""
    archive = stored(files, tmp_path / "rd", "tar.gz", shuffle=9)
    out = tmp_path / "out"
    words = ["convert", "ml-dr", archive, "--images", images, "--out", out, "--quiet", "--samples-per-shard", "1"]
    draw = random.Random(7)
    for attempt in range(3):
        wait = draw.random() * 0.25 if attempt < 2 else 1000.0
        command = [sys.executable, "-c", _KILLED, str(wait), *map(str, words)]
        ended = subprocess.run(command, capture_output=True, check=False)
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert (out / "dataset.json").exists()
    assert not (out / ".convert").exists()
    one = tmp_path / "one"
    assert main([*map(str, words[:5]), "--out", str(one), *map(str, words[7:])]) == 0
    assert everything(out) == everything(one)


_KILLED = """
import os, signal, sys, threading
import dali_dr.convert.archives as archives, dali_dr.convert.published as published
from dali_dr.cli import main
from dali_dr.shards import files
published.BUDGET, archives.KEPT_ABOVE = 2000, 0
class Doomed(files.System):
    begun = False
    def replace(self, old, new):
        if not self.begun:
            timer = threading.Timer(float(sys.argv[1]), os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = self.begun = True
            timer.start()
        super().replace(old, new)
files.system = Doomed()
sys.exit(main(sys.argv[2:]))
"""


def test_a_run_that_fails_goes_on_where_it_stopped(
    images: Path, files: dict[str, bytes], folder_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dali_dr.convert.published.BUDGET", 1000)
    monkeypatch.setattr(archives_module, "KEPT_ABOVE", 0)
    archive = stored(files, tmp_path / "rd", "tar.gz", shuffle=9)
    from dali_dr.shards import files as shard_files

    for allowed in range(1, 12, 2):
        out = tmp_path / f"out{allowed}"
        left = allowed

        class Failing(shard_files.System):
            def replace(self, old: Path, new: Path) -> None:
                nonlocal left
                left -= 1
                if left < 0:
                    raise OSError(5, "no more")
                super().replace(old, new)

        monkeypatch.setattr(shard_files, "system", Failing())
        convert("ml-dr", archive, "--images", images, out=out, status=1)
        monkeypatch.setattr(shard_files, "system", shard_files.System())
        convert("ml-dr", archive, "--images", images, out=out)
        assert shards(out) == shards(folder_set)
        assert everything(out) == everything(folder_set)


def test_an_archive_that_was_looked_through_is_not_looked_through_again(
    images: Path, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives_module, "KEPT_ABOVE", 0)
    archive = stored(files, tmp_path / "rd", "tar")
    out = tmp_path / "out"
    assert (
        main(["convert", "ml-dr", str(archive), "--images", str(images), "--out", str(out), "--dry-run", "--quiet"])
        == 0
    )
    looked = archives_module._look_through

    def fail(*_: Any) -> Any:
        raise AssertionError("looked through again")

    monkeypatch.setattr(archives_module, "_look_through", fail)
    convert("ml-dr", archive, "--images", images, out=out)
    monkeypatch.setattr(archives_module, "_look_through", looked)


def test_dry_run_tells_of_rate_size_and_order(
    images: Path, files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = stored(files, tmp_path / "rd", "tar.gz", shuffle=9)
    words = ["convert", "ml-dr", str(archive), "--images", str(images), "--out", str(tmp_path / "out"), "--dry-run"]
    assert main([*words, "--quiet", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["images"] == figures["measured"] == IMAGES
    assert figures["records_per_second"] > 0
    assert figures["archives_in_order"] is False
    assert 0 < figures["staged_files"] < IMAGES
    assert [one["published_gb"] for one in figures["imagenet"]] == [33.4, 46.3, 37.5, 53.3]
    assert main([*words, "--quiet"]) == 0
    assert "records/s" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_fkd_is_joined_by_path(images: Path, tmp_path: Path) -> None:
    files, sizes = {}, sizes_of(images)
    draw = np.random.default_rng(0)
    wanted = {}
    for path, (height, width) in zip(in_order(images), sizes, strict=True):
        boxes = np.array([[1, 2, 20, 30], [5, 0, 33, 17]])
        coords = boxes.astype(np.float32) / np.float32([height, width, height, width])
        probs = np.sort(draw.dirichlet(np.ones(CLASSES), 2).astype(np.float32)[:, :2], axis=1)[:, ::-1]
        ids = np.array([[3, 1], [0, 2]], np.float32)
        output = torch.from_numpy(np.stack([ids, probs], 1))
        files[f"train/{path.parent.name}/{path.stem}.tar"] = saved(
            [torch.from_numpy(coords), torch.tensor([True, False]), output]
        )
        wanted[f"{path.parent.name}/{path.stem}"] = boxes, probs
    for kind in ("folder", "tar", "tar.gz"):
        archive = stored(files, tmp_path / "fkd", kind, folder="FKD_500")
        out = convert(
            "fkd", archive, "--images", images, "--classes", _classes(tmp_path), "--size", 32, out=tmp_path / kind
        )
        data = Dataset(out)
        assert verify(out, progress=False).ok
        assert data.manifest.extra["published"]["format"] == "fkd"
        for number, key in enumerate(data.keys):
            boxes, probs = wanted[key]
            order = np.argsort(-probs[:, 0], kind="stable")
            found = data.reinforcements(number)
            assert found.crop.tolist() == boxes[order].tolist()
            assert found.flip.tolist() == np.array([True, False])[order].tolist()
            np.testing.assert_allclose(found.soft_probs, probs[order], atol=0.02)


@pytest.mark.parametrize("order", ["code", "transposed"])
def test_label_maps_of_relabel_are_stored_beside_their_images(images: Path, tmp_path: Path, order: str) -> None:
    maps = {}
    for number, path in enumerate(in_order(images)):
        torch.manual_seed(number)
        scores = (6 * torch.randn(3, 5, 5)).sort(0, descending=True).values
        ids = torch.rand(5, 5, CLASSES).argsort(-1)[..., :3].permute(2, 0, 1)
        maps[f"{path.parent.name}/{path.stem}"] = torch.stack([scores, ids.float()])
    files = {}
    for key, value in maps.items():
        buffer = io.BytesIO()
        torch.save(value, buffer)
        files[f"{key}.pt"] = buffer.getvalue()
    archive = stored(files, tmp_path / "relabel", "tar.gz", folder="relabel_imagenet")
    classes = _classes(tmp_path)
    out = convert(
        "relabel", archive, "--images", images, "--classes", classes, "--box-order", order, out=tmp_path / "out"
    )
    data = Dataset(out)
    assert verify(out, progress=False).ok
    wanted = data.manifest.label_maps
    assert wanted is not None
    assert (wanted.depth, wanted.height, wanted.width, wanted.order) == (3, 5, 5, order)
    for number, key in enumerate(data.keys):
        scores, ids = data.label_map(number)
        dense = torch.zeros(CLASSES, 5, 5).scatter_(0, torch.from_numpy(ids).long(), torch.from_numpy(scores))
        stored_map = maps[key]
        torch.testing.assert_close(
            dense, torch.zeros(CLASSES, 5, 5).scatter_(0, stored_map[1].long(), stored_map[0]), rtol=0, atol=0
        )


def _classes(folder: Path) -> Path:
    path = folder / "classes.txt"
    path.write_text("".join(f"{name}\n" for name in ("n01", "n02", "n03", "d", "e", "f", "g")))
    return path


def test_config_of_flowers_is_understood(
    images: Path, files: dict[str, bytes], folder_set: Path, tmp_path: Path
) -> None:
    said = config()
    augmentation = said["reinforce"]["image_augmentation"]
    augmentation["random_resize_crop"] = augmentation.pop("random_resized_crop")
    archive = stored(files | {"config.pth.tar": saved(said)}, tmp_path / "rd", "tar")
    out = convert("ml-dr", archive, "--images", images, out=tmp_path / "out")
    assert shards(out) == shards(folder_set)
    assert "random_resize_crop" in Dataset(out).manifest.extra["published"]["reinterpreted"][0]


def test_prepared_tells_sizes_without_making_images(images: Path) -> None:
    prepared = Prepared(ImageFolder.scan(images), Preparation(40, 2))
    for number in range(len(prepared)):
        with Image.open(io.BytesIO(prepared.read(number))) as image:
            assert prepared.image_size(number) == (image.height, image.width)
