"""transformers' Trainer over a reinforced data set (docs/migration/hugging_face.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dali_dr._torchvision import load_torchvision
from dali_dr.integrations.hugging_face import hugging_face_loader, soft_target_loss
from dali_dr.integrations.named import NamedIterator, opened
from dali_dr.loader.options import Options
from dali_dr.shards.dataset import Dataset

load_torchvision()  # before transformers imports it; matters only beside a CPU build of torch
try:
    import transformers
except ImportError as error:
    raise ImportError("ReinforcedTrainer is a Trainer of transformers: pip install transformers accelerate") from error


class ReinforcedTrainer(transformers.Trainer):
    """A `transformers.Trainer` whose `train_dataset` may be a reinforced data set.

    Training then sees the stored views and minimises the cross entropy to the teacher's distribution on each. Batch
    size, seed (`data_seed`, else `seed`), device and `dataloader_drop_last` are those of the TrainingArguments; values
    are normalised as `processing_class` (an image processor) says, if it has `image_mean` and `image_std`, else as
    ImageNet's are. Checkpoints resume on exactly the next batch. With a `train_dataset` of another kind it is the
    Trainer that it was, as is evaluation, unless `eval_dataset` is a data set of dali_dr, too: that is shown by the
    centre crop, with its labels, whole on every process.

    Args:
      model, args, data_collator, train_dataset, eval_dataset, others, named: see `transformers.Trainer`. A string or a path as
        `train_dataset` or `eval_dataset` is a data set's folder or URL.
      loader_options: further keyword arguments of `dali_dr.ReinforcedIterator`, for training.

    Raises:
      ShardError: the data set is missing or damaged, or `train_dataset` holds no reinforcements.
      ValueError: `label_smoothing_factor` beside a teacher's targets, which are soft already.
    """

    def __init__(
        self,
        model: Any = None,
        args: Any = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        *others: Any,
        loader_options: Options | None = None,
        **named: Any,
    ) -> None:
        self.loader_options: Options = loader_options or {}
        train_dataset, eval_dataset = _ours(train_dataset, self.loader_options), _ours(eval_dataset, {})
        if isinstance(train_dataset, Dataset):
            named.setdefault("compute_loss_func", soft_target_loss)
            smoothing = getattr(args, "label_smoothing_factor", 0)
            if smoothing:
                raise ValueError(
                    f"label_smoothing_factor is {smoothing}, but the targets of {train_dataset.path} are the teacher's, soft as "
                    "they are: leave it at 0"
                )
        super().__init__(model, args, data_collator, train_dataset, eval_dataset, *others, **named)

    def get_train_dataloader(self) -> Any:
        """A loader of the reinforced data set, or the Trainer's own."""
        if not isinstance(self.train_dataset, Dataset):
            return super().get_train_dataloader()
        options: dict[str, Any] = {
            "seed": self.args.seed if self.args.data_seed is None else self.args.data_seed,
            "last_batch": "drop" if self.args.dataloader_drop_last else "partial",
            **self.loader_options,
        }
        return self._loader(self.train_dataset, self._train_batch_size, **options)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """A loader of the centre crops of a data set of dali_dr, or the Trainer's own."""
        shown = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(shown, str) and isinstance(self.eval_dataset, dict):
            shown = self.eval_dataset[shown]
        if not isinstance(shown, Dataset):
            return super().get_eval_dataloader(eval_dataset)
        # Each process shows all: what Trainer gathers must be of one length on all of them.
        return self._loader(shown, self.args.eval_batch_size, augment="eval", rank=0, world_size=1)

    def _loader(self, dataset: Dataset, batch_size: int, **options: Any) -> NamedIterator:
        device = self.args.device
        options.setdefault("device", device if device.type == "cuda" else "cpu")
        for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
            if (value := getattr(self.processing_class, theirs, None)) is not None:
                options.setdefault(ours, value)
        return hugging_face_loader(dataset, batch_size=batch_size, **options)


def _ours(dataset: Any, options: Options) -> Any:
    """A data set of ours by its folder or URL, as the loader opens it with these options; anything else as it is."""
    return opened(dataset, options) if isinstance(dataset, (str, Path)) else dataset
