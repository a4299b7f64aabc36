"""Contact sheets, the page and its server: what they say against Pillow, SciPy and sums of this file's own."""

from __future__ import annotations

import base64
import dataclasses
import http.client
import io
import json
import re
import shutil
import subprocess
import tarfile
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from conftest import encode_jpeg, picture
from fontTools.ttLib import TTFont
from PIL import Image, ImageColor, ImageFont
from scipy.special import entr, rel_entr
from stores import s3_server
from test_label_maps import CLASSES, random_map, reference, samples_of, write
from test_store_cache import BUCKET, upload

import dali_dr
from dali_dr.augment.draw import draw
from dali_dr.augment.operations import OP_NAMES
from dali_dr.augment.reference import replay_pillow
from dali_dr.augment.spec import AugmentationSpec
from dali_dr.cli import main
from dali_dr.errors import DaliDrError
from dali_dr.preview import contact_sheet, lettering, page, save_contact_sheet, sheet
from dali_dr.preview.facts import FACTS, Reader, details, divergence, mean_of, sampled
from dali_dr.preview.maps import leading
from dali_dr.preview.names import names_of
from dali_dr.preview.page import assets, sizes_for, write_page
from dali_dr.preview.replayed import Replayer, Wanted, spread
from dali_dr.preview.serve import NotThere, Site, allowed_host, make_server
from dali_dr.preview.sheet import fitted
from dali_dr.preview.stats import Statistics
from dali_dr.record.labels import Reinforcements, densify
from dali_dr.shards.manifest import ImageTar
from dali_dr.shards.sample import Place
from dali_dr.sources.classes import imagenet_classes

IMAGES, VIEWS, TOPK = 20, 6, 4
HOSTILE = '<script>alert("x")</script>'
NAMES = (HOSTILE, "tabby cat", "Zürich café", *(f"class {n}" for n in range(3, CLASSES)))
SPEC = AugmentationSpec.preset("rrc+ra+re", size=64)


def size_of(number: int) -> tuple[int, int]:
    return 90 + 7 * (number % 5), 120 + 11 * (number % 4)


def predictions(random: Any, views: int, classes: int = CLASSES, topk: int = TOPK) -> tuple[np.ndarray, np.ndarray]:
    """ids int32 and probabilities float32 (views, topk), falling, the rest left over."""
    ids = np.stack([random.permutation(classes)[:topk] for _ in range(views)]).astype(np.int32)
    shares = np.sort(random.dirichlet(np.full(topk + 1, 0.4), views), axis=1)[:, :0:-1].astype(np.float32)
    return ids, np.ascontiguousarray(shares)


def samples(spec: AugmentationSpec | None = SPEC, images: int = IMAGES) -> Iterator[dali_dr.Sample]:
    random = np.random.default_rng(5)
    for number in range(images):
        height, width = size_of(number)
        key = f"folder/{'%3Cb%3Eimg' if number == 3 else 'img'}_{number:03d}"
        data, views = encode_jpeg(picture(height, width, number)), None
        if spec is not None:
            more: Any = {} if spec.mixing is None else {"population": images, "partner_size": size_of}
            drawn = draw(spec, seed=1, key=key, views=range(VIEWS), image_height=height, image_width=width, **more)
            ids, shares = predictions(random, VIEWS)
            ids[: number % 3, 0] = -1  # the label, in some views
            for row in range(number % 3):
                ids[row, 1:][ids[row, 1:] == number % CLASSES] = CLASSES - 1 - row
                ids[row, 0] = number % CLASSES
            views = Reinforcements.from_views(drawn, ids, shares)
        yield dali_dr.Sample(key, data, number % CLASSES, views)


def make(out: Path, spec: AugmentationSpec | None = SPEC, names: Any = NAMES, **options: Any) -> dali_dr.Dataset:
    options = {"num_classes": CLASSES, "class_names": names, "progress": False, "samples_per_shard": 7} | options
    dali_dr.write_shards(options.pop("samples", samples(spec)), out, spec=spec, **options)
    return dali_dr.Dataset(out)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> dali_dr.Dataset:
    return make(tmp_path_factory.mktemp("views") / "set")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dali_dr.Dataset:
    return make(tmp_path_factory.mktemp("plain") / "set", None)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> dali_dr.Dataset:
    return make(tmp_path_factory.mktemp("mixed") / "set", AugmentationSpec.preset("rrc+mixing+ra+re", size=64))


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> dali_dr.Dataset:
    images = [encode_jpeg(picture(*size_of(n), n)) for n in range(5)]
    return write(tmp_path_factory.mktemp("maps") / "set", samples_of(images))


# ---- pieces


def test_spread_takes_each_once() -> None:
    for count in range(1, 30):
        for wanted in range(1, 34):
            found = spread(count, wanted)
            assert len(found) == len(set(found)) == min(count, wanted) and found == sorted(found)
            assert found[0] == 0 and (wanted == 1 or found[-1] == count - 1)
    assert len(sampled(1_281_167, 10_000)) == 10_000 and len(sampled(5, None)) == 5


def test_captions_fit() -> None:
    def length(text: str) -> float:
        return 7.0 * len(text)

    text = "n01440764/a very long key, of which the end tells more.42"
    for width in range(8, 450, 13):
        found = fitted(text, width, length)
        assert length(found) <= width or len(found) == 1
        if found != text and len(found) > 6:
            before, _, after = found.partition("…")
            assert text.startswith(before) and text.endswith(after) and after
    assert fitted(text, 1000, length) == text
    assert fitted("a\x1b[31m", 1000, length) == "a\\x1b[31m"


@pytest.mark.parametrize(("views", "topk", "outputs"), [(1, 4, 9), (7, 4, 60), (9, 5, 5), (3, 1, 1000), (4, 2, 3)])
def test_divergence_is_the_mean_kl_to_the_mean(views: int, topk: int, outputs: int) -> None:
    random = np.random.default_rng(views)
    for _ in range(20):
        ids, shares = predictions(random, views, outputs, topk)
        if topk == outputs:
            shares /= shares.sum(axis=1, keepdims=True)
        dense = densify(ids, shares.astype(np.float64), outputs)
        dense /= dense.sum(axis=1, keepdims=True)
        mean = dense.mean(axis=0)
        want = rel_entr(dense, mean).sum(axis=1).mean()
        assert divergence(ids, shares, outputs) == pytest.approx(want, rel=1e-9, abs=1e-12)
        assert -1e-12 <= want <= np.log(views) + 1e-12
        classes, shown = mean_of(ids, shares, outputs)
        assert np.allclose(shown, densify(ids, shares.astype(np.float64), outputs).mean(axis=0)[classes], atol=1e-9)
    same = np.repeat(ids[:1], views, axis=0), np.repeat(shares[:1], views, axis=0)
    assert divergence(*same, outputs) == pytest.approx(0, abs=1e-12)


def test_facts(dataset: dali_dr.Dataset) -> None:
    reader = Reader(dataset, 3, True)
    for number in range(len(dataset)):
        read = reader.read(number)
        views = dataset.reinforcements(number)
        dense = densify(views.soft_ids, views.soft_probs.astype(np.float64), CLASSES)
        facts = read.facts
        assert facts["teacher"] == dense.mean(axis=0).argmax()
        assert facts["confidence"] == pytest.approx(dense.max(axis=1).mean(), rel=1e-6)
        dense /= dense.sum(axis=1, keepdims=True)
        assert facts["entropy"] == pytest.approx(entr(dense).sum(axis=1).mean(), rel=1e-5)
        assert facts["agreement"] == pytest.approx((dense.argmax(axis=1) == dataset.label(number)).mean())
        assert (facts["height"], facts["width"]) == size_of(number) and facts["views"] == VIEWS
        assert facts["record_bytes"] == len(dataset.record_bytes(number))
        assert facts["image_bytes"] == len(dataset.image(number))
        told = details(read, dataset.manifest.spec)["views"]
        assert [view["row"] for view in told] == list(read.rows) == [0, 2, 5]
        for view, row in zip(told, read.rows, strict=True):
            assert view["box"] == views.crop[row].tolist() and view["flip"] == views.flip[row]
            assert [number for number, _ in view["classes"]] == views.soft_ids[row].tolist()


def test_box_of_a_fixed_resize(tmp_path: Path) -> None:
    spec = AugmentationSpec.preset("crop+flip", size=64)
    dataset = make(tmp_path / "set", spec)
    for number in range(len(dataset)):
        image = Image.open(io.BytesIO(dataset.image(number))).convert("RGB")
        views = dataset.reinforcements(number)
        for view in details(Reader(dataset, VIEWS, True).read(number), spec)["views"]:
            top, left, height, width = view["box"]
            assert top >= 0 and left >= 0 and top + height <= image.height + 0.2 and left + width <= image.width + 0.2
            cut = image.resize((64, 64), Image.Resampling.BILINEAR, (left, top, left + width, top + height))
            seen = replay_pillow(image, views, view["row"], spec)
            shown = np.asarray(cut)[:, ::-1] if view["flip"] else np.asarray(cut)
            assert np.abs(shown.astype(int) - seen).mean() < 4  # a shift by a pixel makes it some 10


def test_views_are_those_of_training(dataset: dali_dr.Dataset) -> None:
    replayer = Replayer(dataset, images=8, views=VIEWS, threads=2)
    for start in (0, 8, 3):  # a pipeline that is used again, with other numbers of views
        numbers = range(start, min(start + 8, len(dataset)))
        rows = [list(range(1 + number % VIEWS)) for number in numbers]
        wanted = [
            Wanted(number, dataset.image(number), dataset.reinforcements(number).take(row))
            for number, row in zip(numbers, rows, strict=True)
        ]
        for number, row, pixels in zip(numbers, rows, replayer.replay(wanted), strict=True):
            image = Image.open(io.BytesIO(dataset.image(number)))
            want = [replay_pillow(image, dataset.reinforcements(number), one, SPEC) for one in row]
            assert np.array_equal(pixels, np.stack(want))


@pytest.mark.parametrize("order", ["code", "transposed"])
def test_maps_lie_as_training_lays_them(order: Any) -> None:
    scores, ids = random_map(1)
    quarter = np.repeat(np.repeat(np.array([[0, 1], [2, 3]]), 8, 0), 8, 1)[:15, :15]
    ids[0], ids[1:] = quarter, np.arange(10, 14)[:, None, None]
    scores[0], scores[1:] = 9, 0
    cells = leading(scores, ids, order)
    size = (300, 450)
    for y, x in ((0.2, 0.2), (0.2, 0.8), (0.8, 0.2), (0.8, 0.8)):
        box = np.array([[(y - 0.05) * size[0], (x - 0.05) * size[1], 0.1 * size[0], 0.1 * size[1]]])
        target = reference(scores, ids, box, size, order)
        assert cells[int(y * 15), int(x * 15)] == target[0].argmax()


def test_statistics(dataset: dali_dr.Dataset, mixed: dali_dr.Dataset) -> None:
    for one in (dataset, mixed):
        names = names_of(one)
        reader = Reader(one, 2, names.comparable)
        statistics = Statistics(one, reader, names)
        views = [one.reinforcements(number) for number in range(len(one))]
        for number in range(len(one)):
            statistics.add(reader.read(number))
        plots = {plot["name"]: plot for plot in statistics.plots()}
        assert sum(plots["confidence"]["counts"]) == sum(plots["area"]["counts"]) == len(one) * VIEWS
        confident = np.concatenate([v.soft_probs[:, 0] for v in views])
        want, _ = np.histogram(confident, plots["confidence"]["edges"])
        assert plots["confidence"]["counts"] == want.tolist()
        ops = np.bincount(np.concatenate([v.ops.ravel() for v in views]))
        assert sorted(count for _, count, _ in plots["ops"]["rows"]) == sorted(ops[ops > 0].tolist())
        areas = [c[2] * c[3] / np.prod(size_of(n)) for n, v in enumerate(views) for c in v.crop.tolist()]
        assert plots["area"]["counts"] == np.histogram(areas, plots["area"]["edges"])[0].tolist()
        assert [count for _, count, _ in plots["classes"]["rows"]] == [1] * IMAGES
        shares = [share for _, share, _ in plots["agreement"]["rows"]]
        assert shares == sorted(shares) and json.dumps(statistics.plots())
    label = mixed.labels[views[0].mix.partner.clip(0)]
    agree = (views[0].soft_ids[:, 0] == mixed.label(0)) | (
        (views[0].soft_ids[:, 0] == label) & (views[0].mix.partner >= 0)
    )
    assert reader.read(0).facts["agreement"] == pytest.approx(agree.mean())


def test_statistics_of_a_fixed_resize(tmp_path: Path) -> None:
    spec = AugmentationSpec.preset("crop+flip", size=64)
    one = make(tmp_path / "set", spec)
    reader = Reader(one, 2, True)
    statistics = Statistics(one, reader, names_of(one))
    areas = []
    for number in range(len(one)):
        statistics.add(reader.read(number))
        height, width = size_of(number)
        resized = [spec.crop.resize * side // min(height, width) for side in (height, width)]
        areas += [64 * 64 / (resized[0] * resized[1])] * VIEWS
    plots = {plot["name"]: plot for plot in statistics.plots()}
    assert "WindowTop" in OP_NAMES and not [name for name in plots if "Window" in name or name == "ops"]
    assert max(areas) < 0.9 and len(set(areas)) > 3
    assert plots["area"]["counts"] == np.histogram(areas, np.linspace(0, 1, 25))[0].tolist()
    edges, counts = plots["aspect"]["edges"], plots["aspect"]["counts"]
    assert sum(counts) == len(areas)
    assert all(0.94 < edge < 1.07 for n, edge in enumerate(edges) if n and n < 24 and counts[n] and counts[n - 1])
    assert sum(counts[11:13]) == len(areas)  # square, give or take a rounded side


# ---- names


def named(out: Path, names: Any, classes: int = 1000, keys: Any = None) -> dali_dr.Dataset:
    data = encode_jpeg(picture(40, 40, 1))
    keys = keys or [f"img{n}" for n in range(4)]
    dali_dr.write_shards(
        [dali_dr.Sample(key, data, n) for n, key in enumerate(keys)], out, spec=None, num_classes=classes,
        class_names=names, progress=False, check_images=False,
    )  # fmt: skip
    return dali_dr.Dataset(out)


def test_names_of_a_teacher_of_more_classes(tmp_path: Path) -> None:
    synsets, words = imagenet_classes()
    more = [f"teacher class {n}" for n in range(5, 1000)]
    flowers = names_of(named(tmp_path / "a", ["daisy", "dandelion", "roses", "sunflowers", "tulips", *more]))
    assert flowers.output(985) == words[985] == "daisy" and flowers.label(0) == "daisy"
    assert flowers.output(0) == "tench" and not flowers.comparable and "not compared" in flowers.note
    for first in (synsets[:5], words[:5]):
        same = names_of(named(tmp_path / f"b{first[0]}", [*first, *more]))
        assert same.comparable and same.label(3) == same.output(3) == words[3] and not same.note


def test_names_where_a_set_has_none(tmp_path: Path) -> None:
    synsets, words = imagenet_classes()
    told = names_of(named(tmp_path / "a", None, keys=[f"{synset}/img_{n}" for n, synset in enumerate(synsets[:4])]))
    assert told.label(2) == words[2]
    other = [f"{synset}_{n}" for n, synset in enumerate(synsets[1:5])]
    assert names_of(named(tmp_path / "b", None, keys=other)).label(2) == "class 2"
    assert names_of(named(tmp_path / "c", list(synsets))).output(999) == words[999]


def test_names_send_nothing(tmp_path: Path) -> None:
    """Controls and what turns the direction of text round are shown: in the page, in the server's, on the sheet."""
    sent = ["cat\u202egnp.exe", "a\x1b[31mdog\nline", "b\u2066\x85", "плюс"]
    one = named(tmp_path / "set", sent, 4)
    names = names_of(one)
    assert list(names.labels) == ["cat\\u202egnp.exe", "a\\x1b[31mdog\\x0aline", "b\\u2066\\x85", "плюс"]
    write_page(one, tmp_path / "p.html", names=names, progress=False)
    text = inflated(blocks((tmp_path / "p.html").read_text())["set"]).decode()
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text) and "плюс" in text
    drawn: list[str] = []
    real = sheet.fitted

    def kept(text: str, width: float, length: Any, between: str) -> str:
        drawn.append(text)
        return real(text, width, length, between)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sheet, "fitted", kept)
        contact_sheet(one, range(3))
    assert "label: cat\\u202egnp.exe" in drawn and all(text.isprintable() for text in drawn)


def test_two_classes_and_a_teacher_of_a_thousand(tmp_path: Path, capsys: Any) -> None:
    more = [f"teacher class {n}" for n in range(2, 1000)]
    random = np.random.default_rng(1)
    made = []
    for number, sample in enumerate(samples(images=4)):
        ids, shares = predictions(random, VIEWS, 1000)
        views = Reinforcements.from_views(sample.reinforcements, ids, shares)
        made.append(dataclasses.replace(sample, label=number % 2, reinforcements=views))
    teacher = {"names": ["resnet50"]}
    one = make(tmp_path / "set", names=["cats", "dogs", *more], num_classes=1000, samples=made, teacher=teacher)
    assert one.manifest.image_classes == 2
    assert main(["info", str(one.path)]) == 0
    told = dict(line.split("  ", 1) for line in map(str.strip, capsys.readouterr().out.splitlines()))
    assert told["classes"] == "2, the teacher has 1000 outputs" and "teacher outputs" not in told
    assert main(["info", str(one.path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["image_classes"], facts["teacher_outputs"], facts["classes"]) == (2, 1000, 1000)
    write_page(one, tmp_path / "p.html", names=names_of(one), progress=False)
    about = json.loads(inflated(blocks((tmp_path / "p.html").read_text())["set"]))
    assert (about["image_classes"], about["outputs"]) == (2, 1000)
    assert "2 of 2 classes have some" in next(plot["title"] for plot in about["plots"] if plot["name"] == "classes")


def test_names_of_a_file(tmp_path: Path) -> None:
    dataset = named(tmp_path / "set", None, 4)
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\nfour\n")
    assert list(names_of(dataset, tmp_path / "names.txt").labels) == ["one", "two", "three", "four"]
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    with pytest.raises(DaliDrError, match=r"names\.txt: names 2 classes, .* has 4"):
        names_of(dataset, tmp_path / "names.txt")
    assert main(["preview", str(tmp_path / "set"), "--html", str(tmp_path / "p.html"), "--class-names", "none"]) == 2


def test_names_of_a_file_leave_what_is_comparable(tmp_path: Path) -> None:
    more = [f"teacher class {n}" for n in range(2, 1000)]
    own, file = named(tmp_path / "a", ["cats", "dogs", *more]), tmp_path / "names.txt"
    words = imagenet_classes()[1]
    file.write_text("my cat\nmy dog\n")
    told = names_of(own, file)
    assert (told.label(0), told.label(1), told.output(1)) == ("my cat", "my dog", words[1])
    assert not told.comparable and told.note == names_of(own).note and len(told.labels) == 1000
    file.write_text("".join(f"output of mine {n}\n" for n in range(1000)))
    told = names_of(own, file)
    assert (told.label(0), told.label(1), told.output(1)) == ("cats", "dogs", "output of mine 1")
    assert not told.comparable and "ImageNet" not in told.note and "not compared" in told.note
    file.write_text("one\ntwo\nthree\n")
    with pytest.raises(DaliDrError, match=r"names 3 classes, .* has 2 and its teacher 1000 outputs"):
        names_of(own, file)
    same = named(tmp_path / "b", [*words[:2], *more])
    file.write_text("fish\ngoldfish of mine\n")
    told = names_of(same, file)
    assert told.comparable and told.label(1) == told.output(1) == "goldfish of mine" and told.output(5) == words[5]


# ---- the sheet


def test_sheets_of_all_kinds(
    dataset: dali_dr.Dataset, plain: dali_dr.Dataset, mixed: dali_dr.Dataset, mapped: dali_dr.Dataset
) -> None:
    cell = sheet.TILE + 8
    for one, samples, columns, rows in ((dataset, 3, 4, 3), (mixed, 2, 4, 2), (plain, 6, 4, 2), (mapped, 3, 2, 3)):
        drawn = contact_sheet(one, range(samples), 3)
        assert drawn.width == columns * cell + 8 and drawn.height == rows * (cell + 8 + 45) + 8
    drawn = contact_sheet(dataset, [4], 3)
    pixels = np.asarray(drawn)[8 : 8 + 224, 8 + cell : 8 + cell + 224]
    image = Image.open(io.BytesIO(dataset.image(4)))
    want = Image.fromarray(replay_pillow(image, dataset.reinforcements(4), 0, SPEC)).resize((224, 224))
    assert np.array_equal(pixels, np.asarray(want))
    with pytest.raises(DaliDrError, match="nothing to draw"):
        contact_sheet(dataset, [], 3)
    with pytest.raises(DaliDrError, match="too large"):
        contact_sheet(dataset, [0] * 80, 1)


def test_no_view_is_drawn_twice(dataset: dali_dr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = Replayer.replay_each
    monkeypatch.setattr(Replayer, "replay_each", lambda self, want: (asked.append(want.views), real(self, want))[1])
    for views in range(1, VIEWS + 3):
        contact_sheet(dataset, [0], views)
    assert all(len({row.tobytes() for row in views.pack()}) == len(views) for views in asked)
    assert len(asked) == VIEWS + 2 and len(asked[-1]) == VIEWS


def test_captions_say_names_and_stay_in_their_columns(
    dataset: dali_dr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[tuple[str, float]] = []
    real = sheet.fitted

    def kept(text: str, width: float, length: Any, between: str) -> str:
        found = real(text, width, length, between)
        lines.append((found, length(found)))
        return found

    monkeypatch.setattr(sheet, "fitted", kept)
    contact_sheet(dataset, [1], 2)
    assert all(width <= sheet.TILE for _, width in lines)
    assert any(line == "label: tabby cat" for line, _ in lines)


def test_letters_that_fonts_have_and_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    """A font that has a letter is one whose table of characters says so (fontTools reads it)."""
    monkeypatch.setattr(lettering, "FONTS", ())
    assert lettering.lettered("a cat, 3 %")[0] == "a cat, 3 %"
    assert lettering.lettered("猫 a😀\x1b")[0] == "\\u732b a\\U0001f600\\x1b"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    table = TTFont(path).getBestCmap()
    monkeypatch.setattr(lettering, "FONTS", ("no such font.ttf", str(path)))
    text = "Zürich Кот γάτα 猫 한 ½ ≠ 😀"
    found, font = lettering.lettered(text)
    assert Path(font.path) == path
    for letter in text:
        escaped = f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08x}"
        assert (ord(letter) in table) == (letter in found) == (escaped not in found), letter
    assert isinstance(lettering.lettered("plain")[1], ImageFont.FreeTypeFont) and "\\u" in found
    assert lettering.dots(font) == "…" and set(lettering.dots(lettering.lettered("plain")[1])) <= {"…", "."}


@pytest.mark.parametrize("name", ["sheet.tsv", "sheet", "sheet.pdf", "sheet.png.txt"])
def test_unknown_suffixes_come_first(name: str, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:  # the set is not even there
        main(["preview", str(tmp_path / "no set"), "--out", str(tmp_path / name)])
    assert ended.value.code == 2
    assert f"{name}: a contact sheet is a picture: want one of .png, .jpg, .jpeg, .webp" in capsys.readouterr().err


def test_sheets_are_written_whole(dataset: dali_dr.Dataset, tmp_path: Path) -> None:
    for suffix in (".png", ".JPG", ".webp"):
        save_contact_sheet(dataset, tmp_path / f"a{suffix}", rows=1, views=1)
        with Image.open(tmp_path / f"a{suffix}") as drawn:
            assert drawn.format == {".png": "PNG", ".JPG": "JPEG", ".webp": "WEBP"}[suffix]
    with pytest.raises(DaliDrError, match="cannot be written"):
        save_contact_sheet(dataset, tmp_path / "no folder" / "a.png", rows=1, views=1)
    assert len(list(tmp_path.iterdir())) == 3


# ---- the page


def blocks(text: str) -> dict[str, str]:
    return dict(
        re.findall(r'<script type="application/octet-stream" id="([a-z0-9-]+)">([A-Za-z0-9+/= ]*)</script>', text)
    )


def inflated(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def test_page_holds_what_the_set_holds(dataset: dali_dr.Dataset, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    made = write_page(dataset, path, names=names_of(dataset), views=4, progress=False)
    text = path.read_text()
    assert made == {"images": IMAGES, "of": IMAGES, "views": 4, "bytes": path.stat().st_size, "damaged": {}}
    assert list(tmp_path.iterdir()) == [path]
    found = blocks(text)
    about = json.loads(inflated(found["set"]))
    assert about["keys"] == list(dataset.keys) and about["labels"] == list(NAMES) and about["kind"] == "views"
    rows = np.frombuffer(inflated(found["facts"]), FACTS)
    reader = Reader(dataset, 4, True)
    assert rows.tobytes() == b"".join(reader.read(n).facts.tobytes() for n in range(IMAGES))
    assert [name for name in found if name.startswith("chunk")] == ["chunk-0", "chunk-1"]
    told, images, views = found["chunk-1"].split(" ")
    one = json.loads(inflated(told))[2]  # image 18
    sheet_of_views = Image.open(io.BytesIO(base64.b64decode(views)))
    edge = about["sizes"]["view"]
    image = Image.open(io.BytesIO(dataset.image(18)))
    for place, view in enumerate(one["views"]):
        place += one["at"]
        across = sheet_of_views.width // edge
        left, top = place % across * edge, place // across * edge
        seen = np.asarray(sheet_of_views.convert("RGB"))[top : top + 64, left : left + 64].astype(int)
        want = replay_pillow(image, dataset.reinforcements(18), view["row"], SPEC)
        assert np.abs(seen - want).mean() < 14  # WebP; another view differs by some 60
    assert one["thumb"] == [142, 111] == [*reversed(size_of(18))]
    assert Image.open(io.BytesIO(base64.b64decode(images))).width >= 2 * about["sizes"]["image"]


def test_page_asks_for_nothing_and_escapes(dataset: dali_dr.Dataset, tmp_path: Path) -> None:
    folder = tmp_path / HOSTILE.replace("/", "_")
    shutil.copytree(dataset.path, folder)
    path = tmp_path / "page.html"
    write_page(dali_dr.Dataset(folder), path, names=names_of(dataset), images=4, views=2, progress=False)
    text = path.read_text()
    markup = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", text, flags=re.S)
    assert "<script" not in markup and "alert" in markup and "&lt;script&gt;" in markup  # the title
    assert re.findall(r'(?:src|href)="([^"]*)"', markup) == ["data:,"] and "http" not in markup.replace(
        "http-equiv", ""
    )
    assert "default-src &#x27;none&#x27;" in text and "unsafe" not in text
    _, script = assets()
    assert text.count(f"<script>{script}</script>") == 1 and "</script" not in script and "innerHTML" not in script
    assert "4 of" not in markup and json.loads(inflated(blocks(text)["set"]))["of"] == IMAGES


def test_pages_of_other_sets(
    plain: dali_dr.Dataset, mixed: dali_dr.Dataset, mapped: dali_dr.Dataset, tmp_path: Path
) -> None:
    for one, kind in ((plain, "plain"), (mixed, "views"), (mapped, "maps")):
        path = tmp_path / f"{kind}.html"
        write_page(one, path, names=names_of(one), views=3, progress=False)
        found = blocks(path.read_text())
        about, told = json.loads(inflated(found["set"])), json.loads(inflated(found["chunk-0"].split(" ")[0]))
        assert about["kind"] == kind and len(told) == min(16, len(one))
        if kind == "views":
            partners = [view["mix"]["partner"] for image in told for view in image["views"] if "mix" in view]
            stored = [n for i in range(16) for n in mixed.reinforcements(i).mix.partner[[0, 2, 5]].tolist() if n != -1]
            assert partners == [None if n == -2 else n for n in stored] and partners
        if kind == "maps":
            scores, ids = random_map(0)
            best = np.take_along_axis(ids, scores.argmax(0)[None], 0)[0]
            assert told[0]["map"] == best.T.tolist()
            facts = np.frombuffer(inflated(found["facts"]), FACTS)[0]
            assert facts["confidence"] == pytest.approx(np.bincount(best.ravel()).max() / 225)


def test_page_of_a_set_in_a_store(dataset: dali_dr.Dataset, tmp_path: Path) -> None:
    with s3_server() as server:
        server.bucket(BUCKET)
        words = ["preview", upload(server, dataset.path, "set"), "--cache", str(tmp_path / "cache"), "--views", "3"]
        assert main([*words, "--html", str(tmp_path / "store.html"), "--out", str(tmp_path / "s.png"), "--quiet"]) == 0
    write_page(dataset, tmp_path / "folder.html", names=names_of(dataset), views=3, progress=False)
    there, here = (blocks((tmp_path / name).read_text()) for name in ("store.html", "folder.html"))
    assert there.keys() == here.keys() and all(there[name] == here[name] for name in here if name != "set")
    assert json.loads(inflated(there["set"]))["title"] == f"s3://{BUCKET}/set"


def test_page_of_images_beside_their_records(tmp_path: Path) -> None:
    """A sidecar set: its images are in a tar that nobody rewrites."""
    given = list(samples())
    places = []
    with tarfile.open(tmp_path / "images.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in given:
            member = tarfile.TarInfo(f"{sample.key}.jpg")
            member.size = len(sample.image_bytes)
            tar.addfile(member, io.BytesIO(sample.image_bytes))
            places.append(Place(0, tar.offset - -(-member.size // 512) * 512))
    held = [dataclasses.replace(sample, place=place) for sample, place in zip(given, places, strict=True)]
    one = make(
        tmp_path / "set", samples=held, image_tars=[ImageTar("../images.tar", (tmp_path / "images.tar").stat().st_size)]
    )
    assert one.manifest.image_tars
    write_page(one, tmp_path / "p.html", names=names_of(one), views=2, progress=False)
    found = blocks((tmp_path / "p.html").read_text())
    assert np.frombuffer(inflated(found["facts"]), FACTS)["image_bytes"].tolist() == [len(s.image_bytes) for s in given]


def test_page_that_fails_leaves_nothing(
    dataset: dali_dr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out" / "page.html"
    path.parent.mkdir()
    path.write_text("the page of before")
    for error in (KeyboardInterrupt, DaliDrError):

        def fail(*_: Any, error: Any = error) -> Any:
            raise error("now")

        with monkeypatch.context() as patched:
            patched.setattr(page.Statistics, "add", fail)
            with pytest.raises(error):
                write_page(dataset, path, names=names_of(dataset), progress=False)
        assert [p.read_text() for p in path.parent.iterdir()] == ["the page of before"]


def damage(dataset: dali_dr.Dataset, out: Path, number: int = 2, what: Any = "image") -> dali_dr.Dataset:
    """A copy in which a byte of a sample's image or record is another."""
    shutil.copytree(dataset.path, out)
    place, at = dali_dr.Dataset(out).place_of(number, what)
    data = bytearray(place.read_bytes())
    data[at + 20] ^= 255
    place.write_bytes(data)
    return dali_dr.Dataset(out)


def test_a_damaged_image_has_a_card_that_says_it(
    dataset: dali_dr.Dataset, plain: dali_dr.Dataset, mixed: dali_dr.Dataset, tmp_path: Path, capsys: Any
) -> None:
    for n, one in enumerate((dataset, plain, mixed)):
        broken = damage(one, tmp_path / f"set{n}")
        key, out, html = broken.keys[2], tmp_path / f"{n}.png", tmp_path / f"{n}.html"
        words = ["preview", str(broken.path), "--out", str(out), "--rows", "20", "--html", str(html)]
        words += ["--views", "6" if one is mixed else "2"]
        assert main([*words, "--quiet", "--json"]) == 0
        printed = capsys.readouterr()
        told = json.loads(printed.out)
        assert "CRC-32C" in told["damaged"][key] and "dali-dr: note: " in printed.err and key in printed.err
        views: set[tuple[int, int]] = set()  # of other images, that show the damaged one
        if one is mixed:
            partners = {n: one.reinforcements(n).mix.partner for n in range(IMAGES) if n != 2}
            views = {(n, row) for n, whom in partners.items() for row in range(VIEWS) if whom[row] == 2}
            assert views
        assert set(told["damaged"]) == {broken.keys[2]} | {f"{broken.keys[n]}, view {row}" for n, row in views}
        found = blocks(html.read_text())
        said = [one for c in ("chunk-0", "chunk-1") for one in json.loads(inflated(found[c].split(" ")[0]))]
        assert [n for n, one in enumerate(said) if "error" in one] == [2]
        faults = {(n, v["row"]): v["error"] for n, one in enumerate(said) for v in one["views"] if "error" in v}
        assert faults.keys() == views and all(key in fault and "CRC-32C" in fault for fault in faults.values())
        assert "CRC-32C" in said[2]["error"] and html.stat().st_size == told["html"]["bytes"]
        facts = np.frombuffer(inflated(found["facts"]), FACTS)
        assert facts["label"].tolist() == list(one.labels) and np.isnan(facts["confidence"][2])
        if one is not plain:
            plots = json.loads(inflated(found["set"]))["plots"]
            assert sum(plots[0]["counts"]) == VIEWS * (IMAGES - 1)
        assert Image.open(out).size[1] > 1000
    assert main([*words, "--quiet"]) == 0
    assert f"images or views that cannot be shown: {len(told['damaged'])}\n" in capsys.readouterr().out


def test_views_beside_one_whose_partner_is_damaged(mixed: dali_dr.Dataset, tmp_path: Path) -> None:
    partners = {n: mixed.reinforcements(n).mix.partner for n in range(IMAGES)}
    number = next(n for n, whom in partners.items() if n != 2 and 2 in whom and (whom != 2).any())
    places = np.flatnonzero(partners[number] == 2).tolist()
    broken = damage(mixed, tmp_path / "set")
    want = Wanted(number, mixed.image(number), mixed.reinforcements(number))
    whole, none = Replayer(mixed, images=1, views=VIEWS, threads=1).replay_each(want)
    pixels, faults = Replayer(broken, images=1, views=VIEWS, threads=1).replay_each(want)
    assert not none and list(faults) == places
    for place in range(VIEWS):
        assert np.array_equal(pixels[place], whole[place]) != (place in places)
    site = Site(broken, names_of(broken), VIEWS)
    told = json.loads(site.answer(f"/sample/{number}", "")[1])
    assert "error" not in told and [n for n, view in enumerate(told["views"]) if "error" in view] == places
    with pytest.raises(NotThere):
        site.answer(f"/view/{number}/{places[0]}", "")
    drawn = np.asarray(contact_sheet(broken, [number], VIEWS))
    for place in range(VIEWS):  # a tile that says it begins with its colour
        left = 8 + (place + 1) * (sheet.TILE + 8)
        assert (tuple(drawn[8, left]) == ImageColor.getrgb("mistyrose")) == (place in places)


def test_an_image_that_no_decoder_reads(tmp_path: Path) -> None:
    """Its bytes are as they were stored, so no check sum says it; DALI's pipeline is not what stumbles over it."""
    given = list(samples())
    given[4] = dataclasses.replace(given[4], image_bytes=given[4].image_bytes[: len(given[4].image_bytes) // 2])
    one = make(tmp_path / "set", samples=given, check_images=False)
    made = write_page(one, tmp_path / "p.html", names=names_of(one), views=2, progress=False)
    assert list(made["damaged"]) == [one.keys[4]] and "cannot be decoded" in made["damaged"][one.keys[4]]
    assert list(save_contact_sheet(one, tmp_path / "s.png", rows=20, views=2)) == [one.keys[4]]
    replayer = Replayer(one, images=1, views=VIEWS, threads=1)
    with pytest.raises(DaliDrError, match="cannot be shown"):
        replayer.replay([Wanted(4, one.image(4)[:300], one.reinforcements(4))])
    (pixels,) = replayer.replay([Wanted(5, one.image(5), one.reinforcements(5))])
    image = Image.open(io.BytesIO(one.image(5)))
    assert np.array_equal(pixels[1], replay_pillow(image, one.reinforcements(5), 1, SPEC))


def test_where_nothing_can_be_shown(plain: dali_dr.Dataset, tmp_path: Path) -> None:
    broken = damage(plain, tmp_path / "set", 0)
    with pytest.raises(DaliDrError, match="CRC-32C"):
        write_page(broken, tmp_path / "p.html", names=names_of(broken), images=1, progress=False)
    with pytest.raises(DaliDrError, match="CRC-32C"):
        save_contact_sheet(broken, tmp_path / "s.png", rows=1, views=0)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_sizes_fit_the_budget() -> None:
    assert sizes_for(100, 8).view == 160 and sizes_for(10_000, 8).view == 64
    areas = [sizes_for(images, 8).view for images in (10, 1000, 3000, 10_000, 100_000)]
    assert areas == sorted(areas, reverse=True)


def test_command(dataset: dali_dr.Dataset, tmp_path: Path, capsys: Any) -> None:
    out, html = str(tmp_path / "s.png"), str(tmp_path / "p.html")
    words = ["preview", str(dataset.path), "--out", out, "--html", html, "--views", "2", "--images", "5", "--quiet"]
    assert main(words) == 0
    assert "5 images of 20, spread evenly" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sheet"] == out and told["html"]["images"] == 5 and told["html"]["bytes"] == Path(html).stat().st_size
    for wrong, what in (
        ([], "want --out PICTURE, --html FILE or --serve"),
        (["--html", "page.png"], "want .html or .htm"),
        (["--html", str(tmp_path / "none" / "p.html")], "there is no folder"),
        (["--serve", "70000"], "70000 is no port"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["preview", str(dataset.path), *wrong])
        assert ended.value.code == 2 and what in capsys.readouterr().err


def test_scripts_are_sound() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is absent: the page's scripts are not parsed here")
    for path in sorted((Path(page.__file__).parent / "assets").glob("*.js")):
        subprocess.run([node, "--check", str(path)], check=True)


# ---- the server


@pytest.fixture(scope="module")
def server(dataset: dali_dr.Dataset) -> Iterator[int]:
    with make_server(Site(dataset, names_of(dataset), 3), "127.0.0.1", 0) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,))
        thread.start()
        yield made.server_port
        made.shutdown()
        thread.join()


def ask(port: int, path: str, method: str = "GET", host: str | None = None) -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers


def test_server_tells_what_the_set_holds(dataset: dali_dr.Dataset, server: int) -> None:
    status, text, headers = ask(server, "/")
    assert status == 200 and b'id="set"' in text and "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    reader = Reader(dataset, 3, True)
    assert ask(server, "/read/4")[1] == b"".join(reader.read(n).facts.tobytes() for n in range(4, IMAGES))
    rows = np.frombuffer(ask(server, "/index/2")[1], FACTS)
    assert rows["label"].tolist() == dataset.labels[2:].tolist() and np.isnan(rows["confidence"]).all()
    told = json.loads(ask(server, "/sample/3")[1])
    assert told["key"] == dataset.keys[3] and [view["row"] for view in told["views"]] == [0, 2, 5]
    assert ask(server, "/image/3")[1] == dataset.image(3) and ask(server, "/image/3")[2]["Content-Type"] == "image/jpeg"
    view = np.asarray(Image.open(io.BytesIO(ask(server, "/view/3/2")[1])))
    image = Image.open(io.BytesIO(dataset.image(3)))
    assert np.array_equal(view, replay_pillow(image, dataset.reinforcements(3), 2, SPEC))
    assert Image.open(io.BytesIO(ask(server, "/thumb/3")[1])).size == size_of(3)[::-1]
    assert Image.open(io.BytesIO(ask(server, "/views/3")[1])).width == 2 * 128
    found = np.frombuffer(ask(server, "/find?text=IMG_00")[1], np.uint8)
    assert found.tolist() == [int("img_00" in key) for key in dataset.keys]
    for _ in range(100):
        plots = json.loads(ask(server, "/plots")[1])
        if plots["plots"]:
            break
    assert plots["plots"][0]["name"] == "confidence"


def test_server_answers_nothing_else(server: int) -> None:
    for path in (
        "/../dataset.json", "/%2e%2e/dataset.json", "/dataset.json", "/image/20", "/image/-1", "/image/1e1", "/view/3/1",
        "/view/3", "/sample/99999999999999999999", "/image/../image/1", "//etc/passwd", "/find/../x",
        "/image/%D9%A3",
    ):  # fmt: skip
        status, body, _ = ask(server, path)
        assert status == 404 and body == b"there is no such thing", path
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(server, "/", method)[0] == 501
    assert ask(server, "/", "HEAD")[:2] == (200, b"")
    assert ask(server, "http://evil/")[0] == 421
    for host in ("evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "", "["):
        assert ask(server, "/", host=host)[0] in (400, 421), host
    for host in ("localhost", "localhost:1", "127.0.0.1", "[::1]:8042", "192.168.0.7:8042"):
        assert ask(server, "/", host=host)[0] == 200
    assert allowed_host("box.local:80", "box.local") and not allowed_host("box.local", "127.0.0.1")
    assert not allowed_host(None, "127.0.0.1")


def test_server_says_what_it_cannot(dataset: dali_dr.Dataset, server: int, tmp_path: Path) -> None:
    with pytest.raises(DaliDrError, match=r"cannot listen at 127\.0\.0\.1, port"):
        make_server(Site(dataset, names_of(dataset), 3), "127.0.0.1", server)
    shutil.copytree(dataset.path, tmp_path / "set")
    broken = dali_dr.Dataset(tmp_path / "set")
    place, at = broken.place_of(2, "image")
    data = bytearray(place.read_bytes())
    data[at + 100] ^= 255
    place.write_bytes(data)
    with make_server(Site(broken, names_of(broken), 3), "127.0.0.1", 0) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,))
        thread.start()
        status, text, headers = ask(made.server_port, "/thumb/2")
        assert status == 500 and b"CRC-32C" in text and headers["Content-Type"].startswith("text/plain")
        assert ask(made.server_port, "/thumb/1")[0] == 200
        told = json.loads(ask(made.server_port, "/sample/2")[1])
        assert "CRC-32C" in told["error"] and told["key"] == broken.keys[2] and told["views"] == []
        assert len(ask(made.server_port, "/read/0")[1]) == IMAGES * FACTS.itemsize
        made.shutdown()
        thread.join()
