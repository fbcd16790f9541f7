"""Notebooks as pages: text, code and saved outputs, with nothing run and nothing loaded from elsewhere.

A notebook becomes Markdown, and MyST parses that like any page, so links, equations and headings work as elsewhere.
Libraries for this would bring a Jupyter stack of thirty packages, or need pandoc. Each page offers the notebook for
download, and in Colab and Binder if the build knows the repository's address (`repository` in conf.py).
"""

import html
import json
import re

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx import addnodes
from sphinx.errors import ConfigError

FENCE = "`" * 8
GITHUB = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?")


def alternative(source: str) -> str:
    """What a cell's figure shows: the text of its comment `# Figure: ...`."""
    found = re.search(r"^# Figure: (.+)$", source, re.MULTILINE)
    return found[1] if found else ""


def output_html(output: dict, alt: str) -> str:
    """A saved output: a picture, a table, or text."""
    data = output.get("data", {})
    if "image/png" in data:
        png = "".join("".join(data["image/png"]).split())
        return f'<img class="cell-figure" alt="{html.escape(alt)}" src="data:image/png;base64,{png}">'
    if "text/html" in data:
        table = re.sub(r"<style.*?</style>| border=\"1\"", "", "".join(data["text/html"]), flags=re.DOTALL)
        return f'<div class="cell-table">{table.replace("dataframe", "docutils dataframe")}</div>'
    text = "".join(output["text"] if "text" in output else data["text/plain"])
    return f'<pre class="cell-output">{html.escape(text.rstrip())}</pre>'


def as_markdown(notebook: dict) -> str:
    """The notebook's cells, one after the other."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"{FENCE}python\n{source}\n{FENCE}")
        outputs = [output_html(output, alternative(source)) for output in cell["outputs"]]
        if outputs:
            parts.append("\n".join([FENCE + "{raw} html", *outputs, FENCE]))
    return "\n\n".join(parts)


def services(repository: str, name: str) -> list[tuple[str, str]]:
    """(label, address) of each service that opens the notebook from the repository."""
    if not repository:
        return []
    found = GITHUB.fullmatch(repository)
    if not found:
        raise ConfigError(f"repository is {repository!r}; it must be like https://github.com/NAME/spinup, or empty")
    path = f"docs/notebooks/{name}.ipynb"
    return [
        ("Open in Colab", f"https://colab.research.google.com/github/{found[1]}/blob/main/{path}"),
        ("Open in Binder", f"https://mybinder.org/v2/gh/{found[1]}/main?labpath={path}"),
    ]


def badges(repository: str, name: str) -> list[nodes.Node]:
    return [
        nodes.reference("", label, refuri=address, classes=["badge"]) for label, address in services(repository, name)
    ]


class NotebookParser(MystParser):
    supported = ("jupyter",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        super().parse(as_markdown(json.loads(inputstring)), document)
        env = document.settings.env
        name = env.docname.rpartition("/")[2]
        download = addnodes.download_reference(
            "", "Download the notebook", reftarget=f"{name}.ipynb", refdoc=env.docname, classes=["badge"]
        )
        title = next(document.findall(nodes.title))
        links = nodes.inline("", "", *badges(env.config.repository, name), download, classes=["badges"])
        title.parent.insert(title.parent.index(title) + 1, nodes.container("", links))


def add_badges_to_list(app, doctree) -> None:
    """On the page that lists the notebooks, at the end of each line that links to one."""
    if app.env.docname != "notebooks":
        return
    for link in list(doctree.findall(addnodes.pending_xref)):
        folder, _, name = link["reftarget"].rpartition("/")
        if folder == "notebooks" and (item := badges(app.config.repository, name)):
            link.parent += nodes.inline("", "", *item, classes=["badges"])


def setup(app) -> dict:
    app.add_config_value("repository", "", "env")
    app.add_source_suffix(".ipynb", "jupyter")
    app.add_source_parser(NotebookParser)
    app.connect("doctree-read", add_badges_to_list)
    return {"parallel_read_safe": True}
