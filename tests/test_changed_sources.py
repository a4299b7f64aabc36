"""pack and write_shards into a folder that holds another state of the source: refused by name, or exactly the new state.

Every drawn change is tried on a finished data set and on one that was interrupted after a drawn number of shards. What
is refused leaves the folder as it was; the source as it was continues it, and --force begins anew.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import logging
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import encode_cmyk, encode_jpeg, picture, write_files
from PIL import Image
from test_shards_write import CLASSES, SPEC, views
from writing import memory_folder, remember_verdicts, snapshot

from dali_dr.errors import ShardError
from dali_dr.pack import pack
from dali_dr.shards import folder as folder_module
from dali_dr.shards import write as write_module
from dali_dr.shards.compare import Inventory
from dali_dr.shards.sample import Sample
from dali_dr.shards.write import write_shards
from dali_dr.sources import ImageFolder

DRAWS = 210
PER_SHARD = 3
HEIGHT, WIDTH = 40, 128
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    folder = memory_folder()
    with pytest.MonkeyPatch.context() as patch:
        remember_verdicts(patch)
        versions = folder_module.library_versions()
        patch.setattr(folder_module, "library_versions", lambda: versions)
        logging.disable(logging.WARNING)
        yield folder
        logging.disable(logging.NOTSET)
    shutil.rmtree(folder)


@functools.cache
def jpeg(seed: int) -> bytes:
    """A photo of several tiles, which is not stored as it is."""
    return encode_jpeg(picture(HEIGHT, WIDTH + seed % 5, seed))


@functools.cache
def cmyk(seed: int) -> bytes:
    return encode_cmyk(seed)


def drawn_files(rng: random.Random) -> Files:
    """Some images of three classes, of which a few cannot be stored, and a few are stored as something else."""
    files = {}
    for number in range(rng.randint(7, 14)):
        kinds: tuple[Callable[[int], bytes], ...] = (jpeg, jpeg, jpeg, jpeg, cmyk, lambda seed: b"no image %d" % seed)
        files[f"c{number % 3}/p{number:02d}.jpg"] = rng.choice(kinds)(rng.randrange(20))
    files.update({f"c{n}/a.jpg": jpeg(n) for n in range(3)})  # each class has one that is good
    return files


# A change of files, in place; the names that the refusal must hold one of.
def add(files: Files, rng: random.Random) -> list[str]:
    name = f"c{rng.randrange(3)}/{rng.choice('aboqz')}{rng.randrange(100)}x.jpg"
    files[name] = rng.choice((jpeg, cmyk, lambda seed: b"nothing"))(rng.randrange(20))
    return [name]


def remove(files: Files, rng: random.Random) -> list[str]:
    name = rng.choice([name for name in files if "/a." not in name])
    del files[name]
    return [name]


def replace(files: Files, rng: random.Random) -> list[str]:
    name = rng.choice(sorted(files))
    files[name] = jpeg(rng.randrange(30, 40))
    return [name]


def replace_by_as_many_bytes(files: Files, rng: random.Random) -> list[str]:
    """A JPEG's comment takes any bytes, so the image stays good."""
    name = rng.choice(sorted(files))
    data = bytearray(files[name] if files[name][:2] == b"\xff\xd8" else b"no image at all.")
    data[-3 if data[:2] == b"\xff\xd8" else 0] ^= 1  # in the last coded bytes
    files[name] = bytes(data)
    return [name]


def damage(files: Files, rng: random.Random) -> list[str]:
    name = rng.choice([name for name in sorted(files) if files[name][:2] == b"\xff\xd8"])
    files[name] = files[name][: len(files[name]) // 2]
    return [name]


def exchange(files: Files, rng: random.Random) -> list[str]:
    one = rng.choice(sorted(files))
    others = [name for name in sorted(files) if files[name] != files[one]]
    other = rng.choice(others)
    files[one], files[other] = files[other], files[one]
    return [one, other]


def rename(files: Files, rng: random.Random) -> list[str]:
    name = rng.choice([name for name in sorted(files) if "/a." not in name])
    new = f"{name[:3]}r{rng.randrange(100)}.jpg"
    files[new] = files.pop(name)
    return [name, new]


def move(files: Files, rng: random.Random) -> list[str]:
    name = rng.choice([name for name in sorted(files) if "/a." not in name])
    new = f"c{(int(name[1]) + 1) % 3}{name[2:]}"
    files[new] = files.pop(name)
    return [name, new]


def add_class(files: Files, rng: random.Random) -> list[str]:
    name = rng.choice(("a", "c1b", "d"))
    files[f"{name}/p.jpg"] = jpeg(3)
    return [name]


def remove_class(files: Files, rng: random.Random) -> list[str]:
    name = f"c{rng.randrange(3)}"
    for file in [file for file in files if file.startswith(name)]:
        del files[file]
    return [name]


CHANGES = (add, remove, replace, replace_by_as_many_bytes, damage, exchange, rename, move, add_class, remove_class)


def drawn(seed: int) -> tuple[random.Random, Files, Files, list[str], str]:
    """A source, another, and the names that differ."""
    rng = random.Random(f"changed {seed}")
    before = drawn_files(rng)
    while True:
        after = dict(before)
        change = CHANGES[seed % len(CHANGES)]
        names = change(after, rng)
        if after != before:
            return rng, before, after, names, change.__name__


def put(folder: Path, files: Files) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return write_files(folder, files)


def interrupted(run: Callable[[], object], shards: int) -> None:
    """``run``, killed when that many shards are done."""
    done = [0]

    def write_one_shard(*arguments: Any, **options: Any) -> Any:
        if done[0] == shards:
            raise KeyboardInterrupt
        done[0] += 1
        return write_one(*arguments, **options)

    write_one = write_module.write_one_shard
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(write_module, "write_one_shard", write_one_shard)
        run()


def shards_of(out: Path) -> int:
    return len(list(out.glob("*.tar")))


def check_refused(run: Callable[[], object], out: Path, names: list[str], where: str) -> None:
    """The run is refused, names one of ``names``, and says what to do; and the folder is as it was."""
    before = snapshot(out)
    with pytest.raises(ShardError) as told:
        run()
    text = str(told.value)
    assert str(out) in text and "another folder" in text, where
    keys = [re.sub(r"\.jpg$", "", name) for name in names]
    assert any(key in text for key in keys) or "not in what is written" in text, (where, text, keys)
    assert snapshot(out) == before, where


@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_pack_notices_every_change(root: Path, state: str) -> None:
    exact = 0
    for seed in range(DRAWS):
        rng, before, after, names, kind = drawn(seed)
        where = f"{state}: draw {seed}: {kind} of {names}"
        folder, out, fresh = root / "photos", root / "out", root / "fresh"
        shutil.rmtree(out, ignore_errors=True)

        def run(place: Path = out, folder: Path = folder, **options: Any) -> None:
            source = ImageFolder.scan(folder)
            pack(source, place, samples_per_shard=PER_SHARD, on_error="skip", progress=False, **options)

        def result_of(files: Files, folder: Path = folder, fresh: Path = fresh, run: Any = run) -> dict[str, Any]:
            put(folder, files)
            shutil.rmtree(fresh, ignore_errors=True)
            run(fresh)
            return snapshot(fresh)

        whole = result_of(before)
        if state == "finished":
            run()
        else:
            interrupted(run, rng.randrange(1, shards_of(fresh)))
        expected = result_of(after)
        try:
            check_refused(run, out, names, where)
        except pytest.fail.Exception:  # it went through: only images that were not written yet have other bytes
            assert state == "interrupted" and kind in ("replace_by_as_many_bytes", "exchange", "replace"), where
            assert snapshot(out) == expected, where
            exact += 1
            continue
        if seed % 2:
            put(folder, before)
            run()
            assert snapshot(out) == whole, where
        else:
            run(force=True)
            assert snapshot(out) == expected, where
    assert exact < DRAWS // 10


@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_an_unchanged_source_is_never_refused(root: Path, state: str) -> None:
    for seed in range(0, DRAWS, 3):
        rng, files, *_ = drawn(seed)
        folder, out = put(root / "photos", files), root / "out"
        shutil.rmtree(out, ignore_errors=True)

        def run(place: Path = out, folder: Path = folder) -> None:
            pack(ImageFolder.scan(folder), place, samples_per_shard=PER_SHARD, on_error="skip", progress=False)

        shutil.rmtree(root / "fresh", ignore_errors=True)
        run(root / "fresh")
        whole = snapshot(root / "fresh")
        if state == "finished":
            run()
        else:
            for _ in range(rng.randrange(1, 3)):
                done = shards_of(out) if out.exists() else 0
                interrupted(run, rng.randrange(shards_of(root / "fresh") - done))
        put(folder, files)  # files of the same names and bytes, and other times
        run()
        assert snapshot(out) == whole, seed
        run()
        assert snapshot(out) == whole, seed


def drawn_samples(rng: random.Random) -> list[Sample]:
    """Samples with reinforcements; a few are refused."""
    samples = []
    for number in range(rng.randint(7, 14)):
        seed = rng.randrange(20)
        image = jpeg(seed)
        width = Image.open(io.BytesIO(image)).size[0]
        sample = Sample(f"s{number:02d}", image, rng.randrange(CLASSES), views(number, HEIGHT, width))
        if number and rng.random() < 0.15:
            sample = dataclasses.replace(
                sample, **rng.choice(({"image_bytes": b"none"}, {"label": CLASSES + 1}, {"reinforcements": None}))
            )
        samples.append(sample)
    return samples


def changed_samples(samples: list[Sample], kind: str, rng: random.Random) -> tuple[list[Sample], list[str]]:
    """``samples`` after a change, and the keys that it touches."""
    at = rng.randrange(len(samples))
    one, after = samples[at], list(samples)
    if kind == "add":
        new = dataclasses.replace(samples[0], key=f"more{rng.randrange(9)}")
        after.insert(at, new)
        return after, [new.key]
    if kind == "remove":
        del after[at]
        return after, [one.key]
    if kind == "bytes":
        other = encode_jpeg(np.asarray(Image.open(io.BytesIO(jpeg(50))).resize((WIDTH + at % 5, HEIGHT))))
        after[at] = dataclasses.replace(one, image_bytes=other)
    elif kind == "label":
        after[at] = dataclasses.replace(one, label=(one.label + 1) % CLASSES)
    else:
        after.append(after.pop(0))
        return after, [sample.key for sample in samples]
    return after, [one.key]


KINDS = ("add", "remove", "bytes", "label", "order")


@pytest.mark.parametrize("form", ["iterable", "function"])
@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_write_shards_notices_every_change(root: Path, state: str, form: str) -> None:
    exact = 0
    for seed in range(form == "function", DRAWS, 2):  # the two forms share the draws
        kind, rng = KINDS[seed % len(KINDS)], random.Random(f"samples {seed}")
        before = drawn_samples(rng)
        after, keys = changed_samples(before, kind, rng)
        out, where = root / "out", f"{form}, {state}: draw {seed}: {kind} of {keys}"
        shutil.rmtree(out, ignore_errors=True)

        def run(samples: list[Sample], place: Path = out) -> None:
            options: dict[str, Any] = {"samples": samples}
            if form == "function":
                options["samples"] = lambda start: samples[start:]
                options["inventory"] = inventory_of(samples)
            write_shards(
                out=place,
                spec=SPEC,
                num_classes=CLASSES,
                samples_per_shard=PER_SHARD,
                on_error="skip",
                progress=False,
                **options,
            )

        def result_of(samples: list[Sample], run: Any = run) -> dict[str, Any]:
            shutil.rmtree(root / "fresh", ignore_errors=True)
            run(samples, root / "fresh")
            return snapshot(root / "fresh")

        whole = result_of(before)
        if state == "finished":
            run(before)
        else:
            count = rng.randrange(1, shards_of(root / "fresh"))
            interrupted(lambda run=run, before=before: run(before), count)
        expected = result_of(after)
        try:
            check_refused(lambda run=run, after=after: run(after), out, keys, where)
        except pytest.fail.Exception:  # samples that were not written yet differ, and are written as they are now
            assert state == "interrupted" and snapshot(out) == expected, where
            exact += 1
            continue
        run(before)
        assert snapshot(out) == whole, where
    assert exact < DRAWS / 2 * (0 if state == "finished" else 0.6) + 1


def inventory_of(samples: list[Sample]) -> Inventory:
    import google_crc32c

    return Inventory(
        [sample.key for sample in samples],
        [sample.label for sample in samples],
        crcs=lambda count: [google_crc32c.value(sample.image_bytes) for sample in samples[:count]],
    )
