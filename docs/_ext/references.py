"""arXiv:1707.06347 and doi:10.1000/x in a page's text become links."""

import re

from docutils import nodes

REFERENCE = re.compile(r"\barXiv:(?P<arxiv>\d{4}\.\d{4,5})|\bdoi:(?P<doi>10\.[^\s,;)]+[^\s,;).])")
PREFIX = {"arxiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}


def linked(text: str) -> list[nodes.Node]:
    """The text as nodes, with a link for each reference."""
    found, end = [], 0
    for match in REFERENCE.finditer(text):
        address = PREFIX[match.lastgroup] + match[match.lastgroup]
        found += [nodes.Text(text[end : match.start()]), nodes.reference("", match[0], refuri=address)]
        end = match.end()
    return [*found, nodes.Text(text[end:])]


def add_links(app, doctree) -> None:
    inside = (nodes.literal, nodes.literal_block, nodes.reference, nodes.raw, nodes.math, nodes.math_block, nodes.title)
    for text in list(doctree.findall(nodes.Text)):
        above = text.parent
        while above is not None and not isinstance(above, inside):
            above = above.parent
        if above is None and REFERENCE.search(text.astext()):
            parent, at = text.parent, text.parent.index(text)
            parent[at : at + 1] = linked(text.astext())


def setup(app) -> dict:
    app.connect("doctree-read", add_links)
    return {"parallel_read_safe": True}
