"""For scripts of Hugging Face's kind, with accelerate or Trainer (docs/migration/hugging_face.md): dicts, and their loss."""

from __future__ import annotations

import os
from typing import Any, Unpack

import torch
from torch.nn.functional import cross_entropy

from dali_dr.integrations.named import NamedIterator, has_teacher, opened
from dali_dr.loader.options import Options
from dali_dr.shards.dataset import Dataset


def hugging_face_loader(
    dataset: Dataset | str | os.PathLike[str],
    *,
    batch_size: int,
    image: str = "pixel_values",
    label: str = "labels",
    **options: Unpack[Options],
) -> NamedIterator:
    """A loader of dicts, as the collate functions of Hugging Face's examples make them.

    Batches are `{image: (B, 3, size, size) float32, label: (B, classes) float32}`, the label being the teacher's
    distribution on exactly that view. Of views without a teacher (`augment="eval"`, or fresh ones) it is the class,
    (B,) int64.

    A model's own loss does not fit soft labels: transformers takes them for a multi-label problem and computes a binary
    cross entropy without a word. Use `soft_target_loss`, or `torch.nn.functional.cross_entropy` of the model's logits.

    Args:
      dataset, batch_size, options: see `dali_dr.ReinforcedIterator`.
      image, label: the names in a batch.

    Raises:
      ValueError: an argument out of range; also for the names `image` and `label` that are the same.
      ShardError: the data set is missing or damaged.
    """
    dataset = opened(dataset, options)
    teacher = has_teacher(dataset, options)
    if teacher:
        options.setdefault("targets", "dense")
    names = {"data": image, "targets" if teacher else "label": label}
    return NamedIterator(dataset, batch_size=batch_size, names=names, **options)


def soft_target_loss(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Cross entropy of a model's logits against soft or hard labels: a `compute_loss_func` of transformers' Trainer.

    Args:
      outputs: what the model returns, with `logits` (B, classes).
      labels: (B, classes) float probabilities, or (B,) int64 classes.
      num_items_in_batch: numbers in all labels of the batches whose gradients are accumulated into one step, on all
        processes, as Trainer counts them: the loss is then this batch's part of the mean over all their images.

    Returns:
      Scalar.
    """
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs.logits
    if num_items_in_batch is None:
        return cross_entropy(logits, labels)
    images = num_items_in_batch / (
        labels.shape[1] if labels.ndim > 1 else 1
    )  # Trainer counts B * classes of soft labels
    return cross_entropy(logits, labels, reduction="sum") / images
