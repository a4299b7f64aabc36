"""The machine's own Chromium, driven by playwright: for bench/preview.py, and for tests of pages (tests/browser.py)."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class NoBrowserError(Exception):
    """Why there is none, and what to install."""


def executable() -> str:
    """The browser on the PATH; playwright is there to drive it.

    Raises:
      NoBrowserError: one of the two is not there.
    """
    if not importlib.util.find_spec("playwright"):
        raise NoBrowserError("playwright is not installed (pip install '.[docs]')")
    if (path := next(filter(None, map(shutil.which, NAMES)), None)) is None:
        raise NoBrowserError("there is no Chromium on the PATH (Debian: apt-get install chromium)")
    return path


@contextmanager
def chromium() -> Iterator[Any]:
    """A fresh headless browser of playwright's.

    Raises:
      NoBrowserError: as `executable`.
    """
    path = executable()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()
