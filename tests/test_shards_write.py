"""write_shards against tarfile, webdataset, DALI's stock reader and wds2idx; refusals; kills; resuming."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dali_dr.augment.draw import draw
from dali_dr.augment.spec import AugmentationSpec
from dali_dr.errors import ShardError
from dali_dr.record.labels import Reinforcements
from dali_dr.shards import write as write_module
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.facts import ShardFacts
from dali_dr.shards.folder import begin, finalise, shard_path
from dali_dr.shards.keys import KeyTable
from dali_dr.shards.manifest import Manifest
from dali_dr.shards.one_shard import write_one_shard
from dali_dr.shards.sample import Sample, check_key, safe_key
from dali_dr.shards.tar import Member
from dali_dr.shards.verify import verify
from dali_dr.shards.write import write_shards

SPEC = AugmentationSpec.preset("rrc+ra+re", 32)
CLASSES = 12


def views(seed: int, height: int, width: int, count: int = 5, k: int = 3) -> Reinforcements:
    """Valid random reinforcements, in no order of confidence."""
    rng = np.random.default_rng(seed)
    size = np.stack([rng.integers(1, height + 1, count), rng.integers(1, width + 1, count)], 1)
    start = (rng.random((count, 2)) * ([height + 1, width + 1] - size)).astype(np.int64)
    erase = np.zeros((count, 4), np.int32)
    erase[::2] = [3, 4, 10, 8]
    probs = -np.sort(-rng.dirichlet([0.5] * CLASSES, count).astype(np.float32), axis=1)[:, :k]
    return Reinforcements(
        crop=np.hstack([start, size]).astype(np.int32),
        flip=rng.random(count) < 0.5,
        ops=rng.integers(0, 14, (count, 2)).astype(np.uint8),
        magnitudes=rng.normal(size=(count, 2)).astype(np.float32),
        erase=erase,
        soft_ids=np.stack([rng.permutation(CLASSES)[:k] for _ in range(count)]).astype(np.int32),
        soft_probs=np.ascontiguousarray(probs),
    )


def sample(number: int, image: bytes, key: str | None = None) -> Sample:
    width, height = Image.open(io.BytesIO(image)).size
    return Sample(key or f"c{number % 3}/s{number:04d}", image, number % CLASSES, views(number, height, width))


@pytest.fixture
def samples(jpeg_bytes: list[bytes]) -> list[Sample]:
    return [sample(number, jpeg_bytes[number % len(jpeg_bytes)]) for number in range(25)]


def write(samples: Any, out: Path, **options: Any) -> Manifest:
    return write_shards(
        samples, out, **{"spec": SPEC, "num_classes": CLASSES, "samples_per_shard": 10, "progress": False, **options}
    )


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a data set, but for the report of what was left out."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def members(samples: list[Sample], stored: Dataset) -> list[tuple[str, bytes]]:
    """What the tars must hold, with the records as stored."""
    expected = []
    for number, one in enumerate(samples):
        entry = stored.index.entry(number)
        at = int(entry["record_block"]) * 512
        tar = (stored.path / stored.index.files[int(entry["record_file"])].name).read_bytes()
        record = tar[at : at + int(entry["record_bytes"])]
        expected += [
            (f"{one.key}.jpg", one.image_bytes),
            (f"{one.key}.cls", str(one.label).encode()),
            (f"{one.key}.dr.zst", record),
        ]
    return expected


def test_tarfile_webdataset_and_dali_read_the_shards(samples: list[Sample], tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    manifest = write(samples, tmp_path / "d", keep_bytes=True)
    stored = Dataset(tmp_path / "d")
    tars = [tmp_path / "d" / shard.name for shard in manifest.shards]
    expected = members(samples, stored)

    found = []
    for path in tars:
        with tarfile.open(path) as archive:
            for info in archive:
                assert (info.mtime, info.uid, info.gid, info.mode, info.uname) == (0, 0, 0, 0o644, "")
                file = archive.extractfile(info)
                assert file is not None
                found.append((info.name, file.read()))
    assert found == expected

    dataset = webdataset.WebDataset([str(path) for path in tars], shardshuffle=False)
    found = [(f"{item['__key__']}.{suffix}", item[suffix]) for item in dataset for suffix in ("jpg", "cls", "dr.zst")]
    assert found == expected

    assert dali_reads(tars) == [data for _, data in expected]
    subprocess.run(["tar", "-tf", tars[0]], check=True, capture_output=True)


def dali_reads(tars: list[Path], extensions: tuple[str, ...] = ("jpg", "cls", "dr.zst")) -> list[bytes]:
    dali = pytest.importorskip("nvidia.dali")
    fn = dali.fn
    with dali.Pipeline(batch_size=1, num_threads=1, device_id=None) as pipeline:
        paths, indices = [str(path) for path in tars], [str(path.with_suffix(".idx")) for path in tars]
        outputs = fn.readers.webdataset(paths=paths, index_paths=indices, ext=list(extensions), name="reader")
        pipeline.set_outputs(*(outputs if len(extensions) > 1 else [outputs]))
    pipeline.build()
    count = pipeline.epoch_size("reader")
    return [output.at(0).tobytes() for _ in range(count) for output in pipeline.run()]


def test_idx_equals_wds2idx(samples: list[Sample], tmp_path: Path) -> None:
    wds2idx = pytest.importorskip("wds2idx")
    if shutil.which("tar") is None:
        pytest.skip("wds2idx wants the tar program")
    long = "d" * 80 + "/" + "e" * 60 + "/" + "f" * 90  # the header's prefix field
    for shard in write([*samples, sample(99, samples[0].image_bytes, long)], tmp_path / "d").shards:
        path = tmp_path / "d" / shard.name
        with wds2idx.IndexCreator(str(path), str(tmp_path / "theirs.idx"), verbose=False) as creator:
            creator.create_index()
        assert path.with_suffix(".idx").read_text() == (tmp_path / "theirs.idx").read_text()


@pytest.mark.parametrize(
    "key", ["d" * 155 + "/" + "f" * 93, "n.01/x_1", "Zürich/日本", "a-b+c=d,e;f'g\"h", "x" * 93, "a/b/c/d", "__x__"]
)
def test_unusual_keys_are_read_everywhere(key: str, jpeg_bytes: list[bytes], tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    write([sample(0, jpeg_bytes[0], key), sample(1, jpeg_bytes[1])], tmp_path / "d", keep_bytes=True)
    path = tmp_path / "d" / "shard-000000.tar"
    assert [item["__key__"] for item in webdataset.WebDataset(str(path), shardshuffle=False)] == [key, "c1/s0001"]
    with tarfile.open(path) as archive:
        assert archive.getnames()[:2] == [f"{key}.jpg", f"{key}.cls"]
    assert dali_reads([path], ("jpg",)) == jpeg_bytes[:2]
    stored = Dataset(tmp_path / "d")
    assert stored.find(key) == 0 and stored.keys[0] == key


def test_dataset_returns_what_was_written(samples: list[Sample], tmp_path: Path) -> None:
    names = [f"n{i}" for i in range(CLASSES)]
    write(samples, tmp_path / "d", probabilities="float32", class_names=names, seed=4, keep_bytes=True)
    stored = Dataset(tmp_path / "d")
    assert len(stored) == 25 and stored.spec == SPEC and stored.class_names == tuple(f"n{i}" for i in range(CLASSES))
    assert list(stored.keys) == [one.key for one in samples] and stored.num_views == 5
    assert stored.labels.tolist() == [one.label for one in samples]
    for number, one in enumerate(samples):
        assert stored.image(number) == one.image_bytes and stored.label(number) == one.label
        width, height = Image.open(io.BytesIO(one.image_bytes)).size
        assert stored.image_size(number) == (height, width)
        assert one.reinforcements is not None
        confidence = one.reinforcements.soft_probs[:, 0]
        order = sorted(range(len(confidence)), key=lambda row: -confidence[row])
        assert stored.reinforcements(number) == one.reinforcements.take(order)
    assert verify(tmp_path / "d", images=True, progress=False).problems == []


def test_plain_images_and_formats(tmp_path: Path) -> None:
    images = []
    for kind in ("PNG", "WEBP", "JPEG"):
        buffer = io.BytesIO()
        Image.new("RGB", (9, 7), (1, 2, 3)).save(buffer, kind)
        images.append(buffer.getvalue())
    manifest = write([Sample(f"k{i}", image, i) for i, image in enumerate(images)], tmp_path / "d", spec=None)
    with tarfile.open(tmp_path / "d" / "shard-000000.tar") as archive:
        assert archive.getnames() == ["k0.png", "k0.cls", "k1.webp", "k1.cls", "k2.jpg", "k2.cls"]
    stored = Dataset(tmp_path / "d")
    assert [stored.image(i) for i in range(3)] == images
    assert (manifest.topk, manifest.views_max, manifest.spec, stored.num_views) == (0, 0, None, 0)
    with pytest.raises(ShardError, match=r"k1.*no reinforcements"):
        stored.reinforcements(1)
    with pytest.raises(ShardError, match="plain images"):
        _ = stored.spec
    assert verify(tmp_path / "d", images=True, progress=False).ok


def with_views(one: Sample, **columns: Any) -> Sample:
    assert one.reinforcements is not None
    changed = {name: getattr(one.reinforcements, name).copy() for name in columns}
    for name, (place, value) in columns.items():
        changed[name][place] = value
    return dataclasses.replace(one, reinforcements=dataclasses.replace(one.reinforcements, **changed))


REFUSALS = {
    "empty image": (lambda s: dataclasses.replace(s, image_bytes=b""), "empty"),
    "not an image": (lambda s: dataclasses.replace(s, image_bytes=b"hello"), "cannot be read"),
    "no bytes": (lambda s: dataclasses.replace(s, image_bytes="path.jpg"), "str"),
    "label above": (lambda s: dataclasses.replace(s, label=CLASSES), "label"),
    "label below": (lambda s: dataclasses.replace(s, label=-1), "label"),
    "label float": (lambda s: dataclasses.replace(s, label=1.0), "label"),
    "crop outside": (lambda s: with_views(s, crop=((2, 0), 10_000)), "view 2.*crop|crop"),
    "crop empty": (lambda s: with_views(s, crop=((2, 3), 0)), "crop"),
    "erase outside": (lambda s: with_views(s, erase=(0, [30, 0, 3, 3])), "erase"),
    "op": (lambda s: with_views(s, ops=((0, 0), 18)), "op"),
    "magnitude": (lambda s: with_views(s, magnitudes=((0, 0), np.nan)), "magnitude"),
    "teacher class": (lambda s: with_views(s, soft_ids=((1, 0), CLASSES)), "view 1: class id"),
    "class twice": (lambda s: with_views(s, soft_ids=(1, [3, 3, 4])), "twice"),
    "probability": (lambda s: with_views(s, soft_probs=((1, 0), 1.5)), "probabilit"),
    "other K": (lambda s: dataclasses.replace(s, reinforcements=views(3, 20, 20, k=4)), "4 teacher classes"),
    "no reinforcements": (lambda s: dataclasses.replace(s, reinforcements=None), "has no reinforcements"),
    "no views": (lambda s: dataclasses.replace(s, reinforcements=views(3, 20, 20).take([])), "number of views"),
    "other op count": (
        lambda s: dataclasses.replace(
            s, reinforcements=dataclasses.replace(s.reinforcements, ops=s.reinforcements.ops[:, :1],
                                                  magnitudes=s.reinforcements.magnitudes[:, :1])), "operations"),
    "wrong type": (lambda s: dataclasses.replace(s, reinforcements={}), "dict"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_a_sample_that_cannot_be_stored_is_refused_by_key(case: str, samples: list[Sample], tmp_path: Path) -> None:
    damage, message = REFUSALS[case]
    bad = [*samples[:14], damage(samples[14]), *samples[15:]]
    with pytest.raises(ShardError, match=rf"shard-000001.tar: sample {samples[14].key}: .*({message})"):
        write(bad, tmp_path / "d")
    assert (tmp_path / "d" / "shard-000000.tar").exists()  # what was finished stays
    write(samples, tmp_path / "d")
    write(samples, tmp_path / "whole")
    assert contents(tmp_path / "d") == contents(tmp_path / "whole")

    skipped = write(bad, tmp_path / "skip", on_error="skip")
    write([*samples[:14], *samples[15:]], tmp_path / "without")
    assert skipped.images == 24 and contents(tmp_path / "skip") == contents(tmp_path / "without")
    assert write(bad, tmp_path / "skip", on_error="skip") == skipped


@pytest.mark.parametrize(
    "key",
    ["", "a b", "a\tb", "a\nb", "a.b", "x/a.b", "/a", "a/", "a//b", "../a", "a/../b", "__meta__/a", "\ud800",
     "x" * 94, "d" * 156 + "/a", None, 3, b"a"],
)  # fmt: skip
def test_keys_that_a_reader_would_split_are_refused(key: Any, jpeg_bytes: list[bytes], tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"sample .*key"):
        write([Sample(key, jpeg_bytes[0], 0)], tmp_path / "d", spec=None)


def test_reinforcements_need_a_spec(samples: list[Sample], tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=f"{samples[0].key}.*spec"):
        write(samples, tmp_path / "d", spec=None)


def test_duplicate_keys_are_refused_across_shards_and_runs(samples: list[Sample], tmp_path: Path) -> None:
    for place in (3, 17, 25):  # the same shard, another, a last one
        twice = [*samples[:place], samples[2], *samples[place:]]
        out = tmp_path / str(place)
        for _ in range(2):  # the second finds the first's shards on disk
            with pytest.raises(ShardError, match=f"{samples[2].key}: is in shard-000000.tar already"):
                write(twice, out)
        assert write(twice, tmp_path / f"skip{place}", on_error="skip").images == 25


def test_check_images_refuses_a_cut_off_image(samples: list[Sample], tmp_path: Path) -> None:
    cut = dataclasses.replace(samples[3], image_bytes=samples[3].image_bytes[:-200])
    bad = [*samples[:3], cut, *samples[4:]]
    with pytest.raises(ShardError, match=f"{samples[3].key}.*truncated"):
        write(bad, tmp_path / "d")
    write(bad, tmp_path / "e", check_images=False)
    assert verify(tmp_path / "e", progress=False).ok
    report = verify(tmp_path / "e", images=True, progress=False)
    assert not report.ok and samples[3].key in report.problems[0]


def test_a_failing_source_loses_no_finished_shard(samples: list[Sample], tmp_path: Path) -> None:
    def failing() -> Iterator[Sample]:
        yield from samples[:15]
        raise RuntimeError("the teacher is tired")

    with pytest.raises(RuntimeError, match="tired"):
        write(failing(), tmp_path / "d")
    assert sorted(p.name for p in (tmp_path / "d").iterdir() if not p.name.startswith(".")) == [
        "shard-000000.idx",
        "shard-000000.tar",
    ]
    starts = []

    def source(start: int) -> list[Sample]:
        starts.append(start)
        return samples[start:]

    write(source, tmp_path / "d")
    write(samples, tmp_path / "whole")
    assert starts == [10] and contents(tmp_path / "d") == contents(tmp_path / "whole")


def test_a_gap_is_filled_and_lost_facts_are_read_from_the_tar(samples: list[Sample], tmp_path: Path) -> None:
    write(samples, tmp_path / "whole", keep_bytes=True)
    for lost_facts in (False, True):
        out = tmp_path / f"gap{lost_facts}"
        with pytest.raises(ShardError, match="label"):
            write([*samples[:24], dataclasses.replace(samples[24], label=99)], out, keep_bytes=True)
        for name in ("shard-000000.tar", *([".shard-000001.tar.json", "shard-000001.idx"] if lost_facts else [])):
            (out / name).unlink()
        write(samples, out, keep_bytes=True)
        assert contents(out) == contents(tmp_path / "whole")


def test_a_folder_of_another_run_is_refused(samples: list[Sample], tmp_path: Path) -> None:
    unfinished = tmp_path / "unfinished"
    with pytest.raises(ShardError, match="label"):
        write([*samples[:24], dataclasses.replace(samples[24], label=99)], unfinished)
    write(samples, tmp_path / "finished")
    others = [samples[0], dataclasses.replace(samples[1], key="other"), *samples[2:]]
    for out in (unfinished, tmp_path / "finished"):
        for changed, message in (
            ({"samples": others}, f"{samples[1].key}.*other|other.*{samples[1].key}"),
            ({"samples": samples[:8]}, "not there any more"),
            ({"samples": [*samples[:5], dataclasses.replace(samples[0], key="more"), *samples[5:]]}, "more"),
            ({"seed": 5}, "seed was None, now 5"),
            ({"num_classes": CLASSES + 1}, "classes was 12, now 13"),
            ({"samples_per_shard": 5}, "samples_per_shard"),
            ({"resume": False}, "already holds a run"),
        ):
            before = contents(out)
            with pytest.raises(ShardError, match=message):
                write(**{"samples": samples, "out": out, **changed})  # type: ignore[arg-type]
            assert contents(out) == before
    with pytest.raises(ShardError, match="other samples"):
        write([*samples, dataclasses.replace(samples[0], key="more")], tmp_path / "finished")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "shard-000007.tar").write_bytes(b"")
    with pytest.raises(ShardError, match="unknown origin"):
        write(samples, tmp_path / "foreign")


def test_two_writers_exclude_each_other(samples: list[Sample], tmp_path: Path) -> None:
    def nested() -> Iterator[Sample]:
        with pytest.raises(ShardError, match="another process is writing"):
            write(samples, tmp_path / "d")
        yield from samples

    assert write(nested(), tmp_path / "d").images == 25


def test_nothing_to_write_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no sample"):
        write([], tmp_path / "d")
    with pytest.raises(ShardError, match="class_names"):
        write([], tmp_path / "d", class_names=["a"])


def test_whole_shards_end_the_run(samples: list[Sample], tmp_path: Path) -> None:
    assert [shard.samples for shard in write(samples[:20], tmp_path / "d").shards] == [10, 10]
    assert write(samples[:20], tmp_path / "d").images == 20


def test_shards_written_one_by_one_in_any_order(samples: list[Sample], tmp_path: Path) -> None:
    whole = write(samples, tmp_path / "whole")
    out = tmp_path / "d"
    draft = dataclasses.replace(whole, shards=(), versions={}, record_bytes=0)
    assert not begin(out, draft)
    for number in (2, 0):
        write_one_shard(samples[10 * number : 10 * number + 10], shard_path(out, draft, number), draft)
    with pytest.raises(ShardError, match=r"shard-000001\.tar: not written yet"):
        finalise(out, draft)
    write_one_shard(samples[10:20], shard_path(out, draft, 1), draft)
    assert finalise(out, draft) == whole and contents(out) == contents(tmp_path / "whole")

    out = tmp_path / "twice"
    begin(out, draft)
    for number in range(2):
        write_one_shard(samples[5 * number : 5 * number + 10], shard_path(out, draft, number), draft)
    with pytest.raises(ShardError, match=rf"shard-000001.tar: sample {samples[5].key} is in shard-000000.tar already"):
        finalise(out, draft)


_KILLED = """
import sys
sys.path.insert(0, {tests!r})
import test_shards_write as t
t.write_small(t.Path(sys.argv[1]))
"""


def small_samples() -> list[Sample]:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12), (9, 99, 199)).save(buffer, "JPEG")
    return [sample(number, buffer.getvalue()) for number in range(60)]


def write_small(out: Path) -> None:
    """Without the judge of images: a child that was forked does not have the threads of the decoder."""
    write(small_samples(), out, samples_per_shard=7, check_images=False)


def test_kill_at_random_instants_and_rerun(tmp_path: Path) -> None:
    """After kill -9 at 20 random instants, a rerun gives every sample once and the files of an uninterrupted run."""
    write_small(tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    steps = _steps(tmp_path / "count")
    executions: dict[tuple[str, int], list[int]] = {}
    for step, line in enumerate(steps):
        executions.setdefault(line, []).append(step)
    rng = random.Random(7)
    # Ten anywhere in time; ten by a line of the writer's code first, so that rare steps get their share.
    instants = rng.sample(range(len(steps)), 10)
    instants += [rng.choice(executions[line]) for line in rng.sample(sorted(executions), 10)]
    states = set()
    for attempt, instant in enumerate(instants):
        out = tmp_path / f"k{attempt}"
        child = os.fork()
        if child == 0:
            _run_killed(out, instant)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        left = contents(out) if out.exists() else {}
        states.add(hashlib.sha256(repr(sorted(left.items())).encode()).hexdigest())
        for name, data in left.items():  # under its final name, a file is whole
            if not name.startswith("."):
                assert data == expected[name]
        assert _run_again(out) == expected
    assert len(states) >= 10


def _run_again(out: Path) -> dict[str, bytes]:
    write_small(out)
    stored = Dataset(out)
    assert list(stored.keys) == [one.key for one in small_samples()]
    return contents(out)


def _trace(at: int) -> list[tuple[str, int]]:
    """Note the writer's lines of Python as they run; kill this process at number ``at`` (-1: never)."""
    seen: list[tuple[str, int]] = []
    package = str(Path(write_module.__file__).parent)

    def tracer(frame: Any, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(package):
            return None
        if event == "line":
            if len(seen) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            seen.append((frame.f_code.co_filename, frame.f_lineno))
        return tracer

    sys.settrace(tracer)
    return seen


def _steps(out: Path) -> list[tuple[str, int]]:
    before = sys.gettrace()
    seen = _trace(-1)
    try:
        write_small(out)
    finally:
        sys.settrace(before)
    return seen


def _run_killed(out: Path, at: int) -> None:
    """In the forked child: write until the kill; never returns."""
    signal.alarm(60)
    try:
        _trace(at)
        write_small(out)
    finally:
        os._exit(3)


@pytest.mark.slow
def test_kill_by_the_clock(tmp_path: Path) -> None:
    """The same with a fresh process and the clock, so that kills land inside system calls too."""
    script = _KILLED.format(tests=str(Path(__file__).parent))
    write_small(tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    rng = random.Random(3)
    killed = 0
    for attempt in range(20):
        out = tmp_path / f"t{attempt}"
        process = subprocess.Popen([sys.executable, "-c", script, str(out)], cwd=Path(__file__).parent.parent)
        while process.poll() is None and not out.exists():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        assert _run_again(out) == expected
    assert killed >= 10


KEY_TEXT = st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=7
)  # a tar header holds 93 bytes, and a character may take 12


@given(st.lists(KEY_TEXT, unique=True, max_size=8))
@settings(deadline=None)
def test_safe_key_is_allowed_and_one_to_one(texts: list[str]) -> None:
    texts = [text for text in texts if all(part not in ("", ".", "..") for part in text.split("/"))]
    keys = [safe_key(text) for text in texts]
    assert len(set(keys)) == len(keys)
    for key in keys:
        check_key(Sample(key, b"", 0))
    assert safe_key("dog 1.v2") == "dog%201%2Ev2" and safe_key("n01/a_b-1") == "n01/a_b-1"


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 5)), max_size=200))
def test_key_table_finds_every_key(pairs: list[tuple[str, int]]) -> None:
    table, reference = KeyTable(), dict[str, set[int]]()
    for key, shard in pairs:
        assert set(table.shards_of(key)) == reference.get(key, set())
        table.add(key, shard)
        reference.setdefault(key, set()).add(shard)


def test_key_table_survives_growth_and_collisions(monkeypatch: pytest.MonkeyPatch) -> None:
    table = KeyTable()
    for number in range(5000):
        table.add(f"k{number}", number)
    assert all(number in table.shards_of(f"k{number}") for number in range(5000))
    monkeypatch.setattr(KeyTable, "_hash", staticmethod(lambda key: 7))
    table = KeyTable()
    for number in range(3):
        table.add(f"k{number}", number)
    assert table.shards_of("other") == [0, 1, 2]  # candidates only: the writer compares the keys themselves


def test_colliding_hashes_are_no_duplicates(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KeyTable, "_hash", staticmethod(lambda key: 7))
    assert write(samples, tmp_path / "d").images == 25
    with pytest.raises(ShardError, match="already"):
        write([*samples, samples[4]], tmp_path / "e")


def test_facts_survive_json(samples: list[Sample], tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="label"):
        write([*samples[:12], dataclasses.replace(samples[12], label=99)], tmp_path / "d", keep_bytes=True)
    path = tmp_path / "d" / "shard-000000.tar"
    facts = ShardFacts.load(path)
    (tmp_path / "d" / ".shard-000000.tar.json").unlink()
    scanned = ShardFacts.load(path)
    assert facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    lists = {"images": 0, "records": 0, "sizes": 0}  # of lists in one, of tuples in the other
    assert dataclasses.asdict(scanned) | lists == dataclasses.asdict(facts) | lists
    assert (scanned.entries() == facts.entries()).all()


def test_member_splits_names_as_wds2idx() -> None:
    wds2idx = pytest.importorskip("wds2idx")
    for name in ("a.jpg", "d.e/a.dr.zst", "d/a.b.c", "x/y/z.cls"):
        member = Member(name, 0, 0)
        assert (member.key, member.suffix) == wds2idx.IndexCreator.split_name(name)


@pytest.mark.parametrize(
    ("preset", "version"),
    [("rrc", 3), ("rrc+ra+re", 3), ("moco-v2", 5), ("crop+flip", 5), ("usi", 5), ("rrc+ta+re", 5)],
)
def test_the_format_version_is_the_lowest_that_says_it(
    preset: str, version: int, jpeg_bytes: list[bytes], tmp_path: Path
) -> None:
    spec = AugmentationSpec.preset(preset, 32)
    width, height = Image.open(io.BytesIO(jpeg_bytes[0])).size
    drawn = draw(spec, seed=0, key="a", views=range(5), image_height=height, image_width=width)
    stored = Reinforcements.from_views(drawn, np.zeros((5, 1), np.int32), np.full((5, 1), 0.5, np.float32))
    manifest = write([Sample("a", jpeg_bytes[0], 0, stored)], tmp_path / "d", spec=spec)
    dataset = Dataset(tmp_path / "d")
    assert manifest.format_version == version == dataset.manifest.format_version and dataset.spec == spec
    assert np.array_equal(dataset.reinforcements(0).pack(), drawn.pack())
    assert verify(tmp_path / "d", images=True, progress=False).problems == []
    if drawn.num_ops:
        columns = {name: getattr(stored, name) for name in ("crop", "flip", "erase", "soft_ids", "soft_probs")}
        fewer = Reinforcements(**columns, ops=stored.ops[:, 1:], magnitudes=stored.magnitudes[:, 1:])
        with pytest.raises(ShardError, match=f"{drawn.num_ops - 1} operations per view, the spec {drawn.num_ops}"):
            write([Sample("a", jpeg_bytes[0], 0, fewer)], tmp_path / "fewer", spec=spec)
