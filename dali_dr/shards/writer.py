"""write_shards: samples to tar shards, so that a kill at any instant loses at most the shard in work.

Order on disk for each shard: the tar under a hidden name, fsynced; its facts; its .idx; the tar's final name. So a
tar under its final name is complete. `index.bin` and `dataset.json` come last, from the facts of all shards. A
generator with several processes calls `begin`, then `write_one_shard` by number in each process, then `finalise`
(`dali_dr.reinforce.run` does).
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import io
import itertools
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

import numpy as np
import tqdm
from PIL import Image, UnidentifiedImageError

from dali_dr.augment.spec import AugmentationSpec
from dali_dr.errors import RecordError, ShardError
from dali_dr.record.encode import encode
from dali_dr.record.labels import Reinforcements, order_by_confidence
from dali_dr.record.layout import Probabilities
from dali_dr.record.logprobs import DEFAULT_LOG_STEP
from dali_dr.shards import tar
from dali_dr.shards.facts import ImageTars, ShardFacts, StoredSample, describe_topk, image_files, members_of
from dali_dr.shards.index import INDEX_NAME, MAX_LABEL, IndexedFile, SampleTable
from dali_dr.shards.manifest import MANIFEST_NAME, ImageTar, Manifest, library_versions

# 1000 ImageNet photos with 400 views each are about 115 MB: large enough for sequential reads (webdataset advises
# 100 MB to 1 GB), small enough that a kill costs a minute or two of one GPU's teacher.
SAMPLES_PER_SHARD: Final = 1000
STATE_NAME: Final = ".write_shards.json"  # the run's settings, while the data set is unfinished
MAX_IMAGE_BYTES: Final = 2**32 - 1  # the index counts in u32

_FORMATS: Final = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}  # Pillow's names and our suffixes
_log = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image lies in a tar that stays as it is: the tar's number in `Manifest.image_tars`, and the offset of the
    image's first byte there."""

    tar: int
    offset: int


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
    """One image as it goes into a shard.

    Attributes:
        key: name in the shard and in `Dataset.keys`; "/" makes folders, the part after the last "/" holds no dot.
        image_bytes: the encoded image (JPEG, PNG or WebP), stored untouched.
        label: class id, 0 <= label < num_classes.
        reinforcements: stored views and predictions, or None for a plain image.
        problem: why the sample cannot be stored, where that is known before; it is refused.
        place: where the image is, for a sidecar data set, which does not store it again.
    """

    key: str
    image_bytes: bytes
    label: int
    reinforcements: Reinforcements | None = None
    problem: str | None = None
    place: Place | None = None


Samples = Iterable[Sample] | Callable[[int], Iterable[Sample]]


def write_shards(
    samples: Samples,
    out: str | Path,
    *,
    spec: AugmentationSpec | None,
    num_classes: int,
    class_names: Sequence[str] | None = None,
    teacher: Mapping[str, Any] | None = None,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    name: str = "shard",
    probabilities: Probabilities = "log8",
    log_step: float = DEFAULT_LOG_STEP,
    seed: int | None = None,
    extra: Mapping[str, Any] | None = None,
    image_tars: Sequence[ImageTar] = (),
    resume: bool = True,
    on_error: OnError = "raise",
    check_images: bool = False,
    total: int | None = None,
    progress: bool = True,
) -> Manifest:
    """Write ``samples`` as a data set into the folder ``out``.

    A run that was killed is continued by the same call: finished shards are kept once their keys are found to be
    those of ``samples`` (their contents are not compared), and the result is byte for byte that of an uninterrupted
    run. Views are stored in order of falling confidence. Equal samples and settings give equal files with the same
    library versions.

    Args:
        samples: an iterable, or a function START -> iterable that leaves out the first START samples (refused ones
            count), so that a continued run need not compute them again.
        out: made if absent; may hold an unfinished run of the same settings.
        spec: what the views were drawn from; None only if no sample has reinforcements.
        num_classes: labels and teacher ids are below it.
        class_names: one per class.
        teacher: JSON-able: names [str], weights_digest, input_size, normalisation {mean, std}, and what else is known.
        samples_per_shard: of every shard but the last.
        name: shards are called NAME-000000.tar and on.
        probabilities, log_step: encoding of the teacher's probabilities, see `dali_dr.record.encode.encode`.
        seed: of the drawn views; kept in the manifest.
        extra: JSON-able, kept in the manifest.
        image_tars: the tars that hold the images (`Sample.place`): a sidecar data set, whose shards are records alone.
        resume: False refuses a folder that already holds shards.
        on_error: "skip" leaves refused samples out and logs each; "raise" stops at the first. Finished shards stay.
        check_images: also decode every image in full, to refuse images that are cut off (about 1 ms each).
        total: number of samples, for the progress bar, where ``samples`` has no length.
        progress: show a progress bar.

    Returns:
        The manifest that was written to ``out``/dataset.json.

    Raises:
        ShardError: naming the key of a sample that cannot be stored, or saying why the folder cannot be used.
    """
    _require(
        isinstance(samples, Iterable) or callable(samples),
        f"samples is a {type(samples).__name__}, want an iterable or a function of the number to leave out",
    )
    _require(num_classes in range(1, MAX_LABEL + 1), f"num_classes is {num_classes}, want 1..{MAX_LABEL}")
    _require(
        class_names is None or len(class_names) == num_classes,
        f"{len(class_names or ())} class_names for {num_classes} classes",
    )
    _require(samples_per_shard >= 1, f"samples_per_shard is {samples_per_shard}, want 1 or more")
    _require(on_error in ("raise", "skip"), f"on_error is {on_error!r}, want 'raise' or 'skip'")
    _require(
        re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}", name) is not None,
        f"name is {name!r}, want letters, digits, '_', '-' and '.'",
    )
    draft = Manifest(
        num_classes=num_classes,
        class_names=None if class_names is None else tuple(class_names),
        name=name,
        samples_per_shard=samples_per_shard,
        spec=spec,
        teacher=teacher,
        probabilities=None if spec is None else probabilities,
        log_step=log_step if spec is not None and probabilities == "log8" else None,
        seed=seed,
        extra=extra or {},
        image_tars=tuple(image_tars),
    )
    if total is None:
        with contextlib.suppress(TypeError):
            total = len(samples)  # type: ignore[arg-type]
    out = Path(out)
    with _lock(out), tqdm.tqdm(total=total, unit="img", disable=not progress, desc=out.name) as bar:
        if begin(out, draft, resume=resume):
            return _recheck(samples, out, on_error, bar)
        _write_missing(samples, out, draft, on_error, check_images, bar)
        return finalise(out, draft)


def begin(out: Path, draft: Manifest, *, resume: bool = True, alone: bool = True) -> bool:
    """Prepare ``out`` for a run of the settings in ``draft`` and remove what a killed run left half done.

    Args:
        resume: False refuses a folder that already holds a run.
        alone: no other process is writing there. False removes nothing, and of several processes that begin at once
            with different settings, all but one fail.

    Returns:
        Whether the data set is already finished.

    Raises:
        ShardError: if the folder holds another run, or shards although ``resume`` is False.
    """
    out.mkdir(parents=True, exist_ok=True)
    before = settings_of(out)
    if before is None:
        if finished_shards(out, draft):
            raise ShardError(f"{out}: holds {draft.name} shards of unknown origin; choose an empty folder")
        if not tar.create_atomically(out / STATE_NAME, json.dumps(draft.settings()).encode()):
            before = settings_of(out)  # another process was first
    elif not resume:
        raise ShardError(f"{out}: already holds a run; choose an empty folder, or resume=True to continue it")
    if before is not None:
        now = draft.settings()
        differing = [key for key in now if before.get(key) != now[key]]
        if differing:
            quoted = "; ".join(f"{k} was {before.get(k)!r:.80}, now {now[k]!r:.80}" for k in differing)
            raise ShardError(f"{out}: belongs to a run with other settings ({quoted}); choose another folder")
    finished = (out / MANIFEST_NAME).exists()
    if alone:
        _clean(out, draft, finished)
    return finished


def settings_of(out: Path) -> dict[str, Any] | None:
    """`Manifest.settings` of the run in ``out``, finished or not; None if there is none. ShardError if unreadable."""
    for _ in range(2):  # a run may be finished, and its state removed, in between
        try:
            if (out / MANIFEST_NAME).exists():
                return Manifest.load(out).settings()
            settings: dict[str, Any] = json.loads((out / STATE_NAME).read_bytes())
            return settings
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise ShardError(f"{out}: cannot be continued: {error}") from error
    return None


def write_one_shard(
    samples: Iterable[Sample],
    path: Path,
    draft: Manifest,
    *,
    limit: int | None = None,
    on_error: OnError = "raise",
    check_images: bool = False,
    topk: int | None = None,
    keys: KeyTable | None = None,
    confirm: Callable[[ShardFacts], None] | None = None,
) -> ShardFacts | None:
    """Write the shard ``path`` (see `shard_path`) and its .idx, atomically.

    Args:
        samples: read until ``limit`` samples are written or there are no more.
        draft: the settings; its shards and counts are not used.
        topk: teacher classes that every sample must have (-1: no reinforcements); None: as the first one has.
        keys: keys of other shards, which the samples must not have; theirs are added.
        confirm: called with the facts when all is written but nothing is seen under its final name; what it raises ends
            the call without a trace.

    Returns:
        The shard's facts, or None (and no shard) if there was no sample. If samples were left out of a shard that has no
        other, the facts stay beside it, see `empty_shards`.

    Raises:
        ShardError: naming shard and key, for a sample that cannot be stored and ``on_error="raise"``.
    """
    keys = KeyTable() if keys is None else keys
    number = _shard_number(path, draft)
    facts = ShardFacts(path.name, topk=topk)
    members: list[list[tar.Member]] = []
    sha = hashlib.sha256()
    partial = tar.temporary(path)
    try:
        with partial.open("wb", buffering=1 << 20) as file:

            def put(data: bytes) -> None:
                sha.update(data)
                file.write(data)
                facts.bytes += len(data)

            for sample in samples:
                try:
                    _check_key(sample)
                    for other in keys.shards_of(sample.key):
                        if sample.key in (facts.keys if other == number else _keys_of(path.parent, draft, other)):
                            _refuse(sample.key, f"is in {shard_path(path.parent, draft, other).name} already")
                    parts, views, sample_topk = _parts(sample, draft, check_images)
                    try:
                        facts.check_topk(sample_topk)
                    except ShardError as error:
                        _refuse(sample.key, str(error))
                except ShardError as error:
                    if on_error == "raise":
                        raise ShardError(f"{path.name}: {error}") from error
                    _log.warning("%s: left out: %s", path.name, error)
                    facts.skipped.append(str(getattr(sample, "key", sample)))
                    facts.reasons.append(str(error))
                    continue
                written = []
                for suffix, data in parts:
                    member = f"{sample.key}.{suffix}"
                    put(tar.header(member, len(data)))
                    written.append(tar.Member(member, facts.bytes, len(data)))
                    put(data)
                    put(tar.padding(len(data)))
                members.append(written)
                keys.add(sample.key, number)
                record = written[-1] if sample.reinforcements is not None else None
                image, image_tar = written[0], None
                if sample.place is not None and draft.image_tars:
                    image = tar.Member(sample.key, sample.place.offset, len(sample.image_bytes))
                    image_tar = sample.place.tar
                stored = StoredSample(sample.key, int(sample.label), image, record, image_tar)
                facts.add(stored, views, sample_topk)
                if len(members) == limit:
                    break
            put(tar.trailer(facts.bytes))
            facts.sha256 = sha.hexdigest()
            if members:
                file.flush()
                os.fsync(file.fileno())
        if confirm is not None:
            confirm(facts)
        if not members:
            if facts.skipped:
                tar.write_atomically(_empty_path(path), json.dumps(dataclasses.asdict(facts)).encode())
            return None
        facts.save(path)
        tar.write_atomically(path.with_suffix(".idx"), tar.idx_text(members).encode())
        partial.replace(path)
        tar.sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)
    return facts


def finalise(out: Path, draft: Manifest, *, clean: bool = True) -> Manifest:
    """Write ``index.bin`` and ``dataset.json`` for the finished shards in ``out``, and remove what was for resuming.

    Several processes may do it at once: both write the same, each file atomically, and dataset.json comes last.

    Args:
        clean: False leaves that to a later `begin`.

    Raises:
        ShardError: if a shard is missing, none exists, two hold the same key, or they differ in K.
    """
    numbers = finished_shards(out, draft)
    if not numbers:
        raise ShardError(f"{out}: no sample was written, so there is no data set")
    known = {*numbers, *empty_shards(out, draft)}
    if max(known) != len(known) - 1:
        missing = next(n for n in itertools.count() if n not in known)
        raise ShardError(f"{shard_path(out, draft, missing)}: not written yet, {len(numbers)} other shards are")
    images, table = ImageTars.of(out, draft), SampleTable(image_files(draft))
    keys, shards, record_bytes = KeyTable(), [], 0
    topk: int | None = None
    views: list[int] = []  # the extremes
    for number in numbers:
        path = shard_path(out, draft, number)
        facts = ShardFacts.load(path, images)
        _ensure_idx(path)
        for key in facts.keys:
            for other in keys.shards_of(key):
                if key in _keys_of(out, draft, other):
                    raise ShardError(f"{path}: sample {key} is in {shard_path(out, draft, other).name} already")
        for key in facts.keys:
            keys.add(key, number)
        if topk is not None and facts.topk != topk:
            raise ShardError(
                f"{path}: has {describe_topk(facts.topk or 0)}, the shards before it {describe_topk(topk)}"
            )
        topk = facts.topk
        views = [min(views + facts.views), max(views + facts.views)]
        shards.append(facts.info)
        record_bytes += facts.record_bytes
        table.add_file(IndexedFile(path.name, facts.bytes), facts.keys, facts.entries())
    table.write(out / INDEX_NAME, draft.num_classes)
    manifest = dataclasses.replace(
        draft,
        shards=tuple(shards),
        views_min=min(views),
        views_max=max(views),
        topk=max(topk or 0, 0),
        record_bytes=record_bytes,
        versions=library_versions(),
    )
    manifest.save(out)
    if clean:
        _clean(out, draft, finished=True)
    return manifest


def shard_path(out: Path, draft: Manifest, number: int) -> Path:
    """Where shard ``number`` lies."""
    return out / f"{draft.name}-{number:06d}.tar"


def finished_shards(out: Path, draft: Manifest) -> list[int]:
    """Numbers of the complete shards in ``out``, rising."""
    pattern = re.compile(re.escape(draft.name) + r"-(\d{6,})\.tar")
    return sorted(int(match[1]) for entry in os.scandir(out) if (match := pattern.fullmatch(entry.name)))


def empty_shards(out: Path, draft: Manifest) -> dict[int, ShardFacts]:
    """Facts, by number, of the shards that were done but are not there, because every sample of theirs was refused."""
    pattern = re.compile(rf"\.{re.escape(draft.name)}-(\d{{6,}})\.tar\.empty\.json")
    found = {int(match[1]): entry for entry in os.scandir(out) if (match := pattern.fullmatch(entry.name))}
    return {number: ShardFacts(**json.loads(Path(found[number]).read_bytes())) for number in sorted(found)}


class KeyTable:
    """Which shard a key is in, by 64-bit hash: 12 bytes a slot, at most half of them full (1.28 M keys: 50 MB).

    Hashes may collide, so a hit is to be checked against the keys of the shard it names.
    """

    def __init__(self) -> None:
        self._count = 0
        self._hashes = array.array("Q", bytes(8 << 10))
        self._shards = array.array("I", bytes(4 << 10))

    def shards_of(self, key: str) -> list[int]:
        """Shards that may hold ``key``."""
        value, shards = self._hash(key), []
        for slot in self._slots(value):
            if self._hashes[slot] == 0:
                break
            if self._hashes[slot] == value and self._shards[slot] not in shards:
                shards.append(self._shards[slot])
        return shards

    def add(self, key: str, shard: int) -> None:
        """Note that ``shard`` holds ``key``."""
        if 2 * self._count >= len(self._hashes):
            hashes, shards = self._hashes, self._shards
            self._hashes = array.array("Q", bytes(2 * hashes.itemsize * len(hashes)))
            self._shards = array.array("I", bytes(2 * shards.itemsize * len(shards)))
            for value, number in zip(hashes, shards, strict=True):
                if value:
                    self._put(value, number)
        self._put(self._hash(key), shard)
        self._count += 1

    def _put(self, value: int, shard: int) -> None:
        slot = next(slot for slot in self._slots(value) if self._hashes[slot] == 0)
        self._hashes[slot], self._shards[slot] = value, shard

    def _slots(self, value: int) -> Iterator[int]:
        mask = len(self._hashes) - 1
        return (slot & mask for slot in itertools.count(value & mask))

    @staticmethod
    def _hash(key: str) -> int:
        return hash(key) & (2**64 - 1) or 1  # 0 marks an empty slot


def safe_key(text: str) -> str:
    """``text`` as a key that is allowed: white space, control characters, "%" and the dots of its last part become %XX.

    Distinct texts give distinct keys. For names that come from elsewhere, such as "dog 1.v2" -> "dog%201%2Ev2".
    """
    folder, slash, base = text.rpartition("/")

    def escape(part: str, more: str = "") -> str:
        return "".join(
            "".join(f"%{byte:02X}" for byte in c.encode())
            if c.isspace() or not c.isprintable() or c in "%" + more
            else c
            for c in part
        )

    return escape(folder) + slash + escape(base, ".")


def image_info(image_bytes: bytes, *, full: bool = False) -> tuple[str, int, int]:
    """(suffix, height, width) of an encoded image, from its header; EXIF orientation is not applied.

    Args:
        full: decode it too.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if not image_bytes:
        raise ValueError("the image is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(image_bytes), formats=tuple(_FORMATS)) as image:
            suffix = next((s for f, s in _FORMATS.items() if f == image.format), "jpg")  # a JPEG may call itself MPO
            width, height = image.size
            if suffix == "png" and image_bytes[24:25] == b"\x10":  # the bit depth in IHDR
                # Decoders cut or round to 8 bits each in its own way, so views would differ between devices.
                raise ValueError("a PNG with 16 bits per channel; convert it to 8 bits")
            if full:
                image.load()
    except Exception as error:  # Pillow raises many kinds on damaged files
        why = "it is none" if isinstance(error, UnidentifiedImageError) else error  # whose text is a buffer's address
        raise ValueError(
            f"the image ({len(image_bytes)} bytes, starting {image_bytes[:8].hex()}) cannot be read as JPEG, PNG or "
            f"WebP: {why}"
        ) from error
    return suffix, height, width


def _write_missing(
    samples: Samples, out: Path, draft: Manifest, on_error: OnError, check_images: bool, bar: Any
) -> None:
    """Write every shard that ``out`` lacks, checking the others' keys against ``samples`` where those are at hand."""
    finished = set(finished_shards(out, draft))
    keys = KeyTable()
    topk: int | None = None
    start = 0
    if isinstance(samples, Iterable):
        stream = iter(samples)
    else:
        for start in itertools.count():
            if start not in finished:
                break
        images = ImageTars.of(out, draft)
        leading = [ShardFacts.load(shard_path(out, draft, number), images) for number in range(start)]
        consumed = sum(facts.consumed for facts in leading)
        bar.update(consumed)
        stream = iter(samples(consumed))
    for number in itertools.count():
        path = shard_path(out, draft, number)
        if number in finished:
            done = ShardFacts.load(path, ImageTars.of(out, draft))
            if number >= start:
                _follow(stream, done, path, bar)
            for key in done.keys:
                keys.add(key, number)
            facts: ShardFacts | None = done
        else:
            facts = write_one_shard(
                _counted(stream, bar),
                path,
                draft,
                limit=draft.samples_per_shard,
                on_error=on_error,
                check_images=check_images,
                topk=topk,
                keys=keys,
            )
        if facts is None:
            number -= 1
            break
        topk = facts.topk
        if len(facts.keys) < draft.samples_per_shard:  # the last one
            break
    surplus = next(stream, None)
    if surplus is not None:
        _other_run(out, f"{path.name} ended the run in it, but sample {surplus.key} follows now")
    if finished and max(finished) > number:
        _other_run(out, f"it holds {shard_path(out, draft, max(finished)).name}, but the samples end before that")


def _follow(stream: Iterator[Sample], facts: ShardFacts, path: Path, bar: Any) -> None:
    """Take the samples of a finished shard from ``stream`` and compare their keys."""
    skipped = list(facts.skipped)
    at = 0
    while at < len(facts.keys) or skipped:
        sample = next(stream, None)
        bar.update(sample is not None)
        if sample is not None and at < len(facts.keys) and sample.key == facts.keys[at]:
            at += 1
        elif sample is not None and str(getattr(sample, "key", sample)) in skipped:
            skipped.remove(str(getattr(sample, "key", sample)))
        else:
            want = facts.keys[at] if at < len(facts.keys) else skipped[0]
            got = "the samples end" if sample is None else f"{sample.key} comes"
            _other_run(path.parent, f"{path.name} has sample {want} where now {got}")


def _recheck(samples: Samples, out: Path, on_error: OnError, bar: Any) -> Manifest:
    """The manifest of a finished data set, after its keys were found to be those of ``samples``, if iterable."""
    from dali_dr.shards.dataset import Dataset

    dataset = Dataset(out)
    if isinstance(samples, Iterable):
        keys = iter(dataset.keys)
        want = next(keys, None)
        for sample in samples:
            bar.update()
            if sample.key == want:
                want = next(keys, None)
            elif on_error == "raise" or want is None or sample.key in dataset.keys:  # not one that was left out
                _other_run(out, f"sample {sample.key} comes where it has {want or 'no more'}")
        if want is not None:
            _other_run(out, f"it has sample {want}, the samples do not")
    return dataset.manifest


def _counted(stream: Iterator[Sample], bar: Any) -> Iterator[Sample]:
    for sample in stream:
        bar.update()
        yield sample


def _parts(sample: Sample, draft: Manifest, check_images: bool) -> tuple[list[tuple[str, bytes]], int, int]:
    """The members (suffix, bytes) of a sample in their order, its views and its K (-1: no reinforcements)."""
    key, image = sample.key, sample.image_bytes
    if sample.problem is not None:
        _refuse(key, sample.problem)
    if not isinstance(image, (bytes, bytearray, memoryview)):
        _refuse(key, f"image_bytes is a {type(image).__name__}, want the encoded image as bytes")
    image = bytes(image)
    if len(image) > MAX_IMAGE_BYTES:
        _refuse(key, f"the image has {len(image)} bytes, a shard holds up to {MAX_IMAGE_BYTES}")
    try:
        suffix, height, width = image_info(image, full=check_images)
    except ValueError as error:
        _refuse(key, str(error))
    label = sample.label
    if isinstance(label, bool) or not isinstance(label, (int, np.integer)) or not 0 <= label < draft.num_classes:
        _refuse(key, f"label is {label!r}, want an integer in 0..{draft.num_classes - 1}")
    parts = [(suffix, image), (tar.LABEL_SUFFIX, b"%d" % int(label))]
    reinforcements = sample.reinforcements
    if draft.image_tars:
        parts = []
        if sample.place is None or reinforcements is None:
            _refuse(key, "a sidecar data set wants a place and reinforcements for every sample")
    if reinforcements is None:
        return parts, 0, -1
    if not isinstance(reinforcements, Reinforcements):
        _refuse(key, f"reinforcements is a {type(reinforcements).__name__}, want a dali_dr.Reinforcements")
    if draft.spec is None or draft.probabilities is None:
        _refuse(key, "has reinforcements, but spec is None: pass the spec that its views were drawn from")
    num_ops = draft.spec.rand_augment.num_ops if draft.spec.rand_augment else 0
    if reinforcements.num_ops != num_ops:
        _refuse(key, f"has {reinforcements.num_ops} RandAugment operations per view, the spec {num_ops}")
    mixing, mix = draft.spec.mixing, reinforcements.mix
    if (mix is None) != (mixing is None) or (mix is not None and mixing is not None and mix.double != mixing.double):
        _refuse(key, "has mixed views and the spec no mixing, or the other way round, or one of them a double-mix")
    if (beyond := reinforcements.soft_ids >= draft.num_outputs).any():
        row = int(np.argmax(beyond.any(axis=1)))
        _refuse(
            key,
            f"view {row}: class id outside 0..{draft.num_outputs - 1} in {reinforcements.soft_ids[row].tolist()}",
        )
    try:
        frame = encode(
            reinforcements.take(order_by_confidence(reinforcements)),
            image_height=height,
            image_width=width,
            view_size=(draft.spec.size, draft.spec.size),
            probabilities=draft.probabilities,
            log_step=DEFAULT_LOG_STEP if draft.log_step is None else draft.log_step,
        )
    except RecordError as error:
        _refuse(key, str(error))
    return [*parts, (tar.RECORD_SUFFIX, frame)], len(reinforcements), reinforcements.topk


def _check_key(sample: Sample) -> None:
    """Refuse a key that tar, webdataset or DALI's reader would read differently."""
    if not isinstance(sample, Sample):
        raise ShardError(f"want a dali_dr.Sample, got {sample!r:.100}")
    key = sample.key
    if not isinstance(key, str) or not key:
        raise ShardError(f"sample {key!r:.100}: the key must be a string that is not empty")
    parts = key.split("/")
    for bad, what in (
        (any(c.isspace() or not c.isprintable() for c in key), "white space or control characters (.idx splits there)"),
        ("." in parts[-1], "a dot after the last '/' (webdataset splits the name there)"),
        (any(part in ("", ".", "..") for part in parts), "an empty, '.' or '..' part"),
        (re.match(r"__[^/]*__/", key) is not None, "a first part __…__ (webdataset leaves such out)"),
    ):  # fmt: skip
        if bad:
            _refuse(key, f"the key has {what}; rename it (dali_dr.shards.writer.safe_key does it)")
    try:
        tar.header(f"{key}.{tar.RECORD_SUFFIX}", 0)
    except ValueError as error:  # UnicodeEncodeError (lone surrogates) included
        _refuse(key, f"the key does not fit a tar header ({error}): at most 93 bytes after a '/', 155 before it")


def _refuse(key: str, what: str) -> NoReturn:
    raise ShardError(f"sample {key if key.isprintable() else repr(key)}: {what}")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ShardError(f"write_shards: {what}")


def _other_run(out: Path, what: str) -> NoReturn:
    raise ShardError(f"{out}: belongs to a run with other samples: {what}; choose another folder")


def _shard_number(path: Path, draft: Manifest) -> int:
    number = path.stem.removeprefix(f"{draft.name}-")
    if path.suffix != ".tar" or not number.isdigit() or path.name != shard_path(path.parent, draft, int(number)).name:
        raise ShardError(f"{path}: not the name of a shard; use shard_path(out, draft, number)")
    return int(number)


@functools.lru_cache(maxsize=4)
def _keys_in(path: Path, _modified: int) -> frozenset[str]:
    facts = ShardFacts.saved(path)
    return frozenset(facts.keys if facts else (members[0].key for members in members_of(path)))


def _keys_of(out: Path, draft: Manifest, number: int) -> frozenset[str]:
    path = shard_path(out, draft, number)
    return _keys_in(path, path.stat().st_mtime_ns)


def _empty_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.empty.json")


def _ensure_idx(path: Path) -> None:
    if not path.with_suffix(".idx").exists():
        tar.write_atomically(path.with_suffix(".idx"), tar.idx_text(list(members_of(path))).encode())


def _clean(out: Path, draft: Manifest, finished: bool) -> None:
    """Remove half-written files, files of shards that do not exist, and, once finished, what was for resuming."""
    shard = re.compile(rf"(\.?)({re.escape(draft.name)}-\d{{6,}})\.(tar\.json|idx)")
    empty = re.compile(rf"\.{re.escape(draft.name)}-\d{{6,}}\.tar\.empty\.json")
    ours = re.compile(
        rf"\.({re.escape(draft.name)}-\d{{6,}}\.(tar|idx)|\.{re.escape(draft.name)}-\d{{6,}}\.tar(\.empty)?\.json"
        rf"|{re.escape(INDEX_NAME)}|{re.escape(MANIFEST_NAME)}|{re.escape(STATE_NAME)})\.[0-9a-f]+\.tmp"
    )
    for entry in list(os.scandir(out)):
        match = shard.fullmatch(entry.name)
        orphan = match is not None and not (out / f"{match[2]}.tar").exists()
        spent = finished and (entry.name == STATE_NAME or (match is not None and match[1] == "."))
        if orphan or spent or empty.fullmatch(entry.name) or ours.fullmatch(entry.name):
            Path(entry.path).unlink(missing_ok=True)


@contextlib.contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Hold ``out`` for this process; the lock ends with the process, however that ends."""
    out.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ShardError(
                f"{out}: another process is writing there; wait for it or choose another folder"
            ) from error
        except OSError:
            _log.debug("%s: this file system has no locks", out)
        yield
    finally:
        os.close(descriptor)
