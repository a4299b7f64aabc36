"""What is wrong in published files, whoever made it so, is told in a line that says where, in little time and memory."""

from __future__ import annotations

import copy
import io
import os
import pickle
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import encode_jpeg, picture
from convert_inputs import config, in_order, ml_dr, photos, saved, sizes_of, stored, views_of
from PIL import Image

from dali_dr.augment.spec import AugmentationSpec
from dali_dr.cli import main
from dali_dr.convert import native
from dali_dr.convert.ml_dr import Alone, meaning
from dali_dr.convert.native import Fkd, MlDr
from dali_dr.convert.prepared import Preparation, Prepared
from dali_dr.errors import ConvertError, DaliDrError

IMAGES = 6
ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 3, 2.5, 1e308, float("nan"), float("inf"), "x", "", "9" * 5000, [], [1, 2, 3], [0.5, "x"],
    [1, 1], [None, None], (2, 1), [[[]]], [[1], [2]], {}, {"enable": 1}, {"a": {"b": 1}}, {5: 6}, 2**62, -(2**62),
)  # fmt: skip


# Configurations


def whole_configs() -> Iterator[dict[str, Any]]:
    """Of each kind, with every argument that is read."""
    for variant in ("randaug_mixing", "cifar"):
        said = config(variant, batch_size=32, world_size=1)
        images = said["reinforce"]["image_augmentation"]
        images["rand_augment"] |= {"num_ops": 2, "magnitude": 9, "num_magnitude_bins": 31}
        images["random_erase"] |= {"scale": [0.02, 0.3], "ratio": [0.3, 3.3]}
        if variant == "cifar":
            images["resize"] |= {"interpolation": "bilinear"}
        else:
            images["random_resized_crop"] |= {"scale": [0.08, 1.0], "ratio": [0.75, 1.33], "interpolation": 2}
            spec = AugmentationSpec(size=32).to_json()
            said["dali_dr"] = {"probabilities": "log8", "log_step": 0.15, "size": 32, "spec": spec}
        yield said


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield before
    if isinstance(value, dict):
        for key, each in value.items():
            yield from places(each, (*before, key))


def meaning_of(said: Any) -> Any:
    return meaning([Alone("rd", {"": pickle.dumps(said, 2)})], num_images=IMAGES, num_classes=3)


def test_odd_values_in_configurations_are_read_or_refused() -> None:
    """Nothing but our own errors, whatever stands wherever; and no more memory than a sane set takes."""
    refused = 0
    for said in whole_configs():
        meaning_of(said)
        for place in places(said):
            for value in ODD:
                changed = copy.deepcopy(said)
                inner: Any = changed
                for key in place[:-1]:
                    inner = inner[key]
                if place:
                    inner[place[-1]] = value
                try:
                    made = meaning_of(changed if place else value)
                except DaliDrError:
                    refused += 1
                else:
                    assert made.num_classes <= 100_000, place
                    enlarge, padding = made.preparation.enlarge, made.preparation.padding
                    assert all(
                        1 <= edge <= 4096 for edge in (enlarge if isinstance(enlarge, tuple) else [enlarge or 1])
                    )
                    assert 0 <= padding <= 4096, place
    assert refused > 1000


@pytest.mark.parametrize(
    ("place", "value", "what"),
    [
        (("reinforce",), [1], "has no reinforce.image_augmentation"),
        (("num_classes",), 2_000_000_000, "num_classes is 2000000000, want a whole number from 1 to 100000"),
        (("num_classes",), "7", "num_classes is '7'"),
        (("reinforce", "num_samples"), float("inf"), "num_samples is inf"),
        (("reinforce", "image_augmentation", "normalize", "mean"), ["x"] * 3, "normalize.mean is .* a number for each"),
        (("reinforce", "image_augmentation", "random_resized_crop", "size"), 10**6, "size is 1000000, .* up to 4096"),
    ],
)
def test_what_is_wrong_in_a_configuration_is_told(place: tuple[str, ...], value: Any, what: str) -> None:
    said = config()
    inner: Any = said
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(ConvertError, match=f"config.pth.tar.*: .*{what}"):
        meaning_of(said)


def test_a_thin_image_is_not_enlarged_beyond_the_limit() -> None:
    """Of 4 x 4,000 pixels, which are few; its shorter edge of 4,096 makes 17 thousand million of them."""

    class One:
        keys, labels, class_names, notes = ("a",), (0,), ("a",), ()

        def __len__(self) -> int:
            return 1

        def read(self, number: int) -> bytes:
            return encode_jpeg(picture(4, 4000, 0))

        def where(self, number: int) -> str:
            return "a"

    with pytest.raises(ValueError, match=r"becomes 4096x4096000 pixels, more than"):
        Prepared(One(), Preparation(4096)).read(0)  # type: ignore[arg-type]


# Files that are small, and would take long or much


def entry(classes: int = 1, **more: int) -> dict[str, Any]:
    return {"params": [(0, 0, 10, 10), True], "prob": ([0.5 / classes] * classes, list(range(classes))), **more}


def many(count: int) -> dict[str, Any]:
    return {f"x{number}": 0 for number in range(count)}


CROP_FLIP = ("random_resized_crop", "random_horizontal_flip")
SHARED: dict[str, tuple[Any, str]] = {  # one object, named by every view
    "a large dictionary": ([{**many(200_000), **entry()}] * 60_000, "view 0: has a dictionary of 200002, larger than any"),
    "large parameters": (
        [{"params": {"random_resized_crop": ((0, 0, 9, 9),), "random_horizontal_flip": (True,), **many(200_000)},
          "prob": ([0.5], [0])}] * 60_000,
        "view 0: has a dictionary of 200002",
    ),
    "all classes": ([entry(1000)] * 65_536, "65536 views with predictions of 1000 classes each, more than 4194304"),
    "views": ([entry()] * 100_000, "more than 65536 views"),
}  # fmt: skip


@pytest.mark.parametrize("name", SHARED)
def test_a_small_file_of_much(name: str) -> None:
    views, what = SHARED[name]
    file = zlib.compress(pickle.dumps((0, views), 4))
    assert len(file) < 1 << 20
    settings = MlDr(CROP_FLIP, 224, 0, 0, 1000, 1)
    begun = time.process_time()
    with pytest.raises(ConvertError, match=what):
        native.ml_dr_record([file], 0, (10, 10), settings)
    assert time.process_time() - begun < 10


def test_so_many_predictions_as_sets_have_are_read() -> None:
    """All classes of 500 views, as FKD's full labels have them; and of ml-dr's, in two files."""
    probs = torch.full((500, 1000), 1e-3)
    boxes, flips = torch.tensor([[0.0, 0, 1, 1]] * 500), torch.zeros(500, dtype=torch.bool)
    buffer = io.BytesIO()
    torch.save([boxes, flips, probs], buffer)
    made = native.fkd_record(buffer.getvalue(), (10, 10), Fkd(224, 1000))
    assert (made.views, made.topk) == (500, 1000)
    file = pickle.dumps((0, [entry(1000)] * 400), 4)
    made = native.ml_dr_record([file, file], 0, (10, 10), MlDr(CROP_FLIP, 224, 0, 0, 1000, 1))
    assert (made.views, made.topk) == (800, 1000)


# Archives


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("hostile") / "images", IMAGES)


@pytest.fixture(scope="module")
def files(images: Path) -> dict[str, bytes]:
    return ml_dr(sizes_of(images))


def convert(archive: Path, images: Path, out: Path, *options: str) -> int:
    return main(["convert", "ml-dr", str(archive), "--images", str(images), "--out", str(out), "--quiet", *options])


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.LNKTYPE, "reinforced_data/1.pth.tar"),
        (tarfile.FIFOTYPE, ""),
        (tarfile.CHRTYPE, ""),
        (tarfile.DIRTYPE, ""),
    ],
)
def test_what_is_no_file_in_an_archive_is_none(
    images: Path, files: dict[str, bytes], tmp_path: Path, kind: bytes, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = {name: data for name, data in files.items() if name != "0.pth.tar"}
    archive = stored(rest, tmp_path / "rd", "tar")
    with tarfile.open(archive, "a") as tar:
        member = tarfile.TarInfo("reinforced_data/0.pth.tar")
        member.type, member.linkname = kind, target
        tar.addfile(member)
    assert convert(archive, images, tmp_path / "out") == 1
    assert "1 of 6 files are missing, of index 0 (n01/n01_0)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../../0.pth.tar", "/0.pth.tar", "reinforced_data/../../0.pth.tar"])
def test_names_lead_nowhere(images: Path, files: dict[str, bytes], tmp_path: Path, name: str) -> None:
    """Nothing is ever written under a name of an archive."""
    rest = {f"reinforced_data/{one}": data for one, data in files.items() if one != "0.pth.tar"}
    inner = tmp_path / "a" / "b" / "c"
    inner.mkdir(parents=True)
    archive = stored(rest | {name: files["0.pth.tar"]}, inner / "rd", "tar", folder="")
    before = set(tmp_path.rglob("*"))
    convert(archive, images, inner / "out", "--dry-run")
    made = {path for path in set(tmp_path.rglob("*")) - before if not path.is_relative_to(inner / "out")}
    assert not made and not Path("/0.pth.tar").exists()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(target: str) -> Callable[[Path], None]:
    def link(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return link


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("0.pth.tar", _fifo, "it is a FIFO"),
        ("config.pth.tar", _fifo, "it is a FIFO"),
        ("0.pth.tar", _link("/dev/zero"), "it is a device"),
        ("0.pth.tar", _link("/etc/passwd"), "index 0 (n01/n01_0) of rd: the file is neither an archive"),
        ("0.pth.tar", _link("nowhere"), "No such file"),
        ("0.pth.tar", lambda path: os.truncate(path, 100 << 30), "has 107374182400 bytes, at most 67108864 are read"),
        ("0.pth.tar", lambda path: os.truncate(path, 60 << 20), "zip archive cannot be read: it has no end"),
    ],
)
def test_what_is_no_file_in_a_folder_is_told(
    images: Path, files: dict[str, bytes], tmp_path: Path, name: str, change: Any, what: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = stored(files, tmp_path / "rd", "folder")
    change(folder / "reinforced_data" / name)
    assert convert(folder, images, tmp_path / "out") == 1
    assert what in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--config", "--order", None])
def test_what_is_given_is_a_file(
    images: Path, files: dict[str, bytes], tmp_path: Path, option: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "fifo")
    folder = stored(files, tmp_path / "rd", "folder")
    words = () if option is None else (option, str(tmp_path / "fifo"))
    assert convert(tmp_path / "fifo" if option is None else folder, images, tmp_path / "out", *words) == (
        2 if option else 1
    )
    said = capsys.readouterr().err
    assert "is a FIFO, not a regular file" in said and said.count(str(tmp_path / "fifo")) == 1


@pytest.mark.parametrize(
    ("column", "place", "value", "what"),
    [
        (
            "params",
            0,
            (0, 0, 61, 80),
            "random_resized_crop (top 0, left 0, height 61, width 80) is empty or outside of",
        ),
        ("params", 0, (3, 3, 0, 5), "random_resized_crop (top 3, left 3, height 0, width 5) is empty or outside of"),
        ("params", 3, (30, 30, 3, 3), "random_erase (top 30, left 30, height 3, width 3) is empty or outside of 32x32"),
        ("params", 2, [(14, 0.5), (1, 0.5)], "the operation 14, which torchvision's does not have"),
        ("prob", 1, [0, 1, 7, 2], "class id 7 is outside of 0 to 6"),
        ("prob", 1, [0, 1, -1, 2], "class id -1 is outside of 0 to 6"),
        ("prob", 1, [0, 1, 1, 2], "has the class id 1 twice"),
        ("prob", 0, [0.1, float("nan"), 0.1, 0.1], "the probability nan is not in 0 to 1"),
        ("prob", 0, [0.1, 0.1, 0.1], "not as many probabilities as class ids"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "tar.gz"])
def test_what_does_not_fit_is_told_by_index(
    images: Path, files: dict[str, bytes], tmp_path: Path, kind: str, column: str, place: int, value: Any, what: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with Image.open(in_order(images)[4]) as image:
        number, views = views_of(4, (image.height, image.width), 3)
    changed = list(views[1][column])
    changed[place] = value
    views[1][column] = changed if column == "params" else tuple(changed)
    archive = stored(files | {"4.pth.tar": saved((number, views))}, tmp_path / "rd", kind)
    assert convert(archive, images, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert f"index 4 (n03/n03_2) of {archive.name}: view 1" in said and what in said
