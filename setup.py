"""Builds the DALI plugin by CMake over csrc/ and puts it into the package; everything else is in pyproject.toml.

The plugin is bound to the exact DALI version found here, which is recorded in dali_dr/_build.json.
Environment: DALI_DR_DALI=cuda120|cuda130 is the DALI flavour that an isolated build fetches (default cuda120; a build
without isolation takes whatever is installed, and the package then depends on that). DALI_DR_CUDA=AUTO|ON|OFF and
DALI_DR_CUDA_ARCHITECTURES pass to CMake.
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

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
DALI_PIN = "2.4.*"


def installed_dali() -> Path | None:
    """The folder of the installed nvidia.dali package, found without importing it."""
    try:
        spec = importlib.util.find_spec("nvidia.dali")
    except ModuleNotFoundError:
        return None
    return Path(spec.origin).parent if spec and spec.origin else None


class BuildPlugin(build_ext):
    """Runs CMake and copies libdali_dr_ops.so beside dali_dr/__init__.py."""

    def build_extension(self, ext: Extension) -> None:
        dali = installed_dali()
        if dali is None:
            raise SystemExit(
                "nvidia.dali is not installed, and the plugin links against it: "
                f"pip install 'nvidia-dali-cuda120=={DALI_PIN}' and build again with --no-build-isolation"
            )
        build = ROOT / "build" / f"plugin-{sys.implementation.cache_tag}"
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
        subprocess.run(
            [cmake, "--build", str(build), "--target", "dali_dr_ops", "--parallel", str(os.cpu_count() or 2)],
            check=True,
        )
        self._place(build, dali, Path(self.build_lib).resolve() / "dali_dr")
        self._built = (build, dali)

    def copy_extensions_to_source(self) -> None:  # called for an in-place or editable build
        self._place(*self._built, ROOT / "dali_dr")

    def _place(self, build: Path, dali: Path, package: Path) -> None:
        package.mkdir(parents=True, exist_ok=True)
        # Replace the file rather than write into it: a process that has the old plugin mapped keeps it.
        fresh = package / ".libdali_dr_ops.so.new"
        shutil.copy2(build / "libdali_dr_ops.so", fresh)
        fresh.replace(package / "libdali_dr_ops.so")
        (package / "_build.json").write_text(json.dumps(self._facts(dali, build), indent=1) + "\n")

    @staticmethod
    def _facts(dali: Path, build: Path) -> dict[str, str]:
        version = next(
            line.split("=")[1].strip().strip("'\"")
            for line in (dali / "__init__.py").read_text().splitlines()
            if line.startswith("__version__")
        )
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
            "dali_version": version,
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


def dali_flavour() -> str:
    """cuda120 or cuda130: what the environment asks for, else what is installed, else the default."""
    if asked := os.environ.get("DALI_DR_DALI"):
        return asked
    found = [f for f in ("cuda120", "cuda130") if any(metadata.distributions(name=f"nvidia-dali-{f}"))]
    return found[0] if found else "cuda120"


DALI = f"nvidia-dali-{dali_flavour()}=={DALI_PIN}"
setup(
    ext_modules=[Extension("dali_dr.libdali_dr_ops", sources=[])],
    cmdclass={"build_ext": BuildPlugin, "build_py": CopySchemas},
    setup_requires=[] if installed_dali() else [DALI],
    install_requires=[
        DALI,
        "torch>=2.4",
        "timm>=1.0",
        "numpy>=1.26",
        "webdataset>=1.0",
        "zstandard>=0.22",
        "google-crc32c>=1.5",
        "obstore>=0.12",  # object stores: s3, gs, azure, http
        "pillow>=13",  # the reference arithmetic: 13 changed the order of the passes of a resize (docs/design.md)
        "tqdm>=4.66",
        "jsonschema>=4.20",
        "pyyaml>=6",  # options of teachers
    ],
)
