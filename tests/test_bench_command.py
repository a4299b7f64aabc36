"""`dali-dr bench`: what it measures is what it says, in table, JSON and chart; what it cannot measure it says in a line."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, encode_jpeg, picture, write_files
from PIL import Image

from dali_dr import DaliDrError, Dataset, Sample, write_shards
from dali_dr.cli import main
from dali_dr.throughput import chart, compare, photos
from dali_dr.throughput.compare import BY_NAME, DECODE, ROWS, Figures
from dali_dr.throughput.loaders import Settings
from dali_dr.throughput.measure import measure

TINY = ("--seconds", "0.1", "--rounds", "1", "--batch-size", "4", "--threads", "1", "--device", "cpu")
RATES = {
    "ours_rrc": (400.0, 440.0, 390.0), "ours_rrc_ra_re": (300.0, 310.0, 330.0), DECODE: (200.0, 220.0, 210.0),
    "dali_plain": (100.0, 110.0, 90.0), "dali_rand_augment": (50.0, 55.0, 60.0),
    "torchvision_plain": (40.0, 40.0, 42.0), "torchvision_ra_re": (20.0, 22.0, 21.0),
}  # fmt: skip


def encoded(form: str, number: int) -> bytes:
    Image.fromarray(picture(90 + number, 120, number)).save(buffer := io.BytesIO(), form)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos at several depths, one of which is none."""
    files = {f"{'a/b/' * (i % 2)}IMG {i}.JPG": encode_jpeg(picture(100 + i, 140, i)) for i in range(3)}
    return write_files(tmp_path_factory.mktemp("photos"), {**files, "notes.txt": b"x", "b/broken.jpg": b"\xff\xd8no"})


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nothing is measured: rows have the rates of RATES, round by round."""
    asked: list[str] = []

    def rate(name: str, *_: Any) -> float:
        asked.append(name)
        return RATES[name][asked.count(name) - 1]

    monkeypatch.setattr(compare, "in_fresh_process", rate)
    return asked


def test_it_measures_and_says_what_came_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tuple(BY_NAME[name] for name in ("ours_rrc_ra_re", "dali_plain"))
    monkeypatch.setattr(compare, "ROWS", few)
    assert (
        main(["bench", str(folder), *TINY, "--out", str(tmp_path / "c.png"), "--json", "--scratch", str(tmp_path)]) == 0
    )
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert set(report["rates"]) == {row.name for row in few} and not report["left_out"]
    assert all(one["median"] > 0 for one in report["rates"].values())
    assert report["settings"]["images"] == 3 and report["settings"]["repeats"] == 2  # four files, eight images wanted
    assert any(
        note.startswith("1 images cannot be trained on, the first one: b/broken.jpg: ") for note in report["notes"]
    )
    assert str(tmp_path) in said.err and re.search(r"up to \d+ MiB", said.err) and "\r" not in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["c.png"], "what was written for a while is gone"
    assert Image.open(tmp_path / "c.png").width > 1000


def test_every_loader_takes_every_kind_of_photo(tmp_path: Path) -> None:
    forms = ("PNG", "WEBP", "JPEG")
    names = {f"{i}.{form.lower()}": encoded(form, i) for i, form in enumerate(forms)}
    found = photos.find_photos(write_files(tmp_path / "in", names))
    (tmp_path / "sets").mkdir()
    written = photos.write_sets(found, tmp_path / "sets", 2)
    assert written.images == len(forms) and not written.refused
    for row in ROWS:
        rate = measure(row.build, tmp_path / "sets", Settings(threads=1, batch_size=2, seconds=0.05))
        assert rate > 0, row.name


def test_loaders_read_the_photos_that_were_given(folder: Path, tmp_path: Path) -> None:
    found = photos.find_photos(folder)
    assert found.found == 4 and len(found.images) == 4
    files = {path.read_bytes() for path in folder.rglob("*.JPG")}
    assert {data for _, data, _ in found.images} == files | {(folder / "b" / "broken.jpg").read_bytes()}
    written = photos.write_sets(found, tmp_path, 4)
    originals, tiled = Dataset(tmp_path / "original-rrc"), Dataset(tmp_path / "rrc+ra+re")
    assert {bytes(originals.image(i)) for i in range(len(originals))} == files
    assert len(originals) == len(tiled) == 3 * written.repeats
    for i in range(len(tiled)):
        same = originals.find(tiled.keys[i])
        pictures = [np.asarray(Image.open(io.BytesIO(bytes(d)))) for d in (tiled.image(i), originals.image(same))]
        assert np.array_equal(*pictures)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert written.bytes == size <= photos.space_wanted(found, 4)
    assert [one[1] for one in photos.find_photos(folder, most=2).images] == [one[1] for one in found.images[:2]]
    assert len(photos.find_photos(folder, most_bytes=1).images) == 1


def test_a_data_set_is_taken_for_its_images(tmp_path: Path) -> None:
    data = [encode_jpeg(picture(60, 80, i)) for i in range(3)]
    samples = [Sample(str(i), one, 0) for i, one in enumerate(data)]
    write_shards(samples, tmp_path / "set", spec=None, num_classes=1, progress=False, keep_bytes=True)
    found = photos.find_photos(tmp_path / "set")
    assert sorted(one[1] for one in found.images) == sorted(data) and not found.tiled
    write_shards(samples, tmp_path / "tiled", spec=None, num_classes=1, progress=False)
    assert photos.find_photos(tmp_path / "tiled").tiled


def test_table_words_and_ratios_are_of_the_rates(
    folder: Path, measured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(folder), *TINY[:2], "--rounds", "3", "--json", "--quiet"]) == 0
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert said.err == "" and measured == [row.name for row in ROWS] * 3  # in turn within every round
    for pair, ratio in report["ratios"].items():
        a, b = (RATES[name] for name in pair.split("/"))
        assert ratio == round(float(np.median(np.divide(a, b))), 3)
    assert {name: one["median"] for name, one in report["rates"].items()} == {
        name: statistics.median(values) for name, values in RATES.items()
    }
    measured.clear()
    assert main(["bench", str(folder), *TINY[:2], "--rounds", "3"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"dali_dr: crop \+ flip +400 +2\.00", out) and re.search(
        r"stock DALI: crop \+ flip +100 +0\.50", out
    )
    ratios = report["ratios"]
    assert f"feeds {ratios['ours_rrc_ra_re/decode_roi']:.2f} × as many images as stock DALI decodes" in out
    assert f"{ratios['ours_rrc/torchvision_plain']:.1f} × with crop and flip" in out
    assert f"cost {1 - ratios['ours_rrc_ra_re/ours_rrc']:.0%}" in out and "fewer than 310 images per second" in out
    assert "something else is running" not in out


def test_words_where_a_loader_is_not_there_or_slow() -> None:
    slow = Figures({"ours_rrc": (10.0,), "ours_rrc_ra_re": (9.9,), DECODE: (20.0,)}, {"dali_plain": "why"})
    words = " ".join(compare.in_words(slow))
    assert "0.49 ×" in words and "what is lacking to 1" in words and "Decoding is what limits" in words
    assert "Beside" not in words and compare.unsteady(slow) is None
    noisy = Figures({"ours_rrc": (10.0, 30.0)}, {})
    assert "factor of 3.0" in str(compare.unsteady(noisy))


def test_bars_of_the_chart_are_as_long_as_rates_are_high(tmp_path: Path) -> None:
    figures = Figures(RATES, {})
    chart.draw_chart(figures, tmp_path / "chart.png", "a title")
    pixels = np.asarray(Image.open(tmp_path / "chart.png").convert("RGB")).astype(int)
    wanted = {"#2a78b5": ["ours_rrc", "ours_rrc_ra_re"], "#e0a458": [DECODE]}
    wanted["#b9bdc4"] = [row.name for row in ROWS if row.name not in (*wanted["#2a78b5"], DECODE)]
    lengths: list[tuple[float, float]] = []
    for colour, names in wanted.items():
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        counts = (abs(pixels - rgb).max(-1) < 6).sum(1)
        tops = [
            int(counts[rows].max())
            for rows in np.split(np.arange(len(counts)), np.flatnonzero(counts == 0))
            if len(rows) > 9
        ]
        tops = [top for top in tops if top > 8]  # a dashed line is no bar
        assert len(tops) == len(names), (colour, tops)
        lengths += [(top, statistics.median(RATES[name])) for top, name in zip(tops, names, strict=True)]
    scale = lengths[0][0] / lengths[0][1]
    assert all(abs(length - scale * rate) < 8 for length, rate in lengths), lengths


@pytest.mark.parametrize(
    ("make", "more", "message"),
    [
        (lambda at: at / "none", (), r"none: there is no such folder"),
        (lambda at: write_files(at, {"a.jpg": b"x"}) / "a.jpg", (), r"a\.jpg: is a file: give the folder"),
        (lambda at: write_files(at, {"a.bmp": b"x"}), (), r"no images are in it or below it \(\.jpg.*dali-dr pack"),
        (lambda at: write_files(at, {"a.jpg": b"x", "b.png": b""}), (), r"none of the 2 images can be trained on"),
        (lambda at: (at / "a.jpg").symlink_to("gone") or at, (), r"none of its 1 images can be read.*No such file"),
        (lambda at: at, ("--out", "chart.gif"), r"--out chart\.gif: want a name that ends in \.png"),
        (lambda at: at, ("--out", "none/chart.png"), r"--out none/chart\.png: its folder does not exist"),
        (lambda at: at, ("--scratch", "none"), r"no images|--scratch none: there is no such folder"),
    ],
)
def test_bad_input_is_one_clear_error(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Any,
    more: tuple[str, ...],
    message: str,
    measured: list[str],
) -> None:
    status = 1 if message.startswith("none of") else 2
    assert main(["bench", str(make(tmp_path)), *TINY, *more]) == status
    error = capsys.readouterr().err
    assert re.search(message, error) and "Traceback" not in error and not measured


def test_what_this_machine_lacks_is_said_before_anything_is_measured(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    measured: list[str],
) -> None:
    def refused(*arguments: str, status: int = 1) -> str:
        assert main(["bench", str(folder), *arguments]) == status and not measured
        return capsys.readouterr().err

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "--device gpu: no GPU is seen by torch: take --device cpu" in refused("--device", "gpu", status=2)
    assert re.search(r"0 MiB free, and \d+ MiB are wanted .*--scratch DIR.*--images N", _full(monkeypatch, refused))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'dali_dr[plots]'" in refused("--out", str(tmp_path / "c.png"))


def _full(patch: pytest.MonkeyPatch, refused: Any) -> str:
    with patch.context() as own:
        own.setattr("shutil.disk_usage", lambda path: os.statvfs_result([0] * 10) and type("Usage", (), {"free": 0})())
        return refused("--quiet")


def test_others_that_cannot_be_measured_are_left_out_with_a_line_and_ours_are_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = "torchvision_plain"

    def rate(name: str, *_: Any) -> float:
        if name == broken:
            raise DaliDrError("ImportError: no such thing")
        return RATES[name][0]

    monkeypatch.setattr(compare, "in_fresh_process", rate)
    assert main(["bench", str(folder), *TINY]) == 0
    said = capsys.readouterr()
    assert re.search(r"torchvision/Pillow: crop \+ flip +- +ImportError: no such thing", said.out)
    broken = "ours_rrc"
    assert main(["bench", str(folder), *TINY]) == 1
    assert "ImportError: no such thing" in capsys.readouterr().err


def test_a_process_that_fails_says_why_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = photos.find_photos(write_files(tmp_path / "in", {"a.jpg": encode_jpeg(picture(40, 50, 0))}))
    (tmp_path / "sets").mkdir()
    photos.write_sets(found, tmp_path / "sets", 2)
    write_files(tmp_path / "fake", {"torchvision/__init__.py": b"raise ImportError('built for another torch')"})
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'fake'}:{REPOSITORY}")
    with pytest.raises(
        DaliDrError, match=r"crop \+ flip cannot be measured here: ImportError: built for another torch$"
    ):
        compare.in_fresh_process("torchvision_plain", tmp_path / "sets", Settings(threads=1, batch_size=2, seconds=0.1))


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interruption_leaves_nothing_behind(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "dali_dr", "bench", str(folder), "--seconds", "60", "--scratch", str(tmp_path)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    assert "data sets of up to" in process.stderr.readline()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/original-rrc/dataset.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted" in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())
