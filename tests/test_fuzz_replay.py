"""Every input in tests/fuzz/corpus, and every one that a fuzzer ever found, keeps its target's contract; no atheris needed."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from dali_dr.shards.facts import ShardFacts, facts_path

FUZZ = Path(__file__).resolve().parent / "fuzz"


@pytest.fixture(scope="module")
def targets() -> Iterator[ModuleType]:
    sys.path.insert(0, str(FUZZ))
    try:
        module = importlib.import_module("targets")
        yield module
        module.clean_up()
    finally:
        sys.path.remove(str(FUZZ))


NAMES = sorted(path.name for path in (FUZZ / "corpus").iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_inputs_that_are_kept(name: str, targets: ModuleType) -> None:
    inputs = [path for kind in ("corpus", "regressions") for path in sorted((FUZZ / kind).glob(f"{name}/*"))]
    assert inputs
    for path in inputs:
        start = time.process_time()
        targets.TARGETS[name](path.read_bytes())
        assert time.process_time() - start < 1, path


def test_every_target_has_inputs_and_the_runner_knows_it(targets: ModuleType) -> None:
    listed = subprocess.run(
        [sys.executable, str(FUZZ / "run.py"), "--list"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert sorted(listed) == sorted(targets.TARGETS) == NAMES


def test_contents_of_frames_are_packed_and_unpacked(targets: ModuleType) -> None:
    for parts in ([b""], [b"abc"], [b"a", b"", b"bc"], [bytes(300), b"x"] * 4):
        assert list(targets.unpack_parts(targets.pack_parts(parts))) == parts
    for data in (b"", b"\x03", b"\xff\xff\xff\xff\xff", b"\x01\x09\x00ab"):
        assert b"".join(targets.unpack_parts(data)) in data


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in FUZZ.rglob("*") if path.is_file() and path.suffix != ".pyc") < 200_000


def test_any_flipped_bit_of_a_shards_facts_has_its_tar_read(tmp_path: Path) -> None:
    shard = tmp_path / "shard-000000.tar"
    shard.write_bytes(bytes(10240))
    facts = ShardFacts(shard.name, 10240, "0" * 64, ["a"], [3], [(1, 5)], [(0, 0)], [0], -1, sizes=[(4, 5)], crcs=[7])
    facts.save(shard)
    path = facts_path(shard)
    sound = path.read_bytes()
    saved = ShardFacts.saved(shard)
    assert saved is not None and saved.keys == ["a"] and saved.labels == [3] and saved.crcs == [7]
    for bit in range(8 * len(sound)):
        damaged = bytearray(sound)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        read = ShardFacts.saved(shard)
        assert read is None or read == saved, bit
