"""The images that published reinforcements are of: a source, whose images enter as those of `dali-dr pack`, or a data set
of ours, beside whose shards records are written."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol, overload

import google_crc32c
import numpy as np
import numpy.typing as npt

from dali_dr.ahead import ahead, batches
from dali_dr.encoded import ANY_PIXELS, MAX_PIXELS, image_info
from dali_dr.errors import ConvertError, ShardError
from dali_dr.images.admit import Admission
from dali_dr.images.convert import size_of
from dali_dr.images.judge import BATCH, Judge, Shown
from dali_dr.shards import tar
from dali_dr.shards.compare import Inventory
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.manifest import ImageTar
from dali_dr.shards.others import IMAGE_LABELS
from dali_dr.shards.sample import Origin, Place, Sample
from dali_dr.sources.entrance import Entrance
from dali_dr.sources.remote import Unavailable
from dali_dr.sources.source import Source, TarSource, image_labels, readers_of, sizes_of, staying_in_tars

_READERS: Final = 8  # threads that wait for files; of a store more
_READ_AHEAD: Final = 2 * BATCH  # images, and one for each reader
_JUDGED_AHEAD: Final = 4  # batches
_BLOCK: Final = 4096  # keys that are taken out of an index at a time


@dataclasses.dataclass(frozen=True)
class Entering:
    """How images enter; see `dali_dr.pack.pack`.

    Attributes:
      sidecar: they stay in their tars.
      check, keep_bytes, max_pixels, threads, convert: as there.
    """

    sidecar: bool = False
    check: bool = True
    keep_bytes: bool = False
    max_pixels: int = MAX_PIXELS
    threads: int | None = None
    convert: bool = False

    def size(self, data: bytes) -> tuple[int, int]:
        """(height, width) of an image from its header. ValueError: it does not enter."""
        try:
            return image_info(data, max_pixels=self.max_pixels)[1:]
        except ValueError:
            size = size_of(data, self.max_pixels) if self.convert else None
            if size is None:
                raise
            return size


ENTERING: Final = Entering()


class Pictures(Protocol):
    """Images in the order of the data set."""

    @property
    def keys(self) -> Sequence[str]: ...

    @property
    def class_names(self) -> Sequence[str] | None: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def notes(self) -> Sequence[str]: ...

    @property
    def sidecar(self) -> bool:
        """Whether they stay where they are."""

    @property
    def readers(self) -> int | None:
        """See `dali_dr.sources.source.readers_of`."""

    def __len__(self) -> int: ...

    def where(self, number: int) -> str: ...

    def size(self, number: int) -> tuple[int, int]:
        """(height, width) of image ``number``, as it will be stored. ValueError, OSError: it cannot be read."""

    def sizes(self) -> Iterator[tuple[int, int]]:
        """`size` of all, in order; (0, 0) where there is none."""

    def samples(self, start: int) -> Generator[Sample, None, None]:
        """From number ``start`` on, without records."""

    def inventory(self) -> Inventory:
        """Of all."""

    def image_tars(self, out: Path) -> tuple[ImageTar, ...]:
        """Where they stay, as a data set in ``out`` says it."""

    @property
    def extra(self) -> Mapping[str, Any]:
        """What a manifest says of how they entered, in its `extra`."""


class FromSource:
    """Images of a source, as `dali-dr pack` takes them.

    Args:
      source: the images.
      entering: how they enter.
    """

    def __init__(self, source: Source, entering: Entering) -> None:
        self._source, self._entering = source, entering
        self._tars: TarSource | None = staying_in_tars(source) if entering.sidecar else None
        self.keys, self.class_names, self.notes = source.keys, source.class_names, source.notes
        self.num_classes, self.sidecar = len(source.class_names), entering.sidecar
        self.readers: int | None = getattr(source, "readers", None)
        self._readers = readers_of(source, _READERS)
        self._window = max(_READ_AHEAD, self._readers + BATCH)

    def __len__(self) -> int:
        return len(self._source)

    def where(self, number: int) -> str:
        return self._source.where(number)

    def size(self, number: int) -> tuple[int, int]:
        sized = getattr(self._source, "image_size", None)
        if sized is not None:
            size: tuple[int, int] = sized(number)
            return size
        return self._entering.size(self._source.read(number))

    def sizes(self) -> Iterator[tuple[int, int]]:
        def size(number: int) -> tuple[int, int]:
            try:
                return self.size(number)
            except Unavailable:
                raise
            except (OSError, ValueError, ShardError):  # told of when its turn comes
                return 0, 0

        with ThreadPoolExecutor(self._readers, "read") as readers:
            yield from ahead(readers, size, range(len(self)), self._window)

    def samples(self, start: int) -> Generator[Sample, None, None]:
        how = self._entering
        with Judge(max_pixels=how.max_pixels, threads=how.threads, decode=how.check) as judge:
            entrance = self._entrance(judge)
            with ThreadPoolExecutor(self._readers, "read") as readers, ThreadPoolExecutor(1, "judge") as judging:
                read = ahead(readers, entrance.read, range(start, len(self._source)), self._window)
                admitted = ahead(judging, entrance.admit, batches(read, BATCH), _JUDGED_AHEAD)
                number = start
                for batch in admitted:
                    for sample in batch:
                        yield self._placed(sample, number)
                        number += 1

    def inventory(self) -> Inventory:
        source = self._source

        def crcs(count: int) -> Iterator[int]:
            """Of the first ``count`` images; of those that cannot be read, of no bytes."""

            def crc(number: int) -> int:
                try:
                    return int(google_crc32c.value(source.read(number)))
                except Unavailable:
                    raise
                except (OSError, ValueError):
                    return int(google_crc32c.value(b""))

            with ThreadPoolExecutor(self._readers, "read") as readers:
                yield from ahead(readers, crc, range(min(count, len(source))), self._window)

        def tiled_crc(number: int) -> int:
            from dali_dr.images.tiling import tile

            return int(google_crc32c.value(tile(source.read(number), None)[0]))

        tiled = not (self._entering.keep_bytes or self.sidecar)
        return Inventory(source.keys, source.labels, sizes_of(source), crcs, tiled_crc if tiled else None)  # type: ignore[arg-type]

    def image_tars(self, out: Path) -> tuple[ImageTar, ...]:
        return () if self._tars is None else self._tars.image_tars(out)

    @property
    def extra(self) -> Mapping[str, Any]:
        how = self._entering  # these decide what is in the data set
        extra: dict[str, Any] = {"max_pixels": how.max_pixels} if how.max_pixels != MAX_PIXELS else {}
        extra |= {} if how.check else {"decode_check": False}
        extra |= {"convert": True} if how.convert else {}
        return extra | (dict(image_labels(self._tars)) if self._tars is not None else {})

    def _entrance(self, judge: Judge) -> Entrance:
        keep = self._entering.keep_bytes or self.sidecar
        return Entrance(
            self._source, Admission(judge, mend=not self.sidecar, convert=self._entering.convert, tile=not keep)
        )

    def _placed(self, sample: Sample, number: int) -> Sample:
        return sample if self._tars is None else dataclasses.replace(sample, place=self._tars.place(number))


class FromDataset:
    """Images of a data set of ours, which stay in its shards, or in the tars beside it. They were judged before.

    Args:
      data: the data set.
    """

    sidecar = True
    readers: int | None = None
    notes: Sequence[str] = ()

    def __init__(self, data: Dataset) -> None:
        self._data = data
        self.keys: Sequence[str] = IndexKeys(data)
        self.class_names, self.num_classes = data.class_names, data.num_classes
        index = data.index
        if not (index.has_sizes and index.has_crcs):
            raise ConvertError(f"{data.path}: its index has no sizes or checksums: `dali-dr index --full` adds them")
        first = {int(file) for file in np.unique(index.entries["image_file"])}
        self._files = sorted(first)  # that hold images

    def __len__(self) -> int:
        return len(self._data)

    def where(self, number: int) -> str:
        return f"{self._data.path}, sample {number}"

    def size(self, number: int) -> tuple[int, int]:
        return self._data.image_size(number)

    def sizes(self) -> Iterator[tuple[int, int]]:
        for first in range(0, len(self), _BLOCK):
            entries = self._data.index.entries_of(first, min(first + _BLOCK, len(self)))
            yield from zip(entries["image_height"].tolist(), entries["image_width"].tolist(), strict=True)

    def samples(self, start: int) -> Generator[Sample, None, None]:
        places = {file: place for place, file in enumerate(self._files)}
        labels = self._data.index.labels
        for first in range(start, len(self), _BLOCK):
            stop = min(first + _BLOCK, len(self))
            entries = self._data.index.entries_of(first, stop)
            columns = ("image_file", "image_block", "image_bytes", "image_crc", "image_height", "image_width")
            rows = zip(
                self._data.index.keys_of(first, stop), *(entries[name].tolist() for name in columns), strict=True
            )
            for number, (key, file, block, size, crc, height, width) in enumerate(rows, first):
                yield Sample(
                    key,
                    b"",
                    int(labels[number]),
                    place=Place(places[file], block * tar.BLOCK, size, crc),
                    origin=Origin("", crc=crc, bytes=size),
                    shown=Shown("jpg", height, width),
                )

    def inventory(self) -> Inventory:
        crcs = self._data.index.entries["image_crc"]
        return Inventory(self.keys, self._data.index.labels, crcs=lambda count: map(int, crcs[:count]))  # type: ignore[arg-type]

    def image_tars(self, out: Path) -> tuple[ImageTar, ...]:
        files = self._data.index.files
        return tuple(
            ImageTar.seen_from(out, self._data.path / files[file].name, files[file].size) for file in self._files
        )

    @property
    def extra(self) -> Mapping[str, Any]:
        extra = self._data.manifest.extra
        return {IMAGE_LABELS: extra[IMAGE_LABELS]} if IMAGE_LABELS in extra else {}


class IndexKeys(Sequence[str]):
    """The keys of a data set, taken out of its index some thousand at a time."""

    def __init__(self, data: Dataset) -> None:
        self._index = data.index
        self._block = functools.lru_cache(2)(self._read)

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[str]: ...
    def __getitem__(self, number: int | slice) -> str | Sequence[str]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        number = self._index.checked(number)
        return self._block(number // _BLOCK)[number % _BLOCK]

    def __iter__(self) -> Iterator[str]:
        for block in range(-(-len(self) // _BLOCK)):
            yield from self._read(block)

    def _read(self, block: int) -> list[str]:
        return self._index.keys_of(block * _BLOCK, min((block + 1) * _BLOCK, len(self)))


class InDataset:
    """The images of a data set of ours as a source, of which new ones are made.

    Args:
      data: the data set.
    """

    notes: Sequence[str] = ()

    def __init__(self, data: Dataset) -> None:
        self._data = data
        self.keys: Sequence[str] = IndexKeys(data)
        self.labels: npt.NDArray[np.int32] = data.index.labels
        self.class_names: tuple[str, ...] = data.class_names or tuple(map(str, range(data.num_classes)))

    def __len__(self) -> int:
        return len(self._data)

    def read(self, number: int) -> bytes:
        return self._data.image(number)

    def where(self, number: int) -> str:
        return f"{self._data.path}, sample {number}"


def shown_size(shown: Shown | None, data: bytes) -> tuple[int, int]:
    """(height, width) of an image that was looked at before, or else from its header. ValueError if it has none."""
    if shown is not None:
        return shown.height, shown.width
    return image_info(data, max_pixels=ANY_PIXELS)[1:]
