"""The network of the students and of one teacher: CIFAR ResNets, which take images of any size."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Basic block with the parameter-free shortcut of He et al. (arXiv 1512.03385, option A)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride, self.more = stride, out - channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        x = x[:, :, :: self.stride, :: self.stride]
        before = self.more // 2
        return functional.relu(y + functional.pad(x, (0, 0, 0, 0, before, self.more - before)))


class ResNet(nn.Module):
    """CIFAR ResNet of 6·blocks + 2 layers, 16/32/64 channels. `stem_stride=2` makes it five times cheaper.

    Maps (B, 3, H, W) float32, normalised, to (B, num_classes) logits. Names of parameters are those of the CIFAR
    teachers' files.
    """

    def __init__(self, blocks: int, stem_stride: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(3, 16, 3, stem_stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        channels = 16
        for stage, out in enumerate((16, 32, 64)):
            layers = [Block(channels if b == 0 else out, out, 2 if b == 0 and stage else 1) for b in range(blocks)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
            channels = out
        self.linear = nn.Linear(channels, self.num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))  # type: ignore[no-any-return]
