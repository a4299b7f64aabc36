"""A run of many small shards by a teacher that takes its time, in a process of its own: the driver that tests kill.

    python tests/ray_driver.py IMAGES OUT ADDRESS GO [SECONDS]

With ADDRESS "none", in this process alone. The teacher takes SECONDS for each image until there is a file GO.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import torch

from dali_dr.augment.spec import AugmentationSpec
from dali_dr.errors import DaliDrError
from dali_dr.reinforce.blueprint import Blueprint
from dali_dr.reinforce.generate import Generation
from dali_dr.reinforce.networks import Member, Teacher

SHARD = 2  # images


class Slow(torch.nn.Module):
    """A small network with weights from a fixed seed."""

    num_classes = 6

    def __init__(self, go: str, seconds: float) -> None:
        super().__init__()
        self._go, self._seconds = Path(go), seconds
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 5, 2),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(32, self.num_classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        if not self._go.exists():
            time.sleep(self._seconds)
        return self.net(x) * 20  # type: ignore[no-any-return]


def blueprint(images: str, out: str, go: str, seconds: float = 0.25) -> Blueprint:
    """The run; a place with "://" in it is a store's."""
    teacher = Teacher([Member("slow", Slow(go, seconds), 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))], torch.device("cpu"))
    spec = AugmentationSpec.preset("rrc+ra+re", size=64)
    generation = Generation(spec, teacher, num_views=4, topk=3, batch_views=4, num_threads=1)
    place: Path | str = out if "://" in out else Path(out)
    options = {"num_classes": Slow.num_classes, "samples_per_shard": SHARD, "on_error": "skip"}
    return Blueprint.of(images, place, generation, **options)


def main() -> int:
    images, out, address, go, *seconds = sys.argv[1:]
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    plan = blueprint(images, out, go, *map(float, seconds))
    try:
        if address == "none":
            plan.run("cpu").work()
        else:
            from dali_dr.reinforce.on_ray import Cluster, reinforce_on_ray

            reinforce_on_ray(plan, Cluster(address, cpus_per_worker=1), device="cpu", progress=False)
    except DaliDrError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
