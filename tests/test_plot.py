"""The plotter: what its figures contain, and the command."""

import math
import os
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from test_results import frame, make, original, two_groups

from spinup.analysis import plot, stats
from spinup.analysis.plot import aggregate, curves, improvement, load, main, profile, table
from spinup.analysis.results import Line
from spinup.errors import UserError

nan = math.nan


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    plt.close("all")


runs = pytest.fixture(lambda tmp_path: two_groups(tmp_path))


def line(x, y):
    return Line("a", "unknown", "a_s0", "AverageEpRet", np.array(x, dtype=float), np.array(y, dtype=float))


# ---- aggregation


def test_aggregate_by_hand():
    x, ys = aggregate([line([1, 3], [0, 4]), line([2, 3, 5], [1, 2, 0])])
    np.testing.assert_array_equal(x, [1, 2, 3, 5])
    np.testing.assert_array_equal(ys, [[0, 2, 4, nan], [nan, 1, 2, 0]])


def test_aggregate_bounds_the_grid():
    same = [line(np.arange(50), np.arange(50))] * 2
    assert len(aggregate(same, points=13)[0]) == 50  # no interpolation if all lines have the same x
    x, ys = aggregate(same, points=10)
    assert len(x) == 40  # still more than a figure can show
    assert x[[0, -1]].tolist() == [0, 49]
    assert set(x) <= set(range(50))  # a subset of the rows
    np.testing.assert_array_equal(ys[1], x)
    assert len(aggregate(same[:1], points=10)[0]) == 50  # a single line is drawn unchanged
    x, ys = aggregate([*same, line([0.5], [1])], points=8)
    np.testing.assert_allclose(x, np.linspace(0, 49, 8))
    np.testing.assert_allclose(ys[0], x)


# ---- figures


def drawn(ax):
    """The labeled, faint and dashed lines, as lists of (x, y) without NaN."""
    kinds = {"labeled": [], "faint": [], "dashed": []}
    for line in ax.get_lines():
        kind = "faint" if line.get_alpha() else "dashed" if line.get_label().startswith("_") else "labeled"
        x, y = (np.asarray(a, dtype=float) for a in line.get_data())
        kinds[kind].append((x[~np.isnan(y)].tolist(), y[~np.isnan(y)].tolist()))
    return kinds


def test_mean_and_band_over_the_seeds(runs):
    ax = curves(load(str(runs / "ppo")))
    lines = drawn(ax)
    assert sorted(lines["faint"]) == [([100, 200], [5, 7]), ([100, 200, 300], [1, 2, 3]), ([100, 200, 300], [3, 6, 9])]
    assert lines["labeled"] == [([100, 200], [3, 5])]
    assert lines["dashed"] == [([200, 300], [5, 6])]  # after the second run has ended, the mean is over two
    (band,) = ax.collections
    points = {tuple(np.round(p, 9)) for p in band.get_paths()[0].vertices}
    stds = [np.std([1, 3, 5]), np.std([2, 6, 7]), np.std([3, 9])]
    for x, mean, std in zip([100, 200, 300], [3, 5, 6], stds, strict=True):
        assert {(x, round(mean - std, 9)), (x, round(mean + std, 9))} <= points
    assert ax.get_title(loc="left") == "ppo, A-v0, 3 runs: mean ± std"
    assert ax.get_legend() is None
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("environment steps", "return (training)")


def test_iqm_and_its_interval():
    rows = [[1, 9], [2, 8], [3, 7], [90, 6]]
    df = frame(*(([100, 200], y) for y in rows))
    ax = curves(df, estimator="iqm")
    assert drawn(ax)["labeled"] == [([100, 200], [2.5, 7.5])]
    points = {tuple(np.round(p, 9)) for p in ax.collections[0].get_paths()[0].vertices}
    for low_or_high in stats.iqm_interval(np.array(rows, dtype=float), np.zeros(4)):
        assert {(x, round(y, 9)) for x, y in zip([100, 200], low_or_high, strict=True)} <= points
    assert ax.get_title(loc="left") == "a, 4 runs: IQM, 95% interval"


@pytest.mark.parametrize(("estimator", "expected"), [("max", [5, 7]), ("min", [1, 2])])
def test_other_estimators_have_no_band(runs, estimator, expected):
    ax = curves(load(str(runs / "ppo")), estimator=estimator)
    assert drawn(ax)["labeled"] == [([100, 200], expected)]
    assert len(ax.collections) == 0
    assert ax.get_title(loc="left") == f"ppo, A-v0, 3 runs: {estimator}"
    with pytest.raises(UserError, match="est is mean, iqm, max, min, not 'median'"):
        curves(load(str(runs / "ppo")), estimator="median")


def test_environments_are_separate_unless_normalized():
    rows = [(0, "a", "A-v0"), (10, "a", "A-v0"), (100, "a", "B-v0"), (300, "a", "B-v0"), (5, "b", "A-v0")]
    df = frame(*(([1], [y], *names) for y, *names in rows))
    ax = curves(df)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a, A-v0 (2 runs)", "a, B-v0 (2 runs)", "b (1 run)"]
    assert drawn(ax)["labeled"] == [([1], [5]), ([1], [200]), ([1], [5])]
    ax = curves(df, normalize={"A-v0": (0, 10), "B-v0": (100, 300)})
    assert drawn(ax)["labeled"] == [([1], [0.5]), ([1], [0.5])]
    assert ax.get_ylabel() == "normalized return (training)"
    assert ax.get_legend().get_title().get_text() == "2 environments: mean ± std"
    one = curves(df[df["group"] == "a"].assign(env=["unknown", "B-v0"] * 2))
    assert [t.get_text() for t in one.get_legend().get_texts()] == ["a, unknown environment", "a, B-v0"]


def test_curves_of_a_filtered_table(runs):
    df = load(str(runs) + "/")
    df["Score"] = 10 * df["AverageEpRet"]
    ax = curves(df[(df["seed"] != 1) & (df["group"] == "ppo")], "Score")
    assert drawn(ax)["labeled"] == [([100, 200, 300], [20, 40, 60])]
    assert ax.get_ylabel() == "Score"


def test_the_line_ends_when_few_runs_are_left():
    df = frame(([1, 2, 3, 4], [0] * 4), ([1, 2, 3], [2] * 3), ([1, 2], [4] * 2), ([1, 2], [6] * 2))
    ax = curves(df)
    lines = drawn(ax)
    assert lines["labeled"] == [([1, 2], [3, 3])]
    assert lines["dashed"] == [([2, 3], [3, 1])]
    assert ax.collections[0].get_paths()[0].vertices[:, 0].max() == 3


def test_count_draws_each_run(runs):
    ax = curves(load(str(runs) + "/"), count=True)
    lines = drawn(ax)
    assert lines["labeled"] == [([100, 200, 300], y) if len(y) == 3 else ([100, 200], y) for y in
                                 ([3, 6, 9], [5, 7], [1, 2, 3], [0, 1, 2])]  # fmt: skip
    assert lines["faint"] == lines["dashed"] == []
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["ppo_s0", "ppo_s1", "ppo_s10", "trpo_s0"]
    assert ax.get_legend().get_title().get_text() == "A-v0"


def test_legend_is_outside_the_data(runs):
    ax = curves(load(str(runs) + "/"))
    ax.figure.canvas.draw()
    legend, figure = ax.get_legend().get_window_extent(), ax.figure.bbox
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["ppo (3 runs)", "trpo (1 run)"]
    assert legend.y0 >= ax.get_window_extent().y1
    assert figure.y1 >= legend.y1  # and inside the figure
    assert figure.x1 >= legend.x1
    assert len({line.get_color() for line in ax.get_lines() if not line.get_label().startswith("_")}) == 2


def test_names_that_matplotlib_would_omit(tmp_path):
    df = frame(([1, 2], [3, 4], "_a"), ([1, 2], [5, 6], "b"), ([1, 2], [5, 6], " "))
    assert [t.get_text().strip() for t in curves(df).get_legend().get_texts()] == ["_a", "b", ""]
    df = frame(([1, 2], [3, 4], "_a"), ([1, 2], [5, 6], "_b"))
    assert [t.get_text().strip() for t in curves(df).get_legend().get_texts()] == ["_a", "_b"]
    assert curves(df[df["group"] == "_a"]).get_title(loc="left").strip() == "_a"
    two = frame(*(([1, 2], [3, 4], group) for group in ("_a", "_a", "__b__", "__b__")))
    assert [t.get_text().strip() for t in profile(two).get_legend().get_texts()] == ["_a", "__b__"]


def test_too_many_groups_for_a_legend(monkeypatch):
    df = frame(*(([1, 2], [i, 4], f"g{i}") for i in range(51)))
    monkeypatch.setattr(matplotlib.axes.Axes, "legend", None)
    ax = curves(df)
    assert ax.get_title(loc="left") == "51 curves, too many for a legend"
    assert len(ax.lines) == 51
    with pytest.raises(
        UserError, match="compares at most 20 groups, but there are 51; choose with --select and --exclude"
    ):
        improvement(pd.concat([df, df.assign(run=df["run"] + "x")]))


def test_a_legend_is_laid_out_a_few_times(monkeypatch):
    legend, calls = matplotlib.axes.Axes.legend, []
    monkeypatch.setattr(matplotlib.axes.Axes, "legend", lambda *args, **kw: calls.append(kw) or legend(*args, **kw))
    curves(frame(*(([1, 2], [i, 4], f"group{i}") for i in range(50))))
    assert len(calls) <= 12


def test_many_long_names_fit_the_figure():
    # $x_$ would be a syntax error in math mode
    ax = curves(frame(*(([0, 1e6], [i, i], f"a rather long name of a group $x_$ {i}") for i in range(9))))
    ax.figure.canvas.draw()
    legend, figure = ax.get_legend().get_window_extent(), ax.figure.bbox
    assert figure.x1 >= legend.x1
    assert figure.y1 >= legend.y1 > legend.y0 >= ax.get_window_extent().y1
    assert ax.get_window_extent().height > 1.5 * ax.figure.dpi  # inches: there is still room for the data
    styles = [(line.get_color(), line.get_linestyle()) for line in ax.get_lines()]
    assert len(set(styles)) == 9
    assert [label.get_text() for label in ax.get_xticklabels()][1:-1] == ["0", "200k", "400k", "600k", "800k", "1M"]


@pytest.mark.parametrize(
    ("last", "x", "unit"), [(100, 100, "s"), (600, 10, "min"), (7200, 120, "min"), (36000, 10, "h")]
)
def test_time_has_a_suitable_unit(last, x, unit):
    ax = curves(frame(([1, 2], [3, 4]), Time=[0.0, last]), xaxis="Time")
    assert ax.get_xlabel() == f"wall-clock time ({unit})"
    assert drawn(ax)["labeled"] == [([0, x], [3, 4])]


def test_draws_on_given_axes_and_smooths():
    figure, axes = plt.subplots(1, 2)
    size = figure.get_size_inches().tolist()
    assert curves(frame(([1, 2, 3], [0, 3, 6])), smooth=3, ax=axes[1]) is axes[1]
    assert drawn(axes[1])["labeled"] == [([1, 2, 3], [1.5, 3, 4.5])]
    assert axes[0].get_lines() == []
    assert figure.get_size_inches().tolist() == size


def test_a_single_row_is_visible():
    (line,) = curves(frame(([1], [2]))).get_lines()
    assert line.get_marker() == "."


def test_a_gap_between_two_runs_is_a_gap():
    lines = drawn(curves(frame(([1, 2], [0, 2]), ([10, 11], [4, 6]))))
    assert lines["labeled"] == [([], [])]
    assert lines["dashed"] == [([1, 2, 10, 11], [0, 2, 4, 6])]


def test_colors_are_visible_on_white_and_on_black():
    """Contrast ratios as defined by WCAG 2, which requires 3; orange on white has the lowest of the palette, 2.2."""

    def luminance(color):
        rgb = np.array(matplotlib.colors.to_rgb(color))
        return np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    df = frame(*(([0, 1], [i, i], f"g{i}") for i in range(7)))
    for style, ink, page in (("default", 0, 1), ("dark_background", 1, 0)):
        with plt.style.context(style):
            ax = curves(df)
        assert matplotlib.colors.to_rgb(ax.figure.get_facecolor()) == (page,) * 3
        for drawn_line in ax.get_lines():
            dark, light = sorted((luminance(drawn_line.get_color()), page))
            assert (light + 0.05) / (dark + 0.05) > 2.2
        assert {matplotlib.colors.to_rgb(text.get_color()) for text in ax.get_legend().get_texts()} == {(ink,) * 3}
        assert matplotlib.colors.to_rgb(ax.xaxis.label.get_color()) == (ink,) * 3


@pytest.mark.parametrize(("style", "page"), [("default", 1), ("dark_background", 0)])
def test_seeds_are_faint_but_visible(style, page):
    """On the background and on the band, a seed's line is fainter than the line over all seeds, but visible."""
    with plt.style.context(style):
        ax = curves(frame(([0, 1], [0, 0]), ([0, 1], [2, 2])))
    (band,) = ax.collections
    (seed, *_), mean = ax.get_lines(), ax.get_lines()[-1]
    assert band.get_zorder() < seed.get_zorder() < mean.get_zorder()
    ink = np.array(matplotlib.colors.to_rgb(mean.get_color()))
    on_band = page + band.get_alpha() * (ink - page)
    for under in (np.full(3, page), on_band):
        faint = under + seed.get_alpha() * (ink - under)
        assert 0.15 < np.abs(faint - under).max() < 0.7 * np.abs(ink - page).max()


# How a color looks without the long, medium and short cones, in linear RGB: Machado, Oliveira and
# Fernandes 2009, doi:10.1109/TVCG.2009.113, severity 1.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(color, matrix):
    """CIELAB of an sRGB color after the color-blindness matrix."""
    rgb = np.array(matplotlib.colors.to_rgb(color))
    rgb = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = to_xyz @ np.clip(matrix @ rgb, 0, 1) / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def closest_pair(colors, blindness):
    seen = [lab(color, np.array(BLINDNESS[blindness])) for color in colors]
    return min(np.linalg.norm(a - b) for a, b in combinations(seen, 2))


def test_lab_by_hand():
    np.testing.assert_allclose(lab("white", np.eye(3)), [100, 0, 0], atol=0.1)
    np.testing.assert_allclose(lab("red", np.eye(3)), [53.2, 80.1, 67.2], atol=0.1)


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_color_blind_readers_can_tell_colors_apart(blindness):
    """A distance of 2.3 in CIELAB is just noticeable."""
    assert closest_pair((*plot.COLORS[:-1], "black"), blindness) > 14


def test_red_and_green_would_look_alike():
    assert closest_pair(("tab:red", "tab:green"), "deuteranopia") < 8


def test_later_figures_are_displayed_in_a_notebook(monkeypatch):
    """A notebook's backend displays figures in interactive mode, which the first figure turns on."""
    subplots = plt.subplots

    def first_figure(*args, **kwargs):
        plt.ion()
        return subplots(*args, **kwargs)

    monkeypatch.setattr(plt, "subplots", first_figure)
    with plt.rc_context({"interactive": False, "font.size": 11}):
        curves(frame(([1, 2], [3, 4])))
        assert plt.isinteractive()
        assert plt.rcParams["font.size"] == 11


# ---- comparisons


def ends(**groups):
    """A table of single-row runs from the final scores of groups, or of (group, environment)s."""
    return frame(*(([1], [y], *name.split("_")) for name, ys in groups.items() for y in ys))


def test_profile_by_hand():
    ax = profile(ends(a=[0, 10], b=[5, 20, 20]))
    (x, a), (_, b) = (line.get_data() for line in ax.get_lines())
    assert (x[0], x[-1]) == (-1, 21)
    np.testing.assert_allclose(a, (x < 0) / 2 + (x < 10) / 2)
    np.testing.assert_allclose(b, (x < 5) / 3 + (x < 20) * 2 / 3)
    assert len(ax.collections) == 2
    assert (ax.get_xlabel(), ax.get_ylabel()) == (
        "final return (training): threshold τ",
        "fraction of runs above τ",
    )
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a (2 runs)", "b (3 runs)"]
    assert ax.get_legend().get_window_extent().y0 >= ax.get_window_extent().y1


def test_profile_over_environments():
    df = ends(a_A=[0, 10], a_B=[0, 300])
    with pytest.raises(UserError, match=r"over several environments \(A, B\) needs --normalize"):
        profile(df)
    ax = profile(df, normalize={"A": (0, 10), "B": (0, 100)})
    x, y = ax.get_lines()[0].get_data()
    np.testing.assert_allclose(y, (x < 0) / 2 + (x < 1) / 4 + (x < 3) / 4)
    assert ax.get_title(loc="left") == "a, 2 environments, 4 runs"
    assert ax.get_xlabel() == "final normalized return (training): threshold τ"


def test_improvement_by_hand():
    ax = improvement(ends(a=[1, 2], b=[1, 3], c=[9, 9]))
    assert [t.get_text() for t in ax.texts] == [
        "a > b: 0.38 [0.00, 1.00]",
        "a > c: 0.00 [0.00, 0.00]",
        "b > c: 0.00 [0.00, 0.00]",
    ]
    assert [line.get_xdata()[0] for line in ax.get_lines() if line.get_marker() == "o"] == [0.375, 0, 0]
    assert ax.get_xlabel() == "P(X > Y) in final return (training)"
    assert ax.get_title(loc="left") == "2 runs each"
    assert {text.get_bbox_patch().get_facecolor() for text in ax.texts} == {(1, 1, 1, 1)}
    _, axes = plt.subplots()
    assert improvement(ends(a=[1, 2], b=[1, 3]), ax=axes) is axes


def test_improvement_compares_on_common_environments():
    df = ends(a_A=[1, 2], a_B=[100, 100], b_A=[0, 0], b_C=[900, 900])
    assert improvement(df).texts[0].get_text() == "a > b: 1.00 [1.00, 1.00]"
    with pytest.raises(UserError, match="a and b have no environment in common"):
        improvement(ends(a_A=[1, 2], b_B=[1, 2]))


@pytest.mark.parametrize("draw", [profile, improvement])
def test_comparisons_need_two_runs(draw):
    with pytest.raises(UserError, match="b has a single run on unknown; an interval needs at least two"):
        draw(ends(a=[1, 2], b=[1]))
    with pytest.raises(UserError, match="--improvement compares groups, but there is only a"):
        improvement(ends(a=[1, 2]))


# ---- the command


def test_runs_without_numbers_are_named(runs, capsys):
    empty = runs / "vpg" / "vpg_s0"
    make(empty, "TotalEnvInteracts|AverageEpRet|Time\n100|nan|60\n", exp_name="vpg", env_fn="A-v0", seed=0)
    main([str(runs / "ppo"), str(runs / "vpg"), "--table"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["Runs: ppo (3), vpg (1)", f"Left out because they have no numbers in Performance: {empty}"]


@pytest.mark.parametrize(("kind", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_out(runs, capsys, kind, magic):
    out = runs / "new" / f"figure.{kind}"
    main([str(runs / "ppo"), str(runs / "trpo"), "--out", str(out)])
    assert out.read_bytes().startswith(magic)
    assert capsys.readouterr().out.splitlines() == ["Runs: ppo (3), trpo (1)", f"Saved {out}"]
    assert plt.get_fignums() == []


def test_out_is_a_column_wide(runs):
    main([str(runs / "ppo"), "--out", str(runs / "figure")])  # png by default
    assert plt.imread(runs / "figure.png").shape[1] == 3.4 * 300


def test_a_figure_for_each_value(runs):
    main([str(runs / "ppo"), "-y", "Performance", "Time", "-s", "2", "--out", str(runs / "f.png")])
    assert sorted(path.name for path in runs.glob("*.png")) == ["f-Performance.png", "f-Time.png"]


def test_every_flag_has_an_effect(runs, monkeypatch):
    calls = []

    def record(name):
        return lambda df, *args: calls.append((name, df, *args)) or plt.figure().add_subplot()

    for name in ("curves", "profile", "improvement"):
        monkeypatch.setattr(plot, name, record(name))
    folders = [str(runs / "ppo"), str(runs / "trpo")]
    flags = ["-l", "one", "two", "-x", "Epoch", "-y", "KL", "-s", "4"]
    flags += ["--select", "s1", "--exclude", "s10", "--out", str(runs / "f.png"), "--normalize", "-1", "2"]
    for kind in (["--count", "--est", "max"], ["--est", "iqm"], ["--profile"], ["--improvement"]):
        main([*folders, *flags, *kind])
    for _, df, *_ in calls:
        assert df[["group", "run"]].drop_duplicates().to_numpy().tolist() == [["one", str(runs / "ppo" / "ppo_s1")]]
    assert [(name, *args) for name, _, *args in calls] == [
        ("curves", "KL", "Epoch", 4, "max", True, (-1, 2)),
        ("curves", "KL", "Epoch", 4, "iqm", False, (-1, 2)),
        ("profile", "KL", "Epoch", (-1, 2)),
        ("improvement", "KL", "Epoch"),
    ]
    main([*folders, "--out", str(runs / "f.png"), "--normalize", "A-v0", "1", "2", "--normalize", "B-v0", "3", "4"])
    assert calls[-1][-1] == {"A-v0": (1, 2), "B-v0": (3, 4)}


def test_dark(runs):
    for flags, corner in (([], 1), (["--dark"], 0)):
        main([str(runs / "ppo"), "--out", str(runs / "f.png"), *flags])
        np.testing.assert_array_equal(plt.imread(runs / "f.png")[0, 0, :3], corner)


def test_figures_are_reproducible(runs):
    for name in ("one.png", "two.png"):
        main([f"{runs}/", "--est", "iqm", "--out", str(runs / name)])
        stats._draw_counts.cache_clear()
    assert (runs / "one.png").read_bytes() == (runs / "two.png").read_bytes()


def test_table_is_printed(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    main(["ppo", "trpo", "--table"])
    assert capsys.readouterr().out.splitlines() == [
        "Runs: ppo (3), trpo (1)",
        "Performance:",
        "group  env   runs         end        final    final IQM [95%]         best     best IQM [95%]",
        "ppo    A-v0     3  200 to 300  6.33 ± 2.49  6.33 [3.00, 9.00]  6.33 ± 2.49  6.33 [3.00, 9.00]",
        "trpo   A-v0     1         300         2.00               2.00         2.00               2.00",
    ]
    assert list(runs.glob("*.png")) == []  # --table alone draws nothing


@pytest.mark.parametrize("kind", ["csv", "md", "txt"])
def test_table_is_written(runs, capsys, kind):
    out = runs / "new" / f"t.{kind}"
    main([f"{runs}/", "--table", str(out), "--out", str(runs / "f.png")])
    assert capsys.readouterr().out.splitlines()[1:] == [f"Saved {out}", f"Saved {runs / 'f.png'}"]
    text = out.read_text(encoding="utf-8")
    assert text.startswith({"csv": "group,env,runs,", "md": "| group | env | runs |", "txt": "group  env   runs"}[kind])
    if kind == "csv":
        pd.testing.assert_frame_equal(pd.read_csv(out), table(load(f"{runs}/")), check_dtype=False)
    main([f"{runs}/", "-y", "EpRet", "Time", "--table", str(out)])
    assert {path.name for path in out.parent.iterdir()} == {out.name, f"t-EpRet.{kind}", f"t-Time.{kind}"}


def test_a_folder_of_the_original(tmp_path, monkeypatch, capsys):
    original(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    main(["data", "--out", "f.png", "--table", "t.csv"])
    assert capsys.readouterr().out.splitlines() == ["Runs: cmd_sac (1), cmd_vpg (2)", "Saved t.csv", "Saved f.png"]
    found = pd.read_csv("t.csv").set_index("group")
    assert found[["runs", "final_mean"]].to_numpy().tolist() == [[1, 40], [2, 48]]
    assert found["best_std"].fillna(-1).tolist() == [-1, 2]
    ax = curves(load("data"))
    assert drawn(ax)["labeled"] == [([4000, 8000], [30, 40]), ([4000, 8000, 12000], [21.5, 34, 48])]
    assert ax.get_ylabel() == "return"  # training return in one group, evaluation return in the other


def test_a_hundred_runs_take_seconds(tmp_path):
    """Reading and drawing 100 runs of 1000 rows and 20 columns takes less than 10 s of CPU time."""
    keys = ["AverageEpRet", "TotalEnvInteracts", *(f"Column{i}" for i in range(18))]
    values = np.random.default_rng(0).normal(size=(1000, 20))
    values[:, 1] = np.arange(1, 1001) * 4000
    text = "\n".join("\t".join(map(str, row)) for row in [keys, *values.tolist()]) + "\n"
    for i in range(100):
        make(tmp_path / f"g{i % 4}" / f"g{i % 4}_s{i}", text, exp_name=f"g{i % 4}", env_fn="A-v0", seed=i)
    for est in ("mean", "iqm"):
        start = time.process_time()
        main([f"{tmp_path}/g", "--est", est, "--out", str(tmp_path / "f.png")])
        assert time.process_time() - start < 10


@pytest.mark.parametrize("backend", ["Agg", "TkAgg"])  # the second needs a display
def test_without_a_display(runs, monkeypatch, capsys, backend):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if backend == "TkAgg" and sys.platform != "linux":
        pytest.skip("windows open without $DISPLAY here")
    monkeypatch.chdir(runs)
    monkeypatch.setitem(matplotlib.rcParams, "backend", backend)
    main(["ppo/"])
    assert (runs / "curves.png").stat().st_size > 5000
    assert capsys.readouterr().out.splitlines()[1:] == [
        "Saved curves.png",
        "Without a display there is no window; --out FILE sets the file's name.",
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "plot: the following arguments are required: logdir"),
        (["empty"], "plot: no progress.txt in or below empty"),
        (["nowhere"], "plot: there is no folder nowhere, and none that begins with it"),
        (["ppo", "--smoth", "3"], "plot: unknown argument '--smoth'; did you mean '--smooth'?"),
        (["ppo", "-s", "0"], "plot: --smooth is 0; it must be a number of rows, at least 1"),
        (["ppo", "-s", "x"], "plot: argument -s/--smooth: invalid int value: 'x'"),
        (["ppo", "--est", "median"], "plot: argument --est: invalid choice: 'median'"),
        (
            ["ppo", "--profile", "--est", "iqm"],
            "plot: --est is only for curves; it can't be combined with --profile or",
        ),
        (["ppo", "--profile", "--count"], "plot: argument --count: not allowed with argument --profile"),
        (["ppo", "--improvement"], "plot: --improvement compares groups, but there is only ppo"),
        (["ppo/", "trpo/", "--improvement"], "plot: trpo has a single run on A-v0; an interval needs at least two"),
        (["ppo", "--table", "t.doc"], "plot: argument --table: t.doc does not end in .csv, .md or .txt"),
        (["--table", "ppo"], "plot: argument --table: ppo does not end in .csv, .md or .txt (to print the table, put"),
        (["ppo", "--table", "ppo/ppo_s0/progress.txt/t.md"], "plot: cannot write ppo"),
        (
            ["ppo", "--normalize", "1"],
            "plot: --normalize takes LOW HIGH, or ENV LOW HIGH once for each environment, no",
        ),
        (["ppo", "--normalize", "1", "x"], "plot: --normalize takes LOW HIGH, or ENV LOW HIGH once for each envi"),
        (["ppo", "--normalize", "1", "1"], "plot: --normalize needs two different numbers, not 1 and 1"),
        (["ppo", "--normalize", "B-v0", "1", "2"], "plot: --normalize has no LOW HIGH for A-v0, only for B-v0"),
        (["ppo", "-y", "Performence"], "plot: no run has numbers in a column Performence; did you mean 'Performance'?"),
        (["ppo", "--out", "a.doc"], "plot: cannot write a .doc file; --out takes "),
        (["ppo", "--out", "ppo/ppo_s0/progress.txt/a.png"], "plot: cannot write ppo"),
    ],
)
def test_mistakes(runs, monkeypatch, argv, message):
    (runs / "empty").mkdir()
    monkeypatch.chdir(runs)
    with pytest.raises(UserError) as error:
        main(argv)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert list(runs.rglob("*.png")) == []


def test_plot_help_imports_nothing_slow():
    heavy = {"torch", "gymnasium", "pandas", "seaborn", "scipy", "matplotlib.pyplot"}
    code = (
        "import sys\nimport spinup.plot\n"
        "try:\n    spinup.plot.main(['--help'])\n"
        f"except SystemExit:\n    sys.exit(str({heavy} & {{*sys.modules}}))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert "--improvement" in process.stdout
    assert process.stderr == "set()\n"


def test_needs_no_torch(runs):
    code = (
        "import sys, spinup\nfrom spinup import plot\n"
        f"plot.main([{str(runs / 'ppo')!r}, '--est', 'iqm', '--out', {str(runs / 'f.png')!r}, '--table'])\n"
        "sys.exit(str({'torch', 'gymnasium', 'seaborn', 'scipy'} & {*sys.modules}))"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert process.stderr == "set()\n"
