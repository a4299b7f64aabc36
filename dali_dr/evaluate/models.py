"""Models to evaluate: timm's by name, and those in checkpoints, with the view that each was trained to be shown.

Nothing in a file is executed: checkpoints are read with ``weights_only``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import torch

from dali_dr._torchvision import load_torchvision
from dali_dr.augment.fresh import DEFAULT_SIZE, Evaluation
from dali_dr.errors import DaliDrError, SpecError
from dali_dr.loader.options import IMAGENET_MEAN, IMAGENET_STD
from dali_dr.reinforce.checkpoints import load_strictly, read_checkpoint
from dali_dr.reinforce.teacher_names import Named, check_name
from dali_dr.reinforce.teachers import PYPI_TEACHERS, load_teacher

_PREFIX: Final = "model."  # of Lightning's state dicts
_TRAINER_CROP: Final = 0.875  # of examples/train_timm.py where its checkpoint does not say


@dataclasses.dataclass(frozen=True)
class View:
    """What a model is shown of an image: the resized image's centre, normalised.

    Attributes:
      size: edge of the view in pixels.
      resize: to which the image's shorter side is resized.
      interpolation: "bilinear" or "bicubic".
      mean, std: per channel, of values in 0 … 1.
      crop_mode: of timm's configuration; others than "center" are shown as that.
    """

    size: int
    resize: int
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop_mode: str = "center"

    @property
    def crop_pct(self) -> float:
        """The part of the resized image's shorter side that is shown."""
        return self.size / self.resize

    @property
    def evaluation(self) -> Evaluation:
        """As the loader takes it. DaliDrError for what it cannot show."""
        try:
            return Evaluation(self.size, self.resize, self.interpolation)  # type: ignore[arg-type]
        except SpecError as error:
            raise DaliDrError(
                f"{error}; say otherwise by --size, --resize or --crop-pct, --interpolation", kind="usage"
            ) from error


@dataclasses.dataclass(frozen=True)
class Override:
    """What a user says of views instead of the models' own; None: nothing. See `View`; crop_pct excludes resize."""

    size: int | None = None
    resize: int | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise ValueError(
                f"crop_pct (--crop-pct) is {self.crop_pct}, want above 0 and at most 1, such as 0.875: the part of the "
                "resized image that is shown"
            )

    def of(self, view: View, whole: bool = False) -> View:
        """``view`` with what the user says; ``whole``: without a margin, unless the user says which."""
        if self.resize is not None and self.crop_pct is not None:
            raise ValueError("resize and crop_pct say the same: give one of them")
        size = view.size if self.size is None else self.size
        part = self.crop_pct if self.crop_pct is not None else 1.0 if whole else None
        if self.resize is not None:
            resize = self.resize
            if resize < size:
                raise ValueError(
                    f"resize (--resize) is {resize}, want {size} or more, the size of the view (--size says another)"
                )
        elif part is not None:
            resize = math.floor(size / part)  # as timm does
        else:
            resize = view.resize if size == view.size else math.floor(size / view.crop_pct)
        said = {
            name: getattr(self, name) for name in ("interpolation", "mean", "std") if getattr(self, name) is not None
        }
        return dataclasses.replace(view, size=size, resize=resize, **said)


@dataclasses.dataclass(frozen=True)
class Model:
    """A model and the view that it is shown.

    Attributes:
      name: in tables.
      module: maps (B, 3, size, size) float32, normalised, to (B, classes) logits.
      view: what it is shown.
      weights: which of a checkpoint's weights these are ("ema", "model", …), or where they are from.
    """

    name: str
    module: torch.nn.Module
    view: View
    weights: str = "as given"

    @property
    def parameters(self) -> int:
        """How many numbers are trained, or were."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def digest(self) -> str:
        """SHA-256 over names and bytes of all weights."""
        sha = hashlib.sha256()
        for name, tensor in sorted(self.module.state_dict().items()):
            flat = tensor.detach().cpu().contiguous().view(-1)
            sha.update(name.encode())
            sha.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
        return f"sha256:{sha.hexdigest()}"


@dataclasses.dataclass(frozen=True)
class _Checkpoint:
    """What a file holds.

    Attributes:
      state: tensors by name.
      weights: under which name they were.
      model: timm's name of the model, where the file says it.
      options: of timm.create_model, as far as the file says.
      view: what the trainer showed in evaluation; None where timm's configuration decides.
      config: for timm.data.resolve_data_config, as timm's trainer evaluates; None: as timm evaluates pretrained models.
    """

    state: dict[str, torch.Tensor]
    weights: str
    model: str | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    view: View | None = None
    config: dict[str, Any] | None = None


def load_model(text: str) -> Model:
    """Loads a model as the command line names it.

    Args:
      text: FILE, a checkpoint that says which model it is of (of examples/train_timm.py or timm's train.py); NAME, a
        pretrained model of timm or an alias of `dali_dr.reinforce.teachers.PYPI_TEACHERS`; NAME@FILE, timm's model with the
        weights in a file: a checkpoint or a state dict (.pth, .pt, .safetensors). Each with {OPTIONS} behind as teachers have
        them (`dali_dr.reinforce.teacher_names`), but for heads: "resnext101_32x32d@weights.pth{base_width: 48}".

    Raises:
      DaliDrError: no such model or file, weights that cannot be had or do not fit.
    """
    load_torchvision()
    named = Named.parse(text)
    own = named.options
    if own.head:
        raise DaliDrError(f"{text}: a projection head has no classes that could be right: leave head out", kind="usage")
    if named.file is None and Path(named.name).is_file():
        named = dataclasses.replace(named, name="", file=Path(named.name))
    model = _pretrained(text, named) if named.file is None else _from_file(text, named, named.file)
    said = Override(size=own.input_size, mean=own.mean, std=own.std)
    return dataclasses.replace(model, view=said.of(model.view))


def _from_file(text: str, named: Named, file: Path) -> Model:
    checkpoint = _read(file, named)
    name = named.name or checkpoint.model
    if name is None:
        raise DaliDrError(
            f"{file}: does not say which model its weights are of: write NAME@{file} with timm's name, and its options as "
            "NAME@FILE{base_width: 48} where it was made with such",
            kind="usage",
        )
    options = {**(checkpoint.options if name == checkpoint.model else {}), **named.arguments}
    module = _build(name, checkpoint, options, file)
    view = checkpoint.view or _timm_view(module, checkpoint.config)
    return Model(text if named.name else f"{name}@{text}", module, view, checkpoint.weights)


def _pretrained(text: str, named: Named) -> Model:
    import timm

    name = named.name
    if name in PYPI_TEACHERS:
        module = load_teacher(text).members[0].model
        return Model(text, module, _timm_view(module), "PyPI")
    if not name.startswith("local-dir:"):
        check_name(name, tuple(PYPI_TEACHERS), "model")
    try:
        module = timm.create_model(name, pretrained=True, **named.arguments)
    except Exception as error:
        raise DaliDrError(
            f"the weights of {name} could not be had ({type(error).__name__}: {error}). timm fetches them from the Hugging "
            f"Face hub; give a checkpoint: {name}@FILE, or one of {', '.join(PYPI_TEACHERS)}"
        ) from error
    return Model(text, module, _timm_view(module), "timm")


def _timm_view(module: torch.nn.Module, config: Mapping[str, Any] | None = None) -> View:
    """The view of timm's configuration of a model, as its validate.py shows it."""
    import timm

    found = timm.data.resolve_data_config(dict(config or {}), model=module, use_test_size=config is None)
    channels, height, width = found["input_size"]
    if channels != 3 or height != width:
        raise DaliDrError(
            f"the model takes images of {found['input_size']}, and square ones of 3 channels are shown here",
            kind="usage",
        )
    resize = math.floor(height / found["crop_pct"])
    crop_mode = str(found.get("crop_mode") or "center")
    return View(height, resize, found["interpolation"], tuple(found["mean"]), tuple(found["std"]), crop_mode)


def _read(path: Path, named: Named) -> _Checkpoint:
    """What the file at ``path`` holds."""
    found = read_checkpoint(path, named.options.entry, named.options.prefix)
    ignored = tuple(f"{module}." for module in named.options.ignore)
    state = {key: value for key, value in found.state.items() if not (ignored and key.startswith(ignored))}
    weights = found.entry or "state dict"
    if isinstance(found.training.get("model"), str):
        return _of_trainer(state, weights, found.training)
    if found.timm:
        return _of_timm(state, weights, found.timm)
    return _Checkpoint(state, weights)


def _of_trainer(state: dict[str, torch.Tensor], weights: str, options: Mapping[str, Any]) -> _Checkpoint:
    """A checkpoint of examples/train_timm.py; its options say how it evaluates."""
    made = dict(options.get("model_options") or {})
    size = int(options.get("eval_size") or options.get("size") or made.get("img_size") or DEFAULT_SIZE)
    resize = int(options.get("eval_resize") or 0) or math.floor(size / (options.get("eval_crop") or _TRAINER_CROP))
    loader = options.get("loader") or {}
    view = View(
        size,
        resize,
        str(options.get("eval_interpolation") or "bilinear"),
        tuple(loader.get("mean", IMAGENET_MEAN)),
        tuple(loader.get("std", IMAGENET_STD)),
    )
    if options.get("num_classes"):
        made.setdefault("num_classes", int(options["num_classes"]))
    return _Checkpoint(state, weights, str(options["model"]), made, view)


def _of_timm(state: dict[str, torch.Tensor], weights: str, args: Mapping[str, Any]) -> _Checkpoint:
    """A checkpoint of timm's train.py."""
    made = dict(args.get("model_kwargs") or {})
    if args.get("num_classes"):
        made["num_classes"] = args["num_classes"]
    names = ("img_size", "input_size", "crop_pct", "interpolation", "mean", "std", "crop_mode")
    config = {name: args[name] for name in names if args.get(name)}
    return _Checkpoint(state, weights, args["model"], made, None, config)


def _build(name: str, checkpoint: _Checkpoint, options: dict[str, Any], file: Path) -> torch.nn.Module:
    """timm's model ``name`` with the weights of a checkpoint; all of them, and no others."""
    check_name(name, tuple(PYPI_TEACHERS), "model")
    module: Any = _create(name, options)
    state = _unprefixed(checkpoint.state, module.state_dict().keys())
    heads = getattr(module, "pretrained_cfg", {}).get("classifier") or ()
    for head in (heads,) if isinstance(heads, str) else heads:
        weight = state.get(f"{head}.weight")
        if weight is not None and "num_classes" not in options and weight.shape[0] != module.num_classes:
            module = _create(name, {**options, "num_classes": weight.shape[0]})
    load_strictly(module, state, f"{file} does not hold the weights of {name} with the options {options}")
    return cast("torch.nn.Module", module)


def _create(name: str, options: Mapping[str, Any]) -> Any:
    import timm

    try:
        return timm.create_model(name, pretrained=False, **options)
    except Exception as error:  # timm passes options on to any class
        raise DaliDrError(f"timm cannot make {name} with the options {dict(options)}: {error}", kind="usage") from error


def _unprefixed(state: dict[str, torch.Tensor], own: Any) -> dict[str, torch.Tensor]:
    """``state`` without what Lightning puts before every name, and the counter of torch's AveragedModel."""
    state = {key: value for key, value in state.items() if key != "n_averaged"}
    if not own & state.keys() and all(key.startswith(_PREFIX) for key in state):
        return {key.removeprefix(_PREFIX): value for key, value in state.items()}
    return state
