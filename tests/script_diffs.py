"""Diffs of docs/migration: their lines counted, applied to the scripts' miniatures, and these imported."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import REPOSITORY, encode_jpeg, picture, write_files
from test_iterator import CLASSES, make_dataset, reference

import dali_dr
from dali_dr._torchvision import load_torchvision
from dali_dr.augment.reference import normalise
from dali_dr.cli import main
from dali_dr.loader.options import IMAGENET_MEAN, IMAGENET_STD

MOST_LINES = 8
"""Of a script of others may change, added or removed, whichever are more."""


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of a module that imports this are rank 0 of 1."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What a user was told in the log."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("dali_dr.integrations")]


def diffs(page: str) -> dict[str, str]:
    """The page's diffs by the file that they change."""
    text = (REPOSITORY / "docs" / "migration" / f"{page}.md").read_text()
    found = re.findall(r"```diff\n(--- a/(\S+)\n.*?)```", text, re.DOTALL)
    return {name: diff for diff, name in found}


def changed_lines(diff: str) -> tuple[int, int]:
    """Lines added, and lines removed."""
    lines = diff.splitlines()
    added, removed = (sum(bool(re.match(sign, line)) for line in lines) for sign in (r"\+(?!\+\+ )", r"-(?!-- )"))
    return added, removed


def apply(diff: str, folder: Path) -> None:
    """Applies a diff, wherever in the files its context lies."""
    subprocess.run(["git", "apply", "-"], input=diff, text=True, check=True, cwd=folder)


def changed_miniature(name: str, diff: str, folder: Path) -> ModuleType:
    """The miniature of `tests/miniatures`, changed by the diff of a train.py, as a module."""
    load_torchvision()  # before the script imports timm or torchvision
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "train.py"
    script.write_text((REPOSITORY / "tests" / "miniatures" / f"{name}.py").read_text())
    apply(diff, folder)
    spec = importlib.util.spec_from_file_location(f"miniature_{name}", script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def dense(dataset: dali_dr.Dataset, number: int, view: int) -> list[float]:
    """The target of a stored view, in plain Python: what is left over, evenly to the other classes."""
    stored, classes = dataset.reinforcements(number), dataset.num_classes
    ids, probs = stored.soft_ids[view].tolist(), [float(p) for p in stored.soft_probs[view]]
    rest = max(0.0, 1 - sum(probs)) / (classes - len(ids))
    return [probs[ids.index(c)] if c in ids else rest for c in range(classes)]


def make_data(root: Path) -> Path:
    """`train`, 22 reinforced images, `val`, packed ones, and `photos`, those of val as an ImageFolder; of 20 classes."""
    names = [f"class{c:02d}" for c in range(CLASSES)]
    make_dataset(
        root / "train", [encode_jpeg(picture(70 + 3 * i, 120 - 2 * i, i)) for i in range(22)], class_names=names
    )
    photos = {f"{name}/a.jpg": encode_jpeg(picture(80 + 5 * c, 150 - 3 * c, 99 + c)) for c, name in enumerate(names)}
    write_files(root / "photos", photos)
    assert main(["pack", str(root / "photos"), "--out", str(root / "val")]) == 0
    return root


def written(dataset: dali_dr.Dataset, **options: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """An epoch by the references: views as Pillow replays them, normalised, and dense targets."""
    made = []
    for (batch,) in dali_dr.ReinforcedIterator(dataset, device="cpu", num_threads=1, with_index=True, **options):
        shown = list(zip(batch["index"].tolist(), batch["view"].tolist(), strict=True))
        images = [normalise(reference(dataset, i, v), IMAGENET_MEAN, IMAGENET_STD) for i, v in shown]
        made.append((torch.from_numpy(np.stack(images)), torch.tensor([dense(dataset, i, v) for i, v in shown])))
    return made


def share_of(mixed: torch.Tensor, plain: torch.Tensor) -> float:
    """The lam of `lam * plain + (1 - lam) * plain.flip(0)`, by least squares; the mixture must be that one."""
    own, other = plain.double(), plain.flip(0).double()
    apart = own - other
    lam = float(((mixed.double() - other) * apart).sum() / (apart**2).sum())
    torch.testing.assert_close(mixed.double(), lam * own + (1 - lam) * other, atol=1e-5, rtol=0)
    return lam


def soft_cross_entropy(logits: npt.NDArray[np.float64], targets: npt.NDArray[np.float64]) -> float:
    """In float64, by hand."""
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return float(-(targets * log_probs).sum(1).mean())


def same(
    some: list[tuple[int, torch.Tensor, torch.Tensor]], others: list[tuple[int, torch.Tensor, torch.Tensor]]
) -> bool:
    """Whether batches of training are the same in every bit, epochs included."""
    pairs = zip(some, others, strict=True)
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) and torch.equal(a[2], b[2]) for a, b in pairs)
