"""Equations without the network: MathJax and its fonts come from the package sphinx-mathjax-offline, into the site."""

import importlib.util
import shutil
from pathlib import Path

FILES = ("tex-chtml.js", "output/chtml/fonts/woff-v2")  # 2 of the package's 25 MB


def copy_mathjax(app, exception) -> None:
    """Put what the pages load beside them."""
    if exception is not None or app.builder.format != "html":
        return
    source = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    for name in FILES:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, dirs_exist_ok=True)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def setup(app) -> dict:
    app.connect("build-finished", copy_mathjax)
    app.config.mathjax_path = "mathjax/tex-chtml.js"
    # No menu and no speech: both would load further files.
    app.config.mathjax3_config = {"options": {"enableMenu": False}, "startup": {"typeset": True}}
    return {"parallel_read_safe": True}
