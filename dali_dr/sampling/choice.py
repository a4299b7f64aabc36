"""Which stored view of an image an epoch replays, and when it is drawn afresh instead."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, get_args

import numpy as np

from dali_dr.keyed import Int64, mix
from dali_dr.sampling.permutation import keyed_permutation

Window = Callable[[int], tuple[float, float]]
"""Epoch -> (a, b), 0 <= a < b <= 1: the part of the views, in the data set's row order (by falling confidence of the
teacher, or rising entropy), that it may replay."""
By = Literal["confidence", "entropy"]

# Streams of hashes, apart from each other and from those of the orders.
_VIEW, _FRESH = 0x56494557, 0x46524553


@dataclasses.dataclass(frozen=True)
class Choice:
    """The choice of views: every image walks through a permutation of its own of its views.

    So no view repeats before all were seen, and images are not in step with each other. An image that is shown several
    times in a turn takes its `of` · m views of the turn from one permutation, so they differ wherever as many are stored.
    That costs a little evenness: a permutation whose last views are too few for a whole turn ends without them (up to
    `of` · m - 1 views), and they wait for the next one. With `of` · m a divisor of the number of views none are left.

    Attributes:
      num_views: N, stored views per image; 0: none are stored, every view is fresh.
      seed: seed of the run.
      views_per_image: m, views of an image in one showing.
      window: a curriculum, or None for all views. While a window changes, a view may come again before all were seen.
      p_reinforced: probability that a stored view is replayed; else a fresh one is drawn.
    """

    num_views: int
    seed: int = 0
    views_per_image: int = 1
    window: Window | None = None
    p_reinforced: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.p_reinforced <= 1:
            raise ValueError(f"p_reinforced is {self.p_reinforced}, want a probability")
        if self.views_per_image < 1:
            raise ValueError(f"views_per_image is {self.views_per_image}, want at least 1")
        if self.num_views and self.views_per_image > self.num_views:
            raise ValueError(f"views_per_image is {self.views_per_image}, but only {self.num_views} views are stored")

    def views(
        self, samples: Int64, turns: Int64 | int, epoch: int, places: Int64 | int = 0, of: Int64 | int = 1
    ) -> Int64:
        """The views of each sample in its turn.

        Args:
          samples: (B,) sample numbers.
          turns: (B,) or one for all, as are places and of: how often the sample was due before, over all epochs.
          epoch: selects the window of a curriculum.
          places: which showing of the turn, 0 <= place < of (see `dali_dr.sampling.order.Showings`).
          of: showings that a turn may have.

        Returns:
          (B,) int64, or (B, m) with views_per_image > 1: rows of the record; v < 0 asks for a fresh view number -v - 1,
          which is (turn · of + place) · m + 0 … m - 1.
        """
        turns, places, of = (np.broadcast_to(np.asarray(n, np.int64), samples.shape) for n in (turns, places, of))
        if self.num_views == 0 or self.p_reinforced == 0:
            views = -1 - self._numbers(turns, places, of)
        else:
            views = self._stored(samples, turns, places, of, epoch)
            if self.p_reinforced < 1:
                numbers = self._numbers(turns, places, of)
                draw = mix(self.seed, _FRESH, numbers.astype(np.uint64), samples.astype(np.uint64)[:, None])
                replayed = draw >> np.uint64(11) < np.uint64(self.p_reinforced * 2**53)
                views = np.where(replayed, views, -1 - numbers)
        return views if self.views_per_image > 1 else views[:, 0]

    def _numbers(self, turns: Int64, places: Int64, of: Int64) -> Int64:
        """(B, m) numbers of the views, counted over the whole run."""
        return ((turns * of + places) * self.views_per_image)[:, None] + np.arange(self.views_per_image)

    def _stored(self, samples: Int64, turns: Int64, places: Int64, of: Int64, epoch: int) -> Int64:
        """Rows (B, m) of the record; turns of one size share one length of permutation."""
        if len(of) and (of == of[0]).all():  # as almost always
            return self._stored_alike(samples, turns, places, int(of[0]), epoch)
        views = np.empty((len(samples), self.views_per_image), np.int64)
        for count in np.unique(of).tolist():
            some = of == count
            views[some] = self._stored_alike(samples[some], turns[some], places[some], count, epoch)
        return views

    def _stored_alike(self, samples: Int64, turns: Int64, places: Int64, of: int, epoch: int) -> Int64:
        """Rows (B, m) of showings whose turns all have `of` places.

        A permutation serves whole turns only: as many as it has views for, or, where it has too few for one, that turn
        takes several, each for as many whole showings as it has views for.
        """
        m = self.views_per_image
        low, high = self.rows(epoch, of)
        showings = (high - low) // m  # of one permutation
        whole = max(showings // of, 1)  # turns of one permutation
        cycles, turn = np.divmod(turns, whole)
        steps = turn * of + places
        if of > showings:
            further, steps = np.divmod(steps, showings)
            cycles = cycles * -(-of // showings) + further
        steps = steps[:, None] * m + np.arange(m)
        keys = mix(self.seed, _VIEW, cycles.astype(np.uint64), samples.astype(np.uint64))
        return low + keyed_permutation(steps, high - low, np.broadcast_to(keys[:, None], steps.shape))

    def rows(self, epoch: int, of: int = 1) -> tuple[int, int]:
        """First row and the row after the last of an epoch's window; at least `of` · m rows, where as many are stored.

        Raises:
          ValueError: the window is no part of 0 … 1.
        """
        if self.window is None:
            return 0, self.num_views
        window = self.window(epoch)
        try:
            a, b = (float(edge) for edge in window)
        except (TypeError, ValueError):
            a, b = math.nan, math.nan
        if not 0 <= a < b <= 1:
            raise ValueError(
                f"the curriculum's window of epoch {epoch} is {window!r:.100}, want (a, b), 0 <= a < b <= 1"
            )
        least = min(of * self.views_per_image, self.num_views)
        low = min(math.floor(a * self.num_views), self.num_views - least)
        return low, max(math.ceil(b * self.num_views), low + least)


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """A window that moves from one part of the views to another by half a cosine (arXiv 2303.08983, appendix C.4).

    Attributes:
      start, end: "easy" (the views that the teacher is surest of), "hard" (those that it is least sure of) or "all".
      epochs: length of the change; afterwards the window stays.
      part: size of "easy" and "hard" as a part of all views; 0.1 in the paper.
      by: what says how sure the teacher is: "confidence" (the probability of its most likely class) or "entropy". Views
        are stored in one of both orders, which must be this one (`row_order` of `dali_dr.shards.write.write_shards`).
    """

    start: str
    end: str
    epochs: int
    part: float = 0.1
    by: By = "confidence"

    def __post_init__(self) -> None:
        for name in (self.start, self.end):
            if not isinstance(name, str) or name not in _WINDOWS:
                raise ValueError(f"a curriculum goes between {', '.join(_WINDOWS)}, not {name!r:.80}")
        if isinstance(self.epochs, bool) or not isinstance(self.epochs, (int, np.integer)) or self.epochs < 1:
            raise ValueError(f"epochs of a curriculum is {self.epochs!r:.80}, want a whole number from 1")
        if isinstance(self.part, bool) or not isinstance(self.part, (int, float)) or not 0 < self.part <= 1:
            raise ValueError(f"part of a curriculum is {self.part!r:.80}, want a number above 0, at most 1")
        if self.by not in get_args(By):
            raise ValueError(f"by of a curriculum is {self.by!r:.80}, want {' or '.join(map(repr, get_args(By)))}")

    @classmethod
    def of(cls, value: Mapping[str, Any] | str) -> Curriculum:
        """A curriculum as recipes say it.

        Args:
          value: the attributes by name, of which `part` and `by` may be absent; or these in one word, START-END:EPOCHS,
            and behind it :PART and :BY, as in "easy-all:100" or "easy-hard:300:0.1:entropy".

        Raises:
          ValueError: saying what is missing, not known, or out of range.
        """
        given = _words(value) if isinstance(value, str) else dict(value)
        fields = {field.name: field.default for field in dataclasses.fields(cls)}
        if unknown := [name for name in given if name not in fields]:
            raise ValueError(f"a curriculum has {', '.join(fields)}, not {unknown[0]!r:.80}")
        if missing := [
            name for name, default in fields.items() if default is dataclasses.MISSING and name not in given
        ]:
            raise ValueError(f"a curriculum wants {' and '.join(missing)}, too: {dict(given)!r:.200}")
        return cls(**given)

    @property
    def name(self) -> str:
        """What the loader's state remembers of it; `by` where it is not what it ever was."""
        further = "" if self.by == "confidence" else f", by={self.by!r}"
        return f"Curriculum(start={self.start!r}, end={self.end!r}, epochs={self.epochs}, part={self.part}{further})"

    def __call__(self, epoch: int) -> tuple[float, float]:
        progress = (1 - math.cos(math.pi * min(epoch / max(self.epochs - 1, 1), 1.0))) / 2
        start, end = (_WINDOWS[name](self.part) for name in (self.start, self.end))
        a, b = (s + progress * (e - s) for s, e in zip(start, end, strict=True))
        return a, b


def _words(text: str) -> dict[str, Any]:
    """START-END:EPOCHS[:PART][:BY] as attributes of `Curriculum`."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(
            f"a curriculum is START-END:EPOCHS, and behind it :PART and :BY, such as easy-all:100 or "
            f"easy-hard:300:0.1:entropy, not {text!r:.80}"
        )
    given: dict[str, Any] = {name: found for name, found in match.groupdict().items() if found is not None}
    given["epochs"] = int(given["epochs"])
    return given if "part" not in given else {**given, "part": float(given["part"])}


_TEXT: Final = re.compile(
    r"(?P<start>[a-z]+)-(?P<end>[a-z]+):(?P<epochs>[0-9]{1,9})(:(?P<part>[0-9]*\.?[0-9]+))?(:(?P<by>[a-z]+))?"
)
_WINDOWS: Final[dict[str, Callable[[float], tuple[float, float]]]] = {
    "easy": lambda part: (0.0, part),
    "hard": lambda part: (1.0 - part, 1.0),
    "all": lambda part: (0.0, 1.0),
}
