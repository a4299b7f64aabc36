"""Dataset: a finished folder of shards, read by sample number."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from dali_dr.augment.spec import AugmentationSpec
from dali_dr.errors import RecordError, ShardError
from dali_dr.record.decode import Record, decode
from dali_dr.record.labels import Reinforcements
from dali_dr.shards import tar
from dali_dr.shards.facts import image_files, rebuild_index
from dali_dr.shards.index import INDEX_NAME, IndexedFile, Keys, SampleIndex
from dali_dr.shards.manifest import Manifest

_FEW_KEYS: Final = 100  # that are searched for one by one; for more, a table of all keys takes less time


class Dataset:
    """The data set in the folder ``path``.

    Opening reads dataset.json, maps index.bin (which is rebuilt from the shards where it is missing or stale) and looks
    up the size of every shard; samples are read when asked for. No file stays open but the index, so any number of
    shards will do; the object can be pickled and used after a fork.

    Attributes:
      path: the folder.
      manifest: its dataset.json.
      index: its mapped index.

    Raises:
      ShardError: if dataset.json or a shard is missing, damaged or of another size than dataset.json says.
    """

    def __init__(self, path: str | Path) -> None:
        # Shards are opened when samples are asked for, and the working directory may change before. Links stay links.
        self.path = Path(path).absolute()
        if not self.path.is_dir():
            raise ShardError(f"{self.path}: no such folder; a data set is a folder that write_shards made")
        self.manifest = Manifest.load(self.path)
        for name, expected in self._files():
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

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"Dataset({str(self.path)!r}): {len(self)} images, {self.num_views} views each"

    def __reduce__(self) -> tuple[type[Dataset], tuple[Path]]:
        return Dataset, (self.path,)

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
        """What the views were drawn from. ShardError for plain images, whose ``manifest.spec`` is None."""
        if self.manifest.spec is None:
            raise ShardError(f"{self.path}: holds plain images without reinforcements, so it has no spec")
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

    @functools.cached_property
    def labels(self) -> npt.NDArray[np.int32]:
        """The class ids of all samples: int32 (len,)."""
        return np.ascontiguousarray(self.index.entries["label"], np.int32)

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
        return int(self.index.entry(number)["label"])

    def image(self, number: int) -> bytes:
        """The encoded image of sample ``number``, as it was given to the writer."""
        return self._read(number, "image")

    def has_record(self, number: int) -> bool:
        """Whether sample ``number`` has reinforcements."""
        return int(self.index.entry(number)["record_bytes"]) > 0

    def record(self, number: int) -> Record:
        """The decoded reinforcement record of sample ``number``. ShardError if it has none or it is damaged."""
        if not self.has_record(number):
            raise ShardError(f"{self.path}: sample {number} ({self.keys[number]}) has no reinforcements")
        try:
            return decode(self._read(number, "record"))
        except RecordError as error:
            raise ShardError(
                f"{self._place(number, 'record')}: sample {number} ({self.keys[number]}): {error}"
            ) from error

    def reinforcements(self, number: int) -> Reinforcements:
        """The stored views and predictions of sample ``number``, in order of falling confidence."""
        return self.record(number).reinforcements

    def image_size(self, number: int) -> tuple[int, int]:
        """(height, width) in pixels of the image of sample ``number``, from its record; EXIF not applied."""
        record = self.record(number)
        return record.image_height, record.image_width

    def _read(self, number: int, kind: str) -> bytes:
        entry = self.index.entry(number)
        offset, size = int(entry[f"{kind}_block"]) * tar.BLOCK, int(entry[f"{kind}_bytes"])
        data = tar.read_at(self._place(number, kind), offset - tar.BLOCK, size + tar.BLOCK)
        if not tar.is_header_of(data[: tar.BLOCK], self.keys[number], size):
            raise ShardError(
                f"{self._place(number, kind)}: the {kind} of sample {number} ({self.keys[number]}) is not at byte "
                f"{offset}, where {self.index_path} has it: delete that file, it is rebuilt from the shards"
            )
        return data[tar.BLOCK :]

    def _files(self) -> list[IndexedFile]:
        """Every tar that samples lie in, in the index's order."""
        shards = [IndexedFile(shard.name, shard.bytes) for shard in self.manifest.shards]
        return shards + image_files(self.manifest)

    def _place(self, number: int, kind: str) -> Path:
        return self.path / self.index.files[int(self.index.entry(number)[f"{kind}_file"])].name

    def _open_index(self) -> SampleIndex:
        path = self.path / INDEX_NAME
        try:
            index = SampleIndex(path)
            if self._fits(index):
                return index
            why = "does not fit dataset.json"
        except ShardError as error:
            why = str(error)
        try:
            rebuild_index(self.path, self.manifest, path)
        except OSError as error:
            raise ShardError(
                f"{path}: has to be rebuilt ({why}) and cannot be written: {error.strerror}; make the folder writable "
                "for one opening"
            ) from error
        return SampleIndex(path)

    def _fits(self, index: SampleIndex) -> bool:
        return (
            index.files == tuple(self._files())
            and len(index) == self.manifest.images
            and index.num_classes == self.manifest.num_classes
        )
