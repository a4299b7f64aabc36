"""Sphinx's settings: `make docs` builds the pages of this folder, with nothing fetched from elsewhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # docstrings need no GPU

import dali_dr  # noqa: E402

project = "dali_dr"
author = "The dali_dr authors"
copyright = "the dali_dr authors, Apache-2.0"
version = release = dali_dr.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "repository",  # docs/_ext: links to files outside docs, pages that are such files
    "command_line",  # docs/_ext: the reference of `dali-dr` from its parser
    "public_names",  # docs/_ext: which names are documented where, and references between docstrings
]
exclude_patterns = ["_ext", "pictures"]
source_suffix = {".md": "markdown"}
root_doc = "index"
language = "en"
smartquotes_action = "D"  # dashes alone: quotation marks in these texts are often code
highlight_language = "text"
nitpicky = True

myst_enable_extensions = ["deflist", "attrs_inline", "colon_fence"]  # ::: for what is no code
myst_heading_anchors = 4
myst_url_schemes = {"http": None, "https": None, "mailto": None, "repository": None}

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_param = False  # a section may describe several arguments in one line
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]
maximum_signature_line_length = 90
default_role = "py:obj"  # `name` in docstrings; public_names.py says what becomes of it
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = f"dali_dr {release}"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "github-dark"

# `make docs-links` alone asks servers. These answer programs with a refusal, are examples, or are files of the repository,
# at which docs/check_links.py looks.
linkcheck_ignore = [r"https?://localhost.*", r"https://docs-assets\.developer\.apple\.com/.*", "repository:.*"]
linkcheck_timeout = 20
linkcheck_retries = 2
