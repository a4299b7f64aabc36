"""Reinforce with a self-supervised teacher, built in Python (FKD, arXiv 2112.01528, section 3.4): MoCo v2 and its head.

    python examples/reinforce_self_supervised.py IMAGES OUT --checkpoint moco_v2_200ep_pretrain.pth.tar

What is stored of a view is the softmax of the 128 outputs at temperature 0.2, all of them. A student gets as many outputs and
is compared at the same temperature: `losses.kl_divergence(student(views) / 0.2, batch["soft_ids"], batch["soft_probs"])`, which
is what examples/train_timm.py does. The same teacher by name, without Python:

    dali-dr reinforce IMAGES --out OUT --spec moco-v2 --target embedding --temperature 0.2 \\
        --teacher 'resnet50@moco_v2_200ep_pretrain.pth.tar{prefix: encoder_q, head: fc}'
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import dali_dr
from dali_dr._torchvision import load_torchvision
from dali_dr.sources import open_source

PREFIX = "module.encoder_q."  # the encoder that is trained by gradients; the other is a moving average of it
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class MoCo(torch.nn.Module):
    """An encoder whose classifier is a projection head, and whose outputs have length 1: (B, 3, 224, 224) -> (B, 128)."""

    def __init__(self, arch: str, checkpoint: Path) -> None:
        super().__init__()
        self.encoder = getattr(load_torchvision().models, arch)(num_classes=128)
        width = self.encoder.fc.in_features
        self.encoder.fc = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), self.encoder.fc)
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
        own = {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}
        self.encoder.load_state_dict(own)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(self.encoder(images), dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="a folder, a pattern of tars, or a list; see `dali-dr reinforce --help`")
    parser.add_argument("out", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True, help="as facebookresearch/moco writes it")
    parser.add_argument("--arch", default="resnet50", help="torchvision's name of the encoder (default %(default)s)")
    parser.add_argument("--views", type=int, default=32, help="per image (default %(default)s)")
    parser.add_argument("--spec", default="moco-v2", help="of the views (default %(default)s)")
    options = parser.parse_args()
    if not options.checkpoint.is_file():
        parser.error(f"--checkpoint {options.checkpoint}: there is no such file")

    source = open_source(options.images)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    member = dali_dr.Member("moco-v2", MoCo(options.arch, options.checkpoint), 224, MEAN, STD)
    teacher = dali_dr.Teacher([member], device, temperature=0.2, target="embedding")
    generation = dali_dr.Generation(
        spec=dali_dr.AugmentationSpec.preset(options.spec, size=224),
        teacher=teacher,
        num_views=options.views,
        topk=teacher.num_outputs,
        device="gpu" if device.type == "cuda" else "cpu",
    )
    names = list(source.class_names)
    dali_dr.reinforce(source, options.out, generation, num_classes=len(names), class_names=names)
    dataset = dali_dr.Dataset(options.out)
    print(
        f"{len(dataset)} images of {len(names)} classes, {dataset.num_views} views each of {dataset.num_outputs} outputs"
    )


if __name__ == "__main__":
    main()
