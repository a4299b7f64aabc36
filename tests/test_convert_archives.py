"""Published archives: what is found in them, what is refused, what waits for its turn, and errors that name the index."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from convert_inputs import config, ml_dr, saved, stored

from dali_dr.convert import archives as archives_module
from dali_dr.convert import streams
from dali_dr.convert.archives import open_archive
from dali_dr.convert.arrivals import Arrivals
from dali_dr.convert.format import Meaning
from dali_dr.convert.images import IndexKeys
from dali_dr.convert.ml_dr import meaning
from dali_dr.convert.names import Mirrored, Named, Numbered, PathTable, mirrored
from dali_dr.convert.published import Published
from dali_dr.convert.staging import Stage
from dali_dr.convert.survey import Survey
from dali_dr.errors import ConvertError
from dali_dr.shards.tar_scan import TarFault
from dali_dr.texts import Texts

SIZES = [(40, 50)] * 6


def tar_of(files: dict[str, bytes], path: Path, mode: str = "w", **how: Any) -> Path:
    """The files in a tar, in the order given."""
    with tarfile.open(path, mode, **how) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz"])
@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_archives_give_what_tarfile_gives(tmp_path: Path, kind: str, format_: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(streams, "_CHUNK", 700)  # so that headers and files lie across pieces
    monkeypatch.setattr(streams, "_INFLATED", 900)
    draw = random.Random(1)
    names = [f"{'x' * 90}/{n}.pth.tar" for n in draw.sample(range(50), 50)]
    files = {name: draw.randbytes(draw.choice((0, 1, 511, 512, 513, 3000))) for name in names}
    files[f"{'x' * 90}/config.pth.tar"] = b"configuration"
    files[f"{'x' * 90}/._1.pth.tar"] = b"of a Mac"
    if kind == "folder":
        path = stored(files, tmp_path / "rd", "folder", folder="")
    else:
        path = tar_of(files, tmp_path / f"a.{kind}", "w:gz" if kind.endswith("gz") else "w", format=format_)
    archive = open_archive(path, Numbered(), progress=False)
    assert archive.streamed == (kind == "tar.gz")
    assert archive.survey.configs == (b"configuration",)
    found = {int(archive.survey.numbers[row]): data for row, data in archive.rows()}
    wanted = {int(name.rpartition("/")[2].split(".")[0]): data for name, data in files.items() if name in names}
    assert found == wanted
    if not archive.streamed:
        assert {int(archive.survey.numbers[row]): archive.read(row) for row in range(50)} == wanted
    if kind != "folder":
        assert archive.survey.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_several_gzip_files_in_one_are_read_as_one(tmp_path: Path) -> None:
    whole = tar_of({"1.pth.tar": b"one" * 1000, "0.pth.tar": b"null"}, tmp_path / "a.tar").read_bytes()
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(whole[:700]) + gzip.compress(whole[700:]) + bytes(100))
    archive = open_archive(path, Numbered(), progress=False)
    assert [data for _, data in archive.rows()] == [b"one" * 1000, b"null"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda data: data[: len(data) // 2], "ends too early|ends before"),
        (lambda data: data[:200] + b"\0\0\0\0" + data[204:], "damaged|not a readable tar"),
        (lambda data: data[:-6] + bytes(6), "damaged"),
        (lambda data: b"BZh" + data[3:], "compressed with bzip2"),
        (lambda data: b"", "ends before"),
    ],
)
def test_damaged_archives_are_told(tmp_path: Path, change: Callable[[bytes], bytes], what: str) -> None:
    path = tar_of({f"{n}.pth.tar": random.Random(n).randbytes(900) for n in range(9)}, tmp_path / "a.tar.gz", "w:gz")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ConvertError, match=what) as error:
        open_archive(path, Numbered(), progress=False)
    assert "a.tar.gz" in str(error.value)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A bomb: a gigabyte of zeros that gzip makes a megabyte of."""
    entry = tarfile.TarInfo("0.pth.tar")
    entry.size = 1 << 30
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(entry.tobuf() + bytes(1 << 20)))
    with pytest.raises(ConvertError, match=r"0\.pth\.tar' has 1073741824 bytes, at most 67108864 are read"):
        open_archive(path, Numbered(), progress=False)


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"0.pth.tar": b"", "x/readme.txt": b""}, "readme.txt"),
        ({"0.pth.tar": b"", "-1.pth.tar": b""}, "-1.pth.tar"),
        ({"config.pth.tar": b""}, "holds no reinforcements"),
        ({"0.pth.tar": b"", "config.pth.tar": b"a", "./config.pth.tar": b"b"}, "config.pth.tar' is in it twice"),
        ({f"{n}/0.pth.tar": b"" for n in range(300)}, "more than 255 folders"),
    ],
)
def test_what_should_not_be_there_is_named(tmp_path: Path, files: dict[str, bytes], what: str) -> None:
    with pytest.raises(ConvertError, match=what):
        open_archive(tar_of(files, tmp_path / "a.tar"), Numbered(), progress=False)


@pytest.mark.parametrize(
    ("numbers", "count", "what"),
    [
        ((0, 1, 3), 4, "1 of 4 files are missing, of index 2"),
        ((0, 1, 2), 5, "2 of 5 files are missing, of index 3, 4"),
        ((0, 1, 2, 3), 3, "files of 4 images, where 3 are given: .* torchvision's ImageFolder"),
        ((0, 1, 2, 1), 3, "index 1 has two files"),
    ],
)
@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_indices_are_those_of_the_images(
    tmp_path: Path, numbers: tuple[int, ...], count: int, what: str, kind: str
) -> None:
    path = tmp_path / f"a.{kind}"
    with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
        for number in numbers:
            archive.addfile(tarfile.TarInfo(f"{number}.pth.tar"), io.BytesIO())
    with pytest.raises(ConvertError, match=what):
        Published([open_archive(path, Numbered(), progress=False)], count, union=False, kept=tmp_path, progress=False)


def test_surveys_are_kept_of_the_same_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives_module, "KEPT_ABOVE", 0)
    path = tar_of({"run/1.pth.tar": b"one", "run/0.pth.tar": b"null", "run/config.pth.tar": b"c"}, tmp_path / "a.tar")
    kept = tmp_path / "kept"
    first = open_archive(path, Numbered(), kept=kept, progress=False).survey
    (place,) = kept.iterdir()
    about = path.stat()
    stamp = f"{path} {about.st_size} {about.st_mtime_ns} numbered"
    again = Survey.load(place, stamp)
    assert again is not None
    for name in ("numbers", "runs", "blocks", "sizes"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    assert (again.length, again.sha256, again.folders, again.configs) == (
        about.st_size,
        first.sha256,
        ("run",),
        (b"c",),
    )
    assert Survey.load(place, f"{stamp}1") is None
    place.write_bytes(place.read_bytes()[:100])
    assert Survey.load(place, stamp) is None


def test_a_stage_gives_back_what_was_put_also_to_a_later_run(tmp_path: Path) -> None:
    draw = random.Random(3)
    items = {number: draw.randbytes(draw.choice((0, 1, 44, 45, 5000, 40000))) for number in draw.sample(range(100), 60)}
    stage = Stage(tmp_path / "kept" / "stage", 100)
    names = list(items)
    stage.put([(name, items[name]) for name in names[:20]])
    stage.put([(name, items[name]) for name in names[20:]])
    for _ in range(2):
        assert len(stage) == 60
        for number in range(100):
            assert stage.get(number) == items.get(number)
            assert (number in stage) == (number in items)
        stage.close()
        stage = Stage(tmp_path / "kept" / "stage", 100)
    stage.close()


def test_a_stage_that_was_cut_or_damaged_gives_nothing_false(tmp_path: Path) -> None:
    draw = random.Random(4)
    items = [(number, draw.randbytes(200)) for number in range(30)]
    path = tmp_path / "stage"
    Stage(path, 30).put(items)
    whole = path.read_bytes()
    for _ in range(300):
        data = bytearray(whole[: draw.randrange(len(whole) + 1)])
        for _ in range(draw.randrange(3)):
            if data:
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        stage = Stage(path, 30)
        for number, wanted in items:
            assert stage.get(number) in (None, wanted)
        stage.put([(7, b"new")])  # and it goes on
        assert stage.get(7) == b"new"
        stage.close()
        assert Stage(path, 30).get(7) in (b"new", None)


@pytest.mark.parametrize("budget", [0, 200, 1000, 1 << 20])
@pytest.mark.parametrize("seed", range(20))
def test_arrivals_in_any_order_are_given_in_order(tmp_path: Path, budget: int, seed: int) -> None:
    draw = random.Random(seed)
    count = draw.choice((1, 2, 10, 60))
    data = {number: bytes([number]) * draw.randrange(1, 90) for number in range(count)}
    order = draw.sample(range(count), count)
    begun = []

    def arrive(wanted: Callable[[int], bool]) -> Iterable[tuple[int, bytes]]:
        begun.append(0)
        return ((number, data[number]) for number in order if wanted(number))

    start = draw.randrange(count)
    stopped = draw.randrange(start, count)
    arrivals = Arrivals(arrive, Stage(tmp_path / "stage", count), budget)
    for number in range(start, stopped):  # a run that is stopped there
        assert arrivals.take(number) == data[number]
    arrivals.close()
    again = draw.randrange(start, stopped + 1)
    arrivals = Arrivals(arrive, Stage(tmp_path / "stage", count), budget)
    for number in range(again, count):
        assert arrivals.take(number) == data[number]
    assert len(begun) <= 2
    arrivals.close()


def test_arrivals_in_order_touch_no_disk(tmp_path: Path) -> None:
    arrivals = Arrivals(lambda wanted: ((n, b"x") for n in range(9)), Stage(tmp_path / "stage", 9), 0)
    assert [arrivals.take(number) for number in range(9)] == [b"x"] * 9
    assert not (tmp_path / "stage").exists()


def test_arrivals_that_do_not_come_are_an_error(tmp_path: Path) -> None:
    arrivals = Arrivals(lambda wanted: ((n, b"x") for n in (0, 2)), Stage(tmp_path / "stage", 3), 0)
    assert arrivals.take(0) == b"x"
    with pytest.raises(ConvertError, match="was it changed"):
        arrivals.take(1)


def test_what_is_damaged_on_disk_is_read_from_the_archive_again(tmp_path: Path) -> None:
    def arrive(wanted: Callable[[int], bool]) -> Iterator[tuple[int, bytes]]:
        return ((n, bytes([n]) * 100) for n in (3, 2, 1, 0) if wanted(n))

    arrivals = Arrivals(arrive, Stage(tmp_path / "stage", 4), 0)
    assert arrivals.take(0) == bytes(100)
    data = bytearray((tmp_path / "stage").read_bytes())
    data[30] ^= 1  # of number 3, which came first
    (tmp_path / "stage").write_bytes(data)
    assert [arrivals.take(number) for number in (1, 2, 3)] == [bytes([n]) * 100 for n in (1, 2, 3)]


def test_a_sequential_scan_ends_with_the_pieces() -> None:
    scan = streams.Sequential(Path("a.tar"), iter([b"abc", b"defg", b"", b"hij"]))
    assert [scan.read(1, 3), scan.read(1, 1), scan.read(3, 5), scan.read(9, 1)] == [b"bcd", b"b", b"defgh", b"j"]
    with pytest.raises(TarFault, match="ends before byte 11"):
        scan.read(9, 2)


def test_names_say_which_image_a_file_belongs_to() -> None:
    assert Numbered()("./run/17.pth.tar") == Named("run", 17)
    assert Numbered()("config.pth.tar") == Named("", None)
    assert Numbered()("run/._17.pth.tar") is None
    assert mirrored("train/n01/n01_1.x.y") == "n01/n01_1"
    naming = Mirrored(["n01/a", "n02/a", "n01/b%2Ec", "n01/d%20e"], ".pt")
    assert naming("x/y/n02/a.JPEG.pt") == Named("", 1)
    assert naming("n01/b.q.pt") == Named("", 2)
    assert naming("n01/d e.pt") == Named("", 3)
    for name in ("n03/a.pt", "n01/a.tar", "a.pt"):
        with pytest.raises(ConvertError, match=name):
            naming(name)
    assert Mirrored(["a", "b"], ".tar")("FKD/n01/b.tar") == Named("", 1)
    with pytest.raises(ConvertError, match="images 0 and 2 have one name"):
        Mirrored(["n01/a%2Ex", "n01/b", "n01/a%2Ey"], ".pt")
    table = PathTable((f"{n}" for n in range(1000)), "")
    assert [table.find(f"{n}") for n in (0, 999, 1000)] == [0, 999, -1]


def meaning_of(said: dict[str, Any], tmp_path: Path) -> Meaning:
    files = ml_dr(SIZES, views=1) | {"config.pth.tar": saved(said)}
    archive = open_archive(stored(files, tmp_path / "rd", "tar"), Numbered(), progress=False)
    return meaning([archive], num_images=6, num_classes=3)


@pytest.mark.parametrize(
    ("name", "arguments", "what"),
    [
        ("center_crop", {"size": 3}, "center_crop: is not replayed"),
        ("random_resized_crop", {"enable": False}, "neither random_resized_crop nor random_crop"),
        ("random_resized_crop", {"size": [3, 4]}, "size is .* the edge of a square"),
        ("random_resized_crop", {"size": 3, "interpolation": "lanczos"}, "interpolation"),
        ("random_crop", {"size": 3}, "both enabled"),
        ("rand_augment", {"interpolation": "bilinear"}, "rand_augment.interpolation"),
        ("random_erase", {"value": 3}, "random_erase.value"),
        ("mixup", {"div_by": 0.5}, "div_by"),
        ("resize", {"size": 3, "max_size": 4}, "resize.max_size"),
    ],
)
def test_configurations_that_are_not_replayed_are_refused(
    tmp_path: Path, name: str, arguments: dict[str, Any], what: str
) -> None:
    said = config()
    said["reinforce"]["image_augmentation"][name] = arguments
    with pytest.raises(ConvertError, match=what):
        meaning_of(said, tmp_path)


def test_the_spec_is_that_of_the_configuration(tmp_path: Path) -> None:
    said = config("randaug_mixing", size=224, batch_size=32, world_size=8)
    spec = meaning_of(said, tmp_path).spec
    assert spec is not None
    assert spec.mixing is not None
    assert spec.mixing.pool == 4
    assert spec.mixing.lam == (0.0, 0.5)
    assert (spec.size, spec.interpolation) == (224, "bilinear")
    said["reinforce"]["image_augmentation"] |= {
        "cutmix": {"enable": False},
        "random_horizontal_flip": {"enable": False},
    }
    spec = meaning_of(said, tmp_path).spec
    assert spec is not None
    assert spec.mixing is not None
    assert (spec.mixing.cutmix_probability, spec.flip) == (0.0, 0.0)


def test_runs_of_two_variants_are_not_merged(tmp_path: Path) -> None:
    opened = [
        open_archive(stored(ml_dr(SIZES, views=1, variant=v), tmp_path / v, "tar"), Numbered(), progress=False)
        for v in ("randaug", "rrc")
    ]
    with pytest.raises(ConvertError, match=r"rrc.tar.* of another set than that of .*randaug.tar.*image_augmentation"):
        meaning(opened, num_images=6, num_classes=3)


def test_more_classes_than_were_predicted_are_an_error(tmp_path: Path) -> None:
    archive = open_archive(stored(ml_dr(SIZES, views=1), tmp_path / "rd", "tar"), Numbered(), progress=False)
    with pytest.raises(ConvertError, match="the images have 9 classes, the reinforcements 7"):
        meaning([archive], num_images=6, num_classes=9)


def test_index_keys_are_a_sequence(tmp_path: Path) -> None:
    from conftest import encode_jpeg, picture, write_files

    from dali_dr.pack import pack
    from dali_dr.shards.dataset import Dataset
    from dali_dr.sources import ImageFolder

    images = write_files(tmp_path / "images", {f"c/{n}.jpg": encode_jpeg(picture(20, 20, n)) for n in range(5)})
    pack(ImageFolder.scan(images), tmp_path / "out", progress=False)
    keys = IndexKeys(Dataset(tmp_path / "out"))
    assert list(keys) == [f"c/{n}" for n in range(5)]
    assert (keys[-1], keys[1:3], len(keys)) == ("c/4", ["c/1", "c/2"], 5)


def test_texts_are_a_sequence() -> None:
    texts = Texts(["a", "", "häß", "\udcff"])
    assert list(texts) == ["a", "", "häß", "\udcff"]
    assert (texts[-2], texts[1:3], len(texts)) == ("häß", ["", "häß"], 4)
    with pytest.raises(IndexError):
        texts[4]
