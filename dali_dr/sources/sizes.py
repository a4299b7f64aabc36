"""Sizes of many objects: of those that have neighbours by listings of their folders, which tell of 1,000 at a time."""

from __future__ import annotations

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt

from dali_dr.sources.remote import READERS, Gone, listed, size_of, split, store_of

_WORTH: Final = 8  # objects of a folder, for which one listing is asked
_MORE: Final = 20  # times as many entries as objects that are wanted, and a page: then they are asked for one by one
_PAGE: Final = 1000
_LISTINGS: Final = 16  # at a time: a folder's entries are in memory


def sizes_at(urls: Sequence[str]) -> npt.NDArray[np.int64]:
    """Bytes of the objects at ``urls``, -1 of those that are not there.

    Raises:
      Unavailable: a store does not say.
    """
    sizes = np.full(len(urls), -1, np.int64)
    found: defaultdict[str, list[int]] = defaultdict(list)
    for number, url in enumerate(urls):
        found[url.rpartition("/")[0]].append(number)
    folders = {
        folder: numbers
        for folder, numbers in found.items()
        if len(numbers) >= _WORTH and not folder.lower().startswith("http")
    }
    single = [number for folder, numbers in found.items() if folder not in folders for number in numbers]

    def by_listing(item: tuple[str, list[int]]) -> list[int]:
        """Takes the sizes of objects of a folder; gives those that it did not tell."""
        folder, numbers = item
        wanted = {urls[number]: number for number in numbers}
        root, prefix = split(f"{folder}/x")
        entries = listed(store_of(root), prefix[:-1])
        for entry in itertools.islice(entries, _MORE * len(numbers) + _PAGE):
            number = wanted.pop(f"{root}/{entry.name}", None)
            if number is not None:
                sizes[number] = entry.bytes
        return list(wanted.values())

    def by_asking(number: int) -> None:
        with contextlib.suppress(Gone):
            sizes[number] = size_of(urls[number])

    with ThreadPoolExecutor(_LISTINGS, "list") as pool:
        single += itertools.chain.from_iterable(pool.map(by_listing, folders.items()))
    with ThreadPoolExecutor(READERS, "head") as pool:
        for _ in pool.map(by_asking, single):
            pass
    return sizes
