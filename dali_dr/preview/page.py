"""The page to browse a set: one HTML file that asks for nothing else.

Style and script are in assets/. What they show follows in data blocks, `<script type="application/octet-stream">`, which
browsers neither run nor understand: base64, so that no name in them can end them. First comes "set" (JSON, deflated: what the
set is, class names, keys, plots), then "facts" (rows of `dali_dr.preview.facts.FACTS`, deflated), then "chunk-0" and on: a few
images each, three pieces parted by spaces: their details (JSON, deflated), a sprite of the images, and one of all their views.
The script stands behind the first chunk, so the first pictures show while the rest still comes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from dali_dr.ahead import ahead
from dali_dr.errors import DaliDrError, kind_of, shown
from dali_dr.loader.options import default_threads
from dali_dr.preview.facts import FACTS, Read, Reader, details, sampled
from dali_dr.preview.maps import colour
from dali_dr.preview.names import Names
from dali_dr.preview.replayed import Pixels, Replayer, Wanted, named_view
from dali_dr.preview.stats import Statistics
from dali_dr.preview.thumbs import Sizes, image_thumb, sprite, view_thumbs, webp
from dali_dr.progress import bar as progress_bar
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.files import discard, temporary

MOST_IMAGES: Final = 10_000
"""Images in a file, unless a user asks for more."""
SCRIPTS: Final = ("data.js", "find.js", "draw.js", "plots.js", "dialog.js", "grid.js", "main.js")
_AHEAD: Final = 2  # chunks begun ahead, per thread
_IN_CHUNK: Final = 16  # images: a chunk is decoded as a whole when one of them is seen
# Bytes that thumbnails shall take together, and the sizes that are tried for it, largest first.
_BUDGET: Final = 96e6
_SIZES: Final = (Sizes(256, 160), Sizes(192, 128), Sizes(144, 96), Sizes(96, 64))
_BYTES_PER_PIXEL: Final = 0.24  # of small photos and views as WebP in base64
_LEVEL: Final = 6  # of zlib


def write_page(
    dataset: Dataset,
    path: Path,
    *,
    names: Names,
    images: int | None = None,
    views: int = 8,
    progress: bool = True,
) -> dict[str, Any]:
    """Writes the page of a set as one file, whole or not at all.

    Args:
      dataset: any; of one in a store, its shards come through the cache.
      path: of the file.
      names: of the classes.
      images: in the page, spread evenly over the set; None: all, up to `MOST_IMAGES`.
      views: of each image, spread over their order, at most.
      progress: show a progress bar.

    Returns:
      {"images", "of", "views", "bytes", "damaged"}: what is in the page, of how many images, how long the file is, and, by
      their keys, what is wrong with images that cannot be shown, and with single views (`named_view`): their cards say it.

    Raises:
      DaliDrError: no image can be shown, or a file that cannot be written.
    """
    if not len(dataset):
        raise DaliDrError(f"{dataset.path}: has no images, of which there is nothing to show", kind="usage")
    numbers = sampled(len(dataset), MOST_IMAGES if images is None else images)
    partial = temporary(path)
    try:
        with partial.open("w", encoding="utf-8") as out:
            made = _Page(dataset, numbers, names, views, path.parent, progress)
            made.write(out)
        size = partial.stat().st_size
        partial.replace(path)
    except OSError as error:
        raise DaliDrError(
            f"{path}: cannot be written ({error.strerror or error}): choose another place", kind=kind_of(error)
        ) from error
    finally:
        discard(partial)
    return {"images": len(numbers), "of": len(dataset), "views": views, "bytes": size, "damaged": made.damaged}


class _Page:
    """One page that is being made."""

    def __init__(
        self, dataset: Dataset, numbers: Sequence[int], names: Names, views: int, folder: Path, progress: bool
    ) -> None:
        self._dataset, self._numbers, self._names = dataset, numbers, names
        self._views, self._folder, self._progress = views, folder, progress
        self._reader = Reader(dataset, views, names.comparable)
        self._statistics = Statistics(dataset, self._reader, names)
        self._facts = np.zeros(len(numbers), FACTS)
        most = min(views, dataset.manifest.views_max)
        self._sizes = sizes_for(len(numbers), most)
        self.damaged: dict[str, str] = {}  # what is wrong, by key, or key and view
        self._lost = 0  # images that cannot be shown
        self._replayer = None
        if most:
            self._replayer = Replayer(dataset, images=_IN_CHUNK, views=most, threads=default_threads())

    def write(self, out: Any) -> None:
        """All of it. Chunks are made first and wait in a file, as the facts before them come from the same reading."""
        with tempfile.TemporaryFile("w+", encoding="ascii", dir=self._folder) as waiting:
            chunks = self._chunks()
            first = next(chunks)
            for number, chunk in enumerate(chunks, start=1):
                waiting.write(_block(f"chunk-{number}", chunk))
            about = describe(self._dataset, self._names, self._sizes, self._views, len(self._numbers))
            about["chunk"] = _IN_CHUNK
            about["keys"] = [shown(self._dataset.keys[number]) for number in self._numbers]
            about["plots"] = self._statistics.plots()
            style, script = assets()
            head, tail = skeleton(about["title"], style, policy_of(style, script, "img-src blob: data:"))
            out.write(head)
            out.write(_block("set", deflated(about)))
            out.write(_block("facts", base64.b64encode(zlib.compress(self._facts.tobytes(), _LEVEL)).decode()))
            out.write(_block("chunk-0", first))
            out.write(f"<script>{script}</script>\n")
            waiting.seek(0)
            shutil.copyfileobj(waiting, out, 1 << 20)
            out.write(tail)

    def _chunks(self) -> Iterator[str]:
        """The chunks in their order; facts and statistics on the way."""
        name = shown(self._dataset.path.name)
        starts = range(0, len(self._numbers), _IN_CHUNK)
        threads = default_threads()
        with (
            progress_bar(total=len(self._numbers), desc=name, unit="img", disable=not self._progress) as bar,
            ThreadPoolExecutor(threads, "page") as executor,
        ):
            for start, (chunk, found) in zip(
                starts, ahead(executor, self._chunk, starts, _AHEAD * threads), strict=True
            ):
                for place, one in enumerate(found, start):
                    self._note(place, one)
                bar.update(len(found))
                yield chunk

    def _note(self, place: int, one: _Told) -> None:
        """Facts and statistics of an image, or what is wrong with it or views of it."""
        number = self._numbers[place]
        if isinstance(one, DaliDrError):
            self._facts[place] = self._reader.indexed(number, number + 1)[0]
            self.damaged[self._dataset.keys[number]] = str(one)
            self._lost += 1
            if self._lost == len(self._numbers):
                raise one
            return
        read, faults = one
        self._facts[place] = read.facts
        self._statistics.add(read)
        for view, message in faults.items():
            self.damaged[named_view(self._dataset, number, read.rows[view])] = message

    def _chunk(self, start: int) -> tuple[str, list[_Told]]:
        """A chunk, and what was read for it, or why it could not be. Called in several threads."""
        found: list[_Shown | DaliDrError] = []
        for number in self._numbers[start : start + _IN_CHUNK]:
            try:
                read, image = self._reader.read(number), self._dataset.image(number)
                found.append(_Shown(read, image, image_thumb(image, self._sizes.image)))
            except DaliDrError as error:
                found.append(error)
        self._replay(found)
        views: list[Image.Image] = []
        thumbs: list[Image.Image] = []
        told: list[dict[str, Any]] = []
        for one in found:
            if isinstance(one, DaliDrError):
                thumbs.append(_NO_PICTURE)
                told.append({"views": [], "error": str(one), "thumb": _NO_PICTURE.size, "at": len(views)})
                continue
            thumbs.append(one.thumb)
            more = details(one.read, self._dataset.manifest.spec, one.faults)
            told.append({**more, "thumb": one.thumb.size, "at": len(views)})
            views += view_thumbs(one.pixels, self._sizes.view)
        parts = [deflated(told), _picture(sprite(thumbs, self._sizes.image))]
        parts.append(_picture(sprite(views, self._sizes.view)) if views else "")
        return " ".join(parts), [one if isinstance(one, DaliDrError) else (one.read, one.faults) for one in found]

    def _replay(self, found: list[_Shown | DaliDrError]) -> None:
        """The views of images, together or, if one of them has a fault, one by one; the faulty are replaced by theirs."""
        if self._replayer is None:
            return
        wanted = [
            (at, one, Wanted(int(one.read.facts["number"]), one.image, views))
            for at, one in enumerate(found)
            if not isinstance(one, DaliDrError) and (views := one.read.shown) is not None
        ]
        if not wanted:
            return
        try:
            for (_, one, _), pixels in zip(wanted, self._replayer.replay([want for *_, want in wanted]), strict=True):
                one.pixels = pixels
        except DaliDrError:
            for at, one, want in wanted:
                try:
                    one.pixels, one.faults = self._replayer.replay_each(want)
                except DaliDrError as error:
                    found[at] = error


_Told = tuple[Read, dict[int, str]] | DaliDrError  # what was read, and what is wrong with views; or why it was not


@dataclass
class _Shown:
    """An image of a chunk.

    Attributes:
      read: of it.
      image: its encoded bytes.
      thumb: it in small.
      pixels: of its views.
      faults: of views that cannot be shown, by their places.
    """

    read: Read
    image: bytes
    thumb: Image.Image
    pixels: Pixels | tuple[()] = ()
    faults: dict[int, str] = field(default_factory=dict)


_NO_PICTURE: Final = Image.new("RGB", (1, 1))  # in the place of an image that cannot be shown


def sizes_for(images: int, views: int) -> Sizes:
    """The largest thumbnails that keep a page of so many images, and views of each, within its budget."""
    for sizes in _SIZES:
        pixels = images * (0.75 * sizes.image**2 + views * sizes.view**2)
        if pixels * _BYTES_PER_PIXEL <= _BUDGET:
            return sizes
    return _SIZES[-1]


def describe(dataset: Dataset, names: Names, sizes: Sizes, views: int, images: int) -> dict[str, Any]:
    """What the page says of a set as a whole, JSON-able."""
    m = dataset.manifest
    title = shown(dataset.url or dataset.path.name)
    kind = "maps" if m.label_maps is not None else "views" if m.views_max else "plain"
    return {
        "title": title,
        "kind": kind,
        "images": images,
        "of": len(dataset),
        "stored_views": [m.views_min, m.views_max],
        "shown_views": views,
        "topk": m.topk,
        "view_size": m.spec.size if m.spec is not None else 0,
        "row_order": m.row_order,
        "spec": None if m.spec is None else shown(m.spec.name or "custom"),
        "teacher": [shown(name) for name in (m.teacher or {}).get("names", ())],
        "maps": None if m.label_maps is None else m.label_maps.to_json(),
        "outputs": m.num_outputs,
        "image_classes": m.image_classes,
        "labels": list(names.labels),
        "classes": None if names.outputs is names.labels else list(names.outputs),
        "colours": [colour(number) for number in range(m.num_outputs)] if kind == "maps" else None,
        "comparable": names.comparable,
        "note": shown(names.note),
        "sizes": {"image": sizes.image, "view": sizes.view},
        "facts": [[name, str(FACTS[name].str), FACTS.fields[name][1]] for name in FACTS.names or () if FACTS.fields],
        "fact_bytes": FACTS.itemsize,
    }


def assets() -> tuple[str, str]:
    """The style and the script of the page."""
    folder = resources.files("dali_dr.preview") / "assets"
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return (folder / "page.css").read_text(encoding="utf-8"), f'"use strict";\n(() => {{\n{script}}})();\n'


def skeleton(title: str, style: str, policy: str | None) -> tuple[str, str]:
    """The HTML before and behind the data blocks; ``policy`` is the page's Content-Security-Policy."""
    folder = resources.files("dali_dr.preview") / "assets"
    text = (folder / "page.html").read_text(encoding="utf-8")
    meta = "" if policy is None else f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">'
    for name, value in (("POLICY", meta), ("TITLE", html.escape(title)), ("STYLE", style)):
        text = text.replace(f"<!--{name}-->", value)
    head, _, tail = text.partition("<!--DATA-->")
    return head, tail


def deflated(data: Any) -> str:
    """JSON, deflated, in base64."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode("utf-8", "replace"), _LEVEL)).decode()


def policy_of(style: str, script: str, *more: str) -> str:
    """A Content-Security-Policy that runs this script and nothing else; ``more`` directives say what it may fetch."""

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return "; ".join(
        (
            "default-src 'none'", f"script-src {digest(script)}", f"style-src {digest(style)}",
            "base-uri 'none'", "form-action 'none'", *more,
        )
    )  # fmt: skip


def _picture(picture: Image.Image) -> str:
    return base64.b64encode(webp(picture)).decode()


def _block(name: str, data: str) -> str:
    return f'<script type="application/octet-stream" id="{name}">{data}</script>\n'
