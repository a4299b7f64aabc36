"""Every file of the zoo is shown as Pillow shows it, or refused with a line; nothing that enters stops training."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo_tools
from nvidia import nvimgcodec
from PIL import Image
from test_iterator import epoch_of, loader
from test_plain import by_axes, by_torchvision
from zoo import Animal, harmed_jpegs, harmed_pngs, strangers, zoo

import dali_dr
from dali_dr.augment.draw import draw
from dali_dr.augment.reference import replay_pillow
from dali_dr.augment.views import MAX_SIDE
from dali_dr.encoded import image_info
from dali_dr.images.admit import Admission, Admitted
from dali_dr.images.judge import Judge, Refusal
from dali_dr.record.labels import Reinforcements
from dali_dr.shards.write import write_shards

CLASSES, VIEWS, SIZE = 7, 3, 48
HUGE = "159"  # megapixels: these are shown by themselves
LARGE = 1 << 20  # pixels


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Pillow warns of much that is here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def animals() -> list[Animal]:
    return [animal for animal in zoo() if HUGE not in animal.name]


Outcomes = dict[str, Admitted | Refusal]


@pytest.fixture(scope="module")
def outcomes(animals: list[Animal]) -> Outcomes:
    """What becomes of each, by name."""
    with Judge() as judge, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Admission(judge)([animal.data for animal in animals])
    return {animal.name: outcome for animal, outcome in zip(animals, found, strict=True)}


@pytest.fixture(scope="module")
def entered(animals: list[Animal], outcomes: Outcomes) -> list[tuple[Animal, Admitted]]:
    pairs = [(animal, outcomes[animal.name]) for animal in animals]
    return [(animal, outcome) for animal, outcome in pairs if isinstance(outcome, Admitted)]


def by_pillow(data: bytes) -> Image.Image:
    """The reference for everything: what Pillow makes of the file that somebody has, whatever is stored of it."""
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def shown_of(animal: Animal, outcome: Admitted) -> Image.Image:
    """The same; but a RIFF length that is wrong Pillow does not forgive, and mending does."""
    return by_pillow(outcome.data if "-riff-" in animal.name else animal.data)


def key_of(number: int) -> str:
    return f"animal{number:04d}"


def written(out: Path, images: list[bytes], preset: str | None = None) -> dali_dr.Dataset:
    """A data set of images that are stored as they are, plain or with drawn views."""
    spec = dali_dr.AugmentationSpec.preset(preset, SIZE) if preset else None
    rng = np.random.default_rng(3)

    def samples() -> Iterator[dali_dr.Sample]:
        for number, data in enumerate(images):
            views = None
            if spec is not None:
                _, height, width = image_info(data)
                drawn = draw(
                    spec, seed=1, key=key_of(number), views=range(VIEWS), image_height=height, image_width=width
                )
                columns = {name: getattr(drawn, name) for name in ("crop", "flip", "ops", "magnitudes", "erase")}
                ids = np.tile(rng.permutation(CLASSES)[:2].astype(np.int32), (VIEWS, 1))
                views = Reinforcements(**columns, soft_ids=ids, soft_probs=np.full((VIEWS, 2), 0.5, np.float32))
            yield dali_dr.Sample(key_of(number), data, number % CLASSES, views)

    options: dict[str, Any] = {"num_classes": CLASSES, "samples_per_shard": 100, "progress": False}
    write_shards(samples(), out, spec=spec, check_images=False, **options)
    return dali_dr.Dataset(out)


# ---- the zoo


def test_the_zoo_is_large_whatever_tools_there_are() -> None:
    """Enough files of every kind by Pillow and by hand alone; the tools' files where there are tools; the same every time."""
    by_tools = {name for name, _, _ in zoo_tools.made(53, 47)}
    by_hand = [animal for animal in zoo() if animal.name not in by_tools]
    assert len(by_hand) >= 300
    for kind, least in (("jpeg", 150), ("png", 80), ("webp", 60)):
        assert sum(animal.name.startswith(kind) for animal in by_hand) >= least, kind
    assert all(animal in by_hand for room in (harmed_jpegs, harmed_pngs, strangers) for animal in room())
    if not zoo_tools.missing():
        assert len(zoo_tools.made(53, 47)) >= 60


def test_enough_enters_and_enough_is_refused(outcomes: Outcomes) -> None:
    """Without that the tests below would say nothing."""
    kinds = Counter(type(outcome).__name__ for outcome in outcomes.values())
    assert kinds["Admitted"] >= 300 and kinds["Refusal"] >= 100
    mended = {name for name, outcome in outcomes.items() if isinstance(outcome, Admitted) and outcome.change}
    for name in ("jpeg-base-junk-segments", "webp-exif-odd-icc-exif", "jpeg-cmyk-95-base", "png-apng-default-other"):
        assert name in mended, name


@pytest.mark.parametrize(
    "name", ["jpeg-45x61-420-pro", "png-3-2-adam7-trns", "webp-animated", "jpeg-exif-6", "jpeg-base-no-dht"]
)
def test_what_is_sound_is_stored_as_it_is(animals: list[Animal], outcomes: Outcomes, name: str) -> None:
    (data,) = (animal.data for animal in animals if animal.name == name)
    outcome = outcomes[name]
    assert isinstance(outcome, Admitted) and outcome.data == data and outcome.change is None


def test_a_refusal_is_a_line_with_a_remedy(animals: list[Animal], outcomes: Outcomes) -> None:
    """And what Pillow reads, and torchvision's users therefore have, is refused for a reason that can be told."""
    for animal in animals:
        outcome = outcomes[animal.name]
        if isinstance(outcome, Admitted):
            continue
        assert outcome.reason and outcome.remedy and "\n" not in str(outcome), animal.name
        assert len(str(outcome)) < 700 and re.search("replace|leave|--convert|convert|restore", outcome.remedy), outcome


def test_converting_loses_nothing_that_pillow_reads(animals: list[Animal], outcomes: Outcomes) -> None:
    """`convert`: whatever Pillow reads enters, as PNG of the very pixels."""
    with Judge() as judge:
        refused = [animal for animal in animals if isinstance(outcomes[animal.name], Refusal)]
        found = Admission(judge, convert=True)([animal.data for animal in refused])
    converted = 0
    for animal, outcome in zip(refused, found, strict=True):
        try:
            want = np.asarray(by_pillow(animal.data))
        except Exception:
            assert isinstance(outcome, Refusal), animal.name
            continue
        if max(want.shape) > 65_535:
            continue
        assert isinstance(outcome, Admitted) and outcome.shown.suffix == "png", (animal.name, outcome)
        assert np.array_equal(by_pillow(outcome.data), want), animal.name
        converted += 1
    assert converted >= 30


# ---- what enters is shown


@pytest.mark.parametrize("preset", ["rrc", "rrc+ra+re"])
def test_fresh_views_are_pillows(tmp_path: Path, entered: list[tuple[Animal, Admitted]], preset: str) -> None:
    """Of the file that somebody has, whatever is stored of it; three crops of each, and nothing raises."""
    dataset = written(tmp_path / "set", [outcome.data for _, outcome in entered])
    spec = dali_dr.AugmentationSpec.preset(preset, SIZE)
    iterator = loader(dataset, augment=spec, batch_size=16, dtype="uint8", layout="HWC", views_per_image=3)
    seen: set[int] = set()
    for batch in epoch_of(iterator):
        for row, (number, view) in enumerate(zip(batch["index"].tolist(), batch["view"].tolist(), strict=True)):
            image = shown_of(*entered[number])
            where = {"image_height": image.height, "image_width": image.width}
            drawn = draw(spec, seed=7, key=key_of(number), views=[-1 - view], **where)
            assert np.array_equal(batch["data"][row].numpy(), replay_pillow(image, drawn, 0, spec)), entered[number][
                0
            ].name
            seen.add(number)
    assert len(seen) == len(entered)


def test_stored_views_are_pillows(tmp_path: Path, entered: list[tuple[Animal, Admitted]]) -> None:
    dataset = written(tmp_path / "set", [outcome.data for _, outcome in entered], "rrc+ra+re")
    iterator = loader(dataset, batch_size=16, dtype="uint8", layout="HWC")
    for batch in epoch_of(iterator):
        for row, (number, view) in enumerate(zip(batch["index"].tolist(), batch["view"].tolist(), strict=True)):
            image = shown_of(*entered[number])
            want = replay_pillow(image, dataset.reinforcements(number), view, dataset.spec)
            assert np.array_equal(batch["data"][row].numpy(), want), entered[number][0].name


@pytest.mark.parametrize("roi_decode", ["on", "off"])
def test_evaluation_is_torchvisions(tmp_path: Path, entered: list[tuple[Animal, Admitted]], roi_decode: str) -> None:
    dataset = written(tmp_path / "set", [outcome.data for _, outcome in entered])
    evaluation = dali_dr.Evaluation(SIZE, SIZE + 9)
    options: dict[str, Any] = {"augment": evaluation, "roi_decode": roi_decode}
    iterator = loader(dataset, batch_size=16, dtype="uint8", layout="HWC", **options)
    numbers = []
    for batch in epoch_of(iterator):
        for row, number in enumerate(batch["index"].tolist()):
            image = shown_of(*entered[number])
            long = max(image.size) > 1000 * min(image.size)  # by torchvision some gigabytes
            want = (by_axes if long else by_torchvision)(image, evaluation)
            assert np.array_equal(batch["data"][row].numpy(), want), entered[number][0].name
            numbers.append(number)
    assert numbers == list(range(len(entered)))


@pytest.mark.slow
def test_the_largest(tmp_path: Path) -> None:
    """159 megapixels of one colour: judged, shown in every mode."""
    huge = [animal for animal in zoo() if HUGE in animal.name]
    assert len(huge) == 2
    with Judge() as judge:
        found = Admission(judge)([animal.data for animal in huge])
    assert [outcome.shown.height if isinstance(outcome, Admitted) else outcome for outcome in found] == [12_610] * 2
    dataset = written(tmp_path / "set", [animal.data for animal in huge])
    for augment in ("rrc", "eval"):
        (batch,) = epoch_of(loader(dataset, augment=augment, size=64, batch_size=2, dtype="uint8", order="sequential"))
        assert batch["data"].flatten(1).unique(dim=1).tolist() == [[77], [255]], augment


# ---- what got in unchecked


@pytest.fixture(scope="module")
def unchecked(animals: list[Animal]) -> list[Animal]:
    """All whose header can be read, which is as far as `check_images=False` looks."""
    found = []
    for animal in animals:
        with contextlib.suppress(ValueError):
            _, height, width = image_info(animal.data)
            if max(height, width) <= MAX_SIDE:
                found.append(animal)
    return found


def is_refused(animal: Animal, outcomes: Outcomes) -> bool:
    """Whether a file would not be in a set as it is, be it mended or not."""
    outcome = outcomes[animal.name]
    return isinstance(outcome, Refusal) or outcome.data != animal.data


# Stored and fresh views, several of an image, evaluation; regions and whole images; batches that are parsed on many threads.
RUNS: dict[str, dict[str, Any]] = {
    "stored": {}, "fresh": {"augment": "rrc+ra+re", "batch_size": 64}, "evaluation": {"augment": "eval", "size": 40},
    "whole": {"roi_decode": "off", "batch_size": 64}, "views": {"views_per_image": 2},
}  # fmt: skip


@pytest.mark.parametrize(
    "run", [pytest.param(run, marks=[pytest.mark.slow] * (run in ("views", "whole"))) for run in RUNS]
)
def test_skipping_what_got_in_unchecked(
    tmp_path: Path, unchecked: list[Animal], outcomes: Outcomes, caplog: pytest.LogCaptureFixture, run: str
) -> None:
    """With on_error="skip" two epochs end, what cannot be shown is reported with a reason, and what is sound is shown."""
    caplog.set_level(logging.CRITICAL, "dali_dr")
    dataset = written(tmp_path / "set", [animal.data for animal in unchecked], "rrc+ra+re")
    options = {"batch_size": 16, "on_error": "skip", "max_skipped": 1.0, "io_retry_s": 0.0} | RUNS[run]
    iterator = loader(dataset, dtype="uint8", **options)
    shown: Counter[int] = Counter()
    for _ in range(2):
        shown.update(number for batch in epoch_of(iterator) for number in batch["index"].tolist())
    assert shown.total() == 2 * len(dataset) * RUNS[run].get("views_per_image", 1)
    skipped = {one.sample: one for one in iterator.skip_report()}
    assert len(skipped) >= 80
    for number, one in skipped.items():
        assert is_refused(unchecked[number], outcomes), (unchecked[number].name, one.reason)
        assert one.kind == "image" and one.key == key_of(number) and key_of(number) in one.reason, one
    assert set(range(len(dataset))) - skipped.keys() <= shown.keys()


def test_errors_of_what_got_in_unchecked(tmp_path: Path, unchecked: list[Animal], outcomes: Outcomes) -> None:
    """With on_error="raise", one at a time and in large batches: an error that names the sample, and no end of the process."""
    refused = [animal for animal in unchecked if is_refused(animal, outcomes)]
    sound = [animal for animal in unchecked if not is_refused(animal, outcomes)][:40]
    numbers: set[int] = set()
    for begin in range(0, len(refused), 10):
        images = [animal.data for animal in [*sound, *refused[begin : begin + 10]]]
        dataset = written(tmp_path / f"set{begin}", images)
        try:
            epoch_of(loader(dataset, augment="eval", size=32, batch_size=len(images), num_threads=2))
        except dali_dr.ShardError as error:
            assert error.kind == "image" and error.sample is not None and error.sample >= len(sound), error
            assert key_of(error.sample) in str(error) and str(dataset.path) in str(error)
            numbers.add(begin + error.sample)
    assert len(numbers) >= 8  # the others are shown, only not as Pillow shows them


def unparsed(data: bytes) -> str:
    """What nvImageCodec's own parsers have against ``data``; "" if nothing."""
    try:
        nvimgcodec.CodeStream(data).height  # noqa: B018  (the header is read when it is asked for)
    except RuntimeError as error:
        return str(error)
    return ""


def test_what_is_refused_before_the_decoder_is_what_its_parsers_refuse(
    tmp_path: Path, unchecked: list[Animal], outcomes: Outcomes
) -> None:
    """And nothing else. What they refuse must not get there: in large batches DALI may end the process over it."""
    before, behind = Counter[str](), Counter[str]()
    for number, animal in enumerate(animal for animal in unchecked if is_refused(animal, outcomes)):
        reason = unparsed(animal.data)
        dataset = written(tmp_path / f"set{number}", [animal.data])
        try:
            epoch_of(loader(dataset, augment="eval", size=32, batch_size=1))
        except dali_dr.ShardError as error:
            own = "cannot be decoded: " in str(error) or "cannot be used: " in str(error)
            (before if own else behind)[animal.name] += 1
            assert own == bool(reason), (animal.name, reason, str(error))
        else:
            assert not reason, (animal.name, reason)
    assert len(before) >= 20 and len(behind) >= 20
