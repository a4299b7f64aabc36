"""A miniature of accelerate's examples/cv_example.py, whose batches are dicts and which normalises by itself.

Written for the tests, which apply the diff of docs/migration/hugging_face.md to it.
"""

# ruff: noqa: I001  as the script has it, so that its diff applies
from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from accelerate import Accelerator
from accelerate.utils import set_seed


class PetsDataset(torch.utils.data.Dataset[dict[str, Any]]):
    def __init__(self, folder: str, image_size: int) -> None:
        crop = transforms.Compose([transforms.RandomResizedCrop(image_size), transforms.ToTensor()])
        self.images = datasets.ImageFolder(folder, crop)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> dict[str, Any]:
        image, label = self.images[number]
        return {"image": image, "label": label}


def training_function(config: dict[str, Any], args: Any) -> None:
    accelerator = Accelerator(cpu=args.cpu)
    batch_size, image_size = config["batch_size"], config["image_size"]
    set_seed(config["seed"])
    train_dataset = PetsDataset(args.data_dir, image_size)
    eval_dataset = PetsDataset(args.data_dir, image_size)
    # Instantiate dataloaders.
    train_dataloader = DataLoader(train_dataset, shuffle=True, batch_size=batch_size, num_workers=4)
    eval_dataloader = DataLoader(eval_dataset, shuffle=False, batch_size=batch_size, num_workers=4)

    model = torchvision.models.resnet18(num_classes=config["classes"])
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    optimizer = torch.optim.SGD(model.parameters(), config["lr"])
    model, optimizer, train_dataloader, eval_dataloader = accelerator.prepare(
        model, optimizer, train_dataloader, eval_dataloader
    )
    for _ in range(config["num_epochs"]):
        for batch in train_dataloader:
            inputs = (batch["image"] - mean) / std
            args.seen.append(batch["image"])
            loss = torch.nn.functional.cross_entropy(model(inputs), batch["label"])
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
