"""The zoo on every way in: pack, write_shards, reinforce, sidecar. What is in the set is shown, what is not is said."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import torch
from conftest import write_files
from PIL import Image
from test_iterator import epoch_of, loader
from test_mixing import NORMALISED, reference
from test_plain import by_axes, by_torchvision
from test_reinforce import tiny_teacher
from zoo import Animal, zoo

import dali_dr
from dali_dr.augment.reference import replay_pillow
from dali_dr.augment.spec import Mixing
from dali_dr.cli import main
from dali_dr.encoded import image_info
from dali_dr.images.admit import Admission, Admitted
from dali_dr.images.judge import Judge, Refusal, Shown
from dali_dr.reinforce.generate import Generation
from dali_dr.reinforce.run import Run
from dali_dr.shards import verify as verify_module
from dali_dr.shards.report import read_changed, read_refused
from dali_dr.shards.verify import verify
from dali_dr.shards.write import write_shards
from dali_dr.sources import ImageFolder, open_source

CLASSES, SIZE, VIEWS = 5, 32, 4
HELD = ("jpg", "png", "webp")
FIELDS = {"key", "reason", "remedy", "path", "bytes", "starts", "label", "crc32c"}
MENDED_LENGTH = "-riff-"  # of a WebP, which Pillow does not forgive, and mending does


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Pillow warns of much that is here, and dali_dr of all that it leaves out."""
    caplog.set_level(logging.CRITICAL, "dali_dr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def key_of(number: int) -> str:
    return f"c{number % CLASSES}/a{number:04d}"


def number_of(key: str) -> int:
    return int(key[-4:])


def by_pillow(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


class Zoo:
    """Files on disk, by number; what becomes of each as it is, mended, converted.

    Attributes:
      animals: all that are there.
      folder: of class folders.
      judged, admitted, converted: by number.
    """

    def __init__(self, animals: list[Animal], folder: Path, judge: Judge) -> None:
        self.animals = animals
        self.folder = write_files(folder, {self.file(n): animal.data for n, animal in enumerate(animals)})
        images = [animal.data for animal in animals]
        self.judged = judge(images)
        self.admitted = Admission(judge)(images)
        self.converted = Admission(judge, convert=True)(images)

    def file(self, number: int) -> str:
        return f"{key_of(number)}.{self.animals[number].suffix}"

    @property
    def seen(self) -> list[int]:
        """Those that a source of images takes by their names, without --convert."""
        return [n for n, animal in enumerate(self.animals) if animal.suffix in HELD]

    def entering(self, outcomes: list[Any], convert: bool = False) -> list[int]:
        return [n for n in (range(len(self.animals)) if convert else self.seen) if not isinstance(outcomes[n], Refusal)]

    def check_images(self, dataset: dali_dr.Dataset) -> None:
        """All that is stored is to Pillow what the source has."""
        for number, key in enumerate(dataset.keys):
            animal = self.animals[number_of(key)]
            if MENDED_LENGTH not in animal.name:
                ours, theirs = np.asarray(by_pillow(dataset.image(number))), np.asarray(by_pillow(animal.data))
                assert np.array_equal(ours, theirs), animal.name
            assert dataset.label(number) == number_of(key) % CLASSES

    def check_reports(self, out: Path, outcomes: list[Any], numbers: list[int], keys: dict[str, int]) -> None:
        """Exactly the refused are listed, with all that is known; and exactly the changed."""
        skipped = {keys[one.key]: one for one in read_refused(out)}
        assert sorted(skipped) == [n for n in numbers if isinstance(outcomes[n], Refusal)]
        for number, one in skipped.items():
            data = self.animals[number].data
            assert one.reason == outcomes[number].reason and one.remedy == outcomes[number].remedy
            assert one.bytes == len(data) and one.starts == data[:16].hex() and one.crc32c == google_crc32c.value(data)
            assert one.label == number % CLASSES and one.path.endswith(self.file(number))
        changed = {keys[one.key]: one for one in read_changed(out)}
        mended = [n for n in numbers if isinstance(outcomes[n], Admitted) and outcomes[n].change]
        assert sorted(changed) == mended
        for number, other in changed.items():
            assert other.change == outcomes[number].change and other.path.endswith(self.file(number))
            assert other.crc32c == google_crc32c.value(self.animals[number].data)


def animals() -> list[Animal]:
    return [animal for animal in zoo() if "megapixels" not in animal.name]


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge() as judge:
        yield judge


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, judge: Judge) -> Zoo:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Zoo(animals(), tmp_path_factory.mktemp("zoo"), judge)


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory, judge: Judge) -> Zoo:
    """Every sixth, where time matters, and small ones: of each kind some."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        few = [a for a in animals() if "wide" not in a.name and "high" not in a.name][::6]
        return Zoo(few, tmp_path_factory.mktemp("some"), judge)


def keys_of(zoo: Zoo) -> dict[str, int]:
    return {key_of(number): number for number in range(len(zoo.animals))}


def pack(zoo: Zoo, out: Path, *options: str) -> int:
    return main(["pack", str(zoo.folder), "--out", str(out), "--quiet", "--labels", "sorted", *options])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- pack


def check_epochs(zoo: Zoo, dataset: dali_dr.Dataset) -> None:
    """Fresh views and evaluation, which is torchvision's, come to their end with on_error="raise"."""
    fresh = loader(dataset, augment="rrc", size=SIZE, batch_size=32, dtype="uint8", views_per_image=2, on_error="raise")
    numbers = [number for batch in epoch_of(fresh) for number in batch["index"].tolist()]
    assert sorted(numbers) == sorted([*range(len(dataset))] * 2)
    evaluation = dali_dr.Evaluation(SIZE, SIZE + 9)
    options: dict[str, Any] = {"augment": evaluation, "batch_size": 32, "dtype": "uint8", "layout": "HWC"}
    seen = 0
    for batch in epoch_of(loader(dataset, on_error="raise", **options)):
        for row, number in enumerate(batch["index"].tolist()):
            animal = zoo.animals[number_of(dataset.keys[number])]
            image = by_pillow(dataset.image(number) if MENDED_LENGTH in animal.name else animal.data)
            long = max(image.size) > 1000 * min(image.size)
            want = (by_axes if long else by_torchvision)(image, evaluation)
            assert np.array_equal(batch["data"][row].numpy(), want), animal.name
            seen += 1
    assert seen == len(dataset)


@pytest.mark.parametrize("convert", [False, True])
def test_pack_leaves_out_what_cannot_be_shown_and_says_so(
    whole: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str], convert: bool
) -> None:
    out, options = tmp_path / "out", ["--convert"] * convert
    outcomes = whole.converted if convert else whole.admitted
    assert pack(whole, out, "--on-error", "skip", "--json", *options) == 0
    told = capsys.readouterr()
    figures, entering = json.loads(told.out), whole.entering(outcomes, convert)
    numbers = list(range(len(whole.animals))) if convert else whole.seen
    assert figures["taken"] == len(numbers) and figures["images"] == len(entering) >= 350
    assert figures["skipped"] == len(numbers) - len(entering) >= 60
    assert f"{figures['skipped']} images were left out" in told.err and "Traceback" not in told.err
    assert not any(line.startswith(("libpng", "Corrupt", "Premature", "[")) for line in told.err.splitlines())
    assert all(one.keys() >= FIELDS for one in lines(out / "report" / "skipped.jsonl"))

    dataset = dali_dr.Dataset(out)
    assert sorted(map(number_of, dataset.keys)) == entering
    whole.check_images(dataset)
    whole.check_reports(out, outcomes, numbers, keys_of(whole))
    assert sum(figures["changed"].values()) == len(read_changed(out)) >= (80 if convert else 20)
    report = verify(out, images=True, progress=False)
    assert report.ok, report.problems
    check_epochs(whole, dataset)
    # Whatever Pillow cannot read is out; converting loses nothing that it reads, but sides that no shard holds.
    for number in set(numbers) - set(entering):
        try:
            image = by_pillow(whole.animals[number].data)
        except Exception:
            continue
        assert not convert or max(image.size) > 65_535, whole.animals[number].name
    # The same command finds the same source.
    assert pack(whole, out, "--on-error", "skip", "--json", *options) == 0
    assert json.loads(capsys.readouterr().out)["taken"] == 0


def test_pack_stops_at_the_first(whole: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pack(whole, tmp_path / "out") == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("dali-dr: note: ")]
    assert len(errors) == 1 and errors[0].startswith("dali-dr: "), errors
    refused = [n for n in whole.seen if isinstance(whole.admitted[n], Refusal)]
    first = min(refused, key=key_of)
    outcome = whole.admitted[first]
    assert isinstance(outcome, Refusal)
    assert str(whole.folder / whole.file(first)) in errors[0] and key_of(first) in errors[0]
    assert outcome.reason in errors[0] and outcome.remedy in errors[0]


def test_verify_names_what_was_packed_without_a_decode_check(
    whole: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert pack(whole, out, "--on-error", "skip", "--no-decode-check", "--keep-bytes") == 0
    dataset = dali_dr.Dataset(out)
    assert verify(out, progress=False).ok  # as far as headers tell
    monkeypatch.setattr(verify_module, "MAX_PROBLEMS", 10_000)
    report = verify(out, images=True, progress=False)
    named = sorted(number_of(problem.partition("sample ")[2].partition(":")[0]) for problem in report.problems)
    inside = sorted(map(number_of, dataset.keys))
    bytes_of = {number_of(key): dataset.image(number) for number, key in enumerate(dataset.keys)}
    untouched = [n for n in inside if bytes_of[n] == whole.animals[n].data]
    want = [n for n in untouched if isinstance(whole.judged[n], Refusal)]
    assert named == want and len(want) >= 80
    for problem in report.problems:
        outcome = whole.judged[number_of(problem.partition("sample ")[2].partition(":")[0])]
        assert isinstance(outcome, Refusal) and outcome.reason in problem and outcome.remedy in problem
    capsys.readouterr()
    assert main(["verify", str(out), "--images", "--quiet"]) == 1
    told = capsys.readouterr()
    assert f"{len(want)} problems" in told.out and "Traceback" not in told.err


# ---- write_shards


def samples_of(zoo: Zoo) -> list[dali_dr.Sample]:
    return [dali_dr.Sample(key_of(n), animal.data, n % CLASSES) for n, animal in enumerate(zoo.animals)]


def test_write_shards_refuses_by_key_what_training_would_not_show(some: Zoo, tmp_path: Path) -> None:
    options: dict[str, Any] = {"spec": None, "num_classes": CLASSES, "samples_per_shard": 20, "progress": False}
    manifest = write_shards(samples_of(some), tmp_path / "skip", on_error="skip", **options)
    sound = [key_of(n) for n, verdict in enumerate(some.judged) if isinstance(verdict, Shown)]
    dataset = dali_dr.Dataset(tmp_path / "skip")
    assert list(dataset.keys) == sound and manifest.images == len(sound) >= 50
    refused = read_refused(tmp_path / "skip")
    assert [one.key for one in refused] == [key_of(n) for n in range(len(some.animals)) if key_of(n) not in sound]
    for one in refused:
        verdict = some.judged[number_of(one.key)]
        assert isinstance(verdict, Refusal) and (one.reason, one.remedy) == (verdict.reason, verdict.remedy)
    some.check_images(dataset)
    assert verify(tmp_path / "skip", images=True, progress=False).ok

    with pytest.raises(dali_dr.ShardError) as error:
        write_shards(samples_of(some), tmp_path / "raise", **options)
    assert error.value.key == refused[0].key and error.value.reason == refused[0].reason
    assert refused[0].key in str(error.value) and "\n" not in str(error.value)

    write_shards(samples_of(some), tmp_path / "all", on_error="skip", check_images=False, **options)
    headers = []
    for number, animal in enumerate(some.animals):
        try:
            image_info(animal.data)
        except ValueError:
            continue
        headers.append(key_of(number))
    assert list(dali_dr.Dataset(tmp_path / "all").keys) == headers and len(headers) > len(sound)


# ---- reinforce


def generation(preset: str) -> Generation:
    spec = dali_dr.AugmentationSpec.preset(preset, size=SIZE)
    if spec.mixing is not None:
        spec = dataclasses.replace(spec, mixing=Mixing())
    return Generation(spec, tiny_teacher(), num_views=VIEWS, topk=3, batch_views=24, num_threads=2)


def check_predictions(dataset: dali_dr.Dataset, number: int, view: int, pixels: np.ndarray) -> None:
    """The stored prediction is the teacher's of the view as Pillow makes it."""
    stored = dataset.reinforcements(number)
    probs = tiny_teacher().predict(torch.from_numpy(pixels)[None])[0].numpy()
    assert np.array_equal(probs[stored.soft_ids[view]], stored.soft_probs[view])


@pytest.mark.parametrize("preset", ["rrc", "rrc+mixing"])
def test_reinforce_leaves_out_what_cannot_be_shown(some: Zoo, tmp_path: Path, preset: str) -> None:
    """With mixing, too, where each is also a partner; then all stored views are replayed, as Pillow has them."""
    source, out = ImageFolder.scan(some.folder), tmp_path / "out"
    options: dict[str, Any] = {"num_classes": 6, "samples_per_shard": 16, "probabilities": "float32"}
    Run(source, out, generation(preset), on_error="skip", progress=False, **options).work()
    dataset, entering = dali_dr.Dataset(out), some.entering(some.admitted)
    assert sorted(map(number_of, dataset.keys)) == entering and len(entering) >= 50
    some.check_images(dataset)
    some.check_reports(out, some.admitted, some.seen, keys_of(some))
    report = verify(out, images=True, progress=False)
    assert report.ok, report.problems
    mixed, partners = preset != "rrc", set[int]()
    seen: set[tuple[int, int]] = set()
    iterator = loader(
        dataset, batch_size=16, on_error="raise", **({} if mixed else {"dtype": "uint8", "layout": "HWC"})
    )
    for _ in range(VIEWS):
        for batch in epoch_of(iterator):
            for row, (number, view) in enumerate(zip(batch["index"].tolist(), batch["view"].tolist(), strict=True)):
                seen.add((number, view))
                views = dataset.reinforcements(number)
                if mixed:
                    want = reference(dataset, number, view, **NORMALISED)
                    pixels = reference(dataset, number, view)
                    assert views.mix is not None
                    partners.add(int(views.mix.partner[view]))
                else:
                    want = replay_pillow(by_pillow(dataset.image(number)), views, view, dataset.spec)
                    pixels = want.transpose(2, 0, 1)
                assert np.array_equal(batch["data"][row].numpy(), want), dataset.keys[number]
                check_predictions(dataset, number, view, pixels)
    assert len(seen) == VIEWS * len(dataset)
    assert not mixed or len(partners) >= 20


def test_reinforce_stops_at_the_first(
    some: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an error that names key and reason; on the command line by a line, without and with mixing."""
    source = ImageFolder.scan(some.folder)
    refused = {key_of(n): some.admitted[n] for n in some.seen if isinstance(some.admitted[n], Refusal)}
    for preset in ("rrc", "rrc+mixing"):
        with pytest.raises(dali_dr.ShardError) as error:
            Run(source, tmp_path / f"api-{preset}", generation(preset), 6, progress=False).work()
        (key,) = (key for key in refused if f"sample {key}:" in str(error.value))
        outcome = refused[key]
        assert isinstance(outcome, Refusal) and outcome.reason in str(error.value) and "\n" not in str(error.value)
        assert error.value.key == key and error.value.reason == outcome.reason, preset
        assert outcome.remedy in (error.value.remedy or "") and some.file(number_of(key)) in str(error.value)
        monkeypatch.setattr("dali_dr.reinforce.blueprint.load_teacher", lambda *_, **__: tiny_teacher())
        arguments = ["--out", str(tmp_path / f"cli-{preset}"), "--teacher", "tiny", "--views", "4", "--topk", "3"]
        arguments += ["--spec", preset, "--size", str(SIZE), "--quiet", "--batch", "24", "--device", "cpu"]
        assert main(["reinforce", str(some.folder), *arguments]) == 1
        told = capsys.readouterr().err
        assert "Traceback" not in told and f"sample {key}:" in told and outcome.reason in told
        assert told.splitlines()[-1].startswith("dali-dr: ")


def test_a_sidecar_set_takes_nothing_that_would_have_to_be_changed(some: Zoo, tmp_path: Path) -> None:
    """Its images stay as they are in their tars: what is mended elsewhere is refused here, with a line."""
    archive = tmp_path / "images.tar"
    with tarfile.open(archive, "w") as tar:
        for number in some.seen:
            for name, data in (
                (some.file(number), some.animals[number].data),
                (f"{key_of(number)}.cls", b"%d" % (number % CLASSES)),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    before = archive.read_bytes()
    source, out = open_source(archive), tmp_path / "out"
    options: dict[str, Any] = {"num_classes": 6, "samples_per_shard": 16, "progress": False, "sidecar": True}
    Run(source, out, generation("rrc"), on_error="skip", **options).work()
    assert archive.read_bytes() == before
    dataset, sound = dali_dr.Dataset(out), some.entering(some.judged)
    mended = [n for n in some.seen if isinstance(some.admitted[n], Admitted) and some.admitted[n].change]
    assert list(map(number_of, dataset.keys)) == sound and mended and not set(mended) & set(sound)
    assert [dataset.image(n) for n in range(len(dataset))] == [some.animals[n].data for n in sound]
    refused = {number_of(one.key): one for one in read_refused(out)}
    assert sorted(refused) == [n for n in some.seen if n not in sound] and not read_changed(out)
    for number, one in refused.items():
        verdict = some.judged[number]
        assert isinstance(verdict, Refusal) and one.reason == verdict.reason and one.remedy == verdict.remedy
    assert verify(out, images=True, progress=False).ok
    batches = epoch_of(loader(dataset, batch_size=16, dtype="uint8", on_error="raise"))
    assert sorted(n for batch in batches for n in batch["index"].tolist()) == list(range(len(dataset)))
    with pytest.raises(dali_dr.ShardError) as error:
        Run(source, tmp_path / "raise", generation("rrc"), **options).work()
    first = some.judged[min(refused)]
    assert error.value.key == key_of(min(refused)) and isinstance(first, Refusal) and first.reason in str(error.value)
