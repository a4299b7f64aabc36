"""Generation: draw views, replay them with the operator that training uses, ask the teacher, make samples of it."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from dali_dr.augment.draw import draw
from dali_dr.augment.fresh import resize_of
from dali_dr.augment.spec import AugmentationSpec
from dali_dr.augment.views import Views
from dali_dr.encoded import MAX_PIXELS
from dali_dr.errors import ShardError, SpecError
from dali_dr.images.admit import Admission
from dali_dr.images.decoder import cleaned
from dali_dr.images.judge import BATCH, Judge, Refusal
from dali_dr.loader.graph import stacked, view_pipeline
from dali_dr.loader.options import Device, check_decode_device, default_threads
from dali_dr.record.labels import Reinforcements, sparsify
from dali_dr.reinforce.networks import Predictor
from dali_dr.shards.manifest import Decoder
from dali_dr.shards.sample import Sample
from dali_dr.sources.entrance import Entrance
from dali_dr.sources.source import Images

SEEDS = 1 << 64  # of `dali_dr.augment.draw.draw`
_CACHED_FILES = 256  # encoded images kept for the next batches: partners and their images recur


def check_drawn(spec: AugmentationSpec, num_views: int, seed: int) -> None:
    """SpecError for what cannot be drawn: no views, half a pair of a double-mix, a seed out of range."""
    if num_views < 1:
        raise SpecError(f"num_views (--views) is {num_views}, want 1 or more")
    if spec.mixing is not None and spec.mixing.double and num_views % 2:
        raise SpecError(
            f"num_views (--views) is {num_views}, want an even number: the views of a double-mix (mixing.double of the spec) "
            "come in pairs"
        )
    if not 0 <= seed < SEEDS:
        raise SpecError(f"seed (--seed) is {seed}, want 0 to 2^64 - 1")


@dataclasses.dataclass(frozen=True)
class Generation:
    """What is generated, and how the work is cut.

    Attributes:
      spec: what may be drawn. With mixing, partners are drawn from the whole source, by their numbers in it.
      teacher: predicts.
      num_views: N, views per image; even for a double-mix, whose views come in pairs.
      topk: K, classes kept per view.
      seed: of the draw.
      batch_views: views per teacher batch.
      device: where views are replayed.
      decode_device: where images are decoded, "gpu" only with that device. By default on the CPU, so that the views are, in
        every byte, those that training shows when it decodes on the CPU; nvJPEG's pixels differ a little.
      num_threads: DALI's CPU threads.
      max_pixels: that an image may have; a larger one is refused.
      mend: whether images are mended that would be refused (`dali_dr.images.admit`); not where they stay where they are.
      convert: whether what Pillow reads and would be refused is stored as PNG.
      keep_bytes: whether images are stored as they are; False: as tiled JPEGs. Those that stay where they are are kept.
    """

    spec: AugmentationSpec
    teacher: Predictor
    num_views: int
    topk: int = 10
    seed: int = 0
    batch_views: int = 64
    device: Device = "cpu"
    num_threads: int = dataclasses.field(default_factory=default_threads)
    max_pixels: int = MAX_PIXELS
    mend: bool = True
    convert: bool = False
    keep_bytes: bool = False
    decode_device: Device = "cpu"

    def __post_init__(self) -> None:
        check_decode_device(self.decode_device, self.device)
        check_drawn(self.spec, self.num_views, self.seed)

    def samples(self, source: Images, begin: int, end: int) -> Iterator[Sample]:
        """Reinforces images begin … end-1 of a source, in order; one that may not enter comes without views, saying why.

        Teacher batches are cut from `begin` on and end at `end`. A prediction may change in its last bits with the
        batch that it is computed in; shards are fixed ranges of the source, so each has its own batches, whoever
        computes it.
        """
        with self.judge() as judge:
            yield from self._samples(_Feed(self, source, judge, begin, end))

    def judge(self) -> Judge:
        """Of the images; to be closed."""
        return Judge(max_pixels=self.max_pixels, threads=self.num_threads)

    def entrance(self, source: Images, judge: Judge, *, tile: bool) -> Entrance:
        """Where the images of ``source`` enter, tiled where that is wanted of what is stored."""
        tile = tile and self.mend and not self.keep_bytes
        return Entrance(source, Admission(judge, mend=self.mend, convert=self.convert, tile=tile))

    @property
    def decoder(self) -> Decoder:
        """By which the views are made."""
        return "nvJPEG" if self.decode_device == "gpu" else "libjpeg-turbo"

    def _samples(self, feed: _Feed) -> Iterator[Sample]:
        pipeline = view_pipeline(
            feed,
            batch_size=self.group if self.spec.mixing is None else self.batch_views,
            mixing=self.spec.mixing is not None,
            device=self.device,
            device_id=torch.cuda.current_device() if self.device == "gpu" else None,
            num_threads=self.num_threads,
            size=(self.spec.size, self.spec.size),
            stored_size=self.spec.size,
            interpolation=self.spec.interpolation,
            resize_shorter=resize_of(self.spec),
            decode_device=self.decode_device,
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
                sample = image.sample
                if image.views is not None:
                    whole = [
                        np.concatenate([*(p[c] for p in parts), (ids, probs)[c][at : at + len(rows)]]) for c in (0, 1)
                    ]
                    columns = {f.name: getattr(image.views, f.name) for f in dataclasses.fields(image.views)}
                    views = Reinforcements(**columns, soft_ids=whole[0], soft_probs=whole[1])
                    sample = dataclasses.replace(sample, reinforcements=views)
                    at += len(rows)
                yield sample
            parts = []

    @property
    def group(self) -> int:
        """Images per teacher batch (1 when the views of one image fill several batches)."""
        return max(1, self.batch_views // self.num_views)


@dataclasses.dataclass(frozen=True)
class _Image:
    """One image on its way through the teacher; views is None if it may not enter (its sample says why)."""

    sample: Sample
    views: Views | None


class _Feed:
    """Cuts the work into batches for the pipeline, which asks ahead of the teacher, and repeats them for the latter."""

    def __init__(self, generation: Generation, source: Images, judge: Judge, begin: int, end: int) -> None:
        self._generation = generation
        self._source = source
        self._entrance = generation.entrance(source, judge, tile=True)
        self._partners = generation.entrance(source, judge, tile=False)  # of which no file is stored here
        self._end = end
        self._next: dict[int, Sample] = {}  # judged together, ahead of being asked for
        self._partner = functools.lru_cache(_CACHED_FILES)(self._judged_partner)
        self._size = functools.cache(self._decoded_size)  # two integers for the decoding of an image
        self._ahead: deque[tuple[list[_Image], range]] = deque()
        self._batches = self._cut(begin, end)

    def batches(self, pipeline: Any) -> Iterator[tuple[list[_Image], range, torch.Tensor | None]]:
        """Runs the pipeline to its end: groups of images, the rows of their views, and these views' pixels.

        The pixels, (views of all images that decode, 3, H, W) uint8, are None where no image of the group decodes.
        """
        while True:
            try:
                views = stacked(pipeline.run()[0])  # (B, m, 3, H, W), or a view each
                pixels: torch.Tensor | None = views.reshape(-1, *views.shape[-3:])
            except StopIteration:
                pixels = None
            except RuntimeError as error:  # a GPU's decoder may refuse what the CPU's shows; or there is no more memory
                keys = [image.sample.key for images, _ in self._ahead for image in images if image.views is not None]
                raise ShardError(
                    f"views of samples {', '.join(dict.fromkeys(keys))} cannot be made: {cleaned(str(error))}"
                ) from error
            while self._ahead:
                images, rows = self._ahead.popleft()
                if any(image.views is not None for image in images):
                    yield images, rows, pixels
                    break
                yield images, rows, None
            else:
                return

    def __call__(self, info: Any) -> tuple[list[Any], ...]:
        for images, rows in self._batches:
            self._ahead.append((images, rows))
            good = [(image.sample.image_bytes, image.views) for image in images if image.views is not None]
            if good:
                encoded = [np.frombuffer(data, np.uint8) for data, _ in good]
                taken = [views.take(slice(rows.start, rows.stop)) for _, views in good]
                if self._generation.spec.mixing is None:
                    return encoded, [views.pack() for views in taken]
                return self._mixed(encoded, taken)
        raise StopIteration

    def _mixed(self, encoded: list[Any], views: list[Views]) -> tuple[list[Any], ...]:
        """The inputs of a mixing pipeline, an entry per view: each image and each partner is decoded once."""
        words = [row for v in views for row in v.pack()]
        wanted = np.concatenate([v.mix.partner for v in views if v.mix is not None])
        numbers = sorted({int(n) for n in wanted if n >= 0})
        places = [np.int32(image) for image, v in enumerate(views) for _ in range(len(v))]
        partners = [np.frombuffer(self._partner(n).image_bytes, np.uint8) for n in numbers]
        slots = {n: np.int32(slot) for slot, n in enumerate(numbers)}
        partner_places = [slots.get(int(n), np.int32(0)) for n in wanted]  # where there is none, any will do

        def padded(images: list[Any]) -> list[Any]:
            return images + [_ONE_PIXEL] * (len(words) - len(images))

        return padded(encoded), words, places, padded(partners), partner_places

    def _cut(self, begin: int, end: int) -> Iterator[tuple[list[_Image], range]]:
        g = self._generation
        for first in range(begin, end, g.group):
            images = [self._prepare(n) for n in range(first, min(first + g.group, end))]
            for row in range(0, g.num_views, g.batch_views):
                yield images, range(row, min(row + g.batch_views, g.num_views))

    def _prepare(self, number: int) -> _Image:
        """Reads and judges one image and draws its views."""
        if number not in self._next:
            numbers = range(number, min(number + BATCH, self._end))
            self._next = dict(zip(numbers, self._entrance.samples(numbers), strict=True))
        sample = self._next.pop(number)
        if sample.shown is None:
            return _Image(sample, None)
        g = self._generation
        views = draw(
            g.spec,
            seed=g.seed,
            key=sample.key,
            views=range(g.num_views),
            image_height=sample.shown.height,
            image_width=sample.shown.width,
            population=len(self._source),
            partner_size=self._size,
        )
        return _Image(sample, views)

    def _judged_partner(self, number: int) -> Sample:
        """The sample of a partner image, which must be one that may enter."""
        (sample,) = self._partners.samples([number])
        if isinstance(sample.problem, Refusal):
            reason, path = sample.problem.reason, sample.origin.path if sample.origin else ""
            remedy = (
                f"{sample.problem.remedy}. Other images are mixed with it: remove it, or choose "
                'on_error="skip" (--on-error skip), which leaves such images out from the beginning'
            )
            where = f" ({path})" if path else ""
            raise ShardError(
                f"sample {sample.key}: {reason}; {remedy}{where}", key=sample.key, reason=reason, remedy=remedy
            )
        return sample

    def _decoded_size(self, number: int) -> tuple[int, int]:
        """(height, width) of a partner image."""
        shown = self._partner(number).shown
        assert shown is not None
        return shown.height, shown.width


def _one_pixel() -> Any:
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "JPEG")
    return np.frombuffer(buffer.getvalue(), np.uint8)


_ONE_PIXEL = _one_pixel()
