"""The plugin's loading: what is said when it is missing, for another DALI version, or broken."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from dali_dr import _plugin
from dali_dr.errors import PluginError


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DALI_DR_PLUGIN", raising=False)
    monkeypatch.setattr(_plugin, "load", _plugin.load.__wrapped__)


def test_missing_plugin_names_the_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_plugin, "LIBRARY", tmp_path / "libdali_dr_ops.so")
    with pytest.raises(PluginError, match=r"does not exist; DALI \d.*pip install"):
        _plugin.load()


def test_other_dali_version_names_both_and_the_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import nvidia.dali

    facts = tmp_path / "_build.json"
    facts.write_text(json.dumps({"dali_version": "2.3.0"}))
    monkeypatch.setattr(_plugin, "BUILD_FACTS", facts)
    with pytest.raises(PluginError) as caught:
        _plugin.load()
    assert (
        "2.3.0" in str(caught.value)
        and nvidia.dali.__version__ in str(caught.value)
        and "pip install" in str(caught.value)
    )


def test_broken_plugin_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "libdali_dr_ops.so"
    broken.write_bytes(b"\x7fELF not really")
    monkeypatch.setattr(_plugin, "LIBRARY", broken)
    with pytest.raises(PluginError, match="does not load"):
        _plugin.load()


def test_build_facts_match_the_installed_dali() -> None:
    import nvidia.dali

    assert _plugin.build_facts()["dali_version"] == nvidia.dali.__version__


FATBIN = struct.pack("<I", 0xBA55ED50)


def device_code(library: bytes) -> set[tuple[str, int]]:
    """("ptx" or "sass", compute capability) of every piece of device code, from the fat binaries that nvcc embedded."""
    found = set()
    at = library.find(FATBIN)
    while at >= 0:
        header, size = struct.unpack_from("<HQ", library, at + 6)
        entry, end = at + header, at + header + size
        while entry + 32 <= end:
            kind, entry_header, entry_size = struct.unpack_from("<HxxIQ", library, entry)
            if kind not in (1, 2):
                break
            found.add(("ptx" if kind == 1 else "sass", struct.unpack_from("<I", library, entry + 28)[0]))
            entry += entry_header + entry_size
        at = library.find(FATBIN, at + 4)
    return found


def test_plugin_holds_code_for_ampere_and_hopper_and_ptx_for_later() -> None:
    facts = _plugin.build_facts()
    if not facts["cuda"]:
        pytest.skip("this plugin was built without CUDA: no nvcc was found then")
    if facts["cuda_architectures"] != "80-real;90":
        pytest.skip(f"this plugin was built for {facts['cuda_architectures']} alone, by DALI_DR_CUDA_ARCHITECTURES")
    library = _plugin.LIBRARY.read_bytes()
    assert device_code(library) >= {("sass", 80), ("sass", 90), ("ptx", 90)}
    assert all(name in library for name in (b"ReplayInShared", b"ReplayAllInShared", b"ReplayInGlobal"))


def test_without_cuda_the_gpu_is_refused_plainly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    facts = tmp_path / "_build.json"
    facts.write_text(json.dumps({"dali_version": "2.4.0", "cuda": "", "cuda_architectures": ""}))
    monkeypatch.setattr(_plugin, "BUILD_FACTS", facts)
    with pytest.raises(PluginError, match=r"built without CUDA.*nvcc.*device=\"cpu\".*pip install"):
        _plugin.require_gpu()


def test_too_old_a_driver_is_named_with_both_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    facts = tmp_path / "_build.json"
    facts.write_text(json.dumps({"dali_version": "2.4.0", "cuda": "13.0", "cuda_architectures": "80-real;90"}))
    monkeypatch.setattr(_plugin, "BUILD_FACTS", facts)
    monkeypatch.setattr(_plugin, "driver_cuda", lambda: 12)
    with pytest.raises(PluginError, match=r"CUDA 13\.0.*driver supports CUDA 12.*580.*Update the driver.*CUDACXX"):
        _plugin.require_gpu()
    for enough in (13, 14, None):  # None: there is no driver, which torch and DALI say
        monkeypatch.setattr(_plugin, "driver_cuda", lambda enough=enough: enough)
        _plugin.require_gpu()
