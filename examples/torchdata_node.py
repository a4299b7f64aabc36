"""A reinforced data set as a node of torchdata (torchdata.nodes), to be mapped, prefetched and checkpointed with others.

`ReinforcedIterator` itself has what torchdata's StatefulDataLoader has: iterate it, `state_dict()`, `load_state_dict()`. Only
graphs of nodes need this adapter:

    loader = torchdata.nodes.Loader(ReinforcedNode(dali_dr.ReinforcedIterator("imagenet-plus", batch_size=256)))
    for epoch in range(150):
        for (batch,) in loader:
            …
            torch.save({"loader": loader.state_dict(), …}, "last.pt")  # loader.load_state_dict(…) goes on with the next batch
"""

from __future__ import annotations

from typing import Any

import torch

try:
    from torchdata.nodes import BaseNode
except ImportError as error:
    raise ImportError("this example needs torchdata: pip install torchdata") from error

from dali_dr import ReinforcedIterator

Batch = list[dict[str, torch.Tensor]]


class ReinforcedNode(BaseNode[Batch]):
    """A source of batches. `reset()` begins an epoch, as `iter()` does; with a state it goes on at that place."""

    def __init__(self, iterator: ReinforcedIterator) -> None:
        super().__init__()
        self.iterator = iterator

    def reset(self, initial_state: dict[str, Any] | None = None) -> None:
        super().reset(initial_state)
        if initial_state is not None:
            self.iterator.load_state_dict(initial_state)
        iter(self.iterator)

    def next(self) -> Batch:
        return next(self.iterator)

    def get_state(self) -> dict[str, Any]:
        return self.iterator.state_dict()
