"""Who does the work of a run: this process, one of an array of processes, or workers on a Ray cluster."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch

from dali_dr.choices import ENGINES, OnError, Probabilities, RowOrder, Select
from dali_dr.choices import Engine as Engine
from dali_dr.errors import meant
from dali_dr.reinforce.blueprint import Blueprint
from dali_dr.reinforce.generate import Generation
from dali_dr.reinforce.part import Part
from dali_dr.reinforce.run import Outcome
from dali_dr.shards import outbox
from dali_dr.sources.source import Source
from dali_dr.store.url import as_place

Tell = Callable[[str], object]


class RunOptions(TypedDict, total=False):
    """What a caller may say of a run besides source, place and generation: attributes of `Run`, which has their defaults."""

    class_names: Sequence[str] | None
    samples_per_shard: int
    probabilities: Probabilities
    on_error: OnError
    pool: int | None
    select: Select
    row_order: RowOrder
    sidecar: bool
    config: Mapping[str, Any] | None


def reinforce(
    source: str | Path | Source,
    out: str | Path,
    generation: Generation,
    *,
    num_classes: int,
    engine: Engine = "local",
    address: str | None = None,
    workers: int | None = None,
    part: Part | str | None = None,
    progress: bool = True,
    **options: Unpack[RunOptions],
) -> Outcome:
    """Reinforces a whole source into a data set; a run that was interrupted goes on where it stopped.

        from dali_dr.reinforce.teachers import load_teacher

        teacher = load_teacher("efficientnet-lite0", "cpu")
        spec = dali_dr.AugmentationSpec.preset("rrc+ra+re", size=224)
        generation = dali_dr.Generation(spec, teacher, num_views=32)
        dali_dr.reinforce("imagenet/train", "imagenet-plus", generation, num_classes=1000)

    Args:
      source: as `dali_dr.sources.open_source` takes it, or any object with the members of `dali_dr.sources.Source`.
      out: folder of the data set, or its URL in a store.
      generation: what is drawn and who predicts. Where other processes do the work, its teacher's weights go to them.
      num_classes: labels are below it, and so are the teacher's ids (unless it gives embeddings).

    Machines:
      engine: "local", this process (or, with several GPUs, a worker for each by a Ray of this machine, where Ray is
        installed); "ray", workers on a Ray cluster.
      address: of the cluster, HOST:PORT or "auto"; None: this machine alone.
      workers: of the cluster, at most; None: as many as it has room for.
      part: make only the K-th of N parts of the shards, "K/N", counted from 1; None: as torchrun or Slurm says, else all.
      progress: show a progress bar.

    Data set:
      class_names, samples_per_shard, probabilities, on_error, pool, select, row_order, sidecar, config: attributes of
        `dali_dr.reinforce.run.Run`, which has their meaning and defaults.

    Returns:
      What came of it; its manifest is None where shards of other parts are missing.

    Raises:
      DaliDrError: an image cannot be decoded or stored (with on_error="raise"), ``out`` belongs to another run, or the
        cluster fails.
      ValueError, TypeError: an argument out of range, or that does not exist.
    """
    if unknown := sorted(options.keys() - RunOptions.__annotations__.keys()):
        hint = (
            meant(unknown[0], RunOptions.__annotations__) or f"; want some of {', '.join(RunOptions.__annotations__)}"
        )
        raise TypeError(f"reinforce has no argument {unknown[0]!r}{hint}")
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}, want one of {', '.join(ENGINES)}")
    if engine == "local" and (address is not None or workers is not None):
        raise ValueError('address and workers are of engine="ray"')
    if engine == "ray" and part is not None:
        raise ValueError('part divides the shards without Ray; with engine="ray" leave it out')
    given = str(source) if isinstance(source, Path) else source
    blueprint = Blueprint.of(given, as_place(out), generation, num_classes=num_classes, **options)
    if engine == "ray":
        from dali_dr.reinforce.on_ray import Cluster, reinforce_on_ray

        cluster = Cluster(address=address, workers=workers)
        return reinforce_on_ray(blueprint, cluster, device=generation.device, progress=progress)
    mine = Part.of_text(part) if isinstance(part, str) else part
    return reinforce_here(blueprint, mine, device=generation.device, progress=progress)


def reinforce_here(
    blueprint: Blueprint,
    part: Part | None = None,
    *,
    device: str = "auto",
    progress: bool = True,
    tell: Tell | None = None,
) -> Outcome:
    """Reinforces in this process, or by all GPUs of this machine.

    Args:
      blueprint: what is made.
      part: of the shards; None: as the environment says, else all, and then with more than one GPU by a worker for each.
      device: as `Blueprint.run` takes it.
      progress: show a progress bar.
      tell: called with what a user should know.

    Raises:
      DaliDrError: see `Run.work`.
    """
    mine = Part.of_environment() if part is None else part
    if part is None and mine.count == 1 and (gpus := _gpus(device)) > 1:
        if _has_ray():
            from dali_dr.reinforce.on_ray import Cluster, reinforce_on_ray

            return reinforce_on_ray(blueprint, Cluster(address="local"), device="gpu", progress=progress, tell=tell)
        if tell is not None:
            tell(
                f"one of the {gpus} GPUs is used; for all of them, pip install 'dali_dr[ray]', or start this with torchrun "
                f"--nproc-per-node {gpus}"
            )
    with outbox.writing_to(blueprint.out, shared=True, progress=progress):
        return blueprint.run(device, part=mine, progress=progress, tell=tell if mine.index == 0 else None).work()


def _gpus(device: str) -> int:
    """GPUs that the work could be done on."""
    return torch.cuda.device_count() if device in ("auto", "gpu") and torch.cuda.is_available() else 0


def _has_ray() -> bool:
    return importlib.util.find_spec("ray") is not None
