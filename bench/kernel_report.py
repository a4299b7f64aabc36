"""Registers, spills and hot loops of the GPU replay kernels, by compiler and disassembler: needs no GPU, times nothing.

    python bench/kernel_report.py [--arch sm_90] [--variants NAME,NAME] [--tools DIR] [--sources CSRC] [--json FILE]

Compiles csrc/image/device.cu for one chip as it is, and in variants: other numbers of threads, other compiler flags, lines
changed in a copy. The first table has, per variant and kernel,
  regs, stack, spills   registers per thread, bytes of its stack, bytes that ptxas stores and loads for want of registers
  fit                   blocks x warps of a multiprocessor by threads and registers (at 224 pixels, shared memory allows one)
  SASS, local           instructions of the kernel, and those that touch local memory: spills are at home there
The second has, per hot loop, "instructions/loads" per pixel of three channels ("tap": per pixel and tap), and "!n" where n
instructions of the loop touch local memory. A row counts a loop's body without the loops inside it. All of its branches
count, whether or not they exclude each other (16-byte stores and single ones, the erase box), so the numbers of a column
compare; those of different columns do not add up to a time. Fewer are better, and 0 local ones in the loops.

Loops are found in the SASS by the line info of statements of image/block, which are looked up by their text. "-": not in this
kernel, because the variant calls a function that was inlined, or because the source has changed and HOT below has not.

nvcc is needed, and for all but the registers nvdisasm: on the PATH, in $CUDA_HOME/bin or in the folder --tools.
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
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).resolve().parents[1] / "csrc"
FLAGS = ["-std=c++20", "--expt-relaxed-constexpr", "-fmad=false", "-O3", "-lineinfo", "-I.", "-Xptxas", "-v", "-cubin"]
KERNELS = ("ReplayInShared", "ReplayAllInShared", "ReplayInGlobal")
INSTALL = (
    "for the other columns: pip install nvidia-cuda-nvdisasm, or a CUDA toolkit; --tools DIR says where nvdisasm is"
)
THREADS = 1024  # of a block, where a variant says nothing else
# A multiprocessor of compute capability 8.0 or 9.0.
WARPS, SCHEDULERS, BLOCKS = 64, 4, 32
REGISTERS, WARP_REGISTERS = 65536, 256  # in the whole, and what a warp is given a multiple of


@dataclass(frozen=True)
class Variant:
    flags: tuple[str, ...] = ()
    edits: tuple[tuple[str, str, str], ...] = ()  # file of csrc/image, a text in it, and what takes its place
    threads: int = THREADS


def block(name: str, old: str, new: str) -> Variant:
    return Variant(edits=((f"block/{name}.h", old, new),))


def device(old: str, new: str) -> Variant:
    return Variant(edits=(("device.cu", old, new),))


def threads(count: int, *edits: tuple[str, str, str]) -> Variant:
    default = ("device.cu", f"DALI_DR_THREADS {THREADS}", f"DALI_DR_THREADS {count}")
    return Variant(edits=(default, *edits), threads=count)


def called(name: str, function: str) -> Variant:
    """Of a function that is declared in block.h and defined in another file."""
    places = (("block/block.h", f"void {function}("), (f"block/{name}.h", f"void BlockReplay<Block>::{function}("))
    return Variant(edits=tuple((f, f"DR_BLOCK {text}", f"__device__ __noinline__ {text}") for f, text in places))


VARIANTS = {
    "as it is": Variant(),
    "896 threads": threads(896),
    "768 threads": threads(768),
    "640 threads": threads(640),
    "512 threads": threads(512),
    "512 threads x 2 blocks": threads(512, ("device.cu", "(kThreads, 1)", "(kThreads, 2)")),
    "-maxrregcount 80": Variant(("-maxrregcount=80",)),
    "2 rows a thread": block("layout", "kResizeRows = 4;", "kResizeRows = 2;"),
    "3 rows a thread": block("layout", "kResizeRows = 4;", "kResizeRows = 3;"),
    "6 rows a thread": block("layout", "kResizeRows = 4;", "kResizeRows = 6;"),
    "taps unrolled by 4": block("memory", '"unroll 2"', '"unroll 4"'),
    "taps not unrolled": block("memory", '"unroll 2"', '"unroll 1"'),
    "ForEach unrolled": device("#pragma unroll 1", ""),
    "address made anew": device('asm volatile("" : "+r"(address));', ""),
    "job in registers": block("block", "Show(const Job& job) {", "Show(const Job& given) { const Job job = given;"),
    "division": block("layout", "__umulhi(2 * uint32_t(n), factor) >> shift", "uint32_t(n) / by"),
    "FillTable called": called("resize", "FillTable"),
    "Histogram called": called("histogram", "Histogram"),
    "VerticalOfImage called": called("resize", "VerticalOfImage"),
}


@dataclass(frozen=True)
class Hot:
    """The loop of image/block that has the most instructions of `statement` in `function`; patterns match within lines."""

    name: str
    function: str
    statement: str
    pixels: float  # of three channels that one unit makes; ROWS: kResizeRows
    # A load or store that occurs once per unit, by opcode and line: how far the compiler has unrolled an innermost loop.
    # Without it the loop is not unrolled, for it contains others.
    unit: tuple[str, str] | None = None
    calls: tuple[str, ...] = ()  # lines from which the function was reached


ROWS = 0
LOADS, LOAD, STORE = ("LD", "LDG", "LDS", "LDL"), r"LD[GS]?", r"ST[GS]?"
SUM, WEIGHT, QUAD = r"\+= w \*", (LOAD, r"w = weight\[t\]"), (LOAD, r"word = LoadWord")
RING, BAND, IMAGE = r"Horizontal\(crop \+", r"Horizontal\(band", r"VerticalOfImage\(job, down, y"
HOT = (
    Hot("hor tap", "Horizontal", SUM, ROWS, WEIGHT, (RING,)),
    Hot("hor rest", "Horizontal", r"range = table\.range\[x\]", ROWS, calls=(RING,)),
    Hot("band tap", "Horizontal", SUM, ROWS, WEIGHT, (BAND,)),
    Hot("ring tap", "VerticalOfRing", SUM, 4, WEIGHT),
    Hot("ring rest", "VerticalOfRing", "RoundWeighted", 4),
    Hot("vert tap", "VerticalOfImage", SUM, 4 / 3, WEIGHT, (IMAGE,)),
    Hot("affine", "ApplyAffine", r"sx = ", 4 / 3, (STORE, r"StoreWord\(to")),
    Hot("sharp", "ApplySharpness", r"sum = column", 4 / 3),
    Hot("color", "ApplyColor", r"grey = Grey", 4),
    Hot("contrast", "GreySum", r"sum \+= ", 4),
    Hot("histo", "Histogram", r"own \+ c \* kLevels", 4 / 3, QUAD),
    Hot("uint8", "WriteAlone", r"v\[k\] =", 4 / 3, QUAD, (r"WriteAlone\(.*uint8_t", r"values\(.* v\);")),
    Hot("16 bits", "WriteAlone", r"v\[k\] =", 4 / 3, QUAD, (r"WriteAlone\(.*uint16_t", r"values\(.* v\);")),
    Hot("float32", "WriteAlone", r"v\[k\] =", 4 / 3, QUAD, (r"WriteAlone\(.*uint32_t", r"values\(.* v\);")),
)
ENDS = ("BRA", "BRX", "JMP", "EXIT", "RET")  # opcodes that may lead elsewhere than to the next instruction


@dataclass(frozen=True)
class Instruction:
    op: str  # without modifiers
    target: str | None  # label of a branch
    falls: bool  # whether the next instruction may follow
    lines: frozenset[tuple[str, int]]  # of the source: its own and those of the calls inlined around it


@dataclass
class Loop:
    own: list[Instruction] = field(default_factory=list)  # without loops inside
    innermost: bool = True


@dataclass
class Code:
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


def parse(sass: str) -> dict[str, Code]:
    """The code of each kernel in a listing with inlined line info."""
    kernels: dict[str, Code] = {}
    code, lines, new = Code(), set[tuple[str, int]](), False
    instruction = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+\{?\s*(@!?U?P\w+\s+)?([A-Z0-9]+)([^;]*)")
    for text in sass.splitlines():
        if text.startswith("\t.section\t"):
            name = next((k for k in KERNELS if k in text.split(",")[0]), None)
            code = kernels.setdefault(name, Code()) if name and "\t.text." in text else Code()
        elif found := re.match(r'\t//## File "([^"]*)", line (\d+)', text):
            if not new:
                lines, new = set(), True
            lines.add((Path(found[1]).stem, int(found[2])))
        elif text.startswith(".L"):
            code.labels[text.split(":")[0]] = len(code.instructions)
        elif found := instruction.match(text):
            op, rest, new = found[2], found[3], False
            target = re.search(r"`\((\.L\w+)\)", rest) if op in ("BRA", "JMP") else None
            conditional = found[1] is not None or re.search(r"\bU?P\d", rest) is not None
            falls = op not in ENDS or (conditional and op != "BRX")
            code.instructions.append(Instruction(op, target[1] if target else None, falls, frozenset(lines)))
    return kernels


def flow(code: Code) -> tuple[list[list[Instruction]], list[list[int]]]:
    """Basic blocks, and the numbers of those that follow each."""
    all_ = code.instructions
    starts = {0, *code.labels.values()} | {i + 1 for i, x in enumerate(all_) if x.op in ENDS}
    begin = sorted(s for s in starts if s < len(all_))
    number = {s: b for b, s in enumerate(begin)}
    blocks = [all_[s:e] for s, e in zip(begin, [*begin[1:], len(all_)], strict=True)]
    following: list[list[int]] = []
    for b, body in enumerate(blocks):
        place = code.labels.get(body[-1].target or "")
        to = [] if place is None or place not in number else [number[place]]
        following.append(to + ([b + 1] if body[-1].falls and b + 1 < len(blocks) else []))
    entered = {0, *(t for to in following for t in to)}
    for b, body in enumerate(blocks):
        if body[-1].op == "BRX":  # of a switch; it is where nothing else leads that it may lead to
            following[b] += [t for t in range(len(blocks)) if t not in entered]
    return blocks, following


def loops(code: Code) -> list[Loop]:
    """The natural loops, found by the dominators of the blocks (Cooper, Harvey and Kennedy)."""
    blocks, following = flow(code)
    before: list[list[int]] = [[] for _ in blocks]
    order: list[int] = []  # postorder
    seen, stack = {0}, [(0, iter(following[0]))]
    while stack:
        b, rest = stack[-1]
        t = next(rest, None)
        if t is None:
            order.append(b)
            stack.pop()
        elif t not in seen:
            seen.add(t)
            stack.append((t, iter(following[t])))
    for b in order:
        for t in following[b]:
            before[t].append(b)
    rank = {b: i for i, b in enumerate(order)}
    above = {0: 0}  # the nearest dominator
    changed = True
    while changed:
        changed = False
        for b in reversed(order[:-1]):
            new, *others = (p for p in before[b] if p in above)
            for other in others:
                while new != other:
                    if rank[new] < rank[other]:
                        new = above[new]
                    else:
                        other = above[other]
            changed |= above.get(b) != new
            above[b] = new
    bodies: dict[int, set[int]] = {}  # by the loop's first block
    for b in order:
        for head in following[b]:
            x = b
            while rank[x] < rank[head]:
                x = above[x]
            if x != head:
                continue
            body, work = bodies.setdefault(head, {head}), [b]
            while work:
                if (x := work.pop()) not in body:
                    body.add(x)
                    work += before[x]
    inner = {}  # the innermost loop of a block
    for head in sorted(bodies, key=lambda h: -len(bodies[h])):
        inner.update(dict.fromkeys(bodies[head], head))
    found = {head: Loop(innermost=len(bodies.keys() & body) == 1) for head, body in bodies.items()}
    for b, head in inner.items():
        found[head].own += blocks[b]
    return list(found.values())


def count(code: list[Instruction], *ops: str) -> int:
    return sum(x.op in ops for x in code)


Lines = list[tuple[str, int, str]]  # file without suffix, number, text


def measure(hot: Hot, source: Lines, found: list[Loop]) -> dict[str, float] | None:
    """Counts of a hot loop per pixel; `source` is image/block, one file after another."""

    def places(pattern: str, lines: Lines) -> set[tuple[str, int]]:
        return {(name, number) for name, number, text in lines if re.search(pattern, text)}

    first = next(i for i, line in enumerate(source) if f"BlockReplay<Block>::{hot.function}(" in line[2])
    last = next(i for i in range(first, len(source)) if source[i][2] == "}")
    wanted = [places(hot.statement, source[first:last]), *(places(call, source) for call in hot.calls)]
    hits = [sum(all(w & x.lines for w in wanted) for x in a.own) * (a.innermost or not hot.unit) for a in found]
    if max(hits) == 0:
        return None
    own = found[hits.index(max(hits))].own
    units = 1
    if hot.unit:
        where = places(hot.unit[1], source)
        units = max(1, sum(bool(re.fullmatch(hot.unit[0], x.op) and where & x.lines) for x in own))
    rows = next(int(m[1]) for *_, text in source if (m := re.search(r"kResizeRows = (\d+)", text)))
    pixels = units * (hot.pixels or rows)
    loads = count(own, *LOADS) / pixels
    return {"instructions": len(own) / pixels, "loads": loads, "local": count(own, "LDL", "STL")}


def find(tool: str, folder: str | None) -> str | None:
    home = os.environ.get("CUDA_HOME")
    folders = (folder, str(Path(home) / "bin") if home else None)
    return next((p for f in folders if f and (p := shutil.which(tool, path=f))), None) or shutil.which(tool)


def fit(registers: int, threads: int) -> str:
    a_warp = -(-registers * 32 // WARP_REGISTERS) * WARP_REGISTERS
    warps = min(WARPS, REGISTERS // SCHEDULERS // a_warp * SCHEDULERS)
    return f"{min(BLOCKS, warps // (threads // 32))}x{threads // 32}"


def report(variant: Variant, arch: str, nvcc: str, nvdisasm: str | None, sources: Path) -> list[dict[str, Any]] | str:
    """One row per kernel, or why there are none."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for room in ("image", "view"):
            shutil.copytree(sources / room, copy / room)
        for name, old, new in variant.edits:
            text = (copy / "image" / name).read_text()
            if old not in text:
                return f"{name} has no {old!r}"
            (copy / "image" / name).write_text(text.replace(old, new))
        command = [nvcc, *FLAGS, f"-arch={arch}", *variant.flags, "image/device.cu", "-o", "kernels"]
        built = subprocess.run(command, cwd=copy, capture_output=True, text=True)
        if built.returncode:
            return built.stderr
        listing = ""
        if nvdisasm:
            command = [nvdisasm, "-c", "-gi", "kernels"]
            listing = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=True).stdout
        files = sorted((copy / "image" / "block").glob("*.h"))
        source = [(f.stem, n, line) for f in files for n, line in enumerate(f.read_text().splitlines(), 1)]
    rows, codes = [], parse(listing)
    for kernel in KERNELS:
        entries = (built.stdout + built.stderr).split("Compiling entry")[1:]
        told = next((t for t in entries if kernel in t), None)
        if told is None:  # of sources from before there was this kernel
            continue
        numbers = [
            int(m[1]) if (m := re.search(p, told)) else 0
            for p in (r"Used (\d+)", r"(\d+) bytes stack", r"(\d+) bytes spill st", r"(\d+) bytes spill lo")
        ]
        row: dict[str, Any] = dict(zip(("registers", "stack", "stores", "loads"), numbers, strict=True))
        row |= {"kernel": kernel, "fit": fit(numbers[0], variant.threads)}
        if kernel in codes:
            code = [x for x in codes[kernel].instructions if x.op != "NOP"]
            found = loops(codes[kernel])
            row |= {"sass": len(code), "local": count(code, "LDL", "STL")}
            row["loops"] = {hot.name: measure(hot, source, found) for hot in HOT}
        rows.append(row)
    return rows


def cell(loop: dict[str, float] | None) -> str:
    if loop is None:
        return "-"
    return f"{loop['instructions']:.1f}/{loop['loads']:.1f}" + (f"!{loop['local']:.0f}" if loop["local"] else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="default: %(default)s")
    parser.add_argument("--tools", help="folder of nvcc or nvdisasm")
    parser.add_argument("--sources", type=Path, default=SOURCES, help="csrc of another checkout")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    nvcc, nvdisasm = find("nvcc", options.tools), find("nvdisasm", options.tools)
    if nvcc is None:
        sys.exit("nvcc was not found: put a CUDA toolkit's bin folder on the PATH, or name it with --tools")
    if not (options.sources / "image" / "device.cu").is_file():
        sys.exit(f"--sources {options.sources}: holds no image/device.cu; name the csrc folder of a checkout")
    if options.tools and not Path(options.tools).is_dir():
        sys.exit(f"--tools {options.tools}: is no folder")
    names = options.variants.split(",")
    if unknown := set(names) - VARIANTS.keys():
        sys.exit(f"no such variant: {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    results: dict[str, list[dict[str, Any]]] = {}
    head = f"{'variant':22} {'kernel':14} {'regs':>4} {'stack':>5} {'spills':>9} {'fit':>5} {'SASS':>6} {'local':>5}"
    print(head, flush=True)
    for name in names:
        rows = report(VARIANTS[name], options.arch, nvcc, nvdisasm, options.sources)
        if isinstance(rows, str):
            print(f"{name:22} not built: {rows}", flush=True)
            continue
        results[name] = rows
        for r in rows:
            figures = f"{r['registers']:4} {r['stack']:5} {r['stores']:4}/{r['loads']:<4} {r['fit']:>5}"
            print(f"{name:22} {r['kernel']:17} {figures} {r.get('sass', ''):>6} {r.get('local', ''):>5}", flush=True)
    for kernel in KERNELS if nvdisasm else ():
        print(f"\n{kernel:22}", *(f"{hot.name:>10}" for hot in HOT))
        for name, rows in results.items():
            for row in (row for row in rows if row["kernel"] == kernel):
                print(f"{name:22}", *(f"{cell(row['loops'][hot.name]):>10}" for hot in HOT))
    if nvdisasm is None:
        print(INSTALL)
    if options.json:
        release = re.search(r"V([\d.]+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout)
        facts = {"arch": options.arch, "nvcc": release[1] if release else None, "date": time.strftime("%Y-%m-%d")}
        options.json.write_text(json.dumps(facts | {"variants": results}, indent=1) + "\n")
    return 0 if results else 1


if __name__ == "__main__":
    sys.exit(main())
