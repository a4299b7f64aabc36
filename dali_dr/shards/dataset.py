"""Dataset: a finished folder of shards, read by sample number."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import google_crc32c
import numpy as np
import numpy.typing as npt

from dali_dr.augment.spec import AugmentationSpec
from dali_dr.encoded import image_info
from dali_dr.errors import RecordError, ShardError, shown
from dali_dr.record.decode import Record, decode
from dali_dr.record.label_map import Ids, Scores, check_label_map, decode_label_map
from dali_dr.record.labels import Reinforcements
from dali_dr.shards import tar
from dali_dr.shards.absent import no_data_set
from dali_dr.shards.files import WriteError
from dali_dr.shards.homes import Homes
from dali_dr.shards.index import Keys, SampleIndex
from dali_dr.shards.index_fit import fits, indexed_files
from dali_dr.shards.index_layout import INDEX_NAME
from dali_dr.shards.manifest import Manifest
from dali_dr.shards.rebuild import rebuild_index
from dali_dr.store.url import as_place

if TYPE_CHECKING:
    from dali_dr.shards.remote import Remote

_log = logging.getLogger(__name__)

_FEW_KEYS: Final = 30  # that are searched for one by one; for more, a table of all keys takes less time


class Dataset:
    """The data set in the folder ``path``, or at a URL.

        dataset = dali_dr.Dataset("imagenet-plus")
        print(len(dataset), dataset.keys[0], dataset.label(0))
        stored = dataset.reinforcements(0)  # crops, operations, the teacher's ids and probabilities of the image's views
        jpeg = dataset.image(0)

    Opening reads dataset.json and goes once through index.bin (which is rebuilt from the shards where it is missing,
    damaged or stale), compares their checksums, and looks up the size of every shard; samples are read when asked for.
    No file stays open but the index, so any number of shards will do; the object can be pickled and used after a fork.

    Of a data set in a store (s3://…, gs://…, az://…, https://…, hf://…), dataset.json is fetched each time, index.bin once,
    and shards when samples are asked for, whole and checked; they stay in a cache on this machine (docs/stores.md).

    Args:
      path: the folder, or the URL.
      lossy: open it although shards are missing or of another size; only what lies in them is an error then, when it is
        asked for. `ReinforcedIterator` opens a folder so with on_error="skip".

    Stores:
      cache: folder of the cache for sets in a store; default: $DALI_DR_CACHE, or ~/.cache/dali_dr.
      cache_bytes: bytes that all sets in the cache may have; None: as many as leave 1 GiB of the disk free.

    Attributes:
      path: the folder; of a data set in a store, that in the cache.
      url: of a data set in a store, else None.
      manifest: its dataset.json.
      index: its index.

    Raises:
      ShardError: if dataset.json or a shard is missing, damaged or of another size than dataset.json says; or the store
        cannot be reached, or the cache not be written.
    """

    path: Path
    manifest: Manifest
    index: SampleIndex

    def __init__(
        self,
        path: str | Path,
        *,
        lossy: bool = False,
        cache: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        place = as_place(path)
        if isinstance(place, str):
            from dali_dr.shards.remote import Remote

            self._open_remote(Remote(place, cache, cache_bytes), lossy)
            return
        self.remote: Remote | None = None
        # Shards are opened when samples are asked for, and the working directory may change before. Links stay links.
        self.path = place.absolute()
        if not self.path.is_dir():
            raise no_data_set(self.path)
        self.manifest = Manifest.load(self.path)
        self._lossy = lossy
        for name, expected in () if lossy else indexed_files(self.manifest):
            place = self.path / name
            try:
                size = place.stat().st_size
            except OSError as error:
                raise ShardError(
                    f"{place}: {error.strerror}, but dataset.json lists it; restore it from a copy"
                ) from error
            if size != expected:
                raise ShardError(
                    f"{place}: has {size} bytes, dataset.json says {expected}: it is cut off or was changed; "
                    "restore it from a copy"
                )
        self.index = self._open_index()

    def _open_remote(self, remote: Remote, lossy: bool) -> None:
        self.remote, self.path, self.manifest, self._lossy = remote, remote.folder, remote.manifest, lossy
        try:
            index = SampleIndex(self.path / INDEX_NAME)
            if fits(index, self.manifest):
                self.index = index
                return
        except ShardError:
            pass
        remote.fetch_index()
        try:
            self.index = SampleIndex(self.path / INDEX_NAME)
        except ShardError as error:
            raise remote.bad_index(str(error)) from error
        if not fits(self.index, self.manifest):
            raise remote.bad_index("does not fit dataset.json")

    @classmethod
    def _of_remote(cls, remote: Remote, lossy: bool) -> Dataset:
        dataset = cls.__new__(cls)
        dataset._open_remote(remote, lossy)
        return dataset

    @property
    def url(self) -> str | None:
        """Of a data set in a store; else None."""
        return None if self.remote is None else self.remote.url

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"Dataset({self.url or str(self.path)!r}): {len(self)} images, {self.num_views} views each"

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        if self.remote is not None:
            return Dataset._of_remote, (self.remote, self._lossy)
        return functools.partial(Dataset, lossy=self._lossy), (self.path,)

    @property
    def index_path(self) -> Path:
        """The index file, as ``fn.dr.read`` takes it."""
        return self.index.path

    @property
    def keys(self) -> Keys:
        """The samples' keys: a sequence that decodes them one by one; `find` is the way back."""
        return self.index.keys

    @property
    def spec(self) -> AugmentationSpec:
        """What the views were drawn from. ShardError for plain images and label maps, whose ``manifest.spec`` is None."""
        if self.manifest.spec is None:
            what = "plain images without reinforcements" if self.manifest.label_maps is None else "label maps"
            raise ShardError(f"{self.path}: holds {what}, so it has no spec")
        return self.manifest.spec

    @property
    def num_views(self) -> int:
        """Views that every image has: rows 0 .. num_views - 1; 0 for plain images."""
        return self.manifest.views_min

    @property
    def num_classes(self) -> int:
        """Labels and teacher ids are below it."""
        return self.manifest.num_classes

    @property
    def num_outputs(self) -> int:
        """Length of the teacher's output: soft_ids are below it. The classes, but for a teacher of embeddings."""
        return self.manifest.num_outputs

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name per class, where the writer gave them."""
        return self.manifest.class_names

    @property
    def classes(self) -> list[str]:
        """One name per class, as torchvision's ImageFolder has them; where the writer gave none, their numbers."""
        return list(self.class_names or map(str, range(self.num_classes)))

    @functools.cached_property
    def labels(self) -> npt.NDArray[np.int32]:
        """The class ids of all samples: int32 (len,)."""
        return self.index.labels.copy()

    def find(self, key: str) -> int:
        """The sample number of ``key``. KeyError if there is none."""
        return self.index.find(key)

    def find_all(self, keys: Iterable[str]) -> npt.NDArray[np.int64]:
        """The sample numbers of ``keys``, -1 where there is none."""
        keys = list(keys)
        if len(keys) < _FEW_KEYS:
            return np.array([self.index.position(key) for key in keys], np.int64)
        numbers = {key: number for number, key in enumerate(self.keys)}
        return np.array([numbers.get(key, -1) for key in keys], np.int64)

    def label(self, number: int) -> int:
        """The class id of sample ``number``."""
        return int(self.index.labels[self.index.checked(number)])

    def image(self, number: int) -> bytes:
        """The encoded image of sample ``number``, as it is stored: tiled, or as it was given to the writer.

        Raises:
          ShardError: it is damaged, as far as its CRC in the index says, or, without one, its header.
        """
        entry, data = self.index.entry(number), self._read(number, "image")
        if self.index.has_crcs:
            if google_crc32c.value(data) != int(entry["image_crc"]):
                self._refuse(number, "image", "its CRC-32C is not the one in the index: it was changed or damaged")
        elif self.index.has_sizes:
            try:
                _, height, width = image_info(data)
            except ValueError as error:
                self._refuse(number, "image", str(error))
            if (height, width) != self.image_size(number):
                said = "x".join(map(str, self.image_size(number)))
                self._refuse(number, "image", f"it has {height}x{width} pixels, the index says {said}")
        return data

    def has_record(self, number: int) -> bool:
        """Whether sample ``number`` has reinforcements, or a label map."""
        return int(self.index.entry(number)["record_bytes"]) > 0

    def record(self, number: int) -> Record:
        """The decoded reinforcement record of sample ``number``. ShardError if it has none or it is damaged."""
        if self.manifest.label_maps is not None:
            raise ShardError(f"{self.path}: holds label maps, not records; read them by label_map(number)")
        try:
            record = decode(self.record_bytes(number))
        except RecordError as error:
            self._refuse(number, "record", str(error))
        ids = record.reinforcements.soft_ids
        if ids.size and (ids.min() < 0 or ids.max() >= self.num_outputs):
            self._refuse(number, "record", f"a class id is outside 0..{self.num_outputs - 1}")
        if self.index.has_sizes and self.image_size(number) != (record.image_height, record.image_width):
            height, width = self.image_size(number)
            what = f"for an image of {record.image_height}x{record.image_width} pixels, the index has {height}x{width}"
            self._refuse(number, "record", what)
        return record

    def label_map(self, number: int) -> tuple[Scores, Ids]:
        """The label map of sample ``number``: scores float32 and class ids int32, both (depth, height, width).

        ShardError if the data set has none, or it is damaged.
        """
        maps = self.manifest.label_maps
        if maps is None:
            raise ShardError(f"{self.path}: holds no label maps")
        member = self.record_bytes(number)
        try:
            check_label_map(member, maps, self.num_outputs)
            return decode_label_map(member)
        except RecordError as error:
            self._refuse(number, "record", str(error))

    def record_bytes(self, number: int) -> bytes:
        """The reinforcement record or label map of sample ``number`` as it is stored, unchecked. ShardError if it has none."""
        if not self.has_record(number):
            raise ShardError(f"{self.path}: sample {number} ({self.keys[number]}) has no reinforcements")
        return self._read(number, "record")

    def reinforcements(self, number: int) -> Reinforcements:
        """The stored views and predictions of sample ``number``, in the row order."""
        return self.record(number).reinforcements

    def image_size(self, number: int) -> tuple[int, int]:
        """(height, width) in pixels of the image of sample ``number``, from its header; EXIF not applied.

        With an index of version 1 it is the record that says so: ShardError if there is none.
        """
        if self.index.has_sizes:
            entry = self.index.entry(number)
            return int(entry["image_height"]), int(entry["image_width"])
        record = self.record(number)
        return record.image_height, record.image_width

    def place_of(self, number: int, kind: str) -> tuple[Path, int]:
        """The tar that holds the "image" or "record" of sample ``number``, and where in it its data begin, in bytes."""
        return self._place(number, kind), int(self.index.entry(number)[f"{kind}_block"]) * tar.BLOCK

    def holding(self, file: int) -> contextlib.AbstractContextManager[Path]:
        """The path of a file by its number in the index; of a data set in a store, it is there for so long.

        Raises:
          ShardError: it cannot be had from the store.
        """
        name = self.index.files[file].name
        return contextlib.nullcontext(self.path / name) if self.remote is None else self.remote.holding(name)

    def holding_samples(self, numbers: npt.NDArray[np.int64]) -> contextlib.AbstractContextManager[None]:
        """Has the files of samples here for so long, where they can be had; of a folder, they are."""
        if self.remote is None:
            return contextlib.nullcontext()
        return self.remote.holding_all(np.unique(self.homes.of(numbers)))

    @functools.cached_property
    def homes(self) -> Homes:
        """In which files samples lie."""
        return Homes(self.index, self.manifest)

    def samples_in(self, path: str | Path) -> npt.NDArray[np.int64]:
        """The numbers of the samples whose image or record lies in the tar at ``path``."""
        files = [number for number, file in enumerate(self.index.files) if self.path / file.name == Path(path)]
        entries = self.index.entries
        inside = np.isin(entries["image_file"], files) | (
            np.isin(entries["record_file"], files) & (entries["record_bytes"] > 0)
        )
        return np.flatnonzero(inside).astype(np.int64)

    def _read(self, number: int, kind: str) -> bytes:
        entry = self.index.entry(number)
        offset, size = int(entry[f"{kind}_block"]) * tar.BLOCK, int(entry[f"{kind}_bytes"])
        try:
            with self.holding(int(entry[f"{kind}_file"])) as place:
                data = tar.read_at(place, offset - tar.BLOCK, size + tar.BLOCK)
        except ShardError as error:
            raise ShardError(f"the {kind} of sample {number} ({self.keys[number]}): {error}") from error
        if not tar.is_header_of(data[: tar.BLOCK], self.keys[number], size):
            what = f"the {kind} of sample {number} ({self.keys[number]}) is not at byte {offset}"
            if self.remote is not None:
                raise self.remote.bad_index(f"{what} of {self._place(number, kind).name}, where it has it")
            raise ShardError(
                f"{self._place(number, kind)}: {what}, where {self.index_path} has it: delete that file, it is rebuilt from "
                "the shards"
            )
        return data[tar.BLOCK :]

    def _refuse(self, number: int, kind: str, what: str) -> NoReturn:
        place = self._place(number, kind)
        remedy = "restore it from a copy"
        if self.remote is not None:
            remedy = f"delete that file, it is fetched again from {self.url}; if it comes like that, {remedy}"
        raise ShardError(f"{place}: sample {number} ({self.keys[number]}): {kind}: {what}; {remedy}")

    def _place(self, number: int, kind: str) -> Path:
        return self.path / self.index.files[int(self.index.entry(number)[f"{kind}_file"])].name

    def _open_index(self) -> SampleIndex:
        path = self.path / INDEX_NAME
        try:
            index = SampleIndex(path)
            if fits(index, self.manifest):
                return index
            why = "does not fit dataset.json"
        except ShardError as error:
            why = str(error)
        try:
            rebuild_index(self.path, self.manifest, path)
        except WriteError as error:  # which says what to do
            raise ShardError(f"{path}: has to be rebuilt ({why}): {error}") from error
        _log.warning(
            "%s: rebuilt from the shards (%s), without checksums of images, which `dali-dr index --full %s` adds",
            shown(path), shown(why), shown(self.path),
        )  # fmt: skip
        return SampleIndex(path)
