"""ReinforcedIterator: what it yields is what is stored, in exactly the order that the sampler says."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import encode_jpeg, picture
from PIL import Image

import dali_dr
from dali_dr import _plugin
from dali_dr.augment.draw import draw
from dali_dr.augment.fresh import fresh_seed
from dali_dr.augment.reference import normalise, replay_pillow
from dali_dr.cli import main
from dali_dr.encoded import image_info
from dali_dr.loader.graph import replay_pipeline
from dali_dr.loader.options import IMAGENET_MEAN, IMAGENET_STD, default_threads
from dali_dr.sampling.choice import Curriculum

SIZE, CLASSES, VIEWS = 96, 20, 5


def make_dataset(
    out: Path, images: list[bytes], preset: str = "rrc+ra+re", views: int = VIEWS, **writing: Any
) -> dali_dr.Dataset:
    """Writes images with drawn views and made-up predictions as a data set of several shards."""
    spec = dali_dr.AugmentationSpec.preset(preset, size=SIZE)
    rng = np.random.default_rng(1)

    def samples() -> Iterator[dali_dr.Sample]:
        for number, data in enumerate(images):
            _, height, width = image_info(data)
            drawn = draw(spec, seed=0, key=str(number), views=range(views), image_height=height, image_width=width)
            ids = np.stack([rng.permutation(CLASSES)[:4] for _ in range(views)]).astype(np.int32)
            probs = -np.sort(-rng.dirichlet(np.ones(6), views), axis=1)[:, :4].astype(np.float32)
            columns = {name: getattr(drawn, name) for name in ("crop", "flip", "ops", "magnitudes", "erase")}
            yield dali_dr.Sample(
                f"image{number:03d}",
                data,
                number % CLASSES,
                dali_dr.Reinforcements(**columns, soft_ids=ids, soft_probs=probs),
            )

    options: dict[str, Any] = {"num_classes": CLASSES, "samples_per_shard": 8, "progress": False, **writing}
    dali_dr.write_shards(samples(), out, spec=spec, **options)
    return dali_dr.Dataset(out)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, jpeg_bytes: list[bytes]) -> dali_dr.Dataset:
    more = [encode_jpeg(picture(60 + 7 * i, 110 - 3 * i, 50 + i)) for i in range(15)]
    return make_dataset(tmp_path_factory.mktemp("data") / "set", jpeg_bytes + more)  # 23 images


def loader(dataset: dali_dr.Dataset, **options: Any) -> dali_dr.ReinforcedIterator:
    options = {"batch_size": 5, "device": "cpu", "num_threads": 2, "with_index": True, "seed": 7, **options}
    return dali_dr.ReinforcedIterator(dataset, **options)


def reference(dataset: dali_dr.Dataset, number: int, view: int) -> Any:
    image = Image.open(io.BytesIO(dataset.image(number))).convert("RGB")
    return replay_pillow(image, dataset.reinforcements(number), view, dataset.spec)


def epoch_of(iterator: dali_dr.ReinforcedIterator) -> list[dict[str, torch.Tensor]]:
    return [batch for (batch,) in iterator]


def test_batches_are_the_stored_views_bit_for_bit(dataset: dali_dr.Dataset) -> None:
    iterator = loader(dataset)
    assert len(iterator) == 5
    for _ in range(2):
        batches = epoch_of(iterator)
        assert [len(b["data"]) for b in batches] == [5, 5, 5, 5, 3]
        assert sorted(torch.cat([b["index"] for b in batches]).tolist()) == list(range(23))
        for batch in batches:
            assert batch["data"].shape[1:] == (3, SIZE, SIZE) and batch["data"].dtype == torch.float32
            for row, (number, view) in enumerate(zip(batch["index"].tolist(), batch["view"].tolist(), strict=True)):
                expected = normalise(reference(dataset, number, view), IMAGENET_MEAN, IMAGENET_STD)
                assert np.array_equal(batch["data"][row].numpy(), expected)
                stored = dataset.reinforcements(number)
                assert np.array_equal(batch["soft_ids"][row].numpy(), stored.soft_ids[view])
                assert np.array_equal(batch["soft_probs"][row].numpy(), stored.soft_probs[view])
                assert int(batch["label"][row]) == dataset.label(number)


def test_uint8_hwc(dataset: dali_dr.Dataset) -> None:
    (batch,) = next(iter(loader(dataset, dtype="uint8", layout="HWC")))
    for row, (number, view) in enumerate(zip(batch["index"].tolist(), batch["view"].tolist(), strict=True)):
        assert np.array_equal(batch["data"][row].numpy(), reference(dataset, number, view))


def test_16_bits_are_the_rounded_float32(dataset: dali_dr.Dataset) -> None:
    half, brain, single = (
        next(iter(loader(dataset, dtype=dtype)))[0]["data"] for dtype in ("float16", "bfloat16", "float32")
    )
    assert half.dtype == torch.float16 and torch.equal(half, single.half())
    assert brain.dtype == torch.bfloat16 and torch.equal(brain, single.bfloat16())


def test_decoding_whole_images_changes_nothing(dataset: dali_dr.Dataset) -> None:
    pairs = zip(loader(dataset, roi_decode="off"), loader(dataset, roi_decode="on"), strict=True)
    assert all(torch.equal(a["data"], b["data"]) for (a,), (b,) in pairs)


def test_names_without_index(dataset: dali_dr.Dataset) -> None:
    (batch,) = next(iter(loader(dataset, with_index=False)))
    assert list(batch) == ["data", "label", "soft_ids", "soft_probs"]


def test_tuples_have_dense_targets(dataset: dali_dr.Dataset) -> None:
    ((images, targets),) = [next(iter(loader(dataset, as_tuples=True)))]
    (batch,) = next(iter(loader(dataset)))
    assert torch.equal(images, batch["data"]) and targets.shape == (5, CLASSES)
    torch.testing.assert_close(targets.sum(1), torch.ones(5))
    for row in range(5):
        ids, probs = batch["soft_ids"][row].long(), batch["soft_probs"][row]
        torch.testing.assert_close(targets[row, ids], probs)
        others = torch.ones(CLASSES, dtype=torch.bool).index_fill(0, ids, False)
        torch.testing.assert_close(
            targets[row, others], ((1 - probs.sum()) / (CLASSES - 4)).clamp(min=0).expand(CLASSES - 4)
        )


def test_every_view_is_seen_once_in_as_many_epochs(dataset: dali_dr.Dataset) -> None:
    iterator = loader(dataset)
    seen = [
        (n, v)
        for _ in range(VIEWS)
        for b in epoch_of(iterator)
        for n, v in zip(b["index"].tolist(), b["view"].tolist(), strict=True)
    ]
    assert len(set(seen)) == len(seen) == 23 * VIEWS


@pytest.mark.parametrize(
    ("usable", "local", "threads"),
    [(16, None, 16), (16, "4", 4), (2, "8", 1), (6, "4", 6)],  # the last are bound
)
def test_threads_are_shared_among_the_processes_of_a_machine(
    monkeypatch: pytest.MonkeyPatch, usable: int, local: str | None, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(usable)))
    monkeypatch.setattr(os, "cpu_count", lambda: 2 if usable == 2 else 16)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if local:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    assert default_threads() == threads


def test_ranks_share_an_epoch(dataset: dali_dr.Dataset) -> None:
    parts = [
        torch.cat([b["index"] for b in epoch_of(loader(dataset, rank=r, world_size=3, batch_size=3))]).tolist()
        for r in range(3)
    ]
    assert sorted(number for part in parts for number in part) == list(range(23))


def test_rank_comes_from_the_environment(dataset: dali_dr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    explicit = next(iter(loader(dataset, rank=1, world_size=2)))[0]["index"]
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert torch.equal(next(iter(loader(dataset)))[0]["index"], explicit)


def test_state_continues_exactly_at_every_step(dataset: dali_dr.Dataset) -> None:
    """Restores after every batch of two epochs, and compares all that follows."""
    iterator = loader(dataset)
    batches, states = [], [iterator.state_dict()]
    for _ in range(2):
        for (batch,) in iterator:
            batches.append(batch)
            states.append(iterator.state_dict())
    restored = loader(dataset)
    for step, state in enumerate(states[:-1]):
        restored.load_state_dict(state)
        rest = []
        while len(rest) < len(batches) - step:
            rest += epoch_of(restored)
        for mine, theirs in zip(rest, batches[step:], strict=True):
            assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("worlds", [(1, 2, 4, 3), (3, 1)])
def test_another_world_size_goes_on_with_the_epoch(dataset: dali_dr.Dataset, worlds: tuple[int, ...]) -> None:
    """One global batch with each world size in turn, the rest of the epoch with the last one: an exact cover."""
    seen: list[int] = []
    state: dict[str, int] | None = None
    for world_size in worlds:
        ranks = [loader(dataset, batch_size=2, rank=r, world_size=world_size) for r in range(world_size)]
        for rank in ranks:
            if state:
                rank.load_state_dict(state)
        if world_size == worlds[-1]:
            batches = [b for rank in ranks for b in epoch_of(rank)]
        else:
            batches = [next(rank)[0] for rank in ranks]
            states = [rank.state_dict() for rank in ranks]
            assert all(s == states[0] for s in states)
            state = states[0]
        seen += torch.cat([b["index"] for b in batches]).tolist()
    assert sorted(seen) == list(range(23))


def test_state_is_small_and_quick(dataset: dali_dr.Dataset) -> None:
    iterator = loader(dataset)
    next(iterator)
    times = []
    for _ in range(50):
        begin = time.perf_counter()
        state = iterator.state_dict()
        times.append(time.perf_counter() - begin)
    assert sorted(times)[25] < 1e-3 and len(json.dumps(state)) < 1024


def test_state_continues_with_every_option(dataset: dali_dr.Dataset) -> None:
    options: dict[str, Any] = {
        "size": [(96, 3), (64, 6), (48, 9)],
        "repeats": 3,
        "order": "windowed",
        "window": 4,
        "curriculum": Curriculum("easy", "all", 4),
        "last_batch": "drop",
    }
    iterator = loader(dataset, **options)
    batches, states = [], []
    for _ in range(3):
        for (batch,) in iterator:
            batches.append(batch)
            states.append(iterator.state_dict())
    for step in range(0, len(states) - 1, 3):
        restored = loader(dataset, **options)
        restored.load_state_dict(states[step])
        rest: list[dict[str, torch.Tensor]] = []
        while len(rest) < len(batches) - step - 1:
            rest += epoch_of(restored)
        for mine, theirs in zip(rest, batches[step + 1 :], strict=False):
            assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_several_views_of_one_decode(dataset: dali_dr.Dataset) -> None:
    iterator = loader(dataset, views_per_image=3, batch_size=4, dtype="uint8", layout="HWC")
    for epoch in range(2):
        batches = epoch_of(iterator)
        assert [len(b["data"]) for b in batches] == [12, 12, 12, 12, 12, 9]
        for batch in batches:
            assert {n: len(t) for n, t in batch.items()} == dict.fromkeys(batch, len(batch["data"]))
            for row, (number, view) in enumerate(zip(batch["index"].tolist(), batch["view"].tolist(), strict=True)):
                assert np.array_equal(batch["data"][row].numpy(), reference(dataset, number, view))
                assert np.array_equal(batch["soft_ids"][row].numpy(), dataset.reinforcements(number).soft_ids[view])
            views = batch["view"].reshape(-1, 3)
            assert (
                all(len(set(v)) == 3 for v in views.tolist()) or epoch == 1
            )  # 5 views: the second visit starts a new cycle


@pytest.mark.parametrize("size", [48, 160])
def test_other_sizes_than_the_stored_one(dataset: dali_dr.Dataset, size: int) -> None:
    (batch,) = next(loader(dataset, size=size, dtype="uint8", layout="HWC"))
    for row, (number, view) in enumerate(zip(batch["index"].tolist(), batch["view"].tolist(), strict=True)):
        image = Image.open(io.BytesIO(dataset.image(number))).convert("RGB")
        expected = replay_pillow(image, dataset.reinforcements(number), view, dataset.spec, size=size)
        assert np.array_equal(batch["data"][row].numpy(), expected)


def test_sizes_may_vary_from_batch_to_batch(dataset: dali_dr.Dataset) -> None:
    iterator = loader(dataset, size=[(96, 2), (48, 5)], dtype="uint8", layout="HWC")
    seen = set()
    for _ in range(3):
        length, batches = len(iterator), epoch_of(iterator)
        assert length == len(batches)
        assert sorted(torch.cat([b["index"] for b in batches]).tolist()) == list(range(23))
        for batch in batches:
            size = batch["data"].shape[1]
            seen.add(size)
            assert len(batch["data"]) <= {96: 2, 48: 5}[size]
            number, view = int(batch["index"][0]), int(batch["view"][0])
            image = Image.open(io.BytesIO(dataset.image(number))).convert("RGB")
            expected = replay_pillow(image, dataset.reinforcements(number), view, dataset.spec, size=size)
            assert np.array_equal(batch["data"][0].numpy(), expected)
    assert seen == {96, 48}


def test_progressive_sizes(dataset: dali_dr.Dataset) -> None:
    iterator = loader(dataset, size=lambda epoch: 32 + 16 * epoch)
    assert [{b["data"].shape[-1] for b in epoch_of(iterator)} for _ in range(3)] == [{32}, {48}, {64}]


def test_curriculum_replays_its_window(dataset: dali_dr.Dataset) -> None:
    iterator = loader(dataset, curriculum=Curriculum("easy", "hard", epochs=2, part=0.4))
    views = [torch.cat([b["view"] for b in epoch_of(iterator)]) for _ in range(2)]
    assert views[0].max() < 2 and views[1].min() >= 3


def test_mixture_with_fresh_views(dataset: dali_dr.Dataset) -> None:
    """Fresh views are those that the drawing rules give for (seed, key, visit), with the label as target."""
    iterator = loader(dataset, p_reinforced=0.5, dtype="uint8", layout="HWC")
    fresh = 0
    for epoch in range(2):
        for batch in epoch_of(iterator):
            for row, (number, view) in enumerate(zip(batch["index"].tolist(), batch["view"].tolist(), strict=True)):
                if view >= 0:
                    assert np.array_equal(batch["data"][row].numpy(), reference(dataset, number, view))
                    assert np.array_equal(batch["soft_probs"][row], dataset.reinforcements(number).soft_probs[view])
                    continue
                fresh += 1
                assert view == -1 - epoch
                image = Image.open(io.BytesIO(dataset.image(number))).convert("RGB")
                drawn = draw(
                    dataset.spec,
                    seed=fresh_seed(7),
                    key=dataset.keys[number],
                    views=[epoch],
                    image_height=image.height,
                    image_width=image.width,
                )
                assert np.array_equal(batch["data"][row].numpy(), replay_pillow(image, drawn, 0, dataset.spec))
                assert int(batch["soft_ids"][row, 0]) == dataset.label(number)
                assert batch["soft_probs"][row].tolist() == [1, 0, 0, 0]
                assert len(set(batch["soft_ids"][row].tolist())) == 4
    assert 10 < fresh < 36


def test_repeats_pairs_and_subsets(dataset: dali_dr.Dataset) -> None:
    batches = epoch_of(loader(dataset, repeats=3, batch_size=6))
    assert all(
        torch.equal(b["index"][::3], b["index"][1::3]) and (b["view"][::3] != b["view"][1::3]).all() for b in batches
    )
    batches = epoch_of(loader(dataset, class_mates=1, batch_size=6))
    assert all(torch.equal(b["label"][::2], b["label"][1::2]) for b in batches)
    some = torch.cat([b["index"] for b in epoch_of(loader(dataset, samples=["image003", "image011", "image020"]))])
    assert sorted(some.tolist()) == [3, 11, 20]
    labels = torch.cat([b["label"] for b in epoch_of(loader(dataset, classes=[0, 2]))])
    assert sorted(labels.tolist()) == [0, 0, 2, 2]
    with pytest.raises(dali_dr.ShardError, match="nobody"):
        loader(dataset, samples=["nobody"])
    with pytest.raises(ValueError, match="no sample"):
        loader(dataset, classes=[19], samples=[1])


def test_sequential_order_is_that_of_the_shards(dataset: dali_dr.Dataset) -> None:
    assert torch.cat([b["index"] for b in epoch_of(loader(dataset, order="sequential"))]).tolist() == list(range(23))


def test_label_forms(dataset: dali_dr.Dataset) -> None:
    (sparse,) = next(loader(dataset))
    ids, probs = sparse["soft_ids"].long(), sparse["soft_probs"]
    rows = torch.arange(len(ids))
    for form in ("hard", "smoothing", "marginal_smoothing", "marginal_renorm"):
        (batch,) = next(loader(dataset, targets=form))
        found, expected = batch["targets"], torch.zeros(len(ids), CLASSES)
        if form == "hard":
            expected[rows, ids[:, 0]] = 1
        elif form == "smoothing":
            expected[:] = (1 - probs[:, :1]) / (CLASSES - 1)
            expected[rows, ids[:, 0]] = probs[:, 0]
        else:
            if form == "marginal_smoothing":
                expected[:] = (1 - probs.sum(1, keepdim=True)) / (CLASSES - 4)
            expected.scatter_(1, ids, probs if form == "marginal_smoothing" else probs / probs.sum(1, keepdim=True))
        torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="full"):
        next(loader(dataset, targets="full"))


def test_top1_targets(dataset: dali_dr.Dataset) -> None:
    (batch,) = next(loader(dataset, targets="top1"))
    (sparse,) = next(loader(dataset))
    assert torch.equal(batch["targets"], sparse["soft_ids"][:, 0].long()) and batch["targets"].dtype == torch.int64
    assert "soft_ids" not in batch


def test_state_of_something_else_is_refused(dataset: dali_dr.Dataset) -> None:
    iterator = loader(dataset)
    for change in ({"seed": 8}, {"length": 24}, {"version": 99}):
        with pytest.raises(ValueError, match=next(iter(change))):
            iterator.load_state_dict({**iterator.state_dict(), **change})


def test_stats_tell_who_waits_for_whom(dataset: dali_dr.Dataset) -> None:
    iterator = loader(dataset, batch_size=23, prefetch=1)
    for _ in range(6):  # a consumer that does nothing waits for the loader
        epoch_of(iterator)
    idle = iterator.stats()
    assert idle["batches"] == 6 and idle["loading_is_the_bottleneck"] and idle["wait"] > idle["other"]
    stages = [idle[name] for name in ("read", "decode", "replay")]
    assert min(stages) > 0 and sum(stages) < 1.5 * (idle["wait"] + idle["other"])
    for _ in range(4):  # one that takes its time does not
        epoch_of(iterator)
        time.sleep(4 * idle["wait"] + 0.02)
    busy = iterator.stats()
    assert busy["batches"] == 4 and busy["wait"] < busy["other"]


def test_tune_tries_every_setting(dataset: dali_dr.Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["tune", str(dataset.path), "--seconds", "0.1", "--threads", "1", "2", "--prefetch", "1", "2", "--quiet"]
    assert main([*command, "--json", "--batch-size", "8"]) == 0
    trials = json.loads(capsys.readouterr().out)
    assert {(t["num_threads"], t["prefetch"]) for t in trials} == {(1, 1), (1, 2), (2, 1), (2, 2)}
    rates = [t["rate"] for t in trials]
    assert rates == sorted(rates, reverse=True) and min(rates) > 0


def test_gpu_without_a_gpu_is_said_plainly(dataset: dali_dr.Dataset) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(dali_dr.DaliDrError, match='device="cpu"'):
        loader(dataset, device="gpu")


def test_cpu_views_are_not_decoded_on_the_gpu(dataset: dali_dr.Dataset) -> None:
    with pytest.raises(ValueError, match='decode_device is \'gpu\', with device="cpu": pass "auto" or "cpu"'):
        loader(dataset, decode_device="gpu")
    with pytest.raises(ValueError, match="decode_device is 'mixed'"):
        loader(dataset, decode_device="mixed")
    for (got,), (want,) in zip(loader(dataset, decode_device="cpu"), loader(dataset), strict=True):
        assert (got["data"] == want["data"]).all()


@pytest.mark.parametrize(("decode_device", "decoder"), [("auto", "mixed"), ("gpu", "mixed"), ("cpu", "cpu")])
@pytest.mark.parametrize("roi_decode", ["on", "off"])
def test_gpu_graph_is_drawn_without_a_gpu(
    roi_decode: Any, decode_device: Any, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as DALI goes without one: replay runs on the GPU, its parameters and origins stay on the CPU."""
    if not _plugin.build_facts()["cuda"]:
        pytest.skip("this plugin was built without CUDA: no nvcc was found then")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, and tests/test_gpu.py runs the whole")
    _plugin.load()
    from nvidia.dali import fn

    seen: dict[str, str] = {}

    def replay(images: Any, params: Any, **arguments: Any) -> Any:
        out = real(images, params, **arguments)
        nodes = {"images": images, "params": params, "out": out, **arguments}
        seen.update((name, node.device) for name, node in nodes.items() if hasattr(node, "device"))
        return out

    real = fn.dr.replay
    monkeypatch.setattr(fn.dr, "replay", replay)
    decoders = []

    def watched(decode: Any) -> Any:
        def watch(*inputs: Any, **arguments: Any) -> Any:
            decoders.append((arguments["device"], "hw_decoder_load" in arguments))
            return decode(*inputs, **arguments)

        return watch

    for name in ("image", "image_slice"):
        monkeypatch.setattr(fn.decoders, name, watched(getattr(fn.decoders, name)))
    pipeline = replay_pipeline(
        lambda info: None,
        index="index.bin",
        batch_size=4,
        device="gpu",
        device_id=0,
        num_threads=1,
        size=None,
        stored_size=96,
        interpolation="bilinear",
        dtype="float16",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        layout="CHW",
        roi_decode=roi_decode,
        decode_device=decode_device,
    )
    with pytest.raises(RuntimeError, match="CUDA is not available"):
        pipeline.build()
    assert decoders == [(decoder, decoder == "mixed")]
    origin = {"origin": "cpu"} if roi_decode == "on" else {}
    assert seen == {"images": "gpu", "params": "cpu", "size": "cpu", "out": "gpu", **origin}


def test_gpu_with_a_plugin_without_cuda_is_said_plainly(
    dataset: dali_dr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_plugin, "build_facts", lambda: {"dali_version": "2.4.0", "cuda": ""})
    with pytest.raises(dali_dr.DaliDrError, match="built without CUDA"):
        loader(dataset, device="gpu")


def test_damaged_record_names_shard_and_key(tmp_path: Path, jpeg_bytes: list[bytes]) -> None:
    dataset = make_dataset(tmp_path / "set", jpeg_bytes[:3])
    entry = dataset.index.entry(1)
    shard = tmp_path / "set" / dataset.manifest.shards[0].name
    with shard.open("r+b") as file:
        file.seek(int(entry["record_block"]) * 512)
        file.write(b"damaged!")
    with pytest.raises(dali_dr.ShardError, match=r"image001.*shard-000000\.tar.*offset \d+"):
        epoch_of(loader(dataset))


def test_bad_samples_are_skipped_by_choice(
    tmp_path: Path, jpeg_bytes: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged record and a damaged image: every batch stays full, every good sample comes, each bad key is logged once."""
    dataset = make_dataset(tmp_path / "set", jpeg_bytes)
    shard = tmp_path / "set" / dataset.manifest.shards[0].name
    with shard.open("r+b") as file:
        file.seek(int(dataset.index.entry(1)["record_block"]) * 512)
        file.write(b"damaged!")
        file.seek(int(dataset.index.entry(6)["image_block"]) * 512 + 2)
        file.write(bytes(600))
    iterator = loader(dataset, batch_size=3, on_error="skip", max_skipped=1.0)
    for _ in range(3):
        batches = epoch_of(iterator)
        assert [len(b["data"]) for b in batches] == [3, 3, 2]
        assert set(torch.cat([b["index"] for b in batches]).tolist()) == {0, 2, 3, 4, 5, 7}
    assert set(iterator.skipped) == {"image001", "image006"}
    messages = [record.message for record in caplog.records]
    assert len(messages) == 2 and any("image001" in m for m in messages) and any("image006" in m for m in messages)
    with pytest.raises(dali_dr.ShardError):
        epoch_of(loader(dataset, batch_size=3))


def test_missing_dataset_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(dali_dr.ShardError, match=str(tmp_path)):
        dali_dr.ReinforcedIterator(tmp_path, batch_size=2, device="cpu")


def test_import_costs_no_dali_and_no_torch() -> None:
    code = "import sys, dali_dr; assert not {'torch', 'nvidia.dali', 'numpy'} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})
