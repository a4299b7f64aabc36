"""Tiled JPEGs in data sets: what is stored shows what the source shows, is counted, and hides no change of the source."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from conftest import encode_cmyk, encode_jpeg, picture, write_files
from PIL import Image
from test_changed_sources import interrupted
from test_reinforce import generation
from test_shards_write import CLASSES, SPEC, views
from writing import snapshot

import dali_dr
from dali_dr.cli import main
from dali_dr.errors import ShardError
from dali_dr.images.judge import Judge
from dali_dr.images.tiling import tile
from dali_dr.loader.graph import view_pipeline
from dali_dr.pack import pack
from dali_dr.reinforce import generate as generate_module
from dali_dr.reinforce.run import reinforce
from dali_dr.shards.manifest import Manifest, checksum_of
from dali_dr.shards.sample import Sample
from dali_dr.shards.verify import verify
from dali_dr.shards.write import write_shards
from dali_dr.sources import ImageFolder, open_source

RESTARTS = b"\xff\xdd\x00\x04"  # the marker that only a JPEG with restart intervals has
GOLDEN = Path(__file__).resolve().parent / "golden" / "sets"
TILED = {"a/photo.jpg", "a/progressive.jpg", "a/grey.jpg", "b/wide.jpg", "b/tall.jpg"}


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


FILES: dict[str, bytes] = {
    "a/photo.jpg": encode_jpeg(picture(120, 160, 0)),
    "a/progressive.jpg": encode_jpeg(picture(90, 200, 1), progressive=True, subsampling=0),
    "a/grey.jpg": encode_jpeg(picture(77, 131, 2), mode="L"),
    "a/small.jpg": encode_jpeg(picture(16, 16, 3)),
    "b/wide.jpg": encode_jpeg(picture(20, 333, 4)),
    "b/tall.jpg": encode_jpeg(picture(300, 40, 5), subsampling=1),
    "b/cmyk.jpg": encode_cmyk(6),
    "b/lossless.png": png(picture(40, 50, 7)),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_files(tmp_path / "photos", FILES)


def packed(folder: Path, out: Path, **options: Any) -> Manifest:
    options = {"samples_per_shard": 3, "progress": False, "threads": 2, **options}
    return pack(ImageFolder.scan(folder), out, **options).manifest


def shown(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def stored(out: Path) -> dict[str, bytes]:
    """The image files of a data set as tarfile finds them, by name."""
    found = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as archive:
            for info in archive:
                if info.name.endswith((".jpg", ".png", ".webp")):
                    file = archive.extractfile(info)
                    assert file is not None
                    found[info.name] = file.read()
    return found


def check_tiled(out: Path, files: dict[str, bytes], tiled: set[str]) -> None:
    """Just ``tiled`` have restart intervals, all show what ``files`` show, and dataset.json counts them."""
    held = stored(out)
    assert {name for name, data in held.items() if RESTARTS in data} == tiled
    for name, data in files.items():
        same = held.get(name, held.get(name.replace(".jpg", ".png")))
        assert same is not None and np.array_equal(shown(same), shown(data)), name
        assert name in tiled or name == "b/cmyk.jpg" or same == data
    tiles = json.loads((out / "dataset.json").read_bytes())["tiles"]
    assert tiles["images"] == len(tiled) and sum(tiles["kept"].values()) == len(files) - len(tiled)
    assert tiles["bytes_before"] == sum(len(files[name]) for name in tiled)
    assert tiles["bytes_after"] == sum(len(held[name]) for name in tiled)
    assert verify(out, images=True, progress=False).problems == []


def test_pack_stores_tiles_and_says_so(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed(folder, tmp_path / "out")
    check_tiled(tmp_path / "out", FILES, TILED)
    changed = (tmp_path / "out" / "report" / "changed.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in changed] == ["b/cmyk"]  # a tiled one is not a changed one
    rows = np.frombuffer((tmp_path / "out" / "report" / "source.bin").read_bytes()[16:], "<u4").reshape(-1, 2)
    order = sorted(FILES)
    assert rows.tolist() == [[google_crc32c.value(FILES[name]), len(FILES[name])] for name in order]
    tiles = Manifest.load(tmp_path / "out").tiles
    assert tiles is not None and tiles.kept == {"it is no JPEG": 2, "it is no larger than a tile": 1}
    assert main(["info", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    percent = 100 * (tiles.bytes_after / sum(len(FILES[name]) for name in TILED) - 1)
    assert f"tiled  5 of 8 images, {percent:+.1f} % bytes\n" in told
    assert "stored as they were  2: it is no JPEG; 1: it is no larger than a tile\n" in told
    assert main(["info", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tiles"]["images"] == 5


def test_bytes_are_kept_on_request(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["pack", str(folder), "--out", str(out), "--keep-bytes", "--quiet"]) == 0
    held = stored(out)
    assert all(held[name] == data for name, data in FILES.items() if name != "b/cmyk.jpg")
    assert Manifest.load(out).tiles is None and not (out / "report" / "source.bin").exists()
    assert "tiled  none" in capsys.readouterr().out
    with pytest.raises(ShardError, match="keep_bytes was True, now False"):
        packed(folder, out, samples_per_shard=1000)
    packed(folder, tmp_path / "tiled")
    with pytest.raises(ShardError, match="keep_bytes was False, now True"):
        packed(folder, tmp_path / "tiled", keep_bytes=True)


@pytest.mark.parametrize("check", [True, False])
def test_write_shards_stores_the_same(tmp_path: Path, check: bool) -> None:
    names = [name for name in sorted(FILES) if name != "b/cmyk.jpg"]  # which pack would convert
    samples = [Sample(name.rpartition(".")[0], FILES[name], 0) for name in names]
    write_files(tmp_path / "photos", {name: FILES[name] for name in names})
    packed(tmp_path / "photos", tmp_path / "packed")
    options = {"spec": None, "num_classes": 1, "check_images": check, "progress": False}
    write_shards(samples, tmp_path / "out", **options)
    check_tiled(tmp_path / "out", {name: FILES[name] for name in names}, TILED)
    assert stored(tmp_path / "out") == stored(tmp_path / "packed")


def test_what_is_not_judged_and_cannot_be_tiled_is_stored_as_it_was(tmp_path: Path) -> None:
    cut = FILES["a/photo.jpg"][:-500]
    write_shards(
        [Sample("cut", cut, 0)], tmp_path / "out", spec=None, num_classes=1, check_images=False, progress=False
    )
    assert stored(tmp_path / "out") == {"cut.jpg": cut}
    tiles = Manifest.load(tmp_path / "out").tiles
    assert tiles is not None and tiles.images == 0 and sum(tiles.kept.values()) == 1


def without_report(found: dict[str, Any]) -> dict[str, Any]:
    return {name: data for name, data in found.items() if not name.startswith("report")}


@pytest.mark.parametrize("shards", [0, 1, 2])
def test_an_interrupted_run_ends_in_the_same_bytes(folder: Path, tmp_path: Path, shards: int) -> None:
    packed(folder, tmp_path / "whole")
    interrupted(lambda: packed(folder, tmp_path / "out"), shards)
    with pytest.raises(ShardError, match="keep_bytes was False, now True"):
        packed(folder, tmp_path / "out", keep_bytes=True)
    packed(folder, tmp_path / "out")
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


Lost = Callable[[Path], object]
LOSSES: dict[str, Lost] = {
    "nothing": lambda out: None,
    "the table": lambda out: (out / "report" / "source.bin").unlink(),
    "a byte of it": lambda out: (out / "report" / "source.bin").write_bytes(
        (out / "report" / "source.bin").read_bytes()[:-1] + b"\0"
    ),
    "its end": lambda out: (out / "report" / "source.bin").write_bytes(
        (out / "report" / "source.bin").read_bytes()[:-8]
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_source_is_compared_with_what_was_made_of_it(folder: Path, tmp_path: Path, loss: str) -> None:
    """The table of the source's checksums serves; where it is lost, images are tiled again."""
    out = tmp_path / "out"
    packed(folder, out)
    LOSSES[loss](out)
    before = without_report(snapshot(out))
    packed(folder, out)
    for name in sorted(TILED | {"a/small.jpg", "b/lossless.png", "b/cmyk.jpg"}):
        data = shown(FILES[name]).copy()
        data[0, 0] ^= 255
        changed = png(data) if name.endswith("png") else encode_jpeg(data)
        (folder / name).write_bytes(changed)
        with pytest.raises(ShardError, match=f"1 image with other bytes \\({name.rpartition('.')[0]}\\)"):
            packed(folder, out)
        (folder / name).write_bytes(FILES[name])
    packed(folder, out)
    assert without_report(snapshot(out)) == before


def test_lost_facts_of_a_shard_cost_nothing_but_what_tiles_cost(folder: Path, tmp_path: Path) -> None:
    packed(folder, tmp_path / "whole")
    out = tmp_path / "out"
    interrupted(lambda: packed(folder, out), 2)
    (out / ".shard-000000.tar.json").unlink()
    changed = FILES["a/grey.jpg"][:-20] + b"\x55" + FILES["a/grey.jpg"][-19:]
    (folder / "a" / "grey.jpg").write_bytes(changed)
    with pytest.raises(ShardError, match="a/grey"):
        packed(folder, out)
    (folder / "a" / "grey.jpg").write_bytes(FILES["a/grey.jpg"])
    manifest, whole = packed(folder, out), Manifest.load(tmp_path / "whole")
    assert stored(out) == stored(tmp_path / "whole")
    assert manifest.tiles is not None and manifest.tiles.bytes_before is None and manifest.tiles.ratio is None
    assert (
        whole.tiles is not None
        and dataclasses.replace(manifest.tiles, bytes_before=whole.tiles.bytes_before) == whole.tiles
    )
    packed(folder, out)


def test_what_is_refused_after_it_was_tiled_is_known_by_its_source(tmp_path: Path) -> None:
    samples = [Sample("good", FILES["a/photo.jpg"], 0), Sample("label", FILES["b/wide.jpg"], 7)]

    def write() -> None:
        write_shards(samples, tmp_path / "out", spec=None, num_classes=2, on_error="skip", progress=False)

    write()
    line = json.loads((tmp_path / "out" / "report" / "skipped.jsonl").read_text())
    assert (line["crc32c"], line["bytes"]) == (google_crc32c.value(FILES["b/wide.jpg"]), len(FILES["b/wide.jpg"]))
    write()
    samples[1] = dataclasses.replace(samples[1], image_bytes=FILES["b/tall.jpg"])
    with pytest.raises(ShardError, match=r"with other bytes \(label\)"):
        write()


def test_a_data_set_of_version_2_is_still_that_of_its_source(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    packed(folder, out, keep_bytes=True)
    data = json.loads((out / "dataset.json").read_bytes())
    del data["tiles"], data["decoder"]
    data |= {"format_version": 2, "checksum": ""}
    (out / "dataset.json").write_text(json.dumps({**data, "checksum": checksum_of(data)}))
    before = snapshot(out)
    assert packed(folder, out, keep_bytes=True).format_version == 2
    with pytest.raises(ShardError, match="keep_bytes was True, now False"):
        packed(folder, out)
    assert snapshot(out) == before
    check = dali_dr.retile(out, tmp_path / "tiled", progress=False)
    assert check.format_version == 3 and check.tiles is not None and check.tiles.images == len(TILED)
    packed(folder, out, force=True)
    check_tiled(out, FILES, TILED)


def test_force_removes_the_table_too(folder: Path, tmp_path: Path) -> None:
    packed(folder, tmp_path / "out")
    packed(folder, tmp_path / "out", keep_bytes=True, force=True)
    packed(folder, tmp_path / "kept", keep_bytes=True)
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "kept")


# --- verify


@pytest.mark.parametrize("change", [{"images": 6, "kept": {"it is no JPEG": 2}}, {"bytes_after": 7}])
def test_verify_counts_tiled_images(folder: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    out = tmp_path / "out"
    packed(folder, out)
    data = json.loads((out / "dataset.json").read_bytes())
    data["tiles"] |= change
    (out / "dataset.json").write_text(json.dumps({**data, "checksum": checksum_of(data)}))
    problems = verify(out, progress=False).problems
    assert len(problems) == 1 and "tiles: dataset.json says" in problems[0]


# --- generation


def reinforced(folder: Path, out: Path, **changes: Any) -> dali_dr.Dataset:
    options = {name: changes.pop(name) for name in ("sidecar", "on_error") if name in changes}
    g = generation(num_threads=1, **{"num_views": 3, **changes})
    source = open_source(str(folder)) if "sidecar" in options else ImageFolder.scan(folder)
    reinforce(source, out, g, num_classes=6, samples_per_shard=3, progress=False, **options)
    return dali_dr.Dataset(out)


def test_generation_stores_tiles_and_the_same_views(folder: Path, tmp_path: Path) -> None:
    tiled = reinforced(folder, tmp_path / "tiled")
    check_tiled(tmp_path / "tiled", FILES, TILED)
    kept = reinforced(folder, tmp_path / "kept", keep_bytes=True)
    assert kept.manifest.tiles is None and stored(kept.path)["a/photo.jpg"] == FILES["a/photo.jpg"]
    assert [tiled.record_bytes(n) for n in range(8)] == [kept.record_bytes(n) for n in range(8)]
    with pytest.raises(ShardError, match="keep_bytes was True, now False"):
        reinforced(folder, tmp_path / "kept")


def test_a_partner_is_not_tiled_in_vain(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = [0]

    def counted(data: bytes, before: int | None) -> Any:
        count[0] += 1
        return tile(data, before)

    monkeypatch.setattr("dali_dr.images.admit.tile", counted)
    spec = dali_dr.AugmentationSpec.preset("rrc+mixing", size=16)
    reinforced(folder, tmp_path / "out", spec=spec, num_views=8, on_error="skip")
    assert count[0] == len(FILES)
    check_tiled(tmp_path / "out", FILES, TILED)


def test_images_of_a_sidecar_set_stay_as_they_are(tmp_path: Path) -> None:
    names = sorted(TILED)
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for name in names:
            for suffix, data in (("jpg", FILES[name]), ("cls", b"1")):
                info = tarfile.TarInfo(f"{name.rpartition('.')[0]}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    before = (tmp_path / "t.tar").read_bytes()
    sidecar = reinforced(tmp_path / "t.tar", tmp_path / "out", sidecar=True)
    assert (tmp_path / "t.tar").read_bytes() == before and sidecar.manifest.tiles is None
    assert sidecar.manifest.decoder == "libjpeg-turbo"
    dali_dr.retile(sidecar, tmp_path / "tiled", progress=False)
    check_tiled(tmp_path / "tiled", {name: FILES[name] for name in names}, TILED)
    tiled = dali_dr.Dataset(tmp_path / "tiled")
    assert not tiled.manifest.image_tars and tiled.manifest.decoder == "libjpeg-turbo"
    for key in tiled.keys:
        ours, theirs = tiled.find(key), sidecar.find(key)
        assert tiled.record_bytes(ours) == sidecar.record_bytes(theirs) and tiled.label(ours) == 1


def test_the_decoder_is_part_of_a_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reinforced(folder, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "dataset.json").read_bytes())["decoder"] == "libjpeg-turbo"
    monkeypatch.setattr(generate_module.Generation, "decoder", property(lambda self: "nvJPEG"))
    with pytest.raises(ShardError, match="decoder was 'libjpeg-turbo', now 'nvJPEG'"):
        reinforced(folder, tmp_path / "out")


def test_a_decoder_on_a_gpu_wants_the_views_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="decode_device"):
        generation(decode_device="gpu")
    with pytest.raises(ValueError, match="decode_device"):
        view_pipeline(
            list, batch_size=1, device="cpu", device_id=None, num_threads=1, size=(8, 8), stored_size=8,
            interpolation="bilinear", decode_device="gpu",
        )  # fmt: skip
    words = ["reinforce", str(tmp_path / "i"), "--out", str(tmp_path / "o"), "--teacher", "x", "--device", "cpu"]
    assert main([*words, "--decode-device", "gpu"]) == 2
    assert "--decode-device gpu: wants --device gpu" in capsys.readouterr().err


def test_the_views_decoder_is_told(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reinforced(folder, tmp_path / "out")
    assert main(["info", str(tmp_path / "out")]) == 0
    assert "decoder of the teacher's views  libjpeg-turbo\n" in capsys.readouterr().out


# --- other shapes


def test_subset_and_merge_leave_tiles_as_they_are(folder: Path, tmp_path: Path) -> None:
    first = reinforced(folder, tmp_path / "first")
    second = reinforced(folder, tmp_path / "second", seed=1)
    kept = reinforced(folder, tmp_path / "kept", keep_bytes=True)
    merged = dali_dr.merge(first, second, tmp_path / "merged", progress=False)
    fewer = dali_dr.subset(first, tmp_path / "fewer", views=2, progress=False)
    assert stored(tmp_path / "merged") == stored(tmp_path / "fewer") == stored(first.path)
    assert merged.tiles == fewer.tiles == first.manifest.tiles and fewer.decoder == "libjpeg-turbo"
    some = dali_dr.subset(first, tmp_path / "some", images=["a/photo", "b/tall", "b/lossless"], progress=False)
    assert some.tiles is not None and some.tiles.images == 2
    assert some.tiles.bytes_before == len(FILES["a/photo.jpg"]) + len(FILES["b/tall.jpg"])
    assert dali_dr.subset(kept, tmp_path / "plain", views=2, progress=False).tiles is None
    assert stored(tmp_path / "plain") == stored(kept.path)
    (first.path / "report" / "source.bin").unlink()
    lost = dali_dr.subset(first, tmp_path / "lost", views=2, progress=False).tiles
    assert lost is not None and lost.images == 5 and lost.bytes_before is None


# --- retile


def test_retile_changes_images_alone(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = reinforced(folder, tmp_path / "kept", keep_bytes=True)
    words = ["retile", str(kept.path), "--out", str(tmp_path / "out"), "--quiet", "--threads", "2"]
    assert main(words) == 0
    assert "tiled  5 of 8 images" in capsys.readouterr().out
    check_tiled(tmp_path / "out", FILES, TILED)
    ours = dali_dr.Dataset(tmp_path / "out")
    assert list(ours.keys) == list(kept.keys) and np.array_equal(ours.labels, kept.labels)
    assert [ours.record_bytes(n) for n in range(8)] == [kept.record_bytes(n) for n in range(8)]
    assert (
        ours.manifest.extra["made_by"] == [{"retile": {"images": 8}}] and ours.manifest.teacher == kept.manifest.teacher
    )
    before = snapshot(tmp_path / "out")
    assert main(words) == 0 and snapshot(tmp_path / "out") == before
    assert main(["retile", str(tmp_path / "out"), "--out", str(tmp_path / "again"), "--quiet"]) == 2
    assert "tiled already (5 of 8 images" in capsys.readouterr().err and not (tmp_path / "again").exists()
    assert main(["retile", str(kept.path), "--out", str(kept.path), "--quiet"]) == 2
    other = reinforced(folder, tmp_path / "other", keep_bytes=True, seed=3)
    words[1] = str(other.path)
    assert main(words) == 2 and "other settings" in capsys.readouterr().err


def test_an_interrupted_retile_goes_on(folder: Path, tmp_path: Path) -> None:
    kept = reinforced(folder, tmp_path / "kept", keep_bytes=True)
    dali_dr.retile(kept, tmp_path / "whole", progress=False)
    for shards in (1, 2):
        out = tmp_path / f"out{shards}"
        interrupted(lambda out=out: dali_dr.retile(kept, out, progress=False), shards)
        dali_dr.retile(kept, out, progress=False)
        assert snapshot(out) == snapshot(tmp_path / "whole")


@pytest.mark.parametrize("name", [path.name for path in sorted(GOLDEN.glob("v[12]-*")) if path.is_dir()])
def test_data_sets_of_earlier_versions_are_retiled(name: str, tmp_path: Path) -> None:
    before = dali_dr.Dataset(GOLDEN / name)
    assert dali_dr.retile(before, tmp_path / "out", progress=False).format_version == 3
    after = dali_dr.Dataset(tmp_path / "out")
    assert list(after.keys) == list(before.keys) and np.array_equal(after.labels, before.labels)
    for number in range(len(before)):
        assert np.array_equal(shown(after.image(number)), shown(before.image(number)))
        if before.num_views:
            assert after.reinforcements(number) == before.reinforcements(number)
    assert verify(tmp_path / "out", images=True, progress=False).problems == []


@pytest.mark.parametrize("kind", ["image", "record"])
def test_no_damage_is_copied(folder: Path, tmp_path: Path, kind: str) -> None:
    kept = reinforced(folder, tmp_path / "kept", keep_bytes=True)
    path, offset = kept.place_of(4, kind)
    data = bytearray(path.read_bytes())
    data[offset + int(kept.index.entry(4)[f"{kind}_bytes"]) - 60] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"a/small|b/"):
        dali_dr.retile(kept, tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_ready_record_must_be_of_its_image_and_spec(tmp_path: Path) -> None:
    write = {"num_classes": CLASSES, "progress": False}
    write_shards([Sample("a", FILES["a/photo.jpg"], 0, views(0, 120, 160))], tmp_path / "one", spec=SPEC, **write)
    record = dali_dr.Dataset(tmp_path / "one").record_bytes(0)
    again = Sample("a", FILES["a/photo.jpg"], 0, record=record)
    write_shards([again], tmp_path / "two", spec=SPEC, **write)
    assert snapshot(tmp_path / "two") == snapshot(tmp_path / "one")
    for sample, options, match in (
        (dataclasses.replace(again, image_bytes=FILES["b/wide.jpg"]), {"spec": SPEC}, "size of the image"),
        (again, {"spec": dali_dr.AugmentationSpec.preset("rrc+ra+re", 48)}, "size of views"),
        (again, {"spec": SPEC, "probabilities": "float16"}, "encoding"),
        (again, {"spec": None}, "spec is None"),
        (dataclasses.replace(again, record=record[:-9] + bytes(9)), {"spec": SPEC}, "record"),
        (dataclasses.replace(again, record=b""), {"spec": SPEC}, "record"),
    ):
        with pytest.raises(ShardError, match=match):
            write_shards([sample], tmp_path / "bad", **write, **options)
        shutil.rmtree(tmp_path / "bad")


def test_judging_and_tiling_share_one_pool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run of write_shards has one judge, whose threads tile too."""
    made = []
    init = Judge.__init__

    def noted(self: Judge, **options: Any) -> None:
        made.append(self)
        init(self, **options)

    monkeypatch.setattr(Judge, "__init__", noted)
    samples = [Sample(f"s{n}", FILES["a/photo.jpg"], 0) for n in range(70)]
    write_shards(samples, tmp_path / "out", spec=None, num_classes=1, progress=False)
    tiles = Manifest.load(tmp_path / "out").tiles
    assert len(made) == 1 and tiles is not None and tiles.images == 70
