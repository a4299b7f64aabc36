"""dali-dr pack: what is in the data set, what is told of the rest, and beginning anew; against Pillow and tarfile."""

from __future__ import annotations

import io
import json
import logging
import shutil
import tarfile
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from conftest import encode_cmyk, encode_jpeg, picture, write_files
from PIL import Image
from test_shards_write import SPEC, sample
from writing import snapshot

import dali_dr
from dali_dr.cli import main
from dali_dr.errors import ShardError
from dali_dr.pack import pack
from dali_dr.shards import files as files_module
from dali_dr.shards.report import FIRST
from dali_dr.shards.verify import verify
from dali_dr.shards.write import write_shards
from dali_dr.sources import ImageFolder, WebDatasetTars


def bmp(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(20, 30, seed)).save(buffer, "BMP")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Two classes: good images, a CMYK JPEG, which is converted, and three that cannot be stored."""
    found = {f"c{n % 2}/p{n:02d}.jpg": encode_jpeg(picture(40, 50 + n, n)) for n in range(12)}
    found["c0/cmyk.jpg"] = encode_cmyk(20)
    found["c1/cut.jpg"] = found["c1/p05.jpg"][:-200]
    found["c1/empty.jpg"] = b""
    found["c0/text.jpg"] = b"this is no image, whatever it is called"
    return found


@pytest.fixture
def photos(files: dict[str, bytes], tmp_path: Path) -> Path:
    return write_files(tmp_path / "photos", files)


def run(*arguments: Any) -> int:
    return main(["pack", *map(str, arguments), "--quiet"])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_is_refused_and_what_is_changed_is_reported(
    photos: Path, files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(photos, "--out", out, "--on-error", "skip", "--json", "--samples-per-shard", 4) == 0
    told = capsys.readouterr()
    figures = json.loads(told.out)
    assert figures["images"] == 13 and figures["skipped"] == 3 and figures["taken"] == 16
    assert list(figures["changed"].values()) == [1] and figures["images_per_second"] > 0
    assert "3 images were left out" in told.err and "1 images changed: CMYK" in told.err

    skipped = lines(out / "report" / "skipped.jsonl")
    assert [one["key"] for one in skipped] == ["c0/text", "c1/cut", "c1/empty"]
    for one in skipped:
        data = files[f"{one['key']}.jpg"]
        assert one["path"] == str(photos / f"{one['key']}.jpg") and one["bytes"] == len(data)
        assert one["starts"] == data[:16].hex() and one["crc32c"] == google_crc32c.value(data)
        assert one["reason"] and one["remedy"] and one["label"] == int(one["key"][1])
    (changed,) = lines(out / "report" / "changed.jsonl")
    assert changed["key"] == "c0/cmyk" and changed["path"] == str(photos / "c0" / "cmyk.jpg") and changed["change"]

    stored = dali_dr.Dataset(out)
    assert sorted(stored.keys) == sorted(name[:-4] for name in files if name[3:6] not in ("cut", "emp", "tex"))
    for number, key in enumerate(stored.keys):
        data = files[f"{key}.jpg"]
        ours, theirs = (Image.open(io.BytesIO(one)) for one in (stored.image(number), data))
        assert (ours.format == theirs.format) == (key != "c0/cmyk")
        assert np.array_equal(np.asarray(ours.convert("RGB")), np.asarray(theirs.convert("RGB")))
    assert verify(out, images=True, progress=False).ok


@pytest.mark.parametrize("name", ["c1/cut.jpg", "c0/text.jpg", "c1/empty.jpg"])
def test_the_error_of_raise_says_as_much(
    name: str, photos: Path, files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for other in ("c1/cut.jpg", "c0/text.jpg", "c1/empty.jpg"):
        if other != name:
            (photos / other).unlink()
    assert run(photos, "--out", tmp_path / "out") == 1
    told = capsys.readouterr().err
    assert "Traceback" not in told and name[:-4] in told and str(photos / name) in told
    assert f"{len(files[name])} bytes" in told and files[name][:8].hex() in told and "leave it out" in told
    with pytest.raises(ShardError) as error:
        pack(ImageFolder.scan(photos), tmp_path / "out", progress=False)
    assert error.value.key == name[:-4] and error.value.reason and error.value.remedy


def test_a_file_that_cannot_be_read_is_told_with_its_path(photos: Path, tmp_path: Path) -> None:
    source = ImageFolder.scan(photos)
    (photos / "c0" / "p02.jpg").unlink()
    packed = pack(source, tmp_path / "out", on_error="skip", progress=False)
    one = next(one for one in packed.refused if one.key == "c0/p02")
    assert "No such file" in one.reason and one.remedy and one.path == str(photos / "c0" / "p02.jpg")


def test_ten_are_told_one_by_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    many = {f"c0/bad{n:03d}.jpg": b"nothing" for n in range(40)} | {"c0/good.jpg": encode_jpeg(picture(9, 9, 0))}
    source = ImageFolder.scan(write_files(tmp_path / "photos", many))
    for _ in range(2):  # a second run tells it, too
        caplog.clear()
        with caplog.at_level(logging.WARNING, "dali_dr"):
            packed = pack(source, tmp_path / "out", on_error="skip", progress=False)
        assert len(packed.refused) == 40
        said = [record.getMessage() for record in caplog.records]
        assert sum("bad0" in line for line in said) == FIRST and len(said) == FIRST + 1
        assert "skipped.jsonl" in said[-1]


def test_what_was_left_out_is_an_error_for_raise(photos: Path, tmp_path: Path) -> None:
    source, out = ImageFolder.scan(photos), tmp_path / "out"
    pack(source, out, on_error="skip", progress=False)
    before = snapshot(out)
    with pytest.raises(ShardError, match=r"3 images were left out .*c0/text.*--on-error skip"):
        pack(source, out, progress=False)
    assert snapshot(out) == before


def test_headers_alone(photos: Path, tmp_path: Path) -> None:
    assert run(photos, "--out", tmp_path / "out", "--on-error", "skip", "--no-decode-check") == 0
    assert [one["key"] for one in lines(tmp_path / "out" / "report" / "skipped.jsonl")] == ["c0/text", "c1/empty"]
    assert not verify(tmp_path / "out", images=True, progress=False).ok


def test_another_check_or_limit_is_another_run(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(photos, "--out", out, "--on-error", "skip") == 0
    before = snapshot(out)
    for options, named in (
        (["--no-decode-check"], "extra.decode_check was None, now False"),
        (["--max-pixels", 1000], "extra.max_pixels was None, now 1000"),
        (["--convert"], "extra.convert was None, now True"),
        (["--samples-per-shard", 7], "samples_per_shard was 1000, now 7"),
    ):
        capsys.readouterr()
        assert run(photos, "--out", out, "--on-error", "skip", *options) == 2
        told = capsys.readouterr().err
        assert named in told and "--force" in told and snapshot(out) == before
    (photos / "c2").mkdir()
    (photos / "c2" / "new.jpg").write_bytes(encode_jpeg(picture(9, 9, 1)))
    assert run(photos, "--out", out, "--on-error", "skip") == 2
    assert "class_names is now with 'c2'" in capsys.readouterr().err and snapshot(out) == before


def test_other_formats_are_converted_on_request(
    files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_files(tmp_path / "photos", {"c0/a.jpg": files["c0/p00.jpg"], "c0/b.bmp": bmp(1), "c1/c.bmp": bmp(2)})
    assert run(photos, "--out", tmp_path / "out", "--convert") == 0
    assert "2 images changed: BMP stored as PNG" in capsys.readouterr().err
    stored = dali_dr.Dataset(tmp_path / "out")
    assert list(stored.keys) == ["c0/a", "c0/b", "c1/c"] and stored.labels.tolist() == [0, 0, 1]
    for number, seed in ((1, 1), (2, 2)):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(stored.image(number)))), picture(20, 30, seed))
    before = snapshot(tmp_path / "out")
    assert run(photos, "--out", tmp_path / "out", "--convert") == 0 and snapshot(tmp_path / "out") == before
    (photos / "c1" / "c.bmp").write_bytes(bmp(3))
    assert run(photos, "--out", tmp_path / "out", "--convert") == 2
    assert "1 image with other bytes (c1/c)" in capsys.readouterr().err


def test_tars_are_packed_and_compared(files: dict[str, bytes], tmp_path: Path) -> None:
    def tars(label: int) -> WebDatasetTars:
        with tarfile.open(tmp_path / "in.tar", "w") as file:
            for number in range(5):
                image = files[f"c{number % 2}/p{number:02d}.jpg"]
                for name, data in (
                    (f"k{number}.jpg", image),
                    (f"k{number}.cls", b"%d" % (label if number == 3 else 0)),
                ):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    file.addfile(info, io.BytesIO(data))
        return WebDatasetTars.scan([tmp_path / "in.tar"])

    packed = pack(tars(1), tmp_path / "out", samples_per_shard=2, progress=False)
    assert packed.manifest.images == 5 and packed.taken == 5
    again = pack(tars(1), tmp_path / "out", samples_per_shard=2, progress=False)
    assert again.taken == 0 and again.manifest == packed.manifest
    with pytest.raises(ShardError):
        pack(tars(0), tmp_path / "out", samples_per_shard=2, progress=False)


def test_force_removes_what_is_its_own_and_nothing_else(photos: Path, tmp_path: Path) -> None:
    source, out = ImageFolder.scan(photos), tmp_path / "out"
    pack(source, out, samples_per_shard=2, on_error="skip", progress=False)
    mine = write_files(
        out, {"notes.txt": b"mine", "report/mine.txt": b"mine, too", "shards.tar": b"other", "other-000000.tar": b"x"}
    )
    few = ImageFolder.scan(write_files(tmp_path / "few", {"c0/one.jpg": (photos / "c0" / "p00.jpg").read_bytes()}))
    pack(few, out, force=True, progress=False)
    pack(few, tmp_path / "fresh", progress=False)
    left = snapshot(mine)
    for name in ("notes.txt", "report/mine.txt", "shards.tar", "other-000000.tar"):
        assert left.pop(name) is not None
    assert left == snapshot(tmp_path / "fresh")
    pack(few, tmp_path / "new", force=True, progress=False)  # where there is nothing
    assert snapshot(tmp_path / "new") == left


@pytest.mark.parametrize("finished", [True, False])
def test_force_refuses_shards_that_are_none_of_the_data_set(
    finished: bool, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = ImageFolder.scan(photos), tmp_path / "out"
    pack(source, out, samples_per_shard=2, on_error="skip", progress=False)
    if not finished:
        (out / "dataset.json").unlink()
        state = {"name": "shard", "spec": None}
        (out / ".write_shards.json").write_text(json.dumps(state))
    (out / "shard-000099.tar").write_bytes(b"not a tar at all")
    before = snapshot(out)
    with pytest.raises(ShardError, match=r"shard-000099.tar: is named as the shards"):
        pack(source, out, force=True, progress=False)
    assert snapshot(out) == before


def test_force_refuses_reinforcements(photos: Path, files: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_shards([sample(0, files["c0/p00.jpg"])], out, spec=SPEC, num_classes=12, progress=False)
    before = snapshot(out)
    with pytest.raises(ShardError, match="holds reinforcements"):
        pack(ImageFolder.scan(photos), out, force=True, progress=False)
    assert snapshot(out) == before


def test_force_that_is_stopped_anywhere_is_continued(photos: Path, tmp_path: Path) -> None:
    """By a run with force, and by one without: the old data set is whole, or the new one is made."""
    out, new = tmp_path / "out", ImageFolder.scan(photos)
    old = ImageFolder.scan(write_files(tmp_path / "old", {"c0/one.jpg": encode_jpeg(picture(9, 9, 0))}))
    pack(new, tmp_path / "fresh", samples_per_shard=3, on_error="skip", progress=False)
    whole = snapshot(tmp_path / "fresh")

    class Stopped(BaseException):
        pass

    class Stopping(files_module.System):
        left = 0

        def count(self) -> None:
            Stopping.left -= 1
            if Stopping.left < 0:
                raise Stopped

        def unlink(self, path: Path) -> None:
            self.count()
            super().unlink(path)

        def replace(self, old: Path, new: Path) -> None:
            self.count()
            super().replace(old, new)

        def fsync(self, descriptor: int) -> None:
            self.count()
            super().fsync(descriptor)

    refused = 0
    for at in range(30):
        for force in (True, False):
            shutil.rmtree(out, ignore_errors=True)
            pack(old, out, on_error="skip", progress=False)
            with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
                Stopping.left = at
                patch.setattr(files_module, "system", Stopping())
                pack(new, out, samples_per_shard=3, on_error="skip", force=True, progress=False)
            try:
                keys = list(dali_dr.Dataset(out).keys)
            except ShardError:
                keys = []
            assert keys in ([], ["c0/one"])
            try:
                pack(new, out, samples_per_shard=3, on_error="skip", force=force, progress=False)
            except ShardError:
                assert not force and keys == ["c0/one"]
                refused += 1
            else:
                assert snapshot(out) == whole, (at, force)
    assert refused


@pytest.mark.parametrize("below", ["", "c0/out", "out"])
def test_a_data_set_within_its_own_images_is_refused(
    below: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be a class the next time, and shift the others' numbers."""
    before = snapshot(photos)
    for command in (["pack"], ["reinforce", "--teacher", "none"]):
        assert main([*command, str(photos), "--out", str(photos / below), "--quiet"]) == 2
        assert "choose another --out" in capsys.readouterr().err
    assert snapshot(photos) == before
