"""What code written for `torch.utils.data.DataLoader` looks for in a loader, and may rebuild a DataLoader from; and what
code written for DALI's iterators looks for besides.

Lightning asks `sampler` for `set_epoch`, timm and Hugging Face's Trainer `batch_sampler`; accelerate's `skip_first_batches` and
`prepare_data_loader` make a new DataLoader of `dataset`, `batch_sampler` and `collate_fn`. So a batch sampler yields *tickets*:
lists of sample numbers that know their place in the run, for which the data set hands out the whole batch.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch.utils.data
from nvidia.dali.plugin.base_iterator import LastBatchPolicy

from dali_dr.errors import DaliDrError
from dali_dr.loader.options import Schedule
from dali_dr.loader.plan import Plan
from dali_dr.loader.present import Presentation
from dali_dr.loader.state import Place, Standing
from dali_dr.sampling.sampler import Sampler
from dali_dr.shards.dataset import Dataset


class Loader(Protocol):
    """What these faces need of the iterator behind them."""

    @property
    def batch_size(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def drop_last(self) -> bool: ...
    def __len__(self) -> int: ...
    def set_epoch(self, epoch: int) -> None: ...
    def tickets(self) -> Iterator[Ticket]:
        """Begins an epoch, and yields a ticket for each of its batches."""
        ...

    def redeem(self, ticket: Ticket) -> Any:
        """The batch of a ticket."""
        ...


class Ticket(list[int]):
    """The sample numbers of a batch, with the place at which it begins."""

    def __init__(self, samples: list[int], place: Place) -> None:
        super().__init__(samples)
        self.place = place


class EpochSampler(torch.utils.data.Sampler[int]):
    """`loader.sampler`: the sample numbers of this rank's epoch, in order."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[int]:
        for ticket in self._loader.tickets():
            yield from ticket

    def __len__(self) -> int:
        return self._loader.size

    def set_epoch(self, epoch: int) -> None:
        """See `dali_dr.ReinforcedIterator.set_epoch`."""
        self._loader.set_epoch(epoch)


class EpochBatchSampler(torch.utils.data.Sampler[list[int]]):
    """`loader.batch_sampler`: this rank's batches of an epoch as lists of sample numbers."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self.sampler: EpochSampler = EpochSampler(loader)
        self.batch_size: int = loader.batch_size
        self.drop_last: bool = loader.drop_last

    def __iter__(self) -> Iterator[list[int]]:
        yield from self._loader.tickets()

    def __len__(self) -> int:
        return len(self._loader)

    def set_epoch(self, epoch: int) -> None:
        """See `dali_dr.ReinforcedIterator.set_epoch`."""
        self._loader.set_epoch(epoch)


class ShownDataset(Dataset, torch.utils.data.Dataset[Any]):
    """`loader.dataset`: the data set, which in a DataLoader over the loader's `batch_sampler` gives the loader's batches."""

    def __init__(self, dataset: Dataset, loader: Loader) -> None:
        self.__dict__.update(dataset.__dict__)
        self._loader = loader

    def __getitems__(self, indices: list[int]) -> Any:
        """The batch of a ticket: what a DataLoader asks for."""
        if not isinstance(indices, Ticket):
            raise DaliDrError(
                "the images of this data set are shown by a ReinforcedIterator, batch by batch in its own order: iterate over "
                "that (Dataset.image(number) has the encoded image), or give a DataLoader its batch_sampler and collate_fn too"
            )
        return self._loader.redeem(indices)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])


class DataLoaderFace:
    """What others read of a `dali_dr.ReinforcedIterator`. Batches come whole, and from no worker processes."""

    schedule: Schedule
    _dataset: Dataset
    _plan: Plan
    _presented: Presentation
    _redeemed: bool
    _sampler: Sampler
    _standing: Standing
    _stream: Any
    if TYPE_CHECKING:

        def __len__(self) -> int: ...
        def __iter__(self) -> Self: ...
        def __next__(self) -> Any: ...
        def _counts(self) -> tuple[int, int]: ...
        def set_epoch(self, epoch: int) -> None:
            """As `dali_dr.ReinforcedIterator.set_epoch`."""

    num_workers = 0
    prefetch_factor = None
    persistent_workers = False
    pin_memory = False
    pin_memory_device = ""
    timeout: float = 0.0
    generator = None
    worker_init_fn = None
    multiprocessing_context = None
    in_order = True

    @staticmethod
    def collate_fn(batch: Any) -> Any:
        """The batch, which is one already."""
        return batch

    @property
    def dataset(self) -> ShownDataset:
        """The data set."""
        return ShownDataset(self._dataset, self)

    @property
    def sampler(self) -> EpochSampler:
        """The sample numbers of an epoch in order, with `set_epoch`."""
        return EpochSampler(self)

    @property
    def batch_sampler(self) -> EpochBatchSampler:
        """The batches of an epoch as lists of sample numbers, with `set_epoch`."""
        return EpochBatchSampler(self)

    @property
    def batch_size(self) -> int:
        """Images of the largest batch."""
        return self._plan.largest_batch

    @property
    def drop_last(self) -> bool:
        """Whether an epoch's last batch is left out unless it is full."""
        return self.schedule.last_batch == "drop"

    @property
    def output_map(self) -> list[str]:
        """What a batch holds, in order."""
        return self._presented.names

    @property
    def size(self) -> int:
        """Images that this rank gets in the current epoch."""
        return self._counts()[1]

    _size = size
    _num_gpus = 1
    _enable_checkpointing = False  # DALI's; state_dict does it here

    def epoch_size(self, name: str | None = None) -> int:
        """Positions of an epoch, for all ranks and before the last batch is dropped or filled: what
        `nvidia.dali.Pipeline.epoch_size` says of a reader."""
        return self._sampler.order.length

    @property
    def _pipes(self) -> list[Any]:
        return list(self._stream._pipes)

    @property
    def _last_batch_policy(self) -> LastBatchPolicy:
        return LastBatchPolicy[self.schedule.last_batch.upper()]

    @property
    def _auto_reset(self) -> str:
        return "yes" if self.schedule.auto_reset else "no"

    def tickets(self) -> Iterator[Ticket]:
        """Begins an epoch; a ticket for each of its batches, to be redeemed in order (`dali_dr.loader.dataloader`)."""
        iter(self)
        place = self._standing.place
        epoch = place.epoch
        for share in itertools.takewhile(lambda share: share.epoch == epoch, self._sampler.run(epoch, place.consumed)):
            yield Ticket(share.samples.tolist(), place)
            place = Place(share.epoch, share.consumed)

    def redeem(self, ticket: Ticket) -> Any:
        """The batch of a ticket. The first ones of an epoch may be left out, none after that."""
        standing = self._standing
        if ticket.place != standing.place:
            if self._redeemed:
                raise DaliDrError(
                    f"the batch at {ticket.place} is asked for where {standing.place} comes: batches of a ReinforcedIterator "
                    "come in order, and are this rank's already: nothing else may divide them among ranks"
                )
            self._standing = dataclasses.replace(standing, place=ticket.place)
        self._redeemed = True
        return next(self)
