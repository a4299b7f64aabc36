"""Proof of a data set's contents: replay stored views as training does, ask the teacher again, compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from dali_dr.augment.fresh import draw_arguments, resize_of
from dali_dr.augment.spec import AugmentationSpec
from dali_dr.errors import DaliDrError
from dali_dr.loader.graph import replay_pipeline, stacked
from dali_dr.loader.options import Device, default_threads
from dali_dr.record.label_map import ORDERS
from dali_dr.record.labels import densify, sparsify
from dali_dr.reinforce.networks import Amp, Target, Teacher
from dali_dr.reinforce.teachers import load_teacher
from dali_dr.shards.dataset import Dataset

MAX_KL: Final = 2e-3  # nats, mean over the views: twice what storing costs (9e-4), and far below another teacher's
_SURE: Final = 3.0  # standard errors that make a difference one
MIN_TOP1: Final = 0.995  # two classes of almost equal probability may change places


@dataclasses.dataclass(frozen=True)
class TeacherCheck:
    """What asking the teacher again came to.

    Attributes:
      views: compared.
      kl_mean, kl_max: KL(teacher now || stored) in nats, over the K stored classes and the rest as one.
      top1_equal: share of views whose most likely class is the stored one.
      teacher_is_the_same: whether its weights have the digest that the manifest has; None: it has none, as of sets that
        others have published.
      worst: (key, view) of the largest divergence.
    """

    views: int
    kl_mean: float
    kl_max: float
    top1_equal: float
    teacher_is_the_same: bool | None
    worst: tuple[str, int]

    @property
    def ok(self) -> bool:
        """Whether all is within MAX_KL and MIN_TOP1, and the teacher the same as far as that is known."""
        return self.kl_mean < MAX_KL and self.top1_equal >= MIN_TOP1 and self.teacher_is_the_same is not False


@dataclasses.dataclass(frozen=True)
class LabelMapCheck:
    """What asking a teacher about crops came to, where targets come from label maps.

    Attributes:
      views: compared.
      kl_mean: by order (`dali_dr.record.label_map.LabelMaps`), the mean KL(teacher || target) in nats over all classes.
      top1_equal: by order, the share of crops whose most likely class is the teacher's.
      order: that of the data set.
      better: the one with the smaller kl_mean; None where the difference may be chance: where its mean over the crops is
        within three standard errors.
    """

    views: int
    kl_mean: dict[str, float]
    top1_equal: dict[str, float]
    order: str
    better: str | None

    @property
    def ok(self) -> bool:
        """Whether the order of the data set is no worse than the other. How well a map can agree is not known."""
        return self.better in (None, self.order)


def load_stored_teacher(dataset: Dataset, names: str, device: str) -> Teacher:
    """The teacher called ``names``, set as the data set's manifest says (temperature, amp, target)."""
    facts = dataset.manifest.teacher or {}
    amp: Amp | None = facts.get("amp")
    target: Target = facts.get("target", "class")
    return load_teacher(names, device, temperature=facts.get("temperature", 1.0), amp=amp, target=target)


def check_teacher(
    dataset: Dataset,
    teacher: Teacher,
    *,
    samples: int = 200,
    seed: int = 0,
    device: Device = "cpu",
    batch: int = 32,
    num_threads: int | None = None,
) -> TeacherCheck:
    """Replays random stored views (fn.dr.read, decoder, fn.dr.replay: the graph of training), and asks the teacher.

    Args:
      dataset: reinforced.
      teacher: see `load_stored_teacher`.
      samples: views to compare, each of a random image.
      seed: of the choice.
      device: where the views are replayed; they are decoded where the data set's manifest says that they were.
      batch: views at a time.
      num_threads: DALI's CPU threads.

    Raises:
      DaliDrError: the data set has no predictions, or the teacher another number of outputs.
    """
    if not dataset.num_views or not dataset.manifest.topk:
        raise DaliDrError(f"{dataset.path}: holds no predictions to compare with", kind="usage")
    _check_outputs(dataset, teacher)
    numbers, rows = _choose(dataset, samples, seed)
    pairs = rows.ndim == 2
    divergences, equal = [], []
    for views, ids, stored in _replayed(dataset, numbers, rows, device, batch, num_threads or default_threads()):
        now = teacher.predict(views).cpu()
        divergences.append(_divergence(now.double().gather(1, ids), stored).numpy())
        equal.append((sparsify(now, 1)[0][:, 0] == ids[:, 0]).numpy())
    kl = np.concatenate(divergences)
    worst = int(kl.argmax())
    digest = (dataset.manifest.teacher or {}).get("weights_digest")
    return TeacherCheck(
        views=len(kl),
        kl_mean=float(kl.mean()),
        kl_max=float(kl.max()),
        top1_equal=float(np.concatenate(equal).mean()),
        teacher_is_the_same=None if digest is None else teacher.facts()["weights_digest"] == digest,
        worst=(dataset.keys[int(numbers[worst // (2 if pairs else 1)])], int(rows.ravel()[worst])),
    )


def check_label_maps(
    dataset: Dataset,
    teacher: Teacher,
    *,
    samples: int = 200,
    seed: int = 0,
    device: Device = "cpu",
    batch: int = 32,
    num_threads: int | None = None,
) -> LabelMapCheck:
    """Draws random crops as training does, and asks the teacher, whose answers are compared with both orders' targets.

    So the order in which maps were stored is found, which they do not say themselves. The teacher need not be the one
    that made them.

    Args:
      dataset: of label maps.
      teacher: of the same classes.
      samples: crops to compare, each of a random image.
      seed: of the choice and the crops.
      device: where views are made.
      batch: views at a time.
      num_threads: DALI's CPU threads.

    Raises:
      DaliDrError: the data set has no label maps, or the teacher another number of outputs.
    """
    manifest = dataset.manifest
    if manifest.label_maps is None:
        raise DaliDrError(f"{dataset.path}: holds no label maps", kind="usage")
    _check_outputs(dataset, teacher)
    spec = AugmentationSpec.preset("rrc")
    numbers = np.sort(np.random.default_rng(seed).integers(0, len(dataset), samples))
    rows = (-1 - np.arange(samples)).astype(np.int32)
    pipelines = {
        order: _pipeline(
            dataset, numbers, rows, spec, device, batch, num_threads or default_threads(),
            reading={"topk": manifest.topk, "label_maps": order, **draw_arguments(spec, seed)},
        )
        for order in ORDERS
    }  # fmt: skip
    kl: dict[str, list[torch.Tensor]] = {order: [] for order in ORDERS}
    equal: dict[str, list[torch.Tensor]] = {order: [] for order in ORDERS}
    for _ in range(0, samples, batch):
        now = None
        for order, pipeline in pipelines.items():
            views, _, ids, probs, *_ = (stacked(output) for output in pipeline.run())
            if now is None:  # both orders show the same views
                now = teacher.predict(views).cpu().double().clamp(min=1e-12)
            target = densify(ids.cpu(), probs.cpu().double(), dataset.num_outputs).clamp(min=1e-12)
            kl[order].append((now * (now.log() - target.log())).sum(1))
            equal[order].append(now.argmax(1) == ids[:, 0].cpu())
    of_crops = {order: torch.cat(parts)[:samples] for order, parts in kl.items()}
    means = {order: float(of_crop.mean()) for order, of_crop in of_crops.items()}
    one, other = of_crops.values()
    difference = one - other
    certain = abs(float(difference.mean())) > _SURE * float(difference.std()) / samples**0.5 if samples > 1 else False
    return LabelMapCheck(
        views=samples,
        kl_mean=means,
        top1_equal={order: float(torch.cat(parts)[:samples].double().mean()) for order, parts in equal.items()},
        order=manifest.label_maps.order,
        better=min(means, key=means.__getitem__) if certain else None,
    )


def _check_outputs(dataset: Dataset, teacher: Teacher) -> None:
    """DaliDrError if the teacher has another number of outputs."""
    if teacher.num_outputs != dataset.num_outputs:
        raise DaliDrError(
            f"teacher {teacher.name} gives {teacher.num_outputs} outputs, the data set was made by one of "
            f"{dataset.num_outputs}",
            kind="usage",
        )


def _choose(dataset: Dataset, samples: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Random sample numbers (S,), rising, and a row of each: (S,), or (S, 2) of a double-mix.

    The rows of a double-mix are replayed together in pairs, and both count.
    """
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, len(dataset), samples)
    rows: npt.NDArray[np.int32] = rng.integers(0, dataset.num_views, samples).astype(np.int32)
    order = np.lexsort((rows, numbers))
    numbers, rows = numbers[order], rows[order]
    if dataset.spec.mixing is not None and dataset.spec.mixing.double:
        rows = ((rows[:, None] & ~1) + np.arange(2)).astype(np.int32)
    return numbers, rows


def _replayed(
    dataset: Dataset,
    numbers: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int32],
    device: Device,
    batch: int,
    num_threads: int,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """What is stored of ``rows`` of the samples ``numbers``, in batches.

    Yields:
      The views (m, 3, H, W), replayed on ``device``; teacher ids (m, K) int64 and probabilities (m, K) float64, on the
        CPU.
    """
    spec = _seen(dataset)
    mixing = spec.mixing is not None
    pipeline = _pipeline(dataset, numbers, rows, spec, device, batch, num_threads, mixing=mixing)
    for _ in range(0, len(numbers), batch):
        views, _, ids, stored, *_ = (stacked(output) for output in pipeline.run())
        if rows.ndim == 2:
            views, ids, stored = (tensor.flatten(0, 1) for tensor in (views, ids, stored))
        yield views, ids.cpu().long(), stored.cpu().double()


def _seen(dataset: Dataset) -> AugmentationSpec:
    """The spec of the views as the teacher saw them: FKD's saw larger ones, of another filter, than are replayed."""
    seen = (dataset.manifest.teacher or {}).get("views", {})
    return dataclasses.replace(dataset.spec, **{name: seen[name] for name in ("size", "interpolation") if name in seen})


def _pipeline(
    dataset: Dataset,
    numbers: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int32],
    spec: AugmentationSpec,
    device: Device,
    batch: int,
    num_threads: int,
    **options: Any,
) -> Any:
    """The graph of training, which shows views ``rows`` of samples ``numbers`` in the teacher's range."""
    starts = range(0, len(numbers), batch)

    def source(info: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        at = starts[info.iteration % len(starts)]  # it is asked ahead of what is used
        return numbers[at : at + batch], rows[at : at + batch]

    return replay_pipeline(
        source,
        index=str(dataset.index_path),
        batch_size=batch,
        device=device,
        device_id=torch.cuda.current_device() if device == "gpu" else None,
        num_threads=num_threads,
        size=(spec.size, spec.size),
        stored_size=spec.size,
        interpolation=spec.interpolation,
        resize_shorter=resize_of(spec),
        dtype="float32" if options.get("mixing") else "uint8",  # in 0 … 255, as the teacher saw it
        mean=(),
        std=(),
        layout="CHW",
        decode_device="gpu" if device == "gpu" and dataset.manifest.decoder == "nvJPEG" else "cpu",
        **options,
    )


def _divergence(now: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
    """KL over the stored classes and the rest of each row: (m, K) twice -> (m,). Zeros are taken as 1e-12."""
    both = [torch.cat([p, 1 - p.sum(1, keepdim=True)], 1).clamp(min=1e-12) for p in (now, stored)]
    return (both[0] * (both[0].log() - both[1].log())).sum(1)
