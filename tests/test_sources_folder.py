"""Folders of class folders: classes, numbers and order against torchvision's ImageFolder; what differs is told."""

from __future__ import annotations

import collections
import dataclasses
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import encode_jpeg, picture, write_files
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

import dali_dr
from dali_dr.cli import main
from dali_dr.shards.sample import key_fault
from dali_dr.sources import ImageFolder, Reading
from dali_dr.sources.classes import MAX_CLASSES

TREES = 2200
IMAGES = (".jpg", ".jpeg", ".png", ".webp")
LEFT_OUT = {".git", ".ipynb_checkpoints", "__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN"}
NAMES = (
    "a",
    "a-b",
    "a b",
    "A",
    "b",
    "Z",
    "_",
    "~",
    "é",
    "e\u0301",
    "日本",
    "a.b",
    "x.jpg",
    "1",
    "10",
    "\udcff",
    "__b__",
)
IMAGENET = {"n01440764": 0, "n01443537": 1, "n01484850": 2, "n02123045": 281, "n13133613": 998, "n15075141": 999}
TOPS = (
    NAMES,
    ("0", "1", "2", "9", "10", "100", "999"),
    ("0", "1", "01", "2", "1000000", "3.0"),
    tuple(IMAGENET),
    (*IMAGENET, "n00000001"),
)
FILES = (
    *("a.jpg", "B.JPG", "c.JPEG", "d.png", "e.webp", "é.jpg", "10.jpg", "9.jpg", "a-b.jpg", "a b.v2.Png", "\udcfe.jpg"),
    *("f.bmp", "g.GIF", "h.tif", "i.jfif", "README", "notes.txt", ".hidden", "._a.jpg", "n01440764_1.JPEG"),
)
KINDS = ("file",) * 10 + ("folder", "folder", "inside", "outside", "broken", "fifo")
ENTRIES = st.lists(
    st.tuples(
        st.sampled_from(range(10)),  # the class folder
        st.one_of(st.just(()), st.tuples(st.sampled_from((*NAMES, *sorted(LEFT_OUT)))), st.just(("a", "b"))),
        st.sampled_from(FILES),
        st.sampled_from(KINDS),
    ),
    max_size=14,
)


def grow(root: Path, entries: list[Any], tops: tuple[str, ...]) -> Path:
    """A tree of what was drawn, as far as it fits into one; links lead to the folder of number 0, which has none, or out."""
    outside = write_files(root / "outside", {"o.jpg": b"", "p/q-r.png": b"", "p/q/s.jpg": b"", "p/t.bmp": b""})
    images = root / "images"
    (images / tops[0]).mkdir(parents=True)
    for top, between, name, kind in entries:
        folder = images.joinpath(*((tops[top],) if top < len(tops) else ()), *between)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if kind == "file":
                (folder / name).touch()
            elif kind == "folder":
                (folder / name).mkdir()
            elif kind == "fifo":
                os.mkfifo(folder / name)
            elif top:  # a link
                target = {"inside": images / tops[0], "outside": outside, "broken": root / "gone"}[kind]
                (folder / name).symlink_to(target)
        except (FileExistsError, NotADirectoryError):
            continue
    return images


@dataclasses.dataclass
class Theirs:
    """What torchvision finds, without what is known to be left out."""

    classes: list[str]
    samples: list[tuple[str, int]]
    counts: collections.Counter[str]


@pytest.fixture(scope="module")
def theirs() -> Callable[[Path], Theirs | None]:
    from dali_dr._torchvision import load_torchvision

    load_torchvision()
    from torchvision.datasets import ImageFolder as TorchvisionFolder

    class Without(TorchvisionFolder):  # type: ignore[misc]
        def find_classes(self, directory: Any) -> Any:
            classes = [name for name in super().find_classes(directory)[0] if not hidden(name)]
            return classes, {name: number for number, name in enumerate(classes)}

    def look(root: Path) -> Theirs | None:
        try:
            names = TorchvisionFolder(root, allow_empty=True).classes
            found = (Without if any(map(hidden, names)) else TorchvisionFolder)(root, allow_empty=True)
        except (FileNotFoundError, ValueError):  # no class folder
            return None
        samples = [(os.path.relpath(path, root), label) for path, label in found.samples]
        kept = [s for s in samples if not any(map(hidden, s[0].split("/"))) and s[0].lower().endswith(IMAGES)]
        return Theirs(found.classes, kept, count(root, found.classes))

    return look


def hidden(name: str) -> bool:
    return name in LEFT_OUT or name.startswith(".")


def count(root: Path, classes: list[str]) -> collections.Counter[str]:
    """What is left out, by kind: by os.walk."""
    found: collections.Counter[str] = collections.Counter()
    for entry in os.scandir(root):
        if not entry.is_dir():
            found["file beside"] += 1
        elif hidden(entry.name):
            found["folder beside"] += 1
    for name in classes:
        for here, folders, files in os.walk(root / name, followlinks=True):
            found["folder"] += sum(map(hidden, folders))
            folders[:] = [folder for folder in folders if not hidden(folder)]
            for file in files:
                path = Path(here, file)
                if hidden(file):
                    found["hidden file"] += 1
                elif not path.is_file():
                    found["odd"] += 1
                elif not file.lower().endswith(IMAGES):
                    found[path.suffix.lower() or "without suffix"] += 1
    return found


def told(notes: Any) -> collections.Counter[str]:
    """The same counts, as the notes have them."""
    found: collections.Counter[str] = collections.Counter()
    for note in notes:
        for number, what in re.findall(r"(\d+) ([^(,:]+) \(", note):
            kind = next(
                (
                    kind
                    for pattern, kind in (
                        (r"files? beside", "file beside"),
                        (r"(hidden )?folders?( of a tool| of tools)?.* beside", "folder beside"),
                        (r"hidden folder|folders? of", "folder"),
                        (r"hidden file", "hidden file"),
                        (r"broken link|FIFO", "odd"),
                        (r"files? without suffix", "without suffix"),
                        (r"\.\w+ file", what.split(" ")[0]),
                    )
                    if re.match(pattern, what)
                ),
                None,
            )
            if kind:
                found[kind] += int(number)
    return found


def written(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def numbers_of(classes: list[str]) -> tuple[list[int], str]:
    """The numbers that classes are to have, and what the note of it says."""
    if all(name in IMAGENET for name in classes):
        return [IMAGENET[name] for name in classes], "ImageNet's numbers"
    whole = [int(name) for name in classes if re.fullmatch("[0-9]+", name) and int(name) < MAX_CLASSES]
    if len(whole) == len(set(whole)) == len(classes):
        return whole, "the numbers that their names are"
    return list(range(len(classes))), ""


@settings(max_examples=TREES, deadline=None, suppress_health_check=list(HealthCheck))
@given(entries=ENTRIES, tops=st.sampled_from(TOPS), also=st.sets(st.sampled_from(sorted(LEFT_OUT)), max_size=2))
@example(entries=[(1, (), "a.jpg", "file"), (3, (), "a.jpg", "file")], tops=TOPS[0], also=set())
@example(entries=[(1, ("a", "b"), "a.jpg", "file"), (1, ("a-b",), "a.jpg", "file")], tops=TOPS[0], also={".git"})
def test_classes_numbers_and_order_are_torchvisions(
    entries: list[Any], tops: tuple[str, ...], also: set[str], theirs: Callable[[Path], Theirs | None]
) -> None:
    root = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        images = grow(root, entries, tops)
        for name in also:
            (images / name).mkdir(exist_ok=True)
        want = theirs(images)
        assert want is not None
        if not want.samples:
            flat = sorted(e.name for e in os.scandir(images) if not e.is_dir() and e.name.lower().endswith(IMAGES))
            flat = [name for name in flat if not hidden(name)]
            if flat and all(name.startswith("n01440764_") for name in flat):
                assert list(ImageFolder.scan(images).files) == flat
                return
            with pytest.raises(dali_dr.ShardError, match="holds no images in class folders"):
                ImageFolder.scan(images)
            return
        for reading in (Reading(numbering="sorted"), Reading()):
            source = ImageFolder.scan(images, reading)
            numbers, what = list(range(len(want.classes))), ""
            if reading.numbering == "auto":
                numbers, what = numbers_of(want.classes)
            assert list(source.files) == [path for path, _ in want.samples]
            assert list(source.labels) == [numbers[label] for _, label in want.samples]
            assert len(source.class_names) == max(numbers) + 1 or (
                what[:8] == "ImageNet" and len(source.class_names) == 1000
            )
            if what[:8] != "ImageNet":
                assert [source.class_names[n] for n in numbers] == [written(name) for name in want.classes]
            first = next((place for place, number in enumerate(numbers) if number != place), None)
            about = [note for note in source.notes if note.startswith("classes have ")]
            assert len(about) == (first is not None or len(source.class_names) != len(want.classes))
            assert all(what in note for note in about)
            assert first is None or f"is {numbers[first]}, and {first} by sorted order" in about[0]
            assert told(source.notes) == +want.counts
            assert len(set(source.keys)) == len(source.keys) and not any(map(key_fault, source.keys))
    finally:
        shutil.rmtree(root)


def scanned(root: Path, **reading: Any) -> ImageFolder:
    return ImageFolder.scan(root, Reading(**reading))


def labels_of(source: ImageFolder) -> dict[str, int]:
    return {Path(file).parts[0]: label for file, label in zip(source.files, source.labels, strict=True)}


def test_numbers_as_names_are_imagenet_v2s(tmp_path: Path) -> None:
    names = [str(number) for number in range(1000)]
    images = write_files(tmp_path, {f"{name}/a.jpg": b"" for name in names})
    source = scanned(images)
    assert labels_of(source) == {name: int(name) for name in names} and list(source.class_names) == names
    differ = sum(name != str(place) for place, name in enumerate(sorted(names)))
    assert source.notes == (
        "classes have the numbers that their names are: '10' is 10, and 2 by sorted order, which torchvision's "
        f"ImageFolder goes by ({differ} of 1000 differ; --labels sorted goes by it, too)",
    )
    by_order = scanned(images, numbering="sorted")
    assert labels_of(by_order) == {name: place for place, name in enumerate(sorted(names))} and by_order.notes == ()


@pytest.mark.parametrize("width", [1, 3])
def test_numbers_that_sort_as_they_count_need_no_note(width: int, tmp_path: Path) -> None:
    names = [f"{number:0{width}}" for number in range(10)]
    source = scanned(write_files(tmp_path, {f"{name}/a.jpg": b"" for name in names}))
    assert list(source.labels) == list(range(10)) and list(source.class_names) == names and source.notes == ()


def test_a_part_of_the_numbers_keeps_them(tmp_path: Path) -> None:
    source = scanned(write_files(tmp_path, {"007/a.jpg": b"", "2/a.jpg": b""}))
    assert labels_of(source) == {"007": 7, "2": 2}
    assert list(source.class_names) == ["0", "1", "2", "3", "4", "5", "6", "007"]
    assert "'007' is 7, and 0 by sorted order" in source.notes[0]


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("1", "b"), "'b' is no whole number"),
        (("1", "-1"), "'-1' is no whole number"),
        (("1", "1.0"), r"'1\.0' is no whole number"),
        (("01", "1"), "is the same number as"),
        (("0", str(MAX_CLASSES)), f"'{MAX_CLASSES}' is too large"),
        (("0", "9" * 200), "is no whole number"),
    ],
)
def test_what_is_no_number_is_refused_or_a_name(names: tuple[str, ...], why: str, tmp_path: Path) -> None:
    images = write_files(tmp_path, {f"{name}/a.jpg": b"" for name in names})
    with pytest.raises(dali_dr.ShardError, match=f"the class folder .*{why}"):
        scanned(images, numbering="numeric")
    assert list(scanned(images).class_names) == sorted(names) and scanned(images).notes == ()


def test_synsets(tmp_path: Path, test_data: Any) -> None:
    synsets = test_data("wnids.txt").read_text().split()
    write_files(tmp_path, {f"{synset}/a.jpg": b"" for synset in synsets[5::100]})
    (tmp_path / synsets[-1]).mkdir()
    source = scanned(tmp_path)
    assert list(source.labels) == list(range(5, 1000, 100)) and len(source.class_names) == 1000
    assert any("'n01514859' is" in n or f"'{synsets[5]}' is 5, and 0 by sorted order" in n for n in source.notes)
    assert any(f"1 class folder holds no images ('{synsets[-1]}')" in note for note in source.notes)
    assert list(scanned(tmp_path, numbering="sorted").labels) == list(range(10))
    (tmp_path / "cat").mkdir()
    with pytest.raises(dali_dr.ShardError, match="the class folder 'cat' is none of ImageNet's 1,000 synsets"):
        scanned(tmp_path, numbering="imagenet")
    assert labels_of(scanned(tmp_path))[synsets[5]] == 1  # after "cat"


CLASS_FILES: dict[str, tuple[bytes, dict[str, int], list[str]]] = {
    "names": (b"dog\nempty\ncat\n", {"cat": 2, "dog": 0}, ["dog", "empty", "cat"]),
    "Windows": (b"\xef\xbb\xbfdog\r\ncat\r\n\r\n", {"cat": 1, "dog": 0}, ["dog", "cat"]),
    "synsets": (b"n02084071\nn02121620\n", {"n02121620": 1}, ["n02084071", "n02121620"]),
    "synsets and names": (
        b"n02084071 dog, domestic dog\nn02121620 cat, true cat\n",
        {"n02121620": 1},
        ["dog, domestic dog", "cat, true cat"],
    ),
    "of numbers": (b"dog\ncat\nfox\n", {"1": 1, "02": 2}, ["dog", "cat", "fox"]),
}


@pytest.mark.parametrize("name", CLASS_FILES)
def test_a_file_of_classes(name: str, tmp_path: Path) -> None:
    text, numbers, names = CLASS_FILES[name]
    (tmp_path / "classes.txt").write_bytes(text)
    images = write_files(tmp_path / "images", {f"{folder}/a.jpg": b"" for folder in numbers})
    source = scanned(images, classes=tmp_path / "classes.txt")
    assert labels_of(source) == numbers and list(source.class_names) == names
    assert len(source.notes) == (0 if list(numbers.values()) == [*range(len(names))] else 1)
    (images / "bird").mkdir()
    with pytest.raises(dali_dr.ShardError, match=r"the class folder 'bird' is not in .*classes\.txt"):
        scanned(images, classes=tmp_path / "classes.txt")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "names no classes"),
        (b"\n \n", "names no classes"),
        (b"cat\n\ndog\n", "line 2 is blank"),
        (b"cat\ndog\ncat\n", "line 3: 'cat' is in line 1 already"),
        (b"n02084071 dog\nn02084071 cat\n", "line 2: 'n02084071' is in line 1"),
        (b"cat\n\xff\n", "line 2: not UTF-8"),
        (b"cat\nd\0g\n", "line 2: holds a NUL"),
        (b"cat\n" + b"d" * 5000, "line 2: has more than 4096 bytes"),
        (b"\n".join(b"%d" % n for n in range(MAX_CLASSES + 1)), f"more than {MAX_CLASSES} lines"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_is_none_of_classes(text: bytes | None, why: str, tmp_path: Path) -> None:
    images = write_files(tmp_path / "images", {"cat/a.jpg": b""})
    if text is not None:
        (tmp_path / "classes.txt").write_bytes(text)
    with pytest.raises(dali_dr.ShardError, match=rf"classes\.txt.*{why}"):
        scanned(images, classes=tmp_path / "classes.txt")


def test_two_numberings_at_once_are_refused(tmp_path: Path) -> None:
    images = write_files(tmp_path / "images", {"1/a.jpg": b""})
    (tmp_path / "classes.txt").write_text("1\n")
    with pytest.raises(dali_dr.ShardError, match="give one of the two"):
        scanned(images, classes=tmp_path / "classes.txt", numbering="numeric")
    with pytest.raises(dali_dr.ShardError, match="leave --label-field out"):
        scanned(images, label_field="cls")


@pytest.mark.filterwarnings("ignore:IM image format")
def test_what_pillow_reads_is_an_image_with_convert(tmp_path: Path) -> None:
    """The suffixes are asked of Pillow, whose list must hold what it can save and open again."""
    drawn = []
    for suffix, kind in Image.registered_extensions().items():
        if kind not in Image.SAVE:
            continue
        path = tmp_path / "images" / "c" / f"{kind}{suffix.upper()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            Image.new("1" if kind in ("MSP", "XBM") else "RGB", (16, 16)).save(path, kind)
            Image.open(path).convert("RGB")
        except (OSError, ValueError, KeyError):  # wants a library or a helper that is not there
            path.unlink(missing_ok=True)
            continue
        drawn.append(f"c/{path.name}")
    assert len(drawn) > 30 and "c/MPO.MPO" in drawn
    source = scanned(tmp_path / "images", convert=True)
    assert set(drawn) - set(source.files) <= {name for name in drawn if name.startswith("c/EPS")} and source.notes == ()
    assert {f"c/JPEG{s}" for s in (".JFIF", ".JPE", ".JPG", ".JPEG")} < set(source.files)
    plain = scanned(tmp_path / "images")
    assert list(plain.files) == sorted(file for file in drawn if file.lower().endswith(IMAGES))
    told = plain.notes[0]
    left = sum(int(number) for number in re.findall(r"(\d+) (?:\.\w+ )?files? ", told))
    assert left == len(drawn) - len(plain) and "1 .bmp file (c/BMP.BMP; --convert takes them)" in told


def test_nothing_but_what_is_left_out(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat/a.bmp": b"", "cat/b.BMP": b"", "dog/readme.txt": b"", ".x/c.jpg": b""})
    os.mkfifo(tmp_path / "fifo.jpg")
    with pytest.raises(dali_dr.ShardError, match=r"2 \.bmp files \(cat/a\.bmp, …; --convert takes them\)"):
        scanned(tmp_path)
    write_files(tmp_path, {"dog/a.jpg": b""})
    source = scanned(tmp_path)
    assert source.files == ["dog/a.jpg"] and list(source.labels) == [1]
    assert any("1 file beside the class folders (fifo.jpg)" in note for note in source.notes)


def test_many_kinds_are_told_in_one_line(tmp_path: Path) -> None:
    write_files(tmp_path, {"c/a.jpg": b"", **{f"c/a.{n:04}": b"" for n in range(3000)}})
    (note,) = scanned(tmp_path).notes
    assert len(note) < 1000 and note.endswith("2980 files of 2980 other kinds")


def test_long_and_odd_names_go_into_a_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = encode_jpeg(picture(16, 16, 0))
    files = [
        "__background__/a.jpg",
        f"{'長' * 80}/{'い' * 80}.jpg",
        f"{'長' * 80}/{'い' * 81}.jpg",
        f"{'x' * 255}/{'y' * 251}.jpg",
    ]
    write_files(tmp_path / "images", dict.fromkeys(files, image))
    assert main(["pack", str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    dataset, source = dali_dr.Dataset(tmp_path / "out"), scanned(tmp_path / "images")
    assert list(dataset.keys) == list(source.keys) and len(set(dataset.keys)) == 4
    assert list(dataset.class_names or ()) == sorted(file.split("/")[0] for file in set(files[:2] + files[3:]))
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as archive:
        names = archive.getnames()
    assert [name for name in names if name.endswith(".jpg")] == [f"{key}.jpg" for key in source.keys]


def test_the_commands_tell_and_refuse_before_a_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = encode_jpeg(picture(16, 16, 0))
    images = write_files(tmp_path / "images", {"10/a.jpg": image, "9/a.jpg": image, "9/b.bmp": b""})
    assert main(["pack", str(images), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    told = capsys.readouterr().err
    assert "dali-dr: note: classes have the numbers that their names are: '10' is 10, and 0 by sorted order" in told
    assert "dali-dr: note: left out: 1 .bmp file (9/b.bmp; --convert takes them)" in told
    assert list(dali_dr.Dataset(tmp_path / "out").labels) == [10, 9]
    assert main(["pack", "--input", str(images), "--labels", "sorted", "--out", str(tmp_path / "s"), "--quiet"]) == 0
    assert list(dali_dr.Dataset(tmp_path / "s").labels) == [0, 1]
    reinforce = ["reinforce", str(images), "--out", str(tmp_path / "r"), "--teacher", "no-such-teacher"]
    assert main([*reinforce, "--labels", "imagenet"]) == 1
    assert "the class folder '10' is none of ImageNet's" in capsys.readouterr().err
    for kept in ("topk", "full", "hard", "smoothing"):
        with pytest.raises(SystemExit, match="2"):
            main([*reinforce, "--labels", kept])
        assert f"what is kept of a prediction is said by --keep {kept}" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*reinforce, "--input", str(images)])
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize("rank", ["0", "1"])
def test_one_rank_tells(
    rank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    images = write_files(tmp_path / "images", {"a/a.jpg": b"", "a/b.txt": b""})
    arguments = ["reinforce", str(images), "--out", str(tmp_path / "r"), "--teacher", "no@such-file", "--device", "cpu"]
    assert main(arguments) == 2
    assert ("note: left out: 1 .txt file" in capsys.readouterr().err) == (rank == "0")
