"""A LightningDataModule of reinforced data, and a LightningModule that distils from it; run it to train a timm model.

    python examples/lightning_datamodule.py --data imagenet-plus --val imagenet-val --model resnet50d

The loader is an ordinary one for Lightning: its place is part of the Trainer's checkpoints, and `trainer.fit(…, ckpt_path=…)`
goes on with exactly the next batch, within an epoch too. (But not where the module asks for `trainer.estimated_stepping_batches`,
as the one below does for its schedule: Lightning then makes the loaders before it restores their states; hence the two hooks of
the DataModule.) Ranks come from the Trainer.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from dali_dr import Dataset, Evaluation, ReinforcedIterator, losses
from dali_dr._torchvision import load_torchvision

load_torchvision()  # before Lightning and timm import it; matters only beside a CPU build of torch
try:
    import lightning
except ImportError as error:
    raise ImportError("this example needs Lightning: pip install lightning") from error


class ReinforcedData(lightning.LightningDataModule):
    """Batches of a reinforced data set for training, and centre crops of images for validation.

    Args:
      data: the reinforced data set.
      val: data set to validate on, or None.
      batch_size: per process.
      device: "gpu" decodes and replays on the GPU that the Trainer trains on.
      resize: length of the shorter side before the centre crop; 0: size / 0.875.
      options: further ones of `ReinforcedIterator`, for training.
    """

    def __init__(
        self,
        data: str,
        val: str | None = None,
        batch_size: int = 256,
        device: str = "gpu",
        resize: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        self.data, self.val, self.resize = data, val, resize
        self.common = {"batch_size": batch_size, "device": device}
        self.options = {"last_batch": "fill", **options}
        self.loader: ReinforcedIterator | None = None
        self.restored: dict[str, Any] | None = None

    def _place(self) -> dict[str, int]:
        """This process's place, as the Trainer knows it: its launchers do not all set RANK."""
        trainer = self.trainer
        if trainer is None:
            return {}
        return {"rank": trainer.global_rank, "world_size": trainer.world_size, "device_id": trainer.local_rank}

    def train_dataloader(self) -> ReinforcedIterator:
        self.loader = ReinforcedIterator(self.data, **self.common, **self._place(), **self.options)
        if self.restored:
            self.loader.load_state_dict(self.restored)
        return self.loader

    def val_dataloader(self) -> ReinforcedIterator | list[Any]:
        if self.val is None:
            return []
        size = self.options.get("size") or Dataset(Path(self.data)).spec.size
        view = Evaluation(size, self.resize)
        return ReinforcedIterator(self.val, **self.common, **self._place(), augment=view)

    def state_dict(self) -> dict[str, Any]:
        return {"loader": self.loader.state_dict()} if self.loader else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.restored = state_dict.get("loader")
        if self.loader and self.restored:
            self.loader.load_state_dict(self.restored)


class Distillation(lightning.LightningModule):
    """Any classifier, trained by KL divergence on the stored predictions (arXiv 2303.08983)."""

    def __init__(self, model: torch.nn.Module, lr: float = 0.1) -> None:
        super().__init__()
        self.model, self.lr = model, lr

    def training_step(self, batch: list[dict[str, torch.Tensor]], number: int) -> torch.Tensor:
        (batch_,) = batch
        loss = losses.kl_divergence(self.model(batch_["data"]), batch_["soft_ids"], batch_["soft_probs"])
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[dict[str, torch.Tensor]], number: int) -> None:
        (batch_,) = batch
        hits = self.model(batch_["data"]).argmax(1) == batch_["label"]
        self.log("top1", hits.float().mean(), batch_size=len(hits), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), self.lr, momentum=0.9, nesterov=True, weight_decay=1e-4)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main() -> int:
    import timm

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--val")
    parser.add_argument("--model", default="resnet50d")
    parser.add_argument("--batch-size", type=int, default=256, help="per process")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--resume", help="a checkpoint of the Trainer")
    options = parser.parse_args()
    device = "gpu" if torch.cuda.is_available() else "cpu"
    data = ReinforcedData(options.data, options.val, options.batch_size, device)
    model = timm.create_model(options.model, num_classes=Dataset(Path(options.data)).num_classes)
    trainer = lightning.Trainer(max_epochs=options.epochs, precision="bf16-mixed" if device == "gpu" else 32)
    trainer.fit(Distillation(model, options.lr), datamodule=data, ckpt_path=options.resume)
    return 0


if __name__ == "__main__":
    sys.exit(main())
