"""What the tasks share: the arms, images in memory, training and testing of one student.

A task (`Task`) says what the images, the teacher and the student are; every run is then made alike.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from tqdm import tqdm

import dali_dr
from dali_dr.augment.draw import draw
from dali_dr.augment.spec import RandAugment, RandomResizedCrop
from dali_dr.loader.options import IMAGENET_MEAN, IMAGENET_STD
from dali_dr.losses import kl_divergence

ARMS = {
    "hard": "hard labels",
    "smoothing": "label smoothing",
    "reinforced": "reinforcement",
    "mild": "hard labels, crop and flip only",
}
Batch = dict[str, torch.Tensor]
Loss = Callable[[torch.Tensor, Batch], torch.Tensor]
Progress = functools.partial(tqdm, dynamic_ncols=True, mininterval=1, leave=False)


@dataclasses.dataclass(frozen=True)
class Common:
    """What every task must settle; each gives its own values.

    Attributes:
      train: images that a student is trained on.
      test: images that it is tested on.
      views, topk: stored views per image and classes kept per view.
      crop_scale, rand_augment_ops, rand_augment_magnitude: of the views; every view is flipped with probability 1/2.
      epochs, batch, weight_decay: of all students, SGD with Nesterov momentum 0.9, one epoch of linear warm-up, then a
        cosine to 0.
      lrs: peak learning rates to choose from. All students take the one that is best for the hard-label arm on the
        validation images, with a seed of its own: a choice in favour of what reinforcement is compared with.
      smoothing: of the label-smoothing arm.
      seeds: each fixes initial weights, order and choice of views for all arms.
    """

    train: int = 0
    test: int = 0
    views: int = 0
    topk: int = 5
    crop_scale: tuple[float, float] = (0.64, 1.0)
    rand_augment_ops: int = 1
    rand_augment_magnitude: int = 9
    epochs: int = 0
    batch: int = 64
    lrs: tuple[float, ...] = (0.05, 0.1, 0.2)
    weight_decay: float = 5e-4
    smoothing: float = 0.1
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    def spec(self, size: int) -> dali_dr.AugmentationSpec:
        """What the stored views are drawn from; ``size`` in pixels."""
        augment = RandAugment(self.rand_augment_ops, self.rand_augment_magnitude)
        return dataclasses.replace(self.mild_spec(size), rand_augment=augment)

    def mild_spec(self, size: int) -> dali_dr.AugmentationSpec:
        """Crop and flip alone, for the arm that asks whether RandAugment holds hard labels back."""
        return dali_dr.AugmentationSpec(size=size, crop=RandomResizedCrop(self.crop_scale))

    def json(self) -> dict[str, Any]:
        return json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[no-any-return]  # tuples as lists

    def digest(self) -> str:
        """Of what decides the teacher and the data sets, not of what concerns the students alone."""
        of_students = ("test", "epochs", "lrs", "smoothing", "seeds", "seen")
        deciding = {name: value for name, value in self.json().items() if name not in of_students}
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:8]


@dataclasses.dataclass(frozen=True)
class Jpegs:
    """Encoded images in memory: a source for `dali_dr.reinforce.run.reinforce`.

    Attributes:
      keys, labels, data, class_names, notes: as a source has them.
      shown: what a test shows of a decoded image; None: all of it (images of one size).
    """

    keys: Sequence[str]
    labels: Sequence[int]
    data: Sequence[bytes]
    class_names: Sequence[str]
    notes: Sequence[str] = ()
    shown: Callable[[Image.Image], Image.Image] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, number: int) -> bytes:
        return self.data[number]

    def where(self, number: int) -> str:
        return f"image {self.keys[number]}"

    def decoded(self, number: int) -> Image.Image:
        return Image.open(io.BytesIO(self.data[number])).convert("RGB")

    @functools.cached_property
    def pixels(self) -> torch.Tensor:
        """(N, 3, H, W) uint8, decoded by Pillow, as a test shows them."""
        images = [self.decoded(n) if self.shown is None else self.shown(self.decoded(n)) for n in range(len(self))]
        return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)

    def take(self, rows: Sequence[int]) -> Jpegs:
        """Some of the images."""
        keys, labels, data = ([column[row] for row in rows] for column in (self.keys, self.labels, self.data))
        return dataclasses.replace(self, keys=keys, labels=labels, data=data)


@dataclasses.dataclass(frozen=True)
class Pair:
    """What the four runs of a pair are trained on and tested with.

    Attributes:
      views: the stored views with the teacher's predictions (for the choice of a learning rate, without).
      mild: stored views of crop and flip alone.
      test: images that no choice was made by.
    """

    views: dali_dr.Dataset
    mild: dali_dr.Dataset
    test: Jpegs


class Task(Protocol):
    """Images, a teacher and a student."""

    @property
    def settings(self) -> Common:
        """Everything that decides the outcome."""

    def student(self) -> nn.Module:
        """A student with new weights, of torch's random numbers."""

    @property
    def size(self) -> int:
        """Pixels that the student sees, in each direction."""

    def prepare(self, work: Path) -> dict[str, Any]:
        """Makes the teacher and the data sets in ``work``, or finds them there; returns facts of the teacher.

        Raises:
          FileNotFoundError: says what is missing and where it may come from.
        """

    def choosing(self) -> Pair:
        """What the learning rate is chosen by: validation images take the place of test images."""

    def pair(self, seed: int) -> Pair:
        """What the runs of one seed have in common."""


def hard_dataset(source: Jpegs, out: Path, spec: dali_dr.AugmentationSpec, views: int, seed: int) -> dali_dr.Dataset:
    """Stored views of `spec` with the label as their only target: no teacher."""

    classes = source.class_names

    def samples() -> Iterator[dali_dr.Sample]:
        for key, label, data in zip(source.keys, source.labels, source.data, strict=True):
            width, height = Image.open(io.BytesIO(data)).size
            drawn = draw(spec, seed=seed, key=key, views=range(views), image_height=height, image_width=width)
            ids, probs = np.full((views, 1), label, np.int32), np.ones((views, 1), np.float32)
            yield dali_dr.Sample(key, data, label, dali_dr.Reinforcements.from_views(drawn, ids, probs))

    if not (out / "dataset.json").exists():
        dali_dr.write_shards(samples(), out, spec=spec, num_classes=len(classes), class_names=classes, seed=seed)
    return dali_dr.Dataset(out)


def hard_loss(logits: torch.Tensor, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
    return functional.cross_entropy(logits, batch["label"], label_smoothing=smoothing)


def reinforced_loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    return kl_divergence(logits, batch["soft_ids"], batch["soft_probs"])


def train(
    model: nn.Module,
    data: dali_dr.Dataset,
    loss: Loss,
    *,
    settings: Common,
    epochs: int,
    lr: float,
    seed: int,
    name: str,
    size: int | None = None,
) -> dict[str, Any]:
    """Trains in place. Returns the mean loss of each epoch, and the digest of the order (sample and view numbers)."""
    batches = dali_dr.ReinforcedIterator(
        data,
        batch_size=settings.batch,
        device="cpu",
        seed=seed,
        last_batch="drop",
        num_threads=1,
        with_index=True,
        size=size,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=settings.weight_decay)
    steps = len(batches)

    def factor(step: int) -> float:
        return min(
            (step + 1) / steps, 0.5 + 0.5 * math.cos(math.pi * max(0, step - steps) / max(1, (epochs - 1) * steps))
        )

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    order, losses = hashlib.sha256(), []
    with Progress(total=epochs * steps, desc=name, unit="step") as bar:
        for _ in range(epochs):
            total = 0.0
            for (batch,) in batches:
                order.update(batch["index"].numpy().tobytes() + batch["view"].numpy().tobytes())
                value = loss(model(batch["data"].contiguous(memory_format=torch.channels_last)), batch)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                schedule.step()
                total += value.item()
                bar.update()
            losses.append(round(total / steps, 4))
            bar.set_postfix(loss=losses[-1])
    return {"epoch_losses": losses, "order": order.hexdigest()[:16]}


@torch.inference_mode()
def predict(model: nn.Module, pixels: torch.Tensor, batch: int = 500) -> torch.Tensor:
    """(N, classes) log-probabilities of (N, 3, H, W) uint8 images."""
    mean, std = (torch.tensor(t)[:, None, None] for t in (IMAGENET_MEAN, IMAGENET_STD))
    model.eval()
    parts = [
        model(((p.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last))
        for p in pixels.split(batch)
    ]
    return torch.cat(parts).log_softmax(1)


def accuracy(model: nn.Module, images: Jpegs) -> float:
    """Percent."""
    return float((predict(model, images.pixels).argmax(1) == torch.tensor(images.labels)).float().mean() * 100)


def stored_top(views: dali_dr.Dataset) -> tuple[float, float]:
    """Of the stored predictions: percent whose most likely class is the label, and the mean highest probability."""
    stored = [(views.reinforcements(n), views.labels[n]) for n in range(len(views))]
    right = [np.mean(r.soft_ids[:, 0] == label) for r, label in stored]
    return float(np.mean(right) * 100), float(np.mean([np.mean(r.soft_probs[:, 0]) for r, _ in stored]) * 100)


def run_student(task: Task, arm: str, seed: int, pair: Pair, lr: float) -> dict[str, Any]:
    """One run: trains a student and tests it once, after the last step."""
    settings = task.settings
    losses: dict[str, Loss] = {
        "hard": hard_loss,
        "smoothing": functools.partial(hard_loss, smoothing=settings.smoothing),
        "reinforced": reinforced_loss,
        "mild": hard_loss,
    }
    torch.manual_seed(seed)
    model = task.student().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    begin = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()[:16]
    started = time.monotonic()
    facts = train(
        model, pair.mild if arm == "mild" else pair.views, losses[arm], settings=settings, epochs=settings.epochs,
        lr=lr, seed=seed, name=f"{ARMS[arm]}, seed {seed}", size=task.size,
    )  # fmt: skip
    seconds = time.monotonic() - started
    scores, labels = predict(model, pair.test.pixels), torch.tensor(pair.test.labels)
    correct = (scores.argmax(1) == labels).numpy()
    return {
        "arm": arm,
        "seed": seed,
        "accuracy": round(float(correct.mean() * 100), 4),
        "nll": round(float(functional.nll_loss(scores, labels)), 4),
        "seconds": round(seconds, 1),
        "initial_weights": begin,
        **facts,
        # One bit per test image, so that other intervals can be computed from this file alone.
        "correct": base64.b64encode(np.packbits(correct).tobytes()).decode(),
    }


def choose_lr(task: Task) -> dict[str, Any]:
    """The learning rate for all students, and the validation accuracies that it was chosen by."""
    scores, pair = {}, task.choosing()
    for lr in task.settings.lrs:
        scores[lr] = run_student(task, "hard", 1000, pair, lr)["accuracy"]
        tqdm.write(f"learning rate {lr}: {scores[lr]:.2f} % of the validation images")
    best = max(scores, key=lambda lr: scores[lr])
    return {"lr": best, "arm": "hard", "seed": 1000, "validation_accuracy": {str(lr): s for lr, s in scores.items()}}
