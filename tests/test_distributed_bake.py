"""BAKE and batch norm over ranks against one process with the whole batch: loss, gradients, running statistics, in float64."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY

from dali_dr import DaliDrError, distributed, losses
from dali_dr._torchvision import load_torchvision
from dali_dr.distributed import SyncBatchNorm, bake_loss, convert_sync_batchnorm, gather_rows

ROWS, CLASSES, STEPS = 12, 5, 2
SETTINGS = {"omega": 0.5, "temperature": 4.0, "weight": 0.7, "label_smoothing": 0.1}

# One rank, or one process with everything: the same net, the rows of the batch that are its own, two steps of SGD.
TRAIN = f"""
import sys, torch, torch.distributed as dist
from dali_dr._torchvision import load_torchvision
load_torchvision()
import timm
from dali_dr import losses
from dali_dr.distributed import bake_loss, convert_sync_batchnorm
SETTINGS = {SETTINGS!r}

def net():
    torch.manual_seed(0)
    body = timm.create_model("test_efficientnet", num_classes=0)  # BatchNormAct2d
    d = body.num_features
    return torch.nn.Sequential(body, torch.nn.BatchNorm1d(d, momentum=None), torch.nn.Linear(d, {CLASSES})).double()

def batch(step):
    g = torch.Generator().manual_seed(step)
    images = torch.randn({ROWS}, 3, 32, 32, generator=g, dtype=torch.float64) * torch.rand({ROWS}, 1, 1, 1, generator=g) * 3
    labels, others = (torch.randint(0, {CLASSES}, ({ROWS},), generator=g) for _ in range(2))
    return images, labels, others, torch.rand({ROWS}, generator=g, dtype=torch.float64)

def train(model, rows, loss_of):
    plain, seen, features = getattr(model, "module", model), [], []
    plain[2].register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    optimizer = torch.optim.SGD(plain.parameters(), 0.05)
    for step in range({STEPS}):
        images, labels, others, weight = (t[rows] for t in batch(step))
        optimizer.zero_grad()
        loss = loss_of(model(images), features[-1], labels, mix_labels=others, mix_weight=weight, **SETTINGS)
        loss.backward()
        seen.append({{"loss": loss.detach(), "gradients": {{n: p.grad.clone() for n, p in plain.named_parameters()}}}})
        optimizer.step()
        seen[-1]["buffers"] = {{n: b.clone() for n, b in plain.named_buffers()}}
    return seen

if __name__ == "__main__":
    dist.init_process_group("gloo")
    counts = [int(n) for n in sys.argv[2].split(",")]
    rank = dist.get_rank()
    model = convert_sync_batchnorm(net(), "cpu")
    model = torch.nn.parallel.DistributedDataParallel(model)
    seen = train(model, slice(sum(counts[:rank]), sum(counts[:rank + 1])), bake_loss)
    torch.save(seen, f"{{sys.argv[1]}}/{{rank}}.pt")
    dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The script, and what one process with plain batch norm and the whole batch gives."""
    path = tmp_path_factory.mktemp("bake") / "train.py"
    path.write_text(TRAIN)
    names: dict[str, Any] = {"__name__": "train"}
    exec(compile(TRAIN, str(path), "exec"), names)
    return path, names["train"](names["net"](), slice(None), losses.bake_loss)


@pytest.mark.parametrize("counts", ["6,6", "4,4,4", "5,4,3"])  # the last: a batch that the ranks share unevenly
def test_ranks_are_one_batch(whole: tuple[Path, list[dict[str, Any]]], tmp_path: Path, counts: str) -> None:
    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    path, expected = whole
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [*launcher, str(counts.count(",") + 1), str(path), str(tmp_path), counts]
    subprocess.run(command, check=True, env=environment, timeout=240, stderr=subprocess.DEVNULL)
    ranks = [torch.load(file, weights_only=True) for file in sorted(tmp_path.glob("*.pt"))]
    assert len(ranks) == counts.count(",") + 1
    for step, want in enumerate(expected):
        loss = torch.stack([rank[step]["loss"] for rank in ranks]).mean()
        torch.testing.assert_close(loss, want["loss"], rtol=0, atol=1e-9)
        for rank in ranks:
            for kind in ("gradients", "buffers"):
                assert rank[step][kind].keys() == want[kind].keys()
                for name, value in want[kind].items():
                    torch.testing.assert_close(
                        rank[step][kind][name], value, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
                    )
    assert any(value.abs().max() > 1e-3 for value in expected[0]["gradients"].values())


def test_targets_of_parts_differ() -> None:
    """What was wrong: a rank that sees its own rows alone makes other targets."""
    torch.manual_seed(0)
    features, logits = torch.randn(12, 8, dtype=torch.float64), 5 * torch.randn(12, 5, dtype=torch.float64)
    together = losses.bake_targets(features, logits)[:6]
    assert (together - losses.bake_targets(features[:6], logits[:6])).abs().max() > 0.01


def test_alone_it_is_the_plain_loss() -> None:
    torch.manual_seed(0)
    features, logits, labels = torch.randn(6, 8), torch.randn(6, 5, requires_grad=True), torch.randint(0, 5, (6,))
    torch.testing.assert_close(bake_loss(logits, features, labels), losses.bake_loss(logits, features, labels))
    rows, first = gather_rows(logits)
    assert first == 0 and torch.equal(rows, logits) and not rows.requires_grad


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_conversion_keeps_the_model(name: str) -> None:
    """Names, tensors, evaluation and, in one process, training; as timm converts for a GPU, layer by layer."""
    load_torchvision()
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4).eval()
    images = torch.randn(4, 3, *([160, 160] if name == "test_vit" else [64, 64]))
    before, state = model(images), {n: t.clone() for n, t in model.state_dict().items()}
    for_gpu = timm.layers.convert_sync_batchnorm(timm.create_model(name, num_classes=4))
    wanted = [n for n, m in for_gpu.named_modules() if isinstance(m, torch.nn.SyncBatchNorm)]
    converted = convert_sync_batchnorm(model, "cpu")
    assert [n for n, m in converted.named_modules() if isinstance(m, SyncBatchNorm)] == wanted
    assert bool(wanted) == (name != "test_vit")
    assert torch.equal(converted(images), before)
    assert converted.state_dict().keys() == state.keys()
    plain = timm.create_model(name, num_classes=4).train()
    plain.load_state_dict(state)
    assert torch.equal(converted.train()(images), plain(images))
    assert all(torch.equal(a, b) for a, b in zip(converted.buffers(), plain.buffers(), strict=True))
    onto_gpu = convert_sync_batchnorm(plain, "cuda")
    assert [n for n, m in onto_gpu.named_modules() if isinstance(m, torch.nn.SyncBatchNorm)] == wanted


def test_unknown_batch_norm_is_refused() -> None:
    class Odd(torch.nn.BatchNorm2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) + 1

    with pytest.raises(DaliDrError, match=r"0 is a .*Odd, of which no synchronised form is known"):
        convert_sync_batchnorm(torch.nn.Sequential(Odd(3)), "cpu")


def test_it_takes_what_the_loss_of_one_process_takes() -> None:
    one, all_ranks = (inspect.signature(f).parameters for f in (losses.bake_loss, distributed.bake_loss))
    assert [str(p) for p in one.values() if p.name != "targets"] == [str(p) for p in all_ranks.values()]
