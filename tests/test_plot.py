"""The plotter: what it reads and computes by hand first, then what is on the picture and the command."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from spinup import plot
from spinup.errors import UserError
from spinup.logger import Logger
from spinup.plot import Run, aggregate, column, curves, expand, load, main, read, series, short, smoothed

nan = math.nan


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    plt.close("all")


def make(folder, table, **config):
    """A run's folder; `table` is the text of progress.txt with | between cells."""
    folder.mkdir(parents=True)
    (folder / "progress.txt").write_text(table.replace("|", "\t"))
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def run(x, y, label="a", env=None, **config):
    data = {"TotalEnvInteracts": np.array(x, dtype=float), "AverageEpRet": np.array(y, dtype=float)}
    return Run(Path(label), label, env, config, data)


@pytest.fixture
def runs(tmp_path):
    """Two groups on one environment: ppo (seeds 0, 1, 10, the second stopped early) and trpo (one seed)."""
    table = "TotalEnvInteracts|AverageEpRet|Time\n100|{}|60\n200|{}|120\n300|{}|180\n"
    ppo, trpo = {"exp_name": "ppo", "env_fn": "A-v0"}, {"exp_name": "trpo", "env_fn": "A-v0"}
    make(tmp_path / "ppo" / "ppo_s10", table.format(1, 2, 3), **ppo, seed=10)
    make(tmp_path / "ppo" / "ppo_s0", table.format(3, 6, 9), **ppo, seed=0)
    make(tmp_path / "ppo" / "ppo_s1", table.format(5, 7, 0).rsplit("300", 1)[0], **ppo, seed=1)
    make(tmp_path / "trpo" / "trpo_s0", table.format(0, 1, 2), **trpo, seed=0)
    return tmp_path


# ---- reading


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A|B\n1|2\n3|4\n", {"A": [1, 3], "B": [2, 4]}),
        ("A|B\n1|2\n3|4", {"A": [1], "B": [2]}),  # the last line is still being written: 4 may become 42
        ("A|B\n1|2\n3", {"A": [1], "B": [2]}),
        ("A|B\n1|2\n3\n5|6\n7|8|9\n", {"A": [1, 5], "B": [2, 6]}),
        ("A|B\r\n1|2\r\n", {"A": [1], "B": [2]}),
        ("A|B\n1|\nnan|inf\n", {"A": [1, nan], "B": [nan, math.inf]}),
        ("A|B\n1|x\n2|3\n", {"A": [1, 2], "B": [nan, 3]}),
        ("A|B\n|\n|\n", {"A": [nan, nan], "B": [nan, nan]}),
        ("A|B\n", {"A": [], "B": []}),
        ("A|B", {}),
        ("", {}),
    ],
)
def test_read_by_hand(tmp_path, text, expected):
    path = tmp_path / "progress.txt"
    path.write_bytes(text.replace("|", "\t").encode())
    columns = read(path)
    assert list(columns) == list(expected)
    for key, values in expected.items():
        assert columns[key].dtype == np.float64
        np.testing.assert_array_equal(columns[key], values)


def test_read_words(tmp_path):
    columns = read(make(tmp_path / "r", "A|B\n1|x\n2|y\n") / "progress.txt")
    assert columns["B"].tolist() == ["x", "y"]


def test_reads_what_the_logger_writes(tmp_path):
    with Logger(tmp_path / "run", exp_name="ppo", quiet=True) as logger:
        logger.save_config({"env_fn": "A-v0", "seed": 3, "gamma": nan})
        for row in ({"Epoch": 1}, {"Epoch": 2, "Late": 0.1}):
            for key, value in row.items():
                logger.log_tabular(key, value)
            logger.dump_tabular()
    (loaded,) = load(tmp_path / "run")
    assert (loaded.label, loaded.env, loaded.config["seed"]) == ("ppo", "A-v0", 3)
    np.testing.assert_array_equal(loaded.data["Epoch"], [1, 2])
    np.testing.assert_array_equal(loaded.data["Late"], [nan, 0.1])


def test_expand(tmp_path, monkeypatch):
    for name in ("data", "data2", "old_data", "data10"):
        (tmp_path / name).mkdir()
    (tmp_path / "data.txt").write_text("")
    make(tmp_path / "x_s1", "A\n1\n")
    make(tmp_path / "x_s10", "A\n1\n")
    monkeypatch.chdir(tmp_path)
    assert expand("data") == ["data", "data2", "data10"]  # begins so, not: contains
    assert expand("data/") == ["data/"]
    assert expand(str(tmp_path / "dat")) == [str(tmp_path / name) for name in ("data", "data2", "data10")]
    assert expand("x_s1") == expand("x_s1/progress.txt") == ["x_s1"]  # a run is itself, not also x_s10
    assert expand("x_") == ["x_s1", "x_s10"]
    assert expand(".") == ["."]
    monkeypatch.chdir("x_s1")
    assert expand("progress.txt") == ["."]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert expand("~/data/") == [os.path.join(str(tmp_path), "data/")]


@pytest.mark.parametrize("folder", ["nowhere", "nowhere/", "no/where"])
def test_expand_finds_nothing(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^plot: there is no folder {folder}"):
        expand(folder)


def test_load_groups(runs):
    make(runs / "ppo" / "ppo_s2", "A\n1\n", exp_name="ppo", env_fn="A-v0")
    assert [(r.label, r.path.name, r.env) for r in load(str(runs) + "/")] == [
        ("ppo", "ppo_s0", "A-v0"),
        ("ppo", "ppo_s1", "A-v0"),
        ("ppo", "ppo_s2", "A-v0"),
        ("ppo", "ppo_s10", "A-v0"),  # by number, not by letter
        ("trpo", "trpo_s0", "A-v0"),
    ]
    assert [r.path.name for r in load([runs / "trpo", runs / "ppo", runs / "ppo" / ".." / "trpo"])] == [
        "trpo_s0",  # once, though given twice
        "ppo_s0",
        "ppo_s1",
        "ppo_s2",
        "ppo_s10",
    ]


def test_environments_within_a_group(tmp_path):
    for i, env in enumerate(["A-v0", "B-v0", "<function <lambda> at 0x7f>", 3]):
        make(tmp_path / f"r{i}", "A\n1\n", exp_name="ppo", env_fn=env)
    make(tmp_path / "r9", "A\n1\n", exp_name="vpg", env_fn="B-v0")
    labels = [r.label for r in load(str(tmp_path) + "/")]
    assert labels == ["ppo, A-v0", "ppo, B-v0"] + 2 * ["ppo, unknown environment"] + ["vpg"]


@pytest.mark.parametrize("config", [None, "", "{", "[]", '{"exp_name": null}'])
def test_without_a_usable_config_the_folder_names_the_group(tmp_path, config):
    folder = make(tmp_path / "my_run_s3-2", "A\n1\n")
    if config is not None:
        (folder / "config.json").write_text(config)
    assert load(folder)[0].label == "my_run"


def test_legends(runs):
    ppo, trpo = str(runs / "ppo"), str(runs / "trpo")
    assert [r.label for r in load([ppo, trpo], ["one", "two"])] == ["one"] * 3 + ["two"]
    make(runs / "ppo_more" / "s0", "A\n1\n", exp_name="ppo")
    assert [r.label for r in load([ppo, trpo], ["one", "two"])] == ["one, A-v0"] * 3 + [
        "one, unknown environment",
        "two",
    ]
    assert [r.label for r in load([ppo, trpo], ["one", "more", "two"])] == ["one"] * 3 + ["more", "two"]
    with pytest.raises(UserError, match=r"1 legends for 3 folders \(.*ppo_more.*\)"):
        load([ppo, trpo], ["one"])


def test_select_and_exclude(runs):
    def names(**kwargs):
        return [r.path.name for r in load(str(runs) + "/", **kwargs)]

    assert names(select=["ppo", "s1"]) == ["ppo_s1", "ppo_s10"]
    assert names(exclude=["trpo", "s10"]) == ["ppo_s0", "ppo_s1"]
    with pytest.raises(UserError, match=r"no progress\.txt that --select and --exclude let through in or below"):
        names(select=["ppo"], exclude=["ppo"])


def test_no_runs(tmp_path):
    with pytest.raises(UserError, match=r"^plot: no progress\.txt in or below "):
        load(str(tmp_path) + "/")


# ---- numbers


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (1, [1, 2, 6, 3, 8]),
        (2, [1, 1.5, 4, 4.5, 5.5]),  # an even window reaches one further back, as numpy's "same" does
        (3, [1.5, 3, 11 / 3, 17 / 3, 5.5]),
        (5, [3, 3, 4, 19 / 4, 17 / 3]),
        (9, [4, 4, 4, 4, 4]),
        (100, [4, 4, 4, 4, 4]),
    ],
)
def test_smoothed_by_hand(window, expected):
    np.testing.assert_allclose(smoothed(np.array([1.0, 2, 6, 3, 8]), window), expected)


def test_performance_is_the_evaluation_where_there_is_one():
    training = run([1, 2], [3, 4])
    assert column(training, "Performance")[0] == column(training, "EpRet")[0] == "AverageEpRet"
    both = run([1, 2], [3, 4])
    both.data["AverageTestEpRet"] = np.array([nan, 5.0])
    assert column(both, "Performance")[0] == "AverageTestEpRet"
    both.data["AverageTestEpRet"] = np.array([nan, nan])  # never evaluated
    assert column(both, "Performance")[0] == "AverageEpRet"
    both.data["Word"] = np.array(["a", "b"])
    assert column(both, "Word") is column(both, "Nothing") is None


def test_series_leaves_out_what_is_no_number():
    ((_, x, y),) = series([run([1, 2, 3, 4], [nan, 5, math.inf, 7]), run([], [])], "EpRet", "TotalEnvInteracts")
    assert (x.tolist(), y.tolist()) == ([2, 4], [5, 7])
    ((_, x, y),) = series([run([2, 1, 2], [5, 6, 7])], "EpRet", "TotalEnvInteracts")
    assert (x.tolist(), y.tolist()) == ([1, 2], [6, 5])


def test_unknown_columns():
    for value, xaxis, wrong, right in [
        ("AverageEpRt", "TotalEnvInteracts", "AverageEpRt", "AverageEpRet"),
        ("Performance", "TotalEnvInteract", "TotalEnvInteract", "TotalEnvInteracts"),
    ]:
        with pytest.raises(UserError, match=f"a column {wrong}; did you mean '{right}'?"):
            series([run([1], [2])], value, xaxis)


def test_aggregate_by_hand():
    x, ys = aggregate([(np.array([1.0, 3]), np.array([0.0, 4])), (np.array([2.0, 3, 5]), np.array([1.0, 2, 0]))])
    np.testing.assert_array_equal(x, [1, 2, 3, 5])
    np.testing.assert_array_equal(ys, [[0, 2, 4, nan], [nan, 1, 2, 0]])


def test_aggregate_bounds_the_grid():
    same = [(np.arange(50.0), np.arange(50.0))] * 2
    assert len(aggregate(same, points=10)[0]) == 50  # no interpolation where none is needed
    x, ys = aggregate([*same, (np.array([0.5]), np.array([1.0]))], points=8)
    np.testing.assert_allclose(x, np.linspace(0, 49, 8))
    np.testing.assert_allclose(ys[0], x)


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0"), (500, "500"), (250e3, "250k"), (1e6, "1M"), (1.25e6, "1.25M"), (-2e3, "-2k"), (0.5, "0.5")],
)
def test_short(n, text):
    assert short(n) == text


# ---- the picture


def drawn(ax):
    """The labelled lines of the legend, the faint ones and the dashed ones, as lists of (x, y) without NaN."""
    kinds = {"labelled": [], "faint": [], "dashed": []}
    for line in ax.get_lines():
        kind = "faint" if line.get_alpha() else "dashed" if line.get_label().startswith("_") else "labelled"
        x, y = (np.asarray(a, dtype=float) for a in line.get_data())
        kinds[kind].append((x[~np.isnan(y)].tolist(), y[~np.isnan(y)].tolist()))
    return kinds


def test_mean_and_band_over_the_seeds(runs):
    ax = curves(load(str(runs / "ppo")))
    lines = drawn(ax)
    assert sorted(lines["faint"]) == [([100, 200], [5, 7]), ([100, 200, 300], [1, 2, 3]), ([100, 200, 300], [3, 6, 9])]
    assert lines["labelled"] == [([100, 200], [3, 5])]
    assert lines["dashed"] == [([200, 300], [5, 6])]  # after the second run's end the mean is over two
    (band,) = ax.collections
    points = {tuple(np.round(p, 9)) for p in band.get_paths()[0].vertices}
    stds = [np.std([1, 3, 5]), np.std([2, 6, 7]), np.std([3, 9])]
    for x, mean, std in zip([100, 200, 300], [3, 5, 6], stds, strict=True):
        assert {(x, round(mean - std, 9)), (x, round(mean + std, 9))} <= points
    assert ax.get_title(loc="left") == "ppo, A-v0, 3 runs"
    assert ax.get_legend() is None
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("environment steps", "return (training)")


@pytest.mark.parametrize(("estimator", "expected"), [("max", [5, 7]), ("min", [1, 2])])
def test_other_estimators_have_no_band(runs, estimator, expected):
    ax = curves(load(str(runs / "ppo")), estimator=estimator)
    assert drawn(ax)["labelled"] == [([100, 200], expected)]
    assert len(ax.collections) == 0
    assert ax.get_ylabel() == f"return (training), {estimator} over runs"
    with pytest.raises(UserError, match="est is mean, max or min, not 'median'"):
        curves(load(str(runs / "ppo")), estimator="median")


def test_count_draws_each_run(runs):
    ax = curves(load(str(runs) + "/"), count=True)
    lines = drawn(ax)
    assert lines["labelled"] == [([100, 200, 300], y) if len(y) == 3 else ([100, 200], y) for y in
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
    assert figure.y1 >= legend.y1  # and inside the picture
    assert figure.x1 >= legend.x1
    assert len({line.get_color() for line in ax.get_lines() if not line.get_label().startswith("_")}) == 2


def test_many_long_names_stay_in_the_picture():
    # $x_$ would be an error as mathematics
    many = [run([0, 1e6], [i, i], f"a rather long name of a group $x_$ {i}") for i in range(9)]
    ax = curves(many)
    ax.figure.canvas.draw()
    legend, figure = ax.get_legend().get_window_extent(), ax.figure.bbox
    assert figure.x1 >= legend.x1
    assert figure.y1 >= legend.y1 > legend.y0 >= ax.get_window_extent().y1
    assert ax.get_window_extent().height > 1.5 * ax.figure.dpi  # inches: the data keep their room
    styles = [(line.get_color(), line.get_linestyle()) for line in ax.get_lines()]
    assert len(set(styles)) == 9
    assert [label.get_text() for label in ax.get_xticklabels()][1:-1] == ["0", "200k", "400k", "600k", "800k", "1M"]


@pytest.mark.parametrize(
    ("last", "x", "unit"), [(100, 100, "s"), (600, 10, "min"), (7200, 120, "min"), (36000, 10, "h")]
)
def test_time_has_a_fitting_unit(last, x, unit):
    timed = run([1, 2], [3, 4])
    timed.data["Time"] = np.array([0.0, last])
    ax = curves([timed], xaxis="Time")
    assert ax.get_xlabel() == f"wall-clock time ({unit})"
    assert drawn(ax)["labelled"] == [([0, x], [3, 4])]


def test_draws_on_given_axes_and_smooths():
    figure, axes = plt.subplots(1, 2)
    size = figure.get_size_inches().tolist()
    assert curves([run([1, 2, 3], [0, 3, 6])], smooth=3, ax=axes[1]) is axes[1]
    assert drawn(axes[1])["labelled"] == [([1, 2, 3], [1.5, 3, 4.5])]
    assert axes[0].get_lines() == []
    assert figure.get_size_inches().tolist() == size


def test_a_single_row_is_visible():
    (line,) = curves([run([1], [2])]).get_lines()
    assert line.get_marker() == "."


def test_a_gap_between_two_runs_is_a_gap():
    lines = drawn(curves([run([1, 2], [0, 2]), run([10, 11], [4, 6])]))
    assert lines["labelled"] == [([], [])]
    assert lines["dashed"] == [([1, 2, 10, 11], [0, 2, 4, 6])]


# ---- the command


@pytest.mark.parametrize(("kind", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_out(runs, capsys, kind, magic):
    out = runs / "new" / f"figure.{kind}"
    main([str(runs / "ppo"), str(runs / "trpo"), "--out", str(out)])
    assert out.read_bytes().startswith(magic)
    assert capsys.readouterr().out.splitlines() == ["Runs: ppo (3), trpo (1)", f"Saved {out}"]
    assert plt.get_fignums() == []


def test_out_is_a_column_wide(runs):
    main([str(runs / "ppo"), "--out", str(runs / "figure")])  # png where nothing else is said
    assert plt.imread(runs / "figure.png").shape[1] == 3.4 * 300


def test_a_figure_for_each_value(runs):
    main([str(runs / "ppo"), "-y", "Performance", "Time", "-s", "2", "--out", str(runs / "f.png")])
    assert sorted(path.name for path in runs.glob("*.png")) == ["f-Performance.png", "f-Time.png"]


def test_every_flag_arrives(runs, monkeypatch):
    calls = []
    monkeypatch.setattr(plot, "curves", lambda runs, *args: calls.append((runs, *args)) or plt.figure().add_subplot())
    flags = ["-l", "one", "two", "-x", "Epoch", "-y", "KL", "-s", "4", "--count", "--est", "max"]
    flags += ["--select", "s1", "--exclude", "s10", "--out"]
    main([str(runs / "ppo"), str(runs / "trpo"), *flags, str(runs / "f.png")])
    ((found, *args),) = calls
    assert [(r.label, r.path.name) for r in found] == [("one", "ppo_s1")]
    assert args == ["KL", "Epoch", 4, "max", True]


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
        "There is no display for a window here; --out FILE chooses the file's name.",
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "plot: the following arguments are required: logdir"),
        (["empty"], "plot: no progress.txt in or below empty"),
        (["nowhere"], "plot: there is no folder nowhere and none that begins so"),
        (["ppo", "--smoth", "3"], "plot: unrecognized arguments: --smoth 3"),
        (["ppo", "-s", "0"], "plot: --smooth is a number of rows, at least 1, not 0"),
        (["ppo", "-s", "x"], "plot: argument -s/--smooth: invalid int value: 'x'"),
        (["ppo", "--est", "median"], "plot: argument --est: invalid choice: 'median'"),
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


def test_needs_neither_torch_nor_pandas():
    code = (
        "import sys, spinup.plot; sys.exit(str({'torch', 'pandas', 'seaborn', 'matplotlib.pyplot'} & {*sys.modules}))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert process.stderr == "set()\n"
