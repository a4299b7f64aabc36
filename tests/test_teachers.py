"""Teachers: checkpoints, own modules, temperature, autocast, embeddings; selection of views from a pool."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, picture, write_files
from test_reinforce import Tiny

import dali_dr
from dali_dr.augment.draw import draw
from dali_dr.reinforce.check import check_teacher, load_stored_teacher
from dali_dr.reinforce.generate import Generation
from dali_dr.reinforce.networks import DEFAULT_BATCH, Member, Teacher, fit_batch
from dali_dr.reinforce.run import reinforce
from dali_dr.reinforce.select import SELECTS, random_order, select
from dali_dr.reinforce.teachers import load_teacher
from dali_dr.sources import ImageFolder

HALF = (0.5, 0.5, 0.5)
CPU = torch.device("cpu")
SMALL = "test_vit"  # timm's models for tests: some 0.4 M parameters


def photos(count: int, size: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.stack([picture(size, size, s) for s in range(count)])).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def timm() -> Any:
    from dali_dr._torchvision import load_torchvision

    load_torchvision()
    return pytest.importorskip("timm")


@pytest.mark.parametrize("form", ["plain", "ema beside", "module.", "safetensors", "10 classes"])
def test_a_local_checkpoint_is_loaded(form: str, timm: Any, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = timm.create_model(SMALL, num_classes=10 if form == "10 classes" else 1000).eval()
    state = model.state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    elif form == "ema beside":
        other = {key: torch.zeros_like(value) for key, value in state.items()}
        torch.save({"state_dict_ema": state, "state_dict": other, "epoch": 3}, path)
    else:
        torch.save({("module." if form == "module." else "") + k: v for k, v in state.items()}, path)
    teacher = load_teacher(f"{SMALL}@{path}")
    config = timm.data.resolve_model_data_config(model)
    views = photos(2, config["input_size"][1])
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
    with torch.inference_mode():
        expected = model((views / 255 - mean) / std).softmax(1)
    torch.testing.assert_close(teacher.predict(views), expected)
    assert teacher.num_classes == expected.shape[1] and teacher.facts()["names"] == [f"{SMALL}@{path.name}"]


def test_a_checkpoint_that_does_not_fit_is_told_by_its_keys(timm: Any, tmp_path: Path) -> None:
    state = timm.create_model(SMALL).state_dict()
    first = next(iter(state))
    state["extra.weight"] = torch.zeros(1)
    state["cls_token"] = torch.zeros(1, 2, 3)
    del state["norm.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(dali_dr.DaliDrError) as caught:
        load_teacher(f"{SMALL}@{tmp_path / 'w.pth'}")
    message = str(caught.value)
    for part in ("1 missing: norm.weight", "1 not in the model: extra.weight", "cls_token (1, 2, 3) for (1, 1, 64)"):
        assert part in message, first

    class Harmful:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"state_dict": Harmful()}, tmp_path / "harmful.pth")
    with pytest.raises(dali_dr.DaliDrError, match="not a file of tensors alone"):
        load_teacher(f"{SMALL}@{tmp_path / 'harmful.pth'}")
    assert not (tmp_path / "harm").exists()
    with pytest.raises(dali_dr.DaliDrError, match=r"absent\.pth"):
        load_teacher(f"{SMALL}@{tmp_path / 'absent.pth'}")
    with pytest.raises(dali_dr.DaliDrError, match="no_such_model"):
        load_teacher(f"no_such_model@{tmp_path / 'w.pth'}")


def test_temperature_autocast_and_members_that_do_not_agree() -> None:
    views = photos(3)
    member = Member("tiny", Tiny(), 64, HALF, HALF)
    with torch.inference_mode():
        logits = Tiny()((views / 255 - 0.5) / 0.5)
    torch.testing.assert_close(Teacher([member], CPU, temperature=2.5).predict(views), (logits / 2.5).softmax(1))
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 8, 8), torch.nn.Flatten(), torch.nn.Linear(512, 6))
    exact = Teacher([Member("net", net, 64, HALF, HALF)], CPU)
    rough = Teacher([Member("net", net, 64, HALF, HALF)], CPU, amp="bfloat16")
    apart = (exact.predict(views) - rough.predict(views)).abs().max()
    assert 0 < apart < 0.02 and rough.predict(views).dtype == torch.float32
    assert rough.facts()["amp"] == "bfloat16" and "amp" not in exact.facts() and exact.num_classes == 6
    wide = Member("wide", torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(7)), 64, HALF, HALF)
    wide.model(torch.zeros(1, 3, 64, 64))
    with pytest.raises(dali_dr.DaliDrError, match="wide"):
        Teacher([member, wide], CPU)
    for bad in ({"temperature": 0}, {"amp": "int8"}, {"target": "logits"}):
        with pytest.raises(dali_dr.DaliDrError):
            Teacher([member], CPU, **bad)
    with pytest.raises(dali_dr.DaliDrError, match="want a tensor"):
        Teacher([Member("id", torch.nn.Identity(), 64, HALF, HALF)], CPU)
    with pytest.raises(dali_dr.DaliDrError, match="not finite"):
        Teacher([Member("tiny", Tiny(), 64, HALF, (0.0, 0.5, 0.5))], CPU).predict(views)
    assert fit_batch(exact, 64) == DEFAULT_BATCH


@pytest.mark.slow
def test_a_compiled_teacher_predicts_the_same() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 8, 8), torch.nn.Flatten(), torch.nn.Linear(512, 6))
    member = Member("net", net, 64, HALF, HALF)
    views = photos(4)
    torch.testing.assert_close(
        Teacher([member], CPU, compile=True).predict(views), Teacher([member], CPU).predict(views)
    )


@pytest.fixture
def folder(tmp_path: Path, jpeg_bytes: list[bytes]) -> ImageFolder:
    files = {f"c{number % 2}/p{number}.jpg": data for number, data in enumerate(jpeg_bytes)}
    return ImageFolder.scan(write_files(tmp_path / "images", files))


class Embedder(torch.nn.Module):
    """A self-supervised network, as far as its outputs go: 24 numbers, not normalised."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, (4, 2)).flatten(1) * 2


def test_embeddings_go_through_storage_to_the_training_batch(folder: ImageFolder, tmp_path: Path) -> None:
    teacher = Teacher([Member("ssl", Embedder(), 64, HALF, HALF)], CPU, temperature=0.5, target="embedding")
    assert teacher.num_outputs == 24 and teacher.num_classes == 0
    spec = dali_dr.AugmentationSpec.preset("rrc", size=64)
    g = Generation(spec, teacher, num_views=3, topk=24, num_threads=1)
    reinforce(folder, tmp_path / "out", g, num_classes=2, probabilities="float32", progress=False)
    dataset = dali_dr.Dataset(tmp_path / "out")
    assert dataset.num_classes == 2 and dataset.num_outputs == 24 and dataset.manifest.topk == 24
    loader = dali_dr.ReinforcedIterator(
        dataset, batch_size=8, device="cpu", dtype="uint8", as_tuples=True, num_threads=1
    )
    for images, dense in loader:
        with torch.inference_mode():
            embedding = Embedder()((images / 255 - 0.5) / 0.5)
        torch.testing.assert_close(dense, (embedding / 0.5).softmax(1))
        back = 0.5 * dense.log()  # the vector but for a constant
        torch.testing.assert_close(back - back.mean(1, keepdim=True), embedding - embedding.mean(1, keepdim=True))


@pytest.mark.parametrize("loss", ["kl", "soft-ce"])
def test_the_trainer_compares_embeddings_at_their_temperature(
    loss: str, timm: Any, folder: ImageFolder, tmp_path: Path
) -> None:
    """FKD, section 3.4: the student's head has as many outputs as the teacher's, and both are softened alike."""
    teacher = Teacher([Member("ssl", Embedder(), 64, HALF, HALF)], CPU, temperature=0.2, target="embedding")
    spec = dali_dr.AugmentationSpec.preset("rrc", size=64)
    g = Generation(spec, teacher, num_views=1, topk=24, num_threads=1)
    reinforce(folder, tmp_path / "out", g, num_classes=2, probabilities="float32", progress=False)
    command = [sys.executable, REPOSITORY / "examples" / "train_timm.py", "--data", tmp_path / "out"]
    command += ["--out", tmp_path / "run", "--model", SMALL, "--model-options", "{img_size: 64}", "--device", "cpu"]
    command += ["--batch-size", "8", "--epochs", "1", "--lr", "0", "--warmup-epochs", "0", "--log-every", "1"]
    command += ["--loader", "{num_threads: 1}", "--loss", loss]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    weights = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["model"]  # untouched: the rate was 0
    student = timm.create_model(SMALL, img_size=64, num_classes=24)
    student.load_state_dict(weights)
    views = dali_dr.ReinforcedIterator(tmp_path / "out", batch_size=8, device="cpu", num_threads=1, as_tuples=True)
    images, stored = next(iter(views))
    with torch.no_grad():
        now = (student(images) / 0.2).double().softmax(1)
    expected = -(stored.double() * now.log()).sum(1)
    if loss == "kl":
        expected += (stored.double() * stored.double().log()).sum(1)
    logged = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])["loss"]
    assert logged == pytest.approx(float(expected.mean()), rel=1e-5)
    refused = subprocess.run([*map(str, command[:-1]), "ce"], capture_output=True, text=True, env=os.environ)
    assert refused.returncode == 2 and "want --loss kl or soft-ce" in refused.stderr  # as for any wrong option


def test_check_teacher_finds_the_same_and_another(folder: ImageFolder, tmp_path: Path) -> None:
    torch.manual_seed(0)

    def net() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 8, 8), torch.nn.Flatten(), torch.nn.Linear(512, 6))

    teacher, other = (Teacher([Member("net", net(), 64, HALF, HALF)], CPU) for _ in range(2))
    g = Generation(dali_dr.AugmentationSpec.preset("rrc+ra+re", 64), teacher, num_views=6, topk=4, num_threads=1)
    reinforce(folder, tmp_path / "out", g, num_classes=6, progress=False)
    dataset = dali_dr.Dataset(tmp_path / "out")
    same = check_teacher(dataset, teacher, samples=70, num_threads=1)
    assert same.ok and same.views == 70 and 0 < same.kl_mean < 1e-3 and same.top1_equal == 1
    wrong = check_teacher(dataset, other, samples=70, num_threads=1)
    assert not wrong.ok and not wrong.teacher_is_the_same and wrong.kl_mean > 0.01
    # KL by its definition, on the view that diverges most
    key, row = wrong.worst
    number = dataset.find(key)
    from dali_dr.preview import replay_views

    view = torch.from_numpy(np.stack(list(replay_views(dataset, number, [row])))).permute(0, 3, 1, 2)
    now = other.predict(view)[0].double().numpy()
    stored = dataset.reinforcements(number)
    p = np.append(now[stored.soft_ids[row]], 1 - now[stored.soft_ids[row]].sum())
    q = np.append(stored.soft_probs[row], 1 - stored.soft_probs[row].astype(np.float64).sum())
    assert wrong.kl_max == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-3)
    with pytest.raises(dali_dr.DaliDrError, match="outputs"):
        wide = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 9))
        check_teacher(dataset, Teacher([Member("wide", wide, 64, HALF, HALF)], CPU))


@pytest.mark.parametrize("how", SELECTS)
def test_selection_from_a_pool(how: Any, folder: ImageFolder, tmp_path: Path) -> None:
    teacher = Teacher([Member("tiny", Tiny(), 64, HALF, HALF)], CPU)
    spec = dali_dr.AugmentationSpec.preset("rrc+ra+re", 64)
    g = Generation(spec, teacher, num_views=4, topk=2, num_threads=1, seed=3)
    options: dict[str, Any] = {"num_classes": 6, "probabilities": "float32", "progress": False}
    reinforce(folder, tmp_path / "out", g, pool=15, select=how, **options)
    everything = Generation(spec, teacher, num_views=15, topk=6, num_threads=1, seed=3)
    reinforce(folder, tmp_path / "all", everything, **options)
    chosen, pool = dali_dr.Dataset(tmp_path / "out"), dali_dr.Dataset(tmp_path / "all")
    assert chosen.num_views == 4 and chosen.manifest.topk == 2
    for number in range(len(pool)):
        full, kept = pool.reinforcements(number), chosen.reinforcements(number)
        confidence = full.soft_probs[:, 0]
        entropy = -(full.soft_probs * np.log(full.soft_probs)).sum(1)
        of_label = full.soft_probs[full.soft_ids == pool.label(number)].astype(np.float64)
        loss = -np.log(of_label)
        score = {
            "min-confidence": confidence,
            "max-confidence": -confidence,
            "min-entropy": entropy,
            "max-entropy": -entropy,
            "min-loss": loss,
            "max-loss": -loss,
        }
        if how in score:
            rows = np.sort(np.argsort(score[how], kind="stable")[:4])
            assert np.array_equal(kept.soft_probs, full.soft_probs[rows, :2])
            assert np.array_equal(kept.crop, full.crop[rows])
        else:
            assert {tuple(c) for c in kept.crop} <= {tuple(c) for c in full.crop} and len(kept) == 4
    height, width = pool.image_size(0)
    drawn = draw(spec, seed=3, key=pool.keys[0], views=range(15), image_height=height, image_width=width)
    assert {tuple(c) for c in pool.reinforcements(0).crop} == {tuple(c) for c in drawn.crop}


@pytest.mark.parametrize(("how", "sign"), [("min-loss", 1), ("max-loss", -1)])
def test_selection_by_loss_is_that_of_float64(how: Any, sign: int) -> None:
    rng = np.random.default_rng(7)
    probs = rng.dirichlet(np.full(9, 0.3), 50)
    probs[3, 4] = 0  # an infinite loss
    for label in range(9):
        losses = [math.inf if p == 0 else -math.log(p) for p in probs[:, label].tolist()]
        want = sorted(sorted(range(50), key=lambda row: sign * losses[row])[:12])
        assert select(probs, 12, how, key="a", seed=0, label=label).tolist() == want
    for label in (None, -1, 9):
        with pytest.raises(ValueError, match=f"{how} wants the probability of the label, which is {label}.* 0 to 8"):
            select(probs, 12, how, key="a", seed=0, label=label)
    with pytest.raises(ValueError, match=r"select is 'min-regret', want one of random, .*max-loss"):
        select(probs, 12, "min-regret", key="a", seed=0)  # type: ignore[arg-type]


def test_selection_by_loss_wants_labels_that_the_teacher_knows(folder: ImageFolder, tmp_path: Path) -> None:
    spec = dali_dr.AugmentationSpec.preset("rrc", 64)
    tiny = Member("tiny", Tiny(), 64, HALF, HALF)
    few = Member("few", torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 1)), 64, HALF, HALF)
    mixed = dali_dr.AugmentationSpec.preset("rrc+mixing", 64)
    for teacher, drawn, options, message in (
        (
            Teacher([few], CPU),
            spec,
            {"pool": 4},
            r"c1/p1.*: its label is 1, which is no class of the teacher \(0 to 0\)",
        ),
        (Teacher([tiny], CPU, target="embedding"), spec, {"pool": 4}, "gives embeddings, not classes"),
        (Teacher([tiny], CPU), mixed, {"pool": 4}, "mixed views have two labels"),
        (Teacher([tiny], CPU), spec, {}, "no pool to select from"),
        (Teacher([tiny], CPU), spec, {"pool": 4, "select": "max-doubt"}, "select is 'max-doubt'"),
    ):
        given: dict[str, Any] = {"select": "min-loss", "num_classes": 6, "progress": False, **options}
        with pytest.raises(dali_dr.ShardError, match=message):
            reinforce(folder, tmp_path / "out", Generation(drawn, teacher, 2, 2, num_threads=1), **given)
        assert not (tmp_path / "out" / "dataset.json").exists()


def test_kmeans_takes_one_of_each_kind() -> None:
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.arange(5), [40, 3, 10, 1, 6])
    probs = np.eye(8)[kinds] * 0.7 + 0.3 / 8 + rng.normal(0, 0.004, (60, 8))
    order = rng.permutation(60)
    found = 0
    for seed in range(10):
        rows = select(probs[order], 5, "kmeans", key="a", seed=seed)
        assert len(set(rows.tolist())) == 5 and np.array_equal(
            rows, select(probs[order], 5, "kmeans", key="a", seed=seed)
        )
        found += len(set(kinds[order][rows].tolist()))
    assert found >= 45  # random rows find 26 of 50
    same = np.tile(probs[:1], (6, 1))  # points may coincide
    assert sorted(select(same, 6, "kmeans", key="a", seed=0).tolist()) == list(range(6))
    with pytest.raises(ValueError, match="keep 7 of 6"):
        select(same, 7, "random", key="a", seed=0)


def test_random_order_is_a_fixed_permutation_without_preference() -> None:
    orders = np.stack([random_order(10, f"key{n}", 0) for n in range(4000)])
    assert all(sorted(order) == list(range(10)) for order in orders.tolist())
    share = np.stack([(orders == row).mean(0) for row in range(10)])
    assert np.abs(share - 0.1).max() < 0.025  # five standard deviations
    assert random_order(5, "n01440764_10026", 7).tolist() == random_order(5, "n01440764_10026", 7).tolist()


def test_the_stored_teacher_is_loaded_as_it_was(timm: Any, folder: ImageFolder, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(timm.create_model(SMALL).state_dict(), tmp_path / "w.pth")
    name = f"{SMALL}@{tmp_path / 'w.pth'}"
    teacher = load_teacher(name, temperature=0.2)
    g = Generation(dali_dr.AugmentationSpec.preset("rrc", 64), teacher, num_views=1, topk=5, num_threads=1)
    reinforce(folder, tmp_path / "out", g, num_classes=1000, progress=False)
    dataset = dali_dr.Dataset(tmp_path / "out")
    again = load_stored_teacher(dataset, name, "cpu")
    assert again.temperature == 0.2
    assert check_teacher(dataset, again, samples=16, num_threads=1).ok
    assert not check_teacher(dataset, load_teacher(name), samples=16, num_threads=1).ok
