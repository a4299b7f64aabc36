"""The scripts of docs/migration for DALI, Lightning, accelerate and Trainer, as they were and with the page's diff.

Each is trained before the change and after it, and goes on from a checkpoint with exactly the batches that would have come.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, write_files
from diffs import Change, changes, replaced
from test_examples_training import CLASSES, IMAGES, photo
from test_examples_training import dataset as dataset

import dali_dr
from dali_dr._torchvision import load_torchvision

PAGES = REPOSITORY / "docs" / "migration"
BATCH, SIZE = 8, 64

ANY_WARNING = pytest.mark.filterwarnings("ignore")  # of the frameworks, about few batches and no workers

SMALL = {"resnet18(num_classes=1000)": f"resnet.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], {CLASSES})"}
TINY_TRANSFORMS = {"RandomResizedCrop(224)": f"RandomResizedCrop({SIZE})", "num_workers=8": "num_workers=0"}


def change(page: str, name: str) -> Change:
    return changes(PAGES / page)[name]


@pytest.fixture(autouse=True)
def one_process_without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def folder(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders that the pages name, and the process in their midst."""
    load_torchvision()
    files = {f"{part}/{n % CLASSES}/{n:03d}.jpg": photo(n) for part in ("train", "val") for n in range(IMAGES)}
    write_files(tmp_path / "imagenet", files)
    (tmp_path / "imagenet-plus").symlink_to(dataset)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(script: str, name: str) -> ModuleType:
    """The script as a module, without what stands under `if __name__ == "__main__"`."""
    module = ModuleType(name)
    exec(compile(script, f"{name}.py", "exec"), module.__dict__)
    return module


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[bytes, float]]]:
    """Every cross entropy that is computed for a gradient: the bytes of its targets, and its value."""
    seen: list[tuple[bytes, float]] = []
    plain = torch.nn.functional.cross_entropy

    def noted(logits: torch.Tensor, target: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        value = plain(logits, target, *args, **options)
        if torch.is_grad_enabled():
            seen.append((target.numpy().tobytes(), value.item() / (len(logits) if "sum" in options.values() else 1)))
        return value

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", noted)
    monkeypatch.setattr("dali_dr.integrations.hugging_face.cross_entropy", noted)
    yield seen


def targets_of(dataset: Path, epochs: int, seed: int = 0) -> list[bytes]:
    """The targets of every batch, from the plain loader."""
    loader = dali_dr.ReinforcedIterator(
        dataset, batch_size=BATCH, device="cpu", num_threads=1, seed=seed, as_tuples=True
    )
    return [targets.numpy().tobytes() for _ in range(epochs) for _, targets in loader]


def check(
    losses: list[tuple[bytes, float]], dataset: Path, epochs: int, train: Callable[[], None], seed: int = 0
) -> list[tuple[bytes, float]]:
    """Trains, holds every target against the plain loader's, and returns what was seen."""
    losses.clear()
    train()
    seen = losses.copy()
    assert [target for target, _ in seen] == targets_of(dataset, epochs, seed)
    values = [value for _, value in seen]
    assert np.isfinite(values).all()
    return seen


@pytest.mark.parametrize(
    "page, name",
    [
        (page.name, name)
        for page in (PAGES / f"{name}.md" for name in ("dali", "lightning", "hugging_face"))
        for name in changes(page)
    ],
)
def test_few_lines_change(page: str, name: str) -> None:
    assert 0 < change(page, name).lines <= 8


def test_dali(folder: Path, dataset: Path, losses: list[tuple[bytes, float]]) -> None:
    of_page = change("dali.md", "train_dali.py")
    tiny = {**SMALL, "num_threads=8": "num_threads=1", "size=224": f"size=({SIZE}, {SIZE})"}
    before = run(replaced(of_page.before, tiny), "train_dali")
    before.main(epochs=2, batch_size=BATCH)
    assert len(losses) == 2 * IMAGES // BATCH and len(losses[0][0]) == 8 * BATCH  # int64 labels
    after = run(replaced(of_page.after(folder), tiny), "train_dali")
    torch.manual_seed(0)
    whole = check(losses, dataset, 3, lambda: after.main(epochs=3, batch_size=BATCH))
    torch.manual_seed(0)
    check(losses, dataset, 2, lambda: after.main(epochs=2, batch_size=BATCH))
    losses.clear()
    after.main(epochs=3, batch_size=BATCH, resume=True)
    assert losses == whole[2 * IMAGES // BATCH :]  # bit for bit: model, optimizer and batches


@ANY_WARNING
def test_lightning(folder: Path, dataset: Path, losses: list[tuple[bytes, float]]) -> None:
    pytest.importorskip("lightning")
    of_page = change("lightning.md", "train_lightning.py")
    quiet = {
        "callbacks=[save]": 'callbacks=[save], accelerator="cpu", logger=False, enable_progress_bar=False, '
        "enable_model_summary=False",
        "every_n_train_steps=500": "every_n_train_steps=2",
    }
    before = run(replaced(of_page.before, {**SMALL, **TINY_TRANSFORMS, **quiet}), "train_lightning")
    before.main(epochs=1, batch_size=BATCH)
    assert len(losses) == IMAGES // BATCH and len(losses[0][0]) == 8 * BATCH
    shutil.rmtree("checkpoints")  # else Lightning gives the next ones other names
    after = run(replaced(of_page.after(folder), {**SMALL, **quiet}), "train_lightning")
    whole = check(losses, dataset, 3, lambda: after.main(epochs=3, batch_size=BATCH))
    for step in (2, 4, 6):  # within epochs, and at the end of one
        losses.clear()
        after.main(epochs=3, batch_size=BATCH, resume=f"checkpoints/step={step}.ckpt")
        assert losses == whole[step:]


@ANY_WARNING
def test_accelerate(folder: Path, dataset: Path, losses: list[tuple[bytes, float]]) -> None:
    pytest.importorskip("accelerate")
    of_page = change("hugging_face.md", "train_accelerate.py")
    cpu = {"Accelerator()": "Accelerator(cpu=True)"}
    before = run(replaced(of_page.before, {**SMALL, **TINY_TRANSFORMS, **cpu}), "train_accelerate")
    before.main(epochs=2, batch_size=BATCH)
    assert len(losses) == 2 * IMAGES // BATCH and len(losses[0][0]) == 8 * BATCH
    after = run(replaced(of_page.after(folder), {**SMALL, **cpu}), "train_accelerate")
    whole = check(losses, dataset, 3, lambda: after.main(epochs=3, batch_size=BATCH))
    losses.clear()
    after.main(epochs=3, batch_size=BATCH, resume_after=1)
    assert losses == whole[IMAGES // BATCH :]


TRAINER = {
    "ResNetConfig(num_labels=1000)": f"ResNetConfig(num_labels={CLASSES}, hidden_sizes=[8], depths=[1], embedding_size=8)",
    "report_to=[]": 'report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="steps", save_steps=2, '
    "dataloader_num_workers=0",
    "Resize(256)": "Resize(72)",
    "CenterCrop(224)": f"CenterCrop({SIZE})",
}


@ANY_WARNING
def test_trainer(folder: Path, dataset: Path, losses: list[tuple[bytes, float]]) -> None:
    pytest.importorskip("transformers")
    of_page = change("hugging_face.md", "train_trainer.py")
    crop = {"RandomResizedCrop(224)": f"RandomResizedCrop({SIZE})"}
    before = run(replaced(of_page.before, {**TRAINER, **crop}), "train_trainer")
    before.main(epochs=1, batch_size=BATCH)
    assert len(losses) == IMAGES // BATCH and len(losses[0][0]) == 8 * BATCH
    after = run(replaced(of_page.after(folder), TRAINER), "train_trainer")
    seed = 42  # TrainingArguments' own
    whole = check(losses, dataset, 3, lambda: after.main(epochs=3, batch_size=BATCH), seed)
    for step in (2, 4, 6):
        losses.clear()
        after.main(epochs=3, batch_size=BATCH, resume=f"checkpoints/checkpoint-{step}")
        assert losses == whole[step:]


# ---- scripts of others, of which there are miniatures


def miniature(page: str, name: str, folder: Path) -> tuple[ModuleType, ModuleType]:
    """The miniature of a script, and what the page's diff makes of it."""
    before = (REPOSITORY / "tests" / "miniatures" / name).read_text()
    after = dataclasses.replace(change(page, name), before=before).after(folder)
    return run(before, Path(name).stem), run(after, Path(name).stem)


@ANY_WARNING  # of DALI, where a Pipeline is built without being run
def test_dalis_own_example(folder: Path, dataset: Path, losses: list[tuple[bytes, float]]) -> None:
    before, after = miniature("dali.md", "main.py", folder)

    def options(data: str, start: int = 0, epochs: int = 2) -> SimpleNamespace:
        return SimpleNamespace(
            data=[data], classes=CLASSES, batch_size=BATCH, workers=1, crop=SIZE, start_epoch=start, epochs=epochs,
            data_loader="dali",
        )  # fmt: skip

    before.main(options("imagenet/train"))
    assert len(losses) == 2 * IMAGES // BATCH and len(losses[0][0]) == 8 * BATCH
    check(losses, dataset, 2, lambda: after.main(options("imagenet-plus")))
    assert len(after.accuracies) == len(losses)  # by the labels, which are there beside the targets
    losses.clear()
    after.main(options("imagenet-plus", start=1, epochs=3))
    assert [target for target, _ in losses] == targets_of(dataset, 3)[IMAGES // BATCH :]


@ANY_WARNING
def test_accelerates_own_example(folder: Path, dataset: Path, losses: list[tuple[bytes, float]]) -> None:
    pytest.importorskip("accelerate")
    before, after = miniature("hugging_face.md", "cv_example.py", folder)
    (folder / "pets-plus").symlink_to(dataset)
    config = {"batch_size": BATCH, "image_size": SIZE, "seed": 1, "classes": CLASSES, "lr": 0.05, "num_epochs": 2}
    args = SimpleNamespace(cpu=True, data_dir="imagenet/train", seen=[])
    before.training_function(config, args)
    assert len(losses) == 2 * IMAGES // BATCH and len(losses[0][0]) == 8 * BATCH
    args.seen.clear()
    check(losses, dataset, 2, lambda: after.training_function(config, args))
    plain = dali_dr.ReinforcedIterator(dataset, batch_size=BATCH, device="cpu", dtype="uint8", as_tuples=True)
    for image, (raw, _) in zip(args.seen, (batch for _ in range(2) for batch in plain), strict=True):
        torch.testing.assert_close(image, raw.float() / 255)  # the script normalises by itself


@ANY_WARNING
def test_transformers_own_example(folder: Path, dataset: Path, losses: list[tuple[bytes, float]]) -> None:
    transformers = pytest.importorskip("transformers")
    before, after = miniature("hugging_face.md", "run_image_classification.py", folder)
    examples = [{"pixel_values": torch.rand(3, SIZE, SIZE), "labels": n % CLASSES} for n in range(IMAGES)]
    arguments = transformers.TrainingArguments(
        "out", num_train_epochs=2, per_device_train_batch_size=BATCH, do_train=True, use_cpu=True, report_to=[],
        disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    before.main(arguments, {"train": examples}, CLASSES)
    assert len(losses) == 2 * IMAGES // BATCH and len(losses[0][0]) == 8 * BATCH
    check(losses, dataset, 2, lambda: after.main(arguments, {}, CLASSES), arguments.seed)


def test_modules_are_left_alone() -> None:
    """Scripts run as modules of their own here: none of their names stays behind."""
    assert not {"train_dali", "train_lightning", "train_accelerate", "train_trainer", "cv_example"} & set(sys.modules)


# ---- what the integrations do for Hugging Face's scripts


def test_soft_target_loss_is_a_mean_over_all_accumulated_images() -> None:
    """As one batch of all of them: compared in float64 with the definition."""
    from dali_dr.integrations import soft_target_loss

    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    targets = torch.rand(12, 5, generator=generator, dtype=torch.float64).softmax(1)
    mean = -(targets * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(soft_target_loss({"logits": logits}, targets), mean)
    counted = sum(part.ne(-100).sum() for part in targets.split(5))  # as Trainer counts
    parts = [
        soft_target_loss({"logits": some}, of_some, counted)
        for some, of_some in zip(logits.split(5), targets.split(5), strict=True)
    ]
    torch.testing.assert_close(sum(parts), mean)
    labels = targets.argmax(1)
    hard = -logits.log_softmax(1).gather(1, labels[:, None]).mean()
    torch.testing.assert_close(soft_target_loss({"logits": logits}, labels, 12), hard)


@ANY_WARNING
def test_accumulated_gradients_are_those_of_a_large_batch(folder: Path, dataset: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from dali_dr.integrations import ReinforcedTrainer

    def trained(batch_size: int, steps: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        config = transformers.ViTConfig(
            num_labels=CLASSES, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
            image_size=SIZE, patch_size=16,
        )  # fmt: skip
        arguments = transformers.TrainingArguments(
            str(folder / "out"), per_device_train_batch_size=batch_size, gradient_accumulation_steps=steps,
            max_steps=2, use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no", optim="sgd",
            learning_rate=0.5,
        )  # fmt: skip
        model = transformers.ViTForImageClassification(config)
        ReinforcedTrainer(model, arguments, train_dataset=dataset, loader_options={"num_threads": 1}).train()
        return [parameter.detach() for parameter in model.parameters()]

    for one, other in zip(trained(8, 1), trained(4, 2), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_image_processors_normalisation_is_taken(folder: Path, dataset: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from dali_dr.integrations import ReinforcedTrainer

    processor = type("Processor", (), {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.5, 0.25]})()
    arguments = transformers.TrainingArguments(str(folder / "out"), use_cpu=True, report_to=[], data_seed=5)
    made = ReinforcedTrainer(
        torch.nn.Linear(1, 1), arguments, train_dataset=dataset, eval_dataset=dataset, processing_class=processor,
        loader_options={"num_threads": 1},
    )  # fmt: skip
    (raw, targets) = next(
        iter(dali_dr.ReinforcedIterator(
            dataset, batch_size=8, device="cpu", seed=5, dtype="uint8", targets="dense", as_tuples=True,
        ))
    )  # fmt: skip
    batch = next(iter(made.get_train_dataloader()))
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in ([0.5, 0.4, 0.3], [0.5, 0.5, 0.25]))
    expected = (raw.double() / 255 - mean) / std
    torch.testing.assert_close(batch["pixel_values"].double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(batch["labels"], targets)
    shown = torch.cat([batch["labels"] for batch in made.get_eval_dataloader()])
    assert shown.tolist() == [number % CLASSES for number in range(IMAGES)] and shown.dtype == torch.int64


def test_what_is_refused(folder: Path, dataset: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from dali_dr.integrations import ReinforcedTrainer, hugging_face_loader

    arguments = transformers.TrainingArguments(
        str(folder / "out"), use_cpu=True, report_to=[], label_smoothing_factor=0.1
    )
    with pytest.raises(ValueError, match=r"label_smoothing_factor is 0\.1, but the targets of"):
        ReinforcedTrainer(torch.nn.Linear(1, 1), arguments, train_dataset=dataset)
    with pytest.raises(dali_dr.ShardError, match="missing; a data set has this file"):
        ReinforcedTrainer(torch.nn.Linear(1, 1), train_dataset=str(folder / "imagenet"))
    with pytest.raises(ValueError, match="two things of a batch are called alike"):
        hugging_face_loader(dataset, batch_size=8, image="x", label="x", device="cpu")


def test_trainer_opens_a_set_with_a_missing_shard_where_others_stand_in(dataset: Path, tmp_path: Path) -> None:
    load_torchvision()
    transformers = pytest.importorskip("transformers")
    from dali_dr.integrations import ReinforcedTrainer

    shutil.copytree(dataset, tmp_path / "set")
    sorted((tmp_path / "set").glob("shard-*.tar"))[0].unlink()
    model = torch.nn.Linear(1, 1)
    arguments = transformers.TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    with pytest.raises(dali_dr.ShardError, match=r"shard-000000\.tar"):
        ReinforcedTrainer(model, arguments, train_dataset=str(tmp_path / "set"))
    ReinforcedTrainer(model, arguments, train_dataset=str(tmp_path / "set"), loader_options={"on_error": "skip"})


def test_dicts_have_the_scripts_names(folder: Path, dataset: Path) -> None:
    from dali_dr.integrations import hugging_face_loader

    loader = hugging_face_loader(dataset, batch_size=8, image="image", label="label", device="cpu", num_threads=1)
    plain = dali_dr.ReinforcedIterator(dataset, batch_size=8, device="cpu", num_threads=1, as_tuples=True)
    for batch, (images, targets) in zip(loader, plain, strict=True):
        assert list(batch) == ["image", "label"] == loader.output_map
        assert torch.equal(batch["image"], images) and torch.equal(batch["label"], targets)
