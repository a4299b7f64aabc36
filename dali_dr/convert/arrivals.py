"""Files of an archive that can only be read from its beginning to its end, in another order than theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from dali_dr.convert.staging import Stage
from dali_dr.errors import ConvertError

BUDGET: Final = 16 << 20  # bytes of what waits in memory; twice as many while it goes to disk


class Arrivals:
    """Gives what is asked for, while the archive passes by; what comes early waits: in memory, then in a `Stage`.

    Numbers are asked for once each, and in rising order.

    Args:
      arrive: begins the archive anew: gives (number, bytes) in its order, without those for which the function that it is
        given is false.
      stage: where they wait.
      budget: of bytes in memory.
    """

    def __init__(
        self,
        arrive: Callable[[Callable[[int], bool]], Iterable[tuple[int, bytes]]],
        stage: Stage,
        budget: int = BUDGET,
    ) -> None:
        self._arrive, self._stage, self._budget = arrive, stage, budget
        self._memory: dict[int, bytes] = {}
        self._held = 0
        self._arriving: Iterator[tuple[int, bytes]] | None = None
        self._first = 0

    def take(self, number: int) -> bytes:
        """What has come, or comes, under ``number``. ConvertError if nothing does."""
        if (data := self._waiting(number)) is not None:
            return data
        for again in (False, True):  # what was damaged on disk comes when the archive is read again
            if self._arriving is None:
                self._first = number
                self._arriving = iter(self._arrive(self._wanted))
                again = True
            for other, data in self._arriving:
                if other == number:
                    return data
                self._keep(other, data)
            self._arriving = None
            if len(self._stage):  # so that a later run need not read it again
                self._spill()
            if again:
                break
        raise ConvertError("is not in the archive any more: was it changed?")

    def close(self) -> None:
        """Let go of archive and file; what waits on disk stays."""
        close = getattr(self._arriving, "close", None)
        if close is not None:
            close()
        self._arriving = None
        self._stage.close()

    def _wanted(self, number: int) -> bool:
        return number >= self._first and number not in self._memory and number not in self._stage

    def _waiting(self, number: int) -> bytes | None:
        data = self._memory.pop(number, None)
        if data is not None:
            self._held -= len(data)
            return data
        return self._stage.get(number)

    def _keep(self, number: int, data: bytes) -> None:
        self._memory[number] = data
        self._held += len(data)
        if self._held > self._budget:
            self._spill()

    def _spill(self) -> None:
        self._stage.put(self._memory.items())
        self._memory.clear()
        self._held = 0
