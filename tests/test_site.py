"""The site: built with warnings as errors, every link followed, every page opened in a browser; and our extensions."""

import html.parser
import json
import re
import subprocess
import sys
import tempfile
import urllib.parse
from pathlib import Path

import pytest
from test_docs import ROOT, listed_links

pytest.importorskip("sphinx", reason="the extra docs is not installed")
sys.path.insert(0, str(ROOT / "docs" / "_ext"))

import browser
import docstrings
import notebooks
import references
import sources

from spinup import algorithm

# What readers search for, and the algorithm whose page must come first.
SEARCHES = {"entropy": "sac", "temperature": "sac", "clipping": "ppo", "trust region": "trpo", "replay buffer": "ddpg"}
SEARCHES |= {"REINFORCE": "vpg", "twin critics": "td3", "ppo": "ppo"}
# What the theme and Python's own documentation, which docstrings mention, add to the pages' links.
OF_THE_THEME = ("https://github.com/pradyunsg/furo", "https://pradyunsg.me", "https://www.sphinx-doc.org/")


def pages(site: Path) -> list[Path]:
    return sorted(page for page in site.rglob("*.html") if "_static" not in page.parts)


class Anchors(html.parser.HTMLParser):
    """The addresses, the ids and the text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids |= {attributes[key] for key in ("id", "name") if attributes.get(key)}
        self.links += [attributes[key] for key in ("href", "src") if attributes.get(key)]


def broken_links(site: Path) -> tuple[list[str], set[str]]:
    """(links of the site's pages to files or ids that are not there, all links that leave it)."""
    parsed = {page: Anchors(page.read_text(encoding="utf-8")) for page in pages(site)}
    faults, outside = [], set()
    for page, anchors in parsed.items():
        for link in anchors.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme in ("http", "https"):
                outside.add(link)
            elif parts.scheme == "":
                target = (page.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else page
                name = page.relative_to(site).as_posix()
                if not target.is_file():
                    faults.append(f"{name}: {link}: no such file")
                elif parts.fragment and target in parsed and parts.fragment not in parsed[target].ids:
                    faults.append(f"{name}: {link}: no such place on the page")
    return faults, outside


# ---- the site


def test_links_lead_somewhere(site):
    site = site.resolve()
    faults, outside = broken_links(site)
    assert faults == []
    assert len(pages(site)) > 30
    known = listed_links()
    assert {link for link in outside if link not in known and not link.startswith(OF_THE_THEME)} == set()


@pytest.mark.parametrize("algo", algorithm.files())
def test_equations_and_source_lead_to_each_other(site, algo):
    text = sources.source_of(algo).read_text(encoding="utf-8")
    labels = sources.labelled_lines(text)
    page = (site / "algorithms" / f"{algo}.html").read_text(encoding="utf-8")
    code = (site / "code" / f"{algo}.html").read_text(encoding="utf-8")
    assert len(labels) >= 3
    for label, lines in labels.items():
        assert f'id="{sources.equation_id(label)}"' in page
        assert f"({label})" in page
        assert f'href="../algorithms/{algo}.html#{sources.equation_id(label)}"' in code
        for line in lines:
            assert f'href="../code/{algo}.html#L{line}"' in page
            assert f'id="L{line}"' in code
    assert code.count('class="line"') == len(text.splitlines())
    for label, line, _, address in sources.shared_lines():
        if label.startswith(f"{algo}-"):
            assert f'href="{address}">{address.split("/")[-1].partition(".")[0]}.py:{line}<' in page


@pytest.mark.parametrize(
    "names", [("vpg", "trpo"), ("vpg", "ppo"), ("ppo", "ppo_rnn"), ("ddpg", "td3"), ("td3", "sac")], ids="-".join
)
def test_differences_are_whole(site, names):
    """Without the added lines the page has all of the one file, without the removed ones all of the other."""
    page = (site / "code" / "{}-to-{}.html".format(*names)).read_text(encoding="utf-8")
    old, new = (len(sources.source_of(name).read_text(encoding="utf-8").splitlines()) for name in names)
    counts = {kind: page.count(f'class="line {kind}"') for kind in ("same", "gone", "added")}
    assert counts["same"] + counts["gone"] == old
    assert counts["same"] + counts["added"] == new
    assert all(counts.values())


def test_search_index_knows_the_pages(site):
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    for word in ("algorithms/ppo", "resum", "entropi", "debugging"):
        assert word in index


def faults_of(page: browser.Page) -> tuple[list[str], int]:
    """(what is wrong with the page that is open, the number of equations drawn on it)."""
    faults = [*page.faults]
    faults += [f"asks for {url}" for url in page.requests if not url.startswith(("file:", "data:"))]
    meant, drawn, wrong = page.evaluate(
        "['.math', '.math > mjx-container', 'mjx-merror, [data-mjx-error]']"
        ".map(s => document.querySelectorAll(s).length)"
    )
    if meant != drawn or wrong:
        faults.append(f"{drawn} of {meant} equations drawn, {wrong} with errors")
    hidden = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.getAttribute('src'))"
    return faults + [f"{source} is not shown" for source in page.evaluate(hidden)], drawn


def test_menu_has_algorithms_before_research(site):
    page = (site / "index.html").read_text(encoding="utf-8")
    captions = re.findall(r'<span class="caption-text">([^<]*)</span>', page)
    assert captions == ["Start", "Learn", "Algorithms", "Research", "Guides", "Code"]


def test_landing_page_leads_on(site):
    article = re.search(r"<article.*</article>", (site / "index.html").read_text(encoding="utf-8"), re.DOTALL)
    links = Anchors(article[0]).links
    wanted = {"introduction/index", "exercises", "notebooks", "research", "start/install", "code/index", "reading-list"}
    assert {f"{name}.html" for name in wanted} <= set(links)


NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_have_pages(site, notebook):
    """With their code and figures, for download, and listed; an algorithm's page leads to its notebook."""
    page = (site / "notebooks" / f"{notebook.stem}.html").read_text(encoding="utf-8")
    outputs = [
        output for cell in json.loads(notebook.read_text("utf-8"))["cells"] for output in cell.get("outputs", [])
    ]
    assert page.count('class="cell-figure"') == sum("image/png" in output.get("data", {}) for output in outputs) > 0
    assert page.count("cell-figure") + page.count("cell-output") + page.count("cell-table") == len(outputs)
    assert "find_spec" in page
    assert re.search(rf'href="(\.\./_downloads/\w+/{notebook.stem}.ipynb)"', page)
    assert f'href="notebooks/{notebook.stem}.html"' in (site / "notebooks.html").read_text(encoding="utf-8")
    if notebook.stem in algorithm.files():
        article = (site / "algorithms" / f"{notebook.stem}.html").read_text(encoding="utf-8")
        assert f'href="../notebooks/{notebook.stem}.html"' in article.partition("<article")[2]


def test_pages_have_an_icon_and_a_description(site):
    for page in pages(site):
        text = page.read_text(encoding="utf-8")
        icon = re.search(r'<link rel="(?:shortcut )?icon" href="([^"?]*)', text)
        assert icon, page
        assert (page.parent / icon[1]).is_file()
        if page.stem not in ("genindex", "search", "py-modindex") and "_modules" not in page.parts:
            assert len(re.findall(r'<meta[^>]*name="description"[^>]*>', text)) == 1, page


def test_no_page_shows_its_markdown(site):
    """A list whose indentation is wrong becomes a paragraph, with its dashes and stars."""
    shown = re.compile(r"[.:]\s+- <strong>|^- |\*\*[A-Z]", re.MULTILINE)
    for page in site.rglob("*.html"):
        for paragraph in re.findall(r"<p>(.*?)</p>", page.read_text(encoding="utf-8"), re.DOTALL):
            assert not shown.search(paragraph), f"{page.relative_to(site)}: {paragraph}"


def test_images_have_alternative_texts(site):
    """Each picture says what it shows; the text of an inline one is its <desc>. (Togglers are Sphinx's + and -.)"""
    for page in pages(site):
        text = page.read_text(encoding="utf-8")
        images = [image for image in re.findall(r"<img[^>]*>", text) if "toggler" not in image]
        assert [image for image in images if not re.search(r'alt="[^"]{20,}"', image)] == [], page
        drawings = re.findall(r'<svg[^>]*role="img"[^>]*aria-labelledby="(\S+) (\S+)"', text)
        assert len(drawings) == text.count('class="picture"')
        for title, description in drawings:
            assert text.count(f'id="{title}"') == text.count(f'id="{description}"') == 1


@pytest.mark.slow
def test_pages_in_a_browser(site):
    """No message in the console, nothing from elsewhere, no equation left as TeX; and the search finds something."""
    if browser.find_chromium() is None:
        pytest.skip("there is no Chromium here (Debian: apt-get install chromium)")
    pytest.importorskip("websocket", reason="the extra docs is not installed")
    faults, equations = [], 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, browser.chromium(Path(folder)) as page:
        for file in pages(site):
            page.open(file.as_uri())
            found, drawn = faults_of(page)
            faults += [f"{file.relative_to(site).as_posix()}: {fault}" for fault in found]
            equations += drawn
        assert faults == []
        assert equations > 100
        for words, first in SEARCHES.items():
            page.open((site / "search.html").as_uri() + f"?q={urllib.parse.quote(words)}")
            page.wait("document.querySelectorAll('ul.search li a').length > 0")
            assert f"algorithms/{first}.html" in page.evaluate("document.querySelector('ul.search li a').href"), words
        page.open((site / "start" / "first-minutes.html").as_uri())
        commands = "document.querySelector('.highlight-console pre')"
        assert page.evaluate(f"getSelection().selectAllChildren({commands}), getSelection().toString()").strip() == (
            "python -m spinup.run ppo --env CartPole-v1 --epochs 25 --exp_name pole"  # without its prompt
        )
        for width, dark in ((390, False), (1400, True)):
            page.look(width, 900, dark)
            page.open((site / "algorithms" / "ppo.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            brightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
            assert (max(page.evaluate(brightness)) < 60) == dark


@pytest.mark.slow
def test_landing_page(site):
    """All that it loads is here, below 1.5 MB; the pictures move, pause by a button, and hold still where asked to."""
    if browser.find_chromium() is None:
        pytest.skip("there is no Chromium here (Debian: apt-get install chromium)")
    pytest.importorskip("websocket", reason="the extra docs is not installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, browser.chromium(Path(folder)) as page:
        page.open((site / "index.html").as_uri())
        page.wait("[...document.images].every((i) => i.complete)")
        assert faults_of(page)[0] == []
        files = {urllib.parse.unquote(urllib.parse.urlsplit(url).path) for url in page.requests if url[:5] == "file:"}
        assert sum(Path(file).stat().st_size for file in files) < 1_500_000
        sources = "[...document.querySelectorAll('.policies img')].map((i) => i.currentSrc)"
        moving = page.evaluate(sources)
        assert len(moving) == 3
        page.evaluate("document.querySelector('[data-pause]').focus()")
        for wanted in (True, False):
            page.press(" ", 32)
            page.wait(f"{sources}.every((s) => s.endsWith('-still.webp') === {str(wanted).lower()})")
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
        page.wait(f"{sources}.every((s) => s.endsWith('-still.webp'))")


@pytest.mark.slow
def test_source_beside_equations(site):
    """In two columns from 1024 pixels on, and one below the other on a phone."""
    if browser.find_chromium() is None:
        pytest.skip("there is no Chromium here (Debian: apt-get install chromium)")
    pytest.importorskip("websocket", reason="the extra docs is not installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, browser.chromium(Path(folder)) as page:
        page.open((site / "code" / "ppo.html").as_uri())
        for width, columns in ((390, 1), (1023, 1), (1024, 2), (1400, 2)):
            page.look(width, 900, dark=False)
            piece = "document.querySelector('.piece:has(.notes)')"
            assert page.evaluate(f"getComputedStyle({piece}).gridTemplateColumns.split(' ').length") == columns, width
            assert page.evaluate("document.documentElement.scrollWidth") <= width


# ---- each check can fail


def test_broken_links_are_found(tmp_path):
    links = "".join(f'<a href="{link}"></a>' for link in ("b.html#x", "b.html#y", "c.html", "#z"))
    (tmp_path / "a.html").write_text(links)
    (tmp_path / "b.html").write_text('<p id="x"><a href="https://e.org"></a></p>')
    faults, outside = broken_links(tmp_path.resolve())
    assert faults == [
        "a.html: b.html#y: no such place on the page",
        "a.html: c.html: no such file",
        "a.html: #z: no such place on the page",
    ]
    assert outside == {"https://e.org"}


@pytest.mark.slow
def test_browser_finds_faults(tmp_path):
    if browser.find_chromium() is None:
        pytest.skip("there is no Chromium here (Debian: apt-get install chromium)")
    pytest.importorskip("websocket", reason="the extra docs is not installed")
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<img src='nowhere.png'><script>console.error('oh'); undefined.x</script><i class='math'>x</i>"
        "<i class='math'><mjx-container><mjx-merror></mjx-merror></mjx-container></i>"
        "<script src='http://127.0.0.1:9/x.js'></script>"
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, browser.chromium(Path(folder)) as page:
        page.open(bad.as_uri())
        faults, drawn = faults_of(page)
    for fault in ("console error: oh", "TypeError", "not loaded", "asks for http://127.0.0.1:9/x.js"):
        assert fault in " ".join(faults)
    assert faults[-2:] == ["1 of 2 equations drawn, 1 with errors", "nowhere.png is not shown"]
    assert drawn == 1


# ---- the extensions


NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "source": ["# A title\n", "\n", "Some words, and $x$."]},
        {
            "cell_type": "code",
            "source": ["# Figure: a <thing>\n", "y = '```'"],
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": ["1 < 2\n", "\n", "3\n"]},
                {"output_type": "display_data", "data": {"image/png": "iVBO\nRw==", "text/plain": "<Figure>"}},
                {"output_type": "execute_result", "data": {"text/html": ['<table border="1" class="dataframe">']}},
            ],
        },
        {"cell_type": "code", "source": ["x = 1"], "outputs": []},
    ]
}


def test_notebook_as_markdown():
    fence = "`" * 8
    assert notebooks.as_markdown(NOTEBOOK).split("\n") == [
        *("# A title", "", "Some words, and $x$.", ""),
        *(f"{fence}python", "# Figure: a <thing>", "y = '```'", fence, ""),
        fence + "{raw} html",
        *('<pre class="cell-output">1 &lt; 2', "", "3</pre>"),
        '<img class="cell-figure" alt="a &lt;thing&gt;" src="data:image/png;base64,iVBORw==">',
        '<div class="cell-table"><table class="docutils dataframe"></div>',
        *(fence, ""),
        *(f"{fence}python", "x = 1", fence),
    ]


def build_with(repository: str, folder: Path) -> subprocess.CompletedProcess:
    """A site of two pages: a notebook and the list of notebooks."""
    files = {
        "conf.py": f"import sys\nsys.path[:0] = [{str(ROOT / 'docs' / '_ext')!r}]\n"
        f"extensions = ['myst_parser', 'notebooks']\nroot_doc = 'notebooks'\nrepository = {repository!r}\n",
        "notebooks.md": "# Notebooks\n\n- [One](notebooks/one.ipynb): words\n\n```{toctree}\nnotebooks/one\n```\n",
        "notebooks/one.ipynb": json.dumps(NOTEBOOK),
    }
    for name, text in files.items():
        (folder / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "docs" / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(folder / "docs"), str(folder / "html")]
    return subprocess.run(command, capture_output=True, text=True)


def test_badges_need_the_address(tmp_path):
    assert build_with("", tmp_path).returncode == 0
    for name in ("notebooks", "notebooks/one"):
        page = (tmp_path / "html" / f"{name}.html").read_text(encoding="utf-8")
        assert "Open in" not in page
    assert "Download the notebook" in page


@pytest.mark.parametrize("ending", ["", "/", ".git"])
def test_badges(tmp_path, ending):
    done = build_with(f"https://github.com/someone/spin-up{ending}", tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("notebooks", "notebooks/one"):
        links = Anchors((tmp_path / "html" / f"{name}.html").read_text(encoding="utf-8")).links
        path = "docs/notebooks/one.ipynb"
        assert links.count(f"https://colab.research.google.com/github/someone/spin-up/blob/main/{path}") == 1
        assert links.count(f"https://mybinder.org/v2/gh/someone/spin-up/main?labpath={path}") == 1


def test_address_must_be_one(tmp_path):
    done = build_with("spinup", tmp_path)
    assert done.returncode == 2
    assert "repository is 'spinup'; it must be like https://github.com/NAME/spinup, or empty" in done.stderr


def test_labelled_lines():
    text = 'x = "# ppo-1"\ny = 1  # ppo-1: r, ppo-2\n# ppo-2\nz = 2\n'
    assert sources.labelled_lines(text) == {"ppo-1": [2], "ppo-2": [2, 3]}


def test_owner():
    text = "class A:\n    x = 1\n\n    def f(self):\n        return 2\n\n\ny = 3\n"
    assert [sources.owner(text, line) for line in (2, 5, 8)] == ["A", "A.f", ""]


def test_equations():
    assert sources.equations("a\n```{math}\n:label: ppo-1\nx = 1\n```\n```{math}\ny\n```\n") == {"ppo-1": "x = 1\n"}


def test_line_of():
    text = "x = 1\n\ny = x + 1\nz = x\n"
    assert sources.line_of(text, "y = x") == 3
    for code, times in (("x", 3), ("w", 0)):
        with pytest.raises(ValueError, match=f"'{code}' is in {times} lines"):
            sources.line_of(text, code)


def test_quoted_lines_lead_to_the_source(site):
    """Those of PPO's details, in the algorithm's file and in others."""
    page = (site / "algorithms" / "ppo-details.html").read_text(encoding="utf-8")
    for name, place in (("algos/ppo.py", "code/ppo.html#L{}"), ("buffers.py", "_modules/spinup/buffers.html")):
        text = (ROOT / "spinup" / name).read_text(encoding="utf-8")
        line = sources.line_of(text, {"algos/ppo.py": "r = ac.rew_norm", "buffers.py": "delta = r +"}[name])
        assert f'<a href="../{place.format(line)}">{Path(name).name}:{line}</a>' in page


def test_pieces():
    """A blank line begins a piece, unless it is in a docstring or another follows it."""
    text = '"""a\n\nb\n"""\n\n\nx = 1\ny = 2\n\nz = 3\n'
    assert sources.pieces(text) == [(1, 6), (7, 9), (10, 10)]


def test_diff_html():
    out = sources.diff_html("a = 1\nb = 2\n", "a = 1\nc = 3\nd = 4\n", "x.py", "y.py")
    assert "1 lines in both, 1 only in x.py (-), 2 only in y.py (+)" in out
    assert [out.count(f'class="line {kind}"') for kind in ("same", "gone", "added")] == [1, 1, 2]


def test_diff_html_folds_what_is_the_same():
    same = "".join(f"x{i} = {i}\n" for i in range(20))
    out = sources.diff_html(f"a = 1\n{same}", f"b = 1\n{same}", "x.py", "y.py")
    assert "<summary>17 lines in both</summary>" in out


def test_docstrings_become_fields_and_code():
    lines = ["Do x, (N, *shape).", "", "size: how many", "    of them; `a*b` stays", "unknown: no field", ""]
    lines += ["    code()", "", "f(1)", "g = h(2)"]
    assert docstrings.convert(lines, {"size"}) == [
        r"Do x, (N, \*shape).",
        "",
        ":param size: how many",
        "    of them; `a*b` stays",
        "",
        "unknown: no field",
        "",
        "::",
        "",
        "        code()",
        "",
        "::",
        "",
        "    f(1)",
        "    g = h(2)",
        "",
    ]


def test_references_become_links():
    found = references.linked("see arXiv:1707.06347, doi:10.1007/BF00992696.")
    assert [node.get("refuri") for node in found[1::2]] == [
        "https://arxiv.org/abs/1707.06347",
        "https://doi.org/10.1007/BF00992696",
    ]
    assert "".join(node.astext() for node in found) == "see arXiv:1707.06347, doi:10.1007/BF00992696."
