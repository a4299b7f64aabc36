"""A compressed archive is converted while it is looked through, so that it inflates once; what comes of it is the same."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from convert_inputs import config, in_order, ml_dr, photos, saved, sizes_of, stored
from PIL import Image

from dali_dr.cli import main
from dali_dr.convert import early, native, published, streams
from dali_dr.convert.work import KEPT_NAME
from dali_dr.shards.dataset import Dataset

IMAGES = 40
VIEWS = 40  # so that archives are larger than what is read of them ahead of need


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("early") / "images", IMAGES)


@pytest.fixture(scope="module")
def files(images: Path) -> dict[str, bytes]:
    return ml_dr(sizes_of(images), views=VIEWS)


def convert(archive: Path, images: Path, out: Path, *more: str, form: str = "ml-dr") -> dict[str, bytes]:
    """Shards and index."""
    words = ["convert", form, str(archive), "--images", str(images), "--out", str(out), "--quiet", *more]
    assert main([*words, "--samples-per-shard", "7"]) == 0
    assert not (out / KEPT_NAME).exists()
    return {path.name: path.read_bytes() for path in out.iterdir() if path.suffix in (".tar", ".idx", ".bin")}


@pytest.fixture(scope="module")
def wanted(images: Path, files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Of a folder of files, each of which is read in its turn."""
    place = tmp_path_factory.mktemp("wanted")
    return convert(stored(files, place / "rd", "folder"), images, place / "out")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Compressed bytes that were read of archives, each time."""
    seen: list[int] = []
    inflated = streams._inflated

    def counted(path: Path, pieces: Any) -> Any:
        mine = len(seen)
        seen.append(0)

        def all_of() -> Any:
            for piece in pieces:
                seen[mine] += len(piece)
                yield piece

        return inflated(path, all_of())

    monkeypatch.setattr(streams, "_inflated", counted)
    monkeypatch.setattr(streams, "_CHUNK", 128)
    monkeypatch.setattr(published, "_BATCH", 1)
    monkeypatch.setattr(published, "_WINDOW", 2)
    return seen


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_an_archive_inflates_once_from_its_configuration_on(
    images: Path, files: dict[str, bytes], wanted: dict[str, bytes], tmp_path: Path, read: list[int], place: str
) -> None:
    names = [name for name in files if name != "config.pth.tar"]
    names = [names[n] for n in np.random.default_rng(1).permutation(len(names))]
    names.insert({"first": 0, "middle": IMAGES // 2, "last": IMAGES}[place], "config.pth.tar")
    archive = stored({name: files[name] for name in names}, tmp_path / "rd", "tar.gz", shuffle=None)
    assert convert(archive, images, tmp_path / "out") == wanted
    size = archive.stat().st_size
    assert read[0] == size
    # What `usual` looks at is one file; the rest is what came before the configuration.
    again = max(read[1:]) / size
    assert {"first": again < 0.2, "middle": 0.4 < again < 0.7, "last": again > 0.9}[place], read


def test_a_given_configuration_is_known_from_the_beginning(
    images: Path, files: dict[str, bytes], wanted: dict[str, bytes], tmp_path: Path, read: list[int]
) -> None:
    said = tmp_path / "config.pth.tar"
    said.write_bytes(files["config.pth.tar"])
    rest = {name: file for name, file in files.items() if name != said.name}
    archive = stored(rest, tmp_path / "rd", "tar.gz", shuffle=4)
    assert convert(archive, images, tmp_path / "out", "--config", str(said)) == wanted
    assert max(read[1:]) < 0.2 * archive.stat().st_size


def test_a_dry_run_leaves_the_inflating_of_the_second_time(
    images: Path, files: dict[str, bytes], wanted: dict[str, bytes], tmp_path: Path
) -> None:
    archive = stored(files, tmp_path / "rd", "tar.gz", shuffle=4)
    words = ["convert", "ml-dr", str(archive), "--images", str(images), "--out", str(tmp_path / "out"), "--quiet"]
    assert main([*words, "--dry-run"]) == 0
    assert not list((tmp_path / "out").rglob(f"{early.PREFIX}*"))
    assert convert(archive, images, tmp_path / "out") == wanted


def test_folders_of_one_archive_are_runs_and_not_converted_alone(
    images: Path, files: dict[str, bytes], tmp_path: Path
) -> None:
    other = ml_dr(sizes_of(images), views=VIEWS, seed=1)
    both = {f"a/{name}": file for name, file in files.items()} | {f"b/{name}": file for name, file in other.items()}
    found = convert(stored(both, tmp_path / "rd", "tar.gz", shuffle=3), images, tmp_path / "out")
    one, two = (stored(each, tmp_path / name, "folder") for name, each in (("one", files), ("two", other)))
    words = ["convert", "ml-dr", str(one), str(two), "--images", str(images), "--out", str(tmp_path / "two-out")]
    assert main([*words, "--quiet", "--samples-per-shard", "7"]) == 0
    assert {name: (tmp_path / "two-out" / name).read_bytes() for name in found} == found


@pytest.mark.parametrize("variant", ["mixing", "randaug_mixing"])
def test_partners_of_mixed_views_lie_inside_their_images(tmp_path: Path, variant: str) -> None:
    folder = tmp_path / "images"
    for number in range(6):
        (folder / f"c{number % 2}").mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (60, 70, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"c{number % 2}" / f"{number}.png")
    made = ml_dr([(60, 70)] * 6, variant=variant)
    straight = convert(stored(made, tmp_path / "a", "folder"), folder, tmp_path / "out")
    assert convert(stored(made, tmp_path / "b", "tar.gz", shuffle=1), folder, tmp_path / "again") == straight
    large = stored(ml_dr([(60, 70)] * 5 + [(600, 700)], variant=variant), tmp_path / "c", "tar.gz")
    words = ["convert", "ml-dr", str(large), "--images", str(folder), "--out", str(tmp_path / "no"), "--quiet"]
    assert main(words) != 0


def _flipped(file: bytes) -> bytes:
    place = file.index(b"params")
    return file[:place] + b"P" + file[place + 1 :]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_flipped, "index 9 ("),
        (lambda file: saved((8, [])), "the file is of image 8, not of 9"),
        (lambda file: b"\x80\x02cos\nsystem\nU\x04true\x85R.", "os.system"),
    ],
)
def test_a_file_with_a_fault_is_told_in_its_turn(
    images: Path,
    files: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[bytes], bytes],
    what: str,
) -> None:
    wrong = files | {"9.pth.tar": change(files["9.pth.tar"])}
    order = ["config.pth.tar", *(f"{n}.pth.tar" for n in np.random.default_rng(6).permutation(IMAGES))]
    archive = stored({name: wrong[name] for name in order}, tmp_path / "rd", "tar.gz", shuffle=None)
    words = ["convert", "ml-dr", str(archive), "--images", str(images), "--out", str(tmp_path / "out"), "--quiet"]
    assert main([*words, "--samples-per-shard", "4"]) == 1
    said = capsys.readouterr().err
    assert "index 9 (" in said and what in said
    assert len(list((tmp_path / "out").glob("shard-*.tar"))) == 2, "shards before it are there"


def test_one_image_of_another_count_of_views_is_told(
    images: Path, files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ml_dr(sizes_of(images), views=2)
    archive = stored(files | {"11.pth.tar": short["11.pth.tar"]}, tmp_path / "rd", "tar.gz", shuffle=2)
    words = ["convert", "ml-dr", str(archive), "--images", str(images), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "index 11 (" in said and "has 2 views of 4 classes each" in said


def test_an_archive_that_ends_early_leaves_nothing_behind(
    images: Path, files: dict[str, bytes], wanted: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = stored(files, tmp_path / "rd", "tar.gz", shuffle=5)
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-200])
    monkeypatch.setattr(early, "BUDGET", 1)  # all goes to disk at once
    words = ["convert", "ml-dr", str(archive), "--images", str(images), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(words) == 1
    assert not list((tmp_path / "out").rglob(f"{early.PREFIX}*"))
    archive.write_bytes(whole)
    assert convert(archive, images, tmp_path / "out") == wanted


def test_what_a_kill_has_left_is_not_taken(
    images: Path, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of other settings, which nothing else says yet."""
    archive = stored(files, tmp_path / "rd", "tar.gz", shuffle=5)
    out = tmp_path / "out"
    kept: list[Path] = []
    outcome = early.Early.outcome

    def copied(self: early.Early, survey: Any) -> Any:
        kept.append(Path(shutil.copy(self.path, tmp_path / "early")))
        return outcome(self, survey)

    monkeypatch.setattr(early.Early, "outcome", copied)
    convert(archive, images, tmp_path / "other", "--probabilities", "float32")
    wanted = convert(archive, images, tmp_path / "wanted")
    convert(archive, images, tmp_path / "again", "--probabilities", "float32")
    (out / KEPT_NAME).mkdir(parents=True)
    shutil.copy(kept[-1], out / KEPT_NAME / f"{early.PREFIX}1234")
    assert convert(archive, images, out) == wanted


def test_what_was_converted_does_not_stay_where_the_rest_is_refused(
    images: Path, files: dict[str, bytes], tmp_path: Path
) -> None:
    archive = stored(files, tmp_path / "rd", "tar.gz", shuffle=5)
    out = tmp_path / "out"
    convert(archive, images, out)
    words = ["convert", "ml-dr", str(archive), "--images", str(images), "--out", str(out), "--quiet"]
    assert main([*words, "--probabilities", "float32"]) != 0
    fewer = stored({name: files[name] for name in list(files)[1:]}, tmp_path / "rd2", "tar.gz", shuffle=5)
    assert (
        main(["convert", "ml-dr", str(fewer), "--images", str(images), "--out", str(tmp_path / "no"), "--quiet"]) != 0
    )
    assert not list(tmp_path.rglob(f"{early.PREFIX}*"))


def test_a_full_disk_is_told_and_leaves_nothing_behind(
    images: Path,
    files: dict[str, bytes],
    wanted: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from dali_dr.shards import files as writing

    def full(descriptor: int, data: memoryview, at: int) -> int:
        raise OSError(28, os.strerror(28))

    archive = stored(files, tmp_path / "rd", "tar.gz", shuffle=5)
    words = ["convert", "ml-dr", str(archive), "--images", str(images), "--out", str(tmp_path / "out"), "--quiet"]
    with monkeypatch.context() as patch:
        patch.setattr(writing.system, "pwrite", full)
        assert main(words) == 1
    assert "free space there" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob(f"{early.PREFIX}*"))
    assert convert(archive, images, tmp_path / "out") == wanted


def test_fkd_needs_no_configuration(images: Path, tmp_path: Path, read: list[int]) -> None:
    made = {}
    draw = np.random.default_rng(0)
    for path in in_order(images):
        height, width = Image.open(path).size[::-1]
        boxes = np.array([[1, 2, 20, 30], [5, 0, 33, 17]] * VIEWS).astype(np.float32) / np.float32([height, width] * 2)
        labels = draw.dirichlet(np.ones(3), 2 * VIEWS).astype(np.float32)
        value = [torch.from_numpy(boxes), torch.tensor([True, False] * VIEWS), torch.from_numpy(labels)]
        made[f"{path.parent.name}/{path.stem}.tar"] = saved(value)
    straight = convert(stored(made, tmp_path / "a", "folder"), images, tmp_path / "out", "--size", "32", form="fkd")
    read.clear()
    archive = stored(made, tmp_path / "b", "tar.gz", shuffle=1)
    assert convert(archive, images, tmp_path / "again", "--size", "32", form="fkd") == straight
    assert read[0] == archive.stat().st_size and max(read[1:], default=0) < 0.3 * read[0]
    assert len(Dataset(tmp_path / "again")) == IMAGES


def test_every_file_is_converted_once(
    images: Path, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[int] = []
    made = native.ml_dr_record

    def counted(data: Any, number: int, *rest: Any) -> Any:
        numbers.append(number)
        return made(data, number, *rest)

    monkeypatch.setattr(native, "ml_dr_record", counted)
    archive = stored(files, tmp_path / "rd", "tar.gz", shuffle=7)
    with gzip.open(archive) as inflated:
        assert inflated.read(100)
    convert(archive, images, tmp_path / "out")
    assert set(numbers) == set(range(IMAGES)) and len(numbers) == IMAGES + 1, (
        "and the first once more, as the usual one"
    )


def test_a_configuration_that_is_refused_is_told_as_ever(
    images: Path, files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = files | {"config.pth.tar": saved(config() | {"num_classes": 1})}
    archive = stored(odd, tmp_path / "rd", "tar.gz")
    words = ["convert", "ml-dr", str(archive), "--images", str(images), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(words) != 0
    assert "are these the images?" in capsys.readouterr().err
