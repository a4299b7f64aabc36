"""The files of published archives by number of their image: found, complete, read where they are or when they come."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from dali_dr.ahead import ahead, batches
from dali_dr.convert.archives import Archive
from dali_dr.convert.arrivals import BUDGET, Arrivals
from dali_dr.convert.staging import Stage
from dali_dr.errors import ConvertError, shown
from dali_dr.progress import bar as progress_bar

_NAMED: Final = 3  # numbers that a message names


@dataclass(frozen=True)
class _Group:
    """Archives whose files are numbered together, ``runs`` of them for each image: one archive, or all of them.

    A slot is image * runs + run: slots rise as images do.
    """

    archives: Sequence[Archive]
    runs: int
    union: bool

    @property
    def streamed(self) -> bool:
        return any(archive.streamed for archive in self.archives)

    def slots(self, archive: Archive) -> npt.NDArray[np.int64]:
        """Of the files of ``archive``, in its order."""
        numbers = archive.survey.numbers.astype(np.int64)
        return numbers if self.union else numbers * self.runs + archive.survey.runs

    @property
    def name(self) -> str:
        return ", ".join(str(archive.path) for archive in self.archives[:_NAMED])


class Published:
    """Files by number of their image.

    Args:
      archives: that were looked through.
      count: images; each has a file in each folder of each archive, or with ``union`` one in all of them.
      union: whether the archives are parts of one.
      kept: a folder for what comes before its turn.
      budget: of bytes that wait in memory.
      progress: show a progress bar for archives that are read through.
      keys: of the images, by which messages name them.
      early: what was made of files before, as `begin`'s ``arrived`` makes it: a file that a `Stage` has written.

    Raises:
      ConvertError: an image has no file, or two, or there are files of no image.
    """

    def __init__(
        self,
        archives: Sequence[Archive],
        count: int,
        *,
        union: bool,
        kept: Path,
        budget: int = BUDGET,
        progress: bool = True,
        keys: Sequence[str] = (),
        early: Path | None = None,
    ) -> None:
        self.archives, self.count, self._early = archives, count, early
        self._kept, self._budget, self._progress = kept, budget, progress
        self._groups = (
            [_Group(archives, 1, True)] if union else [_Group([a], len(a.survey.folders), False) for a in archives]
        )
        self._rows = [_checked(group, count, keys) for group in self._groups]
        self._arrivals: list[Arrivals | None] = [None] * len(self._groups)

    @property
    def files(self) -> int:
        """Of each image."""
        return sum(group.runs for group in self._groups)

    @property
    def streamed(self) -> bool:
        """Whether any archive is read from its beginning to its end."""
        return any(group.streamed for group in self._groups)

    @property
    def alone(self) -> bool:
        """Whether each image has one file, which comes when it comes: `convert` it then."""
        return self.files == 1 and self.streamed

    @property
    def readers(self) -> int:
        """Threads that `read` at a time, where they wait for a store; 0: all lies on this machine."""
        return max(archive.readers for archive in self.archives)

    def begin(self, arrived: Callable[[int, bytes], bytes] | None = None, executor: Executor | None = None) -> None:
        """Before the first `take` of archives that are streamed.

        Args:
          arrived: makes what waits of the file of an image, as soon as it comes; None: it waits as it is.
          executor: that does it.
        """
        budget = self._budget // max(1, sum(group.streamed for group in self._groups))
        for number, group in enumerate(self._groups):
            if group.streamed:
                path = self._kept / f"stage-{number}"
                if self._early is not None and self._early.exists() and not path.exists():
                    self._early.replace(path)
                stage = Stage(path, self.count * group.runs)
                arrive = functools.partial(self._arrive, group, arrived, executor)
                self._arrivals[number] = Arrivals(arrive, stage, budget)

    def forget(self) -> None:
        """Removes what was made before, if `begin` has not taken it."""
        if self._early is not None:
            self._early.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of all that `begin` has begun."""
        for arrivals in self._arrivals:
            if arrivals is not None:
                arrivals.close()
        self._arrivals = [None] * len(self._groups)

    def take(self, number: int) -> list[bytes | None]:
        """The files of image ``number``; None for those that `read` gives. To be called with rising numbers, by one thread."""
        found: list[bytes | None] = []
        for group, arrivals in zip(self._groups, self._arrivals, strict=True):
            for run in range(group.runs):
                found.append(None if arrivals is None else arrivals.take(number * group.runs + run))
        return found

    def read(self, number: int) -> list[bytes | None]:
        """The files of image ``number``; None for those that `take` gives. From any thread."""
        found: list[bytes | None] = []
        for group, rows in zip(self._groups, self._rows, strict=True):
            for run in range(group.runs):
                found.append(None if rows is None else rows.read(number * group.runs + run))
        return found

    def coming(self) -> Generator[tuple[int, bytes], None, None]:
        """(number of the image, file) of all, as they come soonest, in any order."""
        for group, rows in zip(self._groups, self._rows, strict=True):
            if rows is not None:
                for slot, data in self._read_all(rows, self.count * group.runs):
                    yield slot // group.runs, data
            else:
                for archive in group.archives:
                    for row, data in archive.rows():
                        yield int(archive.survey.numbers[row]), data

    def _read_all(self, rows: _Rows, slots: int) -> Iterator[tuple[int, bytes]]:
        if not self.readers:
            for slot in range(slots):
                yield slot, rows.read(slot)
            return
        with ThreadPoolExecutor(self.readers, "published") as executor:
            found = ahead(executor, rows.read, range(slots), self.readers)
            with contextlib.closing(found):
                yield from enumerate(found)

    def staged(self) -> int:
        """Files that come so early that they would wait, if any number of bytes could not wait in memory."""
        return sum(
            _early(group.slots(archive)) for group in self._groups if group.streamed for archive in group.archives
        )

    def _arrive(
        self,
        group: _Group,
        arrived: Callable[[int, bytes], bytes] | None,
        executor: Executor | None,
        wanted: Callable[[int], bool],
    ) -> Iterator[tuple[int, bytes]]:
        files = self._files(group, wanted)
        if arrived is None or executor is None:
            yield from files
            return

        def made(some: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
            return [(slot, arrived(slot, file)) for slot, file in some]

        for some in ahead(executor, made, batches(files, _BATCH), _WINDOW):
            yield from some

    def _files(self, group: _Group, wanted: Callable[[int], bool]) -> Iterator[tuple[int, bytes]]:
        total = sum(archive.survey.length for archive in group.archives)
        places = [group.slots(archive) for archive in group.archives]
        left = sum(wanted(int(slot)) for slots in places for slot in slots)
        with progress_bar(
            total=total,
            unit="B",
            unit_scale=True,
            disable=not self._progress,
            position=1,
            leave=False,
            desc=shown(f"reading {group.archives[0].path.name}"),
        ) as bar:
            for archive, slots in zip(group.archives, places, strict=True):
                if not left:  # else what is ahead of need would look for more, to the end
                    break
                for row, data in archive.rows(bar.update):
                    slot = int(slots[row])
                    if wanted(slot):
                        yield slot, data
                        left -= 1
                        if not left:
                            break


_BATCH: Final = 16  # files that a thread converts at a time
_WINDOW: Final = 6  # batches that are converted before they are asked for


class _Rows:
    """Where the file of each slot is, of archives that are read anywhere."""

    def __init__(self, archives: Sequence[Archive], places: npt.NDArray[np.uint8], rows: npt.NDArray[np.int32]) -> None:
        self._archives, self._places, self._rows = archives, places, rows

    def read(self, slot: int) -> bytes:
        archive = self._archives[int(self._places[slot])]
        return archive.read(int(self._rows[slot]))


def _checked(group: _Group, count: int, keys: Sequence[str]) -> _Rows | None:
    """Where files are, of a group that is not streamed. ConvertError: one is missing, or is not wanted."""
    slots = count * group.runs
    places, rows = np.zeros(slots, np.uint8), np.full(slots, -1, np.int32)
    for place, archive in enumerate(group.archives):
        found = group.slots(archive)
        if len(found) and (beyond := int(found.max())) >= slots:
            raise ConvertError(
                f"{archive.path}: holds files of {beyond // group.runs + 1} images, where {count} are given: numbers are "
                "positions in torchvision's ImageFolder of the very images that were reinforced: give these, all of them"
            )
        order = np.argsort(found, kind="stable")
        ordered = found[order]
        twice = np.concatenate([ordered[1:][ordered[1:] == ordered[:-1]], ordered[rows[ordered] >= 0]])
        if len(twice):
            raise ConvertError(f"{archive.path}: index {int(twice[0]) // group.runs} has two files")
        rows[ordered], places[ordered] = order, place
    missing = np.flatnonzero(rows < 0)
    if len(missing):
        some = ", ".join(_named(int(slot) // group.runs, keys) for slot in missing[:_NAMED])
        more = ", …" if len(missing) > _NAMED else ""
        raise ConvertError(
            f"{group.name}: {len(missing)} of {slots} files are missing, of index {some}{more}, for {count} images: "
            "give the images that were reinforced, all of them and no others, and the whole archive"
        )
    return None if group.streamed else _Rows(group.archives, places, rows)


def _named(number: int, keys: Sequence[str]) -> str:
    return f"{number} ({keys[number]})" if number < len(keys) else str(number)


def _early(slots: Iterable[int] | npt.NDArray[np.int64]) -> int:
    """How many of the slots, in the order in which they come, come before one that is below them."""
    found = np.asarray(slots, np.int64)
    least = np.minimum.accumulate(found[::-1])[::-1] if len(found) else found  # of those from here on
    return int((found > least).sum())
