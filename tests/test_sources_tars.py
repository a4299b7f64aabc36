"""Tars that others made: read as webdataset reads them, from whatever wrote them; sidecar sets beside them."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
import webdataset
from conftest import encode_jpeg, picture, write_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_reinforce import generation

import dali_dr
from dali_dr.cli import main
from dali_dr.reinforce.run import reinforce
from dali_dr.shards import others
from dali_dr.shards.others import stored_key
from dali_dr.shards.reshape import subset
from dali_dr.shards.sample import key_fault
from dali_dr.shards.tar_scan import COMPRESSIONS
from dali_dr.shards.verify import verify
from dali_dr.sources import Reading, WebDatasetTars, open_source
from dali_dr.sources.tars import expand

IMAGES = [encode_jpeg(picture(40 + n, 50, n)) for n in range(6)]
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
LONG = "long-" * 40  # more than any header holds


def write_tar(path: Path, members: Sequence[tuple[str, bytes]], dialect: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=dialect) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def by_webdataset(*paths: Path) -> list[dict[str, Any]]:
    """The samples with an image, as webdataset itself reads them."""
    samples = webdataset.WebDataset([str(path) for path in paths], shardshuffle=False, empty_check=False)
    return [sample for sample in samples if any(name in ("jpg", "jpeg") for name in sample)]


BASES = st.sampled_from(["a", "b 1", "c-2", "Käse", "d%20", "犬", "x_y", "0007", "e\tf", "long" * 23, "q'\"", "~"])
FOLDERS = st.sampled_from(
    ["", "./", "./n01/", "v1.2/", "./a b/c/", "/abs/", "x/../y/", "z//", "./k/./l/", "deep/" * 20]
)
MEMBERS = st.sampled_from([("jpg",), ("JPEG", "txt"), ("jpg", "png.txt", "json"), ("seg.png", "jpg")])
STRAY = ["README", "LICENSE", "a.b/NOTES", "./", "./docs/", "__config__", "__config__/x.jpg", ".hidden", "meta.txt"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(FOLDERS, BASES, MEMBERS), max_size=6, unique_by=lambda s: s[:2]),
    st.lists(st.sampled_from(STRAY), max_size=4, unique=True),
    st.sampled_from(FORMATS[1:]),
)
def test_samples_are_webdatasets(drawn: list[tuple[str, str, Any]], stray: list[str], dialect: int) -> None:
    members: list[tuple[str, bytes]] = []
    for number, (folder, base, suffixes) in enumerate(drawn):
        name = folder + base
        members += [(f"{name}.{suffix}", b"%s of %d" % (suffix.encode(), number)) for suffix in suffixes]
        members.append((f"{name}.cls", b"%d\n" % (number % 3)))
        if stray:
            members.append((stray.pop(), b""))
    members += [(name, b"") for name in stray]
    with tempfile.TemporaryDirectory() as folder_name:
        path = write_tar(Path(folder_name) / "t.tar", members, dialect)
        theirs = by_webdataset(path)
        keys = [re.sub(r"^(\.?/)+", "", sample["__key__"]) for sample in theirs]
        if not theirs or len(set(keys)) < len(keys):
            with pytest.raises(dali_dr.ShardError, match=r"holds no samples|its key in a data set"):
                open_source(path)
            return
        ours = open_source(path)
        for key, want in zip(ours.keys, keys, strict=True):
            cut = re.search(r"-[0-9a-f]{16}$", key)  # those that were too long
            assert want in (key, unquote(key)) or (cut and want.startswith(unquote(key[: cut.start()])))
        assert all(key_fault(key) is None for key in ours.keys)
        assert [ours.read(n) for n in range(len(ours))] == [s.get("jpg", s.get("jpeg")) for s in theirs]
        assert list(map(int, ours.labels)) == [int(sample["cls"]) for sample in theirs]


@given(
    st.lists(st.sampled_from(["a", ".", "..", "", "b c", "__x__", "%20", "é", LONG, "\udc80"]), min_size=1, max_size=5)
)
def test_a_stored_key_is_one_that_shards_hold(parts: list[str]) -> None:
    key = stored_key("/".join([*parts, "k"]))
    left_out = "__" in key.split("/")[0]  # members below it are left out as they are read
    assert left_out or key_fault(key) is None
    assert stored_key(key) == key


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, as people pack it with tar: spaces, long names, suffixes in capitals, hidden files, labels by name."""
    names = ["n1/a", "n1/b 1", "n2/c.d/e", f"n2/{LONG}", f"{'deep/' * 30}f", "Käse 2"]
    suffixes = ["jpg", "JPG", "jpeg", "JPEG", "jpg", "jpg"]
    files: dict[str, bytes] = {"README": b"x", "LICENSE.txt": b"y", "n1/._a.jpg": b"\0\5\x16\7", ".DS_Store": b""}
    for number, (name, suffix) in enumerate(zip(names, suffixes, strict=True)):
        files[f"{name}.{suffix}"] = IMAGES[number]
        files[f"{name}.json"] = json.dumps(
            {"label": "no", "annotation": {"class": ["cat", "dog"][number % 2]}}
        ).encode()
        files[f"{name}.txt"] = b"a caption"
    return write_files(tmp_path_factory.mktemp("tree"), files)


@pytest.mark.parametrize("dialect", ["gnu", "posix", "oldgnu", "python", "v7"])
def test_a_sidecar_set_beside_tars_of_any_writer(dialect: str, tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "images.tar"
    source_tree = tree
    if dialect == "v7":  # which has no long names
        source_tree = tmp_path / "tree"
        shutil.copytree(tree, source_tree, ignore=shutil.ignore_patterns("long-*", "deep"))
    if dialect == "python":
        with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as out:
            out.add(source_tree, ".")
    else:
        # By name, so that a sample's members are neighbours.
        arguments = ["tar", f"--format={dialect}", "--sort=name", "-C", str(source_tree), "-cf", str(archive), "."]
        subprocess.run(arguments, check=True)
    theirs = by_webdataset(archive)
    theirs = [sample for sample in theirs if not sample["__key__"].endswith("/")]  # of ._a.jpg
    source = open_source(archive, Reading(label_field="json:annotation.class"))
    classes = [json.loads(sample["json"])["annotation"]["class"] for sample in theirs]
    assert list(source.class_names) == sorted(set(classes)) and len(source) == len(theirs) >= 4
    assert [source.class_names[label] for label in source.labels] == classes
    assert "hidden member" in str(source.notes) and "LICENSE.txt" in str(source.notes) and "README" in str(source.notes)

    out = tmp_path / "out"
    options: Any = {"num_classes": 6, "samples_per_shard": 2, "progress": False}
    reinforce(source, out, generation(num_views=4, num_threads=1), sidecar=True, **options)
    subset(out, tmp_path / "fewer", views=2, sidecar=True, progress=False)
    for folder in (out, tmp_path / "fewer"):
        for fresh in (False, True):  # the second time with an index made anew from the tars
            data = dali_dr.Dataset(folder)
            assert [data.image(n) for n in range(len(data))] == [s.get("jpg", s.get("jpeg")) for s in theirs]
            assert [source.class_names[data.label(n)] for n in range(len(data))] == classes
            assert verify(folder, images=True, progress=False).problems == []
            loader = dali_dr.ReinforcedIterator(data, batch_size=2, device="cpu", dtype="uint8", num_threads=1)
            labels = torch.cat([batch["label"] for (batch,) in loader])
            assert sorted(labels.tolist()) == sorted(source.labels)
            if not fresh:
                (folder / "index.bin").unlink()


def test_an_incremental_backup_has_times_where_others_have_a_prefix(tmp_path: Path) -> None:
    """tarfile, and so webdataset, takes them as a part of the name."""
    files = {f"n/k{n}.{suffix}": data for n in range(2) for suffix, data in (("jpg", IMAGES[n]), ("cls", b"%d" % n))}
    write_files(tmp_path / "in", files)
    arguments = ["--format=gnu", "--sort=name", f"--listed-incremental={tmp_path}/snapshot", "-C", f"{tmp_path}/in"]
    subprocess.run(["tar", *arguments, "-cf", f"{tmp_path}/t.tar", "."], check=True)
    source = open_source(tmp_path / "t.tar")
    assert list(source.keys) == ["n/k0", "n/k1"] and [source.read(0), source.read(1)] == IMAGES[:2]
    options: Any = {"num_classes": 6, "sidecar": True, "progress": False}
    reinforce(source, tmp_path / "o", generation(num_views=4, num_threads=1), **options)
    assert dali_dr.Dataset(tmp_path / "o").image(1) == IMAGES[1]
    loader = dali_dr.ReinforcedIterator(tmp_path / "o", batch_size=2, device="cpu", num_threads=1)
    assert sorted(torch.cat([batch["label"] for (batch,) in loader]).tolist()) == [0, 1]


def test_a_wrong_place_in_the_index_is_found_in_such_tars(tmp_path: Path) -> None:
    """The header of another member of the same size is no header of this one."""
    members = [("./a b.jpg", IMAGES[0]), ("./a b.cls", b"0"), ("./c d.jpg", IMAGES[0]), ("./c d.cls", b"0")]
    write_tar(tmp_path / "t.tar", members)
    source = open_source(tmp_path / "t.tar")
    assert list(source.keys) == ["a%20b", "c%20d"]
    sidecar: Any = {"num_classes": 6, "sidecar": True, "progress": False}
    reinforce(source, tmp_path / "o", generation(num_views=4, num_threads=1), **sidecar)
    data = (tmp_path / "t.tar").read_bytes()
    with tarfile.open(tmp_path / "t.tar") as archive:
        first, second = archive.getmember("./a b.jpg"), archive.getmember("./c d.jpg")
    swapped = bytearray(data)
    swapped[first.offset : first.offset + 512], swapped[second.offset : second.offset + 512] = (
        data[second.offset : second.offset + 512],
        data[first.offset : first.offset + 512],
    )
    (tmp_path / "t.tar").write_bytes(swapped)
    with pytest.raises(dali_dr.ShardError, match="is not at byte"):
        dali_dr.Dataset(tmp_path / "o").image(0)
    loader = dali_dr.ReinforcedIterator(tmp_path / "o", batch_size=1, device="cpu", num_threads=1, order="sequential")
    with pytest.raises(dali_dr.ShardError, match="no tar member of that key"):
        next(iter(loader))


FIELDS: dict[str, tuple[str | None, dict[str, bytes], list[int], list[str]]] = {
    "cls": (None, {"cls": b"3\n"}, [3, 3], ["0", "1", "2", "3"]),
    "json": (None, {"json": b'{"label": 2}'}, [2, 2], ["0", "1", "2"]),
    "cls before json": (None, {"json": b'{"label": 2}', "cls": b"1"}, [1, 1], ["0", "1"]),
    "capitals": (None, {"CLS": b"1"}, [1, 1], ["0", "1"]),
    "a name": (None, {"cls": b"tabby cat\n"}, [0, 0], ["tabby cat"]),
    "a text in JSON": (None, {"json": b'{"label": "4"}'}, [4, 4], [str(n) for n in range(5)]),
    "zeros": (None, {"cls": b"007"}, [7, 7], [str(n) for n in range(8)]),
    "a whole float": (None, {"json": b'{"label": 2.0}'}, [2, 2], ["0", "1", "2"]),
    "a BOM": (None, {"cls": b"\xef\xbb\xbf1"}, [1, 1], ["0", "1"]),
    "compound": ("target.cls", {"target.cls": b"1", "cls": b"9"}, [1, 1], ["0", "1"]),
    "txt": ("txt", {"txt": b"dog", "cls": b"9"}, [0, 0], ["dog"]),
    "within": ("json:a.b", {"json": b'{"a": {"b": 1}, "label": 9}'}, [1, 1], ["0", "1"]),
    "within a list": ("json:a.1.id", {"json": b'{"a": [{}, {"id": 1}]}'}, [1, 1], ["0", "1"]),
    "a dot in a name": ("json:a.b", {"json": b'{"a.b": 1, "a": {"b": 2}}'}, [1, 1], ["0", "1"]),
    "another JSON": ("meta.json:y", {"meta.json": b'{"y": 1}', "json": b'{"label": 9}'}, [1, 1], ["0", "1"]),
}


@pytest.mark.parametrize("name", FIELDS)
def test_label_fields(name: str, tmp_path: Path) -> None:
    field, members, labels, class_names = FIELDS[name]
    files = [(f"{key}.{suffix}", data) for key in "ab" for suffix, data in {"jpg": IMAGES[0], **members}.items()]
    source = open_source(write_tar(tmp_path / "t.tar", files), Reading(label_field=field))
    assert list(map(int, source.labels)) == labels and list(source.class_names) == class_names


WRONG: dict[str, tuple[Reading, Mapping[str, bytes], str]] = {
    "no such field": (Reading(label_field="target.cls"), {"a.jpg": IMAGES[0], "a.cls": b"1"}, "label in target.cls"),
    "no such name": (
        Reading(label_field="json:x"),
        {"a.jpg": IMAGES[0], "a.json": b'{"y": 1}'},
        r"sample a: a\.json holds .*there is no 'x' in it, only \['y'\]",
    ),
    "not JSON": (Reading(label_field="json:x"), {"a.jpg": IMAGES[0], "a.json": b"{"}, "it is not JSON"),
    "a caption": (Reading(label_field="txt"), {"a.jpg": IMAGES[0], "a.txt": b"long " * 99}, "too long"),
    "too large": (Reading(), {"a.jpg": IMAGES[0], "a.cls": b"2000000000"}, r"sample a: a\.cls: the label '2000000000'"),
    "negative": (Reading(), {"a.jpg": IMAGES[0], "a.cls": b"-1"}, "negative"),
    "no label": (Reading(), {"a.jpg": IMAGES[0], "b.jpg": IMAGES[1], "b.cls": b"0"}, "sample a: .*a label in a.cls"),
    "no image": (Reading(), {"a.cls": b"0", "b.jpg": IMAGES[1], "b.cls": b"0"}, "sample a: .*want one image"),
    "a GIF": (Reading(), {"a.gif": b"GIF89a", "a.cls": b"0"}, r"a\.gif.*--convert stores \.gif as PNG"),
    "two images": (Reading(), {"a.0.jpg": IMAGES[0], "a.1.jpg": IMAGES[1], "a.cls": b"0"}, "want one image"),
    "apart": (Reading(), {"a.jpg": IMAGES[0], "b.jpg": IMAGES[1], "a.cls": b"0", "b.cls": b"0"}, "sample a: its mem"),
    "one key": (
        Reading(),
        {"a.jpg": IMAGES[0], "a.cls": b"0", "./a.jpg": IMAGES[1], "./a.cls": b"0"},
        r"\./a\.jpg: its key in a data set, a, is that of a\.jpg in",
    ),
    "one key by escapes": (
        Reading(),
        {"a b.jpg": IMAGES[0], "a b.cls": b"0", "a%20b.jpg": IMAGES[1], "a%20b.cls": b"0"},
        r"a%20b\.jpg: its key in a data set, a%20b, is that of a b\.jpg in",
    ),
    "a suffix twice": (Reading(), {"a.jpg": IMAGES[0], "a.JPG": IMAGES[1], "a.cls": b"0"}, "both its .jpg"),
    "nothing": (Reading(), {"README": b"x", "notes.txt": b"y"}, "holds no samples.*README"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_used_is_told(name: str, tmp_path: Path) -> None:
    reading, members, match = WRONG[name]
    path = write_tar(tmp_path / "images.tar", list(members.items()))
    with pytest.raises(dali_dr.ShardError, match=match) as caught:
        open_source(path, reading)
    assert "images.tar" in str(caught.value) and len(str(caught.value)) < 1000


def test_it_is_told_before_a_teacher_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("a teacher was loaded")

    monkeypatch.setattr("dali_dr.reinforce.blueprint.load_teacher", load)
    path = write_tar(tmp_path / "t.tar", [("a.jpg", IMAGES[0])])
    arguments = ["reinforce", "--input", str(path), "--out", str(tmp_path / "out"), "--teacher", "resnet18"]
    assert main(arguments) == 1
    assert "sample a" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_one_image_of_several_and_those_that_are_converted(tmp_path: Path) -> None:
    members = [
        ("a.jpg", IMAGES[0]), ("a.seg.png", b"s"), ("a.small.jpg", b"t"), ("a.cls", b"0"),
        ("b.input.jpg", IMAGES[1]), ("b.cls", b"1"),
    ]  # fmt: skip
    source = open_source(write_tar(tmp_path / "t.tar", members))
    assert [source.read(0), source.read(1)] == IMAGES[:2]
    path = write_tar(
        tmp_path / "u.tar", [("a.gif", b"G"), ("a.cls", b"0"), ("b.bmp", b"B"), ("b.jpg", b"J"), ("b.cls", b"0")]
    )
    source = open_source(path, Reading(convert=True))
    assert [source.read(0), source.read(1)] == [b"G", b"J"]


def test_links_and_folders_are_no_members(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for name, kind in (("d.jpg", tarfile.DIRTYPE), ("l.jpg", tarfile.SYMTYPE), ("f.jpg", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jpg"
            archive.addfile(info)
        for name, data in (("a.jpg", IMAGES[0]), ("a.cls", b"0")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert list(open_source(tmp_path / "t.tar").keys) == [s["__key__"] for s in by_webdataset(tmp_path / "t.tar")]


@pytest.mark.parametrize("way", COMPRESSIONS, ids=lambda way: way.name)
@pytest.mark.parametrize("by_name", [True, False])
def test_compressed_tars_are_refused_with_the_command_that_helps(
    way: Any, by_name: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which(way.stdout.split()[0]) is None:
        pytest.skip(f"{way.stdout.split()[0]} is not installed")
    folder = tmp_path / "it's here"
    folder.mkdir()
    plain = write_tar(folder / "plain", [("a.jpg", IMAGES[0]), ("a.cls", b"0")])
    for suffix in way.suffixes if by_name else (".tar", ".TAR.gz" if way.name != "gzip" else ".tar.zst"):
        path = folder / f"images{suffix}"
        packed = subprocess.run(
            [*way.stdout.split()[:1], "-c"], input=plain.read_bytes(), capture_output=True, check=True
        )
        path.write_bytes(packed.stdout)
        assert main(["pack", str(path), "--out", str(tmp_path / "out"), "--quiet"]) == 1
        told = capsys.readouterr().err
        command = re.search(r"by `(.*)`", told)
        assert command and way.name in told and path.name in told and not (tmp_path / "out").exists()
        subprocess.run(command[1], shell=True, check=True)
        made = re.search(r"and give (\S+)", told)
        assert made and path.exists() and open_source(folder / made[1]).read(0) == IMAGES[0]
        (folder / made[1]).unlink()
        path.unlink()


def test_a_plain_tar_that_is_called_compressed_is_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "images.tar.gz", [("a.jpg", IMAGES[0]), ("a.cls", b"0")])
    assert open_source(path).read(0) == IMAGES[0]


def test_of_many_tars_the_compressed_one_is_found_before_any_is_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("a.jpg", IMAGES[0])])  # without a label, which reading would find
    for name in ("1.tar", "2.tar"):
        (tmp_path / name).write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(dali_dr.ShardError, match=r"1\.tar: it is compressed with gzip.*the same for 1 more"):
        open_source(f"{tmp_path}/*.tar")


def test_patterns(tmp_path: Path) -> None:
    for number in range(12):
        write_tar(tmp_path / f"t-{number:03d}.tar", [(f"{number}.jpg", IMAGES[0]), (f"{number}.cls", b"0")])
    for pattern in ("t-{000..011}.tar", "t-{003,001}.tar", "t-{000..002}.tar::t-010.tar", "t-00{7..9}.tar"):
        theirs = webdataset.shardlists.expand_urls(f"{tmp_path}/{pattern}".replace("::", f"::{tmp_path}/"))
        whole = f"{tmp_path}/{pattern}".replace("::", f"::{tmp_path}/")
        assert [str(path) for path in expand(whole)] == theirs
        assert list(open_source(whole).keys) == [sample["__key__"] for sample in by_webdataset(*map(Path, theirs))]
    assert len(open_source(f"{tmp_path}/t-*.tar")) == 12
    assert len(open_source(f"{tmp_path}/t-00*.tar::{tmp_path}/t-01{{0..1}}.tar")) == 12
    odd = write_tar(tmp_path / "{a,b}[1]::c.tar", [("z.jpg", IMAGES[0]), ("z.cls", b"0")])
    assert list(open_source(odd).keys) == ["z"]
    (tmp_path / "t-005.tar").unlink()
    with pytest.raises(dali_dr.ShardError, match=r"t-005\.tar: no such file .*12 files in all"):
        open_source(f"{tmp_path}/t-{{000..011}}.tar")
    for bad in ("t-{000..011.tar", "${NO_SUCH}.tar", "u-*.tar"):
        with pytest.raises(dali_dr.ShardError, match=r"braces|no file matches|no such file"):
            open_source(f"{tmp_path}/{bad}")


@pytest.mark.parametrize("linked", ["out", "tars", "both", "files"])
def test_a_sidecar_set_and_links(linked: str, tmp_path: Path) -> None:
    """The data set, its tars, or both are reached by a link at another depth than where they are."""
    (tmp_path / "store/a/b/tars").mkdir(parents=True)
    (tmp_path / "disk/x/sets").mkdir(parents=True)
    for number in range(2):
        members = [(f"k{number}.jpg", IMAGES[number]), (f"k{number}.cls", b"%d" % number)]
        write_tar(tmp_path / f"store/a/b/tars/t{number}.tar", members)
    tars, out = tmp_path / "store/a/b/tars", tmp_path / "disk/x/sets/out"
    if linked in ("tars", "both"):
        (tmp_path / "images").symlink_to(tars)
        tars = tmp_path / "images"
    if linked in ("out", "both"):
        (tmp_path / "sets").symlink_to(tmp_path / "disk/x/sets")
        out = tmp_path / "sets/out"
    if linked == "files":  # as in the cache of the hub
        (tmp_path / "snapshot/1").mkdir(parents=True)
        for path in tars.iterdir():
            (tmp_path / "snapshot/1" / path.name).symlink_to(f"../../store/a/b/tars/{path.name}")
        tars = tmp_path / "snapshot/1"
    options: Any = {"num_classes": 6, "sidecar": True, "progress": False}
    reinforce(open_source(f"{tars}/*.tar"), out, generation(num_views=4, num_threads=1), **options)
    subset(out, tmp_path / "deep/er/fewer", views=2, sidecar=True, progress=False)
    (tmp_path / "way/to").mkdir(parents=True)
    (tmp_path / "way/to/it").symlink_to(tmp_path / "disk/x/sets/out")
    for folder in (out, out.resolve(), tmp_path / "way/to/it", tmp_path / "deep/er/fewer"):
        data = dali_dr.Dataset(folder)
        assert [data.image(0), data.image(1)] == IMAGES[:2]
        assert verify(folder, progress=False).problems == []
        assert not any(Path(one.path).is_absolute() for one in data.manifest.image_tars)
        loader = dali_dr.ReinforcedIterator(data, batch_size=2, device="cpu", num_threads=1)
        assert sorted(torch.cat([batch["label"] for (batch,) in loader]).tolist()) == [0, 1]


def test_a_subset_beside_shards_of_a_sidecar_set_with_names(tmp_path: Path) -> None:
    """What a sidecar set says of labels in its tars is not said of shards that were made of it."""
    members = [m for n in range(4) for m in ((f"k{n}.jpg", IMAGES[n]), (f"k{n}.cls", [b"z", b"a"][n % 2]))]
    source = open_source(write_tar(tmp_path / "t.tar", members))
    assert isinstance(source, WebDatasetTars) and list(source.class_names) == ["a", "z"]
    g = generation(num_views=4, num_threads=1)
    reinforce(source, tmp_path / "side", g, num_classes=6, sidecar=True, progress=False)
    subset(tmp_path / "side", tmp_path / "whole", views=3, progress=False)
    subset(tmp_path / "whole", tmp_path / "again", views=2, sidecar=True, progress=False)
    for name in ("side", "whole", "again"):
        (tmp_path / name / "index.bin").unlink()
        assert np.array_equal(dali_dr.Dataset(tmp_path / name).labels, [1, 0, 1, 0])
        assert verify(tmp_path / name, progress=False).problems == []


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        ("t-{000..9999999999}.tar", "braces say 10000000000 tars.*a digit too many"),
        ("{0..9999}/{0..9999}.tar", "braces say 100000000 tars"),
        ("ftp://host/t.tar", "pipes and FTP are not: download it"),
        ("pipe:cat t.tar", "pipes and FTP are not"),
    ],
)
def test_patterns_that_no_tars_are_meant_by_are_told_at_once(pattern: str, match: str) -> None:
    with pytest.raises(dali_dr.ShardError, match=match):
        open_source(pattern)


def test_members_that_are_not_neighbours_are_told_so(tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpg", "a.cls", "b.cls"]
    with tarfile.open(tmp_path / "t.tar", "w") as out:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 1
            out.addfile(info, io.BytesIO(b"0"))
    with pytest.raises(
        dali_dr.ShardError, match=r"sample a: its members are a\.jpg.*one after the other.*tar --sort=name"
    ):
        open_source(tmp_path / "t.tar")


def test_names_are_split_as_webdataset_splits_them() -> None:
    draw = random.Random(0)
    for _ in range(20_000):
        name = "".join(draw.choice("ab./\n .") for _ in range(draw.randrange(12)))
        assert others._split(name) == webdataset.tariterators.base_plus_ext(name)
