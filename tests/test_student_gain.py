"""The student_gain example: its statistics against scipy, and a tiny comparison end to end where CIFAR-10 lies."""

from __future__ import annotations

import base64
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.stats
import torch

FILE = Path(__file__).resolve().parent.parent / "examples" / "student_gain" / "student_gain.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("student_gain", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["student_gain"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 8, 9, 30, 101])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_t_quantile_is_scipys(example: ModuleType, df: int, confidence: float) -> None:
    assert example.t_quantile(df, confidence) == pytest.approx(scipy.stats.t.ppf((1 + confidence) / 2, df), rel=1e-9)


@pytest.mark.parametrize("pairs", [2, 5, 12])
def test_paired_interval_is_scipys(example: ModuleType, pairs: int) -> None:
    a, b = np.random.default_rng(pairs).normal(60, 1, (2, pairs))
    mean, half = example.paired_interval(a.tolist(), b.tolist())
    result = scipy.stats.ttest_rel(a, b)
    interval = result.confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((interval.low, interval.high), rel=1e-9)
    # It excludes zero exactly where the paired test says p < 0.05.
    assert (abs(mean) > half) == (result.pvalue < 0.05)


def test_interval_over_images_is_the_normal_one(example: ModuleType) -> None:
    correct = np.random.default_rng(0).random((2, 3, 1003)) < 0.6
    runs = [[{"correct": base64.b64encode(np.packbits(bits).tobytes()).decode()} for bits in arm] for arm in correct]
    difference = correct[0].mean(0) - correct[1].mean(0)
    low, high = scipy.stats.norm.interval(0.95, scale=scipy.stats.sem(difference))
    assert example.interval_over_images(*runs, 1003) == pytest.approx((high - low) / 2 * 100, rel=1e-4)


def test_committed_results_are_complete_and_consistent(example: ModuleType) -> None:
    """Every run that the settings ask for, with the accuracy that its bits say, paired within a seed."""
    results = json.loads((FILE.parent / "results.json").read_text())
    settings = results["settings"]
    assert settings == example.Settings().json()
    assert {(r["arm"], r["seed"]) for r in results["runs"]} == {(a, s) for a in example.ARMS for s in settings["seeds"]}
    for run in results["runs"]:
        bits = np.unpackbits(np.frombuffer(base64.b64decode(run["correct"]), np.uint8))[: settings["test"]]
        assert run["accuracy"] == pytest.approx(bits.mean() * 100, abs=1e-4)
    _assert_paired(results["runs"], settings["seeds"])
    assert (FILE.parent / "results.md").read_text() == example.table(results) + "\n"


def test_pooled_passes_are_those_of_scipy_and_of_the_readme(
    example: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [FILE.parent / name for name in ("results.json", "results-second-pass.json")]
    assert example.main(["--pool", *map(str, paths)]) == 0
    printed, text = capsys.readouterr().out, (FILE.parent / "README.md").read_text()
    runs = {(r["arm"], p, r["seed"]): r["accuracy"] for p in paths for r in json.loads(p.read_text())["runs"]}
    for arm in ("hard", "smoothing", "mild"):
        pairs = [key[1:] for key in runs if key[0] == arm]
        result = scipy.stats.ttest_rel(*([runs[a, *pair] for pair in pairs] for a in ("reinforced", arm)))
        interval = result.confidence_interval(0.95)
        mean = (interval.low + interval.high) / 2
        line = f"{mean:+.2f} | {interval.low:+.2f} … {interval.high:+.2f} | {len(pairs)} |"
        assert f"| {example.ARMS['reinforced']} − {example.ARMS[arm]} | {line}" in printed
        assert f"{mean:+.2f} ({interval.low:+.2f} … {interval.high:+.2f}), {len(pairs)} pairs" in text


def test_small_comparison_end_to_end(
    example: ModuleType,
    test_data: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DALI_DR_TEST_DATA", str(test_data("cifar10").parent))
    settings = example.Settings(
        train=200, validation=100, tuning=100, test=100, views=3, teacher_epochs=1, epochs=1, lrs=(0.05,), seeds=(3, 4)
    )
    path = tmp_path / "results.json"
    arguments = ["--results", str(path), "--work", str(tmp_path / "work")]
    threads = torch.get_num_threads()
    try:
        assert example.main(arguments, settings) == 0
        first = json.loads(path.read_text())
        # An interrupted comparison: the lost run is trained again, to the same weights, and no other is.
        lost = first["runs"][4]
        others = [run for run in first["runs"] if run is not lost]
        path.write_text(json.dumps({**first, "runs": others}))
        assert example.main(arguments, settings) == 0
    finally:
        torch.set_num_threads(threads)
    again = json.loads(path.read_text())["runs"]
    assert again[:-1] == others
    assert {**again[-1], "seconds": 0} == {**lost, "seconds": 0}

    assert len(first["runs"]) == len(example.ARMS) * 2
    _assert_paired(first["runs"], (3, 4))
    # The accuracy is that of the stored bits, one per test image.
    for run in first["runs"]:
        bits = np.unpackbits(np.frombuffer(base64.b64decode(run["correct"]), np.uint8))
        assert run["accuracy"] == bits[:100].sum() and not bits[100:].any()
    # The arms differ in their targets: equal views, other losses.
    losses = {run["arm"]: run["epoch_losses"][0] for run in first["runs"] if run["seed"] == 3}
    assert len(set(losses.values())) == len(losses)
    assert "reinforcement − hard labels" in capsys.readouterr().out

    other = example.Settings(**{**vars(settings), "epochs": 2})
    assert example.main(arguments, other) == 1
    assert "other settings" in capsys.readouterr().err


def test_missing_data_is_explained(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DALI_DR_TEST_DATA", str(tmp_path))
    threads = torch.get_num_threads()
    try:
        assert example.main(["--results", str(tmp_path / "results.json"), "--work", str(tmp_path)]) == 1
    finally:
        torch.set_num_threads(threads)
    assert "DALI_DR_TEST_DATA" in capsys.readouterr().err


def test_parts_are_disjoint_and_even(example: ModuleType, test_data: Callable[[str], Path]) -> None:
    settings = example.Settings(train=300, validation=100, tuning=200, test=100)
    parts = example.read_cifar(test_data("cifar10"), settings)
    keys = [key for part in parts.values() for key in part.keys]
    assert len(keys) == len(set(keys)) == 700
    for name, part in parts.items():
        assert np.bincount(part.labels).tolist() == [getattr(settings, name) // 10] * 10
        assert all(key.startswith("test/" if name == "test" else "train/") for key in part.keys)
        assert all(
            key.split("/")[1] == example.CLASSES[label] for key, label in zip(part.keys, part.labels, strict=True)
        )


def _assert_paired(runs: list[dict[str, object]], seeds: tuple[int, ...]) -> None:
    """Within a seed all arms begin with the same weights and see samples and views in one order; seeds differ."""
    for fact in ("initial_weights", "order"):
        by_seed = [{run[fact] for run in runs if run["seed"] == seed} for seed in seeds]
        assert all(len(values) == 1 for values in by_seed)
        assert len(set.union(*by_seed)) == len(by_seed)  # type: ignore[arg-type]
