"""How the site is built: by `make docs`, or by `sphinx-build -W docs docs/_build/html` with the extra `docs`."""

import os
import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS / "pictures"), str(DOCS.parent)]  # and this checkout's spinup

from palette import DARK, LIGHT  # noqa: E402

from spinup import __version__  # noqa: E402

project = "spinup"
author = "the spinup authors"
project_copyright = "the spinup authors, MIT license"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "offline_math",
    "docstrings",
    "notebooks",
    "pictures",
    "references",
    "sources",
]
exclude_patterns = ["_build", "_ext", "**/.ipynb_checkpoints"]

# ---- notebooks: where Colab and Binder find them, such as https://github.com/NAME/spinup. It's `urls.Repository` in
# pyproject.toml, which the notebooks' first cells use too; without it, pages only offer notebooks for download.
PROJECT = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
repository = os.environ.get("SPINUP_REPOSITORY", PROJECT.get("urls", {}).get("Repository", ""))

# ---- Markdown
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
default_role = "literal"  # of the docstrings, where `x` is code

# ---- docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True
add_module_names = False

# ---- look
copybutton_selector = "div[class*=highlight-] > div.highlight > pre"
copybutton_exclude = ".gp, .go"  # prompts and output
html_theme = "furo"
html_title = "spinup"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_search_scorer = str(DOCS / "_ext" / "scorer.js")
html_css_files = ["spinup.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
pygments_style = "tango"
pygments_dark_style = "github-dark"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5c8f", "color-brand-content": "#0b5c8f", **LIGHT},
    "dark_css_variables": {"color-brand-primary": "#63b3ed", "color-brand-content": "#63b3ed", **DARK},
}


def drop_missing_parts(app, docname: str, source: list[str]) -> None:
    """Take patterns without a page out of the front page's toctrees: parts of the site that a checkout may lack."""
    if docname == "index":
        lines = source[0].splitlines()
        source[0] = "\n".join(line for line in lines if not line.endswith("*") or any(DOCS.glob(f"{line}.md")))


def setup(app) -> None:
    app.connect("source-read", drop_missing_parts)
