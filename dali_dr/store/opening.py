"""Which store a URL is in."""

from __future__ import annotations

from pathlib import Path

from dali_dr.store.store import Store
from dali_dr.store.url import as_place


def open_store(url: str | Path) -> Store:
    """The store of the objects below ``url``; nothing is asked of it yet.

    Args:
      url: s3://BUCKET/…, gs://BUCKET/…, az://CONTAINER/…, abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/…, http(s)://…
        (read-only), hf://…; or a folder of this machine.

    Raises:
      StoreError: the URL names no store (as `as_place`).
    """
    place = as_place(url)
    if isinstance(place, Path):
        from dali_dr.store.folder import Folder

        return Folder(place)
    if place.lower().startswith("hf://"):
        from dali_dr.store import hub  # type: ignore[attr-defined,unused-ignore]

        return hub.Hub(place)  # type: ignore[no-any-return,unused-ignore]
    from dali_dr.store.objects import Objects

    return Objects(place)
