"""Recipes: every value that the papers give, every model that is named, and every recipe runs, resumes exactly and evaluates."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import test_examples_training as training
import torch
import yaml
from conftest import REPOSITORY
from recipe_table import CASES, Case
from test_examples_training import CLASSES, IMAGES, SIZE, VIEWS, example, photo
from test_examples_training import same as equal

import dali_dr
from dali_dr.augment.draw import draw
from dali_dr.encoded import image_info

RECIPES = REPOSITORY / "examples" / "recipes"
STEPS, CUT = 5, 2
NESTED = {"model_options", "optimizer_options", "loader"}
one_thread = training.one_thread  # a fixture
names = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@pytest.fixture(scope="module")
def train_timm() -> ModuleType:
    return example("train_timm")


@pytest.fixture(scope="module")
def resolve(train_timm: ModuleType) -> Callable[[Case], Any]:
    """The options of a case, as the trainer reads its layers."""

    def options(case: Case) -> Any:
        layers = [str(RECIPES / file) for file in case.files]
        return train_timm.parse(["--data", "d", "--out", "o", "--device", "cpu", "--recipe", *layers])

    return options


def same(a: Any, b: Any) -> bool:
    """Equality of values; numbers may differ by rounding."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, bool) or isinstance(b, bool) or not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
        return bool(a == b)
    return math.isclose(a, b, rel_tol=1e-12)


@names
def test_values_are_those_of_the_papers(resolve: Callable[[Case], Any], case: Case) -> None:
    """Every value of the table is what the trainer gets, and no layer says anything that the table does not have."""
    options, expected = resolve(case), case.expected | {"model": case.models[0]}
    wrong = {name: (getattr(options, name), value) for name, value in expected.items() if name not in NESTED}
    wrong = {name: pair for name, pair in wrong.items() if not same(*pair)}
    assert not wrong, f"{case.name} has, and the table has: {wrong}"
    for name in NESTED:
        assert same(getattr(options, name), expected.get(name, {})), f"{name} is {getattr(options, name)}"
    said = {name for file in case.files for name in yaml.safe_load((RECIPES / file).read_text())}
    assert said <= expected.keys(), "said by a recipe, and by no table"


def test_every_file_is_in_the_table() -> None:
    files = {path.relative_to(RECIPES).as_posix() for path in RECIPES.rglob("*") if path.suffix in (".yaml", ".yml")}
    assert files == {file for case in CASES for file in case.files}


def test_usi_spec_has_the_papers_values() -> None:
    """The spec of a set for usi/stored: what usi/usi says of views and mixing."""
    (path,) = (path for path in RECIPES.rglob("*") if path.is_file() and path.suffix != ".yaml")
    spec = dali_dr.AugmentationSpec.load(path)
    assert path.name == "spec.json" and spec.mixing and spec.rand_augment
    assert (spec.rand_augment.magnitude, spec.rand_augment.magnitude_std, spec.rand_augment.num_bins) == (7, 0.5, 11)
    assert (spec.mixing.mixup_alpha, spec.mixing.cutmix_alpha, spec.mixing.lam) == (0.8, 1.0, (0.0, 1.0))
    assert spec.interpolation == "bicubic" and spec.random_erasing is None
    assert dataclasses.replace(spec, mixing=None) == dali_dr.AugmentationSpec.preset("usi")


@pytest.mark.parametrize(("method", "outputs"), [("moco-v2", 128), ("swav", 3000)])
def test_sets_without_labels_are_those_of_the_paper(method: str, outputs: int) -> None:
    """FKD's section 3.4: what the recipe's comment says of its set, since that is where outputs and temperature are."""
    text = (RECIPES / "fkd" / f"{method}.yaml").read_text()
    assert f"{outputs} outputs" in text and "--temperature 0.2" in text and f"--spec {method}" in text


def test_every_file_says_its_source() -> None:
    for path in RECIPES.rglob("*.yaml"):
        head = " ".join(line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
        assert "arXiv" in head, f"{path} does not say where its values are from"


def test_every_recipe_is_in_the_index() -> None:
    """docs/recipes.md names each file, by its path below examples/recipes."""
    text = (REPOSITORY / "docs" / "recipes.md").read_text()
    missing = [path for path in RECIPES.rglob("*.yaml") if f"{path.relative_to(RECIPES).with_suffix('')}" not in text]
    assert not missing


def test_every_named_model_exists(resolve: Callable[[Case], Any]) -> None:
    """Those that comments give for --model, too, with the recipe's options and for the sizes that it shows."""
    import timm

    seen = set()
    for case in CASES:
        options = resolve(case)
        for model in case.models:
            key = model, json.dumps(options.model_options)
            if key not in seen:
                seen.add(key)
                assert timm.is_model(model), f"{case.name}: timm has no {model}"
                with torch.device("meta"):
                    timm.create_model(model, num_classes=10, **options.model_options)
    assert len(seen) >= 38


@names
def test_models_are_named_in_comments(case: Case) -> None:
    """What the table has beside a recipe's own model stands in its comments (all but the first by its name, or as …)."""
    text = "".join((RECIPES / file).read_text() for file in case.files)
    assert all(model in text for model in case.models)


# Of FKD's self-supervised teachers: 9 outputs that are no classes, at the paper's temperature.
EMBEDDING: dict[str, Any] = {"names": ["made up"], "target": "embedding", "temperature": 0.2, "outputs": 9}


def write(out: Path, preset: str | None, teacher: dict[str, Any] | None = None) -> str:
    """24 images of six classes: plain ones, or reinforced by a made-up teacher that is right with probability 0.9."""
    spec = dali_dr.AugmentationSpec.preset(preset, size=SIZE) if preset else None

    def samples() -> Iterator[dali_dr.Sample]:
        for number in range(IMAGES):
            data, label, stored = photo(number), number % CLASSES, None
            if spec:
                _, height, width = image_info(data)
                size: dict[str, Any] = {"image_height": height, "image_width": width}
                if spec.mixing:
                    size |= {"population": IMAGES, "partner_size": lambda _: (80, 96)}
                drawn = draw(spec, seed=0, key=f"image{number:03d}", views=range(VIEWS), **size)
                columns = {name: getattr(drawn, name) for name in ("crop", "flip", "ops", "magnitudes", "erase", "mix")}
                ids = np.tile(np.array([label, (label + 1) % CLASSES], np.int32), (VIEWS, 1))
                probs = np.tile(np.array([0.9, 0.06], np.float32), (VIEWS, 1))
                stored = dali_dr.Reinforcements(**columns, soft_ids=ids, soft_probs=probs)
            yield dali_dr.Sample(f"image{number:03d}", data, label, stored)

    options: dict[str, Any] = {"num_classes": CLASSES, "samples_per_shard": 10, "progress": False}
    dali_dr.write_shards(samples(), out, spec=spec, teacher=teacher, **options)
    return str(out)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Four data sets, and a teacher's weights."""
    import timm

    root = tmp_path_factory.mktemp("recipes")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", num_classes=CLASSES).state_dict(), root / "teacher.pth")
    return SimpleNamespace(
        plain=write(root / "plain", None),
        plus=write(root / "plus", "rrc"),
        mixed=write(root / "mixed", "rrc+mixing"),
        embedded=write(root / "embedded", "moco-v2", EMBEDDING),
        teacher=f"test_resnet@{root / 'teacher.pth'}",
    )


# What stands in for a model, by the beginning of its name: something of its kind that a CPU trains in a second.
TINY_SWIN = "{embed_dim: 8, depths: [1, 1, 1, 1], num_heads: [1, 1, 2, 2], window_size: 2, img_size: 64}"
STAND_INS = {
    "vit": ("test_vit", "{img_size: 64}"),
    "swin": ("swin_tiny_patch4_window7_224", TINY_SWIN),
    "res": ("test_resnet", "{}"),
    "": ("test_efficientnet", "{}"),
}


def stand_in(model: str) -> tuple[str, str]:
    return next(value for start, value in STAND_INS.items() if model.startswith(start))


def kind(case: Case, o: Any) -> str:
    """What of a recipe decides which code runs: its data, not its numbers, but which of them are 0, and all names."""
    numbers = "mixup", "cutmix", "clip_grad", "ema", "label_smoothing", "warmup_epochs", "warmup_lr", "min_lr"
    words = "loss", "optimizer", "schedule", "decay_all", "channels_last", "amp", "vbs", "loader", "views_per_image"
    words += "class_mates", "sync_bn", "bake_omega", "mix_mode", "eval_interpolation"
    facts = {name: getattr(o, name) for name in words} | {name: getattr(o, name) > 0 for name in numbers}
    facts |= {"teacher": bool(o.teacher), "vbs": bool(o.vbs), "model": stand_in(o.model)}
    facts["loader"] = {k: v if k in ("augment", "repeats") else bool(v) for k, v in o.loader.items()}
    facts["without labels"] = any(name in case.name for name in ("moco", "swav"))
    return json.dumps(facts | {"model_options": o.model_options}, sort_keys=True)


def run(train_timm: ModuleType, case: Case, o: Any, sets: SimpleNamespace, out: Path, *more: str) -> None:
    """Trains for STEPS steps, in one go and interrupted after CUT; the checkpoints must be the same bit for bit."""
    fresh = o.loader.get("augment") is not None or o.loss == "bake" or o.teacher
    data = sets.plain if fresh else sets.mixed if o.loss == "usi" else sets.plus
    labels = case.files[0] not in ("fkd/moco-v2.yaml", "fkd/swav.yaml")
    words = ["--recipe", *(str(RECIPES / file) for file in case.files)]
    words += ["--data", data, "--val", data] if labels else ["--data", sets.embedded]
    words += ["--device", "cpu", "--log-every", "1", "--eval-every", "1", "--loader", "{num_threads: 1}"]
    together = o.views_per_image * (o.class_mates + 1)  # an epoch is three steps, or four where images repeat
    words += ["--batch-size", str(6 if o.loader.get("repeats") else 8 * together), "--eval-size", str(SIZE)]
    words += ["--vbs", "[32, 96, 64]"] if o.vbs else ["--size", str(SIZE)]
    words += ["--teacher", sets.teacher] if o.teacher else []
    words += more
    for folder, stops in (("whole", [STEPS]), ("cut", [CUT, STEPS - CUT])):
        for stop in stops:
            done = train_timm.main([*words, "--out", str(out / folder), "--stop-after", str(stop)])
            assert done == train_timm.INTERRUPTED
    whole, cut = (torch.load(out / folder / "last.pt", weights_only=True) for folder in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    for part in whole.keys() - {"options"}:
        assert equal(whole[part], cut[part]), f"{case.name}: {part} differs where the run was interrupted"
    for folder in ("whole", "cut"):
        lines = [json.loads(line) for line in (out / folder / "log.jsonl").read_text().splitlines()]
        assert all(math.isfinite(line["loss"]) for line in lines if "loss" in line)
        evaluated = [line for line in lines if "top1" in line]
        assert bool(evaluated) == labels and all(line["images"] == IMAGES for line in evaluated)
        assert all(0 <= line["top1"] <= line["top5"] <= 1 and line["eval_loss"] > 0 for line in evaluated)
    if not labels:
        return
    before, after = (torch.load(out / "cut" / name, weights_only=True)["model"] for name in ("best.pt", "last.pt"))
    assert before.keys() == after.keys()


def by_kind() -> dict[str, list[Case]]:
    """Cases that differ in numbers alone, together; the first of each is run."""
    module = example("train_timm_options")
    kinds: dict[str, list[Case]] = {}
    for case in CASES:
        layers = [str(RECIPES / file) for file in case.files]
        options = module.parse(["--data", "d", "--out", "o", "--device", "cpu", "--recipe", *layers])
        kinds.setdefault(kind(case, options), []).append(case)
    return kinds


KINDS = by_kind()
firsts = [cases[0] for cases in KINDS.values()]


@pytest.mark.parametrize("case", firsts, ids=[case.name for case in firsts])
def test_recipes_run_resume_and_evaluate(
    train_timm: ModuleType, resolve: Callable[[Case], Any], sets: SimpleNamespace, tmp_path: Path, case: Case
) -> None:
    """With a tiny model of the recipe's kind; of recipes that differ in numbers alone the first."""
    options = resolve(case)
    model, model_options = stand_in(options.model)
    run(train_timm, case, options, sets, tmp_path, "--model", model, "--model-options", model_options)


@pytest.mark.slow
@names
def test_recipes_run_with_their_own_models(
    train_timm: ModuleType, resolve: Callable[[Case], Any], sets: SimpleNamespace, tmp_path: Path, case: Case
) -> None:
    """All of them, at 64 pixels (transformers: window and position embeddings of that size)."""
    options = resolve(case)
    more = ["--model-options", "{img_size: 64}"] if options.model.startswith(("vit", "swin")) else []
    run(train_timm, case, options, sets, tmp_path, *more)
