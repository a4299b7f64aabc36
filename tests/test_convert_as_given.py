"""What people give `dali-dr convert`: images of other formats, lists from pipes, archives twice, folders in each other."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from convert_inputs import in_order, ml_dr, photos, sizes_of, stored
from PIL import Image

from dali_dr.cli import main
from dali_dr.convert.order import Ordered
from dali_dr.errors import ConvertError
from dali_dr.shards.dataset import Dataset
from dali_dr.sources import ImageFolder

IMAGES = 6


def convert(archive: object, images: object, out: Path, *more: object) -> int:
    words = ["convert", "ml-dr", archive, "--images", images, "--out", out, "--quiet", *more]
    return main([str(word) for word in words])


def test_images_of_other_formats_are_counted_and_stored_as_png(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """torchvision's ImageFolder counts a .bmp, so that archives have files of it."""
    images = photos(tmp_path / "images", IMAGES)
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8))
    pixels.save(images / "n02" / "a.bmp")
    archive = stored(ml_dr(sizes_of(images)), tmp_path / "rd", "tar.gz", shuffle=2)
    assert convert(archive, images, tmp_path / "out") != 0
    assert "--convert takes them" in capsys.readouterr().err
    for out, more in ((tmp_path / "out", []), (tmp_path / "again", ["--no-decode-check"])):
        assert convert(archive, images, out, "--convert", *more) == 0
        data = Dataset(out)
        number = list(data.keys).index("n02/a")
        assert in_order(images)[number].name == "a.bmp"
        assert data.image_size(number) == (70, 90) and len(data) == IMAGES + 1
        assert data.image(number).startswith(b"\x89PNG")
        assert Image.open(tmp_path / "images/n02/a.bmp").tobytes() == pixels.tobytes()
    assert convert(archive, images, tmp_path / "dry", "--convert", "--dry-run") == 0
    assert convert(archive, images, tmp_path / "side", "--convert", "--sidecar") != 0
    assert "leave one of the two out" in capsys.readouterr().err


def test_a_list_may_come_from_a_pipe_and_begin_with_a_mark(tmp_path: Path) -> None:
    source = ImageFolder.scan(photos(tmp_path / "images", IMAGES))
    text = "\r\n".join(f"{key}.JPEG" for key in reversed(source.keys))
    plain = tmp_path / "order.txt"
    plain.write_bytes(b"\xef\xbb\xbf" + text.encode())
    wanted = list(reversed(source.keys))
    assert list(Ordered(source, plain).keys) == wanted
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    try:
        assert list(Ordered(source, Path(f"/dev/fd/{reading}")).keys) == wanted
    finally:
        os.close(reading)


def test_a_key_that_is_written_otherwise_is_told_with_its_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = photos(tmp_path / "images", 3)
    odd = images / "n01" / "b c.d.JPEG"
    shutil.copy(images / "n01" / "n01_0.JPEG", odd)
    source = ImageFolder.scan(images)
    (tmp_path / "order.txt").write_text("\n".join(key for key in source.keys if "%" not in key))
    with pytest.raises(ConvertError, match=r"and not n01/b%20c.*b c\.d\.JPEG: it must name them all"):
        Ordered(source, tmp_path / "order.txt")
    archive = stored(ml_dr([(500, 500)] * 4), tmp_path / "rd", "tar")
    assert convert(archive, images, tmp_path / "out") != 0
    assert f"{odd}) of rd" in capsys.readouterr().err


@pytest.mark.parametrize("kinds", [("folder", "tar"), ("tar", "tar.gz"), ("tar.gz", "folder"), ("tar.gz", "tar.gz")])
def test_the_same_files_in_two_containers_are_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kinds: tuple[str, str]
) -> None:
    images = photos(tmp_path / "images", IMAGES)
    files = ml_dr(sizes_of(images))
    one, other = (stored(files, tmp_path / f"rd{n}", kind, shuffle=n) for n, kind in enumerate(kinds))
    words = ["convert", "ml-dr", str(one), str(other), "--images", str(images), "--out", str(tmp_path / "out")]
    assert main([*words, "--quiet"]) != 0
    assert f"{other}: holds the same files as {one}" in capsys.readouterr().err
    third = stored(ml_dr(sizes_of(images), seed=1), tmp_path / "rd3", "tar.gz")
    words[3] = str(third)
    assert main([*words, "--quiet"]) == 0
    assert len(Dataset(tmp_path / "out").reinforcements(0).crop) == 6


def test_the_data_set_does_not_lie_among_the_files_of_an_archive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = photos(tmp_path / "images", IMAGES)
    archive = stored(ml_dr(sizes_of(images)), tmp_path / "rd", "folder")
    for out in (archive, archive / "out"):
        assert convert(archive, images, out) != 0
        assert "choose another --out" in capsys.readouterr().err
        assert not list(tmp_path.rglob("dataset.json"))
    (archive / "notes.txt").write_text("mine")
    assert convert(archive, images, tmp_path / "out") != 0
    said = capsys.readouterr().err
    assert str(archive) in said and "notes.txt': want NUMBER.pth.tar" in said


def test_dry_run_says_nothing_of_imagenet_by_few_views(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = photos(tmp_path / "images", 2)
    for views, told in ((3, False), (50, True)):
        archive = stored(ml_dr(sizes_of(images), views=views), tmp_path / f"rd{views}", "tar")
        assert convert(archive, images, tmp_path / "out", "--dry-run", "--json") == 0
        hours = [one["hours"] for one in json.loads(capsys.readouterr().out)["imagenet"]]
        assert len(hours) == 4 and all((hour is not None) == told for hour in hours)
        assert convert(archive, images, tmp_path / "out", "--dry-run") == 0
        assert ("so few views" in capsys.readouterr().out) != told
