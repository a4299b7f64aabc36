"""What must fit before train_timm.py begins: the model's outputs to the classes of both sets, its input to all sizes."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

import torch
from train_timm_options import HARD, SOFT

import dali_dr


def check_targets(o: argparse.Namespace, outputs: int, data: dali_dr.Dataset, fresh: bool) -> None:
    """Stored predictions and labels of the training set against the model's outputs.

    Args:
      o: the options.
      outputs: of the model.
      data: the training set.
      fresh: views are drawn, not replayed.

    Raises:
      ValueError: they do not fit.
    """
    targets = o.loader.get("targets", "sparse")
    stored_soft = o.loss in SOFT and not o.teacher
    if o.loss in SOFT and targets not in ("sparse", "top1") and outputs != data.num_outputs:
        raise ValueError(
            f"--loader: targets {targets} are of {data.num_outputs} classes, the model has "
            f"{outputs}: take sparse ones, or leave num_classes out of --model-options"
        )
    stored = 1 if fresh else data.manifest.topk
    if o.loss in SOFT and targets == "full" and stored != data.num_outputs:
        raise ValueError(f"--loader: targets full want all {data.num_outputs} classes stored, here are {stored}")
    if stored_soft and outputs < data.num_outputs:
        raise ValueError(
            f"--model-options: the model has {outputs} outputs, {o.data} predictions of {data.num_outputs} classes: "
            "leave num_classes out, or learn from labels (--loss ce)"
        )
    labelled = o.loss in HARD or o.mixup or o.cutmix
    if labelled and outputs < data.num_classes and outputs <= (highest := int(data.labels.max(initial=-1))):
        raise ValueError(
            f"--model-options: the model has {outputs} outputs, {o.data} has the label {highest}: leave num_classes out"
        )


def check_val(o: argparse.Namespace, outputs: int, data: dali_dr.Dataset, val: dali_dr.Dataset) -> None:
    """The set to evaluate on must be of the classes that the model learns.

    Raises:
      ValueError: another number of classes, or classes of other names; what to do where the training set's labels are of
        these classes and only its predictions are not.
    """
    wrong, count = f"--val {o.val}: has {val.num_classes} classes", val.num_classes
    names, known = val.class_names or (), data.class_names or ()
    differing = [n for n, (own, other) in enumerate(zip(names, known, strict=False)) if own != other]
    if count not in (outputs, data.num_classes) or count > outputs:
        why = f"{wrong}, the model has {outputs} outputs, those of {o.data}"
        if not differing and count < outputs and int(data.labels.max(initial=-1)) < count:
            raise ValueError(
                f"{why}, whose labels are of {count} classes too: learn these (--loss ce --model-options "
                f"'{{num_classes: {count}}}'), or reinforce it with a teacher of these classes, or leave --val out"
            )
        raise ValueError(f"{why}: give a set of the same classes, or leave --val out")
    if differing:
        n = differing[0]
        raise ValueError(
            f"--val {o.val}: class {n} is {names[n]!r}, in {o.data} it is {known[n]!r}: "
            "give a set whose classes have the same numbers, or leave --val out"
        )


def check_sizes(o: argparse.Namespace, model: torch.nn.Module, sizes: Iterable[int]) -> None:
    """Shows one empty image of every size to the model, so that one of fixed size says so now and not within a run.

    Raises:
      ValueError: it takes no images of a size.
    """
    training, bad = model.training, None
    model.eval()  # running statistics stay as they are
    for size in sorted(set(sizes)):
        try:
            with torch.no_grad():
                model(torch.zeros(1, 3, size, size))
        except (AssertionError, RuntimeError, ValueError) as error:
            bad = size, error
            break
    model.train(training)
    if bad is None:
        return
    which = f"--vbs {o.vbs}: " if o.vbs else ""
    hints = ["'{dynamic_img_size: true}' (ViT)", "'{strict_img_size: false}' (Swin)"]
    hints = hints if o.vbs else [f"'{{img_size: {bad[0]}}}'", *hints]
    raise ValueError(
        f"{which}--model {o.model} takes no images of {bad[0]} pixels ({_first_line(bad[1])}): "
        f"it may with --model-options {' or '.join(hints)}"
    ) from bad[1]


def _first_line(error: BaseException) -> str:
    lines: Sequence[str] = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]
