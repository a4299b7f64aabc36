"""dali-dr reinforce: a data set of images, drawn views and a teacher's predictions."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dali_dr.cli import reinforce_options as given
from dali_dr.cli.common import command, input_of, print_manifest, reading_of, say, say_json
from dali_dr.cli.config import add_config
from dali_dr.cli.reinforce_options import CLUSTER, DECIDING, DEFAULT_SIZE, DEFAULT_TOPK
from dali_dr.errors import DaliDrError
from dali_dr.store.url import join

if TYPE_CHECKING:
    from dali_dr.augment.spec import AugmentationSpec
    from dali_dr.reinforce.blueprint import Blueprint
    from dali_dr.reinforce.part import Part
    from dali_dr.reinforce.run import Outcome

_NAMED: Final = 8  # parts, of those whose shards are missing


def add(commands: Any) -> None:
    """Adds the subcommand."""
    make = command(
        commands,
        "reinforce",
        _reinforce,
        "reinforce images with a teacher",
        "dali-dr reinforce imagenet/train --out imagenet-plus --teacher efficientnet-lite0 --views 32",
    )
    make.description = (
        "Reinforce images with a teacher. What was interrupted goes on where it stopped. Several processes, on machines that "
        "share the folder, make a data set together where each is told its part: by --part, torchrun or Slurm."
    )
    add_config(make)
    given.add_images(make.add_argument_group("images"))
    given.add_data_set(make.add_argument_group("data set"))
    given.add_teacher(make.add_argument_group("teacher"))
    given.add_views(make.add_argument_group("views"))
    given.add_machine(make.add_argument_group("machine"))
    given.add_machines(make.add_argument_group("machines"))


def _reinforce(options: argparse.Namespace) -> int:
    from dali_dr.reinforce.engine import reinforce_here
    from dali_dr.reinforce.part import Part

    _check_void(options)
    if options.dry_run:
        return _estimate(options)
    if options.engine == "ray":
        return _reinforce_on_ray(options)
    part = None if options.part is None else Part.of_text(options.part)
    outcome = reinforce_here(_blueprint(options), part, device=options.device, progress=not options.quiet, tell=_note)
    return _tell(options, outcome, part or Part.of_environment())


def _check_void(options: argparse.Namespace) -> None:
    """DaliDrError for an option that the others leave without effect."""
    keep = options.keep or _kept(options.target)
    if options.topk is not None and keep != "topk":
        why = (
            f"--keep {keep} says"
            if options.keep
            else "of an embedding all outputs are kept: --keep topk says otherwise, or"
        )
        raise DaliDrError(
            f"--topk {options.topk}: has no meaning, {why} what is kept; leave one of them out", kind="usage"
        )
    if options.engine == "local" and not options.dry_run:  # which reckons with workers and prices
        for name in CLUSTER:
            if (value := getattr(options, name)) is not None:
                option = f"--{name.replace('_', '-')}"
                raise DaliDrError(
                    f"{option} {value}: is for --engine ray: add that, or leave {option} out", kind="usage"
                )


def _kept(target: str) -> str:
    """What is kept of a prediction unless --keep says otherwise."""
    return "full" if target == "embedding" else "topk"


def _estimate(options: argparse.Namespace) -> int:
    """Tells what the run would take."""
    from dali_dr.reinforce.estimate import estimate

    run = _blueprint(options).run(options.device, tell=_note, dry=True)
    facts = estimate(run, workers=options.workers or 1, price_per_hour=options.price_per_hour).facts()
    if options.json:
        say_json(facts)
        return 0
    for name, value in facts.items():
        say(f"{name.replace('_', ' '):>18}  {value:,}" if isinstance(value, (int, float)) else f"{name:>18}  {value}")
    return 0


def _reinforce_on_ray(options: argparse.Namespace) -> int:
    from dali_dr.reinforce.on_ray import Cluster, reinforce_on_ray
    from dali_dr.reinforce.part import Part

    if options.part is not None:
        raise DaliDrError("--part: divides the shards without Ray; with --engine ray leave it out", kind="usage")
    cluster = Cluster(**{name: getattr(options, name) for name in CLUSTER})
    outcome = reinforce_on_ray(
        _blueprint(options), cluster, device=options.device, progress=not options.quiet, tell=_note
    )
    return _tell(options, outcome, Part())


def _blueprint(options: argparse.Namespace) -> Blueprint:
    """The run that the options say."""
    from dali_dr.reinforce.blueprint import Blueprint, Named
    from dali_dr.sources import check_output

    check_output(input_of(options), options.out)
    spec = _spec(options)
    return Blueprint(
        input_of(options),
        options.out,
        Named(options.teacher, options.temperature, options.amp, options.compile, options.target),
        generation={
            "spec": spec,
            "num_views": options.views,
            "topk": options.topk or DEFAULT_TOPK,
            "seed": options.seed,
            "batch_views": options.batch,
            "max_pixels": options.max_pixels,
            "convert": options.convert,
            "keep_bytes": options.keep_bytes,
            "decode_device": options.decode_device,
            **({"num_threads": options.threads} if options.threads else {}),
        },
        options={
            "probabilities": options.probabilities,
            "on_error": options.on_error,
            "pool": options.pool,
            "select": options.select,
            "row_order": options.row_order,
            "sidecar": options.sidecar,
            "config": _config(options, spec),
            **({"samples_per_shard": options.samples_per_shard} if options.samples_per_shard else {}),
        },
        reading=reading_of(options),
        keep=options.keep,
    )


def _config(options: argparse.Namespace, spec: AugmentationSpec) -> dict[str, Any]:
    """What the options say of the data set, for `dali-dr reinforce --config` to make it again."""
    from dali_dr.shards.write import SAMPLES_PER_SHARD

    values = {name: getattr(options, name) for name in DECIDING}
    values["device"] = None if options.device == "auto" else options.device
    # What is in effect, whatever the defaults of another version are.
    keep = values["keep"] = options.keep or _kept(options.target)
    values["topk"] = (options.topk or DEFAULT_TOPK) if keep == "topk" else None
    values["samples_per_shard"] = options.samples_per_shard or SAMPLES_PER_SHARD
    named = isinstance(options.spec, str) and spec.name == options.spec
    values |= {"size": spec.size} if named else {"spec": spec.to_json(), "size": None}
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in values.items()
        if value is not None and value is not False
    }


def _note(text: str) -> None:
    say(f"dali-dr: note: {text}", file=sys.stderr)


def _spec(options: argparse.Namespace) -> AugmentationSpec:
    from dali_dr.augment.spec import AugmentationSpec

    if isinstance(options.spec, dict):  # of a file of options
        spec = AugmentationSpec.from_json(options.spec)
        if options.size not in (None, spec.size):
            raise DaliDrError(
                f"--size {options.size}: the config's spec says size {spec.size}: leave --size out", kind="usage"
            )
        return spec
    path = Path(options.spec)
    if path.suffix != ".json":
        return AugmentationSpec.preset(options.spec, size=options.size or DEFAULT_SIZE)
    spec = AugmentationSpec.load(path)
    if options.size not in (None, spec.size):
        raise DaliDrError(
            f"--size {options.size}: {path} says size {spec.size}: change it there, or leave --size out", kind="usage"
        )
    return spec


def _tell(options: argparse.Namespace, outcome: Outcome, part: Part) -> int:
    """Prints what came of the run, and verifies the data set if that is wanted; the exit status."""
    if outcome.manifest is None:
        parts = sorted({number % part.count for number in outcome.missing})
        say(
            f"dali-dr: part {part} is done; {len(outcome.missing)} shards are still missing, of part"
            f"{'s' * (len(parts) > 1)} {', '.join(f'{n + 1}/{part.count}' for n in parts[:_NAMED])}"
            f"{', …' * (len(parts) > _NAMED)}: whoever finishes last ends the data set",
            file=sys.stderr,
        )
        return 0
    if not outcome.ended and part.count > 1:
        return 0  # the part that ended the run tells
    print_manifest(outcome.manifest, options.json, outcome.summary)
    if outcome.summary.get("skipped"):
        skipped = join(options.out, "report/skipped.jsonl")
        say(f"dali-dr: {outcome.summary['skipped']} images were left out, see {skipped}", file=sys.stderr)
    if options.no_verify or not outcome.ended or not isinstance(options.out, Path):
        return 0  # each shard was checked on its way into a store
    from dali_dr.shards.verify import verify

    report = verify(options.out, progress=not options.quiet)
    for problem in report.problems:
        say(f"dali-dr: problem: {problem}", file=sys.stderr)
    return 0 if report.ok else 1
