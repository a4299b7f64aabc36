"""What code written for `torch.utils.data.DataLoader` looks for in a loader, and may rebuild a DataLoader from.

Lightning asks `sampler` for `set_epoch`, timm and Hugging Face's Trainer `batch_sampler`; accelerate's `skip_first_batches` and
`prepare_data_loader` make a new DataLoader of `dataset`, `batch_sampler` and `collate_fn`. So a batch sampler yields *tickets*:
lists of sample numbers that know their place in the run, for which the data set hands out the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch.utils.data

from dali_dr.errors import DaliDrError
from dali_dr.loader.state import Place
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
    """Attributes of a DataLoader that say the same of every loader here: batches come whole, and from no worker processes."""

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
