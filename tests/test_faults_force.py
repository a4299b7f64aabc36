"""--force on a disk that forgets: after a crash at any call there is the old data set, none, or the new one; never a mixture."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

from conftest import encode_jpeg, picture, write_files
from crash_model import Recorder, put
from faults import Killed, tapped
from test_faults_calls import studio
from writing import Studio, holdings, snapshot

from dali_dr.errors import DaliDrError
from dali_dr.pack import pack
from dali_dr.sources import ImageFolder

__all__ = ["studio"]  # a fixture
_DRAWS = 3


def _source(folder: Path, first: int) -> ImageFolder:
    """Six images and one that cannot be stored; under the same names whatever ``first`` is, and of equal sizes."""
    files = {f"c{n % 2}/p{n}.jpg": encode_jpeg(picture(12, 12, first + n)) for n in range(6)}
    return ImageFolder.scan(write_files(folder, files | {"c0/bad.jpg": b"no image %02d" % first}))


def _pack(source: ImageFolder, out: Path, force: bool = False) -> None:
    pack(source, out, samples_per_shard=2, on_error="skip", force=force, progress=False)


def _check(studio: Studio, new: ImageFolder, results: dict[str, Any], tree: dict[str, Any], where: str) -> None:
    """After a crash that leaves ``tree``."""
    for force in (False, True):
        studio.clear()
        put(tree, studio.disk)
        try:
            found = holdings(studio.out)
        except DaliDrError:
            found = None
        assert found in (None, results["old"][0], results["new"][0]), where
        try:
            _pack(new, studio.out, force)
        except DaliDrError as error:
            assert not force and found == results["old"][0] and "--force" in str(error), where
        else:
            assert snapshot(studio.out) == results["new"][1], where


def test_a_crash_at_any_call_leaves_no_mixture(studio: Studio) -> None:
    old, new = _source(studio.root / "old", 0), _source(studio.root / "new", 50)
    results = {}
    for name, source in (("new", new), ("old", old)):
        studio.clear()
        _pack(source, studio.out)
        results[name] = (holdings(studio.out), snapshot(studio.out))
    recorder = Recorder(studio.disk)
    with tapped(recorder):
        _pack(new, studio.out, force=True)
    seen: set[str] = set()
    for count in range(len(recorder.events), -1, -1):
        for draw in range(_DRAWS):
            tree = recorder.disk_after(count, random.Random(f"force {count} {draw}")).after_crash(random.Random(draw))
            if repr(tree) not in seen:
                seen.add(repr(tree))
                _check(studio, new, results, tree, f"{count} of {len(recorder.events)}, draw {draw}")
    assert len(seen) > 25


def test_a_call_that_fails_is_told_and_the_next_run_makes_it(studio: Studio) -> None:
    """Also where an fsync fails, after which what it should have written is lost, and the power fails later."""
    old, new = _source(studio.root / "old", 0), _source(studio.root / "new", 50)
    studio.clear()
    _pack(new, studio.out)
    whole, right = snapshot(studio.out), holdings(studio.out)
    failed = 0
    for number in range(24):
        rng = random.Random(f"force chain {number}")
        studio.clear()
        _pack(old, studio.out)
        before = holdings(studio.out)
        kind, at = ("lost", 1 + number) if number % 2 else ("EIO", 1 + 3 * number)
        recorder = Recorder(studio.disk, fault=(kind, at))
        with tapped(recorder), contextlib.suppress(DaliDrError, Killed):
            _pack(new, studio.out, force=True)
        failed += not (studio.out / "dataset.json").exists() or snapshot(studio.out) != whole
        first = len(recorder.events)
        recorder.fault = None
        with tapped(recorder):
            _pack(new, studio.out, force=True)
        assert snapshot(studio.out) == whole, number
        for _ in range(3):
            count = rng.randint(first, len(recorder.events))
            tree = recorder.disk_after(count, rng).after_crash(rng)
            studio.clear()
            put(tree, studio.disk)
            try:
                found = holdings(studio.out)
            except DaliDrError:
                found = None
            assert found in (None, before, right), (number, count)
            _pack(new, studio.out, force=True)
            assert snapshot(studio.out) == whole, (number, count)
    assert failed > 12
