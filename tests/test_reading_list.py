"""The reading list's source, and that its page is what the script writes from it; the pictures of the introduction."""

import importlib.util
import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from spinup.algorithm import files

DOCS = Path(__file__).parents[1] / "docs"
SPEC = importlib.util.spec_from_file_location("reading_list", DOCS / "reading_list.py")
reading_list = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(reading_list)

# An arXiv id is year, month and a number, of five digits since 2015.
ARXIV = r"arXiv:(?:0[7-9]|1[0-4])(?:0[1-9]|1[0-2])\.\d{4}|arXiv:(?:1[5-9]|2\d)(?:0[1-9]|1[0-2])\.\d{5}"
RENAMED = {"arXiv:1902.05605": 2024}  # posted in 2019 as CrossNorm
ID = re.compile(ARXIV + r"|doi:10\.\d{4,5}/[\w.\-]+|https://[\w.\-]+/[\w.\-/?=%~]+")


def faults(papers: list[dict]) -> list[str]:
    """What is wrong with a list of papers, one line each."""
    found = []
    for field in ("id", "title"):
        found += [f"{key}: {n} times" for key, n in Counter(p[field].lower() for p in papers).items() if n > 1]
    for paper in papers:
        name = paper["id"]
        if set(paper) != {"topic", "id", "year", "authors", "title", "why"}:
            found.append(f"{name}: fields {sorted(paper)}")
            continue
        if not ID.fullmatch(name):
            found.append(f"{name}: not an id")
        # The year is that of the first version under this title: as a rule that of the arXiv id.
        if name.startswith("arXiv:") and paper["year"] != RENAMED.get(name, 2000 + int(name[6:8])):
            found.append(f"{name}: not of {paper['year']}")
        if not 1950 <= paper["year"] <= 2026:
            found.append(f"{name}: year {paper['year']}")
        if not re.fullmatch(r"[A-Z].{20,200}[.?]", paper["why"]):
            found.append(f"{name}: why to read it is one line, a sentence: {paper['why']!r}")
        if not paper["authors"] or len(paper["title"]) < 5 or paper["title"].endswith("."):
            found.append(f"{name}: authors or title")
    return found


def test_papers():
    papers = reading_list.load()
    assert faults(papers) == []
    assert len(papers) >= 100
    topics = Counter(paper["topic"] for paper in papers)
    assert len(topics) >= 15
    assert min(topics.values()) >= 5, topics


def test_page_is_what_the_script_writes():
    page = (DOCS / "reading-list.md").read_text(encoding="utf-8")
    assert page == reading_list.page(reading_list.load()), "run: python docs/reading_list.py"
    for paper in reading_list.load():
        assert f"]({reading_list.link(paper['id'])})\\\n  {paper['why']}\n" in page


GOOD = {
    "topic": "Theory",
    "id": "arXiv:1707.06347",
    "year": 2017,
    "authors": "Schulman",
    "title": "Proximal",
    "why": "It is short and used by many.",
}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"id": "arXiv:1707.6347"}, "arXiv:1707.6347: not an id"),
        ({"id": "arXiv:1713.06347"}, "arXiv:1713.06347: not an id"),
        ({"id": "arXiv:1312.5602", "year": 2013}, None),
        ({"id": "doi:10.1038/nature14236"}, None),
        ({"id": "doi:nature14236"}, "doi:nature14236: not an id"),
        ({"id": "see above"}, "see above: not an id"),
        ({"year": 2018}, "arXiv:1707.06347: not of 2018"),
        ({"why": ""}, "arXiv:1707.06347: why"),
        ({"why": "short and used by many."}, "arXiv:1707.06347: why"),
        ({"why": "It is short.\nIt is used by many."}, "arXiv:1707.06347: why"),
        ({"title": ""}, "arXiv:1707.06347: authors or title"),
        ({"extra": 1}, "arXiv:1707.06347: fields"),
    ],
)
def test_faults_are_found(change, fault):
    found = faults([GOOD | change])
    assert len(found) == (fault is not None)
    assert not fault or found[0].startswith(fault)


def test_repeated_papers_are_found():
    assert faults([GOOD, GOOD | {"title": "Another"}]) == ["arxiv:1707.06347: 2 times"]
    assert faults([GOOD, GOOD | {"id": "arXiv:1707.06348"}]) == ["proximal: 2 times"]


def test_links():
    assert reading_list.link("arXiv:1707.06347") == "https://arxiv.org/abs/1707.06347"
    assert reading_list.link("doi:10.1038/nature14236") == "https://doi.org/10.1038/nature14236"
    assert reading_list.link("https://x.org/y") == "https://x.org/y"


def test_topics_are_linked():
    page = (DOCS / "reading-list.md").read_text(encoding="utf-8")
    headings = {reading_list.anchor(heading) for heading in re.findall(r"^## (.*)$", page, re.MULTILINE)}
    assert set(re.findall(r"\(#([\w-]+)\)", page)) == headings


# ---- the introduction


def test_pictures_are_whole():
    pictures = sorted((DOCS / "introduction" / "img").glob("*.svg"))
    used = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "introduction").glob("*.md"))
    assert {picture.name for picture in pictures} == set(re.findall(r"\(img/([\w-]+\.svg)\)", used))
    for picture in pictures:
        root = ElementTree.parse(picture).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("viewBox")
    kinds = (DOCS / "introduction" / "img" / "kinds.svg").read_text(encoding="utf-8")
    ours = ", ".join(re.findall(r'class="ours">([^<]*)<', kinds))
    assert {algo.upper().replace("_", "-") for algo in files()} <= set(ours.upper().split(", "))


def test_proofs_name_tests_that_exist():
    """A line in italics after a proof names the test of its claim."""
    tests = set(re.findall(r"^def (test_\w+)", (Path(__file__).parent / "test_examples.py").read_text(), re.MULTILINE))
    named = re.findall(r"\btest_\w+", (DOCS / "introduction" / "proofs.md").read_text(encoding="utf-8"))
    assert len(named) >= 6
    assert set(named) <= tests


def test_equation_labels_are_unique_and_known():
    """No two equations of the introduction have the same label, and every one referred to is there."""
    pages = [*(DOCS / "introduction").glob("*.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    labels = Counter(re.findall(r"^:label: (\S+)$", text, re.MULTILINE))
    assert max(labels.values()) == 1
    of_algorithms = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "algorithms").glob("*.md"))
    labels.update(re.findall(r"^:label: (\S+)$", of_algorithms, re.MULTILINE))
    assert set(re.findall(r"\{eq\}`([\w-]+)`", text)) <= set(labels)


# ---- the pages that teach

TEACHING = [
    *sorted((DOCS / "introduction").glob("*-*.md")),
    DOCS / "introduction" / "proofs.md",
    *(DOCS / "algorithms" / f"{algo}.md" for algo in sorted(files())),
]
PLAIN = [
    *DOCS.glob("*/*.md"),
    *(
        DOCS / f"{name}.md"
        for name in ("index", "research", "glossary", "exercises", "debugging", "notebooks", "teaching")
    ),
    DOCS.parent / "README.md",
    *(DOCS.parent / "spinup" / "exercises").rglob("*.md"),
]
# British spellings, and words that a reader of English would stumble over.
UNUSUAL = "|".join(
    (
        r"dear(?:er)?|spoilt|mend(?:s|ed)?|foret\w+|surer|gone on with|belongs into|in the place of|learnt|misspelt",
        r"behaviour\w*|neighbour\w*|colour\w*|grey|licence|modelling|(?:normal|optim|vector|initial|regular)is(?:e|ed|ing)",
    )
)
TERMS = [
    *(
        "Bellman error",
        "credit assignment",
        "exploration and exploitation",
        "importance sampling",
        "Monte Carlo",
        "POMDP",
    ),
    *(
        "policy iteration",
        "value iteration",
        "REINFORCE",
        "reparameterization trick",
        "reward hacking",
        "reward shaping",
    ),
    *("sample efficiency", "score function"),
]


@pytest.mark.parametrize("page", TEACHING, ids=lambda page: page.stem)
def test_pages_ask_questions(page):
    text = page.read_text(encoding="utf-8")
    questions = text.partition("## You should know\n")[2].partition("\n## ")[0]
    assert len(re.findall(r"<details><summary>[^<]+\?</summary>\n\n\S.*?\n\n</details>", questions, re.DOTALL)) >= 3
    assert "exercises" in text.lower() or page.stem in ("proofs", "kinds-of-algorithms")


def test_terms_are_defined_and_used():
    entries = re.findall(r"^(\S.*)\n  \S", (DOCS / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(TERMS) <= set(entries)
    assert entries == sorted(entries, key=str.lower)
    text = "".join(" ".join(page.read_text(encoding="utf-8").split()) for page in TEACHING).lower()
    assert [term for term in TERMS if term.lower() not in text] == []


def unusual(text: str) -> list[str]:
    return re.findall(rf"\b(?:{UNUSUAL})\b", re.sub(r"`[^`]*`", "", text), re.IGNORECASE)


def test_plain_words():
    found = {page.name: unusual(page.read_text(encoding="utf-8")) for page in PLAIN}
    assert {name: words for name, words in found.items() if words} == {}
    assert unusual("Steps are dear, a spoilt run; the normalised neighbours.") == [
        "dear",
        "spoilt",
        "normalised",
        "neighbours",
    ]
