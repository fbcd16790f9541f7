"""Write reading-list.md from reading-list.toml.

    python docs/reading_list.py

A test fails where the page is not what this script writes.
"""

import re
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
HEAD = """\
# Reading list

{count} papers, by topic and then by year, with a line on why to read each. The year is that of the first version
under its title. The list is a choice, not a census: papers that changed how people work, papers that explain something
best, and papers too new for textbooks.

Start with these:

{start}

For the basics there are books: Sutton and Barto, *Reinforcement learning: an introduction*
(second edition, 2018), and, for the theory, Szepesvári, *Algorithms for reinforcement learning* (2010,
[doi:10.2200/S00268ED1V01Y201005AIM009](https://doi.org/10.2200/S00268ED1V01Y201005AIM009)).

[How to do research in deep RL](research.md#reading) explains how to read them. This page is written by
`python docs/reading_list.py` from `docs/reading-list.toml`; add papers there.
"""
START = ("arXiv:1709.06560", "arXiv:1707.06347", "arXiv:1802.09477", "arXiv:1812.05905", "arXiv:2108.13264")


def load(path: Path = HERE / "reading-list.toml") -> list[dict]:
    """The papers, as dicts of topic, id, year, authors, title and why."""
    with path.open("rb") as file:
        topics = tomllib.load(file)["topic"]
    return [{"topic": topic["name"], **paper} for topic in topics for paper in topic["paper"]]


def link(identifier: str) -> str:
    """The address of a paper from its id: arXiv:1707.06347, doi:10.1038/nature14236, or an address."""
    if identifier.startswith("arXiv:"):
        return f"https://arxiv.org/abs/{identifier.removeprefix('arXiv:')}"
    if identifier.startswith("doi:"):
        return f"https://doi.org/{identifier.removeprefix('doi:')}"
    return identifier


def anchor(topic: str) -> str:
    """The id that MyST gives to a heading."""
    return re.sub(r"[^\w\- ]", "", topic.lower()).replace(" ", "-")


def page(papers: list[dict]) -> str:
    """The text of the page."""
    by_id = {paper["id"]: paper for paper in papers}
    start = "\n".join(f"- [{by_id[i]['title']}]({link(i)})" for i in START)
    topics = list(dict.fromkeys(paper["topic"] for paper in papers))
    lines = [HEAD.format(count=len(papers), start=start)]
    lines += [f"- [{topic}](#{anchor(topic)})" for topic in topics]
    for topic in topics:
        lines += ["", f"## {topic}", ""]
        for paper in sorted((p for p in papers if p["topic"] == topic), key=lambda p: p["year"]):
            shown = paper["id"] if paper["id"].startswith(("arXiv:", "doi:")) else "online"
            lines.append(
                f"- {paper['authors']}, {paper['year']}. **{paper['title']}**. [{shown}]({link(paper['id'])})\\\n"
                f"  {paper['why']}"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (HERE / "reading-list.md").write_text(page(load()), encoding="utf-8")
