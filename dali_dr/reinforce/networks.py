"""Teachers: networks that look at a replayed view and say what they see. Knows nothing of shards or DALI."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import torch

from dali_dr.choices import AMPS, TARGETS
from dali_dr.choices import Amp as Amp
from dali_dr.choices import Target as Target
from dali_dr.errors import DaliDrError

DEFAULT_BATCH: Final = 64  # views per teacher batch on the CPU, where a larger one is hardly faster
_FULL: Final = 0.4  # share of the GPU's memory above which the batch is not doubled: decoding needs some, too


class Predictor(Protocol):
    """What the making of a data set asks of a teacher. `Teacher` is one; any other class with these will do."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    @property
    def num_outputs(self) -> int:
        """C, the classes or the dimensions of the embedding."""

    def facts(self) -> dict[str, Any]:
        """What the manifest records of the teacher (schemas/dataset.schema.json, member "teacher")."""

    def predict(self, views: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) RGB in 0 … 255, uint8 or float32 -> (B, C) float32 probabilities."""


@dataclasses.dataclass(frozen=True)
class Member:
    """One network of a teacher and the input that it was trained for.

    Attributes:
      name: what it is called in the manifest: a timm model name, the alias it was asked for by, or any other.
      model: any module that maps (B, 3, input_size, input_size) float32, normalised RGB, to (B, C) logits, or to (B, D)
        embeddings. It is put into eval mode.
      input_size: pixels. Views of another size are resized to it: bicubic with antialiasing, on values in 0 … 1 of the
        stored bytes, clamped to 0 … 1 (torch.nn.functional.interpolate).
      mean, std: normalisation of values in 0 … 1, after the resize.
      options: that the network was made with, as far as its name does not say; JSON, for the manifest.
    """

    name: str
    model: torch.nn.Module
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def num_outputs(self) -> int:
        """C or D: the model's `num_classes`, as timm has it, else what it gives for one black image."""
        classes = getattr(self.model, "num_classes", None)
        if isinstance(classes, int) and classes > 0:
            return classes
        parameter = next(self.model.parameters(), torch.empty(0))
        was_training = self.model.training
        with torch.inference_mode():
            image = torch.zeros(1, 3, self.input_size, self.input_size, device=parameter.device)
            output = self.model.eval()(image)
        self.model.train(was_training)
        return int(_checked(self.name, output, 1).shape[1])

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
    """An ensemble of one or more members; its prediction is the mean of their softmaxes (arXiv 2303.08983, section 3).

    A teacher of embeddings (target "embedding") is treated alike: FKD (arXiv 2112.01528, section 3.4) distils
    self-supervised teachers by the softmax of their output vector against the student's, at a temperature. What is
    stored is that softmax over the D dimensions; store all of them (K = D) and the student's head needs D outputs. The
    vector itself is the logarithm of what is stored times the temperature, but for a constant that no softmax sees; so
    are logits.

    Attributes:
      members: that agree in the number of outputs.
      device: where they run; they are moved there.
      temperature: logits are divided by it.
      amp: let autocast compute in this type (the softmax stays in float32).
      compile: use torch.compile: a minute at the start, often a third less time per batch.
      target: what the outputs are.

    Raises:
      DaliDrError: the members predict different numbers of classes, or an attribute is out of range.
    """

    members: Sequence[Member]
    device: torch.device
    temperature: float = 1.0
    amp: Amp | None = None
    compile: bool = False
    target: Target = "class"

    def __post_init__(self) -> None:
        if not self.members:
            raise DaliDrError("a teacher wants one member or more", kind="usage")
        if not self.temperature > 0:
            raise DaliDrError(f"temperature is {self.temperature}, want a positive number", kind="usage")
        if self.amp not in (None, *AMPS) or self.target not in TARGETS:
            raise DaliDrError(
                f"amp is {self.amp!r} and target {self.target!r}, want {', '.join(AMPS)} or None, and "
                f"{' or '.join(TARGETS)}",
                kind="usage",
            )
        for member in self.members:
            member.model.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        outputs = {m.name: m.num_outputs for m in self.members}
        if len(set(outputs.values())) != 1:
            raise DaliDrError(
                f"the members of a teacher must predict the same classes, but they have {outputs}", kind="usage"
            )

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which may have no GPU or another one: on the CPU, and not compiled yet."""
        members = [dataclasses.replace(m, model=copy.deepcopy(m.model).cpu()) for m in self.members]
        state = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**state, "members": members, "device": torch.device("cpu")}

    @property
    def name(self) -> str:
        return ",".join(m.name for m in self.members)

    @property
    def num_outputs(self) -> int:
        """Classes, or dimensions of the embedding."""
        return self.members[0].num_outputs

    @property
    def num_classes(self) -> int:
        """The classes that it knows; 0 for embeddings."""
        return self.num_outputs if self.target == "class" else 0

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
                **({"options": dict(m.options)} if m.options else {}),
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
            # What is as ever is not said, so that manifests stay the same.
            **({"temperature": self.temperature} if self.temperature != 1 else {}),
            **({"amp": self.amp} if self.amp else {}),
            **({"compile": True} if self.compile else {}),
            **({"target": self.target, "outputs": self.num_outputs} if self.target != "class" else {}),
        }

    @torch.inference_mode()
    def predict(self, views: torch.Tensor) -> torch.Tensor:
        """Class probabilities of views.

        Args:
          views: (B, 3, H, W) RGB in 0 … 255, exactly the views that are stored: uint8, or float32 where they are mixed.

        Returns:
          (B, C) float32 on the teacher's device; rows sum to 1.

        Raises:
          DaliDrError: a member's output has another shape, or is not finite.
        """
        views = views.to(self.device, non_blocking=True)
        pixels = views.float() / 255
        total: torch.Tensor | None = None
        for member, forward in zip(self.members, self._forwards, strict=True):
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
            x = ((x - mean) / std).contiguous(memory_format=torch.channels_last)
            with self._autocast():
                output = forward(x)
            logits = _checked(member.name, output, len(views)).float()
            if not bool(logits.isfinite().all()):
                what = f" in {self.amp}; try --amp bfloat16 or none" if self.amp == "float16" else ""
                raise DaliDrError(f"teacher {member.name} gives outputs that are not finite{what}")
            probabilities = (logits / self.temperature).softmax(1)
            total = probabilities if total is None else total + probabilities
        assert total is not None
        return total / len(self.members)

    @functools.cached_property
    def _forwards(self) -> list[Callable[[torch.Tensor], Any]]:
        return [torch.compile(m.model) if self.compile else m.model for m in self.members]

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.amp is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.amp))


def fit_batch(teacher: Predictor, view_size: int, limit: int = 4096) -> int:
    """The number of views per batch that suits the memory: on a GPU doubled until more would fill it.

    Args:
      view_size: edge of the views, in pixels.
      limit: the most.

    Raises:
      DaliDrError: not even one view fits.
    """
    if teacher.device.type != "cuda":
        return DEFAULT_BATCH
    total = torch.cuda.get_device_properties(teacher.device).total_memory
    fits, size = 0, 1
    while size <= limit:
        torch.cuda.reset_peak_memory_stats(teacher.device)
        try:
            teacher.predict(torch.zeros(size, 3, view_size, view_size, dtype=torch.uint8, device=teacher.device))
        except torch.cuda.OutOfMemoryError:
            break
        fits, size = size, 2 * size
        if torch.cuda.max_memory_allocated(teacher.device) > _FULL * total:
            break
    torch.cuda.empty_cache()
    if not fits:
        raise DaliDrError(f"the teacher does not fit into the GPU's {total >> 20} MiB with a single view")
    return fits


def _checked(name: str, output: Any, rows: int) -> torch.Tensor:
    """A model's output, which must be (rows, C)."""
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or output.shape[0] != rows:
        got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise DaliDrError(
            f"teacher {name} gives {got} for {rows} images, want a tensor ({rows}, classes): wrap it in a module"
        )
    return output
