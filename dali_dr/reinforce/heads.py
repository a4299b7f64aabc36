"""Projection heads of self-supervised teachers, built from their weights (FKD, arXiv 2112.01528, section 3.4).

A head is a torch.nn.Sequential of linear layers with or without batch norm between, whose weights are in the state dict under
the numbers of its layers. Layers without weights are missing there: each gap is an activation. What the authors' own code
does with it, read there:

| method | head | after it |
|---|---|---|
| MoCo v2 | fc: linear, ReLU, linear to 128 | length 1 |
| SwAV | projection_head: linear, batch norm, ReLU, linear to 128 | length 1, prototypes: linear to 3000 |
| DINO | head.mlp: linear, GELU, … | length 1, head.last_layer: linear, weight-normed |

(facebookresearch/moco, moco/builder.py; facebookresearch/swav, src/resnet50.py; facebookresearch/dino, vision_transformer.py.)

Any other head is a torch.nn.Module of its own: `dali_dr.Member` takes any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch

from dali_dr.errors import DaliDrError
from dali_dr.reinforce.checkpoints import load_strictly

State = Mapping[str, torch.Tensor]
_ACTIVATIONS: Final[Mapping[str, type[torch.nn.Module]]] = {"relu": torch.nn.ReLU, "gelu": torch.nn.GELU}
# Direction and length of a weight-normed layer's rows: torch.nn.utils.weight_norm, and its newer parametrization.
_WEIGHT_NORMED: Final = (
    ("weight_v", "weight_g"),
    ("parametrizations.weight.original1", "parametrizations.weight.original0"),
)


class WithHead(torch.nn.Module):
    """A network of pooled features, and a projection head after it.

    Attributes:
      backbone: (B, 3, H, W) -> (B, F).
      head: (B, F) -> (B, D).
      prototypes: (B, D) -> (B, P), or None.
      normalise: whether the head's output is brought to length 1.
      num_classes: of outputs: P, or D without prototypes.
    """

    def __init__(
        self,
        backbone: torch.nn.Module,
        head: torch.nn.Sequential,
        prototypes: torch.nn.Sequential | None,
        normalise: bool,
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.prototypes, self.normalise = backbone, head, prototypes, normalise
        self.num_classes: int = ends_of(head if prototypes is None else prototypes)[1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor = self.head(self.backbone(images))
        if self.normalise:
            x = torch.nn.functional.normalize(x, dim=1)
        return x if self.prototypes is None else self.prototypes(x)


def take(state: State, name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The tensors of module ``name``, without it in their names, and all others."""
    start = name.rstrip(".") + "."
    return (
        {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)},
        {key: value for key, value in state.items() if not key.startswith(start)},
    )


def build_head(state: State, where: str, activation: str) -> torch.nn.Sequential:
    """The head whose weights `state` holds.

    Args:
      state: names begin with the layers' numbers, or are those of a single layer.
      where: file and name of the head, for messages.
      activation: of the layers without weights, "relu" or "gelu".

    Raises:
      DaliDrError: layers are not numbered from 0, of other kinds than linear and batch norm, or do not fit together.
    """
    if not state:
        raise DaliDrError(f"{where}: there are no weights of this name", kind="usage")
    numbers = {key.split(".")[0] for key in state}
    if not all(number.isdecimal() for number in numbers):
        return torch.nn.Sequential(_layer(state, where))
    layers: list[torch.nn.Module] = []
    for number in sorted(map(int, numbers)):
        gap = number - len(layers)
        if gap > 1 or (gap and not layers):
            raise DaliDrError(
                f"{where}: before layer {number} there are {gap} without weights, which may be anything: build the head as a "
                "torch.nn.Module and give that to dali_dr.Member",
                kind="usage",
            )
        layers += [_ACTIVATIONS[activation]()] * gap
        layers.append(_layer(take(state, str(number))[0], f"{where}.{number}"))
    width = None
    for number, layer in enumerate(layers):
        takes, gives = _widths(layer)
        if width is not None and takes not in (None, width):
            raise DaliDrError(
                f"{where}.{number}: takes {takes} numbers, but the layer before gives {width}", kind="usage"
            )
        width = gives or width
    return torch.nn.Sequential(*layers)


def ends_of(head: torch.nn.Sequential) -> tuple[int, int]:
    """How many numbers it takes and gives."""
    widths = [_widths(layer) for layer in head]
    return next(w[0] for w in widths if w[0]), next(w[1] for w in reversed(widths) if w[1])


def _widths(layer: torch.nn.Module) -> tuple[int | None, int | None]:
    """The numbers that a layer takes and gives; None: as many as there are."""
    if isinstance(layer, torch.nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, torch.nn.BatchNorm1d):
        return layer.num_features, layer.num_features
    return None, None


def _layer(state: State, where: str) -> torch.nn.Module:
    """The layer that has these weights."""
    weights = dict(state)
    for direction, length in _WEIGHT_NORMED:
        if direction in weights and length in weights:
            v, g = weights.pop(direction), weights.pop(length)
            weights["weight"] = g * torch.nn.functional.normalize(v, dim=1)
    weight = weights.get("weight")
    layer: torch.nn.Module
    if "running_mean" in weights:
        layer = torch.nn.BatchNorm1d(len(weights["running_mean"]), affine=weight is not None)
        weights.setdefault("num_batches_tracked", torch.tensor(0))  # of no consequence here; old files lack it
    elif weight is not None and weight.ndim == 2:
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in weights)
    else:
        raise DaliDrError(
            f"{where}: neither a linear layer nor batch norm, by its weights {', '.join(sorted(state)[:5])}: build the head as "
            "a torch.nn.Module and give that to dali_dr.Member",
            kind="usage",
        )
    load_strictly(layer, weights, f"{where} is no {type(layer).__name__}")
    return layer
