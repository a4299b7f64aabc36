"""A batch in the form that was asked for."""

from __future__ import annotations

from typing import Any, cast

import torch

from dali_dr.loader.graph import MIX_OUTPUTS
from dali_dr.loader.options import Show
from dali_dr.record.labels import Form, densify, targets


class Presentation:
    """Turns the pipeline's outputs into batches.

    Args:
      show: what was asked for.
      views_per_image: m, leading axis of what the pipeline makes per image, where it is above 1.
      num_outputs: length of dense targets.
      mixing: the pipeline gives MIX_OUTPUTS of `dali_dr.loader.graph`, too.
    """

    def __init__(self, show: Show, views_per_image: int, num_outputs: int, mixing: bool = False) -> None:
        self._show = show
        self._views = views_per_image
        self._num_outputs = num_outputs
        self._mix = list(MIX_OUTPUTS) if mixing else []
        self._targets = "dense" if show.as_tuples and show.targets == "sparse" else show.targets

    @property
    def names(self) -> list[str]:
        """What a batch holds, in order."""
        if self._show.as_tuples:
            return ["data", "targets"]
        index = ["index", "view"] if self._show.with_index else []
        if self._targets == "sparse":
            return ["data", "label", "soft_ids", "soft_probs", *self._mix, *index]
        return ["data", "label", *index, "targets", *self._mix]

    def __call__(self, batch: dict[str, torch.Tensor]) -> Any:
        """`[{name: tensor}]`, or `(images, targets)`; see `dali_dr.ReinforcedIterator`."""
        if batch["data"].dtype == torch.int16:  # DALI has no type for it
            batch["data"] = batch["data"].view(torch.bfloat16)
        if self._views > 1:
            for name in ("data", "soft_ids", "soft_probs", "view", *self._mix):
                batch[name] = batch[name].flatten(0, 1)
            for name in ("label", "index"):
                batch[name] = batch[name].repeat_interleave(self._views)
        if self._targets != "sparse":
            batch["targets"] = self._dense(batch["soft_ids"], batch["soft_probs"])
        if self._show.as_tuples:
            return batch["data"], batch["targets"]
        if self._show.label_ndim > 1:
            for name in ("label", *self._mix[:1]):
                batch[name] = batch[name].unsqueeze(-1)
        return [{name: batch[name] for name in self.names}]

    def _dense(self, ids: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
        if self._targets == "top1":
            return ids[:, 0].long()
        if self._targets == "ml-dr":
            return densify(ids, probs, self._num_outputs, "ml-dr")
        form = "marginal_smoothing" if self._targets == "dense" else self._targets
        return targets(ids, probs, self._num_outputs, cast(Form, form))
