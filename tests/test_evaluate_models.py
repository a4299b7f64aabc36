"""Models that dali-dr evaluate loads: checkpoints of our trainer and of timm's, state dicts, names; with their views."""

from __future__ import annotations

import argparse
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_files
from test_examples_training import CLASSES, IMAGES, example, photo

from dali_dr._torchvision import load_torchvision
from dali_dr.errors import DaliDrError
from dali_dr.evaluate.models import Override, View, load_model
from dali_dr.evaluate.run import evaluate
from dali_dr.pack import pack
from dali_dr.reinforce.teachers import load_teacher
from dali_dr.sources import ImageFolder

SMALL = "test_vit"


@pytest.fixture(scope="module")
def timm() -> Any:
    load_torchvision()
    import timm

    return timm


@pytest.fixture(scope="module")
def weights(timm: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    state: dict[str, torch.Tensor] = timm.create_model(SMALL, num_classes=7).state_dict()
    return state


def zeros(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


def holds(model: Any, state: dict[str, torch.Tensor]) -> bool:
    own = model.module.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], state[name]) for name in state)


TRAINER = {
    "model": SMALL,
    "model_options": {"img_size": 96},
    "num_classes": 7,
    "size": 96,
    "eval_size": None,
    "eval_resize": 0,
    "eval_crop": 0.75,
    "eval_interpolation": "bicubic",
    "loader": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "num_threads": 1},
}


def test_a_checkpoint_of_our_trainer_says_all(timm: Any, tmp_path: Path) -> None:
    state = timm.create_model(SMALL, num_classes=7, img_size=96).state_dict()
    torch.save({"model": zeros(state), "ema": state, "best": 0.5, "options": TRAINER}, tmp_path / "last.pt")
    model = load_model(str(tmp_path / "last.pt"))
    assert holds(model, state) and model.weights == "ema", "averaged weights are those that the trainer evaluates"
    assert model.view == View(96, 128, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    torch.save({"model": state, "options": {**TRAINER, "eval_size": 64, "eval_resize": 80}}, tmp_path / "best.pt")
    with pytest.raises(DaliDrError, match=r"cannot make|does not hold"):
        load_model(f"{tmp_path / 'best.pt'}{{img_size: 32}}")
    model = load_model(str(tmp_path / "best.pt"))
    assert (model.view.size, model.view.resize, model.weights) == (64, 80, "model")


def test_a_checkpoint_of_timms_trainer_says_all(timm: Any, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    args = argparse.Namespace(
        model=SMALL, num_classes=7, img_size=160, crop_pct=0.9, interpolation="bilinear", mean=[0.1, 0.2, 0.3], std=None
    )
    content = {"epoch": 3, "arch": SMALL, "state_dict": zeros(weights), "state_dict_ema": weights, "args": args}
    torch.save(content, tmp_path / "model_best.pth.tar")
    model = load_model(str(tmp_path / "model_best.pth.tar"))
    config = timm.data.resolve_data_config(vars(args), model=model.module)
    assert holds(model, weights) and model.weights == "state_dict_ema"
    assert model.view == View(160, int(160 / 0.9), "bilinear", (0.1, 0.2, 0.3), tuple(config["std"]))


@pytest.mark.parametrize("form", ["plain", "module._orig_mod.", "_orig_mod.module.", "lightning", "safetensors", "swa"])
def test_a_state_dict_needs_a_name(form: str, timm: Any, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.ckpt")
    if form == "safetensors":
        from safetensors.torch import save_file

        save_file(weights, path)
    elif form == "lightning":
        torch.save({"state_dict": {f"model.{name}": t for name, t in weights.items()}, "epoch": 1}, path)
    elif form == "swa":
        torch.save({"n_averaged": torch.tensor(3), **{f"module.{name}": t for name, t in weights.items()}}, path)
    else:
        torch.save({("" if form == "plain" else form) + name: t for name, t in weights.items()}, path)
    with pytest.raises(DaliDrError, match="does not say which model"):
        load_model(str(path))
    model = load_model(f"{SMALL}@{path}")
    config = timm.data.resolve_model_data_config(model.module, use_test_size=True)
    assert holds(model, weights) and model.module.num_classes == 7
    expected = View(
        160, int(160 / config["crop_pct"]), config["interpolation"], tuple(config["mean"]), tuple(config["std"])
    )
    assert model.view == expected
    assert model.parameters == sum(p.numel() for p in timm.create_model(SMALL, num_classes=7).parameters())
    other = load_model(f"{SMALL}@{path}{{mean: [0.5, 0.5, 0.5], input_size: 160}}")
    assert other.view.mean == (0.5, 0.5, 0.5) and other.digest() == model.digest()


class Harm:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("executed",)


def test_what_cannot_be_loaded_is_refused(
    weights: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(weights, tmp_path / "w.pt")
    (tmp_path / "harm.pt").write_bytes(pickle.dumps({"state_dict": Harm()}))
    torch.save({"state_dict": Harm()}, tmp_path / "harm2.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "w.pt").read_bytes()[:5000])
    short = dict(weights)
    short.pop("norm.weight")
    torch.save(short, tmp_path / "short.pt")
    w = tmp_path
    for text, message in {
        f"{SMALL}@{w}/harm.pt": "could run any code|cannot be read",
        f"{SMALL}@{w}/harm2.pt": "could run any code",
        f"{SMALL}@{w}/list.pt": "no state dict",
        f"{SMALL}@{w}/cut.pt": "not a checkpoint that can be read",
        f"{SMALL}@{w}/short.pt": "short.pt does not hold the weights of test_vit .*1 missing: norm.weight",
        f"test_resnet@{w}/w.pt": "does not hold the weights of test_resnet",
        f"{SMALL}@{w}/w.pt{{depht: 3}}": "timm cannot make test_vit",
        f"{SMALL}@{w}/w.pt{{depth: [}}": "not a YAML mapping",
        f"{SMALL}@{w}/w.pt{{head: fc}}": "projection head",
        f"{SMALL}@{w}/nowhere.pt": "nowhere.pt: there is no such file",
        f"{w}/nowhere.pt": "nowhere.pt: there is no such file",
        "no_such_model": "no_such_model",
        f"ig_resnext101_32x48d@{w}/w.pt": "another model; write resnext101_32x32d@FILE{base_width: 48}",
    }.items():
        with pytest.raises(DaliDrError, match=message.replace("{", r"\{")):
            load_model(text)
    assert "executed" not in capsys.readouterr().out


def test_a_user_overrides_the_view() -> None:
    view = View(224, 256)
    assert Override(size=160).of(view) == View(160, 182)  # floor(160 / 0.875), as the models' own part
    assert Override(size=160, resize=160).of(view) == View(160, 160)
    assert Override(crop_pct=0.95, interpolation="bicubic").of(view) == View(224, 235, "bicubic")
    assert Override(mean=(0, 0, 0), std=(1, 1, 1)).of(view) == View(224, 256, "bilinear", (0, 0, 0), (1, 1, 1))
    assert Override().of(view, whole=True) == View(224, 224)
    assert Override(resize=256).of(view, whole=True) == view
    with pytest.raises(ValueError, match="say the same"):
        Override(resize=256, crop_pct=0.9).of(view)
    with pytest.raises(DaliDrError, match="--interpolation"):
        _ = View(224, 256, "nearest").evaluation


def test_the_trainers_own_evaluation_is_the_same(tmp_path: Path) -> None:
    """Two steps of examples/train_timm.py: its log's figures are ours of the checkpoint that it wrote."""
    trainer = example("train_timm")
    files = {f"{'abcdef'[n % CLASSES]}/{n:02d}.jpg": photo(n) for n in range(IMAGES)}
    source = ImageFolder.scan(write_files(tmp_path / "photos", files))
    pack(source, tmp_path / "set", progress=False)
    words = f"--data {tmp_path}/set --val {tmp_path}/set --out {tmp_path}/out --loss ce --model {SMALL} --device cpu "
    words += "--batch-size 8 --epochs 1 --size 64 --ema 0.5 --warmup-epochs 0 --lr 0.05 --loader"
    options = ["{augment: rrc, num_threads: 1}", "--model-options", "{img_size: 64}"]
    assert trainer.main([*words.split(), *options]) == 0
    log = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    said = next(line for line in reversed(log) if "top1" in line)
    for place in ("set", "photos"):
        (result,) = evaluate(str(tmp_path / "out/last.pt"), tmp_path / place)
        assert (result.scores.images, result.view.size, result.view.resize) == (IMAGES, 64, 73)
        assert (result.scores.top1, result.scores.top5) == pytest.approx((said["top1"], said["top5"]), abs=1e-12)
        assert result.scores.nll == pytest.approx(said["eval_loss"], abs=1e-5)


def test_no_message_advises_to_run_code_from_a_file(tmp_path: Path) -> None:
    """torch's own say "Re-running `torch.load` with `weights_only` set to `False` will likely succeed"."""
    w = tmp_path
    torch.save({"a": np.float64(3)}, w / "numpy.pt")
    torch.save({"m": torch.nn.Linear(2, 2)}, w / "module.pt")
    (w / "pickle.pt").write_bytes(pickle.dumps({"a": 3}))
    (w / "json.pt").write_text("{}")
    (w / "text.pt").write_text("hello world")
    (w / "empty.pt").write_bytes(b"")
    (w / "photo.pt").write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    (w / "x.safetensors").write_text("hello world")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(w / "script.pt"))
    (w / "run").mkdir()
    for path in [*w.iterdir(), w / "nowhere.pt"]:
        for load in (load_model, load_teacher):
            with warnings.catch_warnings(), pytest.raises(DaliDrError) as caught:
                warnings.simplefilter("error")
                load(f"{SMALL}@{path}")
            said = str(caught.value)
            assert str(path) in said and not any(word in said for word in ("weights_only", "PyTorch", "torch.load"))
    with pytest.raises(DaliDrError, match=r"holds torch\.nn\.modules\.linear\.Linear"):
        load_model(f"{SMALL}@{w}/module.pt")


def test_a_path_in_the_place_of_a_name(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "last.pt")
    with pytest.raises(DaliDrError, match=r"is a folder: .*as in \S+/best\.pt$"):
        load_model(str(tmp_path))
    with pytest.raises(DaliDrError, match=r"is a folder: .*as in NAME@\S+/best\.pt"):
        load_teacher(str(tmp_path))
    with pytest.raises(DaliDrError, match=r"is a file: write NAME@\S+/last\.pt"):
        load_teacher(f"{tmp_path}/last.pt")
    for load in (load_model, load_teacher):
        with pytest.raises(DaliDrError, match=r"first\.pt: there is no such file"):
            load(f"{tmp_path}/first.pt")
        with pytest.raises(DaliDrError, match=r"is a folder: .*best\.pt"):
            load(f"{SMALL}@{tmp_path}")
