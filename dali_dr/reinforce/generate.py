"""Generation: draw views, replay them with the operator that training uses, ask the teacher, hand samples to the writer."""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from dali_dr.augment.draw import draw
from dali_dr.augment.spec import AugmentationSpec
from dali_dr.augment.views import Views
from dali_dr.pipeline import Device, view_pipeline
from dali_dr.record.codec import Probabilities
from dali_dr.record.labels import Reinforcements, sparsify
from dali_dr.reinforce.teachers import Teacher
from dali_dr.shards.manifest import Manifest
from dali_dr.shards.writer import SAMPLES_PER_SHARD, OnError, Sample, image_info, write_shards


class Source(Protocol):
    """Images to be reinforced: keys, labels and bytes by number."""

    @property
    def keys(self) -> Any: ...

    @property
    def labels(self) -> Any: ...

    def __len__(self) -> int: ...

    def read(self, number: int) -> bytes: ...


@dataclasses.dataclass(frozen=True)
class Generation:
    """What is generated, and how the work is cut.

    Attributes:
      spec: what may be drawn.
      teacher: predicts.
      num_views: N, views per image.
      topk: K, classes kept per view.
      seed: of the draw.
      batch_views: views per teacher batch.
      device: where images are decoded and replayed.
      num_threads: DALI's CPU threads.
    """

    spec: AugmentationSpec
    teacher: Teacher
    num_views: int
    topk: int = 10
    seed: int = 0
    batch_views: int = 64
    device: Device = "cpu"
    num_threads: int = dataclasses.field(default_factory=lambda: len(os.sched_getaffinity(0)))

    def samples(self, source: Source, begin: int, end: int) -> Iterator[Sample]:
        """Reinforces images begin … end-1 of a source, in order; an image that cannot be decoded comes without views.

        Teacher batches are cut on a fixed grid over the source. On the CPU a prediction may change in its last bits with
        the batch that it is computed in; on a fixed grid it does not matter where a run was interrupted and went on.
        """
        feed = _Feed(self, source, begin, end)
        pipeline = view_pipeline(
            feed,
            batch_size=self.group,
            device=self.device,
            device_id=torch.cuda.current_device() if self.device == "gpu" else None,
            num_threads=self.num_threads,
            size=(self.spec.size, self.spec.size),
            stored_size=self.spec.size,
            interpolation=self.spec.interpolation,
        )
        parts: list[tuple[Any, Any]] = []
        for images, rows, pixels in feed.batches(pipeline):
            ids, probs = np.empty((0, self.topk), np.int32), np.empty((0, self.topk), np.float32)
            if pixels is not None:
                ids, probs = (t.cpu().numpy() for t in sparsify(self.teacher.predict(pixels), self.topk))
            if rows.stop < self.num_views:
                parts.append((ids, probs))
                continue
            at = 0
            for image in images:
                sample = Sample(image.key, image.data, image.label)
                if image.views is not None:
                    whole = [
                        np.concatenate([*(p[c] for p in parts), (ids, probs)[c][at : at + len(rows)]]) for c in (0, 1)
                    ]
                    columns = {f.name: getattr(image.views, f.name) for f in dataclasses.fields(image.views)}
                    views = Reinforcements(**columns, soft_ids=whole[0], soft_probs=whole[1])
                    sample = dataclasses.replace(sample, reinforcements=views)
                    at += len(rows)
                if image.number >= begin:
                    yield sample
            parts = []

    @property
    def group(self) -> int:
        """Images per teacher batch (1 when the views of one image fill several batches)."""
        return max(1, self.batch_views // self.num_views)


def reinforce(
    source: Source,
    out: Path,
    generation: Generation,
    *,
    num_classes: int,
    class_names: Sequence[str] | None = None,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    probabilities: Probabilities = "log8",
    on_error: OnError = "raise",
    progress: bool = True,
) -> Manifest:
    """Reinforces a whole source into a data set; a run that was interrupted goes on where it stopped.

    Args:
      source: the images.
      out: folder of the data set.
      generation: what is drawn and who predicts.
      num_classes: the teacher's classes; labels are below it too.
      class_names: one per class.
      samples_per_shard, probabilities, on_error, progress: see `dali_dr.write_shards`.

    Returns:
      The manifest of the data set.

    Raises:
      ShardError: an image cannot be decoded or stored (with on_error="raise"), or `out` belongs to another run.
    """
    return write_shards(
        lambda start: generation.samples(source, start, len(source)),
        out,
        spec=generation.spec,
        num_classes=num_classes,
        class_names=class_names,
        teacher=generation.teacher.facts(),
        samples_per_shard=samples_per_shard,
        probabilities=probabilities,
        seed=generation.seed,
        extra={"views": generation.num_views, "topk": generation.topk, "batch_views": generation.batch_views},
        on_error=on_error,
        check_images=True,
        total=len(source),
        progress=progress,
    )


@dataclasses.dataclass(frozen=True)
class _Image:
    """One image on its way through the teacher; views is None if it cannot be decoded (the writer then refuses it)."""

    number: int
    key: str
    label: int
    data: bytes
    views: Views | None


class _Feed:
    """Cuts the work into batches for the pipeline, which asks ahead of the teacher, and repeats them for the teacher."""

    def __init__(self, generation: Generation, source: Source, begin: int, end: int) -> None:
        self._generation = generation
        self._source = source
        self._ahead: deque[tuple[list[_Image], range]] = deque()
        self._batches = self._cut(begin, end)

    def batches(self, pipeline: Any) -> Iterator[tuple[list[_Image], range, torch.Tensor | None]]:
        """Runs the pipeline to its end: groups of images, the rows of their views, and these views' pixels.

        The pixels, (views of all images that decode, 3, H, W) uint8, are None where no image of the group decodes.
        """
        while True:
            try:
                pixels: torch.Tensor | None = _to_torch(pipeline.run()[0])
            except StopIteration:
                pixels = None
            while self._ahead:
                images, rows = self._ahead.popleft()
                if any(image.views is not None for image in images):
                    yield images, rows, pixels
                    break
                yield images, rows, None
            else:
                return

    def __call__(self, info: Any) -> tuple[list[Any], list[Any]]:
        for images, rows in self._batches:
            self._ahead.append((images, rows))
            good = [(image.data, image.views) for image in images if image.views is not None]
            if good:
                encoded = [np.frombuffer(data, np.uint8) for data, _ in good]
                return encoded, [views.take(slice(rows.start, rows.stop)).pack() for _, views in good]
        raise StopIteration

    def _cut(self, begin: int, end: int) -> Iterator[tuple[list[_Image], range]]:
        g = self._generation
        for first in range(begin // g.group * g.group, end, g.group):
            images = [self._prepare(n) for n in range(first, min(first + g.group, len(self._source)))]
            for row in range(0, g.num_views, g.batch_views):
                yield images, range(row, min(row + g.batch_views, g.num_views))

    def _prepare(self, number: int) -> _Image:
        """Reads and checks one image and draws its views."""
        key, data, label = (
            self._source.keys[number],
            self._source.read(number),
            int(self._source.labels[number]),
        )
        try:
            # A full decode: inside the pipeline a damaged image would end the run without saying which it was.
            _, height, width = image_info(data, full=True)
        except ValueError:
            return _Image(number, key, label, data, None)
        g = self._generation
        rows = range(g.num_views)
        views = draw(g.spec, seed=g.seed, key=key, views=rows, image_height=height, image_width=width)
        return _Image(number, key, label, data, views)


def _to_torch(batch: Any) -> torch.Tensor:
    """(m, 3, H, W) of each image in a DALI batch, joined along the first axis."""
    return torch.cat([torch.utils.dlpack.from_dlpack(batch[i]) for i in range(len(batch))])
