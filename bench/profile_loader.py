"""Where the instructions of the whole loader go, per image and stage.

    python bench/profile_loader.py --data DIR --json FILE

DIR is a folder of images, of which --images are used; a set with stored crops and flips (rrc) and one with RandAugment
and erasing (rrc+ra+re) are written from it. ReinforcedIterator then loads --batches batches of each, float32 at 224
pixels, under valgrind's callgrind, which counts once the pipeline runs evenly: the read-ahead is full when counting
begins and when it ends.

What is counted: instructions that any thread executes outside the kernel, each function's own without those that it
calls, on valgrind's one virtual processor, which has AVX2 but no AVX-512. Instructions are not time: they say nothing of
memory, and one of a string copy counts once per step. They are the same on a busy machine, though, which times are not.
STAGES says which functions belong to which stage. valgrind must be on the PATH; a set takes it a minute or two.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

from data_sets import SIZE, drawn, folder_images, write

VARIANTS: Final = ("rrc", "rrc+ra+re")
CLASSES: Final = 1000
VIEWS: Final = 50  # stored per image
WARM_UP: Final = 3  # batches before counting: as many as the pipeline keeps ahead, and one

# A stage takes what no stage before it took: patterns of "function [object file]", as callgrind_annotate prints it,
# without the types of a function's arguments.
STAGES: Final = (
    (
        "replay: weights",
        r"image::(TapTable|avx2::.*(Weigh|Split(By|Weights|Evenly)|GroupWeights)|SetTaps|.*FixedWeight)",
    ),
    ("replay: weights", r"Resizer::SetTaps"),
    ("replay: horizontal pass", r"image::.*(ResizeRows|FourPixels|FourByPairs)"),
    ("replay: vertical pass", r"image::.*ResizeColumn"),
    ("replay: planes", r"image::.*SplitRow"),
    (
        "replay: operations",
        r"image::.*(::(Lut|Mask|Solarize|MinMax|GreySum|Color|Sharpness|General|Histogram)\b|Scratch::Apply|BlendLevels"
        r"|image::(Blend|Equalize|AutoContrast))",
    ),
    ("replay: output", r"image::.*(Finish|Join|Round(Half|Bfloat)|Scratch::(Write|Erase))"),
    (
        "decode",
        r"dali_dr::jpeg|jpeg_|jsimd_|decode_mcu|jinit_|(fill_bit_buffer|_idct_|_upsample|ycc_rgb)|\[.*jpeg[^]]*\]",
    ),
    ("decode", r"nvimgcodec"),
    (
        "read",
        r"dali_dr::(Shards|Record|Samples|Crc|Index|Buffers|Files|shards|record|samples|\w*Read)|libzstd|ZSTD_|HUF_|FSE_",
    ),
    ("replay: rest", r"dali_dr::image::"),
    ("read", r"dali_dr::"),
    ("copies", r"mem(cpy|move|set)"),
    ("DALI", r"\[.*libdali|dali::|libcudart|libnvcomp"),
    ("torch", r"\[.*(libtorch|libc10|libgomp)"),
    ("Python and the rest", r""),
)


def stage_of(function: str) -> str:
    """The first stage with a pattern that is found in "function [object file]"."""
    name = re.sub(r"(?<=\w)(<\d+>)?\((?!anonymous).*\)( const)?(?= \[|$)", "", function)
    return next(stage for stage, pattern in STAGES if re.search(pattern, name))


def own_instructions(annotated: str) -> Counter[str]:
    """Instructions by "function [object file]", from what callgrind_annotate printed."""
    found: Counter[str] = Counter()
    for line in annotated.splitlines():
        match = re.match(r"\s*([\d,]+) \(\s*[\d.]+%\)\s+(.*)$", line)
        if match and match[2] != "PROGRAM TOTALS":
            place = match[2]
            found[place.split(":", 1)[1] if re.match(r"[^ ]*?:[^:]", place) else place] += int(
                match[1].replace(",", "")
            )
    return found


def load(folder: Path, batches: int, batch_size: int) -> None:
    """What runs under valgrind: loads, and tells the other process when counting may begin and end."""
    from dali_dr import ReinforcedIterator

    iterator = ReinforcedIterator(
        folder, batch_size=batch_size, device="cpu", num_threads=1, size=SIZE, last_batch="fill", seed=0
    )

    def several(number: int) -> None:
        for _ in range(number):
            try:
                next(iterator)
            except StopIteration:
                next(iterator)

    for number in (WARM_UP, batches):
        several(number)
        print("loaded", flush=True)
        sys.stdin.readline()


def count(folder: Path, options: argparse.Namespace) -> Counter[str]:
    """Instructions per function of loading --batches batches of the set in `folder`."""
    with tempfile.TemporaryDirectory(prefix="dali-dr-profile-") as scratch:
        out = Path(scratch) / "callgrind.out"
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}", "-q"]
        own = [sys.executable, __file__, "--load", str(folder)]
        own += ["--batches", str(options.batches), "--batch-size", str(options.batch_size)]
        with subprocess.Popen(command + own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None and process.stdout is not None
            for state in ("on", "off"):
                while (line := process.stdout.readline().strip()) != "loaded":
                    if not line and process.poll() is not None:
                        raise SystemExit(f"the loader ended with status {process.returncode} under valgrind")
                control = ["callgrind_control", f"--instr={state}", str(process.pid)]
                subprocess.run(control, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                process.stdin.write("\n")
                process.stdin.flush()
        annotated = subprocess.run(
            ["callgrind_annotate", "--threshold=100", "--auto=no", str(out)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return own_instructions(annotated.stdout)


def report(functions: Counter[str], images: int) -> dict[str, Any]:
    """Instructions per image: of all, of each stage, and of the costliest functions of each."""
    stages: Counter[str] = Counter()
    costly: dict[str, dict[str, int]] = {}
    for function, number in functions.most_common():
        stage = stage_of(function)
        stages[stage] += number
        if len(costly.setdefault(stage, {})) < 3:
            costly[stage][function] = round(number / images)
    return {
        "instructions_per_image": round(stages.total() / images),
        "stages": {stage: round(number / images) for stage, number in stages.most_common()},
        "costliest": {stage: costly[stage] for stage, _ in stages.most_common()},
    }


def show(variant: str, result: dict[str, Any]) -> None:
    total = result["instructions_per_image"]
    print(f"\n{variant}: {total / 1e6:.2f} million instructions per image")
    for stage, number in result["stages"].items():
        print(f"  {stage:26} {number / 1e3:9.0f} thousand {100 * number / total:6.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of images")
    parser.add_argument("--images", type=int, default=64, help="of the folder, evenly spread (default %(default)s)")
    parser.add_argument("--batches", type=int, default=4, help="that are counted (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        return load(options.load, options.batches, options.batch_size)
    if options.data is None:
        parser.error("--data is needed: a folder of images")
    for tool in ("valgrind", "callgrind_control", "callgrind_annotate"):
        if not shutil.which(tool):
            raise SystemExit(f"{tool} was not found: install valgrind (Debian, Ubuntu: apt-get install valgrind)")
    photos = folder_images(options.data)
    photos = photos[:: max(1, len(photos) // options.images)][: options.images]
    results = {}
    with tempfile.TemporaryDirectory(prefix="dali-dr-profile-") as scratch:
        for variant in VARIANTS:
            folder = Path(scratch) / variant
            spec, samples = drawn(variant, photos, None, CLASSES, VIEWS)
            write(spec, samples, CLASSES, folder)
            results[variant] = report(count(folder, options), options.batches * options.batch_size)
            show(variant, results[variant])
    if options.json:
        settings = {"images": len(photos), "batches": options.batches, "batch_size": options.batch_size}
        facts = {"processors": os.cpu_count(), "settings": settings, "loaders": results}
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
