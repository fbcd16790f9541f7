"""Pictures and widgets in the pages.

- `{diagram} replay`: docs/pictures/replay.svg inline, so that its colors follow the theme; the content is its caption
- `{widget} gae`: the same picture, in whose place docs/_static/widgets.js puts the widget
- `{policies}`: trained policies that move, each with a link; for the landing page
"""

import html
import re
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

PICTURES = Path(__file__).parents[1] / "pictures"
LABELS = {
    "ppo-clip": "PPO's clipped objective",
    "gae": "Generalized advantage estimation",
    "squashed-gaussian": "The squashed Gaussian and the temperature",
    "value-iteration": "Value iteration on a gridworld",
    "cartpole": "A CartPole policy and its value",
}


def inline(name: str) -> str:
    """The picture's SVG without its style, which the page has."""
    return re.sub(r"<style>.*?</style>\n", "", (PICTURES / f"{name}.svg").read_text(encoding="utf-8"), flags=re.DOTALL)


class Diagram(SphinxDirective):
    required_arguments = 1
    has_content = True

    def run(self):
        name = self.arguments[0]
        self.env.note_dependency(str(PICTURES / f"{name}.svg"))
        return self.figure('<figure class="diagram">', inline(name))

    def figure(self, start: str, body: str) -> list[nodes.Node]:
        caption = self.parse_content_to_nodes()
        if len(caption) == 1 and isinstance(caption[0], nodes.paragraph):
            caption = [nodes.inline("", "", *caption[0].children)]
        around = ("<figcaption>", "</figcaption></figure>") if caption else ("", "</figure>")
        first, last = (nodes.raw("", text, format="html") for text in (start + body + around[0], around[1]))
        return [nodes.container("", first, *caption, last, classes=["picture-block"])]


class Widget(Diagram):
    def run(self):
        name = self.arguments[0]
        still, data = "clip-surface" if name == "ppo-clip" else name, PICTURES / f"{name}.json"
        self.env.note_dependency(str(PICTURES / f"{still}.svg"))
        body = f'<div class="widget-still">{inline(still)}</div>'
        body += "<noscript><p>With JavaScript, this picture becomes a widget to play with.</p></noscript>"
        if data.exists():
            self.env.note_dependency(str(data))
            body += f'<script type="application/json">{data.read_text(encoding="utf-8").strip()}</script>'
        label = html.escape(LABELS[name])
        return self.figure(f'<figure class="widget" data-widget="{name}" data-label="{label}">', body)


class Policies(SphinxDirective):
    """Lines of `name | page | alternative text | caption`."""

    has_content = True

    def run(self):
        cards = []
        for line in self.content:
            name, page, alt, caption = (html.escape(part.strip()) for part in line.split("|"))
            moving, still = (f"_static/policies/{name}{kind}.webp" for kind in ("", "-still"))
            cards.append(
                f'<a href="{page}.html"><picture><source media="(prefers-reduced-motion: reduce)" srcset="{still}">'
                f'<img src="{moving}" data-still="{still}" width="320" height="320" alt="{alt}"></picture>'
                f"<span>{caption}</span></a>"
            )
        pause = '<button type="button" data-pause aria-pressed="false" hidden>Pause the pictures</button>'
        return [nodes.raw("", f'<div class="policies">{"".join(cards)}</div>{pause}', format="html")]


def add_files(app, pagename, templatename, context, doctree) -> None:
    """What pictures and widgets need, on the pages that have some; and a description, from the first paragraph."""
    body = context.get("body", "")
    if 'class="picture"' in body or "data-pause" in body:
        app.add_css_file("pictures.css")
        app.add_css_file("widgets.css")
    if "data-widget" in body or "data-pause" in body:
        app.add_js_file("widgets.js", loading_method="defer")
    if doctree is not None and 'name="description"' not in context.get("metatags", ""):
        paragraph = next(doctree.findall(nodes.paragraph), None)
        text = " ".join(paragraph.astext().split()) if paragraph is not None else ""
        if text:
            short = text if len(text) <= 160 else text[:160].rpartition(" ")[0] + " …"
            description = f'<meta name="description" content="{html.escape(short)}">'
            context["metatags"] = context.get("metatags", "") + description


def setup(app) -> dict:
    app.add_directive("diagram", Diagram)
    app.add_directive("widget", Widget)
    app.add_directive("policies", Policies)
    app.connect("html-page-context", add_files)
    return {"parallel_read_safe": True}
