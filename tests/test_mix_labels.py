"""Batches of mixed views: both labels and their weight; and partners of a library that are kept decoded."""

from __future__ import annotations

import dataclasses
import gc
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import encode_jpeg, picture, write_files
from PIL import Image
from test_mixing import SIZE, make

import dali_dr
from dali_dr.augment.views import NO_PARTNER, SELF_PARTNER
from dali_dr.loader.options import PARTNER_CACHE_BYTES, Machine
from dali_dr.shards.reshape import subset

NAMES = ["data", "label", "soft_ids", "soft_probs", "mix_label", "mix_weight"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    photos = {
        f"class{number % 5}/photo{number:02d}.jpg": encode_jpeg(picture(60 + 9 * number, 140 - 7 * number, number))
        for number in range(11)
    }
    return write_files(tmp_path_factory.mktemp("photos"), photos)


@pytest.fixture(scope="module")
def sets(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dali_dr.Dataset]:
    names = ("rrc+mixing+ra+re", "self-mix", "library", "double-mix", "own mixes of a library")
    return {name: make(folder, tmp_path_factory.mktemp("sets") / "set", name) for name in names}


def loader(dataset: dali_dr.Dataset, **options: Any) -> dali_dr.ReinforcedIterator:
    return dali_dr.ReinforcedIterator(
        dataset, **{"batch_size": 4, "device": "cpu", "num_threads": 2, "with_index": True, "seed": 7} | options
    )


def weight_of(dataset: dali_dr.Dataset, number: int, row: int) -> tuple[int, float]:
    """The partner's label and the weight of the image's own, in float64: the mean over all pixels of a mask."""
    mix = dataset.reinforcements(number).mix
    assert mix is not None
    if mix.partner[row] == NO_PARTNER:
        return dataset.label(number), 1.0
    first = np.full((SIZE, SIZE), float(mix.lam[row]))
    top, left, height, width = mix.cut[row].tolist()
    first[top : top + height, left : left + width] = 0
    own = float((1 - first if mix.swapped[row] else first).mean())
    other = number if mix.partner[row] == SELF_PARTNER else int(mix.partner[row])
    return dataset.label(number if own == 1 else other), own


@pytest.mark.parametrize("name", ["rrc+mixing+ra+re", "self-mix", "library", "double-mix", "own mixes of a library"])
def test_labels_and_weights_are_those_of_the_mix(sets: dict[str, dali_dr.Dataset], name: str) -> None:
    dataset, weights = sets[name], []
    iterator = loader(dataset)
    assert iterator.output_map == [*NAMES, "index", "view"]
    for _ in range(dataset.num_views):
        for (batch,) in iterator:
            assert list(batch) == iterator.output_map
            assert batch["mix_label"].dtype == torch.int64 and batch["mix_weight"].dtype == torch.float32
            assert batch["mix_label"].shape == batch["mix_weight"].shape == batch["label"].shape
            for row, (number, view) in enumerate(zip(batch["index"].tolist(), batch["view"].tolist(), strict=True)):
                label, weight = weight_of(dataset, number, view)
                assert int(batch["mix_label"][row]) == label
                assert float(batch["mix_weight"][row]) == pytest.approx(weight, abs=1e-7)
                assert int(batch["label"][row]) == dataset.label(number)
                weights.append(weight)
    found = np.array(weights)
    assert (found == 1).any() and (found < 0.5).any() and ((found > 0) & (found < 1)).any()
    if "double" in name or "own" in name:
        assert (found == 0).any()  # the second of a pair in which nothing fired is the partner alone


def test_a_pair_weighs_both_images_alike(sets: dict[str, dali_dr.Dataset]) -> None:
    """Of a double-mix the weights of a pair add up to 1, as image and partner change places; not of own mixes."""
    for name, alike in (("double-mix", True), ("own mixes of a library", False)):
        (batch,) = next(iter(loader(sets[name], batch_size=11)))
        pairs = batch["mix_weight"].double().reshape(-1, 2)
        assert bool(torch.allclose(pairs.sum(1), torch.ones(11, dtype=torch.float64), atol=1e-6)) is alike


def test_cross_entropy_of_both_labels_is_that_of_the_mixed_target(sets: dict[str, dali_dr.Dataset]) -> None:
    (batch,) = next(iter(loader(sets["rrc+mixing+ra+re"], batch_size=11)))
    logits = torch.randn(11, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight, each = batch["mix_weight"].double(), torch.nn.functional.cross_entropy
    both = weight * each(logits, batch["label"], reduction="none")
    both += (1 - weight) * each(logits, batch["mix_label"], reduction="none")
    target = torch.zeros(11, 5, dtype=torch.float64)
    for row, (number, view) in enumerate(zip(batch["index"].tolist(), batch["view"].tolist(), strict=True)):
        label, own = weight_of(sets["rrc+mixing+ra+re"], number, view)
        target[row, batch["label"][row]] += own
        target[row, label] += 1 - own
    torch.testing.assert_close(both, each(logits, target, reduction="none"), rtol=0, atol=1e-6)


def test_other_forms_of_batches(sets: dict[str, dali_dr.Dataset]) -> None:
    dataset = sets["double-mix"]
    (sparse,) = next(iter(loader(dataset, with_index=False)))
    assert list(sparse) == NAMES
    dense = loader(dataset, targets="dense")
    assert dense.output_map == ["data", "label", "index", "view", "targets", "mix_label", "mix_weight"]
    (batch,) = next(iter(dense))
    assert torch.equal(batch["mix_weight"], sparse["mix_weight"]) and torch.equal(
        batch["mix_label"], sparse["mix_label"]
    )
    (column,) = next(iter(loader(dataset, label_ndim=2)))
    assert column["mix_label"].shape == column["label"].shape == (8, 1) and column["mix_weight"].shape == (8,)
    images, targets = next(iter(loader(dataset, as_tuples=True, with_index=False)))
    assert images.shape[0] == targets.shape[0] == 8
    for options in ({"augment": "rrc"}, {"augment": "eval"}):
        (plain,) = next(iter(loader(dataset, **options)))
        assert not {"mix_label", "mix_weight"} & set(plain)


def test_fresh_views_beside_stored_ones_weigh_one(sets: dict[str, dali_dr.Dataset]) -> None:
    stored = fresh = 0
    for (batch,) in loader(sets["library"], p_reinforced=0.5):
        is_fresh = batch["view"] < 0
        assert (batch["mix_weight"][is_fresh] == 1).all()
        assert torch.equal(batch["mix_label"][is_fresh], batch["label"][is_fresh])
        stored, fresh = stored + int((~is_fresh).sum()), fresh + int(is_fresh.sum())
    assert stored and fresh


def test_subset_keeps_pairs(sets: dict[str, dali_dr.Dataset], tmp_path: Path) -> None:
    dataset = sets["own mixes of a library"]
    subset(dataset, tmp_path / "half", views=4, choice="random", progress=False)
    half = dali_dr.Dataset(tmp_path / "half")
    assert half.manifest.format_version == dataset.manifest.format_version == 5
    for number in range(len(half)):
        mix, whole = half.reinforcements(number).mix, dataset.reinforcements(number)
        assert mix is not None and mix.swapped.tolist() == [False, True] * 2
        assert whole.mix is not None
        weights = [(float(a), float(b)) for a, b in whole.mix.lam.reshape(-1, 2)]
        assert all((float(a), float(b)) in weights for a, b in mix.lam.reshape(-1, 2))


# ---- partners that are kept decoded


def all_batches(dataset: dali_dr.Dataset, epochs: int = 3, **options: Any) -> tuple[list[Any], dict[str, Any]]:
    iterator = loader(dataset, **options)
    batches = [batch for _ in range(epochs) for (batch,) in iterator]
    return batches, iterator.stats()


def assert_same(some: list[Any], others: list[Any]) -> None:
    assert len(some) == len(others) > 0
    for one, other in zip(some, others, strict=True):
        assert list(one) == list(other)
        for name in one:
            assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("name", ["library", "own mixes of a library"])
@pytest.mark.parametrize("options", [{}, {"size": 48}, {"decoder": "dali"}, {"roi_decode": "off"}], ids=str)
def test_kept_partners_change_no_byte(sets: dict[str, dali_dr.Dataset], name: str, options: dict[str, Any]) -> None:
    kept, stats = all_batches(sets[name], **options)
    plain, without = all_batches(sets[name], partner_cache_bytes=0, **options)
    assert_same(kept, plain)
    assert "partners" not in without
    if options.keys() & {"decoder", "roi_decode"}:  # where DALI decodes, nothing is kept
        assert "partners" not in stats
        return
    files = [Image.open(io.BytesIO(sets[name].image(number))) for number in (1, 5, 9)]  # the library: 3 of 11
    sizes = [image.width * image.height for image in files]
    assert stats["partners"]["images"] == 3 and stats["partners"]["bytes"] == sum(3 * size + 16 for size in sizes)
    assert stats["partners"]["hits"] > stats["partners"]["misses"]


def test_a_kept_partner_costs_no_decode(sets: dict[str, dali_dr.Dataset]) -> None:
    """Our decoder decodes two images a view that has a partner, and only one of it where partners are kept."""
    dataset, decoded, partners = sets["library"], {}, 0
    for most in (0, PARTNER_CACHE_BYTES):
        batches, stats = all_batches(dataset, epochs=dataset.num_views, partner_cache_bytes=most)
        decoded[most] = stats["sliced"] + stats["whole"] + stats["misfit"]
    for batch in batches:
        for number, view in zip(batch["index"].tolist(), batch["view"].tolist(), strict=True):
            mix = dataset.reinforcements(number).mix
            partners += int(mix is not None and mix.partner[view] != NO_PARTNER)
    ahead = 4 * 4  # images of batches made ahead that only one of the two had done
    assert partners > 40 and abs(decoded[0] - decoded[PARTNER_CACHE_BYTES] - partners) <= ahead


@pytest.mark.parametrize("most", [1, 16_000, 40_000, 60_000])
def test_memory_stays_within_the_bound(sets: dict[str, dali_dr.Dataset], most: int) -> None:
    kept, stats = all_batches(sets["library"], partner_cache_bytes=most)
    assert stats["partners"]["bytes"] <= most
    assert_same(kept, all_batches(sets["library"], partner_cache_bytes=0)[0])


def test_partners_outlive_the_pipeline_and_not_the_iterator(sets: dict[str, dali_dr.Dataset]) -> None:
    iterator = loader(sets["library"])
    before = [batch for (batch,) in iterator]
    images = iterator.stats()["partners"]["images"]
    assert images
    iterator._rebuild(iterator._standing.place)  # as after a failure
    misses = iterator.stats()["partners"]["misses"]
    after = [batch for (batch,) in iterator]
    stats = iterator.stats()["partners"]
    assert len(after) == len(before) and stats["images"] >= images
    assert stats["misses"] - misses <= 3 - images + 2 * (stats["images"] - images)
    number, counts = iterator._partners.number, iterator._partners._counts  # type: ignore[union-attr]
    del iterator
    gc.collect()
    from ctypes import byref

    from dali_dr.loader.partners import _Counts

    found = _Counts(1, 1, 1, 1)
    counts(number, byref(found))
    assert (found.images, found.bytes) == (0, 0)


def test_two_data_sets_side_by_side(folder: Path, sets: dict[str, dali_dr.Dataset], tmp_path: Path) -> None:
    """The same numbers mean other images in another data set."""
    photos = {
        f"class{number % 5}/photo{number:02d}.jpg": encode_jpeg(
            picture(60 + 9 * number, 140 - 7 * number, 100 + number)
        )
        for number in range(11)
    }
    other = make(write_files(tmp_path / "others", photos), tmp_path / "set", "library")
    plain = [all_batches(one, epochs=1, partner_cache_bytes=0)[0] for one in (sets["library"], other)]
    iterators = [loader(one) for one in (sets["library"], other)]
    kept: list[list[Any]] = [[], []]
    for (first,), (second,) in zip(*iterators, strict=True):
        kept[0].append(first)
        kept[1].append(second)
    for some, others in zip(kept, plain, strict=True):
        assert_same(some, others)


def test_other_images_than_jpegs_are_not_kept(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for path in sorted(folder.rglob("*.jpg")):
        (root / path.parent.name).mkdir(parents=True, exist_ok=True)
        Image.open(path).save(root / path.parent.name / f"{path.stem}.png")
    dataset = make(root, tmp_path / "set", "library")
    kept, stats = all_batches(dataset, epochs=1)
    assert stats["partners"]["images"] == 0
    assert_same(kept, all_batches(dataset, epochs=1, partner_cache_bytes=0)[0])


def test_a_partner_that_is_damaged_is_skipped_as_without(
    sets: dict[str, dali_dr.Dataset], folder: Path, tmp_path: Path
) -> None:
    """on_error="skip": the same views stand in, whether partners are kept or not."""
    dataset = make(folder, tmp_path / "set", "library")
    partner = 5
    shard, offset = dataset.place_of(partner, "image")
    data = bytearray(shard.read_bytes())
    data[offset : offset + 20] = bytes(20)
    shard.write_bytes(bytes(data))
    options = {"on_error": "skip", "max_skipped": 1.0}
    kept = loader(dali_dr.Dataset(tmp_path / "set", lossy=True), **options)
    plain = loader(dali_dr.Dataset(tmp_path / "set", lossy=True), partner_cache_bytes=0, **options)
    for _ in range(2):
        assert_same([batch for (batch,) in kept], [batch for (batch,) in plain])
    assert kept.skip_report() == plain.skip_report() and kept.skip_report()
    assert kept.stats()["partners"]["images"] == 2


def test_options_say_what_is_wrong() -> None:
    assert Machine().partner_cache_bytes == PARTNER_CACHE_BYTES == 1 << 30
    for value in (-1, 1.5, "1G"):
        with pytest.raises((ValueError, TypeError), match="partner_cache_bytes"):
            dataclasses.replace(Machine(device="cpu"), partner_cache_bytes=value)
