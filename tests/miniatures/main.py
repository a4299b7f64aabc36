"""A miniature of DALI's ResNet-50 example, asking of its data what that asks: labels for the accuracy, targets for the loss.

Written for the tests, which apply the diff of docs/migration/dali.md to it.
"""

# ruff: noqa: I001  as the script has them, so that its diff applies
from __future__ import annotations

from typing import Any

import torch
import torchvision

try:
    from nvidia.dali.plugin.pytorch import DALIClassificationIterator, LastBatchPolicy
    from nvidia.dali.pipeline import pipeline_def
    import nvidia.dali.types as types
    import nvidia.dali.fn as fn
except ImportError:
    raise ImportError("this script wants DALI") from None

accuracies: list[float] = []


@pipeline_def
def create_dali_pipeline(data_dir: str, crop: int) -> Any:
    images, labels = fn.readers.file(file_root=data_dir, random_shuffle=True, pad_last_batch=True, name="Reader")
    images = fn.decoders.image_random_crop(images, output_type=types.RGB)
    images = fn.resize(images, resize_x=crop, resize_y=crop)
    images = fn.crop_mirror_normalize(images, dtype=types.FLOAT, output_layout="CHW", mean=[0, 0, 0], std=[255] * 3)
    return images, labels


def main(args: Any) -> None:
    traindir = args.data[0]
    model = torchvision.models.resnet18(num_classes=args.classes)
    criterion = torch.nn.functional.cross_entropy
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    if args.data_loader == "dali":
        train_pipe = create_dali_pipeline(
            batch_size=args.batch_size, num_threads=args.workers, device_id=None, data_dir=traindir, crop=args.crop
        )
        train_pipe.build()
        train_loader = DALIClassificationIterator(
            train_pipe,
            reader_name="Reader",
            last_batch_policy=LastBatchPolicy.PARTIAL,
            auto_reset=True,
        )
    for _ in range(args.start_epoch, args.epochs):
        train(train_loader, model, criterion, optimizer, is_pytorch_loader=args.data_loader == "pytorch")


def train(loader: Any, model: Any, criterion: Any, optimizer: Any, *, is_pytorch_loader: bool) -> None:
    for data in loader:
        if is_pytorch_loader:
            input, target = data
        else:
            input = data[0]["data"]
            target = data[0]["label"].squeeze(-1).long()
        with torch.autocast("cpu", enabled=False):
            output = model(input)
            loss = criterion(output, target)

        accuracies.append(float((output.argmax(1) == target).float().mean()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
