"""Arguments of the loader: every spelling that users know, and everything out of range refused by its name."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import encode_jpeg, picture
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from test_iterator import CLASSES, VIEWS, make_dataset

import dali_dr
from dali_dr.loader.options import GROUPS, Machine, Options, Schedule, Show
from dali_dr.sampling.order import Global, Repeated

COUNT = 9


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> dali_dr.Dataset:
    images = [encode_jpeg(picture(40 + 3 * i, 70 - 2 * i, i)) for i in range(COUNT)]
    return make_dataset(tmp_path_factory.mktemp("options") / "set", images)


def make(dataset: dali_dr.Dataset, **options: Any) -> dali_dr.ReinforcedIterator:
    return dali_dr.ReinforcedIterator(dataset, **{"batch_size": 2, "device": "cpu", "num_threads": 1, **options})


REFUSED: dict[str, list[Any]] = {
    "batch_size": [0, -1, 2.0, "2", True, None, 10**9],
    "size": [
        0,
        -2,
        "224",
        b"96",
        96.0,
        True,
        4097,
        (96, 0),
        (96,),
        (96, 96, 96),
        [],
        [(96, 0)],
        [(0, 2)],
        [96, "a"],
        ["ab"],
    ],
    "dtype": ["float64", "half", torch.int32, np.float64, None, 32],
    "mean": [(0.5, 0.5), 0.5, "abc", (123.7, 116.3, 103.5), (math.nan, 0, 0), (-0.1, 0, 0), None],
    "std": [(0, 0, 0), (58.4, 57.1, 57.4), (0.2, 0.2), (math.inf, 1, 1), None],
    "augment": [3, ["rrc"], "rcc"],
    "layout": ["NCHW", "chw", None, 3],
    "targets": ["soft", None, 1],
    "as_tuples": ["yes", 1, None],
    "with_index": ["yes", 0, None],
    "label_ndim": [0, 3, "1", True],
    "seed": [1.5, "7", None, True],
    "order": ["random", "shuffle", 3, object()],
    "window": [0, -1, 2.5, "8"],
    "samples": [[0, 0], [9], [-1], [], [1.5], 3, "image000", [True] * 9],
    "classes": [[CLASSES], [-1], [], 0, "c0", ["c0"], [0.5]],
    "repeats": [0, -1, 1.5, "3", VIEWS + 1],
    "class_mates": [-1, 0.5, "1"],
    "views_per_image": [0, 1.5, VIEWS + 1],
    "curriculum": [
        "easy",
        "easy-all",
        "easy-harder:3",
        "easy-all:0",
        (0, 1),
        0.5,
        {},
        {"start": "easy", "end": "all"},
        True,
    ],
    "p_reinforced": [-0.1, 1.1, math.nan, "0.5", True],
    "last_batch": ["pad", "FILL", None, 0],
    "last_batch_policy": ["pad", 3],
    "auto_reset": ["maybe", 2, "True"],
    "device": ["cude", "mps", "gpu:x", "cpu:1", 0, None, torch.device("meta")],
    "device_id": [-1, 0.5, "0"],
    "rank": [-1, 1, "0"],
    "world_size": [0, -1, 2.5],
    "num_threads": [0, -1, 1.5, "2"],
    "on_error": ["ignore", None, True],
    "max_skipped": [-0.1, 1.5, "all", True],
    "roi_decode": ["maybe", True, None],
    "decode_device": ["gpu", "mixed", None],
    "decoder": ["nvjpeg", True, None],
    "integrity": ["none", True],
    "max_pixels": [-1, 2**31, 1.5],
    "io_retry_s": [-0.1, math.nan, "3"],
    "partner_cache_bytes": [-1, 1.5, "x"],
    "hw_decoder_load": [-0.1, 1.1, math.nan, "0.65"],
    "prefetch": [0, -1, 1.5, "2"],
    "prepare_first_batch": ["yes", 1, None],
    "reader_name": [3, b"Reader"],
}


def test_every_argument_has_values_that_are_refused() -> None:
    assert set(REFUSED) | {"dynamic_shape"} == set(Options.__annotations__) | {"batch_size"}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values])
def test_out_of_range_is_refused_by_name(dataset: dali_dr.Dataset, name: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError, dali_dr.DaliDrError)) as caught:
        make(dataset, **{name: value})
    message = str(caught.value)
    assert name.removesuffix("_policy").removesuffix("es").removesuffix("s") in message.replace("Order", "order"), (
        message
    )
    assert "Traceback" not in message and "nvidia" not in message and len(message) < 600


def test_unknown_arguments_are_named(dataset: dali_dr.Dataset) -> None:
    for name, hint in (
        ("shuffle", "order="), ("num_workers", "num_threads"), ("drop_last", "last_batch"), ("output_map", "output_map"),
        ("num_thread", r"did you mean num_threads\?"), ("qqq", "it has .*seed"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=rf"no argument '{name}'; .*{hint}"):
            make(dataset, **{name: True})
    with pytest.raises(TypeError, match="batch_size"):
        dali_dr.ReinforcedIterator(dataset, device="cpu")  # type: ignore[call-arg]


@pytest.mark.parametrize("dtype", [torch.float16, "float16", np.float16, np.dtype("float16")])
def test_types_in_every_spelling(dataset: dali_dr.Dataset, dtype: Any) -> None:
    assert next(make(dataset, dtype=dtype))[0]["data"].dtype == torch.float16
    assert next(make(dataset, dtype=torch.bfloat16))[0]["data"].dtype == torch.bfloat16
    assert next(make(dataset, dtype=torch.uint8))[0]["data"].dtype == torch.uint8


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), "cpu:0"])
def test_the_cpu_in_every_spelling(dataset: dali_dr.Dataset, device: Any) -> None:
    assert next(make(dataset, device=device))[0]["data"].device == torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "number"),
    [
        ("gpu", None),
        ("cuda", None),
        ("cuda:1", 1),
        ("gpu:1", 1),
        (torch.device("cuda"), None),
        (torch.device("cuda:1"), 1),
    ],
)
def test_the_gpu_in_every_spelling(dataset: dali_dr.Dataset, device: Any, number: int | None) -> None:
    machine = Machine(device=device)
    assert (machine.device, machine.device_id) == ("gpu", number)
    if not torch.cuda.is_available():
        with pytest.raises(dali_dr.DaliDrError, match='device="cpu"'):  # asked for, not silently the CPU
            make(dataset, device=device)


def test_two_gpus_at_once_are_refused() -> None:
    assert Machine(device="cuda:1", device_id=1).device_id == 1  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="device_id is 2; pass 1"):
        Machine(device="cuda:1", device_id=2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policy", "lengths"),
    [
        (LastBatchPolicy.FILL, [2] * 5),
        (LastBatchPolicy.DROP, [2] * 4),
        (LastBatchPolicy.PARTIAL, [2, 2, 2, 2, 1]),
        ("drop", [2] * 4),
        ("LastBatchPolicy.PARTIAL", [2, 2, 2, 2, 1]),
    ],
)
def test_last_batch_policy_of_dali(dataset: dali_dr.Dataset, policy: Any, lengths: list[int]) -> None:
    assert [len(batch["label"]) for (batch,) in make(dataset, last_batch_policy=policy)] == lengths
    with pytest.raises(ValueError, match="last_batch_policy"):
        make(dataset, last_batch_policy=LastBatchPolicy.FILL, last_batch="drop")


def test_arguments_of_dalis_scripts_mean_what_they_mean(dataset: dali_dr.Dataset) -> None:
    """Those of NVIDIA's ResNet-50 main.py and of DALI's tutorials."""
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    known = set(inspect.signature(DALIGenericIterator.__init__).parameters)
    ours = set(Options.__annotations__)
    deprecated = {"fill_last_batch", "last_batch_padded"}
    assert known - ours == {"self", "pipelines", "output_map"} | deprecated
    it = make(
        dataset,
        reader_name="Reader",
        size=-1,
        auto_reset=True,
        last_batch_policy=LastBatchPolicy.PARTIAL,
        dynamic_shape=True,
        prepare_first_batch=True,
        label_ndim=2,
    )
    for _ in range(2):
        seen = 0
        for data in it:
            images, labels = data[0]["data"], data[0]["label"].squeeze(-1).long()
            assert labels.shape == (len(images),) and images.shape[2:] == (96, 96)
            seen += len(images)
        assert seen == it._size == COUNT
        it.reset()


def test_dalis_size_is_told_from_pixels(dataset: dali_dr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    assert next(make(dataset, size=48))[0]["data"].shape[-1] == 48
    for size in (10_000, np.int64(10_000)):
        with pytest.raises(ValueError, match=r"size is .*10000.*samples of an epoch, is known here"):
            make(dataset, size=size)
    with pytest.raises(
        ValueError, match=r"size is 9; pass nothing, or \(9, 9\) if pixels are meant: beside reader_name"
    ):
        make(dataset, size=COUNT, reader_name="Reader")
    assert next(make(dataset, size=COUNT))[0]["data"].shape[-1] == COUNT
    monkeypatch.setattr("dali_dr.loader.checks.MAX_VIEW_SIZE", 3)  # so that nine samples are no pixels
    for size in (COUNT, 5, 4):
        monkeypatch.setenv("WORLD_SIZE", "1" if size == COUNT else "2")
        monkeypatch.setenv("RANK", "0")
        assert next(make(dataset, size=size))[0]["data"].shape[-1] == 96


def test_prepare_first_batch_begins_at_once(dataset: dali_dr.Dataset) -> None:
    it = make(dataset, prepare_first_batch=True, with_index=True)
    lazy = make(dataset, with_index=True)
    assert len(it._feed._shares) > 0 and not lazy._feed._shares
    assert torch.equal(next(it)[0]["index"], next(lazy)[0]["index"])


def test_groups_may_be_passed_as_such(dataset: dali_dr.Dataset) -> None:
    fields = [name for group in GROUPS for name in group.__dataclass_fields__]
    assert len(fields) == len(set(fields))
    assert set(Options.__annotations__) - set(fields) == {"last_batch_policy", "reader_name", "dynamic_shape"}
    show, schedule, machine = (
        Show(dtype="uint8", with_index=True),
        Schedule(seed=5),
        Machine(device="cpu", num_threads=1),
    )
    grouped = dali_dr.ReinforcedIterator(dataset, batch_size=2, show=show, schedule=schedule, machine=machine)
    single = make(dataset, dtype="uint8", with_index=True, seed=5)
    for (a,), (b,) in zip(grouped, single, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in b)
    mixed = dali_dr.ReinforcedIterator(dataset, batch_size=2, schedule=schedule, device="cpu", with_index=True)
    assert torch.equal(next(mixed)[0]["index"], next(iter(single))[0]["index"]) or mixed.epoch != single.epoch
    with pytest.raises(TypeError, match=r"seed is given beside schedule=Schedule"):
        dali_dr.ReinforcedIterator(dataset, batch_size=2, schedule=schedule, seed=6, device="cpu")
    with pytest.raises(TypeError, match="schedule is a Show"):
        dali_dr.ReinforcedIterator(dataset, batch_size=2, schedule=show, device="cpu")  # type: ignore[arg-type]


def test_sizes_of_a_function_are_refused_when_they_come(dataset: dali_dr.Dataset) -> None:
    it = make(dataset, size=lambda epoch: 48 if epoch == 0 else "64")
    with pytest.raises(ValueError, match=r"size\(1\) is '64'"):
        for _ in range(2):
            list(it)


@pytest.mark.parametrize(("name", "value"), [("RANK", "x"), ("WORLD_SIZE", "0"), ("WORLD_SIZE", "-2"), ("RANK", "1.0")])
def test_a_broken_environment_is_named(
    dataset: dali_dr.Dataset, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"environment variable {name}"):
        make(dataset)


def test_rank_comes_from_torch_distributed_where_it_runs(dataset: dali_dr.Dataset, tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        assert Machine(device="cpu").place == (0, 1)
        assert Machine(device="cpu", rank=1, world_size=3).place == (1, 3)
    finally:
        torch.distributed.destroy_process_group()


def test_samples_and_classes_with_an_order_given(dataset: dali_dr.Dataset) -> None:
    with pytest.raises(ValueError, match="`samples` and `classes`"):
        make(dataset, order=Global(COUNT, 0), samples=[1])


def test_batches_that_some_epoch_could_not_share_out_are_refused_at_once(dataset: dali_dr.Dataset) -> None:
    shapes = [(96, 1), (64, 4)]
    with pytest.raises(ValueError, match=r"last_batch is 'partial'; pass \"drop\" or \"fill\""):
        make(dataset, size=shapes, rank=0, world_size=2)
    assert len(list(make(dataset, size=shapes, rank=0, world_size=2, last_batch="drop"))) > 0
    assert sum(len(b["label"]) for (b,) in make(dataset, size=shapes)) == COUNT


@pytest.mark.parametrize("window", [None, 0.5, (0.5,), ("a", "b"), (0.5, 0.2), (0, math.nan), (0, 0.2, 0.4)])
def test_windows_of_a_curriculum_are_refused_when_they_come(dataset: dali_dr.Dataset, window: Any) -> None:
    it = make(dataset, curriculum=lambda epoch: (0, 1) if epoch == 0 else window)
    with pytest.raises(ValueError, match="window of epoch 1 is"):
        for _ in range(2):
            list(it)


def test_what_would_do_nothing_is_refused(dataset: dali_dr.Dataset) -> None:
    with pytest.raises(dali_dr.SpecError, match="BatchMixing"):
        make(dataset, augment="rrc+mixing")
    with pytest.raises(ValueError, match=r"p_reinforced is 0\.5; pass nothing beside augment"):
        make(dataset, augment="rrc", p_reinforced=0.5)
    with pytest.raises(ValueError, match=r"curriculum is .*beside augment"):
        make(dataset, augment="rrc", curriculum=lambda epoch: (0, 1))


@pytest.mark.parametrize("times", [(VIEWS + 1,), (2, 3)])
def test_an_order_that_shows_more_than_is_stored_is_refused(dataset: dali_dr.Dataset, times: tuple[int, ...]) -> None:
    order: Any = Global(COUNT, 0)
    for number in times:
        order = Repeated(order, number)
    with pytest.raises(ValueError, match=r"order is Repeated.*5 times.*this one shows 6"):
        make(dataset, order=order, batch_size=6)


def test_a_world_without_a_rank_is_named(dataset: dali_dr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="WORLD_SIZE=2 but no RANK"):
        make(dataset)
    assert len(make(dataset, rank=1)) > 0 and len(make(dataset, rank=0, world_size=1)) > 0


def test_a_state_that_cannot_be_shared_out_is_refused_when_it_is_loaded(dataset: dali_dr.Dataset) -> None:
    whole, part = make(dataset), make(dataset, rank=0, world_size=2)
    for _ in range(4):
        next(whole)
    before = part.state_dict()
    with pytest.raises(ValueError, match=r"1 samples are left.*set_epoch"):
        part.load_state_dict(whole.state_dict())
    assert part.state_dict() == before
