"""Makes link-time stand-ins of the C and C++ libraries that offer no more than an old system has.

A library built here would ask for the newest versions of what it calls (`fstat@GLIBC_2.33`), and so not load on systems
that are older. This reads the libraries of this machine and writes a stand-in for each: the same file name, and of its
symbols those of a version up to a limit, without code. What is linked against the stand-ins asks for old versions only;
what they lack is taken from the static libstdc++ and from compat.cc, or is an error of the linker that names it. Red
Hat's developer toolsets, with which manylinux wheels are built, do the same: libstdc++ of the system for what that has,
static code for the rest. Types, exceptions and streams so remain those of the one libstdc++ in the process.

    python stubs.py OUT [CXX]

The limits are those of manylinux_2_28 (PEP 600; auditwheel's policy): AlmaLinux 8, RHEL 8, Debian 10, Ubuntu 20.04.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

# Families of versions and the newest of each that manylinux_2_28 allows.
LIMITS = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 25), "CXXABI": (1, 3, 11)}
LIBRARIES = ("libc.so.6", "libm.so.6", "libstdc++.so.6", "ld-linux-x86-64.so.2")
_VERSION = re.compile(r"([A-Z]+)_([0-9.]+)$")
# Of a line of readelf: size, type, name, version. `@@` marks the version that is linked by default.
_SYMBOL = re.compile(
    r"\s*\d+: [0-9a-f]+\s+(\S+) (\w+)\s+(?:GLOBAL|WEAK|UNIQUE)\s+DEFAULT\s+\d+ ([\w.$]+)@@?(\w[\w.]*)$"
)
_SECTIONS = {"OBJECT": (".data", "object"), "TLS": ('.section .tdata,"awT",@progbits', "tls_object")}


def allowed(version: str) -> tuple[int, ...] | None:
    """The numbers of a version such as GLIBC_2.28; None where the limit is passed or the family is private."""
    match = _VERSION.match(version)
    if match is None or match[1] not in LIMITS:
        return None
    numbers = tuple(int(n) for n in match[2].split("."))
    return numbers if numbers <= LIMITS[match[1]] else None


def symbols(library: Path) -> dict[str, tuple[str, str, int]]:
    """Name -> (version, type, size) of what the library defines, in the newest version that is allowed."""
    text = subprocess.run(["readelf", "--dyn-syms", "-W", library], capture_output=True, text=True, check=True).stdout
    found: dict[str, tuple[str, str, int]] = {}
    for line in text.splitlines():
        if match := _SYMBOL.match(line):
            size, kind, name, version = match.groups()
            numbers = allowed(version)
            if numbers is not None and name != version:
                known = allowed(found[name][0]) if name in found else None
                if known is None or numbers > known:
                    found[name] = (version, kind, int(size, 0))
    return found


def write_stub(name: str, found: dict[str, tuple[str, str, int]], out: Path, compiler: str) -> None:
    """Assembles `out/name`, which defines the symbols and nothing behind them."""
    versions: dict[str, list[str]] = {}
    lines = []
    for symbol, (version, kind, size) in sorted(found.items()):
        versions.setdefault(version, []).append(symbol)
        section, type_ = _SECTIONS.get(kind, (".text", "function"))
        # A size of nothing would put two objects at one address, which the linker takes for aliases.
        lines += [section, f'.globl "{symbol}"', f'.type "{symbol}", @{type_}', f'"{symbol}": .zero {max(size, 1)}']
        lines.append(f'.size "{symbol}", {max(size, 1)}')
    source, script = out / f"{name}.s", out / f"{name}.map"
    source.write_text("\n".join([*lines, '.section .note.GNU-stack,"",@progbits', ""]))
    script.write_text("".join(f"{v} {{ {' '.join(f'{s};' for s in names)} }};\n" for v, names in versions.items()))
    command = [compiler, "-shared", "-nostdlib", f"-Wl,-soname,{name}", f"-Wl,--version-script={script}"]
    subprocess.run([*command, "-o", out / name, source], check=True)


def main() -> None:
    out, compiler = Path(sys.argv[1]), (sys.argv[2:] or ["c++"])[0]
    out.mkdir(parents=True, exist_ok=True)
    for name in LIBRARIES:
        asked = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        library = Path(asked.stdout.strip())
        if not library.is_absolute():  # the compiler repeats a name that it cannot place
            raise SystemExit(f"{compiler} finds no {name}, whose symbols a portable build is limited to")
        found = symbols(library.resolve())
        if not found:
            raise SystemExit(
                f"{library} has no symbols of a version up to {LIMITS}: readelf's output was not understood"
            )
        write_stub(name, found, out, compiler)


if __name__ == "__main__":
    main()
