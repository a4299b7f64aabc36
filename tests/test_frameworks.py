"""The bare loader in the frameworks that people use: Lightning, accelerate, Hugging Face's Trainer; exact batches everywhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import encode_jpeg, picture
from test_iterator import loader, make_dataset
from test_loader_epochs import BATCH, COUNT, SEED, Batches, taken, written

import dali_dr
from dali_dr._torchvision import load_torchvision

CLASSES = 20


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> dali_dr.Dataset:
    images = [encode_jpeg(picture(40 + 3 * i, 70 - 2 * i, i)) for i in range(COUNT)]
    return make_dataset(tmp_path_factory.mktemp("frameworks") / "set", images)


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)


def make(dataset: dali_dr.Dataset, **options: Any) -> dali_dr.ReinforcedIterator:
    return loader(dataset, **{"batch_size": BATCH, "seed": SEED, "size": 32, "num_threads": 1, **options})


class Net(torch.nn.Module):
    """A model of a few numbers, which keeps the sample numbers of every batch that it was shown, by mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, CLASSES)
        self.seen: dict[str, Batches] = {"train": [], "eval": []}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(images.mean((2, 3)))
        return out

    def loss(self, batch: Any) -> torch.Tensor:
        (values,) = batch
        self.seen["train" if self.training else "eval"].append(values["index"].tolist())
        return torch.nn.functional.cross_entropy(self(values["data"]), values["label"])


def flat(*epochs: Batches) -> Batches:
    return [batch for epoch in epochs for batch in epoch]


# ---- Lightning


@pytest.fixture
def lightning() -> Iterator[Any]:
    load_torchvision()
    module = pytest.importorskip("lightning")
    logger = logging.getLogger("lightning.pytorch")
    before, logger.level = logger.level, logging.ERROR
    yield module
    logger.level = before


def lightning_module(lightning: Any) -> Any:
    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            return self.net.loss(batch)

        def validation_step(self, batch: Any, number: int) -> None:
            self.net.loss(batch)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.01)

    return Module()


def fit(
    lightning: Any, root: Path, train: Any, val: Any = None, resume: Path | None = None, **options: Any
) -> dict[str, Batches]:
    module = lightning_module(lightning)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(accelerator="cpu", devices=1, default_root_dir=root, **quiet, **options)
    trainer.fit(module, train, val, **({"ckpt_path": resume, "weights_only": False} if resume else {}))
    seen: dict[str, Batches] = module.net.seen
    return seen


ANY_WARNING = pytest.mark.filterwarnings("ignore")  # of the frameworks, about few batches and no workers


@ANY_WARNING
def test_lightning_trains_and_validates(lightning: Any, dataset: dali_dr.Dataset, tmp_path: Path) -> None:
    """With the sanity check of two batches first, which is none of the validations' business."""
    whole = [list(range(COUNT))[b : b + BATCH] for b in range(0, COUNT, BATCH)]
    seen = fit(
        lightning, tmp_path, make(dataset), make(dataset, order="sequential"),
        max_epochs=3, num_sanity_val_steps=2, enable_checkpointing=False,
    )  # fmt: skip
    assert seen["train"] == flat(*map(written, range(3)))
    assert seen["eval"] == whole[:2] + whole * 3


@ANY_WARNING
def test_lightning_limits_batches(lightning: Any, dataset: dali_dr.Dataset, tmp_path: Path) -> None:
    seen = fit(
        lightning, tmp_path, make(dataset), make(dataset, order="sequential"),
        max_epochs=4, limit_train_batches=2, limit_val_batches=1, enable_checkpointing=False,
    )  # fmt: skip
    assert seen["train"] == flat(*(written(epoch)[:2] for epoch in range(4)))
    assert seen["eval"] == [list(range(BATCH))] * 5


@ANY_WARNING
@pytest.mark.parametrize("every", [1, 2, 3, 4, 5, 6, 8])
def test_lightning_goes_on_where_it_was(lightning: Any, dataset: dali_dr.Dataset, tmp_path: Path, every: int) -> None:
    """Saved after so many batches: within an epoch, at its end (4, 8), in the next."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    callback = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=every, save_top_k=-1)
    fit(lightning, tmp_path, make(dataset), max_epochs=3, callbacks=[callback], max_steps=every)
    (saved,) = tmp_path.glob(f"step={every}.ckpt")
    seen = fit(lightning, tmp_path, make(dataset), resume=saved, max_epochs=3, enable_checkpointing=False)
    assert seen["train"] == flat(*map(written, range(3)))[every:]


@ANY_WARNING
def test_lightning_goes_on_after_an_epoch(lightning: Any, dataset: dali_dr.Dataset, tmp_path: Path) -> None:
    """The checkpoint that a Trainer writes by itself, at an epoch's end."""
    fit(lightning, tmp_path, make(dataset), max_epochs=1)
    (saved,) = (tmp_path / "checkpoints").glob("*.ckpt")
    seen = fit(lightning, tmp_path, make(dataset), resume=saved, max_epochs=3, enable_checkpointing=False)
    assert seen["train"] == flat(written(1), written(2))


# ---- accelerate


@pytest.fixture
def accelerator() -> Any:
    accelerate = pytest.importorskip("accelerate")
    return accelerate.Accelerator(cpu=True)


def test_accelerate_prepares_it(accelerator: Any, dataset: dali_dr.Dataset) -> None:
    bare = make(dataset)
    net = Net()
    prepared, model = accelerator.prepare(bare, net)
    assert prepared is bare
    for epoch in range(3):
        for batch in prepared:
            accelerator.backward(model.loss(batch))
        assert model.seen["train"][4 * epoch :] == written(epoch)
    wrapped = accelerator.prepare_data_loader(make(dataset))
    assert len(wrapped) == 4 and wrapped.total_dataset_length == COUNT and wrapped.total_batch_size == BATCH
    assert [taken(wrapped) for _ in range(3)] == [written(epoch) for epoch in range(3)]
    wrapped.set_epoch(9)
    assert taken(wrapped) == written(9)


@pytest.mark.parametrize("skip", range(5))
@pytest.mark.parametrize("wrap", [False, True])
def test_accelerate_skips_batches(accelerator: Any, dataset: dali_dr.Dataset, skip: int, wrap: bool) -> None:
    from accelerate import skip_first_batches

    whole = accelerator.prepare_data_loader(make(dataset)) if wrap else make(dataset)
    if hasattr(whole, "set_epoch"):
        whole.set_epoch(2)
    assert taken(skip_first_batches(whole, skip)) == written(2)[skip:]
    whole.set_epoch(3)
    assert taken(whole) == written(3)


def test_accelerate_saves_and_loads(accelerator: Any, dataset: dali_dr.Dataset, tmp_path: Path) -> None:
    """`register_for_checkpointing` takes what has state_dict and load_state_dict."""
    bare = make(dataset)
    accelerator.register_for_checkpointing(bare)
    for _ in bare:
        break
    accelerator.save_state(str(tmp_path / "state"))
    assert taken(bare) == written(1)
    accelerator.load_state(str(tmp_path / "state"))
    assert taken(bare) == written(0)[1:]
    accelerator._custom_objects.clear()


def test_batches_divided_once_more_are_refused(dataset: dali_dr.Dataset) -> None:
    """accelerate's BatchSamplerShard would give each rank every second batch of what is its own already."""
    data_loader = pytest.importorskip("accelerate.data_loader")
    bare = make(dataset)
    shard = data_loader.BatchSamplerShard(bare.batch_sampler, 2, 0)
    twice = torch.utils.data.DataLoader(bare.dataset, batch_sampler=shard, collate_fn=bare.collate_fn)
    with pytest.raises(dali_dr.DaliDrError, match="this rank's already"):
        taken(twice)


# ---- transformers


def trainer_for(dataset: dali_dr.Dataset, out: Path, **arguments: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    whole = make(dataset, order="sequential")

    class Trainer(transformers.Trainer):  # type: ignore[misc, name-defined]
        def get_train_dataloader(self) -> Any:
            return make(dataset)

        def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
            return whole

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
            loss = model.loss(inputs)
            return (loss, {"logits": loss[None]}) if return_outputs else loss

        def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
            with torch.no_grad():
                return model.loss(self._prepare_inputs(inputs)), None, None

    settings = transformers.TrainingArguments(
        output_dir=str(out), use_cpu=True, report_to=[], disable_tqdm=True, per_device_train_batch_size=BATCH,
        **{"save_strategy": "no", "num_train_epochs": 3, "logging_strategy": "no", **arguments},
    )  # fmt: skip
    return Trainer(model=Net(), args=settings, train_dataset=make(dataset).dataset, eval_dataset=whole.dataset)


@ANY_WARNING
def test_transformers_trains_and_validates(dataset: dali_dr.Dataset, tmp_path: Path) -> None:
    load_torchvision()
    trainer = trainer_for(dataset, tmp_path, eval_strategy="epoch")
    trainer.train()
    whole = [list(range(COUNT))[b : b + BATCH] for b in range(0, COUNT, BATCH)]
    assert trainer.model.seen == {"train": flat(*map(written, range(3))), "eval": whole * 3}
    assert trainer.num_examples(trainer.get_train_dataloader()) == COUNT


@ANY_WARNING
@pytest.mark.parametrize("steps", [1, 3, 4, 6, 8])
def test_transformers_goes_on_where_it_was(dataset: dali_dr.Dataset, tmp_path: Path, steps: int) -> None:
    load_torchvision()
    trainer_for(dataset, tmp_path, save_strategy="steps", save_steps=steps, max_steps=steps).train()
    again = trainer_for(dataset, tmp_path)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{steps}"))
    assert again.model.seen["train"] == flat(*map(written, range(3)))[steps:]
