"""Learning rates and sizes of batches of train_timm.py: pure functions of the place in the run, so that any run resumes exactly.

Epochs count views: an epoch of the loader with m views per image is m of them, as in FKD.
"""

from __future__ import annotations

import argparse
import math

# torch.optim.lr_scheduler.OneCycleLR's defaults.
ONE_CYCLE_RISE = 0.3  # part of the run in which the rate rises
ONE_CYCLE_FIRST = 25  # it begins at lr / 25
ONE_CYCLE_LAST = 1e4  # and ends at the first rate / 10^4

VBS_SCALES = 5  # sizes between the smallest and the largest, CVNets' sampler.vbs.max_n_scales
VBS_DIVISOR = 32  # of every size, its sampler.vbs.check_scale


def learning_rate(o: argparse.Namespace, epochs: float, step: float) -> float:
    """The rate of a step.

    - cosine: from lr to min_lr, step by step, after a linear warm-up.
    - step: lr · gamma^(milestones passed), after a linear warm-up.
    - one-cycle: torch's OneCycleLR with its defaults and max_lr = lr; the momentum stays.
    - serrated: FKD's, see `_serrated`.

    Args:
      o: the options.
      epochs: trained before the step.
      step: epochs that one step is.
    """
    if o.schedule == "one-cycle":
        return _one_cycle(o.lr, epochs / step, o.epochs / step)
    if o.schedule == "serrated":
        return _serrated(o, epochs)
    if epochs < o.warmup_epochs:
        return float(o.warmup_lr + (o.lr - o.warmup_lr) * epochs / o.warmup_epochs)
    if o.schedule == "step":
        return float(o.lr * o.gamma ** sum(epochs >= milestone for milestone in o.milestones))
    return _cosine(o.lr, o.min_lr, (epochs - o.warmup_epochs) / max(o.epochs - o.warmup_epochs, 1e-9))


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def _one_cycle(highest: float, done: float, steps: float) -> float:
    """The rate after `done` of `steps` steps: half a cosine up, then one down, the last step at the bottom."""
    first, top, bottom = highest / ONE_CYCLE_FIRST, ONE_CYCLE_RISE * steps - 1, steps - 1
    if done <= top:
        return _cosine(first, highest, done / max(top, 1e-9))
    return _cosine(highest, first / ONE_CYCLE_LAST, min((done - top) / max(bottom - top, 1e-9), 1.0))


def _serrated(o: argparse.Namespace, epochs: float) -> float:
    """FKD's rate (github.com/szq0214/FKD, train_FKD.py and FKD_ViT/train_ViT_FKD.py).

    A cosine over all epochs, which is read at the beginning of every epoch of the loader, that is every m epochs of views,
    and stays until the next; in the warm-up and in the last m epochs it is read every epoch.
    """
    m, whole = o.views_per_image, math.floor(epochs + 1e-9)
    if whole < o.warmup_epochs:
        return float(o.warmup_lr + (o.lr - o.warmup_lr) * whole / o.warmup_epochs)
    begin = math.ceil(o.warmup_epochs)
    read = begin + (whole - begin) // m * m
    if read >= o.epochs - m:
        read = whole
    return _cosine(o.lr, o.min_lr, read / o.epochs)


def batch_shapes(vbs: list[int], batch: int, group: int) -> list[tuple[int, int]]:
    """CVNets' variable batches (Mehta & Rastegari, arXiv 2110.02178): sizes, and batches of about as many pixels each.

    Args:
      vbs: smallest size, largest, and that of `batch`.
      batch: images of a process.
      group: images that stay together; every batch is a multiple of it.

    Returns:
      (size, images), sizes rising: five even steps from the smallest to the largest and the third, each rounded to a
      multiple of 32. One of them is drawn for every batch.
    """
    smallest, largest, base = vbs
    wanted = {smallest + (largest - smallest) * n / (VBS_SCALES - 1) for n in range(VBS_SCALES)} | {base}
    sizes = sorted({_divisible(size) for size in wanted})
    images = {size: max(1, int(round(base * base * batch / (size * size), 2))) for size in sizes}
    return [(size, max(count // group * group, group)) for size, count in images.items()]


def _divisible(size: float) -> int:
    """The nearest multiple of 32 that is not below nine tenths of the size (MobileNet's make_divisible)."""
    nearest = max(VBS_DIVISOR, int(size + VBS_DIVISOR / 2) // VBS_DIVISOR * VBS_DIVISOR)
    return nearest + VBS_DIVISOR if nearest < 0.9 * size else nearest
