"""What a data set looks like: contact sheets, a page to browse it, and the same page from a local server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dali_dr.on_demand import on_demand

if TYPE_CHECKING:
    from dali_dr.preview.page import write_page as write_page
    from dali_dr.preview.replayed import replay_views as replay_views
    from dali_dr.preview.sheet import TILE as TILE
    from dali_dr.preview.sheet import contact_sheet as contact_sheet
    from dali_dr.preview.sheet import save_contact_sheet as save_contact_sheet

_HOME = {
    "TILE": "dali_dr.preview.sheet",
    "contact_sheet": "dali_dr.preview.sheet",
    "replay_views": "dali_dr.preview.replayed",
    "save_contact_sheet": "dali_dr.preview.sheet",
    "write_page": "dali_dr.preview.page",
}

if not TYPE_CHECKING:  # checkers read the imports above: to them any other name is an error
    __all__, __getattr__, __dir__ = on_demand(__name__, _HOME)
