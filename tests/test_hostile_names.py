"""Names and texts that act on a terminal are printed escaped, wherever they come from."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import pickle
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import encode_jpeg, write_files
from hypothesis import given
from hypothesis import strategies as st

import dali_dr
from dali_dr.cli import main
from dali_dr.errors import DaliDrError, ShownFormatter, brief, shown
from dali_dr.shards.sample import safe_key
from dali_dr.sources import open_source

IMAGE = encode_jpeg(np.zeros((16, 16, 3), np.uint8))
TRAPS = ("\x1b[31m", "\x9b2J", "\u202e", "\u2066", "\r", "\n", "\x07", "\x7f", "\u2028", "\ufeff")
# Written anew, not taken from errors.py: by classes of Unicode (controls, formats, separators, surrogates).
ACTS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\u200e\u200f\ud800-\udfff\ufeff]")


def clean(text: str) -> bool:
    return ACTS.search(text) is None


@given(st.text(st.characters(exclude_categories=())))
def test_what_is_shown_is_one_harmless_line_and_stays_as_it_is(text: str) -> None:
    once = shown(text)
    assert clean(once) and "\n" not in once and shown(once) == once
    assert once == text or ACTS.search(text) or not text.isprintable()


@pytest.mark.parametrize("text", ["dog 1.jpg", "Käse/犬", "日本語 – “x”", "👩‍🔬", "a\\nb"])
def test_ordinary_names_are_shown_as_they_are(text: str) -> None:
    assert shown(text) == text and str(dali_dr.ShardError(text)) == text


@pytest.mark.parametrize("trap", TRAPS)
def test_every_error_of_the_family_shows_its_message(trap: str) -> None:
    for kind in (DaliDrError, dali_dr.SpecError, dali_dr.RecordError, dali_dr.ShardError):
        error = kind(f"sample a{trap}b: wrong", key=f"a{trap}b")
        assert clean(str(error)) and "\n" not in str(error) and error.key == f"a{trap}b"
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_anything_has_a_brief_text() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, 10**10_000, "x" * 10**6, {"a\x1b": 1}, type("Bad", (), {"__repr__": lambda self: 1 / 0})()):
        assert len(brief(value)) <= 102 and clean(brief(value))


def test_logs_are_shown_and_keep_their_tracebacks() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(ShownFormatter("%(levelname)s: %(message)s"))
    log = logging.Logger("test")
    log.addHandler(handler)
    log.warning("left out: %s", "a\x1b[2J\nb")
    try:
        raise OSError("c\x1b[2J")
    except OSError:
        log.exception("d")
    assert clean(stream.getvalue()) and "left out: a\\x1b[2J\\x0ab\n" in stream.getvalue()
    assert "\nTraceback (most recent call last):\n" in stream.getvalue()


def printed(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """What a command prints, on both streams; found free of traps."""
    with contextlib.suppress(SystemExit):
        main(arguments)
    captured = capsys.readouterr()
    told = captured.out + re.sub(r"\r(?=out|checking)", "", captured.err)  # a progress bar begins so
    assert clean(told), (arguments, told)
    return told


@pytest.mark.parametrize("trap", TRAPS)
def test_a_folder_of_such_names_through_the_commands(
    trap: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder, out = tmp_path / f"images{trap}", tmp_path / f"out{trap}"
    write_files(folder, {f"class{trap}/good{trap}.jpg": IMAGE, f"class{trap}/bad{trap}.jpg": b"\xff\xd8\x1b[31m"})
    assert "bad" in printed(capsys, ["pack", str(folder), "--out", str(out), "--quiet"])
    printed(capsys, ["pack", str(folder), "--out", str(out), "--on-error", "skip"])
    assert clean(caplog.text)
    assert "1" in printed(capsys, ["info", str(out)])
    assert json.loads(printed(capsys, ["info", str(out), "--json"]))["images"] == 1
    assert "all is well" in printed(capsys, ["verify", str(out)])
    assert dali_dr.Dataset(out).class_names == (f"class{trap}",)
    (out / "shard-000000.tar").write_bytes(b"x")
    assert "problem" in printed(capsys, ["verify", str(out)])
    for wrong in ("info", "verify"):
        assert "out" in printed(capsys, [wrong, str(out / "none")])
    printed(capsys, ["info", "x", f"--what{trap}"])


@pytest.mark.parametrize("trap", TRAPS)
def test_a_dry_run_of_reinforce_on_such_sources(trap: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / f"t{trap}.tar"
    with tarfile.open(archive, "w") as out:
        for name, data in ((f"a{trap}.jpg", IMAGE), (f"b{trap}.txt", b"")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    listed = tmp_path / f"l{trap}.jsonl"
    listed.write_text(json.dumps({"path": f"a{trap}.jpg", "label": ""}) + "\n")
    stray = write_files(tmp_path / f"f{trap}", {f"stray{trap}.jpg": IMAGE})
    for source in (archive, listed, stray, tmp_path / f"none{trap}"):
        arguments = ["reinforce", "--input", str(source), "--out", str(tmp_path / "o"), "--teacher", "t"]
        assert source.name[0] in printed(capsys, arguments)


def test_names_that_are_not_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    try:
        Path(os.fsdecode(os.fsencode(folder / "a") + b"/x\xff.jpg")).write_bytes(IMAGE)
    except OSError:
        pytest.skip("this file system wants names in UTF-8")
    source = open_source(folder)
    assert source.keys == ["a/x%ED%B3%BF"] and source.read(0) == IMAGE
    assert "all" not in printed(capsys, ["pack", str(folder), "--out", str(tmp_path / "o"), "--quiet"])
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff/y.jpg")).write_bytes(IMAGE)
    source = open_source(folder)
    assert list(source.class_names) == ["a", "\\xff"] and source.read(1) == IMAGE and list(source.labels) == [0, 1]
    assert json.loads(json.dumps(list(source.class_names))) == ["a", "\\xff"]
    assert any("1 class folder" in note and "\\xff" in note for note in source.notes)


def test_keys_of_any_text_are_safe() -> None:
    assert safe_key("a\ud800\x1b.jpg") == "a%ED%A0%80%1B%2Ejpg"
