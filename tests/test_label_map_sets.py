"""Data sets of label maps as a whole: written, continued, read, reshaped, damaged, and asked about by a teacher."""
# ruff: noqa: F811  (fixtures of the other file are arguments here)

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import encode_jpeg
from test_iterator import epoch_of, loader
from test_label_maps import (  # noqa: F401  (fixtures)
    BAD,
    CLASSES,
    DEPTH,
    ORDERS,
    SIZES,
    by_the_schema,
    dataset,
    dense_of,
    images,
    random_map,
    read,
    reference,
    samples_of,
    write,
)

import dali_dr
from dali_dr import LabelMaps
from dali_dr.cli import main
from dali_dr.cli.look import _say_check
from dali_dr.errors import RecordError, ShardError
from dali_dr.record.label_map import encode_label_map
from dali_dr.reinforce.check import check_label_maps
from dali_dr.reinforce.networks import Member, Teacher
from dali_dr.shards.manifest import ImageTar, Manifest
from dali_dr.shards.rebuild import rebuild_index
from dali_dr.shards.sample import Place
from dali_dr.shards.verify import verify


def test_a_data_set_of_maps(dataset: dali_dr.Dataset, images: list[bytes]) -> None:
    manifest = dataset.manifest
    assert manifest.format_version == 4 and manifest.label_maps.depth == DEPTH and dataset.num_views == 0
    data = json.loads((dataset.path / "dataset.json").read_bytes())
    assert data["label_maps"] == {"height": 15, "width": 15, "depth": 5, "order": manifest.label_maps.order}
    assert (data["spec"], data["probabilities"], data["views"]) == (None, None, {"min": 0, "max": 0})
    for number in range(len(dataset)):
        for found, want in zip(dataset.label_map(number), random_map(number), strict=True):
            assert np.array_equal(found, want)
        assert dataset.has_record(number)
        with tarfile.open(dataset.place_of(number, "record")[0]) as shard:
            member = shard.extractfile(f"{dataset.keys[number]}.dr.zst")
            assert member is not None and np.array_equal(by_the_schema(member.read())[0], random_map(number)[0])
    report = verify(dataset.path, images=True, progress=False)
    assert report.problems == [] and report.records == len(images) and report.views == 0
    for refused, what in (
        (lambda: dataset.record(0), "holds label maps"),
        (lambda: dataset.spec, "holds label maps"),
        (lambda: dataset.reinforcements(0), "label_map"),
    ):
        with pytest.raises(ShardError, match=what):
            refused()


def test_other_data_sets_stay_of_version_3(tmp_path: Path, images: list[bytes]) -> None:
    samples = [dali_dr.Sample("a", images[0], 0)]
    plain = dali_dr.write_shards(samples, tmp_path / "plain", spec=None, num_classes=3, progress=False)
    assert plain.format_version == 3 and "label_maps" not in json.loads((tmp_path / "plain/dataset.json").read_bytes())
    with pytest.raises(ShardError, match="holds no label maps"):
        dali_dr.Dataset(tmp_path / "plain").label_map(0)


def test_info_tells_of_maps(dataset: dali_dr.Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(dataset.path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["label_maps"]["order"] == dataset.manifest.label_maps.order and facts["format_version"] == 4
    assert main(["info", str(dataset.path)]) == 0
    assert "label maps" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["no map", "views", "damaged", "another shape", "other classes"])
def test_samples_that_are_refused(name: str, images: list[bytes], tmp_path: Path) -> None:
    good = samples_of(images)[0]
    scores, ids = random_map(1)
    record = {
        "no map": None,
        "views": None,
        "damaged": BAD["entry"],
        "another shape": encode_label_map(scores[:4], ids[:4], num_classes=CLASSES),
        "other classes": encode_label_map(scores, ids, num_classes=CLASSES + 1),
    }[name]
    with pytest.raises(ShardError, match="a/000") as caught:
        write(tmp_path / "out", [dataclasses.replace(good, record=record)])
    assert "map" in str(caught.value)


def test_maps_and_views_exclude_each_other(images: list[bytes], tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="label_maps and spec"):
        dali_dr.write_shards(
            samples_of(images), tmp_path / "out", spec=dali_dr.AugmentationSpec.preset("rrc"), num_classes=CLASSES,
            label_maps=LabelMaps(), progress=False,
        )  # fmt: skip
    for shape in ((15, 14), (0, 0), (256, 256)):
        with pytest.raises(RecordError, match="cells"):
            LabelMaps(*shape)
    with pytest.raises(RecordError, match="order"):
        LabelMaps(order="stored")  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="depth"):
        LabelMaps(depth=300)


def test_an_interrupted_run_goes_on(images: list[bytes], tmp_path: Path) -> None:
    """To the bytes of an uninterrupted one, also where the facts of its shards are lost."""
    samples = samples_of(images)
    whole = write(tmp_path / "whole", samples)
    for name, keep_facts in (("facts", True), ("none", False)):
        out = tmp_path / name

        def broken(at: int = 5) -> Any:
            yield from samples[:at]
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write(out, broken())
        if not keep_facts:
            for facts in out.glob(".*.json"):
                if facts.name.startswith(".shard"):
                    facts.unlink()
        with pytest.raises(ShardError, match="label_maps"):
            write(out, samples, "transposed")
        again = write(out, samples)
        for path in sorted(whole.path.iterdir()):
            if path.is_file():
                assert path.read_bytes() == (again.path / path.name).read_bytes(), path.name


def test_other_shapes_of_a_data_set(dataset: dali_dr.Dataset, tmp_path: Path, images: list[bytes]) -> None:
    """Some images, and tiled: the maps are copied; there is nothing to merge, and no views to choose from."""
    dali_dr.subset(dataset, tmp_path / "some", images="2:6", progress=False)
    some = dali_dr.Dataset(tmp_path / "some")
    assert some.manifest.label_maps == dataset.manifest.label_maps and len(some) == 4
    assert [some.record_bytes(n) for n in range(4)] == [dataset.record_bytes(n + 2) for n in range(4)]
    kept = write(tmp_path / "kept", samples_of(images), dataset.manifest.label_maps.order, keep_bytes=True)
    dali_dr.retile(kept, tmp_path / "tiled", progress=False)
    tiled = dali_dr.Dataset(tmp_path / "tiled")
    assert tiled.manifest.tiles is not None and tiled.manifest.format_version == 4
    assert [tiled.record_bytes(n) for n in range(len(kept))] == [kept.record_bytes(n) for n in range(len(kept))]
    for path in (some.path, tiled.path):
        assert verify(path, progress=False).problems == []
    with pytest.raises(ShardError, match="images alone"):
        dali_dr.subset(dataset, tmp_path / "no", topk=3, progress=False)
    with pytest.raises(ShardError, match="label maps"):
        dali_dr.merge(dataset, kept, tmp_path / "no", progress=False)


def test_maps_beside_image_tars(images: list[bytes], tmp_path: Path) -> None:
    """A sidecar data set: shards of maps alone; its index is made anew from them."""
    folder = tmp_path / "side"
    folder.mkdir()
    with tarfile.open(folder / "images.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, image in enumerate(images):
            for suffix, content in (("jpg", image), ("cls", b"%d" % number)):
                info = tarfile.TarInfo(f"a/{number:03d}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    with tarfile.open(folder / "images.tar") as archive:
        at = [info.offset_data for info in archive if info.name.endswith(".jpg")]
    samples = [dataclasses.replace(s, place=Place(0, offset)) for s, offset in zip(samples_of(images), at, strict=True)]
    tars = [ImageTar("images.tar", (folder / "images.tar").stat().st_size)]
    side = write(folder, samples, image_tars=tars)
    assert verify(folder, progress=False).problems == []
    got = read(side, np.array([-1]), topk=side.manifest.topk, label_maps="code", draw_whole=True)
    for number in range(len(side)):
        want = reference(*random_map(number), got["boxes"][number], SIZES[number], "code")
        assert np.abs(dense_of(got["ids"][number], got["probs"][number]) - want).max() < 1e-6
    before = side.index_path.read_bytes()
    rebuild_index(folder, side.manifest, side.index_path, full=True)
    assert side.index_path.read_bytes() == before


def test_damage_is_found_and_told(dataset: dali_dr.Dataset, tmp_path: Path) -> None:
    """A map that is no map: by verify, by label_map, and by the loader, which says whose."""
    for name in ("damaged", "entry", "a record"):
        folder = Path(shutil.copytree(dataset.path, tmp_path / name))
        copy = dali_dr.Dataset(folder)
        shard, at = copy.place_of(4, "record")
        length = len(copy.record_bytes(4))
        member = BAD[name][:length].ljust(length, b"\0")  # of the old length, so that the tar stays one
        data = bytearray(shard.read_bytes())
        data[at : at + length] = member
        shard.write_bytes(data)
        assert any("a/004" in problem for problem in verify(folder, progress=False).problems)
        with pytest.raises(ShardError, match=r"sample 4 \(a/004\)"):
            copy.label_map(4)
        with pytest.raises(ShardError, match="a/004") as caught:
            epoch_of(loader(copy, size=32))
        assert caught.value.kind == "record"
        seen = [
            n for batch in epoch_of(loader(copy, size=32, on_error="skip", max_skipped=0.5)) for n in batch["index"]
        ]
        assert 4 not in seen and len(seen) == len(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": "stored"}, "order"),
        ({"width": 14}, "15 x 14 cells"),
        ({"depth": 4}, None),
        ({"depth": 500}, "depth"),
        ({"size": 3}, "size"),
    ],
)
def test_manifests_that_are_refused(dataset: dali_dr.Dataset, tmp_path: Path, change: Any, message: Any) -> None:
    folder = Path(shutil.copytree(dataset.path, tmp_path / "copy"))
    data = json.loads((folder / "dataset.json").read_bytes())
    data["label_maps"] |= change
    (folder / "dataset.json").write_text(json.dumps(data))
    if message is None:  # possible, but not what is stored
        assert main(["seal", str(folder)]) == 0
        assert "want 4" in verify(folder, progress=False).problems[0]
        return
    with pytest.raises(ShardError, match=message):
        Manifest.load(folder, sealed=False)


def test_versions_and_maps_go_together(dataset: dali_dr.Dataset, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(dataset.path, tmp_path / "copy"))
    data = json.loads((folder / "dataset.json").read_bytes())
    without = {name: value for name, value in data.items() if name != "label_maps"}
    for changed, message in (
        ({**data, "format_version": 3}, "label_maps: of format version 4"),
        (without, "'label_maps' is a required property"),
        ({**data, "topk": 0}, "topk is 0"),
        ({**data, "topk": CLASSES + 1}, "topk is 61"),
        ({**data, "probabilities": {"encoding": "root8"}}, "label maps, and views"),
    ):
        (folder / "dataset.json").write_text(json.dumps(changed))
        with pytest.raises(ShardError, match=message):
            Manifest.load(folder, sealed=False)


# --- verify --teacher


class Colours(torch.nn.Module):
    """A teacher that knows red (class 0) from blue (class 1)."""

    num_classes = 6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((2, 3)) * 4
        return torch.cat([mean[:, [0, 2]], torch.zeros(len(x), 4)], 1)


@pytest.mark.parametrize("right", ORDERS)
def test_a_teacher_tells_the_orders_apart(right: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images that are red on the left and blue on the right, with maps of that, stored either way."""
    pixels = np.zeros((120, 160, 3), np.uint8)
    pixels[:, :80, 0] = pixels[:, 80:, 2] = 255
    ids = np.stack([np.where(np.arange(15) < 7, c, 1 - c) * np.ones((15, 1), int) for c in (0, 1)])
    scores = np.stack([np.full((15, 15), 4.0), np.full((15, 15), -4.0)])
    if right == "code":  # rows and columns change places
        ids = ids.transpose(0, 2, 1)
    samples = [
        dali_dr.Sample(f"s{n}", encode_jpeg(pixels), 0, record=encode_label_map(scores, ids, num_classes=6))
        for n in range(4)
    ]
    dali_dr.write_shards(
        samples, tmp_path / "out", spec=None, num_classes=6, label_maps=LabelMaps(15, 15, 2, "code"), progress=False
    )
    dataset = dali_dr.Dataset(tmp_path / "out")
    half = (0.5, 0.5, 0.5)
    teacher = Teacher([Member("colours", Colours(), 64, half, half)], torch.device("cpu"))
    check = check_label_maps(dataset, teacher, samples=50, batch=16, num_threads=2)
    wrong = ORDERS[right == "code"]
    assert check.better == right and check.ok == (right == "code") and check.views == 50
    assert check.kl_mean[right] < 0.5 * check.kl_mean[wrong] and check.top1_equal[right] > check.top1_equal[wrong]
    with pytest.raises(dali_dr.DaliDrError, match="outputs"):
        check_label_maps(write(tmp_path / "more", samples_of([encode_jpeg(pixels)])), teacher)
    _say_check(check)
    said = capsys.readouterr().out
    assert f'"{right}" agrees better' in said and ("other order" in said) == (right != "code")
