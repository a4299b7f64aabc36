"""Random damage to a data set's files, and what a training run makes of it: nothing may be wrong without an error.

    python bench/mutations.py [--count 2000] [--seed 1] [--processes 2] [--flips] [--integrity full] [--keep DIR] [--json FILE]

A small data set (pictures made here, two variants of views in turn) is written once; every mutation damages one file of
a copy, and a process of its own opens the copy and runs three epochs over it. Its batches (pixels, labels, targets, keys) are
compared with those of the undamaged set:

  error    one error of dali_dr, and nothing else
  same     the run went through, and every value is what it was
  image    the run went through, and nothing differs but pixels, of images whose encoded bytes were damaged (in mixed
           views also where such an image is the partner): not covered by design, but with --integrity full
  SILENT   the run went through with another wrong value
  CRASH    the process died by a signal, or of an exception that is none of dali_dr's
  HANG     it took longer than 60 seconds

Exits with 1 where there is a SILENT, CRASH or HANG, or, with --integrity full, an image.

`--flips`: single bits of records alone, evenly over all records' bytes.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import platform
import queue as stdlib_queue
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
from data_sets import drawn, write

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SETS: Final = ("rrc+ra+re", "rrc+mixing+ra+re")
IMAGES, VIEWS, PER_SHARD, CLASSES, SIZE = 18, 24, 6, 50, 32
BATCH: Final = 6
LIMIT_S: Final = 60
READ: Final = ("dataset.json", "index.bin", "*.tar")  # what training reads
OUTCOMES: Final = ("error", "same", "image", "SILENT", "CRASH", "HANG")
BAD: Final = ("SILENT", "CRASH", "HANG")


# ---- the data


def write_set(folder: Path, variant: str, views: int = VIEWS) -> None:
    """A data set of pictures made here, small enough that damage hits headers and tables often."""
    from PIL import Image

    random = np.random.default_rng(0)
    images = []
    for number, (height, width) in enumerate(random.integers(24, 64, (IMAGES, 2)).tolist()):
        coarse = random.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        buffer = io.BytesIO()
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(buffer, "PNG" if number % 6 == 5 else "JPEG")
        images.append((f"class-{number % 5}/picture-{number}", buffer.getvalue(), int(random.integers(CLASSES))))
    spec, samples = drawn(variant, images, None, CLASSES, views, SIZE)
    write(spec, samples, CLASSES, folder, samples_per_shard=PER_SHARD)


def places(folder: Path, kind: str) -> list[tuple[str, int, int]]:
    """File, first byte and number of bytes of every member of a kind, "image" or "record", from the tars themselves."""
    import tarfile

    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(".dr.zst") == (kind == "record") and not member.name.endswith(".cls"):
                    found.append((path.name, member.offset_data, member.size))
    return found


def epochs(folder: Path, integrity: str, count: int = 3) -> dict[str, Any]:
    """What training sees: by sample number the bytes of label, targets and key, and of its views' pixels."""
    from dali_dr import ReinforcedIterator

    options = {"integrity": integrity} if integrity != "normal" else {}
    loader = ReinforcedIterator(
        folder, batch_size=BATCH, device="cpu", num_threads=1, order="sequential", last_batch="partial", dtype="float32",
        with_index=True, **options,
    )  # fmt: skip
    seen: dict[int, Any] = {}
    for batch in itertools.chain.from_iterable(itertools.repeat(loader, count)):
        values = {name: tensor.numpy() for name, tensor in batch[0].items()}
        for place, number in enumerate(values["index"].tolist()):
            rest = [values[n][place].tobytes() for n in ("label", "soft_ids", "soft_probs", "view")]
            facts = seen.setdefault(number, {"rest": [], "pixels": []})
            facts["rest"].append((loader.dataset.keys[number], *rest))
            facts["pixels"].append(values["data"][place].tobytes())
    return seen


# ---- the damage


@dataclasses.dataclass(frozen=True)
class Damage:
    """What was done: to bytes `begin` … `end` of a file."""

    kind: str
    file: str
    begin: int
    end: int


def damage(folder: Path, random: np.random.Generator) -> Damage:
    """Damages one file of the set in `folder`."""
    files = sorted(path for pattern in READ for path in folder.glob(pattern))
    path = files[random.choice(len(files), p=_shares(files))]
    data = bytearray(path.read_bytes())
    kind = str(random.choice(_KINDS))
    # half of all damage falls where headers and tables are
    span = len(data) if random.random() < 0.5 else min(len(data), 4096)
    at = int(random.integers(span))
    length = int(min(2 ** random.integers(0, 11), len(data) - at))
    end = at + length
    if kind == "bit":
        data[at] ^= 1 << int(random.integers(8))
        end = at + 1
    elif kind == "byte":
        data[at] = int(random.integers(256))
        end = at + 1
    elif kind == "zeros":
        data[at:end] = bytes(length)
    elif kind == "random":
        data[at:end] = random.bytes(length)
    elif kind == "cut off":
        del data[at:]
        end = len(data)
    elif kind == "grown":
        data += random.bytes(length)
        at = end = len(data)
    elif kind == "left out":
        del data[at:end]
        end = len(data)
    elif kind == "put in":
        data[at:at] = random.bytes(length)
        end = len(data)
    elif kind == "moved":  # a block over another, as a confused disk writes it
        to, size = int(random.integers(len(data) // 512 + 1)) * 512, 512 * int(random.integers(1, 5))
        source = int(random.integers(len(data) // 512 + 1)) * 512
        block = data[source : source + size][: max(0, len(data) - to)]
        data[to : to + len(block)] = block
        at, end = to, to + len(block)
    elif kind == "number":  # one that lies
        value = int(random.choice([0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63]))
        put = value.to_bytes(8, "little")[: int(random.choice([2, 4, 8]))][: len(data) - at]
        data[at : at + len(put)] = put
        end = at + len(put)
    elif kind == "other file":
        data = bytearray(files[int(random.integers(len(files)))].read_bytes())
        at, end = 0, len(data)
    elif kind == "swapped bits":
        other = int(random.integers(len(data)))
        data[at], data[other] = data[other], data[at]
        at, end = min(at, other), max(at, other) + 1
    path.write_bytes(data)
    if kind == "missing":
        path.unlink()
    return Damage(kind, path.name, at, end)


_KINDS: Final = (
    "bit", "bit", "bit", "byte", "byte", "zeros", "random", "cut off", "grown", "left out", "put in", "moved", "moved",
    "number", "number", "other file", "swapped bits", "missing",
)  # fmt: skip


def _shares(files: list[Path]) -> list[float]:
    """A third each for manifest, index and tars."""
    kinds = Counter(path.suffix for path in files)
    return [1 / len(kinds) / kinds[path.suffix] for path in files]


def flip(folder: Path, random: np.random.Generator) -> Damage:
    """Flips one bit of a record."""
    records = places(folder, "record")
    bytes_of = np.array([size for _, _, size in records], float)
    name, first, size = records[random.choice(len(records), p=bytes_of / bytes_of.sum())]
    at = first + int(random.integers(size))
    data = bytearray((folder / name).read_bytes())
    data[at] ^= 1 << int(random.integers(8))
    (folder / name).write_bytes(data)
    return Damage("bit", name, at, at + 1)


# ---- processes


def work(pipe: multiprocessing.connection.Connection, integrity: str) -> None:
    """Runs the epochs of every folder that comes, until None does."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    from dali_dr.errors import DaliDrError

    while (folder := pipe.recv()) is not None:
        try:
            answer: Any = epochs(Path(folder), integrity)
        except DaliDrError as error:
            answer = "error", f"{error}"
        except BaseException as error:  # what a stranger would meet
            answer = "CRASH", f"{type(error).__name__}: {error}"
        pipe.send(answer)


class Worker:
    """A process that trains; a new one after each crash or hang."""

    def __init__(self, integrity: str) -> None:
        self._integrity = integrity
        self._process: Any = None

    def run(self, folder: Path) -> Any:
        """What was seen, or (outcome, why)."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, other = context.Pipe()
            self._process = context.Process(target=work, args=(other, self._integrity), daemon=True)
            self._process.start()
            other.close()
        self._pipe.send(str(folder))
        try:
            if self._pipe.poll(LIMIT_S):
                return self._pipe.recv()
            outcome = "HANG", f"more than {LIMIT_S} s"
        except EOFError:
            self._process.join()
            outcome = "CRASH", f"exit code {self._process.exitcode}"
        self._process.kill()
        self._process = None
        return outcome

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._pipe.send(None)
            self._process.join()


def judge(
    found: Any, true: dict[int, Any], done: Damage, images: list[tuple[str, int, int]], mixed: bool
) -> tuple[str, str]:
    """The outcome of a mutation, and what to say of it; `images` are the samples' in order."""
    if isinstance(found, tuple):
        return found
    if found == true:
        return "same", ""
    wrong = [n for n in true if found.get(n) != true[n]]
    hit = {
        number
        for number, (file, begin, size) in enumerate(images)
        if file == done.file and begin < done.end and done.begin < begin + size
    }
    pixels_alone = found.keys() == true.keys() and all(found[n]["rest"] == true[n]["rest"] for n in true)
    if pixels_alone and hit and (mixed or hit.issuperset(wrong)):
        return "image", ""
    parts = {p for n in wrong for p in ("rest", "pixels") if found.get(n, {}).get(p) != true[n][p]}
    return "SILENT", f"{sorted(parts)} of samples {wrong[:5]} differ"


def trial(number: int, options: argparse.Namespace, worker: Worker, cache: dict[str, Any]) -> dict[str, Any]:
    """One mutation, a pure function of the seed and its number."""
    name = SETS[number % len(SETS)]
    if name not in cache:
        cache[name] = worker.run(options.scratch / name), places(options.scratch / name, "image")
    true, images = cache[name]
    if isinstance(true, tuple):
        raise SystemExit(f"the undamaged set cannot be read: {true[1]}")
    folder = options.scratch / f"mutated-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(options.scratch / name, folder)
    random = np.random.default_rng([options.seed, number])
    done = (flip if options.flips else damage)(folder, random)
    outcome, why = judge(worker.run(folder), true, done, images, "mixing" in name)
    if outcome in BAD and options.keep:
        shutil.copytree(folder, options.keep / f"{outcome}-{number}", dirs_exist_ok=True)
    return {"number": number, "set": name, "outcome": outcome, "why": why, **dataclasses.asdict(done)}


def share(options: argparse.Namespace, part: int, queue: Any) -> None:
    """Every so-many-th mutation, in a process of its own."""
    worker, cache = Worker(options.integrity), {}  # type: ignore[var-annotated]
    for number in range(part, options.count, options.processes):
        queue.put(trial(number, options, worker, cache))
    worker.close()


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All mutations, in the order of their numbers."""
    import tqdm

    context = multiprocessing.get_context("fork")
    queue: Any = context.Queue()
    parts = [context.Process(target=share, args=(options, p, queue)) for p in range(options.processes)]
    for process in parts:
        process.start()
    found = []
    for _ in tqdm.trange(options.count, unit="mutation"):
        while True:
            try:
                found.append(queue.get(timeout=1))
                break
            except stdlib_queue.Empty:
                if any(p.exitcode for p in parts):
                    raise SystemExit("a process of the trial itself failed") from None
        if found[-1]["outcome"] in BAD:
            tqdm.tqdm.write(json.dumps(found[-1]))
    for process in parts:
        process.join()
    return sorted(found, key=lambda one: one["number"])


def main() -> int:
    """Runs the trial; 1 where anything was wrong."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--flips", action="store_true")
    parser.add_argument("--views", type=int, default=VIEWS, help="stored per image; 200 and more make groups of rows")
    parser.add_argument("--integrity", choices=("normal", "full"), default="normal")
    parser.add_argument("--keep", type=Path, help="keep the damaged sets that went wrong here")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        options.scratch = Path(scratch)
        for name in SETS:
            write_set(options.scratch / name, name, options.views)
        found = run(options)
    counts = Counter(one["outcome"] for one in found)
    for kind in sorted({one["kind"] for one in found}):
        of = Counter(one["outcome"] for one in found if one["kind"] == kind)
        print(f"{kind:13}", *(f"{of[o]:6} {o}" for o in OUTCOMES))
    print(f"{'all':13}", *(f"{counts[o]:6} {o}" for o in OUTCOMES))
    wrong = [one for one in found if one["outcome"] in BAD]
    if options.json:
        facts = {n: getattr(options, n) for n in ("count", "seed", "flips", "views", "integrity")}
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        options.json.write_text(json.dumps({**facts, **machine, "outcomes": counts, "wrong": wrong}, indent=1) + "\n")
    return bool(wrong or (options.integrity == "full" and counts["image"]))


if __name__ == "__main__":
    sys.exit(main())
