"""Builds the DALI plugin by CMake over csrc/ and puts it into the package; everything else is in pyproject.toml.

The plugin is bound to the exact DALI version found here, which is recorded in dali_dr/_build.json and required by the
package. There is a distribution for each flavour of DALI: `dali_dr` for nvidia-dali-cuda120, `dali_dr-cuda130` for
nvidia-dali-cuda130 (docs/install.md).
Environment: DALI_DR_DALI=cuda120|cuda130 is the flavour that an isolated build fetches (default cuda120; a build
without isolation takes whatever is installed). DALI_DR_PORTABLE=ON links the plugin for wheels; release/wheels.py, which
`make wheels` runs, sets it. DALI_DR_CUDA=AUTO|ON|OFF and DALI_DR_CUDA_ARCHITECTURES pass to CMake.
DALI_DR_PREBUILT=FILE takes a plugin that is there (with its _build.json beside it) instead of building one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
DALI_PIN = "2.4.*"
FLAVOURS = ("cuda120", "cuda130")
# The first release of torch that PyPI has for CUDA 13 only; those before are for CUDA 12, beside which DALI for CUDA 13
# would ask for a newer driver than torch does. DALI for CUDA 12 runs on the driver of either.
TORCH = {"cuda120": "torch>=2.4", "cuda130": "torch>=2.11"}


def installed_dali() -> Path | None:
    """The folder of the installed nvidia.dali package, found without importing it."""
    try:
        spec = importlib.util.find_spec("nvidia.dali")
    except ModuleNotFoundError:
        return None
    return Path(spec.origin).parent if spec and spec.origin else None


def dali_version(dali: Path) -> str:
    lines = (dali / "__init__.py").read_text().splitlines()
    return next(line.split("=")[1].strip().strip("'\"") for line in lines if line.startswith("__version__"))


def dali_flavour() -> str:
    """cuda120 or cuda130: what the environment asks for, else what is installed, else the default."""
    asked = os.environ.get("DALI_DR_DALI")
    if asked is not None and asked not in FLAVOURS:
        raise SystemExit(f"DALI_DR_DALI={asked}: not one of {', '.join(FLAVOURS)}")
    found = [flavour for flavour in FLAVOURS if any(metadata.distributions(name=f"nvidia-dali-{flavour}"))]
    if len(found) > 1:
        raise SystemExit(
            "nvidia-dali-cuda120 and nvidia-dali-cuda130 are both installed, into the same folder, where neither is whole: "
            "pip uninstall both, and install one"
        )
    if asked and found and asked != found[0]:
        raise SystemExit(
            f"DALI_DR_DALI={asked}, but nvidia-dali-{found[0]} is installed, which the plugin would be for"
        )
    return asked or (found[0] if found else FLAVOURS[0])


class Flavoured(Distribution):
    """Names the distribution by its flavour of DALI, so that pip knows the two as what they are: two."""

    def parse_config_files(self, *args: object, **kwargs: object) -> None:
        super().parse_config_files(*args, **kwargs)
        if dali_flavour() != FLAVOURS[0]:
            self.metadata.name = f"dali_dr-{dali_flavour()}"


class AnyPython(bdist_wheel):
    """No Python is in the plugin: one wheel is for all of them."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


class BuildPlugin(build_ext):
    """Runs CMake and copies libdali_dr_ops.so beside dali_dr/__init__.py."""

    def build_extension(self, ext: Extension) -> None:
        if prebuilt := os.environ.get("DALI_DR_PREBUILT"):
            facts = json.loads(Path(prebuilt).with_name("_build.json").read_text())
            self._built = (Path(prebuilt), facts)
        else:
            self._built = self._build()
        self._place(*self._built, Path(self.build_lib).resolve() / "dali_dr")

    def copy_extensions_to_source(self) -> None:  # called for an in-place or editable build
        self._place(*self._built, ROOT / "dali_dr")

    def _build(self) -> tuple[Path, dict[str, str]]:
        dali = installed_dali()
        if dali is None:
            raise SystemExit(
                "nvidia.dali is not installed, and the plugin links against it: "
                f"pip install 'nvidia-dali-{dali_flavour()}=={DALI_PIN}' and build again with --no-build-isolation"
            )
        portable = os.environ.get("DALI_DR_PORTABLE", "OFF") == "ON"
        kind = f"portable-{dali_flavour()}" if portable else f"plugin-{sys.implementation.cache_tag}"
        build = ROOT / "build" / kind
        site = Path(sysconfig.get_paths()["purelib"])
        wheel_headers = [
            str(p) for p in sorted(site.glob("nvidia/*/include")) if (p / "cuda_runtime.h").exists() or "cccl" in str(p)
        ]
        options = {
            "CMAKE_BUILD_TYPE": "Release",
            "DALI_DR_DALI_INCLUDE": str(dali / "include"),
            "DALI_DR_DALI_LIB": str(dali),
            "DALI_DR_CUDA_INCLUDE": ";".join(wheel_headers),
            "DALI_DR_CUDA": os.environ.get("DALI_DR_CUDA", "AUTO"),
            "DALI_DR_PORTABLE": "ON" if portable else "OFF",
            "DALI_DR_TESTS": "OFF",
        }
        for name in ("DALI_DR_CUDA_ARCHITECTURES", "ZSTD_INCLUDE_DIR", "ZSTD_LIBRARY"):
            if name in os.environ:
                options[name] = os.environ[name]
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        cmake = shutil.which("cmake") or "cmake"
        cache = build / "CMakeCache.txt"
        if cache.is_file() and f"{dali / 'include'}\n" not in cache.read_text():
            shutil.rmtree(build)  # another environment's DALI: start anew
        configure = [cmake, "-S", str(ROOT / "csrc"), "-B", str(build), *generator]
        subprocess.run([*configure, *(f"-D{k}={v}" for k, v in options.items())], check=True)
        target = "dali_dr_ops_portable" if portable else "dali_dr_ops"
        subprocess.run(
            [cmake, "--build", str(build), "--target", target, "--parallel", str(os.cpu_count() or 2)], check=True
        )
        library = build / ("portable/libdali_dr_ops.so" if portable else "libdali_dr_ops.so")
        return library, self._facts(dali, build)

    @staticmethod
    def _place(library: Path, facts: dict[str, str], package: Path) -> None:
        package.mkdir(parents=True, exist_ok=True)
        # Replace the file rather than write into it: a process that has the old plugin mapped keeps it.
        fresh = package / ".libdali_dr_ops.so.new"
        shutil.copy2(library, fresh)
        fresh.replace(package / "libdali_dr_ops.so")
        (package / "_build.json").write_text(json.dumps(facts, indent=1) + "\n")

    @staticmethod
    def _facts(dali: Path, build: Path) -> dict[str, str]:
        cached = {
            line.split(":")[0]: line.split("=", 1)[1]
            for line in (build / "CMakeCache.txt").read_text().splitlines()
            if "=" in line and ":" in line
        }
        compiler = cached.get("CMAKE_CUDA_COMPILER", "")
        has_cuda = cached.get("DALI_DR_CUDA") != "OFF" and bool(compiler) and "NOTFOUND" not in compiler
        nvcc = ""
        if has_cuda:
            text = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
            nvcc = text.split("release ")[1].split(",")[0]
        return {
            "dali": f"nvidia-dali-{dali_flavour()}",
            "dali_version": dali_version(dali),
            "cuda": nvcc,
            "cuda_architectures": cached.get("DALI_DR_CUDA_ARCHITECTURES", "") if has_cuda else "",
        }

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")).with_name("libdali_dr_ops.so"))

    def get_outputs(self) -> list[str]:
        return [str(Path(self.build_lib) / "dali_dr" / name) for name in ("libdali_dr_ops.so", "_build.json")]


class CopySchemas(build_py):
    """The schemas live at the top of the repository and travel inside the package."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "dali_dr" / "schemas"
            target.mkdir(parents=True, exist_ok=True)
            for schema in (ROOT / "schemas").glob("*.json"):
                shutil.copy2(schema, target)


DALI_FOLDER = installed_dali()
DALI = f"nvidia-dali-{dali_flavour()}=={dali_version(DALI_FOLDER) if DALI_FOLDER else DALI_PIN}"
setup(
    distclass=Flavoured,
    # An editable install as a path that stands in a file: type checkers follow no import hooks.
    options={"editable_wheel": {"mode": "compat"}},
    ext_modules=[Extension("dali_dr.libdali_dr_ops", sources=[])],
    cmdclass={"build_ext": BuildPlugin, "build_py": CopySchemas, "bdist_wheel": AnyPython},
    setup_requires=[] if DALI_FOLDER or "sdist" in sys.argv else [DALI],
    install_requires=[
        DALI,
        TORCH[dali_flavour()],
        "timm>=1.0",
        "numpy>=1.26",
        "webdataset>=1.0",
        "zstandard>=0.22",
        "google-crc32c>=1.5",
        "isal>=1.7",  # inflates published archives in half of zlib's time
        "obstore>=0.12",  # object stores: s3, gs, azure, http
        "pillow>=13",  # the reference arithmetic: 13 changed the order of the passes of a resize (docs/design.md)
        "tqdm>=4.66",
        "jsonschema>=4.20",
        "pyyaml>=6",  # options of teachers
    ],
)
