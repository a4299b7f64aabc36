"""What train_timm.py learns from: labels, stored predictions or a teacher's at work, mixed or not, and the loss of them."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from typing import Any

import torch
from train_timm_options import SOFT

import dali_dr
from dali_dr import distributed, losses
from dali_dr.loader.options import Show
from dali_dr.record.labels import densify
from dali_dr.reinforce.teachers import load_teacher

Tensors = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Targets:
    """Of a batch.

    Attributes:
      hard: arguments of the losses that say the labels: labels, and mix_labels and mix_weight where views are mixed.
      soft: predictions of a teacher, (ids, probabilities), (None, dense) or None where the loss has none.
    """

    hard: dict[str, torch.Tensor | None]
    soft: tuple[torch.Tensor | None, torch.Tensor] | None


class Objective:
    """From a batch of the loader to what the model sees, and from what it says to a loss.

    Args:
      o: the options.
      classes: the model's outputs.
      show: how the loader shows views: its normalisation.
      device: of the batches.
      stored_temperature: of stored embeddings, at which the student's outputs are compared with them (FKD, section 3.4).

    Raises:
      DaliDrError: the teacher cannot be had, or knows other classes.
    """

    def __init__(
        self, o: argparse.Namespace, classes: int, show: Show, device: torch.device, stored_temperature: float = 1.0
    ) -> None:
        self.options, self.classes, self.stored_temperature = o, classes, stored_temperature
        self.mean, self.std = (torch.tensor(values, device=device)[:, None, None] for values in (show.mean, show.std))
        self.teacher = None
        if o.teacher:
            self.teacher = load_teacher(o.teacher, device, amp=None if o.amp == "none" else o.amp)
            if self.teacher.num_outputs != classes:
                raise dali_dr.DaliDrError(
                    f"--teacher: {o.teacher} predicts {self.teacher.num_outputs} classes, the student has {classes}"
                )
        self.mixing = None
        if o.mixup or o.cutmix:
            self.mixing = dali_dr.BatchMixing(
                mixup_alpha=o.mixup,
                cutmix_alpha=o.cutmix,
                probability=o.mix_probability,
                switch_probability=o.mix_switch_probability,
                mode=o.mix_mode,
                layout="HWC" if o.channels_last else "CHW",
                seed=o.seed,
                rank=o.rank,
            )

    def prepare(self, batch: Tensors, epoch: int, consumed: int) -> tuple[torch.Tensor, Targets]:
        """The images that the model sees, (B, 3, H, W), and the targets; `epoch` and `consumed` are the loader's place."""
        o, images = self.options, batch["data"]
        hard: dict[str, torch.Tensor | None] = {
            "labels": batch["label"],
            "mix_labels": batch.get("mix_label"),
            "mix_weight": batch.get("mix_weight"),
        }
        soft = _stored(batch) if o.loss in SOFT and self.teacher is None else None
        if self.mixing is not None:
            parts = [self._dense_labels(hard)]
            if soft is not None:
                ids, probs = soft
                parts += [probs.float() if ids is None else densify(ids, probs.float(), self.classes)]
            # Both kinds of targets at once, beside each other: one draw, and mixing is linear.
            images, mixed = self.mixing(
                images, torch.cat(parts, 1), num_classes=len(parts) * self.classes, epoch=epoch, step=consumed
            )
            hard = {"labels": mixed[:, : self.classes]}
            soft = None if soft is None else (None, mixed[:, self.classes :])
        if o.channels_last:
            images = images.permute(0, 3, 1, 2)
        if self.teacher is not None:
            soft = None, self._predicted(images)
        return images, Targets(hard, soft)

    def loss(self, logits: torch.Tensor, features: torch.Tensor | None, targets: Targets) -> torch.Tensor:
        """The loss of the batch; of logits (B, C) and, for bake, features (B, D)."""
        o, hard = self.options, targets.hard
        labels: Any = {**hard, "label_smoothing": o.label_smoothing}
        if o.loss == "ce":
            return losses.mixed_cross_entropy(logits, **labels)
        if o.loss == "bake":
            assert features is not None
            settings = {"omega": o.bake_omega, "temperature": o.bake_temperature, "weight": o.bake_weight}
            return distributed.bake_loss(logits, features, **labels, **settings)
        assert targets.soft is not None
        ids, probs = targets.soft
        logits = logits / self.stored_temperature
        if o.loss == "soft-ce":
            return losses.soft_cross_entropy(logits / o.temperature, ids, probs)
        if o.loss == "usi":
            settings = {"alpha": o.alpha, "temperature": o.temperature}
            return losses.usi_loss(logits, soft_ids=ids, soft_probs=probs, **labels, **settings)
        return losses.kl_divergence(logits, ids, probs, temperature=o.temperature)

    def _dense_labels(self, hard: dict[str, torch.Tensor | None]) -> torch.Tensor:
        """(B, C): one-hot labels, of mixed views both with their weights."""
        labels, others, weight = hard["labels"], hard["mix_labels"], hard["mix_weight"]
        assert labels is not None
        dense = torch.nn.functional.one_hot(labels, self.classes).float()
        if others is not None and weight is not None:
            partner = torch.nn.functional.one_hot(others, self.classes).float()
            dense = weight[:, None] * dense + (1 - weight[:, None]) * partner
        return dense

    def _predicted(self, images: torch.Tensor) -> torch.Tensor:
        """The teacher's probabilities (B, C) on these very images, in its own size and normalisation."""
        assert self.teacher is not None
        pixels = (images.float() * self.std + self.mean) * 255
        return self.teacher.predict(pixels).clone()  # a clone may be kept for the backward pass


def _stored(batch: Tensors) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Stored predictions, in whatever form the loader gives them."""
    if "soft_ids" in batch:
        return batch["soft_ids"], batch["soft_probs"]
    targets = batch["targets"]
    if targets.is_floating_point():
        return None, targets
    return targets[:, None], torch.ones(len(targets), 1, device=targets.device)  # top1


def augmentation(value: Any, size: int | None) -> Any:
    """`loader.augment` of a recipe: a name as it is, or a mapping of AugmentationSpec's fields as a spec.

    Members are mappings, too: `{rand_augment: {magnitude: 7}, interpolation: bicubic}`; what is not said has its default.

    Raises:
      ValueError, SpecError: a field that does not exist, or a value out of range.
    """
    if not isinstance(value, dict):
        return value
    hints, values = typing.get_type_hints(dali_dr.AugmentationSpec), dict(value)
    if unknown := values.keys() - hints.keys():
        raise ValueError(
            f"--loader: augment has {', '.join(hints)}, not {', '.join(map(str, sorted(unknown, key=str)))}"
        )
    for name, member in values.items():
        kinds = [kind for kind in (hints[name], *typing.get_args(hints[name])) if dataclasses.is_dataclass(kind)]
        if isinstance(member, dict) and kinds:
            fields = [{field.name for field in dataclasses.fields(kind)} for kind in kinds]
            kind, known = max(zip(kinds, fields, strict=True), key=lambda pair: len(pair[1] & member.keys()))
            if unknown := member.keys() - known:
                raise ValueError(
                    f"--loader: augment.{name} has {', '.join(sorted(known))}, not {', '.join(map(str, unknown))}"
                )
            values[name] = kind(**member)
    return dali_dr.AugmentationSpec(**({"size": size} if size else {}) | values)


def curriculum(value: Any, epochs: int) -> Any:
    """`loader.curriculum` of a recipe: a text as it is; of a mapping, `{start: easy, end: hard}`, `epochs` is the default."""
    return {"epochs": epochs} | value if isinstance(value, dict) else value
