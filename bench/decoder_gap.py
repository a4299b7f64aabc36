"""How far the GPU's JPEG decoder is from the CPU's, in what training sees: the same stored views from either's pixels.

    python bench/decoder_gap.py --data DIR [--teacher efficientnet-lite0] [--json FILE]

Prints the largest and the mean difference in levels of 0 … 255, and with --teacher the mean KL divergence between the
teacher's predictions on the two. Views replayed on the GPU from pixels that the CPU decoded must not differ at all.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from typing import Any

import proof_step

from dali_dr.throughput.sets import SIZE

BATCHES = 8


def main() -> int:
    parser = proof_step.parser(__doc__)
    parser.add_argument("--teacher", help="name for dali_dr.reinforce.teachers.load_teacher")
    options = parser.parse_args()
    results = proof_step.Results(options)
    import dali_dr

    gpu = options.device == "gpu"
    teacher = None
    if options.teacher:
        from dali_dr.reinforce.teachers import load_teacher

        teacher = load_teacher(options.teacher, "cuda" if gpu else "cpu")
    common: dict[str, Any] = {"batch_size": 32, "dtype": "uint8", "size": SIZE, "order": "sequential"}
    wrong = 0
    for variant, decode_device in itertools.product(("rrc", "rrc+ra+re"), ("cpu", "auto")):
        if results.time_is_up:
            break
        cpu = dali_dr.ReinforcedIterator(options.data / variant, device="cpu", with_index=True, **common)
        tested = dali_dr.ReinforcedIterator(
            options.data / variant,
            device=options.device,
            decode_device=decode_device,
            roi_decode=options.roi_decode,
            with_index=True,
            **common,
        )
        largest, total, values, divergences = 0, 0.0, 0, list[float]()
        for (want,), (got,) in zip(itertools.islice(cpu, BATCHES if gpu else 1), tested, strict=False):
            assert (want["index"] == got["index"].cpu()).all() and (want["view"] == got["view"].cpu()).all()
            gap = (got["data"].cpu().int() - want["data"].int()).abs()
            largest, total, values = max(largest, int(gap.max())), total + float(gap.sum()), values + gap.numel()
            if teacher and decode_device == "auto":
                p, q = (teacher.predict(x.to("cuda" if gpu else "cpu")).double() for x in (want["data"], got["data"]))
                divergences += (p * ((p + 1e-12).log() - (q + 1e-12).log())).sum(1).tolist()
        row: dict[str, Any] = {
            "max_levels": largest,
            "mean_levels": round(total / values, 4),
            "views": values // (3 * SIZE**2),
        }
        if divergences:
            row |= {"teacher": options.teacher, "mean_kl_nats": statistics.mean(divergences)}
        results.put(f"{variant}, decoded by {'the CPU' if decode_device == 'cpu' else options.device}", row)
        wrong += decode_device == "cpu" and largest > 0
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
