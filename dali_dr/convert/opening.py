"""Archives and images, as a user names them, opened and joined: a `Conversion`."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from dali_dr.convert import fkd, ml_dr, relabel
from dali_dr.convert.archives import Archive, open_archive
from dali_dr.convert.early import Early, Understood
from dali_dr.convert.format import Meaning
from dali_dr.convert.images import ENTERING, Entering, FromDataset, FromSource, InDataset, Pictures
from dali_dr.convert.names import Mirrored, Naming, Numbered
from dali_dr.convert.order import Ordered
from dali_dr.convert.prepared import Preparation, Prepared
from dali_dr.convert.published import Published
from dali_dr.convert.work import KEPT_NAME, Conversion, look_at_sizes, tuned
from dali_dr.encoded import MAX_PIXELS
from dali_dr.errors import ConvertError
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.manifest import MANIFEST_NAME
from dali_dr.shards.one_shard import OnError
from dali_dr.shards.write import SAMPLES_PER_SHARD
from dali_dr.sources import ImageFolder, Reading, WebDatasetTars, open_source
from dali_dr.sources.remote import read_place, shown_place, size_if_there
from dali_dr.sources.source import READING, Source
from dali_dr.sources.tars import SUFFIXES as TAR_SUFFIXES
from dali_dr.store.url import as_place, is_url, shown_url
from dali_dr.texts import Texts

_MAX_CONFIG: Final = 64 << 20  # bytes
_NO_FOLDERS: Final = (*TAR_SUFFIXES, ".csv", ".jsonl", ".parquet")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a user wants, whatever the format.

    Attributes:
      reinforced: folders and tars, or their URLs.
      images: a folder, tars, a list, or the folder of a data set of ours, see `dali_dr.sources.open_source`.
      out: folder of the data set.
      order: a file that lists images by index; None: they are in order.
      reading: of images that are no data set.
      entering: of images that are no data set.
      on_error, samples_per_shard, threads, progress: see `Conversion`.
      kept: whether what archives hold is kept in ``out`` until it is finished.
      early: whether files may be converted while an archive is looked through.
    """

    reinforced: Sequence[Path | str]
    images: str
    out: Path
    order: Path | str | None = None
    reading: Reading = READING
    entering: Entering = ENTERING
    on_error: OnError = "raise"
    samples_per_shard: int = SAMPLES_PER_SHARD
    threads: int | None = None
    progress: bool = True
    kept: bool = True
    early: bool = True


def open_ml_dr(wanted: Wanted, *, config: Path | str | None = None, **stored: Any) -> Conversion:
    """apple/ml-dr's archives. ``config``: a config.pth.tar in place of theirs; ``stored``: see `ml_dr.meaning`."""
    given = None
    if config is not None:
        try:
            given = read_place(config, _MAX_CONFIG)
        except (OSError, ValueError) as error:
            why = error.strerror or error if isinstance(error, OSError) else error
            raise ConvertError(f"{shown_place(config)}: cannot be read ({why})", kind="usage") from error
    images = _Images(wanted)

    def meaning(archives: Sequence[ml_dr.Configured]) -> Meaning:
        return ml_dr.meaning(archives, config=given, num_images=images.count, num_classes=images.num_classes, **stored)

    def understood(config: bytes) -> tuple[Meaning, Pictures] | None:
        if not (given or config):
            return None
        found = meaning([ml_dr.Alone(wanted.reinforced[0], {"": given or config})])
        pictures = images.pictures(found.preparation)
        look_at_sizes(found, pictures, wanted.progress)
        return found, pictures

    with tuned(), _early(wanted, images, understood) as early:
        archives = _archives(wanted, Numbered(), early)
    if early is not None and (made := early.outcome(archives[0].survey)) is not None:
        there, found, pictures = made
        return _conversion(wanted, archives, pictures, found, union=False, early=there)
    found = meaning(archives)
    return _conversion(wanted, archives, images.pictures(found.preparation), found, union=False)


def open_fkd(wanted: Wanted, **how: Any) -> Conversion:
    """szq0214/FKD's archives. ``how``: see `fkd.meaning`."""
    images = _Images(wanted)
    meaning, pictures = fkd.meaning(num_classes=images.num_classes, **how), images.pictures()
    with tuned(), _early(wanted, images, lambda config: (meaning, pictures)) as early:
        archives = _archives(wanted, Mirrored(images.keys, fkd.SUFFIX), early)
    made = early.outcome(archives[0].survey) if early is not None else None
    return _conversion(wanted, archives, pictures, meaning, union=True, early=made[0] if made else None)


def open_relabel(wanted: Wanted, **how: Any) -> Conversion:
    """naver-ai/relabel_imagenet's archives. ``how``: see `relabel.meaning`."""
    images = _Images(wanted)
    archives = _archives(wanted, Mirrored(images.keys, relabel.SUFFIX))
    first = next(data for _, data in archives[0].rows())
    try:
        meaning = relabel.meaning(first, num_classes=images.num_classes, **how)
    except ConvertError as error:
        raise ConvertError(f"{archives[0].path}: its first file: {error}", kind=error.kind) from error
    return _conversion(wanted, archives, images.pictures(), meaning, union=True)


OPENERS: Final[dict[str, Callable[..., Conversion]]] = {
    ml_dr.FORMAT: open_ml_dr,
    fkd.FORMAT: open_fkd,
    relabel.FORMAT: open_relabel,
}
"""By the name of the format."""


class _Images:
    """What ``wanted.images`` names."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._source: Source | None = None
        self._data: Dataset | None = None
        if (Path(wanted.images) / MANIFEST_NAME).is_file():
            if wanted.order is not None:
                raise ConvertError(
                    f"{wanted.images}: is a data set, which has its own order: leave --order out", kind="usage"
                )
            self._data = Dataset(wanted.images)
            if self._data.path.resolve() == wanted.out.resolve():
                raise ConvertError(f"{wanted.out}: is the data set of the images: choose another --out", kind="usage")
            return
        if _is_set(wanted.images):
            raise ConvertError(
                f"{shown_url(wanted.images)}: is a data set in a store: bring it here by `dali-dr copy`, and give its folder",
                kind="usage",
            )
        source = _compact([open_source(wanted.images, wanted.reading)])
        self._source = source if wanted.order is None else Ordered(source, wanted.order)

    @property
    def keys(self) -> Sequence[str]:
        return self.pictures().keys

    @property
    def count(self) -> int:
        return len(self.keys)

    @property
    def num_classes(self) -> int:
        return self.pictures().num_classes

    def pictures(self, preparation: Preparation | None = None) -> Pictures:
        """The images, prepared."""
        entering = self._wanted.entering
        if preparation is not None and preparation.changes:
            if entering.sidecar:
                raise ConvertError(
                    "--sidecar: the images of this set are stored enlarged or padded, so they cannot stay in their tars",
                    kind="usage",
                )
            source = self._source if self._data is None else InDataset(self._data)
            assert source is not None
            return FromSource(Prepared(source, preparation, entering.max_pixels), entering)
        if self._data is not None:
            return FromDataset(self._data)
        assert self._source is not None
        return FromSource(self._source, entering)


def _is_set(images: str) -> bool:
    """Whether the URL is that of a data set of ours."""
    if not is_url(images) or images.lower().endswith(_NO_FOLDERS):
        return False
    return size_if_there(f"{as_place(images)}/{MANIFEST_NAME}") is not None


def _compact(only: list[Source]) -> Source:
    """The source in the list with its texts in little memory, where they are the most of it; nobody else may hold it."""
    source = only.pop()
    if isinstance(source, ImageFolder):  # one after the other, so that never all are there twice
        source = dataclasses.replace(source, labels=np.asarray(source.labels, np.int32))  # type: ignore[arg-type]
        source = dataclasses.replace(source, files=Texts(source.files))
        return dataclasses.replace(source, keys=Texts(source.keys))
    if isinstance(source, WebDatasetTars):
        return dataclasses.replace(source, keys=Texts(source.keys))
    return source


def _early(wanted: Wanted, images: _Images, understood: Understood) -> contextlib.AbstractContextManager[Early | None]:
    """What converts a single archive's files while it is looked through; nothing where it would wait for images."""
    if not wanted.early or len(wanted.reinforced) > 1 or images.pictures().readers:
        return contextlib.nullcontext()
    return Early(wanted.out, images.count, understood, wanted.threads)


def _archives(wanted: Wanted, naming: Naming, early: Early | None = None) -> list[Archive]:
    seen: set[Path | str] = set()
    for path in wanted.reinforced:
        same = path.resolve() if isinstance(path, Path) else as_place(path)
        if same in seen:
            raise ConvertError(f"{shown_place(path)}: is given twice", kind="usage")
        seen.add(same)
    kept = wanted.out.absolute() / KEPT_NAME if wanted.kept else None
    archives = [
        open_archive(path, naming, kept=kept, progress=wanted.progress, passing=early) for path in wanted.reinforced
    ]
    for one, other in itertools.combinations(archives, 2):
        if one.has_files_of(other):
            raise ConvertError(
                f"{other.path}: holds the same files as {one.path}, so that every view would be there twice: give one of them",
                kind="usage",
            )
    return archives


def _conversion(
    wanted: Wanted,
    archives: Sequence[Archive],
    pictures: Pictures,
    meaning: Meaning,
    *,
    union: bool,
    early: Path | None = None,
) -> Conversion:
    kept = wanted.out.absolute() / KEPT_NAME
    try:
        published = Published(
            archives, len(pictures), union=union, kept=kept, progress=wanted.progress, keys=pictures.keys, early=early
        )
    except ConvertError as error:
        if early is not None:
            early.unlink(missing_ok=True)
        raise ConvertError(f"{error}{''.join(f'; {note}' for note in pictures.notes)}", kind=error.kind) from error
    return Conversion(
        published,
        pictures,
        meaning,
        keep_bytes=wanted.entering.keep_bytes,
        on_error=wanted.on_error,
        max_pixels=wanted.entering.max_pixels if isinstance(pictures, FromSource) else MAX_PIXELS,
        samples_per_shard=wanted.samples_per_shard,
        threads=wanted.threads,
        progress=wanted.progress,
    )
