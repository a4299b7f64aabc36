"""A browser for tests of pages, which skip where there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "bench"))
import headless


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser of playwright's; the test skips where there is none."""
    try:
        headless.executable()
    except headless.NoBrowserError as error:
        pytest.skip(str(error))
    with headless.chromium() as browser:
        yield browser
