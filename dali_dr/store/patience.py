"""How long to try: pauses that grow and scatter, and an end."""

from __future__ import annotations

import math
import os
import random
import time
from typing import Final

from dali_dr.store.url import StoreError

RETRY_VARIABLE: Final = "DALI_DR_STORE_RETRY_S"
_RETRY_S: Final = 120.0
# Pauses as the SDKs of AWS and object_store make them: doubled from a tenth of a second, up to 15 s, "full jitter".
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 15.0
_SILENCE_S: Final = 30.0


def retry_s() -> float:
    """For how long a request is tried again before it fails: ``DALI_DR_STORE_RETRY_S``, else 120 s.

    Raises:
      StoreError: the variable is not a number of seconds.
    """
    text = os.environ.get(RETRY_VARIABLE)
    if text is None:
        return _RETRY_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise StoreError(f"{RETRY_VARIABLE} is not a number of seconds: set it to 0 or more, or remove it")
    return seconds


def silence_s() -> float:
    """How long a server may say nothing before the request counts as lost: 30 s, less where less is tried in all."""
    return min(_SILENCE_S, max(1.0, retry_s() / 4))


class Patience:
    """The tries of one request.

    Args:
      least: tries that are due however long they take.

    Attributes:
      tries: that failed.
    """

    def __init__(self, least: int = 1) -> None:
        self.tries = 0
        self._least = least
        self._limit = retry_s()
        self._begun = time.monotonic()
        self._pause = _FIRST_PAUSE_S

    def renew(self) -> None:
        """Bytes came: the time begins anew, since what is slow is not dead."""
        self._begun = time.monotonic()
        self._pause = _FIRST_PAUSE_S

    def wait(self) -> bool:
        """Counts a try that failed and pauses. False, at once, where the next try would be too late."""
        self.tries += 1
        pause = random.uniform(0.5, 1.0) * self._pause
        if self.tries >= self._least and time.monotonic() + pause - self._begun > self._limit:
            return False
        time.sleep(pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_S)
        return True
