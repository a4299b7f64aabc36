"""Whether the samples that a run is given are those that its folder holds already: by keys, labels and CRC-32C.

Nothing is decoded: of an image whose bytes are the same, what became of it the first time stands. Images that are stored
tiled are compared by the CRC-32C of what they were in their source; where that is not known any more, the source's bytes
are tiled again, which gives the same bytes.
"""

from __future__ import annotations

import array
import bisect
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import google_crc32c

from dali_dr.errors import ShardError, shown
from dali_dr.shards import tar
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.facts import ShardFacts
from dali_dr.shards.judged import as_tiled
from dali_dr.shards.report import Changed, Refused, read_changed, read_refused
from dali_dr.shards.sample import Sample
from dali_dr.shards.source_table import read_sources
from dali_dr.texts import Texts

_NAMED: Final = 3  # keys that a message names of each kind


@dataclass(frozen=True)
class Inventory:
    """What all samples of a run are, known without making them.

    Attributes:
      keys, labels: of the samples, in order.
      sizes: bytes of each image in the source, -1 where unknown; or None. They are kept with an unfinished run, so that
        changes of images that it had not come to yet are noticed, too, though nothing of theirs is written.
      crcs: gives the CRC-32C of the first COUNT images as they lie in the source, in order, None where unknown; None:
        images are not compared.
      tiled_crc: gives the CRC-32C of image NUMBER as it lies in the source, once it is tiled; None: it cannot be told.
    """

    keys: Sequence[str]
    labels: Sequence[int]
    sizes: Sequence[int] | None = None
    crcs: Callable[[int], Iterable[int | None]] | None = None
    tiled_crc: Callable[[int], int | None] | None = None

    def __post_init__(self) -> None:
        if len(self.keys) != len(self.labels) or len(self.keys) != len(
            self.labels if self.sizes is None else self.sizes
        ):
            raise ShardError("Inventory: keys, labels and sizes are of different lengths; want one of each per sample")

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """JSON-able: how many samples, and digests of keys with labels and of sizes."""
        return fingerprint(self.keys, self.labels, self.sizes)


def fingerprint(keys: Sequence[str], labels: Iterable[int], sizes: Iterable[int] | None) -> dict[str, Any]:
    """How many samples, a digest of ``keys`` with ``labels``, and one of ``sizes`` where they are given: JSON-able."""
    sha = hashlib.sha256()
    for key, label in zip(keys, labels, strict=True):
        sha.update(f"{key} {int(label)}\n".encode())
    found = {"images": len(keys), "digest": f"sha256:{sha.hexdigest()}"}
    if sizes is None:
        return found
    lengths = hashlib.sha256("".join(f"{int(size)}\n" for size in sizes).encode())
    return found | {"sizes": f"sha256:{lengths.hexdigest()}"}


def described(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """How the `fingerprint` ``now`` differs from the one ``before``; None if it does not, as far as both tell."""
    if before.get("images") != now["images"]:
        return f"it had {before.get('images')} images, now {now['images']}"
    if before.get("digest") != now["digest"]:
        return "it has as many images, but other keys, labels or another order"
    if "sizes" in before and "sizes" in now and before["sizes"] != now["sizes"]:
        return "it has the same keys and labels, but images of other sizes in bytes: some were replaced"
    return None


class Identity(NamedTuple):
    """A sample as it comes.

    Attributes:
      key, label: of it; the label is None where it is none.
      crc: CRC-32C of its image in the source, None where unknown.
      tiled_crc: gives that of the image once it is tiled, None where that is unknown, too; None: it cannot be told.
    """

    key: str
    label: int | None
    crc: int | None
    tiled_crc: Callable[[], int | None] | None = None

    @classmethod
    def of(cls, sample: Any) -> Identity:
        """Of ``sample``, which may be anything that a user's iterable gave."""
        seen = Refused.of(sample, ShardError())
        if not isinstance(sample, Sample) or not sample.can_be_stored:
            return cls(seen.key, seen.label, seen.crc32c)
        return cls(
            seen.key,
            seen.label,
            seen.crc32c,
            lambda: int(google_crc32c.value(bytes(as_tiled(sample).image_bytes))),
        )


@dataclass(frozen=True)
class Held:
    """What a folder holds of a run.

    Attributes:
      keys, labels: of the samples that are stored, in order.
      stored: gives the CRC-32C of the image of one of them, by its place in ``keys``, as it is stored; None: unknown.
      refused: samples that came and were left out.
      changed: by key, those that are not stored as they came.
      source: gives the CRC-32C of an image as it was in its source, where images are tiled; None of one: unknown; None of
        all: they are stored as they were.
    """

    keys: Sequence[str]
    labels: Sequence[int]
    stored: Callable[[int], int | None]
    refused: Sequence[Refused] = ()
    changed: dict[str, Changed] = field(default_factory=dict)
    source: Callable[[int], int | None] | None = None

    def crc(self, place: int) -> int | None:
        """CRC-32C of an image in its source when it was stored; None: unknown."""
        changed = self.changed.get(self.keys[place])
        if changed is not None:
            return changed.crc32c
        return self.stored(place) if self.source is None else self.source(place)

    def tiled(self, place: int) -> int | None:
        """CRC-32C of an image that is stored tiled, or as it would not be tiled; None: it is neither, or unknown."""
        return None if self.source is None or self.keys[place] in self.changed else self.stored(place)

    @classmethod
    def finished(cls, dataset: Dataset) -> Held:
        """Of a finished data set and its report."""
        index = dataset.index
        crcs = index.entries["image_crc"] if index.has_crcs else None

        def stored(place: int) -> int:
            return int(crcs[place] if crcs is not None else google_crc32c.value(dataset.image(place)))

        changed = {one.key: one for one in read_changed(dataset.path)}
        labels: Sequence[int] = index.labels  # type: ignore[assignment]
        rows = None if dataset.manifest.tiles is None else read_sources(dataset.path, len(dataset))

        def source(place: int) -> int | None:
            return int(rows["crc"][place]) if rows is not None and rows["bytes"][place] else None

        tiled = dataset.manifest.tiles is not None
        refused = read_refused(dataset.path)
        return cls(Texts(dataset.keys), labels, stored, refused, changed, source if tiled else None)

    @classmethod
    def of_shards(cls, shards: Iterable[ShardFacts], places: Sequence[Path], *, tiled: bool) -> Held:
        """Of finished shards that follow each other, of an unfinished data set.

        Args:
          shards: their facts, of which no more is kept than is compared.
          places: of the tar with the images of each.
          tiled: whether images are stored tiled.
        """
        starts: list[int] = []
        keys, labels = Texts(), array.array("i")
        crcs, sources = array.array("I"), array.array("I")  # of sources: CRC-32C and length
        unknown: dict[int, ShardFacts] = {}  # those of whose images not all CRCs are known
        refused: list[Refused] = []
        changed: dict[str, Changed] = {}
        for number, facts in enumerate(shards):
            starts.append(len(keys))
            for key in facts.keys:
                keys.append(key)
            labels.extend(facts.labels)
            if None in facts.crcs or len(facts.crcs) < len(facts.keys):
                unknown[number] = facts
            crcs.extend(
                crc or 0 for crc in itertools.islice(itertools.chain(facts.crcs, itertools.repeat(0)), len(facts.keys))
            )
            for crc, length in facts.sources or [(0, 0)] * len(facts.keys):
                sources.extend((crc, length))
            refused += facts.refused
            changed |= {one.key: one for one in facts.changed}

        def source(place: int) -> int | None:
            return sources[2 * place] if sources[2 * place + 1] else None

        def stored(place: int) -> int | None:
            shard = bisect.bisect_right(starts, place) - 1
            if shard not in unknown:
                return crcs[place]
            facts, at = unknown[shard], place - starts[shard]
            known = facts.crcs[at] if facts.crcs else None
            if known is not None or facts.image_tars:
                return known
            block, size = facts.images[at]
            return int(google_crc32c.value(tar.read_at(places[shard], block * tar.BLOCK, size)))

        return cls(keys, labels, stored, refused, changed, source if tiled else None)


class Comparison:
    """Compares samples, `see`n in the order in which they come, with what is `Held`.

    Args:
      held: what is there.
      whole: the samples end where the held ones do; False: others may follow, and are not looked at.
    """

    def __init__(self, held: Held, *, whole: bool = True) -> None:
        self._held, self._whole = held, whole
        self._at = 0  # the place that is due
        self._last = 0  # of the added ones, those before the last sample that is held
        self._refused: dict[str, list[Refused]] = {}
        for one in held.refused:
            self._refused.setdefault(one.key, []).append(one)
        self._places: dict[str, int] = {}  # of all keys, once it is asked for
        self._missing: dict[str, None] = {}  # passed over, in order
        self._first = ""  # where the two part
        self._found: dict[str, list[str]] = {kind: [] for kind in ("added", "bytes", "label", "moved")}

    @property
    def complete(self) -> bool:
        """Whether all that is held was seen, or passed over."""
        return self._at == len(self._held.keys) and not self._refused

    def see(self, sample: Identity) -> None:
        """Compare the sample that comes next."""
        held = self._held
        if self._at < len(held.keys) and sample.key == held.keys[self._at] and not self._is_twin(sample):
            self._compare(self._at, sample)
            self._at += 1
        elif sample.key in self._refused:
            self._compare_refused(sample)
        else:
            self._misplaced(sample)
            return
        self._last = len(self._found["added"])

    def differences(self) -> str:
        """What differs, in words: counts, and the first few keys of each kind; "" if nothing does."""
        rest = [self._held.keys[n] for n in range(self._at, len(self._held.keys))]
        removed = [*self._missing, *rest, *self._refused]
        added = self._found["added"] if self._whole else self._found["added"][: self._last]
        kinds = (
            (added, "added"),
            (removed, "not there any more"),
            (self._found["bytes"], "with other bytes"),
            (self._found["label"], "with another label"),
            (self._found["moved"], "in another place"),
        )
        found = ", ".join(_named(keys, what) for keys, what in kinds if keys)
        return found + self._first * bool(found)

    def _is_twin(self, sample: Identity) -> bool:
        """Whether a stored key comes for one that was left out and has the same key."""
        if sample.key not in self._refused or sample.crc is None:
            return False
        if not any(one.crc32c == sample.crc for one in self._refused[sample.key]):
            return False
        return self._is_another(self._at, sample) is not False

    def _is_another(self, place: int, sample: Identity) -> bool | None:
        """Whether the image of ``sample`` is not the one that is stored at ``place``; None where that cannot be told."""
        if sample.crc is None:
            return None
        if (before := self._held.crc(place)) is not None:
            return sample.crc != before
        stored = self._held.tiled(place)
        again = None if stored is None or sample.tiled_crc is None else sample.tiled_crc()
        return None if again is None else again != stored

    def _compare(self, place: int, sample: Identity) -> None:
        if sample.label != int(self._held.labels[place]):
            self._found["label"].append(sample.key)
        if self._is_another(place, sample):
            self._found["bytes"].append(sample.key)

    def _compare_refused(self, sample: Identity) -> None:
        waiting = self._refused[sample.key]
        one = next((one for one in waiting if one.crc32c == sample.crc), waiting[0])
        waiting.remove(one)
        if not waiting:
            del self._refused[sample.key]
        if None not in (one.crc32c, sample.crc) and one.crc32c != sample.crc:
            self._found["bytes"].append(sample.key)
        if None not in (one.label, sample.label) and one.label != sample.label:
            self._found["label"].append(sample.key)

    def _misplaced(self, sample: Identity) -> None:
        """Another sample comes than the one that is due."""
        if not self._first:
            due = self._held.keys[self._at] if self._at < len(self._held.keys) else next(iter(self._refused), "none")
            self._first = shown(f", from where {sample.key} comes in place of {due}")
        if not self._places:
            self._places = {key: place for place, key in enumerate(self._held.keys)}
        place = self._places.get(sample.key)
        if place is not None and place >= self._at:
            self._missing |= dict.fromkeys(self._held.keys[n] for n in range(self._at, place))
            self._compare(place, sample)
            self._at = place + 1
        elif sample.key in self._missing:
            del self._missing[sample.key]
            self._found["moved"].append(sample.key)
        else:
            self._found["added"].append(sample.key)
            return
        self._last = len(self._found["added"])


def compare_inventory(inventory: Inventory, held: Held, *, whole: bool, step: Callable[[], object]) -> str:
    """What differs between ``inventory`` and what is held (see `Comparison`), calling ``step`` for each image that is
    compared: keys and labels first, which costs nothing, then the images' bytes."""
    keys = Comparison(held, whole=whole)
    for key, label in zip(inventory.keys, inventory.labels, strict=True):
        if not whole and keys.complete:
            break
        keys.see(Identity(key, int(label), None))
    if (found := keys.differences()) or inventory.crcs is None:
        return found
    images = Comparison(held, whole=whole)
    count = len(held.keys) + len(held.refused)
    for identity in _with_crcs(inventory, inventory.crcs, count):
        images.see(identity)
        step()
    return images.differences()


def _with_crcs(inventory: Inventory, crcs: Callable[[int], Iterable[int | None]], count: int) -> Iterator[Identity]:
    tiled = inventory.tiled_crc
    for number, (key, label, crc) in enumerate(zip(inventory.keys, inventory.labels, crcs(count), strict=False)):
        yield Identity(key, int(label), crc, None if tiled is None else functools.partial(tiled, number))


def _named(keys: Sequence[str], what: str) -> str:
    more = ", …" if len(keys) > _NAMED else ""
    images = "image" if len(keys) == 1 else "images"
    return shown(f"{len(keys)} {images} {what} ({', '.join(keys[:_NAMED])}{more})")
