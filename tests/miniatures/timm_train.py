"""A miniature of a training script that asks of its data what timm's train.py asks.

Written for the tests, which apply the diff of docs/migration/timm.md to it. `seen` has every batch of training.
"""

# ruff: noqa: I001, PTH118  as the script has them, so that its diff applies
from __future__ import annotations

import os
from typing import Any

import torch
import yaml

from timm.data import FastCollateMixup, Mixup, create_dataset, create_loader
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.utils import accuracy
from torch import nn

seen: list[tuple[int, torch.Tensor, torch.Tensor]] = []
losses: list[float] = []
criteria: list[nn.Module] = []


def _set_loader_epoch(loader: Any, epoch: int) -> None:
    if hasattr(loader.dataset, "set_epoch"):
        loader.dataset.set_epoch(epoch)
    if hasattr(loader.batch_sampler, "set_epoch"):
        loader.batch_sampler.set_epoch(epoch)


def main(args: Any) -> Any:
    args_text = yaml.safe_dump({"epochs": args.epochs})
    args.prefetcher = not args.no_prefetcher
    device = torch.device(args.device)
    data_config = {"input_size": (3, args.img_size, args.img_size), "mean": args.mean, "std": args.std, "crop_pct": 0.9}

    dataset_train = create_dataset(
        args.dataset,
        root=args.data_dir,
        split=args.train_split,
        is_training=True,
        class_map=args.class_map,
        batch_size=args.batch_size,
        seed=args.seed,
    )

    dataset_eval = None
    if args.val_split:
        dataset_eval = create_dataset(
            args.dataset,
            root=args.data_dir,
            split=args.val_split,
            is_training=False,
            class_map=args.class_map,
            batch_size=args.batch_size,
        )

    common = {
        "mean": data_config["mean"],
        "std": data_config["std"],
        "device": device,
        "use_prefetcher": args.prefetcher,
    }
    mixup_fn = collate_fn = None
    mixup_active = args.mixup > 0 or args.cutmix > 0.0
    if mixup_active:
        mixup_args = {"mixup_alpha": args.mixup, "cutmix_alpha": args.cutmix, "num_classes": args.num_classes}
        if args.prefetcher:
            collate_fn = FastCollateMixup(**mixup_args)
        else:
            mixup_fn = Mixup(**mixup_args)
    if args.naflex_loader:
        raise AssertionError("not of this miniature")
    else:
        # Use standard loader
        loader_train = create_loader(
            dataset_train,
            input_size=data_config["input_size"],
            batch_size=args.batch_size,
            is_training=True,
            re_prob=args.reprob,
            num_aug_repeats=args.aug_repeats,
            num_workers=args.workers,
            collate_fn=collate_fn,
            **common,
        )

    loader_eval = None
    if args.val_split:
        if args.naflex_loader:
            raise AssertionError("not of this miniature")
        else:
            # Use standard loader
            loader_eval = create_loader(
                dataset_eval,
                input_size=data_config["input_size"],
                batch_size=args.batch_size,
                interpolation="bicubic",
                crop_pct=data_config["crop_pct"],
                num_workers=args.workers,
                **common,
            )

    if mixup_active:
        train_loss_fn = BinaryCrossEntropy() if args.bce_loss else SoftTargetCrossEntropy()
    elif args.smoothing:
        if args.bce_loss:
            train_loss_fn = BinaryCrossEntropy(smoothing=args.smoothing)
        else:
            train_loss_fn = LabelSmoothingCrossEntropy(smoothing=args.smoothing)
    else:
        train_loss_fn = nn.CrossEntropyLoss()
    criteria.append(train_loss_fn)

    torch.manual_seed(0)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.LazyLinear(args.num_classes))
    model(torch.zeros(1, 3, args.img_size, args.img_size))
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    start_epoch = 0
    if args.resume:
        checkpoint = torch.load(args.resume, weights_only=True)
        model.load_state_dict(checkpoint["state_dict"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        start_epoch = checkpoint["epoch"] + 1

    top1 = None
    for epoch in range(start_epoch, args.epochs):
        _set_loader_epoch(loader_train, epoch)
        train_one_epoch(epoch, model, loader_train, optimizer, train_loss_fn, args, device, mixup_fn)
        if loader_eval is not None:
            top1 = validate(model, loader_eval, args, device)
        state = {
            "epoch": epoch,
            "state_dict": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "args": args_text,
        }
        torch.save(state, os.path.join(args.output, "last.pth.tar"))
    return top1


def train_one_epoch(
    epoch: int, model: Any, loader: Any, optimizer: Any, loss_fn: Any, args: Any, device: Any, mixup_fn: Any
) -> None:
    if args.mixup_off_epoch and epoch >= args.mixup_off_epoch and args.prefetcher and loader.mixup_enabled:
        loader.mixup_enabled = False
    model.train()
    accum_steps = args.grad_accum_steps
    last_batch_idx = len(loader) - 1
    for batch_idx, (input, target) in enumerate(loader):
        if not args.prefetcher:
            input, target = input.to(device=device), target.to(device=device)
            if mixup_fn is not None:
                input, target = mixup_fn(input, target)
        if args.channels_last:
            input = input.contiguous(memory_format=torch.channels_last)
        seen.append((epoch, input.clone(), target.clone()))
        loss = loss_fn(model(input.contiguous()), target) / accum_steps
        loss.backward()
        losses.append(loss.item() * accum_steps)
        if batch_idx == last_batch_idx or (batch_idx + 1) % accum_steps == 0:
            optimizer.step()
            optimizer.zero_grad()
    assert batch_idx == last_batch_idx


def validate(model: Any, loader: Any, args: Any, device: Any) -> float:
    model.eval()
    hits, count = 0.0, 0
    with torch.inference_mode():
        for _, (input, target) in enumerate(loader):
            output = model(input)
            nn.CrossEntropyLoss()(output, target)
            hits += accuracy(output, target, topk=(1, 5))[0].item() * len(input)
            count += len(input)
    assert count == len(loader.dataset)
    return hits / count
