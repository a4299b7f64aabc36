"""The second task: real photographs of five flowers, a linear head on an ImageNet network, a ResNet-8; five folds.

A pair of runs is a fold: its test images were seen by neither its teacher's head nor its students.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine import Common, Jpegs, Pair, hard_dataset, stored_top
from network import ResNet
from PIL import Image
from torch import nn
from torch.nn import functional

import dali_dr
from dali_dr._torchvision import load_torchvision
from dali_dr.reinforce.generate import Generation
from dali_dr.reinforce.networks import Member, Teacher
from dali_dr.reinforce.run import reinforce
from dali_dr.reinforce.teachers import load_teacher

CLASSES = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
BACKBONE = "efficientnet-lite0"
STORED = 128
"""Pixels of the stored views, which the teacher sees."""
_TEST_CROP = 0.875  # part of the shorter side that a test shows, as usual for ImageNet


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Everything that decides the outcome; written down in README.md before the first run.

    Attributes:
      seen: pixels of what the students see of the same views.
      folds: F. Images are dealt to them class by class; a pair's seed is the number of its fold.
      decays: weight decays to choose from for the teacher's head; the best by its loss on the validation images.
      validation: images of the training images of fold 0, for choices; what is tried is then trained without them.
    """

    seen: int = 48
    train: int = 560
    test: int = 140
    validation: int = 110
    folds: int = 5
    views: int = 16
    crop_scale: tuple[float, float] = (0.35, 1.0)
    epochs: int = 16
    batch: int = 32
    decays: tuple[float, ...] = (0.06, 0.2, 0.6, 2.0)


def read_flowers(folder: Path, seen: int) -> Jpegs:
    """All photographs, those of both parts, class by class and each class in an order of chance.

    Args:
      folder: has PART/CLASS/NAME.jpg.
      seen: pixels that a test shows.

    Raises:
      FileNotFoundError: says what is missing and where it may come from.
    """
    files = {name: sorted(folder.glob(f"*/{name}/*.jpg")) for name in CLASSES}
    if not all(files.values()):
        raise FileNotFoundError(
            f"{folder} has no photographs: want PART/CLASS/NAME.jpg of the classes {', '.join(CLASSES)} (TensorFlow's "
            "flower_photos); set DALI_DR_TEST_DATA to the folder that holds flowers/"
        )
    generator = np.random.default_rng(2303_08983)
    keys, labels, data = [], [], []
    for label, paths in enumerate(files.values()):
        for n in generator.permutation(len(paths)):
            keys.append(f"{CLASSES[label]}/{paths[n].stem}")
            labels.append(label)
            data.append(paths[n].read_bytes())
    return Jpegs(keys, labels, data, CLASSES, shown=lambda image: centre(image, seen))


def folds_of(labels: list[int], folds: int) -> list[int]:
    """The fold of each image: those of a class are dealt out in turn."""
    counts = [0] * (max(labels) + 1)
    result = []
    for label in labels:
        result.append(counts[label] % folds)
        counts[label] += 1
    return result


def centre(image: Image.Image, size: int) -> Image.Image:
    """torchvision's Resize and CenterCrop, as ImageNet is tested."""
    load_torchvision()
    from torchvision import transforms

    steps = transforms.Compose([transforms.Resize(int(size / _TEST_CROP)), transforms.CenterCrop(size)])
    return steps(image)  # type: ignore[no-any-return]


class Remembering(nn.Module):
    """A frozen network that computes each image once: the folds ask it for the same views."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._known: dict[bytes, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        names = [hashlib.blake2b(image.contiguous().numpy().tobytes(), digest_size=16).digest() for image in x]
        new = [n for n, name in enumerate(names) if name not in self._known]
        if new:
            features = self.network(x[new].contiguous(memory_format=torch.channels_last))
            self._known.update(zip((names[n] for n in new), features, strict=True))
        return torch.stack([self._known[name] for name in names])


class Head(nn.Module):
    """Standardised features -> logits."""

    def __init__(self, features: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("std", features.std(0).clamp(min=1e-6))
        self.linear = nn.Linear(features.shape[1], len(CLASSES))
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear((x - self.mean) / self.std)  # type: ignore[no-any-return]


def fit_head(features: torch.Tensor, labels: torch.Tensor, decay: float) -> Head:
    """Multinomial logistic regression, its weights decayed by decay / 2 · |W|²; the optimum is unique."""
    head = Head(features)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(head(features), labels) + decay / 2 * head.linear.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return head.requires_grad_(False).eval()


class Flowers:
    """See `engine.Task`."""

    name = "flowers"

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.size = self.settings.seen

    def student(self) -> ResNet:
        """ResNet-8 that works on half the resolution: 74,965 parameters."""
        return ResNet(1, stem_stride=2, num_classes=len(CLASSES))

    def prepare(self, work: Path) -> dict[str, Any]:
        """Fits a head per fold and writes the data sets into ``work``, or finds them there."""
        settings = self.settings
        self._images = read_flowers(Path(os.environ.get("DALI_DR_TEST_DATA", _SHARED)) / "flowers", settings.seen)
        self._fold = folds_of(list(self._images.labels), settings.folds)
        self._digest, self._work = settings.digest(), work
        facts_path = work / f"flowers-{self._digest}" / "teacher.json"
        if not facts_path.exists():
            facts = self._teach()
            facts_path.write_text(json.dumps(facts, indent=1))
        return json.loads(facts_path.read_text())  # type: ignore[no-any-return]

    def choosing(self) -> Pair:
        training, validation = self._choices()
        views = self._hard(training, "choice", self.settings.spec(STORED))
        return Pair(views, views, validation)

    def pair(self, seed: int) -> Pair:
        training = self._images.take([n for n, fold in enumerate(self._fold) if fold != seed])
        test = self._images.take([n for n, fold in enumerate(self._fold) if fold == seed])
        mild = self._hard(training, f"mild-{seed}", self.settings.mild_spec(STORED))
        return Pair(dali_dr.Dataset(self._folder(f"views-{seed}")), mild, test)

    def _folder(self, name: str) -> Path:
        return self._work / f"flowers-{self._digest}" / name

    def _hard(self, training: Jpegs, name: str, spec: dali_dr.AugmentationSpec) -> dali_dr.Dataset:
        return hard_dataset(training, self._folder(name), spec, self.settings.views, 0)

    def _choices(self) -> tuple[Jpegs, Jpegs]:
        """The training images of fold 0 without the validation images, and these: the first ones of each class."""
        training = self._images.take([n for n, fold in enumerate(self._fold) if fold != 0])
        each = self.settings.validation // len(CLASSES)
        held = [n for label in range(len(CLASSES)) for n in np.flatnonzero(np.equal(training.labels, label))[:each]]
        return training.take([n for n in range(len(training)) if n not in held]), training.take([int(n) for n in held])

    def _teach(self) -> dict[str, Any]:
        """The teachers of all folds, their stored views, and what they score."""
        settings = self.settings
        (backbone,) = load_teacher(BACKBONE, target="embedding").members
        network = Remembering(backbone.model.eval())

        def features(images: Jpegs) -> torch.Tensor:
            shown = np.stack([np.asarray(centre(images.decoded(n), STORED)) for n in range(len(images))])
            x = torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 255
            mean, std = (torch.tensor(t)[:, None, None] for t in (backbone.mean, backbone.std))
            with torch.no_grad():
                return torch.cat([network(part) for part in ((x - mean) / std).split(50)])

        training, validation = self._choices()
        x, y, held, truth = (
            *(features(training), torch.tensor(training.labels)),
            *(features(validation), torch.tensor(validation.labels)),
        )
        losses = {d: float(functional.cross_entropy(fit_head(x, y, d)(held), truth)) for d in settings.decays}
        decay = min(losses, key=lambda d: losses[d])

        everything, labels = features(self._images), torch.tensor(self._images.labels)
        fold, right, digests, tops = torch.tensor(self._fold), [], [], []
        for number in range(settings.folds):
            inside = fold != number
            head = fit_head(everything[inside], labels[inside], decay)
            right += (head(everything[~inside]).argmax(1) == labels[~inside]).tolist()
            model = nn.Sequential(network, head)
            member = Member(f"{BACKBONE}, linear head", model, STORED, backbone.mean, backbone.std)
            generation = Generation(
                settings.spec(STORED), Teacher([member], torch.device("cpu")), settings.views, settings.topk,
                batch_views=50, num_threads=1,
            )  # fmt: skip
            source = self._images.take(torch.nonzero(inside).flatten().tolist())
            out = self._folder(f"views-{number}")
            if not (out / "dataset.json").exists():
                reinforce(source, out, generation, num_classes=len(CLASSES), class_names=CLASSES, samples_per_shard=140)
            tops.append(stored_top(dali_dr.Dataset(out)))
            digests.append(member.digest())
        means = np.mean(tops, 0)
        return {
            "name": f"{BACKBONE} with a linear head per fold",
            "test images of all folds": round(float(np.mean(right) * 100), 2),
            "stored views of the students' images": round(float(means[0]), 2),
            "mean of the highest probability on them": round(float(means[1]), 2),
            "decay": str(decay),
            "validation loss by decay": {str(d): round(loss, 4) for d, loss in losses.items()},
            "weights_digests": digests,
        }


_SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
