"""Files of a compressed archive that are converted while it is looked through, so that it inflates once.

What comes of them lies in a `Stage`, as what comes before its turn always does; the conversion finds it there. What is not
there, such as files before the configuration, or one with a fault to be told in its turn, is read again then.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from dali_dr.convert.arrivals import BUDGET
from dali_dr.convert.format import Meaning
from dali_dr.convert.images import Pictures
from dali_dr.convert.names import Named
from dali_dr.convert.staging import Stage
from dali_dr.convert.survey import Survey
from dali_dr.convert.work import KEPT_NAME, arrived
from dali_dr.errors import RecordError, ShardError
from dali_dr.shards import files

PREFIX: Final = "early-"  # of the file in the folder KEPT_NAME; the rest of its name is of one run, as its settings are
_BATCH: Final = 16  # files that a thread converts at a time
_WINDOW: Final = 6  # batches that are under way
Understood = Callable[[bytes], tuple[Meaning, Pictures] | None]


class Early:
    """Takes the files of one archive as they pass by. A context manager: at its end all of them are converted, and on disk.

    Args:
      out: folder of the data set; what is there of an earlier run is removed.
      count: images.
      understood: what the archive means, and its images, by its configuration (b"": it has none yet, which is enough for
        some formats); None: that is not enough. What it raises is told by whoever asks again later.
      threads: that convert; None: one for each CPU.
    """

    def __init__(
        self,
        out: Path,
        count: int,
        understood: Understood,
        threads: int | None = None,
    ) -> None:
        self.path = out.absolute() / KEPT_NAME / f"{PREFIX}{secrets.token_hex(4)}"
        self._config: bytes | None = None
        self._count, self._understood = count, understood
        self._what: tuple[Meaning, Pictures] | None = None
        self._folder: str | None = None
        self._executor = ThreadPoolExecutor(threads or len(os.sched_getaffinity(0)), "convert")
        self._batch: list[tuple[int, bytes]] = []
        self._begun: deque[Future[list[tuple[int, bytes]]]] = deque()
        self._memory: list[tuple[int, bytes]] = []
        self._held = 0
        self._stage: Stage | None = None
        self._failed = False

    def __enter__(self) -> Early:
        for left in self.path.parent.glob(f"{PREFIX}*"):  # by a kill; whose run goes on misses it, and reads again
            left.unlink(missing_ok=True)
        self._understand(b"")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        whole = False
        try:
            if kind is None and not self._failed:
                self._submit()
                self._collect(0)
                self._spill()
                whole = True
        finally:
            self._executor.shutdown(cancel_futures=True)
            if self._stage is not None:
                self._stage.close()
            if not whole:
                self.discard()

    def configured(self, named: Named, config: bytes) -> None:
        """The folder's configuration has come."""
        if self._folder in (None, named.folder):
            self._folder = named.folder
            self._understand(config)

    def came(self, named: Named, file: Callable[[], bytes]) -> None:
        """A file has come, whose bytes ``file`` gives."""
        if self._folder is None:
            self._folder = named.folder
        self._failed |= named.folder != self._folder  # runs, whose files make a record together
        if self._what is None or self._failed or named.number is None or not 0 <= named.number < self._count:
            return
        self._batch.append((named.number, file()))
        if len(self._batch) == _BATCH:
            self._submit()
            self._collect(_WINDOW)

    def outcome(self, survey: Survey) -> tuple[Path, Meaning, Pictures] | None:
        """The file of what was converted of an archive, now that all of it was looked through, and how; None: nothing was."""
        known = self._config in (b"", *survey.configs) and len(survey.folders) == 1
        if self._what is None or not known or not self.path.exists():
            self.discard()
            return None
        return self.path, *self._what

    def discard(self) -> None:
        """Nothing was converted."""
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _understand(self, config: bytes) -> None:
        with contextlib.suppress(ShardError):
            what = self._understood(config)
            if what is not None:
                self._what, self._config = what, config

    def _submit(self) -> None:
        batch, self._batch = self._batch, []
        if batch:
            self._begun.append(self._executor.submit(self._converted, batch))

    def _converted(self, batch: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        assert self._what is not None
        meaning, pictures = self._what
        found = []
        for number, file in batch:
            with contextlib.suppress(ShardError, RecordError):  # told of when it is read again, in its turn
                found.append((number, arrived(meaning, pictures, number, file)))
        return found

    def _collect(self, left: int) -> None:
        """Until so many batches are under way."""
        while len(self._begun) > left:
            for number, record in self._begun.popleft().result():
                self._memory.append((number, record))
                self._held += len(record)
        if self._held > BUDGET:
            self._spill()

    def _spill(self) -> None:
        if not self._memory:
            return
        if self._stage is None:
            files.make_folder(self.path.parent)
            self._stage = Stage(self.path, self._count)
        self._stage.put(self._memory)
        self._memory, self._held = [], 0
