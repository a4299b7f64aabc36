"""What is uploaded: metadata, contents, and a plugin that loads on older systems; and what a new environment needs."""

from __future__ import annotations

import email
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import setuptools
from conftest import REPOSITORY

import dali_dr
from dali_dr import _distribution, _plugin
from dali_dr.errors import PluginError

# PEP 600's manylinux_2_28: the newest version of each family that a wheel may ask for (auditwheel's policy).
NEWEST = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 25), "CXXABI": (1, 3, 11), "GCC": (8, 0, 0)}
SITE = Path(setuptools.__file__).parents[1]


def script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, REPOSITORY / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, env={**os.environ, **variables}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "setup.py", "-q", "egg_info", "--egg-base", out, "sdist", "-d", out, cwd=REPOSITORY)
    (path,) = out.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(target, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # from 3.11.4 on
    return target / sdist.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from the source distribution around the plugin that is there."""
    out = tmp_path_factory.mktemp("wheel")
    variables = {"DALI_DR_PREBUILT": str(_plugin.LIBRARY), "PYTHONPATH": ""}
    run(sys.executable, "setup.py", "-q", "bdist_wheel", "-d", out, cwd=unpacked, **variables)
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_source_distribution_is_what_git_has(sdist: Path) -> None:
    try:
        tracked = run("git", "ls-files", "-z", cwd=REPOSITORY).split("\0")
    except (AssertionError, FileNotFoundError):
        pytest.skip("this is no checkout")
    with tarfile.open(sdist) as archive:
        held = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
        folders = {member.name.split("/", 1)[1] for member in archive if member.isdir() and "/" in member.name}
    # What only git and CI use; and what is tracked but was deleted here.
    expected = {t for t in tracked if t and not t.startswith((".ci/", ".git")) and (REPOSITORY / t).exists()}
    made = {"PKG-INFO", "setup.cfg"}
    assert expected - held == set()
    surplus = {f for f in held - folders - expected - made if not f.startswith("dali_dr.egg-info/")}
    untracked = set(run("git", "ls-files", "-zo", "--exclude-standard", cwd=REPOSITORY).split("\0"))
    assert surplus - untracked == set()


@pytest.mark.slow
def test_tests_of_the_source_distribution_can_be_collected(unpacked: Path) -> None:
    """All of them, by the plugin that is there; a file that is not in the archive would be an error here."""

    def collected(folder: Path) -> set[str]:
        variables = {"PYTHONPATH": str(folder), "DALI_DR_PLUGIN": str(_plugin.LIBRARY)}
        command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider", "tests"]
        lines = run(*command, cwd=folder, **variables).splitlines()
        return {line for line in lines if line.startswith("tests/")}  # FILE: NUMBER OF TESTS

    here = collected(REPOSITORY)
    assert len(here) > 50
    assert collected(unpacked) == here


def test_wheel_is_for_any_python_and_the_exact_dali(wheel: zipfile.ZipFile) -> None:
    assert re.fullmatch(rf"dali_dr-{dali_dr.__version__}-py3-none-linux_\w+\.whl", Path(str(wheel.filename)).name)
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    told = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    flavour, version = next(
        (f, importlib.metadata.version(f"nvidia-dali-{f}"))
        for f in ("cuda120", "cuda130")
        if any(importlib.metadata.distributions(name=f"nvidia-dali-{f}"))
    )
    needed = [text for text in told.get_all("Requires-Dist", []) if "extra ==" not in text]
    assert [text for text in needed if "dali" in text] == [f"nvidia-dali-{flavour}=={version}"]
    names = {re.split(r"[^\w-]", text)[0] for text in needed}
    assert {"torch", "timm", "numpy", "webdataset", "zstandard", "pillow"} <= names
    assert told["Version"] == dali_dr.__version__ == importlib.metadata.version(told["Name"])
    assert not [extra for extra in told.get_all("Provides-Extra", []) if "cuda" in extra], "would install both DALIs"
    assert sorted(told.get_all("License-File", [])) == ["LICENSE", "release/THIRD_PARTY.txt"]


def test_wheel_carries_the_notices_of_what_is_linked_in(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("/THIRD_PARTY.txt")]
    notices = wheel.read(name).decode()
    for needed in (
        "This software is based in part on the work of the Independent JPEG Group.",
        "Copyright (C)2009-2023 D. R. Commander",
        "Copyright (C) 1999-2006, MIYASAKA Masaru",
        "Copyright (c) Meta Platforms, Inc. and affiliates",
        "GCC RUNTIME LIBRARY EXCEPTION",
        "NVIDIA CORPORATION & AFFILIATES",
    ):
        assert needed in notices


def test_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert {name.split("/")[0].split("-")[0] for name in names} == {"dali_dr"}
    modules = {str(p.relative_to(REPOSITORY)) for p in (REPOSITORY / "dali_dr").rglob("*.py")}
    schemas = {f"dali_dr/schemas/{p.name}" for p in (REPOSITORY / "schemas").glob("*.json")}
    assert modules | schemas | {"dali_dr/py.typed", "dali_dr/libdali_dr_ops.so", "dali_dr/_build.json"} <= names
    assert schemas
    assert wheel.read("dali_dr/libdali_dr_ops.so") == _plugin.LIBRARY.read_bytes()


@pytest.mark.parametrize(("flavour", "name"), [("cuda120", "dali_dr"), ("cuda130", "dali_dr-cuda130")])
def test_distributions_are_named_by_flavour(flavour: str, name: str, unpacked: Path, tmp_path: Path) -> None:
    for needed in [SITE / "setuptools", SITE / "_distutils_hack", *SITE.glob("setuptools-*.dist-info")]:
        (tmp_path / needed.name).symlink_to(needed)  # and no DALI
    variables = {"PYTHONPATH": str(tmp_path), "DALI_DR_DALI": flavour}
    told = run(sys.executable, "-S", "setup.py", "-q", "--name", "--version", "sdist", cwd=unpacked, **variables)
    assert told.split() == [name, dali_dr.__version__]


def test_another_flavour_than_the_installed_is_refused(unpacked: Path) -> None:
    here = next(f for f in ("cuda120", "cuda130") if any(importlib.metadata.distributions(name=f"nvidia-dali-{f}")))
    for asked, message in [
        ("cuda130" if here == "cuda120" else "cuda120", f"but nvidia-dali-{here} is installed"),
        ("cuda99", "not one of cuda120, cuda130"),
    ]:
        command = [sys.executable, "setup.py", "--name"]
        variables = {**os.environ, "DALI_DR_DALI": asked}
        done = subprocess.run(command, cwd=unpacked, env=variables, capture_output=True, text=True)
        assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("torch_cuda", "nvcc", "flavour"),
    [
        (None, None, "cuda120"),
        (None, "13.0", "cuda120"),
        ("12.8", None, "cuda120"),
        ("12.8", "13.0", "cuda120"),
        ("13.0", None, "cuda130"),
        ("13.0", "13.1", "cuda130"),
        ("13.0", "12.9", "cuda120"),
    ],
)
def test_setup_takes_the_dali_that_fits_torch(torch_cuda: str | None, nvcc: str | None, flavour: str) -> None:
    assert script("release/flavour.py").flavour(torch_cuda, nvcc) == flavour


def test_two_flavours_in_one_folder_are_refused_at_import(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "dali_dr", tmp_path / "dali_dr", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (tmp_path / "dali_dr-0.1.0.dist-info").mkdir()
    run(sys.executable, "-c", "import dali_dr", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    (tmp_path / "dali_dr_cuda130-0.1.0.dist-info").mkdir()
    command = [sys.executable, "-c", "import dali_dr"]
    variables = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0 and "dali_dr and dali_dr-cuda130 are both installed" in last
    assert "pip uninstall -y dali_dr dali_dr-cuda130" in last


def test_two_flavours_of_dali_are_refused(tmp_path: Path) -> None:
    for name in ("nvidia_dali_cuda120-2.4.0.dist-info", "nvidia_dali_cuda130-2.4.0.dist-info"):
        (tmp_path / name).mkdir()
    with pytest.raises(PluginError, match="nvidia-dali-cuda120 and nvidia-dali-cuda130 are both installed"):
        _distribution.refuse_two(str(tmp_path), "nvidia-dali-cuda120", "nvidia-dali-cuda130")


def asked_versions(library: Path) -> dict[str, tuple[int, ...]]:
    """The newest version of each family that the library asks of the system's."""
    text = run("readelf", "--version-info", "-W", library, cwd=library.parent).split("Version needs section")[1]
    newest: dict[str, tuple[int, ...]] = {}
    for family, numbers in re.findall(r"Name: ([A-Z]+)_([\d.]+)", text):
        newest[family] = max(newest.get(family, ()), tuple(int(n) for n in numbers.split(".")))
    return newest


def test_plugin_of_wheels_loads_on_older_systems(tmp_path: Path) -> None:
    """Linked from the objects of the plugin that is tested; then a batch goes through it, and so does an exception."""
    tested = [
        build for build in sorted((REPOSITORY / "build").glob("plugin-*")) if (build / "CMakeCache.txt").is_file()
    ]
    if not tested or not shutil.which("readelf"):
        pytest.skip("the plugin was not built in this checkout, or there is no readelf")
    run("cmake", "--build", tested[-1], "--target", "dali_dr_ops_portable", cwd=REPOSITORY)
    library = Path(shutil.copy2(tested[-1] / "portable" / "libdali_dr_ops.so", tmp_path))
    asked = asked_versions(library)
    assert asked and {f: v for f, v in asked.items() if v > NEWEST.get(f, v)} == {}
    dynamic = run("readelf", "-d", "-W", library, cwd=tmp_path)
    assert re.findall(r"R(?:UN)?PATH\).*\[(.*)\]", dynamic) == ["$ORIGIN/../nvidia/dali"]
    needed = set(re.findall(r"NEEDED\).*\[(.*)\]", dynamic))
    glibc = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "ld-linux-x86-64.so.2"}
    # A shared zstd or libjpeg is what auditwheel puts into the wheel.
    assert needed - glibc - {"libstdc++.so.6", "libgcc_s.so.1", "libzstd.so.1", "libjpeg.so.62", "libjpeg.so.8"} == {
        "libdali.so",
        *({"libdali_core.so"} & needed),  # of the code for GPUs
    }
    shutil.copy2(_plugin.BUILD_FACTS, tmp_path)
    # Tensors both ways, and errors that the plugin throws through DALI.
    tests = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/test_read_op.py"]
    told = run(*tests, cwd=REPOSITORY, DALI_DR_PLUGIN=str(library))
    assert re.search(r"\d+ passed", told)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The Python of a virtual environment that sees this one's packages, but none of what their .pth files do."""
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    python = tmp_path / "bare" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])", cwd=tmp_path).strip())
    (site / "shared.pth").write_text(f"{SITE}\n")
    return python


def test_own_scripts_import_torchvision_and_timm(bare: Path, tmp_path: Path) -> None:
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def runs(code: str) -> bool:
        done = subprocess.run([bare, "-c", code], cwd=tmp_path, env=variables, capture_output=True)
        return done.returncode == 0

    worked = runs("import torchvision")
    told = run(bare, "-m", "dali_dr._torchvision", cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    site = next(bare.parents[1].glob("lib/*/site-packages"))
    hook = list(site.glob("_dali_dr_torchvision*"))
    assert bool(hook) == bool(told) == (not worked)  # nothing where nothing is amiss
    (site / "dali_dr.pth").write_text(f"{REPOSITORY}\n")
    assert runs("import timm, torchvision; assert torchvision.transforms.Resize(8) and timm.list_models()")
    if hook:
        # Nothing of torch when Python starts, nor when somebody only asks whether torchvision is there.
        assert runs(
            "import sys, importlib.util as u; assert u.find_spec('torchvision'); assert 'torch' not in sys.modules"
        )
        (site / "dali_dr.pth").unlink()  # without dali_dr: as before, with torchvision's own error
        assert not runs("import torchvision")


def test_hook_is_removed_where_torchvision_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dali_dr import _torchvision

    monkeypatch.setattr(_torchvision, "_operators_load", lambda: False)
    written = _torchvision.install(tmp_path)
    assert written == tmp_path / f"{_torchvision.HOOK}.pth" and written.is_file()
    monkeypatch.setattr(_torchvision, "_operators_load", lambda: True)
    assert _torchvision.install(tmp_path) is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_editable_install_is_a_path(bare: Path, unpacked: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--python", bare, "install", "-q", "--no-build-isolation", "--no-deps"]
    run(*pip, "-e", unpacked, cwd=tmp_path, DALI_DR_PREBUILT=str(_plugin.LIBRARY), PYTHONPATH="")
    lines = [
        line
        for path in bare.parents[1].glob("lib/*/site-packages/*.pth")
        if path.name != "shared.pth"
        for line in path.read_text().splitlines()
    ]
    assert [Path(line).resolve() for line in lines] == [unpacked.resolve()]
    assert json.loads((unpacked / "dali_dr" / "_build.json").read_text())["dali_version"]


def test_seconds_of_an_installation_are_told_apart(tmp_path: Path) -> None:
    """pip's own log of a real installation; and what each way does."""
    trial = script("release/try_wheel.py")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "pyproject.toml").write_text("[project]\nname = 'one'\nversion = '1'\n")
    pip = [sys.executable, "-m", "pip", "--log", tmp_path / "log", "install", "-q", "--no-build-isolation", "--no-deps"]
    run(*pip, "--target", tmp_path / "site", tmp_path / "one", cwd=tmp_path)
    assert 0 < trial.resolve_seconds(tmp_path / "log") < 60
    (tmp_path / "other").write_text("2026-11-28T10:00:00,000 nothing of it\n")
    assert math.isnan(trial.resolve_seconds(tmp_path / "other"))
    by = {way: trial.steps(Path("python3.12"), Path("a.whl"), way, tmp_path) for way in trial.WAYS}
    assert [way for way, steps in by.items() if "bytecode" in steps] == ["pip"]
    assert [way for way, steps in by.items() if "--no-compile" in steps["unpack"]] == ["pip", "pip-no-compile"]
    assert all("--no-index" in steps["unpack"] and trial.DOWNLOADS not in steps for steps in by.values())


@pytest.mark.slow
def test_wheels_install_and_train_without_a_compiler(tmp_path: Path) -> None:
    """Every Python that is here, from nothing: gigabytes of downloads where PyTorch is not in pip's cache."""
    run(sys.executable, "release/wheels.py", "--flavours", "cuda120", "--out", tmp_path, cwd=REPOSITORY)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-manylinux_2_28_x86_64.whl")
    told = run(sys.executable, "release/try_wheel.py", wheel, cwd=REPOSITORY)
    print(told)  # the seconds of each step: pytest -rP
    assert "one batch (8, 3, " in told and "nvidia-dali-cuda120 " in told
