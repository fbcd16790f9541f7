"""Small SVG pictures for the pages: 360 units wide, as a phone is, in colors that follow the page's theme.

On a page they stand inline and take their colors from its CSS variables; opened alone they bring their own.
"""

import re
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path

import numpy as np
from palette import DARK, LIGHT

CSS = Path(__file__).parents[1] / "_static" / "pictures.css"

WIDTH = 360
MARKUP = re.compile(r"\*(?P<italic>[^*]+)\*|_\{(?P<sub>[^}]*)\}|\^\{(?P<sup>[^}]*)\}|(?P<plain>(?:(?![*]|_\{|\^\{).)+)")
SHIFT = {"sub": 3.5, "sup": -5}


def marked_up(words: str) -> str:
    """*italic*, _{subscript} and ^{superscript} as spans."""
    spans, height = [], 0.0
    for match in MARKUP.finditer(words):
        kind, text = match.lastgroup, escape(match[match.lastgroup], quote=False)
        wanted = SHIFT.get(kind, 0.0)
        dy = f' dy="{wanted - height:g}"' if wanted != height else ""
        height = wanted
        look = ' class="small"' if kind in SHIFT else ' font-style="italic"' if kind == "italic" else ""
        spans.append(f"<tspan{look}{dy}>{text}</tspan>" if look or dy else text)
    return "".join(spans)


def points(pairs) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)


class Picture:
    """An SVG that grows by its methods; `kind` is a space-separated list of the classes in pictures.css."""

    def __init__(self, title: str, description: str, height: int):
        self.title, self.description, self.height = title, description, height
        self.parts: list[str] = []

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> None:
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
            + (f' class="{kind}"' if kind else "")
            + f">{marked_up(words)}</text>"
        )

    def box(self, x: float, y: float, width: float, height: float, kind: str = "box", radius: float = 6) -> None:
        where = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius:g}"'
        self.parts.append(f'<rect {where} class="{kind}"/>')

    def circle(self, x: float, y: float, radius: float, kind: str = "box") -> None:
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{kind}"/>')

    def line(self, pairs, kind: str = "line", arrow: bool = False) -> None:
        """A line through (x, y) pairs; the last one may be an arrow's tip."""
        pairs = [(float(x), float(y)) for x, y in pairs]
        if arrow:
            (x0, y0), (x1, y1) = pairs[-2:]
            way = np.array([x1 - x0, y1 - y0]) / np.hypot(x1 - x0, y1 - y0)
            side, tip = np.array([-way[1], way[0]]), np.array([x1, y1])
            head = [tip, tip - 9 * way + 4 * side, tip - 9 * way - 4 * side]
            color = next((word for word in kind.split() if word in ("blue", "red")), "")
            self.parts.append(f'<polygon points="{points(head)}" class="{f"head {color}".strip()}"/>')
            pairs[-1] = tuple(tip - 8 * way)
        self.parts.append(f'<polyline points="{points(pairs)}" class="{kind}"/>')

    def polygon(self, pairs, kind: str) -> None:
        self.parts.append(f'<polygon points="{points(pairs)}" class="{kind}"/>')

    def path(self, d: str, kind: str = "line") -> None:
        self.parts.append(f'<path d="{d}" class="{kind}"/>')

    def svg(self, name: str) -> str:
        """The file's text. Its style begins with the colors for a picture that is opened alone."""
        colors = ["".join(f"--{key}:{value};" for key, value in colors.items()) for colors in (LIGHT, DARK)]
        alone = f"svg:root{{{colors[0]}}}@media(prefers-color-scheme:dark){{svg:root{{{colors[1]}}}}}"
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" class="picture" '
                f'role="img" aria-labelledby="{name}-title {name}-desc">',
                f"<style>{alone}\n{CSS.read_text(encoding='utf-8')}</style>",
                f'<title id="{name}-title">{escape(self.title)}</title>',
                f'<desc id="{name}-desc">{escape(self.description)}</desc>',
                *self.parts,
                "</svg>\n",
            ]
        )


class Axes:
    """A panel of a picture with data coordinates. x, y: (value at the left or bottom, value at the right or top)"""

    def __init__(self, picture: Picture, left: float, top: float, width: float, height: float, x, y):
        self.picture, self.left, self.top, self.width, self.height = picture, left, top, width, height
        self.x_range, self.y_range = x, y
        picture.line([(left, top), (left, top + height), (left + width, top + height)], "line thin")

    def at(self, x, y):
        """Where a value (or an array of them) is drawn."""
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        return self.left + (x - x0) / (x1 - x0) * self.width, self.top + (y1 - y) / (y1 - y0) * self.height

    def anchor(self, x: float) -> str:
        """A label at the right end goes no further than the axis."""
        return "end" if x == self.x_range[1] else "middle"

    def plot(self, x, y, kind: str = "line") -> None:
        self.picture.line(np.transpose(self.at(np.asarray(x, float), np.asarray(y, float))), kind)

    def ticks(self, x=(), y=()) -> None:
        """x, y: (value, label) pairs"""
        bottom = self.top + self.height
        for value, label in x:
            at = self.at(value, self.y_range[0])[0]
            self.picture.line([(at, bottom), (at, bottom + 4)], "line thin")
            self.picture.text(at + 4 * (value == self.x_range[1]), bottom + 17, label, "note", self.anchor(value))
        for value, label in y:
            at = self.at(self.x_range[0], value)[1]
            self.picture.line([(self.left - 4, at), (self.left, at)], "line thin")
            self.picture.text(self.left - 7, at + 4, label, "note", "end")


def write(figures: Mapping[str, Callable[[], Picture]]) -> None:
    """Write each figure to NAME.svg in this folder."""
    for name, figure in figures.items():
        Path(__file__).with_name(f"{name}.svg").write_text(figure().svg(name), encoding="utf-8")
