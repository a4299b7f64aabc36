"""A miniature of run_image_classification.py of transformers.

Written for the tests, which apply the diff of docs/migration/hugging_face.md to it.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    TimmWrapperImageProcessor,
    Trainer,
    TrainingArguments,
)
from transformers.utils import check_min_version
from transformers.utils.versions import require_version

check_min_version("4.57.0")
require_version("torch>=2.0")


def collate_fn(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    labels = torch.tensor([example["labels"] for example in examples])
    return {"pixel_values": torch.stack([example["pixel_values"] for example in examples]), "labels": labels}


def main(training_args: TrainingArguments, dataset: dict[str, Any], classes: int) -> None:
    config = ResNetConfig(num_labels=classes, hidden_sizes=[8], depths=[1], embedding_size=8)
    model = ResNetForImageClassification(config)
    assert TimmWrapperImageProcessor is not None
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=dataset["train"] if training_args.do_train else None,
        eval_dataset=dataset["validation"] if training_args.do_eval else None,
        data_collator=collate_fn,
    )
    trainer.train()
