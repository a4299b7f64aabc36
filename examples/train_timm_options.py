"""Options of train_timm.py: the parser, recipes, and what goes together.

Values come from the defaults below, then from the recipes in their order, then from the command line; mappings are merged.
Whatever is wrong, in a recipe or on the command line, is one message and exit status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml

from dali_dr.reinforce.teacher_names import strict_yaml

DTYPES = {"none": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NESTED = "model_options", "optimizer_options", "loader"
LOSSES = "kl", "soft-ce", "usi", "bake", "ce", "kd"
HARD = "usi", "bake", "ce"  # losses that take the data set's own labels, and so label smoothing
SOFT = "kl", "soft-ce", "usi"  # losses that take stored predictions
TAUGHT = "kd", "usi", "soft-ce"  # losses that take a teacher's predictions on the batch at hand
SCHEDULES = "cosine", "step", "one-cycle", "serrated"
ELSEWHERE = {  # arguments of the loader that train_timm.py sets itself, and how to say them
    "batch_size": "say --batch-size",
    "device": "say --device",
    "size": "say --size, or --vbs for batches of several sizes",
    "layout": "say --channels-last or --no-channels-last",
    "views_per_image": "say --views-per-image",
    "class_mates": "say --class-mates",
    "as_tuples": "batches are taken by name here",
    "label_ndim": "labels have one axis here",
    "auto_reset": "epochs are counted here",
    "rank": "torchrun says it",
    "world_size": "torchrun says it",
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without all options before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see --help)\n")


def _yaml(text: str) -> Any:
    """A value on the command line."""
    try:
        return strict_yaml(text)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not YAML: {error}") from error


def make_parser(description: str | None) -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="train_timm.py", description=description, formatter_class=formatter)
    add, flag, mapping = parser.add_argument, argparse.BooleanOptionalAction, _yaml
    add("--recipe", type=Path, nargs="*", default=[], help="YAML files with values of the options below")
    add("--data", help="the data set to train on")
    add("--val", help="the data set to evaluate on; none: no evaluation")
    add("--out", type=Path, help="folder for last.pt, best.pt and log.jsonl")
    add("--model", default="resnet50", help="timm's name")
    add("--model-options", type=mapping, default={}, help="of timm.create_model, as YAML: '{drop_path_rate: 0.1}'")
    add("--pretrained", action=flag, default=False, help="start from timm's weights, but for another head")
    add("--init", type=Path, help="start from the weights of this checkpoint or state dict, but for another head")
    add("--loader", type=mapping, default={}, help=LOADER_HELP)
    add("--size", type=int, help="of the views; default: as stored")
    add("--vbs", type=mapping, help="CVNets' variable batches, as YAML: [smallest size, largest, that of --batch-size]")
    add("--eval-size", type=int, help="default: that of the views")
    add("--eval-crop", type=float, default=0.875, help="part of the resized image's edge that the centre crop shows")
    add("--eval-resize", type=int, default=0, help="of the shorter side, instead of eval size / eval crop")
    add("--eval-interpolation", choices=("bilinear", "bicubic"), default="bilinear")
    add("--batch-size", type=int, default=1024, help="views per step, of all processes together")
    add("--views-per-image", type=int, default=1)
    add("--class-mates", type=int, help="others of its class after every image; default: 1 with bake, else 0")
    add("--epochs", type=int, default=150)
    add("--loss", choices=LOSSES, default="kl")
    add(
        "--teacher",
        help="predicts on every batch: kd, and usi or soft-ce without stored predictions; see dali-dr reinforce",
    )
    add("--temperature", type=float, default=1.0, help="of kl, kd and usi; of the student alone in soft-ce")
    add("--alpha", type=float, default=5.0, help="weight of the teacher in usi")
    add("--bake-omega", type=float, default=0.5, help="part that comes from other images; 1: one step of propagation")
    add("--bake-temperature", type=float, default=4.0)
    add("--bake-weight", type=float, default=1.0, help="of the divergence from bake's targets")
    add("--label-smoothing", type=float, default=0.0, help="of hard labels: ce, usi, bake")
    add("--mixup", type=float, default=0.0, help="alpha of MixUp of batches; 0: none")
    add("--cutmix", type=float, default=0.0, help="alpha of CutMix of batches; 0: none")
    add("--mix-probability", type=float, default=1.0, help="that a batch (image, with elem) is mixed")
    add("--mix-switch-probability", type=float, default=0.5, help="of CutMix, where MixUp is on as well")
    add("--mix-mode", choices=("batch", "elem"), default="batch", help="one draw for a batch, or one for every image")
    add("--sync-bn", action=flag, help="batch norm over all processes; default: with bake")
    add("--optimizer", default="sgd", help="timm's name: sgd is Nesterov's, momentum the plain one")
    add("--optimizer-options", type=mapping, default={}, help="as YAML: '{betas: [0.9, 0.95]}'")
    add("--schedule", choices=SCHEDULES, default="cosine", help="see train_timm_schedules.py")
    add("--milestones", type=mapping, default=[], help="of step, as YAML: the epochs at which the rate changes")
    add("--gamma", type=float, default=0.1, help="of step: the rate is multiplied by it at every milestone")
    add("--lr", type=float, default=0.4)
    add("--min-lr", type=float, default=0.0, help="of cosine and serrated")
    add("--warmup-epochs", type=float, default=5.0, help="linear, from --warmup-lr; one-cycle has its own")
    add("--warmup-lr", type=float, default=0.0)
    add("--momentum", type=float, default=0.9)
    add("--weight-decay", type=float, default=1e-4)
    add("--decay-all", action=flag, default=True, help="weight decay on norms and biases too")
    add("--clip-grad", type=float, default=0.0, help="norm; 0: none")
    add("--ema", type=float, default=0.0, help="decay of averaged weights, which are then evaluated; 0: none")
    add("--amp", choices=DTYPES, default="none")
    add("--channels-last", action=flag, default=True)
    add("--compile", action=flag, default=False)
    add("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    add("--seed", type=int, default=0)
    add("--eval-every", type=int, default=1, help="epochs")
    add("--log-every", type=int, default=50, help="steps")
    add("--checkpoint-every", type=int, default=1000, help="steps; and after every epoch")
    add("--stop-after", type=int, default=0, help="interrupt the run after so many steps; 0: never")
    add("--accept-changes", action=flag, default=False, help="go on with OUT's run though options are not as they were")
    return parser


LOADER_HELP = """further options of ReinforcedIterator, as YAML: '{augment: rrc}'. augment may be a mapping of AugmentationSpec's
fields, curriculum one of Curriculum's ('{start: easy, end: hard, epochs: 150}')"""


def parse(argv: list[str] | None, description: str | None = None) -> argparse.Namespace:
    """The options of a run; exits with status 2 and one message where they are wrong."""
    parser = make_parser(description)
    for path in parser.parse_known_args(argv)[0].recipe:
        _read_recipe(parser, path)
    options = parser.parse_args(argv)
    _check_types(parser, options)
    for name in NESTED:
        setattr(options, name, parser.get_default(name) | getattr(options, name))
    if not options.data or not options.out:
        parser.error("--data and --out are needed")
    options.ranks, options.rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    try:
        _fill_in(options)
        for check in (_check_device, _check_ranges, _check_loss, _check_batches, _check_loader, _check_schedule):
            check(options)
    except ValueError as error:
        parser.error(str(error))
    return options


def _read_recipe(parser: argparse.ArgumentParser, path: Path) -> None:
    """Makes a recipe's values the defaults."""
    try:
        content = strict_yaml(path.read_text())
    except OSError as error:
        parser.error(f"{path}: cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        parser.error(f"{path}: not YAML: it is no UTF-8 text")
    except yaml.YAMLError as error:
        parser.error(f"{path}: not YAML: {error}")
    if not isinstance(content, dict):
        parser.error(f"{path}: want options and their values, as in 'lr: 0.1'")
    values = {str(name).replace("-", "_"): value for name, value in content.items()}
    if unknown := values.keys() - {action.dest for action in parser._actions} | values.keys() & {"help", "recipe"}:
        parser.error(f"{path}: no such option: {', '.join(sorted(unknown))}")
    for name in (name for name in NESTED if name in values):
        if not isinstance(values[name], dict):
            parser.error(f"{path}: {name} is {values[name]!r}, want a mapping")
        values[name] = parser.get_default(name) | values[name]
    # Numbers as strings, which argparse checks as it does those of the command line (YAML itself takes 1e-4 for one).
    parser.set_defaults(**{k: str(v) if type(v) in (int, float) else v for k, v in values.items()})


def _check_types(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """What argparse does not check of defaults, which values of recipes are."""
    for action in parser._actions:
        value, name = getattr(options, action.dest, None), f"--{action.dest.replace('_', '-')}"
        if value is None and action.dest not in NESTED:
            continue
        if action.choices is not None and value not in action.choices:
            parser.error(f"{name}: {value!r} is none of {', '.join(action.choices)}")
        if isinstance(action, argparse.BooleanOptionalAction) and not isinstance(value, bool):
            parser.error(f"{name}: want true or false, got {value!r}")
        if action.dest in NESTED and not isinstance(value, dict):
            parser.error(f"{name}: want a mapping, got {value!r}")
        if action.type is None and action.nargs is None and action.dest != "help" and not isinstance(value, str):
            parser.error(f"{name}: want a text, got {value!r}")
        if action.type in (int, float, Path) and action.nargs is None and not isinstance(value, action.type):
            parser.error(f"{name}: want {'a path' if action.type is Path else 'a number'}, got {value!r}")


def _fill_in(o: argparse.Namespace) -> None:
    """Defaults that depend on other options."""
    if o.class_mates is None:
        o.class_mates = int(o.loss == "bake")
    if o.sync_bn is None:
        o.sync_bn = o.loss == "bake"


def _refuse(name: str, value: object, want: str) -> NoReturn:
    raise ValueError(f"--{name.replace('_', '-')} is {value}; want {want}")


def _check_device(o: argparse.Namespace) -> None:
    if o.device != "cuda":
        return
    if not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch finds no GPU here, or is a build without CUDA; want --device cpu")
    if (own := int(os.environ.get("LOCAL_RANK", 0))) >= torch.cuda.device_count():
        raise ValueError(f"--device cuda: process {own} of this machine has no GPU: it has {torch.cuda.device_count()}")


def _check_ranges(o: argparse.Namespace) -> None:
    for name in ("batch_size", "views_per_image", "epochs", "eval_every", "log_every", "checkpoint_every"):
        if getattr(o, name) < 1:
            _refuse(name, getattr(o, name), "1 or more")
    for name in ("mixup", "cutmix", "alpha", "bake_weight", "warmup_epochs", "clip_grad", "class_mates", "eval_resize"):
        if not 0 <= getattr(o, name) < float("inf"):
            _refuse(name, getattr(o, name), "0 or more")
    for name in ("temperature", "bake_temperature", "gamma"):
        if not 0 < getattr(o, name) < float("inf"):
            _refuse(name, getattr(o, name), "a number above 0")
    for name in ("mix_probability", "mix_switch_probability", "bake_omega"):
        if not 0 <= getattr(o, name) <= 1:
            _refuse(name, getattr(o, name), "0 to 1")
    for name in ("ema", "label_smoothing"):
        if not 0 <= getattr(o, name) < 1:
            _refuse(name, getattr(o, name), "0 or more, below 1")
    if not 0 < o.eval_crop <= 1:
        _refuse("eval_crop", o.eval_crop, "a part above 0, at most 1")
    if o.pretrained and o.init:
        raise ValueError("--pretrained and --init: both say where the weights come from; want one of them")


def _check_loss(o: argparse.Namespace) -> None:
    """What a loss learns from must be there, and what is given must be of use."""
    if o.loss == "kd" and not o.teacher:
        raise ValueError("--loss kd: a teacher predicts on every batch; say which with --teacher")
    if o.teacher and o.loss not in TAUGHT:
        raise ValueError(f"--teacher: goes with --loss {', '.join(TAUGHT)}; {o.loss} does not ask it")
    if o.label_smoothing and o.loss not in HARD:
        raise ValueError(f"--label-smoothing: goes with --loss {', '.join(HARD)}; {o.loss} takes no hard labels")
    if o.loss == "bake" and not o.class_mates:
        raise ValueError(
            "--class-mates is 0, but bake learns from others of an image's class in its batch; want 1 or more"
        )
    targets = o.loader.get("targets", "sparse")
    if targets != "sparse" and (o.loss not in SOFT or o.teacher):
        instead = f"the predictions of {o.teacher}" if o.teacher else "the data set's labels"
        raise ValueError(
            f"--loader: targets {targets} would go unused: --loss {o.loss} learns from {instead}; leave it out"
        )


def group_of(o: argparse.Namespace) -> int:
    """Images that stay together in a batch."""
    repeats = o.loader.get("repeats", 1)
    return int((o.class_mates + 1) * (repeats if type(repeats) is int and repeats > 1 else 1))


def _check_batches(o: argparse.Namespace) -> None:
    group = group_of(o)
    if o.batch_size % (o.ranks * o.views_per_image * group):
        parts = [f"{o.ranks} processes", f"{o.views_per_image} views"]
        causes = [f"class_mates: {o.class_mates}"] if o.class_mates else []
        causes += [f"loader: {{repeats: {o.loader['repeats']}}}"] if group > o.class_mates + 1 else []
        parts += [f"{group} images that stay together ({', '.join(causes)})"] if group > 1 else []
        _refuse("batch_size", o.batch_size, f"a multiple of {' × '.join(parts)}")
    if o.vbs is None:
        return
    if not isinstance(o.vbs, list) or len(o.vbs) != 3 or not all(type(edge) is int for edge in o.vbs):
        _refuse("vbs", o.vbs, "[smallest size, largest size, size of --batch-size] in pixels")
    if not 1 <= o.vbs[0] <= o.vbs[2] <= o.vbs[1]:
        _refuse("vbs", o.vbs, "sizes with smallest <= that of --batch-size <= largest")
    if o.size:
        raise ValueError("--size: --vbs says the sizes of the views; leave one of them out")


def _check_loader(o: argparse.Namespace) -> None:
    for name, instead in ELSEWHERE.items():
        if name in o.loader:
            raise ValueError(f"--loader: {name} is not for it: {instead}")
    if o.loader.get("dtype") == "uint8":
        raise ValueError("--loader: dtype uint8 is not normalised; models take floating images")
    for name in ("augment", "curriculum"):
        if not isinstance(o.loader.get(name), (str, dict, type(None))):
            raise ValueError(f"--loader: {name} is {o.loader[name]!r}; want a name or a mapping")


def _check_schedule(o: argparse.Namespace) -> None:
    good = isinstance(o.milestones, list) and all(type(epoch) in (int, float) and epoch > 0 for epoch in o.milestones)
    if not good or o.milestones != sorted(set(o.milestones)):
        _refuse("milestones", o.milestones, "epochs in rising order, as in [100, 150]")
    if bool(o.milestones) != (o.schedule == "step"):
        raise ValueError("--milestones: --schedule step takes them, and needs them; no other does")
    if o.schedule != "one-cycle" and o.warmup_epochs >= o.epochs and o.rank == 0:
        print(
            f"train_timm.py: note: --warmup-epochs {o.warmup_epochs:g} of --epochs {o.epochs}: all is warm-up, and the "
            f"learning rate does not reach --lr {o.lr:g}",
            file=sys.stderr,
        )


def kept(options: argparse.Namespace) -> dict[str, Any]:
    """The options as a checkpoint keeps them: what `torch.load(weights_only=True)` reads."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()} | {
        "recipe": [str(path) for path in options.recipe]
    }
