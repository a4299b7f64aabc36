"""Work that is done ahead of whoever takes the results, in order: reading, judging."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


def ahead(executor: Executor, work: Callable[[_T], _R], items: Iterable[_T], window: int) -> Generator[_R, None, None]:
    """``work(item)`` of each item, in their order, up to ``window`` of them begun before they are asked for.

    The items are taken in the caller's thread. If that raises, what was begun before is given first.

    Args:
      executor: does the work.
      work: a function of an item.
      items: any number of them.
      window: at least 1.
    """
    waiting: deque[Future[_R]] = deque()
    stream = iter(items)
    failure: Exception | None = None
    try:
        while True:
            while failure is None and len(waiting) < window:
                try:
                    item = next(stream)
                except StopIteration:
                    break
                except Exception as error:
                    failure = error
                else:
                    waiting.append(executor.submit(work, item))
            if not waiting:
                break
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
    if failure is not None:
        raise failure


def batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Lists of up to ``size`` items, the last of what is left. Where taking one raises, the list before it comes first."""
    stream = iter(items)
    failure: Exception | None = None
    while failure is None:
        batch: list[_T] = []
        try:
            for item in itertools.islice(stream, size):
                batch.append(item)  # one by one: they stay where the next one fails
        except Exception as error:
            failure = error
        if batch:
            yield batch
        elif failure is None:
            return
    raise failure
