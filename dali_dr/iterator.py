"""`ReinforcedIterator`: the drop-in replacement of a training loader, and the few integers that are its state."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from dali_dr.errors import DaliDrError, ShardError
from dali_dr.pipeline import OUTPUTS, Device, RoiDecode, replay_pipeline
from dali_dr.record.labels import densify
from dali_dr.sampling.sampler import LastBatch, Sampler, Share
from dali_dr.shards.dataset import Dataset

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Channel means of ImageNet in 0 … 1, as torchvision and timm use them."""
IMAGENET_STD = (0.229, 0.224, 0.225)

_STATE_VERSION = 1


class ReinforcedIterator(DALIGenericIterator):  # type: ignore[misc]
    """Iterates over a reinforced data set: every batch replays stored views against their stored targets.

    A `nvidia.dali.plugin.pytorch.DALIGenericIterator`: `for batch in iterator` runs one epoch and yields
    `[{"data", "label", "soft_ids", "soft_probs"}]`; the next `for` runs the next epoch, with no call to `reset` needed.

    - data: (B, 3, size, size), or (B, size, size, 3) with layout="HWC", of `dtype`, normalised unless dtype is "uint8".
    - label: (B,) int64 class ids of the data set itself.
    - soft_ids: (B, K) int32, the teacher's most likely classes on exactly this view, falling.
    - soft_probs: (B, K) float32, their probabilities (see `dali_dr.losses`).
    - index: (B,) int64 sample numbers, and view: (B,) int32 rows of `dataset.reinforcements(i)`, when asked for.

    Args:
      dataset: a `dali_dr.Dataset` or its folder.
      batch_size: samples per batch of this process.
      device: "gpu" decodes and replays on the GPU and yields CUDA tensors; "cpu" needs no GPU.
      size: output height and width, or a pair of them; default: the size that the views were drawn for.
      dtype: "float32", "float16" or "uint8" (0 … 255, not normalised).
      mean, std: per channel, of values in 0 … 1.
      seed: of the order of the samples and of the choice of views.
      shuffle: a global permutation per epoch; False: the order of the shards.
      rank, world_size: this process's place; default: RANK and WORLD_SIZE of the environment (torchrun), else 0 of 1.
      last_batch: "partial", "drop" or "fill"; see `dali_dr.sampling.sampler.Sampler`. Distributed training wants "drop"
        or "fill", which give every rank the same number of batches.
      num_threads: DALI's CPU threads; default: the processors that this process may use.
      as_tuples: yield `(images, dense_targets)` instead, dense_targets being (B, classes) float32 with the mass that the
        teacher gave to other classes spread over them evenly: what a torchvision-style loop with `CrossEntropyLoss` takes.
      with_index: add "index" and "view" to the batches.
      layout: "CHW" or "HWC".
      roi_decode, hw_decoder_load, prefetch: see `dali_dr.pipeline.replay_pipeline`.
      device_id: CUDA device number; default LOCAL_RANK of the environment, else torch's current device.

    Raises:
      ShardError: the data set is missing or damaged; while iterating, the message names shard, key and offset.
      DaliDrError: device="gpu" without a GPU.
      ValueError: an argument out of range.
    """

    def __init__(
        self,
        dataset: Dataset | str | os.PathLike[str],
        *,
        batch_size: int,
        device: Device = "gpu",
        size: int | tuple[int, int] | None = None,
        dtype: Literal["float32", "float16", "uint8"] = "float32",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        seed: int = 0,
        shuffle: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
        last_batch: LastBatch = "partial",
        num_threads: int | None = None,
        as_tuples: bool = False,
        with_index: bool = False,
        layout: Literal["CHW", "HWC"] = "CHW",
        roi_decode: RoiDecode = "auto",
        hw_decoder_load: float = 0.65,
        prefetch: int = 2,
        device_id: int | None = None,
    ) -> None:
        self.dataset = dataset if isinstance(dataset, Dataset) else Dataset(Path(dataset))
        spec = self.dataset.spec
        self._as_tuples = as_tuples
        self._outputs = OUTPUTS if with_index else OUTPUTS[:4]
        self._sampler = Sampler(
            num_samples=len(self.dataset),
            num_views=self.dataset.num_views,
            batch_size=batch_size,
            seed=seed,
            rank=_environment(rank, "RANK", 0),
            world_size=_environment(world_size, "WORLD_SIZE", 1),
            shuffle=shuffle,
            last_batch=last_batch,
        )
        self._build: Callable[[Callable[[Any], Any]], Any] = lambda source: replay_pipeline(
            source,
            index=str(self.dataset.index_path),
            batch_size=batch_size,
            device=device,
            device_id=_cuda_device(device_id) if device == "gpu" else None,
            num_threads=num_threads or len(os.sched_getaffinity(0)),
            size=(size, size) if isinstance(size, int) else size or (spec.size, spec.size),
            stored_size=spec.size,
            interpolation=spec.interpolation,
            dtype=dtype,
            mean=() if dtype == "uint8" else tuple(mean),
            std=() if dtype == "uint8" else tuple(std),
            layout=layout,
            roi_decode=roi_decode,
            hw_decoder_load=hw_decoder_load,
            prefetch=prefetch,
        )
        self._restart(self._sampler)

    def _restart(self, sampler: Sampler) -> None:
        """Builds the pipeline so that its first batch is the sampler's step 0."""
        self._sampler = sampler
        self._source = _Source(sampler)
        self._step = 0  # batches given out since the restart
        self._epoch_end = sampler.steps_in_epoch(sampler.start_consumed)  # step at which the current epoch ends
        self._epoch = sampler.start_epoch
        self._consumed = sampler.start_consumed
        super().__init__(
            [self._build(self._source)], list(OUTPUTS), size=-1, auto_reset=False, prepare_first_batch=False
        )

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to (until the loop over the current one has ended: the current one)."""
        return self._epoch

    def __len__(self) -> int:
        """Batches in an epoch of this rank."""
        return self._sampler.steps_in_epoch()

    def __iter__(self) -> ReinforcedIterator:
        return self

    def __next__(self) -> Any:
        if self._step == self._epoch_end:
            self._epoch_end += self._sampler.steps_in_epoch()
            self._epoch, self._consumed = self._epoch + 1, 0
            raise StopIteration
        try:
            batch: dict[str, torch.Tensor] = super().__next__()[0]
        except RuntimeError as error:
            raise _explained(error, self._source.share(self._step), self.dataset) from error
        share = self._source.share(self._step)
        self._step += 1
        self._consumed = share.consumed
        if self._as_tuples:
            targets = densify(batch["soft_ids"], batch["soft_probs"], self.dataset.num_classes)
            return batch["data"], targets
        return [{name: batch[name] for name in self._outputs}]

    next = __next__

    def reset(self) -> None:
        """Does nothing: the epoch after a finished one begins by itself. For loops written for other DALI iterators."""

    def state_dict(self) -> dict[str, int]:
        """Where the run stands after the last batch that was given out: a few integers, the same on every rank."""
        epoch, consumed = self._epoch, self._consumed
        if consumed == self._sampler.num_samples:
            epoch, consumed = epoch + 1, 0
        return {
            "version": _STATE_VERSION,
            "epoch": epoch,
            "consumed": consumed,
            "seed": self._sampler.seed,
            "num_samples": self._sampler.num_samples,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on with exactly the batches that would have come, also in a new process or with another world size.

        Raises:
          ValueError: the state is of another data set size or format version, or of another seed.
        """
        sampler = self._sampler
        if state.get("version") != _STATE_VERSION:
            raise ValueError(
                f"loader state has version {state.get('version')}, this dali_dr reads version {_STATE_VERSION}"
            )
        for name, own in (("num_samples", sampler.num_samples), ("seed", sampler.seed)):
            if state[name] != own:
                raise ValueError(
                    f"loader state was saved with {name}={state[name]}, but this iterator has {name}={own}: "
                    "restore it with the data set and seed that it was saved with"
                )
        self._restart(dataclasses.replace(sampler, start_epoch=state["epoch"], start_consumed=state["consumed"]))


class _Source:
    """The pipeline's input: shares by DALI's iteration number, computed a block at a time and kept until given out."""

    BLOCK = 16

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._blocks: dict[int, list[Share]] = {}

    def share(self, step: int) -> Share:
        number, offset = divmod(step, self.BLOCK)
        block = self._blocks.get(number)
        if block is None:
            # The pipeline runs ahead of the consumer by its prefetch depth, so a few blocks are alive at a time.
            block = self._blocks[number] = self._sampler.shares(number * self.BLOCK, self.BLOCK)
            for old in [n for n in self._blocks if n < number - 4]:
                del self._blocks[old]
        return block[offset]

    def __call__(self, info: Any) -> tuple[Any, Any]:
        share = self.share(info.iteration)
        return share.samples, share.views.astype(np.int32)


def _environment(value: int | None, name: str, default: int) -> int:
    return int(os.environ.get(name, default)) if value is None else value


def _cuda_device(device_id: int | None) -> int:
    if not torch.cuda.is_available():
        raise DaliDrError(
            'device="gpu", but torch sees no CUDA device on this machine. Use device="cpu", '
            "or check the driver with nvidia-smi and that torch is a CUDA build (torch.version.cuda)"
        )
    return _environment(device_id, "LOCAL_RANK", torch.cuda.current_device())


_OUR_ERROR = re.compile(
    r"operator `nvidia\.dali\.fn\.dr\.\w+`.*?encountered:\s*(.*?)(?:\nCurrent pipeline object|$)", re.DOTALL
)


def _explained(error: RuntimeError, share: Share, dataset: Dataset) -> Exception:
    """One clear error for what DALI reports amid its own context; a decoder's does not say which sample it was."""
    if match := _OUR_ERROR.search(str(error)):
        return ShardError(match[1].strip())
    if "decoders" in str(error):
        keys = ", ".join(dataset.keys[int(n)] for n in share.samples[:4])
        return ShardError(
            f"an image of the batch with samples {share.samples.tolist()} ({keys}, …) of {dataset.path} cannot be decoded; "
            f"`dali-dr verify --images {dataset.path}` finds it. The decoder says: {str(error).splitlines()[-1]}"
        )
    return error
