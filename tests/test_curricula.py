"""Row orders and curricula: orders against scipy's entropy, and the windows of epochs against the samples as given."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
import torch
from conftest import encode_jpeg, picture
from test_record_codec import random_reinforcements

import dali_dr
from dali_dr.augment.draw import draw
from dali_dr.cli import main
from dali_dr.record.labels import densify, entropy, order_rows
from dali_dr.sampling.choice import Choice, Curriculum
from dali_dr.shards.manifest import Manifest
from dali_dr.shards.reshape import merge, subset
from dali_dr.shards.retile import retile
from dali_dr.shards.verify import verify

SIZE, CLASSES, VIEWS, IMAGES, KEPT = 32, 12, 20, 6, 3


def dense(probs: npt.NDArray[Any], classes: int) -> npt.NDArray[np.float64]:
    """(N, classes) float64: the K probabilities, and what is left of 1 in equal parts."""
    rows = []
    for row in probs.astype(np.float64):
        others = classes - len(row)
        rows.append([*row, *([max(0.0, 1 - row.sum()) / others] * others if others else [])])
    return np.array(rows)


def made(seed: int = 0) -> list[dali_dr.Sample]:
    """Images with drawn views, and predictions whose orders by confidence and by entropy differ."""
    rng = np.random.default_rng(seed)
    spec = dali_dr.AugmentationSpec.preset("rrc", size=SIZE)
    samples = []
    for number in range(IMAGES):
        drawn = draw(spec, seed=seed, key=str(number), views=range(VIEWS), image_height=40, image_width=60)
        probs = -np.sort(-rng.dirichlet(np.full(CLASSES, 0.4), VIEWS), axis=1)[:, :KEPT].astype(np.float32)
        ids = np.stack([rng.permutation(CLASSES)[:KEPT] for _ in range(VIEWS)]).astype(np.int32)
        image = encode_jpeg(picture(40, 60, number))
        views = dali_dr.Reinforcements.from_views(drawn, ids, np.ascontiguousarray(probs))
        samples.append(dali_dr.Sample(f"image{number}", image, number, views))
    return samples


def write(samples: Any, out: Path, **options: Any) -> dali_dr.Dataset:
    spec = dali_dr.AugmentationSpec.preset("rrc", size=SIZE)
    given = {"num_classes": CLASSES, "samples_per_shard": 4, "progress": False, "probabilities": "float32", **options}
    dali_dr.write_shards(samples, out, **{"spec": spec, **given})
    return dali_dr.Dataset(out)


@pytest.fixture(scope="module")
def by_entropy(tmp_path_factory: pytest.TempPathFactory) -> dali_dr.Dataset:
    return write(made(), tmp_path_factory.mktemp("orders") / "entropy", row_order="entropy")


@pytest.fixture(scope="module")
def by_confidence(tmp_path_factory: pytest.TempPathFactory) -> dali_dr.Dataset:
    return write(made(), tmp_path_factory.mktemp("orders") / "confidence")


def certainty(sample: dali_dr.Sample, by: str) -> npt.NDArray[np.float64]:
    """(N,) of a sample's views as given: the higher, the surer is the teacher."""
    assert sample.reinforcements is not None
    probs = sample.reinforcements.soft_probs
    return probs[:, 0].astype(np.float64) if by == "confidence" else -scipy.stats.entropy(dense(probs, CLASSES), axis=1)


# ---- orders


@pytest.mark.parametrize(("kept", "classes"), [(1, 2), (1, 10), (5, 5), (10, 1000), (3, 12)])
def test_entropy_is_scipys_of_the_spread_prediction(kept: int, classes: int) -> None:
    rng = np.random.default_rng(kept)
    rows = [-np.sort(-rng.dirichlet(np.full(classes, a), 200), axis=1)[:, :kept] for a in (0.01, 0.3, 5.0)]
    probs = np.concatenate(rows).astype(np.float32)
    ids = np.tile(np.arange(kept), (len(probs), 1))
    want = scipy.stats.entropy(densify(ids, probs.astype(np.float64), classes), axis=1)
    np.testing.assert_allclose(entropy(probs, classes), want, rtol=1e-9, atol=1e-12)
    assert np.array_equal(want, scipy.stats.entropy(dense(probs, classes), axis=1))


def test_entropy_at_the_edges() -> None:
    probs = np.array([[1, 0], [0, 0], [0.5, 0.5], [0.75, 0.2504]], np.float32)  # the last sums to more than 1
    want = [0.0, 0.0, np.log(2), scipy.stats.entropy(probs[3].astype(np.float64))]
    np.testing.assert_allclose(entropy(probs, 2), want, atol=1e-12)
    np.testing.assert_allclose(entropy(probs[:2], 4), [0.0, np.log(2)])  # all of it is spread over two others


def test_order_by_entropy_is_stable_and_keeps_rows_without_predictions() -> None:
    stored = made()[0].reinforcements
    assert stored is not None
    twice = stored.take(np.r_[np.arange(VIEWS), np.arange(VIEWS)])
    order = order_rows(twice, "entropy", CLASSES)
    values = scipy.stats.entropy(dense(twice.soft_probs, CLASSES), axis=1)
    assert np.array_equal(order, np.argsort(values.round(12), kind="stable"))
    nothing = random_reinforcements(np.random.default_rng(0), views=3, topk=0)
    assert order_rows(nothing, "entropy", CLASSES).tolist() == [0, 1, 2]


def test_pairs_of_a_double_mix_stay_together() -> None:
    stored = random_reinforcements(np.random.default_rng(0), views=12, partners=2, double=True)
    order = order_rows(stored, "entropy", 1000).reshape(-1, 2)
    assert (order[:, 0] % 2 == 0).all() and (order[:, 1] == order[:, 0] + 1).all()
    totals = scipy.stats.entropy(dense(stored.soft_probs, 1000), axis=1)[order].sum(axis=1)
    assert (np.diff(totals) >= 0).all() and sorted(order.ravel()) == list(range(12))
    confident = order_rows(stored, "confidence", 1000).reshape(-1, 2)
    assert not np.array_equal(order, confident)


# ---- sets


@pytest.mark.parametrize("by", ["confidence", "entropy"])
def test_views_are_stored_in_the_order_asked_for(by: str, request: pytest.FixtureRequest) -> None:
    stored: dali_dr.Dataset = request.getfixturevalue(f"by_{by}")
    for number, sample in enumerate(made()):
        assert sample.reinforcements is not None
        order = np.argsort(-certainty(sample, by), kind="stable")
        assert stored.reinforcements(number) == sample.reinforcements.take(order)
    assert verify(stored.path, images=True, progress=False).problems == []
    written = json.loads((stored.path / "dataset.json").read_text())
    assert (written.get("row_order"), written["format_version"]) == ((None, 3) if by == "confidence" else (by, 5))


def test_older_versions_know_no_row_order(by_entropy: dali_dr.Dataset, tmp_path: Path) -> None:
    data = json.loads((by_entropy.path / "dataset.json").read_text())
    for changes, what in (
        ({"format_version": 3}, "row_order: of format version 5, but format_version is 3"),
        ({"row_order": "loss"}, "row_order"),
        ({"row_order": "confidence"}, "row_order"),  # said by leaving it out, so that equal sets have equal manifests
    ):
        with pytest.raises(dali_dr.ShardError, match=what):
            Manifest.from_json({**data, **changes}, sealed=False)


def test_rows_are_ordered_anew(by_confidence: dali_dr.Dataset, by_entropy: dali_dr.Dataset, tmp_path: Path) -> None:
    arguments = ["subset", str(by_confidence.path), "--out", str(tmp_path / "e"), "--row-order", "entropy", "--quiet"]
    assert main(arguments) == 0
    other, back = dali_dr.Dataset(tmp_path / "e"), subset(tmp_path / "e", tmp_path / "c", row_order="confidence")
    assert (other.manifest.row_order, back.row_order) == ("entropy", "confidence")
    for number in range(IMAGES):
        assert other.reinforcements(number) == by_entropy.reinforcements(number)
        assert dali_dr.Dataset(tmp_path / "c").reinforcements(number) == by_confidence.reinforcements(number)
    # What is made of a set keeps its order.
    few = subset(by_entropy, tmp_path / "few", views=5)
    assert few.row_order == "entropy" and few.format_version == 5
    for number in range(IMAGES):
        rows = dense(dali_dr.Dataset(tmp_path / "few").reinforcements(number).soft_probs, CLASSES)
        assert (np.diff(scipy.stats.entropy(rows, axis=1)) >= 0).all()
    assert subset(by_confidence, tmp_path / "plain", views=5).row_order == "confidence"


def test_merged_and_retiled_sets_keep_the_order(by_entropy: dali_dr.Dataset, tmp_path: Path) -> None:
    second = write(made(1), tmp_path / "second", seed=1, keep_bytes=True, row_order="entropy")
    other = [dataclasses.replace(s, image_bytes=by_entropy.image(n)) for n, s in enumerate(made(1))]
    joined = merge(by_entropy, write(other, tmp_path / "other", seed=1), tmp_path / "merged")
    assert joined.row_order == "entropy" and joined.views_min == 2 * VIEWS
    rows = dense(dali_dr.Dataset(tmp_path / "merged").reinforcements(0).soft_probs, CLASSES)
    assert (np.diff(scipy.stats.entropy(rows, axis=1)) >= 0).all()
    assert retile(second, tmp_path / "tiled").row_order == "entropy"
    assert dali_dr.Dataset(tmp_path / "tiled").reinforcements(0) == second.reinforcements(0)


def test_a_row_order_that_does_not_exist_is_refused(by_confidence: dali_dr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(dali_dr.ShardError, match="row_order is 'loss', want one of 'confidence', 'entropy'"):
        write(made(), tmp_path / "a", row_order="loss")
    with pytest.raises(dali_dr.ShardError, match="row_order is 'loss'"):
        subset(by_confidence, tmp_path / "b", row_order="loss")  # type: ignore[arg-type]
    plain = [dataclasses.replace(sample, reinforcements=None) for sample in made()]
    with pytest.raises(dali_dr.ShardError, match="row_order, but no spec"):
        write(plain, tmp_path / "c", spec=None, row_order="entropy")
    write(made(), tmp_path / "d")
    with pytest.raises(dali_dr.ShardError, match="row_order"):  # a run goes on in its own order alone
        write(made(), tmp_path / "d", row_order="entropy")


# ---- epochs


def replayed(data: dali_dr.Dataset, curriculum: Any, epochs: int) -> dict[int, set[tuple[float, ...]]]:
    """The predictions that some epochs show of each image."""
    found: dict[int, set[tuple[float, ...]]] = {number: set() for number in range(IMAGES)}
    batches = dali_dr.ReinforcedIterator(
        data, batch_size=3, device="cpu", seed=5, num_threads=1, with_index=True, curriculum=curriculum
    )
    for _ in range(epochs):
        for (batch,) in batches:
            for number, probs in zip(batch["index"].tolist(), batch["soft_probs"].tolist(), strict=True):
                found[number].add(tuple(probs))
    return found


@pytest.mark.parametrize("by", ["confidence", "entropy"])
@pytest.mark.parametrize("part", ["easy", "hard"])
def test_an_epoch_replays_the_surest_or_least_sure_tenth(by: str, part: str, request: pytest.FixtureRequest) -> None:
    """Two of twenty views in two epochs, and no other."""
    data = request.getfixturevalue(f"by_{by}")
    found = replayed(data, {"start": part, "end": part, "epochs": 1, "by": by}, VIEWS // 10)
    for number, sample in enumerate(made()):
        assert sample.reinforcements is not None
        order = np.argsort(-certainty(sample, by), kind="stable")
        rows = order[: VIEWS // 10] if part == "easy" else order[-VIEWS // 10 :]
        assert found[number] == {tuple(row) for row in sample.reinforcements.soft_probs[rows].tolist()}


def test_orders_by_confidence_and_by_entropy_differ_here() -> None:
    """Else the test above would say little."""
    for sample in made():
        orders = [np.argsort(-certainty(sample, by), kind="stable") for by in ("confidence", "entropy")]
        assert set(orders[0][:2]) != set(orders[1][:2]) or set(orders[0][-2:]) != set(orders[1][-2:])


def test_a_curriculum_by_the_other_order_is_refused_with_what_helps(
    by_confidence: dali_dr.Dataset, by_entropy: dali_dr.Dataset
) -> None:
    for data, by in ((by_confidence, "entropy"), (by_entropy, "confidence")):
        with pytest.raises(ValueError, match=rf"dali-dr subset {data.path} --out OTHER --row-order {by}"):
            replayed(data, f"easy-hard:10:0.1:{by}", 1)
    replayed(by_entropy, lambda epoch: (0.0, 0.5), 1)  # the user's own takes any order


def test_states_of_curricula_by_confidence_and_entropy_differ(by_confidence: dali_dr.Dataset) -> None:
    def state(curriculum: Any) -> Mapping[str, Any]:
        options = {"batch_size": 3, "device": "cpu", "num_threads": 1}
        return dali_dr.ReinforcedIterator(by_confidence, curriculum=curriculum, **options).state_dict()

    plain = Curriculum("easy", "all", 4, 0.5)
    # What states of earlier versions say, which had no `by`: they go on.
    assert plain.name == "Curriculum(start='easy', end='all', epochs=4, part=0.5)"
    assert state(plain) == state("easy-all:4:0.5") == state({"start": "easy", "end": "all", "epochs": 4, "part": 0.5})
    assert plain.name in json.dumps(state(plain))
    others = [
        Curriculum("easy", "all", 4, 0.5, "entropy"),
        Curriculum("easy", "all", 4),
        Curriculum("hard", "all", 4, 0.5),
    ]
    assert len({plain.name, *(other.name for other in others)}) == 4


# ---- words


def test_the_part_is_a_tenth_by_default() -> None:
    rows = [Choice(400, window=Curriculum("easy", "hard", 2)).rows(epoch) for epoch in (0, 1)]
    assert rows == [(0, 40), (360, 400)]


@pytest.mark.parametrize(
    ("value", "want"),
    [
        ("easy-all:100", Curriculum("easy", "all", 100)),
        ("hard-easy:7:0.25", Curriculum("hard", "easy", 7, 0.25)),
        ("easy-hard:300:0.1:entropy", Curriculum("easy", "hard", 300, 0.1, "entropy")),
        ("all-all:1:entropy", Curriculum("all", "all", 1, by="entropy")),
        ({"start": "easy", "end": "all", "epochs": 3}, Curriculum("easy", "all", 3)),
        (
            {"start": "easy", "end": "all", "epochs": 3, "part": 1, "by": "entropy"},
            Curriculum("easy", "all", 3, 1, "entropy"),
        ),
    ],
)
def test_a_curriculum_in_words(value: Any, want: Curriculum) -> None:
    assert Curriculum.of(value) == want


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("easy", "START-END:EPOCHS"),
        ("easy-all:x", "START-END:EPOCHS"),
        ("easy-all:3:2", "part of a curriculum is 2.0"),
        ("easy-all:0", "epochs of a curriculum is 0"),
        ("easy-most:3", "goes between easy, hard, all, not 'most'"),
        ("easy-all:3:0.1:loss", "by of a curriculum is 'loss', want 'confidence' or 'entropy'"),
        ({"start": "easy"}, "wants end and epochs, too"),
        ({"start": "easy", "end": "all", "epochs": 3, "share": 0.1}, "has start, end, epochs, part, by, not 'share'"),
        ({"start": "easy", "end": "all", "epochs": "3"}, "epochs of a curriculum is '3', want a whole number"),
        ({"start": "easy", "end": "all", "epochs": 3, "part": "a"}, "part of a curriculum is 'a'"),
        ({"start": "easy", "end": ["all"], "epochs": 3}, "goes between"),
    ],
)
def test_other_words_are_refused(value: Any, message: str, by_confidence: dali_dr.Dataset) -> None:
    with pytest.raises(ValueError, match=message):
        Curriculum.of(value)
    with pytest.raises(ValueError, match=rf"^curriculum: .*{message}"):
        dali_dr.ReinforcedIterator(by_confidence, batch_size=3, device="cpu", curriculum=value)


def test_a_set_is_reinforced_in_the_order_of_entropy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dali_dr._torchvision import load_torchvision

    load_torchvision()
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "w.pth")
    for number in range(3):
        (tmp_path / "in" / "c").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / "c" / f"{number}.jpg").write_bytes(encode_jpeg(picture(40, 60, number)))
    arguments = ["reinforce", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--row-order", "entropy",
                 "--teacher", f"test_vit@{tmp_path / 'w.pth'}", "--size", "64", "--spec", "rrc", "--views", "6",
                 "--probabilities", "float32", "--quiet", "--json", "--threads", "1"]  # fmt: skip
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["format_version"] == 5
    data = dali_dr.Dataset(tmp_path / "out")
    for number in range(3):
        values = scipy.stats.entropy(dense(data.reinforcements(number).soft_probs, data.manifest.num_outputs), axis=1)
        assert (np.diff(values) >= 0).all() and len(set(values)) == 6
