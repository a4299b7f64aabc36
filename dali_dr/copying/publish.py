"""`copy` and `push`: data sets to where others find them; what goes to the Hugging Face Hub gets a data card."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from dali_dr.copying.original import Original
from dali_dr.copying.run import JOBS, Copied, copy_set
from dali_dr.errors import DaliDrError, ShardError, shown
from dali_dr.store.url import as_place

_log = logging.getLogger(__name__)
_HUB: Final = "hf://"
_CARD_BYTES: Final = 16 << 20  # that a README.md may have, to be looked at


def copy(
    src: Path | str,
    dst: Path | str,
    *,
    jobs: int = JOBS,
    with_images: bool = False,
    recheck: bool = False,
    progress: bool = True,
) -> Copied:
    """Copy a finished data set between folders and stores, every object checked; the same call goes on where one stopped.

    What goes to the Hub (hf://) is as by `push`, with a repository that is private if it is made.

    Args:
      src, dst: folders or URLs (s3://, gs://, az://, hf://datasets/OWNER/NAME, …).
      jobs: objects at a time.
      with_images: also copy the image tars of a sidecar data set that lie outside its folder, into images/.
      recheck: read what is at the destination, and replace what is wrong; else what has its size is taken as it is.
      progress: show a bar.

    Returns:
      What was done, and what lies in ``src`` and is no part of the data set.

    Raises:
      ShardError: there is no finished data set in ``src``, or it is damaged; ``dst`` holds something else, or cannot be
        written. Nothing wrong is at the destination then, and no dataset.json.
    """
    if _is_hub(dst):
        return push(src, str(dst), private=True, jobs=jobs, with_images=with_images, recheck=recheck, progress=progress)
    return copy_set(src, dst, jobs=jobs, with_images=with_images, recheck=recheck, progress=progress)


def push(
    src: Path | str,
    dst: str,
    *,
    private: bool = False,
    license: str | None = None,
    name: str | None = None,
    pictures: bool = True,
    force_card: bool = False,
    jobs: int = JOBS,
    with_images: bool = False,
    recheck: bool = False,
    progress: bool = True,
) -> Copied:
    """Copy a data set to the Hub, with a data card: README.md and a contact sheet.

    Args:
      src: folder or URL.
      dst: hf://datasets/OWNER/NAME[@REVISION][/FOLDER], or without "datasets/". The repository is made if it is absent.
      private: if it is made.
      license: of the images and labels, as the Hub names it ("cc-by-4.0", "other").
      name: of the data set, in the card; the repository's by default.
      pictures: put images into the card, which their licence must allow.
      force_card: replace a README.md that is not ours, or was changed.
      jobs, with_images, recheck, progress: see `copy`.

    Raises:
      ShardError: as `copy`; or the Hub refuses.
    """
    if not _is_hub(dst):
        raise ShardError(
            f"{dst}: push goes to the Hub, hf://OWNER/NAME; for other stores and folders there is copy", kind="usage"
        )
    from dali_dr.store.hub import Hub

    place = str(as_place(dst))
    hub = Hub(place)
    title = hub.repository.folder.rpartition("/")[2] or hub.repository.id.rpartition("/")[2]
    url = f"{_HUB}datasets/{hub.repository.id}" + (f"/{hub.repository.folder}" if hub.repository.folder else "")
    return copy_set(
        src,
        place,
        jobs=jobs,
        with_images=with_images,
        recheck=recheck,
        progress=progress,
        beside=_cards(url, name or title, license, pictures, force_card),
        prepare=lambda: hub.create(private=private),
    )


def _cards(
    url: str, name: str, license: str | None, pictures: bool, force: bool
) -> Callable[[Original], Mapping[str, bytes]]:
    def beside(original: Original) -> Mapping[str, bytes]:
        from dali_dr.copying import card
        from dali_dr.shards.dataset import Dataset

        there = original.there(card.CARD_NAME)
        if there is not None and not card.is_ours(there) and not force:
            _log.warning(
                "%s/%s: is not ours, or was changed, and stays; --force-card (force_card=True) replaces it",
                shown(url), card.CARD_NAME,
            )  # fmt: skip
            return {}
        objects: dict[str, bytes] = {}
        if pictures:
            with tempfile.TemporaryDirectory(prefix="dali_dr-sheet-") as cache:
                try:
                    data = Dataset(original.place, cache=cache)
                    objects[card.SHEET_NAME] = card.sheet(data)
                except (DaliDrError, RuntimeError) as error:
                    raise ShardError(
                        f"{original.place}: no contact sheet can be drawn ({_last(error)}); without: --no-pictures"
                    ) from error
        text = card.card(original, url, name=name, license=license, picture=bool(objects))
        return {**objects, card.CARD_NAME: text}

    return beside


def _is_hub(place: Path | str) -> bool:
    return isinstance(place, str) and place.lower().startswith(_HUB)


def _last(error: Exception) -> str:
    """What ``error`` says: of DALI's, the line that is not DALI's own."""
    lines = [line for line in str(error).splitlines() if line and "pipeline" not in line]
    return lines[-1] if lines else type(error).__name__
