"""dali-dr tune: the fastest settings of the loader on this machine."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from dali_dr.cli.common import add_quiet, add_set, command, open_set, positive, positive_float, say, say_json


def add(commands: Any) -> None:
    """Adds the subcommand."""
    tune = command(
        commands, "tune", _tune, "find this machine's loader settings by trying them", "dali-dr tune imagenet-plus"
    )
    add_set(tune)
    tune.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="default %(default)s")
    tune.add_argument("--batch-size", type=positive, default=64, metavar="N", help="default %(default)s")
    tune.add_argument(
        "--seconds", type=positive_float, default=2.0, metavar="S", help="per setting (default %(default)s)"
    )
    tune.add_argument(
        "--threads", type=positive, nargs="+", default=None, metavar="N", help="numbers of threads to try"
    )
    tune.add_argument(
        "--prefetch", type=positive, nargs="+", default=[1, 2, 4], metavar="N", help="depths of prefetching to try"
    )
    add_quiet(tune)


def _tune(options: argparse.Namespace) -> None:
    from dali_dr.loader.tune import tune

    trials = tune(
        open_set(options),
        device=options.device,
        batch_size=options.batch_size,
        seconds=options.seconds,
        threads=options.threads,
        prefetch=options.prefetch,
        progress=not options.quiet,
    )
    if options.json:
        say_json([dataclasses.asdict(trial) for trial in trials])
        return
    say(f"{'img/s':>9}  threads  prefetch  hw_decoder_load")
    for t in trials:
        load = "" if t.hw_decoder_load is None else t.hw_decoder_load
        say(f"{t.rate:9.0f}  {t.num_threads:7}  {t.prefetch:8}  {load}")
    best = trials[0]
    load = "" if best.hw_decoder_load is None else f", hw_decoder_load={best.hw_decoder_load}"
    say(f"fastest: ReinforcedIterator(..., num_threads={best.num_threads}, prefetch={best.prefetch}{load})")
