"""train_timm.py refuses what would go wrong silently or late: one line, exit status 2, and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import test_examples_training as training
import torch
from test_examples_training import CLASSES, arguments, example, log, photo

import dali_dr

dataset, one_thread = training.dataset, training.one_thread  # fixtures
RUN = "--epochs 2 --loss kl --lr 0.05 --stop-after 2"


@pytest.fixture(scope="module")
def train_timm() -> ModuleType:
    return example("train_timm")


@pytest.fixture(scope="module")
def stopped(train_timm: ModuleType, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """last.pt of a run that was interrupted after two steps."""
    out = tmp_path_factory.mktemp("stopped")
    assert train_timm.main(arguments(dataset, out, RUN)) == train_timm.INTERRUPTED
    return out / "last.pt"


@pytest.fixture
def out(stopped: Path, tmp_path: Path) -> Path:
    """The folder of such a run."""
    (tmp_path / "last.pt").write_bytes(stopped.read_bytes())
    return tmp_path


def plain(out: Path, classes: int, names: tuple[str, ...] | None = None, labels: int | None = None) -> Path:
    """Twelve plain images."""

    def samples() -> Iterator[dali_dr.Sample]:
        for number in range(12):
            yield dali_dr.Sample(f"image{number}", photo(number), number % (labels or classes), None)

    dali_dr.write_shards(samples(), out, spec=None, num_classes=classes, class_names=names, progress=False)
    return out


def refused(train_timm: ModuleType, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which it ends."""
    capsys.readouterr()
    try:
        assert train_timm.main(words) == 2
    except SystemExit as error:
        assert error.code == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("train_timm.py: error: ") and "\n" not in said and "Traceback" not in said, said
    return said.removeprefix("train_timm.py: error: ")


def test_another_run_is_not_mixed_in(
    train_timm: ModuleType, dataset: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused, and the checkpoint stays; with --accept-changes it goes on, and the log says with what."""
    before, other = (out / "last.pt").read_bytes(), f"{RUN} --epochs 3 --loss ce --lr 5 --weight-decay 0.5"
    said = refused(train_timm, arguments(dataset, out, other), capsys)
    assert said == (
        f"{out} holds a run with epochs 2, loss kl, lr 0.05, weight_decay 0.0001 (now 3, ce, 5, 0.5): "
        "choose another --out, or go on with --accept-changes"
    )
    assert (out / "last.pt").read_bytes() == before and not (out / "log.jsonl").exists()
    assert train_timm.main(arguments(dataset, out, f"{other} --accept-changes")) == train_timm.INTERRUPTED
    assert log(out)[0] == {
        "resumed": round(16 / 24, 6),
        "changed": {"epochs": [2, 3], "loss": ["kl", "ce"], "lr": [0.05, 5.0], "weight_decay": [1e-4, 0.5]},
    }
    state = torch.load(out / "last.pt", weights_only=True)
    assert state["options"]["loss"] == "ce"
    assert {group["weight_decay"] for group in state["optimizer"]["param_groups"]} == {0.0, 0.5}  # 0: timm's positions


@pytest.mark.parametrize(
    "words",
    [
        "--log-every 2 --checkpoint-every 3 --no-channels-last --eval-every 2 --device cpu --eval-crop 0.875",
        "--loader {num_threads:&2,prefetch:&1,order:&global}",  # the order that it had
    ],
)
def test_what_does_not_decide_may_change(train_timm: ModuleType, dataset: Path, out: Path, words: str) -> None:
    assert train_timm.main(arguments(dataset, out, f"{RUN} {words}")) == train_timm.INTERRUPTED


def test_a_moved_set_is_the_same(train_timm: ModuleType, dataset: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(dataset)
    assert train_timm.main(arguments(tmp_path / "link", out, RUN)) == train_timm.INTERRUPTED


def test_old_checkpoints_are_not_compared(train_timm: ModuleType, dataset: Path, out: Path) -> None:
    state = torch.load(out / "last.pt", weights_only=True)
    del state["options"]["loss"], state["options"]["val_data"]
    torch.save(state, out / "last.pt")
    assert train_timm.main(arguments(dataset, out, f"{RUN} --loss ce")) == train_timm.INTERRUPTED
    del state["options"]
    torch.save(state, out / "last.pt")
    assert train_timm.main(arguments(dataset, out, f"{RUN} --loss ce --lr 1")) == train_timm.INTERRUPTED


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model test_resnet --model-options {}", "model test_vit"),
        ("--model-options {depth:&1}", "model_options.depth none"),
        ("--optimizer adamw", "optimizer sgd (now adamw): choose another --out; no run goes on with another optimizer"),
        ("--seed 3", "seed 0 (now 3): choose another --out; no run goes on with another seed"),
        ("--no-decay-all", "decay_all true (now false): choose another --out; no"),
        ("--ema 0.9", "ema 0 (now 0.9): choose another --out; no"),
        ("--views-per-image 2", "views_per_image 1 (now 2): choose another --out; no"),
        ("--loader {order:&sequential}", "loader.order none (now sequential): choose another --out; no"),
        ("--loader {num_threads:&1,augment:&rrc}", "loader.augment none (now rrc): choose another --out; no"),
    ],
)
def test_no_run_goes_on_with_these(
    train_timm: ModuleType, dataset: Path, out: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    for accept in ("", "--accept-changes"):
        assert message in refused(train_timm, arguments(dataset, out, f"{RUN} {words} {accept}"), capsys)


def test_another_set_is_named(
    train_timm: ModuleType, dataset: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = plain(tmp_path / "other", CLASSES)
    words = arguments(dataset, out, f"{RUN} --data {other} --loss ce --loader {{augment:&rrc}}")
    assert f"data {dataset}" in (said := refused(train_timm, words, capsys)) and f"(now {other}" in said
    words = arguments(dataset, out, f"{RUN} --val {other}")
    said = refused(train_timm, words, capsys)
    assert f"val {dataset} (now {other}): choose another --out, or go on" in said
    assert train_timm.main([*words, "--accept-changes"]) == train_timm.INTERRUPTED


@pytest.mark.parametrize("content", [b"", b"nothing of torch's", json.dumps({"model": 1}).encode()])
def test_files_that_are_no_checkpoints(
    train_timm: ModuleType, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "last.pt").write_bytes(content)
    assert "last.pt: is no checkpoint" in refused(train_timm, arguments(dataset, tmp_path), capsys)
    words = arguments(dataset, tmp_path / "out", f"--init {tmp_path / 'last.pt'}")
    assert f"--init {tmp_path / 'last.pt'}: is no checkpoint" in refused(train_timm, words, capsys)
    torch.save([1], tmp_path / "last.pt")
    assert "holds a list; want a checkpoint" in refused(train_timm, words, capsys)
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "last.pt")
    assert "only 0 of the model's" in refused(train_timm, words, capsys)
    assert "has no optimizer" in refused(train_timm, arguments(dataset, tmp_path), capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--init /nowhere/file.pt", "--init /nowhere/file.pt: cannot be read: No such file or directory"),
        ("--init /", "--init /: cannot be read: Is a directory"),
        ("--out /dev/null/out", "--out /dev/null/out: no such folder can be made: Not a directory"),
        ("--optimizer nope", "--optimizer nope: "),
        ("--model nosuchmodel --model-options {}", "cannot be made"),
        ("--loss bake --loader {repeats:&3}", "6 images that stay together (class_mates: 1, loader: {repeats: 3})"),
        ("--loader {repeats:&3}", "× 3 images that stay together (loader: {repeats: 3})"),
        ("--loader {a:&1,a:&2}", "a is there twice"),
        ("--loader {a", "is not YAML"),
        ("--lr fast", "(see --help)"),
        ("--vbs [32,&100,&64] --model swin_tiny_patch4_window7_224 --model-options {}", "'{strict_img_size: false}'"),
        ("--eval-size 100", "--model test_vit takes no images of 100 pixels (Input height (100) should be divisible"),
        ("--loss ce --model-options {img_size:&64,num_classes:&3}", "has the label 5: leave num_classes out"),
        ("--model-options {img_size:&64,num_classes:&3}", "the model has 3 outputs"),
    ],
)
def test_faults_are_one_line(
    train_timm: ModuleType, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    assert message in (said := refused(train_timm, arguments(dataset, tmp_path, words), capsys))
    assert " :" not in said


def test_no_gpu_is_one_line(
    train_timm: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", "d", "--out", "o", "--device", "cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cuda: PyTorch finds no GPU here" in refused(train_timm, words, capsys)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert "process 2 of this machine has no GPU: it has 2" in refused(train_timm, words, capsys)


def test_a_key_is_said_once(train_timm: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "r.yaml"
    for text, message in (
        ("lr: 1.0\nepochs: 3\nlr: 2.0\n", "lr is there twice"),
        ("loader:\n  window: 3\n  window: 4\n", "line 2: window is there twice"),
    ):
        recipe.write_text(text)
        said = refused(train_timm, ["--data", "d", "--out", "o", "--recipe", str(recipe)], capsys)
        assert str(recipe) in said and message in said
    recipe.write_bytes(b"\xff\xfe\x00")
    assert "no UTF-8" in refused(train_timm, ["--data", "d", "--out", "o", "--recipe", str(recipe)], capsys)


@pytest.mark.parametrize(("words", "noted"), [("2 --warmup-epochs 2", 1), ("3 --warmup-epochs 2", 0)])
def test_all_warm_up_is_told(
    train_timm: ModuleType, capsys: pytest.CaptureFixture[str], words: str, noted: int
) -> None:
    train_timm.parse(f"--data d --out o --epochs {words}".split())
    assert capsys.readouterr().err.count("the learning rate does not reach --lr") == noted
    train_timm.parse(f"--data d --out o --schedule one-cycle --epochs {words}".split())
    assert not capsys.readouterr().err


def test_val_must_be_of_the_same_classes(
    train_timm: ModuleType, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    five, six = tuple("abcde"), tuple("abcdef")
    narrow = plain(tmp_path / "narrow", 5, five)
    wide = plain(tmp_path / "wide", 9, (*five, *(f"teacher class {n}" for n in range(5, 9))), labels=5)
    fresh = "--epochs 2 --loss ce --loader {num_threads:&1,augment:&rrc} --size 64"

    def words(data: Path, val: Path, more: str = "") -> list[str]:
        return arguments(dataset, tmp_path / "out", f"{fresh} --data {data} --val {val} {more}")

    said = refused(train_timm, words(dataset, narrow), capsys)
    assert "has 5 classes, the model has 6 outputs" in said and "give a set of the same classes" in said
    said = refused(train_timm, words(wide, narrow), capsys)
    assert "whose labels are of 5 classes too: learn these (--loss ce --model-options '{num_classes: 5}')" in said
    assert train_timm.main(words(wide, narrow, "--model-options {img_size:&64,num_classes:&5}")) == 0  # as it says
    assert log(tmp_path / "out")[-1]["images"] == 12
    turned = plain(tmp_path / "turned", 6, six[::-1])
    said = refused(train_timm, words(plain(tmp_path / "named", 6, six), turned), capsys)
    assert "class 0 is 'f'" in said and "it is 'a'" in said


def test_sizes_are_tried_without_a_trace(train_timm: ModuleType) -> None:
    """Running statistics and the mode of the model stay."""
    import sys

    import timm

    model = timm.create_model("test_efficientnet", num_classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    o = train_timm.parse(["--data", "d", "--out", "o"])
    sys.modules["train_timm_checks"].check_sizes(o, model, [32, 64])
    assert model.training and all(torch.equal(before[n], value) for n, value in model.state_dict().items())
    assert np.all([module.training for module in model.modules()])
