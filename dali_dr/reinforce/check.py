"""Proof of a data set's contents: replay stored views as training does, ask the teacher again, compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from dali_dr.errors import DaliDrError
from dali_dr.loader.graph import replay_pipeline, stacked
from dali_dr.loader.options import Device, default_threads
from dali_dr.record.labels import sparsify
from dali_dr.reinforce.teachers import Amp, Target, Teacher, load_teacher
from dali_dr.shards.dataset import Dataset

MAX_KL: Final = 2e-3  # nats, mean over the views: twice what storing costs (9e-4), and far below another teacher's
MIN_TOP1: Final = 0.995  # two classes of almost equal probability may change places


@dataclasses.dataclass(frozen=True)
class TeacherCheck:
    """What asking the teacher again came to.

    Attributes:
      views: compared.
      kl_mean, kl_max: KL(teacher now || stored) in nats, over the K stored classes and the rest as one.
      top1_equal: share of views whose most likely class is the stored one.
      teacher_is_the_same: whether its weights have the digest that the manifest has.
      worst: (key, view) of the largest divergence.
    """

    views: int
    kl_mean: float
    kl_max: float
    top1_equal: float
    teacher_is_the_same: bool
    worst: tuple[str, int]

    @property
    def ok(self) -> bool:
        """Whether all is within MAX_KL and MIN_TOP1, and the teacher the same."""
        return self.kl_mean < MAX_KL and self.top1_equal >= MIN_TOP1 and self.teacher_is_the_same


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
        raise DaliDrError(f"{dataset.path}: holds no predictions to compare with")
    if teacher.num_outputs != dataset.num_outputs:
        raise DaliDrError(
            f"teacher {teacher.name} gives {teacher.num_outputs} outputs, the data set was made by one of "
            f"{dataset.num_outputs}"
        )
    numbers, rows = _choose(dataset, samples, seed)
    pairs = rows.ndim == 2
    divergences, equal = [], []
    for views, ids, stored in _replayed(dataset, numbers, rows, device, batch, num_threads or default_threads()):
        now = teacher.predict(views).cpu()
        divergences.append(_divergence(now.double().gather(1, ids), stored).numpy())
        equal.append((sparsify(now, 1)[0][:, 0] == ids[:, 0]).numpy())
    kl = np.concatenate(divergences)
    worst = int(kl.argmax())
    return TeacherCheck(
        views=len(kl),
        kl_mean=float(kl.mean()),
        kl_max=float(kl.max()),
        top1_equal=float(np.concatenate(equal).mean()),
        teacher_is_the_same=teacher.facts()["weights_digest"] == (dataset.manifest.teacher or {}).get("weights_digest"),
        worst=(dataset.keys[int(numbers[worst // (2 if pairs else 1)])], int(rows.ravel()[worst])),
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
    spec, starts = dataset.spec, range(0, len(numbers), batch)
    mixing = spec.mixing is not None

    def source(info: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        at = starts[info.iteration % len(starts)]  # it is asked ahead of what is used
        return numbers[at : at + batch], rows[at : at + batch]

    pipeline = replay_pipeline(
        source,
        index=str(dataset.index_path),
        batch_size=batch,
        device=device,
        device_id=torch.cuda.current_device() if device == "gpu" else None,
        num_threads=num_threads,
        size=(spec.size, spec.size),
        stored_size=spec.size,
        interpolation=spec.interpolation,
        dtype="float32" if mixing else "uint8",  # in 0 … 255, as the teacher saw it
        mean=(),
        std=(),
        layout="CHW",
        mixing=mixing,
        decode_device="gpu" if device == "gpu" and dataset.manifest.decoder == "nvJPEG" else "cpu",
    )
    for _ in starts:
        views, _, ids, stored, *_ = (stacked(output) for output in pipeline.run())
        if rows.ndim == 2:
            views, ids, stored = (tensor.flatten(0, 1) for tensor in (views, ids, stored))
        yield views, ids.cpu().long(), stored.cpu().double()


def _divergence(now: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
    """KL over the stored classes and the rest of each row: (m, K) twice -> (m,). Zeros are taken as 1e-12."""
    both = [torch.cat([p, 1 - p.sum(1, keepdim=True)], 1).clamp(min=1e-12) for p in (now, stored)]
    return (both[0] * (both[0].log() - both[1].log())).sum(1)
