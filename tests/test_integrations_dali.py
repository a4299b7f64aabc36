"""DALI's classification iterator and its look-alike: one protocol, held against DALI's own class over DALI's own pipeline."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import encode_jpeg, picture, write_files
from nvidia.dali import fn, pipeline_def
from nvidia.dali.plugin.pytorch import DALIClassificationIterator as Stock
from nvidia.dali.plugin.pytorch import LastBatchPolicy
from test_iterator import make_dataset

import dali_dr
from dali_dr.integrations import DALIClassificationIterator

CLASSES = 20
COUNTS = (1, 7, 12)
BATCH = 4


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return [encode_jpeg(picture(40 + 3 * i, 70 - 2 * i, i)) for i in range(max(COUNTS))]


@pytest.fixture(scope="module")
def sets(images: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[int, dali_dr.Dataset]:
    return {count: make_dataset(tmp_path_factory.mktemp("dali") / "set", images[:count]) for count in COUNTS}


@pytest.fixture(scope="module")
def folders(images: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return {
        count: write_files(
            tmp_path_factory.mktemp("dali"), {f"c/{i:02d}.jpg": data for i, data in enumerate(images[:count])}
        )
        for count in COUNTS
    }


def pipeline(folder: Path, rank: int = 0, world: int = 1, **settings: Any) -> Any:
    @pipeline_def(batch_size=BATCH, num_threads=1, device_id=None, **settings)
    def made() -> Any:
        files, labels = fn.readers.file(
            file_root=str(folder), shard_id=rank, num_shards=world, pad_last_batch=True, name="Reader"
        )
        return fn.resize(fn.decoders.image(files), size=(32, 32)), labels

    return made()


def ours(dataset: dali_dr.Dataset, **options: Any) -> DALIClassificationIterator:
    options = {"batch_size": BATCH, "device": "cpu", "num_threads": 1, "reader_name": "Reader", **options}
    return DALIClassificationIterator(dataset, **options)


def sizes(batches: list[Any]) -> list[int]:
    return [len(batch[0]["data"]) for batch in batches]


def told(loader: Any) -> dict[str, Any]:
    """What a script of DALI's kind sees of a loader over two epochs, with a reset between them."""
    seen: dict[str, Any] = {"len": len(loader), "_size": loader._size, "batch_size": loader.batch_size}
    seen["steps"] = math.ceil(loader._size / loader.batch_size)
    first = list(loader)
    seen["first"], seen["axes"] = sizes(first), [sorted(batch[0]) for batch in first]
    seen["rank of label"] = {batch[0]["label"].ndim for batch in first}
    try:
        next(loader)
        seen["after the end"] = "a batch"
    except StopIteration:
        seen["after the end"] = "StopIteration"
    loader.reset()
    seen["second"] = sizes(list(loader))
    seen["third"] = sizes(list(loader))  # iter alone resets
    return seen


@pytest.mark.parametrize("policy", LastBatchPolicy)
@pytest.mark.parametrize("count", COUNTS)
def test_the_protocol_is_dalis(
    sets: dict[int, dali_dr.Dataset], folders: dict[int, Path], count: int, policy: LastBatchPolicy
) -> None:
    if policy is LastBatchPolicy.DROP and count < BATCH:
        with pytest.raises(ValueError, match="no rank of 1 gets a batch"):
            ours(sets[count], last_batch_policy=policy)  # DALI's yields empty epochs
        return
    stock = told(Stock(pipeline(folders[count]), reader_name="Reader", last_batch_policy=policy))
    if policy is LastBatchPolicy.FILL:  # DALI says of a padded reader how many images it has, we how many are shown
        assert stock["_size"] == count
        stock["_size"] = stock["steps"] * BATCH
    assert told(ours(sets[count], last_batch_policy=policy, targets="both")) == {
        **stock,
        "axes": [["data", "label", "targets"]] * len(stock["first"]),
    }
    assert told(ours(sets[count], last_batch_policy=policy, targets="label")) == stock


@pytest.mark.parametrize("fill", [True, False])
def test_dalis_older_word(
    sets: dict[int, dali_dr.Dataset], folders: dict[int, Path], fill: bool, recwarn: pytest.WarningsRecorder
) -> None:
    stock = Stock(pipeline(folders[7]), reader_name="Reader", fill_last_batch=fill)
    assert sizes(list(ours(sets[7], fill_last_batch=fill))) == sizes(list(stock)) == ([4, 4] if fill else [4, 3])


def stops(loader: Any, calls: int) -> str:
    """What `next` does, call after call: b for a batch, S for StopIteration."""
    told = ""
    for _ in range(calls):
        try:
            next(loader)
            told += "b"
        except StopIteration:
            told += "S"
    return told


@pytest.mark.parametrize("auto_reset", [True, False, None, "yes", "no"])
def test_the_end_of_an_epoch_is_dalis(
    sets: dict[int, dali_dr.Dataset], folders: dict[int, Path], auto_reset: Any
) -> None:
    stock = Stock(pipeline(folders[7]), reader_name="Reader", auto_reset=auto_reset)
    assert stops(ours(sets[7], auto_reset=auto_reset), 8) == stops(stock, 8)


@pytest.mark.parametrize("rank", range(3))
def test_batches_of_a_rank(sets: dict[int, dali_dr.Dataset], folders: dict[int, Path], rank: int) -> None:
    stock = Stock(pipeline(folders[12], rank, 3), reader_name="Reader", last_batch_policy=LastBatchPolicy.PARTIAL)
    mine = ours(sets[12], rank=rank, world_size=3, last_batch_policy=LastBatchPolicy.PARTIAL)
    assert (len(mine), mine._size, sizes(list(mine))) == (len(stock), stock._size, sizes(list(stock)))


def test_positions_of_arguments_are_dalis() -> None:
    import inspect

    stock = [name for name in inspect.signature(Stock.__init__).parameters if name != "self"]
    mine = inspect.signature(DALIClassificationIterator.__init__).parameters
    assert [name for name in mine if name != "self"][: len(stock)] == stock
    for name, of_stock in inspect.signature(Stock.__init__).parameters.items():
        assert mine[name].default == of_stock.default, name


# ---- the teacher


def reference(dataset: dali_dr.Dataset, number: int, view: int) -> torch.Tensor:
    """The teacher's distribution of one stored view, its other mass spread over the other classes, in float64."""
    stored = dataset.reinforcements(number)
    ids, probs = stored.soft_ids[view].astype(int), stored.soft_probs[view].astype(float)
    full = torch.full((CLASSES,), (1 - probs.sum()) / (CLASSES - len(ids)), dtype=torch.float64)
    full[torch.from_numpy(ids)] = torch.from_numpy(probs)
    return full


def of_views(dataset: dali_dr.Dataset, policy: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """What the plain loader shows, with the targets of these views by `reference`."""
    plain = dali_dr.ReinforcedIterator(
        dataset, batch_size=BATCH, device="cpu", num_threads=1, with_index=True, last_batch=policy
    )
    for (batch,) in plain:
        pairs = zip(batch["index"].tolist(), batch["view"].tolist(), strict=True)
        yield batch["data"], torch.stack([reference(dataset, number, view) for number, view in pairs])


def test_the_label_is_the_teachers_by_default(sets: dict[int, dali_dr.Dataset]) -> None:
    shown = list(ours(sets[12]))
    for (batch,), (data, targets) in zip(shown, of_views(sets[12], "fill"), strict=True):
        assert torch.equal(batch["data"], data)
        assert batch["label"].dtype == torch.float32 and batch["label"].shape == (BATCH, CLASSES)
        torch.testing.assert_close(batch["label"].double(), targets, atol=1e-6, rtol=1e-5)


def test_a_script_that_makes_class_ids_of_it_is_refused_by_torch(sets: dict[int, dali_dr.Dataset]) -> None:
    """Not trained on zeros: what `.squeeze(-1).long()` leaves is no target."""
    (batch,) = next(ours(sets[12]))
    target = batch["label"].squeeze(-1).long()
    with pytest.raises(RuntimeError, match="probabilities"):
        torch.nn.CrossEntropyLoss()(torch.randn(BATCH, CLASSES), target)


def test_both_and_labels_alone(sets: dict[int, dali_dr.Dataset]) -> None:
    soft, both, hard = (list(ours(sets[12], targets=kind)) for kind in ("teacher", "both", "label"))
    for (one,), (two,), (three,) in zip(soft, both, hard, strict=True):
        assert torch.equal(one["label"], two["targets"]) and torch.equal(two["label"], three["label"])
        assert two["label"].shape == (BATCH, 1) and two["label"].dtype == torch.int64
        assert list(three) == ["data", "label"]


def test_evaluation_has_labels(sets: dict[int, dali_dr.Dataset]) -> None:
    batches = list(ours(sets[7], augment="eval", last_batch_policy=LastBatchPolicy.PARTIAL))
    labels = torch.cat([batch["label"] for (batch,) in batches])
    assert labels[:, 0].tolist() == [sets[7].labels[number] for number in range(7)]
    with pytest.raises(ValueError, match="no teacher has seen fresh views"):
        ours(sets[7], augment="eval", targets="teacher")


def test_a_state_goes_on_with_the_next_batch(sets: dict[int, dali_dr.Dataset]) -> None:
    one, other = ours(sets[12], auto_reset=True), ours(sets[12], auto_reset=True)
    next(one)
    other.load_state_dict(one.state_dict())
    for _ in range(2):
        assert torch.equal(next(other)[0]["label"], next(one)[0]["label"])


def test_the_epoch_to_begin_with(sets: dict[int, dali_dr.Dataset]) -> None:
    running = ours(sets[12])
    epochs = [[batch["label"] for (batch,) in running] for _ in range(3)]
    resumed = [batch["label"] for (batch,) in ours(sets[12], start_epoch=2)]
    assert all(torch.equal(a, b) for a, b in zip(epochs[2], resumed, strict=True))
    assert not torch.equal(epochs[0][0], epochs[2][0])


# ---- pipelines


def test_a_pipelines_settings_are_taken(sets: dict[int, dali_dr.Dataset], tmp_path: Path) -> None:
    pipe = pipeline(tmp_path / "not there")  # need not be built, nor could it be
    loader = DALIClassificationIterator(pipe, dataset=sets[7])
    assert loader.batch_size == BATCH and loader.machine.device == "cpu" and loader.machine.num_threads == 1
    assert DALIClassificationIterator([pipe], dataset=sets[7].path, batch_size=2).batch_size == 2


def test_what_is_refused(sets: dict[int, dali_dr.Dataset], folders: dict[int, Path]) -> None:
    pipe = pipeline(folders[7])
    with pytest.raises(dali_dr.DaliDrError, match="which have no teacher: pass the reinforced data set"):
        DALIClassificationIterator(pipe, reader_name="Reader")
    with pytest.raises(dali_dr.DaliDrError, match="2 pipelines are given"):
        DALIClassificationIterator([pipe, pipe], dataset=sets[7])
    with pytest.raises(ValueError, match="two data sets are given"):
        DALIClassificationIterator(sets[7], dataset=sets[7])
    with pytest.raises(ValueError, match="batch_size is missing"):
        DALIClassificationIterator(sets[7])
    with pytest.raises(ValueError, match="targets must be one of 'teacher', 'label', 'both'"):
        ours(sets[7], targets="soft")
    with pytest.raises(ValueError, match="start_epoch is -1"):
        ours(sets[7], start_epoch=-1)
    with pytest.raises(ValueError, match="fill_last_batch is 3"):
        ours(sets[7], fill_last_batch=3)
    with pytest.raises(TypeError, match="no argument 'shuffel'"):
        ours(sets[7], shuffel=True)
