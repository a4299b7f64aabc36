"""Reinforce with a teacher of your own: any torch module, in some thirty lines.

    python examples/reinforce_from_python.py IMAGES OUT

The teacher here is a network of three layers, which knows nothing; put yours in its place. Started again, or by torchrun, it
goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import dali_dr
from dali_dr.reinforce.part import Part
from dali_dr.reinforce.run import Run
from dali_dr.sources import open_source


class MyNetwork(torch.nn.Module):
    """Anything that maps (B, 3, 96, 96) normalised float32 to (B, classes) logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)  # a teacher must be the same in every process
        self.features = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 8, 8), torch.nn.ReLU(), torch.nn.Flatten())
        self.head = torch.nn.Linear(32 * 12 * 12, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", help="a folder, a pattern of tars, or a list; see `dali-dr reinforce --help`")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()

    source = open_source(options.images)
    classes = len(source.class_names)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Each member of an ensemble sees the stored view at its own size and normalisation.
    member = dali_dr.Member("my-network", MyNetwork(classes), 96, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    teacher = dali_dr.Teacher([member], device, temperature=1.0)
    generation = dali_dr.Generation(
        spec=dali_dr.AugmentationSpec.preset("rrc+ra+re", size=128),
        teacher=teacher,
        num_views=16,
        topk=min(10, classes),
        device="gpu" if device.type == "cuda" else "cpu",
    )
    run = Run(
        source,
        options.out,
        generation,
        num_classes=classes,
        class_names=source.class_names,
        on_error="skip",
        part=Part.of_environment(),
    )
    outcome = run.work()
    print(f"{outcome.manifest.images} images, {outcome.summary['bytes_per_reinforcement']} bytes a view, ", end="")
    print(f"{outcome.summary['teacher_utilisation']:.0%} of the time in the teacher")

    loader = dali_dr.ReinforcedIterator(options.out, batch_size=8, device=generation.device)
    for (batch,) in loader:
        print({name: tuple(tensor.shape) for name, tensor in batch.items()})
        break


if __name__ == "__main__":
    main()
