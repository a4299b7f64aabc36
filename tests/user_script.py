"""A training script as users write it: both type checkers must pass it (test_typing.py).

python script.py imagenet-plus runs/last.pt
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import dali_dr
from dali_dr import Batch, ReinforcedIterator


def step(model: nn.Module, batch: Batch, mixed: bool) -> Tensor:
    loss = dali_dr.losses.kl_divergence(model(batch["data"]), batch["soft_ids"], batch["soft_probs"])
    if mixed and "mix_label" in batch and "mix_weight" in batch:
        labels, weight = batch["mix_label"], batch["mix_weight"]
        loss = loss + dali_dr.losses.mixed_cross_entropy(model(batch["data"]), batch["label"], labels, weight)
    return loss


def train(model: nn.Module, loader: ReinforcedIterator, epochs: int, out: Path) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(loader.epoch, epochs):
        loader.set_epoch(epoch)
        for (batch,) in loader:
            loss = step(model, batch, mixed=True)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        torch.save({"model": model.state_dict(), "loader": loader.state_dict()}, out)
        print(epoch, len(loader), loader.stats()["wait"], loader.skip_report())


def top1(model: nn.Module, path: str) -> float:
    loader = ReinforcedIterator(path, batch_size=64, device="cpu", augment="eval", as_tuples=True, targets="top1")
    right = total = 0
    for images, targets in loader:
        right += int((model(images).argmax(1) == targets).sum())
        total += len(images)
    return right / total


def main(folder: str, out: Path) -> None:
    dataset = dali_dr.Dataset(folder, cache_bytes=1 << 30)
    print(dataset.num_classes, dataset.keys[0], dataset.reinforcements(0).soft_probs.shape)
    spec = dali_dr.AugmentationSpec.preset("rrc", size=160)
    loader = ReinforcedIterator(dataset, batch_size=64, device="cpu", dtype="bfloat16", order="windowed", size=160)
    indexed = ReinforcedIterator(dataset, batch_size=64, device="cpu", with_index=True)
    dense = ReinforcedIterator(dataset, batch_size=64, device="cpu", targets="dense", augment=spec)
    print(next(indexed)[0]["index"].tolist(), next(dense)[0]["targets"].shape)
    try:
        train(nn.Linear(3, dataset.num_classes), loader, 2, out)
    except dali_dr.ShardError as error:
        print(error.key, error.shard)
    results = dali_dr.evaluate(str(out), ["imagenet-val"], kinds="imagenet")
    print(results[0].scores.top1, top1(nn.Identity(), "imagenet-val"))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
