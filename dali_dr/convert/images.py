"""The images that published reinforcements are of: a source, whose images enter as those of `dali-dr pack`, or a data set
of ours, beside whose shards records are written."""

from __future__ import annotations

import codecs
import contextlib
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
from dali_dr.convert.names import PathTable
from dali_dr.encoded import ANY_PIXELS, MAX_PIXELS, image_info
from dali_dr.errors import ConvertError, ShardError, brief
from dali_dr.images.admit import Admission
from dali_dr.images.convert import size_of
from dali_dr.images.judge import BATCH, Judge, Shown
from dali_dr.shards import tar
from dali_dr.shards.compare import Inventory
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.manifest import ImageTar
from dali_dr.shards.others import IMAGE_LABELS, strip_leading
from dali_dr.shards.sample import Origin, Place, Sample, safe_key
from dali_dr.sources.entrance import Entrance
from dali_dr.sources.remote import Unavailable, read_place, shown_place
from dali_dr.sources.source import Source, TarSource, image_labels, readers_of, sizes_of, staying_in_tars
from dali_dr.texts import Texts

_READERS: Final = 8  # threads that wait for files; of a store more
_READ_AHEAD: Final = 2 * BATCH  # images, and one for each reader
_JUDGED_AHEAD: Final = 4  # batches
_BLOCK: Final = 4096  # keys that are taken out of an index at a time
_MAX_ORDER: Final = 1 << 30  # bytes of a list of paths
_OPEN: Final = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")  # what is open already


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


class Ordered:
    """A source in the order of a list of paths, one in each line: position in the list is the index of a reinforcement.

    Args:
      source: the images.
      file: the list; paths are compared without suffix with the keys of the images.

    Raises:
      ConvertError: naming a line whose image is not there, or was named before; or where images are not in the list.
    """

    def __init__(self, source: Source, file: Path | str) -> None:
        self._source = source
        self._numbers = _order(source, file)
        self.keys: Sequence[str] = Texts(source.keys[number] for number in self._numbers.tolist())
        labels = np.asarray(source.labels, np.int32)
        self.labels: npt.NDArray[np.int32] = labels[self._numbers]
        self.class_names, self.notes = source.class_names, source.notes
        for name in ("size", "place"):  # as far as the source knows them
            if hasattr(source, name):
                setattr(self, name, functools.partial(self._of, getattr(source, name)))
        for name in ("image_tars", "image_labels", "readers"):
            if hasattr(source, name):
                setattr(self, name, getattr(source, name))

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, number: int) -> bytes:
        return self._source.read(int(self._numbers[number]))

    def where(self, number: int) -> str:
        return self._source.where(int(self._numbers[number]))

    def _of(self, what: Any, number: int) -> Any:
        return what(int(self._numbers[number]))


def _order(source: Source, file: Path | str) -> npt.NDArray[np.int64]:
    """The number of the image of each line."""
    keys = source.keys
    try:
        data = _piped(file) if str(file).startswith(_OPEN) else read_place(file, _MAX_ORDER)
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    except (OSError, ValueError) as error:
        why = error.strerror or error if isinstance(error, OSError) else error
        raise ConvertError(
            f"{shown_place(file)}: cannot be read ({why}): want a path of an image in each line",
            kind="usage",
        ) from error
    tables = [PathTable(keys, "have one key")]
    with contextlib.suppress(ConvertError):  # two images called alike in folders called alike
        tables.append(PathTable((_last(key) for key in keys), ""))
    names = (line.strip() for line in text.splitlines())
    found: list[int] = []
    seen = np.zeros(len(keys), bool)
    for line, name in enumerate(names, 1):
        if not name:
            continue
        number = next((one for table in tables if (one := _find(table, name)) >= 0), -1)
        if number < 0 or seen[number]:
            what = "no image is called so" if number < 0 else "this image was named before"
            raise ConvertError(f"{file}: line {line}: {brief(name)}: {what}", kind="usage")
        seen[number] = True
        found.append(number)
    if len(found) < len(keys):
        missing = int(np.argmin(seen))
        raise ConvertError(
            f"{file}: names {len(found)} of {len(keys)} images, and not {named(source, missing)}: it must name them all, in the "
            "order in which they were reinforced",
            kind="usage",
        )
    return np.array(found, np.int64)


def _piped(path: Path | str) -> bytes:
    """What a shell's ``<(command)`` writes; a FIFO might have nobody who writes."""
    with Path(path).open("rb") as pipe:
        data = pipe.read(_MAX_ORDER + 1)
    if len(data) > _MAX_ORDER:
        raise ValueError(f"more than {_MAX_ORDER} bytes come")
    return data


def named(images: Source | Pictures, number: int) -> str:
    """Image ``number``, for messages: its key, and where it is if the key is written otherwise."""
    key = images.keys[number]
    return f"{key}, {images.where(number)}" if "%" in key else key


def _find(table: PathTable, name: str) -> int:
    """The image that ``name`` means: a key, or a path with a suffix, of which folders in front may be too many; or -1."""
    path = strip_leading(name)
    while path:
        base = path.rfind("/") + 1
        dot = path.rfind(".", base + 1)
        for text in (path, path[:dot] if dot > 0 else path):
            for key in (text, safe_key(text)):
                if (number := table.find(key)) >= 0:
                    return number
        path = path.partition("/")[2]
    return -1


def _last(key: str) -> str:
    """The last folder and the name."""
    return "/".join(key.split("/")[-2:])


def shown_size(shown: Shown | None, data: bytes) -> tuple[int, int]:
    """(height, width) of an image that was looked at before, or else from its header. ValueError if it has none."""
    if shown is not None:
        return shown.height, shown.width
    return image_info(data, max_pixels=ANY_PIXELS)[1:]
