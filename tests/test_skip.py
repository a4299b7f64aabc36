"""on_error="skip": what stands in for samples that cannot be had, whatever happened before. And what errors say of them."""

from __future__ import annotations

import json
import logging
import random
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import encode_jpeg, picture, write_files
from test_iterator import loader, make_dataset
from test_mixing import make as make_mixed

import dali_dr
from dali_dr.loader import skip as skipping
from dali_dr.sampling.choice import Curriculum
from dali_dr.sampling.order import Global

COUNT, SEED = 32, 7  # images; four shards of eight
Batch = tuple[list[int], list[int], float]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dali_dr.Dataset:
    images = [encode_jpeg(picture(90 + 7 * (i % 9), 120 - 3 * (i % 7), i)) for i in range(COUNT)]
    return make_dataset(tmp_path_factory.mktemp("skip") / "set", images, keep_bytes=True)


class Damaged:
    """A copy of the data set, to be damaged."""

    def __init__(self, sound: dali_dr.Dataset, folder: Path) -> None:
        shutil.copytree(sound.path, folder)
        self.dataset = dali_dr.Dataset(folder)

    def shard(self, number: int, kind: str = "image") -> Path:
        return self.dataset.place_of(number, kind)[0]

    def overwrite(self, number: int, kind: str, begin: float, data: bytes | None = None) -> None:
        """Writes over a member's data from a part (or byte) of it on; without data zeros to its end."""
        _, offset = self.dataset.place_of(number, kind)
        size = int(self.dataset.index.entry(number)[f"{kind}_bytes"])
        at = int(begin if begin >= 1 else begin * size)
        with self.shard(number, kind).open("r+b") as file:
            file.seek(offset + at)
            file.write(bytes(size - at) if data is None else data)

    def cut_jpeg(self, number: int) -> None:
        self.overwrite(number, "image", 0.6)

    def no_jpeg(self, number: int) -> None:
        self.overwrite(number, "image", 0, b"xx")

    def no_header(self, number: int) -> None:
        self.overwrite(number, "image", 2, bytes(200))

    def bad_record(self, number: int) -> None:
        self.overwrite(number, "record", 0.5)

    def swapped_member(self, number: int) -> None:
        shard, offset = self.dataset.place_of(number, "image")
        with shard.open("r+b") as file:
            file.seek(offset - 512)
            file.write(b"other")


@pytest.fixture
def damaged(sound: dali_dr.Dataset, tmp_path: Path) -> Damaged:
    """Cut-off JPEGs, what is no JPEG, damaged records, one member swapped."""
    made = Damaged(sound, tmp_path / "damaged")
    for number in (1, 4, 10, 19, 25):
        made.cut_jpeg(number)
    made.no_jpeg(2)
    made.no_header(12)
    made.bad_record(7)
    made.bad_record(20)
    made.swapped_member(29)
    return made


def make(dataset: dali_dr.Dataset, **options: Any) -> dali_dr.ReinforcedIterator:
    always = {"batch_size": 4, "on_error": "skip", "max_skipped": 1.0, "io_retry_s": 0.0, "seed": SEED}
    return loader(dataset, **{**always, **options})


def row(batch: dict[str, Any]) -> list[tuple[int, int, float]]:
    sums = batch["data"].double().flatten(1).sum(1).tolist()
    return list(zip(batch["index"].tolist(), batch["view"].tolist(), sums, strict=True))


def epoch_of(iterator: Any) -> list[Any]:
    return [row(batch) for (batch,) in iterator]


def flat(batches: list[Any]) -> list[Any]:
    return [one for batch in batches for one in batch]


EPOCHS = 3


def test_what_stands_in_depends_on_nothing_but_its_place(damaged: Damaged) -> None:
    """The same with any prefetch, threads, batch size; from every step on; and on two ranks, from every step on."""
    it = make(damaged.dataset)
    want = [epoch_of(it) for _ in range(EPOCHS)]
    assert all(len(batch) == 4 for epoch in want for batch in epoch)
    for options in (
        {"prefetch": 1, "num_threads": 1},
        {"prefetch": 5, "num_threads": 3},
        {"prefetch": 3, "batch_size": 16},
    ):
        other = make(damaged.dataset, **options)
        assert [flat(epoch_of(other)) for _ in range(EPOCHS)] == [flat(epoch) for epoch in want], options
    rng = random.Random(1)
    for epoch in range(EPOCHS):
        for consumed in range(0, COUNT, 4):
            state = {**it.state_dict(), "epoch": epoch, "consumed": consumed}
            resumed = make(damaged.dataset, prefetch=rng.randrange(1, 5))
            resumed.load_state_dict(state)
            assert flat(epoch_of(resumed)) == flat(want[epoch])[consumed:], (epoch, consumed)
            if epoch < 2:
                ranks = [make(damaged.dataset, batch_size=2, rank=rank, world_size=2) for rank in range(2)]
                for one in ranks:
                    one.load_state_dict(state)
                steps = zip(*(epoch_of(one) for one in ranks), strict=True)
                assert flat([flat(list(step)) for step in steps]) == flat(want[epoch])[consumed:], (epoch, consumed)


def test_who_stands_in_is_what_the_rule_says(damaged: Damaged, sound: dali_dr.Dataset) -> None:
    """All that is sound is shown as in the sound set; a cut-off JPEG still where its crop does not need what is missing, or
    where the decoder takes zeros for pixels (which integrity="full" is for)."""
    it, whole = make(damaged.dataset), make(sound)
    shown: Counter[int] = Counter()
    cut, replaced = 0, 0
    for _ in range(EPOCHS):
        for got, scheduled in zip(flat(epoch_of(it)), flat(epoch_of(whole)), strict=True):
            shown[got[0]] += 1
            if got[:2] == scheduled[:2]:
                assert got == scheduled or got[0] in (1, 4, 10, 19, 25)
                cut += got[0] in (1, 4, 10, 19, 25)
            else:
                replaced += 1
                assert scheduled[0] in (1, 2, 4, 7, 10, 12, 19, 20, 25, 29)
    assert not {2, 12, 29} & shown.keys() and cut > 0 and replaced >= 3 * EPOCHS
    assert {"image002", "image012", "image029"} <= it.skipped.keys()


def test_no_sample_but_the_one_at_fault_is_set_aside(damaged: Damaged) -> None:
    it = make(damaged.dataset, batch_size=16)
    for _ in range(5):
        epoch_of(it)
    assert set(it.skipped) <= {f"image{n:03d}" for n in (1, 2, 4, 7, 10, 12, 19, 20, 25, 29)}


def test_the_report_says_key_shard_and_reason(
    damaged: Damaged, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    it = make(damaged.dataset)
    for _ in range(4):
        epoch_of(it)
    report = {one.key: one for one in it.skip_report(tmp_path / "report.json")}
    want = {
        2: ("image", "neither JPEG nor PNG"),
        12: ("image", "neither JPEG nor PNG"),
        29: ("shard", "no tar member of that key"),
        7: ("record", "zstd|record"),
    }
    for number, (kind, reason) in want.items():
        one = report[f"image{number:03d}"]
        member = "record" if kind == "record" else "image"
        assert (one.sample, one.kind, one.shard) == (number, kind, str(damaged.shard(number)))
        assert one.offset == damaged.dataset.place_of(number, member)[1]
        assert re.search(reason, one.reason) and one.key in one.reason and "no longer valid" not in one.reason
        assert one.count >= 1
    cuts = [one for one in report.values() if one.sample in (1, 4, 10, 19, 25)]
    assert cuts and all("Premature end of JPEG" in one.reason for one in cuts)
    assert json.loads((tmp_path / "report.json").read_text())[0]["key"] in report
    assert it.skipped == {one.key: one.reason for one in report.values()}
    logged = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(logged) == len(set(logged)) and sum("image012" in line for line in logged) == 1


@pytest.mark.parametrize("options", [{}, {"prefetch": 1}, {"prefetch": 4, "num_threads": 1}])
def test_a_missing_shard(sound: dali_dr.Dataset, tmp_path: Path, options: dict[str, Any]) -> None:
    """Evenly spread, and the same from every step on."""
    made = Damaged(sound, tmp_path / "set")
    gone = set(made.dataset.samples_in(made.shard(9)).tolist())
    assert gone == set(range(8, 16))
    want = None
    made.shard(9).unlink()
    it = make(made.dataset, **options)
    want = [flat(epoch_of(it)) for _ in range(3)]
    for epoch, shown in enumerate(want):
        times = Counter(sample for sample, _, _ in shown)
        assert times.keys() == set(range(COUNT)) - gone and max(times.values()) / (COUNT / (COUNT - 8)) <= 3
        for consumed in range(0, COUNT, 8):
            resumed = make(made.dataset.path)  # as a new process would, to which the shard was never there
            resumed.load_state_dict({**it.state_dict(), "epoch": epoch, "consumed": consumed})
            assert flat(epoch_of(resumed)) == shown[consumed:]
    with pytest.raises(dali_dr.ShardError, match="No such file"):
        make(made.dataset.path, on_error="raise")
    assert set(it.skipped) == {f"image{n:03d}" for n in gone}


def test_a_whole_file_is_set_aside_at_once(sound: dali_dr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """One fault that says so is enough for all samples of the file: none of them is tried."""
    from dali_dr.loader.faults import Fault
    from dali_dr.loader.options import Machine, Schedule, Show
    from dali_dr.loader.plan import make_plan
    from dali_dr.loader.state import Place

    plan = make_plan(sound, 8, Show(), Schedule(seed=SEED), Machine(device="cpu", num_threads=1))
    new = skipping.Skipping(plan, sound, skip=True, limit=1.0)
    tried: list[int] = []
    judged = skipping.Judge._try

    def watched(self: Any, chunk: Any, size: Any) -> Any:
        tried.extend(showing.sample for showing in chunk)
        return judged(self, chunk, size)

    monkeypatch.setattr(skipping.Judge, "_try", watched)
    shard = str(sound.place_of(17, "image")[0])
    fault = Fault("shard", "it is gone", sample=17, key="image017", shard=shard, whole_file=True, failed=(17,), place=0)
    due = next(plan.sampler.run())
    new.settle(RuntimeError("encountered:\n\nit is gone"), fault, [due], Place(), 0)
    assert tried and not set(tried) & set(range(16, 24))
    again = next(new.sampler.run())
    assert not set(again.samples.tolist()) & set(range(16, 24))
    new.given_out(again)
    assert {one.sample for one in new.report()} == set(due.samples.tolist()) & set(range(16, 24))
    assert all("it is gone" in one.reason and one.shard == shard for one in new.report())


def test_too_much_is_an_error_that_says_what(damaged: Damaged, tmp_path: Path) -> None:
    it = make(damaged.dataset, max_skipped=0.1)  # 4 of 32
    given = []
    with pytest.raises(dali_dr.ShardError) as caught:
        for (batch,) in it:
            given.append(row(batch))
    message = str(caught.value)
    assert re.search(r"[56] of 32 positions of epoch 0 .*1[58]\.\d\d%.*max_skipped=0\.1 allows, which is 4", message), (
        message
    )
    assert "image" in message and "verify" in message and "no longer valid" not in message
    assert caught.value.key and caught.value.kind and caught.value.shard
    state = it.state_dict()
    assert state["consumed"] == 4 * len(given)
    with pytest.raises(dali_dr.ShardError, match="max_skipped"):
        next(it)
    resumed = make(damaged.dataset, max_skipped=0.1)  # the count goes with the state
    resumed.load_state_dict(json.loads(json.dumps(state)))
    with pytest.raises(dali_dr.ShardError, match=r"[56] of 32 positions"):
        next(resumed)
    more = make(damaged.dataset)
    more.load_state_dict(state)
    assert given + epoch_of(more) == epoch_of(make(damaged.dataset))
    for wrong in (-0.1, 1.5, "all", True):
        with pytest.raises(ValueError, match="max_skipped"):
            make(damaged.dataset, max_skipped=wrong)


def test_the_limit_is_met_at_the_same_batch_after_every_resume(damaged: Damaged) -> None:
    def run(it: Any) -> int:
        try:
            for _ in it:
                states.append(it.state_dict())
        except dali_dr.ShardError:
            return int(it.state_dict()["consumed"])
        return -1

    states: list[dict[str, Any]] = []
    end = run(make(damaged.dataset, max_skipped=0.15))
    assert end > 0
    for state in list(states):
        it = make(damaged.dataset, max_skipped=0.15)
        it.load_state_dict(state)
        assert run(it) == end


def test_nothing_left_is_one_error(sound: dali_dr.Dataset, tmp_path: Path) -> None:
    made = Damaged(sound, tmp_path / "set")
    for number in range(COUNT):
        made.no_jpeg(number)
    it = make(made.dataset)
    for _ in range(2):
        with pytest.raises(dali_dr.ShardError, match=r"none of the 32 samples.*neither JPEG nor PNG"):
            next(it)


def test_one_good_sample_is_found(sound: dali_dr.Dataset, tmp_path: Path) -> None:
    made = Damaged(sound, tmp_path / "set")
    for number in range(COUNT):
        if number != 21:
            made.no_jpeg(number)
    it = make(made.dataset)
    assert {sample for sample, _, _ in flat(epoch_of(it))} == {21}


@pytest.mark.parametrize(
    "options",
    [
        {"repeats": 2},
        {"class_mates": 1},
        {"views_per_image": 2},
        {"curriculum": Curriculum("easy", "hard", 4)},
        {"p_reinforced": 0.5},
        {"augment": "rrc"},
        {"augment": "eval", "size": 48},
        {"order": "windowed", "window": 8},
        {"samples": [*range(0, 32, 2), 1, 7, 29]},
        {"last_batch": "drop", "batch_size": 6},
        {"last_batch": "fill", "batch_size": 6},
        {"size": [(48, 8), (64, 4)]},
        {"roi_decode": "off"},
    ],
    ids=str,
)
def test_every_way_to_show(damaged: Damaged, options: dict[str, Any]) -> None:
    """The same with another prefetch, and on from the second step."""
    first = make(damaged.dataset, prefetch=1, **options)
    want = [epoch_of(first), epoch_of(first)]
    it = make(damaged.dataset, prefetch=3, **options)
    got = [next(it), next(it)]
    state = it.state_dict()
    assert [row(batch) for (batch,) in got] == want[0][:2]
    resumed = make(damaged.dataset, prefetch=2, **options)
    resumed.load_state_dict(state)
    assert epoch_of(resumed) == want[0][2:] and epoch_of(resumed) == want[1]


# ---- errors


@pytest.mark.parametrize("roi_decode", ["on", "off"])
@pytest.mark.parametrize("damage, reason", [
    ("cut_jpeg", "Premature end of JPEG"), ("no_jpeg", "neither JPEG nor PNG"), ("no_header", "neither JPEG nor PNG"),
])  # fmt: skip
def test_decoder_errors_name_the_sample_and_the_decoders_reason(
    sound: dali_dr.Dataset, tmp_path: Path, damage: str, reason: str, roi_decode: str
) -> None:
    made = Damaged(sound, tmp_path / "set")
    getattr(made, damage)(13)
    if damage == "cut_jpeg":
        made.overwrite(13, "image", 0.3)
    it = make(made.dataset, on_error="raise", roi_decode=roi_decode, batch_size=8)
    for _ in range(6):  # until a crop needs what is missing
        try:
            epoch_of(it)
        except dali_dr.ShardError as raised:
            error = raised
            break
    else:
        raise AssertionError("nothing was raised")
    shard, offset = made.dataset.place_of(13, "image")
    assert re.search(reason, str(error)) and "image013" in str(error) and str(shard) in str(error)
    assert "no longer valid" not in str(error)
    assert (error.kind, error.sample, error.key, error.shard, error.offset) == (
        "image",
        13,
        "image013",
        str(shard),
        offset,
    )
    state = it.state_dict()  # is what it was, and the same error comes again until the image is mended
    with pytest.raises(dali_dr.ShardError, match="image013"):
        next(it)
    assert it.state_dict()["epoch"] == state["epoch"]
    shutil.copyfile(sound.place_of(13, "image")[0], shard)
    order = Global(COUNT, SEED).at(state["epoch"], np.arange(COUNT)).samples.tolist()
    batches = []
    while (batch := next(it, None)) is not None:
        batches.append(batch[0])
    got = [sample for batch in batches for sample in batch["index"].flatten().tolist()]
    assert got == order[COUNT - len(got) :]


def test_the_error_streams_other_lines_are_not_swallowed(capfd: pytest.CaptureFixture[str]) -> None:
    import os

    from dali_dr.images.overheard import Overheard

    heard = Overheard()
    with heard.listening():
        os.write(2, b"somebody else's\n\x1b[0;31m[ERROR] \x1b[0m[jpeg_parser] Invalid marker\nand more\n")
    os.write(2, b"after\n")
    assert heard.reasons == ["[jpeg_parser] Invalid marker"]
    assert capfd.readouterr().err == "somebody else's\nand more\nafter\n"


# ---- partners


@pytest.fixture(scope="module", params=["rrc+mixing", "double-mix"])
def mixed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dali_dr.Dataset:
    root = tmp_path_factory.mktemp("mixed")
    photos = {f"c{n % 3}/photo{n:02d}.jpg": encode_jpeg(picture(60 + 9 * n, 140 - 7 * n, n)) for n in range(11)}
    return make_mixed(write_files(root / "photos", photos), root / "out", request.param)


@pytest.mark.parametrize("damage, reason", [("no_jpeg", "neither JPEG nor PNG"), ("swapped_member", "no tar member")])
def test_a_bad_partner_is_a_bad_view(mixed: dali_dr.Dataset, tmp_path: Path, damage: str, reason: str) -> None:
    """Views whose partner cannot be had are replaced, the others of the same image are shown; errors name the partner."""
    made = Damaged(mixed, tmp_path / "set")
    getattr(made, damage)(5)
    key, pairs = mixed.keys[5], 2 if mixed.spec.mixing and mixed.spec.mixing.double else 1
    partners = [mixed.reinforcements(n).mix.partner[::pairs] for n in range(len(mixed))]  # type: ignore[union-attr]

    def visits(it: Any) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for (batch,) in it:
            rows = zip(batch["index"].tolist()[::pairs], batch["view"].tolist()[::pairs], strict=True)
            found += [(n, v // pairs) for n, v in rows]
        return found

    it, whole = make(made.dataset, prefetch=3), make(mixed)
    other = make(made.dataset, batch_size=2, prefetch=1)
    replaced = 0
    for _ in range(4):
        got, want = visits(it), visits(whole)
        for shown, scheduled in zip(got, want, strict=True):
            assert shown[0] != 5 and partners[shown[0]][shown[1]] != 5
            if scheduled[0] != 5 and partners[scheduled[0]][scheduled[1]] != 5:
                assert shown == scheduled
            else:
                replaced += scheduled[0] != 5
        assert visits(other) == got
    assert replaced, "no view had the bad partner"
    assert all(key in why and re.search(reason, why) for why in it.skipped.values())
    strict = make(made.dataset, on_error="raise", samples=[n for n in range(len(mixed)) if n != 5])
    with pytest.raises(dali_dr.ShardError, match=reason) as caught:
        for _ in range(8):
            visits(strict)
    assert key in str(caught.value) and caught.value.key == key and caught.value.sample == 5
