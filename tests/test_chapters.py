"""What the chapters with a program share: labels on page and line, records that hold what the page says, flags."""

import importlib
import itertools
import json
import re
import sys

import numpy as np
import pytest
from test_docs import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import chapters

PAGES = {  # page: (program, prefix of its labels, records)
    "offline": ("offline", "off", ["offline"]),
    "exploration": ("explore", "exp", ["exploration"]),
    "model-based": ("model_based", "mod", ["model-based", "model-exploitation"]),
}


def page_of(chapter: str) -> str:
    return (ROOT / "docs" / "introduction" / f"{chapter}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("chapter", PAGES)
def test_equations_of_the_page_are_in_the_code(chapter):
    program, prefix, _ = PAGES[chapter]
    labels = re.findall(r"^:label: (\S+)$", page_of(chapter), re.MULTILINE)
    assert labels == [f"{prefix}-{i + 1}" for i in range(len(labels))]
    source = (ROOT / "spinup" / "examples" / f"{program}.py").read_text(encoding="utf-8")
    assert len(labels) >= 5
    assert set(re.findall(rf"# .*\b({prefix}-\d+)\b", source)) == set(labels)
    assert f"{prefix}-1 to {prefix}-{len(labels)}: docs/introduction/{chapter}.md" in source


def test_all_records_are_on_a_page():
    assert [name for _, _, records in PAGES.values() for name in records] == list(chapters.CHAPTERS)


@pytest.mark.parametrize("chapter", chapters.CHAPTERS)
def test_every_setting_has_all_its_seeds(chapter):
    """And the file has nothing else."""
    found, seeds = chapters.records(chapter), list(range(chapters.CHAPTERS[chapter].seeds))
    assert len(seeds) >= 5
    assert [[run["seed"] for run in runs] for _, runs in found] == [seeds] * len(found)
    lines = chapters.path_of(chapter).read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(seeds) * len(found)


@pytest.mark.parametrize(("page", "name"), [(page, name) for page in PAGES for name in PAGES[page][2]])
def test_the_pages_tables_are_the_reports(page, name):
    report = chapters.report(name, chapters.records(name))
    lines = page_of(page).splitlines()
    start = lines.index(report.splitlines()[0])
    assert "\n".join(itertools.takewhile(lambda line: line.startswith("|"), lines[start:])) == report


@pytest.mark.parametrize("chapter", PAGES)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "-1"], "argument --seed: must be at least 0 and below 2**31, got -1"),
        (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
    ],
)
def test_cli_refuses(chapter, words, message, monkeypatch, capsys):
    module = importlib.import_module(f"spinup.examples.{PAGES[chapter][0]}")
    monkeypatch.setattr(sys, "argv", [chapter, *words])
    with pytest.raises(SystemExit, match="2"):
        module.main()
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("alpha", ["-1", "nan"])
def test_offline_refuses_alpha(alpha, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["offline", "--alpha", alpha])
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module("spinup.examples.offline").main()
    assert "argument --alpha: must be at least 0, got " in capsys.readouterr().err.splitlines()[-1]


# ---- what the pages say in words


def column(name: str, of) -> dict[tuple, np.ndarray]:
    """{the values of a setting: the number that `of` takes from the rows of each of its runs}."""
    found = chapters.records(name)
    return {tuple(s.values()): np.array([of(run["rows"]) for run in runs], float) for s, runs in found}


def says(page: str, x: np.ndarray, digits: int) -> None:
    """The page has this mean, and its interval."""
    mean, low, high = (f"{value:.{digits}f}" for value in chapters.mean_and_interval(x))
    assert f"{mean} ({low} to {high})" in " ".join(page_of(page).split())


def test_words_about_offline_runs():
    returns = column("offline", lambda rows: rows[-1][1])
    says("offline", returns["noisy", "4"] - returns["noisy", "0"], 0)
    assert np.sort(returns["noisy", "4"])[1:] == pytest.approx(-184, abs=4)
    assert np.sort(returns["noisy", "4"])[0] < -1000
    for alpha, better in itertools.pairwise(("inf", "4", "1", "0.25", "0")):
        assert returns["expert", alpha].mean() < returns["expert", better].mean()


def test_words_about_exploration_runs():
    first = {method: x for (method,), x in column("exploration", chapters.first_goal).items()}
    says("exploration", first["count"] - first["RND"], 0)
    assert first["plain count"].min() == 301
    assert np.sort(first["epsilon-greedy"])[:2].tolist() == [121, 301]  # one of ten runs, once


def test_words_about_model_based_runs():
    first = column("model-based", chapters.CHAPTERS["model-based"].columns["first episode above -300"])
    says("model-based", first[1, 20] - first[5, 20], 1)
    gaps = column("model-exploitation", lambda rows: rows[-1][1] - rows[-1][2] - rows[-1][3] + rows[-1][4])
    mean, low, high = chapters.mean_and_interval(gaps[1, 3])
    assert f"{mean:.1f} ({low:.2f} to {high:.1f})" in page_of("model-based")


# ---- the script


def test_report_by_hand(monkeypatch):
    """The means of two seeds, of the last row; with two runs, the interval is from one to the other."""
    chapter = chapters.CHAPTERS["offline"]
    runs = [{"rows": [[500, 9, 9, 9], [1000, -a, -a / 2, 0.4]]} for a in (100, 300)]
    report = chapters.report("offline", [(chapter.settings[0], runs), (chapter.settings[1], [])])
    assert report.splitlines() == [
        "| data | alpha | seeds | return | discounted return | expected |",
        "| --- | --- | --- | --- | --- | --- |",
        "| expert | 0 | 2 | -200 (-300 to -100) | -100 (-150 to -50) | 0 (0 to 0) |",
    ]


def test_mean_and_interval():
    """The interval of a mean of 5 runs: about 2 standard errors on either side."""
    mean, low, high = chapters.mean_and_interval(np.array([[1.0], [2], [3], [4], [5]]))
    assert mean == 3
    assert [low, high] == pytest.approx([3 - 1.96 * (2 / 5) ** 0.5, 3 + 1.96 * (2 / 5) ** 0.5], abs=0.15)


def test_records_are_made_and_read(tmp_path, monkeypatch, capsys):
    """A run that is there is not repeated."""
    calls = []

    def run(seed, data, alpha):
        calls.append((seed, data, alpha))
        return [[1, 2.0, 3.0, 4.0]]

    monkeypatch.setattr(chapters, "FOLDER", tmp_path)
    monkeypatch.setitem(chapters.CHAPTERS, "offline", chapters.CHAPTERS["offline"]._replace(run=run))
    monkeypatch.setattr(sys, "argv", ["chapters.py", "offline", "--seeds", "1", "0"])
    chapters.main()
    chapters.main()
    assert len(calls) == len(set(calls)) == 20
    assert [[run["seed"] for run in runs] for _, runs in chapters.records("offline")] == [[0, 1]] * 10
    line = json.loads((tmp_path / "offline.jsonl").read_text(encoding="utf-8").splitlines()[0])
    setting = {"data": "expert", "alpha": "0"}
    assert line == {**setting, "seed": 1, "seconds": line["seconds"], "rows": [[1, 2, 3, 4]]}
    assert "20 runs" in capsys.readouterr().out
