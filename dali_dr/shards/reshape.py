"""subset and merge: another shape of a reinforced data set, without asking the teacher again."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from dali_dr.errors import ShardError
from dali_dr.images.tiles import tiled
from dali_dr.keyed import philox_key
from dali_dr.record.labels import ROW_ORDERS, Reinforcements, RowOrder
from dali_dr.record.logprobs import DEFAULT_LOG_STEP
from dali_dr.shards import tar
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.index_layout import IndexedFile
from dali_dr.shards.manifest import Decoder, ImageTar, Manifest
from dali_dr.shards.others import IMAGE_LABELS
from dali_dr.shards.outbox import folder_for
from dali_dr.shards.sample import Origin, Place, Sample
from dali_dr.shards.source_table import SOURCES_TABLE, read_sources
from dali_dr.shards.write import SAMPLES_PER_SHARD, write_shards
from dali_dr.store.url import as_place

Choice = Literal["random", "even"]
CHOICES: Final[tuple[Choice, ...]] = ("random", "even")
_PERSON: Final = b"dali_dr subset 1"  # version of the derivation of the random numbers


def choose_rows(count: int, keep: int, choice: Choice, key: str, seed: int = 0) -> npt.NDArray[np.intp]:
    """Which ``keep`` of a record's ``count`` rows stay, in rising order.

    Rows are stored by what the teacher is sure of, so the first ones would be the easy ones. "random": the first of a
    permutation that depends on (key, count, seed) alone; as every view was drawn independently, the result is
    distributed as if fewer had been drawn, and a smaller subset lies within a larger one. "even": row floor((i + 0.5) *
    count / keep), that is one of every stretch of the row order, which keeps the mean confidence of each image closest.
    """
    if choice == "even":
        return ((np.arange(keep) + 0.5) * count / keep).astype(np.intp)
    words = np.random.Philox(key=philox_key(key, seed, _PERSON)).random_raw(count)
    return np.sort(np.argsort(words, kind="stable")[:keep])


def choose_images(dataset: Dataset, what: str | int | Sequence[str]) -> npt.NDArray[np.int64]:
    """Sample numbers, rising, of the images that ``what`` names.

    Args:
      what: a number of images (the same ones every time, spread over the data set by a hash of their keys), a range
        "BEGIN:END" of sample numbers, a file with a key per line, or a sequence of keys.

    Raises:
      ShardError: a key is not there, or the number or range is empty or beyond the data set.
    """
    if isinstance(what, str) and what.isdecimal():
        what = int(what)
    if isinstance(what, int):
        if not 1 <= what <= len(dataset):
            raise ShardError(f"{dataset.path}: cannot choose {what} of {len(dataset)} images", kind="usage")
        hashes = [hashlib.blake2b(key.encode(), digest_size=8, person=_PERSON).digest() for key in dataset.keys]
        return np.sort(np.argsort(np.frombuffer(b"".join(hashes), ">u8"), kind="stable")[:what]).astype(np.int64)
    if isinstance(what, str) and ":" in what and not Path(what).exists():
        begin, _, end = what.partition(":")
        if not (begin or "0").isdecimal() or not (end or "0").isdecimal():
            raise ShardError(f"images {what!r}: want a number, BEGIN:END or a file of keys", kind="usage")
        numbers = np.arange(int(begin or 0), min(int(end or len(dataset)), len(dataset)))
        if not len(numbers):
            raise ShardError(f"{dataset.path}: images {what} are none of its {len(dataset)}", kind="usage")
        return numbers
    if isinstance(what, str):
        try:
            what = Path(what).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise ShardError(
                f"images {what!r}: neither a number, nor BEGIN:END, nor a file of keys: {error}", kind="usage"
            ) from error
    numbers = dataset.find_all(what)
    absent = [key for key, number in zip(what, numbers, strict=True) if number < 0]
    if absent or not what:
        raise ShardError(
            f"{dataset.path}: {len(absent)} of the {len(what)} keys are not there, such as {absent[:3]}", kind="usage"
        )
    return np.unique(numbers)


def subset(
    source: Dataset | str | Path,
    out: str | Path,
    *,
    views: int | None = None,
    topk: int | None = None,
    images: str | int | Sequence[str] | None = None,
    choice: Choice = "random",
    row_order: RowOrder | None = None,
    sidecar: bool = False,
    samples_per_shard: int | None = None,
    progress: bool = True,
) -> Manifest:
    """Write a smaller data set with some views, teacher classes or images of another; of label maps, with some images.

    With ``row_order`` alone, the same data set with its views in another order.

    ImageNet+ "Small" is 100 views of 400 and the 5 likeliest classes of 10. Probabilities stay what they are (the rest
    of the mass grows); with "log8" or "root8" and fewer classes, codes may be rounded anew.

    Args:
      source: a reinforced data set.
      out: folder, or URL of one in a store, to write, or to continue.
      views: kept of each image, see `choose_rows`; None: all.
      topk: likeliest classes kept of each view; None: all.
      images: kept, see `choose_images`; None: all.
      choice: of the views.
      row_order: of the views, by what is kept of the predictions, see `write_shards`; None: as ``source`` has it.
      sidecar: write the records alone, beside the tars that hold the images of ``source``.
      samples_per_shard: None: as ``source`` has it.
      progress: show a progress bar.

    Raises:
      ShardError: what is asked for is not there, or ``out`` holds something else.
    """
    data = _reinforced(source)
    manifest = data.manifest
    if manifest.label_maps is not None and (views, topk, row_order) != (None, None, None):
        raise ShardError(
            f"{data.path}: holds label maps, from which images alone can be chosen, not views, their order or classes",
            kind="usage",
        )
    if views is not None and not 1 <= views <= manifest.views_min:
        raise ShardError(f"{data.path}: cannot keep {views} views of {manifest.views_min} per image", kind="usage")
    if topk is not None and not 0 <= topk <= manifest.topk:
        raise ShardError(
            f"{data.path}: cannot keep {topk} classes of the {manifest.topk} stored per view", kind="usage"
        )
    if choice not in CHOICES:
        raise ShardError(f"choice is {choice!r}, want one of {', '.join(CHOICES)}", kind="usage")
    if row_order is not None and row_order not in ROW_ORDERS:
        raise ShardError(f"row_order is {row_order!r:.80}, want one of {', '.join(ROW_ORDERS)}", kind="usage")
    numbers = np.arange(len(data)) if images is None else choose_images(data, images)
    if len(numbers) < len(data) and manifest.spec is not None and manifest.spec.mixing is not None:
        raise ShardError(
            f"{data.path}: its views are mixed with others of its images, so all images must stay", kind="usage"
        )

    def change(number: int) -> Reinforcements:
        stored = data.reinforcements(number)
        if views is not None:
            # The rows of a double-mix belong together in pairs.
            pair = 2 if stored.mix is not None and stored.mix.double else 1
            rows = choose_rows(len(stored) // pair, -(-views // pair), choice, data.keys[number])
            stored = stored.take((rows[:, None] * pair + np.arange(pair)).ravel())
        return stored.likeliest(topk)

    shape = {
        "views": views,
        "topk": topk,
        "images": len(numbers),
        "choice": choice if views else None,
        "row_order": row_order,
    }
    history = {"subset": {name: value for name, value in shape.items() if value is not None}}
    return _write(
        data,
        numbers,
        change,
        as_place(out),
        history,
        sidecar,
        samples_per_shard,
        progress,
        manifest.decoder,
        row_order or manifest.row_order,
    )


def merge(
    first: Dataset | str | Path,
    second: Dataset | str | Path,
    out: str | Path,
    *,
    sidecar: bool = False,
    samples_per_shard: int | None = None,
    progress: bool = True,
) -> Manifest:
    """Write a data set with the views of two runs on the same images, such as two of 200 views with different seeds.

    The views are ordered as those of ``first``.

    Args:
      first, second: reinforced data sets of the same images, spec, teacher, K and encoding.
      out: folder, or URL of one in a store, to write, or to continue.
      sidecar: write the records alone, beside the tars that hold the images of ``first``.
      samples_per_shard: None: as ``first`` has it.
      progress: show a progress bar.

    Raises:
      ShardError: saying in what the two differ; or they share the seed, and so their views.
    """
    data, other = _reinforced(first), _reinforced(second)
    a, b = data.manifest, other.manifest
    if a.label_maps is not None or b.label_maps is not None:
        raise ShardError(
            f"{data.path} and {other.path} cannot be merged: label maps: {a.label_maps} and {b.label_maps}; an image has "
            "one, so there are no views of two runs to put together",
            kind="usage",
        )
    digests = [(m.teacher or {}).get("weights_digest") for m in (a, b)]
    for what, ours, theirs in (
        ("spec", a.spec, b.spec),
        ("classes", a.num_classes, b.num_classes),
        ("K", a.topk, b.topk),
        ("encoding", (a.probabilities, a.log_step), (b.probabilities, b.log_step)),
        ("teacher", digests[0], digests[1]),
        ("number of images", len(data), len(other)),
    ):
        if ours != theirs:
            raise ShardError(
                f"{data.path} and {other.path} cannot be merged: {what}: {ours} and {theirs}", kind="usage"
            )
    if a.seed is not None and a.seed == b.seed:
        raise ShardError(
            f"{data.path} and {other.path} were drawn with the same seed ({a.seed}), so their views are the same: "
            "reinforce the second with another --seed",
            kind="usage",
        )
    twins = other.find_all(data.keys)

    def change(number: int) -> Reinforcements:
        key = data.keys[number]
        twin = int(twins[number])
        if twin < 0:
            raise ShardError(
                f"{other.path}: has no sample {key}, which {data.path} has: merge data sets of the same images",
                kind="usage",
            )
        if not _is_same(data.image(number), other.image(twin)):
            raise ShardError(f"sample {key}: its images in {data.path} and {other.path} differ")
        pair = data.reinforcements(number), other.reinforcements(twin)
        if data.spec.mixing is not None and twin != number:
            raise ShardError(
                f"{other.path}: its views are mixed with images by number, and its order is another", kind="usage"
            )
        return _concatenated(*pair)

    history = {"merge": {"seeds": [a.seed, b.seed], "views": [a.views_min, b.views_min]}}
    decoder = a.decoder if a.decoder == b.decoder else None
    numbers, place = np.arange(len(data)), as_place(out)
    return _write(data, numbers, change, place, history, sidecar, samples_per_shard, progress, decoder, a.row_order)


def _write(
    data: Dataset,
    numbers: npt.NDArray[np.int64],
    change: Any,
    out: Path | str,
    history: dict[str, Any],
    sidecar: bool,
    samples_per_shard: int | None,
    progress: bool,
    decoder: Decoder | None,
    row_order: RowOrder,
) -> Manifest:
    """The samples ``numbers`` of ``data``, their reinforcements changed by ``change(number)``."""
    manifest = data.manifest
    check_elsewhere(data, out)
    if sidecar and data.url is not None:
        raise ShardError(
            f"{data.url}: records cannot lie beside tars in a store: copy the set here by `dali-dr copy` first",
            kind="usage",
        )
    seen_from = folder_for(out) if sidecar else data.path
    used = sorted(set(data.index.entries["image_file"][numbers].tolist())) if sidecar else []
    tiled = manifest.tiles is not None
    if tiled and data.remote is not None:
        data.remote.bring(SOURCES_TABLE)
    sources = read_sources(data.path, len(data)) if tiled else None

    def origin(number: int) -> Origin | None:
        """How large a tiled image was in its source, which is counted again: tiled it is already."""
        return Origin(bytes=0 if sources is None else int(sources["bytes"][number])) if tiled else None

    def samples(start: int) -> Iterator[Sample]:
        for number in numbers[start:].tolist():
            place = None
            if sidecar:
                entry = data.index.entry(number)
                place = Place(used.index(int(entry["image_file"])), int(entry["image_block"]) * tar.BLOCK)
            key, image, label = data.keys[number], data.image(number), data.label(number)
            views = change(number) if manifest.label_maps is None else None
            copied = None if manifest.label_maps is None else data.record_bytes(number)
            yield Sample(key, image, label, views, place=place, origin=origin(number), record=copied)

    files: list[IndexedFile] = [data.index.files[number] for number in used]
    # Where labels are in the image tars: said of those tars, and not of shards beside which records may lie, too.
    extra = {name: value for name, value in manifest.extra.items() if manifest.image_tars or name != IMAGE_LABELS}
    return write_shards(
        samples,
        out,
        spec=manifest.spec,
        num_classes=data.num_classes,
        class_names=data.class_names,
        teacher=manifest.teacher,
        samples_per_shard=samples_per_shard or manifest.samples_per_shard or SAMPLES_PER_SHARD,
        name=manifest.name,
        probabilities=manifest.probabilities or "log8",
        log_step=DEFAULT_LOG_STEP if manifest.log_step is None else manifest.log_step,
        seed=manifest.seed,
        extra={**extra, "made_by": [*manifest.extra.get("made_by", ()), history]},
        image_tars=[ImageTar.seen_from(seen_from, data.path / f.name, f.size) for f in files],
        keep_bytes=not tiled,
        decoder=decoder,
        label_maps=manifest.label_maps,
        row_order=row_order,
        total=len(numbers),
        progress=progress,
    )


def check_elsewhere(data: Dataset, out: Path | str) -> None:
    """ShardError if ``out`` is where ``data`` lies."""
    here, there = (place.resolve() if isinstance(place, Path) else place for place in (data.url or data.path, out))
    if here == there:
        raise ShardError(f"{out}: is the data set that is read; choose another folder", kind="usage")


def _is_same(first: bytes, second: bytes) -> bool:
    """Whether two stored images are the same one, of which only one may be tiled."""

    def as_tiled(image: bytes) -> bytes:
        found = tiled(image)
        return image if isinstance(found, str) else found

    return first == second or as_tiled(first) == as_tiled(second)


def _concatenated(first: Reinforcements, second: Reinforcements) -> Reinforcements:
    """The rows of both; every field is an array, None in both, or a dataclass of such."""

    def join(a: Any, b: Any) -> Any:
        if a is None and b is None:
            return None
        if dataclasses.is_dataclass(a) and not isinstance(a, type):
            columns = {f.name: join(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)}
            return dataclasses.replace(a, **columns)
        return np.concatenate([a, b])

    joined: Reinforcements = join(first, second)
    return joined


def _reinforced(dataset: Dataset | str | Path) -> Dataset:
    data = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
    if data.num_views < 1 and data.manifest.label_maps is None:
        raise ShardError(f"{data.path}: holds plain images without reinforcements", kind="usage")
    return data
