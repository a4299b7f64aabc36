"""What the GPU path must show end to end: steps in order of value, each a process of its own with a limit of its own.

    python bench/gpu_proof.py --photos DIR --json FILE [--seconds 330] [--steps NAME ...] [--device cpu]

bench/gpu_proof.sh runs it where DALI is unpacked. A step that fails, hangs or is killed costs only itself; every figure is
on disk as soon as it is there, and what does not fit into the time is named. The kernels by themselves are device_test's
(csrc/tests/device). --device cpu runs everything small on the CPU, to check the scripts where there is no GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import loaders
import proof_step
import throughput

BENCH = Path(__file__).resolve().parent
VIEWS = 100  # stored per image: one group of rows of a record, as with 400
LEAST = 8.0  # seconds below which no step is begun


@dataclasses.dataclass(frozen=True)
class Step:
    """A command; {data}, {json}, {device}, {limit}, {best}, {roi} and {teacher} are filled in. `limit` in seconds."""

    name: str
    command: tuple[str, ...]
    limit: float
    least: float = LEAST
    environment: tuple[tuple[str, str], ...] = ()
    instead_of: str = ""  # run only where this step was killed by a signal


def script(name: str, *arguments: str) -> tuple[str, ...]:
    common = ("--data", "{data}", "--json", "{json}", "--device", "{device}", "--limit", "{limit}")
    return (sys.executable, "-W", "ignore", str(BENCH / f"{name}.py"), *common, *arguments)


def tests(expression: str, *, workers: int) -> tuple[str, ...]:
    parallel = ("-n", str(workers)) if workers > 1 else ()
    return (
        *(
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--no-header",
            "--durations=3",
        ),
        *("--maxfail=12", *parallel, "tests/test_gpu.py", "-k", expression),
    )


BEST = ("--hw-decoder-load", "{best}", "--roi-decode", "{roi}")
CHAINS = (("DALI_DR_TEST_CHAINS", "2000"),)  # device_test compares 10,000 by itself
STEPS = (
    Step("tests", tests("not sanitizer and not generation", workers=4), 90, environment=CHAINS),
    Step("stress regions", script("decode_stress"), 35),
    Step("stress whole images", script("decode_stress", "--roi-decode", "off"), 35),
    Step(
        "loaders",
        script(
            "gpu_loaders",
            *("--names", "decode_roi", "decode_full", "dali_plain", "ours_rrc", "ours_rrc_ra_re"),
            *("--hw-loads", "0.12", "0.65", "0.99"),
        ),
        60,
    ),
    # A release of the decoder crashed on regions (NVIDIA/nvImageCodec#55): all that follows then decodes whole images.
    Step(
        "loaders of whole images",
        script(
            "gpu_loaders", "--names", "decode_full", "dali_plain", "ours_rrc", "ours_rrc_ra_re", "--roi-decode", "off"
        ),
        40,
        instead_of="loaders",
    ),
    Step(
        "loaders decoded by the CPU",
        script(
            "gpu_loaders",
            *("--names", "decode_roi", "dali_plain", "ours_rrc_ra_re", "--decode-device", "cpu", "--rounds", "2"),
        ),
        40,
    ),
    Step("train resnet50", script("train_step", "--model", "resnet50", "--batch-size", "128", *BEST), 50),
    Step(
        "loaders more",
        script(
            "gpu_loaders",
            *(
                "--names",
                "dali_plain",
                "dali_rand_augment",
                "ours_rrc_ra_re",
                "ours_rrc_mixing_ra_re",
                "ours_double_mix",
            ),
            *("ours_plain", "ours_eval", "--rounds", "2", *BEST),
        ),
        60,
    ),
    Step("generation", tests("generation", workers=1), 40),
    Step(
        "train mobilenetv3",
        script("train_step", "--model", "mobilenetv3_large_100", "--batch-size", "256", *BEST),
        40,
    ),
    Step(
        "train swin",
        script("train_step", "--model", "swin_tiny_patch4_window7_224", "--batch-size", "128", *BEST),
        45,
    ),
    Step("decoder gap", script("decoder_gap", "--teacher", "{teacher}", "--roi-decode", "{roi}"), 40),
    Step("sanitizer", tests("sanitizer", workers=2), 120, least=40),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of JPEG files; default: the photos of the demo")
    parser.add_argument("--json", type=Path, default=Path("gpu-proof.json"))
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--seconds", type=float, default=330.0, help="for all steps together (default %(default)s)")
    parser.add_argument("--steps", nargs="+", choices=[s.name for s in STEPS], default=[s.name for s in STEPS])
    parser.add_argument("--teacher", default="efficientnet-lite0", help="of the decoder gap")
    options = parser.parse_args()
    proof_step.interrupt_on_signals()
    end = time.monotonic() + options.seconds
    report: dict[str, Any] = {"machine": throughput.machine() | build(), "steps": {}}
    with tempfile.TemporaryDirectory(prefix="dali-dr-proof-") as folder:
        scratch = Path(folder)
        begin = time.monotonic()
        report["data"] = loaders.prepare(options.photos, scratch, loaders.MIXING_NAMES, views=VIEWS)
        report["data"]["seconds"] = round(time.monotonic() - begin, 1)
        proof_step.write_json(options.json, report)
        print(f"== data prepared in {report['data']['seconds']} s", file=sys.stderr, flush=True)
        for step in STEPS:
            if step.name not in options.steps or (step.instead_of and not killed(report, step.instead_of)):
                continue
            left = end - time.monotonic()
            if left < step.least:
                report["steps"][step.name] = {"outcome": f"left out: {max(left, 0):.0f} s were left"}
            else:
                report["steps"][step.name] = run(step, min(step.limit, left), scratch, options, report)
            proof_step.write_json(options.json, report)
            print(f"== {step.name}: {report['steps'][step.name]['outcome']}", file=sys.stderr, flush=True)
            if report["steps"][step.name]["outcome"].startswith("interrupted"):
                break
    table(report)
    outcomes = [step["outcome"] for step in report["steps"].values()]
    fine = ("passed", "left out") if options.device == "gpu" else ("passed", "left out", "nothing run")
    return int(not all(o.startswith(fine) for o in outcomes) or not any(o.startswith("passed") for o in outcomes))


def build() -> dict[str, Any]:
    from dali_dr import _plugin

    facts: dict[str, Any] = {"plugin": _plugin.build_facts()}
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        facts["driver"] = " ".join(proof_step.run_limited(command, 20)[2])
    return facts


def killed(report: dict[str, Any], name: str) -> bool:
    return "killed" in report["steps"].get(name, {}).get("outcome", "")


def run(step: Step, limit: float, scratch: Path, options: argparse.Namespace, report: dict[str, Any]) -> dict[str, Any]:
    """Runs a step to its end or its limit; what it had written by then counts."""
    own = scratch / f"{step.name}.json"
    own.unlink(missing_ok=True)
    settings = report["steps"].get("loaders", {}).get("figures", {}).get("settings", {})
    values = {
        "data": str(scratch),
        "json": str(own),
        "device": options.device,
        "limit": str(max(1.0, limit - 4)),  # to leave by itself before it is killed
        "best": str(settings.get("hw_decoder_load", 0.65)),
        "roi": "off" if killed(report, "loaders") else "on",
        "teacher": options.teacher,
    }
    command = [part.format(**values) for part in step.command]
    environment = os.environ | dict(step.environment)
    if options.device == "cpu":
        environment |= {"DALI_DR_GPU_TESTS": "cpu", "DALI_DR_TEST_CHAINS": "100"}
    outcome, seconds, lines = proof_step.run_limited(command, limit, environment, BENCH.parent)
    row: dict[str, Any] = {"outcome": outcome, "seconds": seconds}
    if own.is_file():
        row["figures"] = json.loads(own.read_text())
    if "pytest" in command and lines:
        summary = lines[-1].strip("= ")
        if outcome == "passed" and " passed" not in f" {summary}":  # skipped tests have shown nothing
            outcome = "nothing run"
        row["outcome"] = f"{outcome}: {summary}"
    if outcome != "passed":
        row["output"] = lines[-60:]
        print("\n".join(lines[-30:]), file=sys.stderr)
    return row


# ---- the table


def table(report: dict[str, Any]) -> None:
    machine, steps = report["machine"], report["steps"]
    print(f"\n{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, {machine['date']}, {machine['versions']}")
    for name, step in steps.items():
        print(f"{name:30} {step.get('seconds', 0):6.1f} s  {step['outcome']}")
    for name in (s.name for s in STEPS if s.name.startswith("loaders")):
        figures = steps.get(name, {}).get("figures", {})
        rates = figures.get("rates", {})
        if rates:
            print(f"{name}, {figures['settings']}")
        for loader, rate in rates.items():
            print(f"  {loader:28} {rate:10.0f} img/s")
        for other in ("dali_plain", "dali_rand_augment", "decode_roi"):
            if other in rates and "ours_rrc_ra_re" in rates:
                print(f"  {'ours_rrc_ra_re ÷ ' + other:36} {rates['ours_rrc_ra_re'] / rates[other]:8.3f}")
    for name, step in steps.items():
        figures = step.get("figures", {})
        if "milliseconds" in figures:
            times = "  ".join(f"{feed} {min(values)} ms" for feed, values in figures["milliseconds"].items())
            print(f"{name:30} {times}  ours ÷ plain {figures.get('ours_by_plain', '-')}")
    for name in ("stress regions", "stress whole images", "decoder gap"):
        for figure, row in steps.get(name, {}).get("figures", {}).items():
            print(f"{name}, {figure}: {row}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
