"""The plugin's loading: what is said when it is missing, for another DALI version, or broken."""

from __future__ import annotations

import json
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
