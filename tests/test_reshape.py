"""Sources of every kind, sidecar data sets, subset and merge; decoders against Pillow on PNG and WebP."""

from __future__ import annotations

import dataclasses
import io
import json
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import encode_jpeg, picture
from PIL import Image
from test_reinforce import generation

import dali_dr
from dali_dr.augment.draw import draw
from dali_dr.augment.reference import replay_pillow
from dali_dr.cli import main
from dali_dr.encoded import image_info
from dali_dr.preview import replay_views
from dali_dr.reinforce.run import Run, reinforce
from dali_dr.shards.reshape import choose_images, choose_rows, merge, subset
from dali_dr.shards.sample import safe_key
from dali_dr.shards.verify import verify
from dali_dr.sources import FileList, ImageFolder, WebDatasetTars, open_source


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def image_tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three webdataset tars of other people's: labels in .cls or .json, more members, several formats and tar dialects."""
    root = tmp_path_factory.mktemp("wds")
    number = 0
    for part, dialect in enumerate((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        with tarfile.open(root / f"train-{part}.tar", "w", format=dialect) as archive:
            for _ in range(5):
                key = f"n{number % 3}/image_{number:03d}" if number % 2 else f"image_{number:03d}"
                pixels = Image.fromarray(picture(40 + number, 70, number))
                kind, suffix = [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("JPEG", "jpeg")][number % 4]
                buffer = io.BytesIO()
                pixels.save(buffer, kind)
                if number % 3:
                    add(archive, f"{key}.cls", b"%d\n" % (number % 6))
                add(archive, f"{key}.{suffix}", buffer.getvalue())
                add(archive, f"{key}.json", json.dumps({"label": number % 6, "who": "x"}).encode())
                number += 1
    return root


def reinforced(source: Any, out: Path, **options: Any) -> dali_dr.Dataset:
    seed = options.pop("seed", 0)
    views = options.pop("views", 12)
    keep = options.pop("keep_bytes", False)
    g = generation(seed=seed, num_views=views, topk=4, num_threads=1, keep_bytes=keep)
    reinforce(source, out, g, **{"num_classes": 6, "samples_per_shard": 4, "progress": False, **options})
    return dali_dr.Dataset(out)


@pytest.fixture(scope="module")
def whole(image_tars: Path, tmp_path_factory: pytest.TempPathFactory) -> dali_dr.Dataset:
    return reinforced(open_source(f"{image_tars}/*.tar"), tmp_path_factory.mktemp("whole") / "out", keep_bytes=True)


@pytest.fixture(scope="module")
def sidecar(image_tars: Path, tmp_path_factory: pytest.TempPathFactory) -> dali_dr.Dataset:
    out = tmp_path_factory.mktemp("side") / "deep" / "out"
    return reinforced(open_source(f"{image_tars}/*.tar"), out, sidecar=True)


def test_many_keys_are_found_as_few_are(whole: dali_dr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [*reversed(list(whole.keys)), "absent"]
    want = [*reversed(range(len(whole))), -1]
    assert whole.find_all(keys).tolist() == want
    monkeypatch.setattr("dali_dr.shards.dataset._FEW_KEYS", 1)
    assert whole.find_all(keys).tolist() == want


def test_a_sidecar_set_is_the_whole_one_but_for_the_place_of_the_images(
    sidecar: dali_dr.Dataset, whole: dali_dr.Dataset, image_tars: Path
) -> None:
    assert list(sidecar.keys) == list(whole.keys) and len(sidecar) == 15
    for number in range(15):
        assert (
            sidecar.image(number) == whole.image(number) and sidecar.label(number) == whole.label(number) == number % 6
        )
        assert sidecar.reinforcements(number) == whole.reinforcements(number)
    with tarfile.open(sidecar.path / "shard-000001.tar") as archive:
        assert archive.getnames() == [f"{key}.dr.zst" for key in list(sidecar.keys)[4:8]]
    paths = [one.path for one in sidecar.manifest.image_tars]
    assert all(not Path(path).is_absolute() for path in paths)
    assert [(sidecar.path / path).resolve() for path in paths] == sorted(image_tars.resolve().glob("*.tar"))
    assert verify(sidecar.path, images=True, progress=False).problems == []


def test_training_batches_of_a_sidecar_set_are_those_of_the_whole(
    sidecar: dali_dr.Dataset, whole: dali_dr.Dataset
) -> None:
    batches = []
    for dataset in (sidecar, whole):
        loader = dali_dr.ReinforcedIterator(dataset, batch_size=4, device="cpu", dtype="uint8", num_threads=1)
        batches.append([batch for (batch,) in loader])
    for ours, theirs in zip(*batches, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def renamed(tar: bytes, old: bytes, new: bytes) -> bytes:
    """The tar with other names of members, whose headers are right."""
    out = bytearray(tar.replace(old, new))
    for at in range(0, len(out), tarfile.BLOCKSIZE):
        if new in out[at : at + 100] and out[at + 257 : at + 262] == b"ustar":
            out[at + 148 : at + 156] = b"%06o\0 " % tarfile.calc_chksums(bytes(out[at : at + tarfile.BLOCKSIZE]))[0]
    return bytes(out)


def test_a_sidecar_sets_index_is_rebuilt_and_its_damage_found(image_tars: Path, tmp_path: Path) -> None:
    for path in image_tars.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    dataset = reinforced(open_source(f"{tmp_path}/*.tar"), tmp_path / "out", sidecar=True)
    index = dataset.index_path.read_bytes()
    dataset.index_path.unlink()
    again = dali_dr.Dataset(tmp_path / "out")
    assert [again.image_size(number) for number in range(15)] == [dataset.image_size(number) for number in range(15)]
    assert main(["index", "--full", "--quiet", str(tmp_path / "out")]) == 0
    assert dataset.index_path.read_bytes() == index
    second = tmp_path / "train-1.tar"
    data = second.read_bytes()
    second.write_bytes(renamed(data, b"image_006", b"image_106"))
    report = verify(tmp_path / "out", progress=False)
    assert any("image_006: its image is in none of 3" in problem for problem in report.problems)
    second.write_bytes(data + bytes(512))
    with pytest.raises(dali_dr.ShardError, match=r"train-1.tar: has"):
        dali_dr.Dataset(tmp_path / "out")
    assert any("train-1.tar: has" in problem for problem in verify(tmp_path / "out", progress=False).problems)


def test_a_killed_sidecar_run_goes_on(image_tars: Path, sidecar: dali_dr.Dataset, tmp_path: Path) -> None:
    source = open_source(f"{image_tars}/*.tar")
    g = generation(num_views=12, topk=4, num_threads=1)
    run = Run(source, sidecar.path.parent / "again", g, 6, samples_per_shard=4, sidecar=True, progress=False)
    calls: list[int] = []

    def interrupt(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt

    hook = g.teacher.members[0].model.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.work()
    hook.remove()
    for facts in run.out.glob(".shard-*.json"):  # lost: they are read from the tars
        facts.unlink()
    run.work()
    for path in sidecar.path.iterdir():
        assert path.name == "report" or path.read_bytes() == (run.out / path.name).read_bytes()


def test_a_source_and_a_teacher_of_ones_own(image_tars: Path, sidecar: dali_dr.Dataset, tmp_path: Path) -> None:
    """Classes that derive from none of ours make the same shards; a source that says no place makes no sidecar set."""
    theirs, g = open_source(f"{image_tars}/*.tar"), generation(num_views=12, topk=4, num_threads=1)

    class Plain:
        keys, labels, class_names, notes = theirs.keys, theirs.labels, theirs.class_names, ()

        def __len__(self) -> int:
            return 15

        def read(self, number: int) -> bytes:
            return theirs.read(number)

        def where(self, number: int) -> str:
            return theirs.where(number)

    class InTars(Plain):
        def place(self, number: int) -> Any:
            return theirs.place(number)  # type: ignore[attr-defined]

        def size(self, number: int) -> Any:
            return theirs.size(number)  # type: ignore[attr-defined]

        def image_tars(self, out: Path) -> Any:
            return theirs.image_tars(out)  # type: ignore[attr-defined]

    class Guess:
        device, num_outputs = torch.device("cpu"), 6

        def facts(self) -> dict[str, Any]:
            return g.teacher.facts()

        def predict(self, views: torch.Tensor) -> torch.Tensor:
            return g.teacher.predict(views)

    out = sidecar.path.parent / "own"
    run = Run(InTars(), out, dataclasses.replace(g, teacher=Guess()), 6, samples_per_shard=4, sidecar=True,
              progress=False)  # fmt: skip
    assert run.work().ended
    for path in sidecar.path.iterdir():
        assert path.name == "report" or path.read_bytes() == (out / path.name).read_bytes()
    with pytest.raises(dali_dr.ShardError, match="sidecar data set goes with images in tars"):
        dataclasses.replace(run, source=Plain(), out=tmp_path / "none").work()
    assert not (tmp_path / "none").exists()


def by_crop(views: Any) -> Any:
    """Rows in an order that does not depend on confidence, which quantisation shifts a little."""
    return views.take(np.lexsort(views.crop.T))


def test_subset_keeps_views_classes_and_images(whole: dali_dr.Dataset, tmp_path: Path) -> None:
    subset(whole, tmp_path / "s", views=5, topk=2, images="3:9", progress=False)
    small = dali_dr.Dataset(tmp_path / "s")
    assert list(small.keys) == list(whole.keys)[3:9] and small.num_views == 5 and small.manifest.topk == 2
    assert verify(tmp_path / "s", images=True, progress=False).ok and small.spec == whole.spec
    for number in range(6):
        rows = choose_rows(12, 5, "random", small.keys[number])
        full, kept = by_crop(whole.reinforcements(number + 3).take(rows)), by_crop(small.reinforcements(number))
        assert np.array_equal(kept.crop, full.crop) and np.array_equal(kept.soft_ids, full.soft_ids[:, :2])
        # the logarithmic code rounds the rest anew, by half a step of 0.15 nats at most
        np.testing.assert_allclose(np.log(kept.soft_probs), np.log(full.soft_probs[:, :2]), atol=0.076)
        assert np.array_equal(kept.magnitudes, full.magnitudes) and small.image(number) == whole.image(number + 3)
    everything = subset(whole, tmp_path / "all", progress=False)
    again = dali_dr.Dataset(tmp_path / "all")
    assert everything.images == 15
    for number in range(15):
        full, kept = by_crop(whole.reinforcements(number)), by_crop(again.reinforcements(number))
        assert np.array_equal(kept.crop, full.crop) and np.array_equal(kept.soft_ids, full.soft_ids)
        np.testing.assert_allclose(kept.soft_probs, full.soft_probs, rtol=1e-5)


def test_choice_of_views_has_no_bias_and_nests() -> None:
    rows = np.stack([choose_rows(40, 10, "random", f"key{n}") for n in range(3000)])
    share = np.bincount(rows.ravel(), minlength=40) / 3000
    assert np.abs(share - 0.25).max() < 0.04  # five standard deviations
    assert all(len(set(row)) == 10 and list(row) == sorted(row) for row in rows.tolist())
    for key in ("a", "b"):
        assert set(choose_rows(40, 10, "random", key)) <= set(choose_rows(40, 20, "random", key))
    assert choose_rows(400, 100, "even", "a").tolist() == list(range(2, 400, 4))
    assert choose_rows(5, 5, "even", "a").tolist() == choose_rows(5, 5, "random", "a").tolist() == list(range(5))


def test_choice_of_images(whole: dali_dr.Dataset, tmp_path: Path) -> None:
    seven = choose_images(whole, 7)
    assert len(seven) == 7 and set(choose_images(whole, "4")) <= set(seven) and list(seven) == sorted(seven)
    (tmp_path / "keys").write_text("image_004\nn1/image_001\n")
    assert choose_images(whole, str(tmp_path / "keys")).tolist() == [1, 4]
    assert choose_images(whole, "12:").tolist() == [12, 13, 14] and choose_images(whole, ["image_000"]).tolist() == [0]
    for bad in (0, 16, "20:30", "no/such/file", ["absent"], "a:b"):
        with pytest.raises(dali_dr.ShardError):
            choose_images(whole, bad)


def test_merge_joins_two_runs(whole: dali_dr.Dataset, image_tars: Path, tmp_path: Path) -> None:
    source = open_source(f"{image_tars}/*.tar")
    second = reinforced(source, tmp_path / "b", seed=1, views=7)
    merge(whole, second, tmp_path / "m", progress=False)
    both = dali_dr.Dataset(tmp_path / "m")
    assert both.num_views == 19 and verify(tmp_path / "m", progress=False).ok
    for number in range(15):
        joined, parts = both.reinforcements(number), [d.reinforcements(number) for d in (whole, second)]
        rows = {(tuple(r.crop[i]), r.soft_probs[i].tobytes()) for r in parts for i in range(len(r))}
        assert {(tuple(joined.crop[i]), joined.soft_probs[i].tobytes()) for i in range(19)} == rows
        assert (np.diff(joined.soft_probs[:, 0]) <= 0).all()
    merge(whole, second, tmp_path / "side", sidecar=True, progress=False)
    side = dali_dr.Dataset(tmp_path / "side")
    assert side.image(3) == whole.image(3) and side.reinforcements(3) == both.reinforcements(3)
    assert verify(tmp_path / "side", images=True, progress=False).problems == []

    with pytest.raises(dali_dr.ShardError, match="same seed"):
        merge(whole, whole, tmp_path / "x", progress=False)
    subset(second, tmp_path / "k", topk=2, progress=False)
    with pytest.raises(dali_dr.ShardError, match="K: 4 and 2"):
        merge(whole, tmp_path / "k", tmp_path / "x", progress=False)
    subset(second, tmp_path / "few", images=14, progress=False)
    with pytest.raises(dali_dr.ShardError, match="number of images"):
        merge(whole, tmp_path / "few", tmp_path / "x", progress=False)
    with pytest.raises(dali_dr.ShardError, match="another folder"):
        subset(whole, whole.path, views=3, progress=False)


def test_lists_of_files(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for name in ("a.jpg", "x/b c.jpg"):
        (tmp_path / name).write_bytes(encode_jpeg(picture(20, 30, len(name))))
    (tmp_path / "l.csv").write_text("label,path\ncat,a.jpg\nant,x/b c.jpg\n")
    source = open_source(tmp_path / "l.csv")
    assert list(source.keys) == ["a", "x/b%20c"] and list(source.labels) == [1, 0]
    assert list(source.class_names) == ["ant", "cat"] and source.read(1) == (tmp_path / "x/b c.jpg").read_bytes()
    lines = [{"path": "a.jpg", "label": 5, "key": "k1"}, {"path": str(tmp_path / "x/b c.jpg"), "label": 0, "key": "k2"}]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    source = open_source(tmp_path / "l.jsonl")
    assert isinstance(source, FileList) and list(source.keys) == ["k1", "k2"] and list(source.labels) == [5, 0]
    assert len(source.class_names) == 6 and reinforced(source, tmp_path / "out", keep_bytes=True).image(
        0
    ) == source.read(0)
    for name, text, message in (
        ("e.csv", "path,label\n", "lists no images"),
        ("f.csv", "file,label\na.jpg,1\n", "line 2"),
        ("g.jsonl", '{"path": "a.jpg", "label": 1}\n{', "line 2"),
        ("h.csv", "path,label\na.jpg,\n", "line 2"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(dali_dr.ShardError, match=message):
            open_source(tmp_path / name)
    with pytest.raises(dali_dr.ShardError, match="cannot be read"):
        open_source("/no/such/list.csv")


def test_tars_that_lack_something_are_told(tmp_path: Path) -> None:
    jpeg = encode_jpeg(picture(20, 20, 0))
    cases: dict[str, list[tuple[str, bytes]]] = {
        "a label": [("k.jpg", jpeg)],
        "one image": [("k.cls", b"1")],
        "want a class id": [("k.jpg", jpeg), ("k.cls", b"[1, 2]")],
        "class id": [("k.jpg", jpeg), ("k.json", b'{"labels": 1}')],
        "holds no samples": [],
    }
    for number, (message, members) in enumerate(cases.items()):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as archive:
            for name, data in members:
                add(archive, name, data)
        with pytest.raises(dali_dr.ShardError, match=message):
            WebDatasetTars.scan([tmp_path / f"{number}.tar"])
    with pytest.raises(dali_dr.ShardError, match=r"absent.*tar"):
        open_source(str(tmp_path / "absent*.tar"))


def test_files_of_one_stem_get_keys_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    for suffix, kind in (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")):
        Image.fromarray(picture(20, 20, 1)).save(tmp_path / "c" / f"a.{suffix}", kind)
    source = ImageFolder.scan(tmp_path)
    assert list(source.keys) == ["c/a", safe_key("c/a.png"), safe_key("c/a.webp")] == ["c/a", "c/a%2Epng", "c/a%2Ewebp"]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16(pixels: np.ndarray, color: int) -> bytes:
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def formats() -> dict[str, bytes]:
    rgb, alpha = picture(40, 53, 0), picture(40, 53, 1)[..., :1]
    grey, rgba = rgb[..., :1], np.concatenate([rgb, alpha], 2)
    palette = Image.fromarray(rgb).quantize(64)

    def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    first, second = Image.fromarray(rgb), Image.fromarray(255 - rgb)
    return {
        "png": encoded(first, "PNG"),
        "png grey": encoded(Image.fromarray(grey[..., 0]), "PNG"),
        "png grey alpha": encoded(Image.fromarray(np.concatenate([grey, alpha], 2), "LA"), "PNG"),
        "png alpha": encoded(Image.fromarray(rgba), "PNG"),
        "png palette": encoded(palette, "PNG"),
        "png palette of 16": encoded(first.quantize(16), "PNG", bits=4),
        "png palette, one clear": encoded(palette, "PNG", transparency=3),
        "png one colour clear": encoded(first, "PNG", transparency=tuple(rgb[0, 0].tolist())),
        "png of one bit": encoded(Image.fromarray(grey[..., 0] > 127), "PNG"),
        "png animation": encoded(first, "PNG", save_all=True, append_images=[second]),
        "webp": encoded(first, "WEBP"),
        "webp lossless": encoded(first, "WEBP", lossless=True),
        "webp alpha": encoded(Image.fromarray(rgba), "WEBP"),
        "webp lossless alpha": encoded(Image.fromarray(rgba), "WEBP", lossless=True),
        "webp animation": encoded(first, "WEBP", save_all=True, append_images=[second]),
    }


@pytest.mark.parametrize("name", formats())
def test_views_of_every_format_are_pillows(name: str, tmp_path: Path) -> None:
    """Alpha is left out, not blended; of an animation, the first picture counts: as Pillow's convert("RGB")."""
    data = formats()[name]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / f"a.{name.split()[0]}").write_bytes(data)
    source = ImageFolder.scan(tmp_path)
    dataset = reinforced(source, tmp_path / "out", views=6)
    assert dataset.image(0) == data  # as it is
    image = Image.open(io.BytesIO(data)).convert("RGB")
    spec, stored = dataset.spec, dataset.reinforcements(0)
    expected = np.stack([replay_pillow(image, stored, row, spec) for row in range(6)])
    assert np.array_equal(np.stack(list(replay_views(dataset, 0, range(6)))), expected)
    loader = dali_dr.ReinforcedIterator(
        dataset, batch_size=1, device="cpu", dtype="uint8", layout="HWC", with_index=True, num_threads=1
    )
    for _ in range(3):  # decoding the crop alone
        for (batch,) in loader:
            assert np.array_equal(batch["data"][0].numpy(), expected[int(batch["view"][0])])
    drawn = draw(spec, seed=0, key="c/a", views=range(6), image_height=image.height, image_width=image.width)
    assert {tuple(c) for c in drawn.crop.tolist()} == {tuple(c) for c in stored.crop.tolist()}


@pytest.mark.parametrize("color", [0, 2, 6])
def test_sixteen_bits_are_refused(color: int) -> None:
    """Decoders cut or round them differently: Pillow's and DALI's differ in a quarter of the values."""
    channels = {0: 1, 2: 3, 6: 4}[color]
    data = png16(np.random.default_rng(0).integers(0, 1 << 16, (20, 30, channels)), color)
    assert Image.open(io.BytesIO(data)).size == (30, 20)
    with pytest.raises(ValueError, match="16 bits"):
        image_info(data)


def test_cli_of_sidecars_subset_merge_and_verify(
    image_tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dali_dr._torchvision import load_torchvision

    load_torchvision()
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "w.pth")
    teacher = f"test_vit@{tmp_path / 'w.pth'}"
    common = ["--teacher", teacher, "--size", "64", "--spec", "rrc", "--quiet", "--json", "--threads", "1"]
    made = []
    for seed in ("0", "1"):
        out = tmp_path / f"d{seed}"
        arguments = ["reinforce", "--input", f"{image_tars}/*-1.tar", "--out", str(out), "--sidecar", "--seed", seed]
        assert main([*arguments, "--views", "2", "--topk", "3", "--pool", "3", "--select", "kmeans", *common]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["images"] == 5 and facts["image_tars"] == 1 and 0 < facts["teacher_utilisation"] <= 1
        made.append(str(out))
    assert main(["merge", *made, "--out", str(tmp_path / "m"), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["views"] == 4
    assert main(["subset", str(tmp_path / "m"), "--out", str(tmp_path / "s"), "--views", "3", "--topk", "2",
                 "--images", "3", "--choice", "even", "--json", "--quiet"]) == 0  # fmt: skip
    facts = json.loads(capsys.readouterr().out)
    assert (facts["images"], facts["views"], facts["topk"]) == (3, 3, 2)
    check = ["verify", str(tmp_path / "s"), "--samples", "9", "--json", "--quiet"]
    assert main([*check, "--teacher", teacher]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] and told["teacher"]["kl_mean"] < 1e-3 and told["teacher"]["views"] == 9
    assert main(["subset", str(tmp_path / "m"), "--out", str(tmp_path / "n"), "--views", "9", "--quiet"]) == 2
    assert main(["merge", made[0], made[0], "--out", str(tmp_path / "n"), "--quiet"]) == 2
    with pytest.raises(SystemExit, match="2"):
        main(["reinforce", "--out", "x", "--teacher", "y"])
    for command in ("subset", "merge"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
