"""What a data set looks like: contact sheets, a page to browse it, and the same page from a local server."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from dali_dr.preview.page import write_page
    from dali_dr.preview.replayed import replay_views
    from dali_dr.preview.sheet import TILE, contact_sheet, save_contact_sheet

__all__ = ["TILE", "contact_sheet", "replay_views", "save_contact_sheet", "write_page"]
_HOMES: Final = {
    "TILE": "sheet", "contact_sheet": "sheet", "save_contact_sheet": "sheet", "replay_views": "replayed", "write_page": "page",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Public names on demand: a module that the command line asks for suffixes loads nothing else."""
    if name in _HOMES:
        return getattr(import_module(f"dali_dr.preview.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
