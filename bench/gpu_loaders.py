"""Images per second of the loaders of loaders.py, all built in one process and measured in turn: for short leases.

    python bench/gpu_loaders.py --data DIR --names decode_roi dali_plain ours_rrc_ra_re [--decode-device cpu] [--json FILE]

throughput.py starts a process per figure, which is cleaner and takes ten times as long. Here every loader keeps its pipeline
over all rounds; those whose turn it is not wait with full queues. With several --hw-loads, those are tried first with stock
DALI (`dali_plain`), and its best is taken for all.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import proof_step
from loaders import LOADERS

WARM_UP = 0.4  # seconds: queues of a loader that has waited are full, and say little


def main() -> int:
    parser = proof_step.parser(__doc__)
    parser.add_argument("--names", nargs="+", choices=tuple(LOADERS), required=True, metavar="NAME")
    parser.add_argument("--hw-loads", nargs="+", type=float, default=[])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=1.2, help="per figure")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.device == "cpu":
        options.batch_size, options.seconds, options.rounds = 8, 0.3, 1
    results = proof_step.Results(options)

    best = options.hw_decoder_load
    if len(options.hw_loads) > 1:
        grid: dict[str, float] = {}
        for load in options.hw_loads:
            options.hw_decoder_load = load
            run, release = LOADERS["dali_plain"](options.data, options)
            grid[str(load)] = rate(run, options.seconds)
            release()
            results.put("dali_plain by hw_decoder_load", grid)
        best = max(options.hw_loads, key=lambda load: grid[str(load)])
    options.hw_decoder_load = best
    settings = {
        n: getattr(options, n) for n in ("hw_decoder_load", "threads", "batch_size", "decode_device", "roi_decode")
    }
    results.put("settings", settings)
    built: dict[str, Any] = {}
    rounds: dict[str, list[float]] = {}
    for name in options.names:
        try:
            built[name] = LOADERS[name](options.data, options)
            rate(built[name][0], options.seconds / 2)
        except Exception as error:  # one that fails costs only itself
            built.pop(name, None)
            results.put(f"{name} failed", f"{type(error).__name__}: {error}"[:400])
    for _ in range(options.rounds):  # all of them in every round: drift hits all alike
        for name, (run, _) in built.items():
            if results.time_is_up:
                break
            rounds.setdefault(name, []).append(rate(run, options.seconds))
            results.figures["rounds"] = rounds
            results.save()
    results.put("rates", {name: statistics.median(values) for name, values in rounds.items()})
    return int(len(built) < len(options.names))


def rate(run: Any, seconds: float) -> float:
    """Images per second, after a warm-up."""
    end = time.perf_counter() + WARM_UP
    while time.perf_counter() < end:
        run()
    begin, images = time.perf_counter(), 0
    while (now := time.perf_counter()) < begin + seconds:
        images += run()
    return round(images / (now - begin), 1)


if __name__ == "__main__":
    sys.exit(main())
