"""A miniature of a training script that asks of its data what torchvision's references/classification/train.py asks.

Written for the tests, which apply the diff of docs/migration/torchvision.md to it. `seen` has every batch of training.
"""

# ruff: noqa: PTH118  as the script has them, so that its diff applies
from __future__ import annotations

import os
from typing import Any

import torch
import torch.utils.data
from torch import nn
from torch.utils.data.dataloader import default_collate

seen: list[tuple[int, torch.Tensor, torch.Tensor]] = []
losses: list[float] = []


def accuracy(output: torch.Tensor, target: torch.Tensor, topk: tuple[int, ...] = (1,)) -> list[torch.Tensor]:
    if target.ndim == 2:
        target = target.argmax(1)
    best = output.topk(max(topk), 1).indices
    hits = best == target[:, None]
    return [100 * hits[:, :k].any(1).float().mean() for k in topk]


def train_one_epoch(model, criterion, optimizer, data_loader, device, epoch, args, model_ema=None, scaler=None):  # type: ignore[no-untyped-def]
    model.train()
    assert len(data_loader) > 0
    for step, (image, target) in enumerate(data_loader):
        image, target = image.to(device), target.to(device)
        seen.append((epoch, image.clone(), target.clone()))
        output = model(image)
        loss = criterion(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if model_ema is not None and step % args.model_ema_steps == 0:
            model_ema.update_parameters(model)
        accuracy(output, target, topk=(1, 5))
        losses.append(loss.item())
    assert step + 1 == len(data_loader)


def evaluate(model, criterion, data_loader, device):  # type: ignore[no-untyped-def]
    model.eval()
    hits = count = 0.0
    with torch.inference_mode():
        for image, target in data_loader:
            image = image.to(device, non_blocking=True)
            target = target.to(device, non_blocking=True)
            output = model(image)
            criterion(output, target)
            hits += accuracy(output, target, topk=(1, 5))[0].item() * len(image)
            count += len(image)
    assert count == len(data_loader.dataset)
    return hits / count


def load_data(traindir: str, valdir: str, args: Any) -> Any:
    raise AssertionError("the diff replaces what makes ImageFolders")


def mixed(batch):  # type: ignore[no-untyped-def]
    raise AssertionError(f"batches are no lists of images here: {default_collate(batch)}")


def main(args: Any) -> Any:
    device = torch.device(args.device)
    train_dir = os.path.join(args.data_path, "train")
    val_dir = os.path.join(args.data_path, "val")
    dataset, dataset_test, train_sampler, test_sampler = load_data(train_dir, val_dir, args)

    num_classes = len(dataset.classes)
    collate_fn = mixed if args.mixup_alpha or args.cutmix_alpha else default_collate

    data_loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=args.batch_size,
        sampler=train_sampler,
        num_workers=args.workers,
        pin_memory=True,
        collate_fn=collate_fn,
    )
    data_loader_test = torch.utils.data.DataLoader(
        dataset_test, batch_size=args.batch_size, sampler=test_sampler, num_workers=args.workers, pin_memory=True
    )

    torch.manual_seed(0)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.LazyLinear(num_classes))
    model(torch.zeros(1, 3, args.train_crop_size, args.train_crop_size))
    criterion = nn.CrossEntropyLoss(label_smoothing=args.label_smoothing)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    lr_scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.9)
    model_ema = torch.optim.swa_utils.AveragedModel(model) if args.model_ema else None

    model_without_ddp, scaler = model, None
    if args.resume:
        checkpoint = torch.load(args.resume, map_location="cpu", weights_only=True)
        model_without_ddp.load_state_dict(checkpoint["model"])
        if not args.test_only:
            optimizer.load_state_dict(checkpoint["optimizer"])
            lr_scheduler.load_state_dict(checkpoint["lr_scheduler"])
        args.start_epoch = checkpoint["epoch"] + 1

    if args.test_only:
        return evaluate(model, criterion, data_loader_test, device=device)

    for epoch in range(args.start_epoch, args.epochs):
        if args.distributed:
            train_sampler.set_epoch(epoch)
        train_one_epoch(model, criterion, optimizer, data_loader, device, epoch, args, model_ema, scaler)
        lr_scheduler.step()
        top1 = evaluate(model, criterion, data_loader_test, device=device)
        if model_ema:
            evaluate(model_ema, criterion, data_loader_test, device=device)
        checkpoint = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": lr_scheduler.state_dict(),
            "epoch": epoch,
            "args": args,
        }
        torch.save(checkpoint, os.path.join(args.output_dir, "checkpoint.pth"))
    return top1
