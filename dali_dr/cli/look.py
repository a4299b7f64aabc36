"""dali-dr info, verify: what is in a data set, and whether it is whole."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from dali_dr.cli.common import (
    add_max_pixels,
    add_quiet,
    add_set,
    command,
    open_set,
    positive,
    print_info,
    read_config,
    say,
    say_json,
    wants_gpu,
    whole,
)

if TYPE_CHECKING:
    from dali_dr.loader.options import Device
    from dali_dr.reinforce.check import LabelMapCheck, TeacherCheck


def add(commands: Any) -> None:
    """Adds the subcommands."""
    info = command(commands, "info", _info, "print what is in a data set", "dali-dr info imagenet-plus")
    info.add_argument(
        "--config",
        action="store_true",
        help="print the options that made it, as YAML for dali-dr reinforce --config FILE",
    )
    add_quiet(info)
    add_set(info, cache=False)

    verify = command(
        commands,
        "verify",
        _verify,
        "check hashes, index and every record of a data set",
        "dali-dr verify imagenet-plus",
    )
    add_set(verify)
    verify.add_argument("--images", action="store_true", help="also decode every image, and compare with Pillow")
    add_max_pixels(verify)
    verify.add_argument(
        "--teacher",
        metavar="NAME[,NAME…]",
        help="ask this teacher again about random stored views, replayed as in training; mean KL below 0.002 nats and "
        "equal top-1 ids in 99.5 %% of them pass. Of label maps: ask it about random crops, and say which order of a crop's "
        "sides agrees better",
    )
    verify.add_argument(
        "--samples", type=positive, default=200, metavar="N", help="views for --teacher (default %(default)s)"
    )
    verify.add_argument("--seed", type=whole, default=0, help="of the choice of these views (default %(default)s)")
    verify.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="for --teacher")
    add_quiet(verify)


def _info(options: argparse.Namespace) -> None:
    if options.config:
        text = read_config(options.dataset)
        if options.json:
            from dali_dr.strict_yaml import strict_yaml

            say_json(strict_yaml(text))
        else:
            say(text.rstrip("\n"), lines=True)
        return
    print_info(options.dataset, options.json)


def _verify(options: argparse.Namespace) -> int:
    from dali_dr.shards.verify import verify

    report = verify(
        options.dataset,
        images=options.images,
        max_pixels=options.max_pixels,
        progress=not options.quiet,
        cache=options.cache,
        cache_bytes=options.cache_bytes,
    )
    check = _ask_teacher(options) if options.teacher and report.ok else None  # what is broken need not be compared
    ok = report.ok and (check is None or check.ok)
    if options.json:
        asked = {} if check is None else {"teacher": {"ok": check.ok, **dataclasses.asdict(check)}}
        say_json({"ok": ok, **dataclasses.asdict(report), **asked})
        return 0 if ok else 1
    for problem in report.problems:
        say(f"problem: {problem}")
    more = report.problem_count - len(report.problems)
    say(f"{report.images} images, {report.views} views, {report.bytes} bytes read: ", end="")
    say("all is well" if report.ok else f"{report.problem_count} problems" + (f" ({more} not shown)" if more else ""))
    if check is not None:
        _say_check(check)
    return 0 if ok else 1


def _say_check(check: TeacherCheck | LabelMapCheck) -> None:
    from dali_dr.reinforce.check import LabelMapCheck

    if isinstance(check, LabelMapCheck):
        for order, mean in check.kl_mean.items():
            say(
                f"{check.views} crops, label maps {order}: mean KL {mean:.4f} nats, top-1 equal in "
                f"{check.top1_equal[order]:.2%}"
            )
        other = "" if check.ok else f', and the data set says "{check.order}": convert it with the other order'
        unsure = "which order agrees better cannot be told from these crops: ask for more --samples"
        say(unsure if check.better is None else f'"{check.better}" agrees better{other}')
    else:
        say(
            f"{check.views} views replayed and predicted again: mean KL {check.kl_mean:.2e} nats, top-1 equal in "
            f"{check.top1_equal:.2%}: {'all is well' if check.ok else 'not what is stored'}"
        )
        if check.teacher_is_the_same is None:
            say("note: whose weights made the data set is not known")
        elif not check.teacher_is_the_same:
            say("problem: the weights of this teacher are not those that made the data set")
        if not check.ok:
            say(f"the largest divergence, {check.kl_max:.2e}, has view {check.worst[1]} of {check.worst[0]}")


def _ask_teacher(options: argparse.Namespace) -> TeacherCheck | LabelMapCheck:
    from dali_dr.reinforce.check import check_label_maps, check_teacher, load_stored_teacher

    gpu = wants_gpu(options.device)
    dataset = open_set(options)
    teacher = load_stored_teacher(dataset, options.teacher, "cuda" if gpu else "cpu")
    device: Device = "gpu" if gpu else "cpu"
    ask = check_teacher if dataset.manifest.label_maps is None else check_label_maps
    return ask(dataset, teacher, samples=options.samples, seed=options.seed, device=device)
